"""What the proofs of delivery share: steps of an event loop to act at, bursts of senders, jobs for processes.

A race is forced by naming the step at which it happens; a crowd of senders goes through one barrier; a killed worker
leaves a journal. None of the tests that use this waits for luck.
"""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import pytest

from channel_layer import ChannelFull, ChannelLayer
from channel_layer import commands as c
from channel_layer.domain.mailbox import Mailbox, Waiter
from channel_layer.domain.names import ChannelName
from channel_layer.testing.suites.tools import drain, number
from channel_layer_memory._store import MemoryStore
from channel_layer_redis import RedisChannelLayer
from channel_layer_redis._store import RedisStore
from tests.support.processes import AsyncChild, Fleet, Worker
from tests.support.systems import System

__all__ = (
    "BOUND",
    "Bursts",
    "Flow",
    "Owned",
    "Reads",
    "Site",
    "at_promise",
    "bursts",
    "cancel",
    "eventually",
    "hold_reads",
    "receive_many",
    "site",
    "waits",
    "work",
)

R = TypeVar("R")

BOUND: Final = 20.0
"""Seconds for what should take milliseconds: only a failure ever waits so long."""


# --- waiting and counting -----------------------------------------------------------------------------------


async def eventually(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = BOUND) -> None:
    """Wait for something that must come about by itself.

    Args:
        holds: asked again and again.
        what: for the error.
        seconds: to wait at most; few where a failure is repeated many times over.

    Raises:
        AssertionError: it did not.
    """
    deadline = time.monotonic() + seconds
    while not await holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.005)


# --- the moment of a promise --------------------------------------------------------------------------------


def at_promise(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do *action* whenever a message is promised to a receiver that waits, before that receiver hears of it.

    The action runs in the thread of the background work, under the layer's lock.
    """
    original = Mailbox.promise

    def promise(self: Mailbox) -> Iterator[Waiter]:
        for waiter in original(self):
            action()
            yield waiter

    monkeypatch.setattr(Mailbox, "promise", promise)


def cancel(task: asyncio.Task[object], hops: int = 0) -> None:
    """Cancel a task so many steps of its loop from now, or one if that is not the loop that runs here."""
    try:
        here = asyncio.get_running_loop() is task.get_loop()
    except RuntimeError:  # a thread without one
        here = False
    if hops or not here:
        task.get_loop().call_soon_threadsafe(cancel, task, max(0, hops - 1))
    else:
        task.cancel()


async def waits(layer: ChannelLayer, channel: str, receivers: int = 1) -> None:
    """Wait until so many receive() calls of a layer wait for a channel."""
    state, queue = layer._state, ChannelName.parse(channel).queue

    async def there() -> bool:
        with state.lock:
            source = state.inboxes.get(queue.name) or state.buffers.get(queue.name)
            box = None if source is None else source.boxes.get(channel)
            return box is not None and len(box.waiters) == receivers

    await eventually(there, f"{receivers} receive() calls wait for {channel}")


# --- an owner that does not read ----------------------------------------------------------------------------


class Reads:
    """Holds back the reading of owned inboxes, so that what is sent stays in the store."""

    def __init__(self) -> None:
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        """Let no read begin. One that is under way still brings what comes first: hold before a channel is made."""
        self._gate.clear()

    def let_go(self) -> None:
        """Let all reads through."""
        self._gate.set()

    async def passed(self, command: object) -> None:
        """Wait at the gate if a command is a read."""
        if isinstance(command, c.Read):
            await self._gate.wait()


def hold_reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Put a gate before every read of a owned inbox that runs in the loop of this test."""
    reads = Reads()
    in_memory, in_redis = MemoryStore.execute, RedisStore.execute

    async def execute_in_memory(self: MemoryStore, command: c.Command[R], /) -> R:
        await reads.passed(command)
        return await in_memory(self, command)

    async def execute_in_redis(self: RedisStore, command: c.Command[R], /) -> R:
        await reads.passed(command)
        return await in_redis(self, command)

    monkeypatch.setattr(MemoryStore, "execute", execute_in_memory)
    monkeypatch.setattr(RedisStore, "execute", execute_in_redis)
    return reads


# --- in worker processes ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Site:
    """What a worker process needs to make its layer.

    Attributes:
        urls: the hosts.
        prefix: of all keys.
        capacity: of every channel.
        expiry: in seconds.
        group_expiry: in seconds.
    """

    urls: tuple[str, ...]
    prefix: str
    capacity: int = 100
    expiry: float = 60
    group_expiry: float | None = 86400

    def layer(self) -> RedisChannelLayer:
        """Make the layer."""
        return RedisChannelLayer(
            hosts=self.urls,
            prefix=self.prefix,
            capacity=self.capacity,
            expiry=self.expiry,
            group_expiry=self.group_expiry,
        )


def site(system: System, *, capacity: int = 100, expiry: float = 60, group_expiry: float | None = 86400) -> Site:
    """Where the layers of a system are, for another process.

    Raises:
        ValueError: memory is in no other process.
    """
    if system.deployment is None:
        raise ValueError("memory cannot be reached from another process")
    return Site(tuple(system.deployment.urls), system.prefix, capacity, expiry, group_expiry)


# --- bursts of senders --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Crowd:
    site: Site
    senders: int


async def _send_in_bursts(child: AsyncChild, crowd: _Crowd) -> None:
    async with crowd.site.layer() as layer:
        accepted = 0
        while channel := await child.ready(str(accepted)):
            accepted = await _burst(layer, channel, crowd.senders)


async def _burst(layer: ChannelLayer, channel: str, senders: int) -> int:
    sends = [layer.send(channel, {"n": place}) for place in range(senders)]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, ChannelFull):
            raise outcome
    return outcomes.count(None)


