"""Loads the cipher that a configuration names, and opens a sealed group message once for all its readers.

Ciphers are plug-ins: the core knows none of them, and loads an installed one by its name (entry points
``channel_layer.ciphers`` and ``channel_layer.blinders``).
"""

from __future__ import annotations

import time
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Protocol

from channel_layer.errors import ConfigError, FieldError
from channel_layer.runtime.event_loops import SystemClock
from channel_layer.stores.blinding import BlindBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.metadata import EntryPoint

    from channel_layer.domain.rules import Encryption, Rules, Secret
    from channel_layer.ports import Backend, Blinder, Clock, Sealer

__all__ = ("MakeBlinder", "MakeSealer", "Seal", "blinded", "make_seal")

_REMEMBERED = 64
"""Opened payloads of group messages that are cached; the members of a group receive the same few messages."""

_BLINDER = "aes-siv"


class MakeSealer(Protocol):
    """An entry point of ``channel_layer.ciphers``."""

    def __call__(self, keys: Sequence[Secret], *, prefix: str, expiry: float, now: Callable[[], float]) -> Sealer:
        """Make a sealer.

        Args:
            keys: 32 bytes each; the first seals, all open.
            prefix: what all keys in the store begin with.
            expiry: seconds that a message may wait unread.
            now: seconds since 1970.

        Raises:
            ImportError: a package is missing; the error says which.
        """
        ...


class MakeBlinder(Protocol):
    """An entry point of ``channel_layer.blinders``."""

    def __call__(self, key: Secret, *, prefix: str) -> Blinder:
        """Make a blinder; the arguments are those of `MakeSealer`."""
        ...


class Seal:
    """A sealer with a cache: a group message is opened once, however many members receive it in this process."""

    __slots__ = ("_opened", "sealer")

    def __init__(self, sealer: Sealer) -> None:
        self.sealer: Sealer = sealer
        self._opened: dict[int, tuple[bytes, bytes]] = {}
        """By the id of the sealed bytes: the bytes, a reference to which keeps the id valid, and their payload."""

    def for_channel(self, payload: bytes, name: str) -> bytes:
        """Seal a payload for one channel."""
        return self.sealer.seal(payload, "channel", name)

    def for_group(self, payload: bytes, name: str) -> bytes:
        """Seal a payload for a group."""
        return self.sealer.seal(payload, "group", name)

    def open_shared(self, sealed: bytes, group: str) -> bytes:
        """Return the payload of a group message; the same object for all members of the group."""
        known = self._opened.get(id(sealed))
        if known is not None:
            return known[1]
        payload = self.sealer.open(sealed, "group", group)
        if len(self._opened) >= _REMEMBERED:
            self._opened = {}
        self._opened[id(sealed)] = sealed, payload
        return payload


def make_seal(rules: Rules, clock: Clock) -> Seal | None:
    """Make the seal that a configuration asks for; None if it has no keys.

    Raises:
        ConfigError: the cipher is not installed.
        ImportError: the cipher needs a package that is missing.
    """
    encryption = rules.encryption
    if encryption is None:
        return None

    def now() -> float:
        return time.time() + clock.offset

    make: MakeSealer = _find("channel_layer.ciphers", encryption.cipher, "encryption").load()
    # The machine's clock, not the store's: an attacker who controls the store could set that back and replay messages.
    moves = not isinstance(clock, SystemClock)
    return Seal(make(encryption.keys, prefix=rules.prefix, expiry=rules.expiry, now=now if moves else time.time))


def blinded(backend: Backend, rules: Rules) -> Backend:
    """Return *backend*, wrapped in one that hides names if the configuration asks for that.

    Raises:
        ImportError: a package is missing.
    """
    encryption: Encryption | None = rules.encryption
    if encryption is None or encryption.names is None:
        return backend
    make: MakeBlinder = _find("channel_layer.blinders", _BLINDER, "blind_names").load()
    return BlindBackend(backend, make(encryption.names, prefix=rules.prefix))


def _find(group: str, name: str, option: str) -> EntryPoint:
    found = entry_points(group=group, name=name)
    if not found:
        problem = f"{name!r} is not installed: no distribution has an entry point of that name in the group {group!r}"
        raise ConfigError([FieldError(option, problem)])
    return next(iter(found))
