"""Pops one queue for the receivers of this process, in one event loop.

It pops as many messages as there are receivers, and never more: first without waiting on every shard, then it waits on
all of them at once. A wait takes no message, it is told that there may be one; so a killed process loses none but those
that it had popped for a receiver.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.expiry import REGISTRATION
from channel_layer.domain.names import Kind
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer.operations.receiving import (
    BLOCK_SECONDS,
    Backoff,
    claimed_error,
    foreign_error,
    put_back,
    shard_order,
    take_in,
)
from channel_layer.runtime.background_tasks import raise_cancellation, wait_before_retry
from channel_layer.runtime.reporting import log_damage, log_failure, log_success
from channel_layer.runtime.wakeups import wake_all

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from channel_layer.domain.mailbox import Item, QueueBuffer
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.background_tasks import BackgroundTasks

__all__ = ("QueueConsumer",)

_LINGER_SECONDS = 1.0
"""How long the waits of a queue stay open after its last receiver went, for a worker that comes back for more."""

_RENEW_BELOW = 0.75
"""What is left of the time for which a process is registered as a reader of a queue when a pop renews it. With a wait
of a third of ``expiry`` in between, it never ends for a process that waits."""


class QueueConsumer:
    """One queue that is popped, as the background work in one event loop sees it."""

    def __init__(self, buffer: QueueBuffer, state: LayerState, tasks: BackgroundTasks) -> None:
        self.buffer: QueueBuffer = buffer
        self._state = state
        self._tasks = tasks
        self._store = tasks.store
        self._changed = asyncio.Event()
        """Receivers have come or gone, or a wait is over."""
        self._waits: dict[int, asyncio.Task[None]] = {}
        self._called = set[int]()
        """Shards whose wait is over and that have not been popped since."""
        self._passed = set[int]()
        """Shards that called when no receiver needed a message: the next one that does looks there, too."""
        self._shards = state.routes.shards(buffer.queue)
        self._local = state.routes.local_of(buffer.queue)
        self._backoffs = {shard: Backoff() for shard in self._shards}
        self._turn = random.randrange(len(self._shards))  # noqa: S311 - where to look first
        self._registration = state.rules.expiry * REGISTRATION
        """Seconds for which this process is registered as a reader of a local queue after each pop."""
        self._registered_until = -math.inf
        self._sated = False
        """The last pop has brought all that was asked for, so that there may be more."""
        self._linger_seconds = _LINGER_SECONDS if self._local is None else self._registration
        self._held_until: float | None = None
        self._block = min(BLOCK_SECONDS, state.rules.expiry / 3)

    def notify(self) -> None:
        """Receivers have come or gone."""
        self._changed.set()

    async def run(self) -> None:
        """Work until no receiver has waited for a while."""
        backoff = Backoff()
        try:
            while True:
                self._changed.clear()
                try:
                    self._collect_waits()
                    if not self._demand():
                        await self._return_surplus()
                        raise_cancellation()
                        await self._pass_calls_on()
                        if not self._changed.is_set() and not await self._linger():
                            return
                    elif not await self._pop_all():
                        await self._wait_all()
                    backoff.reset()
                except StoreError as exc:
                    if not exc.retryable:
                        self._fail(exc)
                    raise_cancellation()
                    await wait_before_retry(backoff)
        finally:
            if not self._tasks.loop.is_closed():  # else nothing can be awaited: the next background work goes on
                await self._end()

    async def _end(self) -> None:
        """End all waits, and put back what is left."""
        for task in self._waits.values():
            task.cancel()
        try:
            await self._return_surplus()
        finally:
            await asyncio.gather(*self._waits.values(), return_exceptions=True)
            await self._return_calls()
        await self._release_claim()

    def _demand(self) -> int:
        with self._state.lock:
            return self.buffer.demand

    async def _release_claim(self) -> None:
        """Let another process claim this inbox at once, unless something of it waits here for another receiver.

        Of a local queue: let senders know that this process does not read it any more.
        """
        state, buffer = self._state, self.buffer
        shard = state.routes.ring.queue(buffer.queue) if buffer.queue.kind is Kind.INBOX else self._local
        with state.lock:
            over = buffer.idle or state.closed
        if over and shard is not None:
            with contextlib.suppress(StoreError):  # the lease ends by itself
                await self._store.execute(c.ReleaseClaim(shard, buffer.queue, state.claimant))

    # -- popping

    @property
    def _registered(self) -> bool:
        """Whether this process is known to read the local store's queue."""
        return self._state.clock.now() < self._registered_until

    @property
    def _arrives(self) -> bool:
        """Whether there is a local store, and this process is not known to read its queue."""
        return self._local is not None and not self._registered

    async def _pop_all(self) -> bool:
        """Pop from each shard that is not being waited for, until no receiver needs more; whether anything came.

        What waits here for a claimed inbox's channels is promised by a pop only, so then no shard may be left out.

        A process that is registered as a reader of the local store's queue waits for the remote one all the time, and
        looks there when it is called: so a worker that is kept busy from here costs the remote one nothing, and yet
        hears of what comes there.
        """
        came = False
        self._turn += 1
        registered = not self._arrives
        for shard in shard_order(self._state.routes, self.buffer.queue, self._turn, registered=registered):
            if shard in self._waits and not self.buffer.held_back:
                continue
            called = shard in self._called or shard in self._passed
            if shard != self._local and not called and self._registered:
                self._wait_for(shard)
                continue
            demand = self._demand()
            if not demand:
                break
            try:
                came = await self._pop(shard, demand) or came
                if self._sated and self._arrives:
                    break  # there may be more of what is older, though another message has come meanwhile
            except StoreError as exc:
                self._await_return(shard, exc)
            else:
                self._backoffs[shard].reset()
                log_success(self._state, shard, "pops")
        return came

    async def _pop(self, shard: int, demand: int) -> bool:
        state, buffer = self._state, self.buffer
        sent, register = state.clock.now(), 0.0
        if shard == self._local and demand and self._registered_until - sent < self._registration * _RENEW_BELOW:
            register = self._registration
            self._registered_until = sent + register
        popped = await self._store.execute(c.Pop(shard, buffer.queue, demand, state.claimant, register))
        messages = take_in(state, shard, buffer.queue, sent, popped)
        self._called.discard(shard)
        if demand:
            self._passed.discard(shard)
        self._sated = len(popped.entries) + popped.flushed >= demand
        with state.lock:
            self._fill(messages, state.clock.now())
            waiters = buffer.promise()
            waiters += state.watching(buffer.queue.name)
        wake_all(waiters)
        raise_cancellation()
        if popped.owned:
            self._fail(foreign_error(buffer.queue))
        elif popped.held_for is not None:
            await self._wait_for_claim(popped.held_for)
        else:
            self._held_until = None
        return bool(popped.entries) or popped.flushed > 0 or popped.held_for is not None or popped.owned

    def _fill(self, messages: Iterable[tuple[str, Item]], now: float) -> None:
        buffer = self.buffer
        claimed = buffer.queue.kind is Kind.INBOX
        for name, item in messages:
            box = buffer.box(name, now)
            if claimed and len(box.items) >= max(box.capacity, box.promised + len(box.waiters)):
                self._state.counters.drop("full", name)  # it waits here for a channel that has no reader
            else:
                box.put(item)

    async def _wait_for_claim(self, held_for: float) -> None:
        """Wait, because another process has claimed this inbox. It may be dead: after one lease that is known."""
        now = self._state.clock.now()
        if self._held_until is None:
            self._held_until = now + self._state.lease
        if now >= self._held_until:
            self._held_until = None
            self._fail(claimed_error(self.buffer.queue))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(held_for, self._held_until - now) + 0.001):
                while self._demand():
                    self._changed.clear()
                    await self._changed.wait()

    async def _return_surplus(self) -> None:
        """Put back what was popped for receivers that have gone since."""
        if self.buffer.queue.kind is Kind.INBOX:
            return  # it waits for the other channels of the inbox
        with self._state.lock:
            items = self.buffer.surplus()
        if items:
            await self._tasks.run(put_back(self._state, self.buffer, items))

    def _fail(self, error: Exception) -> None:
        """Tell every receiver that it will never get a message."""
        with self._state.lock:
            self.buffer.dismiss(error)

    # -- waiting

    def _wait_for(self, shard: int) -> None:
        self._watch(shard, self._store.wait(c.Wait(shard, self.buffer.queue, self._block)))

    def _watch(self, shard: int, work: Coroutine[object, object, None]) -> None:
        task = self._tasks.loop.create_task(work)
        task.add_done_callback(lambda _: self._changed.set())
        self._waits[shard] = task

    async def _wait_all(self) -> None:
        """Wait on every shard until one may hold a message, or receivers come or go."""
        for shard in self._shards:
            if shard not in self._waits:
                self._wait_for(shard)
        raise_cancellation()
        await self._changed.wait()

    async def _linger(self) -> bool:
        """Keep the waits open for a while; whether anything happened."""
        lingered = False

        def enough() -> None:
            nonlocal lingered
            lingered = True
            self._changed.set()

        timer = self._tasks.loop.call_later(self._linger_seconds, enough)
        await self._changed.wait()
        timer.cancel()
        return not lingered

    def _collect_waits(self) -> None:
        """See which waits are over: those shards may hold a message, and no other process has been told."""
        for shard, task in list(self._waits.items()):
            if task.done():
                del self._waits[shard]
                try:
                    task.result()
                except StoreError as exc:
                    self._await_return(shard, exc)
                else:
                    self._called.add(shard)

    def _await_return(self, shard: int, error: StoreError) -> None:
        """Look out in the background for a shard that is away, while the others are served.

        Raises:
            StoreError: a person has to repair it.
        """
        self._called.discard(shard)
        if not error.retryable:
            raise error
        if isinstance(error, DamagedRecord):
            log_damage(self._state, error)
        else:
            log_failure(self._state, shard, "pops", error)
        if shard not in self._waits:
            self._watch(shard, self._return_of(shard))

    async def _return_of(self, shard: int) -> None:
        while True:
            await wait_before_retry(self._backoffs[shard])
            try:
                await self._store.run_id(shard)
            except StoreError as exc:
                if not exc.retryable:
                    raise
            else:
                return

    async def _pass_calls_on(self) -> None:
        """Have the store call another process, because no receiver here needs a message any more."""
        while self._called:
            shard = next(iter(self._called))
            await self._pop(shard, 0)
            self._passed.add(shard)

    async def _return_calls(self) -> None:
        """Pass on, at the end of all waits, what was not answered here; else a message waits for the next look."""
        answered = {shard for shard, task in self._waits.items() if not (task.cancelled() or task.exception())}
        for shard in self._called | answered:
            with contextlib.suppress(StoreError):
                await self._store.execute(c.Pop(shard, self.buffer.queue, 0, self._state.claimant))
