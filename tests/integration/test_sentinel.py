"""Services that sentinels name: layers find their primary, and follow it in a failover.

The promises that hold on any server are tried by `tests/conformance/test_sentinel.py`. Each failover here has a service
of its own; what changes no primary shares one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from functools import partial

import pytest
from asgiref.sync import async_to_sync

from channel_layer import ChannelLayer, StoreError
from channel_layer_redis import RedisChannelLayer, RedisLocalChannelLayer
from channel_layer_redis.options import ServerDict
from tests.integration.test_failover import follow, succeeds
from tests.integration.test_server_restart import until
from tests.support.fake_server import fake_redis
from tests.support.sentinels import SERVICE, Sentinel, Service
from tests.support.servers import Server, ServerKind, StartServer

TIMEOUT = 5.0
PATIENCE = 30.0


@pytest.fixture
def service() -> Generator[Service]:
    """A primary, a replica and three sentinels, for this test alone."""
    with contextlib.ExitStack() as stack:
        yield Service(stack)


def layer_of(service: Service, prefix: str, *, expiry: float = 60) -> RedisChannelLayer:
    """Make a layer over a service."""
    url = "redis+sentinel://" + ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in service.sentinels)
    return RedisChannelLayer(hosts=[f"{url}/0/{service.name}"], prefix=prefix, expiry=expiry)


# -- failovers -----------------------------------------------------------------------------------------------


def clients_of(server: Server) -> list[str]:
    """Return the last commands of the connections to a server that layers have made."""
    return [client["cmd"] for client in server.host().clients() if client["cmd"] in {"xread", "blpop", "evalsha"}]


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    ("loops", "cause"),
    [("settled", "planned"), ("settled", "killed"), ("settled", "stopped"), ("young", "killed")],
    indirect=["loops"],
)
async def test_a_layer_follows_a_failover(service: Service, prefix: str, cause: str) -> None:
    """Members are reached, receivers woken and sends accepted by the new primary, whatever became of the old one."""
    async with layer_of(service, prefix, expiry=10) as owner, layer_of(service, prefix) as sender:
        names = [await owner.new_channel() for _ in range(3)]
        for name in names:
            await owner.group_add("all", name)
        await sender.group_send("all", {"n": 0})
        assert [await owner.receive(name) for name in names] == [{"n": 0}] * 3
        receiving = asyncio.create_task(owner.receive("jobs"))
        old = service.primary
        if cause == "planned":
            await asyncio.to_thread(service.fail_over)
        else:
            old.kill() if cause == "killed" else old.pause()
            await asyncio.to_thread(service.await_failover, old)

        await until(lambda: succeeds(sender.group_send("all", {"n": 1})), PATIENCE)
        for n in range(2, 20):
            await sender.group_send("all", {"n": n})
            for name in names:
                async with asyncio.timeout(PATIENCE):
                    while await owner.receive(name) != {"n": n}:
                        pass
        await sender.send("jobs", {"n": 1})
        assert await asyncio.wait_for(receiving, PATIENCE) == {"n": 1}

        if cause == "stopped":  # it comes back as a primary that nobody has told
            old.resume()
        if cause != "killed":

            async def is_left() -> bool:
                return not await asyncio.to_thread(clients_of, old)

            await until(is_left, PATIENCE)
        await sender.group_send("all", {"n": 20})
        assert [await asyncio.wait_for(owner.receive(name), PATIENCE) for name in names] == [{"n": 20}] * 3


async def test_threads_and_short_lived_loops_follow_a_failover(service: Service, prefix: str) -> None:
    """A thread that waits, one that sends, and calls through `async_to_sync` use the new primary."""
    async with layer_of(service, prefix) as layer, layer_of(service, prefix) as other:
        await asyncio.to_thread(layer.blocking.send, "early", {"n": 0})
        await asyncio.to_thread(async_to_sync(other.send), "early", {"n": 1})
        waiting = asyncio.create_task(asyncio.to_thread(layer.blocking.receive, ["jobs"], block=True))
        old = service.primary

        async def waits() -> bool:
            return "blpop" in await asyncio.to_thread(clients_of, old)

        await until(waits, PATIENCE)
        await asyncio.to_thread(service.fail_over)

        def sends() -> bool:
            try:
                async_to_sync(other.send)("jobs", {"n": 2})
            except StoreError:
                return False
            return True

        await until(lambda: asyncio.to_thread(sends), PATIENCE)
        assert await asyncio.wait_for(waiting, PATIENCE) == ("jobs", {"n": 2})
        await asyncio.to_thread(layer.blocking.send, "late", {"n": 3})
        assert await asyncio.to_thread(async_to_sync(other.receive), "late") == {"n": 3}


async def test_the_local_and_remote_layer_follows_too(service: Service, prefix: str) -> None:
    """Groups go on over the new primary; normal channels stay on this machine meanwhile."""
    async with RedisLocalChannelLayer(hosts=[service.entry], prefix=prefix) as layer:
        name = await layer.new_channel()
        await layer.group_add("all", name)
        receiving = asyncio.create_task(layer.receive("jobs"))
        await asyncio.sleep(0)
        await asyncio.to_thread(service.fail_over)
        await until(lambda: succeeds(layer.group_send("all", {"n": 1})), PATIENCE)
        assert await asyncio.wait_for(layer.receive(name), PATIENCE) == {"n": 1}
        await layer.send("jobs", {"n": 2})
        assert await asyncio.wait_for(receiving, PATIENCE) == {"n": 2}


async def test_a_failover_is_told_once(service: Service, prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the old and the new address, once for the whole layer."""
    async with layer_of(service, prefix) as layer:
        await layer.send("jobs", {"n": 1})
        await asyncio.to_thread(layer.blocking.send, "jobs", {"n": 2})
        old = service.primary
        with caplog.at_level(logging.WARNING, logger="channel_layer"):
            new = await asyncio.to_thread(service.fail_over)
            await until(lambda: succeeds(layer.send("other", {})), PATIENCE)
    told = [record.getMessage() for record in caplog.records if "the primary is" in record.getMessage()]
    assert len(told) == 1
    assert f"the primary is redis://127.0.0.1:{new.port}/0 now, and was redis://127.0.0.1:{old.port}/0" in told[0]


