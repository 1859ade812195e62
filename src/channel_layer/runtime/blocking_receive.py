"""One blocking receive(): it looks everywhere, then waits everywhere at once, and looks again.

Servers, doorbells and this process's own mailboxes are waited for in one system call, in the calling thread.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.expiry import REGISTRATION
from channel_layer.domain.names import Kind, Queue
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer.operations.receiving import (
    BLOCK_SECONDS,
    Backoff,
    claimed_error,
    closed_error,
    foreign_error,
    rotated,
    shard_order,
    take_in,
)
from channel_layer.runtime.reporting import log_damage, log_failure, log_losses, log_success
from channel_layer.runtime.threads import ThreadEvent, await_any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.domain.codec import Message
    from channel_layer.domain.inbox import Inbox
    from channel_layer.domain.mailbox import Item, Mailbox, QueueBuffer
    from channel_layer.ports import BlockingStore, Waiting
    from channel_layer.runtime.background import Background
    from channel_layer.runtime.pipeline import MessagePipeline

__all__ = ("BlockingReceive", "ReceiveMemory")

_LISTS_REMEMBERED = 1024
"""Lists of channels for which it is known where the next receive() begins to look."""


@dataclass(slots=True)
class ReceiveMemory:
    """What is remembered from one receive() to the next.

    Attributes:
        claims: inboxes that were claimed by popping them, and local queues of which this process is registered as a
            reader, by name.
        registered_until: of such a queue, local seconds until when.
        held_until: by the name of an inbox that another process has claimed, local seconds at which to give up.
        turns: by the names of its queues, where the next receive() begins to look.
    """

    claims: dict[str, Queue] = field(default_factory=dict[str, Queue])
    registered_until: dict[str, float] = field(default_factory=dict[str, float])
    held_until: dict[str, float] = field(default_factory=dict[str, float])
    turns: dict[tuple[Queue, ...], Iterator[int]] = field(default_factory=dict[tuple[Queue, ...], "Iterator[int]"])

    def turn(self, queues: tuple[Queue, ...]) -> int:
        """Return a number that is one more for each receive() of these queues."""
        turns = self.turns.get(queues)
        if turns is None:
            if len(self.turns) >= _LISTS_REMEMBERED:
                self.turns = {}
            turns = self.turns.setdefault(queues, itertools.count())
        return next(turns)


@dataclass(slots=True)
class _Away:
    """A shard that cannot be reached, or a queue on it that is damaged.

    Attributes:
        error: why.
        until: seconds by the monotonic clock before which it is not tried again.
        backoff: the pauses between tries.
    """

    error: StoreError
    until: float = 0.0
    backoff: Backoff = field(default_factory=Backoff)


class BlockingReceive:
    """One call of `BlockingChannelLayer.receive`."""

    def __init__(
        self,
        queues: tuple[Queue, ...],
        pipeline: MessagePipeline,
        store: BlockingStore,
        background: Background,
        memory: ReceiveMemory,
    ) -> None:
        self._pipeline = pipeline
        self._state = pipeline.state
        self._store = store
        self._background = background
        self._memory = memory
        turn = memory.turn(queues)
        self._queues = rotated(queues, turn)
        self._turn = turn // len(queues)
        self._called = set[tuple[int, Queue]]()
        """Queues for which this thread was called and that it has not popped since: no other reader was called."""
        self._away: dict[tuple[int, Queue | None], _Away] = {}
        """By shard, and the queue if only that is affected."""
        self._refused: dict[int, StoreError] = {}
        """Why shards have refused to wait."""
        self._held: dict[Queue, float] = {}
        """Inboxes that another process has claimed, and until when, in seconds of the monotonic clock."""

    def run(self, seconds: float | None) -> tuple[str, Message] | tuple[None, None]:
        """Return a message; wait for one for some seconds at most, or not at all."""
        began = time.monotonic()
        try:
            while True:
                for queue in self._queues:
                    found = self._take(queue)
                    if found is not None:
                        return found
                if seconds is None:
                    for away in self._away.values():
                        raise away.error
                    return None, None
                left = began + seconds - time.monotonic()
                if left <= 0:
                    return None, None
                self._wait(left)
        finally:
            self._pass_on()

    # -- looking

    def _take(self, queue: Queue) -> tuple[str, Message] | None:
        state = self._state
        with state.lock:
            if state.closed:
                raise closed_error()
            inbox = state.inboxes.get(queue.name)
        if inbox is not None:
            return self._take_from_own(inbox)
        if queue.kind is Kind.INBOX:
            return self._take_from_claimed(queue)
        shards = self._order(queue)
        return self._take_kept(queue) or next(filter(None, (self._take_from(queue, each) for each in shards)), None)

    def _order(self, queue: Queue) -> tuple[int, ...]:
        """Return the shards of a queue in the order in which to look."""
        registered = self._memory.registered_until.get(queue.name, 0.0) > self._state.clock.now()
        return shard_order(self._state.routes, queue, self._turn, registered=registered)

    def _take_from_own(self, inbox: Inbox) -> tuple[str, Message] | None:
        """Take the oldest message that waits in any mailbox of an inbox of this process."""
        starting = self._background.ensure_for_threads()
        if starting is not None:
            with contextlib.suppress(TimeoutError):
                starting.result(self._state.rules.timeout)
        while True:
            with self._state.lock:
                inbox.received_at = self._state.clock.now()
                found = self._oldest(inbox, list(inbox.waiting.values()))
            if found is None:
                return None
            box, item = found
            if not item.group:
                self._background.return_credits(inbox, box)
            if (message := self._pipeline.open(item, box.name)) is not None:
                return box.name, message

    def _take_from_claimed(self, queue: Queue) -> tuple[str, Message] | None:
        """Take what a buffer holds for another channel of the inbox, else pop; a pop tells of a flush, too."""
        [shard] = self._state.routes.shards(queue)
        while self._held.get(queue, 0.0) <= time.monotonic():
            kept = self._has_kept(queue)
            came, taken = self._pop(shard, queue, 0 if kept else 1)
            if kept:
                if not self._is_away(shard, queue) and (found := self._take_kept(queue)) is not None:
                    return found
                if self._has_kept(queue):
                    return None  # the store is away, or the inbox is claimed: it is unknown what was flushed
            elif not came:
                return None
            elif taken is not None and (message := self._pipeline.open(taken[1], taken[0])) is not None:
                return taken[0], message
        return None

    def _take_from(self, queue: Queue, shard: int) -> tuple[str, Message] | None:
        """Take a message of a queue from one shard."""
        came = True
        while came:
            came, taken = self._pop(shard, queue, 1)
            if taken is not None and (message := self._pipeline.open(taken[1], taken[0])) is not None:
                return taken[0], message
        return None

    def _has_kept(self, queue: Queue) -> bool:
        """Whether the buffer of a queue holds messages that are promised to no receiver."""
        with self._state.lock:
            buffer = self._state.buffers.get(queue.name)
            return buffer is not None and any(len(box.items) > box.promised for box in buffer.boxes.values())

    def _take_kept(self, queue: Queue) -> tuple[str, Message] | None:
        while True:
            with self._state.lock:
                buffer = self._state.buffers.get(queue.name)
                if buffer is None or (found := self._oldest(buffer, list(buffer.boxes.values()))) is None:
                    return None
            box, item = found
            if (message := self._pipeline.open(item, box.name)) is not None:
                return box.name, message

    def _oldest(self, source: Inbox | QueueBuffer, boxes: list[Mailbox]) -> tuple[Mailbox, Item] | None:
        """Take the message that has waited longest in some mailboxes; under the lock."""
        now = self._state.clock.now()
        while ready := [box for box in boxes if len(box.items) > box.promised]:
            box = min(ready, key=lambda box: box.items[0].deadline)
            box.promised += 1  # to ourselves
            if (item := source.take(box, now, promised=True)) is not None:
                return box, item
        return None

    def _pop(self, shard: int, queue: Queue, count: int) -> tuple[bool, tuple[str, Item] | None]:
        """Pop, and count what is not to be delivered.

        Returns:
            Whether anything came, and the message with its channel's full name, unless that was none.

        Raises:
            InvalidName: the inbox belongs to another process.
            StoreError: a person has to repair it. Of a shard that is away it is noted.
        """
        if self._away and self._is_away(shard, queue, now=time.monotonic()):
            return False, None
        state, sent, register = self._state, self._state.clock.now(), 0.0
        if shard == state.routes.local_of(queue):
            register = state.rules.expiry * REGISTRATION
            self._memory.registered_until[queue.name] = sent + register
            self._memory.claims[queue.name] = queue
        try:
            popped = self._store.execute(c.Pop(shard, queue, count, state.claimant, register))
        except StoreError as exc:
            self._miss(shard, queue, exc)
            return False, None
        messages = take_in(state, shard, queue, sent, popped)
        if self._away:
            self._away.pop((shard, None), None)
            self._away.pop((shard, queue), None)
        log_success(state, shard, "threads")
        self._called.discard((shard, queue))
        with state.lock:
            state.counters.delivered += len(messages)
        log_losses(state)
        if popped.owned:
            raise foreign_error(queue)
        if popped.held_for is not None:
            self._hold(queue, popped.held_for)
            return False, None
        if queue.kind is Kind.INBOX:
            self._memory.claims[queue.name] = queue
            self._memory.held_until.pop(queue.name, None)
        return bool(popped.entries) or popped.flushed > 0, next(iter(messages), None)

    def _hold(self, queue: Queue, held_for: float) -> None:
        """Note that another process has claimed this inbox. It may be dead: after one lease that is known.

        Raises:
            InvalidName: it is alive.
        """
        now = self._state.clock.now()
        if now >= self._memory.held_until.setdefault(queue.name, now + self._state.lease):
            self._memory.held_until.pop(queue.name, None)
            raise claimed_error(queue)
        self._held[queue] = time.monotonic() + held_for + 0.001

    def _is_away(self, shard: int, queue: Queue, *, now: float = -math.inf) -> bool:
        """Whether a queue of a shard is not tried, because of either, until some time after *now*."""
        found = (self._away.get((shard, None)), self._away.get((shard, queue)))
        return any(away is not None and away.until > now for away in found)

    def _miss(self, shard: int, queue: Queue | None, error: StoreError) -> None:
        """Note that a shard is away, or a queue damaged: it is not tried for a while, and the others are served.

        Raises:
            StoreError: a person has to repair it.
        """
        if not error.retryable:
            raise error
        place: tuple[int, Queue | None] = (shard, None)
        if isinstance(error, DamagedRecord):
            place = (shard, queue)
            log_damage(self._state, error)
        else:
            log_failure(self._state, shard, "threads", error)
        away = self._away.setdefault(place, _Away(error))
        away.error = error
        away.until = time.monotonic() + away.backoff.pause(random.random())  # noqa: S311 - jitter, not a secret

    # -- waiting

    def _wait(self, left: float) -> None:
        """Wait until there may be something to take, for some seconds at most."""
        block = min(left, BLOCK_SECONDS, self._state.rules.expiry / 3)
        with ThreadEvent() as alarm, contextlib.ExitStack() as stack:
            stack.callback(self._unwatch, alarm)
            if not self._watch(alarm):
                return
            descriptors = [alarm.descriptor]
            seconds = [block]
            for shard, queues in self._elsewhere().items():
                try:
                    waiting = self._store.wait(c.WaitAny(shard, tuple(queues), block))
                except StoreError as exc:
                    self._miss(shard, None, exc)
                    continue
                stack.callback(self._end, shard, waiting)
                descriptors += waiting.descriptors
                seconds.append(waiting.seconds)
            moments = [*(away.until for away in self._away.values()), *self._held.values()]
            seconds += [moment - time.monotonic() for moment in moments]
            await_any(descriptors, min(seconds))
        while self._refused:
            shard, error = self._refused.popitem()
            self._miss(shard, None, error)

    def _watch(self, alarm: ThreadEvent) -> bool:
        """Have the thread woken by what comes into this process; False if there is something already.

        Raises:
            StoreError: the layer is closed: nothing would notify it.
        """
        state = self._state
        with state.lock:
            if state.closed:
                raise closed_error()
            for queue in self._queues:
                state.watchers.setdefault(queue.name, []).append(alarm)
                source = state.inboxes.get(queue.name) or state.buffers.get(queue.name)
                boxes = source.boxes.values() if source is not None else ()
                if any(len(box.items) > box.promised for box in boxes):
                    return self._held.get(queue, 0.0) > time.monotonic()
        return True

    def _unwatch(self, alarm: ThreadEvent) -> None:
        watchers = self._state.watchers
        with self._state.lock:
            for queue in self._queues:
                if alarm in watchers.get(queue.name, ()):
                    watchers[queue.name].remove(alarm)
                    if not watchers[queue.name]:
                        del watchers[queue.name]

    def _elsewhere(self) -> dict[int, list[Queue]]:
        """Return what is to be waited for in the store, by shard."""
        found: dict[int, list[Queue]] = {}
        now = time.monotonic()
        for queue in self._queues:
            if queue.name in self._state.inboxes or self._held.get(queue, 0.0) > now:
                continue
            for shard in self._state.routes.shards(queue):
                if not self._is_away(shard, queue):
                    found.setdefault(shard, []).append(queue)
        return found

    def _end(self, shard: int, waiting: Waiting) -> None:
        try:
            self._called.update((shard, queue) for queue in waiting.end())
        except StoreError as exc:
            self._refused[shard] = exc

    def _pass_on(self) -> None:
        """Have another reader called for each queue for which this thread was called and that it has not popped."""
        while self._called:
            shard, queue = self._called.pop()
            with contextlib.suppress(StoreError):
                self._store.execute(c.Pop(shard, queue, 0, self._state.claimant))
