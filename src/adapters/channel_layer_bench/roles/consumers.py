"""The roles of consumers that come and go, and of channels and messages that wait."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import AT_ONCE, padding, refusals, warm_up
from channel_layer_bench.faults import Faults, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from channel_layer_bench.context import Context

__all__ = ("churner", "echo", "filler", "idler")

_IDLE_SETTLE: Final = 3.0
"""Seconds."""


async def echo(context: Context, tasks: int) -> AsyncGenerator[str, None]:
    """Send each message back to the channel that it names."""
    layer = context.layer
    await warm_up(context)
    channel = await layer.new_channel()

    async def answer() -> None:
        while True:
            message = await layer.receive(channel)
            await layer.send(
                str(message["reply"]), {"type": "bench.answer", "n": message["n"], "text": message["text"]}
            )

    for _ in range(tasks):
        context.start(answer())
    yield channel


async def churner(context: Context, tasks: int) -> AsyncGenerator[Sample | None, str]:
    """Make a channel, join a group, ask an `echo`, wait for the answer and leave, again and again."""
    layer, plan = context.layer, context.plan
    text = padding(plan.payload, n=100_000, reply="x" * 50)
    await warm_up(context, tasks)
    numbers = itertools.count()
    echo = yield None
    first = time.monotonic()

    async def visit(task: int) -> Faults:
        faults, group = Faults(), f"bench.room.{task % 5}"
        while time.monotonic() < first + plan.seconds:
            channel, n = await layer.new_channel(), next(numbers)
            await layer.group_add(group, channel)
            await layer.send(echo, {"type": "bench.ask", "n": n, "reply": channel, "text": text})
            try:
                async with asyncio.timeout(plan.patience):
                    answer = await layer.receive(channel)
            except TimeoutError:
                return faults + Faults(1, lost=1)
            await layer.group_discard(group, channel)
            faults += Faults(1, disordered=int(answer["n"] != n))
        return faults

    faults = sum(await asyncio.gather(*(visit(task) for task in range(tasks))), start=Faults())
    yield Sample({"cycles_per_second": faults.sent / (time.monotonic() - first)}, faults)


async def filler(context: Context, channel: str, count: int) -> AsyncGenerator[int | None, None]:
    """Send messages to a channel that has no reader; report how many were not refused."""
    text = padding(context.plan.payload, n=100_000)
    await warm_up(context, AT_ONCE)
    full = refusals()
    yield None
    sent = 0
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(count, start + AT_ONCE))
        sends = (context.layer.send(channel, {"type": "bench.message", "n": n, "text": text}) for n in numbers)
        results = await asyncio.gather(*sends, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, full):
                raise result
            sent += result is None
    yield sent


async def idler(context: Context, count: int) -> AsyncGenerator[int, None]:
    """Wait on many channels that get no message; report the memory of the process before and then."""
    layer = context.layer
    await warm_up(context)
    yield _memory()

    async def wait(channel: str) -> None:
        await layer.receive(channel)

    for _ in range(count):
        context.start(wait(await layer.new_channel()))
    await asyncio.sleep(_IDLE_SETTLE)
    yield _memory()


def _memory() -> int:
    """Return the bytes of memory that this process has in use."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:  # no /proc on this system
        command = ["ps", "-o", "rss=", "-p", str(os.getpid())]
        return 1024 * int(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - a fixed command
