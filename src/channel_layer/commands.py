"""The closed vocabulary between the core and a store: frozen requests, and the replies they get.

One object for each request, so that a field can be added without breaking a store that somebody else wrote, and so
that requests can be logged, compared and generated. Times are seconds by the shard's own clock unless said otherwise;
a request carries no "now", because the shard's clock decides what is too old.

A store takes names as they come. Where they are hidden (``blind_names``), a token stands for each, of the same grammar
but of up to 255 characters: do not parse it, `channel_layer.domain.names.queue_name` says what its queue is called.
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
    "Alive",
    "Batch",
    "Changed",
    "Claim",
    "Claimed",
    "Command",
    "Count",
    "Deliver",
    "Delivery",
    "Entry",
    "Flush",
    "Flushing",
    "Forgive",
    "GiveBack",
    "Join",
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
    "Release",
    "Renew",
    "Renewed",
    "Report",
    "Reported",
    "Returned",
    "Roster",
    "Survey",
    "Surveyed",
    "Touch",
    "Unattended",
    "Unclaim",
    "Unflushed",
    "Wait",
    "WaitAny",
)

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Command(Generic[R_co]):
    """A request to a store, typed by its reply.

    Attributes:
        shard: the shard that carries it out. A store with a single shard does not look at it.
    """

    shard: int


# -- messages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of a `Push`.

    Attributes:
        accepted: False when the channel was full, or lapsed.
        expired: messages that were too old and made room.
        lapsed: the channel is a member of groups no longer (see `Push`).
        unattended: nothing was pushed, because nobody attends to the queue (``Push.if_attended``); how many messages
            wait in it. None: somebody does, or it was not asked.
    """

    accepted: bool
    expired: int
    lapsed: bool = False
    unattended: int | None = None


@dataclass(frozen=True, slots=True)
class Push(Command[Pushed]):
    """Put one message at the end of its queue, if there is room; check and push are one atomic step.

    In a minted inbox whose owner is alive the limit counts what was pushed to this one channel and has not been given
    back; in any other queue it counts the whole queue.

    Attributes:
        channel: whom it is for.
        capacity: messages that may wait there.
        payload: the encoded message.
        to_member: it goes to the channel as a member of a group. Nothing is pushed if an earlier such message has
            expired unread, and nothing was taken from the queue since it came: ``lapsed``.
        if_attended: nothing is pushed unless somebody attends to the queue (``Pop.attend``); only for a store with
            `channel_layer.ports.Capabilities.attends`.
    """

    channel: ChannelName
    capacity: int
    payload: bytes
    to_member: bool = False
    if_attended: bool = False


@dataclass(frozen=True, slots=True)
class Forgive(Command[None]):
    """Forget that a message to a channel as a member of a group has expired unread: it joins one anew."""

    channel: ChannelName


@dataclass(frozen=True, slots=True)
class Popped:
    """What a `Pop` brought.

    Attributes:
        entries: oldest first; none of them expired.
        expired: messages that were too old and are gone.
        now: the shard's clock.
        epoch: the last flush of this prefix on this shard, or "". A process drops by it what it had popped for another
            channel of an inbox before the flush; a store that never tells has such messages delivered.
        minted: the queue is an inbox whose minting owner is alive: nobody else may read it.
        held_for: seconds for which another claimant holds this inbox, or None.
        flushed: messages that a flush at that moment removed.
        lost: messages that the store took out and could then neither vouch for nor put back.
    """

    entries: tuple[Entry, ...]
    expired: int
    now: float
    epoch: str = ""
    minted: bool = False
    held_for: float | None = None
    flushed: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Pop(Command[Popped]):
    """Take messages from the head of a queue without waiting. What is taken is in no queue any more.

    Attributes:
        queue: a normal or single-reader channel, or an inbox that nobody minted.
        count: messages at most; 0 claims an inbox without taking any.
        claimant: who asks; an inbox belongs to its claimant for one lease from each pop. A store without leases may
            serve whoever asks.
        attend: seconds for which the claimant attends to the queue from now on, which is no inbox, unless he dies or
            unclaims it; 0: nothing changes. A flush changes nothing of it. Only for a store with
            `channel_layer.ports.Capabilities.attends`.
    """

    queue: Queue
    count: int
    claimant: str
    attend: float = 0.0


@dataclass(frozen=True, slots=True)
class Returned:
    """What became of a `PutBack`.

    Attributes:
        expired: messages that were too old to go back.
        flushed: messages that a flush would have removed, had they been there.
    """

    expired: int
    flushed: int


