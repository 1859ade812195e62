"""The records that say how queues, inboxes and groups stand: bytes in, objects to work on, bytes out.

An object lives for one transaction. However many messages a transaction puts into a queue, the queue's record is read
once and written once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

__all__ = (
    "MAX_READERS",
    "GroupInbox",
    "GroupRecord",
    "InboxRecord",
    "QueueRecord",
    "TimedRecord",
    "pack_entry",
    "split_entry",
)

_QUEUE = struct.Struct(">ddQQQ?")
_INBOX = struct.Struct(">ddQQQQBBB")
_GROUP = struct.Struct(">ddQII")
_TIMED = struct.Struct(">dd")
_GROUP_INBOX = struct.Struct(">QI")
_STAMP = struct.Struct(">d")

MAX_READERS: Final = 16
"""Doorbells that an inbox remembers; those of processes that were killed go with the next ring."""

_MIDDLE: Final = 2**63
"""The number of a queue's first entry: what is put back at the head counts down from it."""


@dataclass(slots=True)
class QueueRecord:
    """A queue that is popped.

    Attributes:
        name: of the queue.
        due: when it is looked at, see `channel_layer_ipc._keys.DUE`.
        until: when it is over, because all that may be in it is too old then.
        head: the number of its first entry.
        tail: the number that its next entry gets.
        expired: messages that were swept from it, and that nobody has counted yet.
        noted: some of its channels may have a note.
        known: it is in the store, under `due`.
        changed: it has to be written.
    """

    name: bytes
    due: float
    until: float
    head: int = _MIDDLE
    tail: int = _MIDDLE
    expired: int = 0
    noted: bool = False
    known: bool = False
    changed: bool = False

    @property
    def size(self) -> int:
        """How many entries it holds."""
        return self.tail - self.head

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _QUEUE.pack(self.due, self.until, self.head, self.tail, self.expired, self.noted)

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> QueueRecord:
        """Return what those bytes say."""
        due, until, head, tail, expired, noted = _QUEUE.unpack(data)
        return cls(name, due, until, head, tail, expired, noted, known=True)


@dataclass(slots=True)
class InboxRecord:
    """An inbox that its owner reads.

    Attributes:
        name: of the inbox.
        due: when it is looked at.
        until: when its lease ends.
        head: the number of its first entry.
        tail: the number that its next entry gets.
        serial: of the last places that were given back.
        owner: the doorbell of whoever has read it last; 0: nobody has.
        readers: the doorbells of those who wait for more. Mostly that is one, but an owner goes from one event loop
            to another, and both read for a moment.
        generation: what places have to bear that are given back.
        flushed: the last generation that its owner has acknowledged.
        counts: messages unread by channel, as far as this transaction has looked; those that it has changed are true.
        known: it is in the store, under `due`.
        changed: it has to be written.
    """

    name: bytes
    due: float
    until: float
    head: int
    tail: int
    serial: int = 0
    owner: int = 0
    readers: tuple[int, ...] = ()
    generation: bytes = b""
    flushed: bytes = b""
    counts: dict[bytes, tuple[int, bool]] = field(default_factory=dict[bytes, tuple[int, bool]])
    known: bool = False
    changed: bool = False

    @property
    def size(self) -> int:
        """How many entries it holds."""
        return self.tail - self.head

    def pack(self) -> bytes:
        """Return it as bytes, without the counts, which have records of their own."""
        lengths = len(self.generation), len(self.flushed), len(self.readers)
        head = _INBOX.pack(self.due, self.until, self.head, self.tail, self.serial, self.owner, *lengths)
        readers = struct.pack(f">{len(self.readers)}Q", *self.readers)
        return b"%b%b%b%b" % (head, readers, self.generation, self.flushed)

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> InboxRecord:
        """Return what those bytes say."""
        due, until, head, tail, serial, owner, one, two, three = _INBOX.unpack_from(data)
        readers = struct.unpack_from(f">{three}Q", data, _INBOX.size)
        start = _INBOX.size + 8 * three
        generation, flushed = data[start : start + one], data[start + one : start + one + two]
        return cls(name, due, until, head, tail, serial, owner, readers, generation, flushed, known=True)


@dataclass(slots=True)
class GroupRecord:
    """A group.

    Attributes:
        name: of the group.
        due: when it is looked at.
        until: when it is over, unless somebody joins or it is touched.
        version: of its last change.
        owned: members that the owners of their inboxes added.
        others: all other members.
        known: it is in the store, under `due`.
        changed: it has to be written.
    """

    name: bytes
    due: float
    until: float
    version: int = 0
    owned: int = 0
    others: int = 0
    known: bool = False
    changed: bool = False

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _GROUP.pack(self.due, self.until, self.version, self.owned, self.others)

    @classmethod
    def unpack(cls, name: bytes, data: bytes) -> GroupRecord:
        """Return what those bytes say."""
        due, until, version, owned, others = _GROUP.unpack(data)
        return cls(name, due, until, version, owned, others, known=True)


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
        """Return it as bytes."""
        return _TIMED.pack(self.due, self.until) + self.rest

    @classmethod
    def unpack(cls, data: bytes) -> TimedRecord:
        """Return what those bytes say; of the other records, which begin alike, the times."""
        due, until = _TIMED.unpack_from(data)
        return cls(due, until, data[_TIMED.size :])


@dataclass(frozen=True, slots=True)
class GroupInbox:
    """An inbox with members of a group that its owner added.

    Attributes:
        version: of the last that joined.
        members: how many there are.
    """

    version: int
    members: int

    def pack(self) -> bytes:
        """Return it as bytes."""
        return _GROUP_INBOX.pack(self.version, self.members)

    @classmethod
    def unpack(cls, data: bytes) -> GroupInbox:
        """Return what those bytes say."""
        return cls(*_GROUP_INBOX.unpack(data))


def pack_entry(stamp: float, frame: bytes) -> bytes:
    """Return an entry of a queue or an inbox as bytes."""
    return _STAMP.pack(stamp) + frame


def split_entry(data: bytes) -> tuple[float, bytes]:
    """Split such bytes into the time and the frame."""
    (stamp,) = _STAMP.unpack_from(data)
    return stamp, data[8:]
