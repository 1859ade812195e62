"""A typed, schema-validated channel layer: named channels and groups between the processes of Python web programs.

This package is the core. It knows no store: take a layer from an adapter (``channel_layer_memory``,
``channel_layer_redis``), and the types and errors from here.
"""

from __future__ import annotations

from importlib.metadata import version

from channel_layer.envelope import Message, Value
from channel_layer.errors import (
    ChannelFull,
    ChannelLayerError,
    ConfigError,
    ConfigWarning,
    FieldError,
    InvalidMessage,
    InvalidName,
    MessageTooLarge,
    StoreError,
)
from channel_layer.layer import ChannelLayer
from channel_layer.ledger import Statistics

__all__ = (
    "ChannelFull",
    "ChannelLayer",
    "ChannelLayerError",
    "ConfigError",
    "ConfigWarning",
    "FieldError",
    "InvalidMessage",
    "InvalidName",
    "Message",
    "MessageTooLarge",
    "Statistics",
    "StoreError",
    "Value",
    "__version__",
)

__version__ = version("channel-layer")