@dataclass(frozen=True, slots=True)
class PutBack(Command[Returned]):
    """Return messages to the head of their queue, with their old stamps and outside any capacity.

    A message from before the last flush must not be popped again; a store may find that out now, or then.

    Attributes:
        queue: their queue.
        entries: oldest first.
    """

    queue: Queue
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Unclaim(Command[None]):
    """Give up an inbox that was claimed by popping it, so that another one need not wait for the end of the lease.

    Of any other queue: attend to it no more (``Pop.attend``).

    Attributes:
        inbox: the inbox, or the queue.
        claimant: who claimed it; nothing happens if that is somebody else by now.
    """

    inbox: Queue
    claimant: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a queue may hold a message.

    Attributes:
        shard: the host.
        queue: the queue.
        block: seconds at most.
    """

    shard: int
    queue: Queue
    block: float


@dataclass(frozen=True, slots=True)
class Unattended(Command[tuple[str, ...]]):
    """Name the queues, inboxes left out, that hold messages and that nobody attends to (``Pop.attend``)."""


@dataclass(frozen=True, slots=True)
class WaitAny:
    """Wait until one of several queues of a shard may hold a message.

    Attributes:
        shard: the host.
        queues: one at least.
        block: seconds at most.
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
    """What one process has counted since it last reported.

    Attributes:
        queue: a queue; of single-reader channels what all their names begin with: ``resp?``.
        messages: that were put into it.
        refused: sends for which it had no room.
    """

    queue: Queue
    messages: int
    refused: int


@dataclass(frozen=True, slots=True)
class Report(Command[None]):
    """Add to the statistics what a process has counted. The same is never reported twice.

    It counts from then on, by the shard's clock. How long it is kept is said by
    `channel_layer.domain.expiry.counts_lifetimes`. A flush removes it.

    Attributes:
        counts: of each queue one at most.
        messages: to be added to those of all queues together; at least the sum of the counts.
        refused: the same of the refused ones.
    """

    counts: tuple[Count, ...]
    messages: int
    refused: int


@dataclass(frozen=True, slots=True)
class Reported(Command[Rates]):
    """Tell what has been reported.

    Attributes:
        queue: as in a `Count`; None: all queues together.
    """

    queue: Queue | None


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What waits on one shard. Group messages in a minted inbox are on their way, and do not count.

    Attributes:
        pending: messages that wait: in a queue that is popped, those that are there and not too old; in a minted inbox
            whose owner lives, those that were pushed and have not been given back. None: it cannot tell.
        oldest: seconds that the oldest of those has waited that are still in the store. None: there are none, or it
            cannot tell.
    """

    pending: int | None
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Survey(Command[Surveyed]):
    """Tell what waits.

    Attributes:
        channel: for whom; None: for anybody.
    """

    channel: ChannelName | None


# -- minted inboxes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Claimed:
    """A lease that was taken.

    Attributes:
        now: the shard's clock.
        fresh: True when the inbox did not exist, so that reading starts at its beginning.
        epoch: the last flush of this prefix on this shard, or "".
        expired: messages that were sent while the inbox had no owner, and are too old.
    """

    now: float
    fresh: bool
    epoch: str
    expired: int


@dataclass(frozen=True, slots=True)
class Claim(Command[Claimed]):
    """Take the lease of a minted inbox, and make the inbox. What was sent to it while it had no owner comes in.

    Attributes:
        inbox: a name that only this process has minted.
        generation: marks what is given back from here on.
        after: the position up to which the owner has read; "" for none.
        held: (full channel name, messages) that the owner already holds unread; they count towards the capacity.
    """

    inbox: Queue
    generation: str
    after: str
    held: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Renewed:
    """What became of a `Renew`.

    Attributes:
        now: the shard's clock.
        held: False when the lease had ended or the store has lost it.
        epoch: the last flush of this prefix on this shard, or "".
    """

    now: float
    held: bool
    epoch: str


@dataclass(frozen=True, slots=True)
class Renew(Command[Renewed]):
    """Keep the lease of a minted inbox for another while."""

    inbox: Queue


@dataclass(frozen=True, slots=True)
class Release(Command[int]):
    """Give up a minted inbox for good; replies with the number of messages that waited in it."""

    inbox: Queue


@dataclass(frozen=True, slots=True)
class Batch:
    """What came into a minted inbox.

    Attributes:
        entries: (stamp, frame) pairs, oldest first.
        position: where the next read goes on.
    """

    entries: tuple[tuple[float, bytes], ...]
    position: str


@dataclass(frozen=True, slots=True)
class Read(Command[Batch]):
    """Wait for what comes into a minted inbox after a position, and let go of what came up to it.

    Reading takes nothing away: the same read can be repeated after a lost connection.

    Attributes:
        inbox: the inbox.
        after: a position from the last `Batch`; "" for the beginning.
        block: seconds to wait at most.
    """

    inbox: Queue
    after: str
    block: float


@dataclass(frozen=True, slots=True)
class GiveBack(Command[None]):
    """Give back places in a minted inbox: these messages have been taken by ``receive()`` or dropped.

    Attributes:
        inbox: the inbox.
        generation: from the `Claim` or the last flush; places of an older generation are ignored.
        serial: counts up; the same serial again is ignored, so that the request can be repeated.
        places: (full channel name, messages).
    """

    inbox: Queue
    generation: str
    serial: int
    places: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Mark(Command[bool]):
    """Put a marker into a minted inbox, outside any capacity; replies False when the inbox has no living owner."""

    inbox: Queue
    marker: MembershipMarker


@dataclass(frozen=True, slots=True)
class Alive(Command[tuple[bool, ...]]):
    """Say which of these inboxes have a living minting owner."""

    inboxes: tuple[Queue, ...]


# -- groups ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a `Join` or a `Leave`.

    Attributes:
        version: the group's version after it.
        marked: the marker is in the member's inbox.
        applied: False when a `Join` that restores found that the member has left meanwhile, or a `Leave` with a
            ``latest`` that there has been a later joining.
        owned: the owner of the member's inbox has it in his mirror, or will, so a marker has to tell him.
    """

    version: int
    marked: bool
    applied: bool
    owned: bool


