"""How a membership ends by itself: after `group_expiry`, with its owner's lease, or with an expired unread message.

The tests move a virtual clock; they wait in real time only for lifetimes of keys, which the server keeps.
"""

from __future__ import annotations

import asyncio
import gc

import pytest

from channel_layer import ChannelLayer
from channel_layer import commands as c
from channel_layer.domain.mailbox import Mailbox
from tests.support.scenarios_groups import (
    are_waiting,
    collect,
    eventually,
    hold,
    is_true,
    lose_leases,
    name_group,
    receive_within,
    record,
)
from tests.support.systems import System


async def _members(layer: ChannelLayer, expected: list[str], group: str = "group") -> bool:
    return await layer.group_channels(group) == sorted(expected)


# -- group_expiry --------------------------------------------------------------------------------------------


async def test_memberships_that_are_over_leave_the_store(redis_system: System) -> None:
    """The first `group_send` after `group_expiry` removes the members from the server, whichever process added them."""
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


async def test_without_group_expiry_the_owner_keeps_the_keys_alive(redis_system: System) -> None:
    """With `group_expiry=None` the keys of a group have a lifetime too, which a member's owner renews every hour."""
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


# -- a dead owner --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("beside", [[], ["normal"]], ids=["alone", "with others"])
async def test_the_members_of_a_dead_owner_are_skipped_and_removed(
    system: System, monkeypatch: pytest.MonkeyPatch, beside: list[str]
) -> None:
    """Once an owner's lease is over, `group_channels` leaves its members out; the next `group_send` removes them."""
    hold(monkeypatch, c.RenewLease, lambda request: request.inbox.name.startswith("dies."))
    # nor may it read that its lease is over: a living owner acquires it again
    reads = hold(monkeypatch, c.Read, lambda request: request.inbox.name.startswith("dies."))
    rosters = record(monkeypatch, c.Members)
    async with system.layer() as stays:
        living = await stays.new_channel()
        for name in [living, *beside]:
            await stays.group_add("group", name)
        dies = system.layer(expiry=0.3)  # for a short lease, which ends by the server's clock
        names = [await dies.new_channel("dies") for _ in range(3)]
        for name in names:
            await dies.group_add("group", name)
        assert await _members(stays, [*names, living, *beside])
        if system.deployment is None:
            await reads.reached()  # the background work has begun
            lose_leases(system)
            await stays.group_add("group", living)  # the live owner takes its own lease again
        await eventually(lambda: _members(stays, [living, *beside]))
        assert set(rosters[-1].owned) == {*names, living}
        await stays.group_send("group", {"n": 1})
        assert await receive_within(stays, living) == {"n": 1}
        assert await _members(stays, [living, *beside])
        assert set(rosters[-1].owned) == {living}
        await dies.aclose()


# -- channels without reader ---------------------------------------------------------------------------------


def _mailboxes(channel: str) -> int:
    # type(), not isinstance(): asking a lazy object of another library for its class would evaluate it
    return sum(issubclass(type(thing), Mailbox) and thing.name == channel for thing in gc.get_objects())


async def test_an_idle_mailbox_is_forgotten_and_made_anew(system: System) -> None:
    """A channel unused for `expiry` takes no memory; messages to it are received again, also by a waiting receiver."""
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


# -- channels without reader that no process owns --------------------------------------------------------------

OUTSIDE = pytest.mark.parametrize("member", ["normal", "single?reader", "claimed!local"])


def _let_queues_go(system: System) -> None:
    """Delete every popped queue, as its lifetime on the server would, without waiting for it."""
    for host in system.deployment.hosts if system.deployment is not None else ():
        for key in host.keys(f"{system.prefix}q:") + host.keys(f"{system.prefix}t:"):
            host.command("DEL", key)


async def _send_to_every_share(layer: ChannelLayer, system: System, group: str = "group") -> None:
    """Send to the group once for each share of a normal channel."""
    for _ in range(system.shards):
        await layer.group_send(group, {"to": "all"})


@OUTSIDE
async def test_a_message_that_expired_unread_is_remembered_when_its_queue_has_gone(
    redis_system: System, member: str
) -> None:
    """The next send to each group of such a member removes it, even if the server has deleted its queue by then."""
    async with redis_system.layer(expiry=20) as adder, redis_system.layer(expiry=20) as sender:
        for group in ("group", "another"):
            await adder.group_add(group, member)
        await sender.group_send("group", {"n": 1})
        redis_system.clock.advance(40.1)
        _let_queues_go(redis_system)
        for group in ("group", "another"):
            await _send_to_every_share(sender, redis_system, group)
            assert await _members(sender, [], group)


@pytest.mark.usefixtures("settled")
@OUTSIDE
async def test_a_member_that_joins_while_it_is_removed_stays(
    system: System, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    """A `group_add` that returns before the removal is carried out holds."""
    async with system.layer(expiry=20) as adder, system.layer(expiry=20) as sender:
        await adder.group_add("group", member)
        await _send_to_every_share(sender, system)
        system.clock.advance(40.1)
        removal = hold(monkeypatch, c.Prune, lambda request: bool(request.others))
        sending = asyncio.create_task(sender.group_send("group", {"n": 2}))
        await removal.reached()
        await adder.group_add("group", member)
        removal.open()
        await sending
        assert await _members(sender, [member])
        await sender.group_send("group", {"n": 3})
        assert await receive_within(adder, member) == {"n": 3}


async def test_a_thread_that_receives_from_the_whole_inbox_keeps_its_channels_in_their_groups(system: System) -> None:
    """A blocking receive() of an owned inbox counts as one of each of its channels, also if it finds nothing."""
    async with system.layer(expiry=20) as owner, system.layer(expiry=20) as sender:
        name = await owner.new_channel()
        inbox = name.partition("!")[0] + "!"
        await owner.group_add("group", name)
        await sender.group_send("group", {"n": 1})
        await eventually(lambda: are_waiting(owner, 1))
        for step in range(70):  # 1400 s
            system.clock.advance(20.0)
            await owner.run_maintenance()
            if step % 25 == 0:  # every 500 s
                assert await asyncio.to_thread(owner.blocking.receive, [inbox]) == (None, None)
        assert owner.counts().dropped == {"expired": 1}
        assert await sender.group_channels("group") == [name]
