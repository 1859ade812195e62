"""Runs the command as ``python -m channel_layer_cli``, for when it is not on PATH."""

from __future__ import annotations

from channel_layer_cli import main

if __name__ == "__main__":
    main()
