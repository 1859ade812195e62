"""Connections that were lost while they were idle: what is sent next is not lost with them, and is not sent twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from tests.integration.test_server_restart import until
from tests.support.fake_server import firewall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator

    from tests.support.fake_server import Firewall
    from tests.support.servers import Server, StartServer

TIMEOUT: Final = 3.0

ALWAYS: Final = 0.000001
"""An interval with which every connection has been idle for too long when there is no other command on it."""

resetting = pytest.mark.parametrize("resets", [True, False], ids=["reset", "black-hole"])
blocking = pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])


def layer_behind(wall: Firewall, prefix: str, interval: float, *, timeout: float = TIMEOUT) -> RedisChannelLayer:
    """Make a layer that reaches its server through a firewall."""
    host = f"redis://127.0.0.1:{wall.port}/0?health_check_interval={interval:f}"
    return RedisChannelLayer(hosts=[host], prefix=prefix, timeout=timeout)


@contextlib.asynccontextmanager
async def closing(layer: RedisChannelLayer) -> AsyncGenerator[RedisChannelLayer]:
    """Close a layer; its part for threads in one, because this one is the firewall's."""
    async with layer:
        yield layer
        await asyncio.to_thread(layer.blocking.close)


@pytest.mark.usefixtures("loops")
@blocking
@resetting
async def test_what_is_sent_first_arrives_once(server: Server, prefix: str, *, blocks: bool, resets: bool) -> None:
    """After connections were lost while idle, the next call of every kind succeeds, and takes effect once."""
    async with (
        firewall(lambda: server.port) as wall,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as receiver,
        closing(layer_behind(wall, prefix, ALWAYS)) as layer,
    ):

        async def call(inline: Callable[..., Awaitable[object]], *arguments: object) -> None:
            if blocks:
                await asyncio.to_thread(getattr(layer.blocking, inline.__name__), *arguments)
            else:
                await inline(*arguments)

        member = await receiver.new_channel()
        await call(layer.send, member, {"n": 0})
        await receiver.group_add("group", member)
        wall.forget(resets=resets)
        await call(layer.send, member, {"n": 1})
        wall.forget(resets=resets)
        await call(layer.group_send, "group", {"n": 2})
        wall.forget(resets=resets)
        await call(layer.group_add, "group", "jobs")
        await call(layer.group_send, "group", {"n": 3})
        assert [await receiver.receive(member) for _ in range(4)] == [{"n": n} for n in range(4)]
        assert await receiver.receive("jobs") == {"n": 3}
        assert (await receiver.statistics()).messages_pending == 0


@pytest.mark.usefixtures("loops")
@resetting
async def test_tasks_that_find_an_idle_connection_share_one_check(server: Server, prefix: str, *, resets: bool) -> None:
    """Of many tasks that send at once after idle time, one checks for all, and their order is kept."""
    async with (
        firewall(lambda: server.port) as wall,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as receiver,
        layer_behind(wall, prefix, ALWAYS) as layer,
    ):
        await layer.send("jobs", {"n": 0})
        wall.forget(resets=resets)
        cancelled = asyncio.create_task(layer.send("jobs", {"n": -1}))
        await asyncio.sleep(0)
        cancelled.cancel()
        before = wall.connections
        await asyncio.gather(*(layer.send("jobs", {"n": n}) for n in range(1, 51)))
        assert wall.connections == before + 1
        came = [await receiver.receive("jobs")]
        while came[-1] != {"n": 50}:
            came.append(await receiver.receive("jobs"))
        assert [each for each in came if each != {"n": -1}] == [{"n": n} for n in range(51)]
        assert (await receiver.statistics()).messages_pending == 0


