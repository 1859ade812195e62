"""Blinds names with AES-SIV: a name always gives the same token, and with the key the token gives back the name.

Equal names must give equal tokens, because processes find a queue by its token. So an attacker who can read the store
still learns which tokens are equal, and the length of a name to within 16 characters. A token can be decrypted, unlike
a hash, so ``group_channels``, logs and the reader of an inbox get names without a stored table of them.

Source: RFC 5297 (AES-SIV), deterministic authenticated encryption.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from channel_layer.domain.frames import Unauthentic
from channel_layer_crypto._binding import derive

if TYPE_CHECKING:
    from channel_layer.domain.rules import Secret
    from channel_layer.ports import Blinder

__all__ = ("SivBlinder",)

_STEP = 16
"""Names are padded to a multiple of this many characters, so that the length of a token reveals little."""

_PADDING = b"\0"

_NOT_OURS = "a name in the store is no token made with our key: give every process the same blind_names"


class SivBlinder:
    """Blinds names with AES-256-SIV.

    Args:
        key: 32 bytes, from which the two keys of the cipher are derived.
        prefix: of the layer; a name has another token under another prefix.
    """

    def __init__(self, key: Secret, *, prefix: str) -> None:
        self._siv = AESSIV(derive(key, None, b"aes-siv names", 64))
        self._prefix = prefix.encode()

    def blind(self, name: str, within: str, /) -> str:
        """Return the token of a name in the scope *within*; in another scope the name has an unrelated token."""
        text = name.encode("ascii")
        padded = text + _PADDING * (-len(text) % _STEP)
        return _encode(self._siv.encrypt(padded, [self._prefix, within.encode("ascii")]))

    def reveal(self, token: str, within: str, /) -> str:
        """Return the name of a token.

        Raises:
            Unauthentic: the token was not made with this key, prefix and scope.
        """
        try:
            sealed = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
            if _encode(sealed) != token:  # base64 has several texts for the same bytes; only one of them is a token
                raise Unauthentic(_NOT_OURS)
            padded = self._siv.decrypt(sealed, [self._prefix, within.encode("ascii")])
            return padded.rstrip(_PADDING).decode("ascii")
        except (InvalidTag, binascii.Error, ValueError):
            raise Unauthentic(_NOT_OURS) from None


def _encode(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")


if TYPE_CHECKING:
    _fits: type[Blinder] = SivBlinder
