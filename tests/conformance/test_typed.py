"""Typed messages and subscriptions on every store: values keep their types, and joining and leaving are reliable."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, TypeAlias

import pytest
from pydantic import BaseModel, Field

from channel_layer import (
    Channel,
    ChannelLayer,
    Group,
    InvalidFields,
    Message,
    StoreError,
    Subscription,
    SubscriptionError,
    subscription,
)
from channel_layer.testing.suites.tools import receive_or_none
from tests.support.scenarios_delivery import BOUND, at_promise, cancel
from tests.support.scenarios_groups import eventually, is_true
from tests.support.systems import System


class Tick(BaseModel):
    """A price."""

    type: Literal["tick"] = "tick"
    price: float


class News(BaseModel):
    """A line of text."""

    type: Literal["news"] = "news"
    text: str


Event: TypeAlias = Annotated[Tick | News, Field(discriminator="type")]


async def _next(messages: Subscription[object] | AsyncIterator[object]) -> object:
    return await asyncio.wait_for(anext(messages), BOUND)


def _events(layer: ChannelLayer, kinds: int) -> Subscription[Tick | News]:
    """Subscribe to one group, or to two with messages of different types."""
    ticks = Group(layer, "ticks", Tick)
    return layer.subscribe(ticks) if kinds == 1 else layer.subscribe(ticks, Group(layer, "news", News))


async def _balance(layer: ChannelLayer) -> int:
    """Return the accepted messages less those accounted for, where one layer sends and receives all."""
    counted = layer.counts()
    assert all(count > 0 for count in counted.dropped.values())
    return counted.sent + counted.expanded - counted.delivered - sum(counted.dropped.values()) - counted.waiting


async def _waiting(layer: ChannelLayer, channel: str) -> bool:
    source, box = layer._state.place(layer._pipeline.channel(channel))
    del source
    return bool(box.waiters)


# -- channels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["jobs", "reply?x", "daemon!x"])
async def test_a_channel_takes_and_gives_values(system: System, name: str) -> None:
    """A value sent to a typed channel is received in another process as an equal value of the same class, in order."""
    async with system.layer() as sender, system.layer() as receiver:
        events: list[Tick | News] = [Tick(price=1.5), News(text="x"), Tick(price=2)]
        outgoing, incoming = Channel(sender, name, Event), Channel(receiver, name, Event)
        for event in events:
            await outgoing.send(event)
        came = [await asyncio.wait_for(incoming.receive(), BOUND) for _ in events]
        assert came == events if system.shards == 1 else sorted(map(repr, came)) == sorted(map(repr, events))


async def test_a_channel_is_iterated(system: System) -> None:
    """`async for` over a channel receives one message after the other."""
    async with system.layer() as layer:
        channel = Channel(layer, await layer.new_channel(), Tick)
        for price in range(3):
            await channel.send(Tick(price=price))
        prices: list[float] = []
        async with asyncio.timeout(BOUND):
            async for tick in channel:
                prices.append(tick.price)
                if len(prices) == 3:
                    break
        assert prices == [0, 1, 2]


async def test_what_is_not_of_the_type_is_a_counted_drop(system: System, caplog: pytest.LogCaptureFixture) -> None:
    """By default `receive` skips messages of another type: they are counted `invalid` and logged once."""
    async with system.layer() as layer:
        ticks = Channel(layer, await layer.new_channel(), Tick)
        for wrong in ({"type": "tick", "price": "secret"}, {}, {"type": "news", "text": "x"}):
            await layer.send(ticks.name, wrong)
        await ticks.send(Tick(price=1))
        assert await asyncio.wait_for(ticks.receive(), BOUND) == Tick(price=1)
        counted = layer.counts()
        assert counted.dropped == {"invalid": 3}
        assert counted.delivered == 1
        assert await _balance(layer) == 0
        [told] = [record.getMessage() for record in caplog.records if record.name == "channel_layer"]
        assert f"invalid on {ticks.name}: the message is not of type Tick: price: should be a valid number" in told
        assert "secret" not in told


async def test_what_is_not_of_the_type_is_an_error_by_choice(system: System) -> None:
    """With `invalid="raise"` it raises an error with the fields and the raw message; the next one is received."""
    async with system.layer() as layer:
        ticks = Channel(layer, await layer.new_channel(), Tick, invalid="raise")
        await layer.send(ticks.name, {"type": "tick", "price": "much"})
        await ticks.send(Tick(price=1))
        with pytest.raises(InvalidFields) as caught:
            await asyncio.wait_for(ticks.receive(), BOUND)
        assert [error.field for error in caught.value.errors] == ["price"]
        assert caught.value.received == {"type": "tick", "price": "much"}
        assert await asyncio.wait_for(ticks.receive(), BOUND) == Tick(price=1)
        counted = layer.counts()
        assert (counted.delivered, counted.dropped) == (2, {})


async def test_what_cannot_be_received_is_not_sent(system: System) -> None:
    """A value that does not fit its type is refused when it is sent to a channel or a group; nothing is sent."""
    async with system.layer() as layer:
        name = await layer.new_channel()
        ticks = Channel(layer, name, Tick)
        group = Group(layer, "ticks", Tick)
        await group.add(ticks)
        wrong = Tick.model_construct(price="much")
        for send in (ticks.send, group.send):
            with pytest.raises(InvalidFields, match="price: should be a valid number"):
                await send(wrong)
        assert await receive_or_none(layer, name) is None
        assert layer.counts().sent == 0


# -- groups and subscriptions --------------------------------------------------------------------------------


async def test_a_subscription_receives_what_is_sent_after_it_began(system: System) -> None:
    """Each message sent to the group within the block is received, in order; none from before or after it."""
    async with system.layer() as sender, system.layer() as receiver:
        outgoing, incoming = Group(sender, "ticks", Tick), Group(receiver, "ticks", Tick)
        await outgoing.send(Tick(price=-1))
        async with receiver.subscribe(incoming) as ticks:
            assert await sender.group_channels("ticks") == [*ticks.channels]
            for price in range(5):
                await outgoing.send(Tick(price=price))
            assert [await _next(ticks) for _ in range(5)] == [Tick(price=price) for price in range(5)]
        assert await sender.group_channels("ticks") == []


async def test_a_subscription_by_name_gives_dicts(system: System) -> None:
    """Names, and groups without a type, give messages as they were sent; several names make one subscription."""
    async with system.layer() as layer, layer.subscribe("room", "hall", "room") as messages:
        assert len(messages.channels) == 1
        sent: list[Message] = [{"n": 1}, {"n": b"\xff"}, {}]
        await layer.group_send("room", sent[0])
        await Group(layer, "hall").send(sent[1])
        await layer.group_send("room", sent[2])
        assert [await _next(messages) for _ in sent] == sent


async def test_a_message_is_of_the_type_of_its_group(system: System) -> None:
    """Groups of types that look alike, in one subscription: each message is read as its own group's type."""

    class Left(BaseModel):
        n: int

    class Right(BaseModel):
        n: int

    async with system.layer() as layer, system.layer() as sender:
        left, right, plain = Group(layer, "left", Left), Group(layer, "right", Right), Group(layer, "plain")
        async with layer.subscribe(left, right, plain) as messages:
            for n in range(3):
                for group in ("left", "right", "plain"):
                    await sender.group_send(group, {"n": n})
            came = [await _next(messages) for _ in range(9)]
            for kind in (Left, Right):
                assert [m for m in came if isinstance(m, kind)] == [kind(n=n) for n in range(3)]
            assert [m for m in came if isinstance(m, dict)] == [{"n": n} for n in range(3)]
            if system.deployment is None:  # a clock that differs for any two messages
                assert [type(message) for message in came] == [Left, Right, dict] * 3
            waiting = asyncio.create_task(_next(messages))
            await eventually(lambda: _waiting(layer, messages.channels[2]))
            await sender.group_send("right", {"n": 9})
            assert await waiting == Right(n=9)
        assert not [name for name in messages.channels if await _waiting(layer, name)]
        assert await _balance(layer) == 0


