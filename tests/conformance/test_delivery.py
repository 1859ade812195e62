"""A message gets where it was sent: to the owner of its queue, in order, once, and as it was when it was sent.

Every store has to keep these promises alike, so each test runs on memory, on one host and on three.
"""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_layer import ChannelFull, ChannelLayer
from channel_layer.names import ChannelName, Queue
from tests.property.strategies import channel_names
from tests.support.scenarios_delivery import (
    BOUND,
    drain,
    eventually,
    number,
    receive_or_none,
    send_patiently,
)
from tests.support.servers import Deployment, Server, ServerPool, StartServer, fresh_prefix
from tests.support.systems import System, run

ORDERED = ("single-reader", "process-specific", "claimed")


async def _channel(kind: str, owner: ChannelLayer) -> str:
    """A channel of a kind; one that is owned belongs to *owner*."""
    fixed = {"normal": "jobs", "single-reader": "reply?x", "claimed": "daemon!x", "unread": "nobody!x"}
    return fixed[kind] if kind in fixed else await owner.new_channel()


# --- order --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
def test_what_one_writer_sends_is_received_in_order(system: System) -> None:
    """One writer's messages to one channel come in the order of its sends, direct and through groups mixed."""

    async def body() -> None:
        async with system.layer(capacity=1000) as owner, system.layer(capacity=1000) as writer:
            channels = [await _channel(kind, owner) for kind in ORDERED]
            groups = [f"group{place}" for place in range(6)]  # on all hosts
            for place, group in enumerate(groups):
                for channel in channels:
                    await (owner if place % 2 else writer).group_add(group, channel)

            async def write(channel: str) -> None:
                for n in range(100):
                    if n % 3:
                        await writer.send(channel, {"n": n, "to": channel})
                    else:
                        await writer.group_send(random.choice(groups), {"n": n, "to": channel})

            async def read(channel: str) -> list[int]:
                messages = [await owner.receive(channel) for _ in range(168)]
                return [number(message) for message in messages if message["to"] == channel]

            async with asyncio.timeout(BOUND), asyncio.TaskGroup() as tasks:
                readers = [tasks.create_task(read(channel)) for channel in channels]
                for channel in channels:
                    tasks.create_task(write(channel))
            for channel, reader in zip(channels, readers, strict=True):
                assert reader.result() == list(range(100)), channel

    run(body())


def test_a_backlog_keeps_its_order(system: System) -> None:
    """Messages that wait, in the store or in a mailbox, are received in the order in which they were sent."""

    async def body() -> None:
        async with system.layer(capacity=300) as owner, system.layer(capacity=300) as writer:
            # 300: more than one read of an inbox brings.
            for kind, count in (("single-reader", 30), ("process-specific", 300), ("claimed", 30)):
                channel = await _channel(kind, owner)
                for n in range(count):
                    await writer.send(channel, {"n": n})
                assert [number(await owner.receive(channel)) for _ in range(count)] == list(range(count))

    run(body())


# --- one owner ----------------------------------------------------------------------------------------------


def _system(pool: ServerPool, name: str) -> System:
    hosts = tuple(pool.get().host(db) for db in range(1 if name == "one-host" else 3))
    return System(None if name == "memory" else Deployment(hosts), fresh_prefix())


@pytest.mark.redis
@pytest.mark.parametrize("store", ["memory", "one-host", "three-databases"])
@settings(max_examples=15)
@given(names=st.lists(channel_names(), min_size=1, max_size=8, unique_by=lambda name: ChannelName.parse(name).queue))
def test_send_and_receive_meet_whatever_the_name(server_pool: ServerPool, store: str, names: list[str]) -> None:
    """A message to any valid name reaches a receive() of that name in another process: both find the same host."""
    system = _system(server_pool, store)

    async def body() -> None:
        async with system.layer() as sender, system.layer() as reader:
            for name in names:
                await sender.send(name, {"name": name})
            for there in (True, False):  # what is there already, then what receive() has to wait for
                waiting = [asyncio.create_task(reader.receive(name)) for name in names]
                await asyncio.sleep(0)
                if not there:
                    for name in names:
                        await sender.send(name, {"name": name})
                received = await asyncio.wait_for(asyncio.gather(*waiting), BOUND)
                assert [message["name"] for message in received] == names

    run(body())
    for host in system.deployment.hosts if system.deployment is not None else ():
        host.remove(system.prefix)


