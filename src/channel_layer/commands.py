"""The commands that the core sends to a store, and their replies: frozen data, and a closed set.

Each command is one object, so that a field can be added without breaking stores of third parties, and so that commands
can be logged, compared and generated. Times are seconds by the shard's own clock unless stated otherwise; a command
carries no "now", because the shard's clock decides what is too old.

A store takes names as they are. With ``blind_names`` each name is a token of the same grammar, but of up to 255
characters: do not parse it; `channel_layer.domain.names.queue_name` returns the name of its queue.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, TypeVar

from channel_layer.domain.frames import Entry
from channel_layer.domain.rates import Rates

if TYPE_CHECKING:
    from channel_layer.domain.frames import MembershipMarker
    from channel_layer.domain.names import ChannelName, GroupName, Queue

__all__ = (
    "Acknowledge",
    "AcquireLease",
    "Alive",
    "Batch",
    "Changed",
    "ClearUnread",
    "Command",
    "Count",
    "Deliver",
    "Delivery",
    "Entry",
    "FindOrphaned",
    "Flush",
    "Flushing",
    "GroupMembers",
    "Join",
    "LeaseAcquired",
    "LeaseRenewed",
    "Leave",
    "Mark",
    "Members",
    "Pending",
    "Pop",
    "Popped",
    "Prune",
    "Publish",
    "Published",
    "Push",
    "Pushed",
    "PutBack",
    "Read",
    "ReleaseClaim",
    "ReleaseLease",
    "RenewLease",
    "Report",
    "Reported",
    "ReturnCredits",
    "Returned",
    "Survey",
    "Surveyed",
    "Touch",
    "Unflushed",
    "Wait",
    "WaitAny",
)

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Command(Generic[R_co]):
    """A request to a store, typed by its reply.

    Attributes:
        shard: the shard that carries it out. A store with a single shard ignores it.
    """

    shard: int


# -- messages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pushed:
    """The reply to a `Push`.

    Attributes:
        accepted: False if the channel was full, or unread_expired.
        expired: messages that were too old and were removed to make room.
        unread_expired: the channel is no longer a member of groups (see `Push`).
        orphaned: nothing was pushed, because the queue has no registered reader (``Push.if_registered``): the number of
            messages that wait in it. None: it has one, or the push did not require one.
    """

    accepted: bool
    expired: int
    unread_expired: bool = False
    orphaned: int | None = None


@dataclass(frozen=True, slots=True)
class Push(Command[Pushed]):
    """Put one message at the end of its queue, if there is room; check and push are one atomic step.

    In an owned inbox whose owner is alive, the capacity limits the messages that were pushed to this channel and whose
    credits have not been returned; in any other queue, the messages in the whole queue.

    Attributes:
        channel: the channel that the message is for.
        capacity: messages that may wait there.
        payload: the encoded message.
        to_member: the message is for a member of a group. Nothing is pushed if an earlier such message has expired
            unread, and nothing was taken from the queue since that message came: ``unread_expired``.
        if_registered: nothing is pushed unless the queue has a registered reader (``Pop.register``); only for a store
            with `channel_layer.ports.Capabilities.registers_readers`.
    """

    channel: ChannelName
    capacity: int
    payload: bytes
    to_member: bool = False
    if_registered: bool = False


@dataclass(frozen=True, slots=True)
class ClearUnread(Command[None]):
    """Forget that a message to the channel as a member of a group has expired unread: it joins a group again."""

    channel: ChannelName


@dataclass(frozen=True, slots=True)
class Popped:
    """The reply to a `Pop`.

    Attributes:
        entries: oldest first; none of them expired.
        expired: messages that were too old and were removed.
        now: the time of the shard's clock.
        epoch: the last flush of this prefix on this shard, or "". It tells a process to drop what it popped for other
            channels of an inbox before the flush; with a store that never reports it, such messages are delivered.
        owned: the queue is an owned inbox whose owner is alive: no other process may read it.
        held_for: seconds for which another claimant still holds this inbox, or None.
        flushed: messages that were removed because they were older than a flush.
        lost: messages that the store took out of the queue and could neither return nor put back.
    """

    entries: tuple[Entry, ...]
    expired: int
    now: float
    epoch: str = ""
    owned: bool = False
    held_for: float | None = None
    flushed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Pop(Command[Popped]):
    """Take messages from the head of a queue without waiting. Messages that are taken are in no queue any more.

    Attributes:
        queue: a normal or single-reader channel, or an inbox that is not owned.
        count: the most messages to take; 0 claims an inbox without taking any.
        claimant: the process that asks; an inbox belongs to its claimant for one lease after each pop. A store without
            leases may serve every claimant.
        register: seconds for which the claimant is registered as a reader of the queue, which is not an inbox, unless
            it dies or releases its claim; 0: nothing changes. A flush does not end it. Only for a store with
            `channel_layer.ports.Capabilities.registers_readers`.
    """

    queue: Queue
    count: int
    claimant: str
    register: float = 0.0


@dataclass(frozen=True, slots=True)
class Returned:
    """The reply to a `PutBack`.

    Attributes:
        expired: messages that were too old to be put back.
        flushed: messages that were not put back because they were older than a flush.
    """

    expired: int
    flushed: int


@dataclass(frozen=True, slots=True)
class PutBack(Command[Returned]):
    """Return messages to the head of their queue, with their old stamps, and regardless of its capacity.

    A message from before the last flush must not be popped again; a store may check that now, or at the pop.

    Attributes:
        queue: their queue.
        entries: oldest first.
    """

    queue: Queue
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class ReleaseClaim(Command[None]):
    """Give up an inbox that was claimed by popping it, so that another claimant need not wait for the end of the lease.

    For any other queue: end the claimant's registration as a reader (``Pop.register``).

    Attributes:
        inbox: the inbox, or the queue.
        claimant: the process that claimed it; nothing happens if another one has claimed it since.
    """

    inbox: Queue
    claimant: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a queue may hold a message.

    Attributes:
        shard: the shard.
        queue: the queue.
        block: the most seconds to wait.
    """

    shard: int
    queue: Queue
    block: float


