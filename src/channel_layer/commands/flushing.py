"""Commands about a flush, and their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.commands.command import Command
from channel_layer.domain.immutable import immutable

if TYPE_CHECKING:
    from channel_layer.domain.names import Queue

__all__ = (
    "Acknowledge",
    "Flush",
    "Flushing",
    "Unflushed",
)


@immutable
class Flushing:
    """The reply to a `Flush`: the flush has begun.

    Attributes:
        inboxes: owned inboxes whose owners are alive and have to acknowledge.
        dropped: messages that were removed.
    """

    inboxes: tuple[str, ...]
    dropped: int


@immutable
class Flush(Command[Flushing]):
    """Remove everything of this prefix on one shard, and put a flush marker into every inbox whose owner is alive.

    Attributes:
        generation: a name that is unique to the flush.
    """

    generation: str


@immutable
class Unflushed(Command[tuple[str, ...]]):
    """Return which inboxes have a live owner that has acknowledged neither this flush nor a later generation."""

    inboxes: tuple[str, ...]
    generation: str


@immutable
class Acknowledge(Command[None]):
    """Acknowledge that the owner of an inbox has dropped what it held before a flush."""

    inbox: Queue
    generation: str
