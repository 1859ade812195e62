"""What every cipher binds a sealed message to besides its key: the channel or group, and the time.

Otherwise an attacker who can write to the store could move a message to another channel, or replay it later.
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
"""Seconds by which the clocks of two machines may differ, and which a send may take."""

NOT_OURS = (
    "a message was sealed with a key which is not in symmetric_encryption_keys here, or was altered, or was moved here "
    "from another channel, group or prefix: give every process the same keys and prefix"
)
CUT_SHORT = "a sealed message is truncated: the store or a sender has damaged it"

_PLACES: dict[Place, bytes] = {"channel": b"c", "group": b"g"}


def scope_starts(prefix: str) -> dict[Place, bytes]:
    """Return, by kind of place, the bytes that identify a place under a layer's prefix when its name is appended."""
    text = prefix.encode()
    # The length comes first, so that no two pairs of prefix and name give the same bytes.
    return {place: kind + len(text).to_bytes(4, "big") + text for place, kind in _PLACES.items()}


def derive(key: Secret, salt: bytes | None, purpose: bytes, length: int = 32) -> bytes:
    """Make a key for one purpose, of *length* bytes, by HKDF with SHA-256."""
    return HKDF(SHA256(), length, salt, b"channel-layer 1 " + purpose).derive(key.get_secret_value())


def check_age(age: float, expiry: float) -> None:
    """Check that a message that was sealed *age* seconds ago was sealed neither too long ago nor in the future.

    Raises:
        Unauthentic: the message is too old to be delivered, or was sealed in the future.
    """
    if age > expiry + TOLERANCE:
        raise Unauthentic(
            f"a message was sealed {age:.0f} s ago, where {expiry + TOLERANCE:.0f} s are allowed: "
            f"it was replayed, or the clocks of two machines differ"
        )
    if age < -TOLERANCE:
        raise Unauthentic(f"a message was sealed {-age:.0f} s in the future: the clocks of two machines differ")


def refusal(sealed: bytes, known: frozenset[bytes]) -> Unauthentic:
    """Return the error for a payload that does not begin with the format byte of the cipher in use.

    *known* are the format bytes of all ciphers.
    """
    if sealed[:1] in known:
        return Unauthentic("a message was sealed with another cipher: see the option encryption")
    return Unauthentic("a message is plain text, but must be sealed: give its sender symmetric_encryption_keys")
