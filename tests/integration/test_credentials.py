"""Credentials that change: providers of every kind, connections that log in anew, and providers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from channel_layer import PatchedThreadsError, StoreError
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis._logins import Login
from channel_layer_redis.hosts import parse_hosts
from tests.integration.test_server_restart import until
from tests.support.sentinels import Service

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from channel_layer_redis.options import SentinelDict
    from tests.support.servers import Server, StartServer

_PATIENCE: Final = 20.0
"""Seconds; what is waited for takes a fraction of one."""

_OFTEN: Final = 0.02
"""Seconds after which a provider is asked again."""

_SECRET: Final = "Zq7Xw9Jv"

pytestmark = pytest.mark.usefixtures("nothing_else_is_said", "settled")

blocking = pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])


class Account:
    """The user and the password that are valid now, and the threads that asked for them."""

    def __init__(self, username: str = "alice") -> None:
        self.username = username
        self.password = f"{_SECRET}-{username}"
        self.asked = list[threading.Thread]()
        self.error: Exception | None = None

    def answer(self) -> tuple[str, str]:
        """Return both, or raise the error."""
        self.asked.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return self.username, self.password

    def change(self, username: str) -> None:
        """Become another user."""
        self.username, self.password = username, f"{_SECRET}-{username}"


class Plain(Account):
    """A provider that may block."""

    def get_credentials(self) -> tuple[str, str]:
        """Return both."""
        return self.answer()


class Awaited(Account):
    """A provider that only an event loop can ask."""

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return both."""
        await asyncio.sleep(0)
        return self.answer()


class Both(Plain, Awaited):
    """A provider that anyone can ask."""


class OfRedisPy(Account, CredentialProvider):
    """A provider of which redis-py's base class makes one with both methods."""

    def get_credentials(self) -> tuple[str, str]:
        """Return both."""
        return self.answer()


class OnlyAwaitedOfRedisPy(Account, CredentialProvider):
    """A provider of which the inherited method raises NotImplementedError."""

    async def get_credentials_async(self) -> tuple[str, str]:
        """Return both."""
        return self.answer()


class Coroutine(Account):
    """A provider whose method is a coroutine function against the protocol, as coredis has it."""

    async def get_credentials(self) -> tuple[str, str]:
        """Return both."""
        return self.answer()


@pytest.fixture
def accounts(start_server: StartServer) -> Server:
    """A server with the users alice and bob, and no other login."""
    server = start_server(password="of-the-tests")
    for name in ("alice", "bob"):
        _add_user(server, name)
    return server


def _add_user(server: Server, name: str) -> None:
    server.host().command("ACL", "SETUSER", name, "reset", "on", f">{_SECRET}-{name}", "~*", "+@all")


def _layer(
    server: Server,
    provider: object,
    *,
    timeout: float = 5,
    make: Callable[..., RedisChannelLayer] = RedisChannelLayer,
    **options: object,
) -> RedisChannelLayer:
    host = {"host": "127.0.0.1", "port": server.port, "credential_provider": provider, **options}
    return make(hosts=[host], timeout=timeout)


@contextlib.asynccontextmanager
async def _closing(layer: RedisChannelLayer) -> AsyncGenerator[RedisChannelLayer]:
    async with layer:
        yield layer
        await asyncio.to_thread(layer.blocking.close)


async def _round_trip(layer: RedisChannelLayer, *, blocks: bool) -> None:
    """Send to a normal channel and receive from it, waiting."""
    if blocks:
        receiving = asyncio.create_task(asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True))
        await asyncio.to_thread(layer.blocking.send, "jobs", {"n": 1})
        assert await asyncio.wait_for(receiving, _PATIENCE) == ("jobs", {"n": 1})
    else:
        waiting = asyncio.create_task(layer.receive("jobs"))
        await layer.send("jobs", {"n": 1})
        assert await asyncio.wait_for(waiting, _PATIENCE) == {"n": 1}


async def _use(layer: RedisChannelLayer, *, blocks: bool) -> None:
    """Send to a normal channel and receive from it, on the connections that there are."""
    if blocks:
        await asyncio.to_thread(layer.blocking.send, "jobs", {"n": 1})
        assert await asyncio.to_thread(layer.blocking.receive, ["jobs"]) == ("jobs", {"n": 1})
    else:
        await layer.send("jobs", {"n": 1})
        assert await layer.receive("jobs") == {"n": 1}


def _users(server: Server) -> dict[str, str]:
    """Return the user of each connection, by its number."""
    return {each["id"]: each["user"] for each in server.host().clients()}


# -- who is asked --------------------------------------------------------------------------------------------


