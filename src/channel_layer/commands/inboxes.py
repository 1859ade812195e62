"""Commands about owned inboxes and their leases, and their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.commands.command import Command
from channel_layer.domain.immutable import immutable

if TYPE_CHECKING:
    from channel_layer.domain.frames import MembershipMarker
    from channel_layer.domain.names import Queue

__all__ = (
    "AcquireLease",
    "Alive",
    "Batch",
    "LeaseAcquired",
    "LeaseRenewed",
    "Mark",
    "Read",
    "ReleaseLease",
    "RenewLease",
    "ReturnCredits",
)


@immutable
class LeaseAcquired:
    """The reply to a `AcquireLease`: the lease was acquired.

    Attributes:
        now: the time of the shard's clock.
        fresh: True if the inbox did not exist, so that reading starts at its beginning.
        epoch: the last flush of this prefix on this shard, or "".
        expired: messages that were sent while the inbox had no owner, and were too old.
    """

    now: float
    fresh: bool
    epoch: str
    expired: int


@immutable
class AcquireLease(Command[LeaseAcquired]):
    """Acquire the lease of an owned inbox, and create the inbox. Messages sent while it had no owner are put into it.

    Attributes:
        inbox: an inbox that only this process owns.
        generation: the new generation; credits that are returned from here on carry it.
        after: the position up to which the owner has read; "" for none.
        held: (full channel name, messages) pairs that the owner already holds unread; they count towards the capacity.
    """

    inbox: Queue
    generation: str
    after: str
    held: tuple[tuple[str, int], ...]


@immutable
class LeaseRenewed:
    """The reply to a `RenewLease`.

    Attributes:
        now: the time of the shard's clock.
        held: False if the lease had ended or the store has lost it.
        epoch: the last flush of this prefix on this shard, or "".
    """

    now: float
    held: bool
    epoch: str


@immutable
class RenewLease(Command[LeaseRenewed]):
    """Renew the lease of an owned inbox.

    A store that may count unread messages wrongly, because its data can be lost or come back older, counts anew: if
    nothing has come into the inbox after *after*, and no credits were returned after *serial*, then *held* is what is
    unread.

    Attributes:
        inbox: the inbox.
        after: the position up to which the owner has read.
        serial: of the last credits that were returned; -1: some are being returned, so that nothing can be said.
        held: (full channel name, messages) pairs that the owner holds, or has not returned the credits of.
    """

    inbox: Queue
    after: str = ""
    serial: int = -1
    held: tuple[tuple[str, int], ...] = ()


@immutable
class ReleaseLease(Command[int]):
    """Give up an owned inbox for ever; the reply is the number of messages that waited in it."""

    inbox: Queue


@immutable
class Batch:
    """The reply to a `Read`: what came into an owned inbox.

    Attributes:
        entries: (stamp, frame) pairs, oldest first.
        position: where the next read continues.
    """

    entries: tuple[tuple[float, bytes], ...]
    position: str


@immutable
class Read(Command[Batch]):
    """Wait for entries of an owned inbox after a position, and remove those up to it.

    Reading does not remove what it returns, so the same read can be repeated after a lost connection.

    Attributes:
        inbox: the inbox.
        after: a position from the last `Batch`; "" for the beginning.
        block: the most seconds to wait.
    """

    inbox: Queue
    after: str
    block: float


@immutable
class ReturnCredits(Command[None]):
    """Return credits of an owned inbox, for messages that were taken by ``receive()`` or dropped.

    Attributes:
        inbox: the inbox.
        generation: from the `AcquireLease` or the last flush; credits of an older generation are ignored.
        serial: counts up; a serial that was seen before is ignored, so that the command can be repeated.
        places: (full channel name, messages) pairs.
    """

    inbox: Queue
    generation: str
    serial: int
    places: tuple[tuple[str, int], ...]


@immutable
class Mark(Command[bool]):
    """Put a marker into an owned inbox, regardless of capacities; the reply is False if its owner is not alive."""

    inbox: Queue
    marker: MembershipMarker


@immutable
class Alive(Command[tuple[bool, ...]]):
    """Return which of these inboxes have an owner that is alive."""

    inboxes: tuple[Queue, ...]
