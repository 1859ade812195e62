"""A typed, schema-validated channel layer: named channels and groups between the processes of Python web programs.

This package is the core. It knows no store: take a layer from an adapter (``channel_layer_memory``,
``channel_layer_redis``), and the types and errors from here.
"""

from __future__ import annotations

from importlib.metadata import version

from channel_layer.blocking import BlockingChannelLayer
from channel_layer.discovery import config_from_url, from_url
from channel_layer.domain.codec import Message, Value
from channel_layer.domain.counters import Counts, Statistics
from channel_layer.errors import (
    ChannelFull,
    ChannelLayerError,
    ConfigError,
    ConfigWarning,
    DamagedRecord,
    FieldError,
    InvalidFields,
    InvalidMessage,
    InvalidName,
    MessageTooLarge,
    NoLocalReader,
    PatchedThreadsError,
    StoreError,
    SubscriptionError,
)
from channel_layer.layer import ChannelLayer
from channel_layer.subscription import Subscription
from channel_layer.typed import Channel, Group

__all__ = (
    "BlockingChannelLayer",
    "Channel",
    "ChannelFull",
    "ChannelLayer",
    "ChannelLayerError",
    "ConfigError",
    "ConfigWarning",
    "Counts",
    "DamagedRecord",
    "FieldError",
    "Group",
    "InvalidFields",
    "InvalidMessage",
    "InvalidName",
    "Message",
    "MessageTooLarge",
    "NoLocalReader",
    "PatchedThreadsError",
    "Statistics",
    "StoreError",
    "Subscription",
    "SubscriptionError",
    "Value",
    "__version__",
    "config_from_url",
    "from_url",
)

__version__ = version("channel-layer")
