"""One layer object in many event loops, threads and forks, as Django uses it: with connections that are counted.

`async_to_sync` makes a loop for every call, a test client one for every test, a server one for its life, and a
prefork server copies all of it. What goes wrong there goes wrong at the edges of Python (a closed loop, a warning
about a socket), so most of these bodies run in a process of their own with every warning shown.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import pytest
import uvloop
from asgiref.sync import async_to_sync

from channel_layer import ChannelLayer, Counts, InvalidName, StoreError
from channel_layer.runtime import event_loops as loops
from channel_layer_ipc import IPCChannelLayer
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer
from tests.support.processes import Fleet, SyncChild
from tests.support.servers import Server, StartServer
from tests.support.systems import System, run

R = TypeVar("R")


Hosts: TypeAlias = tuple[str, ...]


@pytest.fixture(params=["memory", "ipc", "one-host", "three-databases"])
def hosts(server: Server, request: pytest.FixtureRequest, tmp_path: Path) -> Hosts:
    """The URLs of the hosts, none of which is memory; for IPC that of a directory."""
    kind: str = request.param
    if kind == "ipc":
        return (f"{_IPC}{tmp_path / 'world'}",)
    return tuple(server.host(db).url for db in range({"memory": 0, "one-host": 1}.get(kind, 3)))


_IPC: Final = "ipc:"

STRICT: Final = {"PYTHONWARNINGS": "error"}
"""Every warning is shown, in whatever corner it is raised, so that a good worker has no output at all.

