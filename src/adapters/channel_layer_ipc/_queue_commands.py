"""The commands about messages, carried out within a transaction: queues that are popped, and pushes of any kind.

What each has to do is said by its class in `channel_layer.commands`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.expiry import UNREAD_FACTOR
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import pack_entry, split_entry

if TYPE_CHECKING:
    from channel_layer_ipc._transaction import Transaction

__all__ = ("clear_unread", "no_room", "orphaned", "pending", "pop", "push", "put_back", "release_claim")

_DOORBELL = struct.Struct(">Q")

_ACCEPTED: Final = c.Pushed(accepted=True, expired=0)
_REFUSED: Final = c.Pushed(accepted=False, expired=0)
_UNREAD_EXPIRED: Final = c.Pushed(accepted=False, expired=0, unread_expired=True)


def no_room(problem: str) -> c.Pushed:
    """Return the reply to a push for which the store has no room."""
    return c.Pushed(accepted=False, expired=0, no_room=problem)


def push(tx: Transaction, request: c.Push) -> c.Pushed:
    """Put a message into an owned inbox whose owner is alive, else into the queue."""
    channel = request.channel
    name, full = channel.queue.name.encode("ascii"), channel.name.encode("ascii")
    frame = b"m%c%b%b" % (len(full), full, request.payload)  # as `message_frame` writes it, in half the time
    if channel.queue.kind is Kind.INBOX and (inbox := tx.inboxes.living(name)) is not None:
        unread = tx.inboxes.unread(inbox, full)
        if unread >= request.capacity or inbox.size >= tx.times.inbox_capacity:
            return _REFUSED
        if not tx.take_room(len(frame)):
            return no_room(tx.why_full())
        tx.inboxes.set_unread(inbox, full, unread + 1)
        tx.inboxes.append(inbox, tx.now, frame)
        return _ACCEPTED
    if request.if_registered and not _has_reader(tx, name):
        return c.Pushed(accepted=False, expired=0, orphaned=tx.queues.count(name))
    mark = k.key(k.GROUP_UNREAD, name, full)
    if request.to_member and _group_message_expired(tx, mark):
        return _UNREAD_EXPIRED
    queue = tx.queues.get(name)
    expired = 0
    if queue is not None and queue.size >= request.capacity:
        expired = tx.queues.expire(queue)
        if queue.size >= request.capacity:
            return c.Pushed(accepted=False, expired=expired)
    if not tx.take_room(len(frame)):
        return c.Pushed(accepted=False, expired=expired, no_room=tx.why_full())
    queue = tx.queues.get_or_make(name, tx.now + tx.times.expiry)
    tx.queues.append(queue, tx.now, frame)
    if request.to_member and tx.get_timed(mark) is None:
        tx.put_timed(mark, tx.now + tx.times.group, pack_entry(tx.now, b""))
        queue.group_unread = True
    tx.notify_waiters(name, 1)
    return c.Pushed(accepted=True, expired=expired) if expired else _ACCEPTED


def _group_message_expired(tx: Transaction, mark: bytes) -> bool:
    """Return whether a group message to a channel has long expired, and no reader has asked for messages since."""
    record = tx.get_timed(mark)
    return record is not None and split_entry(record.rest)[0] + UNREAD_FACTOR * tx.times.expiry <= tx.now


def clear_unread(tx: Transaction, request: c.ClearUnread) -> None:
    channel = request.channel
    tx.remove_timed(k.key(k.GROUP_UNREAD, channel.queue.name.encode("ascii"), channel.name.encode("ascii")))


def pop(tx: Transaction, request: c.Pop) -> c.Popped:
    """Take messages from the head of a queue; if more are left, another waiter is notified."""
    name = request.queue.name.encode("ascii")
    if request.register:
        _register_reader(tx, name, request)
    _, flushed = tx.last_flush()
    if request.queue.kind is Kind.INBOX:
        if tx.inboxes.living(name) is not None:
            return c.Popped((), 0, tx.now, flushed, owned=True)
        key, claimant = k.key(k.CLAIM, name), request.claimant.encode()
        claim = tx.get_timed(key)
        if claim is not None and claim.rest != claimant:
            return c.Popped((), 0, tx.now, flushed, held_for=claim.until - tx.now)
        tx.put_timed(key, tx.now + tx.times.lease, claimant)
    queue = tx.queues.get(name)
    if request.count and (queue is None or queue.group_unread):
        tx.clear_timed(k.key(k.GROUP_UNREAD, name))
    if queue is None:
        return c.Popped((), 0, tx.now, flushed)
    queue.group_unread = queue.group_unread and not request.count
    expired = tx.queues.expire(queue)
    entries = tuple(c.Entry(*tx.queues.take(queue)) for _ in range(min(request.count, queue.size)))
    if queue.size:
        tx.notify_waiters(name, 1)
    return c.Popped(entries, expired, tx.now, flushed)


def put_back(tx: Transaction, request: c.PutBack) -> c.Returned:
    """Return messages to the head of their queue, but for those that are too old or were flushed."""
    name = request.queue.name.encode("ascii")
    flushed_at, _ = tx.last_flush()
    fresh = [entry for entry in request.entries if entry.stamp >= flushed_at]
    kept = [entry for entry in fresh if entry.stamp + tx.times.expiry > tx.now]
    if kept:
        queue = tx.queues.get_or_make(name, kept[-1].stamp + tx.times.expiry)
        for entry in reversed(kept):
            tx.queues.prepend(queue, entry.stamp, entry.frame)
        tx.notify_waiters(name, 1)
    return c.Returned(expired=len(fresh) - len(kept), flushed=len(request.entries) - len(fresh))


def release_claim(tx: Transaction, request: c.ReleaseClaim) -> None:
    """Give up a claim, if it is still the claimant's; of any other queue, forget the claimant as a reader."""
    name = request.inbox.name.encode("ascii")
    if request.inbox.kind is not Kind.INBOX:
        tx.remove_timed(k.key(k.READER, name, request.claimant.encode()))
        tx.readers.clear()
        return
    key = k.key(k.CLAIM, name)
    claim = tx.get_timed(key)
    if claim is not None and claim.rest == request.claimant.encode():
        tx.remove_timed(key)