@pytest.mark.redis
@pytest.mark.parametrize("store", ["memory", "three-databases"])
@settings(max_examples=10)
@given(prefixes=st.lists(st.text("aB9-_.", min_size=1, max_size=60), min_size=1, max_size=5, unique=True))
def test_a_minted_channel_is_reached_whatever_its_prefix(
    server_pool: ServerPool, store: str, prefixes: list[str]
) -> None:
    """A message to a channel made by new_channel() reaches its maker, wherever the hosts' order puts its inbox."""
    system = _system(server_pool, store)

    async def body() -> None:
        async with system.layer() as sender, system.layer() as owner:
            names = [await owner.new_channel(prefix) for prefix in prefixes]
            for name in names:
                await sender.send(name, {"name": name})
                assert await asyncio.wait_for(owner.receive(name), BOUND) == {"name": name}

    run(body())
    for host in system.deployment.hosts if system.deployment is not None else ():
        host.remove(system.prefix)


def test_a_queue_is_found_whatever_the_order_of_the_hosts(three_hosts: Deployment, prefix: str) -> None:
    """Two processes that are given the same hosts in another order still meet on every channel."""
    forward, backward = System(three_hosts, prefix), System(Deployment(three_hosts.hosts[::-1]), prefix)

    async def body() -> None:
        async with forward.layer() as sender, backward.layer() as owner:
            names = [await owner.new_channel(f"p{place}") for place in range(8)]
            names += [f"reply?{place}" for place in range(8)]
            for name in names:
                await sender.send(name, {"name": name})
                assert await asyncio.wait_for(owner.receive(name), BOUND) == {"name": name}

    run(body())


def test_a_normal_channel_listens_to_every_host_at_once(redis_system: System) -> None:
    """A message on any host wakes a receive() that already waits, without a poll: in a small part of a second."""
    deployment = redis_system.deployment
    assert deployment is not None

    async def body() -> None:
        shards = range(redis_system.shards)
        async with redis_system.layer() as sender, redis_system.layer() as reader:
            order = sender._routes.shards(Queue("jobs", ChannelName.parse("jobs").queue.kind))
            assert sorted(order) == list(shards)
            slowest = 0.0
            for shard in [*shards, *reversed(shards)] * 3:
                receiving = asyncio.create_task(reader.receive("jobs"))
                await eventually(lambda: _all_wait(reader), "a wait is open on every host")
                sender._turns = itertools.count(order.index(shard))
                began = time.monotonic()
                await sender.send("jobs", {"n": shard})
                assert number(await asyncio.wait_for(receiving, BOUND)) == shard
                slowest = max(slowest, time.monotonic() - began)
                assert await receive_or_none(reader, "jobs", 0.0) is None
            assert slowest < 1.0

    run(body())


async def _all_wait(reader: ChannelLayer) -> bool:
    host = reader._host
    pump = host._pumps.get("jobs") if host is not None else None
    return pump is not None and len(pump._waits) == len(reader._routes.ring)


@pytest.mark.parametrize("hosts", [1, 3])
def test_waiting_costs_no_commands(start_server: StartServer, hosts: int) -> None:
    """While receive() waits on channels of every kind and nothing is sent, the servers are asked for nothing."""
    servers = [start_server() for _ in range(hosts)]
    system = System(Deployment(tuple(server.host() for server in servers)), fresh_prefix())

    async def body() -> None:
        async with system.layer() as reader:
            owned = await reader.new_channel()
            names = ["jobs", "more.jobs", "reply?x", "daemon!x", owned]
            receiving = [asyncio.create_task(reader.receive(name)) for name in names]
            await eventually(lambda: _calm(servers), "every connection waits")
            before = await asyncio.to_thread(_commands, servers)
            await asyncio.sleep(1)  # the very thing that is claimed: a second in which nothing happens
            after = await asyncio.to_thread(_commands, servers)
            for name in names:
                await reader.send(name, {"name": name})
            assert [m["name"] for m in await asyncio.gather(*receiving)] == names  # they did wait
            assert after == before

    run(body())


