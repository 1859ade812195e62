"""The shape of a CONFIG as type checkers see it, so that a settings file is checked before it is ever loaded.

The names, types and defaults are those of the keyword arguments of the layers and of the models in
`channel_layer.config`; a test compares the three.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol, SupportsIndex, TypeAlias, TypedDict, TypeVar, overload

__all__ = ("ChannelPattern", "CommonConfigDict", "NoLocalReaderOption", "SequenceNotStr")

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
