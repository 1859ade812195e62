"""The SQLite layer, tested with the extension kit."""

from __future__ import annotations

from functools import partial
from tempfile import mkdtemp

from sqlite_channel_layer import SQLiteStore

from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import LayerSuite, layers_over, run_conformance_test, run_layer_conformance_test

FILE = f"{mkdtemp()}/layer.sqlite"
make_store = partial(SQLiteStore, FILE)
make_layer = layers_over(lambda rules, clock: SimpleBackend(partial(make_store, rules, clock), identity=FILE))


def test_the_store() -> None:
    """It keeps the rules of a store."""
    run_conformance_test(make_store)


def test_the_layer() -> None:
    """It keeps the promises of the specification."""
    run_layer_conformance_test(make_layer, capabilities=SimpleBackend.capabilities)


class TestLayer(LayerSuite):
    """It serves threads, event loops, forks and many concurrent callers."""

    capabilities = SimpleBackend.capabilities
    make_layer = staticmethod(make_layer)
