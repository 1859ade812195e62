"""The blocking facade with threads, forks, interruptions, event loops and servers that cannot be reached."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from channel_layer import ChannelLayer, InvalidName, StoreError
from channel_layer import commands as c
from channel_layer.blocking import BlockingChannelLayer
from channel_layer.domain.codec import Message
from channel_layer.domain.names import ChannelName, Queue
from channel_layer.ports import BlockingStore, Waiting
from channel_layer.runtime import blocking_receive
from channel_layer.runtime.blocking_receive import BlockingReceive
from channel_layer.runtime.thread_session import ThreadSession
from channel_layer.runtime.threads import await_any
from channel_layer.testing import MakeStore, VirtualClock, make_rules
from channel_layer.testing.suites.tools import in_fork
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis.options import AddressDict
from tests.conformance.test_kit_stores import within
from tests.support.fake_server import fake_redis, redis_of_version
from tests.support.servers import Deployment, Server, ServerKind, StartServer
from tests.support.stores import IPCWorlds, memory_stores, redis_stores

PATIENCE = 20.0


@pytest.fixture(params=["memory", "ipc", "redis"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[MakeStore]:
    """Every store in turn."""
    worlds = IPCWorlds(tmp_path / "worlds")
    if request.param == "memory":
        yield memory_stores()
    elif request.param == "ipc":
        yield worlds
    else:
        deployment: Deployment = request.getfixturevalue("one_host")
        prefix: str = request.getfixturevalue("prefix")
        yield within(prefix, redis_stores(deployment))
    worlds.close()


@pytest.fixture
def make_layer(make_store: MakeStore) -> Generator[Callable[[], ChannelLayer]]:
    """Make a layer over one store, as another process would."""
    rules, clock = make_rules(capacity=1000), VirtualClock()
    made: list[ChannelLayer] = []

    def make() -> ChannelLayer:
        made.append(ChannelLayer(rules, make_store(rules, clock), clock=clock))
        return made[-1]

    yield make
    for layer in made:
        asyncio.run(layer.aclose())


def in_threads(count: int, work: Callable[[int], object]) -> None:
    """Do *work* in some threads at once; raise what the first of them raises."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        try:
            barrier.wait(PATIENCE)
            work(number)
        except BaseException as exc:  # noqa: BLE001 - told below
            errors.append(exc)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]


# -- threads -----------------------------------------------------------------------------------------------------


def test_threads_share_one_layer(make_layer: Callable[[], ChannelLayer]) -> None:
    """Eight threads send through one layer object and eight receive through another; each message comes once."""
    sender, receiver = make_layer().blocking, make_layer().blocking
    received: list[object] = []
    done = threading.Event()

    def work(number: int) -> None:
        if number < 8:
            for each in range(25):
                sender.send("jobs", {"n": 25 * number + each})
            return
        while not done.is_set():
            _, message = receiver.receive(["jobs", "other"], block=True)
            if message is not None:
                received.append(message["n"])
                if len(received) == 200:
                    done.set()
                    for _ in range(7):
                        sender.send("other", {"n": None})

    in_threads(16, work)
    assert sorted(number for number in received if isinstance(number, int)) == list(range(200))


