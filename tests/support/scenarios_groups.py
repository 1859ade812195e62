"""Groups under concurrent change: a workload, the record of what happened in real time, and a judge of the record.

Invariant 10 speaks of moments (returned before, called after), so it can only be judged from the intervals of all
calls; and the same workload has to run over several layers in one process and in processes of their own.
"""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Protocol, TypeVar

import pytest

from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.layer import ChannelLayer
from channel_layer.names import ChannelName, GroupName
from channel_layer.sharding import Ring
from channel_layer_memory._store import MemoryStore
from channel_layer_redis._store import RedisStore
from channel_layer_redis.config import RedisConfig
from tests.support.systems import System

__all__ = (
    "Change",
    "Gate",
    "GroupSend",
    "History",
    "Plan",
    "Verdict",
    "are_waiting",
    "collect",
    "eventually",
    "hold",
    "intercept",
    "is_true",
    "judge",
    "lose_leases",
    "merge",
    "name_group",
    "play",
    "receive_within",
    "record",
)

_PATIENCE: Final = 20.0
"""Seconds for what should take milliseconds; a crowded machine may take hundreds of times as long."""


async def eventually(condition: Callable[[], Awaitable[bool]], patience: float = _PATIENCE) -> float:
    """Wait until a condition holds.

    Args:
        condition: asked again and again.
        patience: in seconds.

    Returns:
        The seconds that it took.

    Raises:
        TimeoutError: it never held.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > patience:
            raise TimeoutError(f"not within {patience:g} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def receive_within(layer: ChannelLayer, channel: str, patience: float = _PATIENCE) -> dict[str, object]:
    """Receive a message that is sure to come.

    Raises:
        TimeoutError: it did not come after `patience` seconds.
    """
    async with asyncio.timeout(patience):
        return dict(await layer.receive(channel))


async def collect(layer: ChannelLayer, channel: str) -> list[dict[str, object]]:
    """Take everything that waits for a channel whose messages keep their order.

    It sends one message more and receives up to that one, so there is no guessing when the rest has arrived. The
    channel must have room for it.
    """
    await layer.send(channel, {"end of collection": True})
    messages: list[dict[str, object]] = []
    while "end of collection" not in (message := await receive_within(layer, channel)):
        messages.append(message)
    return messages


def name_group(system: System, channel: str, *, together: bool) -> str:
    """A group name that lies on the same host as a channel's queue, or on another one."""
    identities = ["memory"]
    if system.deployment is not None:
        config = parse(RedisConfig, {"hosts": system.deployment.urls})
        identities = [host.identity for host in config.servers]
    ring = Ring(identities)
    home = ring.queue(ChannelName.parse(channel).queue)
    names = (f"group-{number}" for number in range(1000))
    return next(name for name in names if (ring.group(GroupName.parse(name)) == home) == together)


# --- requests held back -------------------------------------------------------------------------------------

Q = TypeVar("Q")
R = TypeVar("R")


