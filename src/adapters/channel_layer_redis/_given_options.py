"""The options of one server as they were written, and how each of them is checked.

An error names the place where the option stands, and never shows a value that may be a password.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeAlias, TypeGuard

from channel_layer.errors import FieldError
from channel_layer.options import describe_value

__all__ = (
    "GivenOption",
    "GivenOptions",
    "bool_option",
    "file_option",
    "is_mapping",
    "number_in_text",
    "number_option",
    "optional_seconds",
    "seconds_option",
    "text_option",
)


@dataclass(frozen=True, slots=True)
class GivenOption:
    """The value of one option, where it stands, and how an error about it begins."""

    value: object
    field: str
    subject: str = ""

    def error(self, problem: str) -> FieldError:
        """Return the error that this option has a problem."""
        return FieldError(self.field, self.subject + problem)


GivenOptions: TypeAlias = dict[str, GivenOption]


def is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    """Whether *value* is a mapping."""
    return isinstance(value, Mapping)


def number_in_text(value: object) -> object:
    """Return the number that a text consists of, as an environment variable has it; anything else as it is."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value) else value


def number_option(
    options: GivenOptions, name: str, allowed: range, default: int, text: str, errors: list[FieldError]
) -> int:
    """Return an option that has to be a number, or a text of digits; the default if it is left out or wrong.

    *text* is what is allowed, for the error.
    """
    given = options.get(name)
    if given is None:
        return default
    value = number_in_text(given.value)
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        errors.append(given.error(f"must be {text}, not {describe_value(value)}"))
        return default
    return value


def seconds_option(options: GivenOptions, name: str, default: float, text: str, errors: list[FieldError]) -> float:
    """Return an option that has to be a number of seconds, 0 included; the default if it is left out or wrong."""
    given = options.get(name)
    if given is None:
        return default
    value = given.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        errors.append(given.error(f"must be {text}, not {describe_value(value)}"))
        return default
    return float(value)


def optional_seconds(options: GivenOptions, name: str, text: str, errors: list[FieldError]) -> float | None:
    """Return an option that has to be a number of seconds above 0; None if it is left out, None or wrong."""
    given = options.get(name)
    if given is None or given.value is None:
        return None
    value = given.value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        errors.append(given.error(f"must be {text}, not {describe_value(value)}"))
        return None
    return float(value)


def bool_option(options: GivenOptions, name: str, errors: list[FieldError], *, default: bool) -> bool:
    """Return an option that has to be True or False; the default if it is left out or wrong."""
    given = options.get(name)
    if given is None:
        return default
    if not isinstance(given.value, bool):
        errors.append(given.error(f"must be True or False, not {describe_value(given.value)}"))
        return default
    return given.value


def text_option(options: GivenOptions, name: str, errors: list[FieldError]) -> str | None:
    """Return an option that has to be text; None if it is left out, None, empty or wrong."""
    given = options.get(name)
    if given is None or given.value is None:
        return None
    if not isinstance(given.value, str):
        kind = type(given.value).__name__  # never the value: a number can be a password too
        errors.append(given.error(f"must be a str, not of type {kind}"))
        return None
    try:
        given.value.encode()
    except UnicodeEncodeError:
        errors.append(given.error("must be valid Unicode, and this has a lone surrogate"))
    return given.value or None


def file_option(options: GivenOptions, name: str, errors: list[FieldError]) -> str | None:
    """Return an option that has to be the path of a file; None if it is left out, None or wrong."""
    given = options.get(name)
    if given is None or given.value is None:
        return None
    value: object = given.value
    if isinstance(value, PurePath):
        value = str(value)
    if not isinstance(value, str) or not value:
        shown = "an empty str" if value == "" else describe_value(value)
        errors.append(given.error(f"must be the path of a file, not {shown}"))
        return None
    return value
