"""Queues that no process minted, as one of their readers sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.domain.mailbox import Mailbox
from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.counters import Ledger
    from channel_layer.domain.mailbox import Item, Waiter
    from channel_layer.domain.names import Queue

__all__ = ("Tap",)


class Tap:
    """Queues that no process minted, as one of their readers sees them: messages are popped only for who waits.

    Args:
        queue: a normal or single-reader channel, or an inbox that is claimed by reading it.
        capacity: of its channels.
        ledger: where losses are counted.
    """

    def __init__(self, queue: Queue, capacity: CapacityTable, ledger: Ledger) -> None:
        self.queue: Queue = queue
        self.boxes: dict[str, Mailbox] = {}
        self.epoch: str = ""
        self._capacity = capacity
        self._ledger = ledger

    def box(self, name: str, now: float) -> Mailbox:
        """Return the mailbox of a channel; make it if there is none."""
        box = self.boxes.get(name)
        if box is None:
            box = self.boxes[name] = Mailbox(name, self._capacity.of(name), now)
        return box

    def take(self, box: Mailbox, now: float, *, promised: bool) -> Item | None:
        """Take a message for a receiver, past any that are too old."""
        self.expire(box, now)
        box.used_at = now
        if self.queue.kind is Kind.INBOX and not promised:
            return None  # what is here may have been flushed: the pump asks the store before it promises
        item = box.take(promised=promised)
        if item is not None:
            self._ledger.delivered += 1
        return item

    def abandon(self, box: Mailbox, waiter: Waiter) -> list[Waiter]:
        """Forget a receiver that was cancelled; return whom to wake in his place."""
        box.leave(waiter)
        return [] if self.queue.kind is Kind.INBOX else list(box.promise())  # as in `take`: the pump asks the store

    def expire(self, box: Mailbox, now: float) -> None:
        """Drop what is too old at local time *now*."""
        before = len(box.items)
        box.expire(now)
        if before > len(box.items):
            self._ledger.drop("expired", box.name, before - len(box.items))

    def forget(self, now: float, after: float) -> None:
        """Forget mailboxes that nobody has used for *after* seconds."""
        for box in list(self.boxes.values()):
            if box.idle and not box.kept and now - box.used_at >= after:
                del self.boxes[box.name]

    @property
    def demand(self) -> int:
        """Receivers that wait and have been promised nothing."""
        return sum(len(box.waiters) for box in self.boxes.values())

    @property
    def held_back(self) -> bool:
        """Whether somebody waits for a message that is here and has not been promised."""
        return any(box.waiters and len(box.items) > box.promised for box in self.boxes.values())

    @property
    def idle(self) -> bool:
        """Nothing is here and nobody waits."""
        return all(box.idle for box in self.boxes.values())

    def promise(self) -> list[Waiter]:
        """Promise what is here to those who wait; return whom to wake."""
        return [waiter for box in self.boxes.values() for waiter in box.promise()]

    def dismiss(self) -> list[Waiter]:
        """Remove and return all who wait, to be told that they will get nothing."""
        return [waiter for box in self.boxes.values() for waiter in box.dismiss()]

    def surplus(self) -> list[Item]:
        """Remove and return, oldest first, what nobody waits for any more and what can go back to its queue."""
        extra: list[Item] = []
        for box in self.boxes.values():
            while len(box.items) > box.promised and not box.waiters:
                extra.append(box.items.pop())
        extra.reverse()
        return extra
