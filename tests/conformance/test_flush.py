"""`flush()` with several processes: it waits for live ones, not for dead ones, and never lists all keys of a server."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet

if TYPE_CHECKING:
    from tests.support.servers import Deployment, StartServer


async def test_a_flush_never_lists_all_keys(start_server: StartServer, prefix: str) -> None:
    """A flush uses SCAN, not KEYS, which would block the server for all of its clients."""
    server = start_server()

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        await layer.send("jobs", {"n": 1})
        await layer.flush()
    used = server.host().info("commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


async def own(child: AsyncChild, job: tuple[list[str], str]) -> list[object]:
    """Own a member of a group, with messages in its mailbox; return what is received next."""
    hosts, prefix = job
    async with RedisChannelLayer(hosts=hosts, prefix=prefix, expiry=2) as layer:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        for number in range(10):
            await layer.send(name, {"n": number})
        assert (await layer.receive(name))["n"] == 0
        await child.ready(name)
        return [(await layer.receive(name))["n"]]


async def test_it_waits_for_living_processes_and_not_for_dead_ones(deployment: Deployment, prefix: str) -> None:
    """A flush waits for a suspended process until it resumes or its lease ends; a killed one costs at most a lease."""
    with Fleet() as fleet:
        lives, stands, dies = (fleet.spawn(own, (deployment.urls, prefix)) for _ in range(3))
        names = [await asyncio.to_thread(worker.wait_ready) for worker in (lives, stands, dies)]
        async with RedisChannelLayer(hosts=deployment.urls, prefix=prefix, expiry=2) as layer:
            assert await layer.group_channels("group") == sorted(names)
            await asyncio.to_thread(dies.kill9)
            stands.send_signal(signal.SIGSTOP)
            flushing = asyncio.create_task(layer.flush())
            await asyncio.sleep(0.2)
            assert not flushing.done()  # two have not acknowledged the flush
            stands.send_signal(signal.SIGCONT)
            async with asyncio.timeout(10):  # a lease is 3 s
                await flushing
            assert await layer.group_channels("group") == []
            fleet.go()
            for name in names[:2]:
                await layer.send(name, {"n": "new"})
            for worker in (lives, stands):
                assert await asyncio.to_thread(worker.result) == ["new"]