async def test_several_services_are_several_shards(service: Service, prefix: str) -> None:
    """The same sentinels watch both; a failover of one does not disturb the other."""
    with contextlib.ExitStack() as stack:
        second = await asyncio.to_thread(partial(Service, stack, name="other", watchers=service.sentinels))
        async with RedisChannelLayer(hosts=[service.entry, second.entry], prefix=prefix) as layer:
            names = [f"jobs{n}" for n in range(20)]
            for name in names:
                for _ in range(2):  # one to each
                    await layer.send(name, {})
            await asyncio.to_thread(service.fail_over)
            with contextlib.suppress(StoreError):
                await layer.send("any", {})
            for name in names:
                assert await asyncio.wait_for(layer.receive(name), PATIENCE) == {}
        assert service.primary.keys(prefix)
        assert second.primary.keys(prefix)


# -- sentinels -----------------------------------------------------------------------------------------------


async def test_sentinels_that_are_away_are_passed_over(service: Service, prefix: str) -> None:
    """The one that is listened to dies, and then the others fail over: one of them is asked, and listened to."""
    async with layer_of(service, prefix) as layer:
        await layer.send("jobs", {"n": 0})
        await until(lambda: asyncio.to_thread(service.is_replicated), PATIENCE)
        service.sentinels[0].kill()
        service.sentinels = service.sentinels[1:]
        for sentinel in service.sentinels:  # two of three are a majority, and each has to agree
            sentinel.host().command("SENTINEL", "SET", SERVICE, "quorum", 1)
        await asyncio.to_thread(service.fail_over)
        await until(lambda: succeeds(layer.send("jobs", {"n": 1})), PATIENCE)
        assert service.primary.keys(f"{prefix}q:")
        assert [await layer.receive("jobs") for _ in range(2)] == [{"n": 0}, {"n": 1}]


@contextlib.asynccontextmanager
async def fake_sentinel(names: list[int]) -> AsyncGenerator[int]:
    """A sentinel that says nothing unasked, and names the last of some ports as the primary."""

    def answer(command: list[bytes]) -> bytes:
        if command[0] == b"SENTINEL":
            port = str(names[-1]).encode()
            return b"*2\r\n$9\r\n127.0.0.1\r\n$%d\r\n%b\r\n" % (len(port), port)
        return b"+OK\r\n"

    async with fake_redis(answer) as port:
        yield port


def over(sentinels: list[int], prefix: str) -> RedisChannelLayer:
    """Make a layer over sentinels at some ports."""
    pairs = [("127.0.0.1", port) for port in sentinels]
    return RedisChannelLayer(hosts=[{"sentinels": pairs, "master_name": SERVICE}], prefix=prefix, timeout=TIMEOUT)


