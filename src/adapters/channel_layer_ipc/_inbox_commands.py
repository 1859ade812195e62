"""The commands about minted inboxes, carried out within a transaction.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import MESSAGE, flush_frame, group_frame, marker_frame
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import MAX_READERS, pack_entry, split_entry

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
    "give_back",
    "mark",
    "put",
    "put_marker",
    "read",
    "release",
    "renew",
    "unflushed",
)

_READ_ENTRIES: Final = 512
"""Entries that one read brings at most: enough to make its transaction cheap, few enough not to keep the loop."""

_READ_BYTES: Final = 1 << 20
"""Bytes after which a read brings no further entry."""

_SURVIVORS: Final = (k.INBOX, k.CLAIM, k.READER, k.LEFT, k.WAITER, k.VERSION)
"""What a flush leaves."""


def claim(tx: Transaction, request: c.Claim) -> c.Claimed:
    """Take the lease of an inbox; what was sent to it while it had no owner comes in."""
    name = request.inbox.name.encode("ascii")
    inbox = tx.minted(name)
    fresh = inbox is None
    if inbox is None:
        inbox = tx.make_inbox(name)
    inbox.until = tx.now + tx.times.lease
    inbox.generation, inbox.serial, inbox.changed = request.generation.encode("ascii"), 0, True
    for key, _ in tx.scan(k.below(k.UNREAD_COUNT, name)):
        inbox.counts[key[len(name) + 2 :]] = 0, True
    for channel in inbox.counts:
        inbox.counts[channel] = 0, True
    for full, held in request.held:
        inbox.counts[full.encode("ascii")] = held, True
    for number in range(max(inbox.head, int(request.after or "0") + 1), inbox.tail):
        _count(tx, inbox, tx.entry(inbox, number)[1])
    for note, _ in tx.scan(k.below(k.GROUP_UNREAD, name)):
        tx.remove_timed(note)
    expired = 0
    line = tx.line(name)
    if line is not None:
        expired = tx.expire(line)
        for _, data in tx.scan(k.below(k.ENTRY, name)):
            stamp, frame = split_entry(data)
            tx.append(inbox, stamp, frame)
            _count(tx, inbox, frame)
        tx.drop_line(line)
    return c.Claimed(tx.now, fresh, _epoch(tx), expired)


def renew(tx: Transaction, request: c.Renew) -> c.Renewed:
    """Keep a lease for another while."""
    inbox = tx.living(request.inbox.name.encode("ascii"))
    if inbox is not None:
        inbox.until, inbox.changed = tx.now + tx.times.lease, True
    return c.Renewed(tx.now, inbox is not None, _epoch(tx))


def release(tx: Transaction, request: c.Release) -> int:
    """Give an inbox up."""
    inbox = tx.minted(request.inbox.name.encode("ascii"))
    if inbox is None:
        return 0
    messages = _count_messages(tx, inbox)
    tx.drop_inbox(inbox)
    return messages


def read(tx: Transaction, request: c.Read) -> c.Batch | None:
    """Return what came in after a position; None, and the store's bell will be rung, if that is nothing."""
    number = tx.doorbell.bind()
    inbox = tx.minted(request.inbox.name.encode("ascii"))
    if inbox is None:  # released, or its lease ended: the owner will see
        return None
    if inbox.owner != number:
        inbox.owner, inbox.changed = number, True
    tx.trim(inbox, int(request.after or "0") + 1)
    if not inbox.size:
        if number not in inbox.readers:
            inbox.readers, inbox.changed = (*inbox.readers, number)[-MAX_READERS:], True
        return None
    entries = tx.entries(inbox, _READ_ENTRIES, _READ_BYTES)
    return c.Batch(tuple(entries), str(inbox.head + len(entries) - 1))


def give_back(tx: Transaction, request: c.GiveBack) -> None:
    """Give back places, unless they are of an older generation or have been given back already."""
    inbox = tx.living(request.inbox.name.encode("ascii"))
    if inbox is None or inbox.generation != request.generation.encode("ascii") or request.serial <= inbox.serial:
        return
    inbox.serial, inbox.changed = request.serial, True
    for channel, places in request.places:
        name = channel.encode("ascii")
        tx.set_unread(inbox, name, tx.unread(inbox, name) - places)


def mark(tx: Transaction, request: c.Mark) -> bool:
    """Put a marker into an inbox."""
    return put_marker(tx, request.inbox.name.encode("ascii"), request.marker)


