"""Finds the threads, child processes and sockets that a test leaves behind.

Each is a leak in the product or in the test. Found later, it would be blamed on another test.
"""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

__all__ = ("Resources",)

IO_THREAD: Final = "channel-layer-io"
"""The one thread that the library keeps: a daemon for calls from short-lived event loops."""

_GRACE: Final = 30.0
"""Seconds for a resource that is about to go, on a busy machine, too: a thread past its last statement, a socket that
another loop closes."""


@dataclass(frozen=True, slots=True)
class Resources:
    """What this process holds at one moment.

    Attributes:
        threads: the threads that run.
        processes: the ids of the child processes, including dead ones that were not waited for. Linux only.
        sockets: descriptor and inode of every socket.
    """

    threads: frozenset[threading.Thread]
    processes: frozenset[int]
    sockets: frozenset[tuple[int, int]]

    @classmethod
    def now(cls) -> Self:
        """Return the resources of this moment. Takes a tenth of a millisecond."""
        return cls(frozenset(threading.enumerate()), frozenset(_children()), frozenset(_sockets()))

    def left_since(self, *, allowed_processes: Collection[int] = ()) -> list[str]:
        """Return what has been added since, and stays after a garbage collection and some seconds of grace.

        Args:
            allowed_processes: ids of child processes that are meant to stay.

        Returns:
            A line for each resource; empty if there is no leak.
        """
        deadline = time.monotonic() + _GRACE
        left = self._compare(allowed_processes)
        if left:
            gc.collect()  # the traceback of a failed attempt may hold objects that close when they are collected
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = self._compare(allowed_processes)
        return left

    def _compare(self, allowed_processes: Collection[int]) -> list[str]:
        now = Resources.now()
        threads = [thread for thread in now.threads - self.threads if not _is_io_thread(thread)]
        processes = now.processes - self.processes - set(allowed_processes)
        sockets = [text for descriptor, _ in now.sockets - self.sockets if (text := _describe(descriptor))]
        return [
            *(f"thread {thread.name}" for thread in threads),
            *(f"child process {pid}" for pid in processes),
            *sockets,
        ]


def _is_io_thread(thread: threading.Thread) -> bool:
    return thread.name == IO_THREAD and thread.daemon


def _children() -> list[int]:
    found: list[int] = []
    for pids in Path("/proc/self/task").glob("*/children"):
        try:
            found += map(int, pids.read_text().split())
        except (FileNotFoundError, ProcessLookupError):  # the thread has ended since it was listed
            continue
    return found


def _sockets() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for entry in Path("/dev/fd").iterdir():
        try:
            status = os.fstat(int(entry.name))
        except OSError:  # the descriptor of this listing itself
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.append((int(entry.name), status.st_ino))
    return found


def _describe(descriptor: int) -> str | None:
    """Return the address of a socket; None if it is closed, or unnamed as the socket pair of an event loop."""
    try:
        with socket.socket(fileno=os.dup(descriptor)) as copy:
            if copy.family == socket.AF_UNIX and not copy.getsockname():
                return None if not copy.getpeername() else f"socket to {copy.getpeername()}"
            return f"socket at {copy.getsockname()}"
    except OSError:
        return None
