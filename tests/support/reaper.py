"""Processes and directories that end with the test process, however that one ends.

``atexit`` does not run after SIGKILL, SIGTERM or the hard exit of a timeout plugin, and a server left behind
keeps its port and memory on the developer's machine. So a small process (this file, run as a script) holds
the read end of a pipe: when that closes, it kills and removes whatever is still on its list.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

__all__ = ("discard", "end", "launch", "scratch_directory", "start")


class _Reaper:
    """The parent's end of the pipe."""

    def __init__(self, owner: int) -> None:
        # In a session of its own, so that Ctrl-C and the end of our process group do not take it along; with
        # -I -S, because it needs the standard library only and should start in milliseconds.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._owner = owner
        atexit.register(self.close)

    def note(self, line: str) -> None:
        stdin = self._process.stdin
        if stdin is not None and not stdin.closed:
            stdin.write(f"{line}\n".encode())
            stdin.flush()

    def close(self) -> None:
        """Let it do its work and wait until it has: nothing is left when the interpreter has ended."""
        # A fork inherits the atexit handler, but not the right to end our servers.
        if os.getpid() == self._owner:
            self._process.communicate()


@functools.cache
def _reaper_of(owner: int) -> _Reaper:  # by process, since a fork needs one of its own
    return _Reaper(owner)


def _note(line: str) -> None:
    _reaper_of(os.getpid()).note(line)


def start() -> None:
    """Start the reaper, if it does not run; otherwise the first need of it does. Called in the main thread.

    From here on SIGINT is not ignored: a shell makes what it starts in the background ignore it, and whatever a test
    starts would inherit that, and never end on a Ctrl-C.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _reaper_of(os.getpid())


def launch(
    arguments: Sequence[str | Path],
    *,
    output: IO[bytes] | int,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, to be ended by `end`, or else by the reaper.

    Args:
        arguments: the command line.
        output: where stdout and stderr go.
        environment: its environment; ours when None.
        directory: its working directory; ours when None.
        pass_fds: file descriptors it inherits under their own numbers.
    """
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=directory,
        pass_fds=pass_fds,
        start_new_session=True,
    )
    _note(f"+group {process.pid}")
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    """Kill a process from `launch` with everything it started, and wait for it; idempotent.

    Returns:
        Its exit code: the one it had already ended with, or minus the number of SIGKILL.
    """
    _kill_group(process.pid)
    code = process.wait()
    _note(f"-group {process.pid}")
    return code


def scratch_directory() -> Path:
    """A new empty directory, to be removed by `discard`, or by the reaper if that is never called."""
    path = Path(tempfile.mkdtemp(prefix="channel-layer-test-"))
    _note(f"+path {path}")
    return path


def discard(directory: Path) -> None:
    """Remove a directory from `scratch_directory` with everything in it; idempotent."""
    shutil.rmtree(directory, ignore_errors=True)
    _note(f"-path {directory}")


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(group, signal.SIGKILL)


def _reap() -> None:
    """What the script does: keep the list until the pipe closes, then end all that is still on it."""
    pending: dict[str, None] = {}
    for line in sys.stdin:
        action, entry = line[0], line[1:].rstrip("\n")
        if action == "+":
            pending[entry] = None
        else:
            pending.pop(entry, None)
    for entry in pending:
        what, _, value = entry.partition(" ")
        if what == "group":
            _kill_group(int(value))
        else:
            shutil.rmtree(value, ignore_errors=True)


if __name__ == "__main__":
    _reap()
