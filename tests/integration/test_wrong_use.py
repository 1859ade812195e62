"""Wrong use ends in one typed error that says what to do.

The sentence is part of the specification, because it is all that a user who gets the error has.
"""

# Forcing a race needs private attributes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import datetime as dt
import re
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from channel_layer import ChannelLayer, ChannelLayerError, ConfigError, InvalidMessage, InvalidName, StoreError
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer, _connecting
from channel_layer_redis._connection import Connection
from channel_layer_redis.addresses import ServerAddress
from tests.support.fake_server import Answer, fake_redis, fake_server, redis_of_version
from tests.support.servers import Server, free_ports
from tests.support.systems import System

_SOON: Final = 10.0
"""Seconds; what is waited for here takes milliseconds."""

_TIMEOUT: Final = 0.5
"""Seconds that the layers here may wait for a server."""

_SLACK: Final = 10.0
"""Seconds by which a busy machine may be late."""


pytestmark = pytest.mark.usefixtures("nothing_else_is_said")


def _make_redis(**options: object) -> ChannelLayer:
    """Make a layer as settings do, where no type checker looks."""
    return _make(RedisChannelLayer, options)


def _make_memory(**options: object) -> ChannelLayer:
    return _make(MemoryChannelLayer, options)


def _make(kind: Callable[..., ChannelLayer], options: dict[str, object]) -> ChannelLayer:
    return kind(**options)


def _unreachable(port: int, **options: object) -> ChannelLayer:
    return _make_redis(**{"hosts": [("127.0.0.1", port)], "timeout": _TIMEOUT, **options})


# -- CONFIG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [_make_redis, _make_memory], ids=["redis", "memory"])
@pytest.mark.parametrize(
    ("options", "field", "advice"),
    [
        ({"capacity": 0}, "capacity", "1"),
        ({"expiry": -1}, "expiry", "greater than 0|over 0|more than 0"),
        ({"capasity": 5}, "capasity", "capacity"),
        ({"channel_capacity": {"http.[": 5}}, "channel_capacity", r"http\.\["),
        ({"channel_capacity": {"re:(": 5}}, "channel_capacity", r"re:\("),
        ({"symmetric_encryption_keys": "secret"}, "symmetric_encryption_keys", r"\[KEY\]"),
    ],
    ids=["capacity", "expiry", "unknown", "glob", "regex", "keys"],
)
def test_a_wrong_option_is_refused_when_the_layer_is_made(
    make: Callable[..., ChannelLayer], options: dict[str, object], field: str, advice: str
) -> None:
    """A wrong or unknown option is a ConfigError that names this one field and what it accepts."""
    with pytest.raises(ConfigError) as caught:
        make(**options)
    (error,) = caught.value.errors
    assert error.field.startswith(field)
    assert re.search(advice, str(error))


@pytest.mark.parametrize("hosts", ["redis://localhost:6379", "localhost"])
def test_a_bare_string_for_hosts_is_refused(hosts: str) -> None:
    """A str for hosts is a ConfigError that shows the list to write, and is not taken for a list of letters."""
    with pytest.raises(ConfigError, match="list") as caught:
        _make_redis(hosts=hosts)
    assert [error.field for error in caught.value.errors] == ["hosts"]


def test_all_wrong_options_are_named_at_once() -> None:
    """One ConfigError names every field that is wrong."""
    with pytest.raises(ConfigError) as caught:
        _make_redis(hosts="localhost", capacity=0, expiry=-1, colour="red")
    assert {error.field for error in caught.value.errors} == {"hosts", "capacity", "expiry", "colour"}


# -- names and messages --------------------------------------------------------------------------------------

