"""A channel layer inside one process: for tests, and the reference for what every other layer does."""

from __future__ import annotations

from channel_layer_memory._store import MemoryBackend
from channel_layer_memory.config import MemoryConfigDict
from channel_layer_memory.layer import MemoryChannelLayer

__all__ = ("MemoryBackend", "MemoryChannelLayer", "MemoryConfigDict")
