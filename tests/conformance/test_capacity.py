"""A channel holds as many unread messages as its capacity says, exactly, whoever sends from wherever.

A bound that a crowd of senders can slip past is none, and a place that never comes back is a channel that dies.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer_redis._store import RedisStore
from tests.support.scenarios_delivery import BOUND, Bursts, bursts, drain, eventually, hold_reads, number
from tests.support.servers import Deployment, fresh_prefix
from tests.support.systems import System, run

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
    """Let 200 senders at it again and again: in the end *places* messages are accepted, and never one more."""
    accepted = 0
    async with asyncio.timeout(BOUND):
        while accepted < places:  # places come back in batches: a burst may be refused too often
            accepted += await crowd.burst(channel)
    accepted += await crowd.burst(channel)
    assert accepted == places, channel


# --- from many processes at once ----------------------------------------------------------------------------


def test_a_crowd_of_senders_gets_exactly_the_capacity(system: System) -> None:
    """Of 200 concurrent sends from 4 processes into capacity 10, 10 are accepted; when k are received, k more.

    On a normal channel (spread over all hosts), a single-reader one, one of an inbox that nobody owns, and one whose
    owner stalls.
    """

    async def body() -> None:
        async with system.layer(capacity=CAPACITY) as reader, bursts(system, capacity=CAPACITY) as crowd:
            owned = await reader.new_channel()
            for channel in ("jobs", "reply?x", "unread!x", owned):
                assert await crowd.burst(channel) == CAPACITY, channel
                assert await crowd.burst(channel) == 0, channel
                for received in (1, 4, CAPACITY):
                    for _ in range(received):
                        await asyncio.wait_for(reader.receive(channel), BOUND)
                    await _takes_exactly(crowd, channel, received)

    asyncio.run(body())


def test_an_owner_that_does_not_even_read_is_owed_no_more(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owned channel takes its capacity and no more while its process reads nothing at all, and after it does."""
    reads = hold_reads(monkeypatch)

    async def body() -> None:
        async with system.layer(capacity=CAPACITY) as owner, system.layer(capacity=CAPACITY) as sender:
            reads.hold()
            channel = await owner.new_channel()
            assert await _fill(sender, channel) == CAPACITY
            reads.let_go()
            await eventually(lambda: _holds(owner, CAPACITY), "the owner has read everything")
            with pytest.raises(ChannelFull):  # it is still unread by anybody
                await sender.send(channel, {"n": -1})
            assert [number(await owner.receive(channel)) for _ in range(CAPACITY)] == list(range(CAPACITY))

    run(body())


async def _sends(layer: ChannelLayer, channel: str, n: int = 98) -> bool:
    """Send one message; whether it was accepted."""
    try:
        await layer.send(channel, {"n": n})
    except ChannelFull:
        return False
    return True


async def _holds(layer: ChannelLayer, count: int) -> bool:
    return (await layer.statistics()).waiting == count


# --- one after another --------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [1, 2, 3, 4, 7])
def test_shares_of_a_spread_channel_sum_to_its_capacity(three_hosts: Deployment, prefix: str, capacity: int) -> None:
    """A normal channel over three hosts takes its capacity exactly, though it may be less than the hosts."""
    system = System(three_hosts, prefix, options={"capacity": capacity})

    async def body() -> None:
        async with system.layer() as one, system.layer() as two:
            assert await _fill(one, "jobs") == capacity
            with pytest.raises(ChannelFull):
                await two.send("jobs", {"n": -1})
            for _ in range(2 * capacity):  # whichever host it comes from, that host's share is what the next one gets
                assert number(await two.receive("jobs")) >= 0
                await one.send("jobs", {"n": 0})
                with pytest.raises(ChannelFull):
                    await one.send("jobs", {"n": -1})
            assert len(await drain(two, "jobs")) == capacity

    run(body())


def test_the_first_pattern_that_matches_decides(system: System) -> None:
    """channel_capacity is tried in its order, on every kind of channel; names that match nothing get the default."""
    patterns: OrderedDict[str | re.Pattern[str], int] = OrderedDict()
    patterns["http.*"] = 3
    patterns[re.compile(r"(http|reply)")] = 4
    patterns["big!*"] = 6

    async def body() -> None:
        async with system.layer(capacity=2, channel_capacity=patterns) as layer:
            expected = {"http.request": 3, "http": 4, "reply?x": 4, "big!x": 6, "a.http": 2, "small!x": 2}
            for channel, capacity in expected.items():
                assert await _fill(layer, channel) == capacity, channel

    run(body())


