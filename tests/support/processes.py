"""Runs functions in fresh Python processes, with barriers, progress reports, and `kill -9` at a chosen moment.

A channel layer keeps its promises (exact capacity, at most once, nothing left after `kill -9`) across processes. A
test that proves them must start several processes, let them go on together, and kill one in the middle of its work.

    async def consume(child: AsyncChild, params: Consume) -> int: ...    # module-level; params can be pickled

    with Fleet() as fleet:
        victim = fleet.spawn(consume, Consume(urls, prefix))
        survivor = fleet.spawn(consume, Consume(urls, prefix))
        fleet.go()                       # once both have reached their `await child.ready()`
        victim.wait_progress(500)        # `child.progress(n)`
        victim.kill9()
        seen = victim.journal()          # the lines of `child.record(line)`, which survive the SIGKILL
        count = survivor.result()        # typed as int
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Final, Generic, Protocol, Self, TypeVar

from tests.support import reaper

__all__ = (
    "AsyncChild",
    "Fleet",
    "SyncChild",
    "Worker",
    "WorkerDied",
    "WorkerFailed",
    "WorkerTimeout",
    "is_alive",
    "run_child",
    "wait_for_end",
)

P = TypeVar("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

_TIMEOUT: Final = 30.0
"""Seconds: far more than any step of a healthy worker takes, and far less than the time limit of a test."""

_COUNTER: Final = struct.Struct("q")


class WorkerFailed(Exception):
    """A worker's function raised, or its process ended with an error.

    The end of the fleet adds every worker's output.
    """


class WorkerDied(WorkerFailed):
    """A worker's process ended without a result."""


class WorkerTimeout(Exception):
    """A worker did not do something in time.

    The end of the fleet adds every worker's output, with the stack of each of its threads.
    """


def is_alive(pid: int) -> bool:
    """Whether a process runs. A dead process that its parent has not waited for does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # this system has no /proc, or the process has ended since `kill`
        return not Path("/proc/self").exists()
    return state != "Z"


def wait_for_end(pid: int, timeout: float = _TIMEOUT) -> None:
    """Wait for the end of a process that is not a child of this one, such as a worker's child.

    Args:
        pid: its process id.
        timeout: in seconds.

    Raises:
        WorkerTimeout: the process is still running.
    """
    deadline = time.monotonic() + timeout
    while is_alive(pid):
        if time.monotonic() > deadline:
            raise WorkerTimeout(f"process {pid} is still running after {timeout:g} s")
        time.sleep(0.001)


# --- messages between the test and its workers --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ready:
    """The child waits at a barrier."""

    word: str


@dataclass(frozen=True, slots=True)
class _Finished(Generic[R]):
    """The child's function returned."""

    value: R


@dataclass(frozen=True, slots=True)
class _Failed:
    """The child's function raised."""

    trace: str


@dataclass(frozen=True, slots=True)
class _Files:
    """The files for data that must survive a worker.

    They are files and not messages because a write to a file waits for no reader, and survives the kill of its writer.
    """

    progress: Path
    journal: Path
    output: Path


class _Job(Protocol[R_co]):
    """The first message to a child: the function to run."""

    @property
    def files(self) -> _Files: ...

    def run(self, channel: Connection[_Ready, str]) -> R_co: ...


@dataclass(frozen=True, slots=True)
class _AsyncJob(Generic[P, R]):
    target: Callable[[AsyncChild, P], Coroutine[object, None, R]]
    params: P
    files: _Files

    def run(self, channel: Connection[_Ready, str]) -> R:
        return asyncio.run(self.target(AsyncChild(channel, self.files), self.params))


@dataclass(frozen=True, slots=True)
class _SyncJob(Generic[P, R]):
    target: Callable[[SyncChild, P], R]
    params: P
    files: _Files

    def run(self, channel: Connection[_Ready, str]) -> R:
        return self.target(SyncChild(channel, self.files), self.params)


# --- the child's side ---------------------------------------------------------------------------------------


