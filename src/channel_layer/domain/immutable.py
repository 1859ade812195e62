"""How the values are made that every message needs some of: commands, replies and frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

__all__ = ("immutable",)

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def immutable(cls: type[T]) -> type[T]:
    """Make a dataclass whose objects are compared and hashed by their values, and are never changed.

    Type checkers ensure that, as with ``dataclass(frozen=True)``; its check while the program runs would make each
    object three times as expensive.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
