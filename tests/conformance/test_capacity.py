"""The capacity holds with senders in several processes, with an owner that does not read, and after a lost reply.

Concurrent senders must not exceed the bound, and a credit that is never returned would close the channel for good.
"""

from __future__ import annotations

import asyncio
from typing import TypeVar

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.testing.suites.tools import number
from channel_layer_redis._store import RedisStore
from tests.support.scenarios_delivery import BOUND, Bursts, bursts, eventually, hold_reads
from tests.support.systems import System

R = TypeVar("R")

CAPACITY = 10


async def _fill(layer: ChannelLayer, channel: str, most: int = 1000) -> int:
    """Send until the channel is full; return how many messages it took."""
    for count in range(most):
        try:
            await layer.send(channel, {"n": count})
        except ChannelFull:
            return count
    raise AssertionError(f"{channel} took {most} messages")


async def _takes_exactly(crowd: Bursts, channel: str, places: int) -> None:
    """Run 200 senders repeatedly: in the end exactly *places* messages are accepted."""
    accepted = 0
    async with asyncio.timeout(BOUND):
        while accepted < places:  # credits come back in batches, so a whole burst may be refused
            accepted += await crowd.burst(channel)
    accepted += await crowd.burst(channel)
    assert accepted == places, channel


async def test_a_crowd_of_processes_gets_exactly_the_capacity(redis_system: System) -> None:
    """Of 200 concurrent sends from 4 processes into capacity 10, 10 are accepted; when k are received, k more.

    On a normal channel (spread over all hosts), on a single-reader one, on one of an inbox without owner, and on one
    whose owner stalls.
    """
    async with redis_system.layer(capacity=CAPACITY) as reader, bursts(redis_system, capacity=CAPACITY) as crowd:
        owned = await reader.new_channel()
        for channel in ("jobs", "reply?x", "unread!x", owned):
            assert await crowd.burst(channel) == CAPACITY, channel
            assert await crowd.burst(channel) == 0, channel
            for received in (1, 4, CAPACITY):
                for _ in range(received):
                    await asyncio.wait_for(reader.receive(channel), BOUND)
                await _takes_exactly(crowd, channel, received)


async def test_an_owner_that_does_not_even_read_is_credits_no_more(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owned channel takes its capacity and no more while its process reads nothing at all, and after it does."""
    reads = hold_reads(monkeypatch)

    async with system.layer(capacity=CAPACITY) as owner, system.layer(capacity=CAPACITY) as sender:
        reads.hold()
        channel = await owner.new_channel()
        assert await _fill(sender, channel) == CAPACITY
        reads.let_go()
        await eventually(lambda: _holds(owner, CAPACITY), "the owner has read everything")
        with pytest.raises(ChannelFull):  # no receiver has read it yet
            await sender.send(channel, {"n": -1})
        assert [number(await owner.receive(channel)) for _ in range(CAPACITY)] == list(range(CAPACITY))


async def _sends(layer: ChannelLayer, channel: str, n: int = 98) -> bool:
    """Send one message; return whether it was accepted."""
    try:
        await layer.send(channel, {"n": n})
    except ChannelFull:
        return False
    return True


async def _holds(layer: ChannelLayer, count: int) -> bool:
    return layer.counts().waiting == count


async def test_the_bound_of_a_whole_inbox_holds(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that is not read holds inbox_capacity entries; then send() raises, and group_send() drops and counts."""
    reads = hold_reads(monkeypatch)

    options = {"inbox_capacity": 30}
    async with system.layer(**options) as owner, system.layer(**options) as sender:
        reads.hold()
        channel, other = await owner.new_channel(), await owner.new_channel()
        await owner.group_add("group", other)  # its marker is not limited by a capacity, but counts as an entry
        for n in range(40):
            await sender.group_send("group", {"n": n})
        with pytest.raises(ChannelFull):
            await sender.send(channel, {"n": 0})
        await owner.group_add("group", channel)  # a marker is accepted all the same
        assert sender.counts().dropped == {"inbox_full": 11}
        reads.let_go()
        assert [number(await owner.receive(other)) for _ in range(29)] == list(range(29))
        await eventually(lambda: _sends(sender, channel), "what was read has left the inbox")
        await sender.group_send("group", {"n": 99})
        assert [number(await owner.receive(channel)) for _ in range(2)] == [98, 99]


async def test_places_that_are_given_back_twice_count_once(
    redis_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the reply to a batch of returned credits is lost, sending the batch again admits no extra message."""
    original = RedisStore.execute
    lost: list[c.ReturnCredits] = []

    async def lose_reply(self: RedisStore, command: c.Command[R], /) -> R:
        reply = await original(self, command)
        if isinstance(command, c.ReturnCredits) and len(lost) < 3:
            lost.append(command)
            raise StoreError("the reply is lost", retryable=True, outcome="unknown")
        return reply

    monkeypatch.setattr(RedisStore, "execute", lose_reply)

    async with redis_system.layer(capacity=9) as owner, redis_system.layer(capacity=9) as sender:
        channel = await owner.new_channel()
        assert await _fill(sender, channel) == 9
        for _ in range(3):
            await owner.receive(channel)
        accepted = 0
        async with asyncio.timeout(BOUND):
            while accepted < 3 or len(lost) < 3:
                accepted += await _fill(sender, channel)
                await asyncio.sleep(0.005)
        assert len({request.serial for request in lost}) == 1  # one batch, sent repeatedly
        await asyncio.sleep(0)
        assert accepted + await _fill(sender, channel) == 3
