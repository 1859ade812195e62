"""The records of queues, inboxes and groups: bytes in, objects to work on, bytes out.

An object lives for one transaction. However many messages a transaction puts into a queue, the queue's record is read
once and written once.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from typing import Self

__all__ = (
    "MAX_READERS",
    "GroupRecord",
    "InboxRecord",
    "QueueRecord",
    "Record",
    "SequenceRecord",
    "TimedRecord",
    "pack_entry",
    "split_entry",
)

_TIMED = struct.Struct(">dd")
_STAMP = struct.Struct(">d")

_LATEST: Final = 2.0**43
"""Seconds; a later time is none, and could not be a part of a key."""

MAX_READERS: Final = 16
"""Doorbells that an inbox remembers; those of processes that were killed go with the next notification."""


@dataclass(slots=True)
class Record(ABC):
    """What a queue, an inbox or a group has in common.

    Attributes:
        name: of the queue, the inbox or the group.
        due: when the record is to be looked at, see `channel_layer_ipc._key_values.KeyValues`.
        until: when it ends, unless it is prolonged.
        stored: it is in the store, and in the index under `due`.
        changed: it has to be written.
    """

    kind: ClassVar[bytes]
    """The kind of its key."""
    what: ClassVar[str]
    """The word for it."""
    layout: ClassVar[struct.Struct]
    """Of the bytes."""

    name: bytes
    due: float
    until: float
    stored: bool = field(default=False, kw_only=True)
    changed: bool = field(default=False, kw_only=True)

    @property
    def key(self) -> bytes:
        """The key of the record."""
        return k.key(self.kind, self.name)

    @abstractmethod
    def pack(self) -> bytes:
        """Return it as bytes."""

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> Self:
        """Make it from such bytes.

        Raises:
            struct.error: they are none.
        """
        return cls(name, *cls.layout.unpack(data), stored=True)

    def lasts(self, now: float) -> bool:
        """Return whether it ends later than *now*."""
        return now < self.until < _LATEST

    def postpone(self, due: float) -> None:
        """Have it looked at later; it is not in the index at present."""
        self.due, self.stored, self.changed = due, False, True


@dataclass(slots=True)
class SequenceRecord(Record):
    """What a queue and an inbox have in common: entries, whose numbers have no gap.

    Attributes:
        head: the number of its first entry.
        tail: the number that its next entry gets.
    """

    entry_kind: ClassVar[bytes]
    """The kind of the keys of its entries."""

    head: int
    tail: int

    @property
    def size(self) -> int:
        """How many entries it holds."""
        return self.tail - self.head

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> Self:
        record = cls(name, *cls.layout.unpack(data), stored=True)
        if record.tail < record.head:
            raise struct.error("it ends before it begins")
        return record


@dataclass(slots=True)
class QueueRecord(SequenceRecord):
    """A queue that is popped. It ends when everything that may be in it is too old.

    Attributes:
        expired: messages that were swept from it, and that no command has counted yet.
        group_unread: some of its channels may have a `channel_layer_ipc._keys.GROUP_UNREAD`.
    """

    kind: ClassVar[bytes] = k.QUEUE
    what: ClassVar[str] = "queue"
    entry_kind: ClassVar[bytes] = k.ENTRY
    layout: ClassVar[struct.Struct] = struct.Struct(">ddQQQ?")

    expired: int = 0
    group_unread: bool = False

    def pack(self) -> bytes:
        return self.layout.pack(self.due, self.until, self.head, self.tail, self.expired, self.group_unread)


@dataclass(slots=True)
class InboxRecord(SequenceRecord):
    """An owned inbox. It ends with its lease.

    Attributes:
        serial: of the last credits that were returned.
        owner: the doorbell of the last reader; 0: there was none.
        readers: the doorbells of the readers that wait for more. Mostly that is one, but an owner goes from one event
            loop to another, and both read for a moment.
        generation: what credits have to bear that are returned.
        flushed: the last generation that the owner has acknowledged.
        counts: unread messages by channel, as far as this transaction has looked; those that it has changed are true.
    """

    kind: ClassVar[bytes] = k.INBOX
    what: ClassVar[str] = "inbox"
    entry_kind: ClassVar[bytes] = k.FRAME
    layout: ClassVar[struct.Struct] = struct.Struct(">ddQQQQBBB")

    serial: int = 0
    owner: int = 0
    readers: tuple[int, ...] = ()
    generation: bytes = b""
    flushed: bytes = b""
    counts: dict[bytes, tuple[int, bool]] = field(default_factory=dict[bytes, tuple[int, bool]])

    def pack(self) -> bytes:
        lengths = len(self.generation), len(self.flushed), len(self.readers)
        head = self.layout.pack(self.due, self.until, self.head, self.tail, self.serial, self.owner, *lengths)
        readers = struct.pack(f">{len(self.readers)}Q", *self.readers)
        return b"%b%b%b%b" % (head, readers, self.generation, self.flushed)

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> Self:
        due, until, head, tail, serial, owner, one, two, three = cls.layout.unpack_from(data)
        if tail < head:
            raise struct.error("it ends before it begins")
        readers = struct.unpack_from(f">{three}Q", data, cls.layout.size)
        start = cls.layout.size + 8 * three
        generation, flushed = data[start : start + one], data[start + one : start + one + two]
        return cls(name, due, until, head, tail, serial, owner, readers, generation, flushed, stored=True)


@dataclass(slots=True)
class GroupRecord(Record):
    """A group. It ends unless a channel joins, or its owner touches it.

    Attributes:
        version: of its last change.
        owned: members that the owners of their inboxes added.
        others: all other members.
    """

    kind: ClassVar[bytes] = k.GROUP
    what: ClassVar[str] = "group"
    layout: ClassVar[struct.Struct] = struct.Struct(">ddQII")

    version: int = 0
    owned: int = 0
    others: int = 0

    def pack(self) -> bytes:
        # The counts are below 0 if they were damaged.
        return self.layout.pack(self.due, self.until, self.version, max(0, self.owned), max(0, self.others))


@dataclass(frozen=True, slots=True)
class TimedRecord:
    """A small record that ends by itself.

    Attributes:
        due: when it is looked at.
        until: when it ends.
        rest: what it says.
    """

    due: float
    until: float
    rest: bytes = b""

    def pack(self) -> bytes:
        return _TIMED.pack(self.due, self.until) + self.rest

    @classmethod
    def unpack(cls, data: bytes) -> TimedRecord:
        try:
            due, until = _TIMED.unpack_from(data)
        except struct.error:
            return _ENDED
        return cls(due, until, data[_TIMED.size :])

    def lasts(self, now: float) -> bool:
        """Return whether it ends later than *now*."""
        return now < self.until < _LATEST


_ENDED: Final = TimedRecord(0.0, 0.0)
"""Stands for a record that is damaged."""


def pack_entry(stamp: float, frame: bytes) -> bytes:
    """Return an entry of a queue or an inbox as bytes."""
    return _STAMP.pack(stamp) + frame


def split_entry(data: bytes) -> tuple[float, bytes]:
    """Split such bytes into the time and the frame; what is damaged has an empty one, which no reader can decode."""
    try:
        (stamp,) = _STAMP.unpack_from(data)
    except struct.error:
        return 0.0, b""
    return stamp, data[8:]
