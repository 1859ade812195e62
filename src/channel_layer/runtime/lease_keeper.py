"""Keeps the leases on one shard, and notices when its server has restarted."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from channel_layer.domain.expiry import RENEWALS_PER_EXPIRY
from channel_layer.errors import StoreError
from channel_layer.operations.leases import announce_groups, keep_groups_alive
from channel_layer.operations.receiving import Backoff
from channel_layer.runtime.background_tasks import wait_before_retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.background_tasks import BackgroundTasks
    from channel_layer.runtime.inbox_reader import InboxReader

__all__ = ("LeaseKeeper",)

_TOUCH_SECONDS = 3600.0
"""How often groups without a group_expiry are kept alive by the owners of their members."""


class LeaseKeeper:
    """The leases on one shard, as the background work in one event loop keeps them."""

    def __init__(
        self, shard: int, state: LayerState, tasks: BackgroundTasks, reader_of: Callable[[Inbox], InboxReader]
    ) -> None:
        self._shard = shard
        self._state = state
        self._tasks = tasks
        self._reader_of = reader_of
        self._pause: asyncio.Timeout | None = None
        """The end of the wait before the next look."""
        self._touched_at = state.clock.now()

    async def keep(self) -> None:
        """Keep the leases for ever."""
        state = self._state
        period = state.rules.expiry / RENEWALS_PER_EXPIRY
        backoff = Backoff()
        while True:
            try:
                await self.look()
                backoff.reset()
            except StoreError as exc:
                if not exc.retryable:
                    self._tasks.complain(f"cannot keep the leases on {state.routes.name(self._shard)}: {exc}")
                await wait_before_retry(backoff)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period) as self._pause:
                    await self._tasks.store.disconnected(self._shard)

    def look_soon(self) -> None:
        """End the wait before the next look."""
        if self._pause is not None:
            with contextlib.suppress(RuntimeError):  # it is over, and the keeper at work
                self._pause.reschedule(self._tasks.loop.time())

    async def look(self) -> None:
        """Renew the leases, and announce what the server may have lost.

        Raises:
            StoreError: the store cannot be reached.
        """
        state, shard = self._state, self._shard
        run_id = await self._tasks.store.run_id(shard)
        restarted = state.run_ids.setdefault(shard, run_id) != run_id
        for inbox in state.owned_inboxes(shard):
            reader = self._reader_of(inbox)
            await reader.ensure_lease()
            await reader.acknowledge()
            if not reader.begun:  # the inbox came while the work moved here
                reader.start()
        if restarted:
            await self._tasks.run(announce_groups(state, lambda group: state.routes.ring.group(group) == shard))
        if state.rules.group_expiry is None and state.clock.now() - self._touched_at >= _TOUCH_SECONDS:
            self._touched_at = state.clock.now()
            await self._tasks.run(keep_groups_alive(state, shard))
        state.run_ids[shard] = run_id
