"""`flush()` among processes: it waits for who lives, not for who is dead, and never lists all keys of a server."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet
from tests.support.systems import run

if TYPE_CHECKING:
    from tests.support.servers import Deployment, StartServer


def test_a_flush_never_lists_all_keys(start_server: StartServer, prefix: str) -> None:
    """The server sees SCAN and no KEYS, which would stop it for everybody."""
    server = start_server()

    async def body() -> None:
        async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
            await layer.send("jobs", {"n": 1})
            await layer.flush()

    run(body())
    used = server.host().info("commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


async def own(child: AsyncChild, job: tuple[list[str], str]) -> list[object]:
    """Own a member of a group, with messages in its mailbox; then see what comes next."""
    hosts, prefix = job
    async with RedisChannelLayer(hosts=hosts, prefix=prefix, expiry=2) as layer:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        for number in range(10):
            await layer.send(name, {"n": number})
        assert (await layer.receive(name))["n"] == 0
        await child.ready(name)
        return [(await layer.receive(name))["n"]]


def test_it_waits_for_living_processes_and_not_for_dead_ones(deployment: Deployment, prefix: str) -> None:
    """With a process that stands still a flush waits for it, or for its lease; a killed one costs at most a lease."""

    async def body(fleet: Fleet) -> None:
        lives, stands, dies = (fleet.spawn(own, (deployment.urls, prefix)) for _ in range(3))
        names = [await asyncio.to_thread(worker.wait_ready) for worker in (lives, stands, dies)]
        async with RedisChannelLayer(hosts=deployment.urls, prefix=prefix, expiry=2) as layer:
            assert await layer.group_channels("group") == sorted(names)
            await asyncio.to_thread(dies.kill9)
            stands.send_signal(signal.SIGSTOP)
            flushing = asyncio.create_task(layer.flush())
            await asyncio.sleep(0.2)
            assert not flushing.done()  # two have not said that they dropped what they held
            stands.send_signal(signal.SIGCONT)
            async with asyncio.timeout(10):  # a lease is 3 s
                await flushing
            assert await layer.group_channels("group") == []
            fleet.go()
            for name in names[:2]:
                await layer.send(name, {"n": "new"})
            for worker in (lives, stands):
                assert await asyncio.to_thread(worker.result) == ["new"]

    with Fleet() as fleet:
        asyncio.run(body(fleet))
