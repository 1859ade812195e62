"""Whether a layer can serve: a message, a group and an inbox of its own are made and removed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import StoreError
from channel_layer.operations.steps import RestoreLease, execute, run_together

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = ("check_readiness",)

_GROUP: Final = GroupName.parse("channel-layer.ready")
"""A group that is always empty again: one for all processes, because a store may keep some of it until it expires."""


def check_readiness(state: LayerState, *, leases: bool) -> Operation[None]:
    """Check that every shard takes messages and gives them back, and groups and leases work.

    Args:
        state: the state of the layer.
        leases: the store has leases.

    Raises:
        StoreError: something does not work; the text says what.
    """
    outcomes = yield from run_together(_checks(state, leases=leases))
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    lasting = [error for error in failed if isinstance(error, StoreError) and not error.retryable]
    for error in (*lasting, *failed):  # first what does not pass by itself
        raise error
    for inbox in state.owned_inboxes():
        (alive,) = yield from execute(c.Alive(inbox.shard, (inbox.queue,)))
        if not alive:
            yield RestoreLease(inbox)


def _checks(state: LayerState, *, leases: bool) -> Iterator[Operation[None]]:
    channel = ChannelName.parse(f"channel-layer.ready.{state.claimant}")
    for shard in state.routes.all_shards:
        yield _pass_message(state, shard, channel)
    yield _change_group(state, channel)
    if leases:
        yield _own_inbox(state, ChannelName.parse(f"{channel.name}!x"))


def _pass_message(state: LayerState, shard: int, channel: ChannelName) -> Operation[None]:
    pushed = yield from execute(c.Push(shard, channel, 1, b""))
    yield from execute(c.Pop(shard, channel.queue, 2, state.claimant))
    if pushed.no_room:
        raise StoreError(pushed.no_room, retryable=True, outcome="not_sent")


def _change_group(state: LayerState, channel: ChannelName) -> Operation[None]:
    shard = state.routes.ring.group(_GROUP)
    yield from execute(c.Join(shard, _GROUP, channel, owned=False, age=0.0, restore=False, mark=False))
    yield from execute(c.Members(shard, _GROUP))
    yield from execute(c.Leave(shard, _GROUP, channel, mark=False, latest=None))


def _own_inbox(state: LayerState, channel: ChannelName) -> Operation[None]:
    shard = state.routes.ring.queue(channel.queue)
    yield from execute(c.AcquireLease(shard, channel.queue, "ready", "", ()))
    yield from execute(c.Push(shard, channel, 1, b""))
    yield from execute(c.ReleaseLease(shard, channel.queue))
