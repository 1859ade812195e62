"""Mailboxes: the messages that wait in this process for one channel, and the receivers that wait for them.

A wake-up never carries a message: the message stays in its mailbox until a receiver that is certain to run takes it. So
a cancelled ``receive()`` has nothing to lose, and its wake-up is passed on. The caller of every method holds the
layer's lock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.counters import Counters, Reason
    from channel_layer.domain.frames import Entry
    from channel_layer.domain.names import Queue

__all__ = ("Item", "Mailbox", "Mailboxes", "QueueBuffer", "Waiter")


class Waiter(Protocol):
    """A receiver that waits for a message in a mailbox."""

    @property
    def error(self) -> Exception | None:
        """What `fail` was called with; None: it was not called."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the receiver never runs again, because its event loop was closed while it waited."""
        ...

    def wake(self) -> None:
        """Let the receiver run. Called at most once, from any thread."""
        ...

    def fail(self, error: Exception) -> None:
        """End the wait with an error, instead of `wake`. The receiver is no longer among `Mailbox.waiters`."""
        ...


class Item(NamedTuple):
    """A message that waits for a receiver."""

    deadline: float
    """Local time, in seconds, at which it is too old."""
    payload: bytes
    group: str
    """The group that it was sent to; "" if it was sent to the channel directly."""
    origin: tuple[int, Entry] | None
    """The shard and the entry that it was popped from; None if it came through an owned inbox."""


class Mailbox:
    """The messages that wait in this process for one channel.

    Attributes:
        name: the channel's full name.
        capacity: messages, of either kind, with which it takes no further group message; messages sent to the channel
            directly are bounded in the store.
        items: the messages, oldest first.
        grouped: how many of the messages came through a group.
        waiters: receivers to which no message has been promised, longest waiting first.
        promised: the number of receivers that were woken and have not taken their message yet.
        groups: names of the groups that the channel is in, as far as the owner knows.
        listed: it is among `Inbox.waiting`.
        kept: a subscription uses it, so messages that expire unread do not end its memberships.
        unread_expired_at: local time, in seconds, at which a message last expired unread.
        used_at: local time, in seconds, at which a ``receive()`` last took a message or ended.
    """

    __slots__ = (
        "capacity",
        "grouped",
        "groups",
        "items",
        "kept",
        "listed",
        "name",
        "promised",
        "unread_expired_at",
        "used_at",
        "waiters",
    )

    def __init__(self, name: str, capacity: int, now: float) -> None:
        self.name: str = name
        self.capacity: int = capacity
        self.items: deque[Item] = deque()
        self.grouped: int = 0
        self.waiters: deque[Waiter] = deque()
        self.promised: int = 0
        self.groups: set[str] = set()
        self.listed: bool = False
        self.kept: bool = False
        self.unread_expired_at: float = -math.inf
        self.used_at: float = now

    @property
    def direct(self) -> int:
        """How many of the messages were sent to this channel directly."""
        return len(self.items) - self.grouped

    @property
    def idle(self) -> bool:
        """Whether there are no messages and no receivers."""
        return not (self.items or self.waiters or self.promised)

    def put(self, item: Item) -> None:
        """Append a message."""
        self.items.append(item)
        if item.group:
            self.grouped += 1

    def take(self, *, promised: bool) -> Item | None:
        """Remove and return the oldest message, unless all are promised to receivers other than a *promised* one."""
        if promised:
            self.promised -= 1
        if len(self.items) <= self.promised:
            return None
        item = self.items.popleft()
        if item.group:
            self.grouped -= 1
        return item

    def expire(self, now: float) -> int:
        """Drop messages that are too old at local time *now*; return how many of them were `direct`."""
        items, direct = self.items, 0
        while items and items[0].deadline <= now:
            item = items.popleft()
            self.unread_expired_at = item.deadline
            if item.group:
                self.grouped -= 1
            else:
                direct += 1
        return direct

    def clear(self) -> int:
        """Drop all messages; return how many there were."""
        count = len(self.items)
        self.items.clear()
        self.grouped = 0
        return count

    def promise(self) -> Iterator[Waiter]:
        """Promise the messages to waiting receivers; yield each receiver to wake."""
        while self.waiters and len(self.items) > self.promised:
            self.promised += 1
            yield self.waiters.popleft()

    def dismiss(self, error: Exception) -> None:
        """Remove all waiting receivers, and end their waits with an error; none has been promised a message."""
        while self.waiters:
            self.waiters.popleft().fail(error)

    def leave(self, waiter: Waiter) -> None:
        """Remove a receiver that was cancelled, and not dismissed; a message promised to it becomes free."""
        try:
            self.waiters.remove(waiter)
        except ValueError:  # it was woken before it was cancelled
            self.promised -= 1


