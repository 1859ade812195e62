"""A channel layer in one SQLite file, for any number of processes of one machine."""

from __future__ import annotations

from sqlite_channel_layer.layer import SQLiteChannelLayer
from sqlite_channel_layer.store import SQLiteStore

__all__ = ("SQLiteChannelLayer", "SQLiteStore")
