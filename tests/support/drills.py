"""Real processes that send and receive while servers fail over, and what became of every message.

Sending processes note of each message whether it was accepted, refused or neither is known, and receiving processes
what came, with the moment: on Linux ``time.monotonic()`` is one clock for all processes. `run` starts them, lets a
drill do what it does to the servers meanwhile, and returns the `Account`, which judges the notes.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import json
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Protocol

from channel_layer import ChannelFull, StoreError
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.options import HostOption
from tests.support.processes import AsyncChild, Fleet, Worker

__all__ = ("Account", "Layer", "Length", "Moments", "Plan", "Sent", "Took", "run")

_PROCESSES: Final = 4
"""How many send, and how many receive."""

_STREAMS: Final = 4
"""Tasks of each sending process; each sends one message after the other, and the last one sends jobs."""

_CHANNELS: Final = 2
"""Of each receiving process; all are members of the group."""

_PATIENCE: Final = 60.0
"""Seconds for what takes one: only a failure waits so long."""

_GROUP: Final = "all"
_JOBS: Final = "jobs"

Outcome = Literal["accepted", "full", "refused", "unknown"]
"""What a sender knows of a message; "full" is `ChannelFull`, "refused" is the outcome "not_sent"."""


class Layer(Protocol):
    """What the processes need of a channel layer, ours or a peer's."""

    def send(self, channel: str, message: dict[str, Any], /) -> Coroutine[Any, Any, None]: ...  # noqa: D102
    def receive(self, channel: str, /) -> Coroutine[Any, Any, Mapping[str, Any]]: ...  # noqa: D102
    def new_channel(self) -> Coroutine[Any, Any, str]: ...  # noqa: D102
    def group_add(self, group: str, channel: str, /) -> Coroutine[Any, Any, None]: ...  # noqa: D102
    def group_send(self, group: str, message: dict[str, Any], /) -> Coroutine[Any, Any, None]: ...  # noqa: D102


class Sent(NamedTuple):
    """A message that a stream has sent, and what it knows of it.

    Attributes:
        stream: which task of which process; the first digit is the process.
        number: of the message in the stream.
        target: a channel, or the group.
        began: when the call began.
        ended: when it ended.
        outcome: how it ended.
    """

    stream: int
    number: int
    target: str
    began: float
    ended: float
    outcome: Outcome


class Took(NamedTuple):
    """A message that a process has received.

    Attributes:
        place: the channel.
        stream: who sent it.
        number: of the message in the stream.
        moment: when it came.
    """

    place: str
    stream: int
    number: int
    moment: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What the processes of one run are to do.

    Attributes:
        hosts: of every layer.
        prefix: of all keys.
        seed: of all choices.
        pause: seconds of each stream between two messages.
        peer: whether the layers are those of channels_redis.
        fifo: whether a normal channel is one queue, on one server.
    """

    hosts: tuple[HostOption, ...]
    prefix: str
    seed: int
    pause: float = 0.02
    peer: bool = False
    fifo: bool = True

    def layer(self) -> Layer:
        """Make a layer; it is never full."""
        if self.peer:
            # It waits for messages for 5 seconds, which is how long redis-py 8 lets a read take unless told otherwise.
            hosts = [{**entry, "socket_timeout": 60} for entry in self.hosts if isinstance(entry, dict)]
            options: dict[str, Any] = {"hosts": hosts, "prefix": self.prefix, "capacity": 100_000}
            made: Layer = importlib.import_module("channels_redis.core").RedisChannelLayer(**options)
            return made
        return RedisChannelLayer(
            hosts=list(self.hosts), prefix=self.prefix, capacity=100_000, inbox_capacity=1_000_000, timeout=5
        )


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run takes.

    Attributes:
        before: seconds of load before the drill begins.
        after: seconds of load after it, at least.
        count: messages that each sending process gets accepted before it, and after it again, at least.
    """

    before: float
    after: float
    count: int = 20


