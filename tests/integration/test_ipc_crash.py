"""A busy group of processes over the IPC layer, some of which are killed at random moments.

A few seconds by default. ``CHANNEL_LAYER_CRASH_SECONDS`` says how many, for a longer run at night, and
``CHANNEL_LAYER_CRASH_SEED`` which one is killed when.
"""

# pyright: reportPrivateUsage=false
# Whether files are gone is a private attribute.

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest

from channel_layer import ChannelLayer
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_ipc import IPCChannelLayer
from channel_layer_ipc import _keys as k
from tests.support.processes import AsyncChild, Fleet, Worker
from tests.support.stores import IPCWorlds

SECONDS: Final = float(os.environ.get("CHANNEL_LAYER_CRASH_SECONDS", "4"))
SEED: Final = int(os.environ.get("CHANNEL_LAYER_CRASH_SEED", "1"))
PROCESSES: Final = 8
AT_ONCE: Final = 3
"""Processes that are killed together at most."""

ROOM: Final = 1_000_000
MEMORY: Final = 256 << 20
"""Bytes; group messages stay in the inboxes of killed processes until their leases end."""

LONGEST: Final = 2 * 86400.0
"""Seconds: no record of a layer with the default options lives so long unless it is renewed."""


@dataclass(frozen=True, slots=True)
class Busy:
    """Arguments of a process of the group.

    Attributes:
        directory: of the layer.
        name: of the process.
        stop: a file that is there when the processes are to stop sending.
    """

    directory: str
    name: str
    stop: str


@dataclass(frozen=True, slots=True)
class Sent:
    """What a process has recorded once a send had returned.

    Attributes:
        kind: "jobs", "group" or "direct".
        by: the name of the process.
        number: of the message, among all that this process has sent.
        to: the channel, of a direct one; else "-".
        began: when the send began, in nanoseconds of the machine's clock.
    """

    kind: str
    by: str
    number: int
    to: str
    began: int

    @property
    def text(self) -> str:
        """What it says to its receiver."""
        return f"{self.kind} {self.by} {self.number}"

    @property
    def line(self) -> str:
        """The record as a line of a journal."""
        return f"sent {self.text} {self.to} {self.began}"

    @classmethod
    def parse(cls, line: str) -> Self:
        """Read such a line."""
        _, kind, by, number, to, began = line.split()
        return cls(kind, by, int(number), to, int(began))


def make_layer(directory: str) -> IPCChannelLayer:
    """Make the layer of every process, with room for everything."""
    return IPCChannelLayer(directory=directory, capacity=ROOM, inbox_capacity=ROOM, memory=MEMORY)


def ballast(number: int) -> bytes:
    """Return bytes of many sizes, some of more than a page, that tell whether they are the right ones."""
    return bytes([number % 251]) * (number * 37 % (200 if number % 50 else 6000))


async def be_busy(child: AsyncChild, params: Busy) -> int:
    """Send to a shared queue, to the group and to its members; record all that is sent and received."""
    layer = make_layer(params.directory)
    mine = await layer.new_channel()
    await layer.group_add("room", mine)
    child.record(f"joined {mine} {time.monotonic_ns()}")
    await child.ready(mine)
    seen = 0

    async def take(channel: str) -> None:
        nonlocal seen
        while (message := await layer.receive(channel))["text"] != "end":
            text = message["text"]
            assert isinstance(text, str)
            child.record(f"got {text}")
            assert message["ballast"] == ballast(int(text.split()[2]))
            seen += 1
            child.progress(seen)

    takers = [asyncio.create_task(take(channel)) for channel in ("jobs", mine)]
    sent = await _send_until(layer, child, params)
    await child.ready()  # no process sends any more: all messages are before those that follow now
    for channel in ("jobs", mine):
        await layer.send(channel, {"text": "end"})
    await asyncio.gather(*takers)
    await child.ready()
    await layer.aclose()
    return sent


