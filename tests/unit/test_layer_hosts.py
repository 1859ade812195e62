"""Who does a layer's background work, and what happens when that one goes in the middle of it."""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio

import pytest

from channel_layer import StoreError
from channel_layer.domain.names import Queue
from channel_layer.runtime.background import Host
from channel_layer_memory import MemoryChannelLayer


@pytest.mark.parametrize("goes", [True, False])
def test_work_that_its_host_leaves_undone_is_done_by_the_next(monkeypatch: pytest.MonkeyPatch, goes: bool) -> None:  # noqa: FBT001
    """An error because the host's loop let go of its connections is no error of the call; any other one is."""
    adopt = Host.adopt
    asked = 0

    async def body() -> None:
        layer = MemoryChannelLayer()

        async def leave(host: Host, queue: Queue) -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                if goes:
                    await host.stop()
                    layer._host = None
                raise StoreError("this event loop has let go of its connections", retryable=True, outcome="not_sent")
            await adopt(host, queue)

        monkeypatch.setattr(Host, "adopt", leave)
        if goes:
            assert await layer.new_channel()
        else:
            with pytest.raises(StoreError):
                await layer.new_channel()
        await layer.aclose()

    asyncio.run(body(), debug=True)
    assert asked == (2 if goes else 1)
