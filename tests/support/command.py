"""Runs the command `channel-layer` in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from unittest.mock import patch

from channel_layer_cli import main

__all__ = ("Result", "run")


@dataclass(frozen=True, slots=True)
class Result:
    """How the command ended.

    Attributes:
        exit_code: its exit code.
        output: what it wrote to standard output and standard error.
    """

    exit_code: object
    output: str


def run(*arguments: str) -> Result:
    """Run the command with *arguments*."""
    output = io.StringIO()
    with (
        patch.object(sys, "argv", ["channel-layer", *arguments]),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        try:
            main()
        except SystemExit as ended:
            return Result(ended.code, output.getvalue())
    raise AssertionError("the command did not end in SystemExit")
