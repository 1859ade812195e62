"""The owned inboxes, as one transaction sees them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import MAX_READERS, InboxRecord, pack_entry, split_entry
from channel_layer_ipc._tables import Table

if TYPE_CHECKING:
    from channel_layer_ipc._key_values import DueIndex, KeyValues

__all__ = ("InboxTable",)

_COUNT = struct.Struct(">I")


class InboxTable(Table[InboxRecord]):
    """The owned inboxes.

    Args:
        values: holds them.
        due_index: says when to look at them.
        now: what time it is.
        lease: seconds that a lease lasts.

    Attributes:
        to_notify: the doorbells of readers that are to be notified.
    """

    __slots__ = ("_lease", "to_notify")

    def __init__(self, values: KeyValues, due_index: DueIndex, now: float, lease: float) -> None:
        super().__init__(InboxRecord, values, due_index, now)
        self._lease = lease
        self.to_notify: set[int] = set()

    def living(self, name: bytes) -> InboxRecord | None:
        """Return an inbox whose owner is alive."""
        inbox = self.get(name)
        return inbox if inbox is not None and inbox.until > self._now else None

    def make(self, name: bytes) -> InboxRecord:
        """Make a new inbox, whose owner is alive."""
        until = self._now + self._lease
        # No number is given twice, not even to entries of an inbox that was here before.
        first = max(1, round(self._now * 1e6))
        inbox = self._records[name] = InboxRecord(name, until, until, first, first, changed=True)
        return inbox

    def drop(self, inbox: InboxRecord) -> None:
        """Remove an inbox with all that belongs to it."""
        self.trim(inbox, inbox.tail)
        self._values.clear(k.below(k.UNREAD_COUNT, inbox.name))
        self._drop_record(inbox)

    # -- entries

    def append(self, inbox: InboxRecord, stamp: float, frame: bytes) -> None:
        """Put an entry into an inbox; its readers are notified."""
        self._values.put(k.numbered(k.FRAME, inbox.name, inbox.tail), pack_entry(stamp, frame))
        inbox.tail += 1
        inbox.changed = True
        if inbox.readers:
            self.to_notify.update(inbox.readers)
            inbox.readers = ()

    def all_entries(self, inbox: InboxRecord, start: int | None = None) -> list[tuple[float, bytes]]:
        """Return the entries of an inbox, from a number on if one is given: times, and frames."""
        found = (
            self._values.get(k.numbered(k.FRAME, inbox.name, number))
            for number in range(max(inbox.head, start or 0), inbox.tail)
        )
        return [split_entry(data) for data in found if data is not None]

    def first_entries(self, inbox: InboxRecord, count: int, size: int) -> list[tuple[float, bytes]]:
        """Return the first entries of an inbox.

        Args:
            inbox: the inbox; it holds one at least.
            count: entries at most.
            size: bytes after which there is no further one.
        """
        left = min(count, inbox.size)
        found: list[tuple[float, bytes]] = []
        for data in self._values.values_from(k.numbered(k.FRAME, inbox.name, inbox.head)):
            found.append(split_entry(data))
            left -= 1
            size -= len(data)
            if left <= 0 or size <= 0:
                break
        return found

    def trim(self, inbox: InboxRecord, head: int) -> None:
        """Remove the entries of an inbox that come before a number."""
        head = min(head, inbox.tail)
        if head > inbox.head:
            for number in range(inbox.head, head):
                self._values.remove(k.numbered(k.FRAME, inbox.name, number))
            inbox.head, inbox.changed = head, True

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
        data = self._values.get(k.below(k.UNREAD_COUNT, inbox.name, channel))
        count = int(_COUNT.unpack(data)[0]) if data is not None else 0
        inbox.counts[channel] = count, False
        return count

    def set_unread(self, inbox: InboxRecord, channel: bytes, count: int) -> None:
        """Set how many messages of a channel are unread."""
        inbox.counts[channel] = max(0, count), True
        inbox.changed = True

    def unread_channels(self, inbox: InboxRecord, prefix: bytes = b"") -> list[bytes]:
        """Return the channels that have unread messages, as far as that is saved, and whose names begin so."""
        start = len(inbox.name) + 2
        return [key[start:] for key, _ in self._values.scan(k.below(k.UNREAD_COUNT, inbox.name, prefix))]

    def _save_record(self, record: InboxRecord) -> None:
        super()._save_record(record)
        for channel, (count, changed) in record.counts.items():
            if changed:
                record.counts[channel] = count, False
                key = k.below(k.UNREAD_COUNT, record.name, channel)
                if count > 0:
                    self._values.put(key, _COUNT.pack(count))
                else:
                    self._values.remove(key)
