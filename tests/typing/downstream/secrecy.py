"""Layers with encryption, and ciphers used without a layer."""

from __future__ import annotations

import time
import warnings
from typing import assert_type

from pydantic import SecretBytes

from channel_layer import ConfigWarning, Message
from channel_layer.domain.codec import MsgpackCodec
from channel_layer.ports import Blinder, Sealer
from channel_layer.runtime.sealing import MakeBlinder, MakeSealer
from channel_layer_crypto import AesSealer, FernetSealer, SivBlinder
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer

__all__ = ("ciphers", "names", "sealed")


def sealed(key: str, old: bytes) -> list[MemoryChannelLayer | RedisChannelLayer]:
    """Return layers with keys, written in every way."""
    warnings.simplefilter("error", ConfigWarning)
    return [
        MemoryChannelLayer(symmetric_encryption_keys=[key, old], blind_names=old),
        MemoryChannelLayer(symmetric_encryption_keys=(key,), encryption="fernet", blind_names=True),
        RedisChannelLayer(symmetric_encryption_keys=[old], blind_names=key),
    ]


def ciphers(key: bytes) -> list[Message]:
    """Seal and open with each cipher, as an adapter might."""
    makers: list[MakeSealer] = [AesSealer, FernetSealer]
    sealers: list[Sealer] = [make([SecretBytes(key)], prefix="app:", expiry=60, now=time.time) for make in makers]
    codec = MsgpackCodec(max_size=1000)
    payload = codec.encode({"n": 1})
    sealed = [assert_type(sealer.seal(payload, "channel", "jobs"), bytes) for sealer in sealers]
    opened = [sealer.open(each, "channel", "jobs") for sealer, each in zip(sealers, sealed, strict=True)]
    return [codec.decode(each) for each in opened]


def names(key: bytes) -> str:
    """Blind a name and reveal it again."""
    make: MakeBlinder = SivBlinder
    blinder: Blinder = make(SecretBytes(key), prefix="app:")
    return assert_type(blinder.reveal(blinder.blind("jobs", "channel"), "channel"), str)
