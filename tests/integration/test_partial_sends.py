"""One of several servers is away: the error of a group_send says whether any member may have got the message."""

from __future__ import annotations

import asyncio

import pytest

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from tests.support.servers import Server, StartServer

TIMEOUT = 2.0


async def channels_on(layer: RedisChannelLayer, server: Server, prefix: str, name: str) -> str:
    """Make a channel whose inbox is on a server."""
    for number in range(100):
        channel = await layer.new_channel(f"{name}{number}")
        if any(channel.partition("!")[0] in key for key in await asyncio.to_thread(server.keys, prefix)):
            return channel
    raise AssertionError(f"no inbox is on {server}")


async def group_on(layer: RedisChannelLayer, server: Server, prefix: str, channels: list[str]) -> str:
    """Make a group that is on a server, of some channels."""
    for number in range(100):
        group = f"group{number}"
        for channel in channels:
            await layer.group_add(group, channel)
        if any(group in key for key in await asyncio.to_thread(server.keys, prefix)):
            return group
    raise AssertionError(f"no group is on {server}")


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_a_group_message_that_some_got_is_not_unsent(
    start_server: StartServer, prefix: str, *, blocks: bool
) -> None:
    """Those that have got it would get it twice; if none has, it is safe to repeat it."""
    alive, away = start_server(), start_server()
    async with RedisChannelLayer(hosts=[alive.url, away.url], prefix=prefix, timeout=TIMEOUT) as layer:
        reached = await channels_on(layer, alive, prefix, "alive")
        missed = await channels_on(layer, away, prefix, "away")
        group = await group_on(layer, alive, prefix, [reached, missed])
        await asyncio.to_thread(away.kill)

        async def outcome() -> str:
            call = layer.group_send(group, {"n": 1})
            if blocks:
                call.close()
                call = asyncio.to_thread(layer.blocking.group_send, group, {"n": 1})
            with pytest.raises(StoreError) as caught:
                await call
            return caught.value.outcome

        await outcome()  # the connection breaks with it: unknown in any case
        assert await outcome() == "unknown"
        for _ in range(2):
            assert await asyncio.wait_for(layer.receive(reached), 10) == {"n": 1}
        await layer.group_discard(group, reached)
        assert await outcome() == "not_sent"
