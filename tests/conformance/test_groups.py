"""Groups as everybody sees them: who is in one, who gets what is sent to it, and who misses it (invariants 7, 10)."""

from __future__ import annotations

import asyncio

import pytest

from channel_layer import ChannelFull, ChannelLayer, MessageTooLarge
from channel_layer import commands as c
from tests.support.scenarios_groups import collect, eventually, hold, name_group, receive_within
from tests.support.servers import Deployment, StartServer, fresh_prefix
from tests.support.systems import System, run

_OUTSIDE = ("normal", "single?reader", "claimed!one", "claimed!two")
"""Members that no process has minted."""


async def _dropped(layer: ChannelLayer) -> dict[str, int]:
    return {str(reason): count for reason, count in (await layer.statistics()).dropped.items()}


# -- members -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
def test_a_member_of_any_kind_gets_one_copy(system: System) -> None:
    """Whoever adds a channel, and however often: `group_send` gives it one copy, `group_channels` lists it once."""

    async def body() -> None:
        async with system.layer() as one, system.layer() as two, system.layer() as three:
            by_owner, by_stranger, by_both = [await one.new_channel() for _ in range(3)]
            added = [(one, by_owner), (two, by_stranger), (two, by_both), (one, by_both), (three, by_both)]
            added += [(layer, name) for layer in (one, two) for name in _OUTSIDE]
            for _ in range(2):
                for layer, name in added:
                    await layer.group_add("group", name)
            members = sorted({name for _, name in added})
            for layer in (one, two, three):
                assert await layer.group_channels("group") == members
            await three.group_send("group", {"n": 1})
            for name in members:
                assert await receive_within(one, name) == {"n": 1}
                assert (await one.statistics(name)).pending == 0
            for name in (by_owner, by_stranger, by_both):
                assert await collect(one, name) == []

    run(body())


@pytest.mark.parametrize("adder", ["its owner", "a stranger", "both"])
def test_anyone_may_discard_anyone(system: System, adder: str) -> None:
    """A channel leaves by any process's `group_discard`, whoever added it; the members beside it stay."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as stranger, system.layer() as third:
            stays = await owner.new_channel()
            await owner.group_add("group", stays)
            for discarder in (owner, stranger, third):
                names = [await owner.new_channel(), *_OUTSIDE]
                for name in names:
                    if adder != "a stranger":
                        await owner.group_add("group", name)
                    if adder != "its owner":
                        await stranger.group_add("group", name)
                for name in names:
                    await discarder.group_discard("group", name)
                assert await third.group_channels("group") == [stays]
                await third.group_send("group", {"n": 1})
                assert await receive_within(owner, stays) == {"n": 1}
                assert await collect(owner, names[0]) == []
                for name in _OUTSIDE:
                    assert (await third.statistics(name)).pending == 0

    run(body())


def test_groups_do_not_touch_each_other(system: System) -> None:
    """A channel in two groups hears each once, and leaves one of them without leaving the other."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as other:
            name = await owner.new_channel()
            for group in ("first", "second"):
                await owner.group_add(group, name)
            for group in ("first", "second"):
                await other.group_send(group, {"to": group})
            assert await collect(owner, name) == [{"to": "first"}, {"to": "second"}]
            await other.group_discard("first", name)
            for group in ("first", "second"):
                await other.group_send(group, {"to": group})
            assert await collect(owner, name) == [{"to": "second"}]
            assert await other.group_channels("first") == []

    run(body())


def test_what_is_not_there_can_be_discarded_listed_and_sent_to(system: System) -> None:
    """A group that nobody is in takes a message without an error, and so does discarding who was never a member."""

    async def body() -> None:
        async with system.layer() as layer:
            name = await layer.new_channel()
            for channel in (name, *_OUTSIDE):
                await layer.group_discard("empty", channel)
            await layer.group_send("empty", {"n": 1})
            assert await layer.group_channels("empty") == []
            assert await collect(layer, name) == []
            assert await _dropped(layer) == {}

    run(body())


