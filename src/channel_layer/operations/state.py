"""What a layer object holds in one process, whichever event loops and threads come and go.

Every operation works on it, and nothing in it belongs to a loop. Its lock is held for moments only, never while an
operation waits for a step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from channel_layer.domain.counters import Counters
from channel_layer.domain.expiry import LEASE_FACTOR, StoreClock
from channel_layer.domain.inbox import Inbox
from channel_layer.domain.mailbox import QueueBuffer
from channel_layer.domain.outages import Outages

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from channel_layer.commands import Flushing, Unflushed
    from channel_layer.domain.mailbox import Mailbox, Mailboxes, Waiter
    from channel_layer.domain.names import ChannelName, Queue
    from channel_layer.domain.routing import Routes
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock

__all__ = ("LayerState", "Lock")


class Lock(Protocol):
    """A `threading.Lock`."""

    def acquire(self) -> bool:
        """Wait for it, and take it."""
        ...

    def release(self) -> None:
        """Let another thread have it."""
        ...

    def __enter__(self) -> bool: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class LayerState:
    """What a layer object holds in this process. Guarded by `lock`.

    Attributes:
        claimant: names this layer object in this process, for claims.
        inboxes: those that this process owns, by name.
        buffers: buffers of the queues that are popped here, by name.
        watchers: threads that wait for a queue's messages without a mailbox of their own: for any channel of an inbox.
        waits: tasks that wait in a mailbox, or were woken and have not run yet, and for what.
        clocks: what is known of each shard's clock.
        outages: the servers that cannot be used.
        damages: what the log has said of damaged records.
        run_ids: of each shard, the run of its server in which the memberships were last known to be there.
        unflushed: what to ask for the owners that did not acknowledge the last flush of this layer object in time.
        closed: the layer object has ended.
    """

    def __init__(self, rules: Rules, routes: Routes, clock: Clock, *, lock: Lock, claimant: str) -> None:
        self.rules: Rules = rules
        self.routes: Routes = routes
        self.clock: Clock = clock
        self.lock: Lock = lock
        self.claimant: str = claimant
        self.counters: Counters = Counters()
        self.inboxes: dict[str, Inbox] = {}
        self.buffers: dict[str, QueueBuffer] = {}
        self.watchers: dict[str, list[Waiter]] = {}
        self.waits: dict[Waiter, tuple[Inbox | QueueBuffer, Mailbox]] = {}
        self.clocks: list[StoreClock] = [StoreClock() for _ in routes.all_shards]
        self.outages: Outages = Outages(rules.timeout)
        self.damages: set[str] = set()
        self.run_ids: dict[int, str] = {}
        self.unflushed: tuple[Unflushed, ...] = ()
        self.closed: bool = False

    # -- inboxes, buffers and mailboxes

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts."""
        return self.rules.expiry * LEASE_FACTOR

    def make_inbox(self, queue: Queue) -> Inbox:
        """Make an inbox that this process is about to own."""
        rules = self.rules
        return Inbox(
            queue, self.routes.ring.queue(queue), rules.capacity, self.counters, rules.expiry, rules.group_expiry
        )

    def owned_inboxes(self, shard: int | None = None) -> list[Inbox]:
        """Return the inboxes that this process owns, on one shard or on all. Takes the lock."""
        with self.lock:
            return [inbox for inbox in self.inboxes.values() if shard is None or inbox.shard == shard]

    def buffer(self, queue: Queue) -> QueueBuffer:
        """Return the buffer of a queue; make it if there is none."""
        buffer = self.buffers.get(queue.name)
        if buffer is None:
            buffer = self.buffers[queue.name] = QueueBuffer(queue, self.rules.capacity, self.counters)
        return buffer

    def _sources(self) -> Iterator[Mailboxes]:
        yield from self.inboxes.values()
        yield from self.buffers.values()

    def place(self, name: ChannelName) -> tuple[Inbox | QueueBuffer, Mailbox]:
        """Return where the messages of a channel are waited for."""
        source: Inbox | QueueBuffer = self.inboxes.get(name.queue.name) or self.buffer(name.queue)
        return source, source.boxes.get(name.name) or source.box(name.name, self.clock.now())

    def watching(self, queue: str) -> list[Waiter]:
        """Remove and return what watches a queue: something has come to it that was promised to no receiver."""
        return self.watchers.pop(queue, []) if self.watchers else []

    def leave(self, waiter: Waiter) -> list[Waiter]:
        """Remove a task that goes without a message; return what to wake in its place."""
        place = self.waits.pop(waiter, None)
        if place is None:
            return []
        source, box = place
        others = source.abandon(box, waiter) if waiter.error is None else []
        if len(box.items) > box.promised:
            others += self.watching(source.queue.name)
        box.used_at = self.clock.now()
        return others

    def leave_lost(self) -> tuple[list[Waiter], list[QueueBuffer]]:
        """Remove the tasks whose event loops were closed while they waited: what was promised to them is for others.

        They would also keep alive what they refer to, such as the layer. Takes the lock.

        Returns:
            What to wake in their place, and the buffers that they waited for.
        """
        lost = [waiter for waiter in list(self.waits) if waiter.lost]
        others: list[Waiter] = []
        buffers: list[QueueBuffer] = []
        with self.lock:
            for waiter in lost:
                source, _ = self.waits[waiter]  # which only this removes: see `Receivers`
                others += self.leave(waiter)
                if isinstance(source, QueueBuffer):
                    buffers.append(source)
        return others, buffers

    def dismiss_all(self, error: Exception) -> list[Waiter]:
        """Tell every receiver that it will never get a message; return what watches queues, to be woken."""
        for source in self._sources():
            source.dismiss(error)
        return [watcher for queue in list(self.watchers) for watcher in self.watching(queue)]

    # -- clocks

    def observe(self, shard: int, sent: float, store_time: float) -> StoreClock:
        """Learn the time of a shard's clock from a reply that has come now; return what is known of that clock.

        Messages that are lost because that clock was set have this as their cause. Memberships keep their ages.
        """
        clock = self.clocks[shard]
        known = clock.stepped
        clock.observe(sent, self.clock.now(), store_time)
        if abs(step := clock.stepped - known) >= 1:
            self.counters.explain(f"the clock of {self.routes.name(shard)} was set by {step:+.0f} s")
        if step >= 1:
            for inbox in self.inboxes.values():
                if inbox.shard == shard:
                    inbox.groups.shift(step, store_time)
        return clock

    def ages(self, inboxes: Iterable[Inbox], channel: ChannelName | None) -> Iterator[float]:
        """Yield the ages, in seconds, of messages of one channel, or of all, that came by ``send`` into mailboxes."""
        now = self.clock.now()
        for inbox in inboxes:
            for box in inbox.boxes.values() if channel is None else filter(None, [inbox.boxes.get(channel.name)]):
                yield from (self.rules.expiry + now - item.deadline for item in box.items if not item.group)

    # -- accounts

    def waiting(self) -> int:
        """Return how many messages wait in this process."""
        return sum(source.count() for source in self._sources())

    def count_flushed(self, begun: Iterable[Flushing]) -> None:
        """Drop what waits here outside the owned inboxes, and count what a flush has removed. Takes the lock."""
        with self.lock:
            for buffer in self.buffers.values():
                buffer.empty("flushed")
            self.counters.drop("flushed", "the store", sum(flushing.dropped for flushing in begun))
