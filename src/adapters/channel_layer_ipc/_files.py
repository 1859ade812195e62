"""The files of a world: where they are, whose they are, and that they go with the last process that has them open.

A world is what all processes with one directory and one prefix share. It has a *gate*, a file that says what the world
is and that everybody in it holds a shared lock on. Who gets the lock for himself alone is alone: what he finds was left
by processes that were killed. So nothing here outlives its use, not even a restart of the machine, and no lock can be
stale, because the system gives up the locks of whoever ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

from channel_layer.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ("ProcessLock", "SharedStore", "acquire", "default_directory", "reset")

_FAMILY: Final = b"channel-layer ipc "
"""What a gate begins with, of whatever release."""

_MAGIC: Final = _FAMILY + b"2\n"
"""What a gate of this release begins with: the number is that of the format of all files, and of who locks what."""

_DATA: Final = ".mdb"
_LOCK: Final = ".gate"
_STEM: Final = 16
_DOORBELL: Final = 8
"""Characters of a world's name, and of a doorbell's."""

_HEXADECIMAL: Final = frozenset("0123456789abcdef")

_SUN_PATH: Final = 107 if sys.platform == "linux" else 103
"""Bytes that the path of a socket may have."""

_LOOK_SECONDS: Final = 0.001
"""How often somebody who waits at the gate looks; it is shut for as long as it takes to make or remove a few files."""

_RESET: Final = "stop the processes that use it, then call channel_layer_ipc.reset({directory!r})"


@dataclass(frozen=True, slots=True)
class SharedStore:
    """What a gate says.

    Attributes:
        prefix: of all who are in it.
        memory: bytes of its data at most.
        run_id: a name that no other world has had, at this or at any other time.
    """

    prefix: str
    memory: int
    run_id: str

    def pack(self) -> bytes:
        """Return it as bytes."""
        text = json.dumps({"prefix": self.prefix, "memory": self.memory, "session": self.run_id})
        return _MAGIC + text.encode() + b"\n"

    @classmethod
    def unpack(cls, data: bytes) -> SharedStore | None:
        """Return what those bytes say; None if they say nothing of the kind."""
        if not data.startswith(_MAGIC) or not data.endswith(b"\n"):
            return None
        try:
            match json.loads(data[len(_MAGIC) :]):
                case {"prefix": str(prefix), "memory": int(memory), "session": str(run_id)}:
                    return cls(prefix, memory, run_id)
                case _:
                    return None
        except ValueError:
            return None


def default_directory() -> Path:
    """Return the directory of whoever runs this: in memory where the system has a place for that, else a private one.

    The same user gets the same one in all processes that have the same ``XDG_RUNTIME_DIR``, or a ``/dev/shm``.
    """
    shared = Path("/dev/shm")  # noqa: S108 - what is made there is private, and it is checked that it is ours
    if shared.is_dir() and os.access(shared, os.W_OK | os.X_OK):
        return shared / f"channel-layer-{os.geteuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute() and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "channel-layer"
    return Path(tempfile.gettempdir()) / f"channel-layer-{os.geteuid()}"


def _prepare(directory: Path) -> None:
    """Make a directory if it is missing, and see that it is ours alone.

    Raises:
        StoreError: it is not, or cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
        found = directory.lstat()
    except OSError as exc:
        raise _refuse(f"cannot make the directory {str(directory)!r}: {exc.strerror}; give another one") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise _refuse(f"{str(directory)!r} is no directory, or a link to one: give the directory itself")
    _check_owner(str(directory), found, "0700")


