"""The command `channel-layer`: tools for those who configure, run or compare channel layers.

It needs no extra. The benchmark does, so it is a package of its own and is imported only when it is asked for.
"""

from __future__ import annotations

from channel_layer_cli._main import main

__all__ = ("main",)
