"""What runs: the drivers of the operations, the background work, and the event loops that come and go."""

from __future__ import annotations

__all__ = ()