Not Python's development mode, because asyncio then complains of a machine that is merely busy.
"""

LOOPS: Final = 50


@dataclass(frozen=True)
class Setup:
    """What a worker process builds its layers of.

    Attributes:
        hosts: URLs; none for memory; ``ipc:<directory>`` alone.
        prefix: of all keys.
    """

    hosts: Hosts
    prefix: str

    def layer(self, *, settled: bool = False) -> ChannelLayer:
        """Make a layer; event loops get connections of their own at once, or never."""
        loops.SETTLE_SECONDS = 0.0 if settled else 3600.0
        if not self.hosts:
            return MemoryChannelLayer(prefix=self.prefix)
        if self.hosts[0].startswith(_IPC):
            return IPCChannelLayer(prefix=self.prefix, directory=self.hosts[0].removeprefix(_IPC))
        return RedisChannelLayer(hosts=self.hosts, prefix=self.prefix)


def in_own_process(target: Callable[[SyncChild, Setup], R], setup: Setup, environment: Mapping[str, str] = STRICT) -> R:
    """Run a body in a fresh process, and prove that nothing in it was worth a warning to Python or to asyncio."""
    with Fleet() as fleet:
        worker = fleet.spawn_sync(target, setup, environment=environment)
        result = worker.result()
        assert worker.output() == ""
        return result


# --- async_to_sync


def send_from_plain_code(_child: SyncChild, setup: Setup) -> list[object]:
    """Send, add and broadcast from code that knows no event loop."""
    layer = setup.layer()
    name = async_to_sync(layer.new_channel)()
    async_to_sync(layer.group_add)("group", name)
    for number in range(45):
        async_to_sync(layer.send)(name, {"n": number})
        async_to_sync(layer.group_send)("group", {"n": number})
        async_to_sync(layer.send)("normal", {"n": number})
    got = [async_to_sync(layer.receive)(name)["n"] for _ in range(90)]
    got += [async_to_sync(layer.receive)("normal")["n"] for _ in range(45)]
    async_to_sync(layer.aclose)()
    return list(got)


def test_async_to_sync_opens_no_connection_for_a_call(start_server: StartServer, prefix: str) -> None:
    """Hundreds of calls of async_to_sync use the same few connections, and none is left after aclose()."""
    server = start_server()
    before = connections_made(server)
    got = in_own_process(send_from_plain_code, Setup((server.url,), prefix))
    assert got == [number for number in range(45) for _ in range(2)] + list(range(45))
    # One for commands, one for the inbox's reader, one to wait on the normal channel; and the one that asks.
    assert connections_made(server) - before <= 4
    assert server.host().clients() == []


def connections_made(server: Server) -> int:
    """How many connections a server has ever accepted."""
    count = server.host().info("stats")["total_connections_received"]
    assert isinstance(count, int)
    return count


# --- loops one after another


def use_in_loops_one_after_another(_child: SyncChild, setup: Setup) -> None:
    """Use one layer in many loops; in each, receive what an earlier loop sent to a channel of the first."""
    for settled in (False, True):
        for style in ("nothing", "close_pools", "while receiving"):
            layer = setup.layer(settled=settled)
            statistics = use_in_loops(layer, style)
            assert statistics.dropped == {}, style
            assert statistics.delivered == 4 * LOOPS + 1, style
            assert statistics.waiting == 0, style


def use_in_loops(layer: ChannelLayer, style: str) -> Counts:
    """Use a layer in many loops, each of which ends in a certain style; return what it has counted."""

    async def begin() -> str:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        await layer.send(name, {"n": 0})
        await let_go()
        return name

    async def resume_all(name: str, number: int) -> None:
        assert await layer.receive(name) == {"n": number}
        await layer.group_send("group", {"g": number})
        assert await layer.receive(name) == {"g": number}
        await layer.send("normal", {"n": number})
        assert await layer.receive("normal") == {"n": number}
        own = await layer.new_channel()
        await layer.send(own, {"own": number})
        assert await layer.receive(own) == {"own": number}
        await layer.send(name, {"n": number + 1})
        await let_go()

    async def let_go() -> None:
        if style == "close_pools":
            await layer.close_pools()
        elif style == "while receiving":
            for channel in ("quiet", await layer.new_channel()):
                task = asyncio.create_task(layer.receive(channel))
                await asyncio.sleep(0)
                kept.append(task)  # asyncio.run() cancels it

    async def finish(name: str) -> Counts:
        assert await layer.receive(name) == {"n": LOOPS}
        assert await layer.group_channels("group") == [name]
        statistics = layer.counts()
        await layer.aclose()
        return statistics

    kept: list[asyncio.Task[object]] = []
    name = asyncio.run(begin())
    for number in range(LOOPS):
        asyncio.run(resume_all(name, number))
    assert all(task.cancelled() for task in kept)
    return asyncio.run(finish(name))


def test_loops_one_after_another(hosts: Hosts, prefix: str) -> None:
    """A channel made in one event loop is received in the next fifty, whatever each does at its end."""
    in_own_process(use_in_loops_one_after_another, Setup(hosts, prefix))


def leave_without_a_word(_child: SyncChild, setup: Setup) -> None:
    """Close loops as no well-behaved program does: at once, with everything still open."""
    for settled in (False, True):
        layer = setup.layer(settled=settled)
        name = ""
        for number in range(10):
            loop = asyncio.new_event_loop()
            name = loop.run_until_complete(exchange(layer, name, number))
            loop.close()
        asyncio.run(layer.aclose())


async def exchange(layer: ChannelLayer, name: str, number: int) -> str:
    """Send and receive, first of all making the channel for it."""
    name = name or await layer.new_channel()
    await layer.send(name, {"n": number})
    assert await layer.receive(name) == {"n": number}
    return name


def test_loops_that_end_in_disorder(hosts: Hosts, prefix: str) -> None:
    """A loop that is closed with everything still open takes nothing with it that the next one needs."""
    with Fleet() as fleet:  # not strict: it is right that Python warns of such a program
        worker = fleet.spawn_sync(leave_without_a_word, Setup(hosts, prefix))
        worker.result()
        assert "Event loop is closed" not in worker.output()


# --- loops and threads at once

THREADS: Final = 8
ROUNDS: Final = 10


def use_in_threads_at_once(_child: SyncChild, setup: Setup) -> None:
    """In several threads at once, run loop after loop, with connections of their own and without."""
    for settled in (False, True):
        statistics = use_in_threads(setup.layer(settled=settled))
        assert statistics.dropped == {}
        assert statistics.delivered == statistics.sent == THREADS * ROUNDS * 5


def use_in_threads(layer: ChannelLayer) -> Counts:
    """In several threads, run loop after loop; each sends to a channel that the next thread made."""
    names: list[str] = [""] * THREADS
    barrier = threading.Barrier(THREADS)

    def work(place: int) -> None:
        async def make() -> None:
            names[place] = await layer.new_channel()

        async def exchange(number: int) -> None:
            to = names[(place + 1) % THREADS]
            await asyncio.gather(*(layer.send(to, {"round": number, "n": n}) for n in range(5)))
            got = [await layer.receive(names[place]) for _ in range(5)]
            assert got == [{"round": number, "n": n} for n in range(5)]

        asyncio.run(make())
        for number in range(ROUNDS):
            barrier.wait()
            asyncio.run(exchange(number))

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(work, range(THREADS)))
    statistics = layer.counts()
    async_to_sync(layer.aclose)()
    return statistics


def test_loops_at_once_in_threads(hosts: Hosts, prefix: str) -> None:
    """Eight threads, each with a loop of its own, exchange messages through one layer object, in order."""
    in_own_process(use_in_threads_at_once, Setup(hosts, prefix))


@pytest.mark.usefixtures("loops")
def test_receiving_in_one_loop_what_another_makes_and_sends(system: System) -> None:
    """A receive() that waits in one running loop gets what another loop sends to a channel that a third made."""
    layer = system.layer()
    name = asyncio.run(layer.new_channel())
    waiting = threading.Event()

    async def receive() -> object:
        task = asyncio.create_task(layer.receive(name))
        await asyncio.sleep(0)
        waiting.set()
        return await asyncio.wait_for(task, 20)

    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(asyncio.run, receive())
        waiting.wait()
        asyncio.run(layer.send(name, {"n": 1}))
        assert received.result() == {"n": 1}
    run(layer.aclose())


@pytest.mark.usefixtures("loops")
def test_a_loop_that_stands_still(system: System) -> None:
    """While a loop stands still, as between two tests, others do its work; when it goes on, all is there once."""
    layer = system.layer()

    async def begin() -> tuple[str, asyncio.Task[list[object]]]:
        name = await layer.new_channel()
        await layer.send(name, {"n": 0})
        task = asyncio.create_task(receive(name, 4))
        await asyncio.sleep(0)
        return name, task

    async def receive(name: str, count: int) -> list[object]:
        return [(await layer.receive(name))["n"] for _ in range(count)]

    async def meanwhile(name: str, number: int) -> None:
        async with asyncio.timeout(20):
            other = await layer.new_channel(f"other{number}")
            await layer.send(other, {"n": number})
            assert await layer.receive(other) == {"n": number}
            await layer.send("normal", {"n": number})
            assert await layer.receive("normal") == {"n": number}
            await layer.send(name, {"n": number})

    async def finish(task: asyncio.Task[list[object]], name: str) -> None:
        assert await asyncio.wait_for(task, 20) == [0, 1, 2, 3]
        await layer.send(name, {"n": 4})
        assert await receive(name, 1) == [4]
        assert layer.counts().dropped == {}
        await layer.aclose()

    with asyncio.Runner() as still:
        name, task = still.run(begin())
        for number in (1, 2, 3):
            run(meanwhile(name, number))
        still.run(finish(task, name))


def test_a_loop_that_stops_while_another_waits_for_it() -> None:
    """Work that is given to another loop in its last moment, or to one that stands still, is not waited for."""
    other = asyncio.new_event_loop()
    thread = threading.Thread(target=other.run_forever)
    thread.start()
    done: list[str] = []

    async def work() -> None:
        done.append("work")

    async def last_work() -> None:
        other.stop()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        done.append("last work")

    async def is_not_waited_for(given: Callable[[], Coroutine[object, object, None]]) -> None:
        with pytest.raises(loops.LoopUnavailable):
            await asyncio.wait_for(loops.run_in(other, given), 20)

    run(loops.run_in(other, work))
    assert done == ["work"]
    run(is_not_waited_for(last_work))
    thread.join()
    run(is_not_waited_for(work))
    other.run_until_complete(asyncio.sleep(0.01))
    assert done == ["work", "last work"]  # cancelled; and what nobody waits for any more is not begun
    other.close()
    run(is_not_waited_for(work))


def test_cancelling_a_wait_for_another_loop() -> None:
    """Whoever waits for work in another loop and is cancelled cancels the work, and is told of nothing else."""
    begun, ended = threading.Event(), threading.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def body() -> None:
        task = asyncio.create_task(loops.run_in(loops.io_thread().loop, work))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(ended.wait, 20)

    run(body())


@pytest.mark.usefixtures("loops")
def test_uvloop(system: System) -> None:
    """A layer works in uvloop's event loop, whose transports are no subclasses of asyncio's."""

    async def body() -> None:
        async with system.layer() as one, system.layer() as two:
            name = await one.new_channel()
            await one.group_add("group", name)
            await two.send(name, {"n": 1})
            await two.group_send("group", {"n": 2})
            assert [await one.receive(name) for _ in range(2)] == [{"n": 1}, {"n": 2}]
            await one.send("normal", {"n": 3})
            assert await two.receive("normal") == {"n": 3}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(body())


# --- letting go


def test_close_pools_lets_go_of_the_connections_of_this_loop(
    start_server: StartServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After close_pools() a loop has no connection; the next call opens one, and aclose() closes it for good."""
    monkeypatch.setattr(loops, "SETTLE_SECONDS", 0.0)
    server = start_server()

    async def body() -> None:
        layer = RedisChannelLayer(hosts=[server.url], prefix=prefix)
        for number in range(3):
            await layer.send("normal", {"n": number})
            assert await layer.receive("normal") == {"n": number}
            assert server.host().clients() != []
            await layer.close_pools()
            await until(lambda: server.host().clients() == [])
        await layer.close_pools()
        await layer.send("normal", {"n": 3})
        await layer.aclose()
        await until(lambda: server.host().clients() == [])

    run(body())


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something has come true that takes the other side a moment."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("ending", ["close_pools", "end of the loop"])
def test_receive_goes_on_when_the_loop_that_reads_for_all_lets_go(system: System, ending: str) -> None:
    """A receive() in one loop survives the end of another, even of the one that read the inbox for both."""
    layer = system.layer()
    waiting = threading.Event()

    async def receive(name: str) -> list[object]:
        both = asyncio.gather(layer.receive(name), layer.receive("normal"))
        await asyncio.sleep(0)
        waiting.set()
        async with asyncio.timeout(20):
            return list(await both)

    async def begin(threads: ThreadPoolExecutor) -> tuple[str, Future[list[object]]]:
        name = await layer.new_channel()  # so it is this loop that reads
        received = threads.submit(asyncio.run, receive(name))
        await asyncio.to_thread(waiting.wait)
        if ending == "close_pools":
            await layer.close_pools()
            await send(name)
        return name, received

    async def send(name: str) -> None:
        await layer.send(name, {"n": 1})
        await layer.send("normal", {"n": 2})

    with ThreadPoolExecutor(1) as threads:
        name, received = run(begin(threads))
        if ending != "close_pools":
            run(send(name))
        assert received.result() == [{"n": 1}, {"n": 2}]
    run(layer.aclose())


