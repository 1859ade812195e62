"""Bytes under keys, as one LMDB transaction sees them, and the index of what is due."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from collections.abc import Iterator

    import lmdb

__all__ = ("DueIndex", "KeyValues")


class KeyValues:
    """The keys and values of one transaction.

    Args:
        handle: the transaction; it may write.
        database: holds all records.

    Attributes:
        wrote: something was written or removed, so the transaction has to be committed.
    """

    __slots__ = ("_database", "_handle", "_scanner", "wrote")

    def __init__(self, handle: lmdb.Transaction[bytes], database: lmdb._Database) -> None:
        self._handle = handle
        self._database = database
        self._scanner: lmdb.Cursor[bytes] | None = None
        self.wrote = False

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

    def remove(self, key: bytes) -> bool:
        """Remove a key; return whether there was one."""
        self.wrote = True
        return self._handle.delete(key)

    def scan(self, prefix: bytes, limit: int | None = None) -> list[tuple[bytes, bytes]]:
        """Return the keys that begin with a prefix, in their order, and their values.

        Args:
            prefix: the prefix.
            limit: how many at most; None: all.
        """
        cursor = self._cursor()
        found: list[tuple[bytes, bytes]] = []
        more = cursor.set_range(prefix)
        while more and (limit is None or len(found) < limit):
            key, value = cursor.item()
            if not key.startswith(prefix):
                break
            found.append((key, value))
            more = cursor.next()
        return found

    def values_from(self, key: bytes) -> Iterator[bytes]:
        """Iterate over the values of a key and of all keys after it; nothing else may be scanned meanwhile."""
        cursor = self._cursor()
        cursor.set_range(key)
        return cursor.iternext(keys=False, values=True)

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


class DueIndex:
    """The keys of records that have to be looked at when their time has come, in the order of time.

    With it, sweeping costs as much as there is to remove, and no more.

    Args:
        values: holds it.
        now: what time it is.
    """

    __slots__ = ("_now", "_values")

    def __init__(self, values: KeyValues, now: float) -> None:
        self._values = values
        self._now = now

    def add(self, due: float, key: bytes) -> None:
        """Have a record looked at."""
        self._values.put(k.due_key(due, key), b"")

    def remove(self, due: float, key: bytes) -> None:
        """Undo `add`."""
        self._values.remove(k.due_key(due, key))

    def pop(self) -> bytes | None:
        """Remove the entry that has been due for longest, and return its record's key; None if nothing is due."""
        first = self._values.scan(k.DUE, 1)
        if not first:
            return None
        entry = first[0][0]
        when, key = k.due_target(entry)
        if when > k.moment(self._now):
            return None
        self._values.remove(entry)
        return key
