"""The extension kit: proves that a store or a layer keeps every promise, and says which one it breaks.

Needs the extra ``testing``. What is here is public API: a rule that a store which was right until then can fail comes
with a minor release and a line in the changelog.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from channel_layer.domain.rules import Faults
from channel_layer.ports import Capabilities
from channel_layer.stores.faults import FaultyBackend
from channel_layer.testing.factories import (
    MakeLayer,
    MakeSimpleStore,
    MakeStore,
    Violation,
    VirtualClock,
    fresh_prefix,
    layers_over,
    make_rules,
)
from channel_layer.testing.layer_machine import run_layer_conformance_test
from channel_layer.testing.store_conformance import run_async_conformance_test, run_conformance_test
from channel_layer.testing.threads import blocking_layers, blocking_stores

if TYPE_CHECKING:
    from channel_layer.testing.suites import LayerSuite, StoreSuite

__all__ = (
    "Capabilities",
    "Faults",
    "FaultyBackend",
    "LayerSuite",
    "MakeLayer",
    "MakeSimpleStore",
    "MakeStore",
    "StoreSuite",
    "Violation",
    "VirtualClock",
    "blocking_layers",
    "blocking_stores",
    "fresh_prefix",
    "layers_over",
    "make_rules",
    "run_async_conformance_test",
    "run_conformance_test",
    "run_layer_conformance_test",
)


def __getattr__(name: str) -> object:
    """Load the suites when they are asked for: nothing else here needs pytest."""
    if name in {"LayerSuite", "StoreSuite"}:
        suite: object = getattr(importlib.import_module("channel_layer.testing.suites"), name)
        return suite
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
