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
    "LEFT",
    "METER",
    "OTHER",
    "OWNED",
    "QUEUE",
    "READER",
    "UNREAD_COUNT",
    "VERSION",
    "WAITER",
    "due_key",
    "due_target",
    "key",
    "moment",
    "numbered",
    "waiter_doorbell",
    "waiter_key",
)

QUEUE: Final = b"q"  # queue that is popped: where its entries begin and end
ENTRY: Final = b"m"  # entry of a queue that is popped: the time, then the frame
GROUP_UNREAD: Final = b"u"  # channel that got a group message, nothing being taken from its queue since, and when
CLAIM: Final = b"c"  # claim: the reader of an inbox that is not owned
READER: Final = b"a"  # reader of a queue: the doorbell of its process
INBOX: Final = b"l"  # owned inbox: its lease and generation, where its entries begin and end, which readers wait
FRAME: Final = b"s"  # entry of an owned inbox: the time, then the frame
UNREAD_COUNT: Final = b"n"  # unread messages of one channel of an owned inbox
GROUP: Final = b"g"  # group: how many members, its version
OWNED: Final = b"o"  # member of a group that the owner of its inbox added, and when
OTHER: Final = b"p"  # other member of a group, and when it joined
JOIN_ORDER: Final = b"t"  # the members of a group in the order of joining
GROUP_INBOX: Final = b"i"  # inbox with owned members of a group: how many, and the version of the last one
LEFT: Final = b"x"  # member that left a group not long ago
WAITER: Final = b"w"  # process or thread that waits for a queue, in the order of coming
FLUSH: Final = b"f"  # epoch: the last flush, and when it was
VERSION: Final = b"v"  # the last version given to any group
METER: Final = b"r"  # statistics of a queue, and without a name of all queues
DUE: Final = b"e"  # what has to be looked at when its time has come, in the order of time

_ZERO_HOUR: Final = 2.0**31
"""Seconds added to every time that is a part of a key: none is below 0 then, not even that of a member that joined
before the machine was started."""

_NUMBER = struct.Struct(">Q")


def key(kind: bytes, name: bytes, part: bytes = b"") -> bytes:
    """Return the key of the record of a name, or of a part of it; also what the keys of all parts begin with."""
    return b"%b%b\0%b" % (kind, name, part)


def numbered(kind: bytes, name: bytes, number: int) -> bytes:
    """Return the key of an entry."""
    return b"%b%b\0%b" % (kind, name, _NUMBER.pack(number))


def moment(when: float) -> bytes:
    """Return a time in 8 bytes whose order is the order of time, to the microsecond; the first one of what is none."""
    try:
        return _NUMBER.pack(max(0, round((when + _ZERO_HOUR) * 1e6)))
    except (ValueError, OverflowError, struct.error):  # of a record that is damaged
        return _NUMBER.pack(0)


def due_key(when: float, target: bytes) -> bytes:
    """Return the key of the entry that says when the record *target* has to be looked at."""
    return DUE + moment(when) + target


def due_target(due: bytes) -> tuple[bytes, bytes]:
    """Split the key of such an entry into its moment and the record's key."""
    return due[1:9], due[9:]


def waiter_key(name: bytes, when: float, number: int) -> bytes:
    """Return the key of the record of a waiter; *number* is its doorbell."""
    return key(WAITER, name, moment(when) + _NUMBER.pack(number))


def waiter_doorbell(waiter: bytes) -> int:
    """Return the doorbell in such a key."""
    return int.from_bytes(waiter[-8:])
