"""Ends processes and removes directories when the test process ends, however that ends.

``atexit`` does not run after SIGKILL, SIGTERM or the hard exit of a timeout plugin, and a server left behind
keeps its port and memory on the developer's machine. So a small process (this file, run as a script) holds
the read end of a pipe: when the pipe closes, it kills and removes everything that is still on its list.
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
    """The reaper process, and the write end of its pipe."""

    def __init__(self, owner: int) -> None:
        # In a session of its own, so that Ctrl-C and the end of our process group do not end it; with -I -S,
        # because it needs only the standard library and should start in milliseconds.
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
        """Close the pipe and wait for the reaper, so that nothing is left when the interpreter has exited."""
        # A fork inherits the atexit handler, but must not end its parent's servers.
        if os.getpid() == self._owner:
            self._process.communicate()


@functools.cache
def _reaper_of(owner: int) -> _Reaper:  # by process id, because a fork needs a reaper of its own
    return _Reaper(owner)


def _note(line: str) -> None:
    _reaper_of(os.getpid()).note(line)


def start() -> None:
    """Start the reaper if it does not run, before it is first needed. Call it in the main thread.

    It also restores SIGINT if that is ignored: a shell makes its background processes ignore it, and the processes that
    a test starts would inherit that and not end on Ctrl-C.
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
    """Start a process in a session of its own; `end` ends it, or else the reaper.

    Args:
        arguments: the command line.
        output: the file for stdout and stderr.
        environment: its environment; None: that of this process.
        directory: its working directory; None: that of this process.
        pass_fds: file descriptors that it inherits under their own numbers.
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
    """Kill a process from `launch` with everything that it started, and wait for it. Idempotent.

    Returns:
        Its exit code; minus the number of SIGKILL if it was still running.
    """
    _kill_group(process.pid)
    code = process.wait()
    _note(f"-group {process.pid}")
    return code


def scratch_directory() -> Path:
    """Make an empty directory; `discard` removes it, or else the reaper."""
    path = Path(tempfile.mkdtemp(prefix="channel-layer-test-"))
    _note(f"+path {path}")
    return path


def discard(directory: Path) -> None:
    """Remove a directory from `scratch_directory` with everything in it. Idempotent."""
    shutil.rmtree(directory, ignore_errors=True)
    _note(f"-path {directory}")


def _kill_group(group: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
        os.killpg(group, signal.SIGKILL)


def _reap() -> None:
    """Keep the list until the pipe closes, then end and remove everything that is still on it."""
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
