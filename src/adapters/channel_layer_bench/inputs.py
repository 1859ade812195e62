"""Parses and checks text from options, files and other processes.

Only this module of the package uses Pydantic.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

__all__ = ("BarAgainst", "BarFile", "BarSpec", "Record", "Unreadable", "read_bars", "read_object")

_T = TypeVar("_T")

_OBJECT: Final = TypeAdapter(dict[str, object])


class Unreadable(ValueError):
    """A text is not valid; the message says where."""


def _explain(error: ValidationError) -> str:
    return "; ".join(
        ".".join(map(str, each["loc"])) + (": " if each["loc"] else "") + each["msg"] for each in error.errors()
    )


def read_object(text: str | bytes) -> dict[str, object]:
    """Return the JSON object in *text*.

    Raises:
        Unreadable: it is no JSON object.
    """
    try:
        return _OBJECT.validate_json(text)
    except ValidationError as exc:
        raise Unreadable(_explain(exc)) from exc


@dataclass(frozen=True, slots=True)
class Record:
    """What one process sends to another: a JSON object whose values are read by their type.

    Attributes:
        facts: the object.
    """

    facts: dict[str, object]

    @classmethod
    def parse(cls, line: bytes) -> Record:
        """Read a line.

        Raises:
            Unreadable: it is no JSON object.
        """
        return cls(read_object(line))

    def line(self) -> bytes:
        """Return the object as a line."""
        return json.dumps(self.facts, separators=(",", ":")).encode() + b"\n"

    def __contains__(self, name: object) -> bool:
        return name in self.facts

    def _of(self, kind: TypeAdapter[_T], name: str) -> _T:
        try:
            return kind.validate_python(self.facts[name], strict=True)
        except KeyError as exc:
            raise Unreadable(f"{name} is missing from {self.facts}") from exc
        except ValidationError as exc:
            raise Unreadable(f"{name}: {_explain(exc)}") from exc

    def integer(self, name: str) -> int:
        """Return an int.

        Raises:
            Unreadable: it is missing or has another type. The same holds for the methods below.
        """
        return self._of(_INTEGER, name)

    def real(self, name: str) -> float:
        """Return a float."""
        return self._of(_REAL, name)

    def flag(self, name: str) -> bool:
        """Return a bool."""
        return self._of(_FLAG, name)

    def text(self, name: str) -> str:
        """Return a str."""
        return self._of(_TEXT, name)

    def texts(self, name: str) -> list[str]:
        """Return a list of str."""
        return self._of(_TEXTS, name)

    def integers(self, name: str) -> list[int]:
        """Return a list of int."""
        return self._of(_INTEGERS, name)

    def reals(self, name: str) -> list[float]:
        """Return a list of float."""
        return self._of(_REALS, name)

    def record(self, name: str) -> Record:
        """Return an object."""
        return Record(self._of(_OBJECT, name))


_INTEGER: Final = TypeAdapter(int)
_REAL: Final = TypeAdapter(float)
_FLAG: Final = TypeAdapter(bool)
_TEXT: Final = TypeAdapter(str)
_TEXTS: Final = TypeAdapter(list[str])
_INTEGERS: Final = TypeAdapter(list[int])
_REALS: Final = TypeAdapter(list[float])


class BarAgainst(BaseModel, frozen=True, extra="forbid"):
    """The figure that a bar compares with; a field that is not given is that of the bar."""

    workload: str | None = None
    metric: str | None = None
    layer: str | None = None


class BarSpec(BaseModel, frozen=True, extra="forbid"):
    """One bar of a file."""

    workload: str
    metric: str
    layer: str
    base: str | None = None
    against: BarAgainst | None = None
    at_least: float | None = None
    at_most: float | None = None


class BarFile(BaseModel, frozen=True, extra="forbid"):
    """A file of bars."""

    bar: list[BarSpec] = Field(min_length=1)


def read_bars(text: str) -> list[BarSpec]:
    """Return the bars of a TOML text.

    Raises:
        Unreadable: it is no TOML, or does not hold bars.
    """
    try:
        bars = BarFile.model_validate(tomllib.loads(text)).bar
    except tomllib.TOMLDecodeError as exc:
        raise Unreadable(str(exc)) from exc
    except ValidationError as exc:
        raise Unreadable(_explain(exc)) from exc
    for bar in bars:
        if (bar.at_least is None) == (bar.at_most is None):
            raise Unreadable(f"the bar for {bar.metric} of {bar.layer}: give at_least or at_most, one of them")
        if bar.base is not None and bar.against is not None:
            raise Unreadable(f"the bar for {bar.metric} of {bar.layer}: base and against exclude each other")
    return bars