async def _calm(servers: list[Server]) -> bool:
    """Whether nothing but our own question has been asked for a tenth of a second."""
    before = await asyncio.to_thread(_commands, servers)
    await asyncio.sleep(0.1)
    return before == await asyncio.to_thread(_commands, servers)


def _commands(servers: list[Server]) -> Counter[str]:
    """How often each command was carried out, but for those by which we ask."""
    ours = {"info", "client", "hello", "select", "command"}
    counted = Counter[str]()
    for server in servers:
        for name, facts in server.host().info("commandstats").items():
            command = name.removeprefix("cmdstat_")
            if command.split("|")[0] not in ours and isinstance(facts, dict):
                counted[command] += facts["calls"]
    return counted


# --- at most once -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
def test_competing_workers_share_without_doubling(system: System) -> None:
    """Each message on a normal channel goes to exactly one of many receivers in several processes."""

    async def body() -> None:
        workers = [system.layer(capacity=20) for _ in range(4)]
        seen: list[int] = []
        complete = asyncio.Event()

        async def receive_all(layer: ChannelLayer) -> None:
            while True:
                seen.append(number(await layer.receive("jobs")))
                if len(seen) >= 400:
                    complete.set()

        async with system.layer(capacity=20) as sender:
            receiving = [asyncio.create_task(receive_all(layer)) for layer in workers for _ in range(5)]
            for start in range(0, 400, 10):
                await asyncio.gather(*(send_patiently(sender, "jobs", {"n": start + n}) for n in range(10)))
            await asyncio.wait_for(complete.wait(), BOUND)
            for task in receiving:
                task.cancel()
            await asyncio.gather(*receiving, return_exceptions=True)
            for layer in workers:
                await layer.aclose()
            assert await drain(sender, "jobs") == []
        assert sorted(seen) == list(range(400))

    run(body())


def test_one_process_s_receivers_take_turns(system: System) -> None:
    """Receivers that wait for one channel are served one message each, the longest waiting first."""

    async def body() -> None:
        async with system.layer() as layer, system.layer() as sender:
            for channel in ("jobs", "reply?x", "daemon!x", await layer.new_channel()):
                waiting = [asyncio.create_task(layer.receive(channel)) for _ in range(5)]
                for _ in range(10):
                    await asyncio.sleep(0)
                for n in range(5):
                    await sender.send(channel, {"n": n})
                    assert number(await asyncio.wait_for(waiting[n], BOUND)) == n

    run(body())


# --- neighbours ---------------------------------------------------------------------------------------------


def test_a_full_mailbox_costs_its_quiet_neighbour_nothing(system: System) -> None:
    """While one channel of a process is full of direct and group messages, its neighbour gets every message."""

    async def body() -> None:
        async with system.layer(capacity=10) as owner, system.layer(capacity=10) as sender:
            full, quiet = await owner.new_channel(), await owner.new_channel()
            for group in ("loud", "mixed"):
                await owner.group_add(group, full)
            await owner.group_add("mixed", quiet)
            for n in range(10):
                await sender.send(full, {"n": n})
            received: list[int] = []
            for n in range(0, 120, 2):
                with pytest.raises(ChannelFull):
                    await sender.send(full, {"n": -1})
                await sender.group_send("loud", {"n": -2})
                await sender.send(quiet, {"n": n})
                await sender.group_send("mixed", {"n": n + 1})
                received += [number(await asyncio.wait_for(owner.receive(quiet), BOUND)) for _ in range(2)]
            assert received == list(range(120))
            found = await owner.statistics()
            assert found.dropped == {"full": 60 + 60 - 10}  # of 120 group messages the full one holds its 10
            assert [number(await owner.receive(full)) for _ in range(10)] == list(range(10))

    run(body())


