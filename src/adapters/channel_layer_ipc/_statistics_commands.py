"""The commands about statistics, carried out within a transaction.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer.domain.rates import Meter
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import split_entry

if TYPE_CHECKING:
    from channel_layer.domain.rates import Rates
    from channel_layer_ipc._transaction import Transaction

__all__ = ("report", "reported", "survey")

_METER = struct.Struct(">QQ")
_SLICE = struct.Struct(">QII")

_MOST: Final = 2**32 - 1
"""Messages in one slice of time, at most: 400 million a second."""


def report(tx: Transaction, request: c.Report) -> None:
    """Add to the statistics of each queue, and to those of all."""
    for each in request.counts:
        _add(tx, each.queue.name.encode("ascii"), each.messages, each.refused, tx.times.counts)
    _add(tx, b"", request.messages, request.refused, tx.times.all_counts)


def reported(tx: Transaction, request: c.Reported) -> Rates:
    """Tell what was counted."""
    name = b"" if request.queue is None else request.queue.name.encode("ascii")
    return _meter(tx, name).read(tx.now)


def survey(tx: Transaction, request: c.Survey) -> c.Surveyed:
    """Tell what waits."""
    channel = request.channel
    tx.save()
    if channel is None:
        begins = b"m"
        inboxes = [key[1:-1] for key, _ in tx.scan(k.INBOX)]
        lines = [key[1:-1] for key, _ in tx.scan(k.QUEUE)]
    else:
        name, begins = channel.queue.name.encode("ascii"), message_frame(channel.name, b"")
        inboxes = [name] if channel.queue.kind is Kind.INBOX else []
        lines = [name]
    owned = {inbox for inbox in inboxes if tx.living(inbox) is not None}
    found = [_in_inbox(tx, inbox, begins) for inbox in owned]
    found += [_in_line(tx, line, begins) for line in lines if line not in owned]
    stamps = [stamp for _, stamp in found if stamp is not None]
    oldest = max(0.0, tx.now - min(stamps)) if stamps else None
    return c.Surveyed(sum(count for count, _ in found), oldest)


def _in_inbox(tx: Transaction, name: bytes, begins: bytes) -> tuple[int, float | None]:
    """Return how many messages are unread of an inbox whose owner lives, and since when those wait that are here."""
    inbox = tx.minted(name)
    if inbox is None:
        return 0, None
    start = k.below(k.UNREAD_COUNT, name)
    channels = [key[len(start) :] for key, _ in tx.scan(start + begins[2:])]
    if len(begins) > 1:
        channels = [channel for channel in channels if channel == begins[2:]]
    count = sum(tx.unread(inbox, channel) for channel in channels)
    if not count:
        return 0, None
    entries = (tx.entry(inbox, number) for number in range(inbox.head, inbox.tail))
    return count, next((stamp for stamp, frame in entries if frame.startswith(begins)), None)


def _in_line(tx: Transaction, name: bytes, begins: bytes) -> tuple[int, float | None]:
    """Return how many messages wait in a queue that is popped, and since when."""
    if tx.line(name) is None:
        return 0, None
    oldest = tx.now - tx.times.expiry
    entries = (split_entry(data) for _, data in tx.scan(k.below(k.ENTRY, name)))
    stamps = [stamp for stamp, frame in entries if stamp > oldest and frame.startswith(begins)]
    return len(stamps), min(stamps, default=None)


# -- the records


def _add(tx: Transaction, name: bytes, messages: int, refused: int, lifetime: float) -> None:
    meter = _meter(tx, name)
    meter.add(tx.now, messages, refused)
    parts = [_METER.pack(meter.messages, meter.refused)]
    parts += [_SLICE.pack(number, min(_MOST, some), min(_MOST, none)) for number, (some, none) in meter.slices.items()]
    tx.put_timed(k.single(k.METER, name), tx.now + lifetime, b"".join(parts))


def _meter(tx: Transaction, name: bytes) -> Meter:
    record = tx.timed(k.single(k.METER, name))
    if record is None:
        return Meter()
    messages, refused = _METER.unpack_from(record.rest)
    slices = _SLICE.iter_unpack(record.rest[_METER.size :])
    return Meter(messages, refused, {number: (some, none) for number, some, none in slices})
