"""Two machines over one Redis, as two directories on this one: what stays, what travels, what happens in between."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from channel_layer import ChannelFull, Message, NoLocalReader, StoreError
from channel_layer.testing import VirtualClock
from channel_layer_redis import RedisLocalChannelLayer, RedisLocalConfigDict
from tests.support.processes import Fleet, SyncChild
from tests.support.servers import Deployment, Server, StartServer

PATIENCE = 20.0
"""Seconds after which what has not happened is taken not to happen."""

pytestmark = pytest.mark.usefixtures("settled", "tidied")


@dataclass(frozen=True)
class Machines:
    """Where layers are: machines by name, each a directory, and one Redis for all.

    Attributes:
        root: of the directories.
        urls: of the servers.
        prefix: of all keys.
    """

    root: str
    urls: tuple[str, ...]
    prefix: str

    def layer(
        self, machine: str, options: RedisLocalConfigDict | None = None, clock: VirtualClock | None = None
    ) -> RedisLocalChannelLayer:
        """Make a layer on a machine."""
        more: RedisLocalConfigDict = options if options is not None else {}
        return RedisLocalChannelLayer(
            hosts=self.urls,
            prefix=self.prefix,
            local={"directory": Path(self.root) / machine},
            capacity=more.get("capacity", 100),
            channel_capacity=more.get("channel_capacity"),
            no_local_reader=more.get("no_local_reader", "remote"),
            symmetric_encryption_keys=more.get("symmetric_encryption_keys", ()),
            blind_names=more.get("blind_names", False),
            clock=clock,
        )

    async def attend(self, machine: str, layer: RedisLocalChannelLayer, channel: str = "jobs") -> None:
        """Let a layer be known to read a channel on its machine; it is busy elsewhere when this returns."""
        waiting = asyncio.create_task(layer.receive(channel))
        async with self.layer(machine, {"no_local_reader": "error"}) as probe, asyncio.timeout(PATIENCE):
            while True:
                try:
                    await probe.send(channel, {"probe": 1})
                except NoLocalReader:
                    await asyncio.sleep(0.005)
                else:
                    break
            assert await waiting == {"probe": 1}

    async def waiting_here(self, machine: str, channel: str = "jobs") -> int:
        """Return how many messages wait in this machine's half alone."""
        async with self.layer(machine) as layer:
            return (await layer.statistics(channel)).messages_pending or 0


@pytest.fixture
def machines(tmp_path: Path, one_host: Deployment, prefix: str) -> Machines:
    """Machines over one Redis."""
    return Machines(str(tmp_path), tuple(one_host.urls), prefix)


async def within(layer: RedisLocalChannelLayer, channel: str = "jobs") -> Message:
    """Receive, but do not wait for ever."""
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


def commands(server: Server) -> dict[str, int]:
    """Return how often a server has carried out each command, but for those that ask."""
    counted: dict[str, int] = {}
    text = repr(server.host().info("commandstats"))
    for name, calls in re.findall(r"'(cmdstat_[^']+)': {'calls': (\d+)", text):
        if name not in ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo"):
            counted[name] = int(calls)
    return counted


# -- what stays ----------------------------------------------------------------------------------------------------


