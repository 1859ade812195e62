"""A type of messages, as Pydantic reads it: values are turned into messages, and messages into values.

The sender of a wrong message gets the error, with the names of the fields, so receivers need not check. This is an edge
of the core like `channel_layer.config`: no other module of the core that handles messages uses Pydantic.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeGuard, TypeVar

from pydantic import Secret, SecretBytes, SecretStr, TypeAdapter, ValidationError
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from channel_layer.errors import FieldError, InvalidFields, InvalidMessage
from channel_layer.options import describe_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic_core import ErrorDetails
    from typing_extensions import TypeForm

    from channel_layer.domain.codec import Message

__all__ = ("Schema", "Untyped")

T = TypeVar("T")

_AS_IT_IS = frozenset({str, bytes, int, float, bool, type(None)})


class Untyped(Enum):
    """The absence of a type. None cannot mean that, because it is a type itself."""

    DICT = "dict"
    """Any message, as a dict."""


class Schema(Generic[T]):
    """The type of the messages of a channel or a group.

    Args:
        type: a Pydantic model, a dataclass, a ``TypedDict``, or a union of them; `Untyped.DICT`: any message.

    Raises:
        InvalidMessage: Pydantic cannot read *type*; the text says why.
    """

    __slots__ = ("_adapter", "name")

    def __init__(self, type: TypeForm[T] | Untyped) -> None:  # noqa: A002 - named as in `Channel`
        self.name: str = _name(type)
        self._adapter: TypeAdapter[T] | None = None
        if not isinstance(type, Untyped):
            try:
                self._adapter = TypeAdapter(type)
                _ = self._adapter.validator.title  # Pydantic defers references to undefined classes
            except (PydanticUserError, PydanticUndefinedAnnotation) as exc:
                raise InvalidMessage(f"type: {self.name} cannot be a type of messages: {_first_line(exc)}") from exc

    def dump(self, value: T) -> Mapping[str, object]:
        """Turn a value into a message, and check that a receiver will accept it.

        Bytes stay bytes. What a message cannot hold becomes text as in JSON: dates, UUIDs, decimals; members of enums
        become their values.

        Raises:
            InvalidFields: it does not fit the type, or holds something that cannot be sent; see ``errors``.
            InvalidMessage: the type is not dumped as a dict.
        """
        if self._adapter is None:
            return _demand_dict(value, "")
        try:
            # In the form that a receiver validates: with aliases, and without computed fields.
            dumped: object = self._adapter.dump_python(value, by_alias=True, round_trip=True, warnings=False)
            message = _demand_dict(_plain(dumped), f": {self.name} has to be a type that is dumped as one")
        except _Unsendable as exc:
            raise InvalidFields(self.name, [FieldError(_path(exc.path()), exc.problem)]) from None
        except PydanticSerializationError as exc:
            raise InvalidFields(self.name, [FieldError("message", str(exc))]) from exc
        self._validate(message)
        return message

    def load(self, message: Message) -> T:
        """Turn a message into a value.

        Raises:
            InvalidFields: it does not fit the type; ``received`` is the message.
        """
        if self._is_untyped(message):
            return message
        try:
            return self._validate(message)
        except InvalidFields as exc:
            exc.received = message
            raise

    def _is_untyped(self, _message: object) -> TypeGuard[T]:
        """Whether any message is of this type."""
        return self._adapter is None

    def _validate(self, message: Mapping[str, object]) -> T:
        if self._adapter is None:
            raise TypeError("any message is of no type")
        try:
            return self._adapter.validate_python(message)
        except ValidationError as exc:
            problem = exc
        # A strict model accepts text for a date, a UUID or an enum only if it is validated as JSON.
        try:
            return self._adapter.validate_json(json.dumps(message))
        except ValidationError as exc:
            if exc.errors(include_url=False)[0]["type"] != "json_invalid":  # text that JSON cannot represent
                problem = exc
        except TypeError:
            pass  # bytes, which JSON cannot represent
        # Raised outside of the exception handler: Pydantic's exception holds the values.
        raise InvalidFields(self.name, map(_translate, problem.errors(include_url=False)))


# -- what a message may hold ---------------------------------------------------------------------------------


class _Unsendable(Exception):
    """A value that a message cannot hold; each level that it passes adds its step to the path."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps: list[str | int] = []

    def path(self) -> Iterable[str | int]:
        return reversed(self.steps)


