"""After a lost lease an owner announces to the store the memberships that still hold, and no others."""

from __future__ import annotations

import pytest

from channel_layer.testing import VirtualClock, layers_over, make_rules
from tests.support.stores import memory_stores

_GROUP_EXPIRY = 100.0


@pytest.mark.parametrize("jumps", [1, 2])
async def test_a_membership_that_is_over_does_not_replace_a_newer_one(jumps: int) -> None:
    """A channel that another process added after the owner's membership had expired stays when the owner comes back."""
    clock, rules = VirtualClock(), make_rules(expiry=30.0, group_expiry=_GROUP_EXPIRY)
    make_layer = layers_over(memory_stores())
    async with make_layer(rules, clock) as owner, make_layer(rules, clock) as other:
        channel = await owner.new_channel()
        await owner.group_add("room", channel)
        await other.group_send("room", {"n": 0})
        assert await owner.receive(channel) == {"n": 0}
        clock.advance(_GROUP_EXPIRY + 1)
        await owner.run_maintenance()
        assert await other.group_channels("room") == []
        await other.group_add("room", channel)
        for _ in range(jumps):
            clock.advance(46.0)  # longer than a lease lasts, shorter than the membership
            await owner.run_maintenance()
            assert await other.group_channels("room") == [channel]
        await other.group_send("room", {"n": 1})
        assert await owner.receive(channel) == {"n": 1}
