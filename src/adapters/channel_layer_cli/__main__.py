"""``python -m channel_layer_cli``, for when the command is not on PATH."""

from __future__ import annotations

from channel_layer_cli import main

if __name__ == "__main__":
    main()
