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
import random
import selectors
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

import pytest

from channel_layer import ChannelFull, ChannelLayer
from channel_layer import commands as c
from channel_layer.mailbox import Mailbox, Waiter
from channel_layer.names import ChannelName
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
    "Steps",
    "accounts",
    "at_promise",
    "bursts",
    "drain",
    "eventually",
    "hold_reads",
    "number",
    "receive_many",
    "receive_or_none",
    "run_stepping",
    "send_patiently",
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


async def receive_or_none(layer: ChannelLayer, channel: str, seconds: float = 0.05) -> Mapping[str, object] | None:
    """Receive what is there; None if nothing comes for a while. Cancelling must lose nothing, so this does not."""
    try:
        async with asyncio.timeout(seconds):
            return await layer.receive(channel)
    except TimeoutError:
        return None


async def drain(layer: ChannelLayer, channel: str, seconds: float = 0.1) -> list[int]:
    """Receive numbered messages until none comes for a while; return their numbers."""
    numbers: list[int] = []
    while (message := await receive_or_none(layer, channel, seconds)) is not None:
        numbers.append(number(message))
    return numbers


def number(message: Mapping[str, object]) -> int:
    """The number of a numbered message, ``{"n": number}``."""
    value = message["n"]
    if not isinstance(value, int):
        raise TypeError(f"not a numbered message: {message!r}")
    return value


async def send_patiently(layer: ChannelLayer, channel: str, message: Mapping[str, object]) -> int:
    """Send; where the channel is full, try again. Returns how often it was."""
    tries = 0
    while True:
        try:
            await layer.send(channel, message)
        except ChannelFull:
            tries += 1
            await asyncio.sleep(0.001 * random.uniform(0.5, 2))
        else:
            return tries


async def accounts(layers: Iterable[ChannelLayer], channels: Iterable[str]) -> Counter[str]:
    """Add up what several layers have counted, and what waits in the store for some channels.

    Args:
        layers: all there are; the last one is open, and asked about the store.
        channels: all that were sent to.

    Returns:
        ``entered``: what was accepted; ``gone``: what was delivered or dropped; ``here``: what waits in the processes
        and in the store. Also ``delivered``, ``refused``, and what was dropped by its reason.
    """
    total = Counter[str]()
    layers = list(layers)
    for layer in layers:
        found = await layer.statistics()
        total["entered"] += found.sent + found.expanded
        total["delivered"] += found.delivered
        total["refused"] += found.refused
        total["gone"] += found.delivered + sum(found.dropped.values())
        total["here"] += found.waiting
        for reason, count in found.dropped.items():
            total[reason] += count
    for channel in channels:
        pending = (await layers[-1].statistics(channel)).pending
        total["here"] += pending or 0
    return total


# --- the steps of an event loop -----------------------------------------------------------------------------


class Steps(selectors.DefaultSelector):
    """A selector that acts at a chosen step: an event loop asks its selector exactly once in every iteration.

    So every point at which a coroutine can be suspended is one of the steps, in the order in which they come, and
    nothing depends on how long anything takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self._at = -1
        self._late = False
        self._action: Callable[[], object] = int

    def arm(self, step: int, action: Callable[[], object], *, late: bool = False) -> None:
        """Act in the iteration after *step* further ones.

        Args:
            step: iterations to let pass.
            action: called in the loop's thread.
            late: let the loop first see which sockets are ready, so that the action competes with their data.
        """
        self.taken, self._at, self._late, self._action = 0, step, late, action

    def disarm(self) -> None:
        """Do not act."""
        self._at = -1

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Ask which sockets are ready; called by the event loop."""
        acts = self.taken == self._at
        self.taken += 1
        if not acts:
            return super().select(timeout)
        self._at = -1
        if self._late:
            ready = super().select(timeout)
            self._action()
            return ready
        self._action()
        return super().select(0)


