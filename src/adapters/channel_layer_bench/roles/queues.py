"""The roles that send to channels and receive from them: one process sends, others receive."""

from __future__ import annotations

import asyncio
import itertools
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import GRACE, RoleTasks, refusals, warm_up
from channel_layer_bench.faults import ReceiverChecks, SequenceChecker
from channel_layer_bench.metrics import percentile
from channel_layer_bench.progress import ProgressListener, ProgressSender
from channel_layer_bench.roles.messages import fault_counts, padding

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer_bench.context import Context

__all__ = ("large_receiver", "large_sender", "pinger", "ponger", "receiver", "sender", "worker")

_TASK_BITS: Final = 40
"""A worker stores a message as one integer: the sender's task above this many bits, its number below."""

_REFUSED_PAUSE: Final = 0.001
_REPORT_EVERY: Final = 0.05


async def sender(context: Context) -> None:
    """Send to channels from concurrent tasks until the time is over."""
    tasks = context.params.integer("tasks")
    seconds = context.params.real("seconds")
    text = padding(context.params.integer("payload"), task=tasks, n=100_000)
    single_process, send = context.single_process, context.layer.send
    refused = 0
    await warm_up(context, tasks)
    full = refusals()

    async def work(task: int, channel: str, deadline: float) -> int:
        nonlocal refused
        for n in itertools.count():
            message: dict[str, object] = {"type": "bench.message", "task": task, "n": n, "text": text}
            while True:
                if time.monotonic() >= deadline:
                    return n
                try:
                    await send(channel, message)
                except full:
                    refused += 1
                    await asyncio.sleep(_REFUSED_PAUSE)
                else:
                    break
            if single_process:
                await asyncio.sleep(0)  # a layer without a server may never yield, and receivers would starve
        return 0

    context.report(ready=True)
    channels = (await context.next_instruction()).texts("channels")
    first = time.monotonic()
    turns = zip(range(tasks), itertools.cycle(channels), strict=False)
    counts = await asyncio.gather(*(work(task, channel, first + seconds) for task, channel in turns))
    context.report(first=first, counts=counts, refused=refused)


async def _receive_all(
    context: Context, channels: Sequence[str], report_progress: Callable[[int, int], object] | None
) -> None:
    """Receive from channels until each has got what was sent to it, and report what went wrong."""
    receive = context.layer.receive
    checks, role_tasks = ReceiverChecks(len(channels)), RoleTasks()

    async def read(index: int, channel: str) -> None:
        checker = checks.checkers[index]
        while True:
            message = await receive(channel)
            if message["task"] == index:
                if checks.add(index, message["n"]):
                    role_tasks.wake()
            else:
                checks.misdelivered(index)
            if report_progress is not None:
                report_progress(index, checker.received)

    for index, channel in enumerate(channels):
        role_tasks.start(read(index, channel))
    context.report(channels=list(channels))
    counts = (await context.next_instruction()).integers("counts")
    checks.expect(sum(counts))
    await role_tasks.wait_until(lambda: checks.received >= sum(counts), lambda: checks.received, context.patience)
    context.report(last=checks.last)
    await asyncio.sleep(GRACE)
    role_tasks.check()
    context.report(**fault_counts(checks.faults(counts)))


async def receiver(context: Context) -> None:
    """Receive what a `sender` sends to channels of this process."""
    await warm_up(context)
    channels = [await context.layer.new_channel() for _ in range(context.params.integer("tasks"))]
    await _receive_all(context, channels, None)


async def large_receiver(context: Context) -> None:
    """Receive what a `large_sender` sends, and report the progress to it."""
    await warm_up(context)
    channels = [await context.layer.new_channel() for _ in range(context.params.integer("tasks"))]
    progress: ProgressSender | None = None

    def report(index: int, count: int) -> None:
        nonlocal progress
        if progress is None:
            progress = ProgressSender(context.params.text("progress"))  # the sender has made the socket by now
        progress.send(index, count)

    await _receive_all(context, channels, report)


