"""One transaction, as those who carry out commands in it see it: records, time, room, and who has to be called.

Records are read once, changed as objects and written at the end. What is looked for at the end of its time stands in an
index in the order of time (`DUE`), so that sweeping costs what there is to remove, and nothing else.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import (
    GroupInbox,
    GroupRecord,
    InboxRecord,
    QueueRecord,
    TimedRecord,
    pack_entry,
    split_entry,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import lmdb

    from channel_layer.domain.rules import Rules
    from channel_layer_ipc._doorbell import Doorbell

__all__ = ("Times", "Transaction")

_COUNT = struct.Struct(">I")
_VERSION = struct.Struct(">Q")

_PER_ENTRY: Final = 128
"""Bytes of room that an entry takes beside its own: its key, its place in a page, and that pages are not full."""

_PAGE: Final = 4096

_UNCOUNTED: Final = 10
"""Times ``expiry`` for which it is known how many messages were swept from a queue that nobody uses."""


@dataclass(frozen=True, slots=True)
class Times:
    """How long things live, in seconds, and how much an inbox holds.

    Attributes:
        expiry: a message.
        lease: a lease, and a claim.
        group: a member that the owner of its inbox did not add; a group without a ``group_expiry`` that nobody touches.
        owned: a member that the owner of its inbox added; None: as long as he lives.
        left: how long it is remembered who has left.
        inbox_capacity: entries that a minted inbox may hold.
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