def _plain(value: object) -> object:
    """Turn what Pydantic dumps for Python into what a message may hold; bytes stay bytes.

    Pydantic's JSON mode would turn bytes into text, and refuse bytes that are not UTF-8.

    Raises:
        _Unsendable: a value cannot be sent.
    """
    if type(value) in _AS_IT_IS:
        return value
    if _is_dict(value):
        return _plain_dict(value)
    if _is_collection(value):
        return [item if type(item) in _AS_IT_IS else _step(place, item) for place, item in enumerate(value)]
    if isinstance(value, Enum):
        return _plain(value.value)
    if _is_mapping(value):
        return _plain_dict(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, (str, bytes, int, float)):
        return value
    if isinstance(value, (Secret, SecretStr, SecretBytes)):
        raise _Unsendable("a secret is not sent by accident: send what get_secret_value() returns, as a plain field")
    return _as_in_json(value)


def _plain_dict(value: Mapping[object, object]) -> dict[str, object]:
    plain: dict[str, object] = {}
    for key, item in value.items():
        name = key if type(key) is str else _key(key)
        if name in plain:
            raise _Unsendable(f"two keys are {name!r} when they are text, as keys of a message are")
        plain[name] = item if type(item) in _AS_IT_IS else _step(name, item)
    return plain


def _step(step: str | int, item: object) -> object:
    try:
        return _plain(item)
    except _Unsendable as exc:
        exc.steps.append(step)
        raise


def _key(key: object) -> str:
    [name] = _only_dict(_as_in_json({key.value if isinstance(key, Enum) else key: None}))
    return str(name)


def _as_in_json(value: object) -> object:
    try:
        return to_jsonable_python(value, fallback=_by_its_class)
    except (PydanticSerializationError, PydanticUserError, ValueError) as exc:
        raise _Unsendable(f"{describe_value(value)} cannot be sent: {_first_line(exc)}") from exc


def _by_its_class(value: object) -> object:
    """Dump a value by its class: Pydantic may know the class, or the class may define how it is dumped."""
    return TypeAdapter(type(value)).dump_python(value, mode="json", warnings=False)


def _is_dict(value: object) -> TypeGuard[dict[object, object]]:
    return isinstance(value, dict)


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, Mapping)


def _is_collection(
    value: object,
) -> TypeGuard[list[object] | tuple[object, ...] | set[object] | frozenset[object] | deque[object]]:
    return isinstance(value, (list, tuple, set, frozenset, deque))


def _only_dict(value: object) -> Mapping[object, object]:
    return value if _is_mapping(value) else {}


def _is_message(value: object) -> TypeGuard[Mapping[str, object]]:
    """Return whether it is a dict; its keys and values are checked when it is encoded."""
    return isinstance(value, Mapping)


def _demand_dict(value: object, more: str) -> Mapping[str, object]:
    if not _is_message(value):
        raise InvalidMessage(f"a message is a dict, not {type(value).__name__}{more}")
    return value


# -- saying what is wrong ------------------------------------------------------------------------------------


def _translate(error: ErrorDetails) -> FieldError:
    """Turn an error of Pydantic into one in our words, with the type of the value only, because it may be private."""
    problem = error["msg"]
    if error["type"] == "missing":
        problem = "is missing"
    elif error["type"] == "extra_forbidden":
        problem = "there is no such field"
    elif problem.startswith("Input should"):
        value: object = error["input"]
        problem = f"{problem.replace('Input should', 'should', 1)}, not {describe_value(value)}"
    return FieldError(_path(error["loc"]), problem)


def _path(steps: Iterable[str | int]) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps)
    return text.removeprefix(".") or "message"


def _name(type: object) -> str:  # noqa: A002 - as above
    """Return the name of a type, without its arguments."""
    if isinstance(type, Untyped):
        return type.value
    name: object = getattr(type, "__name__", None)
    return name if isinstance(name, str) and name != "Annotated" else f"{type!r:.80}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
