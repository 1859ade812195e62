"""Receiving from queues that are popped: in which order the shards are asked, and what is made of what they reply."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from channel_layer import commands as c
from channel_layer.domain import frames
from channel_layer.domain.expiry import deadline
from channel_layer.domain.mailbox import Item
from channel_layer.domain.names import ChannelName, Kind
from channel_layer.errors import InvalidName, StoreError
from channel_layer.operations.steps import execute

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.domain.mailbox import QueueBuffer
    from channel_layer.domain.names import Queue
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = (
    "BLOCK_SECONDS",
    "Backoff",
    "claimed_error",
    "closed_error",
    "foreign_error",
    "put_back",
    "put_back_all",
    "rotated",
    "shard_order",
    "take_in",
)

T = TypeVar("T")

BLOCK_SECONDS = 25.0
"""How long one wait in a store lasts at most: under the 30 s to 60 s after which proxies drop idle peers."""

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 1.0
"""Seconds between tries to reach a store that is away: jittered, doubled up to the most."""


class Backoff:
    """Pauses that get longer, with jitter, so that the processes of a fleet do not all come back at once."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = _BACKOFF_FIRST

    def reset(self) -> None:
        """Begin anew: the store has answered."""
        self._next = _BACKOFF_FIRST

    def pause(self, chance: float) -> float:
        """Return how many seconds to wait now; *chance* is a random number from 0 to 1."""
        seconds, self._next = self._next, min(_BACKOFF_MOST, self._next * 2)
        return seconds * (0.5 + chance / 2)


def shard_order(routes: Routes, queue: Queue, turn: int, *, registered: bool) -> tuple[int, ...]:
    """Return the shards of a queue in the order in which to look, each in its turn the first.

    A process that is not registered yet as a reader of the local store's queue looks there last, and not before the
    remote store is empty: what was sent while no process here read is older than what will be sent from now on, and
    counts towards the same capacity.
    """
    shards, local = routes.shards(queue), routes.local_of(queue)
    if local is None or registered:
        return rotated(shards, turn)
    return (*rotated(tuple(shard for shard in shards if shard != local), turn), local)


def rotated(things: tuple[T, ...], turn: int) -> tuple[T, ...]:
    """Return the same things, each in its turn the first."""
    first = turn % len(things)
    return things[first:] + things[:first]


def take_in(state: LayerState, shard: int, queue: Queue, sent: float, popped: c.Popped) -> list[tuple[str, Item]]:
    """Count what a pop, sent at the local time *sent*, in seconds, has brought that is not to be delivered.

    Returns:
        (full channel name, message) of the rest, oldest first.
    """
    counters = state.counters
    messages: list[tuple[str, Item]] = []
    with state.lock:
        state.observe(shard, sent, popped.now)
        now, buffer = state.clock.now(), state.buffers.get(queue.name)
        counters.drop("expired", queue.name, popped.expired)
        counters.drop("flushed", queue.name, popped.flushed)
        counters.drop("store_lost", queue.name, popped.lost)
        if buffer is not None and queue.kind is Kind.INBOX and popped.epoch != buffer.epoch:
            buffer.empty("flushed")
            buffer.epoch = popped.epoch
        for entry in popped.entries:
            over = deadline(entry.stamp, state.rules.expiry, state.clocks[shard].offset(now))
            channel, payload = _read(queue, entry.frame)
            if payload is None:
                counters.drop("undecodable", queue.name)
            elif over <= now:
                counters.drop("expired", queue.name)
            else:
                messages.append((channel, Item(over, payload, "", (shard, entry))))
    return messages


def _read(queue: Queue, frame: bytes) -> tuple[str, bytes | None]:
    """Return channel and payload of a message that was popped; no payload if it is no message of this queue."""
    try:
        name, payload = frames.read_message(frame)
        if queue.kind is not Kind.INBOX:
            return queue.name, payload
        return name, payload if ChannelName.parse(name).queue == queue else None
    except (frames.BadFrame, InvalidName):
        return queue.name, None


def put_back(state: LayerState, buffer: QueueBuffer, items: Iterable[Item]) -> Operation[None]:
    """Return messages, oldest first, to the heads of their queues; what cannot be put back now waits in the buffer.

    It goes on if the caller is cancelled, and ends with that.
    """
    by_shard: dict[int, list[tuple[Item, c.Entry]]] = {}
    for item in items:
        if item.origin is not None:
            by_shard.setdefault(item.origin[0], []).append((item, item.origin[1]))
    counters, name = state.counters, buffer.queue.name
    interruption: BaseException | None = None
    for shard, some in by_shard.items():
        try:
            returned = yield from execute(c.PutBack(shard, buffer.queue, tuple(entry for _, entry in some)))
        except GeneratorExit:
            raise
        except BaseException as exc:  # noqa: BLE001 - a cancellation, too: the other shards' have yet to go
            with state.lock:
                if isinstance(exc, StoreError) and exc.outcome == "unknown":
                    counters.drop("store_lost", name, len(some))
                else:
                    box = buffer.box(name, state.clock.now())
                    box.items.extendleft(item for item, _ in reversed(some))
            if not isinstance(exc, StoreError):
                interruption = exc
        else:
            with state.lock:
                counters.drop("expired", name, returned.expired)
                counters.drop("flushed", name, returned.flushed)
    if interruption is not None:
        raise interruption


def put_back_all(state: LayerState) -> Operation[None]:
    """Return every message that was popped and not taken, so that another process receives it; for a layer that closes.

    Those of a claimed inbox are unread messages of its own channels, and stay.
    """
    with state.lock:
        drained = [(buffer, buffer.drain()) for buffer in state.buffers.values() if buffer.queue.kind is not Kind.INBOX]
    for buffer, items in drained:
        yield from put_back(state, buffer, items)


# -- errors that end a receive()


def closed_error() -> StoreError:
    """Return the error for a call of a layer that was closed."""
    return StoreError("this channel layer is closed", retryable=False, outcome="not_sent")


def foreign_error(inbox: Queue) -> InvalidName:
    """Return the error for receiving from an inbox that another process owns."""
    return InvalidName(
        f"cannot receive from inbox {inbox.name!r}: it belongs to another process that is alive (or to another layer "
        f"object); a name from new_channel() is received where it was made"
    )


def claimed_error(inbox: Queue) -> InvalidName:
    """Return the error for receiving from an inbox that another process has claimed for more than a lease."""
    return InvalidName(
        f"cannot receive from inbox {inbox.name!r}: another process reads it; give each process an inbox of its own"
    )
