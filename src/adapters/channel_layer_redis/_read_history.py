"""What was read last from the stream of an owned inbox: tells what is unread on a server that has an older copy.

After a failover or a restart the last entries of a stream may be missing, and the ids of those that the server adds
from then on may run backwards: they follow the last entry that it kept, but a server with a slower clock reaches the
position of the reader only seconds later. What was read tells them apart: the entries that the server has kept come
first, in the order in which they were read, and what is unread begins with the first other one.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("Entry", "ReadHistory")

Entry = tuple[bytes, int]
"""The id of an entry, and the hash of what is in it: two servers may give the same id to different entries."""

_MOST = 2048
"""Entries that are remembered. Of a server that lacks more, what has an id before them is not read."""


class ReadHistory:
    """What was read last from one stream.

    A batch that its reader was cancelled with is read again: it is remembered once the read that follows has begun.

    Args:
        run: of the server from which it is read.
        position: up to which it has been read; "" for the beginning.

    Attributes:
        run: as above.
    """

    __slots__ = ("_batch", "_batch_position", "_batch_run", "_begins", "_entries", "_position", "run")

    def __init__(self, run: str, position: str) -> None:
        self.run: str = run
        self._position = position
        self._begins = _after(position)
        """The first id that is not taken for read if it is not remembered."""
        self._entries: deque[Entry] = deque(maxlen=_MOST)
        self._batch: Sequence[Entry] | None = None
        """The last one, which is not remembered yet, with its run and its position."""
        self._batch_run = run
        self._batch_position = position

    def goes_on_after(self, position: str) -> bool:
        """Return whether a read after a position follows what is remembered, with the last batch or without it."""
        batch = self._batch
        if batch is not None:
            self._batch = None
            if position == self._batch_position:
                if self._batch_run != self.run:  # what that server lacks must not be looked for after the next failover
                    self._entries.clear()
                    self._begins = _order(batch[0][0]) if batch else _after("")
                    self.run = self._batch_run
                self._entries.extend(batch)
                self._position = position
                return True
        return position == self._position

    def add(self, entries: Sequence[Entry]) -> str:
        """Add a batch that was read; return its position."""
        self._batch, self._batch_run = entries, self.run
        self._batch_position = position = entries[-1][0].decode("ascii") if entries else ""
        return position

    def move(self, run: str, entries: Sequence[Entry]) -> tuple[int, str]:
        """Go on with the stream of another run of the server.

        Args:
            run: which.
            entries: all of the stream up to the position.

        Returns:
            How many of the entries have been read before, and the position after the last one.
        """
        count, position = self._count_read(entries), self.add(entries)
        self._batch_run = run
        return count, position

    def _count_read(self, entries: Sequence[Entry]) -> int:
        read = list(self._entries)
        begins = self._begins if len(read) < _MOST else _order(read[0][0])
        count = 0
        while count < len(entries) and _order(entries[count][0]) < begins:
            count += 1
        if count < len(entries) and entries[count] in read:
            for entry in read[read.index(entries[count]) :]:
                if count == len(entries) or entries[count] != entry:
                    break
                count += 1
        return count


def _order(place: bytes) -> tuple[int, int]:
    milliseconds, _, number = place.partition(b"-")
    return int(milliseconds), int(number)


def _after(position: str) -> tuple[int, int]:
    if not position:
        return 0, 0
    milliseconds, number = _order(position.encode())
    return milliseconds, number + 1
