"""Mailboxes: over any run of frames, receivers, cancellations, flushes and time, against a simple model."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from channel_layer.commands import Entry
from channel_layer.domain import frames as envelope
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.counters import Counters
from channel_layer.domain.expiry import deadline
from channel_layer.domain.inbox import CreditBatch, Inbox
from channel_layer.domain.mailbox import Item, Mailbox, QueueBuffer
from channel_layer.domain.names import Kind, Queue

EXPIRY = 10.0
LIMIT = 600.0
"""Seconds without a receive() after which a channel whose messages become too old leaves its groups."""
GROUP_EXPIRY = 25.0
AHEAD = 1000.0
"""Seconds by which the store's clock is ahead of the local one."""
DOUBT = 0.5
"""Seconds by which it may be ahead less."""

CAPACITIES = {"specific.me!a": 1, "specific.me!b": 2, "specific.me!c": 3}
CHANNELS = tuple(CAPACITIES)
GROUPS = ("g", "h")
BAD_FRAMES = (
    b"",
    b"x",
    b"\x00m",
    b"m",
    b"m\x05ab",
    b"m\x01\xff",
    b"g",
    b"g\x01g\x00\x00\x00\x09a",
    b"g\x01g\x00\x00\x00\x01\xff",
    b"+\x01g",
    b"+\x01g\x01ax:0",
    b"-\x01g\x01a9",
    b"+\x01g\x01a99999999999999999999:0",
    b"f\xff",
)


class Caller:
    """A receiver that waits. It only knows whether it was woken."""

    lost = False

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.woken = False
        self.error: Exception | None = None
        self.losses = 0
        """What its channel had lost when a message was promised to it."""

    def wake(self) -> None:
        """Note it; a second time is a fault."""
        assert not self.woken
        self.woken = True

    def fail(self, error: Exception) -> None:
        """Note it; who was woken is not told, nor any receiver twice."""
        assert not self.woken
        assert self.error is None
        self.error = error


@dataclass
class Letter:
    """A message in the model."""

    payload: bytes
    over: float
    grouped: bool


@dataclass
class Place:
    """A mailbox in the model; what is too old leaves it at once."""

    used_at: float
    letters: list[Letter] = field(default_factory=list[Letter])
    asleep: list[Caller] = field(default_factory=list[Caller])
    awake: list[Caller] = field(default_factory=list[Caller])
    losses: int = 0
    unread: bool = False
    """A message became too old since somebody last received, or the channel last joined a group."""
    unread_expired_at: float = -math.inf
    """When the last one did that nobody has looked for."""
    lost_at: float = -math.inf
    """When the last one did."""

    def look(self) -> None:
        """Somebody receives."""
        self.unread = False
        self.unread_expired_at = -math.inf

    @property
    def grouped(self) -> int:
        """Group messages that wait."""
        return sum(letter.grouped for letter in self.letters)


@dataclass(frozen=True)
class Marker:
    """A change of a group that is on its way to its owner."""

    marker: envelope.MembershipMarker
    issued: float


@dataclass(frozen=True)
class Message:
    """A message to one channel comes in."""

    channel: str


