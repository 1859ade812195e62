"""The commands about owned inboxes, and flushing, carried out within a transaction.

What each has to do is said by its class in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import MESSAGE, flush_frame, group_frame, marker_frame
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import pack_entry

if TYPE_CHECKING:
    from channel_layer.domain.frames import MembershipMarker
    from channel_layer_ipc._records import InboxRecord
    from channel_layer_ipc._transaction import Transaction

__all__ = (
    "acknowledge",
    "alive",
    "claim",
    "deliver",
    "flush",
    "mark",
    "put",
    "put_marker",
    "read",
    "release",
    "renew",
    "return_credits",
    "unflushed",
)

_READ_ENTRIES: Final = 512
"""Entries that one read brings at most: enough to make its transaction cheap, few enough not to hold up the loop."""

_READ_BYTES: Final = 1 << 20
"""Bytes after which a read brings no further entry."""

_SURVIVORS: Final = (k.INBOX, k.CLAIM, k.READER, k.LEFT, k.WAITER, k.VERSION)
"""What a flush leaves."""


# -- leases


def claim(tx: Transaction, request: c.AcquireLease) -> c.LeaseAcquired:
    """Take the lease of an inbox; what was sent to it while it had no owner comes in."""
    name = request.inbox.name.encode("ascii")
    inbox = tx.inboxes.get(name)
    fresh = inbox is None
    if inbox is None:
        inbox = tx.inboxes.make(name)
    inbox.until = tx.now + tx.times.lease
    inbox.generation, inbox.serial, inbox.changed = request.generation.encode("ascii"), 0, True
    _count_anew(tx, inbox, request)
    return c.LeaseAcquired(tx.now, fresh, tx.last_flush()[1], _take_over(tx, inbox))


def _count_anew(tx: Transaction, inbox: InboxRecord, request: c.AcquireLease) -> None:
    """Count as unread what the owner holds, and what it has not read yet."""
    for channel in (*tx.parts(k.UNREAD_COUNT, inbox.name), *inbox.counts):
        tx.inboxes.set_unread(inbox, channel, 0)
    for full, held in request.held:
        tx.inboxes.set_unread(inbox, full.encode("ascii"), held)
    read = max(0, int(request.after or "0") + 1 - inbox.head)
    for _, frame in tx.inboxes.entries(inbox)[read:]:
        _count_unread(tx, inbox, frame)


def _take_over(tx: Transaction, inbox: InboxRecord) -> int:
    """Move what was sent to an inbox without an owner into it; return how many messages are too old."""
    tx.clear_timed(k.key(k.GROUP_UNREAD, inbox.name))
    queue = tx.queues.get(inbox.name)
    if queue is None:
        return 0
    expired = tx.queues.expire(queue)
    while queue.size:
        stamp, frame = tx.queues.take(queue)
        tx.inboxes.append(inbox, stamp, frame)
        _count_unread(tx, inbox, frame)
    tx.queues.drop(queue)
    return expired


def renew(tx: Transaction, request: c.RenewLease) -> c.LeaseRenewed:
    inbox = tx.inboxes.living(request.inbox.name.encode("ascii"))
    if inbox is not None:
        inbox.until, inbox.changed = tx.now + tx.times.lease, True
    return c.LeaseRenewed(tx.now, inbox is not None, tx.last_flush()[1])


def release(tx: Transaction, request: c.ReleaseLease) -> int:
    inbox = tx.inboxes.get(request.inbox.name.encode("ascii"))
    if inbox is None:
        return 0
    messages = _count_messages(tx, inbox)
    tx.inboxes.drop(inbox)
    return messages


def alive(tx: Transaction, request: c.Alive) -> tuple[bool, ...]:
    return tuple(tx.inboxes.living(inbox.name.encode("ascii")) is not None for inbox in request.inboxes)


# -- entries


def read(tx: Transaction, request: c.Read) -> c.Batch | None:
    """Return what came in after a position; None if that is nothing: then the store's doorbell will be notified."""
    inbox = tx.inboxes.get(request.inbox.name.encode("ascii"))
    if inbox is None:  # released, or its lease ended: the owner will see
        return None
    number = tx.doorbell.bind()
    if inbox.owner != number:
        inbox.owner, inbox.changed = number, True
    tx.inboxes.trim(inbox, int(request.after or "0") + 1)
    if not inbox.size:
        tx.inboxes.add_reader(inbox, number)
        return None
    entries = tx.inboxes.first_entries(inbox, _READ_ENTRIES, _READ_BYTES)
    return c.Batch(tuple(entries), str(inbox.head + len(entries) - 1))


