"""The Celery example, as Celery runs it: a prefork pool whose parent has imported, and used, the layer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

from channel_layer_ipc import IPCChannelLayer

_EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "celery_tasks"
_SEND = "import sys, tasks; [tasks.make_thumbnails.delay('room', [f'{n}.png', 'last']) for n in range(4)]"
_PATIENCE = 60.0


def _environment(folder: Path) -> dict[str, str]:
    """A broker of files, and an IPC layer: no service has to run."""
    return {
        **os.environ,
        "CELERY_FOLDER": str(folder / "celery"),
        "CHANNEL_LAYER_URL": f"ipc://?directory={quote(str(folder / 'world'))}",
        "PYTHONPATH": os.pathsep.join([str(_EXAMPLE), *filter(None, sys.path)]),
    }


def test_tasks_of_a_prefork_pool_reach_a_group(tmp_path: Path) -> None:
    """Messages of tasks in forked workers come to a group's member in another process, in each task's order, once."""
    environment = _environment(tmp_path)
    command = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]

    async def body() -> list[tuple[object, object]]:
        async with IPCChannelLayer(directory=tmp_path / "world") as layer:
            name = await layer.new_channel()
            await layer.group_add("room", name)
            await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", _SEND],
                env=environment,
                cwd=tmp_path,
                check=True,
                timeout=_PATIENCE,
            )
            async with asyncio.timeout(_PATIENCE):
                messages = [await layer.receive(name) for _ in range(8)]
            return [(message["by"], message["file"]) for message in messages]

    worker = subprocess.Popen(  # in a session of its own, as its pool is to end with it
        [*command, *quiet], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        came = asyncio.run(body())
    finally:
        worker.send_signal(signal.SIGTERM)
        output, _ = worker.communicate(timeout=_PATIENCE)
    assert sorted(str(file) for _, file in came) == sorted([*(f"{n}.png" for n in range(4)), *["last"] * 4])
    for process in {by for by, _ in came}:
        of_one = [file for by, file in came if by == process]
        assert [file == "last" for file in of_one] == [False, True] * (len(of_one) // 2), output
    assert "Traceback" not in output
