"""Fernet tokens, byte for byte as asgi_redis made them, each with an HMAC that binds it to its channel or group.

A Fernet token is authentic and has a time, but is not bound to a channel. Without the HMAC, an attacker who can write
to the store could move a message to another channel.

A sealed payload: format (1 byte, ``0x03``), the first 16 bytes of the HMAC-SHA-256 of place and token, token. The
token's content is the message as msgpack, and its key the SHA-256 of the configured key in URL-safe base64.

Source: the asgi_redis README, "symmetric_encryption_keys"; the Fernet specification.
"""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING, Final

from cryptography.fernet import Fernet, InvalidToken

from channel_layer.domain.codec import PLAIN, SEALED
from channel_layer.domain.frames import Unauthentic
from channel_layer_crypto._binding import CUT_SHORT, NOT_OURS, check_age, derive, refusal, scope_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.domain.rules import Secret
    from channel_layer.ports import Place, Sealer

__all__ = ("FernetSealer",)

_FORMAT: Final = b"\x03"
_TAG = 16
_HEAD_END = 1 + _TAG


class FernetSealer:
    """Seals with Fernet: AES-128-CBC and HMAC-SHA-256.

    Args:
        keys: 32 bytes each; the first seals, all open.
        prefix: of the layer; a message is bound to it.
        expiry: seconds that a message may wait unread.
        now: seconds since 1970.
    """

    def __init__(self, keys: Sequence[Secret], *, prefix: str, expiry: float, now: Callable[[], float]) -> None:
        self._starts = scope_starts(prefix)
        self._expiry = expiry
        self._now = now
        self._keys = [
            (derive(key, None, b"fernet place"), Fernet(base64.urlsafe_b64encode(key.get_secret_value())))
            for key in keys
        ]

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal a payload for the channel or group *name*. Thread-safe."""
        tag_key, fernet = self._keys[0]
        token = fernet.encrypt_at_time(payload.removeprefix(PLAIN), int(self._now()))
        return _FORMAT + _make_tag(tag_key, self._starts[place] + name.encode(), token) + token

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Return the payload. Thread-safe.

        Raises:
            Unauthentic: these bytes were not sealed with one of the keys for *name*, or too long ago.
        """
        if sealed[:1] != _FORMAT:
            raise refusal(sealed, SEALED)
        if len(sealed) <= _HEAD_END:
            raise Unauthentic(CUT_SHORT)
        token, tag, scope = sealed[_HEAD_END:], sealed[1:_HEAD_END], self._starts[place] + name.encode()
        for tag_key, fernet in self._keys:
            if hmac.compare_digest(tag, _make_tag(tag_key, scope, token)):
                return self._open(fernet, token)
        raise Unauthentic(NOT_OURS)

    def _open(self, fernet: Fernet, token: bytes) -> bytes:
        try:
            payload = PLAIN + fernet.decrypt(token)
            sealed_at = fernet.extract_timestamp(token)
        except InvalidToken:  # a sender with the key has made a tag for bytes that are no token
            raise Unauthentic(NOT_OURS) from None
        check_age(self._now() - sealed_at, self._expiry)
        return payload


def _make_tag(key: bytes, scope: bytes, token: bytes) -> bytes:
    return hmac.digest(key, len(scope).to_bytes(4, "big") + scope + token, "sha256")[:_TAG]


if TYPE_CHECKING:
    _fits: type[Sealer] = FernetSealer