@pytest.mark.usefixtures("loops")
@blocking
@resetting
async def test_a_wait_begins_on_a_connection_that_lives(
    start_server: StartServer, prefix: str, monkeypatch: pytest.MonkeyPatch, *, blocks: bool, resets: bool
) -> None:
    """A receive() after idle time hears of what comes, on whichever connection the last one had waited."""
    monkeypatch.setattr("channel_layer.runtime.queue_consumer._LINGER_SECONDS", 0.0)
    server = start_server()
    async with (
        firewall(lambda: server.port) as wall,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as sender,
        closing(layer_behind(wall, prefix, ALWAYS)) as layer,
    ):

        async def waiting(count: int) -> bool:
            return (await asyncio.to_thread(server.host().info, "clients"))["blocked_clients"] == count

        async def receive() -> object:
            if blocks:
                return (await asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True))[1]
            return await layer.receive("jobs")

        for n in range(3):
            receiving = asyncio.create_task(receive())
            await until(lambda: waiting(1), 10)
            await sender.send("jobs", {"n": n})
            assert await receiving == {"n": n}
            await until(lambda: waiting(0), 10)
            wall.forget(resets=resets)


@blocking
async def test_a_busy_connection_is_not_checked(server: Server, prefix: str, *, blocks: bool) -> None:
    """Within the interval no PING is sent."""
    async with firewall(lambda: server.port) as wall, closing(layer_behind(wall, prefix, 3600)) as layer:
        for n in range(50):
            if blocks:
                await asyncio.to_thread(layer.blocking.send, "jobs", {"n": n})
                assert await asyncio.to_thread(layer.blocking.receive, ["jobs"]) == ("jobs", {"n": n})
            else:
                await layer.send("jobs", {"n": n})
                assert await layer.receive("jobs") == {"n": n}
        assert wall.sent.count(b"EVALSHA") >= 100
        assert b"PING" not in wall.sent


@pytest.mark.usefixtures("loops")
@blocking
async def test_no_interval_is_no_check(server: Server, prefix: str, *, blocks: bool) -> None:
    """With ``health_check_interval=0`` what is sent over a lost connection fails, and it is unknown whether it came."""
    async with firewall(lambda: server.port) as wall, closing(layer_behind(wall, prefix, 0, timeout=0.5)) as layer:
        for n in range(2):
            send = asyncio.to_thread(layer.blocking.send, "jobs", {}) if blocks else layer.send("jobs", {})
            if n:
                with pytest.raises(StoreError) as caught:
                    await send
                assert caught.value.outcome == "unknown"
            else:
                await send
                wall.forget(resets=False)


@blocking
async def test_an_end_that_was_not_read_is_seen(
    start_server: StartServer, prefix: str, monkeypatch: pytest.MonkeyPatch, *, blocks: bool
) -> None:
    """A connection that was closed while the event loop did not run, or no thread read, is not written to."""
    server, loop = start_server(), asyncio.get_running_loop()
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
    async with RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=TIMEOUT) as layer:
        for n in range(2):
            if blocks:
                layer.blocking.send("jobs", {"n": n})
            else:
                await layer.send("jobs", {"n": n})
            server.host().command("CLIENT", "KILL", "TYPE", "normal")
            monkeypatch.setattr(loop, "time", lambda: time.monotonic() + 1)
        assert [await layer.receive("jobs") for _ in range(2)] == [{"n": n} for n in range(2)]


def connections_to(port: int) -> Iterator[socket.socket]:
    """Find the sockets of this process that are connected to a port."""
    for entry in Path("/dev/fd").iterdir():
        if entry.is_socket():
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(entry.name))) as found:
                if found.getpeername()[1:2] == (port,):
                    yield found


@pytest.mark.parametrize("keepalive", [None, True, False])
async def test_idle_connections_are_probed(start_server: StartServer, prefix: str, *, keepalive: bool | None) -> None:
    """The system probes connections over TCP, for event loops and threads, unless that is turned off."""
    server = start_server()
    query = "" if keepalive is None else f"?socket_keepalive={keepalive}"
    async with RedisChannelLayer(hosts=[f"{server.url}{query}"], prefix=prefix) as layer:
        await layer.send("jobs", {})
        await asyncio.to_thread(layer.blocking.send, "jobs", {})
        options = [
            (
                found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                found.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            )
            for found in connections_to(server.port)
        ]
    assert len(options) >= 2
    assert all(on == (keepalive is not False) for on, *_ in options)
    if keepalive is not False:
        assert {tuple(intervals) for _, *intervals in options} == {(5, 3)}