class Mailboxes:
    """The mailboxes of one queue: what an owned inbox and the buffer of a queue that is popped have in common.

    Attributes:
        queue: the queue.
        boxes: the mailboxes, by the full name of the channel.
    """

    def __init__(self, queue: Queue, capacity: CapacityTable, counters: Counters) -> None:
        self.queue: Queue = queue
        self.boxes: dict[str, Mailbox] = {}
        self._capacity = capacity
        self._counters = counters

    def box(self, name: str, now: float) -> Mailbox:
        """Return the mailbox of a channel; create it if there is none."""
        box = self.boxes.get(name)
        if box is None:
            box = self.boxes[name] = Mailbox(name, self._capacity.of(name), now)
        return box

    def count(self) -> int:
        """Return how many messages wait here."""
        return sum(len(box.items) for box in self.boxes.values())

    def empty(self, reason: Reason) -> None:
        """Drop every message."""
        for box in self.boxes.values():
            self._counters.drop(reason, box.name, box.clear())

    def dismiss(self, error: Exception) -> None:
        """End the waits of all receivers with an error."""
        for box in self.boxes.values():
            box.dismiss(error)


class QueueBuffer(Mailboxes):
    """One queue that no process owns: what one of its readers has popped and not yet handed to a receiver.

    Messages are popped only for waiting receivers.
    """

    def __init__(self, queue: Queue, capacity: CapacityTable, counters: Counters) -> None:
        super().__init__(queue, capacity, counters)
        self.epoch: str = ""

    def take(self, box: Mailbox, now: float, *, promised: bool) -> Item | None:
        """Take a message for a receiver, after dropping those that are too old."""
        self.expire(box, now)
        box.used_at = now
        if self.queue.kind is Kind.INBOX and not promised:
            return None  # it may have been flushed: the consumer asks the store before it promises messages
        item = box.take(promised=promised)
        if item is not None:
            self._counters.delivered += 1
        return item

    def abandon(self, box: Mailbox, waiter: Waiter) -> list[Waiter]:
        """Remove a receiver that was cancelled; return the receivers to wake in its place."""
        box.leave(waiter)
        return [] if self.queue.kind is Kind.INBOX else list(box.promise())  # as in `take`: the consumer asks the store

    def expire(self, box: Mailbox, now: float) -> None:
        """Drop messages that are too old at local time *now*."""
        before = len(box.items)
        box.expire(now)
        if before > len(box.items):
            self._counters.drop("expired", box.name, before - len(box.items))

    def forget(self, now: float, after: float) -> None:
        """Forget mailboxes that have not been used for *after* seconds."""
        for box in list(self.boxes.values()):
            if box.idle and not box.kept and now - box.used_at >= after:
                del self.boxes[box.name]

    @property
    def demand(self) -> int:
        """How many receivers wait and have been promised no message."""
        return sum(len(box.waiters) for box in self.boxes.values())

    @property
    def held_back(self) -> bool:
        """Whether a receiver waits for a message that is here and has not been promised."""
        return any(box.waiters and len(box.items) > box.promised for box in self.boxes.values())

    @property
    def idle(self) -> bool:
        """Whether there are no messages and no receivers."""
        return all(box.idle for box in self.boxes.values())

    def promise(self) -> list[Waiter]:
        """Promise the messages to waiting receivers; return the receivers to wake."""
        return [waiter for box in self.boxes.values() for waiter in box.promise()]

    def surplus(self) -> list[Item]:
        """Remove and return, oldest first, the messages that no receiver waits for, to be put back in their queue."""
        extra: list[Item] = []
        for box in self.boxes.values():
            while len(box.items) > box.promised and not box.waiters:
                extra.append(box.items.pop())
        extra.reverse()
        return extra

    def drain(self) -> list[Item]:
        """Remove and return all messages, oldest first; a receiver that was promised one finds none."""
        items = [item for box in self.boxes.values() for item in box.items]
        for box in self.boxes.values():
            box.clear()
        return items