@pytest.mark.usefixtures("loops")
def test_aclose_in_one_loop_ends_what_waits_in_another(system: System) -> None:
    """aclose() tells every receive() of the layer object that it waits in vain, whatever loop that is in."""
    layer = system.layer()
    waiting = threading.Event()

    async def receive(name: str) -> None:
        both = [asyncio.create_task(layer.receive(channel)) for channel in (name, "normal")]
        await asyncio.sleep(0)
        waiting.set()
        for task in both:
            with pytest.raises(StoreError, match="this channel layer is closed"):
                await asyncio.wait_for(task, 20)

    name = run(layer.new_channel())
    with ThreadPoolExecutor(1) as threads:
        received = threads.submit(asyncio.run, receive(name))
        waiting.wait()
        run(layer.aclose())
        received.result()


def leave_open(_child: SyncChild, setup: Setup) -> None:
    """End the process with layers still open, and with receivers of them, too."""
    for settled in (False, True):
        asyncio.run(begin_and_wait(setup.layer(settled=settled)))


async def begin_and_wait(layer: ChannelLayer) -> None:
    """Leave everything open that can be."""
    name = await layer.new_channel()
    await layer.group_add("group", name)
    await layer.send(name, {})
    tasks = [asyncio.create_task(layer.receive(channel)) for channel in (name, name, "normal")]
    assert await tasks[0] == {}


