"""The roles of a fan-out: one process sends to a group, others hold its members."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import GRACE, RoleTasks, warm_up
from channel_layer_bench.faults import Faults, SequenceChecker
from channel_layer_bench.plan import WINDOW_MOST
from channel_layer_bench.progress import ProgressListener, ProgressSender
from channel_layer_bench.roles.messages import AT_ONCE, fault_counts, padding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from channel_layer_bench.context import Context

__all__ = ("members", "publisher")

_WINDOW_MASK: Final = WINDOW_MOST - 1

_SAMPLED: Final = 200
"""Members of a group, in each process, whose delays are measured: measuring all of them would cost too much."""


async def members(context: Context) -> None:
    """Receive for the members of a group that one process has."""
    layer, group, receiver = context.layer, context.params.text("group"), context.params.integer("receiver")
    await warm_up(context)
    channels = [await layer.new_channel() for _ in range(context.params.integer("members"))]
    for start in range(0, len(channels), AT_ONCE):
        await asyncio.gather(*(layer.group_add(group, name) for name in channels[start : start + AT_ONCE]))
    readers = _Readers(context, channels, receiver)
    for index in range(len(channels)):
        readers.start(index)
    context.report(ready=True)
    counts = [(await context.next_instruction()).integer("count")] * len(channels)
    await readers.role_tasks.wait_until(
        lambda: readers.received >= sum(counts), lambda: readers.received, context.patience
    )
    context.report(last=readers.last)
    await asyncio.sleep(GRACE)
    readers.role_tasks.check()
    faults = sum(
        (checker.faults(count) for checker, count in zip(readers.checkers, counts, strict=True)), start=Faults()
    )
    context.report(delays=readers.delays, **fault_counts(faults))


class _Readers:
    """One task for each member. It does little for each message, since there may be a million deliveries a second."""

    def __init__(self, context: Context, channels: Sequence[str], receiver: int) -> None:
        self.role_tasks = RoleTasks()
        self.checkers = [SequenceChecker() for _ in channels]
        self.delays: list[float] = []
        self.last = 0.0
        self._context = context
        self._channels = channels
        self._receiver = receiver
        self._arrived = [0] * WINDOW_MOST
        self._every = max(1, len(channels) // _SAMPLED)
        self._sender: ProgressSender | None = None

    @property
    def received(self) -> int:
        """How many different messages have arrived."""
        return sum(checker.received for checker in self.checkers)

    def start(self, index: int) -> None:
        """Start the task of a member."""
        sampled = index % self._every == 0
        self.role_tasks.start(self._read(self._channels[index], self.checkers[index], sampled=sampled))

    async def _read(self, channel: str, checker: SequenceChecker, *, sampled: bool) -> None:
        receive, arrived, members = self._context.layer.receive, self._arrived, len(self._channels)
        while True:
            message = await receive(channel)
            number = message["n"]
            n = checker.next
            if number == n:
                checker.next = n + 1
            else:
                n = self._out_of_order(checker, number)
            if sampled:
                self._sample(message)
            if n >= 0:
                slot = n & _WINDOW_MASK
                arrived[slot] += 1
                if arrived[slot] == members:
                    arrived[slot] = 0
                    self._complete(n + 1)

    @staticmethod
    def _out_of_order(checker: SequenceChecker, number: object) -> int:
        """Add a message that is not the next one; return its number, or -1 if it had arrived before."""
        before = checker.received
        checker.add(number)
        return number if isinstance(number, int) and checker.received > before else -1

    def _sample(self, message: Mapping[str, object]) -> None:
        sent = message["t"]
        if isinstance(sent, float) and message["n"]:  # not the first one, sent with cold caches
            self.delays.append(time.monotonic() - sent)

    def _complete(self, count: int) -> None:
        """Report that every member has *count* messages."""
        self.last = time.monotonic()
        self.role_tasks.wake()
        progress = self._context.params.text("progress")
        if progress:
            if self._sender is None:
                self._sender = ProgressSender(progress)
            self._sender.send(self._receiver, count)


_SINGLE = 20
"""Messages to a group that are sent one at a time, each when every member has the one before."""

_SINGLE_EVERY = 0.05
"""Seconds from one to the next, whatever the size of the group: everything is slower after a pause, and the sender
pauses until all members have a message."""


async def publisher(context: Context) -> None:
    """Send to a group: a few messages one at a time, then as many as the window lets through."""
    layer, group, window = context.layer, context.params.text("group"), context.params.integer("window")
    seconds = context.params.real("seconds")
    text = padding(context.params.integer("payload"), n=100_000, t=0.5)
    calls: list[float] = []
    await warm_up(context)

    async def publish(n: int, *, timed: bool = True) -> None:
        began = time.monotonic()
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": began if timed else 0, "text": text})
        calls.append(time.monotonic() - began)

    with ProgressListener(context.params.text("progress"), context.params.integer("receivers")) as progress:
        context.report(ready=True)
        await context.next_instruction()
        await publish(0)  # not measured: with the first one a layer looks up the members
        count = 1
        stalled = not await _wait_for(progress, 1, context.patience)
        calls.clear()
        began = time.monotonic()
        while not stalled and (count <= _SINGLE and time.monotonic() < began + seconds):
            again = time.monotonic() + _SINGLE_EVERY
            await publish(count, timed=False)
            count += 1
            stalled = not await _wait_for(progress, count, context.patience)
            await asyncio.sleep(again - time.monotonic())
        single = statistics.median(calls) if calls else math.inf
        calls.clear()
        before = count
        context.report(warm=True)
        await context.next_instruction()
        first = time.monotonic()
        while not stalled and (time.monotonic() < first + seconds or count == before):
            if count - min(progress.counts) < window:
                await publish(count)
                count += 1
                if context.single_process:
                    await asyncio.sleep(0)
            else:
                stalled = not await _wait_for(progress, count - window + 1, context.patience)
        call = statistics.median(calls) if calls else math.inf
        context.report(first=first, before=before, count=count, call=call, single=single)
        await context.next_instruction()


async def _wait_for(progress: ProgressListener, count: int, patience: float) -> bool:
    """Wait until every receiver has so many messages; return False if there is no progress."""
    while min(progress.counts) < count:
        before = list(progress.counts)
        if not await progress.wait(patience) and progress.counts == before:
            return False
    return True