def test_recipients_share_no_object_with_anybody(system: System) -> None:
    """Each member gets an object of its own, and nothing of the sender's: whoever changes his changes no other."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as other:
            names = [await owner.new_channel() for _ in range(2)] + [await other.new_channel()]
            for layer, name in zip((owner, owner, other), names, strict=True):
                await layer.group_add("group", name)
            sent: list[object] = [1, {"deep": b"x"}]
            await other.group_send("group", {"list": sent})
            sent.append("changed by the sender")
            first = await receive_within(owner, names[0])
            first_list = first["list"]
            assert isinstance(first_list, list)
            first_list.clear()
            for layer, name in ((owner, names[1]), (other, names[2])):
                assert await receive_within(layer, name) == {"list": [1, {"deep": b"x"}]}

    run(body())


@pytest.mark.usefixtures("loops")
def test_direct_and_group_messages_keep_one_order(system: System) -> None:
    """What one writer sends to a channel, directly and through groups in turn, is received in that order."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as writer:
            name = await owner.new_channel()
            groups = [f"group-{number}" for number in range(4)]  # on several hosts they lie on several
            for group in groups:
                await owner.group_add(group, name)
            for number in range(60):
                if number % 5:
                    await writer.group_send(groups[number % 4], {"n": number})
                else:
                    await writer.send(name, {"n": number})
            assert await collect(owner, name) == [{"n": number} for number in range(60)]

    run(body())


def test_a_group_message_crosses_to_a_process_once(start_server: StartServer) -> None:
    """However many members a process has, `group_send` writes into its inbox once: the owner does the rest."""

    async def body() -> None:
        host = start_server().host()
        system = System(Deployment((host,)), fresh_prefix())
        async with system.layer() as owner, system.layer() as other, system.layer() as sender:
            members = [(layer, await layer.new_channel()) for layer in (owner, other) for _ in range(100)]
            for layer, name in members:
                await layer.group_add("group", name)
            before = host.info("commandstats")["cmdstat_xadd"]
            await sender.group_send("group", {"n": 1})
            after = host.info("commandstats")["cmdstat_xadd"]
            assert isinstance(before, dict)
            assert isinstance(after, dict)
            assert after["calls"] - before["calls"] == 2
            for layer, name in members:
                assert await receive_within(layer, name) == {"n": 1}

    run(body())


# -- who is full ---------------------------------------------------------------------------------------------


def test_a_full_mailbox_misses_the_newest_and_nobody_else_does(system: System) -> None:
    """A member that does not read keeps its oldest messages and misses the newest, counted `full`; others get all."""

    async def body() -> None:
        async with system.layer(capacity=3) as owner, system.layer(capacity=3) as sender:
            slow, quick = await owner.new_channel(), await owner.new_channel()
            for name in (slow, quick):
                await owner.group_add("group", name)
            for number in range(8):
                await sender.group_send("group", {"n": number})
                assert await receive_within(owner, quick) == {"n": number}
            assert await _dropped(owner) == {"full": 5}
            assert await _dropped(sender) == {}
            assert await collect(owner, slow) == [{"n": number} for number in range(3)]
            await sender.group_send("group", {"n": "room again"})
            for name in (slow, quick):
                assert await receive_within(owner, name) == {"n": "room again"}

    run(body())


@pytest.mark.parametrize("member", _OUTSIDE[:3])
def test_a_full_queue_misses_the_newest_and_nobody_else_does(system: System, member: str) -> None:
    """The same for a member that no process owns; the loss is counted where the message was sent."""

    async def body() -> None:
        async with system.layer(capacity=3) as owner, system.layer(capacity=3) as sender:
            quick = await owner.new_channel()
            await owner.group_add("group", quick)
            await sender.group_add("group", member)
            for number in range(8):
                await sender.group_send("group", {"n": number})
                assert await receive_within(owner, quick) == {"n": number}
            assert await _dropped(sender) == {"full": 5}
            assert await _dropped(owner) == {}
            kept = [await receive_within(owner, member) for _ in range(3)]
            assert sorted(kept, key=str) == [{"n": number} for number in range(3)]
            assert (await owner.statistics(member)).pending == 0

    run(body())


def test_group_messages_take_no_room_from_direct_ones(system: System) -> None:
    """A channel holds its capacity of direct messages and its capacity of group messages at the same time."""

    async def body() -> None:
        async with system.layer(capacity=2) as owner, system.layer(capacity=2) as sender:
            name = await owner.new_channel()
            await owner.group_add("group", name)
            for number in range(3):
                await sender.group_send("group", {"group": number})
            for number in range(2):
                await sender.send(name, {"direct": number})
            with pytest.raises(ChannelFull):
                await sender.send(name, {"direct": 2})
            expected = [{"group": 0}, {"group": 1}, {"direct": 0}, {"direct": 1}]
            assert [await receive_within(owner, name) for _ in expected] == expected
            assert await _dropped(owner) == {"full": 1}

    run(body())


