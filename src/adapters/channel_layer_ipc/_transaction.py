"""One transaction, as those that carry out commands in it see it: queues, inboxes, groups, room, and the time.

A waiter that finds nothing is recorded in the same transaction that looked. A command that brings something removes
the record and notifies the waiter before its transaction is committed: there is no moment at which its process can be
killed and leave a message of which no waiter was told. The waiter that was notified looks, for which it has to wait for
that transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer_ipc import _keys as k
from channel_layer_ipc._group_table import GroupTable
from channel_layer_ipc._key_values import KeyValues
from channel_layer_ipc._records import TimedRecord, split_entry
from channel_layer_ipc._tables import InboxTable, QueueTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import lmdb

    from channel_layer_ipc._doorbell import Doorbell
    from channel_layer_ipc._key_values import Times

__all__ = ("RECORD", "Transaction", "entry_need")

RECORD: Final = 8192 - (256 << 10)
"""Room that a command needs that writes a record: it may use half of what messages leave. A command that takes
something away finds enough at any time."""

_PER_ENTRY: Final = 128
"""Bytes of room that an entry takes beside its own: its key, its place in a page, and that pages are not full."""

_PAGE: Final = 4096


class Transaction(KeyValues):
    """What is done in one LMDB transaction; for the arguments that are not here see `KeyValues`.

    Args:
        measure: returns how many bytes messages may take, given how many are wanted. It is called when a command first
            needs some.
        why_full: says what is full and what to do, when there is no room.
        doorbell: the one of the store that carries this out.

    Attributes:
        exhausted: a command was refused because there was not enough room.
        readers: whether a queue has a registered reader, as far as that is known.
        waiter_keys: of the queues that tasks of the store's event loop wait for, the keys of their waiter records, as
            this transaction leaves them.
        after_commit: functions that are called once all this is in the store.
    """

    __slots__ = (
        "_left",
        "_measure",
        "after_commit",
        "doorbell",
        "exhausted",
        "groups",
        "inboxes",
        "queues",
        "readers",
        "waiter_keys",
        "why_full",
    )

    def __init__(
        self,
        handle: lmdb.Transaction[bytes],
        database: lmdb._Database,
        times: Times,
        now: float,
        measure: Callable[[int], int],
        why_full: Callable[[], str],
        doorbell: Doorbell,
    ) -> None:
        super().__init__(handle, database, times, now)
        self._measure = measure
        self.why_full: Callable[[], str] = why_full
        self._left: int | None = None
        self.exhausted: bool = False
        self.doorbell: Doorbell = doorbell
        self.queues: QueueTable = QueueTable(self)
        self.inboxes: InboxTable = InboxTable(self)
        self.groups: GroupTable = GroupTable(self)
        self.readers: dict[bytes, bool] = {}
        self.waiter_keys: dict[str, bytes | None] = {}
        self.after_commit: list[Callable[[], None]] = []

    def last_flush(self) -> tuple[float, str]:
        """Return when the last flush was, and its epoch."""
        record = self.get_timed(k.FLUSH)
        if record is None:
            return float("-inf"), ""
        stamp, epoch = split_entry(record.rest)
        return stamp, epoch.decode("ascii", "replace")

    def save(self) -> None:
        """Write all records that have changed."""
        self.queues.save()
        self.inboxes.save()
        self.groups.save()

    def clear_except(self, prefixes: Iterable[bytes]) -> None:
        """Remove all records but those whose keys begin so, which stay in the index of what is due."""
        self.save()
        kept = [item for prefix in prefixes for item in self.scan(prefix)]
        keys = {key for key, _ in kept}
        kept += [item for item in self.scan(k.DUE) if k.due_target(item[0])[1] in keys]
        self.clear_all()
        for key, value in kept:
            self.put(key, value)
        self.queues.forget()
        self.inboxes.forget()
        self.groups.forget()

    # -- room

    def has_room(self, need: int) -> bool:
        """Return whether there are so many bytes."""
        left = self._left
        if left is None:
            left = self._left = self._measure(need)
        return need <= left

    def take_room(self, size: int) -> bool:
        """Take the room for a message of *size* bytes; return False if there is not enough."""
        need = entry_need(size)
        if not self.has_room(need):
            self.exhausted = True
            return False
        self._left = (self._left or 0) - need
        return True

    # -- waiters

    def add_waiter(self, queue: bytes, number: int) -> bytes:
        """Record that a process or thread waits for a queue, by the number of its doorbell; return the record's key."""
        key = k.waiter_key(queue, self.now, number)
        self.put_timed(key, self.now + self.times.lease)
        return key

    def notify_waiters(self, queue: bytes, count: int) -> None:
        """Have so many of those notified that wait for a queue."""
        self.waiters_to_notify[queue] = self.waiters_to_notify.get(queue, 0) + count

    def notify(self) -> bool:
        """Notify the readers and waiters for which there is something; return whether one is of this store."""
        doorbell, readers = self.doorbell, self.readers_to_notify
        own = False
        for number in readers:
            if number == doorbell.number:
                own = True
            else:
                doorbell.notify(number)
        for queue, count in self.waiters_to_notify.items():
            left = count
            while left > 0 and (found := self.scan(k.key(k.WAITER, queue), left)):
                for key, _ in found:  # those that have waited for longest
                    self.remove_due(TimedRecord.unpack(self.take_found(key)).due, key)
                    number = k.waiter_doorbell(key)
                    if number == doorbell.number:
                        own = True
                    elif number not in readers and not doorbell.notify(number):
                        continue  # its process was killed: another one is notified in its place
                    left -= 1
        return own


def entry_need(size: int) -> int:
    """Return the room that a message of *size* bytes takes: a large one has whole pages to itself."""
    need = size + _PER_ENTRY
    return need if need < _PAGE // 2 else (need // _PAGE + 2) * _PAGE
