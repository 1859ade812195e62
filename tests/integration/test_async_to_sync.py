"""A layer called from code that knows no event loop: thousands of short-lived loops, threads, forks, a blocked loop.

Each body runs in a process of its own, in which every warning is an error and nothing may be printed.
"""

# pyright: reportPrivateUsage=false
# Who does the background work is seen from inside only.

from __future__ import annotations

import asyncio
import gc
import os
import threading
import tracemalloc
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from channel_layer import ChannelLayer, StoreError
from channel_layer.runtime.background_work import BackgroundWork
from channel_layer.runtime.event_loops import io_thread
from channel_layer_redis import RedisChannelLayer, _read_history
from tests.integration.test_channels_loops import FORKABLE, STRICT, Hosts, Setup, hosts, in_own_process
from tests.support.processes import Fleet, SyncChild
from tests.support.servers import Server, StartServer
from tests.support.systems import System, run

__all__ = ("hosts",)

_CALLS: Final = 10_000
_THREADS: Final = 16
_TRACED: Final = 500
"""Calls between two looks at the memory, which make each of them slow."""

_GROWTH: Final = _TRACED * 20
"""Bytes by which memory may differ between two looks: what is kept of a call is a hundred bytes at least."""


def _descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").is_dir() else 0


# -- very many calls


