"""The commands about messages, carried out within a transaction: queues that are popped, and pushes of any kind.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import Timed, pack_entry, split_entry

if TYPE_CHECKING:
    from channel_layer_ipc._batch import Batch

__all__ = (
    "REFUSED",
    "attend",
    "count",
    "enter",
    "forgive",
    "leave",
    "pending",
    "pop",
    "push",
    "put_back",
    "unattended",
    "unclaim",
    "waiters",
    "waits",
)

_SINCE = struct.Struct(">d")
_DOORBELL = struct.Struct(">Q")

_ACCEPTED: Final = c.Pushed(accepted=True, expired=0)
REFUSED: Final = c.Pushed(accepted=False, expired=0)
"""The reply to a push for which there is no room."""
_LAPSED: Final = c.Pushed(accepted=False, expired=0, lapsed=True)


def push(batch: Batch, request: c.Push) -> c.Pushed:
    """Put a message into a minted inbox whose owner lives, else into the queue."""
    channel = request.channel
    name, full = channel.queue.name.encode("ascii"), channel.name.encode("ascii")
    frame = b"m%c%b%b" % (len(full), full, request.payload)  # as `message_frame` writes it, in half the time
    if channel.queue.kind is Kind.INBOX and (inbox := batch.living(name)) is not None:
        unread = batch.unread(inbox, full)
        if unread >= request.capacity or inbox.size >= batch.times.inbox_capacity or not batch.admit(len(frame)):
            return REFUSED
        batch.set_unread(inbox, full, unread + 1)
        batch.append(inbox, batch.now, frame)
        return _ACCEPTED
    if request.if_attended and not _attended(batch, name):
        return c.Pushed(accepted=False, expired=0, unattended=count(batch, name))
    note = k.below(k.NOTE, name, full)
    if request.to_member and _has_lapsed(batch, note):
        return _LAPSED
    line = batch.line(name)
    expired = 0
    if line is not None and line.size >= request.capacity:
        expired = batch.expire(line)
        if line.size >= request.capacity:
            return c.Pushed(accepted=False, expired=expired)
    if not batch.admit(len(frame)):
        return c.Pushed(accepted=False, expired=expired)
    line = batch.make_line(name, batch.now + batch.times.expiry)
    batch.put(k.numbered(k.ENTRY, name, line.tail), pack_entry(batch.now, frame))
    line.tail += 1
    if request.to_member and batch.timed(note) is None:
        batch.put_timed(note, batch.now + batch.times.group, _SINCE.pack(batch.now))
        line.noted = True
    batch.call(name, 1)
    return c.Pushed(accepted=True, expired=expired) if expired else _ACCEPTED


def _has_lapsed(batch: Batch, note: bytes) -> bool:
    """Whether a message to a member of a group has expired, and nothing was taken from its queue since it came."""
    record = batch.timed(note)
    return record is not None and _SINCE.unpack(record.rest)[0] + batch.times.expiry <= batch.now


def forgive(batch: Batch, request: c.Forgive) -> None:
    """Forget the note of a channel."""
    channel = request.channel
    batch.remove_timed(k.below(k.NOTE, channel.queue.name.encode("ascii"), channel.name.encode("ascii")))


def pop(batch: Batch, request: c.Pop) -> c.Popped:
    """Take messages from the head of a queue; if more are left, somebody else is called."""
    name = request.queue.name.encode("ascii")
    epoch = batch.timed(k.FLUSH)
    flushed = epoch.rest[_SINCE.size :].decode("ascii") if epoch is not None else ""
    if request.queue.kind is Kind.INBOX:
        if batch.living(name) is not None:
            return c.Popped((), 0, batch.now, flushed, minted=True)
        key, claimant = k.single(k.CLAIM, name), request.claimant.encode()
        claim = batch.timed(key)
        if claim is not None and claim.rest != claimant:
            return c.Popped((), 0, batch.now, flushed, held_for=claim.until - batch.now)
        batch.put_timed(key, batch.now + batch.times.lease, claimant)
    line = batch.line(name)
    if line is None:
        return c.Popped((), 0, batch.now, flushed)
    expired = batch.expire(line)
    entries: list[c.Entry] = []
    while line.head < line.tail and len(entries) < request.count:
        data = batch.take(k.numbered(k.ENTRY, name, line.head))
        line.head += 1
        entries.append(c.Entry(*split_entry(data)) if data is not None else c.Entry(batch.now, b""))
    if entries:
        line.changed = True
        if line.noted:
            line.noted = False
            for note, _ in batch.scan(k.below(k.NOTE, name)):
                batch.remove_timed(note)
    if line.size:
        batch.call(name, 1)
    return c.Popped(tuple(entries), expired, batch.now, flushed)


def put_back(batch: Batch, request: c.PutBack) -> c.Returned:
    """Return messages to the head of their queue, but for those that are too old or were flushed."""
    name = request.queue.name.encode("ascii")
    epoch = batch.timed(k.FLUSH)
    flushed_at: float = _SINCE.unpack_from(epoch.rest)[0] if epoch is not None else float("-inf")
    fresh = [entry for entry in request.entries if entry.stamp >= flushed_at]
    kept = [entry for entry in fresh if entry.stamp + batch.times.expiry > batch.now]
    if kept:
        line = batch.make_line(name, kept[-1].stamp + batch.times.expiry)
        for entry in reversed(kept):
            line.head -= 1
            batch.put(k.numbered(k.ENTRY, name, line.head), pack_entry(entry.stamp, entry.frame))
        batch.call(name, 1)
    return c.Returned(expired=len(fresh) - len(kept), flushed=len(request.entries) - len(fresh))


def unclaim(batch: Batch, request: c.Unclaim) -> None:
    """Give up a claim, if it is still the claimant's, or cease to attend."""
    name = request.inbox.name.encode("ascii")
    if request.inbox.kind is not Kind.INBOX:
        batch.remove_timed(k.below(k.ATTENDANT, name, request.claimant.encode()))
        batch.attended.clear()
        return
    key = k.single(k.CLAIM, name)
    claim = batch.timed(key)
    if claim is not None and claim.rest == request.claimant.encode():
        batch.remove_timed(key)


