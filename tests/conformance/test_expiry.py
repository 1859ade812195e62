"""No message older than ``expiry`` is delivered, wherever it ages, and whatever the clock of a process shows.

The tests move a virtual clock: every store adds the same offset to its own.
"""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from channel_layer import ChannelFull, ChannelLayer
from channel_layer.testing import VirtualClock
from channel_layer.testing.suites.tools import number, receive_or_none
from tests.support.scenarios_delivery import BOUND, at_promise, cancel, eventually, hold_reads, waits
from tests.support.systems import System

POPPED = ("jobs", "reply?x", "daemon!x")
"""Channels whose messages wait in the store until a receiver asks."""

EXPIRY = 10.75
"""Seconds: a fraction that would be seen if it were cut off or rounded up."""

UNDER, OVER = 10.05, 10.75
"""Seconds: were `EXPIRY` cut to whole seconds, *under* would be too old; rounded up, *over* would be young enough."""


# --- just under and just over, in every place where a message can wait ---------------------------------------


async def test_a_message_ages_in_an_inbox_that_is_not_read(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in the store counts for an owned channel too: an owner that reads late drops the expired messages alone."""
    reads = hold_reads(monkeypatch)

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
        assert owner.counts().dropped == {"expired": 2}


async def _dropped(layer: ChannelLayer, count: int) -> bool:
    return layer.counts().dropped.get("expired") == count


async def _holds(layer: ChannelLayer, count: int) -> bool:
    return layer.counts().waiting == count


@pytest.mark.usefixtures("loops")
async def test_a_message_ages_while_its_receiver_resumes(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that is woken for a message, but runs when it has expired, goes on waiting for the next one."""
    waits_for = iter((OVER, 0.0) * 4)
    at_promise(monkeypatch, lambda: system.clock.advance(next(waits_for)))

    async with system.layer(expiry=EXPIRY) as owner, system.layer(expiry=EXPIRY) as sender:
        channels = (await owner.new_channel(), *POPPED)  # first the layer whose lease ends with the moved clock
        for place, channel in enumerate(channels, 1):
            receiving = asyncio.create_task(owner.receive(channel))
            await waits(owner, channel)
            await sender.send(channel, {"n": 1})
            await eventually(partial(_dropped, owner, place), "it has been dropped")
            await sender.send(channel, {"n": 2})
            assert number(await asyncio.wait_for(receiving, BOUND)) == 2, channel
        assert owner.counts().dropped == {"expired": len(POPPED) + 1}


# --- places come back ---------------------------------------------------------------------------------------


async def _sends(layer: ChannelLayer, channel: str) -> bool:
    try:
        await layer.send(channel, {"n": 0})
    except ChannelFull:
        return False
    return True


@pytest.mark.usefixtures("loops")
async def test_a_message_whose_receiver_gave_up_expires_like_any_other(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a receiver is cancelled just as a message is assigned to it, the credit for that message is returned."""
    async with system.layer(capacity=1, expiry=EXPIRY) as owner, system.layer(capacity=1, expiry=EXPIRY) as sender:
        owned = await owner.new_channel()
        receiving = asyncio.create_task(owner.receive(owned))
        at_promise(monkeypatch, partial(cancel, receiving))
        await waits(owner, owned)
        await sender.send(owned, {"n": 1})
        await asyncio.wait([receiving])
        assert receiving.cancelled()
        assert await _holds(owner, 1)  # and no receiver will ever ask for it
        system.clock.advance(OVER)
        await eventually(lambda: _sends(sender, owned), "the place comes back")
        assert owner.counts().dropped == {"expired": 1}


# --- the clock that decides ---------------------------------------------------------------------------------


class _Strange(VirtualClock):
    """A clock that shows another time of day, and runs as fast as any other."""

    def now(self) -> float:
        return super().now() + 7200


async def test_a_process_whose_clock_is_wrong_delivers_nothing_too_old(redis_system: System) -> None:
    """The server's clock decides: processes whose own clocks are hours apart agree on what is too old."""
    far = System(redis_system.deployment, redis_system.prefix, clock=_Strange())

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


async def test_a_second_that_really_passes_is_enough(system: System) -> None:
    """With an expiry of one real second, what is older is not delivered, and the store has forgotten it."""
    async with system.layer(expiry=1) as owner, system.layer(expiry=1) as sender:
        owned = await owner.new_channel()
        for channel in (*POPPED, owned):
            await sender.send(channel, {"n": 1})
        await asyncio.sleep(1.01)
        for channel in (*POPPED, owned):
            assert await receive_or_none(owner, channel, 0.01) is None
            # An owner tells its store what it has read with a later command, so the count follows.
            await eventually(partial(_forgotten, sender, channel), f"an expired message on {channel} still counts")


async def _forgotten(layer: ChannelLayer, channel: str) -> bool:
    return (await layer.statistics(channel)).messages_pending == 0