class Gate:
    """Holds back what comes to it, in the event loop of the test.

    Attributes:
        count: how many have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._came = asyncio.Event()
        self._open = asyncio.Event()

    async def reached(self) -> None:
        """Wait until something stands here.

        Raises:
            TimeoutError: nothing came.
        """
        async with asyncio.timeout(_PATIENCE):
            await self._came.wait()

    def open(self) -> None:
        """Let through what stands here, and whatever comes later."""
        self._open.set()

    async def pass_through(self) -> None:
        """Stand here until it is open."""
        self.count += 1
        self._came.set()
        await self._open.wait()


def intercept(monkeypatch: pytest.MonkeyPatch, kind: type[Q], before: Callable[[Q], Awaitable[None]]) -> None:
    """Await something before each request of a kind that reaches a store of this process.

    Args:
        monkeypatch: undoes it.
        kind: a request of one word, such as `commands.Mark`.
        before: given the request; what it raises is raised to who asked.
    """
    for store in (MemoryStore, RedisStore):
        _intercept(monkeypatch, store, kind, before)


def _intercept(
    monkeypatch: pytest.MonkeyPatch, store: type, kind: type[Q], before: Callable[[Q], Awaitable[None]]
) -> None:
    original: Callable[[object, Q], Awaitable[object]] = getattr(store, kind.__name__.lower())

    async def intercepted(self: object, request: Q, /) -> object:
        await before(request)
        return await original(self, request)

    monkeypatch.setattr(store, kind.__name__.lower(), intercepted)


def hold(
    monkeypatch: pytest.MonkeyPatch, kind: type[Q], which: Callable[[Q], bool], *, only_first: bool = False
) -> Gate:
    """Hold requests of a kind back before they reach their store; see `intercept`.

    Args:
        monkeypatch: undoes it.
        kind: of the requests.
        which: says whether to hold this one.
        only_first: hold one and let all later ones pass.
    """
    gate = Gate()

    async def before(request: Q) -> None:
        if which(request) and not (only_first and gate.count):
            await gate.pass_through()

    intercept(monkeypatch, kind, before)
    return gate


def record(monkeypatch: pytest.MonkeyPatch, kind: type[c.Command[R]]) -> list[R]:
    """Write down every reply of the stores of this process to a kind of requests; see `intercept`."""
    replies: list[R] = []
    for store in (MemoryStore, RedisStore):
        _record(monkeypatch, store, kind, replies)
    return replies


def _record(monkeypatch: pytest.MonkeyPatch, store: type, kind: type[c.Command[R]], replies: list[R]) -> None:
    original: Callable[[object, c.Command[R]], Awaitable[R]] = getattr(store, kind.__name__.lower())

    async def recorded(self: object, request: c.Command[R], /) -> R:
        reply = await original(self, request)
        replies.append(reply)
        return reply

    monkeypatch.setattr(store, kind.__name__.lower(), recorded)


def lose_leases(system: System) -> None:
    """Let every lease of a minted inbox be gone: lost by the servers, over in memory (where time passes for that)."""
    if system.deployment is None:
        system.clock.advance(_LONGER_THAN_A_LEASE)
        return
    for host in system.deployment.hosts:
        for key in host.keys(f"{system.prefix}l:") + host.keys(f"{system.prefix}s:"):
            host.command("DEL", key)


_LONGER_THAN_A_LEASE: Final = 100.0
"""Seconds; with the default expiry of 60 a lease lasts 90."""


async def is_true(value: bool) -> bool:  # noqa: FBT001 - it is what it returns
    """Tell what is known without waiting, to `eventually`."""
    return value


async def are_waiting(layer: ChannelLayer, count: int) -> bool:
    """Tell whether that many messages wait in this process."""
    return (await layer.statistics()).waiting == count


# --- what happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A `group_add` or `group_discard`.

    Attributes:
        group: the group.
        channel: the member.
        joined: True for `group_add`.
        called: nanoseconds of the machine's monotonic clock just before the call.
        returned: just after it returned.
    """

    group: str
    channel: str
    joined: bool
    called: int
    returned: int


@dataclass(frozen=True, slots=True)
class GroupSend:
    """A `group_send`.

    Attributes:
        group: the group.
        number: what the message held; no other message to any group holds the same.
        called: nanoseconds just before the call.
        returned: just after it returned.
    """

    group: str
    number: int
    called: int
    returned: int


@dataclass
class History:
    """What some actors did, and what some channels got.

    Attributes:
        changes: all of them, in any order.
        sends: all of them, in any order.
        got: for each channel the numbers of the group messages that it received.
    """

    changes: list[Change] = field(default_factory=list[Change])
    sends: list[GroupSend] = field(default_factory=list[GroupSend])
    got: dict[str, list[int]] = field(default_factory=dict[str, list[int]])


def merge(histories: Iterable[History]) -> History:
    """Put together what several processes recorded on one machine."""
    whole = History()
    for each in histories:
        whole.changes += each.changes
        whole.sends += each.sends
        whole.got |= each.got
    return whole


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge found.

    Attributes:
        decisions: pairs of a group message and a channel: delivered or not.
        definite: those in which no overlapping change left both ways open.
        wrong: a sentence for each contradiction.
    """

    decisions: int
    definite: int
    wrong: tuple[str, ...]


def judge(history: History) -> Verdict:
    """Judge every decision by the real-time order of the calls.

    A channel may have got a message if some change that may have been the last one before the send was a joining, and
    may have missed it if some such change was a leaving. A change may have been the last one if it was called before
    the send returned, unless another was called after it had returned and itself returned before the send was called.
    """
    changes: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in history.changes:
        changes[change.group, change.channel].append(change)
    sends: dict[str, list[GroupSend]] = defaultdict(list)
    for send in history.sends:
        sends[send.group].append(send)
    wrong: list[str] = []
    definite = 0
    for channel, numbers in history.got.items():
        counts = Counter(numbers)
        wrong += [f"{channel} got {number} {count} times" for number, count in counts.items() if count > 1]
        for group, some in sends.items():
            member = _Member(changes[group, channel])
            for send in some:
                ways = member.possible(send)
                definite += len(ways) == 1
                if (send.number in counts) not in ways:
                    did = "got" if send.number in counts else "missed"
                    wrong.append(f"{channel} {did} {send}; changes: {member.around(send)}")
    decisions = len(history.sends) * len(history.got)
    return Verdict(decisions, definite, tuple(wrong))


class _Member:
    """One channel's changes in one group, ready to be asked about many sends."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = sorted(changes, key=lambda change: change.returned)
        self._returned = [change.returned for change in self._changes]
        # From each place on, the earliest call; up to each place, the latest.
        self._earliest = list(accumulate((c.called for c in reversed(self._changes)), min))[::-1]
        self._latest = list(accumulate((c.called for c in self._changes), max))

    def possible(self, send: GroupSend) -> set[bool]:
        """Whether the channel was a member at the moment of the send: True, False, or both are possible."""
        return {change.joined for change in self._last(send)} if self._changes else {False}

    def around(self, send: GroupSend) -> list[Change]:
        """The changes that may have been the last one before a send."""
        return self._last(send)

    def _last(self, send: GroupSend) -> list[Change]:
        place = bisect_left(self._returned, send.called)  # those before it had returned when the send was called
        candidates: list[Change] = []
        for change in reversed(self._changes[:place]):
            if change.returned < self._latest[place - 1]:
                break  # another was called after this one had returned; so it is for all the earlier ones
            candidates.append(change)
        if not place:
            candidates.append(Change(send.group, "before all changes", False, 0, 0))
        while place < len(self._changes) and self._earliest[place] < send.returned:
            if self._changes[place].called < send.returned:
                candidates.append(self._changes[place])
            place += 1
        return candidates


