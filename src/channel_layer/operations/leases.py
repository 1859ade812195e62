"""Leases of the inboxes that a process owns: renewed, acquired again, and given up.

With a lease the store may have lost memberships, and a flush may be waiting for an acknowledgement: both are told
again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import StoreError
from channel_layer.operations.groups import NoOwner, join, leave
from channel_layer.operations.steps import execute, run_together

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = (
    "Renewal",
    "acknowledge_flush",
    "acquire_lease",
    "announce",
    "announce_groups",
    "end_memberships",
    "give_up",
    "keep_groups_alive",
    "renew_lease",
)

_AT_ONCE = 500
"""Memberships that are announced again, or ended, in one write."""


@dataclass(frozen=True, slots=True)
class Renewal:
    """What became of a lease that was to be renewed.

    Attributes:
        held: it is held for another while, and it is known how it was acquired.
        missed: it had ended before: other processes have been told that this owner is dead.
    """

    held: bool
    missed: bool


def renew_lease(state: LayerState, inbox: Inbox) -> Operation[Renewal]:
    """Renew the lease of an inbox."""
    sent = state.clock.now()
    renewed = yield from execute(c.RenewLease(inbox.shard, inbox.queue))
    with state.lock:
        state.clocks[inbox.shard].observe(sent, state.clock.now(), renewed.now)
    missed = not renewed.held and inbox.lease_until is not None and renewed.now >= inbox.lease_until
    inbox.lease_until = renewed.now + state.lease
    # Without a generation a claim was made, and nothing is known of how it ended.
    return Renewal(renewed.held and bool(inbox.generation), missed)


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
        now = state.clock.now()
        state.clocks[inbox.shard].observe(sent, now, claimed.now)
        inbox.generation = generation
        inbox.lease_until = claimed.now + state.lease
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


def announce(state: LayerState, inbox: Inbox) -> Operation[None]:
    """Tell the store again of all memberships of an inbox.

    Raises:
        StoreError: the store could not be reached, or has lost the lease again.
    """
    with state.lock:
        memberships = [(inbox, *each) for each in inbox.groups.known()]
    yield from _announce(state, memberships)
    inbox.unannounced = False


def announce_groups(state: LayerState, wanted: Callable[[GroupName], bool]) -> Operation[None]:
    """Tell the store again of the memberships of all owned inboxes in some groups.

    Raises:
        StoreError: the store could not be reached, or has lost the lease again.
    """
    with state.lock:
        memberships = [(inbox, *each) for inbox in state.inboxes.values() for each in inbox.groups.known()]
    yield from _announce(state, [each for each in memberships if wanted(GroupName.parse(each[1]))])


def _announce(state: LayerState, memberships: Sequence[tuple[Inbox, str, str, float]]) -> Operation[None]:
    now, limit = state.clock.now(), state.rules.group_expiry
    valid: list[tuple[Inbox, str, str, float]] = []
    for inbox, group, member, joined in memberships:
        age = max(0.0, state.clocks[inbox.shard].middle(now) - joined)
        if limit is None or age < limit:  # else it is over, and another process may have added the channel since
            valid.append((inbox, group, member, age))
    for start in range(0, len(valid), _AT_ONCE):
        some = valid[start : start + _AT_ONCE]
        outcomes = yield from run_together(
            join(state.routes, GroupName.parse(group), ChannelName.parse(member), owned=True, age=age, restore=True)
            for _, group, member, age in some
        )
        for (inbox, group, member, _), outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, NoOwner):
                raise StoreError("the lease was lost again", retryable=True, outcome="unknown")
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome.applied:  # it was removed while there was no lease, so no marker told of it
                with state.lock:
                    inbox.retract(group, member, outcome.version, state.clock.now())


def end_memberships(state: LayerState, ending: Sequence[tuple[str, str, int]]) -> Operation[None]:
    """End memberships that `Inbox.sweep` has returned; what fails, or is refused, comes again."""
    for start in range(0, len(ending), _AT_ONCE):
        yield from run_together(
            leave(state.routes, GroupName.parse(group), ChannelName.parse(member), latest)
            for group, member, latest in ending[start : start + _AT_ONCE]
        )


def keep_groups_alive(state: LayerState, shard: int) -> Operation[None]:
    """Keep the groups of a shard alive whose members never expire because this process owns them."""
    with state.lock:
        groups = {group for inbox in state.inboxes.values() for group, _, _ in inbox.groups.known()}
    names = tuple(name for name in map(GroupName.parse, groups) if state.routes.ring.group(name) == shard)
    if names:
        yield from execute(c.Touch(shard, names))


def give_up(state: LayerState, inbox: Inbox) -> Operation[None]:
    """End an inbox for good: its channels leave their groups, and what waits in it counts as ``closed``.

    Raises:
        StoreError: the store could not be reached; its lease ends by itself.
    """
    with state.lock:
        members = inbox.groups.known()
    for start in range(0, len(members), _AT_ONCE):
        outcomes = yield from run_together(
            leave(state.routes, GroupName.parse(group), ChannelName.parse(member))
            for group, member, _ in members[start : start + _AT_ONCE]
        )
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
    waiting = yield from execute(c.ReleaseLease(inbox.shard, inbox.queue))
    with state.lock:
        inbox.empty("closed")
        inbox.groups.clear()
        state.counters.drop("closed", inbox.queue.name, waiting)
