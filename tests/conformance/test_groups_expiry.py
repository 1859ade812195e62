"""How a membership ends by itself: too long ago, its owner dead, or a message to it unread (invariant 11).

Time is a clock that the tests move; only what a server's own key lifetimes decide is waited for.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from channel_layer import ChannelLayer
from channel_layer import commands as c
from channel_layer.domain.inbox import Mailbox
from tests.support.scenarios_groups import (
    collect,
    eventually,
    hold,
    is_true,
    lose_leases,
    name_group,
    receive_within,
    record,
)
from tests.support.systems import System, run


async def _members(layer: ChannelLayer, expected: list[str], group: str = "group") -> bool:
    return await layer.group_channels(group) == sorted(expected)


# -- group_expiry --------------------------------------------------------------------------------------------


def test_memberships_that_are_over_leave_the_store(redis_system: System) -> None:
    """The first `group_send` after `group_expiry` removes the members from the server, whoever added them."""

    async def body() -> None:
        deployment, prefix = redis_system.deployment, redis_system.prefix
        assert deployment is not None
        async with redis_system.layer(group_expiry=30) as owner:
            name = await owner.new_channel()
            for member in (name, "normal"):
                await owner.group_add("group", member)
            rosters = [f"{prefix}{kind}:{{group}}" for kind in "go"]
            assert [key for key in rosters if key in deployment.keys(prefix)] == rosters
            redis_system.clock.advance(31)
            await owner.group_send("group", {"n": 1})
            assert [key for key in rosters if key in deployment.keys(prefix)] == []
            assert await collect(owner, name) == []

    run(body())


def test_without_group_expiry_the_owner_keeps_the_keys_alive(redis_system: System) -> None:
    """With `group_expiry=None` the keys of a group have a lifetime, too, which its members' owner renews every hour."""

    async def body() -> None:
        deployment = redis_system.deployment
        assert deployment is not None
        async with redis_system.layer(group_expiry=None, expiry=0.2) as owner:
            name = await owner.new_channel()
            group = name_group(redis_system, name, together=redis_system.shards == 1)
            await owner.group_add(group, name)
            found = [(host, key) for host in deployment.hosts for key in host.keys(redis_system.prefix) if group in key]
            assert found
            for host, key in found:
                host.command("PEXPIRE", key, 1_000_000)

            async def renewed() -> bool:
                lifetimes = [host.lifetimes(key)[key] for host, key in found]
                return min(lifetimes) > 1_000_000

            await asyncio.sleep(0)
            redis_system.clock.advance(3601)
            await eventually(renewed)

    run(body())


# -- an owner that is dead -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("beside", [[], ["normal"]], ids=["alone", "with others"])
def test_the_members_of_a_dead_owner_are_skipped_and_removed(
    system: System, monkeypatch: pytest.MonkeyPatch, beside: list[str]
) -> None:
    """Once an owner's lease is over, `group_channels` leaves its members out; the next `group_send` removes them."""

    async def body() -> None:
        hold(monkeypatch, c.Renew, lambda request: request.inbox.name.startswith("dies."))
        rosters = record(monkeypatch, c.Members)
        async with system.layer() as stays:
            living = await stays.new_channel()
            for name in [living, *beside]:
                await stays.group_add("group", name)
            dies = system.layer(expiry=0.3)  # so that its lease, which a server ends by its own clock, is short
            names = [await dies.new_channel("dies") for _ in range(3)]
            for name in names:
                await dies.group_add("group", name)
            assert await _members(stays, [*names, living, *beside])
            if system.deployment is None:
                assert await collect(dies, names[0]) == []  # the background work has begun
                lose_leases(system)
                await stays.group_add("group", living)  # the one that lives takes its own again
            await eventually(lambda: _members(stays, [living, *beside]))
            assert set(rosters[-1].owned) == {*names, living}
            await stays.group_send("group", {"n": 1})
            assert await receive_within(stays, living) == {"n": 1}
            assert await _members(stays, [living, *beside])
            assert set(rosters[-1].owned) == {living}
            await dies.aclose()

    run(body())


# -- what nobody reads ---------------------------------------------------------------------------------------


def _mailboxes(channel: str) -> int:
    # type(), not isinstance(): a lazy object of another library would be made by the question what class it has
    return sum(issubclass(type(thing), Mailbox) and thing.name == channel for thing in gc.get_objects())


def test_an_idle_mailbox_is_forgotten_and_made_anew(system: System) -> None:
    """A channel that nobody used for `expiry` keeps no memory; it takes messages again, and so does one that waits."""

    async def body() -> None:
        async with system.layer(expiry=10) as owner, system.layer(expiry=10) as other:
            idle, awaited = await owner.new_channel(), await owner.new_channel()
            for name in (idle, awaited):
                await other.send(name, {"n": 1})
                assert await receive_within(owner, name) == {"n": 1}
            waiting = asyncio.create_task(owner.receive(awaited))
            await eventually(lambda: is_true(_mailboxes(idle) == 1))
            system.clock.advance(100)
            await eventually(lambda: is_true(_mailboxes(idle) == 0))
            for name in (idle, awaited):
                await other.send(name, {"n": 2})
            assert await receive_within(owner, idle) == {"n": 2}
            assert await waiting == {"n": 2}

    run(body())


# -- what nobody reads outside the processes that own channels -----------------------------------------------

OUTSIDE = pytest.mark.parametrize("member", ["normal", "single?reader", "claimed!local"])


def _let_queues_go(system: System) -> None:
    """Let the servers' own lifetimes take every queue that is popped, as they do while no time passes for a test."""
    for host in system.deployment.hosts if system.deployment is not None else ():
        for key in host.keys(f"{system.prefix}q:") + host.keys(f"{system.prefix}t:"):
            host.command("DEL", key)


async def _send_to_every_share(layer: ChannelLayer, system: System, group: str = "group") -> None:
    """Send to the group as often as a normal member may have shares on different shards."""
    for _ in range(system.shards):
        await layer.group_send(group, {"to": "all"})


@OUTSIDE
def test_a_message_that_expired_unread_is_remembered_when_its_queue_has_gone(redis_system: System, member: str) -> None:
    """The next send to each of a member's groups removes it, even if the server has let go of its queue by then."""

    async def body() -> None:
        async with redis_system.layer(expiry=20) as adder, redis_system.layer(expiry=20) as sender:
            for group in ("group", "another"):
                await adder.group_add(group, member)
            await sender.group_send("group", {"n": 1})
            redis_system.clock.advance(20.1)
            _let_queues_go(redis_system)
            for group in ("group", "another"):
                await _send_to_every_share(sender, redis_system, group)
                assert await _members(sender, [], group)

    run(body())


@pytest.mark.usefixtures("settled")
@OUTSIDE
def test_a_member_that_joins_while_it_is_removed_stays(
    system: System, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """A `group_add` that returns before the removal is carried out holds."""

    async def body() -> None:
        async with system.layer(expiry=20) as adder, system.layer(expiry=20) as sender:
            await adder.group_add("group", member)
            await _send_to_every_share(sender, system)
            system.clock.advance(20.1)
            removal = hold(monkeypatch, c.Prune, lambda request: bool(request.others))
            sending = asyncio.create_task(sender.group_send("group", {"n": 2}))
            await removal.reached()
            await adder.group_add("group", member)
            removal.open()
            await sending
            assert await _members(sender, [member])
            await sender.group_send("group", {"n": 3})
            assert await receive_within(adder, member) == {"n": 3}

    run(body())
