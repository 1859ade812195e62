"""What a state machine cannot do or does badly, as pytest classes to inherit from: races, crowds, loops, real time."""

from __future__ import annotations

from channel_layer.testing.suites.layers import LayerSuite
from channel_layer.testing.suites.stores import StoreSuite

__all__ = ("LayerSuite", "StoreSuite")