def call_very_often(_child: SyncChild, setup: Setup) -> tuple[list[int], int]:
    """Send and receive with a loop for each call; return how much memory each part of that adds, and how many files."""
    _read_history._MOST = 50  # what is remembered of an inbox is full soon, and grows no more
    layer = setup.layer()
    send, receive = async_to_sync(layer.send), async_to_sync(layer.receive)
    name = async_to_sync(layer.new_channel)()

    def exchange(calls: int) -> None:
        for number in range(calls // 4):
            for channel in (name, "jobs"):
                send(channel, {"n": number})
                assert receive(channel) == {"n": number}

    exchange(_TRACED)
    gc.collect()
    files = _descriptors()
    exchange(_CALLS - 7 * _TRACED)
    sizes: list[int] = []
    tracemalloc.start()
    for _ in range(6):
        exchange(_TRACED)
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    more = _descriptors() - files
    async_to_sync(layer.aclose)()
    return [after - before for before, after in pairwise(sizes)], more


@pytest.mark.slow
@pytest.mark.parametrize("hosts", ["one-host"], indirect=True)
def test_ten_thousand_calls_leave_nothing_behind(hosts: Hosts, prefix: str) -> None:
    """10 000 calls of async_to_sync, each with a loop of its own, take no memory, file or connection that stays."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(call_very_often, Setup(hosts, prefix), environment=STRICT)
        added, files = worker.result(timeout=200)
        assert worker.output() == ""
    # Python's table of strings doubles now and then; a leak is in every part.
    assert sum(sorted(added)[:-1]) < _GROWTH * (len(added) - 1), added
    assert files <= 0


# -- threads


def call_from_threads(_child: SyncChild, setup: Setup) -> int:
    """In many threads at once, send to each other and receive; return how many files are open at most."""
    layer = setup.layer()
    names = [async_to_sync(layer.new_channel)() for _ in range(_THREADS)]
    barrier = threading.Barrier(_THREADS)
    files: list[int] = []

    def work(place: int) -> None:
        to = names[(place + 1) % _THREADS]
        barrier.wait()
        for number in range(30):
            async_to_sync(layer.send)(to, {"n": number})
            assert async_to_sync(layer.receive)(names[place]) == {"n": number}
            async_to_sync(layer.group_add)("group", names[place])
            files.append(_descriptors())
        barrier.wait()

    before = _descriptors()
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(work, range(_THREADS)))
    counts = layer.counts()
    assert (counts.sent, counts.delivered, counts.dropped) == (_THREADS * 30, _THREADS * 30, {})
    assert async_to_sync(layer.group_channels)("group") == sorted(names)
    async_to_sync(layer.aclose)()
    return max(files) - before


def test_sixteen_threads_share_a_handful_of_connections(hosts: Hosts, prefix: str) -> None:
    """Sixteen threads that call at once get what they were sent, in order, and open no connection of their own."""
    # A young loop has three files of its own, an event queue and a pair of sockets to wake it.
    assert in_own_process(call_from_threads, Setup(hosts, prefix)) <= 3 * _THREADS + 4


# -- forks


def call_around_a_fork(_child: SyncChild, setup: Setup) -> None:
    """Use a layer in a parent, fork several children that use it, too, and go on."""
    layer = setup.layer()
    name = async_to_sync(layer.new_channel)()
    async_to_sync(layer.send)(name, {"n": 0})
    async_to_sync(layer.send)("jobs", {"n": 0})
    children = [_fork(layer, name) for _ in range(3)]
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    expected = 1 + 3 * bool(setup.hosts)
    got = [async_to_sync(layer.receive)(name)["n"] for _ in range(expected)]
    assert sorted(map(str, got)) == sorted(["0", *["child"] * (expected - 1)])
    assert [async_to_sync(layer.receive)("jobs")["n"] for _ in range(expected)].count(0) == 1
    async_to_sync(layer.aclose)()


def _fork(layer: ChannelLayer, parents: str) -> int:
    """Fork a worker as Celery's pool does: it ends without Python's tidying up."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        own = async_to_sync(layer.new_channel)()
        for number in range(5):
            async_to_sync(layer.send)(own, {"n": number})
            assert async_to_sync(layer.receive)(own) == {"n": number}
        async_to_sync(layer.send)(parents, {"n": "child"})
        async_to_sync(layer.send)("jobs", {"n": "child"})
        status = 0
    finally:
        os._exit(status)


def test_workers_forked_after_use(hosts: Hosts, prefix: str) -> None:
    """Workers that were forked after the layer was used use it as if it were new, and the parent goes on."""
    in_own_process(call_around_a_fork, Setup(hosts, prefix), FORKABLE)


def use_first_in_the_child(_child: SyncChild, setup: Setup) -> None:
    """Make a layer, as a module that is imported does, and use it in a forked worker only."""
    layer = setup.layer()
    pid = _fork(layer, "nobody!x")
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    async_to_sync(layer.aclose)()


def test_workers_forked_before_use(hosts: Hosts, prefix: str) -> None:
    """A layer that a parent has made and not used is new in its workers."""
    in_own_process(use_first_in_the_child, Setup(hosts, prefix), FORKABLE)


# -- from the thread of a running loop


def call_from_a_view(_child: SyncChild, setup: Setup) -> None:
    """Call from a synchronous view of an asynchronous server; and from its loop's own thread, which asgiref forbids."""
    for settled in (False, True):
        layer = setup.layer(settled=settled)
        asyncio.run(_serve(layer))


async def _serve(layer: ChannelLayer) -> None:
    name = await layer.new_channel()

    def view(number: int) -> None:
        async_to_sync(layer.send)(name, {"n": number})
        async_to_sync(layer.group_add)("group", name)
        assert async_to_sync(layer.receive)(name) == {"n": number}

    async with asyncio.timeout(20):
        await asyncio.gather(*(sync_to_async(view)(number) for number in range(3)))
        await asyncio.gather(*(sync_to_async(view, thread_sensitive=False)(number) for number in (7,)))
        with pytest.raises(RuntimeError, match="You cannot use AsyncToSync in the same thread"):
            async_to_sync(layer.send)(name, {"n": 9})
        await layer.aclose()


def test_calls_from_a_view_of_a_running_server(hosts: Hosts, prefix: str) -> None:
    """Synchronous code under a running loop may call the layer; from the loop's own thread asgiref refuses at once."""
    # What asgiref refuses is a coroutine that it leaves unawaited, and Python says so.
    quiet = {"PYTHONWARNINGS": "error,ignore::RuntimeWarning"}
    in_own_process(call_from_a_view, Setup(hosts, prefix), quiet)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("call", ["new_channel", "receive", "receive normal", "flush", "statistics", "aclose"])
def test_a_loop_that_waits_for_a_thread_is_not_waited_for(
    system: System, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the loop with the background work is blocked by code that waits for another loop, that one goes on."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.UNRESPONSIVE_SECONDS", 0.1)
    layer = system.layer()

    async def elsewhere(name: str) -> object:
        match call:
            case "new_channel":
                return await layer.new_channel("other")
            case "receive":
                await layer.send(name, {"n": 1})
                return await layer.receive(name)
            case "receive normal":
                await layer.send("jobs", {"n": 1})
                return await layer.receive("jobs")
            case "flush":
                await layer.flush()
            case "statistics":  # for which the place of the message that was received is given back first
                return await layer.statistics(name)
            case _:
                await layer.aclose()
        return None

    async def body() -> None:
        name = await layer.new_channel()
        await layer.send(name, {"n": 0})
        assert await layer.receive(name) == {"n": 0}
        waiting = asyncio.create_task(layer.receive("never"))
        await asyncio.sleep(0)
        with ThreadPoolExecutor(1) as threads:  # what follows blocks this loop
            threads.submit(asyncio.run, asyncio.wait_for(elsewhere(name), 20)).result()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if call != "aclose":
            await layer.send(name, {"n": 2})
            assert (await layer.receive(name))["n"] == 2
        await layer.aclose()

    run(body())


# -- one host at a time


def test_a_host_that_is_left_does_nothing_any_more(redis_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that ends while it takes the background work over leaves none behind: no message comes twice."""
    layer = redis_system.layer()
    begun = threading.Event()

    async def never_stops(_: BackgroundWork) -> None:
        begun.set()
        await asyncio.Event().wait()

    async def begin() -> str:
        name = await layer.new_channel()
        await layer.send(name, {"n": 0})
        assert await layer.receive(name) == {"n": 0}
        return name

    async def take_over(name: str) -> None:
        waiting = asyncio.create_task(layer.receive(name))
        await asyncio.to_thread(begun.wait, 20)
        waiting.cancel()  # and the loop ends with it

    async def finish(name: str) -> None:
        for number in range(1, 6):
            await layer.send(name, {"n": number})
            assert await asyncio.wait_for(layer.receive(name), 20) == {"n": number}
        await layer.send(name, {"n": 6})
        assert await layer.receive(name) == {"n": 6}
        assert layer.counts().delivered == layer.counts().sent == 7
        await layer.aclose()

    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0)
    name = run(begin())
    assert layer._background.work is not None
    assert layer._background.work.session is layer._sessions.in_thread
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(BackgroundWork, "stop", never_stops)
        run(take_over(name))
    run(finish(name))


# -- servers


def connect_once(_child: SyncChild, setup: Setup) -> int:
    """Make fifty calls of each kind, a loop for each; return how many files more are open after them."""
    layer = setup.layer()
    group_add, group_send = async_to_sync(layer.group_add), async_to_sync(layer.group_send)
    send, receive = async_to_sync(layer.send), async_to_sync(layer.receive)
    members = async_to_sync(layer.group_channels)
    before = 0
    for number in range(50):
        send("jobs", {"n": number})
        assert receive("jobs") == {"n": number}
        group_add("group", "mail")
        group_send("group", {"n": number})
        assert receive("mail") == {"n": number}
        assert members("group") == ["mail"]
        before = before or _descriptors()
    after = _descriptors()
    async_to_sync(layer.aclose)()
    return after - before


def test_a_call_opens_no_connection(hosts: Hosts, prefix: str) -> None:
    """Calls that each have a loop of their own share the connections that the first ones have opened."""
    assert in_own_process(connect_once, Setup(hosts, prefix)) <= 0


@pytest.fixture
def young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give no loop connections of its own, however slow the machine is."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0)


@pytest.fixture
def paused(start_server: StartServer, young: None) -> Generator[tuple[Server, ChannelLayer]]:  # noqa: ARG001
    """A server of this test's own, which may be paused, and a layer whose calls it has to answer within 0.3 s."""
    server = start_server()
    layer = RedisChannelLayer(hosts=[server.url], timeout=0.3)
    async_to_sync(layer.group_add)("group", "jobs")
    async_to_sync(layer.group_add)("other", "mail")
    yield server, layer
    async_to_sync(layer.aclose)()


@pytest.mark.usefixtures("young")
def test_calls_at_once_in_one_loop_stay_in_order(system: System) -> None:
    """Calls that are not awaited one by one are carried out in the order of their beginning."""
    layer = system.layer()
    name = async_to_sync(layer.new_channel)()

    async def send(start: int) -> None:
        await asyncio.gather(*(layer.send(name, {"n": start + n}) for n in range(8)))

    for start in range(0, 80, 8):
        asyncio.run(send(start))
    assert [async_to_sync(layer.receive)(name)["n"] for _ in range(80)] == list(range(80))
    async_to_sync(layer.aclose)()


def test_a_cancelled_call_leaves_no_reply_to_the_next(paused: tuple[Server, ChannelLayer]) -> None:
    """After a call that was cancelled, the next one gets the reply to what it has asked itself."""
    server, layer = paused
    server.pause()
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(layer.group_channels("group"), 0.1))
    server.resume()
    for _ in range(3):
        assert async_to_sync(layer.group_channels)("other") == ["mail"]
        assert async_to_sync(layer.group_channels)("group") == ["jobs"]


def test_a_cancelled_call_is_not_overtaken(paused: tuple[Server, ChannelLayer]) -> None:
    """What a cancelled call has sent is done with before what the next call of its loop sends."""
    server, layer = paused

    async def send() -> None:
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(layer.send("jobs", {"n": 0}), 0.05)
        following = asyncio.create_task(layer.send("jobs", {"n": 1}))
        for _ in range(20):
            await asyncio.sleep(0)
        server.resume()
        await following

    asyncio.run(send())
    assert [async_to_sync(layer.receive)("jobs")["n"] for _ in range(2)] == [0, 1]


def test_a_loop_that_gets_its_own_connections_overtakes_nothing(
    paused: tuple[Server, ChannelLayer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a call was cancelled, the loop's first own connection waits until the I/O thread has gone on.

    Here that thread stands still, as it may on a machine with much to do.
    """
    server, layer = paused
    resume_all = threading.Event()

    async def send() -> None:
        server.pause()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(layer.send("jobs", {"n": 0}), 0.05)
        server.resume()
        io_thread().loop.call_soon_threadsafe(resume_all.wait, 20)
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)
        connections = len(server.host().clients())
        following = asyncio.create_task(layer.send("jobs", {"n": 1}))
        await asyncio.sleep(0.05)
        assert len(server.host().clients()) == connections
        assert not following.done()
        resume_all.set()
        await following
        assert len(server.host().clients()) > connections

    asyncio.run(send())


def test_a_server_that_does_not_answer(paused: tuple[Server, ChannelLayer]) -> None:
    """A call ends with an error after the layer's timeout, also one whose message no buffer holds; later ones work."""
    server, layer = paused
    calls: list[Callable[[], object]] = [
        lambda: async_to_sync(layer.group_channels)("group"),
        lambda: async_to_sync(layer.send)("jobs", {"large": bytes(4_000_000)}),
    ]
    for call in calls:
        server.pause()
        with pytest.raises(StoreError, match="did not answer in time") as caught:
            call()
        assert caught.value.retryable
        assert caught.value.outcome == "unknown"
        server.resume()
        assert async_to_sync(layer.group_channels)("other") == ["mail"]


def test_a_server_that_dies_meanwhile(paused: tuple[Server, ChannelLayer]) -> None:
    """A call whose connection is lost ends with an error; when the server is back, the next ones succeed."""
    server, layer = paused
    server.pause()
    errors: list[StoreError] = []

    def call() -> None:
        with pytest.raises(StoreError) as caught:
            layer.blocking.send("jobs", {})  # a thread of the other kind, beside it
        errors.append(caught.value)

    async def ask() -> None:
        asking = asyncio.create_task(layer.group_channels("group"))
        await asyncio.sleep(0)
        server.kill()
        with pytest.raises(StoreError) as caught:
            await asking
        errors.append(caught.value)

    other = threading.Thread(target=call)
    other.start()
    asyncio.run(ask())
    other.join(20)
    assert [error.retryable for error in errors] == [True, True]
    with pytest.raises(StoreError, match="is a server running there"):
        async_to_sync(layer.group_channels)("group")
    server.restart_empty()
    assert async_to_sync(layer.group_channels)("group") == []


def test_a_loop_that_ends_amid_a_call(paused: tuple[Server, ChannelLayer]) -> None:
    """Calls of other loops are not disturbed."""
    server, layer = paused
    server.pause()
    loop = asyncio.new_event_loop()
    asking = loop.create_task(layer.group_channels("group"))
    loop.run_until_complete(asyncio.sleep(0.01))
    loop.close()
    del asking
    gc.collect()
    server.resume()
    for _ in range(3):
        assert async_to_sync(layer.group_channels)("other") == ["mail"]
