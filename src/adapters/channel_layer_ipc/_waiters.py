"""The processes and threads that wait for queues: a record for each, which is there until it is notified.

A waiter that finds nothing is recorded in the same transaction that looked. A command that brings something removes
the record and notifies the waiter before its transaction is committed: there is no moment at which its process can be
killed and leave a message of which no waiter was told. The waiter that was notified looks, for which it has to wait for
that transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from channel_layer_ipc._transaction import Transaction

__all__ = ("add_waiter", "has_waiter", "notify", "remove_waiter")


def add_waiter(tx: Transaction, queue: bytes, number: int) -> bytes:
    """Record that a waiter waits for a queue.

    Args:
        tx: the transaction.
        queue: the name of the queue.
        number: of the doorbell by which to notify the waiter.

    Returns:
        The key of the record.
    """
    key = k.waiter_key(queue, tx.now, number)
    tx.timed.put(key, tx.now + tx.times.lease)
    return key


def has_waiter(tx: Transaction, key: bytes) -> bool:
    """Return whether such a record is still there."""
    return tx.values.get(key) is not None


def remove_waiter(tx: Transaction, key: bytes) -> bool:
    """Remove such a record; return whether it was still there."""
    return tx.timed.remove(key)


def notify(tx: Transaction) -> bool:
    """Notify the readers and waiters for which there is something; return whether this doorbell's are among them."""
    doorbell, readers = tx.doorbell, tx.inboxes.to_notify
    own = False
    for number in readers:
        if number == doorbell.number:
            own = True
        else:
            doorbell.notify(number)
    for queue, count in tx.queues.to_notify.items():
        left = count
        while left > 0 and (found := _first_waiters(tx, queue, left)):
            for key, number in found:
                remove_waiter(tx, key)
                if number == doorbell.number:
                    own = True
                elif number not in readers and not doorbell.notify(number):
                    continue  # its process was killed: another one is notified in its place
                left -= 1
    return own


def _first_waiters(tx: Transaction, queue: bytes, limit: int) -> list[tuple[bytes, int]]:
    """Return the keys of those that have waited for a queue for longest, and their doorbells."""
    return [(key, k.waiter_doorbell(key)) for key, _ in tx.values.scan(k.below(k.WAITER, queue), limit)]
