"""Slots that move and primaries that fail, on real Clusters under load: nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_redis._slots import slot_of, tags
from channel_layer_redis._store import RedisBackend
from tests.support.clusters import Cluster, StartCluster
from tests.support.servers import Server, ServerKind

pytestmark = pytest.mark.usefixtures("settled")

PARTITIONS = 16
TIMEOUT = 5.0
PATIENCE = 30.0
KINDS = [ServerKind.VALKEY, ServerKind.REDIS]


async def await_in_loop(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds.

    Raises:
        TimeoutError: it does not for a long time.
    """
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.02)


@dataclass
class Account:
    """What was sent over a Cluster and what came, of each way.

    Attributes:
        accepted: the numbers that were accepted, by way, in order.
        unknown: those of which it is not known.
        refused: those that were refused.
        came: those that were received, by way and receiver, in order.
    """

    accepted: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    unknown: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    refused: dict[str, set[int]] = field(default_factory=dict[str, set[int]])
    came: dict[str, list[int]] = field(default_factory=dict[str, list[int]])

    def check(self, *, strict: bool = True) -> None:
        """Check that all that was accepted came, once, in order; strictly also that all was accepted."""
        for way, accepted in self.accepted.items():
            unknown, refused = self.unknown[way], self.refused[way]
            assert not (strict and unknown), f"{way}: {sorted(unknown)} are unknown"
            assert not (strict and refused), f"{way}: {sorted(refused)} were refused"
            for receiver, came in self.came.items():
                if receiver.startswith(f"{way}>"):
                    assert len(set(came)) == len(came), f"{receiver}: doubled"
                    assert came == sorted(came), f"{receiver}: out of order"
                    assert not set(came) & refused, f"{receiver}: what was refused came"
                    assert not set(accepted) - set(came), f"{receiver}: lost {sorted(set(accepted) - set(came))[:20]}"

    def came_all(self) -> bool:
        """Whether each receiver has the last that was accepted."""
        return all(
            bool(came) and came[-1] >= self.accepted[receiver.partition(">")[0]][-1]
            for receiver, came in self.came.items()
        )


class Traffic:
    """Messages that flow all the time: direct ones, to groups, and to a worker; one process sends, another receives."""

    def __init__(self, sender: ChannelLayer, receiver: ChannelLayer) -> None:
        self.account = Account()
        self._sender = sender
        self._receiver = receiver
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []
        self._sending: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        for n in range(3):
            name = await self._receiver.new_channel()
            self._begin(f"direct {n}", self._send_to(name), [name])
            members = [await self._receiver.new_channel() for _ in range(2)]
            for member in members:
                await self._receiver.group_add(f"group-{n}", member)
            self._begin(f"group {n}", self._send_to_group(f"group-{n}"), members)
        for n in range(4):
            self._begin(f"worker {n}", self._send_to(f"jobs-{n}"), [f"jobs-{n}"])
        self._begin_thread()
        await self.flows(20)

    async def flows(self, count: int) -> None:
        """Return once so many more messages of each way have come."""
        until = {receiver: len(came) + count for receiver, came in self.account.came.items()}
        await await_in_loop(lambda: all(len(self.account.came[each]) >= wanted for each, wanted in until.items()))

    async def stop(self) -> Account:
        """Stop sending, and return the account once all has come."""
        self._stopping = True
        await asyncio.gather(*self._sending)
        with contextlib.suppress(TimeoutError):
            await await_in_loop(self.account.came_all)
        return self.account

    async def cancel(self) -> None:
        """End all at once."""
        tasks = [*self._sending, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _send_to(self, channel: str) -> Callable[[int], Awaitable[object]]:
        return lambda n: self._sender.send(channel, {"n": n})

    def _send_to_group(self, group: str) -> Callable[[int], Awaitable[object]]:
        return lambda n: self._sender.group_send(group, {"n": n})

    def _begin_thread(self) -> None:
        """A thread sends to a worker, too."""
        blocking = self._sender.blocking
        self._begin("thread", lambda n: asyncio.to_thread(blocking.send, "of-thread", {"n": n}), ["of-thread"])

    def _begin(self, way: str, send: Callable[[int], Awaitable[object]], channels: list[str]) -> None:
        self.account.accepted[way], self.account.unknown[way], self.account.refused[way] = [], set(), set()
        self._sending.append(asyncio.create_task(self._send(way, send)))
        for channel in channels:
            came = self.account.came[f"{way}>{channel}"] = []
            self._tasks.append(asyncio.create_task(self._receive(channel, came)))

    async def _send(self, way: str, send: Callable[[int], Awaitable[object]]) -> None:
        n = 0
        while not self._stopping or not self.account.accepted[way]:
            n += 1
            try:
                await send(n)
                self.account.accepted[way].append(n)
            except ChannelFull:
                self.account.refused[way].add(n)
            except StoreError as exc:
                (self.account.refused if exc.outcome == "not_sent" else self.account.unknown)[way].add(n)
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.001)

    async def _receive(self, channel: str, came: list[int]) -> None:
        while True:
            number = (await self._receiver.receive(channel))["n"]
            assert isinstance(number, int)
            came.append(number)


@asynccontextmanager
async def flowing(cluster: Cluster) -> AsyncGenerator[Traffic]:
    """Have messages flow over a Cluster between two layers."""
    rules = make_rules(capacity=10_000, timeout=TIMEOUT)
    clock = VirtualClock()

    def layer() -> ChannelLayer:
        return ChannelLayer(rules, RedisBackend((cluster.hosts(PARTITIONS),), rules, clock), clock=clock)

    async with layer() as sender, layer() as receiver:
        traffic = Traffic(sender, receiver)
        try:
            await traffic.start()
            yield traffic
        finally:
            await traffic.cancel()


