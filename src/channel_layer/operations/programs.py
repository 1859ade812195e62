"""The use cases, each written once as a generator that yields commands and knows no I/O.

A driver (see `channel_layer.layer`) performs the commands against a store and sends the replies back. What is random
or depends on the time comes in as an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.capacity import shares
from channel_layer.domain.counters import Statistics
from channel_layer.domain.expiry import moved
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.routing import Side, side
from channel_layer.errors import NoLocalReader, StoreError
from channel_layer.operations.steps import execute, execute_all, run_together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from channel_layer.domain.names import GroupName
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.steps import Operation

__all__ = (
    "Joined",
    "Moved",
    "NoOwner",
    "Sent",
    "SentToGroup",
    "group_add",
    "group_channels",
    "group_discard",
    "group_send",
    "report",
    "rescue",
    "send",
    "statistics",
    "stranded",
)


class NoOwner(Exception):
    """The minted inbox of the one who asks has no lease in the store: claim it, then try again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a message.

    Attributes:
        accepted: it is in a queue.
        expired: old messages that made room for it.
        lapsed: nobody has read an earlier one that was for a member of a group, so that it is none any more.
        stranded: it was not sent, because earlier ones wait on this machine and nobody here reads them any more:
            `rescue` them, and send again.
    """

    accepted: bool
    expired: int
    lapsed: bool = False
    stranded: bool = False


_SENT = Sent(accepted=True, expired=0)
_STRANDED = Sent(accepted=False, expired=0, stranded=True)


def send(
    routes: Routes,
    channel: ChannelName,
    payload: bytes,
    turn: int,
    *,
    to_member: bool = False,
    pass_stranded: bool = False,
) -> Operation[Sent]:
    """Put a message into its channel's queue.

    A normal channel that is spread over several shards starts at shard *turn* and tries all the others before it
    gives up, so that it is full only when every share of its capacity is. Of two halves it is this machine's if
    somebody here reads the channel; see `channel_layer.domain.routing`.

    Args:
        routes: where things are.
        channel: whom it is for.
        payload: the encoded message.
        turn: any number that changes from call to call.
        to_member: it goes to the channel as a member of a group.
        pass_stranded: overtake earlier ones that wait on this machine though nobody here reads them.

    Raises:
        NoLocalReader: nobody on this machine receives from it, and that is to be an error.
    """
    capacity = routes.capacity.of(channel.name)
    queue = channel.queue
    if (local := routes.local_of(queue)) is not None:
        other = side(queue.kind, routes.no_local_reader, attended=False, to_member=to_member)
        pushed = yield from execute(c.Push(local, channel, capacity, payload, to_member, other is not Side.LOCAL))
        if pushed.accepted and not pushed.expired:
            return _SENT
        if pushed.unattended is None:
            return Sent(pushed.accepted, pushed.expired, pushed.lapsed)
        if other is Side.NEITHER:
            raise NoLocalReader(channel.name)
        if pushed.unattended and not (pass_stranded or to_member):
            return _STRANDED
    if queue.kind is not Kind.NORMAL or len(routes.ring) == 1:
        pushed = yield from execute(c.Push(routes.ring.queue(queue), channel, capacity, payload, to_member))
        if pushed.accepted and not pushed.expired:
            return _SENT
        return Sent(pushed.accepted, pushed.expired, pushed.lapsed)
    parts = shares(capacity, routes.ring.order(queue))
    expired = 0
    for place in range(len(parts)):
        shard, share = parts[(turn + place) % len(parts)]
        if share:
            pushed = yield from execute(c.Push(shard, channel, share, payload, to_member))
            expired += pushed.expired
            if pushed.accepted or pushed.lapsed:
                return Sent(pushed.accepted, expired, pushed.lapsed)
    return Sent(False, expired)


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of messages that nobody on this machine reads any more.

    Attributes:
        expired: those that were too old.
        flushed: those that a flush would have removed.
        lost: those of which nobody knows whether they have arrived.
    """

    expired: int = 0
    flushed: int = 0
    lost: int = 0


_ALL = 1 << 30
"""Messages to take out of a queue: more than any holds."""


