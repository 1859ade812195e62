"""Which event loop does a layer's background work, and what happens when it ends in the middle of it."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import pytest

from channel_layer import StoreError
from channel_layer.domain.names import Queue
from channel_layer.runtime.background_work import BackgroundWork
from channel_layer.testing import VirtualClock
from channel_layer_memory import MemoryChannelLayer
from channel_layer_memory._store import MemoryStore


@pytest.mark.parametrize("goes", [True, False])
async def test_work_that_its_host_leaves_undone_is_done_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
    *,
    goes: bool,
) -> None:
    """A call is repeated if the loop that did its work has closed its connections; any other error is raised."""
    adopt = BackgroundWork.adopt
    asked = 0

    layer = MemoryChannelLayer()

    async def leave(work: BackgroundWork, queue: Queue) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            if goes:
                layer._background.drop(work)
            raise StoreError("this event loop has let go of its connections", retryable=True, outcome="not_sent")
        await adopt(work, queue)

    monkeypatch.setattr(BackgroundWork, "adopt", leave)
    if goes:
        assert await layer.new_channel()
    else:
        with pytest.raises(StoreError):
            await layer.new_channel()
    await layer.aclose()
    assert asked == (2 if goes else 1)


@pytest.mark.parametrize("lost", [False, True])
async def test_a_lease_that_another_server_has_was_not_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, *, lost: bool
) -> None:
    """After a slot move or a failover a lease is acquired anew; the log warns only if the new server lacked it."""
    clock = VirtualClock()
    async with MemoryChannelLayer(clock=clock) as layer:
        await layer.group_add("group", await layer.new_channel())
        await layer.run_maintenance()
        (inbox,) = layer._state.inboxes.values()
        generation = inbox.generation

        async def another(_store: MemoryStore, _shard: int) -> str:
            return "another"

        monkeypatch.setattr(MemoryStore, "run_id", another)
        clock.advance(1000.0 if lost else 1.0)
        await layer.run_maintenance()
        assert inbox.generation != generation
    assert ("was lost and has been taken again" in caplog.text) == lost
    assert lost or not caplog.records
