"""The base of all commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ("Command",)

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Command(Generic[R_co]):
    """A request to a store, typed by its reply.

    Attributes:
        shard: the shard that carries it out. A store with a single shard ignores it.
    """

    shard: int