@dataclass(frozen=True, slots=True)
class FindOrphaned(Command[tuple[str, ...]]):
    """Return the names of queues, but no inboxes, that hold messages and have no registered reader (`Pop.register`)."""


@dataclass(frozen=True, slots=True)
class WaitAny:
    """Wait until one of several queues of a shard may hold a message.

    Attributes:
        shard: the shard.
        queues: at least one queue.
        block: the most seconds to wait.
    """

    shard: int
    queues: tuple[Queue, ...]
    block: float


@dataclass(frozen=True, slots=True)
class Pending(Command[int]):
    """Count the messages that wait in the store for one channel."""

    channel: ChannelName


# -- statistics --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """What one process has counted for a queue since its last report.

    Attributes:
        queue: a queue; for single-reader channels their common prefix, as in ``resp?``.
        messages: messages that were put into it.
        refused: sends that were refused because it was full.
    """

    queue: Queue
    messages: int
    refused: int


@dataclass(frozen=True, slots=True)
class Report(Command[None]):
    """Add what a process has counted to the statistics. Nothing is reported twice.

    The shard's clock decides when it was counted, and `channel_layer.domain.expiry.counts_lifetimes` how long it is
    kept. A flush removes it.

    Attributes:
        counts: at most one for each queue.
        messages: messages to add to the total of all queues; at least the sum of those in *counts*.
        refused: refused sends to add to the total of all queues.
    """

    counts: tuple[Count, ...]
    messages: int
    refused: int


@dataclass(frozen=True, slots=True)
class Reported(Command[Rates]):
    """Return what has been reported.

    Attributes:
        queue: as in a `Count`; None: the total of all queues.
    """

    queue: Queue | None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """Messages that wait on one shard. Group messages in an owned inbox are being delivered, and do not count.

    Attributes:
        pending: messages that wait: in a queue that is popped, those that are in it and not too old; in an owned inbox
            whose owner is alive, those that were pushed and whose credits have not been returned. None: the store
            cannot tell.
        oldest: seconds that the oldest of those messages that are still in the store has waited. None: there are none,
            or the store cannot tell.
    """

    pending: int | None
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Survey(Command[Surveyed]):
    """Return how many messages wait.

    Attributes:
        channel: the channel that they are for; None: all channels.
    """

    channel: ChannelName | None


# -- owned inboxes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class RenewLease(Command[LeaseRenewed]):
    """Renew the lease of an owned inbox."""

    inbox: Queue


@dataclass(frozen=True, slots=True)
class ReleaseLease(Command[int]):
    """Give up an owned inbox for ever; the reply is the number of messages that waited in it."""

    inbox: Queue


@dataclass(frozen=True, slots=True)
class Batch:
    """The reply to a `Read`: what came into an owned inbox.

    Attributes:
        entries: (stamp, frame) pairs, oldest first.
        position: where the next read continues.
    """

    entries: tuple[tuple[float, bytes], ...]
    position: str


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Mark(Command[bool]):
    """Put a marker into an owned inbox, regardless of capacities; the reply is False if its owner is not alive."""

    inbox: Queue
    marker: MembershipMarker


@dataclass(frozen=True, slots=True)
class Alive(Command[tuple[bool, ...]]):
    """Return which of these inboxes have an owner that is alive."""

    inboxes: tuple[Queue, ...]


# -- groups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changed:
    """The reply to a `Join` or a `Leave`.

    Attributes:
        version: the group's version after the change.
        marked: whether the marker is in the member's inbox.
        applied: False if a `Join` that restores found that the member has left since, or if a `Leave` with a
            ``latest`` found a later join.
        owned: the owner of the member's inbox knows the membership, or will, so it needs a marker.
    """

    version: int
    marked: bool
    applied: bool
    owned: bool


@dataclass(frozen=True, slots=True)
class Join(Command[Changed]):
    """Add a channel to a group, or refresh its membership.

    A member that the owner of its inbox added remains the owner's, whichever process refreshes it.

    Attributes:
        group: the group.
        channel: the member.
        owned: the caller owns the member's inbox and mirrors its memberships.
        age: seconds since the channel joined; 0 except for a restored membership.
        restore: the membership is announced again after the store lost it; nothing happens if the member has left
            since. So a store remembers for two leases which members of an inbox have left.
        mark: the member's inbox is on the same shard; put a marker into it in the same step, if the owner added the
            member.
    """

    group: GroupName
    channel: ChannelName
    owned: bool
    age: float
    restore: bool
    mark: bool


@dataclass(frozen=True, slots=True)
class Leave(Command[Changed]):
    """Remove a channel from a group, whichever process added it.

    Attributes:
        group: the group.
        channel: the member.
        mark: the member's inbox is on the same shard; put the marker into it in the same step.
        latest: if not None, remove only a member that the owner of its inbox added, and only if no channel of that
            inbox has joined the group after this version.
    """

    group: GroupName
    channel: ChannelName
    mark: bool
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """The reply to a `Publish`.

    Attributes:
        version: the group's version at that moment.
        done: whether the store has delivered to every inbox in the same step; if not, the caller has to.
        inboxes: owned inboxes with members that their owners added.
        others: full names of all other members.
        full: if *done*, inboxes that were full.
    """

    version: int
    done: bool
    inboxes: tuple[str, ...]
    others: tuple[str, ...]
    full: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Publish(Command[Published]):
    """Send to a group.

    Attributes:
        group: the group.
        payload: the encoded message.
        at_once: every inbox is on this shard, so the store may deliver to all of them in one step.
    """

    group: GroupName
    payload: bytes
    at_once: bool


class Delivery(Enum):
    """The reply to a `Deliver`."""

    DONE = "done"
    FULL = "full"
    NO_OWNER = "no owner"


@dataclass(frozen=True, slots=True)
class Deliver(Command[Delivery]):
    """Put a group message into an owned inbox, if its owner is alive and ``inbox_capacity`` leaves room.

    Attributes:
        inbox: the inbox.
        group: the group.
        extra_recipients: extra recipients: members in this inbox that its owner did not add.
        payload: the encoded message.
    """

    inbox: Queue
    group: GroupName
    extra_recipients: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Prune(Command[None]):
    """Remove members that no longer exist from a group.

    Attributes:
        group: the group.
        version: the group's version when the members were found not to exist.
        inboxes: inboxes whose members, as far as their owners added them, are removed, unless one of them has joined
            since.
        others: full names of other members, which are removed unless any member has joined or left since.
    """

    group: GroupName
    version: int
    inboxes: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupMembers:
    """The members of a group.

    Attributes:
        owned: full names of members that the owners of their inboxes added.
        others: full names of all other members.
    """

    owned: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Members(Command[GroupMembers]):
    """Return the members of a group."""

    group: GroupName


@dataclass(frozen=True, slots=True)
class Touch(Command[None]):
    """Keep groups whose memberships do not expire while their owners are alive."""

    groups: tuple[GroupName, ...]


# -- flush -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flushing:
    """The reply to a `Flush`: the flush has begun.

    Attributes:
        inboxes: owned inboxes whose owners are alive and have to acknowledge.
        dropped: messages that were removed.
    """

    inboxes: tuple[str, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class Flush(Command[Flushing]):
    """Remove everything of this prefix on one shard, and put a flush marker into every inbox whose owner is alive.

    Attributes:
        generation: a name that is unique to the flush.
    """

    generation: str


@dataclass(frozen=True, slots=True)
class Unflushed(Command[tuple[str, ...]]):
    """Return which inboxes have a live owner that has acknowledged neither this flush nor a later generation."""

    inboxes: tuple[str, ...]
    generation: str


@dataclass(frozen=True, slots=True)
class Acknowledge(Command[None]):
    """Acknowledge that the owner of an inbox has dropped what it held before a flush."""

    inbox: Queue
    generation: str