@pytest.mark.parametrize("kinds", [1, 2], ids=["one type", "two types"])
async def test_cancelling_a_step_loses_nothing(system: System, monkeypatch: pytest.MonkeyPatch, kinds: int) -> None:
    """A step that is cancelled just as its message arrives leaves the message to the next step."""
    async with system.layer() as layer, system.layer() as sender:
        async with _events(layer, kinds) as messages:
            for price in range(5):
                step = asyncio.create_task(anext(messages))
                await eventually(lambda: _waiting(layer, messages.channels[0]))
                with monkeypatch.context() as patch:
                    at_promise(patch, partial(cancel, step))
                    await sender.send(messages.channels[0], {"type": "tick", "price": price})
                    with pytest.raises(asyncio.CancelledError):
                        await asyncio.wait_for(step, BOUND)
                assert await _next(messages) == Tick(price=price)
        assert layer.counts().dropped == {}


@pytest.mark.parametrize("kinds", [1, 2], ids=["one type", "two types"])
async def test_several_tasks_share_a_subscription(system: System, kinds: int) -> None:
    """Each message goes to exactly one of the waiting tasks; a cancelled task leaves its message to the others."""
    async with system.layer() as layer:
        ticks = Group(layer, "ticks", Tick)
        async with _events(layer, kinds) as messages:
            steps = [asyncio.create_task(_next(messages)) for _ in range(10)]
            await eventually(lambda: _waiting(layer, messages.channels[0]))
            for step in steps[:3]:
                step.cancel()
            for price in range(7):
                await ticks.send(Tick(price=price))
            came = await asyncio.gather(*steps, return_exceptions=True)
            assert sorted(tick.price for tick in came if isinstance(tick, Tick)) == list(range(7))


