"""Stores made of other stores, and what they share."""

from __future__ import annotations

__all__ = ()
