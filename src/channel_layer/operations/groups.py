"""Groups: joining, leaving, and sending to every member, once for each process that owns some."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.errors import DamagedRecord, InvalidName, StoreError
from channel_layer.operations.sending import push
from channel_layer.operations.steps import RestoreLease, execute, execute_all, run_together

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from channel_layer.domain.inbox import Inbox
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation

__all__ = (
    "MEMBERSHIPS_AT_ONCE",
    "NoOwner",
    "SentToGroup",
    "group_add",
    "group_channels",
    "group_discard",
    "group_send",
    "join",
    "leave",
    "publish",
    "restore_groups",
)

MEMBERSHIPS_AT_ONCE = 500
"""Memberships that are checked, announced again or ended in one write."""


@dataclass(frozen=True, slots=True)
class SentToGroup:
    """What became of a group message.

    Attributes:
        others: for each member that got it as a message of its own, in a queue outside any owned inbox, the family of
            that queue.
        full: members outside any owned inbox whose channel had no room.
        inbox_full: owned inboxes that had no room.
        expired: (channel, old messages that made room).
        unknown: the store knows no such group: it has never had a member, or was lost.
        damaged: (member outside any owned inbox, or owned inbox, why the store does not take messages for it).
    """

    others: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    inbox_full: tuple[str, ...] = ()
    expired: tuple[tuple[str, int], ...] = ()
    unknown: bool = False
    damaged: tuple[tuple[str, DamagedRecord], ...] = ()


def group_send(
    state: LayerState, group: GroupName, payload: bytes, turn: int, for_channel: Callable[[str], bytes] | None = None
) -> Operation[SentToGroup]:
    """Send to every member of a group, and count what became of it: see `publish`."""
    sent = yield from publish(state.routes, group, payload, turn, for_channel)
    if sent.unknown and (yield from _restore_own(state, group)):
        sent = yield from publish(state.routes, group, payload, turn, for_channel)
    if sent.others or sent.full or sent.inbox_full or sent.expired or sent.damaged:
        _count(state, sent)
    return sent


def _count(state: LayerState, sent: SentToGroup) -> None:
    counters = state.counters
    with state.lock:
        counters.expanded += len(sent.others) + len(sent.full) + len(sent.inbox_full) + len(sent.damaged)
        for family in sent.others:
            counters.pending_counts.add(family, 1)
        for member in sent.full:
            counters.drop("full", member)
        for inbox in sent.inbox_full:
            counters.drop("inbox_full", inbox)
        for name, error in sent.damaged:
            counters.drop("damaged", name, cause=str(error))
        for member, count in sent.expired:
            counters.drop("expired", member, count)


def publish(
    routes: Routes, group: GroupName, payload: bytes, turn: int, for_channel: Callable[[str], bytes] | None = None
) -> Operation[SentToGroup]:
    """Send to every member of a group: once for each process that owns members, and once for each other member.

    A member that no process owns, and that has let an earlier message to it expire unread, is removed.

    With one shard and no other members it is one step in the store. Otherwise the group's shard says who the members
    are, and then every shard is told at once. *for_channel* makes the payload for a member outside any owned inbox, if
    that is another one.
    """
    shard = routes.ring.group(group)
    found = yield from execute(c.Publish(shard, group, payload, at_once=len(routes.ring) == 1))
    if not (found.version or found.inboxes or found.others):
        return SentToGroup(unknown=True)
    if found.done:
        return SentToGroup(inbox_full=found.full)
    others = _channels(found.others)
    in_inboxes = yield from _deliver(routes, group, payload, found.inboxes, others)
    outside = [member for member in others if member.queue.kind is not Kind.INBOX] + in_inboxes.outside
    payloads = (payload if for_channel is None else for_channel(member.name) for member in outside)
    outcomes = yield from run_together(
        push(routes, member, each, turn, to_member=True) for member, each in zip(outside, payloads, strict=True)
    )
    sent: list[tuple[ChannelName, c.Pushed]] = []
    damaged = in_inboxes.damaged
    for member, outcome in zip(outside, outcomes, strict=True):
        if isinstance(outcome, DamagedRecord):
            damaged.append((member.name, outcome))
        elif not isinstance(outcome, Exception):
            sent.append((member, outcome))
    reached = in_inboxes.reached or any(outcome.accepted for _, outcome in sent)
    _require_all(outcomes, reached=reached)
    unread = tuple(member.name for member, outcome in sent if outcome.unread_expired)
    if in_inboxes.dead or unread:
        try:
            yield from execute(c.Prune(shard, group, found.version, in_inboxes.dead, unread))
        except StoreError as exc:
            _require_all([exc], reached=reached)
            raise
    return SentToGroup(
        others=tuple(member.queue.family for member, outcome in sent if outcome.accepted),
        full=tuple(member.name for member, outcome in sent if not (outcome.accepted or outcome.unread_expired)),
        inbox_full=in_inboxes.full,
        expired=tuple((member.name, outcome.expired) for member, outcome in sent if outcome.expired),
        damaged=tuple(damaged),
    )


def _channels(names: Iterable[str]) -> list[ChannelName]:
    """Return the members of a group; what another program has put there is no name, and left out."""
    channels: list[ChannelName] = []
    for name in names:
        try:
            channels.append(ChannelName.parse(name))
        except InvalidName:
            continue
    return channels


@dataclass(frozen=True, slots=True)
class _Delivered:
    """What became of a group's message in the inboxes of its members.

    Attributes:
        full: inboxes that had no room.
        dead: inboxes without a living owner, whose members their owners had added.
        outside: members in inboxes without a living owner, added by others: the message goes to each of them.
        damaged: inboxes that do not take messages, and why.
        reached: whether any inbox has got the message.
    """

    full: tuple[str, ...]
    dead: tuple[str, ...]
    outside: list[ChannelName]
    damaged: list[tuple[str, DamagedRecord]]
    reached: bool


def _deliver(
    routes: Routes, group: GroupName, payload: bytes, inboxes: tuple[str, ...], others: Iterable[ChannelName]
) -> Operation[_Delivered]:
    """Deliver to inboxes with members that their owners added, and to those of other members, once to each."""
    inboxes = tuple(channel.queue.name for channel in _channels(f"{inbox}x" for inbox in inboxes))
    extra: dict[str, list[ChannelName]] = {inbox: [] for inbox in inboxes}
    for member in others:
        if member.queue.kind is Kind.INBOX:
            extra.setdefault(member.queue.name, []).append(member)
    queues = [Queue(name, Kind.INBOX) for name in extra]
    deliveries = yield from run_together(
        execute(c.Deliver(routes.ring.queue(q), q, group, tuple(member.name for member in extra[q.name]), payload))
        for q in queues
    )
    outcomes: dict[str, c.Delivery] = {}
    damaged: list[tuple[str, DamagedRecord]] = []
    for inbox, delivery in zip(extra, deliveries, strict=True):
        if isinstance(delivery, DamagedRecord):
            damaged.append((inbox, delivery))
        elif not isinstance(delivery, Exception):
            outcomes[inbox] = delivery
    reached = c.Delivery.DONE in outcomes.values()
    _require_all(deliveries, reached=reached)
    ownerless = [name for name, delivery in outcomes.items() if delivery is c.Delivery.NO_OWNER]
    return _Delivered(
        full=tuple(name for name, delivery in outcomes.items() if delivery is c.Delivery.FULL),
        dead=tuple(name for name in ownerless if name in inboxes),
        outside=[member for name in ownerless for member in extra[name]],
        damaged=damaged,
        reached=reached,
    )


def _require_all(outcomes: Iterable[object], *, reached: bool) -> None:
    """Raise the first error of the parts of a send, except damage, which concerns one member.

    If any part may have reached a member, nothing is known of the send as a whole: to repeat it may send twice.
    """
    errors = [each for each in outcomes if isinstance(each, Exception) and not isinstance(each, DamagedRecord)]
    if not errors:
        return
    first = errors[0]
    if not isinstance(first, StoreError):
        raise first
    known = not reached and all(isinstance(each, StoreError) and each.outcome == "not_sent" for each in errors)
    if known or first.outcome == "unknown":
        raise first
    raise StoreError(str(first), retryable=first.retryable, outcome="unknown", server=first.server) from first


_JOIN_TRIES = 5
"""How often the lease of an inbox is restored when the store loses it at the very moment of a `group_add`."""


def group_add(state: LayerState, group: GroupName, channel: ChannelName) -> Operation[None]:
    """Add a channel to a group; if this process owns its inbox, remember the membership.

    Raises:
        StoreError: the store could not be reached, or keeps losing the inbox.
    """
    for _ in range(_JOIN_TRIES):
        inbox = state.inboxes.get(channel.queue.name)
        try:
            joined = yield from join(state.routes, group, channel, owned=inbox is not None)
        except NoOwner:
            if inbox is not None:
                yield RestoreLease(inbox)
            continue
        if inbox is not None:
            with state.lock:
                now = state.clocks[inbox.shard].middle(state.clock.now())
                inbox.groups.confirm(group.name, channel.name, joined.version, now)
        return
    raise StoreError(f"the store keeps losing inbox {channel.queue}", retryable=True, outcome="unknown")


def group_discard(state: LayerState, group: GroupName, channel: ChannelName) -> Operation[None]:
    """Remove a channel from a group, and forget the membership if this process owns its inbox."""
    version = yield from leave(state.routes, group, channel)
    inbox = state.inboxes.get(channel.queue.name)
    if inbox is not None:
        with state.lock:
            inbox.groups.confirm(group.name, channel.name, version, None)


class NoOwner(Exception):
    """The inbox that the caller owns has no lease in the store: it has to be acquired again."""


def join(
    routes: Routes, group: GroupName, channel: ChannelName, *, owned: bool, age: float = 0.0, restore: bool = False
) -> Operation[c.Changed]:
    """Add a channel to a group, as a `Join` does; return what the group's shard replied.

    Raises:
        NoOwner: the caller's inbox has no lease.
    """
    shard = routes.ring.group(group)
    home = routes.ring.queue(channel.queue)
    mark = channel.queue.kind is Kind.INBOX and home == shard
    if not owned:  # first: else a message to the group could meet what was, and remove the new member for it
        yield from execute_all(c.ClearUnread(place, channel) for place in routes.shards(channel.queue))
    command = c.Join(shard, group, channel, owned=owned, age=age, restore=restore, mark=mark)
    changed = yield from execute(command)
    if changed.owned and changed.applied:
        marked = changed.marked
        if home != shard:
            marker = MembershipMarker(group.name, channel.name, True, changed.version, round(age * 1000))
            marked = yield from execute(c.Mark(home, channel.queue, marker))
        if owned and not marked:
            raise NoOwner(channel.queue.name)
    return changed


def leave(routes: Routes, group: GroupName, channel: ChannelName, latest: int | None = None) -> Operation[int]:
    """Remove a channel from a group, as a `Leave` does; without effect if it is no member.

    Returns:
        The group's version after it.
    """
    shard = routes.ring.group(group)
    inbox = channel.queue.kind is Kind.INBOX
    home = routes.ring.queue(channel.queue)
    changed = yield from execute(c.Leave(shard, group, channel, mark=inbox and home == shard, latest=latest))
    if inbox and home != shard and changed.applied:
        marker = MembershipMarker(group.name, channel.name, False, changed.version, 0)
        yield from execute(c.Mark(home, channel.queue, marker))
    return changed.version


def _restore_own(state: LayerState, group: GroupName) -> Operation[bool]:
    """Restore this process's memberships in a group of which the store knows nothing; return whether it had lost any.

    Those of other processes follow when these renew their leases.
    """
    restored = 0
    for inbox in state.owned_inboxes():
        if group.name in inbox.groups.mirrors:
            try:
                restored += yield from restore_groups(state, inbox, state.routes.ring.group(group), [group])
            except (NoOwner, StoreError):  # the lease is gone, too: all follows with that
                return False
    return restored > 0


def restore_groups(
    state: LayerState,
    inbox: Inbox,
    shard: int,
    groups: Sequence[GroupName],
    *,
    everything: bool = False,
    extend: bool = False,
) -> Operation[int]:
    """Restore the memberships of an inbox in some groups of a shard: see `leases.restore_memberships`.

    Raises:
        NoOwner: the inbox has no lease.
        StoreError: the store could not be reached.
    """
    if not groups:
        return 0
    checked = yield from execute(c.CheckGroups(shard, inbox.queue, tuple(groups), extend))
    if checked.epoch not in ("", inbox.epoch):
        return 0  # a flush has ended these memberships, and its marker is on its way
    lost = {group.name for group, known in zip(groups, checked.known, strict=True) if not known}
    wanted = {group.name for group in groups} if everything else lost
    if not wanted:
        return 0
    with state.lock:
        memberships = [each for each in inbox.groups.known() if each[0] in wanted]
    restored = yield from _announce(state, inbox, memberships, lost)
    with state.lock:
        state.counters.memberships_restored += restored
    return restored


def _announce(
    state: LayerState, inbox: Inbox, memberships: Sequence[tuple[str, str, float]], lost: Container[str]
) -> Operation[int]:
    """Tell the store again of memberships; return how many of them are in groups that it had lost.

    Raises:
        NoOwner: the inbox has no lease.
        StoreError: the store could not be reached.
    """
    now, limit = state.clock.now(), state.rules.group_expiry
    valid: list[tuple[str, str, float]] = []
    for group, member, joined in memberships:
        age = max(0.0, state.clocks[inbox.shard].middle(now) - joined)
        if limit is None or age < limit:  # else it is over, and another process may have added the channel since
            valid.append((group, member, age))
    restored = 0
    for start in range(0, len(valid), MEMBERSHIPS_AT_ONCE):
        some = valid[start : start + MEMBERSHIPS_AT_ONCE]
        outcomes = yield from run_together(
            join(state.routes, GroupName.parse(group), ChannelName.parse(member), owned=True, age=age, restore=True)
            for group, member, age in some
        )
        for (group, member, _), outcome in zip(some, outcomes, strict=True):
            if isinstance(outcome, DamagedRecord):
                continue  # of that group only
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.applied:
                restored += group in lost
            else:  # it was removed while there was no lease, so no marker told of it
                with state.lock:
                    inbox.retract(group, member, outcome.version, state.clock.now())
    return restored


def group_channels(routes: Routes, group: GroupName) -> Operation[list[str]]:
    """List the members of a group, but for those whose owner is dead."""
    members = yield from execute(c.Members(routes.ring.group(group), group))
    inboxes: dict[str, Queue] = {}
    channels = _channels(members.owned)
    for channel in channels:
        inboxes[channel.queue.name] = channel.queue
    alive = yield from _living(routes, inboxes.values())
    owned = [channel for channel in channels if channel.queue.name in alive]
    return sorted({channel.name for channel in (*owned, *_channels(members.others))})


def _living(routes: Routes, inboxes: Iterable[Queue]) -> Operation[set[str]]:
    by_shard: dict[int, list[Queue]] = {}
    for inbox in inboxes:
        by_shard.setdefault(routes.ring.queue(inbox), []).append(inbox)
    replies = yield from execute_all(c.Alive(shard, tuple(some)) for shard, some in by_shard.items())
    return {
        inbox.name
        for some, reply in zip(by_shard.values(), replies, strict=True)
        for inbox, lives in zip(some, reply, strict=True)
        if lives
    }