async def test_garbage_in_a_subscription_of_two_types_is_skipped(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A payload that cannot be decoded is counted `undecodable`, and the valid one behind it is received."""

    def encode(_message: object) -> bytes:
        return b"\x01garbage"

    async with system.layer() as layer, system.layer() as sender, _events(layer, 2) as messages:
        with monkeypatch.context() as patch:
            patch.setattr(sender._pipeline, "_encode", encode)
            await sender.group_send("news", {})
        await sender.group_send("news", {"type": "news", "text": "x"})
        assert await _next(messages) == News(text="x")
        assert layer.counts().dropped == {"undecodable": 1}


@pytest.mark.parametrize("kinds", [1, 2], ids=["one type", "two types"])
async def test_sealed_messages_are_received_and_forged_ones_counted(system: System, kinds: int) -> None:
    """Subscriptions open messages sealed with their keys, and count others as `unauthentic`."""
    keys = ["k" * 32]

    async with system.layer(symmetric_encryption_keys=keys) as layer, system.layer() as stranger:
        async with _events(layer, kinds) as messages:
            await stranger.group_send("ticks", {"type": "tick", "price": 1})
            await Group(layer, "ticks", Tick).send(Tick(price=2))
            assert await _next(messages) == Tick(price=2)
        assert layer.counts().dropped == {"unauthentic": 1}
        assert await _balance(layer) == 0


async def test_a_bad_message_ends_no_subscription(system: System) -> None:
    """As its group says, a message of another type is dropped or raised; either way the next one is received."""
    async with system.layer() as layer:
        strict, lax = Group(layer, "strict", Tick, invalid="raise"), Group(layer, "lax", Tick)
        async with layer.subscribe(strict, lax) as ticks:
            assert len(ticks.channels) == 2
            await layer.group_send("lax", {"price": "much"})
            await lax.send(Tick(price=1))
            assert await _next(ticks) == Tick(price=1)
            await layer.group_send("strict", {"price": "much"})
            with pytest.raises(InvalidFields) as caught:
                await _next(ticks)
            assert caught.value.received == {"price": "much"}
            await strict.send(Tick(price=2))
            assert await _next(ticks) == Tick(price=2)
        assert layer.counts().dropped == {"invalid": 1}
        assert await _balance(layer) == 0


# -- the end -------------------------------------------------------------------------------------------------


async def test_a_loop_over_a_subscription_leaves_when_it_is_left(system: System) -> None:
    """`async for` right over `subscribe` joins by itself, and leaves after a break, an error, and a cancellation."""
    async with system.layer() as layer:

        async def first(then: Exception | None) -> Message:
            async for message in layer.subscribe("room"):
                if then is not None:
                    raise then
                return message
            raise AssertionError

        async def members(count: int) -> bool:
            return len(await layer.group_channels("room")) == count

        for ending in ("break", "error", "cancel"):
            task = asyncio.create_task(first(ValueError("mine") if ending == "error" else None))
            await eventually(lambda: members(1))
            if ending == "cancel":
                task.cancel()
            else:
                await layer.group_send("room", {"n": 1})
            [came] = await asyncio.gather(task, return_exceptions=True)
            assert {"break": {"n": 1}, "error": "mine", "cancel": ""}[ending] == (
                came if isinstance(came, dict) else str(came)
            )
            del came, task
            await eventually(lambda: members(0))


async def test_leaving_outlasts_cancellation(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is cancelled again and again while it leaves has left every group when the block is over."""
    async with system.layer() as layer:
        leaving = asyncio.Event()
        resume_all = asyncio.Event()
        discard = ChannelLayer.group_discard

        async def slow(self: ChannelLayer, group: str, channel: str) -> None:
            leaving.set()
            await resume_all.wait()
            await discard(self, group, channel)

        async def listen() -> None:
            async with layer.subscribe("a", "b") as messages:
                await anext(messages)

        monkeypatch.setattr(ChannelLayer, "group_discard", slow)
        task = asyncio.create_task(listen())

        async def members(count: int) -> bool:
            return len(await layer.group_channels("b")) == count

        await eventually(lambda: members(1))
        task.cancel()
        await leaving.wait()
        for _ in range(5):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        resume_all.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await layer.group_channels("a") == await layer.group_channels("b") == []


async def test_leaving_happens_though_the_loop_ends(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program whose event loop cancels every task, including the one that leaves, has left its group all the same."""
    async with system.layer() as layer:
        discard, tries = ChannelLayer.group_discard, 0

        async def hindered(self: ChannelLayer, group: str, channel: str) -> None:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise asyncio.CancelledError
            await discard(self, group, channel)

        monkeypatch.setattr(ChannelLayer, "group_discard", hindered)
        async with layer.subscribe("room"):
            pass
        assert tries == 2
        assert await layer.group_channels("room") == []


async def test_a_subscription_that_cannot_begin_leaves_nothing(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one of its groups cannot be joined, it leaves those that were, and raises the error."""
    async with system.layer() as layer:
        add = ChannelLayer.group_add

        async def fails(self: ChannelLayer, group: str, channel: str) -> None:
            await add(self, group, channel)
            if group == "second":
                raise StoreError("gone", retryable=True, outcome="unknown")

        monkeypatch.setattr(ChannelLayer, "group_add", fails)
        attempt = layer.subscribe("first", "second", "third")
        with pytest.raises(StoreError, match="gone"):
            await attempt.__aenter__()
        for group in ("first", "second", "third"):
            assert await layer.group_channels(group) == []
        with pytest.raises(SubscriptionError, match="used once"):
            await attempt.__aenter__()


async def test_a_waiting_task_is_notified_when_a_subscription_ends(system: System) -> None:
    """A task that waits for a message of a subscription that another task ends gets a `SubscriptionError`."""
    async with system.layer() as layer:
        for kinds in (1, 2):
            async with _events(layer, kinds) as messages:
                steps = [asyncio.create_task(anext(messages)) for _ in range(3)]
                await eventually(lambda: _waiting(layer, messages.channels[-1]))
            for error in await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), BOUND):
                assert isinstance(error, SubscriptionError)


