"""The local-and-remote store, this machine's store and a shared one as one, passes the whole extension kit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings

from channel_layer import ChannelFull, ChannelLayer, Message
from channel_layer import commands as c
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Clock
from channel_layer.stores.local_and_remote import LocalAndRemote
from channel_layer.testing import (
    MakeLayer,
    MakeStore,
    VirtualClock,
    layers_over,
    make_rules,
    run_layer_conformance_test,
)
from channel_layer.testing.store_conformance import run_async_conformance_test
from channel_layer.testing.suites import LayerSuite, StoreSuite
from channel_layer_ipc import _keys as k
from channel_layer_memory._store import MemoryBackend, MemoryStore
from tests.support.scenarios_groups import eventually, is_true
from tests.support.servers import Deployment, ServerPool
from tests.support.stores import IPCWorlds, blind_stores, halves, memory_stores, redis_stores, sealed_layers

R = TypeVar("R")

pytestmark = pytest.mark.usefixtures("tidied")

_on_servers = pytest.mark.parametrize("deployment", ["one-host", "three-databases"], indirect=True)
"""Tests of several servers, which run on the remote store alone."""

_on_three = pytest.mark.parametrize("deployment", ["three-databases"], indirect=True)


@pytest.fixture
def worlds(tmp_path: Path) -> Generator[IPCWorlds]:
    """A directory of this test's own, with the local stores in it."""
    found = IPCWorlds(tmp_path / "worlds")
    yield found
    found.close()


@pytest.fixture
def both(worlds: IPCWorlds, deployment: Deployment, server_pool: ServerPool) -> Generator[MakeStore]:
    """A factory of stores over IPC and Redis; their prefixes are removed from the servers afterwards."""
    make = halves(worlds, redis_stores(deployment))
    prefixes: set[str] = set()

    def make_store(rules: Rules, clock: Clock) -> Backend:
        prefixes.add(rules.prefix)
        return make(rules, clock)

    yield make_store
    for prefix in prefixes:
        server_pool.remove(prefix)


def test_two_memory_stores_as_one_are_correct() -> None:
    """A local-and-remote store over two correct memory stores is correct."""
    run_async_conformance_test(halves(memory_stores(), memory_stores()))


def test_layers_over_two_memory_stores_meet_the_specification() -> None:
    """Layers over it meet the specification, though messages move between the stores as readers come and go."""
    run_layer_conformance_test(layers_over(halves(memory_stores(), memory_stores())))


