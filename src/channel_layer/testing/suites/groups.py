"""Tests of groups: who is a member, which member gets or misses what is sent, and how a membership ends."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.membership import Plan, check_history, merge, play
from channel_layer.testing.suites.tools import LayerEnvironment, async_test, dropped, expect, fails_with

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.layer import ChannelLayer

__all__ = ("GroupTests",)

_OUTSIDE: Final = ("normal", "single?reader", "claimed!one")
"""Members without an owner, one of each kind."""

_ROOM: Final = 1_000_000
"""Capacity enough that nothing is ever full."""

_MEMBERS = "group_channels() lists the members, each once"
_COPY = "each member gets one copy, and no other channel gets any"


async def _listed(layer: ChannelLayer, members: Iterable[str], asked: str, group: str = "group") -> None:
    expect(await layer.group_channels(group), sorted(members), _MEMBERS, asked)


async def _pending(layer: ChannelLayer, channel: str) -> int:
    return (await layer.statistics(channel)).messages_pending or 0


class GroupTests(LayerTests):
    """Members, their messages and their end."""

    # -- members

    @async_test
    async def test_a_member_of_any_kind_gets_one_copy(self, env: LayerEnvironment) -> None:
        """By which process and how often it is added: `group_send` gives a channel one copy, it is listed once."""
        async with env.layer() as one, env.layer() as two, env.layer() as three:
            by_owner, by_stranger, by_both = [await one.new_channel() for _ in range(3)]
            outside = (*_OUTSIDE, "claimed!two")
            added = [(one, by_owner), (two, by_stranger), (two, by_both), (one, by_both), (three, by_both)]
            added += [(layer, name) for layer in (one, two) for name in outside]
            for _ in range(2):
                for layer, name in added:
                    await layer.group_add("group", name)
            members = {name for _, name in added}
            for layer in (one, two, three):
                await _listed(layer, members, "every member added by one, the other or both, twice")
            await three.group_send("group", {"n": 1})
            for name in sorted(members):
                expect(await env.receive(one, name), {"n": 1}, _COPY, f"one message to a group with {name}")
                expect(await _pending(one, name), 0, _COPY, f"one message to a group with {name}")
            for name in (by_owner, by_stranger, by_both):
                expect(await env.collect(one, name), [], _COPY, f"one message to a group with {name}")

    @async_test
    async def test_anyone_may_discard_anyone(self, env: LayerEnvironment) -> None:
        """A channel leaves by the `group_discard` of any process; the other members stay."""
        for by_owner, by_stranger in ((True, False), (False, True), (True, True)):
            env = env.beside()
            async with env.layer() as owner, env.layer() as stranger, env.layer() as third:
                stays = await owner.new_channel()
                await owner.group_add("group", stays)
                for discarder in (owner, stranger, third):
                    names = [await owner.new_channel(), *_OUTSIDE]
                    for name in names:
                        if by_owner:
                            await owner.group_add("group", name)
                        if by_stranger:
                            await stranger.group_add("group", name)
                    for name in names:
                        await discarder.group_discard("group", name)
                    await _listed(third, [stays], "group_discard() of all others, by any process")
                    await third.group_send("group", {"n": 1})
                    expect(await env.receive(owner, stays), {"n": 1}, _COPY, "one message to who has stayed")
                    expect(await env.collect(owner, names[0]), [], _COPY, "one message to a group it has left")
                    pending = [await _pending(third, name) for name in _OUTSIDE]
                    expect(pending, [0] * len(_OUTSIDE), _COPY, "one message to a group they have left")

    @async_test
    async def test_groups_do_not_touch_each_other(self, env: LayerEnvironment) -> None:
        """A channel in two groups hears each once, and leaves one of them without leaving the other."""
        async with env.layer() as owner, env.layer() as other:
            name = await owner.new_channel()
            for group in ("first", "second"):
                await owner.group_add(group, name)
            for group in ("first", "second"):
                await other.group_send(group, {"to": group})
            due = [{"to": "first"}, {"to": "second"}]
            expect(await env.collect(owner, name), due, _COPY, "a message to each of two groups")
            await other.group_discard("first", name)
            for group in ("first", "second"):
                await other.group_send(group, {"to": group})
            expect(await env.collect(owner, name), due[1:], _COPY, "the same after leaving the first")
            await _listed(other, [], "group_discard() of its only member", "first")

    @async_test
    async def test_what_is_not_there_can_be_discarded_listed_and_sent_to(self, env: LayerEnvironment) -> None:
        """An empty group takes a message without an error, and a channel that is no member is discarded without one."""
        async with env.layer() as layer:
            name = await layer.new_channel()
            for channel in (name, *_OUTSIDE):
                await layer.group_discard("empty", channel)
            await layer.group_send("empty", {"n": 1})
            await _listed(layer, [], "group_channels() of an empty group", "empty")
            expect(await env.collect(layer, name), [], _COPY, "a message to an empty group")
            expect(dropped(layer), {}, "a message without a recipient is no loss", "one to an empty group")

    @async_test
    async def test_changes_of_many_channels_at_once_all_hold(self, env: LayerEnvironment) -> None:
        """Of 50 channels that owners and strangers add at once, and discard half of at once, the right ones stay."""
        async with env.layer() as one, env.layer() as two:
            mine = [(layer, await layer.new_channel()) for layer in (one, two) for _ in range(25)]
            names = [name for _, name in mine]
            layers = (one, two, one)  # owners and strangers take turns
            await asyncio.gather(*(layers[i % 3].group_add("group", name) for i, name in enumerate(names)))
            await _listed(one, names, "50 group_add() at once")
            leaving = list(enumerate(names))[::2]
            await asyncio.gather(*(layers[i % 3].group_discard("group", name) for i, name in leaving))
            await _listed(two, names[1::2], "25 group_discard() at once")
            await two.group_send("group", {"n": 1})
            for owner, name in mine[1::2]:
                expect(await env.receive(owner, name), {"n": 1}, _COPY, "a message to the 25 that stayed")
            found = [layer.counts() for layer in (one, two)]
            came = (sum(each.waiting for each in found), sum(each.expanded for each in found))
            expect(came, (0, 25), _COPY, "a message to the 25 that stayed: (waiting, expanded)")

    @async_test
    async def test_who_is_in_a_group_is_who_gets_its_messages(self, env: LayerEnvironment) -> None:
        """While three processes change groups and send to them, no message contradicts the changes around it.

        A change that returned before `group_send` was called holds for it, one called after it returned does not, one
        that overlaps it may go either way: owners and strangers alike add and discard every channel.
        """
        plan = Plan(("first", "second", "third"), sends=40)
        layers = [env.layer(capacity=_ROOM, inbox_capacity=_ROOM) for _ in range(3)]
        mine = [[await layer.new_channel() for _ in range(3)] for layer in layers]
        mine[0] += ["claimed!one", "claimed!two"]
        mine[1] += ["single?reader"]
        all_names = [name for names in mine for name in names]
        meeting = asyncio.Barrier(len(layers))
        parts = (play(layer, n, mine[n], all_names, plan, meeting.wait) for n, layer in enumerate(layers))
        playing = asyncio.gather(*parts)
        rule = "group calls end, and every receiver is served"
        history = merge(await env.soon(playing, rule, steps=10))
        for layer in layers:
            await layer.aclose()
        report = check_history(history)
        rule = "a change holds for each group_send() that is called after it returned, and for none before"
        expect(report.wrong, (), rule, f"{report.decisions} decisions between changes")

    # -- full members

    @async_test
    async def test_only_a_full_member_misses_the_newest(self, env: LayerEnvironment) -> None:
        """A member that does not read keeps its oldest messages and misses the newest, counted `full`; others get all.

        `group_send` never raises `ChannelFull`.
        """
        for outside in (None, *_OUTSIDE):
            env = env.beside()
            async with env.layer(capacity=3) as owner, env.layer(capacity=3) as sender:
                quick = await owner.new_channel("quick")
                slow = outside or await owner.new_channel("quick" if env.capabilities.leases else "slow")
                asked = f"8 messages to a group with {slow}, capacity 3, which does not read"
                await owner.group_add("group", quick)
                await sender.group_add("group", slow)
                for n in range(8):
                    await sender.group_send("group", {"n": n})
                    expect(await env.number(owner, quick), n, "a full member costs no other one a message", asked)
                rule = "a full member keeps the oldest and misses the newest"
                expect(dropped(owner, sender), {"full": 5}, "what a full member misses is counted", asked)
                expect(sorted(await env.numbers(owner, slow, 3)), [0, 1, 2], rule, asked)
                expect(await _pending(owner, slow), 0, rule, asked)
                await sender.group_send("group", {"n": 9})
                for name in (quick, slow):
                    expect(await env.receive(owner, name), {"n": 9}, "a place that is free can be taken", asked)

    @async_test
    async def test_a_member_is_full_with_messages_of_either_kind(self, env: LayerEnvironment) -> None:
        """Direct messages leave so many places less for a group's; full of them, a member takes none of the group's."""
        for by_owner, outside in ((True, None), *((False, name) for name in (None, *_OUTSIDE))):
            env = env.beside()
            async with env.layer(capacity=3) as owner, env.layer(capacity=3) as sender:
                quick = await owner.new_channel("quick")
                # Of one inbox, so that what one has received has come to the other; see `Capabilities.leases`.
                slow = outside or await owner.new_channel("quick" if env.capabilities.leases else "slow")
                for name in (quick, slow):
                    await (owner if by_owner else sender).group_add("group", name)
                for direct in range(1, 4):
                    numbers = [*range(direct), *range(10, 13)]
                    for n in numbers[:direct]:
                        await sender.send(slow, {"n": n})
                    for n in numbers[direct:]:
                        await sender.group_send("group", {"n": n})
                    asked = f"{direct} messages to {slow}, capacity 3, and 3 to a group with it"
                    rule = "a full member costs no other one a message"
                    expect(await env.numbers(owner, quick, 3), numbers[direct:], rule, asked)
                    rule = "a member that holds its capacity of either kind takes no group message"
                    expect(sorted(await env.numbers(owner, slow, 3)), numbers[:3], rule, asked)
                    expect(await _pending(owner, slow), 0, rule, asked)
                expect(dropped(owner, sender), {"full": 6}, "what a full member misses is counted", "1, 2 and 3 of 3")

    @async_test
    async def test_a_full_member_of_an_inbox_that_is_shared_is_full_with_it(self, env: LayerEnvironment) -> None:
        """A member is full with its own messages, and not with its siblings'; without leases, with its whole inbox."""
        async with env.layer(capacity=3) as owner, env.layer(capacity=3) as sender:
            slow, other = await owner.new_channel(), await owner.new_channel()
            await owner.group_add("loud", slow)
            await owner.group_add("quiet", other)
            for n in range(5):
                await sender.group_send("loud", {"n": n})
            await sender.group_send("quiet", {"n": 9})
            missed = 2 if env.capabilities.leases else 3
            asked = "5 messages to one member of an inbox and one to another, capacity 3"
            rule = f"what a member misses is counted: {missed} of {asked}"
            await env.eventually(lambda: dropped(owner, sender) == {"full": missed}, rule)
            expect(await env.numbers(owner, slow, 3), [0, 1, 2], "a full member keeps the oldest", asked)
            if env.capabilities.leases:
                expect(await env.number(owner, other), 9, "a slow neighbour costs no other channel a message", asked)

    @async_test
    async def test_a_group_message_over_the_size_limit_is_refused_whole(self, env: LayerEnvironment) -> None:
        """`group_send` of too large a message raises `MessageTooLarge` and reaches no channel."""
        async with env.layer(max_message_size=200) as layer:
            name = await layer.new_channel()
            for members in ([], [name, "normal"]):
                for member in members:
                    await layer.group_add("group", member)
                sending = layer.group_send("group", {"data": b"x" * 200})
                rule = "a message over max_message_size is refused"
                refused = await fails_with(layer.MessageTooLarge, sending, rule, "200 bytes and more")
                expect(refused.limit, 200, "MessageTooLarge says the limit", "group_send() of more")
            expect(await env.collect(layer, name), [], "what is refused reaches no channel", "group_send()")
            expect(await _pending(layer, "normal"), 0, "what is refused reaches no channel", "group_send()")

    # -- group_expiry

    @async_test
    async def test_a_membership_lasts_from_its_last_joining(self, env: LayerEnvironment) -> None:
        """A member is one for `group_expiry` seconds after it was last added, by whom ever, and no longer."""
        rule = "a membership lasts for group_expiry from the last group_add()"
        for stranger in (False, True):
            env = env.beside()
            async with env.layer(group_expiry=30) as owner, env.layer(group_expiry=30) as other:
                names = [await owner.new_channel() for _ in range(2)]
                name, beside = names
                await owner.group_add("group", name)
                env.clock.advance(20)
                await owner.group_add("group", beside)
                await (other if stranger else owner).group_add("group", name)
                env.clock.advance(20)
                await _listed(other, names, "20 s after the last group_add(), group_expiry 30")
                await other.group_send("group", {"n": 1})
                for member in names:
                    expect(await env.collect(owner, member), [{"n": 1}], rule, "a message after 20 of 30 s")
                await owner.group_add("group", beside)
                env.clock.advance(11)
                await _listed(other, [beside], "31 s after one's last group_add(), 11 s after the other's")
                await other.group_send("group", {"n": 2})
                expect(await env.collect(owner, name), [], rule, "a message after 31 of 30 s")
                expect(await env.collect(owner, beside), [{"n": 2}], rule, "a message after 11 of 30 s")

    @async_test
    async def test_a_membership_without_an_owner_lasts_as_long(self, env: LayerEnvironment) -> None:
        """The same for a member without an owner."""
        async with env.layer(group_expiry=30) as layer:
            for member in _OUTSIDE:
                await layer.group_add("group", member)
                env.clock.advance(20)
                await layer.group_add("group", member)
                env.clock.advance(29)
                await _listed(layer, [member], "29 s after the last group_add(), group_expiry 30")
                env.clock.advance(2)
                await _listed(layer, [], "31 s after the last group_add(), group_expiry 30")
                await layer.group_send("group", {"n": 1})
                expect(await _pending(layer, member), 0, _COPY, "a message when its membership is over")

    @async_test
    async def test_without_group_expiry_a_membership_lasts_as_long_as_its_owner(self, env: LayerEnvironment) -> None:
        """With `group_expiry=None` an owner's channels stay members for ever, the others for a day.

        Without leases there are no owners, and all are others.
        """
        rule = "without a group_expiry a membership lasts as long as its owner"
        async with env.layer(group_expiry=None) as owner, env.layer(group_expiry=None) as other:
            name = await owner.new_channel()
            owned = [name] if env.capabilities.leases else []
            for member in (name, "normal"):
                await owner.group_add("group", member)
            # No process need notice anything halfway: a lease that a store ends by this clock is taken again.
            await env.forward(86_399, [owner])
            await _listed(other, [name, "normal"], "a second less than a day after group_add()")
            await env.forward(2, [owner])
            await _listed(other, owned, "a second more than a day after group_add()")
            await other.group_send("group", {"n": 1})
            came = await env.collect(owner, name)
            expect(came, [{"n": 1}] * len(owned), rule, "a message more than a day after group_add()")
            expect(await _pending(other, "normal"), 0, rule, "a message more than a day after group_add()")
            await owner.aclose()
            await _listed(other, [], "aclose() of the owner")

    # -- what is not read

    @async_test
    async def test_a_message_that_expires_unread_ends_no_membership_of_an_owned_channel(
        self, env: LayerEnvironment
    ) -> None:
        """A consumer that was too slow for a message gets the next ones, and what has expired makes room for them."""
        async with env.layer(expiry=20, capacity=2) as owner, env.layer(expiry=20, capacity=2) as other:
            name = await owner.new_channel()
            await owner.group_add("group", name)
            for n in range(0, 6, 2):
                for more in range(2):
                    await other.group_send("group", {"n": n + more})
                if env.capabilities.leases:
                    await env.holds(owner, 2)
                await env.forward(20.1, [owner])
                await _listed(other, [name], "two messages unread for expiry")
            for n in (6, 7):
                await other.group_send("group", {"n": n})
                env.clock.advance(5)
            rule = "a message that expired unread costs its channel no later one"
            expect(await env.numbers(owner, name, 2), [6, 7], rule, "two messages more")
            expect(dropped(owner, other), {"expired": 6}, "each message that expires is counted once", "6 of them")

    @async_test
    async def test_an_owned_channel_that_nothing_is_received_from_leaves_its_groups(
        self, env: LayerEnvironment
    ) -> None:
        """It leaves them when a message has expired unread, and nothing called `receive()` for ten expiry, or 600 s.

        One that receives once in that time stays, and so does one without messages. Without leases all stay.
        """
        rule = "a channel that left over an unread message may join again"
        for expiry, limit in ((20.5, 600.0), (80.5, 805.0)):
            env = env.beside()
            async with env.layer(expiry=expiry) as owner, env.layer(expiry=expiry) as other:
                # Of one inbox, so that what one has read is known to be there for the other; see `Capabilities.leases`.
                gone, slow, quiet = [
                    await owner.new_channel("same" if env.capabilities.leases else name)
                    for name in ("gone", "slow", "quiet")
                ]
                for name in (gone, slow):
                    await owner.group_add("group", name)
                await owner.group_add("another", quiet)
                await other.group_send("group", {"n": 1})
                await env.receive(owner, slow)
                await _forward(env, owner, limit / 2, expiry)
                await other.group_send("group", {"n": 2})
                await env.receive(owner, slow)
                await _forward(env, owner, limit / 2 - 60.0, expiry)
                await _listed(other, [gone, slow], f"a minute less than {limit} s without a receive()")
                await _forward(env, owner, 60.1, expiry)
                members = [slow] if env.capabilities.leases else [gone, slow]
                await _listed(other, members, f"{limit} s without a receive()")
                await _listed(other, [quiet], f"{limit} s without a receive(), and without a message", "another")
                await owner.group_add("group", gone)
                await other.group_send("group", {"n": 3})
                for name in (gone, slow):
                    expect(await env.receive(owner, name), {"n": 3}, rule, "a message after group_add()")

    @async_test
    async def test_a_member_without_an_owner_leaves_its_groups_over_a_message_that_expired_unread(
        self, env: LayerEnvironment
    ) -> None:
        """When it has taken nothing for another expiry, the next send to each of its groups removes it, unreached.

        A normal channel on several hosts is noted on each of them. Without `Capabilities.tracks_unread` it stays.
        """
        for member in _OUTSIDE:
            env = env.beside()
            async with env.layer(expiry=20) as adder, env.layer(expiry=20) as sender:
                for group in ("group", "another"):
                    await adder.group_add(group, member)
                await sender.group_send("group", {"n": 1})
                env.clock.advance(37)
                await sender.group_send("group", {"n": 2})
                await _listed(sender, [member], "a message unread for less than twice expiry")
                if env.capabilities.statistics:
                    what = "a member gets what is sent to its group"
                    expect(await _pending(sender, member), 1, what, "a second message")
                env.clock.advance(3.1)
                await _listed(sender, [member], "a message unread for twice expiry, and none since")
                await _until_left(env, sender, member)

    @async_test
    async def test_a_member_without_an_owner_stays_while_it_is_read(self, env: LayerEnvironment) -> None:
        """Whatever time passes between: a message that was read ends no membership, nor one that came directly."""
        for member in _OUTSIDE:
            env = env.beside()
            async with env.layer(expiry=20) as reader, env.layer(expiry=20) as sender:
                await sender.group_add("group", member)
                for n in range(9):
                    await sender.group_send("group", {"n": n})
                    env.clock.advance(19)
                    expect(await env.number(reader, member), n, _COPY, f"a message to {member}, 19 of 20 s old")
                    env.clock.advance(30)
                await sender.group_send("group", {"n": 9})
                env.clock.advance(22)
                for n in range(20):  # on whichever host the message has expired
                    await sender.send(member, {"n": n})
                came = sorted(await env.numbers(reader, member, 20))
                rule = "a message that expired unread costs its channel no later one"
                expect(came, [*range(20)], rule, f"messages to {member}, which is read within another expiry")
                env.clock.advance(30)
                await sender.send(member, {"direct": True})
                env.clock.advance(40.1)
                await sender.group_send("group", {"n": 9})
                await _listed(sender, [member], "messages to it that were read, and one that was not the group's")
                expect(await env.number(reader, member), 9, _COPY, f"a message to {member}")

    @async_test
    async def test_a_member_without_an_owner_may_join_again(self, env: LayerEnvironment) -> None:
        """A member that is added after its message expired is one, whether that was noticed before or not."""
        for member in _OUTSIDE:
            env = env.beside()
            async with env.layer(expiry=20) as reader, env.layer(expiry=20) as sender:
                for noticed in (False, True):
                    await sender.group_add("group", member)
                    for _ in range(3):  # on whichever host
                        await sender.group_send("group", {"n": 1})
                    env.clock.advance(40.1)
                    if noticed:
                        await _until_left(env, sender, member)
                        env.clock.advance(40.1)
                    await sender.group_add("group", member)
                    await sender.group_send("group", {"n": 2})
                    await _listed(sender, [member], "group_add() after a message to it expired unread")
                    rule = "who joins again gets what is sent from then on"
                    expect(await env.receive(reader, member), {"n": 2}, rule, f"a message to {member}")

    @async_test
    async def test_what_one_channel_of_an_inbox_let_expire_is_not_held_against_its_siblings(
        self, env: LayerEnvironment
    ) -> None:
        """Of a claimed inbox, only the channel whose own message expired leaves its group."""
        async with env.layer(expiry=20) as sender:
            await sender.group_add("quiet", "claimed!quiet")
            await sender.group_add("group", "claimed!other")
            await sender.group_send("quiet", {"n": 1})
            env.clock.advance(40.1)
            await sender.group_send("group", {"n": 2})
            await sender.group_send("quiet", {"n": 3})
            left = [] if env.capabilities.tracks_unread else ["claimed!quiet"]
            await _listed(sender, left, "a message unread for twice expiry, and one more", "quiet")
            await _listed(sender, ["claimed!other"], "a sibling's message unread for twice expiry", "group")

    @async_test
    async def test_a_flush_forgets_what_expired_unread(self, env: LayerEnvironment) -> None:
        """A member that is added after a flush begins anew."""
        async with env.layer(expiry=20) as layer:
            await layer.group_add("group", "normal")
            for _ in range(3):
                await layer.group_send("group", {"n": 1})
            env.clock.advance(40.1)
            await layer.flush()
            await layer.group_add("group", "normal")
            await layer.group_send("group", {"n": 2})
            await _listed(layer, ["normal"], "group_add() after flush()")
            expect(await env.number(layer, "normal"), 2, "a flush forgets everything", "a message after it")


async def _forward(env: LayerEnvironment, owner: ChannelLayer, seconds: float, expiry: float) -> None:
    """Let time pass in steps in which an owner renews its lease."""
    while seconds > 0:
        await env.forward(min(seconds, expiry), [owner])
        seconds -= expiry


async def _until_left(env: LayerEnvironment, sender: ChannelLayer, member: str) -> None:
    """Send to the group until a member that let its message expire has left it: at most once for each host."""
    if not env.capabilities.tracks_unread:
        await sender.group_discard("group", member)
        return

    async def left() -> bool:
        await sender.group_send("group", {"n": 0})
        return not await sender.group_channels("group")

    await env.eventually(left, "a member whose message expired unread leaves its group")