async def large_sender(context: Context) -> None:
    """Send large messages, a bounded number of which are on their way to each channel."""
    tasks, window = context.params.integer("tasks"), context.params.integer("window")
    seconds = context.params.real("seconds")
    text = "x" * context.params.integer("payload")
    full = refusals()
    refused = 0
    await warm_up(context, tasks)

    async def work(task: int, channel: str, progress: ProgressListener, deadline: float) -> int:
        nonlocal refused
        n = 0
        while time.monotonic() < deadline:
            if n - progress.counts[task] >= window:
                if not await progress.wait(context.patience) and n - progress.counts[task] >= window:
                    return n
                continue
            try:
                await context.layer.send(channel, {"type": "bench.message", "task": task, "n": n, "text": text})
            except full:
                refused += 1
                await asyncio.sleep(_REFUSED_PAUSE)
            else:
                n += 1
            if context.single_process:
                await asyncio.sleep(0)
        return n

    with ProgressListener(context.params.text("progress"), tasks) as progress:
        context.report(ready=True)
        channels = (await context.next_instruction()).texts("channels")
        first = time.monotonic()
        counts = await asyncio.gather(
            *(work(task, channel, progress, first + seconds) for task, channel in enumerate(channels))
        )
        context.report(first=first, counts=counts, refused=refused)
        await context.next_instruction()


async def worker(context: Context) -> None:
    """Receive from a normal channel together with other workers, and store which messages came."""
    receive, channel = context.layer.receive, context.params.text("channel")
    await warm_up(context)
    jobs, last = array("Q"), 0.0
    role_tasks = RoleTasks()

    async def take() -> None:
        nonlocal last
        while True:
            message = await receive(channel)
            task, n = message["task"], message["n"]
            if not (isinstance(task, int) and isinstance(n, int)):
                raise TypeError(f"a job came as {message!r}")
            jobs.append(task << _TASK_BITS | n)
            last = time.monotonic()

    async def report() -> None:
        reported = 0
        while not over:
            if len(jobs) != reported:
                reported = len(jobs)
                context.report(count=reported)
            await asyncio.sleep(_REPORT_EVERY)

    over = False
    for _ in range(context.params.integer("tasks")):
        role_tasks.start(take())
    context.report(ready=True)
    reporting = asyncio.create_task(report())
    await context.next_instruction()
    over = True
    await reporting
    role_tasks.check()
    await asyncio.to_thread(Path(context.params.text("file")).write_bytes, jobs.tobytes())
    context.report(last=last)


async def ponger(context: Context) -> None:
    """Answer each message of a `pinger`."""
    layer = context.layer
    await warm_up(context)
    channel = await layer.new_channel()
    context.report(channel=channel)
    while True:
        message = await layer.receive(channel)
        await layer.send(str(message["reply"]), {"type": "bench.pong", "n": message["n"], "text": message["text"]})


async def pinger(context: Context) -> None:
    """Measure round trips: send a message when the answer to the one before has arrived."""
    layer, seconds = context.layer, context.params.real("seconds")
    await warm_up(context)
    channel = await layer.new_channel()
    text = padding(context.params.integer("payload"), n=100_000, reply=channel)
    checker, trips = SequenceChecker(), list[float]()
    context.report(ready=True)
    peer = (await context.next_instruction()).text("channel")
    deadline, n = time.monotonic() + seconds, 0
    try:
        while (began := time.monotonic()) < deadline:
            await layer.send(peer, {"type": "bench.ping", "n": n, "reply": channel, "text": text})
            n += 1
            async with asyncio.timeout(context.patience):
                while checker.next < n:  # skip duplicates
                    checker.add((await layer.receive(channel))["n"])
            trips.append(time.monotonic() - began)
    except TimeoutError:
        pass  # the missing answer counts as lost
    context.report(p50=percentile(trips, 0.5) / 2, p99=percentile(trips, 0.99) / 2, **fault_counts(checker.faults(n)))
