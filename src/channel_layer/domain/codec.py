"""Messages as bytes: what a message may hold, and msgpack.

A message is checked when it is sent, and the error gives the path of the wrong value, because a value that fails only
at the receiver stops a consumer that is not at fault. A payload is decoded once for each recipient, so that no two
recipients share an object.

Source: the ASGI channel layer specification, "Messages".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeGuard

import msgpack

from channel_layer.domain.frames import BadFrame, Unauthentic
from channel_layer.errors import InvalidMessage, MessageTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("PLAIN", "SEALED", "Message", "MsgpackCodec", "Value", "is_flat")

Value: TypeAlias = bytes | str | int | float | bool | list["Value"] | dict[str, "Value"] | None
"""What a message may hold. Ints are 64 bits signed; tuples are accepted and arrive as lists."""

Message: TypeAlias = dict[str, Value]
"""A message as it is received."""

PLAIN: Final = b"\x01"
"""First byte of a payload that is not encrypted: msgpack."""

SEALED: Final = frozenset({b"\x02", b"\x03"})
"""First bytes of sealed payloads: AES-256-GCM and Fernet. Other values are reserved for later formats."""

_MAX_DEPTH = 100
"""Levels of lists and dicts, the message included. JSON parsers stop between 128 (Rust's serde) and 1000."""

_MAX_PATH = 200
"""Characters of a path in an error; keys may be long, and the path in a value that contains itself has no end."""

_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1
_PLAIN_DEPTH = 8
"""Levels that the fast check of a message inspects; deeper ones are left to the full check."""

_SMALL = 4096
"""Bytes below which a payload is copied, which is faster than a view, and remembered once it has been checked."""

_REMEMBERED = 64
"""Payloads that are remembered as valid messages: the members of a group decode the same few repeatedly."""

_unpack: Final = msgpack.unpackb
"""With its defaults, str stays str, and keys are str or bytes."""

_SIMPLE = frozenset({str, bytes, float, bool, type(None)})
_ALLOWED = "bytes, str, int, float, bool, None, list, dict"
_ITEMS: Final[object] = vars(dict)["items"]

_ALL_VALUES = ("getlist", "getall", "get_list", "get_all")
"""How mappings whose ``items()`` shows one of several values of a key call the method that returns all of them.

Source: Django, werkzeug, starlette, boltons; multidict, WebOb; httpx, tornado; wsgiref.
"""

_TOO_DEEP = f"more than {_MAX_DEPTH} levels deep; does a list or dict contain itself?"


class MsgpackCodec:
    """Messages as msgpack, strictly: bytes and str stay distinct, keys are str.

    Args:
        max_size: bytes that an encoded message may have.
    """

    __slots__ = ("_checked", "_max_size", "_packer")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._checked: dict[int, bytes] = {}
        """Payloads that are known to hold a message, by the id of the bytes object."""
        self._packer = msgpack.Packer()

    def encode(self, message: object, /) -> bytes:
        """Turn a message into bytes: see `channel_layer.ports.Codec`. An error holds the path of the wrong value."""
        plain = _is_plain(message)
        if not plain:
            _check(message)
        try:
            # One packer is enough for a plain message: packing it runs no code of the values, so no other thread can
            # enter.
            packed = self._packer.pack(message) if plain else msgpack.packb(message)
        except (TypeError, ValueError) as exc:  # a lone surrogate; a lazy object that is only declared as a str
            raise _refusal(_culprit(message), str(exc)) from exc
        if len(packed) > self._max_size:
            raise MessageTooLarge(len(packed), self._max_size)
        return PLAIN + packed

    def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
        """Turn bytes into a message: see `channel_layer.ports.Codec`."""
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
            self._checked[id(payload)] = payload  # keeping the object keeps its id from being reused
        return message


def _check(message: object) -> None:
    if not _is_dict(message):
        advice = _keep_all(message)
        raise _refusal("", advice) if advice else InvalidMessage(f"a message is a dict, not {_kind(message)}")
    if (fault := _fault(message, 0)) is not None:
        raise _refusal(*fault)


def _is_message(value: object) -> TypeGuard[Message]:
    return _is_dict(value) and _fault(value, 0) is None


def _is_plain(value: object, depth: int = 0) -> TypeGuard[Message]:
    """Return whether *value* is a message of the most common kind, in which the slower `_fault` would find nothing."""
    if not _is_just_dict(value):
        return False
    for key, item in value.items():
        if type(key) is not str or not (type(item) in _SIMPLE or _is_plain_item(item, depth)):
            return False
    return True


def is_flat(message: Message) -> bool:
    """Return whether all values are immutable, so that a shallow copy is enough."""
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
    """Find the first thing in *value* that no message may hold; return its path within *value*, and the reason."""
    if depth == _MAX_DEPTH and (_is_dict(value) or _is_list(value)):
        return "", _TOO_DEEP
    if _is_dict(value):
        return _dict_fault(value, depth)
    if isinstance(value, int):
        fits = _INT_MIN <= value <= _INT_MAX
        return None if fits else ("", "an int that does not fit in 64 bits signed; send it as str")
    if _is_list(value):
        if _SIMPLE.issuperset(map(type, value)):  # runs in C: long lists of floats are common
            return None
        for place, item in enumerate(value):
            if type(item) not in _SIMPLE and (fault := _fault(item, depth + 1)) is not None:
                return f"[{place}]{fault[0]}", fault[1]
        return None
    if value is None or isinstance(value, (str, bytes, float)):
        return None
    return "", _keep_all(value) or f"{_kind(value)} is not one of {_ALLOWED}; convert it before sending"


def _dict_fault(value: dict[object, object], depth: int) -> tuple[str, str] | None:
    if type(value) is not dict and (advice := _keep_all(value)):
        return "", advice
    for key, item in value.items():
        if not isinstance(key, str):
            return "", f"the key {key!r:.80} is {_kind(key)}; keys are str"
        if type(item) not in _SIMPLE and (fault := _fault(item, depth + 1)) is not None:
            return f'["{key}"]{fault[0]}', fault[1]
    return None


def _keep_all(value: object) -> str:
    """Return the error about a mapping that may hold several values of a key, and shows one; "" if it is no such one.

    Which value is shown differs, and the others would be lost without a word.
    """
    kind = type(value)
    if not isinstance(value, Mapping) or getattr(kind, "items", None) is _ITEMS:
        return ""
    method = next((name for name in _ALL_VALUES if hasattr(kind, name)), None)
    if method is None:
        return ""
    return (
        f"{kind.__name__} may hold several values of a key, of which only one would be sent; "
        f"send {{key: it.{method}(key) for key in it}} to keep all, or dict(it.items()) for one of each"
    )


def _culprit(value: object) -> str:
    """Return the path within *value*, which msgpack refused, of what it refused."""
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
