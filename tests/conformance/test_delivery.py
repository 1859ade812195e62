"""On which host a queue is, and what waiting for it costs: seen on the servers themselves."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter

import pytest

from channel_layer import ChannelLayer
from channel_layer.domain.names import ChannelName, Queue
from channel_layer.testing.suites.tools import number, receive_or_none
from tests.support.scenarios_delivery import BOUND, eventually
from tests.support.servers import Deployment, Server, StartServer, fresh_prefix
from tests.support.systems import System


async def test_a_queue_is_found_whatever_the_order_of_the_hosts(three_hosts: Deployment, prefix: str) -> None:
    """Two processes that are given the same hosts in another order still meet on every channel."""
    forward, backward = System(three_hosts, prefix), System(Deployment(three_hosts.hosts[::-1]), prefix)

    async with forward.layer() as sender, backward.layer() as owner:
        names = [await owner.new_channel(f"p{place}") for place in range(8)]
        names += [f"reply?{place}" for place in range(8)]
        for name in names:
            await sender.send(name, {"name": name})
            assert await asyncio.wait_for(owner.receive(name), BOUND) == {"name": name}


async def test_a_normal_channel_listens_to_every_host_at_once(redis_system: System) -> None:
    """A message on any host wakes a waiting receive() without polling, within a fraction of a second."""
    deployment = redis_system.deployment
    assert deployment is not None

    shards = range(redis_system.shards)
    async with redis_system.layer() as sender, redis_system.layer() as reader:
        order = sender._pipeline.routes.shards(Queue("jobs", ChannelName.parse("jobs").queue.kind))
        assert sorted(order) == list(shards)
        slowest = 0.0
        for shard in [*shards, *reversed(shards)] * 3:
            receiving = asyncio.create_task(reader.receive("jobs"))
            await eventually(lambda: _all_wait(reader), "a wait is open on every host")
            sender._pipeline.turns = itertools.count(order.index(shard))
            began = time.monotonic()
            await sender.send("jobs", {"n": shard})
            assert number(await asyncio.wait_for(receiving, BOUND)) == shard
            slowest = max(slowest, time.monotonic() - began)
            assert await receive_or_none(reader, "jobs", 0.0) is None
        assert slowest < 1.0


async def _all_wait(reader: ChannelLayer) -> bool:
    work = reader._background.work
    consumer = work._consumers.get("jobs") if work is not None else None
    return consumer is not None and len(consumer._waits) == len(reader._pipeline.routes.ring)


@pytest.mark.parametrize("hosts", [1, 3])
async def test_waiting_costs_no_commands(start_server: StartServer, hosts: int) -> None:
    """While receive() waits on channels of every kind and nothing is sent, the servers get no commands."""
    servers = [start_server() for _ in range(hosts)]
    system = System(Deployment(tuple(server.host() for server in servers)), fresh_prefix())

    async with system.layer() as reader:
        owned = await reader.new_channel()
        names = ["jobs", "more.jobs", "reply?x", "daemon!x", owned]
        receiving = [asyncio.create_task(reader.receive(name)) for name in names]
        await eventually(lambda: _calm(servers), "every connection waits")
        before = await asyncio.to_thread(_commands, servers)
        await asyncio.sleep(1)  # what the test proves: a second without commands
        after = await asyncio.to_thread(_commands, servers)
        for name in names:
            await reader.send(name, {"name": name})
        assert [m["name"] for m in await asyncio.gather(*receiving)] == names  # the receivers did wait
        assert after == before


async def _calm(servers: list[Server]) -> bool:
    """Return whether the server got no command but this test's own for a tenth of a second."""
    before = await asyncio.to_thread(_commands, servers)
    await asyncio.sleep(0.1)
    return before == await asyncio.to_thread(_commands, servers)


def _commands(servers: list[Server]) -> Counter[str]:
    """Return how often each command was run, without those that ask for this."""
    ours = {"info", "client", "hello", "select", "command"}
    counted = Counter[str]()
    for server in servers:
        for name, facts in server.host().info("commandstats").items():
            command = name.removeprefix("cmdstat_")
            if command.split("|")[0] not in ours and isinstance(facts, dict):
                counted[command] += facts["calls"]
    return counted
