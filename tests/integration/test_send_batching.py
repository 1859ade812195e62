"""Concurrent sends to channels of one inbox share a command; each message is accepted or refused by itself."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelFull
from channel_layer_redis import RedisChannelLayer
from tests.support.scenarios_groups import collect, receive_within

if TYPE_CHECKING:
    from tests.support.servers import Deployment

pytestmark = pytest.mark.usefixtures("settled")


def _scripts_run(deployment: Deployment) -> int:
    """Return how often the server has run a script."""
    found = re.search(r"'cmdstat_evalsha': {'calls': (\d+)", str(deployment.hosts[0].info("commandstats")))
    return int(found[1]) if found is not None else 0


@pytest.mark.parametrize("inbox", ["own", "free"])
async def test_each_of_many_is_accepted_or_refused_by_itself(one_host: Deployment, prefix: str, inbox: str) -> None:
    """Sends to channels of one inbox are refused above each channel's capacity; the others arrive, in order."""
    async with (
        RedisChannelLayer(hosts=one_host.urls, prefix=prefix, channel_capacity={"*b": 2, "*": 5}) as owner,
        RedisChannelLayer(hosts=one_host.urls, prefix=prefix, channel_capacity={"*b": 2, "*": 5}) as sender,
    ):
        queue = (await owner.new_channel(inbox)).partition("!")[0] if inbox == "own" else inbox
        names = [f"{queue}!a", f"{queue}!b"]
        sends = [(name, number) for number in range(8) for name in names]
        fates = await asyncio.gather(
            *(sender.send(name, {"n": number}) for name, number in sends), return_exceptions=True
        )
        assert all(fate is None or isinstance(fate, ChannelFull) for fate in fates)
        accepted = [send for send, fate in zip(sends, fates, strict=True) if fate is None]
        if inbox == "own":
            assert accepted == [send for send in sends if send[1] < (5 if send[0] == names[0] else 2)]
        else:  # without owner: the capacity counts all that is in the queue
            assert accepted == sends[:2] + sends[2:8:2]
        for name, number in accepted:
            assert await receive_within(owner, name) == {"n": number}
        for name in names:
            assert await collect(owner, name) == []


async def test_many_cost_the_server_few_commands(one_host: Deployment, prefix: str) -> None:
    """A hundred concurrent sends to channels of one inbox take a few commands, and all arrive, in order."""
    async with (
        RedisChannelLayer(hosts=one_host.urls, prefix=prefix) as owner,
        RedisChannelLayer(hosts=one_host.urls, prefix=prefix) as sender,
    ):
        names = [await owner.new_channel() for _ in range(10)]
        await sender.send(names[0], {"n": "first"})
        assert await receive_within(owner, names[0]) == {"n": "first"}
        before = _scripts_run(one_host)
        await asyncio.gather(*(sender.send(name, {"n": number}) for number in range(10) for name in names))
        assert _scripts_run(one_host) - before <= 10
        for name in names:
            assert [await receive_within(owner, name) for _ in range(10)] == [{"n": n} for n in range(10)]
