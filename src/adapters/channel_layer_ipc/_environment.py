"""One LMDB environment for each shared store and process: opened once, shared by all loops and threads.

LMDB forbids to open an environment twice in a process, and to use one in a child of the process that opened it. What
can go wrong with it is not used:

- no table of readers: there are only transactions that may write, so no dead reader keeps pages from being reused;
- no writable map: a full disk is an error code then, not a signal;
- no waiting for a disk: nothing here outlives the processes;
- no locks of LMDB's own. They are made for each process id, and opening takes a place in the table of readers: of
  processes that open at once, or that have the same id in two containers, some would be refused.

Instead a transaction locks the file. The system gives that lock up if its holder is killed, and the pages that a
transaction has written count only when its last write, of one page, is done.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
import weakref
from typing import TYPE_CHECKING, Final

import lmdb

from channel_layer_ipc._data_file import find_damage
from channel_layer_ipc._directory import open_private, unavailable
from channel_layer_ipc._process_lock import acquire

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from channel_layer.errors import StoreError
    from channel_layer_ipc._process_lock import ProcessLock

__all__ = ("MIN_MEMORY", "RECORD_ERRORS", "Environment", "EnvironmentReference", "largest_message", "open_environment")

_GROWTH: Final = 4 << 20
"""Bytes by which the file grows. They are allocated at once, so that no write within them can fail."""

_RESERVE: Final = 512 << 10
"""Bytes that no message takes: removing needs room, too, because LMDB never changes a page but writes another one."""

_WANTED: Final = 1 << 20
"""Bytes of room that a transaction should have, so that it can carry out many commands."""

_PAGES: Final = 1024
"""Pages that a process looks at before it trusts a file."""

_FEW_PAGES: Final = 64
"""Pages that it looks at again from time to time."""

_UNKNOWN: Final = -1
"""The size of a file that is damaged."""

_DAMAGE_ERRORS: Final = (
    lmdb.BadTxnError,
    lmdb.CorruptedError,
    lmdb.CursorFullError,
    lmdb.IncompatibleError,
    lmdb.InvalidError,
    lmdb.MapResizedError,
    lmdb.PageFullError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)
"""What LMDB raises when it finds something wrong in a file."""

RECORD_ERRORS: Final = (struct.error, ValueError, LookupError, OverflowError, lmdb.BadValsizeError)
"""What is raised when a record is not what it should be."""

MIN_MEMORY: Final = 4 << 20
"""Bytes of memory below which a store is of no use."""


def largest_message(memory: int) -> int:
    """Return the bytes of the largest message for which there is room whatever else has just been removed.

    A large value needs pages that lie side by side; a quarter is found even where small ones have been everywhere.
    """
    return memory // 4


class Environment:
    """An environment that is open in this process.

    Attributes:
        process_lock: of the shared store.
        lock: held during a transaction: no thread of this process forks in the midst of one.
        database: what holds all records.
        references: how many `EnvironmentReference` objects keep it open.

    Raises:
        StoreError: the files are damaged or not ours, or there is no room for them.
    """

    def __init__(self, process_lock: ProcessLock) -> None:
        self.process_lock: ProcessLock = process_lock
        self.lock: threading.Lock = threading.Lock()
        self.references: int = 0
        self._damage: str | None = None
        self._descriptor = open_private(process_lock.data)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, self._descriptor)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                new = not process_lock.has_data(self._descriptor)
                if new:
                    os.ftruncate(self._descriptor, 0)  # what a process had begun that was killed
                elif (damage := find_damage(self._descriptor, _PAGES)) is not None:
                    raise process_lock.damaged_error(damage)
                self._handle = lmdb.open(
                    str(process_lock.data),
                    subdir=False,
                    map_size=process_lock.shared_store.memory,
                    metasync=False,
                    sync=False,
                    mode=0o600,
                    readahead=False,
                    writemap=False,
                    meminit=False,
                    lock=False,
                    max_dbs=0,
                )
                self._size = os.fstat(self._descriptor).st_size
                self._page = self._handle.stat()["psize"]
                self.database: lmdb._Database = self._handle.open_db()
                if new:
                    process_lock.note_data(self._descriptor)
            except _DAMAGE_ERRORS as exc:
                raise process_lock.damaged_error(str(exc)) from exc
            except (lmdb.Error, OSError) as exc:
                raise unavailable(str(exc)) from exc
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            undo.pop_all()

    @property
    def place(self) -> tuple[str, str]:
        """Its directory, whatever links lead there, and the prefix of the layers that use it."""
        return os.path.realpath(self.process_lock.data.parent), self.process_lock.shared_store.prefix

    @contextlib.contextmanager
    def write(self) -> Generator[lmdb.Transaction[bytes]]:
        """Begin a transaction; it is aborted unless it is committed within the block.

        This waits for every other transaction, also of other processes.

        Raises:
            StoreError: the data is damaged.
        """
        with self.lock:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            try:
                size = os.lseek(self._descriptor, 0, os.SEEK_END)  # a third of the cost of fstat
                if size != self._size:
                    self._resize(size)
                transaction = self._handle.begin(write=True)
                try:
                    yield transaction
                finally:
                    transaction.abort()  # nothing, if it has been committed
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def room(self, transaction: lmdb.Transaction[bytes], need: int) -> int:
        """Return how many bytes messages may take in this transaction, after growing if that helps.

        Args:
            transaction: the open one.
            need: bytes that the first command in it needs.
        """
        wanted = max(need, _WANTED)
        top = (self._handle.info()["last_pgno"] + 1) * self._page
        room = self._size - _RESERVE - top
        if room >= wanted:
            return room
        while self._size - _RESERVE - top < wanted and self._grow():
            pass
        room = self._size - _RESERVE - top
        if room >= wanted:
            return room
        # It cannot grow: what has been removed is used again.
        found = transaction.stat(self.database)
        used = (found["branch_pages"] + found["leaf_pages"] + found["overflow_pages"]) * self._page
        return max(room, min(self._size, self.process_lock.shared_store.memory) - _RESERVE - used - used // 32)

    def why_full(self) -> str:
        """Say what is full when there is no room, and what to do."""
        shared, directory = self.process_lock.shared_store, str(self.process_lock.data.parent)
        store = f"the prefix {shared.prefix!r} in {directory!r}"
        if self._size < shared.memory:
            return (
                f"the disk has no more room for {store}, which has got {self._size} bytes of memory={shared.memory}: "
                "free some, give another directory, or receive what waits"
            )
        return (
            f"the memory for {store} is used up, memory={shared.memory} bytes: "
            "receive what waits, or stop all its processes and start them with more memory"
        )

    def close(self) -> None:
        """Close it, and give the process lock up."""
        with self.lock:
            self._handle.close()
        os.close(self._descriptor)
        self.process_lock.release()

    def close_in_child(self) -> None:
        """Close, in a child, what its parent has open.

        No transaction is open, because none was when this process forked. LMDB's own closing is harmless then, and so
        is that of a file on which the parent has a lock. Without it a child could not open the same.
        """
        self._handle.close()
        os.close(self._descriptor)
        self.process_lock.close_in_child()

    def failure(self, error: Exception) -> StoreError | None:
        """Return the error for a transaction that failed because the data is damaged; None if that is not the reason.

        What LMDB finds wrong ends all further use: it might trust that the next time, and end the process.
        """
        if isinstance(error, _DAMAGE_ERRORS):
            return self._condemn(str(error))
        return self.process_lock.damaged_error(str(error)) if isinstance(error, RECORD_ERRORS) else None

    def check(self) -> None:
        """Look at some of the file, in a transaction that has done nothing yet.

        Raises:
            StoreError: the data is damaged.
        """
        if (damage := find_damage(self._descriptor, _FEW_PAGES)) is not None:
            raise self._condemn(damage)

    def _resize(self, size: int) -> None:
        """Take note of another size of the file: another process has let it grow, or a program has cut it short.

        The system ends a process that reads a page that is missing.

        Raises:
            StoreError: the data is damaged.
        """
        if self._damage is None and size < self._size:
            self._damage = find_damage(self._descriptor, _PAGES)
        if self._damage is not None:
            raise self._condemn(self._damage)
        self._size = size

    def _condemn(self, damage: str) -> StoreError:
        """Have every transaction from now on fail; return the error."""
        self._damage, self._size = damage, _UNKNOWN
        return self.process_lock.damaged_error(damage)

    def _grow(self) -> bool:
        more = min(_GROWTH, self.process_lock.shared_store.memory - self._size)
        if more <= 0:
            return False
        try:
            _allocate(self._descriptor, self._size, more)
        except OSError:
            return False
        self._size += more
        return True


def _allocate(descriptor: int, start: int, size: int) -> None:
    """Let a file grow, and allocate the room.

    Raises:
        OSError: there is none.
    """
    allocate: Callable[[int, int, int], None] | None = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        allocate(descriptor, start, size)
        return
    zeros = bytes(1 << 16)
    for offset in range(start, start + size, len(zeros)):
        os.pwrite(descriptor, zeros[: start + size - offset], offset)


# -- references


_guard = threading.RLock()
"""Held while the environments of this process change; a finalizer may run in the midst of that, in the same thread."""

_environments: list[Environment] = []
"""Those that are in use in this process, also if their files were removed."""


class EnvironmentReference:
    """Keeps an environment open: it is closed with the last reference in this process."""

    __slots__ = ("__weakref__", "_finalizer", "environment")

    def __init__(self, environment: Environment) -> None:
        self.environment: Environment = environment
        with _guard:
            environment.references += 1
        self._finalizer = weakref.finalize(self, _release, environment, os.getpid())

    def release(self) -> None:
        """Give it up. Harmless if it is called twice."""
        self._finalizer()


def open_environment(directory: Path, prefix: str, memory: int, timeout: float) -> EnvironmentReference:
    """Return a reference to an environment, which is opened if this process has not opened it: see `acquire`.

    Raises:
        StoreError: it cannot be opened.
    """
    place = os.path.realpath(directory), prefix
    with _guard:
        for environment in tuple(_environments):  # a finalizer may remove one meanwhile
            if environment.place == place and environment.process_lock.is_current:
                return EnvironmentReference(environment)
        process_lock = acquire(directory, prefix, memory, timeout)
        try:
            environment = Environment(process_lock)
        except BaseException:
            process_lock.release()
            raise
        _environments.append(environment)
        return EnvironmentReference(environment)


def _release(environment: Environment, process: int) -> None:
    if process != os.getpid():
        return  # a child of the process that had it
    with _guard:
        environment.references -= 1
        if not environment.references:
            _environments.remove(environment)
            environment.close()


# -- forks


_forking: list[Environment] = []


def _before_fork() -> None:
    _guard.acquire()
    _forking.extend(_environments)
    for environment in _forking:
        environment.lock.acquire()


def _after_fork_in_parent() -> None:
    while _forking:
        _forking.pop().lock.release()
    _guard.release()


def _after_fork_in_child() -> None:
    global _guard  # noqa: PLW0603 - the parent's is locked, by a thread that is not here
    _guard = threading.RLock()
    while _forking:
        _forking.pop().close_in_child()
    _environments.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
