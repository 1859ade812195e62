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
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from channel_layer_ipc._files import Gate

__all__ = ("Doorbell", "is_silent", "remove_silent")

_SURE_SECONDS = 0.1
"""How long it is taken for sure that who was there is still there: asking costs as much as writing a message does."""

_REMEMBERED = 1024
"""Doorbells of which that is known."""


class Doorbell:
    """A socket of one event loop: it rings others, and is rung itself once it hangs.

    Args:
        gate: the world.
        loop: the event loop.
        heard: called in the loop when it was rung.
    """

    __slots__ = ("_gate", "_heard", "_loop", "_path", "_process", "_seen", "_socket", "number")

    def __init__(self, gate: Gate, loop: asyncio.AbstractEventLoop, heard: Callable[[], None]) -> None:
        self._gate = gate
        self._loop = loop
        self._heard = heard
        self._path: str | None = None
        self._process = os.getpid()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._seen: dict[int, float] = {}
        """When somebody was last seen at a doorbell."""
        self.number: int = 0

    def hang(self) -> None:
        """Give it an address, and listen. Harmless if that has been done.

        Raises:
            StoreError: there can be no socket in this directory.
            OSError: the system gives none.
        """
        while not self.number:
            number = secrets.randbits(32) or 1
            draft, path = self._gate.bell(number, draft=True), self._gate.bell(number)
            if Path(path).exists():
                continue  # it is another one's
            self._socket.bind(draft)
            # A socket has its path a moment before it can be rung, and would look like that of a killed process.
            Path(draft).chmod(0o600)
            Path(draft).rename(path)
            self._path = path
            self._loop.add_reader(self._socket.fileno(), self._hear)
            self.number = number

    def ring(self, number: int) -> bool:
        """Ring another one; False if nobody is there any more."""
        path = self._gate.bell(number)
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
        if is_silent(self._gate, number):
            del self._seen[number]
            return False
        return True

    def close(self) -> None:
        """Take it down."""
        if self._process != os.getpid():
            return
        if self.number and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        if self._path is not None:
            _unlink(self._path)
            self._path = None

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._socket.recv(16)  # there is seldom another one, and then the loop comes back at once
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