async def test_a_task_about_to_wait_is_notified_when_a_subscription_ends(system: System) -> None:
    """A step that has begun, but does not wait yet when the subscription ends, raises instead of waiting forever."""
    async with system.layer() as layer, layer.subscribe("room") as messages:
        begun, resume_all = asyncio.Event(), asyncio.Event()
        receive = messages._intake.receive

        async def late(channels: Sequence[str]) -> tuple[str, Message]:
            begun.set()
            await resume_all.wait()
            return await receive(channels)

        messages._intake = replace(messages._intake, receive=late)
        step = asyncio.create_task(anext(messages))
        await begun.wait()
        closing = asyncio.create_task(messages.aclose())
        for _ in range(10):
            await asyncio.sleep(0)
        resume_all.set()
        with pytest.raises(SubscriptionError):
            await asyncio.wait_for(step, BOUND)
        await asyncio.wait_for(closing, BOUND)
        assert await layer.group_channels("room") == []


async def test_a_waiting_task_is_notified_when_the_layer_closes(system: System) -> None:
    """Closing the layer ends the wait of every subscription with `StoreError`; leaving one afterwards is no error."""
    layer = system.layer()
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(layer.subscribe("a"))
        two = await stack.enter_async_context(layer.subscribe(Group(layer, "a", Tick), Group(layer, "b", News)))
        steps = [asyncio.create_task(_next(one)), asyncio.create_task(_next(two))]
        await eventually(lambda: _waiting(layer, two.channels[-1]))
        await layer.aclose()
        for error in await asyncio.wait_for(asyncio.gather(*steps, return_exceptions=True), BOUND):
            assert isinstance(error, StoreError)


