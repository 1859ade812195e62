"""The command line, started from the application's own code."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import assert_type

from channel_layer_cli import main

__all__ = ("measure",)


def measure(*options: str) -> None:
    """Run the benchmark; it ends the process."""
    assert_type(main, Callable[[], None])
    sys.argv[1:] = ["bench", *options]
    main()