_CALLS: Final[dict[str, Callable[[ChannelLayer, str], Awaitable[object]]]] = {
    "send": lambda layer, name: layer.send(name, {}),
    "receive": lambda layer, name: layer.receive(name),
    "new_channel": lambda layer, name: layer.new_channel(name),
    "group_add, group": lambda layer, name: layer.group_add(name, "channel"),
    "group_add, channel": lambda layer, name: layer.group_add("group", name),
    "group_discard, group": lambda layer, name: layer.group_discard(name, "channel"),
    "group_discard, channel": lambda layer, name: layer.group_discard("group", name),
    "group_send": lambda layer, name: layer.group_send(name, {}),
    "group_channels": lambda layer, name: layer.group_channels(name),
    "statistics": lambda layer, name: layer.statistics(name),
}


@pytest.mark.parametrize("name", ["line\n", "two\nlines", "a b", "", "x" * 101])
@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
async def test_a_bad_name_is_refused_by_every_call(
    call: Callable[[ChannelLayer, str], Awaitable[object]], name: str
) -> None:
    """A name with a newline, a space, no character or too many is an InvalidName, and a TypeError, that repeats it."""
    async with MemoryChannelLayer() as layer:
        with pytest.raises(InvalidName) as caught:
            await asyncio.wait_for(call(layer, name), _SOON)
        assert isinstance(caught.value, TypeError)
        assert repr(name)[:20] in str(caught.value)


async def test_an_inbox_alone_is_no_channel_to_receive_from(system: System) -> None:
    """receive("x!") is an InvalidName: what follows the mark is missing."""
    async with system.layer() as layer:
        for name in ("x!", (await layer.new_channel()).partition("!")[0] + "!"):
            with pytest.raises(InvalidName, match="!"):
                await asyncio.wait_for(layer.receive(name), _SOON)


async def test_a_message_with_a_datetime_is_refused_with_its_place(system: System) -> None:
    """A value that cannot travel is an InvalidMessage with the path of the value and its type; nothing is sent."""
    async with system.layer() as layer:
        await layer.group_add("group", "channel")
        message = {"type": "x", "rows": [1, {"at": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}]}
        for refused in (layer.send("channel", message), layer.group_send("group", message)):
            with pytest.raises(InvalidMessage, match=r'message\["rows"\]\[1\]\["at"\].*datetime'):
                await refused
        assert (await layer.statistics("channel")).messages_pending == 0


# -- claimed inboxes -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
async def test_the_inbox_of_a_living_process_cannot_be_received_from(system: System) -> None:
    """receive() of another owner's channel is an InvalidName; the owner gets every message, in order."""
    async with system.layer() as owner, system.layer() as other:
        name = await owner.new_channel()
        waiting = asyncio.create_task(owner.receive(name))
        got: list[object] = []
        for n in range(10):
            await other.send(name, {"n": n})
            with pytest.raises(InvalidName, match="belongs to another process") as caught:
                await asyncio.wait_for(other.receive(name), _SOON)
            assert repr(name.partition("!")[0] + "!") in str(caught.value)
            if n == 4:  # so a reader got the first half, and the second half waits
                got.append((await asyncio.wait_for(waiting, _SOON))["n"])
        async with asyncio.timeout(_SOON):
            while len(got) < 10:
                got.append((await owner.receive(name))["n"])
        assert got == list(range(10))
        assert (await owner.statistics(name)).messages_pending == 0


async def test_an_inbox_that_another_one_reads_is_refused_after_one_lease(redis_system: System) -> None:
    """receive() of an inbox that another layer has claimed waits for one lease at most, then it is an InvalidName."""
    expiry = 0.6
    async with redis_system.layer(expiry=expiry) as reader, redis_system.layer(expiry=expiry) as other:
        reading = asyncio.create_task(reader.receive("daphne!x"))
        await other.send("daphne!y", {})
        async with asyncio.timeout(_SOON):
            assert await reader.receive("daphne!y") == {}  # so it is the reader's now
        began = time.monotonic()
        with pytest.raises(InvalidName, match=r"another process reads it.*an inbox of its own"):
            await asyncio.wait_for(other.receive("daphne!x"), _SOON)
        assert time.monotonic() - began < expiry * 1.5 + _SLACK
        await other.send("daphne!x", {"n": 1})
        assert await asyncio.wait_for(reading, _SOON) == {"n": 1}


