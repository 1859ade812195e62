"""Changes of a group that interleave with each other and with messages: each interleaving is forced.

Where a group and a member's inbox are on different hosts, a change takes two steps. These tests force what can happen
between the two; `test_groups_membership` covers the rest with many concurrent changes.
"""

# pyright: reportPrivateUsage=false
# That nothing was received for long is set, not waited for.

from __future__ import annotations

import asyncio

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.expiry import unread_limit
from channel_layer.domain.names import ChannelName
from tests.support.scenarios_groups import (
    Gate,
    are_waiting,
    collect,
    eventually,
    hold,
    intercept,
    lose_leases,
    name_group,
    receive_within,
)
from tests.support.servers import Deployment
from tests.support.systems import System

pytestmark = pytest.mark.usefixtures("settled")


@pytest.fixture
def apart(three_hosts: Deployment, prefix: str) -> System:
    """Three hosts, so that a group and an inbox can be on different hosts."""
    return System(three_hosts, prefix)


def _hold_marker(monkeypatch: pytest.MonkeyPatch, *, joined: bool) -> Gate:
    """Hold the second step of the first `group_add`, or of the first `group_discard`."""
    return hold(monkeypatch, c.Mark, lambda request: request.marker.joined == joined, only_first=True)


# -- between the two steps of a change -----------------------------------------------------------------------


