"""Functions run in several fresh Python processes, held at barriers, watched, and killed at a chosen moment.

What a channel layer promises (exact capacity, at most once, nothing left after `kill -9`) it promises across
processes; a test that proves it must line them up, let them go together, and shoot one down in mid-flight.

    async def consume(child: AsyncChild, params: Consume) -> int: ...    # module-level; params can be pickled

    with Fleet() as fleet:
        victim = fleet.spawn(consume, Consume(urls, prefix))
        survivor = fleet.spawn(consume, Consume(urls, prefix))
        fleet.go()                       # once both have come to their `await child.ready()`
        victim.wait_progress(500)        # `child.progress(n)`
        victim.kill9()
        seen = victim.journal()          # `child.record(line)`: what it wrote down survives the SIGKILL
        count = survivor.result()        # an int, for mypy as well
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
"""Seconds; far more than any step of a healthy worker takes, far less than a test run's own limit."""

_COUNTER: Final = struct.Struct("q")


class WorkerFailed(Exception):
    """A worker's function raised, or its process ended with an error.

    The fleet's exit adds every worker's output.
    """


class WorkerDied(WorkerFailed):
    """A worker's process ended without a result."""


class WorkerTimeout(Exception):
    """A worker did not do in time what was waited for.

    The fleet's exit adds every worker's output, with the place where each of its threads stands.
    """


def is_alive(pid: int) -> bool:
    """Whether a process runs. One that is dead, and that its parent has not waited for yet, does not."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # no /proc on this system, or gone in between
        return not Path("/proc/self").exists()
    return state != "Z"


def wait_for_end(pid: int, timeout: float = _TIMEOUT) -> None:
    """Wait until a process that is not ours to wait for, such as a worker's child, has ended.

    Args:
        pid: its id.
        timeout: in seconds.

    Raises:
        WorkerTimeout: it is still running.
    """
    deadline = time.monotonic() + timeout
    while is_alive(pid):
        if time.monotonic() > deadline:
            raise WorkerTimeout(f"process {pid} is still running after {timeout:g} s")
        time.sleep(0.001)


# --- what passes between the two sides ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ready:
    """The child stands at a barrier."""

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
    """Where a worker leaves what must survive it.

    Files and not messages: a write to a file waits for no reader, and is not lost when the writer is killed.
    """

    progress: Path
    journal: Path
    output: Path


class _Job(Protocol[R_co]):
    """What a child is sent first."""

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
        """Publish how far this worker is, for `Worker.wait_progress`. Costs a microsecond and never waits."""
        os.pwrite(self._progress, _COUNTER.pack(count), 0)

    def record(self, line: str) -> None:
        """Append a line to this worker's journal; once this returned, not even SIGKILL can undo it.

        Raises:
            ValueError: it is more than one line.
        """
        if "\n" in line:
            raise ValueError(f"a journal entry is one line: {line!r}")
        os.write(self._journal, f"{line}\n".encode())


class AsyncChild(_Child):
    """What a coroutine function run by `Fleet.spawn` is given."""

    async def ready(self, word: str = "") -> str:
        """Stand at a barrier until told to go; the event loop goes on. May be used any number of times.

        Args:
            word: something for the test to know, such as a channel's name.

        Returns:
            The word that came with the order to go.
        """
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        loop.add_reader(self._channel.fileno(), told.set)
        try:
            self._channel.send(_Ready(word))
            await told.wait()
        finally:
            loop.remove_reader(self._channel.fileno())
        return self._channel.recv()


class SyncChild(_Child):
    """What a plain function run by `Fleet.spawn_sync` is given."""

    def ready(self, word: str = "") -> str:
        """Stand at a barrier until told to go. May be used any number of times.

        Args:
            word: something for the test to know, such as a channel's name.

        Returns:
            The word that came with the order to go.
        """
        self._channel.send(_Ready(word))
        return self._channel.recv()


def run_child(descriptor: int) -> None:
    """Do one job and report: the whole life of a worker process.

    Args:
        descriptor: this side of the connection to the test.
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
        except BaseException:  # noqa: BLE001 - whatever it is, the test has to hear of it
            channel.send(_Failed(traceback.format_exc()))
            sys.exit(1)
        channel.send(report)


# --- the test's side ----------------------------------------------------------------------------------------


