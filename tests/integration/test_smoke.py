"""One message on every path, on every store."""

from __future__ import annotations

import pytest

from tests.support.systems import System


@pytest.mark.usefixtures("loops")
async def test_a_message_travels_on_every_path(system: System) -> None:
    """A message reaches a process-specific, a normal, a single-reader and a claimed channel, directly and by group."""
    async with system.layer() as one, system.layer() as two:
        name = await one.new_channel()
        for group_member in (name, "normal", "single?reader", "claimed!local"):
            await two.send(group_member, {"direct": group_member})
            assert await one.receive(group_member) == {"direct": group_member}
            await two.group_add("group", group_member)
        await one.group_add("group", name)
        assert await two.group_channels("group") == sorted([name, "normal", "single?reader", "claimed!local"])
        await two.group_send("group", {"n": 1})
        for member in (name, "normal", "single?reader", "claimed!local"):
            assert await one.receive(member) == {"n": 1}