def put_marker(tx: Transaction, name: bytes, marker: MembershipMarker) -> bool:
    """Put a marker into an inbox; False if its owner does not live."""
    inbox = tx.living(name)
    if inbox is None:
        return False
    tx.append(inbox, tx.now, marker_frame(marker))
    return True


def alive(tx: Transaction, request: c.Alive) -> tuple[bool, ...]:
    """Say which inboxes have an owner who lives."""
    return tuple(tx.living(inbox.name.encode("ascii")) is not None for inbox in request.inboxes)


def deliver(tx: Transaction, request: c.Deliver) -> c.Delivery:
    """Put a group's message into an inbox."""
    frame = group_frame(request.group.name, request.riders, request.payload)
    return put(tx, request.inbox.name.encode("ascii"), frame)


def put(tx: Transaction, name: bytes, frame: bytes) -> c.Delivery:
    """Put a group's frame into an inbox, if its owner lives and there is room."""
    inbox = tx.living(name)
    if inbox is None:
        return c.Delivery.NO_OWNER
    if inbox.size >= tx.times.inbox_capacity or not tx.admit(len(frame)):
        return c.Delivery.FULL
    tx.append(inbox, tx.now, frame)
    return c.Delivery.DONE


# -- flush


def flush(tx: Transaction, request: c.Flush) -> c.Flushing:
    """Empty everything, and put a marker into each inbox whose owner lives."""
    generation = request.generation.encode("ascii")
    tx.save()
    dropped = 0
    for key, _ in tx.scan(k.QUEUE):
        line = tx.line(key[1:-1])
        dropped += line.size if line is not None else 0
    inboxes = [inbox for key, _ in tx.scan(k.INBOX) if (inbox := tx.minted(key[1:-1])) is not None]
    for inbox in inboxes:
        dropped += _count_messages(tx, inbox)
    counts = {inbox.name: tx.scan(k.below(k.UNREAD_COUNT, inbox.name)) for inbox in inboxes}
    kept = [item for kind in _SURVIVORS for item in tx.scan(kind)]
    targets = {key for key, _ in kept}
    kept += [item for item in tx.scan(k.DUE) if k.due_target(item[0])[1] in targets]
    tx.empty()
    for key, value in kept:
        tx.put(key, value)
    tx.put_timed(
        k.FLUSH,
        tx.now + max(tx.times.left, tx.times.group),
        pack_entry(tx.now, generation),
    )
    living: list[str] = []
    for each in inboxes:
        inbox = tx.minted(each.name)
        if inbox is None:
            continue
        inbox.head, inbox.changed = inbox.tail, True
        if inbox.until <= tx.now:  # its owner may come back; the epoch tells him what happened
            for key, value in counts[each.name]:
                tx.put(key, value)
            continue
        inbox.generation, inbox.serial = generation, 0
        tx.append(inbox, tx.now, flush_frame(request.generation))
        living.append(inbox.name.decode("ascii"))
    return c.Flushing(tuple(living), dropped)


def unflushed(tx: Transaction, request: c.Unflushed) -> tuple[str, ...]:
    """Say which inboxes live and have not acknowledged their present generation.

    That is the one of this flush, of a later one, or of a new lease.
    """
    found = ((name, tx.living(name.encode("ascii"))) for name in request.inboxes)
    return tuple(name for name, inbox in found if inbox is not None and inbox.flushed != inbox.generation)


def acknowledge(tx: Transaction, request: c.Acknowledge) -> None:
    """Note that an owner has dropped what it held before a flush."""
    inbox = tx.living(request.inbox.name.encode("ascii"))
    generation = request.generation.encode("ascii")
    if inbox is not None and inbox.generation == generation:
        inbox.flushed, inbox.changed = generation, True


def _epoch(tx: Transaction) -> str:
    record = tx.timed(k.FLUSH)
    return split_entry(record.rest)[1].decode("ascii") if record is not None else ""


def _count(tx: Transaction, inbox: InboxRecord, frame: bytes) -> None:
    if len(frame) > 1 and frame[0] == MESSAGE:
        channel = frame[2 : 2 + frame[1]]
        tx.set_unread(inbox, channel, tx.unread(inbox, channel) + 1)


def _count_messages(tx: Transaction, inbox: InboxRecord) -> int:
    return sum(tx.entry(inbox, number)[1][:1] == b"m" for number in range(inbox.head, inbox.tail))