@dataclass(frozen=True)
class GroupMessage:
    """A message to a group comes in."""

    group: str
    extra_recipients: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One of the markers on their way comes in."""

    choice: int


@dataclass(frozen=True)
class Garbage:
    """Something comes in that is no frame."""

    frame: bytes


@dataclass(frozen=True)
class Flush:
    """A flush comes in."""


Event: TypeAlias = Message | GroupMessage | Change | Garbage | Flush

_channels = st.sampled_from(CHANNELS)
_groups = st.sampled_from(GROUPS)
_changes = st.tuples(_groups, _channels, st.sampled_from([True, True, False]), st.sampled_from([0, 1500, 30_000]))
_extra_recipients = st.lists(_channels, max_size=2, unique=True).map(tuple)
_messages = st.builds(Message, _channels)
_group_messages = st.builds(GroupMessage, _groups, _extra_recipients)
_markers = st.builds(Change, st.integers(0, 9))
_garbage = st.builds(Garbage, st.sampled_from(BAD_FRAMES))
_some = st.one_of(_messages, _messages, _group_messages, _group_messages, _markers, _garbage)
_batches = st.lists(_some, min_size=1, max_size=6) | st.lists(_some | st.builds(Flush), min_size=1, max_size=4)


class InboxMachine(RuleBasedStateMachine):
    """An inbox, its receivers and its store do anything in any order; the model says what has to come of it."""

    @initialize(group_expiry=st.sampled_from([None, GROUP_EXPIRY]))
    def begin(self, group_expiry: float | None) -> None:
        """Make an inbox that is leased."""
        self.now = 50.0
        self.received_at = -math.inf
        self.stamp = 0.0
        self.group_expiry = group_expiry
        self.counters = Counters()
        exceptions = [(re.compile(re.escape(name)), limit) for name, limit in CAPACITIES.items()]
        table = CapacityTable(100, exceptions)
        queue = Queue("specific.me!", Kind.INBOX)
        self.inbox = Inbox(queue, 0, table, self.counters, EXPIRY, group_expiry)
        self.number = 0
        self.inbox.generation = "generation-0"

        self.places: dict[str, Place] = {}
        self.members: dict[tuple[str, str], float] = {}
        self.versions: dict[tuple[str, str], int] = {}
        self.confirmed: dict[tuple[str, str], tuple[int, float | None]] = {}
        self.met: dict[str, set[int]] = {}
        """Of each group, the joinings whose markers were met."""
        self.coming: list[Marker] = []
        self.entered = self.delivered = self.bad = self.full = self.expanded = 0

        self.counted: Counter[str] = Counter()
        """What the store believes to be unread of what was sent, by channel."""
        self.store_generation = self.inbox.generation
        self.store_serial = 0
        self.heard: CreditBatch | None = None
        """The last request to give back that reached the store."""

    # -- what comes in

    @rule(batch=_batches, lag=st.sampled_from([0.0, 0.0, 1.0, 9.9, 10.5]))
    def come_in(self, batch: list[Event], lag: float) -> None:
        """A batch is read, perhaps late; stamps never go back."""
        self.stamp = max(self.stamp, self.now + AHEAD - lag)
        before = {name: place.losses for name, place in self.places.items()}
        entries = [(self.stamp, frame) for event in batch if (frame := self.foresee(event)) is not None]
        self.note_woken(self.inbox.apply(entries, AHEAD, self.now, DOUBT), before)
        self.grow_old()

    def foresee(self, event: Event) -> bytes | None:
        """Carry out one event in the model; return its frame."""
        self.number += 1
        payload = b"%d" % self.number
        over = deadline(self.stamp, EXPIRY, AHEAD)
        if isinstance(event, Message):
            self.place(event.channel).letters.append(Letter(payload, over, grouped=False))
            self.entered += 1
            self.counted[event.channel] += 1
            return envelope.message_frame(event.channel, payload)
        if isinstance(event, GroupMessage):
            group, extra_recipients = event.group, event.extra_recipients
            for (name, member), joined in list(self.members.items()):
                if name == group and self.group_expiry is not None and self.stamp - joined >= self.group_expiry:
                    del self.members[name, member]
            for member in {m for g, m in self.members if g == group} | set(extra_recipients):
                place = self.place(member)
                self.expanded += 1
                if sum(letter.over > self.now for letter in place.letters) >= CAPACITIES[member]:
                    self.full += 1
                else:
                    place.letters.append(Letter(payload, over, grouped=True))
            return envelope.group_frame(group, extra_recipients, payload)
        if isinstance(event, Change):
            if not self.coming:
                return None
            marker = self.coming.pop(event.choice % len(self.coming)).marker
            self.change(marker, self.stamp)
            return envelope.marker_frame(marker)
        if isinstance(event, Garbage):
            self.bad += 1
            return event.frame
        self.flush_model()
        self.counted.clear()
        self.store_generation = f"flush-{self.number}"
        return envelope.flush_frame(self.store_generation)

    def change(self, marker: envelope.MembershipMarker, stamp: float) -> None:
        """Of two changes of one member the higher version holds."""
        key = marker.group, marker.member
        if key in self.confirmed and self.confirmed[key][0] <= marker.version:
            del self.confirmed[key]
        if marker.joined:
            self.met.setdefault(marker.group, set()).add(marker.version)
        if marker.version <= self.versions.get(key, -1):
            return
        self.versions[key] = marker.version
        if marker.joined:
            self.grow_old()
            place = self.place(marker.member)  # what was too old before that does not end this membership
            place.unread = place.unread_expired_at > stamp - AHEAD + DOUBT
            self.members[key] = stamp - marker.age / 1000
        else:
            self.members.pop(key, None)

    def flush_model(self) -> None:
        """Nothing waits and nobody is a member any more."""
        for place in self.places.values():
            place.losses += len(place.letters)
            place.letters.clear()
            place.unread = False
        self.members.clear()
        self.confirmed.clear()

    def place(self, name: str) -> Place:
        """Return the model's mailbox; make it if there is none."""
        return self.places.setdefault(name, Place(self.now))

    def grow_old(self) -> None:
        """Drop what is too old now from the model."""
        for place in self.places.values():
            young = [letter for letter in place.letters if letter.over > self.now]
            if len(young) < len(place.letters):
                lost = len(place.letters) - len(young)
                place.losses += lost
                place.lost_at = max(letter.over for letter in place.letters if letter.over <= self.now)
                if lost > len(place.awake):  # what was promised has a reader, if a slow one
                    place.unread = True
                    place.unread_expired_at = place.lost_at
                place.letters = young

    def note_woken(self, woken: Iterable[object], losses: dict[str, int] | None = None) -> None:
        """Wake whom the inbox calls: the longest waiting of each channel first, and never one who is not there."""
        for caller in woken:
            assert isinstance(caller, Caller)
            place = self.places[caller.channel]
            assert place.asleep.pop(0) is caller
            place.awake.append(caller)
            caller.wake()
            caller.losses = place.losses if losses is None else losses.get(caller.channel, 0)

    @rule(changes=st.lists(_changes, min_size=1, max_size=4))
    def change_groups(self, changes: list[tuple[str, str, bool, int]]) -> None:
        """Somebody changes groups: the markers come in later, perhaps after younger ones."""
        for group, member, joined, age in changes:
            self.number += 1
            marker = envelope.MembershipMarker(group, member, joined, self.number, age if joined else 0)
            self.coming.append(Marker(marker, self.now))

    @rule(order=st.lists(st.integers(0, 9), min_size=1, max_size=4), group=_groups, extra_recipients=_extra_recipients)
    def meet_markers(self, order: list[int], group: str, extra_recipients: tuple[str, ...]) -> None:
        """Markers come in, in any order, and a group message after them."""
        self.come_in([*map(Change, order), GroupMessage(group, extra_recipients)], 0.0)

    @precondition(lambda self: self.coming)
    @rule(data=st.data())
    def confirm(self, data: st.DataObject) -> None:
        """The store answers a ``group_add`` or ``group_discard`` before, or without, its marker being met."""
        marker = data.draw(st.sampled_from(self.coming)).marker
        key, joined = (marker.group, marker.member), self.now if marker.joined else None
        self.inbox.groups.confirm(*key, marker.version, joined)
        if max(self.versions.get(key, -1), self.confirmed.get(key, (-1, None))[0]) < marker.version:
            self.confirmed[key] = marker.version, joined

    @rule()
    def lose_markers(self) -> None:
        """The lease is taken anew: who has left, as far as the store has said, has left for good."""
        self.inbox.apply_leavings(self.now)
        for (group, member), (version, joined) in list(self.confirmed.items()):
            if joined is None:
                self.change(envelope.MembershipMarker(group, member, joined=False, version=version, age=0), 0.0)

    @rule(group=_groups, member=_channels, older=st.booleans())
    def retract(self, group: str, member: str, older: bool) -> None:  # noqa: FBT001 - drawn
        """The owner learns, without a marker, that a member is gone as of a version; perhaps one long past."""
        if not older:
            self.number += 1
        version = self.number // 2 if older else self.number
        self.inbox.retract(group, member, version, self.now)
        self.change(envelope.MembershipMarker(group, member, joined=False, version=version, age=0), 0.0)

    # -- receivers

    @rule(names=st.lists(_channels, min_size=1, max_size=4))
    def receive(self, names: list[str]) -> None:
        """Some receive: each gets the oldest message that is promised to nobody else, or waits."""
        for name in names:
            place, box = self.place(name), self.inbox.box(name, self.now)
            place.used_at = box.used_at = self.now
            place.look()
            item = self.inbox.take(box, self.now, promised=False)
            if not self.handed(place, item, others=len(place.awake)):
                self.wait(place, box)

    @rule(name=_channels, lag=st.sampled_from([0.0, 1.0]))
    def come_in_for_a_receiver(self, name: str, lag: float) -> None:
        """A message comes for somebody who waits."""
        self.receive([name])
        self.come_in([Message(name)], lag)

    @rule()
    def receive_from_any(self) -> None:
        """A thread looks for a message of any channel of the inbox."""
        self.inbox.received_at = self.received_at = self.now
        for place in self.places.values():
            place.look()

    @precondition(lambda self: any(place.awake for place in self.places.values()))
    @rule(data=st.data())
    def run_woken(self, data: st.DataObject) -> None:
        """Somebody who was woken runs: he finds a message, unless one became too old or was flushed meanwhile."""
        caller = data.draw(st.sampled_from([who for place in self.places.values() for who in place.awake]))
        place, box = self.places[caller.channel], self.inbox.boxes[caller.channel]
        place.awake.remove(caller)
        place.look()
        place.used_at = self.now
        item = self.inbox.take(box, self.now, promised=True)
        if not self.handed(place, item, others=len(place.awake)):
            # Promises name no message: whoever runs first goes without, if the message of any of them is gone.
            assert place.losses > min(other.losses for other in (caller, *place.awake))
            self.wait(place, box)

    def handed(self, place: Place, item: Item | None, others: int) -> bool:
        """Check what a receiver got; whether it is a message."""
        if len(place.letters) <= others:
            assert item is None
            return False
        letter = place.letters.pop(0)
        assert item is not None
        assert (item.payload, bool(item.group)) == (letter.payload, letter.grouped)
        assert self.now < item.deadline
        self.delivered += 1
        return True

    def wait(self, place: Place, box: Mailbox) -> None:
        """Join those who wait."""
        caller = Caller(box.name)
        box.waiters.append(caller)
        place.asleep.append(caller)

    @precondition(lambda self: any(place.asleep or place.awake for place in self.places.values()))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A receiver is cancelled, woken or not: nothing is lost, and the next one is called."""
        everybody = [who for place in self.places.values() for who in (*place.asleep, *place.awake)]
        caller = data.draw(st.sampled_from(everybody))
        place = self.places[caller.channel]
        (place.awake if caller.woken else place.asleep).remove(caller)
        box = self.inbox.boxes[caller.channel]
        heir = self.inbox.abandon(box, caller)
        place.used_at = box.used_at = self.now
        place.look()
        assert len(heir) <= caller.woken
        self.note_woken(heir, {caller.channel: caller.losses})  # what he inherits may be too old already

    # -- time

    @rule(seconds=st.sampled_from([0.25, 1.0, 4.0, 12.0, 30.0, LIMIT - 30.0, LIMIT]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.now += seconds
        self.grow_old()

    @precondition(lambda self: any(place.letters for place in self.places.values()))
    @rule(late=st.booleans())
    def pass_time_to_an_edge(self, late: bool) -> None:  # noqa: FBT001 - drawn
        """Time passes to just before, or to the very moment when, the oldest message becomes too old."""
        edge = min(letter.over for place in self.places.values() for letter in place.letters)
        self.now = edge if late else max(self.now, edge - 1e-6)
        self.grow_old()

    @rule()
    def sweep(self) -> None:
        """A sweep leaves nothing too old but what is promised, and ends memberships long after the last receive()."""
        silent = {
            (group, name)
            for group, name in self.members
            if not self.places[name].asleep and self.now - max(self.places[name].used_at, self.received_at) >= LIMIT
        }
        due = {(group, name) for group, name in silent if self.places[name].unread and not self.places[name].awake}
        swept = self.inbox.sweep(self.now)
        ending = [(group, name) for group, name, _ in swept]
        assert due <= set(ending) <= silent
        assert len(ending) == len(set(ending))
        for group, _, latest in swept:
            assert latest in self.met[group]  # a joining that is known, even of a member that has left since
            assert latest >= max(self.versions[key] for key in self.members if key[0] == group)
        for name, place in self.places.items():
            here = len(self.inbox.boxes[name].items)
            assert here == len(place.letters) or here <= len(place.awake)  # who was woken drops it when he runs

    @rule()
    def forget(self) -> None:
        """A mailbox is forgotten when it is empty, in no group and unused for `EXPIRY`; no other one is."""
        self.coming = [marker for marker in self.coming if self.now - marker.issued < EXPIRY]
        self.inbox.sweep(self.now)
        self.inbox.forget(self.now)
        for name, place in list(self.places.items()):
            busy = place.letters or place.asleep or place.awake or any(m == name for _, m in self.members)
            idle = not busy and self.now - place.used_at >= EXPIRY
            if idle and (name not in self.inbox.boxes or self.now - place.lost_at >= EXPIRY):
                assert self.now - place.unread_expired_at >= EXPIRY  # a late marker has to find what had become too old
                del self.places[name]
        assert set(self.inbox.boxes) == set(self.places)

    # -- the store's count of places

    @rule(reaches=st.booleans(), answered=st.booleans())
    def return_credits(self, reaches: bool, answered: bool) -> None:  # noqa: FBT001 - drawn
        """Places are given back; the request or its answer may be lost, and then it is repeated as it was."""
        request = self.inbox.credit_batch()
        if request is None:
            assert not self.inbox.generation or not self.inbox.credits
            return
        assert self.inbox.generation
        assert request.generation == self.inbox.generation
        assert self.inbox.credit_batch() is request
        if reaches:
            self.hear(request)
            if answered:
                self.inbox.returning = None

    def hear(self, request: CreditBatch) -> None:
        """Do as the store does: ignore an old generation, and a serial that was heard."""
        if request.generation == self.store_generation and request.serial > self.store_serial:
            self.store_serial = request.serial
            self.counted.subtract(dict(request.places))
            self.heard = request

    @rule(late=st.booleans())
    def lose_the_lease(self, late: bool) -> None:  # noqa: FBT001 - drawn
        """The lease is taken anew, and the count with it; an owner that was away for too long drops what he holds."""
        if late:
            self.inbox.empty("expired")
            for place in self.places.values():
                place.losses += len(place.letters)
                place.letters.clear()
                place.unread = False
                place.unread_expired_at = (
                    -math.inf
                )  # what was too old already may have been dropped with the rest, unseen
        self.inbox.credits.clear()
        self.inbox.generation = ""
        self.counted = Counter(dict(self.inbox.held()))
        self.number += 1
        self.store_generation = f"generation-{self.number}"
        assert self.inbox.credit_batch() is None

    @precondition(lambda self: not self.inbox.generation)
    @rule()
    def take_the_lease(self) -> None:
        """The store answers that the lease is taken."""
        self.inbox.generation = self.store_generation

    # -- what always holds

    @invariant()
    def nothing_is_unaccounted_for(self) -> None:
        """What came in was delivered, was dropped for a reason, or waits; and the reasons are the right ones."""
        counters = self.counters
        assert counters.expanded == self.expanded
        assert counters.delivered == self.delivered
        assert counters.dropped["full"] == self.full
        assert counters.dropped["undecodable"] == self.bad
        lost = counters.dropped.total() - self.bad
        assert self.entered + self.expanded == self.delivered + lost + self.inbox.count()

    @invariant()
    def every_mailbox_holds_what_it_should(self) -> None:
        """A mailbox holds what is young in order, and no more group messages than its capacity."""
        assert set(self.inbox.boxes) == set(self.places)
        for name, place in self.places.items():
            box = self.inbox.boxes[name]
            young = [item.payload for item in box.items if item.deadline > self.now]
            assert young == [letter.payload for letter in place.letters]
            assert box.grouped == sum(item.group != "" for item in box.items) <= CAPACITIES[name]
            assert list(box.waiters) == place.asleep
            assert box.promised == len(place.awake)

    @invariant()
    def sweeps_look_at_what_nobody_was_promised(self) -> None:
        """A mailbox with a message that is promised to nobody is among those that a sweep looks at."""
        for name, box in self.inbox.boxes.items():
            assert len(box.items) <= box.promised or self.inbox.waiting.get(name) is box

    @invariant()
    def nobody_sleeps_beside_a_message(self) -> None:
        """While somebody waits, every message that is young is promised to somebody who was woken."""
        for place in self.places.values():
            assert not place.asleep or len(place.letters) <= len(place.awake)

    @invariant()
    def the_mirror_is_what_the_markers_say(self) -> None:
        """Memberships are those of the highest version met, and those confirmed whose marker is yet to come."""
        mirror = {(group, name) for group, mirror in self.inbox.groups.mirrors.items() for name in mirror.members}
        assert mirror == set(self.members)
        assert self.inbox.groups.unseen == self.confirmed
        expected: dict[tuple[str, str], float | None] = {**self.members}
        expected.update((key, joined) for key, (_, joined) in self.confirmed.items())
        told = sorted((key, joined) for key, joined in expected.items() if joined is not None)
        assert sorted(((group, name), joined) for group, name, joined in self.inbox.groups.known()) == told
        for name, box in self.inbox.boxes.items():
            assert box.groups == {group for group, member in self.members if member == name}

    @invariant()
    def places_are_neither_lost_nor_made(self) -> None:
        """The store counts, for each channel, what waits here, and what is credits or on its way back. Never less."""
        here = Counter(dict(self.inbox.held()))
        here.update(self.inbox.credits)
        returning = self.inbox.returning
        if returning is not None and returning.generation == self.store_generation and returning is not self.heard:
            here.update(dict(returning.places))
        assert +self.counted == +here
        assert min(self.counted.values(), default=0) >= 0

    def teardown(self) -> None:
        """When all is given back the store counts what waits here, and nothing else."""
        if not hasattr(self, "inbox"):
            return
        self.inbox.generation = self.store_generation
        while (request := self.inbox.credit_batch()) is not None:
            self.hear(request)
            self.inbox.returning = None
        assert +self.counted == Counter(dict(self.inbox.held()))


class TapMachine(RuleBasedStateMachine):
    """Receivers of a normal channel come and go in any order; messages are popped only for who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.counters = Counters()
        queue = Queue("jobs", Kind.NORMAL)
        self.buffer = QueueBuffer(queue, CapacityTable(2), self.counters)
        self.box = self.buffer.box("jobs", 0.0)
        self.stored: list[Item] = []
        """The store's queue."""
        self.order: list[bytes] = []
        """What has been sent and neither delivered nor lost, oldest first."""
        self.asleep: list[Caller] = []
        self.awake: list[Caller] = []
        self.sent = self.expired = 0

    @rule(count=st.integers(1, 3))
    def send(self, count: int) -> None:
        """Messages come into the queue."""
        for _ in range(count):
            self.sent += 1
            payload = b"%d" % self.sent
            self.stored.append(Item(self.now + EXPIRY, payload, "", (0, Entry(self.now, payload))))
            self.order.append(payload)

    @rule()
    def receive(self) -> None:
        """Somebody receives: he gets the oldest message that waits here unpromised, or waits."""
        self.handed(self.buffer.take(self.box, self.now, promised=False))

    def handed(self, item: Item | None) -> None:
        """Check what a receiver got: the oldest of all messages, here and in the store."""
        if item is None:
            caller = Caller("jobs")
            self.box.waiters.append(caller)
            self.asleep.append(caller)
        else:
            assert self.now < item.deadline
            assert item.payload == self.order.pop(0)

    @precondition(lambda self: self.awake)
    @rule(data=st.data())
    def run_woken(self, data: st.DataObject) -> None:
        """Somebody who was woken runs: he finds a message, unless one became too old."""
        caller = data.draw(st.sampled_from(self.awake))
        self.awake.remove(caller)
        item = self.buffer.take(self.box, self.now, promised=True)
        assert item is not None or self.counters.dropped["expired"] > caller.losses
        self.handed(item)

    @precondition(lambda self: self.asleep or self.awake)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A receiver is cancelled; what was promised to him is promised to the next one."""
        caller = data.draw(st.sampled_from([*self.asleep, *self.awake]))
        (self.awake if caller.woken else self.asleep).remove(caller)
        self.note_woken(self.buffer.abandon(self.box, caller))

    @rule()
    def dismiss(self) -> None:
        """All who wait are told of an error; who was woken before gets his message all the same."""
        gone = RuntimeError("gone")
        self.buffer.dismiss(gone)
        assert all(caller.error is gone for caller in self.asleep)
        self.asleep.clear()

    @rule()
    def pump(self) -> None:
        """As many messages are popped as are wanted."""
        assert self.buffer.demand == len(self.asleep)
        while self.stored and self.stored[0].deadline <= self.now:
            self.order.remove(self.stored.pop(0).payload)
            self.expired += 1
        some, self.stored = self.stored[: self.buffer.demand], self.stored[self.buffer.demand :]
        for item in some:
            self.box.put(item)
        self.note_woken(self.buffer.promise())
        assert not some or len(self.asleep) == self.buffer.demand

    def note_woken(self, woken: Iterable[object]) -> None:
        """Wake whom the buffer calls: the longest waiting first."""
        for caller in woken:
            assert isinstance(caller, Caller)
            assert self.asleep.pop(0) is caller
            self.awake.append(caller)
            caller.wake()
            caller.losses = self.counters.dropped["expired"]

    @rule()
    def put_back(self) -> None:
        """What nobody waits for any more goes back to the head of its queue, and nothing that was promised does."""
        surplus = self.buffer.surplus()
        assert not (surplus and self.asleep)
        assert len(self.box.items) <= max(len(self.awake), len(self.box.items) if self.asleep else 0)
        self.stored[:0] = surplus

    @rule(seconds=st.sampled_from([1.0, 4.0, EXPIRY]))
    def pass_time(self, seconds: float) -> None:
        """Time passes, and a sweep finds what became too old."""
        self.now += seconds
        old = [item.payload for item in self.box.items if item.deadline <= self.now]
        self.buffer.expire(self.box, self.now)
        self.order = [payload for payload in self.order if payload not in old]

    @invariant()
    def order_is_kept(self) -> None:
        """What waits here is older than all that is in the store, and together it is all there is, in order."""
        assert [item.payload for item in (*self.box.items, *self.stored)] == self.order
        assert self.sent == (
            self.counters.delivered + self.counters.dropped["expired"] + self.expired + len(self.order)
        )

    @invariant()
    def who_waits_is_known(self) -> None:
        """Nobody sleeps beside a message that is promised to nobody."""
        assert list(self.box.waiters) == self.asleep
        assert self.box.promised == len(self.awake)
        assert not self.buffer.held_back
        assert self.buffer.idle == (not (self.box.items or self.asleep or self.awake))


EXAMPLES = max(100, settings().max_examples)  # a run is short, and there is much that can meet in it

InboxTest = InboxMachine.TestCase
InboxTest.settings = settings(max_examples=EXAMPLES, stateful_step_count=50)
TapTest = TapMachine.TestCase
TapTest.settings = settings(max_examples=EXAMPLES, stateful_step_count=50)
