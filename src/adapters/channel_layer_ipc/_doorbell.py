"""Doorbells: a process or thread that waits has a socket in the store's directory, by which others notify it.

A notification carries nothing: its receiver looks in the store. So it does no harm that several arrive as one, or that
one is dropped because the socket's buffer is full.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Final

from channel_layer_ipc._directory import unavailable

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from channel_layer_ipc._process_lock import ProcessLock

__all__ = ("Doorbell", "LoopDoorbell", "remove_dead")

_SURE_SECONDS: Final = 0.1
"""How long a listener that was there is taken to be there still: asking costs as much as writing a message does."""

_REMEMBERED: Final = 1024
"""Doorbells whose listeners are remembered so."""


class Doorbell:
    """A socket: it notifies other doorbells, and is notified itself once it is bound.

    Attributes:
        process_lock: of the shared store.
        number: its address; 0 until it is bound.
    """

    __slots__ = ("__weakref__", "_finalizer", "_paths", "_seen", "_socket", "number", "process_lock")

    def __init__(self, process_lock: ProcessLock) -> None:
        self.process_lock: ProcessLock = process_lock
        self._paths: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._finalizer = weakref.finalize(self, _close, self._socket, self._paths, os.getpid())
        self._seen: dict[int, float] = {}
        """When another doorbell was last seen to have a listener."""
        self.number: int = 0

    @property
    def descriptor(self) -> int:
        """Of the socket, which becomes readable when it is notified; -1 when it is closed."""
        return self._socket.fileno()

    def bind(self) -> int:
        """Bind the socket, unless that has been done; return its number.

        Raises:
            StoreError: there can be no socket in this directory, or the system gives none.
        """
        try:
            while not self.number:
                number = secrets.randbits(32) or 1
                draft = self.process_lock.doorbell_path(number, draft=True)
                path = self.process_lock.doorbell_path(number)
                if Path(path).exists():
                    continue  # it is another one's
                self._socket.bind(draft)
                # A socket has its path a moment before it can be notified, and would look like a killed process's.
                Path(draft).chmod(0o600)
                Path(draft).rename(path)
                self._paths.append(path)
                self.number = number
        except OSError as exc:
            raise unavailable(f"cannot make a socket: {exc.strerror}") from exc
        return self.number

    def notify(self, number: int) -> bool:
        """Notify another doorbell; return False if it has no listener any more."""
        path = self.process_lock.doorbell_path(number)
        try:
            self._socket.sendto(b"!", path)
        except (ConnectionRefusedError, FileNotFoundError):
            _unlink(path)
            return False
        except OSError:  # its buffer is full: its listener has yet to look
            return True
        return True

    def has_listener(self, number: int) -> bool:
        """Return whether another doorbell has a listener, without notifying it."""
        now = time.monotonic()
        if number == self.number or now - self._seen.get(number, -_SURE_SECONDS) < _SURE_SECONDS:
            return True
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        if _remove_if_dead(self.process_lock, number):
            self._seen.pop(number, None)
            return False
        self._seen[number] = now
        return True

    def drain(self) -> None:
        """Take a notification from the socket, if there is one."""
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(16)  # there is seldom another one, and then its listener comes back at once

    def close(self) -> None:
        """Close the socket. Harmless if it is called twice."""
        self._finalizer()


def _close(doorbell: socket.socket, paths: list[str], process: int) -> None:
    doorbell.close()
    if process == os.getpid():  # else it is the parent's
        for path in paths:
            _unlink(path)


class LoopDoorbell(Doorbell):
    """The doorbell of one event loop, in which *on_notified* is called when it was notified."""

    __slots__ = ("_loop", "_on_notified")

    def __init__(
        self, process_lock: ProcessLock, loop: asyncio.AbstractEventLoop, on_notified: Callable[[], None]
    ) -> None:
        super().__init__(process_lock)
        self._loop = loop
        self._on_notified = on_notified

    def bind(self) -> int:
        """Bind the socket, and listen; see `Doorbell.bind`."""
        if not self.number:
            super().bind()
            self._loop.add_reader(self.descriptor, self._read)
        return self.number

    def close(self) -> None:
        """Close the socket."""
        if self.number and self.descriptor >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self.descriptor)
        super().close()

    def _read(self) -> None:
        self.drain()
        self._on_notified()


def remove_dead(process_lock: ProcessLock) -> None:
    """Remove the doorbells of processes that were killed."""
    for number in process_lock.doorbells():
        _remove_if_dead(process_lock, number)


def _remove_if_dead(process_lock: ProcessLock, number: int) -> bool:
    """Return whether the process of a doorbell was killed; if so, what is left of the doorbell is removed."""
    path = process_lock.doorbell_path(number)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            _unlink(path)
            return True
        except OSError:
            return False
    return False


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        Path(path).unlink()
