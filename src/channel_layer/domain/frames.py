"""Messages and frames as bytes.

A message is checked when it is sent, with the path of whatever is wrong, because a value that only fails at
the receiver kills an innocent consumer. A frame says to whom its payload belongs; it is read by the owner of
an inbox without touching the payload, which is decoded once for each recipient, so that no two of them share
an object.

Source: the ASGI channel layer specification, "Messages".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

import msgpack

from channel_layer.errors import InvalidMessage, MessageTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = (
    "FLUSH",
    "GROUP",
    "JOIN",
    "LEAVE",
    "MESSAGE",
    "PLAIN",
    "SEALED",
    "BadFrame",
    "Entry",
    "Flush",
    "GroupFrame",
    "MembershipMarker",
    "Message",
    "MsgpackCodec",
    "Unauthentic",
    "Value",
    "flush_frame",
    "group_frame",
    "group_of",
    "is_flat",
    "marker_frame",
    "message_frame",
    "message_head",
    "read_flush",
    "read_group",
    "read_marker",
    "read_message",
)

Value: TypeAlias = bytes | str | int | float | bool | list["Value"] | dict[str, "Value"] | None
"""What a message may hold. Ints are 64 bits signed; tuples are taken and arrive as lists."""

Message: TypeAlias = dict[str, Value]
"""A message as it is received."""

PLAIN: Final = b"\x01"
"""First byte of a payload in plain text: msgpack."""

SEALED: Final = frozenset({b"\x02", b"\x03"})
"""First bytes of sealed payloads: AES-256-GCM and Fernet. Other values are for later formats."""

_MAX_DEPTH = 100
"""Levels of lists and dicts, the message included. JSON parsers stop between 128 (Rust's serde) and 1000."""

_MAX_PATH = 200
"""Characters of a path in an error; keys may be long, and what contains itself has paths without end."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_PLAIN_DEPTH = 8
"""Levels that the quick check of a message looks into; deeper ones are left to the careful one."""

_SMALL = 4096
"""Bytes that are copied sooner than a view of them is made, and kept when they have been checked."""

_REMEMBERED = 64
"""Payloads that are known to be messages; a group's members take the same few again and again."""

_unpack: Final = msgpack.unpackb
"""By its defaults str is str, and keys are str or bytes."""

_SIMPLE = frozenset({str, bytes, float, bool, type(None)})
_ALLOWED = "bytes, str, int, float, bool, None, list, dict"
_TOO_DEEP = f"more than {_MAX_DEPTH} levels deep; does a list or dict contain itself?"


class MsgpackCodec:
    """Messages as msgpack, strictly: bytes and str stay apart, keys are str.

    Args:
        max_size: bytes that an encoded message may have.
    """

    __slots__ = ("_checked", "_max_size", "_packer")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._checked: dict[int, bytes] = {}
        """By the id of its bytes: a payload that holds a message."""
        self._packer = msgpack.Packer()

    def encode(self, message: object, /) -> bytes:
        """Turn a message into bytes.

        Raises:
            InvalidMessage: it is not a dict of the allowed types; the text holds the offending value's path.
            MessageTooLarge: it is over the size limit.
        """
        plain = _is_plain(message)
        if not plain:
            _check(message)
        try:
            # One packer is enough for what is plain: nothing in it is able to run code that lets another thread in.
            packed = self._packer.pack(message) if plain else msgpack.packb(message)
        except (TypeError, ValueError) as exc:  # a lone surrogate; a lazy object that only claims to be a str
            raise _refusal(_culprit(message), str(exc)) from exc
        if len(packed) > self._max_size:
            raise MessageTooLarge(len(packed), self._max_size)
        return PLAIN + packed

    def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
        """Turn bytes back into a message that nobody else holds.

        Args:
            payload: the bytes.
            shared: they went to a group: of all copies only the first is checked.

        Raises:
            BadFrame: these bytes are not an encoded message.
        """
        if shared and self._checked.get(id(payload)) is payload:
            copy: Message = _unpack(payload[1:])
            return copy
        if not payload.startswith(PLAIN):
            if payload[:1] in SEALED:
                raise Unauthentic("a sealed message came in, and this process has no symmetric_encryption_keys")
            raise BadFrame(f"unknown payload format {payload[:1]!r}")
        try:
            message: object = _unpack(payload[1:] if len(payload) < _SMALL else memoryview(payload)[1:])
        except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as exc:
            raise BadFrame(f"not msgpack: {exc}") from exc
        if not (_is_plain(message) or _is_message(message)):
            raise BadFrame("msgpack, but not a message")
        if shared and len(payload) < _SMALL:
            if len(self._checked) >= _REMEMBERED:
                self._checked = {}
            self._checked[id(payload)] = payload  # which keeps it, so that its id is nobody else's
        return message


def _check(message: object) -> None:
    if not _is_dict(message):
        raise InvalidMessage(f"a message is a dict, not {_kind(message)}")
    if (fault := _fault(message, 0)) is not None:
        raise _refusal(*fault)


def _is_message(value: object) -> TypeGuard[Message]:
    return _is_dict(value) and _fault(value, 0) is None


def _is_plain(value: object, depth: int = 0) -> TypeGuard[Message]:
    """Whether *value* is a message of the most common kind: `_fault`, which is slower, would find nothing in it."""
    if not _is_just_dict(value):
        return False
    for key, item in value.items():
        if type(key) is not str or not (type(item) in _SIMPLE or _is_plain_item(item, depth)):
            return False
    return True


def is_flat(message: Message) -> bool:
    """Whether nobody can change any of the values, so that a copy need not be deep."""
    return not any(isinstance(item, (list, dict)) for item in message.values())


def _is_plain_item(item: object, depth: int) -> bool:
    if type(item) is int:
        return _INT_MIN <= item <= _INT_MAX
    if depth == _PLAIN_DEPTH:
        return False
    if _is_just_list(item):
        return _SIMPLE.issuperset(map(type, item)) or all(
            type(each) in _SIMPLE or _is_plain_item(each, depth + 1) for each in item
        )
    return _is_plain(item, depth + 1)


def _is_just_dict(value: object) -> TypeGuard[dict[object, object]]:
    return type(value) is dict


def _is_just_list(value: object) -> TypeGuard[list[object]]:
    return type(value) is list


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    return isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType)


