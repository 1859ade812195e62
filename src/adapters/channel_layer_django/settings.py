"""The types of ``CHANNEL_LAYERS``, so that a type checker finds a wrong key in a settings file.

Each ``BACKEND`` is tied to the options of its layer; the adapter of the layer has the types of the options.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NotRequired, TypeAlias, TypedDict

if TYPE_CHECKING:  # a settings file that names one layer must not need the extras of the others
    from channel_layer_ipc.options import IPCConfigDict
    from channel_layer_memory.config import MemoryConfigDict
    from channel_layer_redis.options import RedisConfigDict, RedisLocalConfigDict

__all__ = (
    "ChannelLayersSetting",
    "IPCLayerSetting",
    "MemoryLayerSetting",
    "RedisLayerSetting",
    "RedisLocalLayerSetting",
)


class MemoryLayerSetting(TypedDict):
    """The setting of a layer inside one process."""

    BACKEND: Literal["channel_layer_memory.MemoryChannelLayer"]
    CONFIG: NotRequired[MemoryConfigDict]
    TEST_CONFIG: NotRequired[MemoryConfigDict]


class IPCLayerSetting(TypedDict):
    """The setting of a layer between the processes of one machine."""

    BACKEND: Literal["channel_layer_ipc.IPCChannelLayer"]
    CONFIG: NotRequired[IPCConfigDict]
    TEST_CONFIG: NotRequired[IPCConfigDict]


class RedisLayerSetting(TypedDict):
    """The setting of a layer over Redis or Valkey."""

    BACKEND: Literal["channel_layer_redis.RedisChannelLayer"]
    CONFIG: NotRequired[RedisConfigDict]
    TEST_CONFIG: NotRequired[RedisConfigDict]


class RedisLocalLayerSetting(TypedDict):
    """The setting of a layer over Redis or Valkey that keeps messages between processes of one machine on it."""

    BACKEND: Literal["channel_layer_redis.RedisLocalChannelLayer"]
    CONFIG: NotRequired[RedisLocalConfigDict]
    TEST_CONFIG: NotRequired[RedisLocalConfigDict]


ChannelLayersSetting: TypeAlias = dict[
    str, MemoryLayerSetting | IPCLayerSetting | RedisLayerSetting | RedisLocalLayerSetting
]
"""The setting ``CHANNEL_LAYERS``: alias -> layer. For a layer of another package, write a union with its type."""
