"""Every use case, written once as a generator that yields steps and knows no I/O.

Where a docstring does not say more, a `StoreError` means that the store could not be reached.
"""

from __future__ import annotations

from channel_layer.operations.flushing import flush
from channel_layer.operations.groups import group_add, group_channels, group_discard, group_send
from channel_layer.operations.leases import give_up
from channel_layer.operations.readiness import check_readiness
from channel_layer.operations.receiving import put_back_all
from channel_layer.operations.sending import move_all_to_remote, send
from channel_layer.operations.statistics import read_statistics, report

__all__ = (
    "check_readiness",
    "flush",
    "give_up",
    "group_add",
    "group_channels",
    "group_discard",
    "group_send",
    "move_all_to_remote",
    "put_back_all",
    "read_statistics",
    "report",
    "send",
)