def pending(tx: Transaction, request: c.Pending) -> int:
    queue = request.channel.queue
    name = queue.name.encode("ascii")
    head = message_frame(request.channel.name, b"")
    if queue.kind is Kind.INBOX and (inbox := tx.inboxes.living(name)) is not None:
        entries = tx.inboxes.entries(inbox)
    else:
        entries = tx.queues.fresh_entries(name)
    return sum(frame.startswith(head) for _, frame in entries)


# -- registered readers


def _register_reader(tx: Transaction, name: bytes, request: c.Pop) -> None:
    """Note that the claimant reads a queue, and the doorbell by which others see that its process is alive."""
    tx.readers[name] = True
    key = k.key(k.READER, name, request.claimant.encode())
    tx.put_timed(key, tx.now + request.register, _DOORBELL.pack(tx.doorbell.bind()))


def orphaned(tx: Transaction, _request: c.FindOrphaned) -> tuple[str, ...]:
    tx.save()
    holding = [name for name in tx.queues.names() if not name.endswith(b"!") and tx.queues.count(name)]
    return tuple(name.decode("ascii") for name in holding if not _has_reader(tx, name))


def _has_reader(tx: Transaction, name: bytes) -> bool:
    """Return whether a queue has a reader that is alive; the same throughout a transaction, unless that changes it."""
    known = tx.readers.get(name)
    if known is None:
        known = tx.readers[name] = _find_reader(tx, name)
    return known


def _find_reader(tx: Transaction, name: bytes) -> bool:
    """Look for a reader that is alive; the records of the others are removed."""
    prefix = k.key(k.READER, name)
    for limit in (1, None):  # mostly the first one will do
        for key, _ in tx.scan(prefix, limit):
            record = tx.get_timed(key)
            if record is None:
                continue
            if tx.doorbell.has_listener(int.from_bytes(record.rest)):
                return True
            tx.remove_timed(key)
    return False
