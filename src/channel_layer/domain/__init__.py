"""The pure domain: rules, names, capacity, sharding, expiry, routing, frames and inboxes. No I/O, no clock."""

from __future__ import annotations

__all__ = ()
