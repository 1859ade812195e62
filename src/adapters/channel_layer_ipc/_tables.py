"""What the tables of queues, inboxes and groups have in common, and the table of small records that end by themselves.

A table is the view that one transaction has of records of one kind: they are read once, changed as objects, and written
at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import Record, TimedRecord

if TYPE_CHECKING:
    from channel_layer_ipc._key_values import DueIndex, KeyValues

__all__ = ("Table", "TimedTable")

RecordT = TypeVar("RecordT", bound=Record)


class Table(Generic[RecordT]):
    """The records of one kind.

    Args:
        record_type: of the records.
        values: holds them.
        due_index: says when to look at them.
        now: what time it is.
    """

    __slots__ = ("_due_index", "_now", "_record_type", "_records", "_values")

    def __init__(self, record_type: type[RecordT], values: KeyValues, due_index: DueIndex, now: float) -> None:
        self._record_type = record_type
        self._values = values
        self._due_index = due_index
        self._now = now
        self._records: dict[bytes, RecordT | None] = {}

    def get(self, name: bytes) -> RecordT | None:
        """Return the record of a name, if there is one."""
        if name in self._records:
            return self._records[name]
        data = self._values.get(k.single(self._record_type.kind, name))
        record = self._records[name] = self._record_type.unpack(name, data) if data is not None else None
        return record

    def names(self) -> list[bytes]:
        """Return the names of all records; those that are not saved yet are missing."""
        return [key[1:-1] for key, _ in self._values.scan(self._record_type.kind)]

    def save(self) -> None:
        """Write all records that have changed."""
        for record in self._records.values():
            if record is not None and record.changed:
                self._save_record(record)

    def forget(self) -> None:
        """Forget all that was read: the records in the store are others now."""
        self._records = {}

    def _save_record(self, record: RecordT) -> None:
        record.changed = False
        if not record.stored:
            self._due_index.add(record.due, record.key)
            record.stored = True
        self._values.put(record.key, record.pack())

    def _drop_record(self, record: RecordT) -> None:
        if record.stored:
            self._values.remove(record.key)
            self._due_index.remove(record.due, record.key)
        self._records[record.name] = None


class TimedTable:
    """The small records that end by themselves, of all kinds, by key.

    Args:
        values: holds them.
        due_index: says when to look at them.
        now: what time it is.
    """

    __slots__ = ("_due_index", "_now", "_values")

    def __init__(self, values: KeyValues, due_index: DueIndex, now: float) -> None:
        self._values = values
        self._due_index = due_index
        self._now = now

    def get(self, key: bytes) -> TimedRecord | None:
        """Return a record, unless it has ended."""
        record = self.peek(key)
        return record if record is not None and record.until > self._now else None

    def peek(self, key: bytes) -> TimedRecord | None:
        """Return a record, even if it has ended but is still there."""
        data = self._values.get(key)
        return TimedRecord.unpack(data) if data is not None else None

    def put(self, key: bytes, until: float, rest: bytes = b"") -> None:
        """Write a record; one that is there already is looked at when that would have been."""
        old = self.peek(key)
        if old is None:
            self._due_index.add(until, key)
        due = old.due if old is not None else until
        self._values.put(key, TimedRecord(due, until, rest).pack())

    def remove(self, key: bytes) -> bool:
        """Remove a record; return whether there was one."""
        data = self._values.take(key)
        if data is None:
            return False
        self._due_index.remove(TimedRecord.unpack(data).due, key)
        return True

    def postpone(self, key: bytes, record: TimedRecord, until: float) -> None:
        """Have a record end later, which is not in the index at present."""
        self._due_index.add(until, key)
        self._values.put(key, TimedRecord(until, until, record.rest).pack())
