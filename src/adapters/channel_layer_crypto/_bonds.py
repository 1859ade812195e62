"""What a sealed message is bound to besides its key: its place and its time, the same for every cipher.

A cipher that checked only its key would let who can write to the store move a message to another channel, or keep it
and deliver it again tomorrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from channel_layer.domain.frames import Unauthentic

if TYPE_CHECKING:
    from channel_layer.domain.rules import Secret
    from channel_layer.ports import Place

__all__ = ("CUT_SHORT", "NOT_OURS", "TOLERANCE", "check_age", "derive", "refusal", "scope_starts")

TOLERANCE = 10.0
"""Seconds that the clocks of two machines may differ, and that a send may take."""

NOT_OURS = (
    "a message came in that was sealed with a key which is not in symmetric_encryption_keys here, or was altered, "
    "or was moved here from another channel, group or prefix"
)
CUT_SHORT = "a sealed message came in that is cut short"

_PLACES: dict[Place, bytes] = {"channel": b"c", "group": b"g"}


def scope_starts(prefix: str) -> dict[Place, bytes]:
    """Return for each kind of place bytes that, with the name after them, stand for this place and for no other.

    Args:
        prefix: of the layer.
    """
    text = prefix.encode()
    # Its length first, so that no two pairs of prefix and name give the same bytes.
    return {place: kind + len(text).to_bytes(4, "big") + text for place, kind in _PLACES.items()}


def derive(key: Secret, salt: bytes | None, purpose: bytes, length: int = 32) -> bytes:
    """Make a key for one purpose, of *length* bytes, by HKDF with SHA-256."""
    return HKDF(SHA256(), length, salt, b"channel-layer 1 " + purpose).derive(key.get_secret_value())


def check_age(age: float, expiry: float) -> None:
    """See that a message was sealed at a time at which it may have been.

    Args:
        age: seconds since it was sealed.
        expiry: seconds that a message may wait unread.

    Raises:
        Unauthentic: it is too old to be delivered, or from the future.
    """
    if age > expiry + TOLERANCE:
        raise Unauthentic(
            f"a message came in that was sealed {age:.0f} s ago, where {expiry + TOLERANCE:.0f} s are allowed: "
            f"it was delivered again, or the clocks of two machines differ"
        )
    if age < -TOLERANCE:
        raise Unauthentic(f"a message came in that was sealed {-age:.0f} s from now: the clocks of two machines differ")


def refusal(sealed: bytes, known: frozenset[bytes]) -> Unauthentic:
    """Say why a payload does not even begin as one of ours."""
    if sealed[:1] in known:
        return Unauthentic("a message came in that was sealed with another cipher: see the option encryption")
    return Unauthentic("plain text came in where all is to be sealed: a sender has no symmetric_encryption_keys")
