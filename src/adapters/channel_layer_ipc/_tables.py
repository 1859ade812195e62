"""The queues and the owned inboxes, as one transaction sees them, and what tables of records have in common.

A table is the view that one transaction has of records of one kind: they are read once, changed as objects, and written
at the end.
"""

from __future__ import annotations

import logging
import struct
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import (
    MAX_READERS,
    InboxRecord,
    QueueRecord,
    Record,
    SequenceRecord,
    pack_entry,
    split_entry,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer_ipc._key_values import KeyValues

__all__ = ("InboxTable", "QueueTable", "Table")

RecordT = TypeVar("RecordT", bound=Record)
SequenceT = TypeVar("SequenceT", bound=SequenceRecord)

_logger = logging.getLogger("channel_layer")

_COUNT = struct.Struct(">I")

_MIDDLE: Final = 2**63
"""The number of a queue's first entry: what is put back at the head counts down from it."""


_MANY: Final = 100_000
"""Entries from which on it is looked at which ones there are: a record that is damaged may tell of any number."""

_MOST_EXPIRED: Final = 2**63
"""Messages that a record counts, at most."""


class Table(Generic[RecordT]):
    """The records of one kind.

    Attributes:
        record_type: their class.
        part_kinds: the kinds of the keys of all that belongs to one of them.
    """

    __slots__ = ("_records", "_values")

    record_type: type[RecordT]
    part_kinds: Sequence[bytes]

    def __init__(self, values: KeyValues) -> None:
        self._values = values
        self._records: dict[bytes, RecordT | None] = {}

    def get(self, name: bytes) -> RecordT | None:
        """Return the record of a name, if there is one."""
        if name in self._records:
            return self._records[name]
        data = self._values.get(k.key(self.record_type.kind, name))
        record = None
        if data is not None:
            try:
                record = self.record_type.unpack(name, data)
            except struct.error:
                self.discard(name)
        self._records[name] = record
        return record

    def names(self) -> list[bytes]:
        """Return the names of all records; those that are not saved yet are missing."""
        names = (key[1:-1] for key, _ in self._values.scan(self.record_type.kind))
        return [name for name in names if name.isascii()]  # no others are asked for: a file may be damaged

    def save(self) -> None:
        """Write all records that have changed."""
        for record in self._records.values():
            if record is not None and record.changed:
                self._save_record(record)

    def forget(self) -> None:
        """Forget all that was read: the records in the store are others now."""
        self._records = {}

    def drop(self, record: RecordT) -> None:
        """Remove a record."""
        if record.stored:
            self._values.remove(record.key)
            self._values.remove_due(record.due, record.key)
        self._records[record.name] = None

    def discard(self, name: bytes) -> None:
        """Remove a record that is damaged, with all that belongs to it."""
        self._values.remove(k.key(self.record_type.kind, name))
        for kind in self.part_kinds:
            self._values.clear(k.key(kind, name))
        self._records[name] = None
        _logger.error(
            "the %s %r was damaged in the files of the channel layer, and what was in it is lost: "
            "find out what else writes to these files",
            self.record_type.what,
            name.decode("ascii", "replace"),
        )

    def review(self, record: RecordT) -> None:
        """Drop a record that was due if it has ended, else have it looked at again when it ends."""
        if record.lasts(self._values.now):
            record.postpone(record.until)
        else:
            self.drop(record)

    def _save_record(self, record: RecordT) -> None:
        record.changed = False
        if not record.stored:
            self._values.add_due(record.due, record.key)
            record.stored = True
        self._values.put(record.key, record.pack())


class _SequenceTable(Table[SequenceT]):
    """Records with entries: times, and frames."""

    __slots__ = ()

    def append(self, record: SequenceT, stamp: float, frame: bytes) -> None:
        """Put an entry at the end."""
        self._values.put(k.numbered(record.entry_kind, record.name, record.tail), pack_entry(stamp, frame))
        record.tail, record.changed = record.tail + 1, True

    def entries(self, record: SequenceT) -> list[tuple[float, bytes]]:
        """Return all entries."""
        return [split_entry(data) for _, data in self._values.scan(k.key(record.entry_kind, record.name))]

    def trim(self, record: SequenceT, head: int) -> None:
        """Remove the entries that come before a number."""
        head = min(head, record.tail)
        if head > record.head:
            if head - record.head > _MANY:
                self._trim_many(record, head)
            else:
                for number in range(record.head, head):
                    self._values.remove(k.numbered(record.entry_kind, record.name, number))
            record.head, record.changed = head, True

    def _trim_many(self, record: SequenceT, head: int) -> None:
        end = k.numbered(record.entry_kind, record.name, head)
        for key, _ in self._values.scan(k.key(record.entry_kind, record.name)):
            if key < end:
                self._values.remove(key)

    def drop(self, record: SequenceT) -> None:
        """Remove a record with its entries."""
        self.trim(record, record.tail)
        super().drop(record)


class QueueTable(_SequenceTable[QueueRecord]):
    """The queues that are popped: channels, and inboxes that are not owned."""

    __slots__ = ()

    record_type = QueueRecord
    part_kinds: Sequence[bytes] = (k.ENTRY,)

    def get_or_make(self, name: bytes, until: float) -> QueueRecord:
        """Return a queue, a new one if there is none, that lives until then at least."""
        queue = self.get(name)
        if queue is None:
            group_unread = bool(self._values.scan(k.key(k.GROUP_UNREAD, name), 1))
            queue = QueueRecord(name, until, until, _MIDDLE, _MIDDLE, group_unread=group_unread)
            self._records[name] = queue
        queue.until = max(queue.until, until)
        queue.changed = True
        return queue

    def count(self, name: bytes) -> int:
        """Return how many messages a queue may hold."""
        queue = self.get(name)
        return queue.size if queue is not None and queue.until > self._values.now else 0

    def fresh_entries(self, name: bytes) -> list[tuple[float, bytes]]:
        """Return the entries of a queue that are not too old."""
        queue = self.get(name)
        limit = self._limit()
        entries = self.entries(queue) if queue is not None else []
        return [(stamp, frame) for stamp, frame in entries if stamp > limit]

    def prepend(self, queue: QueueRecord, stamp: float, frame: bytes) -> None:
        """Put an entry at the head of a queue."""
        queue.head, queue.changed = queue.head - 1, True
        self._values.put(k.numbered(k.ENTRY, queue.name, queue.head), pack_entry(stamp, frame))

    def take(self, queue: QueueRecord) -> tuple[float, bytes]:
        """Remove the entry at the head of a queue, which is not empty, and return it."""
        data = self._values.take(k.numbered(k.ENTRY, queue.name, queue.head))
        queue.head, queue.changed = queue.head + 1, True
        return split_entry(data) if data is not None else (self._values.now, b"")

    def expire(self, queue: QueueRecord) -> int:
        """Remove from the head of a queue what is too old; return how many messages expired since the last call."""
        limit = self._limit()
        head, missing = queue.head, 0
        while head < queue.tail:
            data = self._values.get(k.numbered(k.ENTRY, queue.name, head))
            if data is None:  # something else has written to the file
                following = self._following(queue, head)
                head, missing = following, missing + following - head
                continue
            if split_entry(data)[0] > limit:
                break
            head += 1
        expired = queue.expired + head - queue.head - missing
        if expired or missing:
            self.trim(queue, head)
            queue.expired, queue.changed = 0, True
        return expired

    def sweep(self, queue: QueueRecord, until: float) -> None:
        """Remove all that is in a queue, and remember until then how many messages that were."""
        queue.expired = min(_MOST_EXPIRED, queue.expired + queue.size)
        self.trim(queue, queue.tail)
        queue.until, queue.changed = until, True

    def _following(self, queue: QueueRecord, number: int) -> int:
        """Return the number of the first entry that is there, from this one on; that of the tail, if there is none."""
        start = k.numbered(k.ENTRY, queue.name, number)
        keys = (key for key, _ in self._values.scan(k.key(k.ENTRY, queue.name)) if key > start)
        return min(queue.tail, next((int.from_bytes(key[-8:]) for key in keys), queue.tail))

    def _limit(self) -> float:
        return self._values.now - self._values.times.expiry


class InboxTable(_SequenceTable[InboxRecord]):
    """The owned inboxes."""

    __slots__ = ()

    record_type = InboxRecord
    part_kinds: Sequence[bytes] = (k.FRAME, k.UNREAD_COUNT)

    def living(self, name: bytes) -> InboxRecord | None:
        """Return an inbox whose owner is alive."""
        inbox = self.get(name)
        return inbox if inbox is not None and inbox.until > self._values.now else None

    def make(self, name: bytes) -> InboxRecord:
        """Make a new inbox, whose owner is alive."""
        now = self._values.now
        until = now + self._values.times.lease
        # No number is given twice, not even to entries of an inbox that was here before.
        first = max(1, round(now * 1e6))
        inbox = self._records[name] = InboxRecord(name, until, until, first, first, changed=True)
        return inbox

    def drop(self, record: InboxRecord) -> None:
        """Remove an inbox with all that belongs to it."""
        self._values.clear(k.key(k.UNREAD_COUNT, record.name))
        super().drop(record)

    def append(self, record: InboxRecord, stamp: float, frame: bytes) -> None:
        """Put an entry into an inbox; its readers are notified."""
        super().append(record, stamp, frame)
        if record.readers:
            self._values.readers_to_notify.update(record.readers)
            record.readers = ()

    def first_entries(self, inbox: InboxRecord, count: int, size: int) -> list[tuple[float, bytes]]:
        """Return the first entries of an inbox that is not empty: so many at most, and none after so many bytes."""
        left = min(count, inbox.size)
        found: list[tuple[float, bytes]] = []
        for data in self._values.values_from(k.numbered(k.FRAME, inbox.name, inbox.head)):
            found.append(split_entry(data))
            left -= 1
            size -= len(data)
            if left <= 0 or size <= 0:
                break
        if inbox.size > _MANY and self._values.get(self._last_key(inbox, found)) is None:
            found = self.entries(inbox)  # the tail was damaged
            inbox.tail, inbox.changed = inbox.head + len(found), True
        return found

    def _last_key(self, inbox: InboxRecord, found: Sequence[object]) -> bytes:
        return k.numbered(k.FRAME, inbox.name, inbox.head + len(found) - 1)

    def add_reader(self, inbox: InboxRecord, doorbell: int) -> None:
        """Have a reader notified of the next entry."""
        if doorbell not in inbox.readers:
            inbox.readers, inbox.changed = (*inbox.readers, doorbell)[-MAX_READERS:], True

    # -- unread messages

    def unread(self, inbox: InboxRecord, channel: bytes) -> int:
        """Return how many messages of a channel are unread."""
        known = inbox.counts.get(channel)
        if known is not None:
            return known[0]
        data = self._values.get(k.key(k.UNREAD_COUNT, inbox.name, channel))
        try:
            count = int(_COUNT.unpack(data)[0]) if data is not None else 0
        except struct.error:  # it is damaged
            count = 0
        inbox.counts[channel] = count, False
        return count

    def set_unread(self, inbox: InboxRecord, channel: bytes, count: int) -> None:
        """Set how many messages of a channel are unread."""
        inbox.counts[channel] = max(0, count), True
        inbox.changed = True

    def _save_record(self, record: InboxRecord) -> None:
        super()._save_record(record)
        for channel, (count, changed) in record.counts.items():
            if changed:
                record.counts[channel] = count, False
                key = k.key(k.UNREAD_COUNT, record.name, channel)
                if count > 0:
                    self._values.put(key, _COUNT.pack(count))
                else:
                    self._values.remove(key)
