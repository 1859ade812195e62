"""Tests of channel_layer.mailbox."""

from __future__ import annotations