# -- servers -------------------------------------------------------------------------------------------------

_NEEDING: Final[dict[str, Callable[[ChannelLayer], Awaitable[object]]]] = {
    "send": lambda layer: layer.send("channel", {}),
    "new_channel": lambda layer: layer.new_channel(),
    "group_add": lambda layer: layer.group_add("group", "channel"),
    "group_discard": lambda layer: layer.group_discard("group", "channel"),
    "group_send": lambda layer: layer.group_send("group", {}),
    "group_channels": lambda layer: layer.group_channels("group"),
    "flush": lambda layer: layer.flush(),
    "statistics": lambda layer: layer.statistics("channel"),
}
"""Every call that needs a server."""


async def _refusal(call: Awaitable[object]) -> StoreError:
    """Return the error of a call, which must come within the layer's timeout."""
    began = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await asyncio.wait_for(call, _SOON)
    assert time.monotonic() - began < _TIMEOUT + _SLACK
    assert caught.value.outcome == "not_sent"
    return caught.value


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("call", _NEEDING.values(), ids=_NEEDING)
async def test_without_a_server_every_call_fails_with_its_address(
    call: Callable[[ChannelLayer], Awaitable[object]],
) -> None:
    """Without a server every call raises a retryable StoreError with the address that asks if a server is running."""
    port, _ = free_ports()
    async with _unreachable(port) as layer:
        error = await _refusal(call(layer))
        assert f"127.0.0.1:{port}" in str(error)
        assert "is a server running there" in str(error)
        assert error.retryable


async def test_a_socket_that_does_not_exist_is_named() -> None:
    """A unix:// path without a server is a StoreError that names the path."""
    async with _make_redis(hosts=["unix:///nowhere/redis.sock"], timeout=_TIMEOUT) as layer:
        assert "/nowhere/redis.sock" in str(await _refusal(layer.send("channel", {})))


async def test_a_host_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the system cannot resolve is a StoreError that names the host."""

    def resolve(*_arguments: object, **_options: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(
        "channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0
    )  # the event loop's resolver thread ends with it

    async with _make_redis(hosts=["redis://nowhere.invalid:6379"], timeout=_TIMEOUT) as layer:
        error = await _refusal(layer.send("channel", {}))
        assert "nowhere.invalid:6379" in str(error)
        assert "not known" in str(error)


async def test_a_database_that_the_server_has_not_is_named(server: Server) -> None:
    """A database number over the server's own limit is a StoreError that says so."""
    async with _make_redis(hosts=[f"redis://127.0.0.1:{server.port}/999"], timeout=_TIMEOUT) as layer:
        error = await _refusal_of_any_outcome(layer.send("channel", {}))
        assert f"127.0.0.1:{server.port}/999" in str(error)
        assert "out of range" in str(error)
        assert not error.retryable


async def _refusal_of_any_outcome(call: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await asyncio.wait_for(call, _SOON)
    return caught.value


def _redis_5(command: list[bytes]) -> bytes:
    """Answer as Redis 5 does, which has no HELLO."""
    if command[0].upper() == b"INFO":
        return b"$19\r\nredis_version:5.0.7\r\n"
    return b"-ERR unknown command `%b`, with args beginning with: `2`, \r\n" % command[0]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    ("answer", "version"),
    [
        (_redis_5, ""),
        (redis_of_version("redis_version:6.0.16\r\nredis_mode:standalone\r\n"), "Redis 6.0.16"),
        (redis_of_version("redis_version:7.2.4\r\nvalkey_version:7.1.9\r\n"), "Valkey 7.1.9"),
    ],
    ids=["redis-5", "redis-6.0", "valkey-7.1"],
)
async def test_a_server_that_is_too_old_is_reported(answer: Answer, version: str) -> None:
    """With an old server, senders and receivers get one sentence that says that it is too old, and what is needed."""
    async with fake_redis(answer) as port, _unreachable(port) as layer:
        for call in (layer.send("channel", {}), layer.receive("channel"), layer.new_channel()):
            error = await _refusal(call)
            assert f"127.0.0.1:{port}" in str(error)
            assert version in str(error)
            assert "too old" in str(error)
            assert "Redis 6.2 or newer, or Valkey 7.2 or newer" in str(error)
            assert not error.retryable


