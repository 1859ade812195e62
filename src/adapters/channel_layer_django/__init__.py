"""Checks the channel layers of a Django project: types for the settings file, and system checks.

Add it to ``INSTALLED_APPS`` for the system checks. It does not import Django: a settings file imports it for the types,
and ``channel-layer check`` runs the same checks without Django.
"""

from __future__ import annotations

from channel_layer_django.audit import Finding, audit
from channel_layer_django.settings import (
    ChannelLayersSetting,
    IPCLayerSetting,
    MemoryLayerSetting,
    RedisLayerSetting,
    RedisLocalLayerSetting,
)

__all__ = (
    "ChannelLayersSetting",
    "Finding",
    "IPCLayerSetting",
    "MemoryLayerSetting",
    "RedisLayerSetting",
    "RedisLocalLayerSetting",
    "audit",
)
