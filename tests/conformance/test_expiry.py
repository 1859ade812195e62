"""Nothing older than ``expiry`` is ever delivered, wherever it waits, and what is too old gives its place back.

Time is a clock that the test moves: every store adds the same offset to its own. Where a bound is tested from below,
half a second and more is left for a machine that is busy.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channel_layer import ChannelFull, ChannelLayer
from tests.support.scenarios_delivery import (
    BOUND,
    at_promise,
    drain,
    eventually,
    hold_reads,
    number,
    receive_or_none,
    waits,
)
from tests.support.servers import Deployment, ServerPool, fresh_prefix
from tests.support.systems import ShiftedClock, System, run

POPPED = ("jobs", "reply?x", "daemon!x")
"""Channels whose messages wait in the store until somebody asks."""

EXPIRY = 10.75
"""Seconds: a fraction that would be seen if it were cut off or rounded up."""

UNDER, OVER = 10.05, 10.75
"""Seconds: were `EXPIRY` cut to whole seconds, *under* would be too old; rounded up, *over* would be young enough."""


# --- just under and just over, in every place where a message can wait ---------------------------------------


@pytest.mark.parametrize("age", [0.0, UNDER])
def test_what_is_young_enough_is_delivered(system: System, age: float) -> None:
    """A message that has waited for less than `expiry`, to the fraction, is delivered from a store and a mailbox."""

    async def body() -> None:
        async with system.layer(expiry=EXPIRY) as owner, system.layer(expiry=EXPIRY) as sender:
            owned = await owner.new_channel()
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 1})
            await owner.group_add("group", owned)
            await sender.group_send("group", {"n": 2})
            await eventually(lambda: _holds(owner, 2), "the mailbox has them")
            system.clock.advance(age)
            for channel in (*POPPED, owned):
                assert number(await asyncio.wait_for(owner.receive(channel), BOUND)) == 1
            assert number(await owner.receive(owned)) == 2
            assert not (await owner.statistics()).dropped

    run(body())


def test_what_is_too_old_is_not_delivered(system: System) -> None:
    """A message that has waited for `expiry`, to the fraction, is dropped in a store and a mailbox, and counted."""

    async def body() -> None:
        async with system.layer(expiry=EXPIRY) as owner, system.layer(expiry=EXPIRY) as sender:
            owned = await owner.new_channel()
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 1})
            await owner.group_add("group", owned)
            await sender.group_send("group", {"n": 2})
            await eventually(lambda: _holds(owner, 2), "the mailbox has them")
            system.clock.advance(OVER)
            for channel in (*POPPED, owned):
                receiving = asyncio.create_task(owner.receive(channel))
                await sender.send(channel, {"n": 3})  # the first that may come
                assert number(await asyncio.wait_for(receiving, BOUND)) == 3
            assert await drain(owner, "jobs") == []  # the old one may lie on another host than the new one
            assert (await owner.statistics()).dropped == {"expired": len(POPPED) + 2}

    run(body())


def test_a_message_ages_in_an_inbox_that_is_not_read(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in the store counts for an owned channel too: an owner that reads late drops what is too old, no more."""
    reads = hold_reads(monkeypatch)

    async def body() -> None:
        async with system.layer(expiry=EXPIRY) as owner, system.layer(expiry=EXPIRY) as sender:
            reads.hold()
            owned = await owner.new_channel()
            await owner.group_add("group", owned)
            await sender.send(owned, {"n": 1})
            await sender.group_send("group", {"n": 2})
            system.clock.advance(1.0)
            await sender.send(owned, {"n": 3})
            system.clock.advance(OVER - 1.0)
            receiving = asyncio.create_task(owner.receive(owned))
            reads.let_go()
            assert number(await asyncio.wait_for(receiving, BOUND)) == 3
            assert (await owner.statistics()).dropped == {"expired": 2}

    run(body())


async def _dropped(layer: ChannelLayer, count: int) -> bool:
    return (await layer.statistics()).dropped.get("expired") == count


async def _holds(layer: ChannelLayer, count: int) -> bool:
    return (await layer.statistics()).waiting == count


