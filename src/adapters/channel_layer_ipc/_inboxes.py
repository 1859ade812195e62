"""The commands about minted inboxes, carried out within a transaction.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import MESSAGE, flush_frame, group_frame, marker_frame
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import READERS_MOST, pack_entry, split_entry

if TYPE_CHECKING:
    from channel_layer.domain.frames import MembershipMarker
    from channel_layer_ipc._batch import Batch
    from channel_layer_ipc._records import Minted

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

_READ_COUNT: Final = 512
"""Entries that one read brings at most: enough to make its transaction cheap, few enough not to keep the loop."""

_READ_BYTES: Final = 1 << 20
"""Bytes after which a read brings no further entry."""

_SURVIVORS: Final = (k.INBOX, k.CLAIM, k.ATTENDANT, k.LEFT, k.WAITER, k.VERSION)
"""What a flush leaves."""


def claim(batch: Batch, request: c.Claim) -> c.Claimed:
    """Take the lease of an inbox; what was sent to it while it had no owner comes in."""
    name = request.inbox.name.encode("ascii")
    inbox = batch.minted(name)
    fresh = inbox is None
    if inbox is None:
        inbox = batch.make_inbox(name)
    inbox.until = batch.now + batch.times.lease
    inbox.generation, inbox.serial, inbox.changed = request.generation.encode("ascii"), 0, True
    for key, _ in batch.scan(k.below(k.COUNT, name)):
        inbox.counts[key[len(name) + 2 :]] = 0, True
    for channel in inbox.counts:
        inbox.counts[channel] = 0, True
    for full, held in request.held:
        inbox.counts[full.encode("ascii")] = held, True
    for number in range(max(inbox.head, int(request.after or "0") + 1), inbox.tail):
        _count(batch, inbox, batch.entry(inbox, number)[1])
    for note, _ in batch.scan(k.below(k.NOTE, name)):
        batch.remove_timed(note)
    expired = 0
    line = batch.line(name)
    if line is not None:
        expired = batch.expire(line)
        for _, data in batch.scan(k.below(k.ENTRY, name)):
            stamp, frame = split_entry(data)
            batch.append(inbox, stamp, frame)
            _count(batch, inbox, frame)
        batch.drop_line(line)
    return c.Claimed(batch.now, fresh, _epoch(batch), expired)


def renew(batch: Batch, request: c.Renew) -> c.Renewed:
    """Keep a lease for another while."""
    inbox = batch.living(request.inbox.name.encode("ascii"))
    if inbox is not None:
        inbox.until, inbox.changed = batch.now + batch.times.lease, True
    return c.Renewed(batch.now, inbox is not None, _epoch(batch))


def release(batch: Batch, request: c.Release) -> int:
    """Give an inbox up."""
    inbox = batch.minted(request.inbox.name.encode("ascii"))
    if inbox is None:
        return 0
    messages = _count_messages(batch, inbox)
    batch.drop_inbox(inbox)
    return messages


def read(batch: Batch, request: c.Read, doorbell: int) -> c.Batch | None:
    """Return what came in after a position; None, and the reader will be rung, if that is nothing.

    Args:
        batch: the transaction.
        request: what to read.
        doorbell: of the reader.
    """
    inbox = batch.minted(request.inbox.name.encode("ascii"))
    if inbox is None:  # released, or its lease ended: the owner will see
        return None
    if inbox.owner != doorbell:
        inbox.owner, inbox.changed = doorbell, True
    batch.trim(inbox, int(request.after or "0") + 1)
    if not inbox.size:
        if doorbell not in inbox.readers:
            inbox.readers, inbox.changed = (*inbox.readers, doorbell)[-READERS_MOST:], True
        return None
    entries = batch.entries(inbox, _READ_COUNT, _READ_BYTES)
    return c.Batch(tuple(entries), str(inbox.head + len(entries) - 1))


def give_back(batch: Batch, request: c.GiveBack) -> None:
    """Give back places, unless they are of an older generation or have been given back already."""
    inbox = batch.living(request.inbox.name.encode("ascii"))
    if inbox is None or inbox.generation != request.generation.encode("ascii") or request.serial <= inbox.serial:
        return
    inbox.serial, inbox.changed = request.serial, True
    for channel, places in request.places:
        name = channel.encode("ascii")
        batch.set_unread(inbox, name, batch.unread(inbox, name) - places)


def mark(batch: Batch, request: c.Mark) -> bool:
    """Put a marker into an inbox."""
    return put_marker(batch, request.inbox.name.encode("ascii"), request.marker)


def put_marker(batch: Batch, name: bytes, marker: MembershipMarker) -> bool:
    """Put a marker into an inbox; False if its owner does not live."""
    inbox = batch.living(name)
    if inbox is None:
        return False
    batch.append(inbox, batch.now, marker_frame(marker))
    return True


def alive(batch: Batch, request: c.Alive) -> tuple[bool, ...]:
    """Say which inboxes have an owner who lives."""
    return tuple(batch.living(inbox.name.encode("ascii")) is not None for inbox in request.inboxes)


def deliver(batch: Batch, request: c.Deliver) -> c.Delivery:
    """Put a group's message into an inbox."""
    frame = group_frame(request.group.name, request.riders, request.payload)
    return put(batch, request.inbox.name.encode("ascii"), frame)


