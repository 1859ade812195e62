"""Async tests: each runs in an event loop of its own, and what goes wrong in the background of one fails it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

SUITE = '''
import asyncio, pytest
from tests.conftest import anyio_backend  # a plugin's fixture would give way to the one of anyio's plugin

pytestmark = pytest.mark.usefixtures("nothing_else_is_said")
tasks = []

async def fail(begun):
    """Fail when it is cancelled."""
    begun.set()
    try:
        await asyncio.Event().wait()
    finally:
        raise RuntimeError("in the background")

async def test_clean():
    """Does nothing wrong."""
    await asyncio.sleep(0)

async def test_a_task_fails_meanwhile():
    """Leaves it to the event loop to report the error of a task."""
    begun = asyncio.Event()
    task = asyncio.create_task(fail(begun))
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    del task

async def test_a_task_fails_as_the_loop_closes():
    """Returns while a task still waits."""
    begun = asyncio.Event()
    tasks.append(asyncio.create_task(fail(begun)))
    await begun.wait()

async def test_no_await():
    """Makes a coroutine and does not await it."""
    asyncio.sleep(0)
'''
"""Run by pytest in a process of its own, with this project's conftest.py."""


@pytest.fixture
def closed_loops() -> Generator[list[asyncio.AbstractEventLoop]]:
    """Event loops that have to be closed when the fixtures of their test are torn down."""
    loops: list[asyncio.AbstractEventLoop] = []
    yield loops
    assert [loop.is_closed() for loop in loops] == [True]


async def test_the_loop_is_closed_before_the_guards_look(closed_loops: list[asyncio.AbstractEventLoop]) -> None:
    """An async test's event loop checks its threads, and is closed before the test's fixtures are torn down."""
    loop = asyncio.get_running_loop()
    with pytest.raises(RuntimeError, match="Non-thread-safe"):
        await asyncio.to_thread(lambda: loop.call_soon(int))
    closed_loops.append(loop)


def test_errors_in_the_background_fail_a_test(tmp_path: Path) -> None:
    """A task's error that is not retrieved, during the test or as its loop closes, and a missing await fail a test."""
    suite = tmp_path / "test_suite.py"
    suite.write_text(SUITE)
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "-p", "no:randomly", "-o", "markers=redis", "-rA"]
    options += ["-o", "anyio_mode=auto", "-W", "error"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-c", os.devnull, "--rootdir", tmp_path, suite],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"},
        cwd=tmp_path,
        check=False,
        stdout=subprocess.PIPE,
        text=True,
    )
    lines = done.stdout.splitlines()
    for expected in (
        "PASSED test_suite.py::test_clean",
        "FAILED test_suite.py::test_a_task_fails_meanwhile - RuntimeError: in the background",
        "ERROR test_suite.py::test_a_task_fails_as_the_loop_closes - assert not",
        "FAILED test_suite.py::test_no_await",
    ):
        assert any(line.startswith(expected) for line in lines), done.stdout
