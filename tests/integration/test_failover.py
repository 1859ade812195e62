"""A primary becomes a replica, and a name or a proxy leads to the new one: no process is deaf."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from tests.integration.test_server_restart import until
from tests.support.fake_server import fake_redis, redis_proxy

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.servers import Server, StartServer

TIMEOUT = 2.0


def follow(replica: Server, primary: Server) -> None:
    """Make a server a replica of another one, and wait until it has the same data."""
    host = replica.host()
    host.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    primary.host().command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
    host.command("REPLICAOF", "127.0.0.1", primary.port)
    while host.info("replication")["master_link_status"] != "up":
        pass


async def succeeds(call: Awaitable[object]) -> bool:
    """Await a call; return whether it did not end in a `StoreError`."""
    try:
        await call
    except StoreError:
        return False
    return True


class Switch:
    """Where a proxy leads: the port of the primary; and a read of an inbox that it can hold back."""

    def __init__(self, server: Server) -> None:
        self.port = server.port
        self.held: asyncio.Event | None = None
        self.hold = asyncio.Event()

    async def __call__(self, command: list[bytes]) -> bytes | None:
        """Hold a read back, if the test wants it."""
        if command[0] == b"XREAD" and self.held is not None and not self.held.is_set():
            self.held.set()
            await self.hold.wait()
        return None


@pytest.mark.parametrize("reading", ["blocked", "between"])
async def test_a_reader_follows_a_failover(start_server: StartServer, prefix: str, reading: str) -> None:
    """After the primary was demoted every member gets every message, whatever its reader was about at that moment."""
    old, new = start_server(), start_server()
    await asyncio.to_thread(follow, new, old)
    switch = Switch(old)
    async with redis_proxy(lambda: switch.port, switch) as port:
        url = f"redis://127.0.0.1:{port}/0"

        def layer() -> RedisChannelLayer:
            return RedisChannelLayer(hosts=[url], prefix=prefix, timeout=TIMEOUT, expiry=6, inbox_capacity=50)

        async with layer() as owner, layer() as sender:
            names = [await owner.new_channel() for _ in range(3)]
            for name in names:
                await owner.group_add("all", name)
            await sender.group_send("all", {"n": 0})
            assert [await owner.receive(name) for name in names] == [{"n": 0}] * 3
            if reading == "between":
                switch.held = asyncio.Event()
                await sender.group_send("all", {"n": 0})  # which the reader reads, or is held back before that
                await switch.held.wait()

            new.host().command("REPLICAOF", "NO", "ONE")
            await asyncio.to_thread(follow, old, new)
            switch.port = new.port
            switch.hold.set()

            await until(lambda: succeeds(sender.group_send("all", {"n": 1})), 10)
            came: dict[str, list[object]] = {name: [] for name in names}
            async with asyncio.timeout(20):
                for n in range(2, 122):
                    await sender.group_send("all", {"n": n})
                    for name, seen in came.items():
                        while n not in seen:
                            seen.append((await owner.receive(name))["n"])
            for seen in came.values():
                assert [n for n in seen if n not in (0, 1)] == list(range(2, 122))


async def test_a_thread_follows_a_failover(start_server: StartServer, prefix: str) -> None:
    """A thread that waits for a normal channel gets what is sent to the new primary, and so do idle connections."""
    old, new = start_server(), start_server()
    await asyncio.to_thread(follow, new, old)
    switch = Switch(old)
    async with redis_proxy(lambda: switch.port, switch) as port:
        layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix, timeout=TIMEOUT)
        async with layer, RedisChannelLayer(hosts=[new.url], prefix=prefix, timeout=TIMEOUT) as sender:
            await asyncio.to_thread(layer.blocking.send, "other", {"n": 0})  # by a connection that is idle then
            waiting = asyncio.create_task(asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True))

            async def waits() -> bool:
                return any(client["cmd"] == "blpop" for client in await asyncio.to_thread(old.host().clients))

            await until(waits, 10)
            new.host().command("REPLICAOF", "NO", "ONE")
            await asyncio.to_thread(follow, old, new)
            switch.port = new.port
            await sender.send("jobs", {"n": 1})
            assert await asyncio.wait_for(waiting, 10) == ("jobs", {"n": 1})
            await asyncio.to_thread(layer.blocking.send, "other", {"n": 2})
            assert [await sender.receive("other") for _ in range(2)] == [{"n": 0}, {"n": 2}]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_a_replica_is_named_and_serves_once_it_is_a_primary(
    start_server: StartServer, prefix: str, *, blocks: bool
) -> None:
    """With a replica in hosts a send says so in one sentence, and a receive() waits until it is a primary."""
    primary, replica = start_server(), start_server()
    await asyncio.to_thread(follow, replica, primary)
    async with RedisChannelLayer(hosts=[replica.url], prefix=prefix, timeout=TIMEOUT) as layer:
        send = asyncio.to_thread(layer.blocking.send, "jobs", {}) if blocks else layer.send("jobs", {})
        with pytest.raises(StoreError, match="is a replica") as caught:
            await send
        assert (caught.value.retryable, caught.value.outcome) == (True, "not_sent")
        receiving = asyncio.create_task(layer.receive("jobs"))
        await asyncio.sleep(0)
        replica.host().command("REPLICAOF", "NO", "ONE")

        await until(lambda: succeeds(layer.send("jobs", {"n": 1})), 10)
        assert await asyncio.wait_for(receiving, 10) == {"n": 1}


@pytest.mark.parametrize(("mode", "what"), [("cluster", "a node of a Redis Cluster"), ("sentinel", "a Sentinel")])
async def test_a_server_of_another_kind_is_named(mode: str, what: str) -> None:
    """A node of a Cluster, or a Sentinel, in hosts is one sentence that says what to give, and ends a receive()."""

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"HELLO":
            return b"*4\r\n$4\r\nmode\r\n$%d\r\n%b\r\n$2\r\nid\r\n:1\r\n" % (len(mode), mode.encode())
        return b"-ERR unknown command\r\n"

    async with fake_redis(answer) as port:
        layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], timeout=TIMEOUT)
        async with layer:
            for call in (layer.send("jobs", {}), layer.receive("jobs")):
                with pytest.raises(StoreError, match=what) as caught:
                    await asyncio.wait_for(call, 10)
                assert not caught.value.retryable
