"""A server that dies and comes back empty: receivers go on waiting, and live processes restore their memberships."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer.domain.names import ChannelName
from channel_layer.domain.sharding import Ring
from channel_layer_redis import RedisChannelLayer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.servers import Deployment, Server, StartServer

TIMEOUT = 1.0
"""Of the layers: seconds that a command may take."""

SOON = 20.0
"""Seconds that are enough on a busy machine, and fewer than the 30 s after which a lease is renewed anyway."""


async def until(true: Callable[[], Awaitable[bool]], within: float) -> float:
    """Call *true* until it returns True; return how many seconds that took."""
    began = time.monotonic()
    while not await true():
        if time.monotonic() - began > within:
            pytest.fail(f"not within {within} s")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


async def refused(call: Awaitable[object]) -> float:
    """Await a call that has to fail with `StoreError`; return how many seconds it took."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await call
    assert caught.value.retryable
    return time.monotonic() - began


async def members(layer: ChannelLayer, group: str) -> list[str]:
    """Return the members of a group; none while the store cannot be reached."""
    try:
        return await layer.group_channels(group)
    except StoreError:
        return []


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(("count", "victim"), [(1, 0), (3, 0), (3, 2)], ids=["the-only", "first-of-3", "last-of-3"])
async def test_a_server_dies_and_comes_back_empty(
    start_server: StartServer, prefix: str, count: int, victim: int
) -> None:
    """Receivers go on, memberships are restored at once, and sends meanwhile fail in time, whichever server dies."""
    servers = [start_server() for _ in range(count)]
    urls = [server.url for server in servers]
    ring = Ring([f"127.0.0.1:{server.port}/0" for server in servers])

    def layer() -> RedisChannelLayer:
        return RedisChannelLayer(hosts=urls, prefix=prefix, timeout=TIMEOUT)

    async with AsyncExitStack() as stack:
        # Enough processes that some inbox, and enough groups that some group, is on the server that dies.
        owners = [await stack.enter_async_context(layer()) for _ in range(6)]
        sender = await stack.enter_async_context(layer())
        channels = [await owner.new_channel() for owner in owners]
        groups = [f"group-{number}" for number in range(9)]
        for owner, channel in zip(owners, channels, strict=True):
            for group in groups:
                await owner.group_add(group, channel)
        receiving = [
            asyncio.create_task(owner.receive(channel)) for owner, channel in zip(owners, channels, strict=True)
        ]
        working = asyncio.create_task(owners[0].receive("work"))
        await asyncio.sleep(0)
        # A message from before the restart is received first, so that the reader's position is not the beginning.
        for channel in channels:
            await sender.send(channel, {"n": 0})
        assert [(await task)["n"] for task in receiving] == [0] * 6
        receiving = [
            asyncio.create_task(owner.receive(channel)) for owner, channel in zip(owners, channels, strict=True)
        ]

        servers[victim].kill()
        on_victim = [name for name in channels if ring.queue(ChannelName.parse(name).queue) == victim]
        assert count == 3 or on_victim
        for channel in on_victim:
            assert await refused(sender.send(channel, {"n": -1})) < TIMEOUT + SOON / 2
        assert not working.done()
        assert not any(task.done() for task in receiving)

        servers[victim].restart_empty()
        wanted = sorted(channels)

        async def all_back() -> bool:
            return all([await members(sender, group) == wanted for group in groups])

        await until(all_back, SOON)
        for group in groups:
            await sender.group_send(group, {"n": group})
        async with asyncio.timeout(SOON):
            first = [await task for task in receiving]
            for owner, channel, message in zip(owners, channels, first, strict=True):
                rest = [(await owner.receive(channel))["n"] for _ in groups[1:]]
                assert [message["n"], *rest] == groups
            for channel, owner in zip(channels, owners, strict=True):
                await sender.send(channel, {"n": 1})
                assert await owner.receive(channel) == {"n": 1}
            await sender.send("work", {"n": 2})
            assert await working == {"n": 2}


