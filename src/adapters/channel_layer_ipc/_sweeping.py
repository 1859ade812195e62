"""Removes what has ended: queues, inboxes, groups and small records whose time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from channel_layer_ipc._transaction import Transaction

__all__ = ("sweep",)

_UNCOUNTED: Final = 10
"""Times ``expiry`` for which it is known how many messages were swept from a queue that is not used."""


def sweep(tx: Transaction, limit: int) -> bool:
    """Look at so many records at most, and remove what has ended; return whether there may be more."""
    for _ in range(limit):
        key = tx.pop_due()
        if key is None:
            return False
        kind, name = key[:1], key[1:-1]
        if kind == k.QUEUE:
            _review_queue(tx, name)
        elif kind == k.INBOX:
            _review_inbox(tx, name)
        elif kind == k.GROUP:
            if (group := tx.groups.get(name)) is not None:
                tx.groups.review(group)
        else:
            _review_timed(tx, key)
    return True


def _review_queue(tx: Transaction, name: bytes) -> None:
    queue = tx.queues.get(name)
    if queue is None:
        return
    if queue.until <= tx.now and queue.size:
        # The next command that reads or fills the queue counts what has expired, unless there is none for long.
        tx.queues.sweep(queue, tx.now + _UNCOUNTED * tx.times.expiry)
    tx.queues.review(queue)


def _review_inbox(tx: Transaction, name: bytes) -> None:
    inbox = tx.inboxes.get(name)
    if inbox is None:
        return
    if inbox.until <= tx.now and inbox.owner and tx.doorbell.has_listener(inbox.owner):
        # Its owner was held up, or the machine slept: it comes back, and there is news of its groups in the inbox.
        inbox.postpone(tx.now + tx.times.lease)
    else:
        tx.inboxes.review(inbox)


def _review_timed(tx: Transaction, key: bytes) -> None:
    record = tx.peek_timed(key)
    if record is None:
        return
    until = record.until
    if until <= tx.now and key[:1] == k.WAITER and tx.doorbell.has_listener(k.waiter_doorbell(key)):
        # A waiter's timer runs by another clock, which stands still while the machine sleeps: it may still be there.
        until = tx.now + tx.times.lease
    if until > tx.now:
        tx.postpone_timed(key, record, until)
    else:
        tx.remove(key)