def test_a_few_connections_carry_many_threads(start_server: StartServer) -> None:
    """However many threads send, there are at most eight connections; closing the layer closes them all."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.host().url], capacity=10_000).blocking

    def work(_number: int) -> None:
        for _ in range(50):
            layer.send("jobs", {})

    in_threads(24, work)
    assert 1 <= len(server.host().clients()) <= 8
    layer.close()
    deadline = time.monotonic() + PATIENCE
    while server.host().clients() and time.monotonic() < deadline:
        pass
    assert not server.host().clients()


def test_no_thread_is_started(make_layer: Callable[[], ChannelLayer]) -> None:
    """Sending, groups and receiving of what this process does not own need no thread and no event loop."""
    before = threading.active_count()
    layer = make_layer().blocking
    layer.group_add("room", "jobs")
    layer.group_send("room", {})
    layer.send("box!a", {})
    assert layer.receive(["jobs"], block=True) == ("jobs", {})
    assert layer.receive(["box!"], block=True) == ("box!a", {})
    assert layer.receive(["box!", "jobs"], block=True, block_timeout=0.01) == (None, None)
    assert threading.active_count() == before


# -- forks -------------------------------------------------------------------------------------------------------


def test_a_child_starts_anew(make_layer: Callable[[], ChannelLayer], request: pytest.FixtureRequest) -> None:
    """A layer that was used before a fork works in the children and in the parent, as in a server that forks."""
    layer = make_layer().blocking
    layer.send("jobs", {"n": "parent"})
    assert layer.receive(["jobs", "box!"]) == ("jobs", {"n": "parent"})
    alone = "memory" in request.node.name

    def child() -> None:
        layer.send("jobs", {"n": os.getpid()})
        if alone:
            assert layer.receive(["jobs"]) == ("jobs", {"n": os.getpid()})
        assert layer.receive(["reply?x"], block=True, block_timeout=0.01) == (None, None)

    for _ in range(3):
        in_fork(child, PATIENCE, "a child may use what was made before the fork")
    layer.send("jobs", {"n": "again"})
    found = [layer.receive(["jobs"])[1] for _ in range(1 if alone else 4)]
    assert found[-1] == {"n": "again"}
    assert len({str(message) for message in found}) == len(found)
    assert layer.receive(["jobs"]) == (None, None)


# -- interruptions -----------------------------------------------------------------------------------------------


def test_an_interrupted_wait_passes_its_call_on(
    make_layer: Callable[[], ChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread interrupted as its message arrives loses nothing, and the next waiting thread is notified."""
    layer, sender = make_layer(), make_layer().blocking
    other = layer._backend.open_blocking()
    queue = ChannelName.parse("jobs").queue
    behind: list[Waiting] = []

    def interrupt(_descriptors: object, _seconds: float) -> None:
        waiting = other.wait(c.WaitAny(0, (queue,), PATIENCE))  # behind the thread that is about to be interrupted
        behind.append(waiting)
        sender.send("jobs", {"n": 1})
        raise KeyboardInterrupt

    monkeypatch.setattr(blocking_receive, "await_any", interrupt)
    with pytest.raises(KeyboardInterrupt):
        layer.blocking.receive(["jobs", "box!"], block=True)
    monkeypatch.undo()
    [waiting] = behind
    await_any(waiting.descriptors, PATIENCE)
    assert waiting.end() == (queue,)
    other.close()
    assert not layer._state.watchers
    assert sender.receive(["jobs"]) == ("jobs", {"n": 1})


def test_a_message_on_its_way_is_put_back(start_server: StartServer) -> None:
    """A thread interrupted while the server pops its message puts the message back before it ends."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.host().url]).blocking
    layer.send("jobs", {"n": 1})
    server.host().command("CLIENT", "PAUSE", 60_000, "WRITE")

    def interrupt() -> None:
        while server.host().info("clients")["blocked_clients"] == 0:
            pass
        signal.pthread_kill(main, signal.SIGINT)
        while not interrupted.wait(0.001) and not held:
            pass
        server.host().command("CLIENT", "UNPAUSE")

    main, interrupted, held = threading.get_ident(), threading.Event(), list[int]()

    def handle(_number: int, _frame: object) -> None:
        held.append(1)
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    helper = threading.Thread(target=interrupt)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            layer.receive(["jobs"])
    finally:
        signal.signal(signal.SIGINT, before)
        helper.join(PATIENCE)
    assert layer.receive(["jobs"]) == ("jobs", {"n": 1})
    layer.close()


# -- event loops -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
async def test_in_the_thread_of_its_own_loop_nothing_deadlocks(make_layer: Callable[[], ChannelLayer]) -> None:
    """Called in the event loop that does the layer's background work, every call returns."""
    layer = make_layer()

    name = await layer.new_channel()
    inbox, blocking = name.partition("!")[0] + "!", layer.blocking
    blocking.group_add("room", name)
    blocking.group_send("room", {"n": 1})
    assert blocking.receive([inbox], block=True, block_timeout=0.01) == (None, None)  # no reader has read it yet
    assert await layer.receive(name) == {"n": 1}
    for number in range(3):
        blocking.send(name, {"n": number})
    assert await layer.receive(name) == {"n": 0}
    async with asyncio.timeout(PATIENCE):
        while layer.counts().waiting < 2:
            await layer.run_maintenance()
    assert blocking.receive([inbox]) == (name, {"n": 1})
    blocking.flush()
    await layer.flush()
    assert blocking.receive([inbox]) == (None, None)
    await layer.aclose()


