"""A server that is away, or refuses, is told of in the log: once when that begins, and once when it is over."""

# pyright: reportPrivateUsage=false
# What a layer knows of its servers is private.

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.runtime.reporting import log_failure, log_success
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis._cluster import ClusterMap
from channel_layer_redis._replies import Redirection, refusal
from channel_layer_redis._slots import slot_of
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.addresses import ClusterNodes, TCPAddress
from tests.integration.test_server_restart import until
from tests.support.fake_cluster import fake_cluster
from tests.support.fake_server import redis_proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import TypeAlias

    from tests.support.servers import StartServer

    Receive: TypeAlias = Callable[[RedisChannelLayer], Coroutine[object, object, object]]

SOON = 20.0
TIMEOUT = 1.0


async def own(layer: RedisChannelLayer) -> object:
    """Receive from a channel of the layer's own."""
    return await layer.receive(await layer.new_channel())


async def work(layer: RedisChannelLayer) -> object:
    """Receive from a normal channel."""
    return await layer.receive("jobs")


async def work_in_thread(layer: RedisChannelLayer) -> object:
    """Receive from a normal channel in a thread."""
    while (found := await asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True))[0] is None:
        pass
    return found


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return level and text of what was logged of outages."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "channel_layer" and "use" in record.getMessage()
    ]


def check(caplog: pytest.LogCaptureFixture, where: str, why: str) -> None:
    """Check that one beginning and one end were logged, each with the server."""
    (level, begun), (level_then, over) = lines(caplog)
    assert (level, level_then) == ("WARNING", "INFO")
    assert re.fullmatch(rf"cannot use {where}: .*{why}.*; what waits goes on waiting, and it is tried again", begun)
    assert re.fullmatch(rf"{where} can be used again, after \d+\.\d s", over)


async def logged(caplog: pytest.LogCaptureFixture, count: int) -> bool:
    """Whether so many lines were logged."""
    return len(lines(caplog)) >= count


@pytest.mark.parametrize("receive", [own, work, work_in_thread])
async def test_a_server_that_dies_and_comes_back(
    start_server: StartServer,
    prefix: str,
    receive: Receive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever waits: one warning that names the server, and one line with the seconds."""
    caplog.set_level(logging.INFO, "channel_layer")
    server = start_server()

    async def waits() -> bool:
        return any(client["cmd"] in {"xread", "blpop"} for client in await asyncio.to_thread(server.host().clients))

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=TIMEOUT) as layer:
        waiting = asyncio.create_task(receive(layer))
        await until(waits, SOON)
        server.kill()
        await until(lambda: logged(caplog, 1), SOON)
        server.restart_empty()
        await until(lambda: logged(caplog, 2), SOON)
        await until(waits, SOON)
        check(caplog, f"127.0.0.1:{server.port}/0", "")
        waiting.cancel()
        await layer.send("jobs", {})  # the thread cannot be cancelled
        await asyncio.wait([waiting])


@pytest.mark.parametrize("receive", [work, work_in_thread])
async def test_a_server_that_refuses_for_a_while(
    start_server: StartServer,
    prefix: str,
    receive: Receive,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that serves some commands and refuses others is not told to be back with each that succeeds."""
    caplog.set_level(logging.INFO, "channel_layer")
    server, refuses, refused = start_server(), True, 0

    async def answer(command: list[bytes]) -> bytes | None:
        nonlocal refused
        if command[0] in {b"EVALSHA", b"EVAL"} and refuses:
            refused += 1
            return b"-MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist\r\n"
        return None

    async def many() -> bool:
        return refused >= 5

    async with (
        redis_proxy(lambda: server.port, answer) as port,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix, timeout=TIMEOUT) as layer,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as sender,
    ):
        waiting = asyncio.create_task(receive(layer))
        await until(many, SOON)
        assert len(lines(caplog)) == 1
        refuses = False
        await sender.send("jobs", {"n": 1})
        await asyncio.wait_for(waiting, SOON)
        await until(lambda: logged(caplog, 2), SOON)
        check(caplog, f"127.0.0.1:{port}/0", "MISCONF")


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_a_node_of_a_cluster_is_one_server(caplog: pytest.LogCaptureFixture, *, blocks: bool) -> None:
    """All partitions that a node serves are away with it, and back with the node that takes them: a line each."""
    caplog.set_level(logging.INFO, "channel_layer")
    rules, clock = make_rules(timeout=TIMEOUT), VirtualClock()
    async with fake_cluster([]) as cluster:
        (port,) = (node.port for node in cluster.nodes)
        nodes = cluster.slots
        cluster.slots = lambda: [[0, 8191, ["127.0.0.1", 1, "a"]], [8192, 16383, ["127.0.0.1", port, "b"]]]
        backend = RedisBackend((cluster.hosts(64),), rules, clock)
        layer = ChannelLayer(rules, backend, clock=clock)
        store, in_threads = backend.open(), backend.open_blocking()

        async def push(shard: int) -> bool:
            command = c.Push(shard, ChannelName.parse("jobs"), 9, b"x")
            try:
                await (asyncio.to_thread(in_threads.execute, command) if blocks else store.execute(command))
            except StoreError as exc:
                log_failure(layer._state, shard, "pops", exc)
                return False
            log_success(layer._state, shard, "pops")
            return True

        async def push_all() -> bool:
            return all([await push(shard) for shard in range(64)])

        try:
            assert not await push_all()
            assert len(lines(caplog)) == 1
            cluster.slots = nodes
            await until(push_all, SOON)
        finally:
            await store.aclose()
            await asyncio.to_thread(in_threads.close)
            await layer.aclose()
    (level, begun), (level_then, over) = lines(caplog)
    assert (level, level_then) == ("WARNING", "INFO")
    assert begun.startswith("cannot use 127.0.0.1:1/0: cannot connect to redis://127.0.0.1:1/0")
    assert re.fullmatch(r"what 127.0.0.1:1/0 served can be used again, after \d+\.\d s", over)


