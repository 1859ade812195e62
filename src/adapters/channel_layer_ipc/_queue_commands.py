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
from channel_layer_ipc._records import TimedRecord, pack_entry, split_entry

if TYPE_CHECKING:
    from channel_layer_ipc._transaction import Transaction

__all__ = (
    "REFUSED",
    "add_waiter",
    "count_messages",
    "forgive",
    "has_waiter",
    "pending",
    "pop",
    "push",
    "put_back",
    "remove_waiter",
    "unattended",
    "unclaim",
    "waiters",
)

_TIME = struct.Struct(">d")
_DOORBELL = struct.Struct(">Q")

_ACCEPTED: Final = c.Pushed(accepted=True, expired=0)
REFUSED: Final = c.Pushed(accepted=False, expired=0)
"""The reply to a push for which there is no room."""
_LAPSED: Final = c.Pushed(accepted=False, expired=0, lapsed=True)


def push(tx: Transaction, request: c.Push) -> c.Pushed:
    """Put a message into a minted inbox whose owner lives, else into the queue."""
    channel = request.channel
    name, full = channel.queue.name.encode("ascii"), channel.name.encode("ascii")
    frame = b"m%c%b%b" % (len(full), full, request.payload)  # as `message_frame` writes it, in half the time
    if channel.queue.kind is Kind.INBOX and (inbox := tx.living(name)) is not None:
        unread = tx.unread(inbox, full)
        if unread >= request.capacity or inbox.size >= tx.times.inbox_capacity or not tx.admit(len(frame)):
            return REFUSED
        tx.set_unread(inbox, full, unread + 1)
        tx.append(inbox, tx.now, frame)
        return _ACCEPTED
    if request.if_attended and not _attended(tx, name):
        return c.Pushed(accepted=False, expired=0, unattended=count_messages(tx, name))
    note = k.below(k.GROUP_UNREAD, name, full)
    if request.to_member and _has_lapsed(tx, note):
        return _LAPSED
    line = tx.line(name)
    expired = 0
    if line is not None and line.size >= request.capacity:
        expired = tx.expire(line)
        if line.size >= request.capacity:
            return c.Pushed(accepted=False, expired=expired)
    if not tx.admit(len(frame)):
        return c.Pushed(accepted=False, expired=expired)
    line = tx.make_line(name, tx.now + tx.times.expiry)
    tx.put(k.numbered(k.ENTRY, name, line.tail), pack_entry(tx.now, frame))
    line.tail += 1
    if request.to_member and tx.timed(note) is None:
        tx.put_timed(note, tx.now + tx.times.group, _TIME.pack(tx.now))
        line.noted = True
    tx.call(name, 1)
    return c.Pushed(accepted=True, expired=expired) if expired else _ACCEPTED


def _has_lapsed(tx: Transaction, note: bytes) -> bool:
    """Whether a message to a member of a group has expired, and nothing was taken from its queue since it came."""
    record = tx.timed(note)
    return record is not None and _TIME.unpack(record.rest)[0] + tx.times.expiry <= tx.now


def forgive(tx: Transaction, request: c.Forgive) -> None:
    """Forget the note of a channel."""
    channel = request.channel
    tx.remove_timed(k.below(k.GROUP_UNREAD, channel.queue.name.encode("ascii"), channel.name.encode("ascii")))


def pop(tx: Transaction, request: c.Pop) -> c.Popped:
    """Take messages from the head of a queue; if more are left, somebody else is called."""
    name = request.queue.name.encode("ascii")
    if request.attend:
        _attend(tx, name, request)
    epoch = tx.timed(k.FLUSH)
    flushed = epoch.rest[_TIME.size :].decode("ascii") if epoch is not None else ""
    if request.queue.kind is Kind.INBOX:
        if tx.living(name) is not None:
            return c.Popped((), 0, tx.now, flushed, minted=True)
        key, claimant = k.single(k.CLAIM, name), request.claimant.encode()
        claim = tx.timed(key)
        if claim is not None and claim.rest != claimant:
            return c.Popped((), 0, tx.now, flushed, held_for=claim.until - tx.now)
        tx.put_timed(key, tx.now + tx.times.lease, claimant)
    line = tx.line(name)
    if line is None:
        return c.Popped((), 0, tx.now, flushed)
    expired = tx.expire(line)
    entries: list[c.Entry] = []
    while line.head < line.tail and len(entries) < request.count:
        data = tx.take(k.numbered(k.ENTRY, name, line.head))
        line.head += 1
        entries.append(c.Entry(*split_entry(data)) if data is not None else c.Entry(tx.now, b""))
    if entries:
        line.changed = True
        if line.noted:
            line.noted = False
            for note, _ in tx.scan(k.below(k.GROUP_UNREAD, name)):
                tx.remove_timed(note)
    if line.size:
        tx.call(name, 1)
    return c.Popped(tuple(entries), expired, tx.now, flushed)


