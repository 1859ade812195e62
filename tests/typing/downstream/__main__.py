"""Run the application for a moment, on the layer that needs no server."""

from __future__ import annotations

import asyncio

from channel_layer import ConfigError
from downstream.failures import Verdict, explain, offer
from downstream.layers import configured, exercise, in_memory, on_redis
from downstream.notices import Notice, announce, await_notice
from downstream.prices import trade, watch
from downstream.secrecy import ciphers, names, sealed


async def _main() -> None:
    counted = await exercise(in_memory())
    assert (counted.sent, counted.delivered) == (3, 4), counted

    async with in_memory(capacity=1) as layer:
        channel = await layer.new_channel()
        await layer.group_add("readers", channel)
        await announce(layer, "readers", Notice("ready", urgency=1))
        assert await await_notice(layer, channel) == Notice("ready", urgency=1)
        assert await offer(layer, channel, {"n": 1}) is Verdict.SENT
        assert await offer(layer, channel, {"n": 2}) is Verdict.LATER
        assert await offer(layer, "no such name!!", {}) is Verdict.NEVER

    async with in_memory() as layer:
        assert await watch(layer) == ["1", "news", "reason", "SubscriptionError"]
        assert await trade(layer) == {"number": 3}

    assert len(on_redis("redis://localhost:6379/0")) == 10  # made, never connected: a constructor does no I/O
    assert len(sealed("k" * 32, b"o" * 32)) == 3
    assert ciphers(b"k" * 32) == [{"n": 1}] * 2
    assert names(b"k" * 32) == "jobs"
    assert [layer.capacity for layer in configured()] == [7, 100, 100]
    wrong: dict[str, str] = {}
    try:
        in_memory(capacity=0)
    except ConfigError as error:
        wrong = explain(error)
    assert list(wrong) == ["capacity"]


asyncio.run(_main())
