"""Where the messages of a queue go when there are two halves: this machine's store, and the one that all machines see.

A pure function of what is known, so that every process decides alike and the rule is read and tested at one place.

Source: the README of asgi_redis 0.14, "Local-and-remote mode", and what its users suffered from: a message for which
nobody on its machine listened stayed there until it expired.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING

from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.names import Queue
    from channel_layer.domain.sharding import Ring
    from channel_layer.options import NoLocalReaderOption

__all__ = ("Routes", "Side", "side")


class Side(Enum):
    """One of the two halves, or none."""

    LOCAL = "local"
    REMOTE = "remote"
    NEITHER = "neither"


@cache
def side(kind: Kind, otherwise: NoLocalReaderOption, *, attended: bool, to_member: bool = False) -> Side:
    """Say which half a message goes to.

    Args:
        kind: of its queue. Only a normal channel may be read by anybody, and so by somebody here: a single-reader or a
            process-specific one has its reader who knows where.
        otherwise: what to do if nobody here reads it.
        attended: somebody on this machine does.
        to_member: it goes to a member of a group, for which there is no error.
    """
    if kind is not Kind.NORMAL:
        return Side.REMOTE
    if attended or otherwise == "queue":
        return Side.LOCAL
    return Side.REMOTE if otherwise == "remote" or to_member else Side.NEITHER


@dataclass(frozen=True, slots=True)
class Routes:
    """What decides where messages go and how many may wait; the same in every process with one configuration.

    Attributes:
        ring: which shard keeps what; of two halves, in the one that all machines see.
        capacity: of every channel; each half may hold so many.
        local: the shard that is this machine's own; None: there is none.
        no_local_reader: what becomes of messages that nobody here reads, if there is one.
    """

    ring: Ring
    capacity: CapacityTable
    local: int | None = None
    no_local_reader: NoLocalReaderOption = "remote"

    @property
    def all_shards(self) -> range:
        """All shards."""
        return range(len(self.ring) + (self.local is not None))

    def shards(self, queue: Queue) -> tuple[int, ...]:
        """Return the shards that hold *queue*: all of them for a normal channel, the local one first."""
        if queue.kind is not Kind.NORMAL:
            return (self.ring.queue(queue),)
        return self.ring.order(queue) if self.local is None else (self.local, *self.ring.order(queue))

    def local_of(self, queue: Queue) -> int | None:
        """Return the local shard, if it may hold *queue*."""
        return self.local if queue.kind is Kind.NORMAL else None

    def name(self, shard: int) -> str:
        """Return what a shard is called, for people."""
        return "this machine" if shard == self.local else self.ring.name(shard)