def put_back(tx: Transaction, request: c.PutBack) -> c.Returned:
    """Return messages to the head of their queue, but for those that are too old or were flushed."""
    name = request.queue.name.encode("ascii")
    epoch = tx.timed(k.FLUSH)
    flushed_at: float = _TIME.unpack_from(epoch.rest)[0] if epoch is not None else float("-inf")
    fresh = [entry for entry in request.entries if entry.stamp >= flushed_at]
    kept = [entry for entry in fresh if entry.stamp + tx.times.expiry > tx.now]
    if kept:
        line = tx.make_line(name, kept[-1].stamp + tx.times.expiry)
        for entry in reversed(kept):
            line.head -= 1
            tx.put(k.numbered(k.ENTRY, name, line.head), pack_entry(entry.stamp, entry.frame))
        tx.call(name, 1)
    return c.Returned(expired=len(fresh) - len(kept), flushed=len(request.entries) - len(fresh))


def unclaim(tx: Transaction, request: c.Unclaim) -> None:
    """Give up a claim, if it is still the claimant's, or cease to attend."""
    name = request.inbox.name.encode("ascii")
    if request.inbox.kind is not Kind.INBOX:
        tx.remove_timed(k.below(k.READER, name, request.claimant.encode()))
        tx.attended.clear()
        return
    key = k.single(k.CLAIM, name)
    claim = tx.timed(key)
    if claim is not None and claim.rest == request.claimant.encode():
        tx.remove_timed(key)


def pending(tx: Transaction, request: c.Pending) -> int:
    """Count what waits for one channel."""
    name = request.channel.queue.name.encode("ascii")
    head = message_frame(request.channel.name, b"")
    if request.channel.queue.kind is Kind.INBOX and (inbox := tx.living(name)) is not None:
        return sum(tx.entry(inbox, number)[1].startswith(head) for number in range(inbox.head, inbox.tail))
    if tx.line(name) is None:
        return 0
    oldest = tx.now - tx.times.expiry
    entries = (split_entry(data) for _, data in tx.scan(k.below(k.ENTRY, name)))
    return sum(stamp > oldest and frame.startswith(head) for stamp, frame in entries)


# -- who attends


def _attend(tx: Transaction, name: bytes, request: c.Pop) -> None:
    """Write down that the claimant attends to a queue, and by which bell others see that this process lives."""
    tx.attended[name] = True
    key = k.below(k.READER, name, request.claimant.encode())
    tx.put_timed(key, tx.now + request.attend, _DOORBELL.pack(tx.doorbell.bind()))


def unattended(tx: Transaction, _request: c.Unattended) -> tuple[str, ...]:
    """Name the queues, inboxes left out, that hold messages and that nobody attends to."""
    names = (key[1:-1] for key, _ in tx.scan(k.QUEUE))
    holding = [name for name in names if not name.endswith(b"!") and count_messages(tx, name)]
    return tuple(name.decode("ascii") for name in holding if not _attended(tx, name))


def _attended(tx: Transaction, name: bytes) -> bool:
    """Whether somebody who lives attends to a queue; the same for all of one transaction, unless that changes it."""
    known = tx.attended.get(name)
    if known is None:
        known = tx.attended[name] = _find_attendant(tx, name)
    return known


def _find_attendant(tx: Transaction, name: bytes) -> bool:
    """Look for somebody who lives and attends to a queue; the notes of those who do not are removed."""
    start = k.below(k.READER, name)
    for most in (1, None):  # mostly the first one will do
        for key, data in tx.scan(start, most):
            record = TimedRecord.unpack(data)
            if record.until <= tx.now:
                continue
            if tx.doorbell.has_listener(_DOORBELL.unpack(record.rest)[0]):
                return True
            tx.remove_timed(key)
    return False


# -- who waits


def count_messages(tx: Transaction, name: bytes) -> int:
    """Return how many messages a queue may hold."""
    line = tx.line(name)
    return line.size if line is not None and line.until > tx.now else 0


def add_waiter(tx: Transaction, name: bytes, number: int) -> bytes:
    """Write down that somebody waits for a queue.

    Args:
        tx: the transaction.
        name: of the queue.
        number: of the doorbell by which to call him.

    Returns:
        The key of the record, which is there for as long as nobody has called him.
    """
    key = k.waiter_key(name, tx.now, number)
    tx.put_timed(key, tx.now + tx.times.lease)
    return key


def has_waiter(tx: Transaction, key: bytes) -> bool:
    """Whether such a record is still there."""
    return tx.get(key) is not None


def remove_waiter(tx: Transaction, key: bytes) -> bool:
    """Remove such a record; whether it was still there."""
    return tx.remove_timed(key)


def waiters(tx: Transaction, name: bytes, most: int) -> list[tuple[bytes, int]]:
    """Return those who wait for a queue, whoever came first coming first: keys, and doorbells.

    Args:
        tx: the transaction.
        name: of the queue.
        most: how many at most.
    """
    return [(key, k.waiter_doorbell(key)) for key, _ in tx.scan(k.below(k.WAITER, name), most)]
