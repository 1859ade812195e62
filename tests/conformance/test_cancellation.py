"""A message assigned to a receiver that is cancelled goes to the next receiver, before any message sent later.

The moment of assignment is inside the layer, so a patched method cancels the receiver there. The conformance suite
covers cancellation at every other moment.
"""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest

from channel_layer import Message
from channel_layer.testing.suites.tools import KINDS, make_channel, number
from tests.support.scenarios_delivery import BOUND, at_promise, cancel, waits
from tests.support.systems import System


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_receiver_s_message_goes_to_the_next_one(
    system: System, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """When a receiver is cancelled just as a message is assigned to it, the next waiting receiver gets the message."""
    async with system.layer() as owner, system.layer() as sender:
        channel = await make_channel(kind, owner)
        for hops in (0, 1, 2, 3):
            receiving: list[asyncio.Task[Message]] = []
            for place in range(3):
                receiving.append(asyncio.create_task(owner.receive(channel)))
                await waits(owner, channel, place + 1)
            first, second, third = receiving
            with monkeypatch.context() as patch:
                at_promise(patch, _once(partial(cancel, first, hops)))
                await sender.send(channel, {"n": 1})
                await asyncio.wait([first], timeout=BOUND)
            if not first.cancelled():  # it ran before the cancellation took effect
                await sender.send(channel, {"n": 1})
            assert number(await asyncio.wait_for(second, BOUND)) == 1
            await sender.send(channel, {"n": 2})
            assert number(await asyncio.wait_for(third, BOUND)) == 2


def _once(action: Callable[[], object]) -> Callable[[], object]:
    """Return a function that calls `action` the first time only."""
    actions = iter([action])
    return lambda: next(actions, int)()  # noqa: PLW0108 - another one each time


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancelled_receiver_s_message_keeps_its_place(
    system: System, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A message whose receiver was cancelled is received before later ones, on every channel that keeps an order."""
    async with system.layer() as owner, system.layer() as sender:
        channel = await make_channel(kind, owner)
        for n in range(0, 60, 3):
            receiving = asyncio.create_task(owner.receive(channel))
            await waits(owner, channel)
            with monkeypatch.context() as patch:
                at_promise(patch, _once(partial(cancel, receiving)))
                for more in range(3):
                    await sender.send(channel, {"n": n + more})
                await asyncio.wait([receiving], timeout=BOUND)
            assert receiving.cancelled()
            received = [number(await asyncio.wait_for(owner.receive(channel), BOUND)) for _ in range(3)]
            if kind == "normal" and system.shards > 1:
                received.sort()
            assert received == [n, n + 1, n + 2]