def test_both_facades_share_channels(make_layer: Callable[[], ChannelLayer]) -> None:
    """Each facade receives what the other sends; both read an inbox of this process."""
    layer = make_layer()
    blocking = layer.blocking

    async def begin() -> str:
        await layer.send("jobs", {"n": 1})
        name = await layer.new_channel()
        await layer.group_add("room", name)
        return name

    name = asyncio.run(begin())
    inbox = name.partition("!")[0] + "!"
    assert blocking.receive(["jobs"], block=True) == ("jobs", {"n": 1})
    blocking.send(name, {"n": 2})
    blocking.send_group("room", {"n": 3})
    assert blocking.receive([inbox, "jobs"], block=True) == (name, {"n": 2})
    assert asyncio.run(layer.receive(name)) == {"n": 3}
    for number in range(1000):  # every credit is returned
        blocking.send(name, {"n": number})
    for number in range(1000):
        assert blocking.receive([inbox], block=True) == (name, {"n": number})
    blocking.send(name, {"n": "more"})
    assert blocking.receive([inbox], block=True) == (name, {"n": "more"})
    waiter = threading.Thread(target=lambda: found.append(blocking.receive([inbox], block=True)))
    found: list[object] = []
    waiter.start()
    blocking.send(name, {"n": "late"})
    waiter.join(PATIENCE)
    assert found == [(name, {"n": "late"})]


def test_the_inbox_of_another_owner_is_refused(make_layer: Callable[[], ChannelLayer]) -> None:
    """A living owner's inbox cannot be received by another layer object."""
    owner, other = make_layer(), make_layer().blocking
    inbox = asyncio.run(owner.new_channel()).partition("!")[0] + "!"
    with pytest.raises(InvalidName, match="belongs to another process"):
        other.receive(["jobs", inbox], block=True)


def test_a_closed_layer_refuses(make_layer: Callable[[], ChannelLayer]) -> None:
    """After aclose() every call raises StoreError, and so does a call that waits."""
    layer = make_layer()
    blocking, errors = layer.blocking, list[str]()
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            blocking.receive(["jobs"], block=True, block_timeout=PATIENCE)
        except StoreError as exc:
            errors.append(str(exc))

    waiter = threading.Thread(target=wait)
    waiter.start()
    begun.wait(PATIENCE)
    asyncio.run(layer.aclose())
    waiter.join(PATIENCE)
    assert errors == ["this channel layer is closed"]
    with pytest.raises(StoreError, match="closed"):
        blocking.send("jobs", {})