def test_an_inbox_that_nobody_owns_is_one_queue(system: System) -> None:
    """Channels of an inbox without a minting owner share their places: each may fill them, none exceed its own."""

    async def body() -> None:
        options = {"capacity": 5, "channel_capacity": {"inbox!large": 8}}
        async with system.layer(**options) as sender:
            assert await _fill(sender, "inbox!a") == 5
            assert await _fill(sender, "inbox!b") == 0
            assert await _fill(sender, "inbox!large") == 3
            assert sorted(await drain(sender, "inbox!a")) == [0, 1, 2, 3, 4]
            assert await drain(sender, "inbox!large") == [0, 1, 2]

    run(body())


def test_channels_of_an_owned_inbox_have_places_of_their_own(system: System) -> None:
    """However full its siblings are, each channel of a living process takes its own capacity of direct messages."""

    async def body() -> None:
        async with system.layer(capacity=5) as owner, system.layer(capacity=5) as sender:
            names = [await owner.new_channel() for _ in range(20)]
            for name in names:
                assert await _fill(sender, name) == 5
            for name in names:
                assert [number(await owner.receive(name)) for _ in range(5)] == list(range(5))

    run(body())


def test_group_messages_do_not_take_the_places_of_direct_ones(system: System) -> None:
    """A channel full of group messages still takes its capacity of direct ones, and the other way round."""

    async def body() -> None:
        async with system.layer(capacity=5) as owner, system.layer(capacity=5) as sender:
            channel = await owner.new_channel()
            await owner.group_add("group", channel)
            for n in range(8):
                await sender.group_send("group", {"n": 100 + n})
            assert await _fill(sender, channel) == 5
            for n in range(8):
                await sender.group_send("group", {"n": 200 + n})
            received = [number(await owner.receive(channel)) for _ in range(10)]
            assert received == [*range(100, 105), *range(5)]
            assert (await owner.statistics()).dropped == {"full": 11}

    run(body())


