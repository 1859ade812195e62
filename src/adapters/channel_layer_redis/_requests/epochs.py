"""The server's clock, and the epoch: which flush was the last, and when it began."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer_redis._replies import text, texts
from channel_layer_redis._requests.calls import run_command

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import RequestPlan

__all__ = ("read_clock", "read_epoch")


def read_clock(offset: int) -> RequestPlan[float]:
    """Return the server's time in milliseconds, to the microsecond.

    Args:
        offset: milliseconds to add.
    """
    seconds, micros = texts((yield from run_command("TIME")))
    return int(seconds) * 1000 + int(micros) / 1000 + offset


def read_epoch(reply: object) -> tuple[str, float]:
    """Return the name of the last flush, and when it began: what is older than that has been flushed."""
    name, _, began = text(reply).partition(" ")
    return name, float(began or "-inf")
