"""The base of all commands."""

from __future__ import annotations

from typing import Generic, TypeVar

from channel_layer.domain.immutable import immutable

__all__ = ("Command",)

R_co = TypeVar("R_co", covariant=True)


@immutable
class Command(Generic[R_co]):
    """A request to a store, typed by its reply.

    Attributes:
        shard: the shard that carries it out. A store with a single shard ignores it.
    """

    shard: int
