"""The directory and the files of the IPC layer: where they are by default, and that they are the user's alone."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

from channel_layer.errors import StoreError

__all__ = ("default_directory", "how_to_reset", "open_private", "prepare", "refuse", "unavailable")


def default_directory() -> Path:
    """Return the directory of the user who runs this process: in memory where the system has a place for that.

    It is the same in all processes of the user that have a ``/dev/shm``, or the same ``XDG_RUNTIME_DIR``.
    """
    shared = Path("/dev/shm")  # noqa: S108 - what is made there is private, and its owner is checked
    if shared.is_dir() and os.access(shared, os.W_OK | os.X_OK):
        return shared / f"channel-layer-{os.geteuid()}"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_absolute() and os.access(runtime, os.W_OK | os.X_OK):
        return Path(runtime) / "channel-layer"
    return Path(tempfile.gettempdir()) / f"channel-layer-{os.geteuid()}"


def prepare(directory: Path) -> None:
    """Make a directory if it is missing, and check that only this user can enter it.

    Raises:
        StoreError: others can, or it cannot be made.
    """
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700, parents=True)
        found = directory.lstat()
    except OSError as exc:
        raise refuse(f"cannot make the directory {str(directory)!r}: {exc.strerror}; give another one") from exc
    if not stat.S_ISDIR(found.st_mode):
        raise refuse(f"{str(directory)!r} is no directory, or a link to one: give the directory itself")
    _check_private(str(directory), found, "0700")


def _check_private(what: str, found: os.stat_result, mode: str) -> None:
    if found.st_uid != os.geteuid():
        raise refuse(
            f"{what!r} belongs to another user (uid {found.st_uid}, and this is uid {os.geteuid()}): "
            "messages pass between processes of one user only; give each user a directory of its own"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise refuse(
            f"other users may enter {what!r} (mode {stat.S_IMODE(found.st_mode):04o}), and could read or forge "
            f"messages: chmod it to {mode}, or give another directory"
        )


def how_to_reset(directory: Path) -> str:
    """Return how to remove files that no process can use."""
    return f"stop the processes that use it, then call channel_layer_ipc.reset({str(directory)!r})"


def refuse(problem: str) -> StoreError:
    """Return the error for files that cannot be used."""
    return StoreError(f"channel_layer_ipc: {problem}", retryable=False, outcome="not_sent")


def unavailable(problem: str) -> StoreError:
    """Return the error for files that cannot be used at this moment."""
    return StoreError(f"channel_layer_ipc: {problem}", retryable=True, outcome="not_sent")


def open_private(path: Path) -> int:
    """Open a file for reading and writing, made if it is missing, and check that only this user can open it.

    Raises:
        StoreError: others can, or it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise refuse(f"cannot open {str(path)!r}: {exc.strerror}; give another directory") from exc
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise refuse(f"{str(path)!r} is no file: {how_to_reset(path.parent)}")
        _check_private(str(path), found, "0600")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