def test_local_traffic_costs_the_server_nothing(tmp_path: Path, start_server: StartServer) -> None:
    """While somebody here reads, a thousand messages cost Redis no more commands than none."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async def body() -> None:
        async with machines.layer("one") as web, machines.layer("one") as worker:
            await machines.attend("one", worker)
            await web.new_channel()  # a lease, as every web process has one
            waiting = asyncio.create_task(worker.receive("jobs"))
            await machines.attend("one", worker, "other")  # so long has everything been under way
            before = commands(server)
            for n in range(1000):
                await web.send("jobs", {"n": n})
                assert await waiting == {"n": n}
                if n % 2:  # a worker that waits, and one to whom work has come before
                    await web.send("jobs", {"n": -n})
                    assert await worker.receive("jobs") == {"n": -n}
                waiting = asyncio.create_task(worker.receive("jobs"))
            after = commands(server)
            waiting.cancel()
            assert {
                name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)
            } == {}

    asyncio.run(body())


def test_a_backlog_here_is_no_reason_to_look_elsewhere(tmp_path: Path, start_server: StartServer) -> None:
    """A worker that never waits, because there is always something here, does not ask Redis at every message."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async def body() -> None:
        async with (
            machines.layer("one") as web,
            machines.layer("one") as worker,
            machines.layer("two") as elsewhere,
        ):
            await machines.attend("one", worker)
            await elsewhere.send("jobs", {"n": -1})  # calls the worker, who has no need of it: now nothing is open
            for n in range(90):
                await web.send("jobs", {"n": n})
            before = commands(server)
            came = [(await within(worker))["n"] for _ in range(91)]
            after = commands(server)
            assert after["cmdstat_evalsha"] - before["cmdstat_evalsha"] < 10
            assert sorted(str(n) for n in came) == sorted(str(n) for n in range(-1, 90))

    asyncio.run(body())


def test_local_traffic_goes_on_while_the_server_is_away(tmp_path: Path, start_server: StartServer) -> None:
    """What has its reader here gets there with no server at all; what has not fails, and says so."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async def body() -> None:
        async with machines.layer("one") as web, machines.layer("one") as worker:
            await machines.attend("one", worker)
            server.kill()
            for n in range(10):
                await web.send("jobs", {"n": n})
                assert await within(worker) == {"n": n}
            with pytest.raises(StoreError):
                await web.send("elsewhere", {"n": 0})

    asyncio.run(body())


# -- what travels --------------------------------------------------------------------------------------------------


def test_groups_and_single_readers_are_on_all_machines(machines: Machines) -> None:
    """A group has members on both machines, and a reply finds its one reader wherever he is."""

    async def body() -> None:
        async with machines.layer("one") as here, machines.layer("two") as there:
            mine, theirs = await here.new_channel(), await there.new_channel()
            for layer, name in ((here, mine), (there, theirs)):
                await layer.group_add("room", name)
            await here.group_send("room", {"text": "hello"})
            assert await within(here, mine) == await within(there, theirs) == {"text": "hello"}
            await here.send(theirs, {"n": 1})
            assert await within(there, theirs) == {"n": 1}
            await there.send("reply?x", {"n": 2})
            assert await within(here, "reply?x") == {"n": 2}

    asyncio.run(body())


@pytest.mark.parametrize("keys", [(), ("a key, and long enough for 256 bits",)], ids=["plain", "sealed"])
def test_a_worker_elsewhere_gets_what_nobody_here_reads(machines: Machines, keys: tuple[str, ...]) -> None:
    """Without a reader here a message goes to another machine's worker, and no request hangs."""

    async def body() -> None:
        options: RedisLocalConfigDict = {"symmetric_encryption_keys": keys, "blind_names": bool(keys)}
        async with machines.layer("one", options) as web, machines.layer("two", options) as worker:
            waiting = asyncio.create_task(within(worker))
            for n in range(5):
                await web.send("jobs", {"n": n})
                assert await waiting == {"n": n}
                waiting = asyncio.create_task(within(worker))
            waiting.cancel()

    asyncio.run(body())


def test_a_worker_waits_for_both_halves_at_once(machines: Machines) -> None:
    """Whoever waits gets what comes from either side, in whatever turns they come."""

    async def body() -> None:
        async with (
            machines.layer("one") as here,
            machines.layer("two") as there,
            machines.layer("one") as worker,
        ):
            await machines.attend("one", worker)
            for n in range(40):
                waiting = asyncio.create_task(within(worker))
                await (here if n % 3 else there).send("jobs", {"n": n})
                assert await waiting == {"n": n}

    asyncio.run(body())


def test_neither_half_starves_the_other(machines: Machines) -> None:
    """A worker that is kept busy from here yet takes what waits on the other side."""

    async def body() -> None:
        async with (
            machines.layer("one") as here,
            machines.layer("two") as there,
            machines.layer("one") as worker,
        ):
            await machines.attend("one", worker)
            for n in range(5):
                await here.send("jobs", {"side": "here"})
                await there.send("jobs", {"side": "there", "n": n})
            came: list[object] = []
            async with asyncio.timeout(PATIENCE):
                while len(came) < 5:
                    await here.send("jobs", {"side": "here"})  # there is always more here
                    message = await worker.receive("jobs")
                    if message["side"] == "there":
                        came.append(message["n"])
            assert came == list(range(5))

    asyncio.run(body())


