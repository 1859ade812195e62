"""Two stores as one, this machine's and one that all machines see, through the whole extension kit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

from channel_layer import ChannelFull, ChannelLayer, Message
from channel_layer import commands as c
from channel_layer.config import Rules
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
from channel_layer.testing.store_machine import run_async_conformance_test
from channel_layer.testing.suites import LayerSuite, StoreSuite
from channel_layer_ipc import _keys as k
from channel_layer_memory._store import MemoryBackend, MemoryStore
from tests.support.scenarios_groups import eventually, is_true
from tests.support.servers import Deployment, ServerPool
from tests.support.stores import IPCWorlds, blind_stores, halves, memory_stores, redis_stores, sealed_layers

pytestmark = pytest.mark.usefixtures("tidied")

_on_servers = pytest.mark.parametrize("deployment", ["one-host", "three-databases"], indirect=True)
"""What is special about several servers is judged where there is no other half."""

_on_three = pytest.mark.parametrize("deployment", ["three-databases"], indirect=True)


@pytest.fixture
def worlds(tmp_path: Path) -> Generator[IPCWorlds]:
    """A directory of this test's own, and the local halves in it."""
    found = IPCWorlds(tmp_path / "worlds")
    yield found
    found.close()


@pytest.fixture
def both(worlds: IPCWorlds, deployment: Deployment, server_pool: ServerPool) -> Generator[MakeStore]:
    """A factory of stores of an IPC half and a Redis half; its prefixes are removed from the servers afterwards."""
    make = halves(worlds, redis_stores(deployment))
    prefixes: set[str] = set()

    def make_store(rules: Rules, clock: Clock) -> Backend:
        prefixes.add(rules.prefix)
        return make(rules, clock)

    yield make_store
    for prefix in prefixes:
        server_pool.remove(prefix)


def test_two_memory_stores_as_one_are_right() -> None:
    """Two right stores make a right one."""
    run_async_conformance_test(halves(memory_stores(), memory_stores()))


def test_layers_over_two_memory_stores_keep_every_promise() -> None:
    """Layers over both do what the specification says, though messages change sides whenever readers come and go."""
    run_layer_conformance_test(layers_over(halves(memory_stores(), memory_stores())))


@_on_servers
def test_ipc_and_redis_as_one_are_right(both: MakeStore) -> None:
    """The IPC store and the Redis store make a right one."""
    few = settings(max_examples=max(30, settings().max_examples // 3), deadline=None)
    run_async_conformance_test(both, settings=few)


def test_tokens_for_names_are_names_to_both() -> None:
    """Both halves keep the contract when they get to see tokens for names."""
    run_async_conformance_test(blind_stores(halves(memory_stores(), memory_stores())))


@_on_servers
def test_layers_over_ipc_and_redis_keep_every_promise(both: MakeStore) -> None:
    """So do layers over these two, on one host and on three."""
    few = settings(max_examples=max(30, settings().max_examples // 3), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(layers_over(both), settings=few)


@_on_servers
def test_sealed_layers_over_ipc_and_redis_keep_every_promise(both: MakeStore) -> None:
    """So do layers that seal what they send and hide what it is called."""
    few = settings(max_examples=max(20, settings().max_examples // 5), stateful_step_count=30, deadline=None)
    run_layer_conformance_test(sealed_layers(both), settings=few)


class _Meeting(MemoryStore):
    """A store at which, whenever it has given something, somebody else arrives."""

    arrive: Callable[[], None] | None = None

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop, and let somebody else begin to wait before the first one hears of it."""
        popped = await super().pop(request)
        if popped.entries and self.arrive is not None:
            self.arrive()
            for _ in range(20):
                await asyncio.sleep(0)
        return popped


class _Meetings(MemoryBackend):
    def open(self) -> MemoryStore:
        """Make one."""
        return _Meeting(self)


def test_who_arrives_meanwhile_does_not_change_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the other half may hold more, nobody attends here, although another reader comes just then.

    Else senders would fill this half, too, and the channel would hold more than its capacity.
    """
    clock, rules = VirtualClock(), make_rules(capacity=4)
    here = MemoryBackend(rules, clock)

    async def body() -> None:
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
            assert here.attending == {}
            for n in (4, 5):
                await layer.send("jobs", {"n": n})
            with pytest.raises(ChannelFull):
                await layer.send("jobs", {"n": 6})

    asyncio.run(body())


class _Held(MemoryStore):
    """A store whose first flush does not begin until the one who asked for it has gone."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush, but not the first time."""
        if not _Holding.flushing.is_set():
            _Holding.flushing.set()
            await asyncio.Event().wait()
        return await super().flush(request)


class _Holding(MemoryBackend):
    flushing = asyncio.Event()

    def open(self) -> MemoryStore:
        """Make one."""
        return _Held(self)


def test_a_flush_reaches_another_machine_though_its_work_moves_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner does not say that it has applied a flush before that has been on its machine's half."""
    clock, rules = VirtualClock(), make_rules()
    remote = MemoryBackend(rules, clock)
    local = _Holding(rules, clock)
    here, there = LocalAndRemote(MemoryBackend(rules, clock), remote), LocalAndRemote(local, remote)

    async def body() -> None:
        monkeypatch.setattr(_Holding, "flushing", asyncio.Event())
        async with ChannelLayer(rules, here, clock=clock) as layer, ChannelLayer(rules, there, clock=clock) as owner:
            await owner.new_channel()
            waiting = asyncio.create_task(owner.receive("jobs"))
            await eventually(lambda: is_true("jobs" in local.attending))
            for number in range(2):  # to this machine's half
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

    asyncio.run(body())


@_on_three
class TestStore(StoreSuite):
    """The store of two: wake-ups, cancellation at every step, threads, what is left."""

    counts_remains = True

    @pytest.fixture
    def make_store(self, worlds: IPCWorlds, both: MakeStore, deployment: Deployment) -> MakeStore:
        """Stores in a directory of this test's own, and on each deployment in turn."""
        self.worlds, self.deployment = worlds, deployment
        return both

    def remains(self, prefix: str) -> int:
        """Count the records here, but for the counter of versions, which is one for ever, and the keys there."""
        here = sum(not key.startswith(k.VERSION) for key in self.worlds.sweep(prefix))
        return here + len(self.deployment.keys(prefix))


@_on_three
class TestLayer(LayerSuite):
    """The layer; event loops get stores of their own at once, or go through the I/O thread."""

    @pytest.fixture
    def make_layer(self, both: MakeStore, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> MakeLayer:
        """Layers over both halves: with one host through the I/O thread, with three not."""
        young = len(deployment.hosts) == 1
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if young else 0.0)
        return layers_over(both)
