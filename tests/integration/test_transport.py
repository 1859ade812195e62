"""How the Redis layer reaches its servers: TLS, Unix sockets, logins, databases, and faults of the connection.

The tests use real servers, since a fake would not show a handshake or a login that fails.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

from channel_layer import ChannelLayer, MessageTooLarge, StoreError
from channel_layer_redis import HostOption, RedisChannelLayer
from channel_layer_redis._scripts import load
from tests.support.servers import Server, StartServer
from tests.support.tls import issue

_SOON: Final = 20.0
"""Seconds; what is waited for here takes milliseconds, or a second when a backoff has grown."""

_TIMEOUT: Final = 0.5
"""Seconds that a layer may wait for a suspended server."""

_SLACK: Final = 10.0
"""Seconds by which a busy machine may be late."""


pytestmark = pytest.mark.usefixtures("nothing_else_is_said")


async def _walk_every_path(host: HostOption, prefix: str, *, between: Callable[[], object] = lambda: None) -> None:
    """Send and receive, waiting and not, on every kind of channel, directly and by group.

    Args:
        host: the server.
        prefix: of all keys.
        between: called before every step.
    """
    async with (
        asyncio.timeout(_SOON),
        RedisChannelLayer(hosts=[host], prefix=prefix) as one,
        RedisChannelLayer(hosts=[host], prefix=prefix) as two,
    ):
        between()
        members = [await one.new_channel(), "normal", "single?reader", "claimed!local"]
        for member in members:
            between()
            await two.send(member, {"direct": member})
            between()
            assert await one.receive(member) == {"direct": member}
            between()
            await one.group_add("group", member)
        waiting = [asyncio.create_task(one.receive(member)) for member in members]
        between()
        assert await two.group_channels("group") == sorted(members)
        between()
        await two.group_send("group", {"n": 1})
        assert await asyncio.gather(*waiting) == [{"n": 1}] * len(members)
        between()
        await two.group_discard("group", members[0])
        assert members[0] not in await two.group_channels("group")
        between()
        await two.flush()


async def _refusal(
    host: HostOption,
    *,
    call: Callable[[ChannelLayer], Awaitable[object]] | None = None,
    timeout: float = 5,  # noqa: ASYNC109 - the layer's option
) -> StoreError:
    """Return the error with which a layer for this server fails."""
    async with RedisChannelLayer(hosts=[host], timeout=timeout) as layer:
        with pytest.raises(StoreError) as caught:
            await asyncio.wait_for(call(layer) if call is not None else layer.send("channel", {}), _SOON)
        return caught.value


# -- servers -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
async def test_every_kind_of_server_serves(every_server: Server, prefix: str) -> None:
    """From the oldest Redis to the newest Valkey every path works, with receivers that wait and group sends."""
    await _walk_every_path(every_server.url, prefix)


async def test_a_server_that_forgets_its_scripts_is_taught_again(server: Server, prefix: str) -> None:
    """With SCRIPT FLUSH before every step every call works."""
    forgotten = 0

    def forget() -> None:
        nonlocal forgotten
        forgotten += 1
        server.host().command("SCRIPT", "FLUSH")

    await _walk_every_path(server.url, prefix, between=forget)
    assert forgotten > 10


async def test_a_new_server_has_the_scripts_before_anything_is_sent(start_server: StartServer) -> None:
    """No command is sent again after others because its script was unknown: concurrent calls would lose their order."""
    server = start_server()
    async with RedisChannelLayer(hosts=[server.url]) as layer:
        await layer.group_channels("group")
    names = ("push_queue", "push_inbox", "publish", "deliver", "join", "leave")
    known = server.host().command("SCRIPT", "EXISTS", *(load(name).sha for name in names))
    assert known == [1] * len(names)


@pytest.mark.usefixtures("loops")
def test_uvloop_carries_the_layer(server: Server, tls_server: Server, prefix: str) -> None:
    """Every path works in uvloop's loops, in plain text and with TLS."""
    uvloop = pytest.importorskip("uvloop")
    assert tls_server.tls is not None
    hosts: list[HostOption] = [server.url, {"address": tls_server.tls.url, "ssl_ca_certs": str(tls_server.tls.ca_file)}]
    for host in hosts:
        uvloop.run(_walk_every_path(host, prefix))


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("runner", ["asyncio", "uvloop"])
def test_every_path_works_if_every_connection_is_checked(
    server: Server, tls_server: Server, prefix: str, runner: str
) -> None:
    """With a check before every command nothing stalls, over TCP, a Unix socket and TLS."""
    loops = pytest.importorskip(runner)
    assert tls_server.tls is not None
    hosts: list[HostOption] = [
        {"address": server.url, "health_check_interval": 0.000001},
        {"address": server.unix_url, "health_check_interval": 0.000001},
        {"address": tls_server.tls.url, "ssl_ca_certs": str(tls_server.tls.ca_file), "health_check_interval": 0.000001},
    ]
    for host in hosts:
        loops.run(_walk_every_path(host, prefix))