# -- a reader that goes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attend:
    """What a worker process needs to know."""

    machines: Machines
    machine: str


def attend(child: SyncChild, params: Attend) -> None:
    """Be known to read "jobs", then do something else for ever."""

    async def body() -> None:
        async with params.machines.layer(params.machine) as layer:
            await params.machines.attend(params.machine, layer)
            await asyncio.to_thread(child.ready)
            await asyncio.sleep(3600)

    asyncio.run(body())


@pytest.mark.parametrize("how", ["the next send", "a heartbeat"])
def test_the_channel_of_a_worker_that_is_killed_moves(machines: Machines, how: str) -> None:
    """What a killed worker has left behind goes to another machine, in order and before what is sent afterwards."""

    async def body() -> None:
        async with machines.layer("one") as web, machines.layer("two") as elsewhere:
            await web.new_channel()  # it has background work, and with it heartbeats
            with Fleet() as fleet:
                victim = fleet.spawn_sync(attend, Attend(machines, "one"))
                await asyncio.to_thread(victim.wait_ready)
                victim.go()
                for n in range(3):
                    await web.send("jobs", {"n": n})
                assert await machines.waiting_here("one") == 3
                await asyncio.to_thread(victim.kill9)
            if how == "the next send":
                async with asyncio.timeout(PATIENCE):
                    n = 3
                    while await machines.waiting_here("two") == 0:  # the other machine's half is empty: this is Redis
                        await web.send("jobs", {"n": n})
                        n += 1
                        await asyncio.sleep(0.01)
            else:
                n = 3
                async with asyncio.timeout(PATIENCE):
                    while await machines.waiting_here("two") < n:
                        await web.tend()
            assert [(await within(elsewhere))["n"] for _ in range(n)] == list(range(n))

    asyncio.run(body())


def test_a_worker_that_closes_leaves_nothing_behind(machines: Machines) -> None:
    """What waits for a layer that is closed goes to the other machines at once, though its machine is deserted then."""

    async def body() -> None:
        async with machines.layer("one") as worker:
            await machines.attend("one", worker)
            for n in range(3):
                await worker.send("jobs", {"n": n})
        async with machines.layer("two") as elsewhere:
            assert [(await within(elsewhere))["n"] for _ in range(3)] == [0, 1, 2]

    asyncio.run(body())


def test_who_does_not_come_back_is_no_reader(machines: Machines) -> None:
    """A worker that lives and has not asked for half of expiry does not keep messages from the others."""
    clock = VirtualClock()

    async def body() -> None:
        async with (
            machines.layer("one", clock=clock) as web,
            machines.layer("one", clock=clock) as worker,
            machines.layer("two", clock=clock) as elsewhere,
        ):
            await machines.attend("one", worker)
            clock.advance(20.0)
            await web.send("jobs", {"n": 0})
            assert (await machines.waiting_here("two"), await machines.waiting_here("one")) == (0, 1)
            clock.advance(31.0)
            await web.send("jobs", {"n": 1})
            assert [(await within(elsewhere))["n"] for _ in range(2)] == [0, 1]

    asyncio.run(body())


def test_a_message_that_moves_gets_no_younger(machines: Machines) -> None:
    """Expiry counts from when a message was sent, not from when it changed sides; the loss is counted."""
    clock = VirtualClock()

    async def body() -> None:
        async with machines.layer("one", clock=clock) as web, machines.layer("two", clock=clock) as elsewhere:
            async with machines.layer("one", clock=clock) as worker:
                await machines.attend("one", worker)
                await web.send("jobs", {"n": 0})
                clock.advance(40.0)
                await web.send("jobs", {"n": 1})  # nobody attends any more: the first one moves, too
            clock.advance(19.0)
            assert await within(elsewhere) == {"n": 0}
            async with machines.layer("one", clock=clock) as worker:
                await machines.attend("one", worker, "jobs2")
                await web.send("jobs2", {"n": 2})
                clock.advance(40.0)
                await web.send("jobs2", {"n": 3})
                clock.advance(21.0)
                assert await within(elsewhere, "jobs2") == {"n": 3}

    asyncio.run(body())


