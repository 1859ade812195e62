"""The benchmark: channel layers side by side, each run checked for loss, duplicates and order.

A fast wrong layer is worth nothing, and nobody sees from a rate that it is wrong. So no figure is given for a run that
lost, doubled or disordered a single message.
"""

from __future__ import annotations

__all__: tuple[str, ...] = ()
