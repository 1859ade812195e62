"""A server has an older copy of an inbox, and adds entries whose ids run backwards: each is read, and none twice."""

from __future__ import annotations

import asyncio

import pytest

from channel_layer_redis import RedisChannelLayer
from tests.integration.test_failover import Switch, follow, succeeds
from tests.integration.test_server_restart import until
from tests.support.fake_server import redis_proxy
from tests.support.servers import Server, StartServer

TIMEOUT = 2.0


def set_ahead(server: Server, prefix: str, seconds: float) -> None:
    """Set the last ids of all streams ahead: the ids of a server that takes its place run backwards then."""
    with server.admin() as admin:
        for key in server.keys(prefix):
            if admin.type(key) == b"stream":
                last = admin.xinfo_stream(key)["last-generated-id"]
                milliseconds = int(last.partition(b"-")[0])
                server.host().command("XSETID", key, f"{milliseconds + round(seconds * 1000)}-0")


async def replicated(primary: Server, replica: Server) -> bool:
    """Whether a replica has got what its primary has."""
    offsets = [server.host().info("replication")["master_repl_offset"] for server in (primary, replica)]
    return offsets[0] == offsets[1]


@pytest.mark.parametrize("ahead", [0, 3, 3600])
@pytest.mark.parametrize("lacking", [0, 1, 100])
async def test_what_a_server_adds_before_it_is_read_is_not_skipped(
    start_server: StartServer, prefix: str, ahead: float, lacking: int
) -> None:
    """All that was sent to the new primary arrives, although the owner has not been there yet, and only once."""
    old, new = start_server(), start_server()
    await asyncio.to_thread(follow, new, old)
    switch = Switch(old)
    async with redis_proxy(lambda: switch.port, switch) as port:
        url = f"redis://127.0.0.1:{port}/0"
        async with (
            RedisChannelLayer(hosts=[url], prefix=prefix, timeout=TIMEOUT, capacity=1000) as owner,
            RedisChannelLayer(hosts=[new.url], prefix=prefix, timeout=TIMEOUT, capacity=1000) as sender,
        ):
            name = await owner.new_channel()
            sent = iter(range(10_000))

            async def pass_on(count: int) -> None:
                for n in [next(sent) for _ in range(count)]:
                    await owner.send(name, {"n": n})
                    assert await owner.receive(name) == {"n": n}

            await pass_on(10)
            await until(lambda: replicated(old, new), 10)
            new.host().command("REPLICAOF", "NO", "ONE")
            if ahead:
                set_ahead(old, prefix, ahead)
            await pass_on(lacking)

            first = [next(sent) for _ in range(20)]
            for n in first:
                await sender.send(name, {"n": n})
            switch.port = new.port
            old.kill()
            for n in first:
                assert await asyncio.wait_for(owner.receive(name), 10) == {"n": n}
            await until(lambda: succeeds(owner.send(name, {"n": -1})), 10)
            while await asyncio.wait_for(owner.receive(name), 10) != {"n": -1}:
                pass
            await pass_on(10)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(owner.receive(name), 0.3)
