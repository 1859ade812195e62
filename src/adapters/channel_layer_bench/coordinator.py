"""Coordinates the processes of one run: starts roles in them, sends them instructions and reads their reports.

Every wait has an end, and a process that dies or fails ends the run with what it wrote to its standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from channel_layer_bench.contenders import fill
from channel_layer_bench.inputs import Record, Unreadable

if TYPE_CHECKING:
    from types import TracebackType

    from channel_layer_bench.contenders import Contender
    from channel_layer_bench.plan import Plan
    from channel_layer_bench.servers import Counters, Servers

__all__ = ("Coordinator", "RoleHandle", "RunFailed", "Usage")

_PATIENCE: Final = 120.0
"""Seconds beyond those of the run itself that a process may take for any report."""

_STDERR_TAIL: Final = 3000
"""Characters of the standard error of a process that are shown."""

_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest line that is read."""


class RunFailed(Exception):
    """A run came to no result; the message says why."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the processes and servers of a run have used so far.

    Attributes:
        client: seconds of processor time of all processes of the run.
        server: what the servers have counted.
    """

    client: float
    server: Counters

    def __sub__(self, other: Usage) -> Usage:
        return Usage(self.client - other.client, self.server - other.server)


class RoleHandle:
    """A role that runs in one of the processes; made by `Coordinator.start_role`."""

    def __init__(self, process: _Process, number: int, role: str, patience: float) -> None:
        self._process = process
        self._number = number
        self._role = role
        self._patience = patience

    async def next_report(self) -> Record:
        """Wait for the next report of the role.

        Raises:
            RunFailed: no report comes in time, or a role of this run has failed.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await self._process.receive(self._number)
        except TimeoutError as exc:
            raise RunFailed(
                f"the role {self._role!r} reported nothing for {self._patience:g} s{self._process.stderr_tail()}"
            ) from exc

    def instruct(self, **facts: object) -> None:
        """Send an instruction to the role."""
        self._process.send({"do": "instruct", "role": self._number, "instruction": facts})

    @property
    def memory(self) -> int:
        """Bytes of memory that its process has in use."""
        return self._process.memory


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, errors: Path, coordinator: Coordinator) -> None:
        self._process = process
        self._errors = errors
        self._coordinator = coordinator
        self._received: dict[int, asyncio.Queue[Record]] = {}
        self._ending = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, coordinator: Coordinator, errors: Path, settings: dict[str, object]) -> _Process:
        """Start a process."""
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "channel_layer_bench.child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                limit=_LINE,
                start_new_session=True,  # Ctrl-C is handled by the coordinator
            )
        made = cls(process, errors, coordinator)
        made.send(settings)
        return made

    def send(self, facts: dict[str, object]) -> None:
        """Send a line."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(Record(facts).line())

    async def receive(self, number: int) -> Record:
        """Wait for the next report of a role; 0 is the process itself."""
        getting = asyncio.ensure_future(self._queue(number).get())
        try:
            await asyncio.wait({getting, self._coordinator.failure}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise RunFailed(self._coordinator.failure.result().text("failed"))
        finally:
            getting.cancel()

    def _queue(self, number: int) -> asyncio.Queue[Record]:
        return self._received.setdefault(number, asyncio.Queue())

    async def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        try:
            while line := await stdout.readline():
                fact = Record.parse(line)
                report = fact.record("report")
                if "failed" in report:
                    self._coordinator.fail(report.text("failed").strip() + self.stderr_tail())
                    continue
                self._queue(fact.integer("role")).put_nowait(report)
        except (Unreadable, ValueError) as exc:
            self._coordinator.fail(f"a process of the benchmark sent an unreadable report: {exc}")
        if not self._ending:
            code = await self._process.wait()
            self._coordinator.fail(f"a process of the benchmark ended with code {code}{self.stderr_tail()}")

    def stderr_tail(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        text = self._errors.read_text(errors="replace").strip()
        return f"\n--- its standard error:\n{text[-_STDERR_TAIL:]}" if text else ""

    async def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        self.send({"do": "cpu"})
        async with asyncio.timeout(_PATIENCE):
            return (await self.receive(0)).real("cpu")

    @property
    def memory(self) -> int:
        """Bytes of memory in use."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        except FileNotFoundError:  # no /proc on this system
            command = ["ps", "-o", "rss=", "-p", str(self._process.pid)]
            return 1024 * int(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - a fixed command

    async def end(self) -> None:
        """End the process: its input is closed, and if it does not end by itself, it is killed."""
        self._ending = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        await self._reading


class Coordinator:
    """The processes of one run; an asynchronous context manager.

    Args:
        contender: the layer that they make.
        servers: the servers of the layer.
        plan: the options of the benchmark.
        prefix: what keys begin with.
        label: names the run, for the files that it leaves.

    Attributes:
        contender: the layer that they make.
        plan: the options of the benchmark.
        servers: the servers of the layer.
        failure: done, with the reason, when the run can no longer come to a result.
        prefix: what keys begin with.
        folder: for the files of this run.
    """

    def __init__(self, contender: Contender, servers: Servers, plan: Plan, prefix: str, label: str) -> None:
        self.contender = contender
        self.plan = plan
        self.servers = servers
        self.failure: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self.prefix = prefix
        self._label = label
        self._processes: list[_Process] = []
        self._started = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="clb-")  # short: paths of sockets are limited
        self.folder: Path = Path(self._scratch.name)

    def fail(self, reason: str) -> None:
        """End the run without a result."""
        if not self.failure.done():
            self.failure.set_result(Record({"failed": reason}))

    async def start_role(self, role: str, *, blocking: bool = False, **params: object) -> RoleHandle:
        """Start a role: in a process of its own, unless all roles of this contender have to share one.

        Args:
            role: its name.
            blocking: for the first role in a process: whether its main thread is kept for code without an event loop.
            params: the parameters of the role.
        """
        if not self._processes or not self.contender.single_process:
            self._processes.append(await self._start_process(blocking=blocking))
        process = self._processes[-1]
        self._started += 1
        process.send({"do": "start", "number": self._started, "role": role, "params": params})
        return RoleHandle(process, self._started, role, _PATIENCE + self.plan.seconds)

    async def _start_process(self, *, blocking: bool) -> _Process:
        config = fill(self.contender.config, urls=self.servers.urls, prefix=self.prefix, capacity=self.plan.capacity)
        settings: dict[str, object] = {
            "backend": self.contender.backend,
            "config": config,
            "loop": self.plan.loop,
            "warmup": self.plan.warmup,
            "patience": self.plan.patience,
            "blocking": blocking,
            "single_process": self.contender.single_process,
            "profile": f"{self.plan.profiles}/{self._label}" if self.plan.profiles else "",
        }
        return await _Process.start(self, self.folder / f"stderr-{len(self._processes)}", settings)

    async def usage(self) -> Usage:
        """Return what the processes and servers have used so far."""
        client = sum(await asyncio.gather(*(process.cpu() for process in self._processes)))
        return Usage(client, self.servers.counters())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(process.end() for process in self._processes))
        self._scratch.cleanup()
