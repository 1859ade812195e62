"""Leases of the inboxes that a process owns: renewed, acquired again, and given up.

With a lease the store may have lost memberships, and a flush may be waiting for an acknowledgement: both are told
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer.operations.groups import MEMBERSHIPS_AT_ONCE, NoOwner, leave, restore_groups
from channel_layer.operations.steps import execute, run_together

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = (
    "Renewal",
    "acknowledge_flush",
    "acquire_lease",
    "announce",
    "end_memberships",
    "give_up",
    "observe_clock",
    "renew_lease",
    "restore_memberships",
)


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of a lease that was to be renewed.

    Attributes:
        held: it is held for another while.
        missed: it had ended before: other processes have been told that this owner is dead.
    """

    held: bool
    missed: bool


def renew_lease(state: LayerState, inbox: Inbox) -> Operation[Renewal]:
    """Renew the lease of an inbox."""
    with state.lock:
        serial, held = inbox.unread()
        renewal = c.RenewLease(inbox.shard, inbox.queue, inbox.position, serial, held)
    sent = state.clock.now()
    renewed = yield from execute(renewal)
    with state.lock:
        clock = state.observe(inbox.shard, sent, renewed.now)
    missed = not renewed.held and inbox.lease_until is not None and renewed.now - clock.stepped >= inbox.lease_until
    inbox.lease_until = renewed.now - clock.stepped + state.lease
    return Renewal(renewed.held, missed)


def observe_clock(state: LayerState, inbox: Inbox) -> Operation[None]:
    """Learn what the clock of an inbox's shard shows."""
    sent = state.clock.now()
    renewed = yield from execute(c.RenewLease(inbox.shard, inbox.queue))
    with state.lock:
        state.observe(inbox.shard, sent, renewed.now)


def acquire_lease(state: LayerState, inbox: Inbox, generation: str, *, missed: bool = False) -> Operation[None]:
    """Acquire the lease of an inbox, for the first time or again.

    The inbox must not be read meanwhile: what comes in after the claim could be taken for what was there before it.
    """
    first = inbox.lease_until is None
    with state.lock:
        if missed:
            inbox.empty("expired")
        inbox.credits.clear()
        inbox.generation = ""  # nothing is given back until the count begins anew
        held = inbox.held()
    sent = state.clock.now()
    claimed = yield from execute(c.AcquireLease(inbox.shard, inbox.queue, generation, inbox.position, held))
    with state.lock:
        clock = state.observe(inbox.shard, sent, claimed.now)
        now = state.clock.now()
        inbox.generation = generation
        inbox.lease_until = claimed.now - clock.stepped + state.lease
        inbox.lost = False
        if claimed.fresh:
            inbox.position = ""
        if claimed.epoch != inbox.epoch and not first and claimed.epoch:
            inbox.empty("flushed")
            inbox.groups.clear()
        inbox.epoch = claimed.epoch or inbox.epoch
        inbox.apply_leavings(now)
        state.counters.drop("expired", inbox.queue.name, claimed.expired)
        if not first:
            inbox.flushed = generation  # a flush may be waiting for a marker that went with the old lease
            inbox.unannounced = True


def acknowledge_flush(state: LayerState, inbox: Inbox) -> Operation[None]:
    """Tell the store that a flush has been applied to an inbox, once it has been applied to the local store, too.

    What cannot be told now is told with the next batch that is read, or with the next renewal.
    """
    if (due := inbox.due_locally) is not None:
        yield from _flush_local(state, due)
        with state.lock:
            if inbox.due_locally == due:
                inbox.due_locally = None
    if (generation := inbox.flushed) is None:
        return
    try:
        yield from execute(c.Acknowledge(inbox.shard, inbox.queue, generation))
    except StoreError:
        return
    with state.lock:
        if inbox.flushed == generation:
            inbox.flushed = None


def _flush_local(state: LayerState, generation: str) -> Operation[None]:
    """Empty the local store, because of a flush that may have begun on another machine."""
    local = state.routes.local
    if local is None:
        return
    try:
        flushing = yield from execute(c.Flush(local, generation))
    except StoreError:
        return
    with state.lock:
        state.counters.drop("flushed", "the store", flushing.dropped)


def announce(state: LayerState, inbox: Inbox) -> Operation[int]:
    """Tell the store again of all memberships of an inbox; return how many it had lost.

    Raises:
        StoreError: the store could not be reached, or has lost the lease again.
    """
    restored = 0
    try:
        for shard in range(len(state.routes.ring)):
            restored += yield from _restore(state, inbox, shard, everything=True)
    except NoOwner as exc:
        raise StoreError("the lease was lost again", retryable=True, outcome="unknown") from exc
    inbox.unannounced = False
    return restored


def restore_memberships(
    state: LayerState, shard: int, *, everything: bool = False, extend: bool = False
) -> Operation[int]:
    """Restore the memberships of this process in groups of a shard that its server has lost; return how many.

    A server may evict keys, be emptied, or restart without its data. An inbox whose lease it has lost, too, is told
    again when that has been acquired again: `Inbox.lost`.

    Args:
        state: the state of the layer.
        shard: the groups' shard.
        everything: announce also the memberships in groups that are there: they may be older ones.
        extend: keep the groups whose memberships do not end for another lifetime.

    Raises:
        StoreError: the store could not be reached.
    """
    restored = 0
    for inbox in state.owned_inboxes():
        try:
            restored += yield from _restore(state, inbox, shard, everything=everything, extend=extend)
        except NoOwner:
            inbox.lost = True
    return restored


def _restore(state: LayerState, inbox: Inbox, shard: int, *, everything: bool, extend: bool = False) -> Operation[int]:
    with state.lock:
        names = inbox.groups.names()
    ring = state.routes.ring
    groups = [group for group in map(GroupName, names) if ring.group(group) == shard]
    restored = 0
    for start in range(0, len(groups), MEMBERSHIPS_AT_ONCE):
        some = groups[start : start + MEMBERSHIPS_AT_ONCE]
        restored += yield from restore_groups(state, inbox, shard, some, everything=everything, extend=extend)
    return restored


def end_memberships(state: LayerState, ending: Sequence[tuple[str, str, int]]) -> Operation[None]:
    """End memberships that `Inbox.sweep` has returned; what fails, or is refused, comes again."""
    for start in range(0, len(ending), MEMBERSHIPS_AT_ONCE):
        yield from run_together(
            leave(state.routes, GroupName.parse(group), ChannelName.parse(member), latest)
            for group, member, latest in ending[start : start + MEMBERSHIPS_AT_ONCE]
        )


def give_up(state: LayerState, inbox: Inbox) -> Operation[None]:
    """End an inbox for good: its channels leave their groups, and what waits in it counts as ``closed``.

    Raises:
        StoreError: the store could not be reached; its lease ends by itself.
    """
    with state.lock:
        members = inbox.groups.known()
    for start in range(0, len(members), MEMBERSHIPS_AT_ONCE):
        outcomes = yield from run_together(
            leave(state.routes, GroupName.parse(group), ChannelName.parse(member))
            for group, member, _ in members[start : start + MEMBERSHIPS_AT_ONCE]
        )
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, DamagedRecord):
                raise outcome
    waiting = yield from execute(c.ReleaseLease(inbox.shard, inbox.queue))
    with state.lock:
        inbox.empty("closed")
        inbox.groups.clear()
        state.counters.drop("closed", inbox.queue.name, waiting)
