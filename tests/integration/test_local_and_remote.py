"""Two machines over one Redis, simulated by two directories: which messages stay local, and which go to Redis."""

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
"""Seconds after which an expected event counts as missing."""

pytestmark = pytest.mark.usefixtures("settled", "tidied")


@dataclass(frozen=True)
class Machines:
    """Machines by name, each a directory, and one Redis for all.

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

    async def register(self, machine: str, layer: RedisLocalChannelLayer, channel: str = "jobs") -> None:
        """Register a layer as a reader of a channel on its machine; it does not wait there when this returns."""
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
        """Return how many messages wait in the local store of a machine."""
        async with self.layer(machine) as layer:
            return (await layer.statistics(channel)).messages_pending or 0


@pytest.fixture
def machines(tmp_path: Path, one_host: Deployment, prefix: str) -> Machines:
    """Machines over one Redis."""
    return Machines(str(tmp_path), tuple(one_host.urls), prefix)


async def within(layer: RedisLocalChannelLayer, channel: str = "jobs") -> Message:
    """Receive within a time limit."""
    async with asyncio.timeout(PATIENCE):
        return await layer.receive(channel)


def commands(server: Server) -> dict[str, int]:
    """Return how often a server has run each command, without those that ask for this."""
    counted: dict[str, int] = {}
    text = repr(server.host().info("commandstats"))
    for name, calls in re.findall(r"'(cmdstat_[^']+)': {'calls': (\d+)", text):
        if name not in ("cmdstat_info", "cmdstat_hello", "cmdstat_client|setinfo"):
            counted[name] = int(calls)
    return counted


# -- local traffic ------------------------------------------------------------------------------------------------


async def test_local_traffic_costs_the_server_nothing(tmp_path: Path, start_server: StartServer) -> None:
    """While there is a local reader, a thousand messages cost Redis no more commands than none."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async with machines.layer("one") as web, machines.layer("one") as worker:
        await machines.register("one", worker)
        await web.new_channel()  # a lease, as every web process has one
        waiting = asyncio.create_task(worker.receive("jobs"))
        await machines.register("one", worker, "other")  # everything has been running for so long
        before = commands(server)
        for n in range(1000):
            await web.send("jobs", {"n": n})
            assert await waiting == {"n": n}
            if n % 2:  # a worker that waits, and one that has received before
                await web.send("jobs", {"n": -n})
                assert await worker.receive("jobs") == {"n": -n}
            waiting = asyncio.create_task(worker.receive("jobs"))
        after = commands(server)
        waiting.cancel()
        assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)} == {}


