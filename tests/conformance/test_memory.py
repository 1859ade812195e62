"""Consumers that do not read cost the owner of their channels bounded memory: every buffer has a limit."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc

import pytest

from channel_layer import ChannelFull, ChannelLayer
from tests.support.systems import System

_CHANNELS = 300
_CAPACITY = 4
_INBOX = 200
_SIZE = 10_000
"""Bytes of a message."""

_BOUND = _CHANNELS * _CAPACITY * _SIZE + _INBOX * _SIZE + 2_000_000
"""Bytes: direct messages of the channels, those of their inbox, and a constant for mailboxes and connections.

A group message takes memory once, however many channels hold it.
"""

_AT_ONCE = 50


async def _send_to_all(sender: ChannelLayer, names: list[str], message: dict[str, object]) -> None:
    """Send one direct message to each channel that has room, and one to all of them as a group."""

    async def send(name: str) -> None:
        with contextlib.suppress(ChannelFull):
            await sender.send(name, message)

    for start in range(0, len(names), _AT_ONCE):
        await asyncio.gather(*map(send, names[start : start + _AT_ONCE]))
    await sender.group_send("group", message)


@pytest.mark.parametrize("system", ["memory", "one-host"], indirect=True)
async def test_full_mailboxes_keep_memory_bounded(system: System) -> None:
    """However much is sent to consumers that do not read, the process holds at most what the capacities allow."""
    options = {"capacity": _CAPACITY, "inbox_capacity": _INBOX}
    async with system.layer(**options) as owner, system.layer(**options) as sender:
        names = [await owner.new_channel() for _ in range(_CHANNELS)]
        await asyncio.gather(*(owner.group_add("group", name) for name in names))
        message: dict[str, object] = {"text": "x" * _SIZE}
        await sender.group_send("group", message)
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(_CAPACITY):  # first, as they leave the direct ones their places
                await sender.group_send("group", message)
            async with asyncio.timeout(60):
                while owner.counts().waiting < 2 * _CHANNELS * _CAPACITY:
                    await _send_to_all(sender, names, message)
            for _ in range(3):
                await _send_to_all(sender, names, message)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert owner.counts().waiting == 2 * _CHANNELS * _CAPACITY
        assert peak - before <= _BOUND