def run_stepping(body: Callable[[Steps], Coroutine[object, object, R]]) -> R:
    """Run an async test body in an event loop whose steps it can act at."""
    steps = Steps()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(steps)) as runner:
        return runner.run(body(steps))


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


async def waits(layer: ChannelLayer, channel: str, receivers: int = 1) -> None:
    """Wait until so many receive() calls of a layer wait for a channel."""
    desk, queue = layer._desk, ChannelName.parse(channel).queue

    async def there() -> bool:
        with desk.lock:
            source = desk.inboxes.get(queue.name) or desk.taps.get(queue.name)
            box = None if source is None else source.boxes.get(channel)
            return box is not None and len(box.waiters) == receivers

    await eventually(there, f"{receivers} receive() calls wait for {channel}")


# --- an owner that does not read ----------------------------------------------------------------------------


class Reads:
    """Holds back the reading of minted inboxes, so that what is sent stays in the store."""

    def __init__(self) -> None:
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        """Let no read begin. One that is under way still brings what comes first: hold before a channel is made."""
        self._gate.clear()

    def let_go(self) -> None:
        """Let all reads through."""
        self._gate.set()

    async def passed(self) -> None:
        """Wait at the gate."""
        await self._gate.wait()


def hold_reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Put a gate before every read of a minted inbox that runs in the loop of this test."""
    reads = Reads()
    in_memory, in_redis = MemoryStore.read, RedisStore.read

    async def read_memory(self: MemoryStore, request: c.Read, /) -> c.Batch:
        await reads.passed()
        return await in_memory(self, request)

    async def read_redis(self: RedisStore, request: c.Read, /) -> c.Batch:
        await reads.passed()
        return await in_redis(self, request)

    monkeypatch.setattr(MemoryStore, "read", read_memory)
    monkeypatch.setattr(RedisStore, "read", read_redis)
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


class Bursts(Protocol):
    """Senders in four processes, or in four threads where the store belongs to one process."""

    async def burst(self, channel: str) -> int:
        """Let all of them send one message to *channel*, at once; return how many were accepted."""
        ...


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


class _Processes:
    def __init__(self, workers: list[Worker[None]]) -> None:
        self._workers = workers

    async def burst(self, channel: str) -> int:
        return await asyncio.to_thread(self._burst, channel)

    def _burst(self, channel: str) -> int:
        for worker in self._workers:
            worker.wait_ready()
        for worker in self._workers:
            worker.go(channel)
        return sum(int(worker.wait_ready()) for worker in self._workers)


class _Threads:
    def __init__(self, system: System, crowd: int, senders: int, capacity: int) -> None:
        self._layers = [system.layer(capacity=capacity) for _ in range(crowd)]
        self._senders = senders
        self._barrier = threading.Barrier(crowd)
        self._pool = ThreadPoolExecutor(crowd)

    async def burst(self, channel: str) -> int:
        loop = asyncio.get_running_loop()
        runs = [loop.run_in_executor(self._pool, self._send, layer, channel) for layer in self._layers]
        return sum(await asyncio.gather(*runs))

    def _send(self, layer: ChannelLayer, channel: str) -> int:
        self._barrier.wait(BOUND)
        return asyncio.run(_burst(layer, channel, self._senders))

    async def aclose(self) -> None:
        for layer in self._layers:
            await layer.aclose()
        self._pool.shutdown()


@contextlib.asynccontextmanager
async def bursts(system: System, *, crowd: int = 4, senders: int = 50, capacity: int = 100) -> AsyncGenerator[Bursts]:
    """Start *crowd* processes (threads over memory) with *senders* concurrent senders each."""
    if system.deployment is None:
        threads = _Threads(system, crowd, senders, capacity)
        try:
            yield threads
        finally:
            await threads.aclose()
        return
    with Fleet() as fleet:
        job = _Crowd(site(system, capacity=capacity), senders)
        workers = [fleet.spawn(_send_in_bursts, job) for _ in range(crowd)]
        yield _Processes(workers)
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