async def test_a_backlog_here_is_no_reason_to_look_elsewhere(tmp_path: Path, start_server: StartServer) -> None:
    """A worker that always finds local messages does not ask Redis for every message."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async with (
        machines.layer("one") as web,
        machines.layer("one") as worker,
        machines.layer("two") as elsewhere,
    ):
        await machines.register("one", worker)
        await elsewhere.send("jobs", {"n": -1})  # notifies the worker, which does not need it: now no wait is open
        for n in range(90):
            await web.send("jobs", {"n": n})
        before = commands(server)
        came = [(await within(worker))["n"] for _ in range(91)]
        after = commands(server)
        assert after["cmdstat_evalsha"] - before["cmdstat_evalsha"] < 10
        assert sorted(str(n) for n in came) == sorted(str(n) for n in range(-1, 90))


async def test_local_traffic_goes_on_while_the_server_is_away(tmp_path: Path, start_server: StartServer) -> None:
    """Without a server, messages with a local reader are delivered; a send without one raises StoreError."""
    server = start_server()
    machines = Machines(str(tmp_path), (server.url,), "test:")

    async with machines.layer("one") as web, machines.layer("one") as worker:
        await machines.register("one", worker)
        server.kill()
        for n in range(10):
            await web.send("jobs", {"n": n})
            assert await within(worker) == {"n": n}
        with pytest.raises(StoreError):
            await web.send("elsewhere", {"n": 0})


# -- remote traffic ------------------------------------------------------------------------------------------------


async def test_groups_and_single_readers_are_on_all_machines(machines: Machines) -> None:
    """A group has members on both machines, and a single-reader channel reaches its reader on either."""
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


@pytest.mark.parametrize("keys", [(), ("a key, and long enough for 256 bits",)], ids=["plain", "sealed"])
async def test_a_remote_worker_gets_messages_without_a_local_reader(machines: Machines, keys: tuple[str, ...]) -> None:
    """Without a local reader a message goes to a worker of another machine, and no request hangs."""
    options: RedisLocalConfigDict = {"symmetric_encryption_keys": keys, "blind_names": bool(keys)}
    async with machines.layer("one", options) as web, machines.layer("two", options) as worker:
        waiting = asyncio.create_task(within(worker))
        for n in range(5):
            await web.send("jobs", {"n": n})
            assert await waiting == {"n": n}
            waiting = asyncio.create_task(within(worker))
        waiting.cancel()


async def test_a_worker_waits_for_both_stores_at_once(machines: Machines) -> None:
    """A waiting worker gets messages of either store, in whatever sequence they arrive."""
    async with (
        machines.layer("one") as here,
        machines.layer("two") as there,
        machines.layer("one") as worker,
    ):
        await machines.register("one", worker)
        for n in range(40):
            waiting = asyncio.create_task(within(worker))
            await (here if n % 3 else there).send("jobs", {"n": n})
            assert await waiting == {"n": n}


async def test_neither_store_starves_the_other(machines: Machines) -> None:
    """A worker kept busy by local messages still receives those that wait in Redis."""
    async with (
        machines.layer("one") as here,
        machines.layer("two") as there,
        machines.layer("one") as worker,
    ):
        await machines.register("one", worker)
        for n in range(5):
            await here.send("jobs", {"side": "here"})
            await there.send("jobs", {"side": "there", "n": n})
        came: list[object] = []
        async with asyncio.timeout(PATIENCE):
            while len(came) < 5:
                await here.send("jobs", {"side": "here"})  # there is always another local message
                message = await worker.receive("jobs")
                if message["side"] == "there":
                    came.append(message["n"])
        assert came == list(range(5))


# -- readers that go away -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attend:
    """The parameters of a worker process."""

    machines: Machines
    machine: str


def register(child: SyncChild, params: Attend) -> None:
    """Be registered as a reader of "jobs", then never read again."""

    async def body() -> None:
        async with params.machines.layer(params.machine) as layer:
            await params.machines.register(params.machine, layer)
            await asyncio.to_thread(child.ready)
            await asyncio.sleep(3600)

    asyncio.run(body())


@pytest.mark.parametrize("how", ["the next send", "a heartbeat"])
async def test_the_channel_of_a_worker_that_is_killed_moves(machines: Machines, how: str) -> None:
    """Messages left by a killed worker go to another machine, in order and before those sent afterwards."""
    async with machines.layer("one") as web, machines.layer("two") as elsewhere:
        await web.new_channel()  # it has background work, and so heartbeats
        with Fleet() as fleet:
            victim = fleet.spawn_sync(register, Attend(machines, "one"))
            await asyncio.to_thread(victim.wait_ready)
            victim.go()
            for n in range(3):
                await web.send("jobs", {"n": n})
            assert await machines.waiting_here("one") == 3
            await asyncio.to_thread(victim.kill9)
        if how == "the next send":
            async with asyncio.timeout(PATIENCE):
                n = 3
                while await machines.waiting_here("two") == 0:  # that local store is empty: this is Redis
                    await web.send("jobs", {"n": n})
                    n += 1
                    await asyncio.sleep(0.01)
        else:
            n = 3
            async with asyncio.timeout(PATIENCE):
                while await machines.waiting_here("two") < n:
                    await web.run_maintenance()
        assert [(await within(elsewhere))["n"] for _ in range(n)] == list(range(n))


async def test_a_worker_that_closes_leaves_nothing_behind(machines: Machines) -> None:
    """Messages that wait for a closed layer go to other machines at once, although its machine has no process left."""
    async with machines.layer("one") as worker:
        await machines.register("one", worker)
        for n in range(3):
            await worker.send("jobs", {"n": n})
    async with machines.layer("two") as elsewhere:
        assert [(await within(elsewhere))["n"] for _ in range(3)] == [0, 1, 2]


async def test_a_worker_that_stops_receiving_is_no_reader(machines: Machines) -> None:
    """A live worker that has not received for half of expiry does not keep messages from other machines."""
    clock = VirtualClock()

    async with (
        machines.layer("one", clock=clock) as web,
        machines.layer("one", clock=clock) as worker,
        machines.layer("two", clock=clock) as elsewhere,
    ):
        await machines.register("one", worker)
        clock.advance(20.0)
        await web.send("jobs", {"n": 0})
        assert (await machines.waiting_here("two"), await machines.waiting_here("one")) == (0, 1)
        clock.advance(31.0)
        await web.send("jobs", {"n": 1})
        assert [(await within(elsewhere))["n"] for _ in range(2)] == [0, 1]


async def test_a_message_that_moves_gets_no_younger(machines: Machines) -> None:
    """Expiry counts from when a message was sent, not from its move to Redis; an expired message is counted."""
    clock = VirtualClock()

    async with machines.layer("one", clock=clock) as web, machines.layer("two", clock=clock) as elsewhere:
        async with machines.layer("one", clock=clock) as worker:
            await machines.register("one", worker)
            await web.send("jobs", {"n": 0})
            clock.advance(40.0)
            await web.send("jobs", {"n": 1})  # no reader is registered any more: the first one moves too
        clock.advance(19.0)
        assert await within(elsewhere) == {"n": 0}
        async with machines.layer("one", clock=clock) as worker:
            await machines.register("one", worker, "jobs2")
            await web.send("jobs2", {"n": 2})
            clock.advance(40.0)
            await web.send("jobs2", {"n": 3})
            clock.advance(21.0)
            assert await within(elsewhere, "jobs2") == {"n": 3}


# -- the option ----------------------------------------------------------------------------------------------------


async def test_error_reports_a_missing_local_reader(machines: Machines) -> None:
    """With "error" a send without a local reader raises, and nothing is sent."""
    async with machines.layer("one", {"no_local_reader": "error"}) as web:
        with pytest.raises(NoLocalReader, match="start a worker here") as caught:
            await web.send("jobs", {"n": 0})
        assert caught.value.channel == "jobs"
        assert await machines.waiting_here("one") == 0
        await web.group_add("all", "jobs")
        await web.group_send("all", {"n": 1})  # a group's member without a local reader is no error
        async with machines.layer("two") as elsewhere:
            assert await within(elsewhere) == {"n": 1}


async def test_queue_waits_for_a_reader_here(machines: Machines) -> None:
    """With "queue" a message waits on its machine for a local reader, as with asgi_redis."""
    async with machines.layer("one", {"no_local_reader": "queue"}) as web:
        await web.send("jobs", {"n": 0})
        await web.run_maintenance()
        assert (await machines.waiting_here("two"), await machines.waiting_here("one")) == (0, 1)
        async with machines.layer("one") as worker:
            assert await within(worker) == {"n": 0}


# -- capacity and flush --------------------------------------------------------------------------------------------


async def test_capacity_is_exact_on_either_side(machines: Machines) -> None:
    """Each store holds the channel's capacity and no more, also that of a channel with a capacity of its own."""

    async def fill(layer: RedisLocalChannelLayer, channel: str) -> int:
        for n in range(50):
            try:
                await layer.send(channel, {"n": n})
            except ChannelFull:
                return n
        return 50

    options: RedisLocalConfigDict = {"capacity": 7, "channel_capacity": {"small*": 3}}
    async with machines.layer("one", options) as web, machines.layer("one", options) as worker:
        assert (await fill(web, "jobs"), await fill(web, "small")) == (7, 3)
        for name, capacity in (("jobs2", 7), ("small2", 3)):
            await machines.register("one", worker, name)
            assert await fill(web, name) == capacity
            assert await machines.waiting_here("one", name) == capacity


