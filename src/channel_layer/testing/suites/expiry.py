"""Nothing older than ``expiry`` is ever delivered, and what is too old makes room.

Time is a clock that the test moves: every store adds the same offset to its own. Where a bound is tested from below,
more than half a second is left for a machine that is busy.
"""

from __future__ import annotations

import asyncio
from typing import Final

from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import (
    POPPED,
    LayerEnvironment,
    async_test,
    drain,
    dropped,
    expect,
    number,
    sends,
)

__all__ = ("ExpiryTests",)

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

                async def sent(n: int = n) -> bool:
                    return await sends(sender, owned, n)

                await env.eventually(sent, "the places of what has expired come back")
            came = [await sends(sender, owned) for _ in range(20)]
            expect(came, [False] * 20, "what has expired gives back its place, and no more", "20 messages too many")
            expect(await env.numbers(owner, owned, 4), [0, 1, 2, 3], _OLD, "receive()")
            expect(dropped(owner, sender), {"expired": 4}, "each message that expires is counted once", "4 of them")
