"""Subscriptions: how they are made and used, and the errors of wrong use."""

# pyright: reportPrivateUsage=false
# The interval of renewals is private.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from channel_layer import ChannelLayer, Group, InvalidName, SubscriptionError
from channel_layer.ports import Capabilities
from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_memory import MemoryChannelLayer
from tests.support.wrong_stores import WrongStore, simple_stores


@dataclass
class One:
    """A type."""

    n: int


@dataclass
class Two:
    """Another one."""

    n: int


_WRONG: dict[str, tuple[Callable[[ChannelLayer, ChannelLayer], object], type[Exception], str]] = {
    "no group": (lambda layer, _: layer.subscribe(*list[str]()), SubscriptionError, "name a group"),
    "a wrong name": (lambda layer, _: layer.subscribe("a b"), InvalidName, "invalid group name 'a b'"),
    "another layer": (
        lambda layer, other: layer.subscribe(Group(other, "a", One)),
        SubscriptionError,
        r"Group\('a', One\) is bound to another layer",
    ),
    "two types": (
        lambda layer, _: layer.subscribe(Group(layer, "a", One), Group(layer, "a", Two)),
        SubscriptionError,
        "'a' is named twice, with different types",
    ),
}


@pytest.mark.parametrize(("ask", "error", "text"), _WRONG.values(), ids=_WRONG)
def test_a_wrong_subscription_is_refused_at_once(
    ask: Callable[[ChannelLayer, ChannelLayer], object], error: type[Exception], text: str
) -> None:
    """The call itself raises, before any group has been joined, and the error says what to do."""
    with pytest.raises(error, match=text):
        ask(MemoryChannelLayer(), MemoryChannelLayer())


async def test_groups_of_one_type_share_a_channel() -> None:
    """There is one channel for each type and each value of `invalid`; a group named twice is joined once."""
    async with MemoryChannelLayer() as layer:
        a, b, c = Group(layer, "a", One), Group(layer, "b", One), Group(layer, "c", One, invalid="raise")
        async with layer.subscribe(a, b, Group(layer, "a", One)) as messages:
            assert len(messages.channels) == 1
        async with layer.subscribe(a, c) as messages:
            assert len(messages.channels) == 2
        async with layer.subscribe(a, Group(layer, "d", Two), b) as messages:
            assert len(messages.channels) == 2


async def test_it_is_used_between_its_beginning_and_its_end() -> None:
    """Used before or after its block, or in a second one, it raises an error that says what to write."""
    async with MemoryChannelLayer() as layer:
        messages = layer.subscribe("room")
        with pytest.raises(SubscriptionError, match="write `async with"):
            await anext(messages)
        async with messages as same:
            assert same is messages
            with pytest.raises(SubscriptionError, match="used once"):
                await messages.__aenter__()
        with pytest.raises(SubscriptionError, match="has ended"):
            await anext(messages)
        with pytest.raises(SubscriptionError, match="has ended"):
            aiter(messages)
        with pytest.raises(SubscriptionError, match="used once"):
            await messages.__aenter__()
        await messages.aclose()  # twice is harmless
        unused = layer.subscribe("room")
        await unused.aclose()
        with pytest.raises(SubscriptionError, match="used once"):
            await unused.__aenter__()


async def test_subscriptions_nest() -> None:
    """Nested subscriptions to one group each get every message, and the end of one does not affect the other."""
    async with MemoryChannelLayer() as layer, layer.subscribe("room") as outer:
        async with layer.subscribe("room") as inner:
            await layer.group_send("room", {"n": 1})
            assert await anext(inner) == await anext(outer) == {"n": 1}
        await layer.group_send("room", {"n": 2})
        assert await anext(outer) == {"n": 2}


async def test_an_error_in_the_block_is_the_one_that_comes_out() -> None:
    """An error of the block is raised as it is, after the group has been left."""
    async with MemoryChannelLayer() as layer:
        with pytest.raises(ZeroDivisionError):
            async with layer.subscribe("room"):
                raise ZeroDivisionError
        assert await layer.group_channels("room") == []


@pytest.mark.parametrize(
    ("leases", "tracks_unread", "group_expiry", "every"),
    [
        (True, True, 90.0, 30.0),
        (True, True, None, None),
        (False, False, 90.0, 30.0),
        (False, False, None, 28800.0),
        (False, True, 90.0, 10.0),
        (False, True, None, 10.0),
    ],
)
def test_it_renews_as_often_as_the_store_makes_necessary(
    monkeypatch: pytest.MonkeyPatch,
    *,
    leases: bool,
    tracks_unread: bool,
    group_expiry: float | None,
    every: float | None,
) -> None:
    """Three times while a membership lasts, and often enough where the store ends the membership of a slow reader."""
    monkeypatch.setattr(SimpleBackend, "capabilities", Capabilities(leases=leases, tracks_unread=tracks_unread))
    rules = make_rules(group_expiry=group_expiry, expiry=20.0)
    layer = ChannelLayer(rules, SimpleBackend(lambda: simple_stores(WrongStore)(rules, VirtualClock()), "here"))
    assert layer.subscribe("room")._intake.renew_every == every


@pytest.mark.parametrize("kinds", [1, 2], ids=["one type", "two types"])
async def test_a_simple_store_is_enough(kinds: int) -> None:
    """Over a store without owners a subscription is typed, loses nothing on cancellation, and leaves at the end too."""
    rules, clock = make_rules(), VirtualClock()

    store = simple_stores(WrongStore)(rules, clock)
    async with ChannelLayer(rules, SimpleBackend(lambda: store, "here"), clock=clock) as layer:
        one, two = Group(layer, "one", One), Group(layer, "two", Two)
        async with layer.subscribe(one) if kinds == 1 else layer.subscribe(one, two) as messages:
            for n in range(3):
                await one.send(One(n))
            async with asyncio.timeout(20):
                assert [await anext(messages) for _ in range(3)] == [One(n) for n in range(3)]
                waiting = asyncio.create_task(anext(messages))
                await layer.group_send("one", {"n": "wrong"})
                await one.send(One(3))
                assert await waiting == One(3)
                waiting = asyncio.create_task(anext(messages))
                await asyncio.sleep(0)
                waiting.cancel()
                await one.send(One(4))
                assert await anext(messages) == One(4)
        assert await layer.group_channels("one") == []
        assert layer.counts().dropped == {"invalid": 1}
