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

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from channel_layer_ipc._files import Gate

__all__ = ("Bell", "Doorbell", "is_silent", "remove_silent")

_SURE_SECONDS = 0.1
"""How long it is taken for sure that who was there is still there: asking costs as much as writing a message does."""

_REMEMBERED = 1024
"""Doorbells of which that is known."""


class Bell:
    """A socket: it rings others, and is rung itself once it hangs.

    Args:
        gate: the world.

    Attributes:
        gate: the world.
        number: by which others ring it; 0 until it hangs.
    """

    __slots__ = ("__weakref__", "_finalizer", "_paths", "_seen", "_socket", "gate", "number")

    def __init__(self, gate: Gate) -> None:
        self.gate: Gate = gate
        self._paths: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._finalizer = weakref.finalize(self, _take_down, self._socket, self._paths, os.getpid())
        self._seen: dict[int, float] = {}
        """When somebody was last seen at a doorbell."""
        self.number: int = 0

    @property
    def descriptor(self) -> int:
        """Of the socket, which becomes readable when it is rung; -1 when it is closed."""
        return self._socket.fileno()

    def hang(self) -> None:
        """Give it an address, and listen. Harmless if that has been done.

        Raises:
            StoreError: there can be no socket in this directory.
            OSError: the system gives none.
        """
        while not self.number:
            number = secrets.randbits(32) or 1
            draft, path = self.gate.bell(number, draft=True), self.gate.bell(number)
            if Path(path).exists():
                continue  # it is another one's
            self._socket.bind(draft)
            # A socket has its path a moment before it can be rung, and would look like that of a killed process.
            Path(draft).chmod(0o600)
            Path(draft).rename(path)
            self._paths.append(path)
            self.number = number

    def ring(self, number: int) -> bool:
        """Ring another one; False if nobody is there any more."""
        path = self.gate.bell(number)
        try:
            self._socket.sendto(b"!", path)
        except (ConnectionRefusedError, FileNotFoundError):
            _unlink(path)
            return False
        except OSError:  # it is full: whoever it is will look
            return True
        return True

    def answers(self, number: int) -> bool:
        """Whether somebody is at another one; he is not disturbed."""
        now = time.monotonic()
        if number == self.number or now - self._seen.get(number, -_SURE_SECONDS) < _SURE_SECONDS:
            return True
        if len(self._seen) >= _REMEMBERED:
            self._seen.clear()
        self._seen[number] = now
        if is_silent(self.gate, number):
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


def _take_down(bell: socket.socket, paths: list[str], process: int) -> None:
    bell.close()
    if process == os.getpid():  # else it is the parent's
        for path in paths:
            _unlink(path)


class Doorbell(Bell):
    """The bell of one event loop.

    Args:
        gate: the world.
        loop: the event loop.
        heard: called in the loop when it was rung.
    """

    __slots__ = ("_heard", "_loop")

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        super().__init__(gate)
        self._loop = loop
        self._heard = heard

    def hang(self) -> None:
        """Give it an address, and listen; see `Bell.hang`."""
        if not self.number:
            super().hang()
            self._loop.add_reader(self.descriptor, self._hear)

    def close(self) -> None:
        """Take it down."""
        if self.number and self.descriptor >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self.descriptor)
        super().close()

    def _hear(self) -> None:
        self.clear()
        self._heard()


def remove_silent(gate: Gate, numbers: list[int]) -> None:
    """Remove the doorbells of processes that were killed.

    Args:
        gate: the world.
        numbers: doorbells that are there.
    """
    for number in numbers:
        is_silent(gate, number)


def is_silent(gate: Gate, number: int) -> bool:
    """Whether the process behind a doorbell was killed; if so, what is left of the doorbell is removed."""
    path = gate.bell(number)
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