@pytest.mark.usefixtures("loops")
def test_a_message_ages_while_it_is_promised(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that is woken for a message, and runs only when it is too old, goes on waiting for the next."""
    waits_for = iter((OVER, 0.0) * 4)
    at_promise(monkeypatch, lambda: system.clock.advance(next(waits_for)))

    async def body() -> None:
        async with system.layer(expiry=EXPIRY) as owner, system.layer(expiry=EXPIRY) as sender:
            channels = (await owner.new_channel(), *POPPED)  # first the one whose lease the clock ends
            for place, channel in enumerate(channels, 1):
                receiving = asyncio.create_task(owner.receive(channel))
                await waits(owner, channel)
                await sender.send(channel, {"n": 1})
                await eventually(partial(_dropped, owner, place), "it has been dropped")
                await sender.send(channel, {"n": 2})
                assert number(await asyncio.wait_for(receiving, BOUND)) == 2, channel
            assert (await owner.statistics()).dropped == {"expired": len(POPPED) + 1}

    run(body())


# --- places come back ---------------------------------------------------------------------------------------


def test_a_channel_full_of_expired_messages_takes_new_ones(system: System) -> None:
    """A full queue of expired messages takes its capacity anew at once, exactly; each old message counts as expired."""

    async def body() -> None:
        async with system.layer(capacity=4, expiry=EXPIRY) as layer:
            for channel in (*POPPED, "unread!x"):
                for n in range(4):
                    await layer.send(channel, {"n": n})
                system.clock.advance(UNDER)
                with pytest.raises(ChannelFull):
                    await layer.send(channel, {"n": -1})
                system.clock.advance(OVER - UNDER)
                for n in range(4):
                    await layer.send(channel, {"n": 10 + n})
                with pytest.raises(ChannelFull):
                    await layer.send(channel, {"n": -1})
                assert sorted(await drain(layer, channel, 0.05)) == [10, 11, 12, 13]
            assert (await layer.statistics()).dropped == {"expired": 4 * 4}

    run(body())


def test_only_what_is_too_old_makes_room(system: System) -> None:
    """In a full queue whose head alone has expired, one place is free and no more."""

    async def body() -> None:
        async with system.layer(capacity=3, expiry=EXPIRY) as layer:
            for channel in ("reply?x", "unread!x"):
                await layer.send(channel, {"n": 0})
                system.clock.advance(2)
                for n in (1, 2):
                    await layer.send(channel, {"n": n})
                system.clock.advance(OVER - 2)
                await layer.send(channel, {"n": 3})
                with pytest.raises(ChannelFull):
                    await layer.send(channel, {"n": -1})
                assert await drain(layer, channel, 0.05) == [1, 2, 3]

    run(body())


def test_an_owned_channel_full_of_expired_messages_takes_new_ones_after_the_sweep(system: System) -> None:
    """The owner's sweep gives the places of expired messages back, without a receive(): all of them and no more."""

    async def body() -> None:
        async with system.layer(capacity=4, expiry=EXPIRY) as owner, system.layer(capacity=4, expiry=EXPIRY) as sender:
            owned, quiet = await owner.new_channel(), await owner.new_channel()
            for n in range(4):
                await sender.send(owned, {"n": n})
            await sender.send(quiet, {"n": 0})
            assert number(await owner.receive(quiet)) == 0
            await eventually(lambda: _holds(owner, 4), "the mailbox has them")
            with pytest.raises(ChannelFull):
                await sender.send(owned, {"n": -1})
            system.clock.advance(OVER)
            await eventually(lambda: _sends(sender, owned), "places come back")
            for _ in range(3):
                await eventually(lambda: _sends(sender, owned), "places come back")
            for _ in range(20):
                assert not await _sends(sender, owned)
                await asyncio.sleep(0.002)
            assert (await owner.statistics()).dropped == {"expired": 4}

    run(body())


async def _sends(layer: ChannelLayer, channel: str) -> bool:
    try:
        await layer.send(channel, {"n": 0})
    except ChannelFull:
        return False
    return True


@pytest.mark.usefixtures("loops")
def test_a_message_whose_receiver_gave_up_expires_like_any_other(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a receiver is cancelled at the moment it was promised a message, that message's place still comes back."""

    async def body() -> None:
        async with system.layer(capacity=1, expiry=EXPIRY) as owner, system.layer(capacity=1, expiry=EXPIRY) as sender:
            owned = await owner.new_channel()
            receiving = asyncio.create_task(owner.receive(owned))
            loop = asyncio.get_running_loop()
            at_promise(monkeypatch, lambda: loop.call_soon_threadsafe(receiving.cancel))
            await waits(owner, owned)
            await sender.send(owned, {"n": 1})
            await asyncio.wait([receiving])
            assert receiving.cancelled()
            assert await _holds(owner, 1)  # and nobody will ever ask for it
            system.clock.advance(OVER)
            await eventually(lambda: _sends(sender, owned), "the place comes back")
            assert (await owner.statistics()).dropped == {"expired": 1}

    run(body())


def test_a_member_that_does_not_read_leaves_its_groups(system: System) -> None:
    """A mailbox whose message expires unread leaves its groups; one that reads stays."""

    async def body() -> None:
        async with system.layer(expiry=EXPIRY) as owner:
            gone, reading = await owner.new_channel(), await owner.new_channel()
            for name in (gone, reading):
                await owner.group_add("group", name)
            await owner.group_send("group", {"n": 1})
            assert number(await owner.receive(reading)) == 1
            system.clock.advance(OVER)
            await eventually(lambda: _members(owner, [reading]), "it has left")

    run(body())


async def _members(layer: ChannelLayer, members: list[str]) -> bool:
    return await layer.group_channels("group") == members


# --- the clock that decides ---------------------------------------------------------------------------------


@pytest.mark.redis
@pytest.mark.parametrize("store", ["memory", "three-databases"])
@settings(max_examples=15)
@given(
    expiry=st.floats(5, 1000).map(lambda seconds: round(seconds, 2)),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=6),
)
def test_age_alone_decides(server_pool: ServerPool, store: str, expiry: float, waits: list[float]) -> None:
    """Of messages sent at any times, those younger than any `expiry` are delivered, in order, and no others."""
    hosts = tuple(server_pool.get().host(db) for db in range(3))
    system = System(None if store == "memory" else Deployment(hosts), fresh_prefix())

    async def body() -> None:
        async with system.layer(expiry=expiry) as owner, system.layer(expiry=expiry) as sender:
            owned = await owner.new_channel()
            ages: list[float] = []
            for n, wait in enumerate(waits):
                for channel in ("reply?x", "daemon!x", owned):
                    await sender.send(channel, {"n": n})
                ages = [*ages, 0.0]
                step = wait * expiry / 2
                # No message may be within a second of the bound: the test's own time counts too.
                while any(abs(age + step - expiry) < 1.0 for age in ages):
                    step += 0.5
                system.clock.advance(step)
                ages = [age + step for age in ages]
            young = [n for n, age in enumerate(ages) if age < expiry]
            channels = ["reply?x", "daemon!x"]
            if ages[0] < expiry * 1.4:  # else the owner's lease has run out with the clock, too
                channels.append(owned)
            for channel in channels:
                assert await drain(owner, channel, 0.05) == young, channel

    run(body())
    for host in hosts if system.deployment is not None else ():
        host.remove(system.prefix)


class _Strange(ShiftedClock):
    """A clock that shows another time of day, and runs as fast as any other."""

    def now(self) -> float:
        return super().now() + 7200


def test_a_process_whose_clock_is_wrong_delivers_nothing_too_old(redis_system: System) -> None:
    """The server's clock decides: processes whose own clocks are hours apart agree on what is too old."""
    far = System(redis_system.deployment, redis_system.prefix, clock=_Strange())

    async def body() -> None:
        async with far.layer(expiry=EXPIRY) as owner, redis_system.layer(expiry=EXPIRY) as sender:
            owned = await owner.new_channel()
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 1})
            for channel in (*POPPED, owned):
                assert number(await asyncio.wait_for(owner.receive(channel), BOUND)) == 1
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 2})
            await eventually(lambda: _holds(owner, 1), "the mailbox has it")
            redis_system.clock.advance(OVER)
            far.clock.advance(OVER)
            for channel in (*POPPED, owned):
                assert await receive_or_none(owner, channel) is None

    run(body())


def test_a_second_that_really_passes_is_enough(system: System) -> None:
    """With an expiry of one real second, what is older is not delivered, and the store has forgotten it."""

    async def body() -> None:
        async with system.layer(expiry=1) as owner, system.layer(expiry=1) as sender:
            owned = await owner.new_channel()
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 1})
            await asyncio.sleep(1.01)
            for channel in (*POPPED, owned):
                assert await receive_or_none(owner, channel, 0.01) is None
                assert (await sender.statistics(channel)).pending == 0

    run(body())
