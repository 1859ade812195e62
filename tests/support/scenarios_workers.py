"""Jobs for worker processes that are killed: shipping many messages, dying when called, leaving every kind of key.

A promise about `kill -9` is worth what a real process shows that was really killed, so these run in processes of their
own; when exactly one of them dies is either counted or forced, never slept for.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from dataclasses import dataclass

from channel_layer import commands as c
from channel_layer.testing.suites.tools import send_patiently
from channel_layer_redis._store import RedisStore
from tests.support.processes import AsyncChild
from tests.support.scenarios_delivery import Flow, Site

__all__ = ("Leaving", "Shipment", "die_when_called", "leave_everything", "ship")


@dataclass(frozen=True, slots=True)
class Shipment:
    """Numbered messages that one process sends.

    Attributes:
        site: where.
        channel: to which channel.
        first: the first number.
        count: how many.
        senders: concurrent ``send()`` calls.
    """

    site: Site
    channel: str
    first: int
    count: int
    senders: int = 3


async def ship(child: AsyncChild, shipment: Shipment) -> int:
    """Send every message once, trying again where the channel is full; return how often it was."""
    numbers = iter(range(shipment.first, shipment.first + shipment.count))
    sent = itertools.count(1)

    async def send_some() -> int:
        refused = 0
        for n in numbers:
            refused += await send_patiently(layer, shipment.channel, {"n": n})
            child.progress(next(sent))
        return refused

    async with shipment.site.layer() as layer:
        await child.ready()
        return sum(await asyncio.gather(*(send_some() for _ in range(shipment.senders))))


async def die_when_called(child: AsyncChild, flow: Flow) -> None:
    """Wait for a message, and be killed by one's own hand when called: the call is taken, the message is not."""
    wait = RedisStore.wait

    async def wait_and_die(self: RedisStore, request: c.Wait, /) -> None:
        await wait(self, request)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(RedisStore, "wait", wait_and_die)  # noqa: B010 - a method; the process ends with it
    layer = flow.site.layer()
    await child.ready()
    await asyncio.gather(*(layer.receive(flow.channel) for _ in range(flow.receivers)))


@dataclass(frozen=True, slots=True)
class Leaving:
    """A process that leaves something of every kind in the store.

    Attributes:
        site: where.
        number: which of several such processes it is.
    """

    site: Site
    number: int


async def leave_everything(child: AsyncChild, leaving: Leaving) -> None:
    """Own inboxes, be in groups, claim an inbox, leave messages unread and receivers waiting, until killed."""
    layer, number = leaving.site.layer(), leaving.number
    owned, other = await layer.new_channel(), await layer.new_channel("other")
    claimed, waited = f"claimed{number}!one", f"waited{number}!one"
    await layer.send(claimed, {"n": 0})
    await layer.receive(claimed)
    for channel in ("jobs", f"reply{number}?x", claimed, f"nobody{number}!x", owned, other):
        await layer.send(channel, {"n": 0})
        for group in ("here", "there", "everywhere"):
            await layer.group_add(group, channel)
    receiving = [asyncio.create_task(layer.receive(name)) for name in (f"empty{number}", f"empty{number}?x", waited)]
    for group in ("here", "there", "everywhere"):
        await layer.group_send(group, {"n": 1})
        await layer.group_discard(group, other)
        await layer.group_discard(group, f"reply{number}?x")
    await child.ready(owned)
    if number == 0:
        await layer.flush()  # which leaves a key, too
        await layer.group_add("here", owned)
        await layer.group_add("here", claimed)
        await layer.group_discard("here", other)
        for channel in ("jobs", claimed, owned):
            await layer.send(channel, {"n": 2})
    await child.ready()
    await asyncio.gather(*receiving)