class _Child:
    def __init__(self, channel: Connection[_Ready, str], files: _Files) -> None:
        self._channel = channel
        self._progress = os.open(files.progress, os.O_WRONLY)
        self._journal = os.open(files.journal, os.O_WRONLY | os.O_APPEND)

    def progress(self, count: int) -> None:
        """Publish the progress of this worker, for `Worker.wait_progress`. Takes a microsecond and never waits."""
        os.pwrite(self._progress, _COUNTER.pack(count), 0)

    def record(self, line: str) -> None:
        """Append a line to this worker's journal; once this has returned, the line survives even a SIGKILL.

        Raises:
            ValueError: the text has more than one line.
        """
        if "\n" in line:
            raise ValueError(f"a journal entry is one line: {line!r}")
        os.write(self._journal, f"{line}\n".encode())


class AsyncChild(_Child):
    """The first argument of a coroutine function that `Fleet.spawn` runs."""

    async def ready(self, word: str = "") -> str:
        """Wait at a barrier until the test says `go`, without blocking the event loop. May be called repeatedly.

        Args:
            word: information for the test, such as a channel's name.

        Returns:
            The word of the test's `go`.
        """
        loop = asyncio.get_running_loop()
        released = asyncio.Event()
        loop.add_reader(self._channel.fileno(), released.set)
        try:
            self._channel.send(_Ready(word))
            await released.wait()
        finally:
            loop.remove_reader(self._channel.fileno())
        return self._channel.recv()


class SyncChild(_Child):
    """The first argument of a plain function that `Fleet.spawn_sync` runs."""

    def ready(self, word: str = "") -> str:
        """Wait at a barrier until the test says `go`. May be called repeatedly.

        Args:
            word: information for the test, such as a channel's name.

        Returns:
            The word of the test's `go`.
        """
        self._channel.send(_Ready(word))
        return self._channel.recv()


def run_child(descriptor: int) -> None:
    """Run one function and report its result: the main function of a worker process.

    Args:
        descriptor: the worker's end of the connection to the test.
    """
    os.set_inheritable(descriptor, False)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    orders: Connection[_Ready, _Job[object]] = Connection(os.dup(descriptor))
    with orders:
        job = orders.recv()
    channel: Connection[_Ready | _Finished[object] | _Failed, str] = Connection(descriptor)
    with channel:
        try:
            report = _Finished(job.run(channel))
        except BaseException:  # noqa: BLE001 - the test must be told of any exception
            channel.send(_Failed(traceback.format_exc()))
            sys.exit(1)
        channel.send(report)


# --- the test's side ----------------------------------------------------------------------------------------


