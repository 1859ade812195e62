"""Entries that are applied long after they were read keep the meaning they had when they were sent.

Event loops and machines are busy, and processes are suspended and resumed. The store's clock decides whether and since
when a membership lasts, not the moment at which its marker is applied.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from hypothesis import settings

from channel_layer import commands as c
from channel_layer.stores.faults import FaultyBackend, FaultyStore
from channel_layer.testing import layers_over, run_layer_conformance_test
from tests.support.stores import memory_stores

if TYPE_CHECKING:
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock, Store

R = TypeVar("R")

_PAUSES = (0.0, 0.0, 0.0, 0.002)
"""Seconds; each read is delayed by one of these, chosen at random."""


class LateStore(FaultyStore):
    """A store whose reads return late now and then.

    Args:
        backend: as for `FaultyStore`.
        store: as for `FaultyStore`.
    """

    def __init__(self, backend: LateBackend, store: Store) -> None:
        super().__init__(backend, store)
        self._random = backend.random

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command; after a read, return after a pause."""
        reply = await super().execute(command)
        if isinstance(command, c.Read):
            await asyncio.sleep(self._random.choice(_PAUSES))
        return reply


class LateBackend(FaultyBackend):
    """A backend of such stores."""

    def open(self) -> LateStore:
        """Make a store for the running event loop."""
        return LateStore(self, self._backend.open())


def test_delayed_reads_meet_the_specification() -> None:
    """Entries that were read before time passed and are applied afterwards leave each membership in the right state."""
    memory = memory_stores()

    def make(rules: Rules, clock: Clock) -> Backend:
        return LateBackend(memory(rules, clock))

    most = max(20, settings().max_examples // 3)
    run_layer_conformance_test(
        layers_over(make), settings=settings(max_examples=most, stateful_step_count=30, deadline=None)
    )
