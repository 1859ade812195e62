"""The commands about statistics, carried out within a transaction.

What each has to do is said by its class in `channel_layer.commands`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer.domain.rates import Meter
from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from channel_layer.domain.rates import Rates
    from channel_layer_ipc._records import InboxRecord
    from channel_layer_ipc._transaction import Transaction

__all__ = ("report", "reported", "survey")

_METER = struct.Struct(">QQ")
_SLICE = struct.Struct(">QII")

_MOST: Final = 2**32 - 1
"""Messages in one slice of time, at most: 400 million a second."""


def report(tx: Transaction, request: c.Report) -> None:
    for each in request.counts:
        _add(tx, each.queue.name.encode("ascii"), each.messages, each.refused, tx.times.counts)
    _add(tx, b"", request.messages, request.refused, tx.times.all_counts)


def reported(tx: Transaction, request: c.Reported) -> Rates:
    name = b"" if request.queue is None else request.queue.name.encode("ascii")
    return _meter(tx, name).read(tx.now)


def survey(tx: Transaction, request: c.Survey) -> c.Surveyed:
    channel = request.channel
    tx.save()
    if channel is None:
        prefix = b"m"
        inboxes, queues = tx.inboxes.names(), tx.queues.names()
    else:
        name, prefix = channel.queue.name.encode("ascii"), message_frame(channel.name, b"")
        inboxes = [name] if channel.queue.kind is Kind.INBOX else []
        queues = [name]
    owned = {name: inbox for name in inboxes if (inbox := tx.inboxes.living(name)) is not None}
    found = [_unread_in_inbox(tx, inbox, prefix) for inbox in owned.values()]
    found += [_waiting_in_queue(tx, name, prefix) for name in queues if name not in owned]
    stamps = [stamp for _, stamp in found if stamp is not None]
    oldest = max(0.0, tx.now - min(stamps)) if stamps else None
    return c.Surveyed(sum(count for count, _ in found), oldest)


def _unread_in_inbox(tx: Transaction, inbox: InboxRecord, prefix: bytes) -> tuple[int, float | None]:
    """Return how many messages of an inbox are unread, and since when the oldest waits that is still in the store."""
    channels = tx.parts(k.UNREAD_COUNT, inbox.name, prefix[2:])
    if len(prefix) > 1:
        channels = [channel for channel in channels if channel == prefix[2:]]
    count = sum(tx.inboxes.unread(inbox, channel) for channel in channels)
    if not count:
        return 0, None
    entries = tx.inboxes.entries(inbox)
    return count, next((stamp for stamp, frame in entries if frame.startswith(prefix)), None)


def _waiting_in_queue(tx: Transaction, name: bytes, prefix: bytes) -> tuple[int, float | None]:
    """Return how many messages wait in a queue that is popped, and since when."""
    stamps = [stamp for stamp, frame in tx.queues.fresh_entries(name) if frame.startswith(prefix)]
    return len(stamps), min(stamps, default=None)


# -- the records


def _add(tx: Transaction, name: bytes, messages: int, refused: int, lifetime: float) -> None:
    meter = _meter(tx, name)
    meter.add(tx.now, messages, refused)
    parts = [_METER.pack(meter.messages, meter.refused)]
    parts += [_SLICE.pack(number, min(_MOST, some), min(_MOST, none)) for number, (some, none) in meter.slices.items()]
    tx.put_timed(k.key(k.METER, name), tx.now + lifetime, b"".join(parts))


def _meter(tx: Transaction, name: bytes) -> Meter:
    record = tx.get_timed(k.key(k.METER, name))
    if record is None:
        return Meter()
    try:
        messages, refused = _METER.unpack_from(record.rest)
        slices = _SLICE.iter_unpack(record.rest[_METER.size :])
    except struct.error:  # it is damaged
        return Meter()
    return Meter(messages, refused, {number: (some, none) for number, some, none in slices})
