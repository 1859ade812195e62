"""AES-256-GCM, with a key for each process and a nonce that counts.

Random nonces of 96 bits are safe for 2**32 messages under one key, which a busy process sends in 20 hours. So every
process draws a salt, derives a key of its own from it, and counts: then no nonce can come twice under one key, at any
rate. A child after a fork, and a process that has counted to 2**32, draw a new salt.

A sealed payload: format (1 byte, ``0x02``), key id (1), salt (16), milliseconds since 1970 (6), count (8), ciphertext,
tag (16). All of it, and the place, is authenticated.

Source: NIST SP 800-38D, sections 8.2.1 (deterministic nonces) and 8.3 (random ones).
"""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channel_layer.envelope import SEALED, Unauthentic
from channel_layer_crypto._bonds import CUT_SHORT, NOT_OURS, Scope, check_age, derive, refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.ports import Place, Sealer, Secret

__all__ = ("AesSealer",)

_FORMAT: Final = b"\x02"
_SALT = 16
_SENDER_END = 2 + _SALT
_TIME_END = _SENDER_END + 6
_HEAD_END = _TIME_END + 8
_SHORTEST = _HEAD_END + 16
_NONCE_START = bytes(4)

_MESSAGES_A_KEY = 2**32
"""Far below what a counted nonce allows; a bound that SP 800-38D has for every way to make them."""

_REMEMBERED = 4096
"""Senders whose keys are at hand; more of them cost a derivation a message (10 us)."""

_PURPOSE = b"aes-256-gcm"


class _Sender:
    """What one process seals with: a key of its own, and how often it has been used. Not for use after a fork."""

    __slots__ = ("_count", "_lock", "aes", "head", "pid")

    def __init__(self, key: Secret) -> None:
        salt = os.urandom(_SALT)
        self.pid: int = os.getpid()
        self.aes: AESGCM = AESGCM(derive(key, salt, _PURPOSE))
        self.head: bytes = _FORMAT + _key_id(key) + salt
        self._count = 0
        self._lock = threading.Lock()

    def number(self) -> int:
        """Return a number that no other message of this sender has."""
        with self._lock:
            self._count += 1
            return self._count


class AesSealer:
    """Seals with AES-256-GCM.

    Args:
        keys: 32 bytes each; the first seals, all open.
        prefix: of the layer; a message is bound to it.
        expiry: seconds that a message may wait unread.
        now: seconds since 1970.
    """

    def __init__(self, keys: Sequence[Secret], *, prefix: str, expiry: float, now: Callable[[], float]) -> None:
        self._first = keys[0]
        self._scope = Scope(prefix)
        self._expiry = expiry
        self._now = now
        self._keys: dict[bytes, list[Secret]] = {}
        for key in keys:
            self._keys.setdefault(_key_id(key), []).append(key)
        self._sender = _Sender(self._first)
        self._senders: dict[bytes, AESGCM] = {}
        """By key id and salt; only such as have sealed something, so that nobody else can fill it."""

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal a payload for the channel or group *name*. Thread-safe."""
        sender = self._sender
        if sender.pid != os.getpid():  # before its lock: another thread may have held that when we were forked
            sender = self._sender = _Sender(self._first)
        number = sender.number()
        if number >= _MESSAGES_A_KEY:
            self._sender = _Sender(self._first)
        count = number.to_bytes(8, "big")
        head = sender.head + int(self._now() * 1000).to_bytes(6, "big")
        return head + count + sender.aes.encrypt(_NONCE_START + count, payload, head + self._scope.of(place, name))

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Return the payload. Thread-safe.

        Raises:
            Unauthentic: no one with a key has sealed these bytes for *name*, or it was too long ago.
        """
        if sealed[:1] != _FORMAT:
            raise refusal(sealed, SEALED)
        if len(sealed) < _SHORTEST:
            raise Unauthentic(CUT_SHORT)
        sender = sealed[1:_SENDER_END]
        nonce = _NONCE_START + sealed[_TIME_END:_HEAD_END]
        bound = sealed[:_TIME_END] + self._scope.of(place, name)
        aes = self._senders.get(sender)
        if aes is not None:
            payload = _open(aes, nonce, sealed[_HEAD_END:], bound)
        else:
            payload = self._open_first(sender, nonce, sealed[_HEAD_END:], bound)
        if payload is None:
            raise Unauthentic(NOT_OURS)
        check_age(self._now() - int.from_bytes(sealed[_SENDER_END:_TIME_END], "big") / 1000, self._expiry)
        return payload

    def _open_first(self, sender: bytes, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes | None:
        """Open the first message of a sender: find his key."""
        for key in self._keys.get(sender[:1], ()):
            aes = AESGCM(derive(key, sender[1:], _PURPOSE))
            payload = _open(aes, nonce, ciphertext, bound)
            if payload is not None:
                if len(self._senders) >= _REMEMBERED:
                    self._senders = {}
                self._senders[sender] = aes
                return payload
        return None


def _open(aes: AESGCM, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes | None:
    try:
        return aes.decrypt(nonce, ciphertext, bound)
    except InvalidTag:
        return None


def _key_id(key: Secret) -> bytes:
    """Return the byte by which a key among several is found at once; it tells nothing of use of the key."""
    return hashlib.sha256(b"channel-layer key id" + key.get_secret_value()).digest()[:1]


if TYPE_CHECKING:
    _fits: type[Sealer] = AesSealer
