"""The guard sees what a test leaves behind, and what it must not blame it for."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support import leaks
from tests.support.leaks import IO_THREAD, Resources
from tests.support.servers import Server

SUITE = '''
import socket, subprocess, threading, pytest
from tests.support import leaks

leaks._GRACE = 0.0
kept = []

def test_clean():
    """Leaves nothing."""

def test_socket():
    """Leaves a socket."""
    kept.append(socket.create_server(("127.0.0.1", 0)))

def test_thread():
    """Leaves a thread."""
    threading.Thread(target=threading.Event().wait, daemon=True).start()

def test_failing():
    """Fails, and so is not blamed for its socket."""
    kept.append(socket.create_server(("127.0.0.1", 0)))
    pytest.fail("itself")

@pytest.mark.parametrize("require", ["0", "1"])
def test_server(require, monkeypatch, request):
    """Needs a server that is not there."""
    monkeypatch.setenv("CHANNEL_LAYER_REQUIRE_SERVERS", require)
    request.getfixturevalue("tls_server")
'''
"""Run by pytest in a process of its own, under our conftest.py."""


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left in these tests is left on purpose: do not wait for it to go."""
    monkeypatch.setattr(leaks, "_GRACE", 0.0)


@pytest.fixture
def thread() -> Generator[Callable[[str, bool], None]]:
    """A function that starts a thread of a name, daemon or not, which ends after the test."""
    over = threading.Event()
    with ExitStack() as stack:

        def start(name: str, daemon: bool) -> None:  # noqa: FBT001 - as threading.Thread has it
            worker = threading.Thread(target=over.wait, name=name, daemon=daemon)
            worker.start()
            stack.callback(worker.join)

        stack.callback(over.set)
        yield start
        over.set()


def test_nothing_is_left_by_nothing() -> None:
    """A test that opened nothing is clean."""
    assert Resources.now().left_since() == []


def test_a_thread_is_seen(thread: Callable[[str, bool], None]) -> None:
    """A thread that still runs is named, whether it is a daemon or not."""
    before = Resources.now()
    thread("stray", False)
    thread("stray daemon", True)
    assert sorted(before.left_since()) == ["thread stray", "thread stray daemon"]


def test_the_io_thread_is_no_leak(thread: Callable[[str, bool], None]) -> None:
    """The library's I/O thread may stay if it is a daemon: another would keep the process alive."""
    before = Resources.now()
    thread(IO_THREAD, True)
    assert before.left_since() == []
    thread(IO_THREAD, False)
    assert before.left_since() == [f"thread {IO_THREAD}"]


def test_a_socket_is_seen(server: Server) -> None:
    """An open connection is named with its address, over TCP and over a Unix socket."""
    before = Resources.now()
    with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        assert before.left_since() == [f"socket at {client.getsockname()}"]
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(server.unix_path))
        assert before.left_since() == [f"socket to {server.unix_path}"]
    assert before.left_since() == []


def test_an_event_loop_of_the_io_thread_is_no_leak() -> None:
    """The nameless pair of sockets by which an event loop wakes itself is not held against a test."""
    before = Resources.now()
    with closing(asyncio.new_event_loop()):
        assert before.left_since() == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="child processes are seen on Linux only")
def test_a_child_process_is_seen() -> None:
    """A child process is seen while it runs, and when it is dead and nobody has waited for it."""
    before = Resources.now()
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        assert before.left_since() == [f"child process {child.pid}"]
        assert before.left_since(allowed_processes=[child.pid]) == []
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert before.left_since() == [f"child process {child.pid}"]
    assert before.left_since() == []


def test_the_guard_and_the_missing_server(tmp_path: Path) -> None:
    """A leak fails a test, a failure does so once, and a missing server skips unless servers are required."""
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    options = [
        "-p",
        "tests.conftest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-o",
        "markers=redis",
        "-rA",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "--rootdir", tmp_path, suite],
        env={
            **os.environ,
            "PATH": "",
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "COLUMNS": "200",
        },
        cwd=tmp_path,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    missing = "no redis server: install your system's redis-server package"
    for expected in (
        "servers: redis missing",
        "PASSED test_suite.py::test_clean",
        "ERROR test_suite.py::test_socket - Failed: the test left behind: socket at ('127.0.0.1'",
        "ERROR test_suite.py::test_thread - Failed: the test left behind: thread Thread-",
        "FAILED test_suite.py::test_failing - Failed: itself",
        f"SKIPPED [1] test_suite.py:24: {missing}",
        f"FAILED test_suite.py::test_server[1] - Failed: {missing}",
    ):
        assert any(line.startswith(expected) for line in lines), done.stdout
    assert " 2 errors in " in lines[-1], done.stdout