def test_a_process_that_ends_with_its_layer_open(hosts: Hosts, prefix: str) -> None:
    """Nobody has to close a layer: a process that ends without it gets no warning and does not hang."""
    in_own_process(leave_open, Setup(hosts, prefix))


def test_the_background_work_ends_before_what_it_uses_is_taken_down() -> None:
    """The finalizers of files and sockets run at the end of a process after the I/O thread's farewell."""
    script = """
import weakref
from channel_layer.runtime import event_loops as loops

assert not weakref.finalize._registered_with_atexit  # else it would be in order by itself
thread = loops.io_thread()
files = weakref.finalize(thread, print, "taken down")
end = thread._end

async def farewell():
    print("farewell")
    await end()

thread._end = farewell
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=20)
    assert done.stdout.split("\n") == ["farewell", "taken down", ""]


# --- forks


def use_after_fork(layer: ChannelLayer, parents: str) -> None:
    """What the child of a fork does: it begins anew, and reaches the parent as any other process would."""

    async def body() -> None:
        own = await layer.new_channel()
        assert own.partition("!")[0] != parents.partition("!")[0]
        with pytest.raises(InvalidName, match="belongs to another process"):
            await layer.receive(parents)
        await layer.group_add("group", own)
        assert await layer.group_channels("group") == sorted([own, parents])
        await layer.send(parents, {"n": 1})
        await layer.group_send("group", {"n": 2})
        assert await layer.receive(own) == {"n": 2}
        await layer.group_discard("group", own)

    asyncio.run(body())


def go_on_after_fork(layer: ChannelLayer, name: str) -> None:
    """What the parent does: it goes on as if nothing had been."""

    async def body() -> None:
        assert [await layer.receive(name) for _ in range(3)] == [{"n": number} for number in range(3)]
        await layer.group_send("group", {"n": 3})
        assert await layer.receive(name) == {"n": 3}
        assert await layer.group_channels("group") == [name]
        await layer.aclose()

    asyncio.run(body())


def begin_before_fork(layer: ChannelLayer) -> str:
    """Have everything that there can be before a fork: a channel, a member, a message, connections, a reader."""

    async def body() -> str:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        await layer.send(name, {"n": 0})
        return name

    return asyncio.run(body())


def fork_as_multiprocessing_does(_child: SyncChild, setup: Setup) -> None:
    """Fork a child through multiprocessing, from settled loops and from young ones."""
    for settled in (False, True):
        layer = setup.layer(settled=settled)
        name = begin_before_fork(layer)
        process = multiprocessing.get_context("fork").Process(target=use_after_fork, args=(layer, name))
        process.start()
        process.join()
        assert process.exitcode == 0
        go_on_after_fork(layer, name)


def fork_as_servers_do(setup: Setup) -> None:
    """Fork as a prefork server does: the child ends as a program of its own, with all of Python's tidying up."""
    layer = setup.layer(settled=True)
    name = begin_before_fork(layer)
    pid = os.fork()
    if not pid:
        use_after_fork(layer, name)
        return
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    go_on_after_fork(layer, name)


