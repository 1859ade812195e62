"""A busy group of processes over the IPC layer, some of which are killed at any moment, and what the others see.

A few seconds by default; ``CHANNEL_LAYER_CRASH_SECONDS`` says how many, for a longer run at night.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from channel_layer import ChannelLayer
from channel_layer_ipc import IPCChannelLayer
from tests.support.processes import AsyncChild, Fleet, Worker

SECONDS: Final = float(os.environ.get("CHANNEL_LAYER_CRASH_SECONDS", "4"))
SEED: Final = int(os.environ.get("CHANNEL_LAYER_CRASH_SEED", "1"))
PROCESSES: Final = 8
ROOM: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Busy:
    """What a process of the group is given.

    Attributes:
        directory: of the layer.
        name: of the process.
        stop: a file that is there when nobody is to send any more.
    """

    directory: str
    name: str
    stop: str


async def be_busy(child: AsyncChild, params: Busy) -> int:
    """Send to a queue that all share, to the group and to its members; write down all that is sent and received."""
    layer = IPCChannelLayer(directory=params.directory, capacity=ROOM, inbox_capacity=ROOM, memory=64 << 20)
    mine = await layer.new_channel()
    await layer.group_add("room", mine)
    await child.ready(mine)
    seen = 0

    async def take(channel: str) -> None:
        nonlocal seen
        while True:
            message = await layer.receive(channel)
            line = message["line"]
            assert isinstance(line, str)
            child.record(f"got {line}")
            seen += 1
            child.progress(seen)

    takers = [asyncio.create_task(take(channel)) for channel in ("jobs", mine)]
    sent = await _send_until(layer, child, params)
    quiet = seen
    while True:  # until nothing comes any more
        await asyncio.sleep(1.0)
        if quiet == seen and not (await layer.statistics("jobs")).pending:
            break
        quiet = seen
    for taker in takers:
        taker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await taker
    await layer.aclose()
    return sent


async def _send_until(layer: ChannelLayer, child: AsyncChild, params: Busy) -> int:
    n = 0
    while not os.path.exists(params.stop):  # noqa: ASYNC240, PTH110 - what is waited for is a file
        for kind in ("jobs", "group", "direct"):
            n += 1
            message = {"line": f"{kind} {params.name} {n}"}
            if kind == "jobs":
                await layer.send("jobs", message)
            elif kind == "group":
                await layer.group_send("room", message)
            else:
                peers = await layer.group_channels("room")
                peer = peers[n % len(peers)]
                await layer.send(peer, message)
                child.record(f"to {peer} {n}")
            child.record(f"sent {kind} {params.name} {n}")
        await asyncio.sleep(0.002)
    return n


@pytest.mark.timeout(max(120, 4 * SECONDS))
def test_a_busy_group_survives_any_kill(tmp_path: Path) -> None:
    """Whoever is killed, the others go on: nothing twice, in order, nothing lost but what the killed had taken."""
    directory, stop = tmp_path / "ipc", tmp_path / "stop"
    choose = random.Random(SEED)
    killed: list[Worker[int]] = []
    with Fleet() as fleet:
        names = iter(range(10_000))
        channels: dict[str, Worker[int]] = {}

        def spawn() -> Worker[int]:
            return fleet.spawn(be_busy, Busy(str(directory), f"p{next(names)}", str(stop)))

        def begin(worker: Worker[int]) -> Worker[int]:
            channels[worker.wait_ready()] = worker
            worker.go()
            return worker

        alive = [begin(worker) for worker in [spawn() for _ in range(PROCESSES)]]
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            victim = alive.pop(choose.randrange(len(alive)))
            victim.wait_progress(victim.progress + choose.randrange(1, 200))
            victim.kill9()
            killed.append(victim)
            for worker in alive:  # no wedge: everybody gets on
                worker.wait_progress(worker.progress + 5)
            alive.append(begin(spawn()))
        stop.touch()
        for worker in alive:
            worker.result()
        journals = {worker: worker.journal() for worker in [*alive, *killed]}

    got = {worker: [line for line in journal if line.startswith("got")] for worker, journal in journals.items()}
    _check_order_and_doubles(got)
    _check_jobs(journals, killed)
    survivors = {channel: worker for channel, worker in channels.items() if worker in alive}
    for worker in alive:
        for line in journals[worker]:
            if line.startswith("to ") and (to := survivors.get(line.split()[1])) is not None:
                name = next(each.split()[2] for each in journals[worker] if each.startswith("sent"))
                assert f"got direct {name} {line.split()[2]}" in got[to]
    assert list(directory.iterdir()) == []
    assert killed


def _check_order_and_doubles(got: dict[Worker[int], list[str]]) -> None:
    """Each process receives what one other sends it in its order, and nothing twice; a job is received once in all."""
    jobs: Counter[str] = Counter()
    for lines in got.values():
        last: dict[tuple[str, str], int] = {}
        for line in lines:
            _, kind, by, number = line.split()
            n = int(number)
            if kind == "jobs":
                jobs[line] += 1
            else:
                key = (by, "inbox")
                assert n > last.get(key, 0), f"out of order, or twice: {line}"
                last[key] = n
    assert [line for line, times in jobs.items() if times > 1] == []


def _check_jobs(journals: dict[Worker[int], list[str]], killed: list[Worker[int]]) -> None:
    """No job is lost but those that the killed had just taken: each had one receiver."""
    lines = [line for journal in journals.values() for line in journal]
    sent = {line[5:] for line in lines if line.startswith("sent jobs")}
    received = {line[4:] for line in lines if line.startswith("got jobs")}
    assert len(sent - received) <= len(killed)