async def test_large_messages_pass(every_server: Server, prefix: str) -> None:
    """Messages of 1 MB and of 3 MB arrive whole on every kind of channel and by group, several at once."""
    hosts = [every_server.url]
    async with (
        asyncio.timeout(_SOON),
        RedisChannelLayer(hosts=hosts, prefix=prefix) as one,
        RedisChannelLayer(hosts=hosts, prefix=prefix) as two,
    ):
        contents = [random.randbytes(size) for size in (1_000_000, 3_000_000, 1_000_000)]
        for channel in (await one.new_channel(), "normal", "single?reader", "claimed!local"):
            await asyncio.gather(*(two.send(channel, {"content": content}) for content in contents))
            got = [(await one.receive(channel))["content"] for _ in contents]
            assert all(content in got for content in contents)  # in the order in which they arrived
            await two.group_add("group", channel)
        await two.group_send("group", {"content": contents[0]})
        for channel in await one.group_channels("group"):
            assert (await one.receive(channel))["content"] == contents[0]
        with pytest.raises(MessageTooLarge):
            await two.send("normal", {"content": b"x" * (4 * 1024 * 1024)})


async def test_databases_are_apart(server: Server, prefix: str) -> None:
    """Two databases of one server share no queue and no group, whatever form their numbers are given in."""
    address: HostOption = {"host": "127.0.0.1", "port": server.port, "db": 1}
    async with (
        asyncio.timeout(_SOON),
        RedisChannelLayer(host="127.0.0.1", port=server.port, db=1, prefix=prefix) as one,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{server.port}/2"], prefix=prefix) as two,
        RedisChannelLayer(hosts=[address], prefix=prefix) as one_again,
    ):
        await one.send("channel", {"db": 1})
        await two.send("channel", {"db": 2})
        await one.group_add("group", "channel")
        assert await two.group_channels("group") == []
        assert await one_again.group_channels("group") == ["channel"]
        assert await two.receive("channel") == {"db": 2}
        assert (await two.statistics("channel")).messages_pending == 0
        assert await one_again.receive("channel") == {"db": 1}
    assert server.keys(prefix) == []  # nothing went to the default database
    assert all(key.startswith(prefix) for key in server.host(1).keys(prefix))


# -- sockets and TLS -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("password", [None, "sesame"])
async def test_unix_sockets_work(start_server: StartServer, prefix: str, password: str | None) -> None:
    """A unix:// URL works, with and without a password, and selects its database."""
    server = start_server(password=password)
    await _walk_every_path(f"{server.unix_url}?db=3", prefix)
    assert not server.keys(prefix)


@pytest.mark.usefixtures("loops")
async def test_tls_works_with_the_authority(tls_server: Server, prefix: str) -> None:
    """A rediss:// URL works with the server's authority, given in a dict or in the URL."""
    assert tls_server.tls is not None
    ca = str(tls_server.tls.ca_file)
    await _walk_every_path({"address": tls_server.tls.url, "ssl_ca_certs": ca}, f"{prefix}1:")
    await _walk_every_path(f"{tls_server.tls.url}?ssl_ca_certs={ca}", f"{prefix}2:")
    await _walk_every_path(f"{tls_server.tls.url}?ssl_cert_reqs=none", f"{prefix}3:")


async def test_large_messages_pass_through_tls(tls_server: Server, prefix: str) -> None:
    """Messages of 3 MB pass through TLS whole, in both directions."""
    assert tls_server.tls is not None
    host: HostOption = {"address": tls_server.tls.url, "ssl_ca_certs": str(tls_server.tls.ca_file)}
    async with asyncio.timeout(_SOON), RedisChannelLayer(hosts=[host], prefix=prefix) as layer:
        content = random.randbytes(3_000_000)
        for channel in (await layer.new_channel(), "normal"):
            await layer.send(channel, {"content": content})
            assert await layer.receive(channel) == {"content": content}