async def _send_until(layer: ChannelLayer, child: AsyncChild, params: Busy) -> int:
    n = 0
    while not os.path.exists(params.stop):  # noqa: ASYNC240, PTH110 - what is waited for is a file
        for kind in ("jobs", "group", "direct"):
            n += 1
            message = {"text": f"{kind} {params.name} {n}", "ballast": ballast(n)}
            to, began = "-", time.monotonic_ns()
            if kind == "jobs":
                await layer.send("jobs", message)
            elif kind == "group":
                await layer.group_send("room", message)
            else:
                peers = await layer.group_channels("room")
                to = peers[n % len(peers)]
                await layer.send(to, message)
            child.record(Sent(kind, params.name, n, to, began).line)
        await asyncio.sleep(0.002)
    return n


class Group:
    """The processes, including those that were killed.

    Args:
        fleet: starts them.
        folder: for their files.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.directory = folder / "ipc"
        self._stop = folder / "stop"
        self._fleet = fleet
        self._count = 0
        self._choose = random.Random(SEED)
        self.alive: list[Worker[int]] = []
        self.killed: list[Worker[int]] = []

    def fill(self) -> None:
        """Start as many processes as are missing."""
        new: list[Worker[int]] = []
        while len(self.alive) + len(new) < PROCESSES:
            self._count += 1
            new.append(self._fleet.spawn(be_busy, Busy(str(self.directory), f"p{self._count}", str(self._stop))))
        for worker in new:
            worker.go()
            self.alive.append(worker)

    def kill_some(self) -> None:
        """Kill a few processes after a random pause."""
        for _ in range(self._choose.randint(1, AT_ONCE)):
            victim = self.alive.pop(self._choose.randrange(len(self.alive)))
            victim.wait_progress(victim.progress + self._choose.randrange(1, 200))
            victim.kill9()
            self.killed.append(victim)

    def get_on(self) -> None:
        """Wait until each process that is alive has received something more."""
        for worker in self.alive:
            worker.wait_progress(worker.progress + 5)

    def stop(self) -> None:
        """Have all processes stop sending."""
        self._stop.touch()
        for worker in self.alive:
            worker.wait_ready()

    def drain(self) -> None:
        """Make every process receive what is left."""
        for worker in self.alive:
            worker.go()
        for worker in self.alive:
            worker.wait_ready()

    def close(self) -> None:
        """Make every process close its layer and end."""
        for worker in self.alive:
            worker.go()
        for worker in self.alive:
            worker.result()


@pytest.mark.timeout(max(120, 4 * SECONDS))
def test_a_busy_group_survives_any_kill(tmp_path: Path) -> None:
    """Whichever process is killed, the others go on, and nothing is lost, doubled, out of order, or left behind.

    Only messages that a killed process had just taken, or that were sent to it, are lost. What it leaves behind has a
    time to live. The files go with the last process.
    """
    with Fleet() as fleet:
        group = Group(fleet, tmp_path)
        group.fill()
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            group.kill_some()
            group.get_on()
            group.fill()
        group.stop()
        group.drain()
        clock = VirtualClock()
        with closing(IPCWorlds(group.directory, MEMORY)) as worlds:  # it has them open when the last process closes
            worlds(make_rules(prefix="asgi:"), clock)
            group.close()
            assert _remains(worlds)  # of killed processes
            clock.advance(LONGEST)
            assert not _remains(worlds)
        assert list(group.directory.iterdir()) == []
        journals = {worker: worker.journal() for worker in [*group.alive, *group.killed]}
    assert group.killed
    sent = [Sent.parse(line) for journal in journals.values() for line in journal if line.startswith("sent")]
    got = {worker: [line[4:] for line in journal if line.startswith("got")] for worker, journal in journals.items()}
    for texts in got.values():
        _check_order(texts)
    _check_jobs(sent, [text for texts in got.values() for text in texts], len(group.killed))
    assert sum(_check_inbox(sent, journals[worker], got[worker]) for worker in group.alive) > PROCESSES


def _remains(worlds: IPCWorlds) -> list[bytes]:
    """Return the keys of the records that sweeping leaves, without the counter of versions, which always exists."""
    before: list[bytes] | None = None
    while (now := [key for key in worlds.sweep("asgi:") if not key.startswith(k.VERSION)]) != before:
        before = now
    return now


def _check_order(texts: list[str]) -> None:
    """Check that a process received the group and direct messages of each other one in order, and none twice."""
    last: dict[str, int] = {}
    for text in texts:
        kind, by, number = text.split()
        if kind != "jobs":
            assert int(number) > last.get(by, 0), f"out of order, or twice: {text}"
            last[by] = int(number)


def _check_jobs(sent: list[Sent], got: list[str], killed: int) -> None:
    """Check that no job is received twice, and that each killed process lost at most the job it had just taken."""
    received = Counter(text for text in got if text.startswith("jobs"))
    assert [text for text, times in received.items() if times > 1] == []
    assert len({each.text for each in sent if each.kind == "jobs"} - set(received)) <= killed


def _check_inbox(sent: list[Sent], journal: list[str], got: list[str]) -> int:
    """Check that a process has received all messages to it, and to the group since it joined; return how many."""
    joined = next(line for line in journal if line.startswith("joined")).split()
    mine, since = joined[1], int(joined[2])
    meant = {each.text for each in sent if each.to == mine or (each.kind == "group" and each.began > since)}
    assert meant - set(got) == set()
    return len(meant)


async def test_after_all_were_killed_the_next_one_clears_everything(tmp_path: Path) -> None:
    """When all processes are killed during their work, files stay, and the next process to open them clears them."""
    with Fleet() as fleet:
        group = Group(fleet, tmp_path)
        group.fill()
        group.get_on()
        for worker in group.alive:
            worker.kill9()
    left = {file.name for file in group.directory.iterdir()}
    assert len(left) > 2  # the data, the lock file, and doorbells

    async with make_layer(str(group.directory)) as layer:
        assert await layer.group_channels("room") == []
        assert (await layer.statistics("jobs")).messages_pending == 0
        await layer.send("jobs", {"text": "new"})
        assert await layer.receive("jobs") == {"text": "new"}
        assert len(left & {file.name for file in group.directory.iterdir()}) == 2  # names that never change
    assert list(group.directory.iterdir()) == []


@dataclass(frozen=True, slots=True)
class Door:
    """Arguments of a process that comes and goes.

    Attributes:
        directory: of the layer.
        name: of the process.
        times: how often.
    """

    directory: str
    name: str
    times: int


async def come_and_go(child: AsyncChild, params: Door) -> list[str]:
    """Open the layer, use it and close it, repeatedly; return the errors found."""
    wrong: list[str] = []
    await child.ready()
    for n in range(params.times):
        async with make_layer(params.directory) as layer:
            await layer.send(f"own.{params.name}", {"n": n})
            process_lock = layer._ipc_backend.acquire_environment().environment.process_lock
            found = await layer.receive(f"own.{params.name}")
            if found != {"n": n}:
                wrong.append(f"{n}: received {found}")
            if not process_lock.is_current:
                wrong.append(f"{n}: its files were removed")
        child.progress(n + 1)
    return wrong


def test_opening_while_the_last_one_closes_loses_nothing(tmp_path: Path) -> None:
    """However many processes come and go, and are killed while they do, files in use are not removed."""
    choose = random.Random(SEED)
    directory = tmp_path / "ipc"
    with Fleet() as fleet:
        doors = [fleet.spawn(come_and_go, Door(str(directory), f"p{n}", 100)) for n in range(PROCESSES)]
        fleet.go()
        for victim in doors[::2]:
            victim.wait_progress(choose.randrange(1, 60))
            victim.kill9()
        for door in doors[1::2]:
            assert door.result() == []
    assert [file for file in directory.iterdir() if file.suffix != ".lock"] == []
