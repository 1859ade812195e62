"""Flushing: every shard emptied, and every process that answers in time heard to have dropped what it held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.operations.steps import EnsureReading, Sleep, execute_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("flush",)

_POLL_FIRST, _POLL_MOST = 0.002, 0.1
"""Seconds between looks at which owners have acknowledged a flush: doubled up to the most."""


def flush(state: LayerState, generation: str) -> Operation[str]:
    """Remove every message and every membership of this prefix, on all shards and in all processes.

    The owners of inboxes have ``timeout`` seconds to acknowledge that. One that let them pass is not waited for again
    until it has acknowledged: a process that was killed would delay every flush until its lease ends.

    Returns:
        What to warn of: owners that have not acknowledged; "" if all have.
    """
    shards = state.routes.all_shards
    own = yield from _own_unread(state)
    silent = frozenset(name for names in (yield from execute_all(state.unflushed)) for name in names)
    begun = yield from execute_all(c.Flush(shard, generation) for shard in shards)
    state.count_flushed(begun)
    until = state.clock.now() + state.rules.timeout
    left = _others(zip(shards, (flushing.inboxes for flushing in begun), strict=True), generation, own)
    pause = _POLL_FIRST
    while not silent.issuperset(name for asked in left for name in asked.inboxes):
        remaining = until - state.clock.now()
        if remaining <= 0:
            break
        yield Sleep(min(pause, remaining))
        pause = min(_POLL_MOST, pause * 2)
        own = yield from _own_unread(state)
        still = yield from execute_all(left)
        left = _others(zip((asked.shard for asked in left), still, strict=True), generation, own)
    state.unflushed = left
    return _warning(state, left) if left else ""


def _own_unread(state: LayerState) -> Operation[frozenset[str]]:
    """See that the inboxes of this process are read, and return the names of those that cannot be meanwhile."""
    if not state.inboxes:
        return frozenset()
    unread: frozenset[str] = yield EnsureReading()
    return unread


def _others(
    inboxes: Iterable[tuple[int, tuple[str, ...]]], generation: str, own: frozenset[str]
) -> tuple[c.Unflushed, ...]:
    """Return what to ask for the inboxes of each shard, but for those of this process that cannot be read."""
    asked = ((shard, tuple(name for name in names if name not in own)) for shard, names in inboxes)
    return tuple(c.Unflushed(shard, names, generation) for shard, names in asked if names)


def _warning(state: LayerState, left: tuple[c.Unflushed, ...]) -> str:
    where = ", ".join(f"{len(asked.inboxes)} on {state.routes.name(asked.shard)}" for asked in left)
    count = sum(len(asked.inboxes) for asked in left)
    return (
        f"flush() returned before the owners of {count} {'inbox' if count == 1 else 'inboxes'} answered ({where}): "
        f"their processes were killed, are stopped or blocked, or cannot reach the store. One that was killed needs "
        f"nothing, as its lease ends within {state.lease:g} s; any other may deliver older messages until it goes on"
    )
