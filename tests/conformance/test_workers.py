"""Workers that are killed, or end while they hold messages, cost the others nothing and double nothing."""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from channel_layer import commands as c
from channel_layer.domain.frames import read_message
from channel_layer.domain.mailbox import Item, QueueBuffer
from channel_layer.domain.names import ChannelName
from channel_layer.runtime.background_tasks import BackgroundTasks
from channel_layer.runtime.queue_consumer import QueueConsumer
from channel_layer.testing.suites.tools import drain, receive_or_none
from tests.support.processes import Fleet, is_alive, wait_for_end
from tests.support.scenarios_delivery import Flow, eventually, site, work
from tests.support.scenarios_workers import Shipment, die_when_called, ship
from tests.support.servers import Deployment
from tests.support.systems import System

MESSAGES = 20_000
PATIENCE = 120.0
"""Seconds for what many thousand messages take on a busy machine."""

PROMPT = 5.0
"""Seconds: far more than being called takes, far less than the 20 s after which one who waits looks by himself."""


@pytest.mark.slow
@pytest.mark.parametrize("redis_system", ["one-host", "three-servers"], indirect=True)
@pytest.mark.parametrize("receivers", [1, 8])
def test_a_killed_worker_loses_one_message_a_receiver_at_most(redis_system: System, receivers: int) -> None:
    """Of 20 000 messages to 4 workers, one shot anywhere, none comes twice; one for each of its receivers may miss."""
    where = site(redis_system, capacity=500)
    with Fleet() as fleet:
        workers = [fleet.spawn(work, Flow(where, "jobs", receivers)) for _ in range(4)]
        half = MESSAGES // 2
        shippers = [fleet.spawn(ship, Shipment(where, "jobs", first, half)) for first in (0, half)]
        fleet.go()
        victim = workers.pop(random.randrange(4))
        victim.wait_progress(random.randint(1, 3000), PATIENCE)
        victim.kill9()
        for shipper in shippers:
            shipper.result(PATIENCE)

        async def finish() -> list[int]:
            async with redis_system.layer() as layer:

                async def all_taken() -> bool:
                    return (await layer.statistics("jobs")).messages_pending == 0

                await eventually(all_taken, "the channel is empty")
                for worker in workers:
                    await asyncio.to_thread(worker.go)
                    await asyncio.to_thread(worker.result)
                return await drain(layer, "jobs")  # what a survivor had popped when he was told to stop

        rest = asyncio.run(finish())
        seen = Counter(rest)
        for worker in (victim, *workers):
            seen.update(map(int, worker.journal()))
    assert seen.total() == len(seen), "a message was seen twice"
    assert seen.keys() <= set(range(MESSAGES))
    assert MESSAGES - receivers <= len(seen) <= MESSAGES


def test_a_call_that_died_with_a_worker_strands_no_message(redis_system: System) -> None:
    """A worker killed between its call and its pop has taken no message: another one gets it at his next look."""
    deployment = redis_system.deployment
    assert deployment is not None
    where = site(redis_system, expiry=6)  # who waits looks after a third of it
    with Fleet() as fleet:
        victim = fleet.spawn(
            die_when_called, Flow(site(redis_system, expiry=60), "jobs")
        )  # he is to die of nothing else
        victim.go()
        asyncio.run(_waits(deployment, 1))
        survivor = fleet.spawn(work, Flow(where, "jobs"))
        survivor.go()
        asyncio.run(_waits(deployment, 2))  # the victim, who came first, is called first

        async def send() -> None:
            async with redis_system.layer(expiry=6) as layer:
                await layer.send("jobs", {"n": 1})

        began = time.monotonic()
        asyncio.run(send())
        wait_for_end(victim.pid)
        survivor.wait_progress(1)
        took = time.monotonic() - began
        survivor.go()
        assert survivor.result() == 1
        assert survivor.journal() == ["1"]
        assert not is_alive(victim.pid)
        victim.kill9()  # so that the fleet takes its death for intended
    assert took < 2.0 + PROMPT


async def _waits(deployment: Deployment, workers: int) -> None:
    """Wait until so many workers wait on every host."""
    wanted = workers * len(deployment.hosts)

    async def all_wait() -> bool:
        clients = [client for server in deployment.servers for client in server.host().clients()]
        return sum(client["cmd"] == "blpop" and "b" in client["flags"] for client in clients) >= wanted

    await eventually(all_wait, f"{workers} wait on every host")


@pytest.mark.parametrize("steps", range(4))
async def test_what_is_being_put_back_arrives_though_its_worker_ends(redis_system: System, steps: int) -> None:
    """Messages on their way back to every host are there again, though a cancellation meets them on the way.

    The servers have just lost their scripts, which makes the way longer.
    """
    deployment = redis_system.deployment
    assert deployment is not None

    shards = range(redis_system.shards)
    queue = ChannelName.parse("jobs").queue
    async with redis_system.layer() as layer, redis_system.layer() as other:
        await receive_or_none(layer, "jobs")  # which leaves a consumer that lingers, in this loop
        store = layer._backend.open()
        for n in shards:
            await layer.send("jobs", {"n": n})  # on each host in turn
        buffer = QueueBuffer(queue, layer._rules.capacity, layer._state.counters)
        for shard in shards:
            popped = await store.execute(c.Pop(shard, queue, 1, "me"))
            await store.execute(c.PutBack(shard, queue, ()))  # there is a connection
            for entry in popped.entries:
                _, payload = read_message(entry.frame)
                buffer.box("jobs", 0.0).put(Item(layer._pipeline.clock.now() + 60, payload, "", (shard, entry)))
        assert sum(len(box.items) for box in buffer.boxes.values()) == len(shards)
        for host in deployment.hosts:
            await asyncio.to_thread(host.command, "SCRIPT", "FLUSH")
        consumer = QueueConsumer(buffer, layer._state, BackgroundTasks(store))
        returning = asyncio.create_task(consumer._return_surplus())
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps:
            returning.cancel()
        await asyncio.gather(returning, return_exceptions=True)
        assert sorted(await drain(other, "jobs")) == list(shards)
        await store.aclose()


async def test_background_work_that_is_ended_twice_returns_what_it_holds(
    redis_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message popped for a receiver that has gone is put back, though aclose() comes while the work is moving."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
    queue = ChannelName.parse("jobs").queue

    async with redis_system.layer() as other:
        for steps in range(12):
            layer = redis_system.layer()
            await receive_or_none(layer, "jobs", 0.02)  # which leaves a consumer that lingers
            work = layer._background.work
            assert work is not None
            await other.send("jobs", {"n": steps})
            for shard in range(redis_system.shards):
                popped = await work.session.store.execute(c.Pop(shard, queue, 1, "me"))
                for entry in popped.entries:
                    _, payload = read_message(entry.frame)
                    box = layer._state.buffers["jobs"].box("jobs", 0.0)
                    box.put(Item(layer._pipeline.clock.now() + 60, payload, "", (shard, entry)))
            first = asyncio.create_task(work.stop())
            for _ in range(steps):
                await asyncio.sleep(0)
            first.cancel()
            await work.stop()
            await asyncio.gather(first, return_exceptions=True)
            assert await receive_or_none(other, "jobs", 3.0) == {"n": steps}
            await layer.aclose()
