"""What is sent to one process of many arrives there: real processes, every host, thousands of messages."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Mapping

import pytest

from channel_layer import ChannelLayer
from channel_layer.testing.suites.tools import send_patiently
from tests.support.processes import Fleet
from tests.support.scenarios_delivery import Owned, receive_many, site
from tests.support.systems import System

MESSAGES, PROCESSES = 10_000, 6
PREFIXES = ("specific", "a", "b", "websocket.send", "z9")
CHANNELS = 300


@pytest.mark.slow
@pytest.mark.parametrize("redis_system", ["three-databases", "three-servers"], indirect=True)
def test_10000_direct_sends_to_300_channels_of_6_processes(redis_system: System) -> None:
    """Of 10 000 messages to 300 channels of 6 processes, with inboxes on all 3 hosts, none is lost or doubled."""
    deployment = redis_system.deployment
    assert deployment is not None
    where = site(redis_system)
    with Fleet() as fleet:
        each = CHANNELS // PROCESSES // len(PREFIXES)
        workers = [fleet.spawn(receive_many, Owned(where, PREFIXES, each)) for _ in range(PROCESSES)]
        owned: list[list[str]] = [json.loads(worker.wait_ready()) for worker in workers]
        names = list(itertools.chain(*owned))
        assert len(set(names)) == CHANNELS
        inboxes = [len(host.keys(f"{redis_system.prefix}l:")) for host in deployment.hosts]
        assert sum(inboxes) == PROCESSES * len(PREFIXES)
        assert all(inboxes)

        sent: dict[str, list[int]] = {name: [] for name in names}
        for n in range(MESSAGES):
            sent[names[n % CHANNELS]].append(n)
        for worker, some in zip(workers, owned, strict=True):
            worker.go(str(sum(len(sent[name]) for name in some)))
        asyncio.run(_send_all(redis_system, sent))

        received: dict[str, list[int]] = {}
        for worker in workers:
            received |= worker.result()
        assert received == sent


async def _send_all(system: System, sent: Mapping[str, list[int]]) -> None:
    """Send to all channels at once, to each in order; a full channel is tried again."""

    async def send_to(layer: ChannelLayer, name: str) -> None:
        for n in sent[name]:
            await send_patiently(layer, name, {"n": n})

    async with system.layer() as layer:
        await asyncio.gather(*(send_to(layer, name) for name in sent))