async def test_messages_sent_before_the_first_reader_come_first(machines: Machines) -> None:
    """A new local reader first receives what waits in Redis; then local sends stay local."""
    async with machines.layer("one", {"capacity": 10}) as web, machines.layer("one") as worker:
        for n in range(10):
            await web.send("jobs", {"n": n})
        came: list[object] = []
        for n in range(10, 30):
            came.append((await within(worker))["n"])
            await web.send("jobs", {"n": n})
        came += [(await within(worker))["n"] for _ in range(10)]
        assert came == list(range(30))


async def test_a_flush_reaches_the_local_stores_of_other_machines(machines: Machines) -> None:
    """flush() empties the local stores of this machine and of all machines on which a process owns channels."""
    async with machines.layer("one") as here, machines.layer("two") as there:
        for name, layer in (("one", here), ("two", there)):
            await layer.new_channel()
            await machines.register(name, layer)
            await layer.send("jobs", {"n": 1})
            assert await machines.waiting_here(name) == 1
        await here.flush()
        assert [await machines.waiting_here(name) for name in ("one", "two")] == [0, 0]
        for name, layer in (("one", here), ("two", there)):
            async with machines.layer(name, {"no_local_reader": "error"}) as web:
                await web.send("jobs", {"n": 2})  # registered readers stay registered
            assert await within(layer) == {"n": 2}
