"""`manage.py runworker`: Channels' own worker, as real processes that take jobs from normal channels.

This module is a Django project too. The workers, and a process for the sync code of a web server, are started with it
as their settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import django
import pytest
import redis
from asgiref.sync import async_to_sync
from channels.consumer import AsyncConsumer, SyncConsumer
from channels.layers import get_channel_layer
from channels.routing import ChannelNameRouter, ProtocolTypeRouter

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from tests.integration.test_server_restart import until
from tests.support import reaper
from tests.support.processes import Fleet, SyncChild
from tests.support.servers import Server, StartServer

# --- the settings

INSTALLED_APPS = ["channels"]
ASGI_APPLICATION = f"{__name__}.application"
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channel_layer_redis.RedisChannelLayer",
        "CONFIG": {"hosts": os.environ.get("HOSTS", "").split(), "prefix": os.environ.get("PREFIX", "")},
    }
}


# --- the application


class _Jobs(AsyncConsumer):
    """Does jobs, and says which process did them."""

    async def job_do(self, message: Mapping[str, str | int]) -> None:
        answer = {"type": "job.done", "number": message["number"], "process": os.getpid()}
        await self.channel_layer.send(str(message["reply_to"]), answer)


class _PlainJobs(SyncConsumer):
    """The same as a sync consumer, which answers to a group."""

    def job_do(self, message: Mapping[str, str | int]) -> None:
        answer = {"type": "job.done", "number": message["number"], "process": os.getpid()}
        async_to_sync(self.channel_layer.group_send)("watchers", answer)


application = ProtocolTypeRouter(
    {"channel": ChannelNameRouter({"jobs": _Jobs.as_asgi(), "plain-jobs": _PlainJobs.as_asgi()})}
)


# --- the test

EARLY, LATE = range(20), range(20, 60)

OF_DJANGO = "ignore::DeprecationWarning,ignore::PendingDeprecationWarning"
"""Warnings of Django about its own future releases."""

OF_CHANNELS = "ignore:async_to_sync was passed a non-async-marked callable:UserWarning"
"""A warning of Channels about the function that it gives to every sync consumer of a worker."""


@dataclass(frozen=True)
class Work:
    """The channel that answers go to."""

    reply_to: str


def send_from_plain_code(_child: SyncChild, work: Work) -> None:
    """Send jobs as a sync view does."""
    django.setup()
    layer = get_channel_layer()
    assert layer is not None
    for number in LATE:
        for channel in ("jobs", "plain-jobs"):
            async_to_sync(layer.send)(channel, {"type": "job.do", "number": number, "reply_to": work.reply_to})


def project(hosts: Sequence[str], prefix: str) -> dict[str, str]:
    """Return the variables of a process whose settings are this module."""
    return {
        "DJANGO_SETTINGS_MODULE": __name__,
        "HOSTS": " ".join(hosts),
        "PREFIX": prefix,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONWARNINGS": f"error,{OF_DJANGO},{OF_CHANNELS}",
    }


@contextlib.contextmanager
def runworkers(count: int, variables: Mapping[str, str], log: Path) -> Generator[list[subprocess.Popen[bytes]]]:
    """Start ``manage.py runworker`` so many times; at the end of the block they have to stop as after Ctrl-C."""
    command = [sys.executable, "-m", "django", "runworker", "jobs", "plain-jobs"]
    workers: list[subprocess.Popen[bytes]] = []
    try:
        with log.open("wb") as output:
            workers.extend(
                reaper.launch(command, output=output, environment={**os.environ, **variables}) for _ in range(count)
            )
        yield workers
        for worker in workers:
            worker.send_signal(signal.SIGINT)
            assert worker.wait(20) == 0
    except BaseException as error:
        error.add_note(f"--- output of the workers ---\n{log.read_text()}")
        raise
    finally:
        for worker in workers:
            reaper.end(worker)


@pytest.mark.parametrize("count", [1, 3], ids=["one-host", "three-databases"])
async def test_runworker(server: Server, prefix: str, tmp_path: Path, count: int) -> None:
    """Two workers share the jobs sent before and after they start, by async and sync code: each is done once."""
    hosts = [server.host(db).url for db in range(count)]
    variables, log = project(hosts, prefix), tmp_path / "workers.log"
    async with RedisChannelLayer(hosts=hosts, prefix=prefix) as layer:
        name, watcher = await layer.new_channel(), await layer.new_channel()
        await layer.group_add("watchers", watcher)
        for number in EARLY:
            for channel in ("jobs", "plain-jobs"):
                await layer.send(channel, {"type": "job.do", "number": number, "reply_to": name})
        with runworkers(2, variables, log) as workers, Fleet() as fleet:
            sender = fleet.spawn_sync(send_from_plain_code, Work(name), environment=variables)
            for channel in (name, watcher):
                async with asyncio.timeout(30):
                    answers = [await layer.receive(channel) for _ in (*EARLY, *LATE)]
                assert sorted(str(answer["number"]) for answer in answers) == sorted(map(str, (*EARLY, *LATE)))
                assert all(answer["process"] in [worker.pid for worker in workers] for answer in answers)
            sender.result()
            assert [(await layer.statistics(channel)).messages_pending for channel in ("jobs", "plain-jobs")] == [0, 0]
    assert log.read_text() == ""


async def test_runworker_outlives_a_server_that_cannot_save(
    start_server: StartServer, prefix: str, tmp_path: Path
) -> None:
    """A server whose snapshots fail refuses all writes with MISCONF: the worker says so once, waits, and goes on."""
    server = start_server()
    host, log = server.host(), tmp_path / "workers.log"
    in_the_way = server.unix_path.parent / "dump.rdb"
    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        name = await layer.new_channel()

        async def does(number: int) -> None:
            await layer.send("jobs", {"type": "job.do", "number": number, "reply_to": name})
            answer = await asyncio.wait_for(layer.receive(name), 30)
            assert (answer["number"], answer["process"]) == (number, worker.pid)

        with runworkers(1, project([server.url], prefix), log) as (worker,):
            await does(1)
            in_the_way.mkdir()
            host.command("CONFIG", "SET", "save", "3600 1")
            host.command("BGSAVE")

            async def is_told() -> bool:
                return "MISCONF" in log.read_text()

            await until(is_told, 30)
            with pytest.raises(StoreError, match="MISCONF") as caught:
                await layer.send("jobs", {})
            assert (caught.value.retryable, caught.value.outcome) == (True, "not_sent")
            in_the_way.rmdir()

            async def saves() -> bool:
                with contextlib.suppress(redis.ResponseError):  # one is under way
                    host.command("BGSAVE")
                return host.info("persistence")["rdb_last_bgsave_status"] == "ok"

            await until(saves, 30)
            await does(2)
            assert worker.poll() is None
    assert log.read_text().count("cannot use") == 1
