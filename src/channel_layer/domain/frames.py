"""Frames: what a store keeps for a message or a change, as bytes.

A frame says to whom its payload belongs; it is read by the owner of an inbox without touching the payload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "FLUSH",
    "GROUP",
    "JOIN",
    "LEAVE",
    "MESSAGE",
    "BadFrame",
    "Entry",
    "Flush",
    "GroupFrame",
    "MembershipMarker",
    "Unauthentic",
    "flush_frame",
    "group_frame",
    "group_of",
    "marker_frame",
    "message_frame",
    "message_head",
    "read_flush",
    "read_group",
    "read_marker",
    "read_message",
)

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1

# One byte of kind, then names as one byte of length and ASCII, then the rest. Names are at most 100 bytes.

MESSAGE: Final = ord("m")
GROUP: Final = ord("g")
JOIN: Final = ord("+")
LEAVE: Final = ord("-")
FLUSH: Final = ord("f")


class BadFrame(Exception):
    """Bytes from a store that this library did not write. Counted and skipped, never shown to a consumer."""


class Unauthentic(BadFrame):
    """Bytes that nobody with one of our keys has made for this place and time, or not sealed where they should be.

    The text says what can be known of the cause, and nothing of a key.
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """A message as it left a queue.

    Attributes:
        stamp: when the shard took it in.
        frame: a message frame.
    """

    stamp: float
    frame: bytes


@dataclass(frozen=True, slots=True)
class GroupFrame:
    """A message to a group, as it reaches an inbox.

    Attributes:
        group: the group's name.
        riders: full names of members in this inbox that the inbox's owner did not add itself.
        payload: the encoded message.
    """

    group: str
    riders: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class MembershipMarker:
    """A change of one group's members, at its place among the messages.

    Attributes:
        group: the group's name.
        member: the channel's full name.
        joined: True for a member that came, False for one that left.
        version: the group's version after the change; of two changes of one member, the higher holds.
        age: milliseconds by which the membership is older than the marker.
    """

    group: str
    member: str
    joined: bool
    version: int
    age: int


@dataclass(frozen=True, slots=True)
class Flush:
    """Everything before this point is gone.

    Attributes:
        generation: what places given back are marked with from here on.
    """

    generation: str


def message_frame(channel: str, payload: bytes) -> bytes:
    """Address a payload to one channel."""
    name = channel.encode("ascii")
    return b"m%c%b%b" % (len(name), name, payload)


def group_frame(group: str, riders: Iterable[str], payload: bytes) -> bytes:
    """Address a payload to the members of a group that live in one inbox."""
    name = group.encode("ascii")
    names = "\n".join(riders).encode("ascii")
    return b"g%c%b%b%b%b" % (len(name), name, len(names).to_bytes(4, "big"), names, payload)


def marker_frame(marker: MembershipMarker) -> bytes:
    """Write a membership marker. The Redis scripts write the same bytes."""
    group, member = marker.group.encode("ascii"), marker.member.encode("ascii")
    kind = JOIN if marker.joined else LEAVE
    return b"%c%c%b%c%b%d:%d" % (kind, len(group), group, len(member), member, marker.version, marker.age)


def flush_frame(generation: str) -> bytes:
    """Write a flush marker. The Redis scripts write the same bytes."""
    return b"f" + generation.encode("ascii")


def message_head(frame: bytes) -> bytes:
    """Return what comes before the payload of a message frame, b"" if that is cut short: the same for each message."""
    end = 2 + frame[1] if len(frame) > 1 else 0
    return frame[:end] if end <= len(frame) else b""


def read_message(frame: bytes) -> tuple[str, bytes]:
    """Split a message frame into the channel's full name and the payload.

    Raises:
        BadFrame: this is no message frame.
    """
    if frame[:1] != b"m":
        raise BadFrame(f"not a message: {frame[:1]!r}")
    name, place = _name(frame, 1)
    return name, frame[place:]


def group_of(frame: bytes) -> str:
    """Return the name of the group of a group frame; the rest may be cut short.

    Raises:
        BadFrame: this is no group frame, or the name is cut short, or not ASCII.
    """
    return _group(frame)[0]


def read_group(frame: bytes) -> GroupFrame:
    """Read a group frame.

    Raises:
        BadFrame: this is no group frame, it is cut short, or not ASCII where it should be.
    """
    group, place = _group(frame)
    end = place + 4 + int.from_bytes(frame[place : place + 4], "big")
    if end > len(frame):
        raise BadFrame("a group frame is cut short")
    riders = _ascii(frame[place + 4 : end])
    return GroupFrame(group, tuple(riders.split("\n")) if riders else (), frame[end:])


def read_marker(frame: bytes) -> MembershipMarker:
    """Read a membership marker.

    Raises:
        BadFrame: this is no marker, it is cut short or malformed.
    """
    if frame[:1] not in {b"+", b"-"}:
        raise BadFrame(f"not a membership marker: {frame[:1]!r}")
    group, place = _name(frame, 1)
    member, place = _name(frame, place)
    version, _, age = _ascii(frame[place:]).partition(":")
    return MembershipMarker(group, member, frame[0] == JOIN, _number(version), _number(age))


def read_flush(frame: bytes) -> Flush:
    """Read a flush marker.

    Raises:
        BadFrame: this is no flush marker, or it is not ASCII.
    """
    if frame[:1] != b"f":
        raise BadFrame(f"not a flush marker: {frame[:1]!r}")
    return Flush(_ascii(frame[1:]))


def _group(frame: bytes) -> tuple[str, int]:
    if frame[:1] != b"g":
        raise BadFrame(f"not a message to a group: {frame[:1]!r}")
    return _name(frame, 1)


def _name(frame: bytes, place: int) -> tuple[str, int]:
    if place >= len(frame):
        raise BadFrame("a frame is cut short")
    end = place + 1 + frame[place]
    if end > len(frame):
        raise BadFrame("a frame is cut short")
    return _ascii(frame[place + 1 : end]), end


def _number(text: str) -> int:
    try:
        number = int(text)
    except ValueError as exc:
        raise BadFrame("a marker's version or age is not a number") from exc
    if not _INT_MIN <= number <= _INT_MAX:  # nobody may meet a number that does not fit in a float
        raise BadFrame("a marker's version or age is out of range")
    return number


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise BadFrame("a name in a frame is not ASCII") from exc
