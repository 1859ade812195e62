"""Commands about the messages in queues, and their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.commands.command import Command
from channel_layer.domain.immutable import immutable

if TYPE_CHECKING:
    from channel_layer.domain.frames import Entry
    from channel_layer.domain.names import ChannelName, Queue

__all__ = (
    "ClearUnread",
    "FindOrphaned",
    "Pending",
    "Pop",
    "Popped",
    "Push",
    "Pushed",
    "PutBack",
    "ReleaseClaim",
    "Returned",
    "Wait",
    "WaitAny",
)


@immutable
class Pushed:
    """The reply to a `Push`.

    Attributes:
        accepted: False if the channel was full, or unread_expired.
        expired: messages that were too old and were removed to make room.
        unread_expired: the channel is no longer a member of groups (see `Push`).
        orphaned: nothing was pushed, because the queue has no registered reader (``Push.if_registered``): the number of
            messages that wait in it. None: it has one, or the push did not require one.
        no_room: what is full and what to do, if that is not the channel but the store; for the error of the sender.
    """

    accepted: bool
    expired: int
    unread_expired: bool = False
    orphaned: int | None = None
    no_room: str = ""


@immutable
class Push(Command[Pushed]):
    """Put one message at the end of its queue, if there is room; check and push are one atomic step.

    In an owned inbox whose owner is alive, the capacity limits the messages that were pushed to this channel and whose
    credits have not been returned; in any other queue, the messages in the whole queue.

    Attributes:
        channel: the channel that the message is for.
        capacity: messages that may wait there.
        payload: the encoded message.
        to_member: the message is for a member of a group. Nothing is pushed if an earlier such message has expired
            unread, another ``expiry`` has passed, and no `Pop` has asked for messages of the queue since that message
            came: ``unread_expired``.
        if_registered: nothing is pushed unless the queue has a registered reader (``Pop.register``); only for a store
            with `channel_layer.ports.Capabilities.registers_readers`.
    """

    channel: ChannelName
    capacity: int
    payload: bytes
    to_member: bool = False
    if_registered: bool = False


@immutable
class ClearUnread(Command[None]):
    """Forget that a message to the channel as a member of a group has expired unread: it joins a group again."""

    channel: ChannelName


@immutable
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


@immutable
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


@immutable
class Returned:
    """The reply to a `PutBack`.

    Attributes:
        expired: messages that were too old to be put back.
        flushed: messages that were not put back because they were older than a flush.
    """

    expired: int
    flushed: int


@immutable
class PutBack(Command[Returned]):
    """Return messages to the head of their queue, with their old stamps, and regardless of its capacity.

    A message from before the last flush must not be popped again; a store may check that now, or at the pop.

    Attributes:
        queue: their queue.
        entries: oldest first.
    """

    queue: Queue
    entries: tuple[Entry, ...]


@immutable
class ReleaseClaim(Command[None]):
    """Give up an inbox that was claimed by popping it, so that another claimant need not wait for the end of the lease.

    For any other queue: end the claimant's registration as a reader (``Pop.register``).

    Attributes:
        inbox: the inbox, or the queue.
        claimant: the process that claimed it; nothing happens if another one has claimed it since.
    """

    inbox: Queue
    claimant: str


@immutable
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


@immutable
class FindOrphaned(Command[tuple[str, ...]]):
    """Return the names of queues, but no inboxes, that hold messages and have no registered reader (`Pop.register`)."""


@immutable
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


@immutable
class Pending(Command[int]):
    """Count the messages that wait in the store for one channel."""

    channel: ChannelName