def test_moved_slots_are_a_line_for_each_refresh(caplog: pytest.LogCaptureFixture) -> None:
    """It says how many slots have moved from where to where; nothing is said where nothing has."""
    caplog.set_level(logging.INFO, "channel_layer")
    asked = TCPAddress("10.0.0.1", 7000)
    cluster = ClusterMap(ClusterNodes((asked,), 2))

    def hear(*ranges: tuple[int, int, int]) -> list[str]:
        """Return what is logged when a node says that ports serve ranges of slots."""
        caplog.clear()
        cluster.heard([[first, last, [b"10.0.0.1", port, b"id"]] for first, last, port in ranges], asked)
        assert {record.levelname for record in caplog.records} <= {"INFO"}
        return caplog.messages

    assert hear((0, 8191, 7000), (8192, 16383, 7001)) == []
    assert hear((8192, 16383, 7001), (0, 8191, 7000)) == []
    assert hear((0, 99, 7001), (100, 8191, 7000), (8192, 16383, 7001)) == [
        "10.0.0.1:7001 now serves 100 slots that were at 10.0.0.1:7000"
    ]
    moved = refusal("", f"MOVED {slot_of(cluster.tags[0])} 10.0.0.1:7004")
    assert isinstance(moved, Redirection)
    assert cluster.redirection(moved, ("10.0.0.1", 7001)) == ("10.0.0.1", 7004)
    (line,) = hear((0, 98, 7004), (99, 99, 7000), (100, 8191, 7000), (8192, 16383, 7004))
    assert line.split("; ") == [
        "10.0.0.1:7004 now serves 8291 slots that were at 10.0.0.1:7001",
        "10.0.0.1:7000 now serves 1 slot that was at 10.0.0.1:7001",
    ]
    assert hear((99, 8191, 7000), (8192, 16383, 7004)) == ["no known node serves 99 slots that were at 10.0.0.1:7004"]
    (line,) = hear((0, 98, 7004), (99, 8191, 7005), (8192, 16383, 7004))
    assert line.split("; ") == [
        "10.0.0.1:7005 now serves all 8093 slots that were at 10.0.0.1:7000",
        "10.0.0.1:7004 now serves 99 slots that were at no known node",
    ]
    (line,) = hear(*((port * 100, port * 100 + 99, 8000 + port) for port in range(164)))
    assert line.endswith("at 10.0.0.1:7005; 162 more such moves: see CLUSTER SLOTS")
    assert len(line) < 400
