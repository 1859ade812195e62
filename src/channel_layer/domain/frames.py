"""Frames: the bytes that a store keeps for a message, or for a marker in an owned inbox.

A frame names the recipients of its payload, so the owner of an inbox can distribute it without decoding the payload.

Format: one byte of kind; then names, each as one byte of length and ASCII; then the rest. Names are at most 100 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer.domain.immutable import immutable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "FLUSH",
    "GROUP",
    "JOIN",
    "LEAVE",
    "LOST",
    "MESSAGE",
    "BadFrame",
    "Entry",
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

MESSAGE: Final = ord("m")
GROUP: Final = ord("g")
JOIN: Final = ord("+")
LEAVE: Final = ord("-")
FLUSH: Final = ord("f")
LOST: Final = ord("l")
"""A store found that the inbox has no lease, although its owner may be alive."""


class BadFrame(Exception):
    """Bytes in a store that this library did not write. They are counted and skipped, never shown to a consumer."""


class Unauthentic(BadFrame):
    """Bytes that were not sealed with one of our keys for this channel or group and this time, or not sealed at all.

    The text says what is known of the cause, and nothing about a key.
    """


@immutable
class Entry:
    """A message as it was taken from a queue.

    Attributes:
        stamp: when the shard accepted it, by the clock of the shard.
        frame: a message frame.
    """

    stamp: float
    frame: bytes


@immutable
class GroupFrame:
    """A message to a group, as it reaches an inbox.

    Attributes:
        group: the group's name.
        extra_recipients: extra recipients: full names of members in this inbox that the inbox's owner did not add
            itself.
        payload: the encoded message.
    """

    group: str
    extra_recipients: tuple[str, ...]
    payload: bytes


@immutable
class MembershipMarker:
    """A change in the members of one group, in its order among the messages.

    Attributes:
        group: the group's name.
        member: the channel's full name.
        joined: True for a member that joined, False for one that left.
        version: the group's version after the change; of two changes of one member, the higher version holds.
        age: how much older the membership is than the marker, in milliseconds.
    """

    group: str
    member: str
    joined: bool
    version: int
    age: int


def message_frame(channel: str, payload: bytes) -> bytes:
    """Address a payload to one channel."""
    name = channel.encode("ascii")
    return b"m%c%b%b" % (len(name), name, payload)


def group_frame(group: str, extra_recipients: Iterable[str], payload: bytes) -> bytes:
    """Address a payload to the members of a group that belong to one inbox."""
    name = group.encode("ascii")
    names = "\n".join(extra_recipients).encode("ascii")
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
    """Return the part of a message frame before the payload, the same for each message; b"" if it is cut short."""
    end = 2 + frame[1] if len(frame) > 1 else 0
    return frame[:end] if end <= len(frame) else b""


def read_message(frame: bytes) -> tuple[str, bytes]:
    """Split a message frame into the channel's full name and the payload.

    Raises:
        BadFrame: this is not a message frame.
    """
    if frame[:1] != b"m":
        raise BadFrame(f"not a message: {frame[:1]!r}")
    name, place = _name(frame, 1)
    return name, frame[place:]


def group_of(frame: bytes) -> str:
    """Return the name of the group of a group frame; the rest may be cut short.

    Raises:
        BadFrame: this is not a group frame, or the name is cut short or not ASCII.
    """
    return _group(frame)[0]


def read_group(frame: bytes) -> GroupFrame:
    """Read a group frame.

    Raises:
        BadFrame: this is not a group frame, it is cut short, or a name is not ASCII.
    """
    group, place = _group(frame)
    end = place + 4 + int.from_bytes(frame[place : place + 4], "big")
    if end > len(frame):
        raise BadFrame("a group frame is cut short")
    extra_recipients = _ascii(frame[place + 4 : end])
    return GroupFrame(group, tuple(extra_recipients.split("\n")) if extra_recipients else (), frame[end:])


def read_marker(frame: bytes) -> MembershipMarker:
    """Read a membership marker.

    Raises:
        BadFrame: this is not a marker, or it is cut short or malformed.
    """
    if frame[:1] not in {b"+", b"-"}:
        raise BadFrame(f"not a membership marker: {frame[:1]!r}")
    group, place = _name(frame, 1)
    member, place = _name(frame, place)
    version, _, age = _ascii(frame[place:]).partition(":")
    return MembershipMarker(group, member, frame[0] == JOIN, _number(version), _number(age))


def read_flush(frame: bytes) -> str:
    """Return the generation of a flush marker: that of the inbox from here on, which credits that are returned carry.

    Raises:
        BadFrame: this is not a flush marker, it is cut short, or it is not ASCII.
    """
    if frame[:1] != b"f":
        raise BadFrame(f"not a flush marker: {frame[:1]!r}")
    if not (generation := _ascii(frame[1:])):
        raise BadFrame("a flush marker is cut short")
    return generation


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
    if not _INT_MIN <= number <= _INT_MAX:  # an unbounded int could overflow as a float
        raise BadFrame("a marker's version or age is out of range")
    return number


def _ascii(data: bytes) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise BadFrame("a name in a frame is not ASCII") from exc