@pytest.mark.parametrize("trust", ["another authority", "the system's authorities"])
async def test_a_server_that_cannot_be_trusted_is_refused(tls_server: Server, tmp_path: Path, trust: str) -> None:
    """With a wrong CA or with none, senders and receivers get a StoreError that names server, cause and option."""
    assert tls_server.tls is not None
    host: HostOption = tls_server.tls.url
    if trust == "another authority":
        host = {"address": tls_server.tls.url, "ssl_ca_certs": issue(tmp_path).ca_file}
    calls: list[Callable[[ChannelLayer], Awaitable[object]]] = [
        lambda layer: layer.send("channel", {}),
        lambda layer: layer.receive("channel"),
        lambda layer: layer.new_channel(),
    ]
    for call in calls:
        error = await _refusal(host, call=call)
        assert f"rediss://127.0.0.1:{tls_server.tls.port}/0" in str(error)
        assert "certificate verify failed" in str(error)
        assert "ssl_ca_certs" in str(error)
        assert "is a server running" not in str(error)
        assert not error.retryable  # it takes a change of the configuration
        assert error.outcome == "not_sent"


async def test_tls_to_a_plain_port_and_the_reverse_are_named(tls_server: Server) -> None:
    """rediss:// to a port without TLS, and redis:// to one with it, is a StoreError that names the server."""
    assert tls_server.tls is not None
    for url in (f"rediss://127.0.0.1:{tls_server.port}/0", f"redis://127.0.0.1:{tls_server.tls.port}/0"):
        assert url in str(await _refusal(url, timeout=_TIMEOUT))


# -- logins --------------------------------------------------------------------------------------------------


async def test_a_password_opens(start_server: StartServer, prefix: str) -> None:
    """A password works in a URL and in a dict, with whatever characters it has."""
    server = start_server(password="sesame")
    await _walk_every_path(server.url, f"{prefix}1:")
    odd = "se/sa@me:?#%\u00fc"
    server.host().command("CONFIG", "SET", "requirepass", odd)
    await _walk_every_path({"host": "127.0.0.1", "port": server.port, "password": odd}, f"{prefix}2:")
    await _walk_every_path(f"redis://:se%2Fsa%40me%3A%3F%23%25%C3%BC@127.0.0.1:{server.port}", f"{prefix}3:")


@pytest.mark.parametrize(
    ("login", "advice"),
    [("", "give a password in hosts"), (":mistaken@", "check the password"), ("bob:mistaken@", "check the password")],
    ids=["missing", "wrong", "unknown-user"],
)
async def test_a_missing_or_wrong_password_is_reported(start_server: StartServer, login: str, advice: str) -> None:
    """Without the right login senders and receivers get a StoreError that says what to give; it shows no password."""
    server = start_server(password="sesame")
    calls: list[Callable[[ChannelLayer], Awaitable[object]]] = [
        lambda layer: layer.send("channel", {}),
        lambda layer: layer.receive("channel"),
    ]
    for call in calls:
        error = await _refusal(f"redis://{login}127.0.0.1:{server.port}/2", call=call)
        assert f"redis://127.0.0.1:{server.port}/2 refused the login" in str(error)
        assert advice in str(error)
        assert "mistaken" not in str(error)
        assert not error.retryable
        assert error.outcome == "not_sent"


async def test_a_user_with_the_rights_to_the_prefix_is_enough(start_server: StartServer, prefix: str) -> None:
    """An ACL user with rights to the keys of the prefix alone, and without INFO, can use every operation."""
    server = start_server()
    server.host().command("ACL", "SETUSER", "alice", "on", ">wonder", f"~{prefix}*", "+@all", "-info")
    await _walk_every_path(
        {"host": "127.0.0.1", "port": server.port, "username": "alice", "password": "wonder"}, prefix
    )


@pytest.mark.parametrize("after", [0, 9], ids=["from the start", "amid"])
@pytest.mark.usefixtures("settled")
async def test_a_user_without_client_reply_gets_replies(
    start_server: StartServer, prefix: str, caplog: pytest.LogCaptureFixture, after: int
) -> None:
    """An ACL user without the right to CLIENT REPLY can use every operation, also if the right is withdrawn later."""
    server = start_server()
    command = server.host().command
    command("ACL", "SETUSER", "alice", "on", ">wonder", f"~{prefix}*", "+@all")
    steps = 0

    def count() -> None:
        nonlocal steps
        if steps == after:
            command("ACL", "SETUSER", "alice", "-client", "+client|id", "+client|unblock")
        steps += 1

    host: HostOption = {"host": "127.0.0.1", "port": server.port, "username": "alice", "password": "wonder"}
    await _walk_every_path(host, prefix, between=count)
    assert steps > after
    refused = [record for record in caplog.records if "NOPERM" in record.getMessage()]
    assert not refused or after  # a connection that knows it from the start does not try