def put(batch: Batch, name: bytes, frame: bytes) -> c.Delivery:
    """Put a group's frame into an inbox, if its owner lives and there is room."""
    inbox = batch.living(name)
    if inbox is None:
        return c.Delivery.NO_OWNER
    if inbox.size >= batch.times.inbox_capacity or not batch.admit(len(frame)):
        return c.Delivery.FULL
    batch.append(inbox, batch.now, frame)
    return c.Delivery.DONE


# -- flush


def flush(batch: Batch, request: c.Flush) -> c.Flushing:
    """Empty everything, and put a marker into each inbox whose owner lives."""
    generation = request.generation.encode("ascii")
    batch.save()
    dropped = 0
    for key, _ in batch.scan(k.QUEUE):
        line = batch.line(key[1:-1])
        dropped += line.size if line is not None else 0
    inboxes = [inbox for key, _ in batch.scan(k.INBOX) if (inbox := batch.minted(key[1:-1])) is not None]
    for inbox in inboxes:
        dropped += _count_messages(batch, inbox)
    counts = {inbox.name: batch.scan(k.below(k.COUNT, inbox.name)) for inbox in inboxes}
    kept = [item for kind in _SURVIVORS for item in batch.scan(kind)]
    targets = {key for key, _ in kept}
    kept += [item for item in batch.scan(k.DUE) if k.due_target(item[0])[1] in targets]
    batch.empty()
    for key, value in kept:
        batch.put(key, value)
    batch.put_timed(k.FLUSH, batch.now + max(batch.times.left, batch.times.group), pack_entry(batch.now, generation))
    living: list[str] = []
    for each in inboxes:
        inbox = batch.minted(each.name)
        if inbox is None:
            continue
        inbox.head, inbox.changed = inbox.tail, True
        if inbox.until <= batch.now:  # its owner may come back; the epoch tells him what happened
            for key, value in counts[each.name]:
                batch.put(key, value)
            continue
        inbox.generation, inbox.serial = generation, 0
        batch.append(inbox, batch.now, flush_frame(request.generation))
        living.append(inbox.name.decode("ascii"))
    return c.Flushing(tuple(living), dropped)


def unflushed(batch: Batch, request: c.Unflushed) -> tuple[str, ...]:
    """Say which inboxes live and have not acknowledged their present generation.

    That is the one of this flush, of a later one, or of a new lease.
    """
    found = ((name, batch.living(name.encode("ascii"))) for name in request.inboxes)
    return tuple(name for name, inbox in found if inbox is not None and inbox.flushed != inbox.generation)


def acknowledge(batch: Batch, request: c.Acknowledge) -> None:
    """Note that an owner has dropped what it held before a flush."""
    inbox = batch.living(request.inbox.name.encode("ascii"))
    generation = request.generation.encode("ascii")
    if inbox is not None and inbox.generation == generation:
        inbox.flushed, inbox.changed = generation, True


def _epoch(batch: Batch) -> str:
    record = batch.timed(k.FLUSH)
    return split_entry(record.rest)[1].decode("ascii") if record is not None else ""


def _count(batch: Batch, inbox: Minted, frame: bytes) -> None:
    if len(frame) > 1 and frame[0] == MESSAGE:
        channel = frame[2 : 2 + frame[1]]
        batch.set_unread(inbox, channel, batch.unread(inbox, channel) + 1)


def _count_messages(batch: Batch, inbox: Minted) -> int:
    return sum(batch.entry(inbox, number)[1][:1] == b"m" for number in range(inbox.head, inbox.tail))
