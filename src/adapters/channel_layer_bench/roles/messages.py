"""What the roles send: messages of a given size, and the counts of what went wrong with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgpack

if TYPE_CHECKING:
    from channel_layer_bench.faults import Faults

__all__ = ("AT_ONCE", "fault_counts", "padding")

AT_ONCE: Final = 50
"""Calls that prepare a run and are made at once."""


def padding(payload: int, **fields: object) -> str:
    """Return the text that fills a message up to a size, packed by msgpack, or an empty one if it is larger.

    Args:
        payload: bytes of the message.
        fields: its other fields.
    """
    packed = msgpack.packb({"type": "bench.message", **fields, "text": ""})
    return "x" * max(0, payload - len(packed or b"") - 1)


def fault_counts(faults: Faults) -> dict[str, object]:
    """Return the counts as the fields of a report."""
    return {
        "sent": faults.sent,
        "lost": faults.lost,
        "doubled": faults.doubled,
        "disordered": faults.disordered,
    }
