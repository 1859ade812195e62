"""What is left of a layer that a program drops without closing it, and of a loop that is closed without a shutdown.

`override_settings` drops a layer with each test. The garbage collector does not run here: what is given up has to be
given up when the last reference goes.
"""

# Only from inside can be seen which objects are still there.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import secrets
import threading
import warnings
import weakref
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from asgiref.sync import async_to_sync

from channel_layer import ChannelLayer, StoreError
from channel_layer.blocking import BlockingChannelLayer
from channel_layer.runtime import event_loops, loop_sessions
from channel_layer.runtime.lifetime import LayerResources
from channel_layer.runtime.wakeups import ReceiveWaiter
from channel_layer.testing import fresh_prefix
from channel_layer.testing.suites.tools import in_fork
from channel_layer_ipc import IPCChannelLayer
from channel_layer_redis import RedisChannelLayer, RedisLocalChannelLayer, _client
from tests.support.scenarios_groups import eventually, is_true
from tests.support.servers import Server, StartServer
from tests.support.systems import System

PATIENCE = 30.0

_SOON = 10.0
"""Seconds: less than a wait in a store lasts, after which another look would find what was swallowed."""

OUTSIDE = ("ipc", "redis", "local-and-remote", "sealed")
"""Stores that outlive their layers."""

outside = pytest.mark.parametrize("kind", OUTSIDE, indirect=True)

quietly = pytest.mark.usefixtures("nothing_else_is_said")


class Kind:
    """One kind of store, and any number of layers over it."""

    def __init__(self, name: str, server: Server | None, folder: Path) -> None:
        self.name = name
        self._server = server
        self._folder = folder
        self._prefix = fresh_prefix()
        self._key = secrets.token_urlsafe(32)
        self._memory = System(None, self._prefix)

    def layer(self) -> ChannelLayer:
        """Make another layer over the store."""
        match self.name:
            case "memory":
                return self._memory.layer()
            case "ipc":
                return IPCChannelLayer(prefix=self._prefix, directory=self._folder)
            case "local-and-remote":
                assert self._server is not None
                return RedisLocalChannelLayer(
                    hosts=[self._server.url], prefix=self._prefix, local={"directory": self._folder}
                )
            case "sealed":
                assert self._server is not None
                return RedisChannelLayer(
                    hosts=[self._server.url],
                    prefix=self._prefix,
                    symmetric_encryption_keys=[self._key],
                    blind_names=True,
                )
            case _:
                assert self._server is not None
                return RedisChannelLayer(hosts=[self._server.url], prefix=self._prefix)

    def members(self) -> list[str]:
        """The members of a group, as a layer of this moment sees them."""

        async def ask() -> list[str]:
            async with self.layer() as layer:
                return await layer.group_channels("group")

        return asyncio.run(ask())

    def opened(self) -> list[str]:
        """What layers have open: connections to the server, and files."""
        clients = [] if self._server is None else [client["addr"] for client in self._server.host().clients()]
        return [*clients, *(map(str, self._folder.iterdir()) if self._folder.exists() else ())]


