"""The benchmark: channel layers side by side, each run checked for loss, duplicates and order.

A rate does not show that a layer is wrong. So no figure is given for a layer that lost, doubled or disordered a single
message.
"""

from __future__ import annotations

__all__: tuple[str, ...] = ()
