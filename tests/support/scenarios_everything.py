"""All that a layer can do, one after the other, for tests that look at what the store then holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from channel_layer import ChannelFull, ChannelLayer
from channel_layer.testing.suites.tools import receive_or_none

__all__ = ("use_everything",)


async def use_everything(
    owner: ChannelLayer, other: ChannelLayer, check: Callable[[str], Awaitable[None]]
) -> list[asyncio.Task[None]]:
    """Do all that a layer can do, and check after each; return receivers that still wait."""
    channel, second = await owner.new_channel(), await owner.new_channel("second")
    await check("new_channel()")
    for name in ("jobs", "reply?x", "daemon!x", "nobody!x", channel):
        await other.send(name, {"n": 0})
        await check(f"send() to {name}")
    for name in ("jobs", "reply?x", "daemon!x", channel):
        await owner.receive(name)
        await check(f"receive() from {name}")
    for name in ("jobs", "reply?x", "daemon!x", "nobody!x", channel):
        for n in range(4):
            try:
                await other.send(name, {"n": n})
            except ChannelFull:
                await check(f"a refused send() to {name}")
        if name != "nobody!x":
            await owner.receive(name)
        await check(f"a receive() from one of several in {name}")

    async def wait_for(name: str) -> None:
        await owner.receive(name)

    waiting = [asyncio.create_task(wait_for(name)) for name in ("empty", "empty?x", "empty!x")]
    await receive_or_none(other, "another")
    await check("a receive() that was cancelled")
    members = ("jobs", "reply?x", "daemon!x", "nobody!x", channel, second)
    for group in ("here", "there", "everywhere"):
        for name in members:
            for layer in (other, owner):
                await layer.group_add(group, name)
                await check(f"group_add() of {name}")
        await other.group_send(group, {"n": 1})
        await check("group_send()")
        await other.group_channels(group)
        for layer, name in ((owner, second), (other, channel), (other, "jobs"), (other, "never!there")):
            await layer.group_discard(group, name)
            await check(f"group_discard() of {name}")
        await owner.group_send(group, {"n": 2})
        await check("group_send() after group_discard()")
    await other.group_discard("unknown", channel)
    await check("group_discard() from no group")
    await other.statistics("jobs")
    await other.flush()
    await check("flush()")
    await owner.group_add("here", channel)
    await other.group_discard("here", channel)
    await owner.group_add("there", channel)
    await owner.group_add("there", "daemon!x")
    await other.group_send("there", {"n": 3})
    for name in ("jobs", "daemon!x", channel):
        await other.send(name, {"n": 4})
    await owner.receive("jobs")
    await other.send("jobs", {"n": 5})
    for layer in (owner, other):
        await layer.statistics("jobs")
    await check("all that after flush()")
    return waiting
