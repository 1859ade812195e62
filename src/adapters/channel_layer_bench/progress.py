"""Reports the progress of receivers to a sender in another process, without the layer that is measured.

It uses a datagram socket of this machine: reports through the layer would cost messages that are not counted.
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

__all__ = ("ProgressListener", "ProgressSender")

_PROGRESS: Final = struct.Struct("<IQ")
_FULL: Final = (errno.EAGAIN, errno.ENOBUFS)
_AGAIN: Final = 0.0005
"""Seconds until a report that found the queue of the socket full is sent again; a Linux queue holds ten."""


class ProgressSender:
    """The receivers' end of the socket.

    Args:
        path: of the socket; it has to be there by the first report.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._unsent: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()

    def send(self, receiver: int, count: int) -> None:
        """Report how many messages have arrived at a receiver; a later report replaces those before it."""
        if self._unsent:
            self._unsent[receiver] = count  # after the reports that wait already
        elif not self._try_send(receiver, count):
            self._unsent[receiver] = count
            self._loop.call_later(_AGAIN, self._retry)

    def _try_send(self, receiver: int, count: int) -> bool:
        try:
            self._socket.sendto(_PROGRESS.pack(receiver, count), self._path)
        except OSError as exc:
            if exc.errno not in _FULL:
                raise
            return False
        return True

    def _retry(self) -> None:
        for receiver, count in list(self._unsent.items()):
            if not self._try_send(receiver, count):
                self._loop.call_later(_AGAIN, self._retry)
                return
            del self._unsent[receiver]


class ProgressListener:
    """The sender's end of the socket; a context manager.

    Attributes:
        counts: messages that have arrived at each receiver.
    """

    def __init__(self, path: str, receivers: int) -> None:
        self.counts: list[int] = [0] * receivers
        self._path = Path(path)
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(path)
        self._loop.add_reader(self._socket.fileno(), self._receive)

    def _receive(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                progress: tuple[int, int] = _PROGRESS.unpack(self._socket.recv(_PROGRESS.size))
                receiver, count = progress
                self.counts[receiver] = max(self.counts[receiver], count)
                self._changed.set()

    async def wait(self, within: float) -> bool:
        """Wait for the next report; return whether one came within so many seconds."""
        self._changed.clear()
        try:
            async with asyncio.timeout(within):
                await self._changed.wait()
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
