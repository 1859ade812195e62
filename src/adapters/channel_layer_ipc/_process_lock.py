"""The lock that says which processes use a shared store; its files go with the last of them.

A shared store is what all processes with one directory and one prefix share. It has a *lock file*, which describes it,
and on which each of these processes holds a shared lock. A process that gets the exclusive lock is alone: the files
that it finds were left by processes that were killed. So nothing here outlives its use, not even a restart of the
machine, and no lock can be stale, because the system gives up the locks of a process that ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zlib import crc32

from channel_layer_ipc._directory import default_directory, how_to_reset, open_private, prepare, refuse, unavailable

if TYPE_CHECKING:
    from channel_layer.errors import StoreError

__all__ = ("ProcessLock", "SharedStore", "acquire", "reset")

_FAMILY: Final = b"channel-layer ipc "
"""What a lock file begins with, of any release."""

_MAGIC: Final = _FAMILY + b"3\n"
"""What a lock file of this release begins with; the number is that of the format of all files and of the locking."""

_DATA: Final = ".mdb"
_LOCK: Final = ".lock"
_STEM: Final = 16
_DOORBELL: Final = 8
"""Characters of the names of a shared store's files, before the suffix, and of a doorbell's number."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")

_SUN_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a socket may have."""

_LOOK_SECONDS: Final = 0.001
"""How often the exclusive lock is waited for; it is held for as long as it takes to make or remove a few files."""


@dataclass(frozen=True, slots=True)
class SharedStore:
    """What a lock file says of the shared store.

    Attributes:
        prefix: of the layers that use it.
        memory: bytes of its data at most.
        run_id: a name that no other shared store has had, at this or at any other time.
        data: the number of the file that holds its data; 0 until that has its first pages.
    """

    prefix: str
    memory: int
    run_id: str
    data: int = 0

    def pack(self) -> bytes:
        """Return it as bytes."""
        text = json.dumps(asdict(self)).encode()
        return b"%b%b %08x\n" % (_MAGIC, text, crc32(text))

    @classmethod
    def unpack(cls, data: bytes) -> SharedStore | None:
        """Make it from such bytes; None if they are not."""
        text, _, checksum = data.removeprefix(_MAGIC).rpartition(b" ")
        if not data.startswith(_MAGIC) or checksum != b"%08x\n" % crc32(text):
            return None
        match json.loads(text):
            case {"prefix": str(prefix), "memory": int(memory), "run_id": str(run_id), "data": int(number)}:
                return cls(prefix, memory, run_id, number)
            case _:
                return None


class ProcessLock:
    """The lock that one process holds on a shared store, and the paths of the files.

    Args:
        stem: what the paths of all files begin with.
        descriptor: of the lock file, on which this holds a shared lock.
        shared_store: what the lock file says.
    """

    def __init__(self, stem: Path, descriptor: int, shared_store: SharedStore) -> None:
        self._stem = stem
        self._descriptor = descriptor
        self._directory: int | None = None
        self.shared_store: SharedStore = shared_store
        self.data: Path = stem.with_suffix(_DATA)

    @property
    def is_current(self) -> bool:
        """Whether a process that comes now would use the same shared store: False if its files were removed."""
        return _is_at(self._stem, self._descriptor)

    def has_data(self, descriptor: int) -> bool:
        """Return whether an open file holds the data; False if it has yet to be made.

        The caller holds the file's lock.

        Raises:
            StoreError: another file does, or the lock file does not say.
        """
        shared_store = SharedStore.unpack(_content(self._descriptor))
        if shared_store is None:
            raise _damaged_lock_error(self._stem)
        if shared_store.data not in {0, os.fstat(descriptor).st_ino}:
            raise unavailable(f"the file {str(self.data)!r} was replaced while it was in use")
        return shared_store.data != 0

    def note_data(self, descriptor: int) -> None:
        """Note in the lock file that an open file holds the data. The caller holds the file's lock."""
        noted = replace(self.shared_store, data=os.fstat(descriptor).st_ino)
        os.pwrite(self._descriptor, noted.pack(), 0)  # longer than what was there

    def doorbell_path(self, number: int, *, draft: bool = False) -> str:
        """Return the path of a doorbell's socket, or the one that it has while it is made.

        Raises:
            StoreError: it is longer than the path of a socket may be.
        """
        return f"{self._doorbell_prefix}{'-' if draft else '.'}{number:0{_DOORBELL}x}"

    def doorbells(self) -> list[int]:
        """Return the numbers of the doorbells that there are, those of killed processes included."""
        stem = self._stem.name
        names = (file.name[len(stem) + 1 :] for file in self._stem.parent.glob(f"{stem}.{'?' * _DOORBELL}"))
        return [int(name, 16) for name in names if set(name) <= _HEXADECIMAL]

    @cached_property
    def _doorbell_prefix(self) -> str:
        """What the paths of all doorbells begin with."""
        path = str(self._stem)
        limit = _SUN_PATH - 1 - _DOORBELL
        if len(os.fsencode(path)) <= limit:
            return path
        self._directory = os.open(self._stem.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        short = f"/proc/self/fd/{self._directory}"
        if not Path(short).exists():  # Linux alone has that
            raise refuse(
                f"the path of the directory {str(self._stem.parent)!r} is too long for a socket in it: "
                f"give one of at most {limit - 1 - len(self._stem.name)} bytes"
            )
        return f"{short}/{self._stem.name}"

    def damaged_error(self, problem: str) -> StoreError:
        """Return the error for files that are not what they should be."""
        how = how_to_reset(self._stem.parent)
        return refuse(f"the data in {str(self.data)!r} is damaged, or not ours ({problem}): {how}")

    def release(self) -> None:
        """Give the lock up; the last process to do so removes the files."""
        if self._directory is not None:
            os.close(self._directory)
        try:
            # Given up first: of two processes that do this at once, each would find the other's, and neither be alone.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            if _lock(self._descriptor, fcntl.LOCK_EX) and self.is_current:
                _remove(self._stem)
        finally:
            os.close(self._descriptor)

    def close_in_child(self) -> None:
        """Close what a child has inherited: its parent holds the lock, not the child."""
        os.close(self._descriptor)
        if self._directory is not None:
            os.close(self._directory)


def acquire(directory: Path, prefix: str, memory: int, timeout: float) -> ProcessLock:
    """Lock a shared store; make it if no process uses it.

    Args:
        directory: where its files are.
        prefix: of the layers that use it.
        memory: bytes of its data at most, if it is made.
        timeout: seconds to wait at most for a process that makes or removes it at this moment.

    Raises:
        StoreError: other users can enter the directory, or open what is in it; there is no room; or a process holds
            the exclusive lock, and stands still.
    """
    prepare(directory)
    stem = directory / blake2b(prefix.encode(), digest_size=_STEM // 2).hexdigest()
    end = time.monotonic() + timeout
    while True:
        with ExitStack() as undo:
            descriptor = open_private(stem.with_suffix(_LOCK))
            undo.callback(os.close, descriptor)
            try:
                process_lock = _try_acquire(stem, descriptor, SharedStore(prefix, memory, secrets.token_urlsafe(12)))
            except OSError as exc:
                raise unavailable(f"cannot make files in {str(directory)!r}: {exc.strerror}") from exc
            if process_lock is not None:
                undo.pop_all()
                return process_lock
            if time.monotonic() > end:
                if _lock(descriptor, fcntl.LOCK_SH) and SharedStore.unpack(_content(descriptor)) is None:
                    raise _damaged_lock_error(stem)
                raise unavailable(f"a process that opens or closes the files in {str(directory)!r} stands still")
        time.sleep(_LOOK_SECONDS)


def _try_acquire(stem: Path, descriptor: int, new: SharedStore) -> ProcessLock | None:
    """Lock a shared store; None if that has to be tried again."""
    if _lock(descriptor, fcntl.LOCK_EX) and _is_at(stem, descriptor):
        _check_leftovers(stem, descriptor)
        _remove_data(stem)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, new.pack(), 0)
    # This gives up the exclusive lock first, so that another process may come in between, and make the store again.
    if not _lock(descriptor, fcntl.LOCK_SH) or not _is_at(stem, descriptor):
        return None
    content = _content(descriptor)
    shared_store = SharedStore.unpack(content)
    if shared_store is None:
        if content.startswith(_FAMILY) and not content.startswith(_MAGIC):
            raise refuse(
                f"the files in {str(stem.parent)!r} are in use by processes with another release of this library: "
                "stop them, or give another directory"
            )
        return None  # the process that made it has been killed meanwhile, or the file is damaged
    if shared_store.prefix != new.prefix:  # one in 2**64: rather an error than another prefix's messages
        raise refuse(f"the prefixes {shared_store.prefix!r} and {new.prefix!r} cannot share a directory: change one")
    if shared_store.data and not _is_numbered(stem.with_suffix(_DATA), shared_store.data):
        # Its data was removed, or replaced: the processes that have it open notice that they have to leave it, too.
        if _is_at(stem, descriptor):
            _remove(stem)
        return None
    return ProcessLock(stem, descriptor, shared_store)


def _damaged_lock_error(stem: Path) -> StoreError:
    return refuse(f"the lock file {str(stem.with_suffix(_LOCK))!r} is damaged: {how_to_reset(stem.parent)}")


def _check_leftovers(stem: Path, descriptor: int) -> None:
    """Check that the files that are there, and will be removed, were left by this library.

    Raises:
        StoreError: they were not.
    """
    content = _content(descriptor)
    lock, data = stem.with_suffix(_LOCK), stem.with_suffix(_DATA)
    if content.startswith(_FAMILY):
        return
    # An empty lock file is left by a process that was killed when it had just made it.
    if content or (data.exists() and data.stat().st_size):
        foreign = str(lock if content else data)
        raise refuse(f"{foreign!r} is no file of this library: {how_to_reset(stem.parent)}")


def reset(directory: str | os.PathLike[str] | None = None) -> int:
    """Remove all files of the IPC layer from a directory, whatever is in them, and with them all messages and groups.

    Use it when a process refuses to open them. Files of processes that are running are left alone.

    Args:
        directory: the same as the layer's; None for the default one.

    Returns:
        The number of prefixes whose files were removed.

    Raises:
        StoreError: a process that is running uses one of them; nothing of that one was removed.
    """
    folder = Path(directory) if directory is not None else default_directory()
    if not folder.is_dir():
        return 0
    prepare(folder)
    removed = used = 0
    stems = {file.name[:_STEM] for file in folder.iterdir()}
    for stem in sorted(stem for stem in stems if len(stem) == _STEM and set(stem) <= _HEXADECIMAL):
        lock = folder / (stem + _LOCK)
        with ExitStack() as after:
            if lock.exists() and not lock.is_symlink():
                descriptor = open_private(lock)
                after.callback(os.close, descriptor)
                if not _lock(descriptor, fcntl.LOCK_EX):
                    used += 1
                    continue
            _remove(folder / stem)
            removed += 1
    if used:
        raise unavailable(
            f"{used} of the shared stores in {str(folder)!r} are in use by processes that are running: stop them first"
        )
    return removed


def _remove(stem: Path) -> None:
    """Remove everything, the lock file last: if the process is killed before that, it says what the others are."""
    _remove_data(stem)
    stem.with_suffix(_LOCK).unlink(missing_ok=True)


def _remove_data(stem: Path) -> None:
    """Remove all but the lock file: data, doorbells, and what other releases had."""
    for file in list(stem.parent.glob(f"{stem.name}[.-]*")):
        if file.name != stem.name + _LOCK:
            file.unlink(missing_ok=True)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _content(descriptor: int) -> bytes:
    return os.pread(descriptor, 65536, 0)


def _is_numbered(path: Path, number: int) -> bool:
    """Return whether there is a file at a path, and this is its number."""
    try:
        return path.lstat().st_ino == number
    except OSError:
        return False


def _is_at(stem: Path, descriptor: int) -> bool:
    """Return whether the lock file of a shared store is still the open one."""
    try:
        return os.path.samestat(stem.with_suffix(_LOCK).lstat(), os.fstat(descriptor))
    except OSError:
        return False