@_on_servers
def test_ipc_and_redis_as_one_are_correct(both: MakeStore) -> None:
    """A local-and-remote store over IPC and Redis is correct."""
    few = settings(max_examples=max(30, settings().max_examples // 3), deadline=None)
    run_async_conformance_test(both, settings=few)


def test_tokens_for_names_are_names_to_both() -> None:
    """Both stores meet the contract when they get tokens instead of names."""
    run_async_conformance_test(blind_stores(halves(memory_stores(), memory_stores())))


@_on_servers
def test_layers_over_ipc_and_redis_meet_the_specification(both: MakeStore) -> None:
    """Layers over IPC and Redis meet the specification, on one host and on three."""
    few = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(layers_over(both), settings=few)


@_on_servers
def test_sealed_layers_over_ipc_and_redis_meet_the_specification(both: MakeStore) -> None:
    """Layers over IPC and Redis that seal messages and blind names meet the specification."""
    few = settings(max_examples=max(20, settings().max_examples // 5), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(sealed_layers(both), settings=few)


class _Meeting(MemoryStore):
    """A store at which another reader begins to wait whenever a pop has returned messages."""

    arrive: Callable[[], None] | None = None

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command; after a pop, let another reader begin to wait before the first one gets the reply."""
        reply = await super().execute(command)
        if isinstance(reply, c.Popped) and reply.entries and self.arrive is not None:
            self.arrive()
            for _ in range(20):
                await asyncio.sleep(0)
        return reply


class _Meetings(MemoryBackend):
    def open(self) -> MemoryStore:
        """Make one."""
        return _Meeting(self)


async def test_a_reader_that_arrives_meanwhile_does_not_register(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the remote store may hold more, no reader is registered here, although another one arrives just then.

    Otherwise senders would fill the local store too, and the channel would hold more than its capacity.
    """
    clock, rules = VirtualClock(), make_rules(capacity=4)
    here = MemoryBackend(rules, clock)

    async with ChannelLayer(rules, LocalAndRemote(here, _Meetings(rules, clock)), clock=clock) as layer:
        for n in range(4):
            await layer.send("jobs", {"n": n})
        tasks: list[asyncio.Task[Message]] = []
        both = asyncio.Event()

        def arrive() -> None:
            if len(tasks) < 2:
                tasks.append(asyncio.create_task(layer.receive("jobs")))
            if len(tasks) == 2:
                both.set()

        monkeypatch.setattr(_Meeting, "arrive", staticmethod(arrive))
        arrive()
        await both.wait()
        assert [(await task)["n"] for task in tasks] == [0, 1]
        assert here.registered == {}
        for n in (4, 5):
            await layer.send("jobs", {"n": n})
        with pytest.raises(ChannelFull):
            await layer.send("jobs", {"n": 6})


class _Held(MemoryStore):
    """A store whose first flush does not begin before its caller has gone."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command; before the first flush, wait until the caller has gone."""
        await _Holding.hold(command)
        return await super().execute(command)


class _Holding(MemoryBackend):
    flushing = asyncio.Event()

    @classmethod
    async def hold(cls, command: object) -> None:
        """Let the first flush wait for ever."""
        if isinstance(command, c.Flush) and not cls.flushing.is_set():
            cls.flushing.set()
            await asyncio.Event().wait()

    def open(self) -> MemoryStore:
        """Make one."""
        return _Held(self)


async def test_a_flush_reaches_another_machine_though_its_work_moves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner does not acknowledge a flush before its machine's local store has been flushed."""
    clock, rules = VirtualClock(), make_rules()
    remote = MemoryBackend(rules, clock)
    local = _Holding(rules, clock)
    here, there = LocalAndRemote(MemoryBackend(rules, clock), remote), LocalAndRemote(local, remote)

    monkeypatch.setattr(_Holding, "flushing", asyncio.Event())
    async with ChannelLayer(rules, here, clock=clock) as layer, ChannelLayer(rules, there, clock=clock) as owner:
        await owner.new_channel()
        waiting = asyncio.create_task(owner.receive("jobs"))
        await eventually(lambda: is_true("jobs" in local.registered))
        for number in range(2):  # to the local store
            await owner.send("jobs", {"n": number})
        assert await waiting == {"n": 0}
        assert (await owner.statistics("jobs")).messages_pending == 1
        flush = asyncio.create_task(layer.flush())
        async with asyncio.timeout(10):
            await _Holding.flushing.wait()
        await owner.close_pools()
        another = asyncio.create_task(owner.receive("another"))  # with it the background work begins again
        async with asyncio.timeout(10):
            await flush
        another.cancel()
        assert (await owner.statistics("jobs")).messages_pending == 0


@_on_three
class TestStore(StoreSuite):
    """The store: wake-ups, cancellation at every step, threads, what is left."""

    counts_remains = True

    @pytest.fixture
    def make_store(self, worlds: IPCWorlds, both: MakeStore, deployment: Deployment) -> MakeStore:
        """Stores in a directory of this test's own, and on each deployment in turn."""
        self.worlds, self.deployment = worlds, deployment
        return both

    def remains(self, prefix: str) -> int:
        """Count the local records, without the counter of versions, which always exists, and the remote keys."""
        here = sum(not key.startswith(k.VERSION) for key in self.worlds.sweep(prefix))
        return here + len(self.deployment.keys(prefix))


@_on_three
class TestLayer(LayerSuite):
    """The layer, with a store for each event loop and through the I/O thread."""

    @pytest.fixture
    def make_layer(self, both: MakeStore, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> MakeLayer:
        """Layers over both stores: through the I/O thread with one host, and not with three."""
        young = len(deployment.hosts) == 1
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if young else 0.0)
        return layers_over(both)
