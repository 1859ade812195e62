"""Leases that are lost, missed and taken again while other things happen: each interleaving is forced."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer_redis import _client
from channel_layer_redis._replies import is_list
from tests.support.scenarios_groups import (
    Gate,
    are_waiting,
    collect,
    eventually,
    follow,
    hold,
    intercept,
    lose_leases,
    name_group,
    receive_within,
)
from tests.support.systems import System

pytestmark = pytest.mark.usefixtures("settled")


async def _members(layer: ChannelLayer, group: str, expected: list[str]) -> bool:
    return await layer.group_channels(group) == sorted(expected)


# -- other processes while there is no lease -----------------------------------------------------------------


async def test_a_member_that_was_discarded_meanwhile_does_not_come_back(system: System) -> None:
    """An owner that takes its lease again announces its members, except those discarded meanwhile."""
    async with system.layer() as owner, system.layer() as other:
        stays, leaves = await owner.new_channel(), await owner.new_channel()
        groups = [name_group(system, stays, together=True)]
        if system.shards > 1:
            groups.append(name_group(system, stays, together=False))
        for group in groups:
            for name in (stays, leaves):
                await owner.group_add(group, name)
            await other.group_send(group, {"n": 1})
        before = [{"n": 1} for _ in groups]
        assert await collect(owner, stays) == await collect(owner, leaves) == before
        lose_leases(system)
        for group in groups:
            await other.group_discard(group, leaves)
        await owner.group_add("another", stays)  # takes the lease again
        for group in groups:
            assert await _members(other, group, [stays])
            await other.group_send(group, {"n": 2})
        assert await collect(owner, stays) == [{"n": 2} for _ in groups]
        assert await collect(owner, leaves) == []


async def test_a_message_that_finds_no_lease_waits_for_the_owner(system: System) -> None:
    """What is sent to a living owner's channel while its lease is gone is received once it is taken again, in order."""
    async with system.layer(capacity=4) as owner, system.layer(capacity=4) as sender:
        name = await owner.new_channel()
        assert await collect(owner, name) == []
        lose_leases(system)
        for number in range(4):
            await sender.send(name, {"n": number})
        with pytest.raises(ChannelFull):
            await sender.send(name, {"n": 4})
        await owner.group_add("group", name)
        with pytest.raises(ChannelFull):  # they count in the inbox too
            await sender.send(name, {"n": 4})
        for number in range(4):
            assert await receive_within(owner, name) == {"n": number}


# -- what the owner holds ------------------------------------------------------------------------------------


async def test_an_owner_that_did_not_miss_its_lease_keeps_its_messages(redis_system: System) -> None:
    """When a server loses a lease before its TTL, as in a restart, no message that has reached its owner is lost."""
    async with redis_system.layer(capacity=3) as owner, redis_system.layer(capacity=3) as sender:
        name = await owner.new_channel()
        await owner.group_add("group", name)
        for number in range(3):
            await sender.send(name, {"n": number})
        await eventually(lambda: are_waiting(owner, 3))
        lose_leases(redis_system)
        await owner.group_add("another", name)  # takes the lease again
        assert await _members(sender, "group", [name])
        with pytest.raises(ChannelFull):  # messages in the owner's mailboxes still count
            await sender.send(name, {"n": 3})
        for number in range(3):
            assert await receive_within(owner, name) == {"n": number}
        assert owner.counts().dropped == {}

        for _ in range(3):
            await eventually(lambda: _is_sent(sender, name, {"n": "new"}))
        with pytest.raises(ChannelFull):
            await sender.send(name, {"n": "one too many"})


async def test_an_owner_that_missed_its_lease_drops_what_it_held() -> None:
    """An owner whose lease has ended counts as dead: the messages it held are dropped and counted, once."""
    system = System(None, "")  # memory, where a lease ends by the virtual clock; test_leases has a real one

    async with system.layer(expiry=60) as owner, system.layer(expiry=60) as sender:
        name = await owner.new_channel()
        await owner.group_add("group", name)
        assert await collect(owner, name) == []  # the background work has begun, and renewed the lease once
        system.clock.advance(80)
        for number in range(3):
            await sender.send(name, {"n": number})
        await sender.group_send("group", {"n": 3})
        await eventually(lambda: are_waiting(owner, 4))
        system.clock.advance(11)  # the messages have not expired, but the lease was for 90 seconds
        assert await sender.group_channels("group") == []
        await owner.group_add("another", name)
        assert owner.counts().dropped == {"expired": 4}
        await sender.group_send("group", {"n": 4})
        assert await collect(owner, name) == [{"n": 4}]


