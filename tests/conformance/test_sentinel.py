"""A service that sentinels name through the machines and the suites: what works on one host works here.

Kind of server, interface and sealing are each tried both ways, and not in all combinations: they are separate parts.

| | Valkey | Redis |
| --- | --- | --- |
| store and layer machine | blocking, plain | async, sealed and blinded |
| suite for stores | async, plain | async, plain; blocking, blinded |
| suite for layers | plain | sealed and blinded |

`test_cluster.py` has the machines and the suite for layers the other way round.
"""

from __future__ import annotations

import pytest

from channel_layer.ports import Backend
from channel_layer.testing import (
    MakeLayer,
    MakeStore,
    blocking_layers,
    blocking_stores,
    layers_over,
    run_async_conformance_test,
    run_layer_conformance_test,
)
from channel_layer.testing.suites import LayerSuite, StoreSuite
from tests.conformance.test_blocking import few
from tests.conformance.test_kit_stores import within
from tests.support.sentinels import SERVICE, Service
from tests.support.servers import Server, ServerKind
from tests.support.stores import blind_stores, sealed_layers, service_stores

pytestmark = pytest.mark.usefixtures("tidied")

_on_valkey = pytest.mark.parametrize("shared_service", [ServerKind.VALKEY], ids=["valkey"], indirect=True)
_on_redis = pytest.mark.parametrize("shared_service", [ServerKind.REDIS], ids=["redis"], indirect=True)


@pytest.fixture
def stores(shared_service: Service, prefix: str) -> MakeStore:
    """Stores on a service."""
    return within(prefix, service_stores(shared_service))


# -- machines ----------------------------------------------------------------------------------------------------


@_on_redis
def test_blinded_stores_on_a_service_are_right(stores: MakeStore) -> None:
    """The store answers as the contract says when names are hidden from it."""
    run_async_conformance_test(blind_stores(stores), settings=few(5))


@_on_valkey
def test_stores_on_a_service_are_right_from_threads(stores: MakeStore) -> None:
    """So does the blocking store."""
    run_async_conformance_test(blocking_stores(stores), settings=few(5))


@_on_redis
def test_sealed_layers_on_a_service_keep_every_promise(stores: MakeStore) -> None:
    """Layers that seal messages and blind names do what the specification says."""
    run_layer_conformance_test(sealed_layers(stores), settings=few(5))


@_on_valkey
def test_the_facade_keeps_every_promise_on_a_service(stores: MakeStore) -> None:
    """So do layers whose calls are made by their blocking facades."""
    run_layer_conformance_test(blocking_layers(stores), settings=few(5))


# -- suites ------------------------------------------------------------------------------------------------------


class _OnAService:
    """What a suite for stores has to be told of a service."""

    primary: Server
    prefix: str

    @pytest.fixture(autouse=True)
    def _use(self, shared_service: Service, prefix: str) -> None:
        self.primary, self.prefix = shared_service.primary, prefix

    def disconnect(self, backend: Backend) -> None:
        """Let the primary close every connection but those of its replica, and the one that asks for it."""
        assert backend.identities == (f"sentinel:{SERVICE}/0",)
        self.primary.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def remains(self, prefix: str) -> int:
        """Count keys."""
        return len(self.primary.keys(self.prefix + prefix))


class TestSentinelStore(_OnAService, StoreSuite):
    """The store on a service."""

    reconnects = True
    counts_remains = True

    @pytest.fixture
    def make_store(self, stores: MakeStore) -> MakeStore:
        """Stores on a service."""
        return stores


@_on_redis
class TestBlockingSentinelStore(_OnAService, StoreSuite):
    """The blocking store on a service, when names are hidden from it."""

    reconnects = True

    @pytest.fixture
    def make_store(self, stores: MakeStore) -> MakeStore:
        """Blocking stores on a service."""
        return blocking_stores(blind_stores(stores))


@pytest.mark.parametrize(
    ("shared_service", "sealed"),
    [
        pytest.param(ServerKind.VALKEY, False, id="valkey-plain"),
        pytest.param(ServerKind.REDIS, True, id="redis-sealed"),
    ],
    indirect=["shared_service"],
)
class TestSentinelLayer(LayerSuite):
    """The layer on a service."""

    @pytest.fixture
    def make_layer(self, stores: MakeStore, *, sealed: bool) -> MakeLayer:
        """Layers on a service."""
        return sealed_layers(stores) if sealed else layers_over(stores)
