"""The buffer of a queue that is popped: what this process has taken from it and not yet handed to a receiver."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.domain.mailbox import Mailboxes
from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.counters import Counters
    from channel_layer.domain.mailbox import Item, Mailbox, Waiter
    from channel_layer.domain.names import Queue

__all__ = ("QueueBuffer",)


class QueueBuffer(Mailboxes):
    """One queue that no process owns, as one of its readers sees it. Messages are popped only for waiting receivers."""

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
