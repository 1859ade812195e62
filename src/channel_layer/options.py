"""The shape of a CONFIG as type checkers see it, and the words that errors about its options use.

The names, types and defaults are those of the keyword arguments of the layers and of the models in
`channel_layer.config`; a test compares the three.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar, overload

__all__ = (
    "Accepts",
    "ChannelPattern",
    "CommonConfigDict",
    "NoLocalReaderOption",
    "SequenceNotStr",
    "describe_unknown",
    "describe_value",
)

_T_co = TypeVar("_T_co", covariant=True)

ChannelPattern: TypeAlias = str | re.Pattern[str]
"""A key of ``channel_capacity``: a glob, ``"re:"`` and a regular expression, or a compiled regular expression."""

NoLocalReaderOption: TypeAlias = Literal["remote", "queue", "error"]
"""With a local and a remote store, what becomes of a message to a normal channel without a reader on this machine.

``remote``: it goes to the remote store, so that a worker on another machine gets it. ``queue``: it waits in the local
store for a reader. ``error``: ``send`` raises `channel_layer.errors.NoLocalReader`.
"""


class SequenceNotStr(Protocol[_T_co]):
    """A list or a tuple, but not a single str or bytes, which `collections.abc.Sequence` would accept.

    The difference is ``__contains__``: ``x in "text"`` takes only a str and ``x in b"bytes"`` an int or bytes, where
    other sequences take any object. Source: ``useful_types``, also for the name.
    """

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> _T_co: ...
    @overload
    def __getitem__(self, index: slice, /) -> SequenceNotStr[_T_co]: ...
    def __contains__(self, value: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[_T_co]: ...
    def __reversed__(self) -> Iterator[_T_co]: ...


class CommonConfigDict(TypedDict, total=False):
    """The options that every layer has; `channel_layer.config.CommonConfig` describes each."""

    prefix: str
    expiry: float
    group_expiry: float | None
    capacity: int
    channel_capacity: Mapping[ChannelPattern, int] | None
    symmetric_encryption_keys: SequenceNotStr[str | bytes]
    encryption: str
    blind_names: bool | str | bytes
    max_message_size: int
    inbox_capacity: int
    timeout: float
    faults: Mapping[str, float] | None


@dataclass(frozen=True, slots=True)
class Accepts:
    """What an option accepts, in words that follow "must be" in errors, and that the reference repeats.

    Annotate a field with it: ``Annotated[int, Field(ge=1), Accepts("a whole number, 1 or more")]``.
    """

    text: str

    def problem(self, value: object) -> str:
        """Return the text of the error about a value that is not accepted."""
        hint = " (write the number without quotes)" if isinstance(value, str) and "number" in self.text else ""
        return f"must be {self.text}, not {describe_value(value)}{hint}"


def describe_value(value: object) -> str:
    """Describe a value for an error: a number by its value; anything else by its type, because it may hold a secret."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int):
        return repr(int(value)) if abs(value) < 10**20 else "a number as long as this"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def describe_unknown(name: str, options: Iterable[str]) -> str:
    """Return the text of the error about an unknown option: the most similar one, and all that there are."""
    known = tuple(options)
    close = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    guess = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown option{guess} the options are {', '.join(known)}"