@pytest.fixture
def without_collector() -> Generator[None]:
    """Let the garbage collector not run."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


@pytest.fixture(params=["memory", "ipc", "redis", "local-and-remote"])
def kind(request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path) -> Kind:
    """Every kind of store in turn."""
    server = None if request.param in {"memory", "ipc"} else start_server()
    return Kind(request.param, server, tmp_path / "files")


@pytest.fixture
def redis(start_server: StartServer, tmp_path: Path) -> Kind:
    """A server of its own."""
    return Kind("redis", start_server(), tmp_path)


async def use(layer: ChannelLayer) -> str:
    """Own something of every kind; return a channel that is a member of a group."""
    name = await layer.new_channel()
    await layer.group_add("group", name)
    await layer.send(name, {"n": 1})
    assert await layer.receive(name) == {"n": 1}
    await layer.send("normal", {"n": 2})
    assert await layer.receive("normal") == {"n": 2}
    waiting = asyncio.create_task(layer.receive("quiet"))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    layer.blocking.send("normal", {"n": 3})
    assert layer.blocking.receive(["claimed!", "normal"])[1] == {"n": 3}
    return name


# -- ways to drop a layer


Drop: TypeAlias = Callable[[Kind], None]


def with_its_loop(kind: Kind) -> None:
    """Drop the layer when the function that made it ends, and its loop with it."""

    async def body() -> None:
        await use(kind.layer())

    asyncio.run(body())


def before_its_loop(kind: Kind) -> None:
    """Drop the layer in a loop that goes on until nothing of it is left."""

    async def body() -> None:
        layer = kind.layer()
        await use(layer)
        before = weakref.ref(layer._lifetime)
        del layer
        assert before() is None
        async with kind.layer() as other:
            await eventually(lambda: _is_empty(other))

    asyncio.run(body())


async def _is_empty(layer: ChannelLayer) -> bool:
    return not await layer.group_channels("group")


def after_its_loop(kind: Kind) -> None:
    """Drop the layer when its loop has ended."""
    layer = kind.layer()
    asyncio.run(use(layer))
    del layer


def elsewhere(kind: Kind) -> None:
    """Drop the layer in one thread while its loop runs in another."""
    layer = kind.layer()
    begun, over = threading.Event(), threading.Event()

    async def body(layer: ChannelLayer) -> None:
        await use(layer)
        del layer
        begun.set()
        await asyncio.to_thread(over.wait, PATIENCE)

    def start(layers: list[ChannelLayer]) -> None:
        asyncio.run(body(layers.pop()))

    thread = threading.Thread(target=start, args=([layer],))
    thread.start()
    assert begun.wait(PATIENCE)
    del layer
    members = kind.members()
    over.set()
    thread.join(PATIENCE)
    assert members == []


@quietly
@pytest.mark.usefixtures("without_collector", "loops")
@pytest.mark.parametrize(
    ("kind", "drop"),
    [
        *((kind, drop) for kind in OUTSIDE for drop in (with_its_loop, before_its_loop, after_its_loop, elsewhere)),
        *(("memory", drop) for drop in (with_its_loop, before_its_loop)),  # without a loop it goes with the store
    ],
    indirect=["kind"],
)
def test_what_a_dropped_layer_owned_is_given_up(kind: Kind, drop: Drop) -> None:
    """Its memberships end, its lease is released and its connections are closed, in whatever way it is dropped."""
    drop(kind)
    assert kind.members() == []
    asyncio.run(eventually(lambda: _is_nothing(kind)))


async def _is_nothing(kind: Kind) -> bool:
    return not kind.opened()


@pytest.fixture
def slow_endings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no dropped layer give up anything before another one waits for that."""
    waited_for = threading.Event()
    await_endings, give_up = event_loops.await_endings, LayerResources._give_up

    async def note_task() -> None:
        waiting = asyncio.ensure_future(await_endings())
        await asyncio.sleep(0)
        if not waiting.done():
            waited_for.set()
        await waiting

    def note_thread(endings: set[Future[None]], timeout: float) -> object:
        waited_for.set()
        return wait(endings, timeout)

    async def give_up_later(resources: LayerResources) -> None:
        if resources._collected:
            await eventually(lambda: is_true(waited_for.is_set()))
            waited_for.clear()
        await give_up(resources)

    monkeypatch.setattr(event_loops, "_ENDING_SECONDS", PATIENCE)
    monkeypatch.setattr(loop_sessions, "await_endings", note_task)
    monkeypatch.setattr("channel_layer.runtime.event_loops.wait", note_thread)
    monkeypatch.setattr(LayerResources, "_give_up", give_up_later)


@quietly
@pytest.mark.usefixtures("without_collector", "slow_endings", "loops")
@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_the_next_layer_finds_nothing_of_the_one_before(redis: Kind, *, blocking: bool) -> None:
    """As tests do one after another: each sees its own member, and none of a layer that is being given up."""

    def one_test() -> int:
        layer = redis.layer()
        list_members = layer.blocking.group_channels if blocking else async_to_sync(layer.group_channels)
        found = list_members("group")
        del list_members
        async_to_sync(layer.group_add)("group", async_to_sync(layer.new_channel)())
        return len(found)

    assert [one_test() for _ in range(5)] == [0] * 5
    redis.layer().blocking.send("normal", {})  # the last one is given up, too


