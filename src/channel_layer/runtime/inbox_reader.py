"""Reads owned inboxes, in one event loop, and keeps their leases.

All state lives in the `Inbox`, which belongs to the layer in this process. So the reading can end at any moment, and
another loop goes on where it was: what was read is either in a mailbox or still in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.expiry import RENEWALS_PER_EXPIRY
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer.operations.credits import return_one_batch
from channel_layer.operations.leases import (
    acknowledge_flush,
    acquire_lease,
    announce,
    observe_clock,
    renew_lease,
    restore_memberships,
)
from channel_layer.operations.receiving import BLOCK_SECONDS, Backoff
from channel_layer.runtime.background_tasks import wait_before_retry
from channel_layer.runtime.event_loops import yield_processor
from channel_layer.runtime.reporting import log_damage, log_failure, log_success

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.background_tasks import BackgroundTasks
    from channel_layer.runtime.wakeups import WakeQueue

__all__ = ("InboxReader", "LeaseKeeper")

_logger = logging.getLogger("channel_layer")

_CREDIT_SECONDS = 0.02
"""How long credits may wait to be returned while they are fewer than a quarter of a channel's capacity."""

_MANY = 8
"""A message to so many channels of this process keeps its processor busy. The server may have woken the process on the
processor that it needs itself to answer the sender: it gets that back first."""

_EXTEND_SECONDS = 3600.0
"""How often groups without a group_expiry are kept alive by the owners of their members."""


class InboxReader:
    """One owned inbox, as the background work in one event loop sees it.

    Its lease, its position, its credits, and its acknowledgements of flushes.
    """

    def __init__(
        self,
        inbox: Inbox,
        state: LayerState,
        tasks: BackgroundTasks,
        wakeups: WakeQueue,
        look_soon: Callable[[], None],
    ) -> None:
        self.inbox: Inbox = inbox
        self._state = state
        self._tasks = tasks
        self._wakeups = wakeups
        self.look_soon: Callable[[], None] = look_soon
        """Has the keeper of the inbox's shard look at its leases at once."""
        self._reading: asyncio.Task[None] | None = None
        self._leasing = asyncio.Lock()
        self._acknowledging = asyncio.Lock()
        self._returning = asyncio.Lock()
        self._return_timer: asyncio.TimerHandle | None = None
        self._return_begun = False

    # -- reading

    @property
    def begun(self) -> bool:
        """Whether the reading has begun."""
        return self._reading is not None

    def start(self) -> None:
        """Begin to read, anew, unless the inbox is not known to be claimed: then that begins with the claim.

        Else what comes in after a claim could be taken for what was there before it.
        """
        self._pause()
        if self.inbox.generation and not self._tasks.stopping:
            self._reading = self._tasks.start_task(self._read())

    def _pause(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _read(self) -> None:
        """Read for ever. No consumer holds a reference to this task, so none can cancel it."""
        state, inbox = self._state, self.inbox
        clock, expiry = state.clocks[inbox.shard], state.rules.expiry
        block, seconds = min(BLOCK_SECONDS, expiry), 0.0
        backoff = Backoff()
        while True:
            try:
                batch = await self._tasks.store.execute(c.Read(inbox.shard, inbox.queue, inbox.position, seconds))
            except StoreError as exc:
                seconds = 0.0  # as for the first: it is known at once when the store is back
                if isinstance(exc, DamagedRecord):
                    log_damage(state, exc)
                    self.look_soon()  # it is ours, and replaced
                else:
                    log_failure(state, inbox.shard, "reads", exc)
                if not exc.retryable:
                    with state.lock:
                        inbox.dismiss(exc)
                await wait_before_retry(backoff)
                continue
            if not seconds:  # the first one, or the first after an error
                seconds = block
                backoff.reset()
                log_success(state, inbox.shard, "reads")
            now = state.clock.now()
            if batch.entries and clock.contradicts(batch.entries[-1][0], expiry, now):
                await self._observe()
                now = state.clock.now()
            if len(inbox.boxes) >= _MANY:
                with state.lock:
                    members = inbox.largest_group(batch.entries)
                if members >= _MANY:
                    yield_processor()
            with state.lock:
                if self._tasks.stopping:  # the next background work reads this again, or has done so
                    return
                waiters = inbox.apply(batch.entries, clock.offset(now), now, clock.doubt(now))
                waiters += state.watching(inbox.queue.name)
                inbox.position = batch.position
            self._wakeups.wake(waiters)
            del waiters  # what each of them drops goes at once: else the garbage collector looks at all of it
            if inbox.flushed is not None:
                await self.acknowledge()
            if inbox.lost:
                self.look_soon()

    async def _observe(self) -> None:
        """Learn the time of the store's clock, which may have been set."""
        with contextlib.suppress(StoreError):
            await self._tasks.run(observe_clock(self._state, self.inbox))

    async def acknowledge(self) -> None:
        """Tell the store that a flush has been applied, if one has."""
        async with self._acknowledging:
            await self._tasks.run(acknowledge_flush(self._state, self.inbox))

    # -- the lease

    async def ensure_lease(self, *, anew: bool = False) -> None:
        """Renew the lease; where it is gone, acquire it again and announce the members again.

        Args:
            anew: acquire it again in any case: the store may be an older one, which counts unread messages wrongly.

        Raises:
            StoreError: the store cannot be reached.
        """
        state, inbox = self._state, self.inbox
        async with self._leasing:
            first, held, missed = inbox.lease_until is None, False, False
            if not first:
                renewal = await self._tasks.run(renew_lease(state, inbox))
                held, missed = renewal.held, renewal.missed
                # Without a generation a claim was made, and nothing is known of how it ended.
                if held and inbox.generation and not anew:
                    if inbox.unannounced:
                        await self._announce()
                    return
                if state.closed:
                    return  # it has been given up for good
            self._pause()  # until the claim is known here, it might meet the marker of a flush that came after it
            try:
                await self._tasks.run(acquire_lease(state, inbox, secrets.token_urlsafe(9), missed=missed))
            except BaseException:
                self.look_soon()  # until then nothing is read
                raise
            self.return_credits(soon=True)
            if first:
                return
            self.start()
            if not held:  # else the server is another one, as after a slot move or a failover, and had it
                _logger.warning("the lease of inbox %s was lost and has been taken again", inbox.queue)
            await self.acknowledge()
            await self._announce()

    async def _announce(self) -> None:
        _log_restored(await self._tasks.run(announce(self._state, self.inbox)), "the store")

    # -- credits

    def is_returning(self, *, soon: bool) -> bool:
        """Whether credits are on their way to the store already, or will be. Any thread may ask."""
        return self._return_begun or (self._return_timer is not None and not soon)

    def return_credits(self, *, soon: bool) -> None:
        """Have the store told of credits that are free again: at once, or with those of the next moments."""
        if self._tasks.stopping or self._return_begun:
            return
        timer = self._return_timer
        if soon:
            if timer is not None:
                timer.cancel()
            self._return_timer = None
            self._return_begun = True
            self._tasks.loop.call_soon(self._begin_return)
        elif timer is None:
            self._return_timer = self._tasks.loop.call_later(_CREDIT_SECONDS, self._begin_return)

    async def settle(self) -> None:
        """Tell the store of all credits now; return when it has heard of them, or cannot be reached."""
        if self._return_timer is not None:
            self._return_timer.cancel()
            self._return_timer = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._state.rules.timeout):
                await self._return(everything=True)

    def _begin_return(self) -> None:
        self._return_timer = None
        self._return_begun = not self._tasks.stopping
        if self._return_begun:
            self._tasks.start(self._return())

    async def _return(self, *, everything: bool = False) -> None:
        """Return credits in batches, in the order of their serials: repeating one after an error counts once.

        Args:
            everything: also those that become free meanwhile; else they wait for others to share a command with, unless
                they are urgent.
        """
        async with self._returning:
            self._return_begun = True
            backoff = Backoff()
            try:
                while True:
                    try:
                        if not await self._tasks.run(return_one_batch(self._state, self.inbox)):
                            break
                    except StoreError:
                        await wait_before_retry(backoff)
                        continue
                    with self._state.lock:
                        if not (everything or self.inbox.pressed):
                            break
            finally:
                self._return_begun = False
        if self.inbox.credits:
            self.return_credits(soon=False)