@blocking
@pytest.mark.parametrize("kind", [Plain, Awaited, Both, OfRedisPy, OnlyAwaitedOfRedisPy, Coroutine])
async def test_every_kind_of_provider_logs_in(accounts: Server, kind: type[Account], *, blocks: bool) -> None:
    """A provider with either method is asked once for each connection, from event loops and from threads."""
    provider = kind()
    async with _closing(_layer(accounts, provider)) as layer:
        await _round_trip(layer, blocks=blocks)
        users = _users(accounts)
    assert set(users.values()) == {"alice"}
    assert len(provider.asked) >= len(users)
    in_loop = [thread is threading.current_thread() for thread in provider.asked]
    assert all(in_loop) if kind in {Awaited, Both, OnlyAwaitedOfRedisPy} and not blocks else not any(in_loop)


async def test_a_password_alone_is_that_of_the_default_user(start_server: StartServer) -> None:
    """redis-py's own provider without a user gives a tuple of one, which logs the default user in."""
    server = start_server(password=_SECRET)
    for blocks in (False, True):
        async with _closing(_layer(server, UsernamePasswordCredentialProvider(password=_SECRET))) as layer:
            await _round_trip(layer, blocks=blocks)
            assert set(_users(server).values()) == {"default"}


async def test_a_provider_that_blocks_does_not_stop_the_event_loop(accounts: Server) -> None:
    """While ``get_credentials()`` waits, the loop runs: here the loop itself ends that wait."""
    released = threading.Event()

    class Slow(Plain):
        def get_credentials(self) -> tuple[str, str]:
            assert released.wait(_PATIENCE)
            return self.answer()

    async with _layer(accounts, Slow()) as layer:
        sending = asyncio.create_task(layer.send("jobs", {}))
        await asyncio.sleep(0)
        released.set()
        await sending


async def test_sentinels_and_the_primary_have_providers_of_their_own() -> None:
    """A service's providers log in to its primary, and those in ``sentinel_kwargs`` to its sentinels."""
    with contextlib.ExitStack() as stack:
        service = Service(stack, replicas=0, sentinels=1, password=_SECRET, sentinel_password="of-sentinels")
        host: SentinelDict = {
            "sentinels": service.entry["sentinels"],
            "master_name": service.name,
            "credential_provider": UsernamePasswordCredentialProvider(password=_SECRET),
            "sentinel_kwargs": {
                "credential_provider": UsernamePasswordCredentialProvider(password="of-sentinels"),
                "client_name": "site",
            },
        }
        async with _closing(RedisChannelLayer(hosts=[host])) as layer:
            for blocks in (False, True):
                await _use(layer, blocks=blocks)
            names = [each["name"] for each in service.sentinels[0].host().clients()]
        assert names.count("site") == 2  # one to ask, one to listen


# -- logging in anew -----------------------------------------------------------------------------------------