def stranded(routes: Routes) -> Operation[list[Queue]] | None:
    """Find what waits in this machine's half and nobody here reads any more; None: it is to stay there."""
    if routes.local is None or routes.no_local_reader != "remote":
        return None
    return _stranded(c.Unattended(routes.local))


def _stranded(request: c.Unattended) -> Operation[list[Queue]]:
    names = yield from execute(request)
    return [ChannelName.parse(name).queue for name in names]


def rescue(routes: Routes, queue: Queue) -> Operation[Moved]:
    """Move what waits in this machine's half of a queue to the half that all machines see, ahead of what waits there.

    Each message keeps its age. They are spread as the queue's capacity is, and count towards it.

    Raises:
        StoreError: that half cannot be reached; nothing was moved, or not all.
    """
    if routes.local is None:
        return Moved()
    capacity = routes.capacity.of(queue.name)
    parts = [(shard, share) for shard, share in shares(capacity, routes.ring.order(queue)) if share]
    # What time it is there: asked first, so that nothing is in hand if nobody answers, and no message gets younger.
    looks = yield from execute_all(c.Pop(shard, queue, 0, "") for shard, _ in parts)
    taken = yield from execute(c.Pop(routes.local, queue, _ALL, ""))
    expired, flushed, lost = taken.expired, taken.flushed, taken.lost
    left = taken.entries
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
                lost += len(entries)
                left = left[count:]
            if left:
                returned = yield from execute(c.PutBack(routes.local, queue, left))
                expired, flushed = expired + returned.expired, flushed + returned.flushed
            if not (isinstance(exc, StoreError) and (expired or flushed or lost)):
                raise
            return Moved(expired, flushed, lost)
        left = left[count:]
        expired, flushed = expired + returned.expired, flushed + returned.flushed
    return Moved(expired, flushed, lost)


@dataclass(frozen=True, slots=True)
class SentToGroup:
    """What became of a group message.

    Attributes:
        others: for each member that got it as a message of its own, in a queue outside any minted inbox, the family of
            that queue.
        full: members outside any minted inbox whose channel had no room.
        inbox_full: minted inboxes that had no room.
        expired: (channel, old messages that made room).
    """

    others: tuple[str, ...]
    full: tuple[str, ...]
    inbox_full: tuple[str, ...]
    expired: tuple[tuple[str, int], ...]


def group_send(
    routes: Routes, group: GroupName, payload: bytes, turn: int, for_channel: Callable[[str], bytes] | None = None
) -> Operation[SentToGroup]:
    """Send to every member of a group: once for each process that owns members, and once for each other member.

    A member that nobody owns, and that has let an earlier message to it expire unread, is removed.

    With one shard and no other members it is one step in the store. Otherwise the group's shard says who is in it,
    and then every shard is told at once.

    Args:
        routes: where things are.
        group: the group.
        payload: the encoded message, for those who own members.
        turn: any number that changes from call to call.
        for_channel: makes the payload for a member outside any minted inbox, if it is another one.
    """
    shard = routes.ring.group(group)
    found = yield from execute(c.Publish(shard, group, payload, at_once=len(routes.ring) == 1))
    if found.done:
        return SentToGroup((), (), found.full, ())

    riders: dict[str, list[str]] = {inbox: [] for inbox in found.inboxes}
    outside: list[ChannelName] = []
    for name in found.others:
        member = ChannelName.parse(name)
        if member.queue.kind is Kind.INBOX:
            riders.setdefault(member.queue.name, []).append(name)
        else:
            outside.append(member)

    inboxes = [(Queue(name, Kind.INBOX), tuple(names)) for name, names in riders.items()]
    deliveries = yield from execute_all(
        c.Deliver(routes.ring.queue(q), q, group, names, payload) for q, names in inboxes
    )
    inbox_full: list[str] = []
    dead: list[str] = []
    for (inbox, names), delivery in zip(inboxes, deliveries, strict=True):
        if delivery is c.Delivery.FULL:
            inbox_full.append(inbox.name)
        elif delivery is c.Delivery.NO_OWNER:
            outside.extend(ChannelName.parse(name) for name in names)
            if inbox.name in found.inboxes:
                dead.append(inbox.name)

    full: list[str] = []
    expired: list[tuple[str, int]] = []
    lapsed: list[str] = []
    others: list[str] = []
    payloads = (payload if for_channel is None else for_channel(member.name) for member in outside)
    sent = yield from _send_to_each(routes, list(zip(outside, payloads, strict=True)), turn)
    for member, outcome in zip(outside, sent, strict=True):
        if outcome.expired:
            expired.append((member.name, outcome.expired))
        if outcome.lapsed:
            lapsed.append(member.name)
        elif outcome.accepted:
            others.append(member.queue.family)
        else:
            full.append(member.name)
    if dead or lapsed:
        yield from execute(c.Prune(shard, group, found.version, tuple(dead), tuple(lapsed)))
    return SentToGroup(tuple(others), tuple(full), tuple(inbox_full), tuple(expired))


