"""Tests of channel_layer.programs."""

from __future__ import annotations
