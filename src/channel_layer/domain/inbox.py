"""The local half of delivery, pure: what an inbox's owner holds for its channels, and which groups they are in.

A wake-up never carries a message: the message stays in its mailbox until a receiver that is sure to run takes it. So
a cancelled ``receive()`` has nothing to lose, and its call is passed on. Whoever calls holds the layer's lock.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer.domain import frames
from channel_layer.domain.expiry import deadline
from channel_layer.domain.mailbox import Item, Mailbox
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.counters import Ledger, Reason
    from channel_layer.domain.mailbox import Waiter
    from channel_layer.domain.names import Queue

__all__ = ("Credits", "Inbox")


@dataclass(slots=True)
class _Member:
    box: Mailbox
    joined: float  # the shard's clock


@dataclass(frozen=True, slots=True)
class Credits:
    """Places in the capacities of an inbox's channels that are free again.

    Attributes:
        generation: of the claim, or of the flush, since which these were taken.
        serial: counts up.
        places: (full channel name, messages).
    """

    generation: str
    serial: int
    places: tuple[tuple[str, int], ...]


class Inbox:
    """A minted inbox, as its owner sees it: mailboxes, the mirror of its groups, and the place where it reads.

    Only markers change the mirror, when `apply` meets them, so that changes and messages keep the order that the store
    gave them. (`retract` stands for one that could not be put.) Versions decide between two markers of one member that
    arrive in the wrong order.

    Args:
        queue: the inbox.
        shard: where it is.
        capacity: of its channels.
        ledger: where losses are counted.
        expiry: seconds that a message may live.
        group_expiry: seconds that a membership lives after it was last made, or None.
    """

    def __init__(
        self,
        queue: Queue,
        shard: int,
        capacity: CapacityTable,
        ledger: Ledger,
        expiry: float,
        group_expiry: float | None,
    ) -> None:
        self.queue: Queue = queue
        self.shard: int = shard
        self.boxes: dict[str, Mailbox] = {}
        self.waiting: dict[str, Mailbox] = {}
        """Mailboxes that may hold something: the ones to look at when time has passed."""
        self.mirror: dict[str, dict[str, _Member]] = {}
        self.unseen: dict[tuple[str, str], tuple[int, float | None]] = {}
        """Changes of memberships (group, member) that the store confirmed, until their marker is met: their version,
        and when they were made by the store's clock, or None for those that have ended."""
        self.position: str = ""
        self.lease_until: float | None = None
        """When the lease ends if it is not renewed, by the shard's clock; None: it was never acquired."""
        self.generation: str = ""
        self.epoch: str = ""
        self.flushed: str | None = None
        """A flush that has been applied, or a lease taken after one, and is to be acknowledged."""
        self.due_here: str | None = None
        """A flush that has been applied and has yet to be on this machine's half."""
        self.unannounced: bool = False
        """The store may have lost memberships of this inbox and has not been told of all of them again."""
        self.owed: dict[str, int] = {}
        """Places to give back, by channel."""
        self.returning: Credits | None = None
        """Places that are on their way back; repeated as they are until the store is known to have heard of them."""
        self._addressed: dict[bytes, Mailbox] = {}
        """Mailboxes by the head of their messages' frames, as far as messages have come for them."""
        self._serial = 0
        self._capacity = capacity
        self._ledger = ledger
        self._expiry = expiry
        self._group_expiry = group_expiry
        self._versions: dict[tuple[str, str], tuple[int, float]] = {}
        self._lapsed: set[str] = set()
        """Channels with a message that became too old since they joined, whose memberships are to end."""
        self._oldest: dict[str, float] = {}
        """For each group in the mirror: when the longest membership was last made."""
        self._latest: dict[str, int] = {}
        """For each group in the mirror: the version of the last joining of any channel."""

    # -- mailboxes

    def box(self, name: str, now: float) -> Mailbox:
        """Return the mailbox of a channel; make it if there is none."""
        box = self.boxes.get(name)
        if box is None:
            box = self.boxes[name] = Mailbox(name, self._capacity.of(name), now)
        return box

    def take(self, box: Mailbox, now: float, *, promised: bool) -> Item | None:
        """Take a message for a receiver, past any that are too old."""
        items = box.items
        if items and items[0].deadline <= now:
            self._expire(box, now)
            box.lapsed_at = -math.inf  # it is read, if late
        box.used_at = now
        if promised:  # as `Mailbox.take` does, without a call
            box.promised -= 1
        if len(items) <= box.promised:
            return None
        item = items.popleft()
        self._ledger.delivered += 1
        if item.group:
            box.grouped -= 1
        else:
            self._owe(box.name, 1)
        return item

    def abandon(self, box: Mailbox, waiter: Waiter) -> list[Waiter]:
        """Forget a receiver that was cancelled; return whom to wake in his place."""
        box.leave(waiter)
        if box.items:
            self._list(box)  # what came in while somebody waited is not there
        return list(box.promise())

    def return_places(self) -> Credits | None:
        """Return what to tell the store of places that are free again: what it may not have heard, or what is new."""
        if not self.generation:
            return None  # the lease is being taken anew, and with it the count begins anew
        if self.returning is None or self.returning.generation != self.generation:
            self.returning = None
            if self.owed:
                self._serial += 1
                places = tuple(self.owed.items())
                self.owed.clear()
                self.returning = Credits(self.generation, self._serial, places)
        return self.returning

    @property
    def returned(self) -> int:
        """How many batches of places have been given back, those that are on their way not counted."""
        return self._serial - (self.returning is not None)

    def urgent(self, box: Mailbox) -> bool:
        """Whether enough places of a channel are owed that its senders should hear of it at once: a quarter."""
        return _are_many(self.owed.get(box.name, 0), box.capacity)

    @property
    def pressed(self) -> bool:
        """Whether so many places of some channel are owed; see `urgent`."""
        return any(_are_many(places, self._capacity.of(name)) for name, places in self.owed.items())

    def held(self) -> tuple[tuple[str, int], ...]:
        """Return how many direct messages wait in each mailbox."""
        return tuple((box.name, box.direct) for box in self.boxes.values() if box.direct)

    def count(self) -> int:
        """Return how many messages wait here."""
        return sum(len(box.items) for box in self.boxes.values())

    def sweep(self, now: float) -> list[tuple[str, str, int]]:
        """Drop what is too old at local time *now*; return memberships to end, because of that.

        They are returned until their end is met: the store refuses it while a later joining, of any channel of this
        inbox, has yet to be met here.

        Returns:
            (group, member, the latest version in which a channel of this inbox is known to have joined the group).
        """
        for box in list(self.waiting.values()):
            if not box.items:
                box.listed = False
                del self.waiting[box.name]
            elif box.items[0].deadline <= now:
                self._expire(box, now)
                self._lapsed.add(box.name)
        ending: list[tuple[str, str, int]] = []
        for name in list(self._lapsed):
            member = self.boxes.get(name)
            if member is None or member.kept or not member.groups:
                self._lapsed.discard(name)
            else:
                ending += [(group, name, self._latest[group]) for group in member.groups]
        return ending

    def forget(self, now: float) -> None:
        """Forget mailboxes that nobody has used for `expiry` seconds, and old versions of members that left."""
        for box in list(self.boxes.values()):
            used_at = max(box.used_at, box.lapsed_at)  # a marker of before that may be on its way
            if box.idle and not (box.groups or box.kept) and now - used_at >= self._expiry:
                del self.boxes[box.name]
                self._addressed.pop(frames.message_frame(box.name, b""), None)
        for key, (_, at) in list(self._versions.items()):
            group, member = key
            if now - at >= 2 * self._expiry and member not in self.mirror.get(group, ()):
                del self._versions[key]

    def empty(self, reason: Reason) -> None:
        """Drop every message that waits here, and what was owed for earlier ones."""
        for box in self.boxes.values():
            dropped = box.clear()
            if dropped:
                self._ledger.drop(reason, box.name, dropped)
        for box in self.waiting.values():
            box.listed = False
        self.waiting.clear()
        self.owed.clear()
        self._lapsed.clear()

    def disband(self) -> None:
        """Forget every membership."""
        for box in self.boxes.values():
            box.groups.clear()
        self.mirror.clear()
        self.unseen.clear()
        self._oldest.clear()
        self._latest.clear()

    def _expire(self, box: Mailbox, now: float) -> None:
        before = len(box.items)
        direct = box.expire(now)
        dropped = before - len(box.items)
        if dropped:
            self._ledger.drop("expired", box.name, dropped)
        if direct:
            self._owe(box.name, direct)

    def _owe(self, name: str, places: int) -> None:
        self.owed[name] = self.owed.get(name, 0) + places

    # -- the stream of what comes in

    def reach(self, entries: Iterable[tuple[float, bytes]]) -> int:
        """Return how many mailboxes the largest group holds that these entries, (stamp, frame) pairs, are for."""
        most = 0
        for _, frame in entries:
            if frame and frame[0] == frames.GROUP:
                with contextlib.suppress(frames.BadFrame):
                    most = max(most, len(self.mirror.get(frames.group_of(frame), ())))
        return most

    def apply(
        self, entries: Iterable[tuple[float, bytes]], offset: float, now: float, doubt: float = 0.0
    ) -> list[Waiter]:
        """Take in what was read, in order; return whom to wake.

        Args:
            entries: (stamp, frame) pairs.
            offset: the latest that the store's clock can be ahead of the local one, in seconds.
            now: local time.
            doubt: by how much less it may be ahead.
        """
        wake: list[Waiter] = []
        lifetime = deadline(0.0, self._expiry, offset)
        addressed = self._addressed
        for stamp, frame in entries:
            try:
                kind = frame[0] if frame else 0
                if kind == frames.MESSAGE:
                    head = frames.message_head(frame)
                    box = addressed.get(head)
                    if box is None:
                        name, _ = frames.read_message(frame)
                        box = addressed[head] = self.box(name, now)
                    payload = frame[len(head) :]
                    box.items.append(Item(stamp + lifetime, payload, "", None))
                    if box.waiters:
                        wake.extend(box.promise())
                    elif not box.listed:
                        self._list(box)
                elif kind == frames.GROUP:
                    self._expand(frames.read_group(frame), stamp, lifetime, now, wake)
                elif kind in (frames.JOIN, frames.LEAVE):
                    marker = frames.read_marker(frame)
                    self._check(marker)
                    self._change(marker, stamp, stamp - offset + doubt, now)
                elif kind == frames.FLUSH:
                    generation = frames.read_flush(frame).generation
                    if not generation:
                        raise frames.BadFrame("a flush marker is cut short")
                    self._flush(generation)
                else:
                    raise frames.BadFrame("unknown kind of frame")
            except frames.BadFrame:
                self._ledger.drop("undecodable", self.queue.name)
        return wake

    def _expand(self, frame: frames.GroupFrame, stamp: float, lifetime: float, now: float, wake: list[Waiter]) -> None:
        members = self.mirror.get(frame.group)
        item = Item(stamp + lifetime, frame.payload, frame.group, None)
        count, full = 0, self._ledger.dropped["full"]
        if members:
            if self._group_expiry is not None and stamp - self._oldest[frame.group] >= self._group_expiry:
                self._retire(frame.group, stamp, self._group_expiry)
            for member in members.values():
                box = member.box
                if box.grouped >= box.capacity and not self._room(box, now):
                    continue
                box.items.append(item)
                box.grouped += 1
                if not box.waiters:
                    if not box.listed:
                        self._list(box)
                elif len(box.items) > box.promised:  # as `promise` does, at a third of its cost
                    box.promised += 1
                    wake.append(box.waiters.popleft())
            count = len(members)
        for name in frame.riders:
            if members and name in members:
                continue
            count += 1
            box = self.box(name, now)
            if box.grouped >= box.capacity and not self._room(box, now):
                continue
            box.put(item)
            self._list(box)
            wake.extend(box.promise())
        self._ledger.expanded += count
        if accepted := count + full - self._ledger.dropped["full"]:
            self._ledger.tally.add(self.queue.name, accepted)

    def _list(self, box: Mailbox) -> None:
        box.listed = True
        self.waiting[box.name] = box

    def _room(self, box: Mailbox, now: float) -> bool:
        """Make room for a group message by dropping what is too old; count the message as lost if there is none."""
        before = len(box.items)
        self._expire(box, now)
        if len(box.items) < before:
            self._lapsed.add(box.name)
        if box.grouped < box.capacity:
            return True
        self._ledger.drop("full", box.name)
        return False

    def _check(self, marker: frames.MembershipMarker) -> None:
        """See that a marker names a group and a channel of this inbox: both are told to the store again, later."""
        try:
            GroupName.parse(marker.group)
            owner = ChannelName.parse(marker.member).queue
        except InvalidName as exc:
            raise frames.BadFrame("a marker with a name that is none") from exc
        if owner.name != self.queue.name:
            raise frames.BadFrame("a marker for a channel of somebody else")

    def _change(self, marker: frames.MembershipMarker, stamp: float, marked: float, now: float) -> None:
        """Change the mirror.

        Args:
            marker: what has changed.
            stamp: when, by the store's clock.
            marked: when at the latest, by the local clock, which may be long ago: a reader can be late.
            now: local time.
        """
        key = (marker.group, marker.member)
        unseen = self.unseen.get(key)
        if unseen is not None and marker.version >= unseen[0]:
            del self.unseen[key]
        if marker.joined and marker.group in self._latest:
            self._latest[marker.group] = max(marker.version, self._latest[marker.group])
        known = self._versions.get(key)
        if known is not None and known[0] >= marker.version:
            return
        self._versions[key] = (marker.version, now)
        members = self.mirror.setdefault(marker.group, {})
        if marker.joined:
            box = self.box(marker.member, now)
            self._expire(box, now)
            if box.lapsed_at > marked:
                self._lapsed.add(marker.member)
            else:  # what was too old before it joined (again) does not end this membership
                self._lapsed.discard(marker.member)
            joined = stamp - marker.age / 1000
            members[marker.member] = _Member(box, joined)
            box.groups.add(marker.group)
            self._oldest[marker.group] = min(joined, self._oldest.get(marker.group, joined))
            self._latest.setdefault(marker.group, marker.version)
        else:
            self._drop_member(marker.group, members, marker.member)

    def _drop_member(self, group: str, members: dict[str, _Member], name: str) -> None:
        member = members.pop(name, None)
        if member is not None:
            member.box.groups.discard(group)
        if not members:
            self.mirror.pop(group, None)
            self._oldest.pop(group, None)
            self._latest.pop(group, None)

    def _retire(self, group: str, stamp: float, limit: float) -> None:
        """End the memberships that are over at the store's time *stamp*."""
        members = self.mirror[group]
        for name, member in list(members.items()):
            if stamp - member.joined >= limit:
                self._drop_member(group, members, name)
        if members:
            self._oldest[group] = min(member.joined for member in members.values())

    def _flush(self, generation: str) -> None:
        if generation == self.epoch:
            return  # the claim that came after it has told of it already, and has a generation of its own
        self.empty("flushed")
        self.disband()
        self.generation = generation
        self.epoch = generation
        self.flushed = self.due_here = generation

    # -- what the store is told again

    def confirmed(self, group: str, member: str, version: int, joined: float | None) -> None:
        """Remember a change that the store confirmed, until its marker is met.

        Args:
            group: the group.
            member: a channel of this inbox.
            version: the group's, with this change.
            joined: when, by the store's clock; None for a member that has left.
        """
        key = (group, member)
        if version > max(self._versions.get(key, (0, 0.0))[0], self.unseen.get(key, (0, None))[0]):
            self.unseen[key] = version, joined

    def apply_leavings(self, now: float) -> None:
        """End the memberships that the store has ended, but whose markers have gone with the lease, or may have."""
        for (group, member), (version, joined) in list(self.unseen.items()):
            if joined is None:
                self.retract(group, member, version, now)

    def retract(self, group: str, member: str, version: int, now: float) -> None:
        """End a membership that somebody has ended, up to a version of the group, while the owner could not be told."""
        self._change(frames.MembershipMarker(group, member, joined=False, version=version, age=0), 0.0, now, now)

    def memberships(self) -> list[tuple[str, str, float]]:
        """Return (group, member, when it joined by the store's clock) of each that is known to hold."""
        known: dict[tuple[str, str], float | None] = {
            (group, name): member.joined for group, members in self.mirror.items() for name, member in members.items()
        }
        known.update((key, joined) for key, (_, joined) in self.unseen.items())
        return [(group, name, joined) for (group, name), joined in known.items() if joined is not None]


def _are_many(places: int, capacity: int) -> bool:
    return places * 4 >= capacity