class Worker(Generic[R_co]):
    """One process of a `Fleet`; made by its `spawn`.

    Every wait blocks the calling thread. In a coroutine: `await asyncio.to_thread(worker.result)`.

    Attributes:
        name: the function's name and a number, for messages.
        pid: its process id.
    """

    def __init__(self, name: str, job: _Job[R_co], environment: Mapping[str, str]) -> None:
        """Start it. See `Fleet.spawn`."""
        self.name = name
        self._files = files = job.files
        self._report: _Finished[R_co] | _Failed | None = None
        self._word: str | None = None  # what it said at the barrier where it stands; None: it stands at none
        self._killed = False
        self._judged = False  # the test has been told how it ended
        payload = pickle.dumps(job)  # first of all: a function that does not pickle should leave no process
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
        """Whether the test knows that it has ended: killed, with a result, or with an error."""
        return self._killed or self._report is not None

    def wait_ready(self, timeout: float = _TIMEOUT) -> str:
        """Wait until it stands at a barrier.

        Args:
            timeout: in seconds.

        Returns:
            The word it gave to `child.ready(word)`.

        Raises:
            WorkerFailed: it ended, well or badly, before it came to a barrier.
            WorkerTimeout: it is still on its way.
        """
        if self._word is None:
            report = self._next(timeout, "come to a barrier")
            if isinstance(report, _Failed):
                raise self._failure(report)
            if isinstance(report, _Finished):
                raise WorkerFailed(f"{self.name} returned before it came to a barrier")
            self._word = report.word
        return self._word

    def go(self, word: str = "", timeout: float = _TIMEOUT) -> None:
        """Wait until it stands at a barrier, and let it pass.

        Args:
            word: what `child.ready()` returns.
            timeout: in seconds.

        Raises:
            WorkerFailed: it ended before it came to a barrier.
            WorkerTimeout: it is still on its way.
        """
        self.wait_ready(timeout)
        self._word = None
        self._channel.send(word)

    # --- what it leaves behind

    @property
    def progress(self) -> int:
        """The last `child.progress(n)`; 0 before the first. Stays readable after its death."""
        count: int = _COUNTER.unpack(self._files.progress.read_bytes())[0]
        return count

    def wait_progress(self, count: int, timeout: float = _TIMEOUT) -> int:
        """Wait until `progress` is at least `count`.

        Args:
            count: how far.
            timeout: in seconds.

        Returns:
            How far it is.

        Raises:
            WorkerDied: it ended first.
            WorkerTimeout: it is not there yet.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self._process.poll() is not None  # before the look at its progress, which is then final
            progress = self.progress
            if progress >= count:
                return progress
            if ended:
                raise self._death(f"at progress {progress} of {count}")
            if time.monotonic() > deadline:
                raise WorkerTimeout(f"{self.name} is at progress {progress} of {count} after {timeout:g} s")
            time.sleep(0.001)

    def journal(self) -> list[str]:
        """Every line that it gave to `child.record`. Stays readable after its death."""
        return self._files.journal.read_text().splitlines()

    def output(self) -> str:
        """What it and the processes it started wrote to stdout and stderr."""
        return self._files.output.read_text(errors="replace")

    # --- its end

    def result(self, timeout: float = _TIMEOUT) -> R_co:
        """Wait until its function has returned and its process has ended.

        Args:
            timeout: in seconds.

        Returns:
            What the function returned.

        Raises:
            WorkerFailed: the function raised, or the process ended with another code than 0.
            WorkerDied: it ended without a result.
            WorkerTimeout: it is still running, or stands at a barrier.
        """
        deadline = time.monotonic() + timeout
        if self._report is None and self._word is None:
            report = self._next(timeout, "return")
            if isinstance(report, _Ready):
                self._word = report.word
        if self._report is None:
            raise WorkerTimeout(f"{self.name} stands at a barrier and has not been told to go")
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
        """SIGKILL to it and to all that it started; it is gone when this returns. Idempotent."""
        self._killed = True
        reaper.end(self._process)

    def send_signal(self, number: signal.Signals) -> None:
        """Send it any other signal, such as SIGTERM, SIGSTOP or SIGCONT."""
        self._process.send_signal(number)

    # --- for the fleet

    def check(self) -> None:
        """Raise what the test should have been told and did not ask for.

        Raises:
            WorkerFailed: it ended badly, without being killed, and no `result` told so.
        """
        if self._judged or self._killed:
            return
        while self._report is None and self._channel.poll(0):
            self._next(0, "report")
        if isinstance(self._report, _Failed):
            raise self._failure(self._report)
        if self._process.poll():
            raise self._death("unnoticed")

    def dump(self) -> None:
        """Have it write into its output where each of its threads stands."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """Kill it if it runs, and let go of it."""
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
        self._judged = True
        return WorkerFailed(f"{self.name} raised:\n{report.trace}")

    def _death(self, how: str) -> WorkerDied:
        self._judged = True
        return WorkerDied(f"{self.name} ended with code {self._process.returncode} {how}")


class Fleet:
    """Worker processes that all end with the `with` block.

    A block that raises kills them and adds their output to the exception. A block that ends well kills those
    that still run, and raises `WorkerFailed` for one that failed without the test noticing.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._workers: list[Worker[object]] = []

    @property
    def directory(self) -> Path:
        """A directory that goes with the fleet, for its workers' sockets and files.

        Raises:
            RuntimeError: outside the `with` block.
        """
        if self._directory is None:
            raise RuntimeError("a Fleet runs workers inside its `with` block only")
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
            params: its second argument; picklable, as its result must be.
            environment: variables to set beside ours.

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
        """Wait until every worker that is not over stands at a barrier, then let all pass.

        Args:
            word: what `child.ready()` returns.
            timeout: for each of them, in seconds.

        Raises:
            WorkerFailed: one ended before it came to a barrier.
            WorkerTimeout: one is still on its way.
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
        # The same import path as here, whatever the working directory; output that is not lost in a buffer
        # when its writer is killed; and warnings shown, such as those about sockets that were left open.
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
