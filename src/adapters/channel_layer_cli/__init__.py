"""The command `channel-layer`: checks configurations, prints their schema, makes keys and runs benchmarks.

It needs no extra. The benchmark does, so it is a package of its own, imported only by ``channel-layer bench``.
"""

from __future__ import annotations

from channel_layer_cli._main import main

__all__ = ("main",)
