"""The keys of all records: a letter for the kind, then names, each ended by a zero byte, then numbers.

No name holds a zero byte, so a key can be read in one way only. The keys of the entries of a queue, or of the members
of a group, are next to each other, in the order in which they are needed.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = (
    "CLAIM",
    "DUE",
    "ENTRY",
    "FLUSH",
    "FRAME",
    "GROUP",
    "GROUP_INBOX",
    "GROUP_UNREAD",
    "INBOX",
    "JOIN_ORDER",
    "KINDS",
    "LEFT",
    "METER",
    "OTHER",
    "OWNED",
    "QUEUE",
    "READER",
    "UNREAD_COUNT",
    "VERSION",
    "WAITER",
    "below",
    "due_key",
    "due_target",
    "moment",
    "numbered",
    "single",
    "waiter_doorbell",
    "waiter_key",
)

QUEUE: Final = b"q"
ENTRY: Final = b"m"
GROUP_UNREAD: Final = b"u"
CLAIM: Final = b"c"
READER: Final = b"a"
INBOX: Final = b"l"
FRAME: Final = b"s"
UNREAD_COUNT: Final = b"n"
GROUP: Final = b"g"
OWNED: Final = b"o"
OTHER: Final = b"p"
JOIN_ORDER: Final = b"t"
GROUP_INBOX: Final = b"i"
LEFT: Final = b"x"
WAITER: Final = b"w"
FLUSH: Final = b"f"
VERSION: Final = b"v"
METER: Final = b"r"
DUE: Final = b"e"

KINDS: Final = {
    QUEUE: "queue that is popped: where its entries begin and end",
    ENTRY: "entry of a queue that is popped: the time, then the frame",
    GROUP_UNREAD: "channel that got a group message, nothing being taken from its queue since, and when",
    CLAIM: "claim: the reader of an inbox that is not owned",
    READER: "reader of a queue: the doorbell of its process",
    INBOX: "owned inbox: its lease, its generation, where its entries begin and end, which readers wait for more",
    FRAME: "entry of an owned inbox: the time, then the frame",
    UNREAD_COUNT: "unread messages of one channel of an owned inbox",
    GROUP: "group: how many members, its version",
    OWNED: "member of a group that the owner of its inbox added, and when",
    OTHER: "other member of a group, and when it joined",
    JOIN_ORDER: "the members of a group in the order of joining",
    GROUP_INBOX: "inbox with members that its owner added to a group: how many, and the version of the last one",
    LEFT: "member that left a group not long ago",
    WAITER: "process or thread that waits for a queue, in the order of coming",
    FLUSH: "epoch: the last flush, and when it was",
    VERSION: "the last version given to any group",
    METER: "statistics of a queue, and without a name of all queues",
    DUE: "what has to be looked at when its time has come, in the order of time",
}
"""What each letter stands for."""

_ZERO_HOUR: Final = 2.0**31
"""Seconds added to every time that is a part of a key: none is below 0 then, not even that of a member that joined
before the machine was started."""

_NUMBER = struct.Struct(">Q")


def single(kind: bytes, name: bytes) -> bytes:
    """Return the key of a record of which there is one for a name."""
    return b"%b%b\0" % (kind, name)


def below(kind: bytes, name: bytes, part: bytes = b"") -> bytes:
    """Return the key of a part of what has that name, or without a part the prefix of all their keys."""
    return b"%b%b\0%b" % (kind, name, part)


def numbered(kind: bytes, name: bytes, number: int) -> bytes:
    """Return the key of an entry."""
    return b"%b%b\0%b" % (kind, name, _NUMBER.pack(number))


def moment(when: float) -> bytes:
    """Return a time in 8 bytes whose order is the order of time, to the microsecond."""
    return _NUMBER.pack(max(0, round((when + _ZERO_HOUR) * 1e6)))


def due_key(when: float, target: bytes) -> bytes:
    """Return the key of the entry that says when the record *target* has to be looked at."""
    return DUE + moment(when) + target


def waiter_key(name: bytes, when: float, number: int) -> bytes:
    """Return the key of the record of a waiter; *number* is its doorbell."""
    return below(WAITER, name, moment(when) + _NUMBER.pack(number))


def waiter_doorbell(key: bytes) -> int:
    """Return the doorbell in such a key."""
    return int(_NUMBER.unpack(key[-8:])[0])


def due_target(key: bytes) -> tuple[bytes, bytes]:
    """Split the key of such an entry into its moment and the record's key."""
    return key[1:9], key[9:]
