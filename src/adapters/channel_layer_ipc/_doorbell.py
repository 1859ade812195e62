"""Doorbells: who waits has a socket in the world's directory, and is rung by whoever has something for him.

A ring carries nothing: who hears one looks in the store. So rings may run into one, and a doorbell that is full has
done its duty.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

from channel_layer.errors import StoreError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from channel_layer_ipc._files import ProcessLock

__all__ = ("Doorbell", "LoopDoorbell", "remove_dead", "remove_if_dead")

_SURE_SECONDS = 0.1
"""How long it is taken for sure that who was there is still there: asking costs as much as writing a message does."""

_REMEMBERED = 1024
"""Doorbells of which that is known."""


class Doorbell:
    """A socket: it rings others, and is rung itself once it hangs.

    Args:
        process_lock: the world.

    Attributes:
        process_lock: the world.
        number: by which others ring it; 0 until it hangs.
    """

    __slots__ = ("__weakref__", "_finalizer", "_paths", "_seen", "_socket", "number", "process_lock")

    def __init__(self, process_lock: ProcessLock) -> None:
        self.process_lock: ProcessLock = process_lock
        self._paths: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._finalizer = weakref.finalize(self, _close, self._socket, self._paths, os.getpid())
        self._seen: dict[int, float] = {}
        """When somebody was last seen at a doorbell."""
        self.number: int = 0

    @property
    def descriptor(self) -> int:
        """Of the socket, which becomes readable when it is rung; -1 when it is closed."""
        return self._socket.fileno()

    def bind(self) -> int:
        """Give it an address, and listen, unless that has been done; return its number.

        Raises:
            StoreError: there can be no socket in this directory, or the system gives none.
        """
        if not self.number:
            try:
                self.number = self._bind_new()
            except OSError as exc:
                what = f"channel_layer_ipc: cannot make a socket: {exc.strerror}"
                raise StoreError(what, retryable=True, outcome="not_sent") from exc
        return self.number

    def _bind_new(self) -> int:
        while True:
            number = secrets.randbits(32) or 1
            draft, path = self.process_lock.doorbell(number, draft=True), self.process_lock.doorbell(number)
            if Path(path).exists():
                continue  # it is another one's
            self._socket.bind(draft)
            # A socket has its path a moment before it can be rung, and would look like that of a killed process.
            Path(draft).chmod(0o600)
            Path(draft).rename(path)
            self._paths.append(path)
            return number

    def notify(self, number: int) -> bool:
        """Ring another one; False if nobody is there any more."""
        path = self.process_lock.doorbell(number)
        try:
            self._socket.sendto(b"!", path)
        except (ConnectionRefusedError, FileNotFoundError):
            _unlink(path)
            return False
        except OSError:  # it is full: whoever it is will look
            return True
        return True

    def has_listener(self, number: int) -> bool:
        """Whether somebody is at another one; he is not disturbed."""
        now = time.monotonic()
        if number == self.number or now - self._seen.get(number, -_SURE_SECONDS) < _SURE_SECONDS:
            return True
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[number] = now
        if remove_if_dead(self.process_lock, number):
            del self._seen[number]
            return False
        return True

    def clear(self) -> None:
        """Take the rings that there are."""
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(16)  # there is seldom another one, and then whoever listens comes back at once

    def close(self) -> None:
        """Take it down. Harmless if it is called twice."""
        self._finalizer()


def _close(doorbell: socket.socket, paths: list[str], process: int) -> None:
    doorbell.close()
    if process == os.getpid():  # else it is the parent's
        for path in paths:
            _unlink(path)


class LoopDoorbell(Doorbell):
    """The bell of one event loop.

    Args:
        process_lock: the world.
        loop: the event loop.
        heard: called in the loop when it was rung.
    """

    __slots__ = ("_heard", "_loop")

    def __init__(self, process_lock: ProcessLock, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        super().__init__(process_lock)
        self._loop = loop
        self._heard = heard

    def bind(self) -> int:
        """Give it an address, and listen; see `Doorbell.bind`."""
        if not self.number:
            super().bind()
            self._loop.add_reader(self.descriptor, self._hear)
        return self.number

    def close(self) -> None:
        """Take it down."""
        if self.number and self.descriptor >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self.descriptor)
        super().close()

    def _hear(self) -> None:
        self.clear()
        self._heard()


def remove_dead(process_lock: ProcessLock, numbers: list[int]) -> None:
    """Remove the doorbells of processes that were killed.

    Args:
        process_lock: the world.
        numbers: doorbells that are there.
    """
    for number in numbers:
        remove_if_dead(process_lock, number)


def remove_if_dead(process_lock: ProcessLock, number: int) -> bool:
    """Whether the process behind a doorbell was killed; if so, what is left of the doorbell is removed."""
    path = process_lock.doorbell(number)
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