class Transaction:
    """What one transaction does.

    Args:
        handle: the transaction; it may write.
        times: how long things live.
        now: what time it is, for all that is done in it.
        measure: finds out how many bytes messages may take, given how many are wanted.
        database: what holds all records.
        doorbell: the one of the store that carries this out.

    Attributes:
        places: of those who wait for queues and are known to the one who carries this out, the keys of their records,
            as this transaction leaves them.
        attended: whether somebody attends to a queue, as far as it is known.
        calls: queues, and how many of those who wait for each are to be called.
        readers_to_notify: doorbells of readers that are to be rung.
        committed: what is to be done once all this is in the store.
        overflowed: a message was refused because the memory is full.
    """

    __slots__ = (
        "_crowds",
        "_cursor",
        "_database",
        "_handle",
        "_lines",
        "_measure",
        "_minted",
        "_room",
        "_version",
        "attended",
        "calls",
        "committed",
        "doorbell",
        "now",
        "overflowed",
        "places",
        "readers_to_notify",
        "times",
        "wrote",
    )

    def __init__(
        self,
        handle: lmdb.Transaction[bytes],
        times: Times,
        now: float,
        measure: Callable[[int], int],
        database: lmdb._Database,
        doorbell: Doorbell,
    ) -> None:
        self._handle = handle
        self._database = database
        self._cursor: lmdb.Cursor[bytes] | None = None
        self._lines: dict[bytes, QueueRecord | None] = {}
        self._minted: dict[bytes, InboxRecord | None] = {}
        self._crowds: dict[bytes, GroupRecord | None] = {}
        self._version: int | None = None
        self.times = times
        self.now = now
        self._measure = measure
        self._room: int | None = None
        self.doorbell: Doorbell = doorbell
        self.attended: dict[bytes, bool] = {}
        self.places: dict[str, bytes | None] = {}
        self.calls: dict[bytes, int] = {}
        self.readers_to_notify: set[int] = set()
        self.committed: list[Callable[[], None]] = []
        self.overflowed = False
        self.wrote = False

    # -- bytes

    def get(self, key: bytes) -> bytes | None:
        """Return what stands under a key."""
        return self._handle.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Write something under a key."""
        self.wrote = True
        self._handle.put(key, value)

    def take(self, key: bytes) -> bytes | None:
        """Remove what stands under a key, and return it."""
        self.wrote = True
        return self._handle.pop(key)

    def remove(self, key: bytes) -> bool:
        """Remove what stands under a key; whether there was anything."""
        self.wrote = True
        return self._handle.delete(key)

    def scan(self, start: bytes, most: int | None = None) -> list[tuple[bytes, bytes]]:
        """Return what stands under all keys that begin so, in their order.

        Args:
            start: the beginning.
            most: how many at most; None: all.
        """
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._handle.cursor()
        found: list[tuple[bytes, bytes]] = []
        more = cursor.set_range(start)
        while more and (most is None or len(found) < most):
            key, value = cursor.item()
            if not key.startswith(start):
                break
            found.append((key, value))
            more = cursor.next()
        return found

    def clear(self, start: bytes) -> int:
        """Remove all that stands under keys that begin so; how many that were."""
        found = self.scan(start)
        for key, _ in found:
            self.remove(key)
        return len(found)

    def empty(self) -> None:
        """Remove everything."""
        self.save()
        self.wrote = True
        self._cursor = None
        self._handle.drop(self._database, delete=False)
        self._lines, self._minted, self._crowds = {}, {}, {}

    def save(self) -> None:
        """Write all objects that have changed."""
        for line in self._lines.values():
            if line is not None and line.changed:
                line.changed = False
                line.known = self._schedule(k.single(k.QUEUE, line.name), line.due, known=line.known)
                self.put(k.single(k.QUEUE, line.name), line.pack())
        for inbox in self._minted.values():
            if inbox is not None and inbox.changed:
                self._save_inbox(inbox)
        for crowd in self._crowds.values():
            if crowd is not None and crowd.changed:
                crowd.changed = False
                crowd.known = self._schedule(k.single(k.GROUP, crowd.name), crowd.due, known=crowd.known)
                self.put(k.single(k.GROUP, crowd.name), crowd.pack())

    def _save_inbox(self, inbox: InboxRecord) -> None:
        inbox.changed = False
        inbox.known = self._schedule(k.single(k.INBOX, inbox.name), inbox.due, known=inbox.known)
        self.put(k.single(k.INBOX, inbox.name), inbox.pack())
        for channel, (count, changed) in inbox.counts.items():
            if changed:
                inbox.counts[channel] = count, False
                if count > 0:
                    self.put(k.below(k.UNREAD_COUNT, inbox.name, channel), _COUNT.pack(count))
                else:
                    self.remove(k.below(k.UNREAD_COUNT, inbox.name, channel))

    def _schedule(self, target: bytes, due: float, *, known: bool) -> bool:
        if not known:
            self.put(k.due_key(due, target), b"")
        return True

    # -- room

    def has_room(self, need: int) -> bool:
        """Whether there is so much room; that is not looked for before somebody asks."""
        room = self._room
        if room is None:
            room = self._room = self._measure(need)
        return need <= room

    def admit(self, size: int) -> bool:
        """Take room for a message; False if there is none.

        Args:
            size: bytes of it.
        """
        need = entry_need(size)
        if not self.has_room(need):
            self.overflowed = True
            return False
        self._room = (self._room or 0) - need
        return True

    # -- small records that end by themselves

    def timed(self, key: bytes) -> TimedRecord | None:
        """Return one, unless it is over."""
        data = self.get(key)
        if data is None:
            return None
        record = TimedRecord.unpack(data)
        return record if record.until > self.now else None

    def put_timed(self, key: bytes, until: float, rest: bytes = b"") -> None:
        """Write one; if there is one already it is looked at when that would have been."""
        data = self.get(key)
        due = until
        if data is None:
            self._schedule(key, due, known=False)
        else:
            due = TimedRecord.unpack(data).due
        self.put(key, TimedRecord(due, until, rest).pack())

    def remove_timed(self, key: bytes) -> bool:
        """Remove one; whether there was one."""
        data = self.take(key)
        if data is None:
            return False
        self.remove(k.due_key(TimedRecord.unpack(data).due, key))
        return True

    # -- queues that are popped

    def line(self, name: bytes) -> QueueRecord | None:
        """Return a queue, if there is one."""
        if name in self._lines:
            return self._lines[name]
        data = self.get(k.single(k.QUEUE, name))
        line = self._lines[name] = QueueRecord.unpack(name, data) if data is not None else None
        return line

    def make_line(self, name: bytes, until: float) -> QueueRecord:
        """Return a queue, a new one if there is none, that lives until then at least."""
        line = self.line(name)
        if line is None:
            noted = bool(self.scan(k.below(k.GROUP_UNREAD, name), 1))
            line = self._lines[name] = QueueRecord(name, until, until, noted=noted)
        line.until = max(line.until, until)
        line.changed = True
        return line

    def drop_line(self, line: QueueRecord) -> None:
        """Remove a queue with all that is in it."""
        for number in range(line.head, line.tail):
            self.remove(k.numbered(k.ENTRY, line.name, number))
        if line.known:
            self.remove(k.single(k.QUEUE, line.name))
            self.remove(k.due_key(line.due, k.single(k.QUEUE, line.name)))
        self._lines[line.name] = None

    def expire(self, line: QueueRecord) -> int:
        """Remove from the head of a queue what is too old; return how many messages that were, and were not counted."""
        limit = self.now - self.times.expiry
        head = line.head
        while head < line.tail:
            data = self.get(k.numbered(k.ENTRY, line.name, head))
            if data is not None and split_entry(data)[0] > limit:
                break
            self.remove(k.numbered(k.ENTRY, line.name, head))
            head += 1
        expired = line.expired + head - line.head
        if expired:
            line.head, line.expired, line.changed = head, 0, True
        return expired

    def call(self, name: bytes, count: int) -> None:
        """See to it that so many of those who wait for a queue are called."""
        self.calls[name] = self.calls.get(name, 0) + count

    # -- minted inboxes

    def minted(self, name: bytes) -> InboxRecord | None:
        """Return an inbox that was minted, whether its owner lives or not."""
        if name in self._minted:
            return self._minted[name]
        data = self.get(k.single(k.INBOX, name))
        inbox = self._minted[name] = InboxRecord.unpack(name, data) if data is not None else None
        return inbox

    def living(self, name: bytes) -> InboxRecord | None:
        """Return an inbox whose owner lives."""
        inbox = self.minted(name)
        return inbox if inbox is not None and inbox.until > self.now else None

    def make_inbox(self, name: bytes) -> InboxRecord:
        """Make a new inbox, with an owner who lives."""
        until = self.now + self.times.lease
        # No number is given twice, not even to entries of an inbox that was here before.
        first = max(1, round(self.now * 1e6))
        inbox = self._minted[name] = InboxRecord(name, until, until, first, first, changed=True)
        return inbox

    def append(self, inbox: InboxRecord, stamp: float, frame: bytes) -> None:
        """Put an entry into an inbox; who reads it is called."""
        self.put(k.numbered(k.FRAME, inbox.name, inbox.tail), pack_entry(stamp, frame))
        inbox.tail += 1
        inbox.changed = True
        if inbox.readers:
            self.readers_to_notify.update(inbox.readers)
            inbox.readers = ()

    def entry(self, inbox: InboxRecord, number: int) -> tuple[float, bytes]:
        """Return an entry of an inbox."""
        data = self.get(k.numbered(k.FRAME, inbox.name, number))
        return split_entry(data) if data is not None else (self.now, b"")

    def entries(self, inbox: InboxRecord, count: int, size: int) -> list[tuple[float, bytes]]:
        """Return the first entries of an inbox.

        Args:
            inbox: it; it holds one at least.
            count: entries at most.
            size: bytes after which there is no further one.
        """
        cursor = self._cursor
        if cursor is None:
            cursor = self._cursor = self._handle.cursor()
        cursor.set_range(k.numbered(k.FRAME, inbox.name, inbox.head))
        left = min(count, inbox.size)
        found: list[tuple[float, bytes]] = []
        for data in cursor.iternext(keys=False, values=True):
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
                self.remove(k.numbered(k.FRAME, inbox.name, number))
            inbox.head, inbox.changed = head, True

    def drop_inbox(self, inbox: InboxRecord) -> None:
        """Remove an inbox with all that belongs to it."""
        self.trim(inbox, inbox.tail)
        self.clear(k.below(k.UNREAD_COUNT, inbox.name))
        if inbox.known:
            self.remove(k.single(k.INBOX, inbox.name))
            self.remove(k.due_key(inbox.due, k.single(k.INBOX, inbox.name)))
        self._minted[inbox.name] = None

    def unread(self, inbox: InboxRecord, channel: bytes) -> int:
        """Return how many messages of a channel are unread."""
        known = inbox.counts.get(channel)
        if known is not None:
            return known[0]
        data = self.get(k.below(k.UNREAD_COUNT, inbox.name, channel))
        count = int(_COUNT.unpack(data)[0]) if data is not None else 0
        inbox.counts[channel] = count, False
        return count

    def set_unread(self, inbox: InboxRecord, channel: bytes, count: int) -> None:
        """Set how many messages of a channel are unread."""
        inbox.counts[channel] = max(0, count), True
        inbox.changed = True

    # -- groups

    def crowd(self, name: bytes) -> GroupRecord | None:
        """Return a group without the memberships that are over; None if nobody is left."""
        if name in self._crowds:
            return self._crowds[name]
        data = self.get(k.single(k.GROUP, name))
        crowd = GroupRecord.unpack(name, data) if data is not None else None
        if crowd is not None and crowd.until <= self.now:
            self.drop_crowd(crowd)
            return None
        self._crowds[name] = crowd
        if crowd is not None:
            self._end_memberships(crowd)
        return self._crowds[name]

    def make_crowd(self, name: bytes) -> GroupRecord:
        """Return a group, a new one if there is none, that lives for the time of a membership at least."""
        until = self.now + self.times.group
        crowd = self.crowd(name)
        if crowd is None:
            crowd = self._crowds[name] = GroupRecord(name, until, until)
        crowd.until = max(crowd.until, until)
        crowd.changed = True
        return crowd

    def settle_crowd(self, crowd: GroupRecord) -> None:
        """Keep a group whose members have changed, or nothing of it if nobody is left."""
        crowd.changed = True
        if crowd.owned <= 0 and crowd.others <= 0:
            self.drop_crowd(crowd)

    def drop_crowd(self, crowd: GroupRecord) -> None:
        """Remove a group with all its members."""
        for kind in (k.OWNED, k.OTHER, k.JOIN_ORDER, k.GROUP_INBOX):
            self.clear(k.below(kind, crowd.name))
        if crowd.known:
            self.remove(k.single(k.GROUP, crowd.name))
            self.remove(k.due_key(crowd.due, k.single(k.GROUP, crowd.name)))
        self._crowds[crowd.name] = None

    def next_version(self) -> int:
        """Return a version that no group has had."""
        version = self.last_version() + 1
        self._version = version
        self.put(k.VERSION, _VERSION.pack(version))
        return version

    def last_version(self) -> int:
        """Return the last version that any group got."""
        version = self._version
        if version is None:
            data = self.get(k.VERSION)
            version = self._version = int(_VERSION.unpack(data)[0]) if data is not None else 0
        return version

    def add_member(self, crowd: GroupRecord, kind: bytes, member: bytes, joined: float) -> bool:
        """Write a member down, whether it is one or not; whether it is new.

        Args:
            crowd: the group.
            kind: `OWNED` or `OTHER`.
            member: the full name.
            joined: when it joined.
        """
        new = not self.remove_member(crowd, kind, member)
        self.put(k.below(kind, crowd.name, member), pack_entry(joined, b""))
        self.put(self._since(crowd, kind, member, joined), b"")
        self._count(crowd, kind, 1)
        return new

    def remove_member(self, crowd: GroupRecord, kind: bytes, member: bytes) -> bool:
        """Remove a member; whether it was one."""
        data = self.take(k.below(kind, crowd.name, member))
        if data is None:
            return False
        self.remove(self._since(crowd, kind, member, split_entry(data)[0]))
        self._count(crowd, kind, -1)
        return True

    def has_member(self, crowd: GroupRecord, kind: bytes, member: bytes) -> bool:
        """Whether somebody is a member."""
        return self.get(k.below(kind, crowd.name, member)) is not None

    def members(self, crowd: GroupRecord, kind: bytes, start: bytes = b"") -> list[bytes]:
        """Return the full names of members that begin so."""
        skip = len(crowd.name) + 2
        return [key[skip:] for key, _ in self.scan(k.below(kind, crowd.name, start))]

    def homes(self, crowd: GroupRecord) -> list[bytes]:
        """Return the inboxes that hold members which their owners added."""
        skip = len(crowd.name) + 2
        return [key[skip:] for key, _ in self.scan(k.below(k.GROUP_INBOX, crowd.name))]

    def home(self, crowd: GroupRecord, inbox: bytes) -> GroupInbox | None:
        """Return one of these inboxes."""
        data = self.get(k.below(k.GROUP_INBOX, crowd.name, inbox))
        return GroupInbox.unpack(data) if data is not None else None

    def put_home(self, crowd: GroupRecord, inbox: bytes, home: GroupInbox) -> None:
        """Write one of these inboxes, or remove it if it holds no member any more."""
        key = k.below(k.GROUP_INBOX, crowd.name, inbox)
        if home.members > 0:
            self.put(key, home.pack())
        else:
            self.remove(key)

    def drop_home(self, crowd: GroupRecord, inbox: bytes) -> None:
        """Remove an inbox from a group, with the members that its owner added."""
        for member in self.members(crowd, k.OWNED, inbox):
            self.remove_member(crowd, k.OWNED, member)
        self.remove(k.below(k.GROUP_INBOX, crowd.name, inbox))

    def remove_owned(self, crowd: GroupRecord, member: bytes) -> bool:
        """Remove a member that the owner of its inbox added; whether it was one."""
        if not self.remove_member(crowd, k.OWNED, member):
            return False
        inbox = member[: member.index(b"!") + 1]
        home = self.home(crowd, inbox)
        if home is not None:
            self.put_home(crowd, inbox, GroupInbox(home.version, home.members - 1))
        return True

    def _end_memberships(self, crowd: GroupRecord) -> None:
        limits = ((k.OWNED, self.times.owned), (k.OTHER, self.times.group))
        ended = 0
        for kind, lasts in limits:
            if lasts is None or not (crowd.owned if kind == k.OWNED else crowd.others):
                continue
            start = k.below(k.JOIN_ORDER, crowd.name, kind)
            last = k.moment(self.now - lasts)
            while first := self.scan(start, 1):
                rest = first[0][0][len(start) :]
                if rest[:8] > last:
                    break
                if kind == k.OWNED:
                    self.remove_owned(crowd, rest[8:])
                else:
                    self.remove_member(crowd, kind, rest[8:])
                ended += 1
        if ended:
            self.settle_crowd(crowd)

    def _since(self, crowd: GroupRecord, kind: bytes, member: bytes, joined: float) -> bytes:
        return k.below(k.JOIN_ORDER, crowd.name, kind + k.moment(joined) + member)

    def _count(self, crowd: GroupRecord, kind: bytes, change: int) -> None:
        if kind == k.OWNED:
            crowd.owned += change
        else:
            crowd.others += change
        crowd.changed = True

    # -- what is over

    def sweep(self, most: int) -> bool:
        """Remove what is over.

        Who waits does so by another clock, which stands still while the machine sleeps: so his time may seem to be
        over, and he still be there.

        Args:
            most: how many records to look at.

        Returns:
            Whether there may be more.
        """
        now = k.moment(self.now)
        for _ in range(most):
            first = self.scan(k.DUE, 1)
            if not first:
                return False
            when, target = k.due_target(first[0][0])
            if when > now:
                return False
            self.remove(first[0][0])
            self._look_at(target)
        return True

    def _look_at(self, target: bytes) -> None:
        """Look at a record whose time may have come, and that stands in the index no more."""
        kind, name = target[:1], target[1:-1]
        record: QueueRecord | InboxRecord | GroupRecord | None
        if kind == k.QUEUE:
            record = self.line(name)
        elif kind == k.INBOX:
            record = self.minted(name)
        elif kind == k.GROUP:
            record = self.crowd(name)
        else:
            self._look_at_timed(target)
            return
        if record is None:
            return
        if isinstance(record, QueueRecord) and record.until <= self.now and record.size:
            # Whoever reads or fills it next counts them, unless nobody does for long.
            record.expired += record.size
            self.clear(k.below(k.ENTRY, record.name))
            record.head = record.tail
            record.until = self.now + _UNCOUNTED * self.times.expiry
        due = record.until
        if (
            isinstance(record, InboxRecord)
            and due <= self.now
            and record.owner
            and self.doorbell.has_listener(record.owner)
        ):
            # Its owner was held up, or the machine slept: he comes back, and there is news of his groups in it.
            due = self.now + self.times.lease
        if due > self.now:
            record.due, record.known, record.changed = due, False, True
        elif isinstance(record, QueueRecord):
            self.drop_line(record)
        elif isinstance(record, InboxRecord):
            self.drop_inbox(record)
        else:
            self.drop_crowd(record)

    def _look_at_timed(self, target: bytes) -> None:
        data = self.get(target)
        if data is None:
            return
        record = TimedRecord.unpack(data)
        until = record.until
        if until <= self.now and target[:1] == k.WAITER and self.doorbell.has_listener(k.waiter_doorbell(target)):
            until = self.now + self.times.lease
        if until > self.now:
            self._schedule(target, until, known=False)
            self.put(target, TimedRecord(until, until, record.rest).pack())
        else:
            self.remove(target)


def entry_need(size: int) -> int:
    """Return the room that a message of *size* bytes takes: a large one has whole pages to itself."""
    need = size + _PER_ENTRY
    return need if need < _PAGE // 2 else (need // _PAGE + 2) * _PAGE
