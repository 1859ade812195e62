"""Tests of what a state machine cannot do, as pytest classes to inherit from: races, many callers, loops, real time."""

from __future__ import annotations

from channel_layer.testing.suites.layers import LayerSuite
from channel_layer.testing.suites.stores import StoreSuite

__all__ = ("LayerSuite", "StoreSuite")
