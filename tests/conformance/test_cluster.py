"""A Cluster of three nodes through the suites: what works on several hosts works here, plain and sealed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator

import pytest

from channel_layer import ChannelLayer
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Capabilities, Clock
from channel_layer.testing import MakeLayer, MakeStore, VirtualClock, layers_over, make_rules
from channel_layer.testing.suites import LayerSuite, StoreSuite
from tests.support.clusters import Cluster
from tests.support.servers import ServerPool
from tests.support.stores import blind_stores, cluster_stores, sealed_layers

_FEW = 5
"""Partitions: each costs a flush after each example, and each loop in debug mode a task."""


@pytest.fixture
def note(server_pool: ServerPool) -> Generator[Callable[[Rules], None]]:
    """Have the keys of a prefix removed after the test."""
    prefixes: set[str] = set()
    yield lambda rules: prefixes.add(rules.prefix)
    for prefix in prefixes:
        server_pool.remove(prefix)


class TestClusterStore(StoreSuite):
    """The store on a Cluster."""

    capabilities = Capabilities(spreads=False)
    reconnects = True
    counts_remains = True

    @pytest.fixture
    def make_store(self, cluster: Cluster, note: Callable[[Rules], None]) -> MakeStore:
        """Stores on a Cluster."""
        self.cluster = cluster
        make = cluster_stores(cluster, _FEW)

        def make_store(rules: Rules, clock: Clock) -> Backend:
            note(rules)
            return make(rules, clock)

        return make_store

    def disconnect(self, backend: Backend) -> None:
        """Let the nodes close every connection."""
        assert len(backend.identities) == _FEW
        for node in self.cluster.nodes:
            self.cluster.command(node, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def remains(self, prefix: str) -> int:
        """Count keys."""
        return len(self.cluster.keys(prefix))


class TestBlindClusterStore(StoreSuite):
    """The store on a Cluster, when names are hidden from it."""

    capabilities = Capabilities(spreads=False)

    @pytest.fixture
    def make_store(self, cluster: Cluster, note: Callable[[Rules], None]) -> MakeStore:
        """Stores on a Cluster."""
        make = blind_stores(cluster_stores(cluster, _FEW))

        def make_store(rules: Rules, clock: Clock) -> Backend:
            note(rules)
            return make(rules, clock)

        return make_store


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
class TestClusterLayer(LayerSuite):
    """The layer on a Cluster."""

    capabilities = Capabilities(spreads=False)

    @pytest.fixture
    def make_layer(
        self, cluster: Cluster, note: Callable[[Rules], None], monkeypatch: pytest.MonkeyPatch, *, sealed: bool
    ) -> MakeLayer:
        """Layers on a Cluster; event loops get connections of their own at once, or go through the I/O thread."""
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if sealed else 0.0)
        stores = cluster_stores(cluster, _FEW)
        make = sealed_layers(stores) if sealed else layers_over(stores)

        def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
            note(rules)
            return make(rules, clock)

        return make_layer


async def test_many_partitions_serve_all_kinds_of_channels(cluster: Cluster, prefix: str) -> None:
    """With 64 partitions as with 1024, what a layer does reaches another one, and a flush leaves only epochs."""
    for partitions in (64, 1024):
        rules, clock = make_rules(prefix=f"{prefix}{partitions}:"), VirtualClock()
        make = layers_over(cluster_stores(cluster, partitions))
        async with make(rules, clock) as one, make(rules, clock) as two:
            names = [await two.new_channel() for _ in range(3)]
            for n, name in enumerate([*names, "jobs", "reply?x", "daemon!x"]):
                await one.send(name, {"n": n})
                assert await two.receive(name) == {"n": n}
                await two.group_add("all", name)
            await one.group_send("all", {"n": 9})
            assert [await two.receive(name) for name in names] == [{"n": 9}] * 3
            assert await two.receive("daemon!x") == {"n": 9}
            await one.send("jobs", {"n": 10})
            found = await one.statistics()
            assert found.messages_pending == 3
            await asyncio.to_thread(one.blocking.flush)
            assert await one.group_channels("all") == []
        kinds = {key.partition("}")[2][0] for key in cluster.keys(rules.prefix)}
        assert kinds <= {"e", "n"}
