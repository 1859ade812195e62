"""Losses in the log: at the first one, then at most once a minute."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channel_layer.operations.state import LayerState

__all__ = ("log_losses",)

_logger = logging.getLogger("channel_layer")


def log_losses(state: LayerState) -> None:
    """Say in the log what was lost since the last warning, unless that was just now."""
    if not state.counters.has_news:
        return
    with state.lock:
        warning = state.counters.warning(state.clock.now())
    if warning is not None:
        _logger.warning("%s", warning)
