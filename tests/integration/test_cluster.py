"""Clusters as they are set up: one node, names and TLS, wrong modes, an idle reader, and what reaches a node."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.addresses import ClusterNodes, HostsEntry, TCPAddress
from tests.integration.test_server_restart import until
from tests.support.servers import ServerKind

if TYPE_CHECKING:
    from tests.support.clusters import Cluster, StartCluster
    from tests.support.servers import Server

TIMEOUT = 5.0


def layer_on(entry: HostsEntry, prefix: str) -> ChannelLayer:
    """Make a layer on one entry of hosts."""
    rules, clock = make_rules(prefix=prefix, timeout=TIMEOUT), VirtualClock()
    return ChannelLayer(rules, RedisBackend((entry,), rules, clock), clock=clock)


async def speaks(one: ChannelLayer, two: ChannelLayer) -> None:
    """Send by event loops and by threads, to a channel, an inbox and a group."""
    name = await two.new_channel()
    await two.group_add("group", name)
    await one.group_send("group", {"n": 1})
    await one.send(name, {"n": 2})
    assert sorted([(await two.receive(name))["n"], (await two.receive(name))["n"]], key=str) == [1, 2]
    await asyncio.to_thread(one.blocking.send, "jobs", {"n": 3})
    assert await asyncio.to_thread(two.blocking.receive, ["jobs"], block=True) == ("jobs", {"n": 3})


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    "kind", [ServerKind.VALKEY, ServerKind.REDIS, ServerKind.REDIS_6_2], ids=lambda kind: kind.value
)
async def test_a_cluster_of_one_node(start_cluster: StartCluster, kind: ServerKind, prefix: str) -> None:
    """One node with all slots works, from the oldest server to the newest."""
    cluster = await asyncio.to_thread(start_cluster, kind, primaries=1)
    async with layer_on(cluster.hosts(), prefix) as one, layer_on(cluster.hosts(), prefix) as two:
        await speaks(one, two)


async def test_what_is_closed_connects_to_no_node(cluster: Cluster, prefix: str) -> None:
    """A store that was closed before it was asked for anything refuses to be, though the nodes are known by then."""
    rules, clock = make_rules(prefix=prefix, timeout=TIMEOUT), VirtualClock()
    backend, pop = RedisBackend((cluster.hosts(),), rules, clock), c.Pop(0, ChannelName.parse("jobs").queue, 1, "me")
    async with aclosing(backend.open()) as store:
        await store.execute(pop)
    closed = backend.open()
    await closed.aclose()
    with pytest.raises(StoreError, match="let go of its connections"):
        await closed.execute(pop)


async def test_connections_are_few(start_cluster: StartCluster, prefix: str) -> None:
    """A process has one connection a node for commands, and others only for what waits."""
    cluster = await asyncio.to_thread(start_cluster)
    async with layer_on(cluster.hosts(), prefix) as layer:
        name = await layer.new_channel()
        waiting = [asyncio.create_task(layer.receive(channel)) for channel in (name, "jobs")]
        await asyncio.gather(*(layer.group_add(f"group-{n}", name) for n in range(100)))

        async def waits() -> bool:
            return sum([await asyncio.to_thread(blocked, node) for node in cluster.nodes]) == 2

        await until(waits, 20)
        counts = [len(await asyncio.to_thread(node.host().clients)) for node in cluster.nodes]
        assert sum(counts) <= len(cluster.nodes) + len(waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def blocked(node: Server) -> int:
    """Return how many commands wait at a node."""
    return sum(client["cmd"] in {"blpop", "xread"} for client in node.host().clients())


@pytest.mark.usefixtures("settled")  # names are looked up in threads, which the loop of the test ends
async def test_names_and_tls(start_cluster: StartCluster, prefix: str) -> None:
    """Nodes that announce names, and their TLS ports to a client that asks by TLS, are reached by both."""
    arguments = ("--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname")
    cluster = await asyncio.to_thread(start_cluster, ServerKind.REDIS, arguments=arguments, tls=True)
    assert {host for host, _ in cluster.owners(cluster.nodes[0]).values()} == {"localhost"}
    for entry in (cluster.hosts(), cluster.hosts(tls=True)):
        async with layer_on(entry, prefix) as one, layer_on(entry, prefix) as two:
            await speaks(one, two)
    ports = {node.port for node in cluster.nodes}
    used = [client["laddr"].rpartition(":")[2] for node in cluster.nodes for client in node.host().clients()]
    assert ports.isdisjoint(used)


@pytest.mark.parametrize("blocks", [False, True], ids=["async", "blocking"])
async def test_the_wrong_mode_is_named(cluster: Cluster, server: Server, prefix: str, *, blocks: bool) -> None:
    """A node of a Cluster in plain hosts, and a server without one in `cluster`, are one sentence each."""
    node = TCPAddress("127.0.0.1", cluster.nodes[0].port)
    plain = ClusterNodes((TCPAddress("127.0.0.1", server.port),), 64)
    cases: list[tuple[HostsEntry, str]] = [(node, "is a node of a Redis Cluster"), (plain, "cluster mode is off")]
    for entry, what in cases:
        async with layer_on(entry, prefix) as layer:
            with pytest.raises(StoreError, match=what) as caught:
                await (asyncio.to_thread(layer.blocking.send, "jobs", {}) if blocks else layer.send("jobs", {}))
            assert (caught.value.retryable, caught.value.outcome) == (False, "not_sent")


async def test_a_reader_leaves_a_node_that_says_nothing(start_cluster: StartCluster, prefix: str) -> None:
    """Readers that wait at a primary that stalls hear what its replica takes, once others have seen that."""
    cluster = await asyncio.to_thread(start_cluster, replicas=1, node_timeout=1500)
    async with layer_on(cluster.hosts(), prefix) as reader, layer_on(cluster.hosts(), prefix) as sender:
        names = [await reader.new_channel() for _ in range(4)]
        for name in names:
            await sender.send(name, {"n": 0})
            assert await reader.receive(name) == {"n": 0}
        receiving = [asyncio.create_task(reader.receive(name)) for name in names]
        stalled = cluster.nodes[0]
        stalled.pause()
        try:
            await until(lambda: asyncio.to_thread(lambda: all(map(cluster.is_primary, cluster.nodes[1:4]))), 30)

            for name in names:
                await _send_in_the_end(sender, name)
            got = await asyncio.wait_for(asyncio.gather(*receiving), 45)
            assert got == [{"n": 1}] * 4
        finally:
            stalled.resume()


async def _send_in_the_end(layer: ChannelLayer, name: str) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                return await layer.send(name, {"n": 1})
            except StoreError:
                await asyncio.sleep(0.05)


def test_a_fork_looks_for_the_nodes_anew(cluster: Cluster) -> None:
    """What a parent knows of the nodes is behind a lock that one of its threads may hold: a child begins without."""
    backend = RedisBackend((cluster.hosts(),), make_rules(), VirtualClock())
    before, identities = backend.servers, backend.identities
    backend.forked()
    assert backend.servers is not before
    assert backend.servers.identities == identities
