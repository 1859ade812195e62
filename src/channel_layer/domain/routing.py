"""Which store a message goes to when there are two: the local store of this machine, and the remote one that all share.

The rule is a pure function, so that every process decides in the same way, and the rule is tested in one place.

Source: the README of asgi_redis 0.14, "Local-and-remote mode", and its main fault: a message without a reader on its
machine stayed there until it expired.
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
    """One of the two stores, or none."""

    LOCAL = "local"
    REMOTE = "remote"
    NEITHER = "neither"


@cache
def side(kind: Kind, otherwise: NoLocalReaderOption, *, registered: bool, to_member: bool = False) -> Side:
    """Return which store a message goes to.

    Args:
        kind: the kind of its queue. Only a normal channel may have readers on this machine: the one reader of a
            single-reader or process-specific channel may be on any machine.
        otherwise: what to do if the queue has no reader on this machine.
        registered: whether it has one.
        to_member: whether the message goes to a member of a group, for which there is no error.
    """
    if kind is not Kind.NORMAL:
        return Side.REMOTE
    if registered or otherwise == "queue":
        return Side.LOCAL
    return Side.REMOTE if otherwise == "remote" or to_member else Side.NEITHER


@dataclass(frozen=True, slots=True)
class Routes:
    """What decides where messages go and how many may wait; the same in every process with one configuration.

    Attributes:
        ring: which shard keeps which queue; with a local store, which shard of the remote one.
        capacity: the capacity of every channel; each of two stores may hold as many messages.
        local: the shard that is the local store of this machine; None: there is none.
        no_local_reader: with a local store, what becomes of messages without a reader on this machine.
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
        """Return the shards that hold *queue*; a normal channel may have several, the local one first."""
        if queue.kind is not Kind.NORMAL:
            return (self.ring.queue(queue),)
        return self.ring.order(queue) if self.local is None else (self.local, *self.ring.order(queue))

    def local_of(self, queue: Queue) -> int | None:
        """Return the local shard, if it may hold *queue*."""
        return self.local if queue.kind is Kind.NORMAL else None

    def name(self, shard: int) -> str:
        """Return the name of a shard, for messages to people."""
        return "this machine" if shard == self.local else self.ring.name(shard)