# -- the option ----------------------------------------------------------------------------------------------------


def test_error_says_that_nobody_is_here(machines: Machines) -> None:
    """With "error" a send that finds no reader here raises, and nothing is sent anywhere."""

    async def body() -> None:
        async with machines.layer("one", {"no_local_reader": "error"}) as web:
            with pytest.raises(NoLocalReader, match="start a worker here") as caught:
                await web.send("jobs", {"n": 0})
            assert caught.value.channel == "jobs"
            assert await machines.waiting_here("one") == 0
            await web.group_add("all", "jobs")
            await web.group_send("all", {"n": 1})  # of a group, a member that nobody here reads is no error
            async with machines.layer("two") as elsewhere:
                assert await within(elsewhere) == {"n": 1}

    asyncio.run(body())


def test_queue_waits_for_a_reader_here(machines: Machines) -> None:
    """With "queue" a message waits on its machine until somebody there reads, as with asgi_redis."""

    async def body() -> None:
        async with machines.layer("one", {"no_local_reader": "queue"}) as web:
            await web.send("jobs", {"n": 0})
            await web.tend()
            assert (await machines.waiting_here("two"), await machines.waiting_here("one")) == (0, 1)
            async with machines.layer("one") as worker:
                assert await within(worker) == {"n": 0}

    asyncio.run(body())


# -- capacity and flush --------------------------------------------------------------------------------------------


def test_capacity_is_exact_on_either_side(machines: Machines) -> None:
    """Each half holds the channel's capacity and no more, also of a channel that has one of its own."""

    async def fill(layer: RedisLocalChannelLayer, channel: str) -> int:
        for n in range(50):
            try:
                await layer.send(channel, {"n": n})
            except ChannelFull:
                return n
        return 50

    async def body() -> None:
        options: RedisLocalConfigDict = {"capacity": 7, "channel_capacity": {"small*": 3}}
        async with machines.layer("one", options) as web, machines.layer("one", options) as worker:
            assert (await fill(web, "jobs"), await fill(web, "small")) == (7, 3)
            for name, capacity in (("jobs2", 7), ("small2", 3)):
                await machines.attend("one", worker, name)
                assert await fill(web, name) == capacity
                assert await machines.waiting_here("one", name) == capacity

    asyncio.run(body())


def test_what_was_sent_before_anybody_read_comes_first(machines: Machines) -> None:
    """A reader who comes takes what waits on the other side before senders here keep messages from it."""

    async def body() -> None:
        async with machines.layer("one", {"capacity": 10}) as web, machines.layer("one") as worker:
            for n in range(10):
                await web.send("jobs", {"n": n})
            came: list[object] = []
            for n in range(10, 30):
                came.append((await within(worker))["n"])
                await web.send("jobs", {"n": n})
            came += [(await within(worker))["n"] for _ in range(10)]
            assert came == list(range(30))

    asyncio.run(body())


def test_a_flush_reaches_the_halves_of_other_machines(machines: Machines) -> None:
    """flush() empties this machine's half and those of all machines on which a process owns channels."""

    async def body() -> None:
        async with machines.layer("one") as here, machines.layer("two") as there:
            for name, layer in (("one", here), ("two", there)):
                await layer.new_channel()
                await machines.attend(name, layer)
                await layer.send("jobs", {"n": 1})
                assert await machines.waiting_here(name) == 1
            await here.flush()
            assert [await machines.waiting_here(name) for name in ("one", "two")] == [0, 0]
            for name, layer in (("one", here), ("two", there)):
                async with machines.layer(name, {"no_local_reader": "error"}) as web:
                    await web.send("jobs", {"n": 2})  # who reads is known as before
                assert await within(layer) == {"n": 2}

    asyncio.run(body())
