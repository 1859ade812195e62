"""The processes of one run, as the benchmark sees them: parts are cast, told things, and heard.

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

from channel_layer_cli.bench.contenders import fill
from channel_layer_cli.bench.inputs import Said, Unreadable

if TYPE_CHECKING:
    from types import TracebackType

    from channel_layer_cli.bench.contenders import Contender
    from channel_layer_cli.bench.plan import Plan
    from channel_layer_cli.bench.servers import Counters, Servers

__all__ = ("Actor", "Reading", "RunFailed", "Stage")

_PATIENCE: Final = 120.0
"""Seconds beyond those of the run itself that a process may take for anything."""

_LAST_WORDS: Final = 3000
"""Characters of a standard error that are shown."""

_LINE: Final = 16 * 1024 * 1024
"""Bytes of the longest line that is read."""


class RunFailed(Exception):
    """A run came to no result; the message says why."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What has been spent up to a moment.

    Attributes:
        client: seconds of processor time of all processes of the run.
        server: what the servers have counted.
    """

    client: float
    server: Counters

    def __sub__(self, other: Reading) -> Reading:
        return Reading(self.client - other.client, self.server - other.server)


class Actor:
    """A part that is played in one of the processes; made by `Stage.cast`."""

    def __init__(self, process: _Process, number: int, role: str, patience: float) -> None:
        self._process = process
        self._number = number
        self._role = role
        self._patience = patience

    async def hear(self) -> Said:
        """Wait for the next thing that the part says.

        Raises:
            RunFailed: it says nothing in time, or some part of this run has failed.
        """
        try:
            async with asyncio.timeout(self._patience):
                return await self._process.heard(self._number)
        except TimeoutError as exc:
            raise RunFailed(
                f"the part {self._role!r} said nothing for {self._patience:g} s{self._process.last_words()}"
            ) from exc

    def say(self, **facts: object) -> None:
        """Tell the part something."""
        self._process.tell({"do": "word", "part": self._number, "word": facts})

    @property
    def memory(self) -> int:
        """Bytes of memory that its process has in use."""
        return self._process.memory


class _Process:
    def __init__(self, process: asyncio.subprocess.Process, errors: Path, stage: Stage) -> None:
        self._process = process
        self._errors = errors
        self._stage = stage
        self._heard: dict[int, asyncio.Queue[Said]] = {}
        self._ending = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, stage: Stage, errors: Path, hello: dict[str, object]) -> _Process:
        """Start a process."""
        with errors.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "channel_layer_cli.bench.child"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                limit=_LINE,
                start_new_session=True,  # Ctrl-C is ours to handle
            )
        made = cls(process, errors, stage)
        made.tell(hello)
        return made

    def tell(self, facts: dict[str, object]) -> None:
        """Send a line."""
        if self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(Said(facts).line())

    async def heard(self, number: int) -> Said:
        """Wait for what a part says; 0 is the process itself."""
        getting = asyncio.ensure_future(self._queue(number).get())
        try:
            await asyncio.wait({getting, self._stage.broken}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            raise RunFailed(self._stage.broken.result().text("failed"))
        finally:
            getting.cancel()

    def _queue(self, number: int) -> asyncio.Queue[Said]:
        return self._heard.setdefault(number, asyncio.Queue())

    async def _read(self) -> None:
        stdout = self._process.stdout
        if stdout is None:
            return
        try:
            while line := await stdout.readline():
                fact = Said.parse(line)
                said = fact.said("said")
                if "failed" in said:
                    self._stage.fail(said.text("failed").strip() + self.last_words())
                    continue
                self._queue(fact.integer("part")).put_nowait(said)
        except (Unreadable, ValueError) as exc:
            self._stage.fail(f"a process of the benchmark said something unreadable: {exc}")
        if not self._ending:
            code = await self._process.wait()
            self._stage.fail(f"a process of the benchmark ended with code {code}{self.last_words()}")

    def last_words(self) -> str:
        """Return the end of what the process wrote to its standard error."""
        text = self._errors.read_text(errors="replace").strip()
        return f"\n--- its standard error:\n{text[-_LAST_WORDS:]}" if text else ""

    async def cpu(self) -> float:
        """Return the seconds of processor time that it has used."""
        self.tell({"do": "cpu"})
        async with asyncio.timeout(_PATIENCE):
            return (await self.heard(0)).real("cpu")

    @property
    def memory(self) -> int:
        """Bytes of memory in use."""
        try:
            pages = int(Path(f"/proc/{self._process.pid}/statm").read_text(encoding="ascii").split()[1])
            return pages * os.sysconf("SC_PAGE_SIZE")
        except FileNotFoundError:  # no /proc on this system
            command = ["ps", "-o", "rss=", "-p", str(self._process.pid)]
            return 1024 * int(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - our own words

    async def end(self) -> None:
        """End it: it does so when its input ends, or else it is killed."""
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


class Stage:
    """The processes of one run; an asynchronous context manager.

    Args:
        contender: whose layer they make.
        servers: what it runs on.
        plan: the options of the benchmark.
        prefix: what keys begin with.
        label: names the run, for the files that it leaves.

    Attributes:
        contender: whose layer they make.
        plan: the options of the benchmark.
        servers: what it runs on.
        broken: done, with the reason, when the run cannot come to a result any more.
        prefix: what keys begin with.
        folder: for the files of this run.
    """

    def __init__(self, contender: Contender, servers: Servers, plan: Plan, prefix: str, label: str) -> None:
        self.contender = contender
        self.plan = plan
        self.servers = servers
        self.broken: asyncio.Future[Said] = asyncio.get_running_loop().create_future()
        self.prefix = prefix
        self._label = label
        self._processes: list[_Process] = []
        self._casts = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="clb-")  # short: paths of sockets are limited
        self.folder: Path = Path(self._scratch.name)

    def fail(self, reason: str) -> None:
        """Break the run off."""
        if not self.broken.done():
            self.broken.set_result(Said({"failed": reason}))

    async def cast(self, role: str, *, plain: bool = False, **params: object) -> Actor:
        """Have a part played: in a process of its own, unless all of this contender's parts have to share one.

        Args:
            role: its name.
            plain: for the first part in a process: whether its main thread is kept for plain code.
            params: what the part is given.
        """
        if not self._processes or not self.contender.alone:
            self._processes.append(await self._start(plain=plain))
        process = self._processes[-1]
        self._casts += 1
        process.tell({"do": "cast", "part": self._casts, "role": role, "params": params})
        return Actor(process, self._casts, role, _PATIENCE + self.plan.seconds)

    async def _start(self, *, plain: bool) -> _Process:
        config = fill(self.contender.config, urls=self.servers.urls, prefix=self.prefix, capacity=self.plan.capacity)
        hello: dict[str, object] = {
            "backend": self.contender.backend,
            "config": config,
            "loop": self.plan.loop,
            "warmup": self.plan.warmup,
            "patience": self.plan.patience,
            "plain": plain,
            "shared": self.contender.alone,
            "profile": f"{self.plan.profiles}/{self._label}" if self.plan.profiles else "",
        }
        return await _Process.start(self, self.folder / f"stderr-{len(self._processes)}", hello)

    async def read(self) -> Reading:
        """Return what has been spent until now."""
        client = sum(await asyncio.gather(*(process.cpu() for process in self._processes)))
        return Reading(client, self.servers.counters())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(process.end() for process in self._processes))
        self._scratch.cleanup()