@outside
@quietly
@pytest.mark.usefixtures("without_collector")
def test_a_claim_of_a_dropped_layer_is_no_obstacle(kind: Kind) -> None:
    """An inbox that threads of a dropped layer have received from is free for the next one."""
    for n in range(5):
        layer = kind.layer()
        layer.blocking.send("claimed!a", {"n": n})
        assert layer.blocking.receive(["claimed!"]) == ("claimed!a", {"n": n})
        del layer
    assert kind.layer().blocking.receive(["claimed!"]) == (None, None)
    asyncio.run(eventually(lambda: _is_nothing(kind)))


@outside
@quietly
@pytest.mark.usefixtures("without_collector")
def test_the_blocking_interface_keeps_its_layer(kind: Kind) -> None:
    """A program that holds only ``layer.blocking`` has the whole layer, also in a child after a fork."""
    layer = kind.layer()
    name = asyncio.run(use(layer))
    blocking = layer.blocking
    del layer
    inbox = name[: name.index("!") + 1]
    blocking.send(name, {"n": 1})
    assert blocking.receive([inbox], block=True, block_timeout=PATIENCE) == (name, {"n": 1})
    assert kind.members() == [name]

    in_fork(partial(_use_in_child, blocking), PATIENCE, "a child may use what was made before the fork")
    del blocking
    assert kind.members() == []
    asyncio.run(eventually(lambda: _is_nothing(kind)))


def _use_in_child(blocking: BlockingChannelLayer) -> None:
    blocking.send("of.child", {"n": 2})
    assert blocking.receive(["of.child"]) == ("of.child", {"n": 2})


@quietly
@pytest.mark.usefixtures("loops")
def test_a_task_that_receives_keeps_its_layer(kind: Kind) -> None:
    """A task that waits in receive(), and one that reads a subscription, have the layer although nothing else does."""
    other = kind.layer()

    async def body() -> None:
        layer = kind.layer()
        name = await layer.new_channel()
        await layer.group_add("group", name)
        tasks = [asyncio.create_task(_read(layer)), asyncio.create_task(layer.receive(name))]
        await eventually(lambda: _has_members(other, 2))
        kept = weakref.ref(layer)
        del layer
        gc.collect()
        assert kept() is not None
        await other.group_send("group", {"n": 1})
        assert await asyncio.gather(*tasks) == [{"n": 1}, {"n": 1}]
        del tasks
        assert kept() is None
        await other.aclose()

    asyncio.run(body())


async def _read(layer: ChannelLayer) -> object:
    async with layer.subscribe("group") as messages:
        return await anext(messages)


async def _has_members(layer: ChannelLayer, count: int) -> bool:
    return len(await layer.group_channels("group")) == count


@quietly
@pytest.mark.usefixtures("loops")
def test_an_error_does_not_keep_its_layer(start_server: StartServer, prefix: str) -> None:
    """A layer is collected though its last call has failed: what is left of the try to connect does not refer to it.

    The traceback of the error does, and to itself, so this takes a run of the garbage collector.
    """
    server = start_server()
    server.kill()

    async def body() -> None:
        layer = RedisChannelLayer(hosts=[server.url], prefix=prefix, timeout=1)
        for call in (layer.send, layer.group_send):
            with pytest.raises(StoreError):
                await call("name", {})
        kept: weakref.ref[ChannelLayer] = weakref.ref(layer)
        del layer, call
        await eventually(lambda: _is_collected(kept))  # in the next turn: this one belongs to the failed call

    asyncio.run(body())


# -- loops that are closed without a shutdown


