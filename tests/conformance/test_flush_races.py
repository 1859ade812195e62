"""`flush()` while something else is half way: each meeting is put together on purpose."""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from channel_layer import ChannelFull, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.testing.suites.tools import drain
from tests.support.scenarios_groups import (
    are_waiting,
    collect,
    eventually,
    have_answered,
    hold,
    lose_leases,
    receive_within,
    record,
)
from tests.support.servers import Deployment, StartServer, fresh_prefix
from tests.support.systems import System

pytestmark = pytest.mark.usefixtures("settled")


@pytest.mark.parametrize("stands", [c.Read, c.Acknowledge])
async def test_it_returns_no_sooner_than_a_living_owner_has_dropped_everything(
    system: System, monkeypatch: pytest.MonkeyPatch, stands: type[c.Read | c.Acknowledge]
) -> None:
    """However often it asks, it waits for an owner that has not said so; and then nothing of before is left there."""
    async with system.layer() as owner, system.layer() as other:
        gate = hold(monkeypatch, stands, lambda request: request.inbox.name.startswith("slow."))
        asked = record(monkeypatch, c.Unflushed)
        name = await owner.new_channel("slow")
        await owner.group_add("group", name)
        await other.send(name, {"n": 1})
        flushing = asyncio.create_task(other.flush())
        await eventually(lambda: _longer(asked, 5))
        assert not flushing.done()
        assert all(asked)  # each time it was told of this one
        gate.open()
        async with asyncio.timeout(20):
            await flushing
        assert await are_waiting(owner, 0)
        assert await collect(owner, name) == []
        assert await other.group_channels("group") == []


async def test_an_owner_that_answers_late_keeps_nothing_from_before_the_flush(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was sent to it before, its memberships and the places that it held are gone once it reads on.

    It gets what was sent meanwhile, and its channel takes its capacity exactly.
    """
    async with system.layer(capacity=2) as owner, system.layer(capacity=2, timeout=1.0) as other:
        name, kept = await owner.new_channel("slow"), await owner.new_channel("slow")
        for channel in (name, kept):
            await owner.group_add("group", channel)
            for n in (1, 2):
                await other.send(channel, {"n": n})
        await eventually(lambda: are_waiting(owner, 4))
        gate = hold(monkeypatch, c.Read, lambda request: request.inbox.name.startswith("slow."))
        await owner.send(name + "x", {"n": 0})  # lets the read that waits in the store return; the next one stands
        await gate.reached()
        await other.flush()
        assert other._state.unflushed
        await owner.receive(name)  # it reads nothing yet, so it knows nothing yet; the place is one of before
        for n in (3, 4):
            await other.send(name, {"n": n})
        with pytest.raises(ChannelFull):
            await other.send(name, {"n": 5})
        await owner.group_add("another", kept)
        await owner.group_add("group", name)
        await other.group_send("group", {"n": 6})
        await other.group_send("another", {"n": 7})
        gate.open()
        async with aclosing(other._backend.open()) as store:
            await eventually(lambda: have_answered(store, other._state.unflushed))
        assert await receive_within(owner, kept) == {"n": 7}
        assert [await receive_within(owner, name) for _ in range(2)] == [{"n": 3}, {"n": 4}]
        assert await are_waiting(owner, 0)
        assert await other.group_channels("group") == [name]
        await other.flush()
        assert not other._state.unflushed


async def _longer(some: list[tuple[str, ...]], count: int) -> bool:
    return len(some) > count


async def test_an_owner_without_a_lease_learns_of_a_flush_later(system: System) -> None:
    """An owner that no marker could reach finds the flush when it takes its lease again: nothing of before is left."""
    async with system.layer() as owner, system.layer() as other:
        member, reader = await owner.new_channel(), await owner.new_channel()
        await owner.group_add("group", member)
        await other.send(member, {"n": 1})
        await eventually(lambda: are_waiting(owner, 1))
        lose_leases(system)
        await other.flush()
        await owner.group_add("another", reader)  # takes the lease again
        assert await other.group_channels("group") == []
        await other.group_send("group", {"n": 2})
        await other.group_send("another", {"n": 3})
        assert await collect(owner, member) == []
        assert await collect(owner, reader) == [{"n": 3}]
        assert sum(owner.counts().dropped.values()) == 1


@pytest.mark.parametrize("channel", ["jobs", "reply?x"])
async def test_what_is_put_back_after_a_flush_is_not_received(system: System, channel: str) -> None:
    """A message popped for a receiver that has gone, and put back when its queue has been flushed, is gone, counted."""
    queue = ChannelName.parse(channel).queue
    async with system.layer() as layer, system.layer() as other:
        store = layer._backend.open()
        await layer.send(channel, {"n": 1})
        taken: list[tuple[int, c.Entry]] = []
        for shard in layer._pipeline.routes.shards(queue):
            popped = await store.execute(c.Pop(shard, queue, 1, "me"))
            taken.extend((shard, entry) for entry in popped.entries)
        [(shard, entry)] = taken
        await other.flush()
        await other.send(channel, {"n": 2})
        returned = await store.execute(c.PutBack(shard, queue, (entry,)))
        assert await receive_within(other, channel) == {"n": 2}
        assert await drain(other, channel) == []
        flushed = other.counts().dropped.get("flushed", 0)
        assert flushed + returned.flushed == 1
        await store.aclose()


async def test_what_is_put_back_is_received_though_there_was_a_flush_before(system: System) -> None:
    """A flush takes with it what is older than it, and nothing that was sent since."""
    queue = ChannelName.parse("reply?x").queue
    async with system.layer() as layer:
        store = layer._backend.open()
        await layer.flush()
        await layer.send("reply?x", {"n": 1})
        await layer.send("reply?x", {"n": 2})
        [shard] = layer._pipeline.routes.shards(queue)
        popped = await store.execute(c.Pop(shard, queue, 1, "me"))
        assert await store.execute(c.PutBack(shard, queue, popped.entries)) == c.Returned(expired=0, flushed=0)
        for n in (1, 2):
            assert await receive_within(layer, "reply?x") == {"n": n}
        await store.aclose()


async def test_a_flush_that_cannot_reach_a_host_says_so(start_server: StartServer) -> None:
    """With one of three servers gone `flush` raises a `StoreError` in time; once it is back a flush works."""
    servers = [start_server() for _ in range(3)]
    system = System(Deployment(tuple(server.host() for server in servers)), fresh_prefix())
    async with system.layer(timeout=1) as owner, system.layer(timeout=1) as other:
        names = [await owner.new_channel() for _ in range(3)]
        servers[1].kill()
        began = asyncio.get_running_loop().time()
        with pytest.raises(StoreError, match="is a server running there") as caught:
            await other.flush()
        assert caught.value.retryable
        assert asyncio.get_running_loop().time() - began < 5
        servers[1].restart_empty()

        async def flushed() -> bool:
            try:
                await other.flush()
            except StoreError:
                return False
            return True

        await eventually(flushed)
        for name in names:
            await other.send(name, {"n": 1})
            assert await receive_within(owner, name) == {"n": 1}
