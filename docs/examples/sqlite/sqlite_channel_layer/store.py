"""Queues and groups as rows. Each request is one transaction, so it is one atomic step for all processes."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from typing import TYPE_CHECKING

from channel_layer import StoreError
from channel_layer import commands as c
from channel_layer.domain.frames import message_frame, read_message

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock, SimpleStore

__all__ = ("SQLiteStore",)

_TABLES = """
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = OFF;
    CREATE TABLE IF NOT EXISTS messages (prefix, queue, place INTEGER, channel, stamp REAL, frame BLOB);
    CREATE UNIQUE INDEX IF NOT EXISTS places ON messages (prefix, queue, place);
    CREATE TABLE IF NOT EXISTS members (prefix, team, channel, joined REAL, PRIMARY KEY (prefix, team, channel));
    CREATE TABLE IF NOT EXISTS flushes (prefix PRIMARY KEY, epoch TEXT, at REAL);
"""
_FOREVER = 86400.0
"""Seconds that a membership lasts where the layer sets no limit: this store does not know whether its owner lives."""


class SQLiteStore:
    """A simple store, as `channel_layer.ports.SimpleStore` describes it.

    Args:
        path: the file.
        rules: the configuration.
        clock: its offset is added to the system's time.
    """

    def __init__(self, path: str, rules: Rules, clock: Clock) -> None:
        self._prefix = rules.prefix
        self._expiry = rules.expiry
        self._lifetime = rules.group_expiry or _FOREVER
        self._clock = clock
        with _told():
            self._db = sqlite3.connect(path, timeout=rules.timeout, isolation_level=None)
            self._db.executescript(_TABLES)
        with self._step() as now:  # removes what has expired in queues that are no longer used
            self._db.execute("DELETE FROM messages WHERE prefix = ? AND stamp <= ?", (self._prefix, now - self._expiry))

    def push(self, request: c.Push, /) -> c.Pushed:
        """Put a message at the end of its queue, if there is room."""
        queue = request.channel.queue.name
        with self._step() as now:
            expired = 0
            if self._length(queue) >= request.capacity:
                expired = self._expire(queue, now)
                if self._length(queue) >= request.capacity:
                    return c.Pushed(accepted=False, expired=expired)
            [last] = self._row("SELECT max(place) FROM messages WHERE prefix = ? AND queue = ?", queue)
            self._insert(queue, (last or 0) + 1, [c.Entry(now, message_frame(request.channel.name, request.payload))])
            return c.Pushed(accepted=True, expired=expired)

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Take messages from the head of a queue."""
        queue = request.queue.name
        with self._step() as now:
            expired = self._expire(queue, now)
            found = self._db.execute(
                "SELECT place, stamp, frame FROM messages WHERE prefix = ? AND queue = ? ORDER BY place LIMIT ?",
                (self._prefix, queue, request.count),
            ).fetchall()
            if found:
                taken = (self._prefix, queue, found[-1][0])
                self._db.execute("DELETE FROM messages WHERE prefix = ? AND queue = ? AND place <= ?", taken)
            epoch, _ = self._flushed()
            return c.Popped(tuple(c.Entry(stamp, frame) for _, stamp, frame in found), expired, now, epoch)

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Return messages to the head of their queue, but for those from before the last flush."""
        queue = request.queue.name
        with self._step():
            _, flushed_at = self._flushed()
            entries = [entry for entry in request.entries if entry.stamp >= flushed_at]
            [first] = self._row("SELECT min(place) FROM messages WHERE prefix = ? AND queue = ?", queue)
            self._insert(queue, (first or 0) - len(entries), entries)
            return c.Returned(expired=0, flushed=len(request.entries) - len(entries))

    def pending(self, request: c.Pending, /) -> int:
        """Count the messages that wait for one channel."""
        with self._step():
            return self._row("SELECT count(*) FROM messages WHERE prefix = ? AND channel = ?", request.channel.name)[0]

    def join(self, request: c.Join, /) -> None:
        """Add a channel to a group, or refresh its membership."""
        with self._step() as now:
            values = (self._prefix, request.group.name, request.channel.name, now)
            self._db.execute("INSERT OR REPLACE INTO members VALUES (?, ?, ?, ?)", values)

    def leave(self, request: c.Leave, /) -> None:
        """Remove a channel from a group."""
        with self._step():
            values = (self._prefix, request.group.name, request.channel.name)
            self._db.execute("DELETE FROM members WHERE prefix = ? AND team = ? AND channel = ?", values)

    def members(self, request: c.Members, /) -> c.GroupMembers:
        """List a group's members."""
        with self._step() as now:
            over = (self._prefix, now - self._lifetime)
            self._db.execute("DELETE FROM members WHERE prefix = ? AND joined <= ?", over)
            group = (self._prefix, request.group.name)
            rows = self._db.execute("SELECT channel FROM members WHERE prefix = ? AND team = ?", group)
            return c.GroupMembers(owned=(), others=tuple(name for (name,) in rows))

    def flush(self, request: c.Flush, /) -> int:
        """Empty everything of this prefix."""
        with self._step() as now:
            dropped = self._db.execute("DELETE FROM messages WHERE prefix = ?", (self._prefix,)).rowcount
            self._db.execute("DELETE FROM members WHERE prefix = ?", (self._prefix,))
            epoch = (self._prefix, request.generation, now)
            self._db.execute("INSERT OR REPLACE INTO flushes VALUES (?, ?, ?)", epoch)
            return dropped

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _step(self) -> Generator[float]:
        """Do all that follows, or nothing of it; yields the time."""
        with _told():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:  # commits, or rolls back
                yield time.time() + self._clock.offset

    def _row(self, query: str, name: str) -> tuple[int, ...]:
        row: tuple[int, ...] = self._db.execute(query, (self._prefix, name)).fetchone()
        return row

    def _length(self, queue: str) -> int:
        return self._row("SELECT count(*) FROM messages WHERE prefix = ? AND queue = ?", queue)[0]

    def _expire(self, queue: str, now: float) -> int:
        over = (self._prefix, queue, now - self._expiry)
        return self._db.execute("DELETE FROM messages WHERE prefix = ? AND queue = ? AND stamp <= ?", over).rowcount

    def _insert(self, queue: str, place: int, entries: Iterable[c.Entry]) -> None:
        rows = (
            (self._prefix, queue, number, read_message(entry.frame)[0], entry.stamp, entry.frame)
            for number, entry in enumerate(entries, place)
        )
        self._db.executemany("INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?)", rows)

    def _flushed(self) -> tuple[str, float]:
        found = self._db.execute("SELECT epoch, at FROM flushes WHERE prefix = ?", (self._prefix,))
        row: tuple[str, float] | None = found.fetchone()
        return row or ("", 0.0)


@contextlib.contextmanager
def _told() -> Generator[None]:
    """Raise SQLite's errors as a `StoreError`: what failed has been rolled back."""
    try:
        yield
    except sqlite3.Error as exc:
        raise StoreError(f"SQLite: {exc}", retryable=True, outcome="not_sent") from exc


if TYPE_CHECKING:
    _fits: type[SimpleStore] = SQLiteStore
