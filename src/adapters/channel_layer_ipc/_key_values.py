"""Bytes under keys, as one LMDB transaction sees them, small records among them, and the index of what is due."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, takewhile
from typing import TYPE_CHECKING

import lmdb

from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import TimedRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.domain.rules import Rules

__all__ = ("KeyValues", "Times")


@dataclass(frozen=True, slots=True)
class Times:
    """How long things live, in seconds, and how much an inbox holds.

    Attributes:
        expiry: a message.
        lease: a lease, and a claim.
        group: a member that the owner of its inbox did not add; a group without a ``group_expiry`` that is not touched.
        owned: a member that the owner of its inbox added; None: as long as the owner is alive.
        left: how long it is remembered which members have left.
        inbox_capacity: entries that an owned inbox may hold.
        all_counts: the statistics of all queues, after they have last changed.
        counts: the same for the statistics of one queue.
    """

    expiry: float
    lease: float
    group: float
    owned: float | None
    left: float
    inbox_capacity: int
    all_counts: float
    counts: float

    @classmethod
    def of(cls, rules: Rules) -> Times:
        """Return what follows from a configuration."""
        lease = rules.expiry * LEASE_FACTOR
        group = rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME
        counts = counts_lifetimes(rules.group_expiry)
        return cls(rules.expiry, lease, group, rules.group_expiry, 2 * lease, rules.inbox_capacity, *counts)


class KeyValues:
    """The keys and values of one transaction.

    Some are *timed*: small records that end by themselves. An index holds the keys of timed records, queues, inboxes
    and groups by the time at which each has to be looked at: sweeping costs as much as there is to remove, and no more.

    Args:
        handle: the transaction; it may write.
        database: holds all records.
        times: how long things live.
        now: what time it is, for all that is done in it.

    Attributes:
        wrote: something was written or removed, so the transaction has to be committed.
        readers_to_notify: the doorbells of readers of inboxes that are to be notified.
        waiters_to_notify: how many waiters of which queue are to be notified.
    """

    __slots__ = (
        "_database",
        "_handle",
        "_scanner",
        "now",
        "readers_to_notify",
        "times",
        "waiters_to_notify",
        "wrote",
    )

    def __init__(self, handle: lmdb.Transaction[bytes], database: lmdb._Database, times: Times, now: float) -> None:
        self._handle = handle
        self._database = database
        self._scanner: lmdb.Cursor[bytes] | None = None
        self.times: Times = times
        self.now: float = now
        self.wrote: bool = False
        self.readers_to_notify: set[int] = set()
        self.waiters_to_notify: dict[bytes, int] = {}

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key, if there is one."""
        return self._handle.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of a key."""
        self.wrote = True
        self._handle.put(key, value)

    def take(self, key: bytes) -> bytes | None:
        """Remove a key; return its value, if there was one."""
        self.wrote = True
        return self._handle.pop(key)

    def remove(self, key: bytes) -> None:
        """Remove a key, if it is there."""
        self.wrote = True
        self._handle.delete(key)

    def take_found(self, key: bytes) -> bytes:
        """Remove a key that `scan` has found just now; return its value.

        Raises:
            lmdb.CorruptedError: it cannot be found another time. The caller would scan for ever.
        """
        value = self.take(key)
        if value is None:
            raise lmdb.CorruptedError("the keys are not in order")
        return value

    def scan(self, prefix: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """Return the keys that begin with a prefix, all or so many of them, in their order, and their values."""
        cursor = self._cursor()
        if not cursor.set_range(prefix):
            return []
        return list(takewhile(lambda item: item[0].startswith(prefix), islice(cursor.iternext(), limit)))

    def values_from(self, key: bytes) -> Iterator[bytes]:
        """Iterate over the values of a key and of all keys after it; nothing else may be scanned meanwhile."""
        cursor = self._cursor()
        cursor.set_range(key)
        return cursor.iternext(keys=False, values=True)

    def parts(self, kind: bytes, name: bytes, prefix: bytes = b"") -> list[bytes]:
        """Return what follows the name in the keys of a kind and a name, if it begins with a prefix."""
        start = len(name) + 2
        return [key[start:] for key, _ in self.scan(k.key(kind, name, prefix))]

    def clear(self, prefix: bytes) -> None:
        """Remove all keys that begin with a prefix."""
        for key, _ in self.scan(prefix):
            self.remove(key)

    def clear_all(self) -> None:
        """Remove all keys."""
        self.wrote = True
        self._scanner = None
        self._handle.drop(self._database, delete=False)

    def _cursor(self) -> lmdb.Cursor[bytes]:
        cursor = self._scanner
        if cursor is None:
            cursor = self._scanner = self._handle.cursor()
        return cursor

    # -- what is due

    def add_due(self, due: float, key: bytes) -> None:
        """Have a record looked at."""
        self.put(k.due_key(due, key), b"")

    def remove_due(self, due: float, key: bytes) -> None:
        """Undo `add_due`."""
        self.remove(k.due_key(due, key))

    def pop_due(self) -> bytes | None:
        """Remove the entry that has been due for longest, and return its record's key; None if nothing is due."""
        for entry, _ in self.scan(k.DUE, 1):
            when, key = k.due_target(entry)
            if when <= k.moment(self.now):
                self.take_found(entry)
                return key
        return None

    # -- timed records

    def get_timed(self, key: bytes) -> TimedRecord | None:
        """Return a record, unless it has ended."""
        record = self.peek_timed(key)
        return record if record is not None and record.until > self.now else None

    def peek_timed(self, key: bytes) -> TimedRecord | None:
        """Return a record, even if it has ended but is still there."""
        data = self.get(key)
        return TimedRecord.unpack(data) if data is not None else None

    def put_timed(self, key: bytes, until: float, rest: bytes = b"") -> None:
        """Write a record; one that is there already is looked at when that would have been."""
        old = self.peek_timed(key)
        if old is None:
            self.add_due(until, key)
        due = old.due if old is not None else until
        self.put(key, TimedRecord(due, until, rest).pack())

    def remove_timed(self, key: bytes) -> bool:
        """Remove a record; return whether there was one."""
        data = self.take(key)
        if data is None:
            return False
        self.remove_due(TimedRecord.unpack(data).due, key)
        return True

    def clear_timed(self, prefix: bytes) -> None:
        """Remove all records whose keys begin with a prefix."""
        for key, _ in self.scan(prefix):
            self.remove_timed(key)

    def postpone_timed(self, key: bytes, record: TimedRecord, until: float) -> None:
        """Have a record end later, which is not in the index at present."""
        self.add_due(until, key)
        self.put(key, TimedRecord(until, until, record.rest).pack())
