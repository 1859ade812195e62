"""Redirections by the nodes of a Cluster, scripted: each command is carried out once, and in its order."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from channel_layer import StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_redis import _cluster, _cluster_client
from channel_layer_redis._slots import slot_of, tags
from channel_layer_redis._store import RedisBackend, RedisStore
from channel_layer_redis.addresses import ClusterNodes, TCPAddress
from tests.support.fake_cluster import SILENCE, FakeCluster, fake_cluster
from tests.support.scenarios_groups import eventually, is_true

TIMEOUT = 3.0
SLOT = slot_of(tags(2)[0])
MOVED = f"MOVED {SLOT} 127.0.0.1:{{1}}"
BACK = f"MOVED {SLOT} 127.0.0.1:{{0}}"
ASK = f"ASK {SLOT} 127.0.0.1:{{1}}"
TRYAGAIN = "TRYAGAIN Multiple keys request during rehashing of slot"
DOWN = "CLUSTERDOWN The cluster is down"
UNBLOCKED = "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"
HALF = "ERR Script attempted to access a non local key in a cluster node script: 0, on @user_script:9."

JOBS = ChannelName.parse("jobs")
MAIL = ChannelName.parse("specific.me!x")
INBOX = Queue("specific.me!", Kind.INBOX)

WAYS: dict[str, tuple[list[str], list[str]]] = {
    "moved at once": ([MOVED] * 500, []),
    "moved after some": ([""] * 7 + [MOVED] * 500, []),
    "moved, which the new node does not know yet": ([MOVED] * 500, [BACK] * 3),
    "asked, then moved": ([ASK] * 9 + [MOVED] * 500, []),
    "asked, and not there yet": ([ASK] * 3 + [MOVED] * 500, [TRYAGAIN] * 2),
    "split between the nodes": ([TRYAGAIN] * 3 + [ASK] * 2 + [TRYAGAIN] + [MOVED] * 500, []),
    "split, and together again": ([TRYAGAIN] * 5, []),
    "down for a moment": ([DOWN] * 4, []),
    "down, then elsewhere": ([DOWN] * 2 + [MOVED] * 500, [DOWN]),
    "a script met a key that was gone": (["", HALF, HALF] + [MOVED] * 500, []),
    "its place unknown": ([f"MOVED {SLOT} ?:{{1}}"] * 2 + [f"MOVED {SLOT} :{{1}}"] * 500, []),
}

COULD_BE_SERVED = ("split, and together again", "down for a moment")
"""Ways in which the node that refused a command serves one that was on its way to it already."""


@asynccontextmanager
async def opened(cluster: FakeCluster) -> AsyncGenerator[RedisStore]:
    """Open a store on a Cluster of two partitions."""
    store = RedisBackend((cluster.hosts(),), make_rules(timeout=TIMEOUT), VirtualClock()).open()
    try:
        yield store
    finally:
        await store.aclose()


def numbers(cluster: FakeCluster) -> list[int]:
    """Return the payloads that were carried out, in order."""
    return [int(found) for _, _, command in cluster.served for found in re.findall(rb"#(\d+)#", b" ".join(command))]


def parts(command: list[bytes]) -> object:
    """Reply to a push into an inbox: for each message, if there are several."""
    count = (len(command) - 3 - int(command[2]) - 4) // 2
    return 0 if count == 1 else [0] * count


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("channel", [JOBS, MAIL], ids=["queue", "inbox"])
async def test_redirected_messages_keep_their_order(way: str, channel: ChannelName) -> None:
    """Whatever the nodes say, and at whatever moment more is sent, each message is stored once, in the order sent."""
    async with fake_cluster(*WAYS[way]) as cluster, opened(cluster) as store:
        cluster.reply = parts if channel is MAIL else lambda _: 0
        sent: list[asyncio.Task[c.Pushed]] = []
        for n in range(120):
            sent.append(asyncio.create_task(_push(store, channel, n)))
            if n % 5 == 4:
                await asyncio.sleep(0)
            if n % 40 == 39:
                await sent[-30]  # a reply or two has come meanwhile
        assert all(pushed.accepted for pushed in await asyncio.gather(*sent))
        served = numbers(cluster)
        assert (sorted(served) if way in COULD_BE_SERVED else served) == list(range(120))


async def _push(store: RedisStore, channel: ChannelName, n: int) -> c.Pushed:
    return await store.execute(c.Push(0, channel, 1000, b"#%d#" % n))


@pytest.mark.parametrize("way", WAYS)
async def test_redirected_messages_of_a_thread_keep_their_order(way: str) -> None:
    """The same for threads, one command after the other, and several in one write."""
    async with fake_cluster(*WAYS[way]) as cluster:
        backend = RedisBackend((cluster.hosts(),), make_rules(timeout=TIMEOUT), VirtualClock())

        def push() -> None:
            store = backend.open_blocking()
            try:
                for first in range(0, 40, 4):
                    pushes = [c.Push(0, JOBS, 1000, b"#%d#" % n) for n in range(first, first + 4)]
                    for outcome in store.execute_many(pushes[:3]):
                        assert isinstance(outcome, c.Pushed)
                    assert store.execute(pushes[3]).accepted
            finally:
                store.close()

        await asyncio.to_thread(push)
        served = numbers(cluster)
        assert (sorted(served) if way in COULD_BE_SERVED else served) == list(range(40))


async def test_what_another_partition_sends_does_not_wait() -> None:
    """While the commands of one slot wait, those of another one at the same node are served."""
    async with fake_cluster([]) as cluster, opened(cluster) as store:
        node = cluster.nodes[0]
        node.refusals, node.moving = itertools.repeat(TRYAGAIN), b"{%b}" % tags(2)[0].encode()
        waiting = asyncio.create_task(_push(store, JOBS, 0))
        await eventually(lambda: is_true(node.seen > 0))
        assert (await store.execute(c.Push(1, JOBS, 1000, b"#1#"))).accepted
        assert not waiting.done()
        node.refusals = iter(())
        assert (await waiting).accepted
        assert numbers(cluster) == [1, 0]


@pytest.mark.parametrize(
    ("refusals", "calls"),
    [([MOVED], 1), ([ASK], 1), ([ASK, ASK, MOVED], 1), ([BACK], 1)],
    ids=["moved", "asked", "asked until it has moved", "it names itself"],
)
async def test_a_read_follows_its_inbox(refusals: list[str], calls: int) -> None:
    """A read that is told where the inbox is now goes there at once, and loses nothing."""
    async with fake_cluster(refusals, []) as cluster, opened(cluster) as store:
        stream = [[b"x", [[b"5-1", [b"0", b"m"]]]]]
        cluster.reply = lambda command: stream if command[0] == b"XREAD" else 0
        for _ in range(3):
            async with asyncio.timeout(TIMEOUT):
                batch = await store.execute(c.Read(0, INBOX, "", 1.0))
            assert (batch.position, len(batch.entries)) == ("5-1", calls)
        reads = [(node is cluster.nodes[0], asked) for node, asked, command in cluster.served if command[0] == b"XREAD"]
        assert len(reads) == 3
        assert reads[0] == {MOVED: (False, False), ASK: (False, True), BACK: (True, False)}[refusals[0]]


@pytest.mark.parametrize("waits", ["BLPOP", "XREAD"])
async def test_what_waits_leaves_a_node_that_lost_the_slot(waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that stalls does not tell what waits there of a failover: that is no error, the caller goes on."""
    monkeypatch.setattr(_cluster_client, "_LEAVE_SECONDS", 0.01)
    async with fake_cluster([], []) as cluster, opened(cluster) as store:
        stalled = cluster.nodes[0]
        word = waits.encode()
        cluster.reply = lambda command: SILENCE if command[0] == word else 0

        async def wait() -> None:
            if waits == "BLPOP":
                await store.wait(c.Wait(0, JOBS.queue, 100.0))
            else:
                assert await store.execute(c.Read(0, INBOX, "", 100.0)) == c.Batch((), "")

        waiting = asyncio.create_task(wait())
        await eventually(lambda: is_true(any(command[0] == word for _, _, command in cluster.served)))
        stalled.refusals, cluster.owner = iter([MOVED]), 1
        cluster.reply = lambda command: None if command[0] == word else 0
        assert (await _push(store, JOBS, 0)).accepted
        async with asyncio.timeout(TIMEOUT):
            await waiting


