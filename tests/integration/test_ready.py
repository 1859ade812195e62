"""`ready()` says whether a layer can serve, and if not, why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer_redis import RedisChannelLayer, RedisLocalChannelLayer
from tests.integration.test_failover import follow
from tests.integration.test_rights import LEAST
from tests.support.fake_server import fake_redis, redis_of_version
from tests.support.servers import free_ports

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Server, StartServer

Ready: TypeAlias = Callable[[ChannelLayer], Awaitable[None]]


@pytest.fixture(params=["async", "blocking"])
def ready(request: pytest.FixtureRequest) -> Ready:
    """Ask in an event loop, or in a thread."""
    if request.param == "async":
        return lambda layer: layer.ready()
    return lambda layer: asyncio.to_thread(layer.blocking.ready)


async def why_not(ready: Ready, layer: ChannelLayer) -> StoreError:
    """Return why a layer is not ready; it is closed."""
    async with layer:
        with pytest.raises(StoreError) as caught:
            await ready(layer)
    return caught.value


async def test_a_host_that_is_away_is_named(server: Server, prefix: str, ready: Ready) -> None:
    """One of several is enough, and the answer may change."""
    port, _ = free_ports()
    error = await why_not(ready, RedisChannelLayer(hosts=[server.url, ("127.0.0.1", port)], prefix=prefix))
    assert error.retryable
    assert f"cannot connect to redis://127.0.0.1:{port}/0" in str(error)


async def test_what_does_not_pass_by_itself_is_told_first(server: Server, prefix: str, ready: Ready) -> None:
    """A wrong password matters more than a host that is away."""
    port, _ = free_ports()
    hosts = [f"redis://127.0.0.1:{port}", f"redis://nobody:wrong@127.0.0.1:{server.port}"]
    error = await why_not(ready, RedisChannelLayer(hosts=hosts, prefix=prefix))
    assert not error.retryable
    assert "refused the login" in str(error)


async def test_a_replica_is_not_ready(start_server: StartServer, prefix: str, ready: Ready) -> None:
    """It could be read, and that is not enough."""
    primary, replica = start_server(), start_server()
    await asyncio.to_thread(follow, replica, primary)
    error = await why_not(ready, RedisChannelLayer(hosts=[replica.url], prefix=prefix))
    assert error.retryable
    assert "is a replica" in str(error)


async def test_a_server_that_is_too_old_is_not_ready(prefix: str, ready: Ready) -> None:
    """It says which versions are."""
    async with fake_redis(redis_of_version("redis_version:6.0.20")) as port:
        error = await why_not(ready, RedisChannelLayer(hosts=[("127.0.0.1", port)], prefix=prefix))
    assert not error.retryable
    assert "too old" in str(error)


@pytest.mark.parametrize("right", ["+rpush", "+lpop", "+xadd", "+zadd", "+zrem", "+hset", "+zrangebyscore"])
async def test_a_missing_right_is_named(start_server: StartServer, prefix: str, ready: Ready, right: str) -> None:
    """Whatever the right is for: messages, groups, or inboxes."""
    server = start_server()
    rules = [word.replace("asgi:", prefix) for word in LEAST if word != right]
    server.host().command("ACL", "SETUSER", "channel-layer", *rules)
    url = f"redis://channel-layer:change-me@127.0.0.1:{server.port}/0"
    error = await why_not(ready, RedisChannelLayer(hosts=[url], prefix=prefix))
    assert not error.retryable
    assert f"give the user {right}" in str(error)


async def test_a_lost_lease_is_acquired_again(server: Server, prefix: str, ready: Ready) -> None:
    """Who is ready can be sent to."""
    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()
        (key,) = server.keys(f"{prefix}l:")
        server.host().command("DEL", key)
        await ready(layer)
        assert server.keys(f"{prefix}l:") == [key]
        await layer.send(name, {"n": 1})
        assert await layer.receive(name) == {"n": 1}


async def test_it_leaves_no_key_that_stays(server: Server, prefix: str, ready: Ready) -> None:
    """What the store keeps of the empty group has a lifetime, and does not grow."""
    for _ in range(2):
        async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
            for _ in range(3):
                await ready(layer)
    lifetimes = server.host().lifetimes(prefix)
    lasting = [key for key, milliseconds in lifetimes.items() if milliseconds > 60_000]
    assert {key[len(prefix)] for key in lasting} <= {"i", "x"}
    assert len(lasting) <= 2
    assert {key[len(prefix)] for key in lifetimes.keys() - set(lasting)} <= {"r"}  # for an expiry
    assert all(lifetime > 0 for lifetime in lifetimes.values())


async def test_both_stores_of_a_local_and_remote_layer_are_asked(prefix: str, ready: Ready, tmp_path: Path) -> None:
    """The one on this machine works, and that is not enough."""
    port, _ = free_ports()
    layer = RedisLocalChannelLayer(hosts=[("127.0.0.1", port)], prefix=prefix, local={"directory": tmp_path / "local"})
    error = await why_not(ready, layer)
    assert f"cannot connect to redis://127.0.0.1:{port}/0" in str(error)
