"""How receivers tell a sender what has arrived, past the layer that is measured.

A datagram socket of this machine: a bell that is rung through the layer would cost it messages that nobody counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ("Bell", "Ringer")

_RING: Final = struct.Struct("<IQ")
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)
_AGAIN: Final = 0.0005
"""Seconds until a ring that found the queue full is rung again; a Linux queue holds ten."""


class Ringer:
    """The receivers' end.

    Args:
        path: where the bell is.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(path)
        self._owed: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()

    def ring(self, who: int, count: int) -> None:
        """Tell that so many have arrived; a later call stands for those before it.

        Args:
            who: the number of the receiver.
            count: messages that have arrived there.
        """
        if self._owed:
            self._owed[who] = count  # behind what is waiting already
        elif not self._sent(who, count):
            self._owed[who] = count
            self._loop.call_later(_AGAIN, self._retry)

    def _sent(self, who: int, count: int) -> bool:
        try:
            self._socket.send(_RING.pack(who, count))
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            return False
        return True

    def _retry(self) -> None:
        for who, count in list(self._owed.items()):
            if not self._sent(who, count):
                self._loop.call_later(_AGAIN, self._retry)
                return
            del self._owed[who]


class Bell:
    """The sender's end; a context manager.

    Args:
        path: where to hang it.
        receivers: how many ring it.

    Attributes:
        counts: what each receiver has told.
    """

    def __init__(self, path: str, receivers: int) -> None:
        self.counts: list[int] = [0] * receivers
        self._path = Path(path)
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(path)
        self._loop.add_reader(self._socket.fileno(), self._hear)

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                ring: tuple[int, int] = _RING.unpack(self._socket.recv(_RING.size))
                who, count = ring
                self.counts[who] = max(self.counts[who], count)
                self._rung.set()

    async def rung(self, within: float) -> bool:
        """Wait for the next ring; return whether it came within so many seconds."""
        self._rung.clear()
        try:
            async with asyncio.timeout(within):
                await self._rung.wait()
        except TimeoutError:
            return False
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._path.unlink(missing_ok=True)
