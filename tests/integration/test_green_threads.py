"""Processes whose threads are greenlets of gevent or eventlet: Celery's pools, gunicorn's workers and plain programs.

Threads work as ever, and the wait of one greenlet holds up no other. What needs an event loop beside the caller cannot
work there, and says so at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from pydantic import TypeAdapter

from channel_layer import ChannelLayer, from_url
from tests.support.greenlets import GREENLETS
from tests.support.servers import Server

_EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "celery_tasks"
_PATIENCE = 90.0
_TASKS = 20

libraries = pytest.mark.parametrize("library", ["gevent", "eventlet"])


@pytest.fixture(params=["memory", "ipc", "redis", "local-and-remote"])
def url(server: Server, prefix: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The URL of a layer over every kind of store in turn."""
    return _url(request.param, server, prefix, tmp_path)


@pytest.fixture
def redis_url(server: Server, prefix: str) -> str:
    """The URL of a layer over a server."""
    return f"{server.url}?prefix={prefix}"


def _url(kind: str, server: Server, prefix: str, folder: Path) -> str:
    directory = quote(str(folder / "files"), safe="")
    urls = {
        "memory": f"memory://?prefix={prefix}",
        "ipc": f"ipc://?prefix={prefix}&directory={directory}",
        "redis": f"{server.url}?prefix={prefix}",
        "local-and-remote": f"{server.url.replace('://', '+local://', 1)}?prefix={prefix}&directory={directory}",
    }
    return urls[kind]


def _in_process(library: str, moment: str, scenario: str, url: str) -> object:
    """Run a scenario of `tests.support.greenlets`; return what it prints."""
    command = [sys.executable, "-m", "tests.support.greenlets", library, moment, scenario, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@libraries
def test_a_wait_holds_up_no_other_greenlet(library: str, url: str) -> None:
    """Forty greenlets wait at once, and each gets its message."""
    assert _in_process(library, "before", "together", url) == [[f"queue.{n}", n] for n in range(GREENLETS)]


@libraries
@pytest.mark.parametrize("moment", ["after", "worker"])
def test_the_moment_of_patching(library: str, moment: str, redis_url: str) -> None:
    """It is the same if the process was patched after the import, or, like gunicorn's, after a fork."""
    assert _in_process(library, moment, "together", redis_url) == [[f"queue.{n}", n] for n in range(GREENLETS)]


@libraries
def test_every_blocking_call_works(library: str, url: str) -> None:
    """All methods of ``layer.blocking`` do in greenlets what they do in threads."""
    done = _in_process(library, "before", "everything", url)
    assert done == {"members": 3, "came": True, "pending": 1, "left": [None, None]}


@libraries
def test_the_memory_layer_needs_no_second_loop(library: str) -> None:
    """Its asynchronous calls work in greenlets, too."""
    outcomes = _in_process(library, "before", "asynchronous", "memory://")
    assert outcomes == [["returned", each] for each in ("None", "1", "True", "None")]


@libraries
@pytest.mark.parametrize("kind", ["ipc", "redis", "local-and-remote"])
def test_asynchronous_calls_are_refused(library: str, kind: str, server: Server, prefix: str, tmp_path: Path) -> None:
    """A call that would wait for ever raises an error that names what to use."""
    outcomes = _in_process(library, "after", "asynchronous", _url(kind, server, prefix, tmp_path))
    refused = TypeAdapter(list[tuple[str, str]]).validate_python(outcomes)
    assert [error for error, _ in refused] == ["PatchedThreadsError"] * 4
    for _, text in refused:
        assert text.startswith(f"{library} has replaced the threads of this process")
        assert "use layer.blocking" in text


@libraries
def test_a_fork_of_a_patched_process(library: str, server: Server, prefix: str, tmp_path: Path) -> None:
    """A child of a process of greenlets starts anew, as any child does."""
    for kind in ("ipc", "redis"):
        url = _url(kind, server, prefix, tmp_path)
        assert _in_process(library, "before", "forked", url) == [0, True], kind


@libraries
def test_a_dropped_layer_gives_up_what_it_has_claimed(
    library: str, server: Server, prefix: str, tmp_path: Path
) -> None:
    """What ends a dropped layer is a greenlet there, and the next layer waits for it."""
    for kind in ("ipc", "redis"):
        url = _url(kind, server, prefix, tmp_path)
        expected = [["daphne.host!a", {"n": 1}], ["daphne.host!a", {"n": 2}]]
        assert _in_process(library, "before", "dropped", url) == expected, kind


# -- Celery


@contextmanager
def _worker(library: str, environment: dict[str, str], folder: Path) -> Generator[None]:
    """A Celery worker whose pool has a greenlet for each task; what it logs may hold no traceback."""
    command = [sys.executable, "-m", "celery", "-A", "tests.support.green_tasks", "worker", "--pool", library]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    log = (folder / "worker.log").open("w+", encoding="utf-8")
    worker = subprocess.Popen(
        [*command, *quiet, "--concurrency", str(_TASKS)],
        env=environment,
        cwd=folder,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(_PATIENCE)
        finally:
            worker.kill()
            worker.wait()
            log.seek(0)
            output = log.read()
            log.close()
    assert "Traceback" not in output, output


async def _receive(layer: ChannelLayer, channel: str, key: str, count: int) -> dict[object, object]:
    """Receive some messages; return one of their values, by their number."""
    async with asyncio.timeout(_PATIENCE):
        messages = [await layer.receive(channel) for _ in range(count)]
    return {message["n"]: message[key] for message in messages}


@libraries
def test_celery(library: str, redis_url: str, tmp_path: Path) -> None:
    """As many tasks wait at once as the pool has greenlets; those that use an event loop are told what to use."""
    environment = {
        **os.environ,
        "CELERY_FOLDER": str(tmp_path / "celery"),
        "CHANNEL_LAYER_URL": redis_url,
        "PYTHONPATH": os.pathsep.join([str(_EXAMPLE), str(Path.cwd()), *filter(None, sys.path)]),
    }

    async def start(task: str, *numbers: int) -> None:
        code = f"from tests.support import green_tasks as g; [g.{task}.delay(n) for n in {numbers}]"
        await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", code],
            env=environment,
            cwd=tmp_path,
            check=True,
            timeout=_PATIENCE,
        )

    async def body() -> None:
        async with from_url(redis_url) as layer:
            waiting, answers = await layer.new_channel(), await layer.new_channel()
            await layer.group_add("waiting", waiting)
            await layer.group_add("answers", answers)
            await start("answer", *range(_TASKS))
            await _receive(layer, waiting, "n", _TASKS)  # they all wait now
            for n in range(_TASKS):
                await layer.send(f"question.{n}", {"n": 2 * n})
            assert await _receive(layer, answers, "question", _TASKS) == {n: 2 * n for n in range(_TASKS)}
            await start("use_event_loop", 0)
            [alone] = (await _receive(layer, answers, "error", 1)).values()
            assert str(alone).startswith(f"PatchedThreadsError: {library} has replaced the threads of this process")
            await start("use_event_loop", *range(_TASKS))  # asyncio itself may refuse all but the first
            assert "" not in (await _receive(layer, answers, "error", _TASKS)).values()

    with _worker(library, environment, tmp_path):
        asyncio.run(body())