@pytest.mark.usefixtures("settled")
def test_a_process_that_does_not_read_misses_what_its_inbox_cannot_hold(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past `inbox_capacity` the newest are dropped for the stalled process alone, counted `inbox_full`; none raises."""

    async def body() -> None:
        reads = hold(monkeypatch, c.Read, lambda request: request.inbox.name.startswith("stalled."))
        async with system.layer(inbox_capacity=5) as stalled, system.layer(inbox_capacity=5) as quick:
            names = [await stalled.new_channel("stalled") for _ in range(2)]
            group = name_group(system, names[0], together=system.shards == 1)
            for name in names:
                await stalled.group_add(group, name)
            reading = await quick.new_channel()
            await quick.group_add(group, reading)
            held = 2  # the markers of the two members wait in the inbox, too
            for number in range(8):
                await quick.group_send(group, {"n": number})
                assert await receive_within(quick, reading) == {"n": number}
            assert await _dropped(quick) == {"inbox_full": 8 - (5 - held)}
            # Changes are outside every capacity, so the owner will not miss this one.
            await quick.group_discard(group, names[1])
            reads.open()
            for name in names:
                for number in range(5 - held):
                    assert await receive_within(stalled, name) == {"n": number}
            await quick.group_send(group, {"n": "room again"})
            assert await collect(stalled, names[0]) == [{"n": "room again"}]
            assert await collect(stalled, names[1]) == []

    run(body())


def test_a_group_message_over_the_size_limit_is_refused_whole(system: System) -> None:
    """`group_send` of too large a message raises `MessageTooLarge` and reaches nobody, with members and without."""

    async def body() -> None:
        async with system.layer(max_message_size=200) as layer:
            name = await layer.new_channel()
            for members in ([], [name, "normal"]):
                for member in members:
                    await layer.group_add("group", member)
                with pytest.raises(layer.MessageTooLarge, match="max_message_size") as caught:
                    await layer.group_send("group", {"data": b"x" * 200})
                assert isinstance(caught.value, MessageTooLarge)
                assert caught.value.limit == 200
            assert await collect(layer, name) == []
            assert (await layer.statistics("normal")).pending == 0

    run(body())


# -- many at once --------------------------------------------------------------------------------------------


def test_changes_of_many_channels_at_once_all_hold(system: System) -> None:
    """Of 50 channels that owners and strangers add at once, and discard half of at once, the right ones stay."""

    async def body() -> None:
        async with system.layer() as one, system.layer() as two:
            mine = [(layer, await layer.new_channel()) for layer in (one, two) for _ in range(25)]
            names = [name for _, name in mine]
            layers = (one, two, one)  # owners and strangers take turns
            await asyncio.gather(*(layers[i % 3].group_add("group", name) for i, name in enumerate(names)))
            assert await one.group_channels("group") == sorted(names)
            leaving = list(enumerate(names))[::2]
            await asyncio.gather(*(layers[i % 3].group_discard("group", name) for i, name in leaving))
            await two.group_send("group", {"n": 1})
            for place, (owner, name) in enumerate(mine):
                if place % 2:
                    assert await receive_within(owner, name) == {"n": 1}
            assert sum([(await layer.statistics()).waiting for layer in (one, two)]) == 0
            assert sum([(await layer.statistics()).expanded for layer in (one, two)]) == 25

    run(body())


def test_a_closed_layer_has_left_its_groups(system: System) -> None:
    """After `aclose` no group lists the layer's channels, and no message to the group is kept for them."""

    async def body() -> None:
        async with system.layer() as stays:
            reading = await stays.new_channel()
            await stays.group_add("group", reading)
            leaver = system.layer()
            names = [await leaver.new_channel() for _ in range(3)]
            for name in names:
                await leaver.group_add("group", name)
            await leaver.aclose()
            assert await stays.group_channels("group") == [reading]
            await stays.group_send("group", {"n": 1})
            assert await collect(stays, reading) == [{"n": 1}]
            assert await _dropped(stays) == {}
            await eventually(lambda: _nothing_waits(stays, names))

    run(body())


async def _nothing_waits(layer: ChannelLayer, names: list[str]) -> bool:
    return not sum([(await layer.statistics(name)).pending or 0 for name in names])
