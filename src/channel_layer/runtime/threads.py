"""Threads without an event loop: how they wait for several things at once.

The sibling of `channel_layer.runtime.event_loops`. Whatever may wake a thread is a file descriptor, so that servers,
doorbells and this process's own mailboxes are waited for in one system call, without a helper thread for any of them.
"""

from __future__ import annotations

import math
import os
import select
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

__all__ = ("ThreadEvent", "await_any")

_MOST_SECONDS = 3600.0
"""Seconds that one system call waits at most; whoever has to wait for longer looks again."""


class ThreadEvent:
    """Wakes a thread that waits for file descriptors; any thread may ring it, once. A context manager that closes it.

    Attributes:
        error: why nothing will ever come, once it was told so.
    """

    __slots__ = ("_lock", "_ring", "_rung", "descriptor", "error")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rung = False
        self.error: Exception | None = None
        ends = os.pipe()
        self.descriptor: int = ends[0]
        self._ring: int = ends[1]

    def wake(self) -> None:
        """Let the thread run. Harmless if it has gone."""
        with self._lock:
            if not self._rung and self._ring >= 0:
                self._rung = True
                os.write(self._ring, b"!")

    def fail(self, error: Exception) -> None:
        """Let the thread run, into an error."""
        self.error = error
        self.wake()

    @property
    def rung(self) -> bool:
        """Whether somebody has rung."""
        return self._rung

    def close(self) -> None:
        """Give the descriptors back to the system. Harmless if it is called twice."""
        with self._lock:
            if self._ring >= 0:
                os.close(self._ring)
                os.close(self.descriptor)
                self._ring = self.descriptor = -1

    def __enter__(self) -> Self:
        """Return the alarm itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def await_any(descriptors: Iterable[int], seconds: float) -> None:
    """Wait until one of these file descriptors is readable, or is none any more, or some seconds have passed."""
    poller = select.poll()
    for descriptor in descriptors:
        if descriptor < 0:
            return  # it has been closed: look why
        poller.register(descriptor, select.POLLIN)
    poller.poll(math.ceil(1000 * min(max(0.0, seconds), _MOST_SECONDS)))