FORKABLE: Final = {**STRICT, "PYTHONWARNINGS": "error,ignore::DeprecationWarning"}
"""From 3.12 on, Python warns of any fork beside threads."""


@pytest.mark.parametrize("hosts", ["ipc", "one-host", "three-databases"], indirect=True)
def test_fork_through_multiprocessing(hosts: Hosts, prefix: str) -> None:
    """A child of multiprocessing's fork begins anew, the parent goes on, and both hear each other."""
    in_own_process(fork_as_multiprocessing_does, Setup(hosts, prefix), FORKABLE)


@pytest.mark.parametrize("hosts", ["ipc", "one-host"], indirect=True)
def test_fork_of_a_prefork_server(hosts: Hosts, prefix: str) -> None:
    """A forked child that ends like any program, with Python's tidying up, does not disturb the parent."""
    code = f"from {__name__} import *; fork_as_servers_do({Setup(hosts, prefix)!r})"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **FORKABLE, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def fork_in_memory(_child: SyncChild, setup: Setup) -> None:
    """Fork with a memory layer: nothing is common to the two."""
    layer = setup.layer()
    name = begin_before_fork(layer)

    def child() -> None:
        async def body() -> None:
            own = await layer.new_channel()
            await layer.send(own, {"n": 1})
            assert await layer.receive(own) == {"n": 1}
            assert await layer.group_channels("group") == []
            with pytest.raises(InvalidName, match="belongs to another process"):
                await layer.receive(name)

        asyncio.run(body())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0
    assert asyncio.run(layer.receive(name)) == {"n": 0}
    assert asyncio.run(layer.group_channels("group")) == [name]
    asyncio.run(layer.aclose())


def test_fork_in_memory() -> None:
    """A child of a fork begins with an empty memory layer, and the parent keeps what it had."""
    in_own_process(fork_in_memory, Setup((), "asgi:"), FORKABLE)
