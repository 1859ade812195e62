"""Groups under concurrent change: a workload, the record of what happened in real time, and a check of it.

What a group promises speaks of moments (returned before, called after), so it can only be checked by the intervals of
all calls; and the same workload has to run over several layers in one process and in processes of their own.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from channel_layer.testing.suites.tools import dice, pass_turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

    from channel_layer.layer import ChannelLayer

__all__ = ("Change", "GroupSend", "History", "HistoryReport", "Plan", "check_history", "merge", "play")

# --- what happened ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Change:
    """A `group_add` or `group_discard`.

    Attributes:
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
    """A `group_send`, with the times of a `Change`; *number* is in no other message to any group."""

    group: str
    number: int
    called: int
    returned: int


@dataclass
class History:
    """What some actors did, in any order, and the numbers of the group messages that some channels got."""

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
class HistoryReport:
    """What a check of a history found.

    Attributes:
        decisions: pairs of a group message and a channel: delivered or not.
        definite: those in which no overlapping change left both ways open.
        wrong: a sentence for each contradiction.
    """

    decisions: int
    definite: int
    wrong: tuple[str, ...]


def check_history(history: History) -> HistoryReport:
    """Check every decision by the real-time order of the calls.

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
                last = member.last_before(send)
                ways = {change.joined for change in last}
                definite += len(ways) == 1
                if (send.number in counts) not in ways:
                    did = "got" if send.number in counts else "missed"
                    wrong.append(f"{channel} {did} {send}; changes: {last}")
    decisions = len(history.sends) * len(history.got)
    return HistoryReport(decisions, definite, tuple(wrong))


class _Member:
    """One channel's changes in one group, ready to be asked about many sends."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._changes = sorted(changes, key=lambda change: change.returned)
        self._returned = [change.returned for change in self._changes]
        # From each place on, the earliest call; up to each place, the latest.
        self._earliest = list(accumulate((c.called for c in reversed(self._changes)), min))[::-1]
        self._latest = list(accumulate((c.called for c in self._changes), max))

    def last_before(self, send: GroupSend) -> list[Change]:
        """Return the changes that may have been the last one before a send."""
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


_STRIDE: Final = 100
"""More than there are layers: each numbers its messages for itself."""


async def play(
    layer: ChannelLayer,
    number: int,
    mine: Sequence[str],
    all_names: Sequence[str],
    plan: Plan,
    meet: Callable[[], Awaitable[object]],
) -> History:
    """Play one layer's part: receive its channels, and meanwhile change groups and send to them.

    Owners and strangers alike add and discard every channel. All channels must keep the order of their messages: the
    last one tells that there are no more.

    Args:
        layer: whose part it is.
        number: which of the layers it is, from 0.
        mine: the channels that this one receives from.
        all_names: the channels of all layers.
        plan: what to do.
        meet: waits until all layers have come as far; called before the first change, and after the last.
    """
    history = History()
    choose = dice(f"{plan.seed} {number}")
    over = asyncio.Event()

    async def receive(channel: str) -> list[int]:
        numbers: list[int] = []
        while isinstance(n := (await layer.receive(channel)).get("number"), int):
            numbers.append(n)
        return numbers

    async def change() -> None:
        while not over.is_set():
            group, channel, joined = choose.choice(plan.groups), choose.choice(all_names), choose.random() < 0.5
            called = time.monotonic_ns()
            await (layer.group_add(group, channel) if joined else layer.group_discard(group, channel))
            history.changes.append(Change(group, channel, joined, called, time.monotonic_ns()))
            await pass_turns(choose.randrange(4))  # over a store that never waits, no other task would get a turn

    async def send(numbers: Iterator[int]) -> None:
        for n in numbers:
            group = choose.choice(plan.groups)
            called = time.monotonic_ns()
            await layer.group_send(group, {"number": n})
            history.sends.append(GroupSend(group, n, called, time.monotonic_ns()))
            await pass_turns(choose.randrange(4))

    receivers = [asyncio.create_task(receive(channel)) for channel in mine]
    await meet()
    changers = [asyncio.create_task(change()) for _ in range(plan.changers)]
    numbers = iter(range(number, number + _STRIDE * plan.sends, _STRIDE))
    await asyncio.gather(*(send(numbers) for _ in range(plan.senders)))
    over.set()
    await asyncio.gather(*changers)
    await meet()
    for channel in mine:
        await layer.send(channel, {"end": True})
    history.got.update(zip(mine, await asyncio.gather(*receivers), strict=True))
    return history
