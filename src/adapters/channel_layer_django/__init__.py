"""What a Django project needs to have its channel layers checked: types for the settings, and system checks.

Name it in ``INSTALLED_APPS`` for the checks. Importing it does not import Django, because a settings file does, and
because ``channel-layer check`` finds the same things without it.
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