# --- making it happen ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """A workload.

    Attributes:
        groups: the groups.
        sends: how many messages each layer sends.
        changers: how many tasks of each layer change groups, for as long as it sends.
        senders: how many tasks of each layer send.
        seed: of every random choice.
    """

    groups: tuple[str, ...]
    sends: int
    changers: int = 2
    senders: int = 2
    seed: int = 0


class Meet(Protocol):
    """Wait until everybody has come as far."""

    async def __call__(self) -> object:
        """Wait."""
        ...


async def play(
    layer: ChannelLayer, number: int, mine: Sequence[str], everybody: Sequence[str], plan: Plan, meet: Meet
) -> History:
    """Play one layer's part: receive its channels, and meanwhile change groups and send to them.

    Owners and strangers alike add and discard every channel. All channels must keep the order of their messages: the
    last one tells that there are no more.

    Args:
        layer: the layer.
        number: which of the layers it is, from 0.
        mine: the channels that this one receives from.
        everybody: the channels of all layers.
        plan: what to do.
        meet: called twice: before the first change, and after the last.
    """
    history = History()
    choose = random.Random(f"{plan.seed} {number}")
    receivers = [asyncio.create_task(_receive(layer, channel)) for channel in mine]
    await meet()
    over = asyncio.Event()
    changers = [
        asyncio.create_task(_change(layer, everybody, plan.groups, choose, history, over)) for _ in range(plan.changers)
    ]
    numbers = iter(range(number, number + _STRIDE * plan.sends, _STRIDE))
    await asyncio.gather(*(_send(layer, plan.groups, numbers, choose, history) for _ in range(plan.senders)))
    over.set()
    await asyncio.gather(*changers)
    await meet()
    for channel in mine:
        await layer.send(channel, {"end": True})
    history.got.update(zip(mine, await asyncio.gather(*receivers), strict=True))
    return history


_STRIDE: Final = 100
"""More than there are layers: each numbers its messages for itself."""


async def _receive(layer: ChannelLayer, channel: str) -> list[int]:
    numbers: list[int] = []
    while isinstance(number := (await layer.receive(channel)).get("number"), int):
        numbers.append(number)
    return numbers


async def _change(
    layer: ChannelLayer,
    channels: Sequence[str],
    groups: Sequence[str],
    choose: random.Random,
    history: History,
    over: asyncio.Event,
) -> None:
    while not over.is_set():
        group, channel, joined = choose.choice(groups), choose.choice(channels), choose.random() < 0.5
        called = time.monotonic_ns()
        await (layer.group_add(group, channel) if joined else layer.group_discard(group, channel))
        history.changes.append(Change(group, channel, joined, called, time.monotonic_ns()))
        for _ in range(choose.randrange(4)):  # over a store that never waits, nobody else would get a turn
            await asyncio.sleep(0)


async def _send(
    layer: ChannelLayer,
    groups: Sequence[str],
    numbers: Iterator[int],
    choose: random.Random,
    history: History,
) -> None:
    for number in numbers:
        group = choose.choice(groups)
        called = time.monotonic_ns()
        await layer.group_send(group, {"number": number})
        history.sends.append(GroupSend(group, number, called, time.monotonic_ns()))
        for _ in range(choose.randrange(4)):
            await asyncio.sleep(0)