def return_credits(tx: Transaction, request: c.ReturnCredits) -> None:
    """Return credits, unless they are of an older generation or have been returned already."""
    inbox = tx.inboxes.living(request.inbox.name.encode("ascii"))
    if inbox is None or inbox.generation != request.generation.encode("ascii") or request.serial <= inbox.serial:
        return
    inbox.serial, inbox.changed = request.serial, True
    for channel, credits_ in request.places:
        name = channel.encode("ascii")
        tx.inboxes.set_unread(inbox, name, tx.inboxes.unread(inbox, name) - credits_)


def mark(tx: Transaction, request: c.Mark) -> bool:
    return put_marker(tx, request.inbox.name.encode("ascii"), request.marker)


def put_marker(tx: Transaction, name: bytes, marker: MembershipMarker) -> bool:
    """Put a marker into an inbox; return False if its owner is not alive."""
    inbox = tx.inboxes.living(name)
    if inbox is None:
        return False
    tx.inboxes.append(inbox, tx.now, marker_frame(marker))
    return True


def deliver(tx: Transaction, request: c.Deliver) -> c.Delivery:
    frame = group_frame(request.group.name, request.extra_recipients, request.payload)
    return put(tx, request.inbox.name.encode("ascii"), frame)


def put(tx: Transaction, name: bytes, frame: bytes) -> c.Delivery:
    """Put a group's frame into an inbox, if its owner is alive and there is room."""
    inbox = tx.inboxes.living(name)
    if inbox is None:
        return c.Delivery.NO_OWNER
    if inbox.size >= tx.times.inbox_capacity or not tx.take_room(len(frame)):
        return c.Delivery.FULL
    tx.inboxes.append(inbox, tx.now, frame)
    return c.Delivery.DONE


# -- flushing


def flush(tx: Transaction, request: c.Flush) -> c.Flushing:
    """Empty everything, and put a marker into each inbox whose owner is alive."""
    generation = request.generation.encode("ascii")
    tx.save()
    names = tx.inboxes.names()
    inboxes = [inbox for name in names if (inbox := tx.inboxes.get(name)) is not None]
    queues = [queue for name in tx.queues.names() if (queue := tx.queues.get(name)) is not None]
    dropped = sum(queue.size for queue in queues) + sum(_count_messages(tx, inbox) for inbox in inboxes)
    # An owner whose lease has ended may come back: the epoch tells it what happened, and its counts hold until then.
    ended = [inbox.name for inbox in inboxes if inbox.until <= tx.now]
    tx.clear_except([*_SURVIVORS, *(k.key(k.UNREAD_COUNT, name) for name in ended)])
    tx.put_timed(k.FLUSH, tx.now + max(tx.times.left, tx.times.group), pack_entry(tx.now, generation))
    living: list[str] = []
    for name in names:
        inbox = tx.inboxes.get(name)
        if inbox is None:
            continue
        inbox.head, inbox.changed = inbox.tail, True
        if inbox.until > tx.now:
            inbox.generation, inbox.serial = generation, 0
            tx.inboxes.append(inbox, tx.now, flush_frame(request.generation))
            living.append(name.decode("ascii"))
    return c.Flushing(tuple(living), dropped)


def unflushed(tx: Transaction, request: c.Unflushed) -> tuple[str, ...]:
    """Say which inboxes have a living owner that has not acknowledged their present generation.

    That is the one of this flush, of a later one, or of a new lease.
    """
    found = ((name, tx.inboxes.living(name.encode("ascii"))) for name in request.inboxes)
    return tuple(name for name, inbox in found if inbox is not None and inbox.flushed != inbox.generation)


def acknowledge(tx: Transaction, request: c.Acknowledge) -> None:
    inbox = tx.inboxes.living(request.inbox.name.encode("ascii"))
    generation = request.generation.encode("ascii")
    if inbox is not None and inbox.generation == generation:
        inbox.flushed, inbox.changed = generation, True


def _count_unread(tx: Transaction, inbox: InboxRecord, frame: bytes) -> None:
    if len(frame) > 1 and frame[0] == MESSAGE:
        channel = frame[2 : 2 + frame[1]]
        tx.inboxes.set_unread(inbox, channel, tx.inboxes.unread(inbox, channel) + 1)


def _count_messages(tx: Transaction, inbox: InboxRecord) -> int:
    return sum(frame[:1] == b"m" for _, frame in tx.inboxes.entries(inbox))