async def test_a_refresh_that_returned_holds_while_the_first_joining_is_half_way(
    apart: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A returned `group_add` of another process holds, although the owner's, which it refreshes, is not finished."""
    async with apart.layer() as owner, apart.layer() as stranger:
        name = await owner.new_channel()
        group = name_group(apart, name, together=False)
        marker = _hold_marker(monkeypatch, joined=True)
        adding = asyncio.create_task(owner.group_add(group, name))
        await marker.reached()
        await stranger.group_add(group, name)
        await stranger.group_send(group, {"n": 1})
        marker.open()
        await adding
        await stranger.group_send(group, {"n": 2})
        assert await collect(owner, name) == [{"n": 1}, {"n": 2}]


async def test_a_member_stays_one_while_its_owner_adds_it_too(apart: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that another process added gets every message once: before, while and after its owner adds it."""
    async with apart.layer() as owner, apart.layer() as stranger:
        name = await owner.new_channel()
        group = name_group(apart, name, together=False)
        await stranger.group_add(group, name)
        await stranger.group_send(group, {"n": 1})
        marker = _hold_marker(monkeypatch, joined=True)
        adding = asyncio.create_task(owner.group_add(group, name))
        await marker.reached()
        await stranger.group_send(group, {"n": 2})
        marker.open()
        await adding
        await stranger.group_send(group, {"n": 3})
        assert await collect(owner, name) == [{"n": 1}, {"n": 2}, {"n": 3}]
        await stranger.group_discard(group, name)
        await stranger.group_send(group, {"n": 4})
        assert await collect(owner, name) == []
        assert await stranger.group_channels(group) == []


async def test_a_discard_that_returned_holds_against_a_joining_that_comes_late(
    apart: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `group_add` whose second step comes after a later `group_discard` has returned changes nothing."""
    async with apart.layer() as owner, apart.layer() as stranger:
        name = await owner.new_channel()
        group = name_group(apart, name, together=False)
        marker = _hold_marker(monkeypatch, joined=True)
        adding = asyncio.create_task(owner.group_add(group, name))
        await marker.reached()
        await stranger.group_discard(group, name)
        marker.open()
        await adding
        await stranger.group_send(group, {"n": 1})
        assert await collect(owner, name) == []
        assert await stranger.group_channels(group) == []


@pytest.mark.parametrize("adder", ["the owner", "a stranger"])
async def test_a_joining_that_returned_holds_against_a_discard_that_comes_late(
    apart: System, monkeypatch: pytest.MonkeyPatch, adder: str
) -> None:
    """A `group_discard` whose second step comes after a later `group_add` has returned changes nothing."""
    async with apart.layer() as owner, apart.layer() as stranger:
        name = await owner.new_channel()
        group = name_group(apart, name, together=False)
        await owner.group_add(group, name)
        marker = _hold_marker(monkeypatch, joined=False)
        discarding = asyncio.create_task(stranger.group_discard(group, name))
        await marker.reached()
        await (owner if adder == "the owner" else stranger).group_add(group, name)
        await stranger.group_send(group, {"n": 1})
        marker.open()
        await discarding
        await stranger.group_send(group, {"n": 2})
        assert await collect(owner, name) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("joined", [True, False], ids=["group_add", "group_discard"])
async def test_a_change_that_is_cancelled_half_way_is_carried_out(
    apart: System, monkeypatch: pytest.MonkeyPatch, *, joined: bool
) -> None:
    """After a change is cancelled between its two steps, a group delivers to exactly the members that it lists."""
    async with apart.layer() as owner, apart.layer() as other:
        name, beside = await owner.new_channel(), await owner.new_channel()
        group = name_group(apart, name, together=False)
        await owner.group_add(group, beside)
        if not joined:
            await owner.group_add(group, name)
        marker = _hold_marker(monkeypatch, joined=joined)
        change = owner.group_add if joined else other.group_discard
        changing = asyncio.create_task(change(group, name))
        await marker.reached()
        changing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await changing
        marker.open()

        async def delivered() -> bool:
            await other.group_send(group, {"n": 1})
            assert await collect(owner, beside) == [{"n": 1}]
            return bool(await collect(owner, name))

        async def carried_out() -> bool:
            return await delivered() == joined

        await eventually(carried_out)
        assert (name in await other.group_channels(group)) == joined


async def test_a_discard_that_returned_holds_against_a_joining_that_was_cancelled(
    apart: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `group_add` that was cancelled before its first step, but is carried out, does not outlast a later discard."""
    async with apart.layer() as owner, apart.layer() as other:
        name = await owner.new_channel()
        group = name_group(apart, name, together=False)
        joining = hold(monkeypatch, c.Join, lambda _: True, only_first=True)
        adding = asyncio.create_task(owner.group_add(group, name))
        await joining.reached()
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        discarding = asyncio.create_task(owner.group_discard(group, name))
        await asyncio.wait([discarding], timeout=0.1)  # it would have finished by now if it did not wait
        joining.open()
        await discarding
        assert await other.group_channels(group) == []
        await other.group_send(group, {"n": 1})
        assert await collect(owner, name) == []


# -- an owner that is taken for dead -------------------------------------------------------------------------


async def test_an_owner_that_comes_back_is_not_removed_as_dead(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members whose owner was found dead, but came back before the sender removed them, stay."""
    async with system.layer() as owner, system.layer() as sender:
        old, new = await owner.new_channel(), await owner.new_channel()
        await owner.group_add("group", old)
        await owner.group_add("group", "normal")  # so that the removal is a separate step on every store
        assert await collect(owner, old) == []  # the owner's background work has begun
        lose_leases(system)
        removal = hold(monkeypatch, c.Prune, lambda _: True)
        sending = asyncio.create_task(sender.group_send("group", {"n": 1}))
        await removal.reached()
        await owner.group_add("group", new)
        removal.open()
        await sending
        assert await sender.group_channels("group") == sorted([old, new, "normal"])
        await sender.group_send("group", {"n": 2})
        assert await collect(owner, old) == await collect(owner, new) == [{"n": 2}]


async def test_a_group_add_takes_a_lost_lease_again(system: System) -> None:
    """`group_add` of an owner that has just lost its lease returns with this and the earlier memberships in force."""
    async with system.layer() as owner, system.layer() as sender:
        old, new = await owner.new_channel(), await owner.new_channel()
        await owner.group_add("group", old)
        assert await collect(owner, old) == []  # the owner's background work has begun
        lose_leases(system)
        assert await sender.group_channels("group") == []
        await owner.group_add("group", new)
        assert await sender.group_channels("group") == sorted([old, new])
        await sender.group_send("group", {"n": 1})
        assert await collect(owner, old) == await collect(owner, new) == [{"n": 1}]


async def test_a_store_that_keeps_losing_the_lease_is_an_error(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """`group_add` raises `StoreError` if the lease is lost again each time it has been taken."""
    async with system.layer() as owner:
        name = await owner.new_channel()

        async def lose(_: c.Join) -> None:
            lose_leases(system)

        with monkeypatch.context() as patch:
            intercept(patch, c.Join, lose)
            with pytest.raises(StoreError, match="keeps losing") as caught:
                await owner.group_add("group", name)
        assert caught.value.retryable
        await owner.group_add("group", name)
        assert await owner.group_channels("group") == [name]


# -- an owner that removes a membership -----------------------------------------------------------------------


async def test_a_joining_that_returned_holds_against_the_removal_of_an_unread_member(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel that is about to be removed from its group over an unread message, but is added again first, stays."""
    async with system.layer(expiry=10) as owner, system.layer(expiry=10) as other:
        name = await owner.new_channel()
        group = name_group(system, name, together=system.shards == 1)
        await owner.group_add(group, name)
        await other.send(name, {"n": "too old"})
        await eventually(lambda: are_waiting(owner, 1))
        leaving = hold(monkeypatch, c.Leave, lambda request: request.channel.name == name, only_first=True)
        box = owner._state.inboxes[ChannelName.parse(name).queue.name].boxes[name]
        box.used_at -= unread_limit(10)  # no receive() for so long
        system.clock.advance(10.1)
        await leaving.reached()
        await owner.group_add(group, name)
        leaving.open()
        await eventually(lambda: _swept(owner))
        await other.group_send(group, {"n": 1})
        assert await receive_within(owner, name) == {"n": 1}
        assert await other.group_channels(group) == [name]


async def _swept(layer: ChannelLayer) -> bool:
    return layer.counts().dropped.get("expired") == 1