async def test_a_server_that_hangs_fails_sends_in_time_and_is_used_again(
    start_server: StartServer, prefix: str
) -> None:
    """While the server is suspended a send fails within the timeout; afterwards all goes on, with nothing doubled."""
    server = start_server()

    async with (
        RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=TIMEOUT) as one,
        RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=TIMEOUT) as two,
    ):
        name = await one.new_channel()
        receiving = asyncio.create_task(one.receive(name))
        await two.send(name, {"n": 0})
        assert await receiving == {"n": 0}
        receiving = asyncio.create_task(one.receive(name))
        await asyncio.to_thread(server.pause)
        try:
            # The first one may be carried out once the server goes on: its outcome is unknown, and says so.
            for _ in range(2):
                assert await refused(two.send(name, {"n": 1})) < TIMEOUT + SOON / 2
        finally:
            await asyncio.to_thread(server.resume)

        async def works() -> bool:
            try:
                await two.send(name, {"n": 2})
            except StoreError:
                return False
            return True

        await until(works, SOON)
        seen: list[object] = []
        async with asyncio.timeout(SOON):
            seen.append((await receiving)["n"])
            while seen[-1] != 2:
                seen.append((await one.receive(name))["n"])
        assert seen in ([2], [1, 2])


async def test_memberships_come_back_after_each_of_many_restarts(start_server: StartServer, prefix: str) -> None:
    """Ten restarts in a row lose no membership, and no member that left comes back."""
    server: Server = start_server()

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=TIMEOUT) as layer:
        stays, goes = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("group", stays)
        for number in range(10):
            await layer.group_add("group", goes)
            await layer.group_discard("group", goes)
            server.kill()
            server.restart_empty()

            async def back() -> bool:
                return bool(await members(layer, "group"))

            await until(back, SOON)
            assert await layer.group_channels("group") == [stays]
            await layer.group_send("group", {"n": number})
            assert await layer.receive(stays) == {"n": number}


async def test_one_hanging_server_of_three_does_not_hold_up_the_others(start_server: StartServer, prefix: str) -> None:
    """A worker gets what the other servers hold of its channel while one server is suspended."""
    servers = [start_server() for _ in range(3)]
    urls = [server.url for server in servers]

    async with (
        RedisChannelLayer(hosts=urls, prefix=prefix, timeout=TIMEOUT) as worker,
        RedisChannelLayer(hosts=urls[1:], prefix=prefix, timeout=TIMEOUT) as sender,
    ):
        await sender.send("jobs", {"n": 0})
        assert await worker.receive("jobs") == {"n": 0}
        await asyncio.to_thread(servers[0].pause)
        try:
            async with asyncio.timeout(SOON):  # the first call times out; later ones skip the server
                await sender.send("jobs", {"n": 1})
                assert await worker.receive("jobs") == {"n": 1}
            began = time.monotonic()
            for number in range(50):
                await sender.send("jobs", {"n": number})
                assert await worker.receive("jobs") == {"n": number}
            assert time.monotonic() - began < 25 * TIMEOUT  # it would be 50 if each message waited for one
        finally:
            await asyncio.to_thread(servers[0].resume)


async def test_a_process_that_only_sends_says_what_was_lost(
    one_host: Deployment, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A group message dropped for a full channel is logged by the sender, although it runs no background work."""
    async with RedisChannelLayer(hosts=one_host.urls, prefix=prefix, capacity=1) as layer:
        await layer.group_add("group", "nobody-reads-this")
        for number in range(3):
            await layer.group_send("group", {"n": number})
        statistics = layer.counts()
        assert (statistics.expanded, dict(statistics.dropped)) == (3, {"full": 2})
    assert [record.levelname for record in caplog.records if "nobody-reads-this" in record.getMessage()] == ["WARNING"]
