"""`flush()`: when it has returned nobody can see anything of before, and nothing else was touched."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelLayer
from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet
from tests.support.scenarios_groups import collect, receive_within
from tests.support.systems import System, run

if TYPE_CHECKING:
    from tests.support.servers import Deployment, StartServer

KINDS = ("jobs", "reply?x", "claimed!local")


@pytest.mark.usefixtures("loops")
def test_nothing_of_before_is_there_afterwards(system: System) -> None:
    """Messages in every kind of channel, in the store and in mailboxes, and memberships are gone for every process."""

    async def body() -> None:
        async with system.layer() as one, system.layer() as two:
            owned = [await one.new_channel() for _ in range(3)]
            for channel in (*owned, *KINDS):
                await one.group_add("group", channel)
                await two.send(channel, {"n": "direct"})
                await two.group_send("group", {"n": "group"})
            assert await one.receive(owned[0])  # so the rest is known to be in the mailboxes, or on its way there
            await two.flush()
            assert await one.group_channels("group") == []
            await two.group_send("group", {"n": "to nobody"})
            for channel in (*owned, *KINDS):
                await two.send(channel, {"n": "new"})
                assert await receive_within(one, channel) == {"n": "new"}
            for channel in owned:
                assert await collect(one, channel) == []
            for channel in KINDS:
                assert (await one.statistics(channel)).pending == 0

    run(body())


def test_every_place_is_free_again(system: System) -> None:
    """A channel that was full takes its whole capacity after a flush, and one message more is refused."""

    async def body() -> None:
        async with system.layer(capacity=5) as owner, system.layer(capacity=5) as sender:
            owned = await owner.new_channel()
            for channel in (owned, *KINDS):
                for round_number in range(3):
                    for number in range(5):
                        await sender.send(channel, {"n": number})
                    with pytest.raises(ChannelLayer.ChannelFull):
                        await sender.send(channel, {"n": 5})
                    if round_number < 2:
                        await sender.flush()

    run(body())


def test_one_who_waits_goes_on_waiting_and_gets_the_next(system: System) -> None:
    """A `receive()` that waits during a flush gets what is sent after it."""

    async def body() -> None:
        async with system.layer() as reader, system.layer() as other:
            owned = await reader.new_channel()
            channels = (owned, *KINDS)
            waiting = [asyncio.create_task(reader.receive(channel)) for channel in channels]
            for channel, task in zip(channels, waiting, strict=True):
                await other.send(channel, {"n": 0})  # each is known to wait in earnest
                assert await task == {"n": 0}
            waiting = [asyncio.create_task(reader.receive(channel)) for channel in channels]
            await asyncio.sleep(0)
            await other.flush()
            assert not any(task.done() for task in waiting)
            for channel, task in zip(channels, waiting, strict=True):
                await other.send(channel, {"n": 1})
                async with asyncio.timeout(20):
                    assert await task == {"n": 1}

    run(body())


def test_a_member_that_joins_again_is_one(system: System) -> None:
    """After a flush a membership can be made anew, and works as if there had been none."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as other:
            name = await owner.new_channel()
            await owner.group_add("group", name)
            await other.flush()
            await owner.group_add("group", name)
            await other.group_send("group", {"n": 1})
            assert await owner.group_channels("group") == [name]
            assert await collect(owner, name) == [{"n": 1}]

    run(body())


@pytest.mark.parametrize(
    ("mine", "other"), [("asgi", "asgi2"), ("asgi2", "asgi"), ("a*b[c]?", "aXbc!"), ("asgi:", "asgi"), ("", "x")]
)
def test_a_flush_ends_at_its_prefix(deployment: Deployment, prefix: str, mine: str, other: str) -> None:
    """Layers of other prefixes lose nothing, even if one begins with the other, or matches it as a pattern."""
    tag = prefix.rstrip(":")

    async def body() -> None:
        async with (
            RedisChannelLayer(hosts=deployment.urls, prefix=tag + mine) as flushed,
            RedisChannelLayer(hosts=deployment.urls, prefix=tag + other) as kept,
        ):
            name = await kept.new_channel()
            await kept.group_add("group", name)
            await kept.send(name, {"n": 1})
            await kept.send("jobs", {"n": 2})
            await flushed.send("jobs", {"n": 3})
            await flushed.flush()
            assert (await flushed.statistics("jobs")).pending == 0
            assert await receive_within(kept, name) == {"n": 1}
            assert await receive_within(kept, "jobs") == {"n": 2}
            assert await kept.group_channels("group") == [name]
            await kept.flush()

    run(body())


def test_a_flush_never_lists_all_keys(start_server: StartServer, prefix: str) -> None:
    """The server sees SCAN and no KEYS, which would stop it for everybody."""
    server = start_server()

    async def body() -> None:
        async with RedisChannelLayer(hosts=[server.url], prefix=prefix) as layer:
            await layer.send("jobs", {"n": 1})
            await layer.flush()

    run(body())
    used = server.host().info("commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


async def own(child: AsyncChild, job: tuple[list[str], str]) -> list[object]:
    """Own a member of a group, with messages in its mailbox; then see what comes next."""
    hosts, prefix = job
    async with RedisChannelLayer(hosts=hosts, prefix=prefix, expiry=2) as layer:
        name = await layer.new_channel()
        await layer.group_add("group", name)
        for number in range(10):
            await layer.send(name, {"n": number})
        assert (await layer.receive(name))["n"] == 0
        await child.ready(name)
        return [(await layer.receive(name))["n"]]


def test_it_waits_for_living_processes_and_not_for_dead_ones(deployment: Deployment, prefix: str) -> None:
    """With a process that stands still a flush waits for it, or for its lease; a killed one costs at most a lease."""

    async def body(fleet: Fleet) -> None:
        lives, stands, dies = (fleet.spawn(own, (deployment.urls, prefix)) for _ in range(3))
        names = [await asyncio.to_thread(worker.wait_ready) for worker in (lives, stands, dies)]
        async with RedisChannelLayer(hosts=deployment.urls, prefix=prefix, expiry=2) as layer:
            assert await layer.group_channels("group") == sorted(names)
            await asyncio.to_thread(dies.kill9)
            stands.send_signal(signal.SIGSTOP)
            flushing = asyncio.create_task(layer.flush())
            await asyncio.sleep(0.2)
            assert not flushing.done()  # two have not said that they dropped what they held
            stands.send_signal(signal.SIGCONT)
            async with asyncio.timeout(10):  # a lease is 3 s
                await flushing
            assert await layer.group_channels("group") == []
            fleet.go()
            for name in names[:2]:
                await layer.send(name, {"n": "new"})
            for worker in (lives, stands):
                assert await asyncio.to_thread(worker.result) == ["new"]

    with Fleet() as fleet:
        asyncio.run(body(fleet))
