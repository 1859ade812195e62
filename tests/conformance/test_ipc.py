"""The IPC layer through the whole extension kit: both machines, both suites."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from channel_layer.testing import (
    MakeLayer,
    MakeStore,
    layers_over,
    run_layer_conformance_test,
)
from channel_layer.testing.store_conformance import run_async_conformance_test
from channel_layer.testing.suites import LayerSuite, StoreSuite
from channel_layer_ipc import _keys as k
from tests.support.stores import IPCWorlds, blind_stores, sealed_layers

pytestmark = pytest.mark.usefixtures("tidied")


@pytest.fixture
def worlds(tmp_path: Path) -> Generator[IPCWorlds]:
    """A directory of this test's own, and stores in it."""
    found = IPCWorlds(tmp_path / "worlds")
    yield found
    found.close()


def test_the_store_is_right(worlds: IPCWorlds) -> None:
    """The IPC store answers every request as the contract says."""
    run_async_conformance_test(worlds)


def test_the_layer_keeps_every_promise(worlds: IPCWorlds) -> None:
    """Several layers over one shared store do what the specification says, whatever is called in whatever order."""
    few = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(layers_over(worlds), settings=few)


def test_tokens_for_names_are_names_to_it(worlds: IPCWorlds) -> None:
    """The store keeps the contract when it gets to see tokens, of up to 255 characters, for names."""
    run_async_conformance_test(blind_stores(worlds))


def test_the_sealed_layer_keeps_every_promise(worlds: IPCWorlds) -> None:
    """So do layers that seal what they send and hide what it is called."""
    few = settings(max_examples=max(20, settings().max_examples // 5), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(sealed_layers(worlds), settings=few)


class TestIPCStore(StoreSuite):
    """The store: wake-ups, cancellation at every step, threads, what is left."""

    counts_remains = True

    @pytest.fixture
    def make_store(self, worlds: IPCWorlds) -> MakeStore:
        """Stores in a directory of this test's own."""
        self.worlds = worlds
        return worlds

    def remains(self, prefix: str) -> int:
        """Count the records, but for the counter of versions, which is one for ever."""
        return sum(not key.startswith(k.VERSION) for key in self.worlds.sweep(prefix))


class TestIPCLayer(LayerSuite):
    """The layer; event loops get a store of their own at once, or go through the I/O thread."""

    @pytest.fixture(params=["settled", "young"])
    def make_layer(
        self, worlds: IPCWorlds, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> MakeLayer:
        """Layers in a directory of this test's own."""
        monkeypatch.setattr(
            "channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if request.param == "young" else 0.0
        )
        return layers_over(worlds)
