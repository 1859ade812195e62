"""The CONFIG of the memory layer: the common options, as `MemoryConfig` for checks and as types for a settings file.

It is a module of its own so that a settings file can be typed and checked without making a layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from channel_layer.config import CommonConfig, Concern
from channel_layer.options import CommonConfigDict

__all__ = ("MemoryConfig", "MemoryConfigDict")


class MemoryConfigDict(CommonConfigDict, total=False):
    """The CONFIG of a `MemoryChannelLayer`, for type checkers: the options that every layer has."""


class MemoryConfig(CommonConfig):
    """The options of the memory layer. Made by `parse`."""

    def concerns(self) -> Iterable[Concern]:
        """Yield what is unwise about these options, and for a deployment the use of this layer."""
        yield from super().concerns()
        problem = (
            "each process has queues and groups of its own, so that two processes never hear each other: "
            "if more than one serves this project, use a layer with a store, as channel_layer_redis.RedisChannelLayer"
        )
        yield Concern("channel_layer.W004", "", problem, deploy=True)
