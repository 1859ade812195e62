"""Coordinates the processes of one run: starts roles in them, sends them instructions and reads their reports.

Every wait has an end, and a process that dies or fails ends the run with what it wrote to its standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import multiprocessing
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, Final, Generic, ParamSpec, Self, TypeVar

from channel_layer_bench.contenders import fill
from channel_layer_bench.context import Failed, Instruction, Report, Settings, Start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from channel_layer_bench.contenders import Contender
    from channel_layer_bench.context import Context, Role
    from channel_layer_bench.plan import Plan
    from channel_layer_bench.servers import Servers, Usage

__all__ = ("Coordinator", "RoleHandle", "RunFailed")

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Sent = TypeVar("_Sent")

_PATIENCE: Final = 120.0
"""Seconds beyond those of the run itself that a process may take for any report."""

_STDERR_TAIL: Final = 3000
"""Characters of the standard error of a process that are shown."""


class RunFailed(Exception):
    """A run came to no result; the message says why."""


class RoleHandle(Generic[_Sent]):
    """A role that runs in one of the processes; made by `Coordinator.start`."""

    def __init__(self, process: _Process, number: int, name: str, patience: float) -> None:
        self._process = process
        self._number = number
        self._name = name
        self._patience = patience

    async def report(self, kind: type[_T]) -> _T:
        """Wait for the next report of the role, which has to be of this type.

        Raises:
            RunFailed: no report comes in time, or it is another one.
        """
        try:
            async with asyncio.timeout(self._patience):
                report = await self._process.reports(self._number).get()
        except TimeoutError as exc:
            raise RunFailed(
                f"the role {self._name!r} reported nothing for {self._patience:g} s{self._process.output()}"
            ) from exc
        if not isinstance(report, kind):
            raise RunFailed(f"the role {self._name!r} reported {report!r}")
        return report

    def instruct(self, value: _Sent) -> None:
        """Send an instruction to the role, which has reported."""
        self._process.send(Instruction(self._number, value))

    async def ask(self, value: _Sent, kind: type[_T]) -> _T:
        """Send an instruction to the role, and wait for its report."""
        self.instruct(value)
        return await self.report(kind)


class _Process:
    """A process of a run.

    Args:
        settings: the first that it is told.
        output: the file for its standard output and standard error.
        fail: called with the reason why the run cannot come to a result.
    """

    def __init__(self, settings: Settings, output: Path, fail: Callable[[str], None]) -> None:
        self._output = output
        self._fail = fail
        self._reports: dict[int, asyncio.Queue[object]] = {}
        self._connection, theirs = multiprocessing.Pipe()
        with output.open("wb") as file, theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of this package
                [sys.executable, "-m", "channel_layer_bench.child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is handled by the coordinator
            )
        asyncio.get_running_loop().add_reader(self._connection.fileno(), self._read)
        self.send(settings)

    def send(self, order: Settings | Start | Instruction) -> None:
        """Send an order; if the process has ended, `_read` finds out."""
        with contextlib.suppress(ConnectionError):
            self._connection.send(order)

    def reports(self, number: int) -> asyncio.Queue[object]:
        """Return the reports of a role; 0 is the process itself."""
        return self._reports.setdefault(number, asyncio.Queue())

    def _read(self) -> None:
        try:
            report: Report | Failed = self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._stop_reading()
            self._fail(f"a process of the benchmark ended with code {self._process.wait()}{self.output()}")
            return
        if isinstance(report, Failed):
            self._fail(report.reason.strip() + self.output())
        else:
            self.reports(report.number).put_nowait(report.value)

    def _stop_reading(self) -> None:
        asyncio.get_running_loop().remove_reader(self._connection.fileno())

    def output(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        text = self._output.read_text(errors="replace").strip()
        return f"\n--- its standard error:\n{text[-_STDERR_TAIL:]}" if text else ""

    async def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        return await RoleHandle[None](self, 0, "processor time", _PATIENCE).ask(None, float)

    def close(self) -> None:
        """Close the connection, upon which the process ends by itself."""
        self._stop_reading()
        self._connection.close()

    def end(self) -> None:
        """Wait until the process has ended; kill it if it does not."""
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Coordinator:
    """The processes of one run; an asynchronous context manager.

    Args:
        label: names the run, for the files that it leaves.

    Attributes:
        contender: the layer that they make.
        plan: the options of the benchmark.
        servers: the servers of the layer.
        prefix: what keys begin with.
        folder: for the files of this run.
    """

    def __init__(self, contender: Contender, servers: Servers, plan: Plan, prefix: str, label: str) -> None:
        self.contender = contender
        self.plan = plan
        self.servers = servers
        self.prefix = prefix
        self._label = label
        self._failure: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._processes: list[_Process] = []
        self._started = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="clb-")  # short: paths of sockets are limited
        self.folder: Path = Path(self._scratch.name)

    async def run(self, work: Callable[[Self], Awaitable[_T]]) -> _T:
        """Return what *work* makes of the run.

        Raises:
            RunFailed: a process has failed or ended before.
        """
        working = asyncio.ensure_future(work(self))
        self._failure.add_done_callback(lambda _: working.cancel())
        try:
            return await working
        except asyncio.CancelledError:
            if self._failure.done():
                raise RunFailed(self._failure.result()) from None
            raise

    def _fail(self, reason: str) -> None:
        if not self._failure.done():
            self._failure.set_result(reason)

    def start(
        self, role: Callable[Concatenate[Context, _P], Role[_Sent]], *arguments: _P.args, **named: _P.kwargs
    ) -> RoleHandle[_Sent]:
        """Start a role: in a process of its own, unless all roles of this contender have to share one.

        Args:
            role: a function of a module; the first one of a process decides whether code without an event loop has
                its main thread.
            arguments: of the function, after the context.
            named: the others, by name.
        """
        if not self._processes or not self.contender.single_process:
            self._processes.append(self._start_process(blocking=inspect.isgeneratorfunction(role)))
        process = self._processes[-1]
        self._started += 1
        process.send(Start(self._started, role, arguments, named))
        return RoleHandle(process, self._started, role.__name__, _PATIENCE + self.plan.seconds)

    def _start_process(self, *, blocking: bool) -> _Process:
        settings = Settings(
            self.contender.backend,
            fill(self.contender.config, urls=self.servers.urls, prefix=self.prefix, capacity=self.plan.capacity),
            self.plan,
            single_process=self.contender.single_process,
            blocking=blocking,
            profile=f"{self.plan.profiles}/{self._label}" if self.plan.profiles else "",
        )
        return _Process(settings, self.folder / f"output-{len(self._processes)}", self._fail)

    async def usage(self) -> Usage:
        """Return what the processes and servers have used so far."""
        client = sum(await asyncio.gather(*(process.cpu() for process in self._processes)))
        return self.servers.usage()._replace(client=client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.close()
        for process in self._processes:
            process.end()
        self._scratch.cleanup()