@pytest.mark.slow
@pytest.mark.parametrize("system", ["memory", "one-host", "three-servers"], indirect=True)
def test_a_steady_consumer_beside_churning_ones_gets_everything(system: System) -> None:
    """Of 1 500 group messages, 50 outstanding at most, a consumer misses none while 20 siblings come and go."""

    async def body() -> None:
        async with system.layer() as consumers, system.layer() as sender:
            steady = await consumers.new_channel()
            await consumers.group_add("room", steady)
            received: list[int] = []
            room = asyncio.Semaphore(50)

            async def listen() -> None:
                while len(received) < 1500:
                    received.append(number(await consumers.receive(steady)))
                    room.release()

            async def churn(dice: random.Random) -> None:
                while True:
                    name = await consumers.new_channel()
                    await consumers.group_add("room", name)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(dice.uniform(0.002, 0.008)):
                            while True:
                                await consumers.receive(name)
                    await consumers.group_discard("room", name)
                    await asyncio.sleep(dice.uniform(0.002, 0.008))

            churning = [asyncio.create_task(churn(random.Random(random.random()))) for _ in range(20)]
            listening = asyncio.create_task(listen())
            for n in range(1500):
                await asyncio.wait_for(room.acquire(), BOUND)
                await sender.group_send("room", {"n": n})
            await asyncio.wait_for(listening, BOUND)
            for task in churning:
                assert not task.done()
                task.cancel()
            await asyncio.gather(*churning, return_exceptions=True)
            assert received == list(range(1500))

    asyncio.run(body())


# --- whose object it is -------------------------------------------------------------------------------------


def test_what_the_caller_does_to_a_sent_message_changes_nothing(system: System) -> None:
    """send() and group_send() take a copy: changing the message afterwards, however deep, has no effect."""

    async def body() -> None:
        async with system.layer() as layer:
            for channel in ("jobs", "reply?x", "daemon!x", await layer.new_channel()):
                await layer.group_add("group", channel)
                inner: list[object] = [1, {"deep": b"1"}]
                message: dict[str, object] = {"type": "a", "inner": inner}
                sending = asyncio.create_task(layer.send(channel, message))
                await asyncio.sleep(0)
                message["type"] = "b"  # while it is on its way
                inner.append(2)
                await sending
                await layer.group_send("group", message)
                inner.clear()
                message.clear()
                received = [await layer.receive(channel), await layer.receive(channel)]
                received.sort(key=lambda message: str(message["type"]))  # a spread channel promises no order
                assert received[0] == {"type": "a", "inner": [1, {"deep": b"1"}]}
                assert received[1] == {"type": "b", "inner": [1, {"deep": b"1"}, 2]}
                await layer.group_discard("group", channel)

    run(body())


def test_receivers_of_one_group_message_share_nothing(system: System) -> None:
    """What one recipient of a group message does to it, no other sees, however deep it is."""

    async def body() -> None:
        async with system.layer() as layer, system.layer() as other:
            names = [await layer.new_channel() for _ in range(3)] + [await other.new_channel(), "jobs", "daemon!x"]
            for name in names:
                owner = other if name == names[3] else layer
                await owner.group_add("group", name)
            sent = {"list": [1, [2]], "dict": {"a": {"b": 1}}}
            await layer.group_send("group", sent)
            for name in names:
                message = await (other if name == names[3] else layer).receive(name)
                assert message == {"list": [1, [2]], "dict": {"a": {"b": 1}}}
                _spoil(message)
            assert sent == {"list": [1, [2]], "dict": {"a": {"b": 1}}}

    run(body())


def _spoil(message: Mapping[str, object]) -> None:
    match message:
        case {"list": [_, list(inner)], "dict": {"a": dict(deep)}}:  # pyright: ignore[reportUnknownVariableType]
            inner.append(3)  # pyright: ignore[reportUnknownMemberType]
            deep["b"] = 2
        case _:
            raise AssertionError(message)
