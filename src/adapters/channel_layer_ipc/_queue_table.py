"""The queues that are popped, as one transaction sees them: channels, and inboxes that are not owned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import QueueRecord, pack_entry, split_entry
from channel_layer_ipc._tables import Table

if TYPE_CHECKING:
    from channel_layer_ipc._key_values import DueIndex, KeyValues

__all__ = ("QueueTable",)


class QueueTable(Table[QueueRecord]):
    """The queues that are popped.

    Args:
        values: holds them.
        due_index: says when to look at them.
        now: what time it is.
        expiry: seconds that a message lives.

    Attributes:
        to_notify: how many waiters of which queue are to be notified.
    """

    __slots__ = ("_expiry", "to_notify")

    def __init__(self, values: KeyValues, due_index: DueIndex, now: float, expiry: float) -> None:
        super().__init__(QueueRecord, values, due_index, now)
        self._expiry = expiry
        self.to_notify: dict[bytes, int] = {}

    def get_or_make(self, name: bytes, until: float) -> QueueRecord:
        """Return a queue, a new one if there is none, that lives until then at least."""
        queue = self.get(name)
        if queue is None:
            group_unread = bool(self._values.scan(k.below(k.GROUP_UNREAD, name), 1))
            queue = self._records[name] = QueueRecord(name, until, until, group_unread=group_unread)
        queue.until = max(queue.until, until)
        queue.changed = True
        return queue

    def count(self, name: bytes) -> int:
        """Return how many messages a queue may hold."""
        queue = self.get(name)
        return queue.size if queue is not None and queue.until > self._now else 0

    def entries(self, name: bytes) -> list[tuple[float, bytes]]:
        """Return the entries of a queue that are not too old: times, and frames."""
        if self.get(name) is None:
            return []
        limit = self._now - self._expiry
        entries = (split_entry(data) for _, data in self._values.scan(k.below(k.ENTRY, name)))
        return [(stamp, frame) for stamp, frame in entries if stamp > limit]

    def append(self, queue: QueueRecord, stamp: float, frame: bytes) -> None:
        """Put an entry at the end of a queue."""
        self._values.put(k.numbered(k.ENTRY, queue.name, queue.tail), pack_entry(stamp, frame))
        queue.tail, queue.changed = queue.tail + 1, True

    def prepend(self, queue: QueueRecord, stamp: float, frame: bytes) -> None:
        """Put an entry at the head of a queue."""
        queue.head, queue.changed = queue.head - 1, True
        self._values.put(k.numbered(k.ENTRY, queue.name, queue.head), pack_entry(stamp, frame))

    def take(self, queue: QueueRecord) -> tuple[float, bytes]:
        """Remove the entry at the head of a queue, which is not empty, and return it."""
        data = self._values.take(k.numbered(k.ENTRY, queue.name, queue.head))
        queue.head, queue.changed = queue.head + 1, True
        return split_entry(data) if data is not None else (self._now, b"")

    def expire(self, queue: QueueRecord) -> int:
        """Remove from the head of a queue what is too old; return how many messages expired since the last call."""
        limit = self._now - self._expiry
        head = queue.head
        while head < queue.tail:
            data = self._values.get(k.numbered(k.ENTRY, queue.name, head))
            if data is not None and split_entry(data)[0] > limit:
                break
            self._values.remove(k.numbered(k.ENTRY, queue.name, head))
            head += 1
        expired = queue.expired + head - queue.head
        if expired:
            queue.head, queue.expired, queue.changed = head, 0, True
        return expired

    def sweep(self, queue: QueueRecord, until: float) -> None:
        """Remove all that is in a queue, and remember until then how many messages that were."""
        queue.expired += queue.size
        self._values.clear(k.below(k.ENTRY, queue.name))
        queue.head, queue.until, queue.changed = queue.tail, until, True

    def drop(self, queue: QueueRecord) -> None:
        """Remove a queue with all that is in it."""
        for number in range(queue.head, queue.tail):
            self._values.remove(k.numbered(k.ENTRY, queue.name, number))
        self._drop_record(queue)

    def notify_waiters(self, name: bytes, count: int) -> None:
        """Have so many of those notified that wait for a queue."""
        self.to_notify[name] = self.to_notify.get(name, 0) + count
