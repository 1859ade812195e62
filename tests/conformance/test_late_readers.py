"""A reader may be late: what it has read is applied long after it was sent, and means what it meant then.

Loops are busy, machines are, and processes are stopped and go on. Whether a membership lasts, and since when, is told
by the store's clock, not by the moment at which a marker is met.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hypothesis import settings

from channel_layer.stores.faults import FaultyBackend, FaultyStore
from channel_layer.testing import layers_over, run_layer_conformance_test
from tests.support.stores import memory_stores

if TYPE_CHECKING:
    from channel_layer import commands as c
    from channel_layer.config import Rules
    from channel_layer.ports import AsyncStore, Backend, Clock

_PAUSES = (0.0, 0.0, 0.0, 0.002)
"""Seconds, one of which is taken by chance."""


class LateStore(FaultyStore):
    """Holds back what it has read, now and then.

    Args:
        backend: as for `FaultyStore`.
        store: as for `FaultyStore`.
    """

    def __init__(self, backend: LateBackend, store: AsyncStore) -> None:
        super().__init__(backend, store)
        self._random = backend.random

    async def read(self, request: c.Read, /) -> c.Batch:
        """Read, and take a while to return."""
        batch = await super().read(request)
        await asyncio.sleep(self._random.choice(_PAUSES))
        return batch


class LateBackend(FaultyBackend):
    """A backend whose readers are late."""

    def open(self) -> LateStore:
        """Make a store for the running event loop."""
        return LateStore(self, self._backend.open())


def test_a_late_reader_keeps_every_promise() -> None:
    """What was read before time passed, and is applied after it, ends a membership, or lets it last, as it should."""
    memory = memory_stores()

    def make(rules: Rules, clock: Clock) -> Backend:
        return LateBackend(memory(rules, clock))

    most = max(20, settings().max_examples // 3)
    run_layer_conformance_test(
        layers_over(make), settings=settings(max_examples=most, stateful_step_count=30, deadline=None)
    )
