"""How often a group message is written for one process, and which members miss it if that process does not read."""

from __future__ import annotations

import pytest

from channel_layer import ChannelLayer
from channel_layer import commands as c
from tests.support.scenarios_groups import collect, hold, name_group, receive_within
from tests.support.servers import Deployment, StartServer, fresh_prefix
from tests.support.systems import System


async def _dropped(layer: ChannelLayer) -> dict[str, int]:
    return {str(reason): count for reason, count in layer.counts().dropped.items()}


async def test_a_group_message_crosses_to_a_process_once(start_server: StartServer) -> None:
    """However many members a process owns, `group_send` writes to its inbox once; the owner distributes the message."""
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


@pytest.mark.usefixtures("settled")
async def test_a_process_that_does_not_read_misses_what_its_inbox_cannot_hold(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond `inbox_capacity` new messages are dropped and counted `inbox_full`, for the stalled process alone."""
    reads = hold(monkeypatch, c.Read, lambda request: request.inbox.name.startswith("stalled."))
    async with system.layer(inbox_capacity=5) as stalled, system.layer(inbox_capacity=5) as quick:
        names = [await stalled.new_channel("stalled") for _ in range(2)]
        group = name_group(system, names[0], together=system.shards == 1)
        for name in names:
            await stalled.group_add(group, name)
        reading = await quick.new_channel()
        await quick.group_add(group, reading)
        held = 2  # the markers of the two members wait in the inbox too
        for number in range(8):
            await quick.group_send(group, {"n": number})
            assert await receive_within(quick, reading) == {"n": number}
        assert await _dropped(quick) == {"inbox_full": 8 - (5 - held)}
        # Markers are not limited by a capacity, so the owner gets this one.
        await quick.group_discard(group, names[1])
        reads.open()
        for name in names:
            for number in range(5 - held):
                assert await receive_within(stalled, name) == {"n": number}
        await quick.group_send(group, {"n": "room again"})
        assert await collect(stalled, names[0]) == [{"n": "room again"}]
        assert await collect(stalled, names[1]) == []
