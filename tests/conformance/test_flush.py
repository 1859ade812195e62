"""`flush()` with several processes: it waits for live ones, not for dead ones, and never lists all keys of a server."""

# pyright: reportPrivateUsage=false
# Whether a process has answered is asked of the store.

from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pytest
from asgiref.sync import async_to_sync

from channel_layer import ChannelLayer
from channel_layer.operations.steps import Sleep
from channel_layer_ipc import IPCChannelLayer
from channel_layer_redis import RedisChannelLayer, RedisLocalChannelLayer
from tests.support.processes import AsyncChild, Fleet, Worker
from tests.support.scenarios_groups import eventually, have_answered, is_true

if TYPE_CHECKING:
    from channel_layer_redis.options import LocalDict
    from tests.support.servers import ServerPool, StartServer

R = TypeVar("R")

_PATIENCE: Final = 60.0
"""Seconds that an owner has to answer a flush which waits for it."""


async def test_a_flush_never_lists_all_keys(start_server: StartServer, prefix: str) -> None:
    """A flush uses SCAN, not KEYS, which would block the server for all of its clients."""
    server = start_server()

    async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
        await layer.send("jobs", {"n": 1})
        await layer.flush()
    used = server.host().info("commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


# -- owners that do not answer


@dataclass(frozen=True, slots=True)
class Place:
    """A store that processes share."""

    kind: str
    urls: tuple[str, ...]
    directory: Path
    prefix: str

    def layer(self, timeout: float = _PATIENCE) -> ChannelLayer:
        """Make a layer over it; a lease lasts 90 s."""
        if self.kind == "ipc":
            return IPCChannelLayer(directory=self.directory, prefix=self.prefix, timeout=timeout)
        if self.kind == "local-and-remote":
            local: LocalDict = {"directory": self.directory}
            return RedisLocalChannelLayer(hosts=self.urls, local=local, prefix=self.prefix, timeout=timeout)
        return RedisChannelLayer(hosts=self.urls, prefix=self.prefix, timeout=timeout)


@pytest.fixture(params=["ipc", "one-host", "three-servers", "local-and-remote"])
def place(request: pytest.FixtureRequest, tmp_path: Path, prefix: str) -> Place:
    """Every store that spans processes in turn."""
    kind: str = request.param
    urls: tuple[str, ...] = ()
    if kind != "ipc":
        pool: ServerPool = request.getfixturevalue("server_pool")
        urls = tuple(pool.get(number=number).host().url for number in range(3 if kind == "three-servers" else 1))
    return Place(kind, urls, tmp_path / "ipc", prefix)


async def own(child: AsyncChild, place: Place) -> list[object]:
    """Own a member of a group, with messages in its mailbox; return what is received next."""
    async with place.layer() as layer:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        for number in range(10):
            await layer.send(name, {"n": number})
        assert (await layer.receive(name))["n"] == 0
        while layer.counts().waiting < 9:
            await layer.run_maintenance()
        await child.ready(name)
        return [(await layer.receive(name))["n"]]


async def ready(worker: Worker[R]) -> str:
    """Wait until a worker stands at its barrier; return its word."""
    return await asyncio.to_thread(worker.wait_ready)


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses in which flushes wait for owners, as they are made."""
    made: list[float] = []

    def pause(seconds: float) -> Sleep:
        made.append(seconds)
        return Sleep(seconds)

    monkeypatch.setattr("channel_layer.operations.flushing.Sleep", pause)
    return made


async def test_a_flush_waits_for_a_suspended_process_until_it_resumes(place: Place, pauses: list[float]) -> None:
    """A flush returns no sooner than each living process has dropped what it held, however long that takes."""
    with Fleet() as fleet:
        stands = fleet.spawn(own, place)
        name = await ready(stands)
        async with place.layer() as layer:
            stands.send_signal(signal.SIGSTOP)
            flushing = asyncio.create_task(layer.flush())
            await eventually(lambda: is_true(len(pauses) > 10))
            assert not flushing.done()
            stands.send_signal(signal.SIGCONT)
            await flushing
            assert await layer.group_channels("group") == []
            await layer.send(name, {"n": "new"})
            stands.go()
            assert await asyncio.to_thread(stands.result) == ["new"]


async def _flush(layer: ChannelLayer) -> None:
    await layer.flush()


async def _flush_in_short_loop(layer: ChannelLayer) -> None:
    await asyncio.to_thread(async_to_sync(layer.flush))


async def _flush_blocking(layer: ChannelLayer) -> None:
    await asyncio.to_thread(layer.blocking.flush)


async def test_a_killed_process_delays_one_flush_by_the_timeout_and_the_next_by_nothing(
    place: Place, pauses: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever facade flushes, each flush logs once that one inbox did not answer."""
    async with place.layer() as other:
        await other.send("jobs", {"n": 1})  # a shared store in which no process is left is emptied
        with Fleet() as fleet:
            dies = fleet.spawn(own, place)
            await ready(dies)
            dies.kill9()
        for flush in (_flush, _flush_in_short_loop, _flush_blocking):
            async with place.layer(timeout=2.0) as layer:
                for waits in (True, False, False):
                    caplog.clear()
                    pauses.clear()
                    await layer.group_add("group", "jobs")
                    await flush(layer)
                    [warning] = [text for record in caplog.records if "flush()" in (text := record.getMessage())]
                    assert "the owners of 1 inbox answered (1 on " in warning
                    assert bool(pauses) == waits
                    assert await layer.group_channels("group") == []


async def test_a_process_that_answers_late_delivers_nothing_from_before_the_flush(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that was suspended during a whole flush drops what it held when it goes on, and is a member of nothing.

    The next flush waits for it again.
    """
    with Fleet() as fleet:
        stands = fleet.spawn(own, place)
        name = await ready(stands)
        async with place.layer(timeout=2.0) as layer:
            stands.send_signal(signal.SIGSTOP)
            await layer.flush()
            assert "the owners of 1 inbox answered" in caplog.text
            await layer.send(name, {"n": "new"})
            await layer.group_send("group", {"n": "to nobody"})
            stands.send_signal(signal.SIGCONT)

            async with aclosing(layer._backend.open()) as store:
                await eventually(lambda: have_answered(store, layer._state.unflushed))
            assert await layer.group_channels("group") == []
            stands.go()
            assert await asyncio.to_thread(stands.result) == ["new"]