def test_the_bound_of_a_whole_inbox_holds(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inbox that is not read holds inbox_capacity entries: then send() is refused, group_send() drops, counted."""
    reads = hold_reads(monkeypatch)

    async def body() -> None:
        options = {"inbox_capacity": 30}
        async with system.layer(**options) as owner, system.layer(**options) as sender:
            reads.hold()
            channel, other = await owner.new_channel(), await owner.new_channel()
            await owner.group_add("group", other)  # its marker is outside every capacity, but it is an entry
            for n in range(40):
                await sender.group_send("group", {"n": n})
            with pytest.raises(ChannelFull):
                await sender.send(channel, {"n": 0})
            await owner.group_add("group", channel)  # a change gets in all the same
            assert (await sender.statistics()).dropped == {"inbox_full": 11}
            reads.let_go()
            assert [number(await owner.receive(other)) for _ in range(29)] == list(range(29))
            await eventually(lambda: _sends(sender, channel), "what was read has left the inbox")
            await sender.group_send("group", {"n": 99})
            assert [number(await owner.receive(channel)) for _ in range(2)] == [98, 99]

    run(body())


def test_a_full_channel_of_our_own_has_room_as_soon_as_we_have_received(system: System) -> None:
    """A process that receives from its own full channel may send to it again at once: no batch stands in between."""

    async def body() -> None:
        async with system.layer(capacity=3) as layer:
            channel = await layer.new_channel()
            for n in range(3):
                await layer.send(channel, {"n": n})
            for n in range(20):
                assert number(await layer.receive(channel)) == n
                await layer.send(channel, {"n": n + 3})
                with pytest.raises(ChannelFull):
                    await layer.send(channel, {"n": -1})

    run(body())


def test_places_that_are_given_back_twice_count_once(redis_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reply to a batch of places is lost, repeating it lets no message too many in."""
    original = RedisStore.give_back
    lost: list[c.GiveBack] = []

    async def lose_reply(self: RedisStore, request: c.GiveBack, /) -> None:
        await original(self, request)
        if len(lost) < 3:
            lost.append(request)
            raise StoreError("the reply is lost", retryable=True, outcome="unknown")

    monkeypatch.setattr(RedisStore, "give_back", lose_reply)

    async def body() -> None:
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
            assert len({request.serial for request in lost}) == 1  # it is one batch, over and over
            await asyncio.sleep(0)
            assert accepted + await _fill(sender, channel) == 3

    run(body())


# --- in any order -------------------------------------------------------------------------------------------


class Places(RuleBasedStateMachine):
    """Sends and receives in any order, against a count of what is unread.

    On a queue that is popped the count is the truth. On an owned channel places come back in batches: a send may be
    refused once too often for a moment, and is never accepted once too often.
    """

    deployment: Deployment | None = None

    @initialize(capacity=st.integers(1, 5))
    def begin(self, capacity: int) -> None:
        """Two processes, and a channel of each kind."""
        self.runner = asyncio.Runner()
        self.system = System(self.deployment, fresh_prefix(), options={"capacity": capacity})
        self.capacity = capacity
        self.owner, self.sender = self.runner.run(self._open())
        self.names = ["jobs", "reply?x", "claimed!x", self.runner.run(self.owner.new_channel())]
        self.unread: dict[str, list[int]] = {name: [] for name in self.names}
        self.sent = 0

    async def _open(self) -> tuple[ChannelLayer, ChannelLayer]:
        return self.system.layer(), self.system.layer()

    @rule(place=st.integers(0, 3), by=st.sampled_from(["owner", "another"]))
    def send(self, place: int, by: str) -> None:
        """A send is accepted where there is a place, and refused where there is none."""
        name = self.names[place]
        self.sent += 1
        accepted = self.runner.run(_sends(self.owner if by == "owner" else self.sender, name, self.sent))
        if accepted:
            self.unread[name].append(self.sent)
        assert len(self.unread[name]) <= self.capacity
        if not accepted and len(self.unread[name]) < self.capacity:
            assert place == 3
            self.runner.run(eventually(lambda: _sends(self.sender, name, self.sent), "places come back"))
            self.unread[name].append(self.sent)

    @precondition(lambda self: any(self.unread.values()))
    @rule(place=st.integers(0, 3))
    def receive(self, place: int) -> None:
        """What is received is the oldest unread message."""
        names = [name for name in self.names if self.unread[name]]
        name = names[place % len(names)]
        received = number(self.runner.run(asyncio.wait_for(self.owner.receive(name), BOUND)))
        if name == "jobs" and self.system.shards > 1:
            self.unread[name].remove(received)
        else:
            assert received == self.unread[name].pop(0)

    @rule(place=st.integers(0, 3), steps=st.integers(0, 12))
    def give_up(self, place: int, steps: int) -> None:
        """A receive() on an empty channel is cancelled."""
        name = self.names[place]
        if not self.unread[name]:
            self.runner.run(self._give_up(name, steps))

    async def _give_up(self, name: str, steps: int) -> None:
        task = asyncio.create_task(self.owner.receive(name))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    @invariant()
    def nothing_is_lost(self) -> None:
        """No message that was accepted is ever dropped."""
        found = self.runner.run(self.owner.statistics())
        assert not found.dropped

    def teardown(self) -> None:
        """In the end exactly what is unread is there."""
        if not hasattr(self, "runner"):
            return
        try:
            for name, unread in self.unread.items():
                received = self.runner.run(drain(self.owner, name, 0.02))
                assert sorted(received) == sorted(unread), name
        finally:
            self.runner.run(self._close())
            self.runner.close()
            for host in self.deployment.hosts if self.deployment is not None else ():
                host.remove(self.system.prefix)

    async def _close(self) -> None:
        await self.owner.aclose()
        await self.sender.aclose()


def test_places_are_counted_right_in_any_order(system: System) -> None:
    """Whatever the order of sends, receives and cancelled receives, what is unread never exceeds the capacity."""

    class Placed(Places):
        deployment = system.deployment

    run_state_machine_as_test(Placed, settings=settings(max_examples=12, stateful_step_count=30))