@dataclass(frozen=True, slots=True)
class Join(Command[Changed]):
    """Add a channel to a group, or refresh its membership.

    A member that its inbox's owner added stays his, whoever refreshes it.

    Attributes:
        group: the group.
        channel: the member.
        owned: the one who asks owns the member's minted inbox and keeps it in its mirror.
        age: seconds ago that it really joined; 0 but for a restored membership.
        restore: the membership is announced again after the store lost it; void if the member left meanwhile. So a
            store remembers for two leases who of an inbox has left.
        mark: the member's inbox is on the same shard; put a marker into it in the same step, if the member is its
            owner's.
    """

    group: GroupName
    channel: ChannelName
    owned: bool
    age: float
    restore: bool
    mark: bool


@dataclass(frozen=True, slots=True)
class Leave(Command[Changed]):
    """Remove a channel from a group, whoever added it.

    Attributes:
        group: the group.
        channel: the member.
        mark: the member's inbox is on the same shard; put the marker into it in the same step.
        latest: if not None, apply it only to a member that the owner of its inbox added, and only if no channel of
            that inbox has joined the group since this version.
    """

    group: GroupName
    channel: ChannelName
    mark: bool
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """What a group send found.

    Attributes:
        version: the group's version at that moment.
        done: the store has delivered to every inbox in the same step; else the rest says to whom to deliver.
        inboxes: minted inboxes that hold members which their owners added.
        others: full names of all other members.
        full: inboxes that had no room, when *done*.
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
        at_once: every inbox is on this shard, so that one step may deliver to all of them if it can.
    """

    group: GroupName
    payload: bytes
    at_once: bool


class Delivery(Enum):
    """What became of a `Deliver`."""

    DONE = "done"
    FULL = "full"
    NO_OWNER = "no owner"


@dataclass(frozen=True, slots=True)
class Deliver(Command[Delivery]):
    """Put a group message into a minted inbox, if its owner lives and ``inbox_capacity`` leaves room.

    Attributes:
        inbox: the inbox.
        group: the group.
        riders: members in this inbox that its owner did not add.
        payload: the encoded message.
    """

    inbox: Queue
    group: GroupName
    riders: tuple[str, ...]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Prune(Command[None]):
    """Remove from a group who is gone.

    Attributes:
        group: the group.
        version: the group's when they were found to be gone.
        inboxes: whose members, added by their owners, are removed, unless one of them has joined since.
        others: members outside of these, by full name, that are removed unless anything has joined or left since.
    """

    group: GroupName
    version: int
    inboxes: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Roster:
    """The members of a group.

    Attributes:
        owned: full names that the owners of their minted inboxes added.
        others: all the others.
    """

    owned: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Members(Command[Roster]):
    """List a group's members."""

    group: GroupName


@dataclass(frozen=True, slots=True)
class Touch(Command[None]):
    """Keep groups alive whose members never expire because their owner lives."""

    groups: tuple[GroupName, ...]


# -- flush -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flushing:
    """A flush that has begun.

    Attributes:
        inboxes: living minted inboxes whose owners have yet to acknowledge.
        dropped: messages that were removed.
    """

    inboxes: tuple[str, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class Flush(Command[Flushing]):
    """Empty everything of this prefix on one shard and put a flush marker into every living inbox.

    Attributes:
        generation: a name that no other flush has.
    """

    generation: str


@dataclass(frozen=True, slots=True)
class Unflushed(Command[tuple[str, ...]]):
    """Say which of these inboxes live and have not acknowledged this flush, nor any change of generation after it."""

    inboxes: tuple[str, ...]
    generation: str


@dataclass(frozen=True, slots=True)
class Acknowledge(Command[None]):
    """Say that the owner of an inbox has dropped what it held before a flush."""

    inbox: Queue
    generation: str