# -- a long life ---------------------------------------------------------------------------------------------


async def test_a_subscription_outlives_group_expiry(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """It renews its memberships three times in each `group_expiry`, also after a failed renewal."""
    pauses: asyncio.Queue[tuple[float, asyncio.Event]] = asyncio.Queue()

    async def pause(seconds: float) -> None:
        over = asyncio.Event()
        pauses.put_nowait((seconds, over))
        await over.wait()

    monkeypatch.setattr(subscription, "_pause", pause)
    options = {"group_expiry": 30.0}
    async with (
        system.layer(**options) as layer,
        system.layer(**options) as sender,
        layer.subscribe("room") as messages,
    ):
        intake = messages._intake
        for turn in range(9):
            seconds, over = await asyncio.wait_for(pauses.get(), BOUND)
            assert seconds == 10.0
            system.clock.advance(seconds)
            await layer.run_maintenance()
            messages._intake = replace(intake, group_add=_away) if turn == 4 else intake
            over.set()
            seconds, over = await asyncio.wait_for(pauses.get(), BOUND)  # the due renewal is done
            pauses.put_nowait((seconds, over))
            await sender.group_send("room", {"turn": turn})
            assert await _next(messages) == {"turn": turn}


async def _away(_group: str, _channel: str) -> None:
    raise StoreError("away", retryable=True, outcome="not_sent")


async def test_without_group_expiry_there_is_nothing_to_renew(system: System) -> None:
    """With `group_expiry=None` a subscription runs no background task."""
    async with system.layer(group_expiry=None) as layer:
        async with layer.subscribe("room") as messages:
            assert messages._renewing is None
        async with system.layer() as other, other.subscribe("room") as messages:
            assert messages._renewing is not None


async def test_a_slow_reader_stays_a_member(system: System) -> None:
    """A subscription whose messages expire unread keeps its membership for however long it reads nothing.

    A channel keeps it for ten minutes.
    """
    async with system.layer(expiry=10.0) as layer, system.layer(expiry=10.0) as sender:
        channel = await layer.new_channel()
        await layer.group_add("room", channel)
        async with layer.subscribe("room") as messages:
            await sender.group_send("room", {"n": 1})

            async def arrived() -> bool:
                return layer.counts().waiting == 2

            await eventually(arrived)
            for _ in range(55):  # 605 s, in which the lease is kept
                system.clock.advance(11.0)
                await layer.run_maintenance()
            await eventually(lambda: is_true(layer._state.place(layer._pipeline.channel(channel))[1].groups == set()))
            await sender.group_send("room", {"n": 2})
            assert await _next(messages) == {"n": 2}
            assert await sender.group_channels("room") == [*messages.channels]
            assert layer.counts().dropped == {"expired": 2}


async def test_an_ended_subscription_leaves_no_mailbox(system: System) -> None:
    """Its mailbox lasts as long as the subscription, and is then removed like any other that is unused for `expiry`."""
    async with system.layer(expiry=10.0) as layer:
        async with layer.subscribe("room") as messages:
            [channel] = messages.channels
            await layer.flush()  # no membership keeps it any more
            system.clock.advance(30.0)
            await layer.run_maintenance()
            source, _ = layer._state.place(layer._pipeline.channel(channel))
            assert channel in source.boxes
        system.clock.advance(30.0)
        await layer.run_maintenance()
        assert channel not in source.boxes
