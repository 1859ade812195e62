"""Lets a thread without an event loop wait for several events at once.

Every event is a file descriptor, so that one system call waits for servers, doorbells and the mailboxes of this
process, without a helper thread. Under gevent and eventlet the thread is a greenlet, and others run while it waits.
"""

from __future__ import annotations

import os
import select
import threading
from typing import TYPE_CHECKING

from channel_layer.errors import PatchedThreadsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ("Poller", "ThreadEvent", "await_any", "refuse_patched_threads")

_MOST_SECONDS = 3600.0
"""The longest wait of one system call in seconds; the caller of a longer wait calls again."""


class ThreadEvent:
    """Wakes a thread that waits for file descriptors. Any thread may set it, once; leaving its context closes it.

    Attributes:
        descriptor: readable once the event is set; -1 once it is closed.
        error: why no message can come any more, if `fail` was called.
    """

    __slots__ = ("_lock", "_set", "_write_end", "descriptor", "error")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self.error: Exception | None = None
        self.descriptor: int
        self._write_end: int
        self.descriptor, self._write_end = os.pipe()

    @property
    def lost(self) -> bool:
        """Whether the thread never runs again: a thread cannot end while it waits."""
        return False

    def wake(self) -> None:
        """Wake the thread. Does nothing if the event is set or closed."""
        with self._lock:
            if not self._set and self._write_end >= 0:
                self._set = True
                os.write(self._write_end, b"!")

    def fail(self, error: Exception) -> None:
        """Wake the thread with an error."""
        self.error = error
        self.wake()

    def close(self) -> None:
        """Close the file descriptors. Does nothing if they are closed."""
        with self._lock:
            if self._write_end >= 0:
                os.close(self._write_end)
                os.close(self.descriptor)
                self._write_end = self.descriptor = -1

    def __enter__(self) -> Self:
        """Return the event itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file descriptors."""
        self.close()


class Poller:
    """Waits for some file descriptors, again and again."""

    __slots__ = ("_descriptors", "_poll")

    def __init__(self, descriptors: Sequence[int]) -> None:
        self._descriptors = descriptors
        self._poll: Callable[[float], object] | None = None
        if hasattr(select, "poll"):  # eventlet removes it
            poller = select.poll()
            for descriptor in descriptors:
                poller.register(descriptor, select.POLLIN)
            self._poll = poller.poll

    def wait(self, seconds: float) -> bool:
        """Wait until one of them is readable or closed, or *seconds* have passed; return False in the latter case."""
        if self._poll is not None:
            return bool(self._poll(1000 * seconds))
        return bool(select.select(self._descriptors, (), (), seconds)[0])


def await_any(descriptors: Iterable[int], seconds: float) -> None:
    """Wait until one of these file descriptors is readable or closed, or *seconds* have passed."""
    descriptors = tuple(descriptors)
    if min(descriptors, default=0) >= 0:  # else one is closed: the caller finds out why
        Poller(descriptors).wait(min(max(0.0, seconds), _MOST_SECONDS))


def refuse_patched_threads() -> None:
    """Refuse what needs a second event loop if threads are greenlets of one thread.

    Raises:
        PatchedThreadsError: gevent or eventlet has made them so.
    """
    owner = threading.get_ident.__module__
    if owner != "_thread":
        raise PatchedThreadsError(owner.partition(".")[0])