async def test_a_change_that_no_sentinel_tells_is_seen(start_server: StartServer, prefix: str) -> None:
    """A reader is on the server that the sentinel names, although nothing has told it, and no connection broke."""
    old, new = start_server(), start_server()
    names = [old.port]
    async with fake_sentinel(names) as port, over([port], prefix) as layer:
        receiving = asyncio.create_task(layer.receive("jobs"))

        async def waits() -> bool:
            return "blpop" in await asyncio.to_thread(clients_of, old)

        await until(waits, PATIENCE)
        names.append(new.port)
        async with RedisChannelLayer(hosts=[new.url], prefix=prefix) as sender:
            await sender.send("jobs", {"n": 1})
        assert await asyncio.wait_for(receiving, PATIENCE) == {"n": 1}


async def test_a_sentinel_that_names_a_replica_is_not_believed(start_server: StartServer, prefix: str) -> None:
    """One that was cut off from the others calls the old primary the primary for ever: another one is asked."""
    primary, replica = start_server(), start_server()
    await asyncio.to_thread(follow, replica, primary)
    async with (
        fake_sentinel([replica.port]) as stale,
        fake_sentinel([primary.port]) as right,
        over([stale, right], prefix) as layer,
    ):
        await until(lambda: succeeds(layer.send("jobs", {"n": 1})), PATIENCE)
        assert await layer.receive("jobs") == {"n": 1}


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_what_is_wrong_with_sentinels_is_said(
    get_service: Callable[[ServerKind], Service], server: Server, prefix: str, *, blocks: bool
) -> None:
    """No sentinel, one that asks for a password, one that does not know the service: a sentence, and what to do."""

    async def error_of(layer: ChannelLayer) -> StoreError:
        async with layer:
            with pytest.raises(StoreError) as caught:
                await (asyncio.to_thread(layer.blocking.send, "jobs", {}) if blocks else layer.send("jobs", {}))
        assert caught.value.outcome == "not_sent"
        return caught.value

    missing = await error_of(over([1], prefix))
    assert missing.retryable
    assert "no sentinel says where the primary of redis+sentinel://127.0.0.1:1/0/mymaster is" in str(missing)
    assert "is a server running there?" in str(missing)

    foreign = await error_of(over([server.port], prefix))
    assert not foreign.retryable
    assert "is no Sentinel: name sentinels, whose port is usually 26379" in str(foreign)

    entry = get_service(ServerKind.VALKEY).entry
    entry["master_name"] = "yours"
    stranger = await error_of(RedisChannelLayer(hosts=[entry], prefix=prefix))
    assert not stranger.retryable
    assert "knows no service 'yours': correct master_name in hosts" in str(stranger)

    one_wrong = await error_of(over([1, server.port], prefix))
    assert one_wrong.retryable  # the one that is away may be a sentinel


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_sentinels_have_logins_and_tls_of_their_own(prefix: str, *, tls: bool) -> None:
    """What stands in `sentinel_kwargs` is for the sentinels, and all else for the servers."""
    with contextlib.ExitStack() as stack:
        service = await asyncio.to_thread(
            partial(Service, stack, sentinels=1, password="of the servers", sentinel_password="of the sentinels")
        )
        entry, (plain,) = service.entry, service.sentinels
        kwargs: ServerDict = {"password": plain.password}
        if tls:
            secure = stack.enter_context(Sentinel(ServerKind.REDIS, tls=True, password=plain.password))
            secure.host().command("SENTINEL", "MONITOR", SERVICE, "127.0.0.1", service.primary.port, 1)
            assert secure.tls is not None
            kwargs |= {"ssl": True, "ssl_ca_certs": secure.tls.ca_file}
            entry["sentinels"] = [("127.0.0.1", secure.tls.port)]
        entry["sentinel_kwargs"] = kwargs
        async with RedisChannelLayer(hosts=[entry], prefix=prefix) as layer:
            await layer.send("jobs", {"n": 1})
            assert await asyncio.to_thread(layer.blocking.receive, ["jobs"]) == ("jobs", {"n": 1})
        kwargs["password"] = "wrong"
        async with RedisChannelLayer(hosts=[entry], prefix=prefix) as layer:
            with pytest.raises(StoreError, match="WRONGPASS") as caught:
                await layer.send("jobs", {})
            assert not caught.value.retryable
            assert "of the" not in str(caught.value)


@pytest.mark.usefixtures("settled")
async def test_nothing_is_asked_once_nothing_is_connected(
    get_service: Callable[[ServerKind], Service], prefix: str
) -> None:
    """The thread that listens ends with the last connection, and is there again with the next."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "channel-layer-sentinel"]

    async def none_is_left() -> bool:
        return not threads()

    layer = layer_of(get_service(ServerKind.VALKEY), prefix)
    for _ in range(2):
        await layer.send("jobs", {})
        assert len(threads()) == 1
        await layer.close_pools()
        await until(none_is_left, PATIENCE)
    await layer.send("jobs", {})
    await layer.aclose()
    await until(none_is_left, PATIENCE)