@pytest.mark.parametrize("waits", ["BLPOP", "XREAD"])
async def test_what_waits_goes_on_after_its_primary_handed_over(waits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis tells what waits at a node that becomes a replica just that: it is no error, the caller goes on."""
    monkeypatch.setattr(_cluster, "_ENOUGH_SECONDS", 0.0)
    async with fake_cluster([], []) as cluster, opened(cluster) as store:
        old = cluster.nodes[0]

        def hand_over() -> Iterator[str]:
            old.role, cluster.owner = "slave", 1
            yield UNBLOCKED

        old.refusals = hand_over()
        cluster.reply = lambda command: None if command[0] in {b"BLPOP", b"XREAD"} else 0
        async with asyncio.timeout(TIMEOUT):
            if waits == "BLPOP":
                await store.wait(c.Wait(0, JOBS.queue, 1.0))
            assert await store.execute(c.Read(0, INBOX, "", 1.0)) == c.Batch((), "")
        assert old.seen == 1


@pytest.mark.parametrize("refusal", [MOVED, ASK], ids=["moved", "asked"])
async def test_a_wait_follows_its_queue(refusal: str) -> None:
    """A wait that is told where the queue is now ends, or goes on there; and a thread looks again."""
    async with fake_cluster([refusal], []) as cluster, opened(cluster) as store:
        async with asyncio.timeout(TIMEOUT):
            await store.wait(c.Wait(0, JOBS.queue, 1.0))
        served = [node for node, _, command in cluster.served if command[0] == b"BLPOP"]
        assert served == ([] if refusal == MOVED else [cluster.nodes[1]])
    async with fake_cluster([refusal], []) as cluster:
        backend = RedisBackend((cluster.hosts(),), make_rules(timeout=TIMEOUT), VirtualClock())

        def wait() -> tuple[Queue, ...]:
            store = backend.open_blocking()
            try:
                return store.wait(c.WaitAny(0, (JOBS.queue,), 1.0)).end()
            finally:
                store.close()

        assert await asyncio.to_thread(wait) == (JOBS.queue,)


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
@pytest.mark.parametrize("refusal", [TRYAGAIN, DOWN, MOVED], ids=["split", "down", "moved in a circle"])
async def test_a_redirection_without_end_is_an_error_in_time(refusal: str, *, blocks: bool) -> None:
    """After the timeout at most a send fails, may be tried again, and is known not to have been carried out."""
    async with fake_cluster([refusal] * 10_000, [BACK] * 10_000) as cluster:
        backend = RedisBackend((cluster.hosts(),), make_rules(timeout=0.5), VirtualClock())
        async with asyncio.timeout(5):
            with pytest.raises(StoreError, match="for too long") as caught:
                await _push_by(backend, blocks=blocks)
        assert (caught.value.retryable, caught.value.outcome) == (True, "not_sent")
        assert cluster.served == []


async def _push_by(backend: RedisBackend, *, blocks: bool) -> None:
    command = c.Push(0, JOBS, 1000, b"#0#")
    if blocks:
        store = backend.open_blocking()
        try:
            await asyncio.to_thread(store.execute, command)
        finally:
            store.close()
    else:
        other = backend.open()
        try:
            await other.execute(command)
        finally:
            await other.aclose()


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_wrong_nodes_are_named(*, blocks: bool) -> None:
    """A slot that no node serves, a node out of its Cluster, and one that runs alone are a clear sentence each."""
    cases: list[tuple[Callable[[FakeCluster], object], str, bool]] = [
        (lambda cluster: setattr(cluster, "owner", None), r"no node of redis\+cluster://\S+ serves slot \d+", True),
        (lambda cluster: setattr(cluster, "slots", list), "knows no slots", True),
        (lambda cluster: setattr(cluster, "mode", "standalone"), "its cluster mode is off", False),
        (lambda cluster: setattr(cluster, "mode", "sentinel"), "is a Sentinel", False),
        (lambda cluster: setattr(cluster.nodes[0], "role", "slave"), "is a replica", True),
    ]
    for change, what, retryable in cases:
        async with fake_cluster([]) as cluster:
            change(cluster)
            backend = RedisBackend((cluster.hosts(),), make_rules(timeout=0.5), VirtualClock())
            with pytest.raises(StoreError, match=what) as caught:
                await _push_by(backend, blocks=blocks)
            assert (caught.value.retryable, caught.value.outcome) == (retryable, "not_sent")


async def test_nodes_are_asked_where_others_fail() -> None:
    """One node that is away, and one that is in no Cluster, are passed over for the next."""
    async with fake_cluster([]) as good, fake_cluster([]) as alone:
        alone.mode = "standalone"
        ports = [1, alone.nodes[0].port, good.nodes[0].port]
        hosts = ClusterNodes(tuple(TCPAddress("127.0.0.1", port) for port in ports), 2)
        backend = RedisBackend((hosts,), make_rules(timeout=TIMEOUT), VirtualClock())
        await _push_by(backend, blocks=False)
        backend.forked()
        await _push_by(backend, blocks=True)
        assert len(good.served) == 2


async def test_announced_addresses_are_translated() -> None:
    """`address_remap` is asked about every address that a node announces, in answers and in redirections."""
    async with fake_cluster([f"MOVED {SLOT} 10.0.0.2:7001"], []) as cluster:
        real = {("10.0.0.1", 7000): cluster.nodes[0].port, ("10.0.0.2", 7001): cluster.nodes[1].port}
        cluster.slots = lambda: [[0, 16383, ["10.0.0.1", 7000, "id"]]]
        nodes = (TCPAddress("127.0.0.1", cluster.nodes[0].port),)
        hosts = ClusterNodes(nodes, 2, lambda address: ("127.0.0.1", real[address]))
        await _push_by(RedisBackend((hosts,), make_rules(timeout=TIMEOUT), VirtualClock()), blocks=False)
        assert [node for node, _, _ in cluster.served] == [cluster.nodes[1]]


async def test_connections_are_one_a_node_and_end_with_it() -> None:
    """64 partitions share the connections of their node, and those to a node without a partition are closed."""
    async with fake_cluster([], []) as cluster:
        store = RedisBackend((cluster.hosts(64),), make_rules(timeout=TIMEOUT), VirtualClock()).open()
        try:
            await asyncio.gather(*(store.execute(c.Push(shard, JOBS, 9, b"x")) for shard in range(64)))
            connections = {await store.run_id(shard) for shard in range(64)}
            assert connections == {f"of-{cluster.nodes[0].port}"}
            assert [node.connections for node in cluster.nodes] == [2, 0]  # one of them asked where the slots are
        finally:
            await store.aclose()
