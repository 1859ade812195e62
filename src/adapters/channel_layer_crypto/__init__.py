"""Ciphers for any channel layer: without the key, messages and names in the store cannot be read.

The core finds the ciphers by their entry points; an application does not import this package.
"""

from __future__ import annotations

try:
    import cryptography as _cryptography
except ImportError as _exc:
    if _exc.name != "cryptography":
        raise
    raise ImportError(
        'symmetric_encryption_keys need cryptography: pip install "channel-layer[cryptography]"', name=_exc.name
    ) from _exc

from channel_layer_crypto.aes import AesSealer
from channel_layer_crypto.fernet import FernetSealer
from channel_layer_crypto.siv import SivBlinder

del _cryptography

__all__ = ("AesSealer", "FernetSealer", "SivBlinder")
