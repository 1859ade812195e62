"""One layer's store for the threads of a process, and what their calls remember from one to the next.

The sibling of `LoopSession`: all threads share it, and it ends with the layer, with a fork, or when it is closed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.operations.receiving import closed_error
from channel_layer.operations.statistics import report
from channel_layer.runtime.blocking_receive import ReceiveMemory
from channel_layer.runtime.drivers import refuse, run_blocking
from channel_layer.runtime.event_loops import await_endings_in_thread
from channel_layer.runtime.reporting import REPORT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.operations.state import LayerState
    from channel_layer.ports import Backend, BlockingStore

__all__ = ("ThreadSession",)


class ThreadSession:
    """A layer's store for threads, opened by the first call.

    Attributes:
        memory: what `receive` remembers; what it has claimed, above all.
    """

    def __init__(self, state: LayerState, backend: Backend) -> None:
        self.memory: ReceiveMemory = ReceiveMemory()
        self._state = state
        self._open_store: Callable[[], BlockingStore] = backend.open_blocking
        self._opening = threading.Lock()
        self._store: BlockingStore | None = None
        self._report_at: float | None = None
        """When the store is to be told what was counted; None: nothing was since it was told."""

    def open(self) -> BlockingStore:
        """Return the store; open it if there is none.

        Raises:
            StoreError: the layer is closed.
        """
        store = self._store
        if store is None or self._state.closed:
            with self._opening:
                if self._state.closed:
                    raise closed_error()
                if self._store is None:
                    await_endings_in_thread()
                    self._store = self._open_store()
                store = self._store
        return store

    def note(self) -> None:
        """Something was counted: tell the store if that has not been done for a second. The next call does so, else."""
        now = time.monotonic()
        if self._report_at is None:
            self._report_at = now + REPORT_SECONDS
        elif now >= self._report_at:
            self._report(self.open())

    def _report(self, store: BlockingStore) -> None:
        """Tell the store what was counted."""
        self._report_at = None
        run_blocking(report(self._state), store, refuse)

    # -- the end

    @property
    def is_open(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    def close(self) -> None:
        """Give up what is claimed, and let go of the store; the next call opens another one."""
        store, claims = self._forget()
        if store is None:
            return
        try:
            self._report(store)
            for claim in claims:
                with contextlib.suppress(StoreError):  # the claim ends by itself
                    store.execute(claim)
        finally:
            store.close()

    def let_go(self, *, reports: bool) -> list[c.ReleaseClaim]:
        """Let go of the store for good, and return what is claimed, to be given up; when the layer ends.

        Args:
            reports: tell the store first what was counted, which takes a while.
        """
        store, claims = self._forget()
        self.refuse()
        if store is not None:
            if reports:
                self._report(store)
            store.close()
        return claims

    def refuse(self) -> None:
        """Open no store any more, for good: see `LoopSessions.refuse`."""
        self._open_store = _refuse_to_open

    def _forget(self) -> tuple[BlockingStore | None, list[c.ReleaseClaim]]:
        with self._opening:
            store, self._store = self._store, None
            memory, self.memory = self.memory, ReceiveMemory()
        routes, claimant = self._state.routes, self._state.claimant
        return store, [c.ReleaseClaim(routes.shards(queue)[0], queue, claimant) for queue in memory.claims.values()]


def _refuse_to_open() -> BlockingStore:
    raise closed_error()
