"""Losses are logged: the first one at once, later ones at most once a minute."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.support.scenarios_delivery import eventually
from tests.support.systems import System


@pytest.mark.parametrize("who", ["owner", "sender"])
async def test_the_first_loss_warns_and_then_one_line_a_minute(
    system: System, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    """The first loss is logged at once, later ones in one line a minute later, with totals and channel names."""

    def lines() -> list[str]:
        return [r.getMessage() for r in caplog.records if "dropped" in r.getMessage() and r.levelno == logging.WARNING]

    async def logged(count: int) -> bool:
        return len(lines()) == count

    with caplog.at_level(logging.WARNING, logger="channel_layer"):
        # The periodic sweep that logs losses runs every 0.2 s.
        async with system.layer(capacity=1, expiry=4) as owner, system.layer(capacity=1, expiry=4) as sender:
            member = await owner.new_channel() if who == "owner" else "nobody!x"
            await owner.group_add("room", member)
            for _ in range(3):
                await sender.group_send("room", {"n": 0})
            await eventually(lambda: logged(1), "the first loss is told")
            assert "full" in lines()[0]
            assert member in lines()[0]
            for _ in range(4):
                await sender.group_send("room", {"n": 0})
            await asyncio.sleep(0.5)  # time for a second line, if there were one
            assert len(lines()) == 1
            system.clock.advance(60)
            await owner.group_add("room", member)  # the message that expired unread may have ended it
            await sender.group_send("room", {"n": 0})
            await sender.group_send("room", {"n": 0})
            await eventually(lambda: logged(2), "a minute has passed")
            assert "since the last warning" in lines()[1]
            assert "full" in lines()[1]
            assert member in lines()[1]
