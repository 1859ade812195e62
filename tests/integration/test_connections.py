"""What an event loop has of a store, and what is left when it ends: every connection goes, half made ones included."""

# How long a connection takes to be made is seen from inside only.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from channel_layer import StoreError
from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.domain.names import ChannelName
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_redis import RedisChannelLayer, _connecting, _connection
from channel_layer_redis._client import ServerClient
from channel_layer_redis._greeting import Role
from channel_layer_redis._logins import Login
from channel_layer_redis._store import RedisBackend, RedisStore
from channel_layer_redis.addresses import ServerAddress
from channel_layer_redis.config import RedisConfig
from tests.support.leaks import Resources
from tests.support.scenarios_groups import eventually, is_true
from tests.support.servers import Server

_TICKS = 60
"""Turns of the event loop; a connection with TLS is made within a third of them."""

_BLOCK = 30.0
"""Seconds that a wait may take."""


async def _command(store: RedisStore) -> object:
    return await store.run_id(0)


async def _wait(store: RedisStore) -> object:
    await store.wait(c.Wait(0, ChannelName.parse("queue").queue, _BLOCK))
    return None


pytestmark = pytest.mark.usefixtures("nothing_else_is_said")
calls = pytest.mark.parametrize("call", [_command, _wait], ids=["a command", "a wait"])


def _open(server: Server, prefix: str, *, tls: bool = False) -> RedisStore:
    host: object = server.url
    if tls:
        assert server.tls is not None
        host = {"address": server.tls.url, "ssl_ca_certs": str(server.tls.ca_file)}
    config = parse(RedisConfig, {"hosts": [host], "prefix": prefix})
    return RedisBackend(config.servers, config.rules(), SystemClock()).open()


@calls
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_no_socket_outlives_the_end_whenever_it_comes(
    tls_server: Server, prefix: str, call: Callable[[RedisStore], Awaitable[object]], *, tls: bool
) -> None:
    """At whatever moment of its making a connection is: once `aclose` is done its socket is closed."""
    answered = 0
    for ticks in range(_TICKS):
        store = _open(tls_server, prefix, tls=tls)
        before = Resources.now()
        calling = asyncio.ensure_future(call(store))
        for _ in range(ticks):
            await asyncio.sleep(0)
        await store.aclose()
        assert Resources.now().sockets == before.sockets, ticks
        outcome, *_ = await asyncio.gather(calling, return_exceptions=True)
        assert isinstance(outcome, str | StoreError), (ticks, outcome)
        answered += isinstance(outcome, str) or outcome.outcome != "not_sent"
    assert answered  # the last of them had a connection


@calls
async def test_whoever_needs_a_connection_after_the_end_is_told(
    server: Server, prefix: str, call: Callable[[RedisStore], Awaitable[object]]
) -> None:
    """A store that is closed makes no connection any more."""
    store = _open(server, prefix)
    await store.aclose()
    before = Resources.now()
    with pytest.raises(StoreError, match="has let go of its connections") as caught:
        await call(store)
    assert caught.value.outcome == "not_sent"
    assert Resources.now().sockets == before.sockets


async def test_a_connection_whose_waiter_was_cancelled_serves_the_next(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver that is cancelled while its connection is made leaves that to the next, not to nobody."""
    made: list[_connection.Connection] = []
    greet = _connecting._greet

    store = _open(server, prefix)
    begun, gate = asyncio.Event(), asyncio.Event()

    async def greet_later(
        address: ServerAddress, connection: _connection.Connection, login: Login | None, role: Role
    ) -> None:
        made.append(connection)
        begun.set()
        await gate.wait()
        await greet(address, connection, login, role)

    monkeypatch.setattr(_connecting, "_greet", greet_later)
    cancelled = asyncio.ensure_future(_wait(store))
    await begun.wait()
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert cancelled.cancelled()
    gate.set()
    client = store._clients[0]
    assert isinstance(client, ServerClient)
    await eventually(lambda: is_true(client._spare == made))
    waiting = asyncio.ensure_future(_wait(store))
    await eventually(lambda: is_true(not made[0].usable))
    assert len(made) == 1
    await store.aclose()
    with pytest.raises(StoreError):
        await waiting


def _works_in(layer: RedisChannelLayer, loop: asyncio.AbstractEventLoop) -> bool:
    work = layer._background.work
    return work is not None and work.session.loop is loop


async def test_a_loop_has_one_store_when_the_background_work_moves_into_it(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that has sent on connections of its own receives on them too; a second store would be lost to its end."""
    opened: list[asyncio.AbstractEventLoop] = []
    open_store = RedisBackend.open

    def note(backend: RedisBackend) -> RedisStore:
        opened.append(asyncio.get_running_loop())
        return open_store(backend)

    monkeypatch.setattr(RedisBackend, "open", note)
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0)

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
        await layer.send(name, {"n": 1})
        assert await layer.receive(name) == {"n": 1}
        waiting = asyncio.create_task(layer.receive(name))  # who finds a message at once leaves things as they are
        await eventually(lambda: is_true(_works_in(layer, asyncio.get_running_loop())))
        await layer.send(name, {"n": 2})
        assert await waiting == {"n": 2}
        assert opened.count(asyncio.get_running_loop()) == 1


# -- what is read, and what is asked for next


@pytest.mark.usefixtures("settled")
async def test_receivers_go_before_the_next_read_of_an_inbox_is_sent(
    server: Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next read, which also trims the inbox, is written once the receivers of the last one have run."""
    events: list[str] = []
    write = _connection.Connection._write

    def note(connection: _connection.Connection) -> None:
        if any(isinstance(command, bytes) and b"XREAD" in command for command in connection._out):
            events.append("read")
        write(connection)

    monkeypatch.setattr(_connection.Connection, "_write", note)

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()

        async def receive(number: int) -> None:
            assert await layer.receive(name) == {"n": number}
            events.append("received")

        for number in range(3):
            receiving = asyncio.create_task(receive(number))
            await asyncio.sleep(0)  # else it finds the message and need not wait
            await layer.send(name, {"n": number})
            await receiving
        await eventually(lambda: is_true(events[-1] == "read"))
        assert events == ["received", "read"] * 3