def _check_owner(what: str, found: os.stat_result, mode: str) -> None:
    if found.st_uid != os.geteuid():
        raise _refuse(
            f"{what!r} belongs to another user (uid {found.st_uid}, and this is uid {os.geteuid()}): "
            "messages pass between processes of one user only; give each user a directory of its own"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _refuse(
            f"other users may enter {what!r} (mode {stat.S_IMODE(found.st_mode):04o}), and could read or forge "
            f"messages: chmod it to {mode}, or give another directory"
        )


def _refuse(problem: str) -> StoreError:
    return StoreError(f"channel_layer_ipc: {problem}", retryable=False, outcome="not_sent")


def open_private(path: Path) -> int:
    """Open a file for reading and writing, made if it is missing, and see that it is ours alone.

    Raises:
        StoreError: it is not, or cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise _refuse(f"cannot open {str(path)!r}: {exc.strerror}; give another directory") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _refuse(f"{str(path)!r} is no file: " + _RESET.format(directory=str(path.parent)))
        _check_owner(str(path), found, "0600")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class ProcessLock:
    """A world's files, as one process that is in it has them.

    Args:
        stem: what the names of all its files begin with, with the directory.
        descriptor: of the gate, on which this holds a shared lock.
        shared_store: what it says.

    Attributes:
        shared_store: what it says.
        data: where the data is.
    """

    def __init__(self, stem: Path, descriptor: int, shared_store: SharedStore) -> None:
        self._stem = stem
        self._descriptor = descriptor
        self._identity = _identity(os.fstat(descriptor))
        self._directory: int | None = None
        self._address: str | None = None
        self.shared_store: SharedStore = shared_store
        self.data: Path = stem.with_name(stem.name + _DATA)

    @property
    def is_current(self) -> bool:
        """Whether whoever comes now comes into the same world: False if somebody has removed its files."""
        return _is_at(self._stem, self._identity)

    def doorbell(self, number: int, *, draft: bool = False) -> str:
        """Return the address of a doorbell.

        Args:
            number: which one.
            draft: the one that it has while it is being hung.

        Raises:
            StoreError: it is longer than the address of a socket may be.
        """
        return f"{self._doorbell_prefix()}{'-' if draft else '.'}{number:0{_DOORBELL}x}"

    def _doorbell_prefix(self) -> str:
        """Return what the addresses of all doorbells begin with."""
        if self._address is None:
            path = str(self._stem)
            limit = _SUN_PATH - 1 - _DOORBELL
            if len(os.fsencode(path)) > limit:
                path = f"{self._short_directory(limit - 1 - len(self._stem.name))}/{self._stem.name}"
            self._address = path
        return self._address

    def _short_directory(self, limit: int) -> str:
        self._directory = os.open(self._stem.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        short = f"/proc/self/fd/{self._directory}"
        if not Path(short).exists():  # Linux alone has that
            raise _refuse(
                f"the path of the directory {str(self._stem.parent)!r} is too long for a socket in it: "
                f"give one of at most {limit} bytes"
            )
        return short

    def damaged_error(self, problem: str) -> StoreError:
        """Return the error for files that are not what they should be."""
        mend = _RESET.format(directory=str(self._stem.parent))
        return _refuse(f"the data in {str(self.data)!r} is damaged, or not ours ({problem}): {mend}")

    def release(self) -> None:
        """Let go of everything; whoever is the last one removes the files."""
        if self._directory is not None:
            os.close(self._directory)
        try:
            # Given up first: of two who leave at once, and each would wait for the other, one is alone now.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            if _lock(self._descriptor, fcntl.LOCK_EX) and self.is_current:
                _remove(self._stem)
        finally:
            os.close(self._descriptor)

    def close_in_child(self) -> None:
        """Let go of what a child has inherited: its parent is in the world, not the child."""
        os.close(self._descriptor)
        if self._directory is not None:
            os.close(self._directory)


def acquire(directory: Path, prefix: str, memory: int, timeout: float) -> ProcessLock:
    """Enter a world; make it if nobody is in it.

    Args:
        directory: where its files are.
        prefix: which world.
        memory: bytes of its data at most, if it is made.
        timeout: seconds to wait at most for somebody who makes or removes it at this moment.

    Raises:
        StoreError: the directory, or what is in it, is not ours alone; there is no room; somebody is at the gate, and
            stands still.
    """
    _prepare(directory)
    stem = directory / blake2b(prefix.encode(), digest_size=_STEM // 2).hexdigest()
    end = time.monotonic() + timeout
    while True:
        descriptor = open_private(stem.with_name(stem.name + _LOCK))
        try:
            process_lock = _try_acquire(stem, descriptor, SharedStore(prefix, memory, secrets.token_urlsafe(12)))
        except OSError as exc:
            os.close(descriptor)
            raise StoreError(
                f"channel_layer_ipc: cannot make files in {str(directory)!r}: {exc.strerror}",
                retryable=True,
                outcome="not_sent",
            ) from exc
        except BaseException:
            os.close(descriptor)
            raise
        if process_lock is not None:
            return process_lock
        os.close(descriptor)
        if time.monotonic() > end:
            raise StoreError(
                f"channel_layer_ipc: a process that opens or closes the files in {str(directory)!r} stands still",
                retryable=True,
                outcome="not_sent",
            )
        time.sleep(_LOOK_SECONDS)


def _try_acquire(stem: Path, descriptor: int, new: SharedStore) -> ProcessLock | None:
    """Pass the gate; None if that has to be tried again."""
    if _lock(descriptor, fcntl.LOCK_EX) and _is_at(stem, _identity(os.fstat(descriptor))):
        _check_leftovers(stem, descriptor)
        _remove_data(stem)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, new.pack(), 0)
    # This gives up the other lock first, so that somebody may come in between, and make the world again.
    if not _lock(descriptor, fcntl.LOCK_SH) or not _is_at(stem, _identity(os.fstat(descriptor))):
        return None
    content = _content(descriptor)
    shared_store = SharedStore.unpack(content)
    if shared_store is None:
        if content.startswith(_FAMILY) and not content.startswith(_MAGIC):
            raise _refuse(
                f"the files in {str(stem.parent)!r} are in use by processes with another release of this library: "
                "stop them, or give another directory"
            )
        return None  # who made it has been killed meanwhile
    if shared_store.prefix != new.prefix:  # one in 2**64: rather an error than somebody else's messages
        raise _refuse(f"the prefixes {shared_store.prefix!r} and {new.prefix!r} cannot share a directory: change one")
    return ProcessLock(stem, descriptor, shared_store)


def _check_leftovers(stem: Path, descriptor: int) -> None:
    """See that what is there, and will be removed, is what this library has left.

    Raises:
        StoreError: it is not.
    """
    content = _content(descriptor)
    if content and not content.startswith(_FAMILY):
        _refuse_foreign(stem, _LOCK)
    if content:
        return
    # Nothing says what this is: an empty gate is left by who was killed when it had just been made.
    file = stem.with_name(stem.name + _DATA)
    if file.exists() and file.stat().st_size:
        _refuse_foreign(stem, _DATA)


def _refuse_foreign(stem: Path, suffix: str) -> Never:
    mend = _RESET.format(directory=str(stem.parent))
    raise _refuse(f"{str(stem.with_name(stem.name + suffix))!r} is no file of this library: {mend}")


def reset(directory: str | os.PathLike[str] | None = None) -> int:
    """Remove all files of the IPC layer from a directory, whatever is in them, and with them all messages and groups.

    It mends what a process refuses to open. Files of processes that are running are left alone.

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
    _prepare(folder)
    removed = 0
    used: list[str] = []
    for stem in sorted(_stems(folder)):
        process_lock = folder / (stem + _LOCK)
        descriptor: int | None = None
        if process_lock.exists() and not process_lock.is_symlink():
            descriptor = open_private(process_lock)
        try:
            if descriptor is None or _lock(descriptor, fcntl.LOCK_EX):
                _remove(folder / stem)
                removed += 1
            else:
                used.append(stem)
        finally:
            if descriptor is not None:
                os.close(descriptor)
    if used:
        raise StoreError(
            f"channel_layer_ipc: {len(used)} of the worlds in {str(folder)!r} are in use by processes that are "
            "running: stop them first",
            retryable=True,
            outcome="not_sent",
        )
    return removed


def _stems(folder: Path) -> Iterator[str]:
    seen: set[str] = set()
    for file in folder.iterdir():
        stem = file.name[:_STEM]
        if len(stem) == _STEM and set(stem) <= _HEXADECIMAL and stem not in seen:
            seen.add(stem)
            yield stem


def list_doorbells(process_lock: ProcessLock) -> list[int]:
    """Return the doorbells that there are, of processes that run and of ones that were killed."""
    stem = process_lock.data.name.removesuffix(_DATA)
    names = (file.name[len(stem) + 1 :] for file in process_lock.data.parent.glob(f"{stem}.{'?' * _DOORBELL}"))
    return [int(name, 16) for name in names if set(name) <= _HEXADECIMAL]


def _remove(stem: Path) -> None:
    """Remove everything, the gate last: whoever is killed before that leaves a sign of what it was."""
    _remove_data(stem)
    stem.with_name(stem.name + _LOCK).unlink(missing_ok=True)


def _remove_data(stem: Path) -> None:
    """Remove all but the gate: data, doorbells, and what other releases had."""
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


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _is_at(stem: Path, identity: tuple[int, int]) -> bool:
    """Whether the gate of a world is still that file."""
    try:
        return _identity(stem.with_name(stem.name + _LOCK).lstat()) == identity
    except OSError:
        return False
