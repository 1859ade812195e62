"""AES-256-GCM, with a derived key for each process and a counter as nonce.

Random nonces of 96 bits are safe for 2**32 messages under one key, which a busy process sends in 20 hours. So every
process draws a random salt, derives a key of its own from it, and counts its messages: no nonce is used twice under one
key. A child after a fork, and a process that has counted to 2**32, draw a new salt.

A sealed payload: format (1 byte, ``0x02``), key id (1), salt (16), milliseconds since 1970 (8), count (8), ciphertext,
tag (16). All of it is authenticated, together with the channel or group. The nonce is the last 12 bytes before the
ciphertext; the count alone makes it unique.

Source: NIST SP 800-38D, sections 8.2.1 (deterministic nonces) and 8.3 (random ones).
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from channel_layer.domain.codec import SEALED
from channel_layer.domain.frames import Unauthentic
from channel_layer_crypto._binding import CUT_SHORT, NOT_OURS, TOLERANCE, check_age, derive, refusal, scope_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.domain.rules import Secret
    from channel_layer.ports import Place, Sealer

__all__ = ("AesSealer",)

_FORMAT: Final = b"\x02"
_SALT = 16
_STAMP = struct.Struct(">QQ")
_SENDER_END = 2 + _SALT
_HEAD_END = _SENDER_END + _STAMP.size
_NONCE_START = _HEAD_END - 12
_SHORTEST = _HEAD_END + 16

_MESSAGES_A_KEY = 2**32
"""Messages under one derived key: the limit of SP 800-38D for random nonces, far below that for counted ones."""

_REMEMBERED = 4096
"""Senders whose derived keys are cached; without the cache, each message costs a derivation (10 us)."""

_PURPOSE = b"aes-256-gcm"

_forks = 0
"""The number of forks between the process that imported this module and this process."""


def _after_fork() -> None:
    global _forks  # noqa: PLW0603 - a call of os.getpid() for each message would cost a tenth of its sealing
    _forks += 1


os.register_at_fork(after_in_child=_after_fork)


class _Sender:
    """The derived key of one process, and the count of messages sealed with it. A forked child makes a new one.

    Attributes:
        forks: the value of `_forks` when this object was made.
        head: what the messages of this sender begin with.
        count: messages sealed so far; changed only under the lock, so that no two messages have the same count.
    """

    __slots__ = ("count", "encrypt", "forks", "head", "lock")

    def __init__(self, key: Secret) -> None:
        salt = os.urandom(_SALT)
        self.forks: int = _forks
        self.encrypt: Callable[[bytes, bytes, bytes], bytes] = AESGCM(derive(key, salt, _PURPOSE)).encrypt
        self.head: bytes = _FORMAT + _key_id(key) + salt
        self.count: int = 0
        self.lock: threading.Lock = threading.Lock()


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
        self._starts = scope_starts(prefix)
        self._expiry = expiry
        self._now = now
        self._keys: dict[bytes, list[Secret]] = {}
        for key in keys:
            self._keys.setdefault(_key_id(key), []).append(key)
        self._sender = _Sender(self._first)
        self._senders: dict[bytes, AESGCM] = {}
        """By key id and salt; added only after a message was authentic, so that forged messages cannot fill it."""

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal a payload for the channel or group *name*. Thread-safe."""
        sender = self._sender
        if sender.forks != _forks:  # before taking the lock, which another thread may have held at the fork
            sender = self._sender = _Sender(self._first)
        with sender.lock:
            sender.count = number = sender.count + 1
        if number >= _MESSAGES_A_KEY:
            self._sender = _Sender(self._first)
        stamp = _STAMP.pack(int(self._now() * 1000), number)
        head = sender.head + stamp
        return head + sender.encrypt(stamp[4:], payload, head + self._starts[place] + name.encode())

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Return the payload. Thread-safe.

        Raises:
            Unauthentic: these bytes were not sealed with one of the keys for *name*, or too long ago.
        """
        if sealed[:1] != _FORMAT:
            raise refusal(sealed, SEALED)
        if len(sealed) < _SHORTEST:
            raise Unauthentic(CUT_SHORT)
        head = sealed[:_HEAD_END]
        nonce, ciphertext = head[_NONCE_START:], sealed[_HEAD_END:]
        bound = head + self._starts[place] + name.encode()
        aes = self._senders.get(head[1:_SENDER_END])
        if aes is not None:
            try:
                payload = aes.decrypt(nonce, ciphertext, bound)
            except InvalidTag:
                raise Unauthentic(NOT_OURS) from None
        else:
            payload = self._open_first(head[1:_SENDER_END], nonce, ciphertext, bound)
        sealed_at, _ = _STAMP.unpack_from(head, _SENDER_END)
        age = self._now() - sealed_at / 1000
        if not -TOLERANCE <= age <= self._expiry:
            check_age(age, self._expiry)
        return payload

    def _open_first(self, sender: bytes, nonce: bytes, ciphertext: bytes, bound: bytes) -> bytes:
        """Open the first message of a sender: find the key from which the sender derived its own.

        Raises:
            Unauthentic: the sender used none of the keys.
        """
        for key in self._keys.get(sender[:1], ()):
            aes = AESGCM(derive(key, sender[1:], _PURPOSE))
            try:
                payload = aes.decrypt(nonce, ciphertext, bound)
            except InvalidTag:
                continue
            if len(self._senders) >= _REMEMBERED:
                self._senders = {}
            self._senders[sender] = aes
            return payload
        raise Unauthentic(NOT_OURS)


def _key_id(key: Secret) -> bytes:
    """Return a byte that identifies a key among several; it reveals nothing useful about the key."""
    return hashlib.sha256(b"channel-layer key id" + key.get_secret_value()).digest()[:1]


if TYPE_CHECKING:
    _fits: type[Sealer] = AesSealer