async def test_connections_log_in_anew_when_the_credentials_change(
    accounts: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The connection for commands does at once, one that waits after its wait; none is replaced, nothing is lost."""
    caplog.set_level(logging.DEBUG, "channel_layer")
    provider = Awaited()
    async with _layer(accounts, provider, credential_refresh_interval=_OFTEN) as layer:
        name = await layer.new_channel()
        waiting = asyncio.create_task(layer.receive(name))
        await layer.send(name, {"n": 0})
        assert await waiting == {"n": 0}
        waiting = asyncio.create_task(layer.receive(name))

        async def reads() -> bool:
            clients = await asyncio.to_thread(accounts.host().clients)
            return len(clients) == 2 and any(each["cmd"].startswith("xread") for each in clients)

        await until(reads, _PATIENCE)
        before = _users(accounts)
        assert set(before.values()) == {"alice"}
        provider.change("bob")
        await until(_is(accounts, {"alice", "bob"}), _PATIENCE)  # the reader waits on
        asked = len(provider.asked)
        await until(_asked(provider, asked + 4), _PATIENCE)  # so the reader has asked, too
        await layer.send(name, {"n": 1})
        assert await waiting == {"n": 1}
        await until(_is(accounts, {"bob"}), _PATIENCE)
        assert _users(accounts).keys() == before.keys()
        accounts.host().command("ACL", "DELUSER", "alice")
        await layer.send(name, {"n": 2})
        assert await layer.receive(name) == {"n": 2}
        assert _users(accounts).keys() == before.keys()
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    told = f"logged in to redis://127.0.0.1:{accounts.port}/0 anew: the credential_provider has new credentials"
    assert [line for line in lines if "anew" in line[1]] == [("DEBUG", told)] * 2
    assert _SECRET not in caplog.text


def _is(server: Server, wanted: set[str]) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return set((await asyncio.to_thread(_users, server)).values()) == wanted

    return found


def _asked(provider: Account, times: int) -> Callable[[], Awaitable[bool]]:
    async def found() -> bool:
        return len(provider.asked) >= times

    return found


async def test_threads_log_in_anew_when_the_credentials_change(accounts: Server) -> None:
    """A connection for threads asks before it is used, and logs in anew without being replaced."""
    provider = Plain()
    async with _closing(_layer(accounts, provider, credential_refresh_interval=_OFTEN)) as layer:
        await _use(layer, blocks=True)
        before = _users(accounts)
        provider.change("bob")
        await _changed(layer, accounts)
        assert _users(accounts).keys() == before.keys()
        accounts.host().command("ACL", "DELUSER", "alice")
        await _use(layer, blocks=True)
        assert _users(accounts).keys() == before.keys()


async def _changed(layer: RedisChannelLayer, server: Server) -> None:
    """Use the connections of threads until all are bob's."""
    end = time.monotonic() + _PATIENCE
    while set(_users(server).values()) != {"bob"}:
        assert time.monotonic() < end
        await _use(layer, blocks=True)


@blocking
async def test_equal_credentials_are_not_sent_again(accounts: Server, *, blocks: bool) -> None:
    """While the answer of a provider stays the same, the server is not bothered."""
    provider = Both()
    async with _closing(_layer(accounts, provider, credential_refresh_interval=_OFTEN)) as layer:
        while len(provider.asked) < 10:
            await _use(layer, blocks=blocks)
    stats = accounts.host().info("commandstats")
    assert "cmdstat_hello" in stats
    auths = stats.get("cmdstat_auth", {"calls": 0})
    assert isinstance(auths, dict)
    assert auths["calls"] <= 4  # those of the test's own clients


async def test_with_no_interval_a_provider_is_asked_only_at_a_connect(accounts: Server) -> None:
    """With ``credential_refresh_interval=0`` a connection keeps its login, and a new one gets the new."""
    provider = Both()
    async with _closing(_layer(accounts, provider, credential_refresh_interval=0)) as layer:
        await _round_trip(layer, blocks=False)
        asked = len(provider.asked)
        provider.change("bob")
        for _ in range(5):
            await layer.send("other", {})
            await layer.receive("other")
        assert len(provider.asked) == asked
        accounts.host().command("CLIENT", "KILL", "USER", "alice")
        await until(_works(layer), _PATIENCE)
        assert set(_users(accounts).values()) == {"bob"}


def _works(layer: RedisChannelLayer) -> Callable[[], Awaitable[bool]]:
    async def sends() -> bool:
        with contextlib.suppress(StoreError):
            await layer.send("other", {})
            return True
        return False

    return sends


# -- providers that fail -------------------------------------------------------------------------------------


@blocking
async def test_a_provider_that_fails_later_leaves_the_connection_as_it_is(
    accounts: Server, caplog: pytest.LogCaptureFixture, *, blocks: bool
) -> None:
    """Its failure is one warning for all connections, without its text; when it works again, so does the change."""
    caplog.set_level(logging.INFO, "channel_layer")
    provider = Both()
    async with _closing(_layer(accounts, provider, credential_refresh_interval=_OFTEN)) as layer:
        await _use(layer, blocks=blocks)
        before = _users(accounts)
        provider.error = ValueError(_SECRET)
        asked = len(provider.asked)
        while len(provider.asked) < asked + 20:
            await _use(layer, blocks=blocks)
        assert _users(accounts).keys() == before.keys()
        provider.change("bob")
        provider.error = None
        end = time.monotonic() + _PATIENCE
        while set(_users(accounts).values()) != {"bob"}:
            assert time.monotonic() < end
            await _use(layer, blocks=blocks)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    warnings = [line for line in warnings if line.startswith("cannot log in")]
    told = (
        f"cannot log in to redis://127.0.0.1:{accounts.port}/0: the credential_provider Both failed with ValueError; "
        "its connections stay as they are, and the provider is asked again: correct it before their login ends"
    )
    assert warnings == [told]
    assert sum("anew" in record.getMessage() for record in caplog.records) == 1, "the failure is over"
    assert _SECRET not in caplog.text


@blocking
async def test_a_new_login_that_is_refused_leaves_the_connection_as_it_is(
    accounts: Server, caplog: pytest.LogCaptureFixture, *, blocks: bool
) -> None:
    """The server's refusal is a warning, and the connection goes on as before."""
    provider = Both()
    async with _closing(_layer(accounts, provider, credential_refresh_interval=_OFTEN)) as layer:
        await _use(layer, blocks=blocks)
        before = _users(accounts)
        provider.change("mallory")
        asked = len(provider.asked)
        while len(provider.asked) < asked + 20:
            await _use(layer, blocks=blocks)
        assert _users(accounts) == before
    warnings = [record.getMessage() for record in caplog.records if record.name == "channel_layer"]
    assert len(warnings) == 1
    assert "WRONGPASS" in warnings[0]
    assert "its connections stay as they are" in warnings[0]
    assert _SECRET not in caplog.text


async def _refused(layer: RedisChannelLayer, *, blocks: bool) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await (asyncio.to_thread(layer.blocking.send, "jobs", {}) if blocks else layer.send("jobs", {}))
    assert caught.value.outcome == "not_sent"
    return caught.value


@blocking
async def test_a_provider_that_fails_at_a_connect_is_named(accounts: Server, *, blocks: bool) -> None:
    """It is a `StoreError` that may be tried again, which tells the provider's class and not its text."""
    provider = Both()
    async with _closing(_layer(accounts, provider)) as layer:
        provider.error = ValueError(_SECRET)
        error = await _refused(layer, blocks=blocks)
        assert str(error) == (
            f"cannot log in to redis://127.0.0.1:{accounts.port}/0: the credential_provider Both failed with ValueError"
        )
        assert error.retryable
        provider.error = None
        await _round_trip(layer, blocks=blocks)


@blocking
@pytest.mark.parametrize("answer", [None, _SECRET, (), (None, None), (5, _SECRET), ("a", "b", _SECRET), {"a": _SECRET}])
async def test_an_answer_that_is_no_login_is_named_and_not_shown(
    accounts: Server, answer: object, *, blocks: bool
) -> None:
    """Whatever else a provider returns is an error that says what to return."""

    class Wrong:
        def get_credentials(self) -> object:
            return answer

    async with _closing(_layer(accounts, Wrong())) as layer:
        error = await _refused(layer, blocks=blocks)
        assert "Wrong returned something else than (username, password) or (password,), each a str" in str(error)
        assert _SECRET not in repr(error)
        assert not error.retryable


async def test_a_provider_without_a_loop_is_told_what_it_lacks(
    accounts: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where threads are greenlets, a provider that only an event loop can ask is an error that says what to add."""

    def refuse() -> None:
        raise PatchedThreadsError("gevent")

    monkeypatch.setattr("channel_layer_redis._logins.refuse_patched_threads", refuse)
    async with _closing(_layer(accounts, Awaited())) as layer:
        error = await _refused(layer, blocks=True)
        assert "the credential_provider Awaited needs an event loop of its own, and gevent has replaced" in str(error)
        assert "give it the method get_credentials(), too" in str(error)
        assert not error.retryable
    async with _closing(_layer(accounts, Plain())) as layer:
        await _use(layer, blocks=True)


@blocking
@pytest.mark.parametrize("awaits", [False, True])
async def test_a_provider_without_an_answer_ends_at_the_timeout(
    accounts: Server, *, awaits: bool, blocks: bool
) -> None:
    """A provider that hangs is a `StoreError` that names it, when the layer's timeout has passed."""
    released = threading.Event()

    class Stuck(Plain):
        def get_credentials(self) -> tuple[str, str]:
            released.wait(_PATIENCE)
            return self.answer()

    class Awaiting(Awaited):
        async def get_credentials_async(self) -> tuple[str, str]:
            await asyncio.to_thread(released.wait, _PATIENCE)
            return self.answer()

    provider = Awaiting() if awaits else Stuck()
    try:
        async with _closing(_layer(accounts, provider, timeout=0.2)) as layer:
            error = await _refused(layer, blocks=blocks)
        assert f"the credential_provider {type(provider).__name__} did not answer in time" in str(error)
        assert error.retryable
    finally:
        released.set()
        for thread in threading.enumerate():
            if thread.name == "channel-layer-credentials":
                await asyncio.to_thread(thread.join, _PATIENCE)


async def test_a_login_that_ended_on_the_way_does_not_end_a_receive(accounts: Server) -> None:
    """A login of a provider that the server refuses is asked for again: receive() waits on, and send may be retried."""
    provider = Both("mallory")
    async with _layer(accounts, provider) as layer:
        receiving = asyncio.create_task(layer.receive("jobs"))
        error = await _refused(layer, blocks=False)
        assert "refused the login: check what the credential_provider Both returns" in str(error)
        assert error.retryable
        await until(_asked(provider, 3), _PATIENCE)
        assert not receiving.done()
        provider.change("alice")
        await until(_works_on(layer), _PATIENCE)
        assert await asyncio.wait_for(receiving, _PATIENCE) == {"n": 1}


def _works_on(layer: RedisChannelLayer) -> Callable[[], Awaitable[bool]]:
    async def sends() -> bool:
        with contextlib.suppress(StoreError):
            await layer.send("jobs", {"n": 1})
            return True
        return False

    return sends


def test_no_password_is_in_a_repr() -> None:
    """Neither an address nor a login shows what it logs in with."""
    provider = UsernamePasswordCredentialProvider("u", _SECRET)
    (address,) = parse_hosts([{"host": "a", "credential_provider": provider}])
    assert _SECRET not in f"{address!r} {Login('u', _SECRET)!r}"
