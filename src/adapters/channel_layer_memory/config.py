"""The CONFIG of the memory layer: the common options, as `MemoryConfig` for a check and as types for a settings file.

It has a module of its own so that a settings file can be typed and checked without a layer being made.
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
        """Find what is wrong for a deployment as well."""
        yield from super().concerns()
        problem = (
            "each process has queues and groups of its own, so that two processes never hear each other: "
            "if more than one serves this project, use a layer with a store, as channel_layer_redis.RedisChannelLayer"
        )
        yield Concern("channel_layer.W004", "", problem, deploy=True)
