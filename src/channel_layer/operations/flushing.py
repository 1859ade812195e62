"""Flushing: every shard emptied, and every process heard to have dropped what it held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.operations.steps import EnsureReading, Sleep, execute_all

if TYPE_CHECKING:
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("flush",)

_POLL_FIRST, _POLL_MOST = 0.002, 0.1
"""Seconds between looks at which owners have acknowledged a flush: doubled up to the most."""


def flush(state: LayerState, generation: str) -> Operation[None]:
    """Remove every message and every membership of this prefix, on all shards and in all processes."""
    shards = state.routes.all_shards
    unread = yield from _own_unread(state)
    begun = yield from execute_all(c.Flush(shard, generation) for shard in shards)
    state.count_flushed(begun)
    left = {shard: flushing.inboxes for shard, flushing in zip(shards, begun, strict=True)}
    pause = _POLL_FIRST
    while left := {
        shard: waiting for shard, inboxes in left.items() if (waiting := tuple(i for i in inboxes if i not in unread))
    }:
        yield Sleep(pause)
        pause = min(_POLL_MOST, pause * 2)
        unread = yield from _own_unread(state)
        still = yield from execute_all(c.Unflushed(shard, inboxes, generation) for shard, inboxes in left.items())
        left = dict(zip(left, still, strict=True))


def _own_unread(state: LayerState) -> Operation[frozenset[str]]:
    """See that the inboxes of this process are read, and return the names of those that cannot be meanwhile."""
    if not state.inboxes:
        return frozenset()
    unread: frozenset[str] = yield EnsureReading()
    return unread
