"""An owned inbox, as its owner sees it: how what was read from the store is distributed to the mailboxes.

It is pure, so that every interleaving of messages, receivers, flushes and time can be tested. The caller of every
method holds the layer's lock.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer.domain import frames
from channel_layer.domain.expiry import deadline, unread_limit
from channel_layer.domain.mailbox import Item, Mailboxes
from channel_layer.domain.memberships import Memberships
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import InvalidName

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.domain.capacity import CapacityTable
    from channel_layer.domain.counters import Counters, Reason
    from channel_layer.domain.mailbox import Mailbox, Waiter
    from channel_layer.domain.names import Queue

__all__ = ("CreditBatch", "Inbox")


@dataclass(frozen=True, slots=True)
class CreditBatch:
    """Credits to return to the store: how many messages of each channel were taken or dropped.

    Attributes:
        generation: the generation of the inbox in which the messages came.
        serial: counts up with every batch of credits.
        places: (full channel name, messages) pairs.
    """

    generation: str
    serial: int
    places: tuple[tuple[str, int], ...]


class Inbox(Mailboxes):
    """An owned inbox, as its owner sees it: mailboxes, memberships, credits, and the position of the reader.

    Only markers change memberships, when `apply` meets them, so that changes and messages keep the order that the store
    gave them. (`retract` stands for a marker that could not be written.)

    Attributes:
        waiting: mailboxes that may hold a message: those to look at when time has passed.
        groups: the memberships of its channels.
        position: the position in the store up to which the inbox has been read.
        generation: the claim, or the later flush, that credits are counted from; "" while there is no lease.
        epoch: the last flush that is known.
        flushed: a flush that has been applied, or a lease taken after one, and has to be acknowledged.
        due_locally: a flush that has been applied, and has to be carried out on the local store, too.
        lost: the store has told that there is no lease.
        received_at: local time, in seconds, at which a ``receive()`` of the whole inbox last looked for a message.
        unannounced: the store may have lost memberships of this inbox, and has not been told all of them again.
        credits: credits to return, by channel.
        returning: credits that are being returned; repeated unchanged until the store is known to have received them.
    """

    def __init__(
        self,
        queue: Queue,
        shard: int,
        capacity: CapacityTable,
        counters: Counters,
        expiry: float,
        group_expiry: float | None,
    ) -> None:
        super().__init__(queue, capacity, counters)
        self.shard: int = shard
        self.waiting: dict[str, Mailbox] = {}
        self.groups: Memberships = Memberships(group_expiry)
        self.position: str = ""
        self.lease_until: float | None = None
        """When the lease ends if it is not renewed, by the shard's clock less its steps; None: never acquired."""
        self.generation: str = ""
        self.epoch: str = ""
        self.flushed: str | None = None
        self.due_locally: str | None = None
        self.lost: bool = False
        self.received_at: float = -math.inf
        self.unannounced: bool = False
        self.credits: dict[str, int] = {}
        self.returning: CreditBatch | None = None
        self._addressed: dict[bytes, Mailbox] = {}
        """Mailboxes to which messages have come, by the head of the frames of their messages."""
        self._serial = 0
        self._expiry = expiry
        self._unread_expired: set[str] = set()
        """Channels with a message that expired unread since they joined, and no ``receive()`` known since."""
        self._unread_limit = unread_limit(expiry)

    # -- mailboxes

    def take(self, box: Mailbox, now: float, *, promised: bool) -> Item | None:
        """Take a message for a receiver, after dropping those that are too old."""
        items = box.items
        if items and items[0].deadline <= now:
            self._expire(box, now)
            box.unread_expired_at = -math.inf  # the channel has a reader, if a late one
        box.used_at = now
        if promised:  # as `Mailbox.take` does, without a call
            box.promised -= 1
        if len(items) <= box.promised:
            return None
        item = items.popleft()
        self._counters.delivered += 1
        if item.group:
            box.grouped -= 1
        else:
            self._add_credits(box.name, 1)
        return item

    def abandon(self, box: Mailbox, waiter: Waiter) -> list[Waiter]:
        """Remove a receiver that was cancelled; return the receivers to wake in its place."""
        box.leave(waiter)
        if box.items:
            self._list(box)  # messages that come while a receiver waits are not listed
        return list(box.promise())

    def credit_batch(self) -> CreditBatch | None:
        """Return the credits to send to the store: those that it may not have received, or else new ones, if any."""
        if not self.generation:
            return None  # the lease is being acquired again, and the store counts anew
        if self.returning is None or self.returning.generation != self.generation:
            self.returning = None
            if self.credits:
                self._serial += 1
                places = tuple(self.credits.items())
                self.credits.clear()
                self.returning = CreditBatch(self.generation, self._serial, places)
        return self.returning

    @property
    def returned(self) -> int:
        """How many batches of credits have been returned; one that is being returned does not count."""
        return self._serial - (self.returning is not None)

    def urgent(self, box: Mailbox) -> bool:
        """Return whether the credits of a channel reach a quarter of its capacity, so that senders need them now."""
        return _are_many(self.credits.get(box.name, 0), box.capacity)

    @property
    def pressed(self) -> bool:
        """Whether the credits of any channel are urgent; see `urgent`."""
        return any(_are_many(places, self._capacity.of(name)) for name, places in self.credits.items())

    def held(self) -> tuple[tuple[str, int], ...]:
        """Return how many direct messages wait in each mailbox."""
        return tuple((box.name, box.direct) for box in self.boxes.values() if box.direct)

    def unread(self) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Return the serial of the last credits that were returned, and by channel what counts as unread since then.

        While some are being returned the serial is -1.
        """
        if self.returning is not None:
            return -1, ()
        counts = Counter(dict(self.held()))
        counts.update(self.credits)
        return self._serial, tuple(counts.items())

    def sweep(self, now: float) -> list[tuple[str, str, int]]:
        """Drop messages that are too old at local time *now*; return the memberships that have to end because of that.

        Those of a channel end if it let a message expire, and there has been no ``receive()`` for `unread_limit`. Each
        is returned again until the marker of its end is met: the store refuses to end it while there has been a later
        join, by any channel of this inbox, whose marker has not been met.

        Returns:
            (group, member, the latest version with which a channel of this inbox is known to have joined the group).
        """
        for box in list(self.waiting.values()):
            if not box.items:
                box.listed = False
                del self.waiting[box.name]
            elif box.items[0].deadline <= now:
                self._expire(box, now)
                self._note_unread(box)
        ending: list[tuple[str, str, int]] = []
        for name in list(self._unread_expired):
            member = self.boxes.get(name)
            if member is None or not member.groups or self._has_receiver(member):
                self._unread_expired.discard(name)
            elif now - max(member.used_at, self.received_at) >= self._unread_limit:
                ending += [(group, name, self.groups.latest(group)) for group in member.groups]
        return ending

    def _note_unread(self, box: Mailbox) -> None:
        """Note that a message has expired unread."""
        if box.name in self._unread_expired:
            return
        self._unread_expired.add(box.name)
        if box.promised:  # a receive() waited when the message came, and has yet to run
            box.used_at = max(box.used_at, box.unread_expired_at - self._expiry)

    def _has_receiver(self, box: Mailbox) -> bool:
        """Whether a ``receive()`` waits, or one was seen since a message last expired unread."""
        return box.kept or bool(box.waiters) or max(box.used_at, self.received_at) >= box.unread_expired_at

    def forget(self, now: float) -> None:
        """Forget mailboxes that were not used for ``expiry`` seconds, and old versions of members that have left."""
        for box in list(self.boxes.values()):
            used_at = max(box.used_at, box.unread_expired_at)  # a marker from before that time may still come
            if box.idle and not (box.groups or box.kept) and now - used_at >= self._expiry:
                del self.boxes[box.name]
                self._addressed.pop(frames.message_frame(box.name, b""), None)
        self.groups.forget(now, 2 * self._expiry)

    def empty(self, reason: Reason) -> None:
        """Drop every message, and the credits of earlier ones."""
        super().empty(reason)
        for box in self.waiting.values():
            box.listed = False
        self.waiting.clear()
        self.credits.clear()
        self._unread_expired.clear()

    def _expire(self, box: Mailbox, now: float) -> None:
        before = len(box.items)
        direct = box.expire(now)
        dropped = before - len(box.items)
        if dropped:
            self._counters.drop("expired", box.name, dropped)
        if direct:
            self._add_credits(box.name, direct)

    def _add_credits(self, name: str, places: int) -> None:
        self.credits[name] = self.credits.get(name, 0) + places

    # -- what is read from the store

    def largest_group(self, entries: Iterable[tuple[float, bytes]]) -> int:
        """Return the size, in this inbox, of the largest group that entries, (stamp, frame) pairs, are sent to."""
        most = 0
        for _, frame in entries:
            if frame and frame[0] == frames.GROUP:
                with contextlib.suppress(frames.BadFrame):
                    most = max(most, self.groups.count(frames.group_of(frame)))
        return most

    def apply(
        self, entries: Iterable[tuple[float, bytes]], offset: float, now: float, doubt: float = 0.0
    ) -> list[Waiter]:
        """Apply entries that were read, in order; return the receivers to wake.

        Args:
            entries: (stamp, frame) pairs.
            offset: the most that the store's clock can be ahead of the local one, in seconds.
            now: local time.
            doubt: by how many seconds less than *offset* it may be ahead.
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
                    _require_own(marker, self.queue)
                    self._change(marker, stamp, stamp - offset + doubt, now)
                elif kind == frames.FLUSH:
                    self._flush(frames.read_flush(frame))
                elif kind == frames.LOST:
                    self.lost = True
                else:
                    raise frames.BadFrame("unknown kind of frame")
            except frames.BadFrame:
                self._counters.drop("undecodable", self.queue.name)
        return wake

    def _expand(self, frame: frames.GroupFrame, stamp: float, lifetime: float, now: float, wake: list[Waiter]) -> None:
        members = self.groups.members(frame.group, stamp)
        item = Item(stamp + lifetime, frame.payload, frame.group, None)
        full = self._counters.dropped["full"]
        for member in members.values():
            box = member.box
            items = box.items
            if len(items) >= box.capacity and not self._room(box, now):
                continue
            items.append(item)
            box.grouped += 1
            if not box.waiters:
                if not box.listed:
                    self._list(box)
            elif len(items) > box.promised:  # `promise` inlined, at a third of its cost
                box.promised += 1
                wake.append(box.waiters.popleft())
        count = len(members)
        for name in frame.extra_recipients:
            if name in members:
                continue
            count += 1
            box = self.box(name, now)
            if len(box.items) >= box.capacity and not self._room(box, now):
                continue
            box.put(item)
            self._list(box)
            wake.extend(box.promise())
        self._counters.expanded += count
        if accepted := count + full - self._counters.dropped["full"]:
            self._counters.pending_counts.add(self.queue.name, accepted)

    def _list(self, box: Mailbox) -> None:
        box.listed = True
        self.waiting[box.name] = box

    def _room(self, box: Mailbox, now: float) -> bool:
        """Make room for a group message by dropping old messages; if there is none, count the message as lost."""
        before = len(box.items)
        self._expire(box, now)
        if len(box.items) < before:
            self._note_unread(box)
        if len(box.items) < box.capacity:
            return True
        self._counters.drop("full", box.name)
        return False

    def _change(self, marker: frames.MembershipMarker, stamp: float, marked: float, now: float) -> None:
        """Change a membership.

        Args:
            marker: what has changed.
            stamp: when, by the store's clock.
            marked: the latest local time at which it can have changed; long ago, if the reader is late.
            now: local time.
        """
        if not self.groups.accept(marker, now):
            return
        if not marker.joined:
            self.groups.leave(marker.group, marker.member)
            return
        box = self.box(marker.member, now)
        self._expire(box, now)
        if box.unread_expired_at > marked:
            self._unread_expired.add(marker.member)
        else:  # messages that expired before the channel joined do not end this membership
            self._unread_expired.discard(marker.member)
        self.groups.join(marker, box, stamp - marker.age / 1000)

    def _flush(self, generation: str) -> None:
        if generation == self.epoch:
            return  # the claim after the flush reported it, and has its own generation
        self.empty("flushed")
        self.groups.clear()
        self.generation = generation
        self.epoch = generation
        self.flushed = self.due_locally = generation

    # -- what the store confirmed, and is told again

    def apply_leavings(self, now: float) -> None:
        """End the memberships that the store has ended, but whose markers may have been lost with the lease."""
        for group, member, version in self.groups.unseen_leaves():
            self.retract(group, member, version, now)

    def retract(self, group: str, member: str, version: int, now: float) -> None:
        """End a membership that was ended, up to a version of the group, while the inbox could hold no marker."""
        self._change(frames.MembershipMarker(group, member, joined=False, version=version, age=0), 0.0, now, now)


def _require_own(marker: frames.MembershipMarker, inbox: Queue) -> None:
    """Check that a marker names a group and a channel of the inbox, because both may be sent to the store again.

    Raises:
        BadFrame: it does not.
    """
    try:
        GroupName.parse(marker.group)
        owner = ChannelName.parse(marker.member).queue
    except InvalidName as exc:
        raise frames.BadFrame("a marker with an invalid name") from exc
    if owner.name != inbox.name:
        raise frames.BadFrame("a marker for a channel of another inbox")


def _are_many(places: int, capacity: int) -> bool:
    return places * 4 >= capacity
