"""The extension kit: proves that a store or a layer keeps every promise, and says which one it breaks.

Needs the extra ``testing``. What is here is public API: a rule that a store which was right until then can fail comes
with a minor release and a line in the changelog.
"""

from __future__ import annotations

from channel_layer.faults import Faults, FaultyBackend
from channel_layer.ports import Capabilities
from channel_layer.testing.layer_machine import run_layer_conformance_test
from channel_layer.testing.worlds import (
    MakeLayer,
    MakeSimpleStore,
    MakeStore,
    Violation,
    VirtualClock,
    fresh_prefix,
    layers_over,
    make_rules,
)

__all__ = (
    "Capabilities",
    "Faults",
    "FaultyBackend",
    "MakeLayer",
    "MakeSimpleStore",
    "MakeStore",
    "Violation",
    "VirtualClock",
    "fresh_prefix",
    "layers_over",
    "make_rules",
    "run_layer_conformance_test",
)
