"""The roles of a fan-out: one process sends to a group, others hold its members."""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import AT_ONCE, GRACE, padding, wait_for, warm_up
from channel_layer_bench.faults import Faults, Receipts
from channel_layer_bench.plan import WINDOW_MOST
from channel_layer_bench.progress import ProgressListener, ProgressSender

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from channel_layer_bench.context import Context, Layer

__all__ = ("Checked", "Published", "members", "publisher")

_WINDOW_MASK: Final = WINDOW_MOST - 1

_SAMPLED: Final = 200
"""Members of a group, in each process, whose delays are measured: measuring all of them would cost too much."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What went wrong with the messages of the members, and seconds from publishing to receiving some of them."""

    faults: Faults
    delays: list[float]


async def members(
    context: Context, group: str, size: int, number: int = 0, progress_path: str = ""
) -> AsyncGenerator[float | Checked | None, int]:
    """Receive for the members of a group that one process has: the process *number* of those that have some.

    It reports its progress to the socket of a `publisher`, if there is one.
    """
    layer = context.layer
    await warm_up(context)
    channels = [await layer.new_channel() for _ in range(size)]
    for start in range(0, size, AT_ONCE):
        await asyncio.gather(*(layer.group_add(group, name) for name in channels[start : start + AT_ONCE]))
    readers = _Readers(layer, size, number, ProgressSender(progress_path) if progress_path else None)
    for index, channel in enumerate(channels):
        context.start(readers.read(channel, index))
    count = yield None
    await wait_for(readers.received, count * size, context.plan.patience)
    count = yield readers.last
    await asyncio.sleep(GRACE)
    yield Checked(readers.faults([count] * size), readers.delays)


class _Readers(Receipts):
    """Reads for each member. It does little for each message, since there may be a million deliveries a second."""

    def __init__(self, layer: Layer, members: int, number: int, progress: ProgressSender | None) -> None:
        super().__init__(members)
        self.delays: list[float] = []
        self._layer = layer
        self._number = number
        self._progress = progress
        self._arrived = [0] * WINDOW_MOST
        self._every = max(1, members // _SAMPLED)

    async def read(self, channel: str, index: int) -> None:
        """Receive for one member."""
        receive, checker = self._layer.receive, self.checkers[index]
        arrived, members = self._arrived, len(self.checkers)
        sampled = index % self._every == 0
        while True:
            message = await receive(channel)
            number = message["n"]
            n = checker.next
            if number == n:
                checker.next = n + 1
            else:
                n = checker.add(number)
            if sampled and n > 0:  # not the first one, sent with cold caches
                self._sample(message["t"])
            if n >= 0:
                slot = n & _WINDOW_MASK
                arrived[slot] += 1
                if arrived[slot] == members:
                    arrived[slot] = 0
                    self._complete(n + 1)

    def _sample(self, sent: object) -> None:
        if isinstance(sent, float):
            self.delays.append(time.monotonic() - sent)

    def _complete(self, count: int) -> None:
        """Report that every member has *count* messages."""
        self.last = time.monotonic()
        if self._progress is not None:
            self._progress.send(self._number, count)


_SINGLE = 20
"""Messages to a group that are sent one at a time, each when every member has the one before."""

_SINGLE_EVERY = 0.05
"""Seconds from one to the next, whatever the size of the group: everything is slower after a pause, and the sender
pauses until all members have a message."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a `publisher` has measured.

    Attributes:
        first: when the messages began that are measured, by ``time.monotonic()``.
        before: messages that were sent before these.
        count: messages in all.
        call: median seconds of a `group_send` amid others.
        single: of one that was sent alone.
    """

    first: float
    before: int
    count: int
    call: float
    single: float


async def publisher(
    context: Context, group: str, receivers: int, progress_path: str
) -> AsyncGenerator[Published | None, None]:
    """Send to a group: a few messages one at a time, then as many as the window lets through.

    It makes a socket for the progress of the processes that have its members, the receivers.
    """
    layer, plan, calls = context.layer, context.plan, list[float]()
    text = padding(plan.payload, n=100_000, t=0.5)
    await warm_up(context)

    async def publish(n: int, *, timed: bool = True) -> None:
        began = time.monotonic()
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": began if timed else 0, "text": text})
        calls.append(time.monotonic() - began)

    with ProgressListener(progress_path, receivers) as progress:
        yield None
        await publish(0)  # not measured: with the first one a layer looks up the members
        count = 1
        stalled = not await _arrived(progress, 1, plan.patience)
        calls.clear()
        began = time.monotonic()
        while not stalled and (count <= _SINGLE and time.monotonic() < began + plan.seconds):
            again = time.monotonic() + _SINGLE_EVERY
            await publish(count, timed=False)
            count += 1
            stalled = not await _arrived(progress, count, plan.patience)
            await asyncio.sleep(again - time.monotonic())
        single = statistics.median(calls) if calls else math.inf
        calls.clear()
        before = count
        yield None
        first = time.monotonic()
        while not stalled and (time.monotonic() < first + plan.seconds or count == before):
            if count - min(progress.counts) < plan.window:
                await publish(count)
                count += 1
                if context.single_process:
                    await asyncio.sleep(0)
            else:
                stalled = not await _arrived(progress, count - plan.window + 1, plan.patience)
        yield Published(first, before, count, statistics.median(calls) if calls else math.inf, single)


async def _arrived(progress: ProgressListener, count: int, patience: float) -> bool:
    """Wait until every receiver has so many messages; return False if there is no progress."""
    while min(progress.counts) < count:
        before = list(progress.counts)
        if not await progress.wait(patience) and progress.counts == before:
            return False
    return True
