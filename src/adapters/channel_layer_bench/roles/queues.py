"""The roles that send to channels and receive from them: one process sends, others receive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import GRACE, padding, refusals, wait_for, warm_up
from channel_layer_bench.faults import Faults, Receipts, Sample, SequenceChecker
from channel_layer_bench.metrics import one_way
from channel_layer_bench.progress import ProgressListener, ProgressSender

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from channel_layer_bench.context import Context

__all__ = ("Channels", "Jobs", "Sent", "pinger", "receiver", "sender", "worker")

_TASK_BITS: Final = 40
"""A worker stores a message as one integer: the sender's task above this many bits, its number below."""

_REFUSED_PAUSE: Final = 0.001


@dataclass(frozen=True, slots=True)
class Sent:
    """What a `sender` has sent.

    Attributes:
        first: when it began, by ``time.monotonic()``.
        counts: messages that each of its tasks has sent.
        refused: how often a channel was full.
    """

    first: float
    counts: list[int]
    refused: int


class Channels(list[str]):
    """The names of the channels of a `receiver`."""


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a `worker` has got, and when the last message came."""

    jobs: array[int]
    last: float


async def sender(
    context: Context, tasks: int, payload: int, window: int = 0, progress_path: str = ""
) -> AsyncGenerator[Sent | None, list[str]]:
    """Send to channels from concurrent tasks until the time is over.

    If there is a window, no more messages than that are on their way to each channel. The socket for the progress of
    the receivers is made then.
    """
    text = padding(payload, task=tasks, n=100_000)
    single_process, send, patience = context.single_process, context.layer.send, context.plan.patience
    refused = 0
    await warm_up(context, tasks)
    full = refusals()

    async def work(task: int, channel: str, progress: ProgressListener | None) -> int:
        nonlocal refused
        n = 0
        while time.monotonic() < deadline:
            if progress is not None and n - progress.counts[task] >= window:
                if not await progress.wait(patience) and n - progress.counts[task] >= window:
                    break
                continue
            try:
                await send(channel, {"type": "bench.message", "task": task, "n": n, "text": text})
            except full:
                refused += 1
                await asyncio.sleep(_REFUSED_PAUSE)
            else:
                n += 1
                if single_process:
                    await asyncio.sleep(0)  # a layer without a server may never yield, and receivers would starve
        return n

    with ProgressListener(progress_path, tasks) if window else contextlib.nullcontext() as progress:
        channels = yield None
        first = time.monotonic()
        deadline = first + context.plan.seconds
        counts = await asyncio.gather(*(work(task, channels[task % len(channels)], progress) for task in range(tasks)))
        yield Sent(first, counts, refused)


async def receiver(
    context: Context, tasks: int, progress_path: str = ""
) -> AsyncGenerator[Channels | float | Faults, list[int]]:
    """Receive what a `sender` sends to channels of this process, until each has got what was sent to it.

    Each task has a channel of its own. The socket for the progress, if there is one, exists by the first message.
    """
    receive, receipts = context.layer.receive, Receipts(tasks)
    await warm_up(context)
    channels = Channels([await context.layer.new_channel() for _ in range(tasks)])
    progress = ProgressSender(progress_path) if progress_path else None

    async def read(index: int, channel: str) -> None:
        checker = receipts.checkers[index]
        while True:
            message = await receive(channel)
            if message["task"] == index:
                checker.add(message["n"])
                receipts.last = time.monotonic()
            else:
                checker.misdelivered()
            if progress is not None:
                progress.send(index, checker.received)

    for index, channel in enumerate(channels):
        context.start(read(index, channel))
    counts = yield channels
    await wait_for(receipts.received, sum(counts), context.plan.patience)
    counts = yield receipts.last
    await asyncio.sleep(GRACE)
    yield receipts.faults(counts)


async def worker(context: Context, channel: str, tasks: int) -> AsyncGenerator[int | Jobs | None, bool]:
    """Receive from a normal channel together with other workers; say how many messages came, until it is over."""
    receive, jobs, last = context.layer.receive, array("Q"), 0.0
    await warm_up(context)

    async def take() -> None:
        nonlocal last
        while True:
            message = await receive(channel)
            task, n = message["task"], message["n"]
            if not (isinstance(task, int) and isinstance(n, int)):
                raise TypeError(f"a job came as {message!r}")
            jobs.append(task << _TASK_BITS | n)
            last = time.monotonic()

    for _ in range(tasks):
        context.start(take())
    over = yield None
    while not over:
        over = yield len(jobs)
    yield Jobs(jobs, last)


async def pinger(context: Context) -> AsyncGenerator[Sample | None, str]:
    """Measure round trips: send a message to an `echo` when the answer to the one before has arrived."""
    layer, plan = context.layer, context.plan
    await warm_up(context)
    channel = await layer.new_channel()
    text = padding(plan.payload, n=100_000, reply=channel)
    checker, trips, n = SequenceChecker(), list[float](), 0
    echo = yield None
    deadline = time.monotonic() + plan.seconds
    with contextlib.suppress(TimeoutError):  # the missing answer counts as lost
        while (began := time.monotonic()) < deadline:
            await layer.send(echo, {"type": "bench.ping", "n": n, "reply": channel, "text": text})
            n += 1
            async with asyncio.timeout(plan.patience):
                while checker.next < n:  # skip duplicates
                    checker.add((await layer.receive(channel))["n"])
            trips.append(time.monotonic() - began)
    yield Sample(one_way(trips), checker.faults(n))