SLOTS = [slot_of(tag) for tag in tags(PARTITIONS)]


def lines(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    """Return what the layers have logged at a level."""
    return [each.getMessage() for each in caplog.records if (each.name, each.levelno) == ("channel_layer", level)]


def served(node: Server, lines: list[str]) -> int:
    """Return how many lines say that a node now serves slots."""
    return sum(f"127.0.0.1:{node.port} now serves " in line for line in lines)


def _is_told(caplog: pytest.LogCaptureFixture, node: Server) -> bool:
    return served(node, lines(caplog, logging.INFO)) > 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_slots_move_key_by_key_under_load(
    start_cluster: StartCluster, kind: ServerKind, caplog: pytest.LogCaptureFixture
) -> None:
    """While each slot is moved to a new node, and back, all arrives once and in order, and nothing is refused."""
    caplog.set_level(logging.INFO, "channel_layer")
    cluster = await asyncio.to_thread(start_cluster, kind)
    async with flowing(cluster) as traffic:
        node = await asyncio.to_thread(cluster.add_node)
        first = cluster.nodes[0]
        for target in (node, first):
            for slot in SLOTS[:8]:
                await asyncio.to_thread(cluster.move_slots, [slot], target)
            await await_in_loop(partial(_is_told, caplog, target))
            await traffic.flows(10)
        account = await traffic.stop()
    account.check()
    assert lines(caplog, logging.WARNING) == []


async def test_slots_move_at_once_under_load(start_cluster: StartCluster, caplog: pytest.LogCaptureFixture) -> None:
    """While most slots of a node are migrated to a new one, and back, all arrives once and in order."""
    caplog.set_level(logging.INFO, "channel_layer")
    cluster = await asyncio.to_thread(start_cluster, ServerKind.VALKEY)
    async with flowing(cluster) as traffic:
        node = await asyncio.to_thread(cluster.add_node)
        slots = cluster.slots_of(cluster.nodes[0])[:-100]  # without any it would become a replica
        for target in (node, cluster.nodes[0]):
            await asyncio.to_thread(cluster.migrate_slots, slots[0], slots[-1], target)
            await await_in_loop(partial(_is_told, caplog, target))
            await traffic.flows(10)
        account = await traffic.stop()
    account.check()
    assert lines(caplog, logging.WARNING) == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_a_replica_takes_over_under_load(start_cluster: StartCluster, kind: ServerKind) -> None:
    """While each primary in turn hands over to its replica, all arrives once and in order, and nothing is refused."""
    cluster = await asyncio.to_thread(start_cluster, kind, replicas=1)
    async with flowing(cluster) as traffic:
        for primary in cluster.nodes[:3]:
            await asyncio.to_thread(cluster.fail_over, primary)
            await traffic.flows(10)
        account = await traffic.stop()
    account.check()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_a_primary_dies_under_load(
    start_cluster: StartCluster, kind: ServerKind, caplog: pytest.LogCaptureFixture
) -> None:
    """After a primary was killed its replica serves, and whatever was sent then arrives once and in order.

    The log has a line for the primary that is lost, one for the replica, and one with the seconds.
    """
    caplog.set_level(logging.INFO, "channel_layer")
    cluster = await asyncio.to_thread(start_cluster, kind, replicas=1, node_timeout=1500)
    async with flowing(cluster) as traffic:
        cluster.nodes[0].kill()
        await await_in_loop(lambda: all(map(cluster.is_primary, cluster.nodes[1:4])))
        await traffic.flows(10)
        lost = f"127.0.0.1:{cluster.nodes[0].port}/0"
        over = f"what {lost} served can be used again, after "
        await await_in_loop(lambda: any(line.startswith(over) for line in lines(caplog, logging.INFO)))
        account = await traffic.stop()
    begun = [line for line in lines(caplog, logging.WARNING) if line.startswith(f"cannot use {lost}: ")]
    assert len(begun) == 1
    assert served(cluster.nodes[3], lines(caplog, logging.INFO)) == 2  # there are two layers
    for receiver, came in account.came.items():
        assert len(set(came)) == len(came), receiver
        assert came == sorted(came), receiver


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.value)
async def test_no_script_ends_halfway_while_its_slot_moves(start_cluster: StartCluster, kind: ServerKind) -> None:
    """Taking the last message of a queue, whose keys are gone then, loses nothing at a node that the slot leaves."""
    cluster = await asyncio.to_thread(start_cluster, kind)
    store = RedisBackend((cluster.hosts(PARTITIONS),), make_rules(timeout=TIMEOUT), VirtualClock()).open()
    try:
        channel = ChannelName.parse("jobs")
        await store.execute(c.Push(0, channel, 10, b"0"))
        await store.execute(c.Pop(0, channel.queue, 10, "me"))  # what a reader takes is recorded: every key is there
        await store.execute(c.Push(0, channel, 10, b"1", to_member=True))
        source = cluster.owner(SLOTS[0])
        target = next(node for node in cluster.nodes if node is not source)
        await asyncio.to_thread(cluster.begin_move, SLOTS[0], source, target)
        popped = await store.execute(c.Pop(0, channel.queue, 10, "me"))
        assert len(popped.entries) == 1
        await asyncio.to_thread(cluster.end_move, SLOTS[0], target)
        assert (await store.execute(c.Pop(0, channel.queue, 10, "me"))).entries == ()
    finally:
        await store.aclose()
