"""Statistics: telling the shards what a process has counted, and adding up what they know of all processes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.counters import Statistics
from channel_layer.domain.names import Queue
from channel_layer.errors import StoreError
from channel_layer.operations.credits import return_credits
from channel_layer.operations.steps import execute, execute_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.domain.names import ChannelName
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("add_up", "read_statistics", "report", "report_counts")


def report(state: LayerState) -> Operation[None]:
    """Tell the shards what this process has counted; what they could not be told is told the next time."""
    with state.lock:
        counts = state.counters.pending_counts.take()
    if counts:
        left = yield from report_counts(state.routes, counts)
        with state.lock:
            for family, messages, refused in left:
                state.counters.pending_counts.add(family, messages, refused)


def report_counts(routes: Routes, counts: Iterable[tuple[str, int, int]]) -> Operation[list[tuple[str, int, int]]]:
    """Tell the shards what `PendingCounts.take` has returned; of each family the one that it prefers.

    Returns:
        What could not be told, and can be told later. What may have been told is not among it: a count that is once too
        low is better than one that is too high.
    """
    by_shard: dict[int, list[c.Count]] = {}
    for family, messages, refused in counts:
        queue = Queue.named(family)
        by_shard.setdefault(_counted_on(routes, queue), []).append(c.Count(queue, messages, refused))
    left: list[tuple[str, int, int]] = []
    for shard, some in by_shard.items():
        told = tuple(count for count in some if count.queue.name)
        messages, refused = sum(count.messages for count in some), sum(count.refused for count in some)
        try:
            yield from execute(c.Report(shard, told, messages, refused))
        except StoreError as exc:
            if exc.outcome == "not_sent":
                left.extend((count.queue.name, count.messages, count.refused) for count in some)
    return left


def _counted_on(routes: Routes, queue: Queue) -> int:
    """Return the shard that is told of a queue: this machine's own for what it may keep, so that it costs no other."""
    local = routes.local_of(queue)
    return routes.ring.queue(queue) if local is None else local


def read_statistics(state: LayerState, channel: ChannelName | None) -> Operation[Statistics]:
    """Tell the shards what this process knows, and add up what they know of one channel, or of all."""
    inboxes = [each for each in state.owned_inboxes() if channel is None or each.queue == channel.queue]
    for inbox in inboxes:
        yield from return_credits(state, inbox)
    yield from report(state)
    found = yield from add_up(state.routes, channel)
    with state.lock:
        age = max(state.ages(inboxes, channel), default=0.0)
    return replace(found, messages_max_age=max(age, found.messages_max_age or 0.0)) if age else found


def add_up(routes: Routes, channel: ChannelName | None) -> Operation[Statistics]:
    """Add up what the shards know: of one channel, or of all."""
    if channel is None:
        counting = tuple(c.Reported(shard, None) for shard in routes.all_shards)
    else:
        family = Queue(channel.queue.family, channel.queue.kind)
        counting = (c.Reported(_counted_on(routes, family), family),)
    places = routes.all_shards if channel is None else routes.shards(channel.queue)
    waiting = tuple(c.Survey(shard, channel) for shard in places)
    rates = yield from execute_all(counting)
    found = yield from execute_all(waiting)
    pending = [each.pending for each in found if each.pending is not None]
    known = sum(pending) if len(pending) == len(found) else None
    ages = [each.oldest for each in found if each.oldest is not None]
    return Statistics(
        messages_count=sum(each.messages for each in rates),
        messages_count_per_second=sum(each.lately / each.seconds for each in rates),
        messages_pending=known,
        messages_max_age=max(ages, default=0.0 if known == 0 else None),
        channel_full_count=sum(each.refused for each in rates),
        channel_full_count_per_second=sum(each.refused_lately / each.seconds for each in rates),
    )