def pending(batch: Batch, request: c.Pending) -> int:
    """Count what waits for one channel."""
    name = request.channel.queue.name.encode("ascii")
    head = message_frame(request.channel.name, b"")
    if request.channel.queue.kind is Kind.INBOX and (inbox := batch.living(name)) is not None:
        return sum(batch.entry(inbox, number)[1].startswith(head) for number in range(inbox.head, inbox.tail))
    if batch.line(name) is None:
        return 0
    oldest = batch.now - batch.times.expiry
    entries = (split_entry(data) for _, data in batch.scan(k.below(k.ENTRY, name)))
    return sum(stamp > oldest and frame.startswith(head) for stamp, frame in entries)


# -- who attends


def attend(batch: Batch, request: c.Pop, doorbell: int) -> c.Popped:
    """Write down that the claimant attends to a queue, and pop it."""
    name = request.queue.name.encode("ascii")
    batch.attended[name] = True
    key = k.below(k.ATTENDANT, name, request.claimant.encode())
    batch.put_timed(key, batch.now + request.attend, _DOORBELL.pack(doorbell))
    return pop(batch, request)


def unattended(batch: Batch, _request: c.Unattended) -> tuple[str, ...]:
    """Name the queues, inboxes left out, that hold messages and that nobody attends to."""
    names = (key[1:-1] for key, _ in batch.scan(k.QUEUE))
    holding = [name for name in names if not name.endswith(b"!") and count(batch, name)]
    return tuple(name.decode("ascii") for name in holding if not _attended(batch, name))


def _attended(batch: Batch, name: bytes) -> bool:
    """Whether somebody who lives attends to a queue; the same for all of one transaction, unless that changes it."""
    known = batch.attended.get(name)
    if known is None:
        known = batch.attended[name] = _find_attendant(batch, name)
    return known


def _find_attendant(batch: Batch, name: bytes) -> bool:
    """Look for somebody who lives and attends to a queue; the notes of those who do not are removed."""
    start = k.below(k.ATTENDANT, name)
    for most in (1, None):  # mostly the first one will do
        for key, data in batch.scan(start, most):
            record = Timed.unpack(data)
            if record.until <= batch.now:
                continue
            if batch.answers(_DOORBELL.unpack(record.rest)[0]):
                return True
            batch.remove_timed(key)
    return False


# -- who waits


def count(batch: Batch, name: bytes) -> int:
    """Return how many messages a queue may hold."""
    line = batch.line(name)
    return line.size if line is not None and line.until > batch.now else 0


def enter(batch: Batch, name: bytes, doorbell: int) -> bytes:
    """Write down that somebody waits for a queue.

    Args:
        batch: the transaction.
        name: of the queue.
        doorbell: how to call him.

    Returns:
        The key of the record, which is there for as long as nobody has called him.
    """
    key = k.waiter_key(name, batch.now, doorbell)
    batch.put_timed(key, batch.now + batch.times.lease)
    return key


def waits(batch: Batch, key: bytes) -> bool:
    """Whether such a record is still there."""
    return batch.get(key) is not None


def leave(batch: Batch, key: bytes) -> bool:
    """Remove such a record; whether it was still there."""
    return batch.remove_timed(key)


def waiters(batch: Batch, name: bytes, most: int) -> list[tuple[bytes, int]]:
    """Return those who wait for a queue, whoever came first coming first: keys, and doorbells.

    Args:
        batch: the transaction.
        name: of the queue.
        most: how many at most.
    """
    return [(key, k.waiter_doorbell(key)) for key, _ in batch.scan(k.below(k.WAITER, name), most)]