@pytest.mark.parametrize("make_store", ["ipc", "redis"], indirect=True)  # the memory store works on
def test_a_call_in_progress_when_a_layer_closes_says_so(
    make_layer: Callable[[], ChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that began before aclose() and then finds its store closed says that the layer was closed."""
    layer, open_store = make_layer(), ThreadSession.open

    def open_and_close(session: ThreadSession) -> BlockingStore:
        store = open_store(session)
        asyncio.run(layer.aclose())
        return store

    monkeypatch.setattr(ThreadSession, "open", open_and_close)
    blocking = layer.blocking
    with pytest.raises(StoreError, match="this channel layer is closed"):
        blocking.send("jobs", {})
    layer = make_layer()
    monkeypatch.setattr(ThreadSession, "open", open_store)
    take = BlockingReceive._take_from

    def close_and_take(receiving: BlockingReceive, queue: Queue, shard: int) -> tuple[str, Message] | None:
        asyncio.run(layer.aclose())
        return take(receiving, queue, shard)

    monkeypatch.setattr(BlockingReceive, "_take_from", close_and_take)
    with pytest.raises(StoreError, match="this channel layer is closed"):
        layer.blocking.receive(["jobs"])


# -- servers -----------------------------------------------------------------------------------------------------


def test_an_idle_connection_that_was_lost_is_replaced(start_server: StartServer) -> None:
    """A connection that the server closed while it was idle makes no command fail."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.host().url]).blocking
    layer.send("jobs", {"n": 1})
    server.host().command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    layer.send("jobs", {"n": 2})
    assert layer.receive(["jobs"]) == ("jobs", {"n": 1})
    layer.close()


def test_a_server_that_stands_still_is_waited_for_so_long(start_server: StartServer) -> None:
    """A command fails after the timeout, with the outcome "unknown"."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.host().url], timeout=0.2).blocking
    layer.send("jobs", {})
    server.pause()
    with pytest.raises(StoreError, match="in time") as caught:
        layer.send("jobs", {})
    assert (caught.value.outcome, caught.value.retryable) == ("unknown", True)
    server.resume()
    layer.send("jobs", {})
    layer.close()


def test_a_server_that_is_not_there(start_server: StartServer) -> None:
    """A send fails with the outcome "not_sent"; a waiting receive goes on waiting, and gets the next message."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.host().url], timeout=1).blocking
    server.kill()
    with pytest.raises(StoreError, match="is a server running there") as caught:
        layer.send("jobs", {})
    assert caught.value.outcome == "not_sent"
    with pytest.raises(StoreError):
        layer.receive(["jobs"])
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(layer.receive(["jobs"], block=True, block_timeout=PATIENCE)))
    waiter.start()
    server.restart_empty()
    layer.send("jobs", {"n": 1})
    waiter.join(PATIENCE)
    assert found == [("jobs", {"n": 1})]
    layer.close()


async def test_nothing_is_sent_twice() -> None:
    """A command whose reply is lost is not sent again."""
    commands: list[bytes] = []
    greet = redis_of_version("redis_version:7.0.0\r\nrun_id:x\r\n")

    loop = asyncio.get_running_loop()

    def answer(command: list[bytes]) -> bytes:
        if command[0] in (b"HELLO", b"INFO"):
            return greet(command)
        if command[0] == b"SCRIPT":
            return b"+OK\r\n"
        commands.append(command[0])
        return b"?"  # no reply at all

    async with fake_redis(answer) as port:
        layer = RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}"], timeout=1).blocking
        with pytest.raises(StoreError, match="does not speak"):
            await loop.run_in_executor(None, lambda: layer.send("jobs", {}))
        layer.close()
    assert commands == [b"EVALSHA"]


def test_tls_and_a_password(start_server: StartServer) -> None:
    """Commands and waits go through TLS, and log in."""
    server = start_server(ServerKind.REDIS, tls=True, password="secret")
    layer = RedisChannelLayer(hosts=[_tls_host(server)]).blocking
    found: list[object] = []
    waiter = threading.Thread(target=lambda: found.append(layer.receive(["jobs"], block=True)))
    waiter.start()
    layer.send("jobs", {"n": 1})
    waiter.join(PATIENCE)
    assert found == [("jobs", {"n": 1})]
    assert layer.receive(["jobs"], block=True, block_timeout=0.01) == (None, None)
    layer.close()


def _tls_host(server: Server) -> AddressDict:
    assert server.tls is not None
    return {"address": server.tls.url, "ssl_ca_certs": str(server.tls.ca_file)}


def test_a_wrong_password_is_reported(start_server: StartServer) -> None:
    """A refused login is an error that is not retryable, at once, also for a call that waits."""
    server = start_server(password="secret")
    layer = RedisChannelLayer(hosts=[f"redis://:wrong@127.0.0.1:{server.port}/0"]).blocking
    with pytest.raises(StoreError, match="check the password") as caught:
        layer.receive(["jobs"], block=True)
    assert (caught.value.outcome, caught.value.retryable) == ("not_sent", False)


def test_one_server_away_does_not_stop_the_others(start_server: StartServer) -> None:
    """Of several servers the reachable ones are used, and one that comes back is used again."""
    servers = [start_server(), start_server()]
    layer: BlockingChannelLayer = RedisChannelLayer(hosts=[server.host().url for server in servers], timeout=1).blocking
    for _ in range(4):
        layer.send("jobs", {})
    servers[0].kill()
    for _ in range(2):
        assert layer.receive(["jobs"], block=True) == ("jobs", {})
    assert layer.receive(["jobs"], block=True, block_timeout=0.05) == (None, None)
    layer.close()
