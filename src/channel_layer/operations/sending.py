"""Sending to a channel: which shards are tried, what makes room, and what is moved out of the way first."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.capacity import shares
from channel_layer.domain.expiry import moved
from channel_layer.domain.names import ChannelName, Kind
from channel_layer.domain.routing import Side, side
from channel_layer.errors import DamagedRecord, NoLocalReader, StoreError
from channel_layer.operations.credits import return_credits
from channel_layer.operations.steps import Unbroken, execute, execute_all

if TYPE_CHECKING:
    from channel_layer.domain.counters import Reason
    from channel_layer.domain.names import Queue
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("move_all_to_remote", "move_to_remote", "push", "send")


def send(state: LayerState, channel: ChannelName, payload: bytes, turn: int) -> Operation[c.Pushed]:
    """Send a message to a channel, and count what became of it.

    What waits for it in the local store though no process of this machine reads it any more is moved to the remote
    store first. An inbox of this process that is full gets back the credits that its store has not heard of.

    Raises:
        NoLocalReader: no process of this machine receives from it, and that is to be an error.
        StoreError: the store could not be reached.
    """
    inbox = state.inboxes.get(channel.queue.name)
    known = inbox.returned if inbox is not None else 0
    sent = yield from push(state.routes, channel, payload, turn)
    if sent.orphaned:
        yield Unbroken(move_to_remote(state, channel.queue))
        sent = yield from push(state.routes, channel, payload, turn, pass_orphaned=True)
    if not sent.accepted and inbox is not None and (inbox.credits or inbox.returned != known or inbox.returning):
        yield from return_credits(state, inbox)
        sent = yield from push(state.routes, channel, payload, turn)
    _count(state, channel, sent)
    return sent


def _count(state: LayerState, channel: ChannelName, sent: c.Pushed) -> None:
    counters = state.counters
    with state.lock:
        if sent.expired:
            counters.drop("expired", channel.name, sent.expired)
        if sent.accepted:
            counters.sent += 1
            counters.pending_counts.count(channel.queue, 1, 0)
        else:
            counters.refused += 1
            counters.pending_counts.count(channel.queue, 0, 1)


def push(
    routes: Routes,
    channel: ChannelName,
    payload: bytes,
    turn: int,
    *,
    to_member: bool = False,
    pass_orphaned: bool = False,
) -> Operation[c.Pushed]:
    """Put a message into its channel's queue.

    A normal channel that is spread over several shards starts at shard *turn* and tries all the others before it
    gives up, so that it is full only when every share of its capacity is. With a local store, the message goes there if
    a process of this machine reads the channel; see `channel_layer.domain.routing`.

    Args:
        routes: where things are.
        channel: whom it is for.
        payload: the encoded message.
        turn: any number that changes from call to call.
        to_member: it goes to the channel as a member of a group.
        pass_orphaned: overtake earlier messages that wait in the local store without a reader on this machine.

    Returns:
        The reply of the shard that decided, with the old messages that made room on all shards. If ``orphaned`` is over
        0, nothing was sent: earlier messages have to be moved to the remote store first.

    Raises:
        NoLocalReader: no process of this machine receives from it, and that is to be an error.
    """
    capacity = routes.capacity.of(channel.name)
    queue = channel.queue
    if (local := routes.local_of(queue)) is not None:
        other = side(queue.kind, routes.no_local_reader, registered=False, to_member=to_member)
        pushed = yield from execute(c.Push(local, channel, capacity, payload, to_member, other is not Side.LOCAL))
        if pushed.orphaned is None:
            return pushed
        if other is Side.NEITHER:
            raise NoLocalReader(channel.name)
        if pushed.orphaned and not (pass_orphaned or to_member):
            return pushed
    if queue.kind is not Kind.NORMAL or not routes.ring.spread:
        return (yield from execute(c.Push(routes.ring.queue(queue), channel, capacity, payload, to_member)))
    parts = shares(capacity, routes.ring.order(queue))
    expired = 0
    for place in range(len(parts)):
        shard, share = parts[(turn + place) % len(parts)]
        if share:
            pushed = yield from execute(c.Push(shard, channel, share, payload, to_member))
            expired += pushed.expired
            if pushed.accepted or pushed.unread_expired:
                return c.Pushed(pushed.accepted, expired, pushed.unread_expired)
    return c.Pushed(False, expired)


_ALL = 1 << 30
"""Messages to take out of a queue: more than any holds."""


def move_all_to_remote(state: LayerState) -> Operation[None]:
    """Move everything to the remote store that waits in the local one and that no process of this machine reads."""
    routes = state.routes
    if routes.local is not None and routes.no_local_reader == "remote":
        for name in (yield from execute(c.FindOrphaned(routes.local))):
            with contextlib.suppress(DamagedRecord):  # what waits for others is moved all the same
                yield from move_to_remote(state, ChannelName.parse(name).queue)


def move_to_remote(state: LayerState, queue: Queue) -> Operation[None]:
    """Move what waits in the local store for a queue to the remote store, ahead of what waits there.

    Each message keeps its age. They are spread as the queue's capacity is, and count towards it. What is lost over it
    is counted: ``store_lost`` if it is unknown whether it has arrived.

    Raises:
        StoreError: the remote store cannot be reached; nothing was moved, or not all.
    """
    routes, local = state.routes, state.routes.local
    if local is None:
        return
    capacity = routes.capacity.of(queue.name)
    parts = [(shard, share) for shard, share in shares(capacity, routes.ring.order(queue)) if share]
    # The clocks there: asked first, so that nothing is in hand if they do not answer, and no message gets younger.
    looks = yield from execute_all(c.Pop(shard, queue, 0, "") for shard, _ in parts)
    taken = yield from execute(c.Pop(local, queue, _ALL, ""))
    dropped: Counter[Reason] = Counter({"expired": taken.expired, "flushed": taken.flushed, "store_lost": taken.lost})
    left = taken.entries
    try:
        for (shard, share), look in zip(parts, looks, strict=True):
            count = share if shard != parts[-1][0] else len(left)
            entries = tuple(c.Entry(moved(entry.stamp, taken.now, look.now), entry.frame) for entry in left[:count])
            if not entries:
                break
            try:
                returned = yield from execute(c.PutBack(shard, queue, entries))
            except GeneratorExit:
                raise
            except BaseException as exc:
                if isinstance(exc, StoreError) and exc.outcome == "unknown":
                    dropped["store_lost"] += len(entries)
                    left = left[count:]
                if left:
                    returned = yield from execute(c.PutBack(local, queue, left))
                    dropped.update(expired=returned.expired, flushed=returned.flushed)
                if not (isinstance(exc, StoreError) and dropped.total()):
                    raise
                return
            left = left[count:]
            dropped.update(expired=returned.expired, flushed=returned.flushed)
    finally:
        with state.lock:
            for reason, messages in dropped.items():
                state.counters.drop(reason, queue.name, messages)