def _fault(value: object, depth: int) -> tuple[str, str] | None:
    """Find the first thing in *value* that no message may hold: where, seen from *value*, and why."""
    if _is_dict(value):
        if depth == _MAX_DEPTH:
            return "", _TOO_DEEP
        for key, item in value.items():
            if not isinstance(key, str):
                return "", f"the key {key!r:.80} is {_kind(key)}; keys are str"
            if type(item) not in _SIMPLE and (fault := _fault(item, depth + 1)) is not None:
                return f'["{key}"]{fault[0]}', fault[1]
        return None
    if isinstance(value, int):
        fits = _INT_MIN <= value <= _INT_MAX
        return None if fits else ("", "an int that does not fit in 64 bits signed; send it as str")
    if _is_list(value):
        if depth == _MAX_DEPTH:
            return "", _TOO_DEEP
        if _SIMPLE.issuperset(map(type, value)):  # at the speed of C: a long list of floats is common
            return None
        for place, item in enumerate(value):
            if type(item) not in _SIMPLE and (fault := _fault(item, depth + 1)) is not None:
                return f"[{place}]{fault[0]}", fault[1]
        return None
    if value is None or isinstance(value, (str, bytes, float)):
        return None
    return "", f"{_kind(value)} is not one of {_ALLOWED}; convert it before sending"


def _culprit(value: object) -> str:
    """Say where in *value*, which msgpack refused, the trouble is."""
    steps: Iterable[tuple[str, object]] = ()
    if _is_dict(value):
        steps = ((f'["{key}"]', item) for key, item in value.items())
    elif _is_list(value):
        steps = ((f"[{place}]", item) for place, item in enumerate(value))
    for step, item in steps:
        try:
            msgpack.packb(item)
        except (TypeError, ValueError):
            return step + _culprit(item)
    return ""


def _refusal(path: str, problem: str) -> InvalidMessage:
    return InvalidMessage(f"message{path if len(path) <= _MAX_PATH else path[:_MAX_PATH] + '...'}: {problem}")


def _kind(value: object) -> str:
    return type(value).__name__


# -- frames ------------------------------------------------------------
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