_HTTP: Final = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    ("greeting", "reply", "hang_up"),
    [
        (b"", _HTTP, True),
        (b"", b"<!DOCTYPE HTML>\n<html lang='en'>", False),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", b"Invalid SSH identification string.\r\n", True),
        (b"220 mail.example ESMTP\r\n", b"500 5.5.1 Invalid command\r\n", False),
    ],
    ids=["http", "html", "ssh", "smtp"],
)
async def test_a_server_that_is_no_redis_is_reported(greeting: bytes, reply: bytes, hang_up: bool) -> None:  # noqa: FBT001
    """Senders and receivers get a StoreError that says that the server at the address is not Redis."""
    async with fake_server(greeting=greeting, reply=reply, hang_up=hang_up) as port, _unreachable(port) as layer:
        for call in (layer.send("channel", {}), layer.receive("channel")):
            error = await _refusal_of_any_outcome(call)
            assert f"127.0.0.1:{port}" in str(error)
            assert "does not speak Redis's protocol" in str(error)
            assert not error.retryable


async def test_a_greeting_that_comes_before_ours_is_understood_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that writes first and closes the connection, before the first command, is reported as no Redis too."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
    open_connection = _connecting._open

    async def open_slowly(address: ServerAddress, connection: Connection) -> None:
        await open_connection(address, connection)
        await connection.closed

    monkeypatch.setattr(_connecting, "_open", open_slowly)

    async with fake_server(greeting=b"SSH-2.0-OpenSSH_9.2p1\r\n") as port, _unreachable(port) as layer:
        error = await _refusal(layer.send("channel", {}))
        assert "does not speak Redis's protocol" in str(error)
        assert not error.retryable


@pytest.mark.usefixtures("loops")
async def test_a_server_that_says_nothing_is_given_up_within_the_timeout() -> None:
    """With a server that accepts and never answers, a call raises StoreError with its address within the timeout."""
    async with fake_server() as port, _unreachable(port) as layer:
        error = await _refusal(layer.send("channel", {}))
        assert f"cannot connect to redis://127.0.0.1:{port}/0 within 0.5 s" in str(error)


@pytest.mark.usefixtures("loops")
async def test_a_server_that_hangs_up_is_named() -> None:
    """If the server closes every connection, as a proxy without backend does, a StoreError names its address."""
    async with fake_server(hang_up=True) as port, _unreachable(port) as layer:
        error = await _refusal_of_any_outcome(layer.send("channel", {}))
        assert f"127.0.0.1:{port}" in str(error)
        assert error.retryable


# -- after the end -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
async def test_a_closed_layer_says_so(system: System) -> None:
    """After aclose() every call, and every receive() that waited, raises a StoreError that says so."""
    layer = system.layer()
    name = await layer.new_channel()
    waiting = [asyncio.create_task(layer.receive(channel)) for channel in (name, "normal", "claimed!x", "one?")]
    await asyncio.sleep(0)
    await layer.aclose()
    calls = dict(_NEEDING)
    calls["receive"] = lambda layer: layer.receive("channel")
    calls["receive, own"] = lambda layer: layer.receive(name)
    late = [asyncio.ensure_future(call(layer)) for call in calls.values()]
    async with asyncio.timeout(_SOON):
        outcomes: list[object] = await asyncio.gather(*waiting, *late, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, StoreError)
        assert "closed" in str(outcome)
        assert not outcome.retryable
    await layer.aclose()
    await layer.close_pools()


def test_every_error_is_of_one_tree() -> None:
    """`except ChannelLayerError` catches each kind of error in this module."""
    for kind in (ConfigError, InvalidMessage, InvalidName, StoreError):
        assert issubclass(kind, ChannelLayerError)
