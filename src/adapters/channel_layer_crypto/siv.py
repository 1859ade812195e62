"""Names to tokens by AES-SIV: one name gives one token, and only who has the key can go back.

Equal names have to give equal tokens, or nobody would find a queue; so what a reader of the store still learns is which
tokens are equal, and how long a name is, to 16 characters. That a token can be turned back, unlike a hash, is what lets
``group_channels``, logs and the reader of an inbox tell names without a table that would have to be kept somewhere.

Source: RFC 5297 (AES-SIV), deterministic authenticated encryption.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from channel_layer.domain.frames import Unauthentic
from channel_layer_crypto._bonds import derive

if TYPE_CHECKING:
    from channel_layer.domain.rules import Secret
    from channel_layer.ports import Blinder

__all__ = ("SivBlinder",)

_STEP = 16
"""Names are filled up to a multiple of so many characters, so that a token's length tells little."""

_FILL = b"\0"

_NOT_OURS = "a name in the store is no token of ours: a process has no blind_names, or another key for them"


class SivBlinder:
    """Blinds names with AES-256-SIV.

    Args:
        key: 32 bytes, from which the two keys of the cipher are made.
        prefix: of the layer; the same name has another token under another prefix.
    """

    def __init__(self, key: Secret, *, prefix: str) -> None:
        self._siv = AESSIV(derive(key, None, b"aes-siv names", 64))
        self._prefix = prefix.encode()

    def blind(self, name: str, within: str, /) -> str:
        """Return the token of a name; tokens of one name *within* different things have nothing in common."""
        text = name.encode("ascii")
        filled = text + _FILL * (-len(text) % _STEP)
        return _write(self._siv.encrypt(filled, [self._prefix, within.encode("ascii")]))

    def reveal(self, token: str, within: str, /) -> str:
        """Return the name of a token.

        Raises:
            Unauthentic: no one with the key has made this token.
        """
        try:
            sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            if _write(sealed) != token:  # two texts that stand for the same bytes
                raise Unauthentic(_NOT_OURS)
            filled = self._siv.decrypt(sealed, [self._prefix, within.encode("ascii")])
            return filled.rstrip(_FILL).decode("ascii")
        except (InvalidTag, binascii.Error, ValueError):
            raise Unauthentic(_NOT_OURS) from None


def _write(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")


if TYPE_CHECKING:
    _fits: type[Blinder] = SivBlinder