class Bursts:
    """Senders in several processes.

    Args:
        workers: the processes.
    """

    def __init__(self, workers: list[Worker[None]]) -> None:
        self._workers = workers

    async def burst(self, channel: str) -> int:
        """Let all of them send one message to *channel*, at once; return how many were accepted."""
        return await asyncio.to_thread(self._burst, channel)

    def _burst(self, channel: str) -> int:
        for worker in self._workers:
            worker.wait_ready()
        for worker in self._workers:
            worker.go(channel)
        return sum(int(worker.wait_ready()) for worker in self._workers)


@contextlib.asynccontextmanager
async def bursts(system: System, *, crowd: int = 4, senders: int = 50, capacity: int = 100) -> AsyncGenerator[Bursts]:
    """Start *crowd* processes with *senders* concurrent senders each."""
    with Fleet() as fleet:
        job = _Crowd(site(system, capacity=capacity), senders)
        workers = [fleet.spawn(_send_in_bursts, job) for _ in range(crowd)]
        yield Bursts(workers)
        await asyncio.to_thread(fleet.go, "")
        for worker in workers:
            await asyncio.to_thread(worker.result)


# --- jobs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """A stream of numbered messages on one channel.

    Attributes:
        site: where.
        channel: which.
        receivers: concurrent ``receive()`` calls of one process.
    """

    site: Site
    channel: str
    receivers: int = 1


async def work(child: AsyncChild, flow: Flow) -> int:
    """Receive with several receivers, writing every number down, until told to stop; return how many came."""
    count = itertools.count(1)

    async def receive_all() -> None:
        while True:
            message = await layer.receive(flow.channel)
            child.record(str(number(message)))
            child.progress(next(count))

    async with flow.site.layer() as layer:
        await child.ready()
        receivers = [asyncio.create_task(receive_all()) for _ in range(flow.receivers)]
        await child.ready()
        for receiver in receivers:
            receiver.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)
        return next(count) - 1


@dataclass(frozen=True, slots=True)
class Owned:
    """Channels that one process makes and receives from.

    Attributes:
        site: where.
        prefixes: of the channels' names; each is another inbox.
        each: channels of each.
    """

    site: Site
    prefixes: tuple[str, ...]
    each: int


async def receive_many(child: AsyncChild, owned: Owned) -> dict[str, list[int]]:
    """Make channels, say their names, and receive as many messages as then told; return what came, by channel."""
    received: dict[str, list[int]] = {}
    done = asyncio.Event()

    async def receive_all(channel: str) -> None:
        while True:
            received[channel].append(number(await layer.receive(channel)))
            child.progress(sum(map(len, received.values())))
            if sum(map(len, received.values())) >= expected:
                done.set()

    async with owned.site.layer() as layer:
        for prefix in owned.prefixes:
            for _ in range(owned.each):
                received[await layer.new_channel(prefix)] = []
        expected = int(await child.ready(json.dumps(list(received))))
        receivers = [asyncio.create_task(receive_all(channel)) for channel in received]
        with contextlib.suppress(TimeoutError):  # the test will say what is missing
            async with asyncio.timeout(BOUND):
                await done.wait()
        for receiver in receivers:
            receiver.cancel()
        await asyncio.gather(*receivers, return_exceptions=True)
        for channel in received:  # and nothing came twice
            received[channel] += await drain(layer, channel, 0.001)
    return received