class LeaseKeeper:
    """Keeps the leases on one shard, in one event loop, and notices when the shard's server has restarted."""

    def __init__(
        self, shard: int, state: LayerState, tasks: BackgroundTasks, reader_of: Callable[[Inbox], InboxReader]
    ) -> None:
        self._shard = shard
        self._state = state
        self._tasks = tasks
        self._reader_of = reader_of
        self._pause: asyncio.Timeout | None = None
        """The end of the wait before the next look."""
        self._extended_at = state.clock.now()

    async def keep(self) -> None:
        """Keep the leases for ever."""
        state = self._state
        period = state.rules.expiry / RENEWALS_PER_EXPIRY
        backoff = Backoff()
        while True:
            try:
                await self.look()
                backoff.reset()
                log_success(state, self._shard, "leases")
            except StoreError as exc:
                log_failure(state, self._shard, "leases", exc)
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
            await reader.ensure_lease(anew=restarted)
            await reader.acknowledge()
            if not reader.begun:  # the inbox came while the work moved here
                reader.start()
        extend = state.rules.group_expiry is None and state.clock.now() - self._extended_at >= _EXTEND_SECONDS
        restored = await self._tasks.run(restore_memberships(state, shard, everything=restarted, extend=extend))
        _log_restored(restored, state.routes.name(shard))
        for inbox in state.owned_inboxes():
            if inbox.lost:
                self._reader_of(inbox).look_soon()
        if extend:
            self._extended_at = state.clock.now()
        state.run_ids[shard] = run_id


def _log_restored(count: int, where: str) -> None:
    if count:
        _logger.warning("restored %d memberships of groups that %s had lost; does it evict keys?", count, where)
