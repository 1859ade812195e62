"""Leases: members of a dead owner are skipped and removed; a live owner keeps its lease, and can take it again."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet
from tests.support.scenarios_groups import eventually, receive_within
from tests.support.systems import System

if TYPE_CHECKING:
    from tests.support.servers import Deployment

EXPIRY = 1.0
LEASE = 1.5 * EXPIRY


async def belong(child: AsyncChild, job: tuple[list[str], str]) -> list[object]:
    """Own a member of a group; receive until the message that ends it."""
    hosts, prefix = job
    async with RedisChannelLayer(hosts=hosts, prefix=prefix, expiry=EXPIRY) as layer:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        seen: list[object] = []
        await child.ready(name)
        while not seen or seen[-1] != "end":
            seen.append((await layer.receive(name))["n"])
        return seen


async def test_members_of_a_killed_process_are_gone_with_its_lease(deployment: Deployment, prefix: str) -> None:
    """After `kill -9` and one lease the members are skipped, and the next group send removes them from the store."""
    with Fleet() as fleet:
        dies = fleet.spawn(belong, (deployment.urls, prefix))
        name = await asyncio.to_thread(dies.wait_ready)
        async with RedisChannelLayer(hosts=deployment.urls, prefix=prefix, expiry=EXPIRY) as layer:
            mine = await layer.new_channel()
            await layer.group_add("group", mine)
            assert await layer.group_channels("group") == sorted([name, mine])
            await asyncio.to_thread(dies.kill9)

            async def skipped() -> bool:
                return await layer.group_channels("group") == [mine]

            assert await eventually(skipped) < 10 * LEASE
            await layer.group_send("group", {"n": 1})
            assert await receive_within(layer, mine) == {"n": 1}
            rosters = [host.command("ZRANGE", k, 0, -1) for host in deployment.hosts for k in host.keys(f"{prefix}g:")]
            assert rosters == [[mine.encode()]]


async def test_an_owner_that_stood_still_for_longer_than_its_lease_comes_back(
    deployment: Deployment, prefix: str
) -> None:
    """It drops the messages it held, which may all have expired, and its memberships are restored."""
    with Fleet() as fleet:
        sleeper = fleet.spawn(belong, (deployment.urls, prefix))
        name = await asyncio.to_thread(sleeper.wait_ready)
        fleet.go()
        async with RedisChannelLayer(hosts=deployment.urls, prefix=prefix, expiry=EXPIRY) as layer:
            sleeper.send_signal(signal.SIGSTOP)
            await layer.group_send("group", {"n": "too old when it wakes up"})
            await layer.send(name, {"n": "too old when it wakes up"})

            async def dead() -> bool:
                return await layer.group_channels("group") == []

            await eventually(dead)
            await layer.group_send("group", {"n": "to a dead member, who is removed"})
            sleeper.send_signal(signal.SIGCONT)

            async def back() -> bool:
                return await layer.group_channels("group") == [name]

            await eventually(back)
            await layer.group_send("group", {"n": "group"})
            await layer.send(name, {"n": "end"})
            assert await asyncio.to_thread(sleeper.result) == ["group", "end"]


async def test_a_living_owner_keeps_its_lease(redis_system: System) -> None:
    """For the time of many leases the channel of an idle owner stays a member, and messages to it are received."""
    async with redis_system.layer(expiry=0.2) as owner, redis_system.layer(expiry=0.2) as sender:
        name = await owner.new_channel()
        await owner.group_add("group", name)
        for _ in range(5):
            await asyncio.sleep(0.3)  # the length of a lease; this test is about real time
            assert await sender.group_channels("group") == [name]
        await sender.group_send("group", {"n": 1})
        assert await receive_within(owner, name) == {"n": 1}
