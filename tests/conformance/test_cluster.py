"""A Cluster of three nodes through the machines and the suites: what works on several hosts works here.

Kind of server, interface and sealing are each tried both ways, and not in all combinations: they are separate parts.

| | Valkey | Redis |
| --- | --- | --- |
| store and layer machine | async, sealed and blinded | blocking, plain |
| suite for stores | async, plain; blocking, blinded | async, plain |
| suite for layers | sealed and blinded | plain |

`test_sentinel.py` has the machines and the suite for layers the other way round.
"""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from channel_layer.ports import Backend, Capabilities
from channel_layer.testing import (
    MakeLayer,
    MakeStore,
    VirtualClock,
    blocking_layers,
    blocking_stores,
    layers_over,
    make_rules,
    run_async_conformance_test,
    run_layer_conformance_test,
)
from channel_layer.testing.suites import LayerSuite, StoreSuite
from tests.conformance.test_blocking import few
from tests.conformance.test_kit_stores import within
from tests.support.clusters import Cluster
from tests.support.servers import ServerKind
from tests.support.stores import blind_stores, cluster_stores, sealed_layers

pytestmark = pytest.mark.usefixtures("tidied")

_FEW: Final = 5
"""Partitions: each costs a flush after each example, and each loop in debug mode a task."""

_CAPABILITIES: Final = Capabilities(spreads=False)

_on_valkey = pytest.mark.parametrize("cluster", [ServerKind.VALKEY], ids=["valkey"], indirect=True)
_on_redis = pytest.mark.parametrize("cluster", [ServerKind.REDIS], ids=["redis"], indirect=True)


@pytest.fixture
def stores(cluster: Cluster, prefix: str) -> MakeStore:
    """Stores on a Cluster."""
    return within(prefix, cluster_stores(cluster, _FEW))


# -- machines ----------------------------------------------------------------------------------------------------


@_on_valkey
def test_blinded_stores_on_a_cluster_are_right(stores: MakeStore) -> None:
    """The store answers as the contract says when names are hidden from it."""
    run_async_conformance_test(blind_stores(stores), settings=few(5))


@_on_redis
def test_stores_on_a_cluster_are_right_from_threads(stores: MakeStore) -> None:
    """So does the blocking store."""
    run_async_conformance_test(blocking_stores(stores), settings=few(5))


@_on_valkey
def test_sealed_layers_on_a_cluster_keep_every_promise(stores: MakeStore) -> None:
    """Layers that seal messages and blind names do what the specification says."""
    run_layer_conformance_test(sealed_layers(stores), capabilities=_CAPABILITIES, settings=few(5))


@_on_redis
def test_the_facade_keeps_every_promise_on_a_cluster(stores: MakeStore) -> None:
    """So do layers whose calls are made by their blocking facades."""
    run_layer_conformance_test(blocking_layers(stores), capabilities=_CAPABILITIES, settings=few(5))


# -- suites ------------------------------------------------------------------------------------------------------


class _OnACluster:
    """What a suite for stores has to be told of a Cluster."""

    cluster: Cluster
    prefix: str

    @pytest.fixture(autouse=True)
    def _use(self, cluster: Cluster, prefix: str) -> None:
        self.cluster, self.prefix = cluster, prefix

    def disconnect(self, backend: Backend) -> None:
        """Let the nodes close every connection."""
        assert len(backend.identities) == _FEW
        for node in self.cluster.nodes:
            node.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def remains(self, prefix: str) -> int:
        """Count keys."""
        return len(self.cluster.keys(self.prefix + prefix))


class TestClusterStore(_OnACluster, StoreSuite):
    """The store on a Cluster."""

    capabilities = _CAPABILITIES
    reconnects = True
    counts_remains = True

    @pytest.fixture
    def make_store(self, stores: MakeStore) -> MakeStore:
        """Stores on a Cluster."""
        return stores


@_on_valkey
class TestBlockingClusterStore(_OnACluster, StoreSuite):
    """The blocking store on a Cluster, when names are hidden from it."""

    capabilities = _CAPABILITIES
    reconnects = True

    @pytest.fixture
    def make_store(self, stores: MakeStore) -> MakeStore:
        """Blocking stores on a Cluster."""
        return blocking_stores(blind_stores(stores))


@pytest.mark.parametrize(
    ("cluster", "sealed"),
    [
        pytest.param(ServerKind.VALKEY, True, id="valkey-sealed"),
        pytest.param(ServerKind.REDIS, False, id="redis-plain"),
    ],
    indirect=["cluster"],
)
class TestClusterLayer(LayerSuite):
    """The layer on a Cluster; event loops get connections of their own at once, or go through the I/O thread."""

    capabilities = _CAPABILITIES

    @pytest.fixture
    def make_layer(self, stores: MakeStore, monkeypatch: pytest.MonkeyPatch, *, sealed: bool) -> MakeLayer:
        """Layers on a Cluster."""
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if sealed else 0.0)
        return sealed_layers(stores) if sealed else layers_over(stores)


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
            async with asyncio.timeout(20):
                while (await one.statistics()).messages_pending != 3:  # the owner trims its inbox later
                    pass
            await asyncio.to_thread(one.blocking.flush)
            assert await one.group_channels("all") == []
        kinds = {key.partition("}")[2][0] for key in cluster.keys(rules.prefix)}
        assert kinds <= {"e", "n"}
