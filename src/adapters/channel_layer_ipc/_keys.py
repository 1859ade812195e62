"""The keys of all records: a letter for the kind, then names, each ended by a zero byte, then numbers.

No name holds a zero byte, so a key can be read in one way only; and what belongs together (the entries of a queue, the
members of a group) stands together, in the order in which it is needed.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = (
    "ATTENDANT",
    "CLAIM",
    "COUNT",
    "DUE",
    "ENTRY",
    "FLUSH",
    "FRAME",
    "GROUP",
    "HOME",
    "INBOX",
    "KINDS",
    "LEFT",
    "METER",
    "NOTE",
    "OTHER",
    "OWNED",
    "QUEUE",
    "SINCE",
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
NOTE: Final = b"u"
CLAIM: Final = b"c"
ATTENDANT: Final = b"a"
INBOX: Final = b"l"
FRAME: Final = b"s"
COUNT: Final = b"n"
GROUP: Final = b"g"
OWNED: Final = b"o"
OTHER: Final = b"p"
SINCE: Final = b"t"
HOME: Final = b"i"
LEFT: Final = b"x"
WAITER: Final = b"w"
FLUSH: Final = b"f"
VERSION: Final = b"v"
METER: Final = b"r"
DUE: Final = b"e"

KINDS: Final = {
    QUEUE: "queue that is popped: where its entries begin and end",
    ENTRY: "entry of a queue that is popped: the time, then the frame",
    NOTE: "channel that got a message as a member of a group, nothing being taken from its queue since, and when",
    CLAIM: "claim: who reads an inbox that nobody minted",
    ATTENDANT: "who attends to a queue: the doorbell of his process",
    INBOX: "minted inbox: its lease, its generation, where its entries begin and end, who waits for more",
    FRAME: "entry of a minted inbox: the time, then the frame",
    COUNT: "messages unread of one channel of a minted inbox",
    GROUP: "group: how many members, its version",
    OWNED: "member of a group that the owner of its inbox added, and when",
    OTHER: "other member of a group, and when it joined",
    SINCE: "the members of a group in the order of joining",
    HOME: "inbox with members of a group that its owner added: how many, and the version of the last that joined",
    LEFT: "member that left a group not long ago",
    WAITER: "who waits for a queue, in the order of coming",
    FLUSH: "epoch: the last flush, and when it was",
    VERSION: "the last version given to any group",
    METER: "statistics of a queue, and without a name of all queues",
    DUE: "what has to be looked at when its time has come, in the order of time",
}
"""What each letter stands for."""

_ZERO_HOUR: Final = 2.0**31
"""Seconds added to every time that is a part of a key: none is below 0 then, not even that of a member who is said to
have joined before the machine was started."""

_NUMBER = struct.Struct(">Q")


def single(kind: bytes, name: bytes) -> bytes:
    """Return the key of what there is one of for a name."""
    return b"%b%b\0" % (kind, name)


def below(kind: bytes, name: bytes, part: bytes = b"") -> bytes:
    """Return the key of what a name has for a part, or without one the beginning of the keys of all its parts."""
    return b"%b%b\0%b" % (kind, name, part)


def numbered(kind: bytes, name: bytes, number: int) -> bytes:
    """Return the key of an entry."""
    return b"%b%b\0%b" % (kind, name, _NUMBER.pack(number))


def moment(when: float) -> bytes:
    """Return a time in 8 bytes that stand in the order of time, to the microsecond."""
    return _NUMBER.pack(max(0, round((when + _ZERO_HOUR) * 1e6)))


def due_key(when: float, target: bytes) -> bytes:
    """Return the key that says when the record *target* has to be looked at."""
    return DUE + moment(when) + target


def waiter_key(name: bytes, when: float, doorbell: int) -> bytes:
    """Return the key that says that somebody waits for a queue."""
    return below(WAITER, name, moment(when) + _NUMBER.pack(doorbell))


def waiter_doorbell(key: bytes) -> int:
    """Return the doorbell of whoever waits."""
    return int(_NUMBER.unpack(key[-8:])[0])


def due_target(key: bytes) -> tuple[bytes, bytes]:
    """Split such a key into its moment and the record's key."""
    return key[1:9], key[9:]