@pytest.fixture
def crashed() -> Generator[None]:
    """Collect what a loop leaves that is closed with tasks and transports open; asyncio complains of each."""
    gc.collect()
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _begin(loop: asyncio.AbstractEventLoop, layer: ChannelLayer, channel: str) -> None:
    """Let a task of a loop wait for a channel."""

    async def begin() -> None:
        kept.append(asyncio.create_task(layer.receive(channel)))
        await eventually(lambda: is_true(_waits(layer)))

    kept: list[asyncio.Task[object]] = []
    loop.run_until_complete(begin())


def _waits(layer: ChannelLayer) -> bool:
    return bool(layer._state.waits) and layer._background.work is not None


def _is_promised(layer: ChannelLayer) -> bool:
    state = layer._state
    sources = (*state.inboxes.values(), *state.buffers.values())
    return any(box.promised for source in sources for box in source.boxes.values())


@pytest.mark.usefixtures("crashed")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of asyncio, while it connects
@pytest.mark.parametrize("owned", [True, False], ids=["owned", "normal"])
@pytest.mark.parametrize("early", [True, False], ids=["sent before", "sent after"])
def test_a_closed_loop_swallows_no_message(kind: Kind, loops: str, *, owned: bool, early: bool) -> None:
    """A message goes to the task that waits, though a loop that was closed while one of its tasks waited was first.

    That holds, too, if the message came when that loop stood still, and was promised to its task.
    """
    layer, sender = kind.layer(), kind.layer()
    loop = asyncio.new_event_loop()
    channel = loop.run_until_complete(layer.new_channel()) if owned else "normal"
    _begin(loop, layer, channel)
    if early:
        sender.blocking.send(channel, {"n": 1})
        if loops == "young" and kind.name != "memory":  # else the loop that stands still does the background work
            asyncio.run(eventually(lambda: is_true(_is_promised(layer))))
    loop.close()

    async def next_loop() -> object:
        receiving = asyncio.create_task(layer.receive(channel))
        if not early:
            await eventually(lambda: is_true(len(layer._state.waits) == 2 or loop not in _loops(layer)))
            await sender.send(channel, {"n": 1})
        async with asyncio.timeout(_SOON):
            return await receiving

    try:
        assert asyncio.run(next_loop()) == {"n": 1}
    finally:
        asyncio.run(layer.aclose())
        asyncio.run(sender.aclose())


def _loops(layer: ChannelLayer) -> set[asyncio.AbstractEventLoop]:
    return {waiter.loop for waiter in layer._state.waits if isinstance(waiter, ReceiveWaiter)}


@pytest.mark.usefixtures("crashed")
def test_the_task_of_a_closed_loop_does_not_keep_its_layer(redis: Kind) -> None:
    """A layer whose last task waits in a closed loop is collected, and what it owned is given up."""
    layer = redis.layer()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(layer))
    _begin(loop, layer, "quiet")
    loop.close()
    kept = weakref.ref(layer)
    del layer
    gc.collect()
    assert kept() is not None  # its background work has the task, and has not seen yet that the loop is closed
    asyncio.run(eventually(lambda: _is_collected(kept)))
    assert redis.members() == []
    asyncio.run(eventually(lambda: _is_nothing(redis)))


async def _is_collected(layer: weakref.ref[ChannelLayer]) -> bool:
    gc.collect()
    return layer() is None


# -- connections that waited


@quietly
@pytest.mark.usefixtures("settled")
async def test_connections_that_waited_are_closed(redis: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of waits at once leave no connection but the one for commands, when some time has passed."""
    monkeypatch.setattr(_client, "_SPARE_SECONDS", 0.2)
    async with redis.layer() as layer:
        waiting = [asyncio.create_task(layer.receive(f"quiet.{n}")) for n in range(100)]
        await eventually(lambda: _has_opened(redis, 101))
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        await eventually(lambda: _has_opened(redis, 1))
        await layer.send("quiet.1", {"n": 1})
        assert await layer.receive("quiet.1") == {"n": 1}


async def _has_opened(kind: Kind, count: int) -> bool:
    return len(await asyncio.to_thread(kind.opened)) == count