@pytest.mark.usefixtures("settled")
async def test_trimming_an_inbox_gets_few_replies(start_server: StartServer, prefix: str) -> None:
    """Read entries are removed together with the next read, by a command without reply, but for one in 16."""
    server = start_server()

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()
        for n in range(80):
            await layer.send(name, {"n": n})
            assert await layer.receive(name) == {"n": n}
    trims, silences = _calls(server, "xtrim"), _calls(server, "client|reply")
    assert trims >= 79
    # One to try whether it may, and one before each trim outside of scripts, except the first two and those in between.
    assert trims - 8 <= silences <= trims - 4


def _calls(server: Server, command: str) -> int:
    """Return how often a server has run a command."""
    facts = server.host().info("commandstats")[f"cmdstat_{command}"]
    return int(re.findall(r"'calls': (\d+)", repr(facts))[0])


async def test_a_user_without_rights_gets_the_server_s_message(start_server: StartServer) -> None:
    """An ACL user without rights to the keys gets a StoreError with the server's own message."""
    server = start_server()
    server.host().command("ACL", "SETUSER", "alice", "on", ">wonder", "~other:*", "+@all")
    error = await _refusal(f"redis://alice:wonder@127.0.0.1:{server.port}/0")
    assert f"redis://127.0.0.1:{server.port}/0" in str(error)
    assert "NOPERM" in str(error)
    assert "wonder" not in str(error)
    assert not error.retryable
    assert error.outcome == "not_sent"


# -- lost connections -----------------------------------------------------------------------------------------


def _cut(server: Server) -> None:
    """Close every connection to a server, from its side."""
    server.host().command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


@pytest.mark.usefixtures("loops")
async def test_cut_connections_lose_and_double_nothing(start_server: StartServer, prefix: str) -> None:
    """While all connections are closed ten times, each channel gets the accepted messages, once and in order."""
    server = start_server()
    channels, messages, cuts = 6, 100, 10

    async with (
        asyncio.timeout(3 * _SOON),
        RedisChannelLayer(hosts=[server.url], prefix=prefix, capacity=1000) as one,
        RedisChannelLayer(hosts=[server.url], prefix=prefix, capacity=1000) as two,
    ):
        sent = 0

        async def send(channel: str) -> set[int]:
            """Send all; return those whose outcome is unknown."""
            nonlocal sent
            doubtful: set[int] = set()
            for n in range(messages):
                while True:
                    try:
                        await two.send(channel, {"n": n})
                    except StoreError as exc:
                        if not exc.retryable:
                            raise
                        if exc.outcome == "not_sent":
                            await asyncio.sleep(0.001)
                            continue
                        doubtful.add(n)
                    sent += 1
                    break
            return doubtful

        async def reach(goal: int) -> None:
            await _until(lambda: sent >= goal)

        async def receive(channel: str) -> list[object]:
            got: list[object] = []
            while not got or got[-1] != "end":
                got.append((await one.receive(channel))["n"])
            return got[:-1]

        names = [await one.new_channel() for _ in range(channels)]
        receivers = [asyncio.create_task(receive(name)) for name in names]
        senders = [asyncio.create_task(send(name)) for name in names]
        for cut in range(1, cuts + 1):
            await reach(cut * channels * messages // (cuts + 1))
            await asyncio.to_thread(_cut, server)
        doubts = await asyncio.gather(*senders)
        await _until_answered(two)
        for name in names:
            await _until_sent(two, name, {"n": "end"})
        for doubtful, got in zip(doubts, await asyncio.gather(*receivers), strict=True):
            assert sorted(set(got), key=str) == sorted(got, key=str), "a message came twice"
            certain = [n for n in range(messages) if n not in doubtful]
            assert [n for n in got if n not in doubtful] == certain
            assert got == [n for n in range(messages) if n in set(got)]


async def _until(holds: Callable[[], bool]) -> None:
    """Poll until a condition holds."""
    while not holds():  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.001)


