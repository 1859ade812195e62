"""The shape of a CONFIG as type checkers see it, and the words in which errors speak of its options.

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
"""A key of ``channel_capacity``: a glob, ``"re:"`` and a regular expression, or one that is compiled."""

NoLocalReaderOption: TypeAlias = Literal["remote", "queue", "error"]
"""Of two halves, what becomes of a message to a normal channel that nobody on this machine receives from.

``remote``: it goes to the store that all machines see, so that a worker on another one gets it. ``queue``: it waits
here for a reader to come. ``error``: `channel_layer.errors.NoLocalReader`.
"""


class SequenceNotStr(Protocol[_T_co]):
    """A list or a tuple, and not a lone str or bytes, which `collections.abc.Sequence` would let pass.

    What tells them apart is that ``x in "text"`` wants a str and ``x in b"bytes"`` an int or bytes, where other
    sequences take any object. The name is that of ``useful_types``, which found the trick.
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
    """The options that every layer has; what each does is said by `channel_layer.config.CommonConfig`."""

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
    """What an option takes, in words that follow "must be" in an error and stand in the reference.

    Annotate a field with it: ``Annotated[int, Field(ge=1), Accepts("a whole number, 1 or more")]``.
    """

    text: str

    def problem(self, value: object) -> str:
        """Return the text of the error about a value that it does not take."""
        hint = " (write the number without quotes)" if isinstance(value, str) and "number" in self.text else ""
        return f"must be {self.text}, not {describe_value(value)}{hint}"


def describe_value(value: object) -> str:
    """Say what a value is: a number as it stands; of all else only the kind, because it may hold a secret."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int):
        return repr(int(value)) if abs(value) < 10**20 else "a number as long as this"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"


def describe_unknown(name: str, options: Iterable[str]) -> str:
    """Say that there is no option *name*, which one may have been meant, and which ones there are."""
    known = tuple(options)
    close = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    guess = f", did you mean {close[0]!r}?" if close else ";"
    return f"unknown option{guess} the options are {', '.join(known)}"