# -- failures between two steps -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [1, 2, 5])
async def test_memberships_are_announced_until_all_have_been_heard(
    system: System, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    """If the store fails while an owner announces its members again, the owner goes on when the store is back."""
    async with system.layer(expiry=0.5) as owner, system.layer(expiry=0.5) as other:
        names = [await owner.new_channel() for _ in range(5)]
        groups = [f"group-{number}" for number in range(5)]
        for group, name in zip(groups, names, strict=True):
            await owner.group_add(group, name)
        assert await collect(owner, names[0]) == []
        failed = 0

        async def fail(request: c.Join) -> None:
            nonlocal failed
            if request.restore and failed < fails:
                failed += 1
                raise StoreError("away", retryable=True, outcome="not_sent")

        intercept(monkeypatch, c.Join, fail)
        renewals = hold(monkeypatch, c.RenewLease, lambda _: True)
        lose_leases(system)
        for group in groups:
            await other.group_send(group, {})  # finds every owner dead, and so removes all members
        renewals.open()
        while failed < fails:
            try:
                await owner.group_add("another", names[0])  # takes the lease again
            except StoreError:
                continue
            break

        async def back() -> bool:
            await owner.group_add("another", names[0])
            return all([await _members(other, *each) for each in zip(groups, [[n] for n in names], strict=True)])

        await eventually(back)
        assert failed == fails


async def test_members_are_announced_though_the_work_moves_in_between(
    redis_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner whose connections are closed between taking its lease and announcing its members announces them then."""
    gate = hold(monkeypatch, c.Acknowledge, lambda _: True, only_first=True)

    async with redis_system.layer(expiry=1) as owner, redis_system.layer(expiry=1) as other:
        name = await owner.new_channel()
        await owner.group_add("group", name)
        _lose_groups(redis_system)
        lose_leases(redis_system)
        await gate.reached()  # by the renewal of the lease, twice a second
        await owner.close_pools()
        await eventually(lambda: _members(other, "group", [name]))


@pytest.mark.parametrize("case", ["the connection breaks", "the work moves", "the connection of a caller breaks"])
async def test_a_lease_whose_reply_was_lost_is_taken_again(
    redis_system: System, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """If a lease is taken, but the connection breaks or the work moves before the reply, it is taken once more.

    Renewing it would not be enough: the members have gone with the old lease, and credits are counted anew.
    """
    gate, begun = Gate(), False

    async def after(_: c.AcquireLease) -> None:
        if begun and not gate.count:
            if case != "the work moves":
                gate.open()
            await gate.pass_through()
            raise StoreError("the connection broke", retryable=True, outcome="unknown")

    follow(monkeypatch, c.AcquireLease, after)

    options = {"expiry": 120 if "caller" in case else 1, "capacity": 3}  # leases are checked twice as often
    async with redis_system.layer(**options) as owner, redis_system.layer(**options) as other:
        name = await owner.new_channel()
        await owner.group_add("group", name)
        assert await collect(owner, name) == []
        begun = True
        _lose_groups(redis_system)
        lose_leases(redis_system)
        if "caller" in case:
            with pytest.raises(StoreError):
                await owner.group_add("another", name)
        await gate.reached()
        if case == "the work moves":
            await owner.close_pools()
        await eventually(lambda: _members(other, "group", [name]))
        for number in range(9):
            await eventually(partial(_is_sent, other, name, {"n": number}))
            assert await receive_within(owner, name) == {"n": number}


async def _is_sent(layer: ChannelLayer, channel: str, message: dict[str, object]) -> bool:
    try:
        await layer.send(channel, message)
    except ChannelFull:
        return False
    return True


@pytest.mark.parametrize("kind", [c.AcquireLease, c.Acknowledge])
async def test_a_cancelled_group_add_does_not_stop_the_owner(
    system: System, monkeypatch: pytest.MonkeyPatch, kind: type[c.AcquireLease | c.Acknowledge]
) -> None:
    """A `group_add` that is cancelled while the owner's lease is taken again leaves an owner that goes on reading."""
    begun = False
    gate = hold(monkeypatch, kind, lambda _: begun, only_first=True)

    async with system.layer() as owner, system.layer() as other:
        name = await owner.new_channel()
        assert await collect(owner, name) == []
        begun = True
        lose_leases(system)
        joining = asyncio.create_task(owner.group_add("group", name))
        await gate.reached()
        joining.cancel()
        await asyncio.wait([joining])
        gate.open()
        await owner.group_add("another", name)
        await other.group_send("another", {"n": 1})
        await other.send(name, {"n": 2})
        assert await collect(owner, name) == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_member_that_left_just_before_a_restart_does_not_come_back(
    redis_system: System,
    monkeypatch: pytest.MonkeyPatch,
    blocking: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A discard that the store has confirmed holds, although the store loses it before its marker is read."""
    dying = False
    gate = hold(monkeypatch, c.Read, lambda _: dying)

    async with redis_system.layer() as owner:
        stays, leaves = await owner.new_channel(), await owner.new_channel()
        group = name_group(redis_system, stays, together=True)
        for name in (stays, leaves):
            await owner.group_add(group, name)
        await owner.group_send(group, {"n": 1})
        assert await collect(owner, stays) == await collect(owner, leaves) == [{"n": 1}]
        dying = True
        await owner.group_add("another", stays)  # ends the read in progress
        await gate.reached()
        if blocking:
            await asyncio.to_thread(owner.blocking.group_discard, group, leaves)
        else:
            await owner.group_discard(group, leaves)
        _lose_groups(redis_system)
        lose_leases(redis_system)
        gate.open()
        await owner.group_add("another", stays)  # takes the lease again
        await eventually(lambda: _members(owner, group, [stays]))
        await owner.group_send(group, {"n": 2})
        assert await collect(owner, stays) == [{"n": 2}]
        assert await collect(owner, leaves) == []
        assert await _members(owner, group, [stays])


def _lose_groups(system: System) -> None:
    """Delete the records of groups on the servers."""
    assert system.deployment is not None
    for host in system.deployment.hosts:
        for kind in "goix":
            for key in host.keys(f"{system.prefix}{kind}:"):
                host.command("DEL", key)


@pytest.mark.parametrize("steps", range(6))
async def test_background_work_ends_although_it_times_out_just_then(system: System, steps: int) -> None:
    """A background task that its own timeout is just cancelling still ends when it is cancelled from outside."""
    async with system.layer() as layer:
        await layer.new_channel()
        work = layer._background.work
        assert work is not None

        async def look_again_and_again() -> None:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0):
                        await asyncio.Event().wait()

        work.tasks.start(look_again_and_again())
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            await work.stop()


# -- claimed inboxes ------------------------------------------------------------------------------------------


async def test_a_message_for_a_claimed_inbox_survives_the_move_of_the_work(
    redis_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message just popped from a claimed inbox is received although its reader's connections are closed meanwhile."""
    gate = Gate()
    original = _client._shielded

    async def delayed(reply: asyncio.Future[object]) -> object:
        """Delay the reply of the pop that took the message until its caller has been cancelled."""
        found = await original(reply)
        if is_list(found) and len(found) > 2 and not gate.count:
            await original(asyncio.ensure_future(gate.pass_through()))
        return found

    monkeypatch.setattr(_client, "_shielded", delayed)

    async with redis_system.layer() as reader, redis_system.layer() as sender:
        waiting = asyncio.create_task(reader.receive("claimed!one"))
        await sender.send("claimed!one", {"n": 1})
        await gate.reached()
        closing = asyncio.create_task(reader.close_pools())
        await asyncio.sleep(0.05)
        assert not closing.done()
        gate.open()
        await closing
        async with asyncio.timeout(20):
            assert await waiting == {"n": 1}