async def _until_answered(layer: ChannelLayer) -> None:
    """Wait until a layer has a working connection, with calls that change nothing."""
    while True:
        try:
            await layer.group_channels("nobody")
        except StoreError:
            await asyncio.sleep(0.01)
        else:
            return


async def _until_sent(layer: ChannelLayer, channel: str, message: Mapping[str, object]) -> None:
    """Send, and repeat as long as the outcome is "not_sent"."""
    while True:
        try:
            return await layer.send(channel, message)
        except StoreError as exc:
            if exc.outcome != "not_sent":
                raise
            await asyncio.sleep(0.01)


@pytest.mark.usefixtures("loops")
async def test_receivers_that_wait_outlive_their_connections(start_server: StartServer, prefix: str) -> None:
    """A receive() on each kind of channel that waits while all connections are closed repeatedly gets its message."""
    server = start_server()

    async with (
        asyncio.timeout(_SOON),
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as one,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as two,
    ):
        channels = [await one.new_channel(), "normal", "single?reader", "claimed!local"]
        waiting = [asyncio.create_task(one.receive(channel)) for channel in channels]
        for _ in range(3):
            await _until(lambda: _blocked(server))
            await asyncio.to_thread(_cut, server)
        await _until_answered(two)
        for channel in channels:
            await _until_sent(two, channel, {"to": channel})
        assert await asyncio.gather(*waiting) == [{"to": channel} for channel in channels]


def _blocked(server: Server) -> bool:
    """Return whether a client waits in a blocking command."""
    return server.host().info("clients")["blocked_clients"] != 0


# -- a suspended server --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
async def test_calls_to_a_server_that_stands_fail_in_time_and_go_on_later(
    start_server: StartServer, prefix: str
) -> None:
    """While a server is suspended, calls fail within the timeout; receivers wait, and get what is sent later."""
    server = start_server()

    hosts = [server.url]
    async with (
        asyncio.timeout(3 * _SOON),
        RedisChannelLayer(hosts=hosts, prefix=prefix, timeout=_TIMEOUT) as one,
        RedisChannelLayer(hosts=hosts, prefix=prefix, timeout=_TIMEOUT) as two,
        RedisChannelLayer(hosts=hosts, prefix=prefix, timeout=_TIMEOUT) as newcomer,
    ):
        own = await one.new_channel()
        await two.group_add("group", own)
        waiting = {channel: asyncio.create_task(one.receive(channel)) for channel in (own, "normal")}
        server.pause()
        try:
            await _assert_fails_in_time(two.send(own, {"n": 1}))  # over an open connection
            calls = [
                *(two.send("other", {"n": n}) for n in range(100)),  # over a new one
                two.group_send("group", {"n": 2}),
                one.group_add("group", "normal"),
                newcomer.new_channel(),
            ]
            await asyncio.gather(*map(_assert_fails_in_time, calls))
            assert not any(task.done() for task in waiting.values())
        finally:
            server.resume()
        for layer in (two, newcomer):
            await _until_answered(layer)
        for channel, task in waiting.items():
            await _until_sent(two, channel, {"n": "after"})
            got = [(await task)["n"]]
            while got[-1] != "after":
                got.append((await one.receive(channel))["n"])
            # A command that was written to the socket may have been run, but only once.
            assert got in (["after"], [1, "after"])
        await newcomer.send(await newcomer.new_channel(), {})


async def _assert_fails_in_time(call: Awaitable[object]) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=re.escape("127.0.0.1")) as caught:
        await asyncio.wait_for(call, _SOON)
    assert time.monotonic() - began < _TIMEOUT + _SLACK
    assert caught.value.retryable


@pytest.mark.usefixtures("loops")
async def test_closing_does_not_wait_for_a_server_that_stands(start_server: StartServer, prefix: str) -> None:
    """aclose() returns within a few timeouts although the server does not answer."""
    server = start_server()

    layer = RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=_TIMEOUT)
    await layer.group_add("group", await layer.new_channel())
    waiting = asyncio.create_task(layer.receive("normal"))
    await _until(lambda: _blocked(server))
    server.pause()
    try:
        began = time.monotonic()
        await asyncio.wait_for(layer.aclose(), _SOON)
        assert time.monotonic() - began < 4 * _TIMEOUT + _SLACK
    finally:
        server.resume()
    with pytest.raises(StoreError, match="closed"):
        await waiting
