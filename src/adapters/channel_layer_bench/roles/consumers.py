"""The roles of consumers that come and go, and of channels and messages that wait."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from channel_layer_bench.context import RoleTasks, refusals, warm_up
from channel_layer_bench.faults import Faults
from channel_layer_bench.roles.messages import AT_ONCE, fault_counts, padding

if TYPE_CHECKING:
    from channel_layer_bench.context import Context

__all__ = ("churner", "echo", "filler", "idler")


async def echo(context: Context) -> None:
    """Answer each message on the channel that it names."""
    layer = context.layer
    await warm_up(context)
    channel = await layer.new_channel()
    role_tasks = RoleTasks()

    async def answer() -> None:
        while True:
            message = await layer.receive(channel)
            await layer.send(str(message["reply"]), {"type": "bench.answer", "n": message["n"]})

    for _ in range(context.params.integer("tasks")):
        role_tasks.start(answer())
    context.report(channel=channel)
    await role_tasks.finish()


async def churner(context: Context) -> None:
    """Make a channel, join a group, ask `echo`, wait for the answer and leave, again and again."""
    layer, tasks, seconds = context.layer, context.params.integer("tasks"), context.params.real("seconds")
    text = padding(context.params.integer("payload"), n=100_000, reply="x" * 50)
    await warm_up(context, tasks)
    numbers = itertools.count()
    context.report(ready=True)
    echo = (await context.next_instruction()).text("channel")
    first = time.monotonic()

    async def visit(task: int) -> Faults:
        faults, group = Faults(), f"bench.room.{task % 5}"
        while time.monotonic() < first + seconds:
            channel, n = await layer.new_channel(), next(numbers)
            await layer.group_add(group, channel)
            await layer.send(echo, {"type": "bench.ask", "n": n, "reply": channel, "text": text})
            try:
                async with asyncio.timeout(context.patience):
                    answer = await layer.receive(channel)
            except TimeoutError:
                return faults + Faults(1, lost=1)
            await layer.group_discard(group, channel)
            faults += Faults(1, disordered=int(answer["n"] != n))
        return faults

    faults = sum(await asyncio.gather(*(visit(task) for task in range(tasks))), start=Faults())
    context.report(seconds=time.monotonic() - first, **fault_counts(faults))


async def filler(context: Context) -> None:
    """Send messages to a channel that has no reader."""
    count, channel = context.params.integer("count"), context.params.text("channel")
    text = padding(context.params.integer("payload"), n=100_000)
    await warm_up(context, AT_ONCE)
    full = refusals()
    context.report(ready=True)
    await context.next_instruction()
    sent = 0
    for start in range(0, count, AT_ONCE):
        numbers = range(start, min(count, start + AT_ONCE))
        sends = (context.layer.send(channel, {"type": "bench.message", "n": n, "text": text}) for n in numbers)
        results = await asyncio.gather(*sends, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, full):
                raise result
            sent += result is None
    context.report(sent=sent)
    await context.next_instruction()


async def idler(context: Context) -> None:
    """Wait on many channels that get no message."""
    layer, count, role_tasks = context.layer, context.params.integer("count"), RoleTasks()
    await warm_up(context)
    context.report(ready=True)
    await context.next_instruction()

    async def wait(channel: str) -> None:
        await layer.receive(channel)

    for _ in range(count):
        role_tasks.start(wait(await layer.new_channel()))
    await asyncio.sleep(0)
    context.report(waiting=True)
    await context.next_instruction()
    role_tasks.check()
    context.report(over=True)
