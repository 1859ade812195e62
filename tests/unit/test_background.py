"""Which event loop does a layer's background work, and what happens when it ends in the middle of it."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import pytest

from channel_layer import StoreError
from channel_layer.domain.names import Queue
from channel_layer.runtime.background_work import BackgroundWork
from channel_layer_memory import MemoryChannelLayer


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