def _send_to_each(routes: Routes, letters: Iterable[tuple[ChannelName, bytes]], turn: int) -> Operation[list[Sent]]:
    """Run one `send` for each channel and its payload, side by side."""
    outcomes = yield from run_together(
        send(routes, channel, payload, turn, to_member=True) for channel, payload in letters
    )
    sent: list[Sent] = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome
        sent.append(outcome)
    return sent


@dataclass(frozen=True, slots=True)
class Joined:
    """A membership that the store has confirmed.

    Attributes:
        version: the group's version with it.
        applied: False when it was to be restored, but the member has left.
    """

    version: int
    applied: bool


def group_add(
    routes: Routes, group: GroupName, channel: ChannelName, *, owned: bool, age: float = 0.0, restore: bool = False
) -> Operation[Joined]:
    """Add a channel to a group.

    Args:
        routes: where things are.
        group: the group.
        channel: the member; any valid channel, whoever reads it.
        owned: the caller owns the channel's minted inbox.
        age: seconds ago that it joined, for a membership that is restored.
        restore: announce again what the store may have lost.

    Raises:
        NoOwner: the caller's inbox has no lease.
    """
    shard = routes.ring.group(group)
    home = routes.ring.queue(channel.queue)
    mark = channel.queue.kind is Kind.INBOX and home == shard
    if not owned:  # first: else a message to the group could meet what was, and remove the new member for it
        yield from execute_all(c.Forgive(place, channel) for place in routes.shards(channel.queue))
    join = c.Join(shard, group, channel, owned=owned, age=age, restore=restore, mark=mark)
    changed = yield from execute(join)
    if changed.owned and changed.applied:
        marked = changed.marked
        if home != shard:
            marker = MembershipMarker(group.name, channel.name, True, changed.version, round(age * 1000))
            marked = yield from execute(c.Mark(home, channel.queue, marker))
        if owned and not marked:
            raise NoOwner(channel.queue.name)
    return Joined(changed.version, changed.applied)


def group_discard(routes: Routes, group: GroupName, channel: ChannelName, latest: int | None = None) -> Operation[int]:
    """Remove a channel from a group, whoever added it; nothing happens if it is no member.

    Args:
        routes: where things are.
        group: the group.
        channel: the member.
        latest: the channel's owner tidies up, and knows of joinings up to this version: one that he does not know of
            holds.

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


def group_channels(routes: Routes, group: GroupName) -> Operation[list[str]]:
    """List the members of a group, but for those whose owner is dead."""
    roster = yield from execute(c.Members(routes.ring.group(group), group))
    inboxes: dict[str, Queue] = {}
    for name in roster.owned:
        queue = ChannelName.parse(name).queue
        inboxes[queue.name] = queue
    alive = yield from _living(routes, inboxes.values())
    owned = [name for name in roster.owned if ChannelName.parse(name).queue.name in alive]
    return sorted({*owned, *roster.others})


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


def report(routes: Routes, counts: Iterable[tuple[str, int, int]]) -> Operation[list[tuple[str, int, int]]]:
    """Tell the shards what was counted; of each family the one that it prefers.

    Args:
        routes: where things are.
        counts: (family, messages, refused), see `channel_layer.domain.counters.Tally`.

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


def statistics(routes: Routes, channel: ChannelName | None) -> Operation[Statistics]:
    """Add up what the shards know.

    Args:
        routes: where things are.
        channel: of which channel; None: of all.
    """
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