class Worker(Generic[R_co]):
    """One process of a `Fleet`, made by `Fleet.spawn`.

    Every method that waits blocks the calling thread. In a coroutine: `await asyncio.to_thread(worker.result)`.

    Attributes:
        name: the function's name and a number, for messages.
        pid: its process id.
    """

    def __init__(self, name: str, job: _Job[R_co], environment: Mapping[str, str]) -> None:
        """Start the process. See `Fleet.spawn`."""
        self.name = name
        self._files = files = job.files
        self._report: _Finished[R_co] | _Failed | None = None
        self._word: str | None = None  # its word at the barrier at which it waits; None: it waits at none
        self._killed = False
        self._reported = False  # whether the test has been told how it ended
        payload = pickle.dumps(job)  # before the process starts: a function that does not pickle must leave none
        ours, theirs = socket.socketpair()
        with theirs, files.output.open("wb") as output:
            self._process = reaper.launch(
                [sys.executable, "-m", "tests.support.child", str(theirs.fileno())],
                output=output,
                environment=environment,
                pass_fds=[theirs.fileno()],
            )
        self.pid = self._process.pid
        self._channel: Connection[str, _Ready | _Finished[R_co] | _Failed] = Connection(ours.detach())
        self._channel.send_bytes(payload)

    # --- barriers

    @property
    def over(self) -> bool:
        """Whether the test knows that the worker has ended: by a kill, with a result or with an error."""
        return self._killed or self._report is not None

    def wait_ready(self, timeout: float = _TIMEOUT) -> str:
        """Wait until the worker waits at a barrier.

        Args:
            timeout: in seconds.

        Returns:
            The word given to `child.ready(word)`.

        Raises:
            WorkerFailed: the worker ended before it reached a barrier.
            WorkerTimeout: the worker has not reached a barrier in time.
        """
        if self._word is None:
            report = self._next(timeout, "reach a barrier")
            if isinstance(report, _Failed):
                raise self._failure(report)
            if isinstance(report, _Finished):
                raise WorkerFailed(f"{self.name} returned before it reached a barrier")
            self._word = report.word
        return self._word

    def go(self, word: str = "", timeout: float = _TIMEOUT) -> None:
        """Wait until the worker waits at a barrier, and let it pass.

        Args:
            word: what `child.ready()` returns.
            timeout: in seconds.

        Raises:
            WorkerFailed: the worker ended before it reached a barrier.
            WorkerTimeout: the worker has not reached a barrier in time.
        """
        self.wait_ready(timeout)
        self._word = None
        self._channel.send(word)

    # --- its files

    @property
    def progress(self) -> int:
        """The last `child.progress(n)`; 0 before the first. Stays readable after the worker has ended."""
        count: int = _COUNTER.unpack(self._files.progress.read_bytes())[0]
        return count

    def wait_progress(self, count: int, timeout: float = _TIMEOUT) -> int:
        """Wait until `progress` is at least `count`.

        Args:
            count: the progress to wait for.
            timeout: in seconds.

        Returns:
            The progress, which may be more.

        Raises:
            WorkerDied: the worker ended first.
            WorkerTimeout: the progress is still less than *count*.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None  # before its progress is read, which is then final
            progress = self.progress
            if progress >= count:
                return progress
            if ended:
                raise self._death(f"at progress {progress} of {count}")
            if time.monotonic() > deadline:
                raise WorkerTimeout(f"{self.name} is at progress {progress} of {count} after {timeout:g} s")
            time.sleep(0.001)

    def journal(self) -> list[str]:
        """Return every line given to `child.record`. Stays readable after the worker has ended."""
        return self._files.journal.read_text().splitlines()

    def output(self) -> str:
        """Return what the worker and the processes that it started wrote to stdout and stderr."""
        return self._files.output.read_text(errors="replace")

    # --- its end

    def result(self, timeout: float = _TIMEOUT) -> R_co:
        """Wait until the function has returned and the process has ended.

        Args:
            timeout: in seconds.

        Returns:
            What the function returned.

        Raises:
            WorkerFailed: the function raised, or the process ended with another code than 0.
            WorkerDied: the process ended without a result.
            WorkerTimeout: the process is still running, or waits at a barrier.
        """
        deadline = time.monotonic() + timeout
        if self._report is None and self._word is None:
            report = self._next(timeout, "return")
            if isinstance(report, _Ready):
                self._word = report.word
        if self._report is None:
            raise WorkerTimeout(f"{self.name} waits at a barrier: call go()")
        if isinstance(self._report, _Failed):
            raise self._failure(self._report)
        while (code := self._process.poll()) is None:
            if time.monotonic() > deadline:
                raise WorkerTimeout(f"{self.name} returned, but its process has not ended after {timeout:g} s")
            time.sleep(0.001)
        if code and not self._killed:
            raise self._death("after it had returned")
        return self._report.value

    def kill9(self) -> None:
        """Kill the worker and everything that it started with SIGKILL, and wait for its end. Idempotent."""
        self._killed = True
        reaper.end(self._process)

    def send_signal(self, number: signal.Signals) -> None:
        """Send the worker another signal, such as SIGTERM, SIGCONT or SIGSTOP, which returns when it is stopped."""
        self._process.send_signal(number)
        if number is signal.SIGSTOP:
            os.waitpid(self._process.pid, os.WUNTRACED)  # the threads of a process do not stop at the same moment

    # --- for the fleet

    def check(self) -> None:
        """Raise the error of a worker whose `result` the test did not ask for.

        Raises:
            WorkerFailed: the worker failed, was not killed, and no method has told the test.
        """
        if self._reported or self._killed:
            return
        while self._report is None and self._channel.poll(0):
            self._next(0, "report")
        if isinstance(self._report, _Failed):
            raise self._failure(self._report)
        if self._process.poll():
            raise self._death("unnoticed")

    def dump(self) -> None:
        """Make the worker write the stack of each of its threads into its output."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """Kill the worker if it runs, and close the connection to it."""
        reaper.end(self._process)
        self._channel.close()

    def _next(self, timeout: float, what: str) -> _Ready | _Finished[R_co] | _Failed:
        deadline = time.monotonic() + timeout
        # In slices, because a fork of the worker may hold the other end open after the worker's death.
        while not self._channel.poll(max(0.0, min(0.05, deadline - time.monotonic()))):
            if self._process.poll() is not None and not self._channel.poll(0):
                raise self._death("without a result")
            if time.monotonic() > deadline:
                raise WorkerTimeout(f"{self.name} did not {what} within {timeout:g} s")
        try:
            report = self._channel.recv()
        except (EOFError, ConnectionError):
            reaper.end(self._process)
            raise self._death("without a result") from None
        if not isinstance(report, _Ready):
            self._report = report
        return report

    def _failure(self, report: _Failed) -> WorkerFailed:
        self._reported = True
        return WorkerFailed(f"{self.name} raised:\n{report.trace}")

    def _death(self, how: str) -> WorkerDied:
        self._reported = True
        return WorkerDied(f"{self.name} ended with code {self._process.returncode} {how}")


class Fleet:
    """A context of worker processes, all of which end with its `with` block.

    If the block raises, they are killed and their output is added to the exception. If it ends normally, those that
    still run are killed, and `WorkerFailed` is raised for one that failed unnoticed by the test.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._workers: list[Worker[object]] = []

    @property
    def directory(self) -> Path:
        """A directory for the sockets and files of the workers, removed at the end of the block.

        Raises:
            RuntimeError: outside the `with` block.
        """
        if self._directory is None:
            raise RuntimeError("a Fleet runs workers only inside its `with` block")
        return self._directory

    def spawn(
        self,
        target: Callable[[AsyncChild, P], Coroutine[object, None, R]],
        params: P,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> Worker[R]:
        """Run a coroutine function in a process of its own.

        Args:
            target: a module-level function.
            params: its second argument; this and the result must be picklable.
            environment: variables to set in addition to those of this process.

        Raises:
            RuntimeError: outside the `with` block.
        """
        files = self._make_files()
        return self._start(target.__name__, _AsyncJob(target, params, files), environment)

    def spawn_sync(
        self, target: Callable[[SyncChild, P], R], params: P, *, environment: Mapping[str, str] | None = None
    ) -> Worker[R]:
        """Run a plain function in a process of its own; see `spawn`."""
        files = self._make_files()
        return self._start(target.__name__, _SyncJob(target, params, files), environment)

    def go(self, word: str = "", timeout: float = _TIMEOUT) -> None:
        """Wait until every worker that has not ended waits at a barrier, then let all pass.

        Args:
            word: what `child.ready()` returns.
            timeout: for each worker, in seconds.

        Raises:
            WorkerFailed: a worker ended before it reached a barrier.
            WorkerTimeout: a worker has not reached a barrier in time.
        """
        waiting = [worker for worker in self._workers if not worker.over]
        for worker in waiting:
            worker.wait_ready(timeout)
        for worker in waiting:
            worker.go(word)

    def __enter__(self) -> Self:
        self._directory = reaper.scratch_directory()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                for worker in self._workers:
                    worker.check()
            elif isinstance(error, WorkerTimeout):
                for worker in self._workers:
                    worker.dump()
                time.sleep(0.2)  # for the handlers to write; nothing depends on it
        except WorkerFailed as failure:
            error = failure
            raise
        finally:
            for worker in self._workers:
                worker.end()
                if error is not None and (output := worker.output()):
                    error.add_note(f"--- output of {worker.name} (pid {worker.pid}) ---\n{output}")
            if self._directory is not None:
                reaper.discard(self._directory)
                self._directory = None

    def _make_files(self) -> _Files:
        stem = self.directory / str(len(self._workers) + 1)
        files = _Files(*(stem.with_suffix(f".{what}") for what in ("progress", "journal", "output")))
        files.progress.write_bytes(_COUNTER.pack(0))
        files.journal.touch()
        return files

    def _start(self, function: str, job: _Job[R], environment: Mapping[str, str] | None) -> Worker[R]:
        # The import path of this process, whatever the working directory; no buffers, whose content would be lost
        # when the process is killed; and all warnings, such as those about sockets that were left open.
        ours = {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "PYTHONSAFEPATH": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONWARNINGS": "default",
        }
        name = f"{function}-{len(self._workers) + 1}"
        worker = Worker(name, job, {**os.environ, **ours, **(environment or {})})
        self._workers.append(worker)
        return worker