@dataclass(slots=True)
class Moments:
    """When something happened to the servers, by ``time.monotonic()``.

    Attributes:
        began: the drill began, as with the kill of a server.
        switched: clients were told of the new primary; `began` where there is none.
        promoted: the new primary took writes; `switched` unless known better.
        last_write: the old primary accepted the last command that sends; None: not known.
    """

    began: float
    switched: float = 0.0
    promoted: float = 0.0
    last_write: float | None = None

    def __post_init__(self) -> None:
        self.switched = self.switched or self.began
        self.promoted = self.promoted or self.switched


# --- the processes ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Sender:
    plan: Plan
    process: int


async def _send(child: AsyncChild, orders: _Sender) -> list[Sent]:
    """Send until told to end, and then an end to each channel, so that its receiver knows that nothing follows."""
    plan, layer = orders.plan, orders.plan.layer()
    sent: list[Sent] = []
    accepted = itertools.count(1)
    ended = False

    async def attempt(stream: int, number: int, target: str) -> Outcome:
        began, outcome = time.monotonic(), _outcome(plan)
        call = layer.group_send if target == _GROUP else layer.send
        found = await outcome(call(target, {"stream": stream, "number": number}))
        if number >= 0:
            sent.append(Sent(stream, number, target, began, time.monotonic(), found))
        if found == "accepted":
            child.progress(next(accepted))
        return found

    async def go_on(stream: int, choose: Callable[[], str]) -> None:
        for number in itertools.count():
            if ended:
                return
            await attempt(stream, number, choose())
            await asyncio.sleep(plan.pause)

    channels: list[str] = json.loads(await child.ready())
    targets = [*channels, *(_GROUP for _ in range(len(channels) // 2))]
    tasks: list[asyncio.Task[None]] = []
    for place in range(_STREAMS):
        stream = orders.process * 10 + place
        choice = random.Random(f"{plan.seed}/{stream}")
        choose = (lambda: _JOBS) if place == _STREAMS - 1 else (lambda choice=choice: choice.choice(targets))
        tasks.append(asyncio.create_task(go_on(stream, choose)))
    await child.ready()
    ended = True
    await asyncio.gather(*tasks)
    for channel in channels:
        while await attempt(orders.process * 10, -1, channel) != "accepted":  # noqa: ASYNC110 - it makes an attempt
            await asyncio.sleep(plan.pause)
    await _close(layer)
    return sent


def _outcome(plan: Plan) -> Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, Outcome]]:
    async def of_ours(call: Coroutine[Any, Any, None]) -> Outcome:
        try:
            await call
        except ChannelFull:
            return "full"
        except StoreError as exc:
            return "refused" if exc.outcome == "not_sent" else "unknown"
        return "accepted"

    async def of_a_peer(call: Coroutine[Any, Any, None]) -> Outcome:
        try:
            await call
        except Exception as exc:  # noqa: BLE001 - those of its client, of sockets, and of event loops
            return "full" if type(exc).__name__ == "ChannelFull" else "unknown"
        return "accepted"

    return of_a_peer if plan.peer else of_ours


class _Received(NamedTuple):
    took: list[Took]
    raised: list[tuple[float, str]]
    """When a receive() raised, and what."""
    missing: list[str]
    """Channels on which the ends did not come."""


async def _receive(child: AsyncChild, plan: Plan) -> _Received:
    """Receive from channels that are in the group, and jobs, until told to end, and all ends have come."""
    layer = plan.layer()
    received = _Received([], [], [])
    ends: dict[str, set[int]] = {}
    told = asyncio.Event()

    async def take(place: str) -> None:
        while True:
            try:
                message = await layer.receive(place)
            except Exception as exc:  # noqa: BLE001 - whatever it is, it must not be there
                received.raised.append((time.monotonic(), f"{place}: {exc!r}"))
                await asyncio.sleep(plan.pause)
                continue
            if message["number"] < 0:
                ends[place].add(message["stream"])
                told.set()
            else:
                received.took.append(Took(place, message["stream"], message["number"], time.monotonic()))
                child.progress(len(received.took))

    channels = [await layer.new_channel() for _ in range(_CHANNELS)]
    for channel in channels:
        ends[channel] = set()
        await layer.group_add(_GROUP, channel)
    tasks = [asyncio.create_task(take(place)) for place in (*channels, _JOBS)]
    await child.ready(json.dumps(channels))
    await child.ready()
    deadline = time.monotonic() + (10.0 if plan.peer else _PATIENCE / 2)
    while any(len(each) < _PROCESSES for each in ends.values()) and time.monotonic() < deadline:
        told.clear()
        try:
            async with asyncio.timeout(1.0):
                await told.wait()
        except TimeoutError:
            pass
    received.missing.extend(channel for channel, each in ends.items() if len(each) < _PROCESSES)
    await _quiet(received)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await _close(layer)
    return received


async def _quiet(received: _Received) -> None:
    """Wait until nothing has come for a while: what is too much has to be seen, too."""
    count = -1
    while count != len(received.took):
        count = len(received.took)
        await asyncio.sleep(0.5)


async def _drain(child: AsyncChild, plan: Plan) -> _Received:
    """Receive the jobs that are left."""
    layer: Layer = plan.layer()
    received = _Received([], [], [])
    while True:
        try:
            async with asyncio.timeout(2.0):
                message = await layer.receive(_JOBS)
        except TimeoutError:
            if await _is_drained(layer):
                break
        else:
            received.took.append(Took(_JOBS, message["stream"], message["number"], time.monotonic()))
            child.progress(len(received.took))
    await _close(layer)
    return received


async def _is_drained(layer: Layer) -> bool:
    """Return whether no job waits; of a peer's, that none has come has to do."""
    return not isinstance(layer, RedisChannelLayer) or not (await layer.statistics(_JOBS)).messages_pending


async def _close(layer: Layer) -> None:
    if isinstance(layer, RedisChannelLayer):
        await layer.aclose()
    else:
        close = getattr(layer, "close_pools")  # noqa: B009 - a peer has it
        await close()


# --- a run --------------------------------------------------------------------------------------------------


def run(name: str, plan: Plan, length: Length, act: Callable[[], Moments]) -> Account:
    """Have processes send and receive, do something to the servers meanwhile, and return the account.

    Args:
        name: of the drill and its deployment.
        plan: what the processes do.
        length: how long.
        act: does it, and returns when what happened.
    """
    with Fleet() as fleet:
        receivers = [fleet.spawn(_receive, plan) for _ in range(_PROCESSES)]
        senders = [fleet.spawn(_send, _Sender(plan, place)) for place in range(_PROCESSES)]
        channels = [channel for each in receivers for channel in json.loads(each.wait_ready(_PATIENCE))]
        for receiver in receivers:
            receiver.go()
        for sender in senders:
            sender.go(json.dumps(channels), _PATIENCE)
        _go_on(senders, length.before, length.count)
        moments = act()
        _go_on(senders, length.after, length.count)
        for sender in senders:
            sender.go()
        sent = [each for sender in senders for each in sender.result(_PATIENCE)]
        for receiver in receivers:
            receiver.go()
        received = [receiver.result(2 * _PATIENCE) for receiver in receivers]
        received.append(fleet.spawn(_drain, plan).result(2 * _PATIENCE))
    return Account(name, plan, moments, channels, sent, received)


def _go_on(senders: Iterable[Worker[list[Sent]]], seconds: float, count: int) -> None:
    goals = [(worker, worker.progress + count) for worker in senders]
    end = time.monotonic() + seconds
    for worker, goal in goals:
        worker.wait_progress(goal, _PATIENCE)
    time.sleep(max(0.0, end - time.monotonic()))


# --- what became of the messages ----------------------------------------------------------------------------

_Key = tuple[int, int, str]
"""A copy of a message: stream, number, and where it comes out."""


@dataclass
class Account:
    """What became of every message of a run.

    Attributes:
        name: of the drill and its deployment.
        plan: the run's.
        moments: when what happened.
        channels: all members of the group.
        sent: all that was sent.
        received: what each process received.
        doubled: copies that came more than once.
        again: jobs that came once more after the switch than a process had taken before: the new primary did not know.
        lost: what was accepted and never came, with its place.
        unsent: what came although it had been refused.
        disorder: copies that came after a later one of the same stream, on one channel.
    """

    name: str
    plan: Plan
    moments: Moments
    channels: list[str]
    sent: list[Sent]
    received: list[_Received]
    doubled: list[_Key] = field(init=False)
    again: list[_Key] = field(init=False)
    lost: list[tuple[Sent, str]] = field(init=False)
    unsent: list[_Key] = field(init=False)
    disorder: list[_Key] = field(init=False)

    def __post_init__(self) -> None:
        arrivals: dict[_Key, list[float]] = defaultdict(list)
        for took in self._took():
            arrivals[took.stream, took.number, took.place].append(took.moment)
        self.doubled, self.again = [], []
        for key, moments in arrivals.items():
            if len(moments) > 1:
                forgotten = key[2] == _JOBS and min(moments) < self.moments.promoted <= max(moments)
                (self.again if forgotten and len(moments) == 2 else self.doubled).append(key)
        copies = [(sent, place) for sent in self.sent for place in self._places(sent)]
        self.lost = [
            (sent, place)
            for sent, place in copies
            if sent.outcome == "accepted" and (sent.stream, sent.number, place) not in arrivals
        ]
        self.unsent = [
            key
            for sent, place in copies
            if sent.outcome in {"refused", "full"} and (key := (sent.stream, sent.number, place)) in arrivals
        ]
        self.disorder = list(self._disorder({(sent.stream, sent.number): sent for sent in self.sent}))

    # -- losses

    def lost_of(self, kind: Literal["direct", "group", "jobs"]) -> list[Sent]:
        """Return the accepted messages of a kind that never came; those to the group once for each member."""
        return [sent for sent, _ in self.lost if {_GROUP: "group", _JOBS: "jobs"}.get(sent.target, "direct") == kind]

    # -- times

    @property
    def silence(self) -> float:
        """The longest time in which nothing was accepted."""
        moments = sorted(sent.ended for sent in self.sent if sent.outcome == "accepted")
        return max((after - before for before, after in itertools.pairwise(moments)), default=0.0)

    @property
    def stall(self) -> float:
        """The longest time between two messages of one stream that were accepted."""
        moments: dict[int, list[float]] = defaultdict(list)
        for sent in self.sent:
            if sent.outcome == "accepted":
                moments[sent.stream].append(sent.ended)
        return max(after - before for each in moments.values() for before, after in itertools.pairwise(each))

    @property
    def sends_again(self) -> float:
        """When the last of the processes had a message accepted, and none that was not, or that got lost, later."""
        arrived = {(took.stream, took.number) for took in self._took()}
        found = 0.0
        for process in range(_PROCESSES):
            own = [sent for sent in self.sent if sent.stream // 10 == process]
            bad = [s.began for s in own if s.outcome != "accepted" or (s.stream, s.number) not in arrived]
            since = max(bad, default=0.0)
            found = max(found, min((s.ended for s in own if s.outcome == "accepted" and s.began > since), default=0.0))
        return found

    @property
    def members_again(self) -> float:
        """When the last of the members got a group message that was sent after the switch, and missed none later."""
        to_group = {(sent.stream, sent.number): sent for sent in self.sent if sent.target == _GROUP}
        found = 0.0
        for channel in self.channels:
            missed = (sent.began for sent, place in self.lost if sent.target == _GROUP and place == channel)
            since = max(self.moments.switched, max(missed, default=0.0))
            came = (
                took.moment
                for took in self._took()
                if took.place == channel
                and (sent := to_group.get((took.stream, took.number))) is not None
                and sent.began > since
            )
            found = max(found, min(came, default=float("inf")))
        return found

    def delays(self, channels: Collection[str], since: float, until: float) -> list[float]:
        """Return the seconds that each message to some channels took to arrive, of those sent within a time."""
        began = {
            (sent.stream, sent.number): sent.began
            for sent in self.sent
            if sent.target in channels and since <= sent.began < until
        }
        return [
            took.moment - began[took.stream, took.number]
            for took in self._took()
            if (took.stream, took.number) in began
        ]

    @property
    def raised(self) -> list[tuple[float, str]]:
        """When a receive() raised, and what."""
        return [each for received in self.received for each in received.raised]

    # -- judging

    def check(self) -> None:
        """Check what holds in every run, however busy the machine is."""
        assert not self.doubled, self._told(self.doubled)
        assert not self.unsent, self._told(self.unsent)
        assert not self.disorder, self._told(self.disorder)
        assert not self.raised, self.raised[:5]
        assert not [channel for received in self.received for channel in received.missing]

    def row(self) -> str:
        """Return all that was counted, as a line of a table."""
        outcomes = Counter(sent.outcome for sent in self.sent)
        switched = self.moments.switched
        parts = [f"{self.name} seed {self.plan.seed}", *(f"{outcomes[each]} {each}" for each in _OUTCOMES)]
        for kind in _KINDS:
            lost = [sent.ended - switched for sent in self.lost_of(kind)]
            parts.append(f"{len(lost)} {kind} lost" + (f" ({min(lost):+.2f} to {max(lost):+.2f} s)" if lost else ""))
        parts += [f"{len(self.doubled)} doubled", f"{len(self.again)} jobs again", f"{len(self.disorder)} disordered"]
        parts += [f"{len(self.unsent)} refused but came", f"{len(self.raised)} raised", f"silence {self.silence:.2f} s"]
        parts.append(f"stall {self.stall:.2f} s")
        if self.moments.last_write is not None:
            parts.append(f"last write of the old primary {self.moments.last_write - switched:+.2f} s")
        parts.append(f"promoted {self.moments.promoted - switched:+.2f} s")
        parts.append(f"sends again {self.sends_again - switched:+.2f} s")
        parts.append(f"members again {self.members_again - switched:+.2f} s")
        return "; ".join(parts)

    def _took(self) -> Iterator[Took]:
        return (took for received in self.received for took in received.took)

    def _places(self, sent: Sent) -> list[str]:
        return self.channels if sent.target == _GROUP else [sent.target]

    def _disorder(self, sent: Mapping[tuple[int, int], Sent]) -> Iterator[_Key]:
        # A message of which the sender was told no more than that it may come has no place in the order.
        for received in self.received:
            last: dict[tuple[int, str], int] = {}
            for took in received.took:
                key = (took.stream, took.number, took.place)
                if sent[key[:2]].outcome != "accepted" or key in self._twice:
                    continue
                if took.place == _JOBS and not self.plan.fifo:
                    continue
                if last.get((took.stream, took.place), -1) > took.number:
                    yield key
                last[took.stream, took.place] = took.number

    @property
    def _twice(self) -> list[_Key]:
        return [*self.doubled, *self.again]

    def _told(self, keys: list[_Key]) -> str:
        """Return what is known of some copies."""
        sent = {(each.stream, each.number): each for each in self.sent}
        lines = [self.row()]
        for key in keys[:10]:
            each = sent[key[:2]]
            came = [f"{took.moment - self.moments.switched:+.3f}" for took in self._took() if took[1:3] == key[:2]]
            began, ended = each.began - self.moments.switched, each.ended - self.moments.switched
            lines.append(f"{key}: {each.outcome}, sent {began:+.3f} to {ended:+.3f}, came {', '.join(came)}")
        return "\n".join(lines)


_OUTCOMES: Final[tuple[Outcome, ...]] = ("accepted", "refused", "unknown", "full")
_KINDS: Final[tuple[Literal["direct", "group", "jobs"], ...]] = ("direct", "group", "jobs")
