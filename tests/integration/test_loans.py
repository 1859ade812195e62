"""Event loops that live for one call borrow connections: what is asked over them, and what may go wrong with them."""

# pyright: reportPrivateUsage=false
# Whether a connection is at hand is seen from inside only.

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import TypeVar

import pytest
from asgiref.sync import async_to_sync

from channel_layer import ChannelLayer, StoreError
from channel_layer.runtime.event_loops import IOThread, io_thread
from channel_layer_ipc import IPCChannelLayer
from channel_layer_redis import RedisChannelLayer, RedisLocalChannelLayer, _wire
from channel_layer_redis._scripts import load
from channel_layer_redis.hosts import Host, parse_hosts
from tests.support.servers import Server, ServerKind, StartServer

PATIENCE = 20.0
R = TypeVar("R")


@pytest.fixture(autouse=True)
def _young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give no loop connections of its own, however slow the machine is."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0)


@pytest.fixture(params=["one host", "three hosts", "hidden names", "ipc", "local and remote"])
def layer(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Generator[ChannelLayer]:
    """Every layer that lends."""
    if request.param == "ipc":
        made: ChannelLayer = IPCChannelLayer(prefix=prefix, directory=tmp_path)
    else:
        server: Server = request.getfixturevalue("server")
        hosts = [server.host(db).url for db in range(3 if request.param == "three hosts" else 1)]
        if request.param == "local and remote":
            made = RedisLocalChannelLayer(hosts=hosts, prefix=prefix, local={"directory": tmp_path})
        elif request.param == "hidden names":
            made = RedisChannelLayer(hosts=hosts, prefix=prefix, symmetric_encryption_keys=["x" * 43], blind_names=True)
        else:
            made = RedisChannelLayer(hosts=hosts, prefix=prefix)
    yield made
    async_to_sync(made.aclose)()


class Calls:
    """Calls of a layer, each with a loop of its own.

    Args:
        layer: it.
        given: what was given to the I/O thread.
    """

    def __init__(self, layer: ChannelLayer, given: list[object]) -> None:
        self.layer = layer
        self.given = given
        self.send = async_to_sync(layer.send)
        self.group_send = async_to_sync(layer.group_send)
        self.group_add = async_to_sync(layer.group_add)
        self.group_discard = async_to_sync(layer.group_discard)
        self.members = async_to_sync(layer.group_channels)
        self.receive = async_to_sync(layer.receive)

    def warm(self) -> int:
        """Call until a connection is at hand; return how many calls went through the I/O thread until then."""
        deadline = time.monotonic() + PATIENCE
        while True:
            before = len(self.given)
            self.members("group")
            if len(self.given) == before:
                return before
            assert time.monotonic() < deadline


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was given to the I/O thread."""
    coroutines: list[object] = []
    pass_on = IOThread.run

    def note(thread: IOThread, coroutine: Coroutine[object, object, R]) -> asyncio.Future[R]:
        coroutines.append(coroutine)
        return pass_on(thread, coroutine)

    monkeypatch.setattr(IOThread, "run", note)
    return coroutines


@pytest.fixture
def calls(layer: ChannelLayer, given: list[object]) -> Calls:
    """Calls of every layer that lends."""
    return Calls(layer, given)


@pytest.fixture
def paused(start_server: StartServer, given: list[object]) -> Generator[tuple[Server, Calls]]:
    """A server of this test's own, which may be paused, and a layer whose calls it has to answer within 0.3 s."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.url], timeout=0.3)
    calls = Calls(layer, given)
    calls.group_add("group", "jobs")
    calls.group_add("other", "mail")
    calls.warm()
    yield server, calls
    async_to_sync(layer.aclose)()


# -- what is asked


def test_calls_borrow_a_connection(calls: Calls) -> None:
    """All that a call from plain code asks goes over a borrowed connection, past the I/O thread."""
    through = calls.warm()
    for number in range(20):
        calls.send("jobs", {"n": number})
        calls.group_add("group", "mail")
        calls.group_send("group", {"n": number})
        assert calls.members("group") == ["mail"]
        calls.group_discard("group", "mail")
        assert calls.members("group") == []
    assert len(calls.given) == through
    for channel in ("jobs", "mail"):  # of several hosts, each keeps the order of its part
        assert sorted(str(calls.receive(channel)) for _ in range(20)) == sorted(str({"n": n}) for n in range(20))
    assert calls.layer.counts().sent == 20


def test_calls_at_once_in_one_loop_stay_in_order(calls: Calls) -> None:
    """Whichever way they go, calls that are not awaited one by one are carried out in the order of their beginning."""
    name = async_to_sync(calls.layer.new_channel)()
    calls.warm()

    async def send(start: int) -> None:
        await asyncio.gather(*(calls.layer.send(name, {"n": start + n}) for n in range(8)))

    for start in range(0, 80, 8):
        asyncio.run(send(start))
    assert [calls.receive(name)["n"] for _ in range(80)] == list(range(80))


@pytest.fixture
def _small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system take a few kilobytes at once only."""
    connect = _wire._connect

    def narrow(host: Host, timeout: float) -> socket.socket:
        made = connect(host, timeout)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return made

    monkeypatch.setattr(_wire, "_connect", narrow)


@pytest.mark.usefixtures("_small_buffers")
def test_a_message_that_no_buffer_holds(start_server: StartServer, given: list[object]) -> None:
    """A message that the system does not take at once goes out in parts, while the loop goes round."""
    layer = RedisChannelLayer(hosts=[start_server().url])
    calls = Calls(layer, given)
    through = calls.warm()
    large = bytes(1_000_000)
    turns = 0

    async def send() -> None:
        nonlocal turns
        sending = asyncio.create_task(layer.send("jobs", {"large": large}))
        while not sending.done():
            turns += 1
            await asyncio.sleep(0)
        await sending

    asyncio.run(send())
    assert turns > 10
    assert len(calls.given) == through
    assert calls.receive("jobs") == {"large": large}
    async_to_sync(layer.aclose)()


def test_over_tls(start_server: StartServer, given: list[object]) -> None:
    """A connection that speaks TLS can be borrowed, too: large messages, and replies of several records."""
    server = start_server(ServerKind.REDIS, tls=True)
    assert server.tls is not None
    layer = RedisChannelLayer(hosts=[{"address": server.tls.url, "ssl_ca_certs": str(server.tls.ca_file)}])
    calls = Calls(layer, given)
    through = calls.warm()
    names = [f"{number:04}{'x' * 90}" for number in range(1000)]

    async def join() -> None:
        await asyncio.gather(*(layer.group_add("group", name) for name in names))

    calls.send("jobs", {"large": bytes(1_000_000)})
    assert len(given) == through
    asyncio.run(join())
    through = len(given)
    assert calls.members("group") == names  # 100 000 bytes
    assert len(given) == through
    assert calls.receive("jobs") == {"large": bytes(1_000_000)}
    async_to_sync(layer.aclose)()


def test_scripts_that_a_server_has_forgotten(paused: tuple[Server, Calls]) -> None:
    """They are sent anew over the borrowed connection."""
    server, calls = paused
    server.host().command("SCRIPT", "FLUSH")
    through = len(calls.given)
    calls.send("jobs", {"n": 1})
    calls.group_send("group", {"n": 2})
    assert len(calls.given) == through
    assert [calls.receive("jobs")["n"] for _ in range(2)] == [1, 2]


def test_a_new_server_has_the_scripts_before_anything_is_sent(start_server: StartServer) -> None:
    """No command is sent again after others because its script was unknown: concurrent calls would lose their order."""
    server = start_server()

    async def connect() -> None:
        async with RedisChannelLayer(hosts=[server.url]) as layer:
            await layer.group_channels("group")

    asyncio.run(connect())
    names = ("push_queue", "push_inbox", "publish", "deliver", "join", "leave")
    known = server.host().command("SCRIPT", "EXISTS", *(load(name).sha for name in names))
    assert known == [1] * len(names)


# -- what may go wrong


def test_who_does_not_wait_for_his_reply_leaves_none_to_the_next(paused: tuple[Server, Calls]) -> None:
    """After a call that was cancelled, the next one gets the reply to what it has asked itself."""
    server, calls = paused
    server.pause()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(calls.layer.group_channels("group"), 0.1))
    server.resume()
    for _ in range(3):
        assert calls.members("other") == ["mail"]
        assert calls.members("group") == ["jobs"]


def test_who_is_cancelled_before_his_turn_has_asked_nothing(start_server: StartServer, given: list[object]) -> None:
    """While one call has the connection, the next is cancelled; the third is carried out in its turn."""
    server = start_server()
    calls = Calls(RedisChannelLayer(hosts=[server.url]), given)
    calls.warm()

    async def send() -> None:
        server.pause()
        first, second, third = (asyncio.create_task(calls.layer.send("jobs", {"n": n})) for n in range(3))
        for _ in range(3):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait((second,))
        assert second.cancelled()
        assert not first.done()
        server.resume()
        await asyncio.gather(first, third)

    asyncio.run(send())
    assert [calls.receive("jobs")["n"] for _ in range(2)] == [0, 2]
    async_to_sync(calls.layer.aclose)()


def test_who_was_cancelled_is_not_overtaken(paused: tuple[Server, Calls]) -> None:
    """What a cancelled call has asked over its borrowed connection is done with before the next call asks anything."""
    server, calls = paused
    through = len(calls.given)

    async def send() -> None:
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(calls.layer.send("jobs", {"n": 0}), 0.05)
        following = asyncio.create_task(calls.layer.send("jobs", {"n": 1}))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(calls.given) == through
        server.resume()
        await following

    asyncio.run(send())
    assert [calls.receive("jobs")["n"] for _ in range(2)] == [0, 1]
    calls.warm()


def _nothing_at_hand(_: _wire.Pool) -> None:
    """Find no connection."""


async def _cancel_in_the_thread(server: Server, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send {"n": 0} by way of the I/O thread, as if no connection were at hand, and be cancelled amid it."""
    server.pause()
    with monkeypatch.context() as patch:
        patch.setattr(_wire.Pool, "_at_hand", _nothing_at_hand)
        through = len(calls.given)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(calls.layer.send("jobs", {"n": 0}), 0.05)
        assert len(calls.given) == through + 1
    server.resume()


def test_the_calls_of_a_loop_go_one_way_once_one_was_cancelled(
    paused: tuple[Server, Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call in the I/O thread that was cancelled may yet be sent there: later ones do not go past that thread."""
    server, calls = paused

    async def send() -> None:
        await _cancel_in_the_thread(server, calls, monkeypatch)
        for n in (1, 2):
            through = len(calls.given)
            await calls.layer.send("jobs", {"n": n})
            assert len(calls.given) == through + 1

    asyncio.run(send())
    assert [calls.receive("jobs")["n"] for _ in range(3)] == [0, 1, 2]
    calls.warm()


def test_a_loop_that_gets_its_own_connections_overtakes_nobody(
    paused: tuple[Server, Calls], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call in the I/O thread was cancelled, the loop's first own connection waits until the thread has gone on.

    Here the thread stands still, as it may on a machine with much to do.
    """
    server, calls = paused
    go_on = threading.Event()

    async def send() -> None:
        await _cancel_in_the_thread(server, calls, monkeypatch)
        io_thread().loop.call_soon_threadsafe(go_on.wait, PATIENCE)
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
        connections = len(server.host().clients())
        following = asyncio.create_task(calls.layer.send("jobs", {"n": 1}))
        await asyncio.sleep(0.05)
        assert len(server.host().clients()) == connections
        assert not following.done()
        go_on.set()
        await following
        assert len(server.host().clients()) > connections

    asyncio.run(send())


def test_a_server_that_does_not_answer(paused: tuple[Server, Calls]) -> None:
    """A call ends with an error after the layer's timeout; later ones succeed."""
    server, calls = paused
    server.pause()
    with pytest.raises(StoreError, match="did not answer in time") as caught:
        calls.members("group")
    assert caught.value.retryable
    assert caught.value.outcome == "unknown"
    server.resume()
    assert calls.members("other") == ["mail"]
    calls.warm()


@pytest.mark.usefixtures("_small_buffers")
def test_a_server_that_does_not_read(paused: tuple[Server, Calls]) -> None:
    """A message that the server does not take ends with an error after the layer's timeout."""
    server, calls = paused
    server.pause()
    with pytest.raises(StoreError, match="did not answer in time"):
        calls.send("jobs", {"large": bytes(900_000)})
    server.resume()
    assert calls.members("other") == ["mail"]


def test_a_server_that_dies_meanwhile(paused: tuple[Server, Calls]) -> None:
    """A call whose connection is lost ends with an error; when the server is back, the next ones succeed."""
    server, calls = paused
    server.pause()
    errors: list[StoreError] = []

    def call() -> None:
        with pytest.raises(StoreError) as caught:
            calls.layer.blocking.send("jobs", {})  # a thread of the other kind, beside it
        errors.append(caught.value)

    async def ask() -> None:
        asking = asyncio.create_task(calls.layer.group_channels("group"))
        await asyncio.sleep(0)
        server.kill()
        with pytest.raises(StoreError, match="was lost") as caught:
            await asking
        errors.append(caught.value)

    other = threading.Thread(target=call)
    other.start()
    asyncio.run(ask())
    other.join(PATIENCE)
    assert [error.retryable for error in errors] == [True, True]
    with pytest.raises(StoreError, match="is a server running there"):
        calls.members("group")
    server.restart_empty()
    assert calls.members("group") == []
    calls.warm()


def test_a_connection_that_was_closed_while_it_lay_idle(paused: tuple[Server, Calls]) -> None:
    """It is not lent: no call meets the error."""
    server, calls = paused
    for _ in range(5):
        server.host().command("CLIENT", "KILL", "TYPE", "normal")
        assert calls.members("group") == ["jobs"]


def test_a_loop_that_ends_amid_a_call(paused: tuple[Server, Calls]) -> None:
    """What it has borrowed is closed; others are not disturbed."""
    server, calls = paused
    server.pause()
    loop = asyncio.new_event_loop()
    asking = loop.create_task(calls.layer.group_channels("group"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del asking
    gc.collect()
    server.resume()
    for _ in range(3):
        assert calls.members("other") == ["mail"]


def test_a_flush_leaves_its_connection_at_hand(paused: tuple[Server, Calls]) -> None:
    """Where there is nothing, its last step asks for nothing, which is no reason to let go of the connection."""
    server, calls = paused
    server.host().command("FLUSHDB")
    before = len(calls.given)
    async_to_sync(calls.layer.flush)()
    assert calls.members("group") == []
    assert len(calls.given) == before


# -- how many there are


def test_a_handful_is_lent_at_most(start_server: StartServer) -> None:
    """However many ask at once, a few connections are made, each when the one before was not enough."""
    server = start_server()
    (host,) = parse_hosts([server.url])
    pool = _wire.Pool(host, 5.0)
    lent: list[_wire.Wire] = []
    deadline = time.monotonic() + PATIENCE
    while len(lent) < _wire._LENT_MOST:
        assert time.monotonic() < deadline
        if (wire := pool.lend()) is not None:
            lent.append(wire)
    for _ in range(20):
        assert pool.lend() is None
        time.sleep(0.005)
    assert len(server.host().clients()) == _wire._LENT_MOST
    for wire in lent:
        pool.give(wire)
    assert pool.lend() in lent
    pool.close()
    for wire in lent:
        pool.give(wire)
    assert pool.lend() is None


def test_a_server_that_is_away_is_not_asked_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a connection could not be made for lending, the next attempt is a while later."""
    tried: list[object] = []

    def fail(*_: object) -> socket.socket:
        tried.append(None)
        raise ConnectionRefusedError

    monkeypatch.setattr(_wire, "_connect", fail)
    pool = _wire.Pool(Host(), 5.0)
    for _ in range(20):
        assert pool.lend() is None
        time.sleep(0.005)
    assert len(tried) == 1
    monkeypatch.setattr(_wire, "_PAUSE_SECONDS", 0.0)
    pool._make_after = 0.0
    deadline = time.monotonic() + PATIENCE
    while len(tried) < 3:
        assert pool.lend() is None
        assert time.monotonic() < deadline
