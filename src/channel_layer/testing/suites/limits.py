"""Tests of two limits: how many unread messages a channel holds, and for how long.

A bound that concurrent senders can exceed is none, and a credit that is never returned ends its channel. Time is a
clock that the test moves: every store adds the same offset to its own. Where a bound is tested from below, more than
half a second is left for a machine that is busy.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from channel_layer.testing.factories import Violation
from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import (
    POPPED,
    LayerEnvironment,
    async_test,
    at_once,
    drain,
    dropped,
    expect,
    fails_with,
    number,
    send_patiently,
    sends,
)

if TYPE_CHECKING:
    from channel_layer.layer import ChannelLayer
    from channel_layer.options import ChannelPattern

__all__ = ("CapacityTests", "ExpiryTests")

_EXACT = "a channel takes its capacity exactly"


async def _fill(layer: ChannelLayer, channel: str, most: int = 1000) -> int:
    """Send until the channel is full; return how many messages it took."""
    for count in range(most):
        if not await sends(layer, channel, count):
            return count
    raise Violation(f"{_EXACT}\n  asked: messages to {channel}\n  came: {most} were accepted, and no ChannelFull")


async def _burst(layer: ChannelLayer, channel: str, senders: int) -> int:
    """Send with several senders at once; return how many messages were accepted."""
    return sum(await asyncio.gather(*(sends(layer, channel, place) for place in range(senders))))


class CapacityTests(LayerTests):
    """How much a channel takes."""

    @async_test
    async def test_concurrent_senders_get_exactly_the_capacity(self, env: LayerEnvironment) -> None:
        """Of 200 concurrent sends from 4 layers in as many threads, 10 are accepted; when k are received, k more.

        On a normal channel (spread over all hosts), a single-reader one, one of a claimed inbox, and one of an
        owned inbox.
        """
        capacity, threads, senders = 10, 4, 50
        layers = [env.layer(capacity=capacity) for _ in range(threads)]

        def burst(channel: str) -> int:
            return sum(at_once(threads, lambda place: asyncio.run(_burst(layers[place], channel, senders))))

        async with env.layer(capacity=capacity) as reader:
            for channel in ("jobs", "reply?x", "unread!x", await reader.new_channel()):
                asked = f"{threads * senders} concurrent sends to {channel}, capacity {capacity}"
                expect(await asyncio.to_thread(burst, channel), capacity, _EXACT, asked)
                for received in (3, capacity):
                    await env.numbers(reader, channel, received)
                    accepted = await asyncio.to_thread(burst, channel)
                    while accepted < received:  # places come back in batches: a burst may be refused too often
                        await env.soon(send_patiently(reader, channel, {"n": 0}), "places come back")
                        accepted += 1
                    accepted += await asyncio.to_thread(burst, channel)
                    expect(accepted, received, _EXACT, f"{asked}, after {received} were received")
        for layer in layers:
            await layer.aclose()

    @async_test
    async def test_a_small_capacity_holds_however_the_channel_is_spread(self, env: LayerEnvironment) -> None:
        """A normal channel takes its capacity exactly, though that may be less than there are hosts."""
        for capacity in (1, 2, 3, 4, 7):
            env = env.beside()
            async with env.layer(capacity=capacity) as one, env.layer(capacity=capacity) as two:
                expect(await _fill(one, "jobs"), capacity, _EXACT, f"messages to jobs, capacity {capacity}")
                expect(await sends(two, "jobs"), False, _EXACT, "one more from another process")
                for _ in range(2 * capacity):  # whichever host it comes from, its share is what the next one gets
                    await env.number(two, "jobs")
                    expect(await sends(one, "jobs"), True, "a place that is free can be taken", "one after a receive()")
                    expect(await sends(one, "jobs"), False, _EXACT, "one more")
                expect(len(await drain(two, "jobs")), capacity, _EXACT, "receive() until nothing comes")

    @async_test
    async def test_the_first_pattern_that_matches_decides(self, env: LayerEnvironment) -> None:
        """channel_capacity is tried in its order, on every kind of channel; what matches nothing has the default."""
        patterns: OrderedDict[ChannelPattern, int] = OrderedDict()
        patterns["http.*"] = 3
        patterns[re.compile(r"(http|reply)")] = 4
        patterns["re:big"] = 6
        patterns["*!*"] = 5
        async with env.layer(capacity=2, channel_capacity=patterns) as layer, env.layer() as owner:
            capacities = {"http.request": 3, "http": 4, "reply?x": 4, "big!x": 6, "a.http": 2, "small!x": 5}
            capacities[await owner.new_channel("http.owned")] = 3
            capacities[await owner.new_channel("owned")] = 5
            for channel, capacity in capacities.items():
                asked = f"messages to {channel}, channel_capacity {dict(patterns)!r}"
                expect(await _fill(layer, channel), capacity, "the first pattern that matches decides", asked)

    @async_test
    async def test_a_claimed_inbox_is_one_queue(self, env: LayerEnvironment) -> None:
        """Channels of a claimed inbox share its room: each may fill it, none may exceed its own capacity."""
        rule = "a claimed inbox holds the capacity of the channel sent to"
        async with env.layer(capacity=5, channel_capacity={"inbox!large": 8}) as sender:
            for channel, places in {"inbox!a": 5, "inbox!b": 0, "inbox!large": 3}.items():
                expect(await _fill(sender, channel), places, rule, f"messages to {channel}, after its siblings'")
            expect(await env.numbers(sender, "inbox!a", 5), [0, 1, 2, 3, 4], rule, "receive() from inbox!a")
            expect(await env.numbers(sender, "inbox!large", 3), [0, 1, 2], rule, "receive() from inbox!large")

    @async_test
    async def test_channels_of_an_owned_inbox_have_places_of_their_own(self, env: LayerEnvironment) -> None:
        """However full its siblings are, each channel of a process takes its own capacity of direct messages.

        Without leases all channels of one new_channel() prefix share it.
        """
        async with env.layer(capacity=5) as owner, env.layer(capacity=5) as sender:
            names = [await owner.new_channel() for _ in range(20)]
            due = [5] * 20 if env.capabilities.leases else [5] + [0] * 19
            for name, places in zip(names, due, strict=True):
                expect(await _fill(sender, name), places, _EXACT, "messages to a channel beside full siblings")
            for name, places in zip(names, due, strict=True):
                expect(await env.numbers(owner, name, places), list(range(places)), _EXACT, "receive()")

    @async_test
    async def test_group_messages_do_not_take_the_places_of_direct_ones(self, env: LayerEnvironment) -> None:
        """A channel full of group messages still takes its capacity of direct ones, and then no group message more.

        Without leases both share one queue.
        """
        async with env.layer(capacity=5) as owner, env.layer(capacity=5) as sender:
            channel = await owner.new_channel()
            await owner.group_add("group", channel)
            for n in range(8):
                await sender.group_send("group", {"n": 100 + n})
            leases = env.capabilities.leases
            rule = "a group's messages take no place of a direct one"
            expect(await _fill(sender, channel), 5 if leases else 0, rule, "messages to a member full of a group's")
            for n in range(8):
                await sender.group_send("group", {"n": 200 + n})
            rule_of_loss = "what a full member misses is counted: 11 of 16 messages"
            await env.eventually(lambda: dropped(owner, sender) == {"full": 11}, rule_of_loss)
            due = [*range(100, 105), *(range(5) if leases else ())]
            expect(await env.numbers(owner, channel, len(due)), due, rule, "receive()")

    @async_test
    async def test_a_full_channel_of_our_own_has_room_as_soon_as_we_have_received(self, env: LayerEnvironment) -> None:
        """A process that receives from its own full channel may send to it again at once: no batch is in between."""
        async with env.layer(capacity=3) as layer:
            channel = await layer.new_channel()
            for n in range(3):
                await layer.send(channel, {"n": n})
            for n in range(20):
                expect(await env.number(layer, channel), n, "messages keep their order", "receive()")
                rule = "a receive() from a full channel of its own process makes room at once"
                expect(await sends(layer, channel, n + 3), True, rule, "one message after a receive()")
                expect(await sends(layer, channel, -1), False, _EXACT, "one more")

    @async_test
    async def test_a_refused_send_says_so_and_is_no_loss(self, env: LayerEnvironment) -> None:
        """What send() refuses raises ChannelFull with the channel and is counted as refused, not as sent or dropped."""
        async with env.layer(capacity=2) as layer:
            for channel in ("jobs", "reply?x", "unread!x", await layer.new_channel()):
                for _ in range(2):
                    await layer.send(channel, {"n": 0})
                sending = layer.send(channel, {"n": 1})
                refused = await fails_with(layer.ChannelFull, sending, "send() to a full channel raises", channel)
                expect(channel in str(refused), True, "ChannelFull names the channel", channel)
            found = layer.counts()
            came = (found.sent, found.refused, len(found.dropped))
            expect(came, (8, 4, 0), "a refused send is no loss", "12 sends, capacity 2")


_EXPIRY: Final = 10.75
"""Seconds: a fraction that would be seen if it were cut off or rounded up."""

_UNDER, _OVER = 10.05, 10.75
"""Seconds: were `_EXPIRY` cut to whole seconds, *under* would be too old; rounded up, *over* would be young enough."""

_OLD = "nothing older than expiry is delivered, and nothing younger is lost"


class ExpiryTests(LayerTests):
    """How long a message lives."""

    @async_test
    async def test_what_is_young_enough_is_delivered(self, env: LayerEnvironment) -> None:
        """A message younger than `expiry`, to the fraction, is delivered from a store and from a mailbox."""
        for age in (0.0, _UNDER):
            env = env.beside()
            async with env.layer(expiry=_EXPIRY) as owner, env.layer(expiry=_EXPIRY) as sender:
                owned = await owner.new_channel()
                for channel in (*POPPED, owned):
                    await sender.send(channel, {"n": 1})
                await owner.group_add("group", owned)
                await sender.group_send("group", {"n": 2})
                env.clock.advance(age)
                asked = f"messages of {age} s, expiry {_EXPIRY}"
                for channel in (*POPPED, owned):
                    expect(await env.number(owner, channel), 1, _OLD, asked)
                expect(await env.number(owner, owned), 2, _OLD, asked)
                expect(owner.counts().dropped, {}, "what is delivered is not counted as lost", asked)

    @async_test
    async def test_what_is_too_old_is_not_delivered(self, env: LayerEnvironment) -> None:
        """A message that has waited for `expiry`, to the fraction, is dropped in a store and a mailbox, and counted."""
        async with env.layer(expiry=_EXPIRY) as owner, env.layer(expiry=_EXPIRY) as sender:
            owned = await owner.new_channel()
            for channel in (*POPPED, owned):
                await sender.send(channel, {"n": 1})
            await owner.group_add("group", owned)
            await sender.group_send("group", {"n": 2})
            await env.forward(_OVER, [owner])
            asked = f"messages of {_OVER} s, expiry {_EXPIRY}"
            for channel in (*POPPED, owned):
                receiving = asyncio.create_task(owner.receive(channel))
                await sender.send(channel, {"n": 3})  # the first that may come
                expect(number(await env.soon(receiving, _OLD)), 3, _OLD, f"{asked}, and one more to {channel}")
            expect(await drain(owner, "jobs"), [], _OLD, asked)  # it may lie on another host than the new one
            due = {"expired": len(POPPED) + 2}
            expect(dropped(owner, sender), due, "each message that expires is counted once", asked)

    @async_test
    async def test_one_who_waits_is_not_given_what_is_too_old(self, env: LayerEnvironment) -> None:
        """A receive() goes on waiting while messages expire elsewhere, and gets the next young one."""
        async with env.layer(expiry=_EXPIRY) as reader, env.layer(expiry=_EXPIRY) as sender:
            for age in (_OVER, _EXPIRY * 3):
                for channel in POPPED:
                    await sender.send(channel, {"n": 1})
                env.clock.advance(age)
                waiting = [asyncio.create_task(env.number(reader, channel)) for channel in POPPED]
                await asyncio.sleep(0)
                for channel in POPPED:
                    await sender.send(channel, {"n": 2})
                came = await asyncio.gather(*waiting)
                expect(came, [2] * len(POPPED), _OLD, f"messages of {age} s and young ones, expiry {_EXPIRY}")
                expect(await drain(reader, "jobs"), [], _OLD, "receive() once more")

    # -- places come back

    @async_test
    async def test_a_channel_full_of_expired_messages_takes_new_ones(self, env: LayerEnvironment) -> None:
        """A full queue of expired messages takes its capacity anew at once, exactly; each old one counts as expired."""
        async with env.layer(capacity=4, expiry=_EXPIRY) as layer:
            for channel in (*POPPED, "unread!x"):
                for n in range(4):
                    await layer.send(channel, {"n": n})
                env.clock.advance(_UNDER)
                expect(await sends(layer, channel), False, "what is young keeps its place", f"{_UNDER} s later")
                env.clock.advance(_OVER - _UNDER)
                came = [await sends(layer, channel, 10 + n) for n in range(5)]
                rule = "what has expired gives back its place, and no more"
                expect(came, [True] * 4 + [False], rule, f"5 messages to {channel}, capacity 4, {_EXPIRY} s later")
                numbers = sorted(await env.numbers(layer, channel, 4))
                expect(numbers, [10, 11, 12, 13], _OLD, f"receive() from {channel}")
            expect(dropped(layer), {"expired": 16}, "each message that expires is counted once", "16 of them")

    @async_test
    async def test_only_what_is_too_old_makes_room(self, env: LayerEnvironment) -> None:
        """In a full queue whose head alone has expired, one place is free and no more."""
        async with env.layer(capacity=3, expiry=_EXPIRY) as layer:
            for channel in ("reply?x", "unread!x"):
                await layer.send(channel, {"n": 0})
                env.clock.advance(2)
                for n in (1, 2):
                    await layer.send(channel, {"n": n})
                env.clock.advance(_OVER - 2)
                came = [await sends(layer, channel, n) for n in (3, 4)]
                expect(came, [True, False], "what has expired gives back its place, and no more", "2 of 3 are young")
                expect(await env.numbers(layer, channel, 3), [1, 2, 3], _OLD, f"receive() from {channel}")

    @async_test
    async def test_an_owned_channel_full_of_expired_messages_takes_new_ones(self, env: LayerEnvironment) -> None:
        """An owner's channel without a reader has its room again, and no more, when its messages have expired."""
        async with (
            env.layer(capacity=4, expiry=_EXPIRY) as owner,
            env.layer(capacity=4, expiry=_EXPIRY) as sender,
        ):
            owned, quiet = await owner.new_channel("owned"), await owner.new_channel("quiet")
            for n in range(4):
                await sender.send(owned, {"n": n})
            await sender.send(quiet, {"n": 0})
            await env.number(owner, quiet)
            expect(await sends(sender, owned), False, "what is young keeps its place", "a fifth message")
            await env.forward(_OVER, [owner])
            for n in range(4):
                await env.soon(send_patiently(sender, owned, {"n": n}), "the places of what has expired come back")
            came = [await sends(sender, owned) for _ in range(20)]
            expect(came, [False] * 20, "what has expired gives back its place, and no more", "20 messages too many")
            expect(await env.numbers(owner, owned, 4), [0, 1, 2, 3], _OLD, "receive()")
            expect(dropped(owner, sender), {"expired": 4}, "each message that expires is counted once", "4 of them")
