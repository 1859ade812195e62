"""Mailboxes: what the owner of an inbox, and a reader of any other queue, holds for receivers."""

from __future__ import annotations

import re

import pytest

from channel_layer.commands import Entry
from channel_layer.domain import frames as envelope
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.counters import Counters
from channel_layer.domain.inbox import Inbox
from channel_layer.domain.mailbox import Item, QueueBuffer
from channel_layer.domain.names import Kind, Queue

A, B = "specific.me!a", "specific.me!b"
OLD, YOUNG = 100.0, 105.0
LIMIT = 600.0
"""Seconds without a receive() after which a channel that lets messages expire leaves its groups."""


class Caller:
    """A receiver that waits."""

    error: Exception | None = None
    lost = False

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    def wake(self) -> None:
        """Nothing: the tests read who is to be woken."""

    def fail(self, error: Exception) -> None:
        """Note the error."""
        self.errors.append(error)


@pytest.fixture
def counters() -> Counters:
    """Count losses."""
    return Counters()


@pytest.fixture
def inbox(counters: Counters) -> Inbox:
    """Make a leased inbox whose channels hold 2 messages, but for `B`, which holds 40."""
    table = CapacityTable(2, [(re.compile(".*b"), 40)])
    made = Inbox(Queue("specific.me!", Kind.INBOX), 0, table, counters, 10.0, None)
    made.generation = "generation"
    return made


def message(payload: bytes, channel: str = A) -> bytes:
    """Frame a message to one channel."""
    return envelope.message_frame(channel, payload)


def joined(version: int, channel: str = A, *, there: bool = True) -> bytes:
    """Frame a marker for the group ``g``."""
    return envelope.marker_frame(envelope.MembershipMarker("g", channel, there, version, 0))


def test_a_message_of_a_cancelled_receiver_still_becomes_too_old(inbox: Inbox, counters: Counters) -> None:
    """A message that came for a receiver who then left is swept when it is too old, and its place given back."""
    caller = Caller()
    box = inbox.box(A, 100.0)
    box.waiters.append(caller)
    assert inbox.apply([(100.0, joined(1)), (100.0, message(b"1"))], 0.0, 100.0) == [caller]
    assert inbox.abandon(box, caller) == []
    assert inbox.sweep(109.0) == []
    assert inbox.count() == 1
    assert inbox.sweep(110.0) == []
    assert inbox.count() == 0
    assert counters.dropped == {"expired": 1}
    assert inbox.credits == {A: 1}


@pytest.mark.parametrize(
    "frame", [message(b"2"), envelope.group_frame("g", (), b"2"), envelope.group_frame("other", (A,), b"2")]
)
@pytest.mark.parametrize("way", ["read", "emptied", "left"])
def test_what_comes_to_a_mailbox_that_no_sweep_looks_at_any_more_is_swept(inbox: Inbox, frame: bytes, way: str) -> None:
    """It had a message before, which is gone."""
    box = inbox.box(A, 100.0)
    inbox.apply([(100.0, joined(1)), (100.0, message(b"1"))], 0.0, 100.0)
    if way == "emptied":
        inbox.empty("flushed")
    else:
        assert inbox.take(box, 100.0, promised=False) is not None
        assert inbox.sweep(100.0) == []
    if way == "left":
        box.waiters.append(caller := Caller())
        assert inbox.apply([(101.0, frame)], 0.0, 101.0) == [caller]
        assert inbox.abandon(box, caller) == []
    else:
        inbox.apply([(101.0, frame)], 0.0, 101.0)
    assert inbox.count() == 1
    inbox.sweep(111.0)
    assert inbox.count() == 0


def test_the_call_of_a_cancelled_receiver_goes_to_the_next(inbox: Inbox) -> None:
    """Whoever leaves after he was woken wakes the one who waits longest; whoever leaves asleep wakes nobody."""
    first, second, third = Caller(), Caller(), Caller()
    box = inbox.box(A, 0.0)
    box.waiters.extend([first, second, third])
    assert inbox.apply([(0.0, message(b"1"))], 0.0, 0.0) == [first]
    assert inbox.abandon(box, second) == []
    assert inbox.abandon(box, first) == [third]
    item = inbox.take(box, 0.0, promised=True)
    assert item is not None
    assert item.payload == b"1"


def test_a_promised_message_is_not_for_others(inbox: Inbox) -> None:
    """Who was not woken takes nothing that is promised to somebody who was, and what comes later he takes at once."""
    caller = Caller()
    box = inbox.box(A, 0.0)
    box.waiters.append(caller)
    inbox.apply([(0.0, message(b"1"))], 0.0, 0.0)
    assert inbox.take(box, 0.0, promised=False) is None
    inbox.apply([(0.0, message(b"2"))], 0.0, 0.0)
    taken = [inbox.take(box, 0.0, promised=False), inbox.take(box, 0.0, promised=True)]
    assert [item.payload for item in taken if item] == [b"1", b"2"]


def test_a_late_estimate_of_the_clock_hands_out_nothing_too_old(inbox: Inbox, counters: Counters) -> None:
    """When two batches were read with different estimates of the store's clock, each message keeps its deadline."""
    inbox.apply([(100.0, message(b"1"))], 0.0, 100.0)
    inbox.apply([(100.0, message(b"2"))], 5.0, 100.0)
    box = inbox.boxes[A]
    first = inbox.take(box, 106.0, promised=False)
    assert first is not None
    assert first.payload == b"1"
    assert inbox.take(box, 106.0, promised=False) is None
    assert counters.dropped == {"expired": 1}


def test_an_expired_message_that_left_no_room_still_ends_memberships(inbox: Inbox, counters: Counters) -> None:
    """A message that became too old counts as unread even if a group message found it before a sweep, and no room."""
    group = envelope.group_frame("g", (), b"group")
    inbox.apply([(OLD - LIMIT, joined(1))], 0.0, OLD - LIMIT)
    inbox.apply([(OLD, message(b"1")), (YOUNG, group), (YOUNG, message(b"2"))], 0.0, YOUNG)
    inbox.apply([(111.0, group)], 0.0, 111.0)
    assert counters.dropped == {"expired": 1, "full": 1}
    assert inbox.sweep(111.0) == [("g", A, 1)]


def test_direct_messages_are_bounded_in_the_store_and_not_here(inbox: Inbox, counters: Counters) -> None:
    """What the store accepted for a channel is never dropped as full, however many group messages wait there."""
    group = envelope.group_frame("g", (A,), b"group")
    inbox.apply([(0.0, group)] * 3 + [(0.0, message(b"direct"))] * 3 + [(0.0, group)], 0.0, 0.0)
    assert counters.dropped == {"full": 2}
    assert [bool(item.group) for item in inbox.boxes[A].items] == [True, True, False, False, False]
    assert inbox.held() == ((A, 3),)


@pytest.mark.parametrize("extra_recipients", [(), (A,)])
def test_direct_messages_leave_no_place_for_a_groups(
    inbox: Inbox, counters: Counters, extra_recipients: tuple[str, ...]
) -> None:
    """A mailbox that holds its capacity of either kind takes no group message, until one is taken out of it."""
    if not extra_recipients:
        inbox.apply([(0.0, joined(1))], 0.0, 0.0)
    group = envelope.group_frame("g", extra_recipients, b"group")
    inbox.apply([(0.0, message(b"direct")), (0.0, group), (0.0, group), (0.0, message(b"direct"))], 0.0, 0.0)
    assert [bool(item.group) for item in inbox.boxes[A].items] == [False, True, False]
    for _ in range(2):
        inbox.take(inbox.boxes[A], 0.0, promised=False)
    inbox.apply([(0.0, group), (0.0, group)], 0.0, 0.0)
    assert [bool(item.group) for item in inbox.boxes[A].items] == [False, True]
    assert counters.dropped == {"full": 2}


def test_a_member_that_rides_along_gets_one_copy(inbox: Inbox, counters: Counters) -> None:
    """A member that its owner added and that somebody else added too gets one copy."""
    group = envelope.group_frame("g", (A, B), b"group")
    inbox.apply([(0.0, joined(1)), (0.0, group)], 0.0, 0.0)
    assert [len(inbox.boxes[name].items) for name in (A, B)] == [1, 1]
    assert counters.expanded == 2


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_the_higher_version_holds(inbox: Inbox, order: tuple[int, int]) -> None:
    """A member that joined and then left is no member, in whichever order the markers come."""
    markers = {1: joined(1), 2: joined(2, there=False)}
    inbox.apply([(0.0, markers[version]) for version in order], 0.0, 0.0)
    assert inbox.groups.known() == []
    inbox.apply([(0.0, joined(3))], 0.0, 0.0)
    assert inbox.groups.known() == [("g", A, 0.0)]


def test_versions_of_members_long_gone_are_forgotten(inbox: Inbox) -> None:
    """A version decides for twice `expiry` after its member left, and for as long as the member is one."""
    inbox.apply([(0.0, joined(3)), (0.0, joined(4, there=False)), (0.0, joined(4, B))], 0.0, 0.0)
    inbox.forget(19.9)
    inbox.apply([(19.9, joined(2))], 0.0, 19.9)
    assert inbox.groups.known() == [("g", B, 0.0)]
    inbox.forget(20.0)
    inbox.apply([(20.0, joined(2)), (20.0, joined(3, B, there=False))], 0.0, 20.0)
    assert sorted(name for _, name, _ in inbox.groups.known()) == [A, B]


def test_a_membership_ends_when_its_own_time_is_over(counters: Counters) -> None:
    """Of two members the one that joined earlier ends first, whichever joined last before the message."""
    table = CapacityTable(9)
    inbox = Inbox(Queue("specific.me!", Kind.INBOX), 0, table, counters, 10.0, group_expiry=25.0)
    group = envelope.group_frame("g", (), b"group")
    inbox.apply([(0.0, joined(1)), (20.0, joined(2, B)), (24.9, group)], 0.0, 24.9)
    assert [len(inbox.boxes[name].items) for name in (A, B)] == [1, 1]
    inbox.apply([(25.0, group)], 0.0, 25.0)
    assert [len(inbox.boxes[name].items) for name in (A, B)] == [1, 2]
    assert inbox.groups.known() == [("g", B, 20.0)]


def test_a_group_message_wakes_a_member_who_waits(inbox: Inbox) -> None:
    """A member is woken by a group message as by any other, whether its owner or somebody else added it."""
    callers = [Caller(), Caller()]
    for name, caller in zip((A, B), callers, strict=True):
        inbox.box(name, 0.0).waiters.append(caller)
    assert inbox.apply([(0.0, joined(1)), (0.0, envelope.group_frame("g", (B,), b"group"))], 0.0, 0.0) == callers


def test_a_mailbox_is_forgotten_when_nothing_and_nobody_needs_it(inbox: Inbox) -> None:
    """A mailbox that is in a group, holds a message or has a receiver is kept; an idle one goes after `expiry`."""
    inbox.apply([(0.0, joined(1)), (0.0, message(b"1", B))], 0.0, 0.0)
    inbox.box("specific.me!idle", 0.0)
    inbox.box("specific.me!waiting", 0.0).waiters.append(Caller())
    inbox.forget(9.9)
    assert len(inbox.boxes) == 4
    inbox.forget(10.0)
    assert set(inbox.boxes) == {A, B, "specific.me!waiting"}


def test_a_confirmed_membership_is_announced_until_it_is_over(inbox: Inbox) -> None:
    """What the store confirmed is a membership before its marker is met, but not after a discard or a flush."""
    inbox.groups.confirm("g", A, 5, 0.5)
    assert inbox.groups.known() == [("g", A, 0.5)]
    inbox.apply([(1.0, joined(4, there=False))], 0.0, 1.0)
    assert inbox.groups.known() == [("g", A, 0.5)]
    inbox.apply([(1.0, joined(5))], 0.0, 1.0)
    assert inbox.groups.known() == [("g", A, 1.0)]
    inbox.apply([(1.0, joined(6, there=False))], 0.0, 1.0)
    assert inbox.groups.known() == []
    inbox.groups.confirm("g", A, 5, 1.0)
    assert inbox.groups.known() == []
    inbox.groups.confirm("g", A, 7, 1.0)
    inbox.groups.confirm("g", B, 8, 1.0)
    inbox.groups.confirm("g", A, 9, None)
    assert inbox.groups.known() == [("g", B, 1.0)]
    inbox.apply([(2.0, envelope.flush_frame("flush"))], 0.0, 2.0)
    assert inbox.groups.known() == []


def test_a_member_that_left_is_not_announced_though_its_marker_never_comes(inbox: Inbox) -> None:
    """A confirmed leaving ends the membership for the store at once, and for messages when its marker comes, or cannot.

    What was sent to the group before it is still on its way.
    """
    inbox.apply([(1.0, joined(1)), (1.0, joined(2, B))], 0.0, 1.0)
    inbox.groups.confirm("g", A, 3, None)
    inbox.groups.confirm("g", A, 1, 1.0)  # the reply to the joining comes after the one to the leaving
    assert inbox.groups.known() == [("g", B, 1.0)]
    before = envelope.group_frame("g", (), b"before")
    inbox.apply([(1.0, before)], 0.0, 1.0)
    inbox.apply_leavings(1.0)
    inbox.apply([(1.0, envelope.group_frame("g", (), b"after"))], 0.0, 1.0)
    assert [item.payload for item in inbox.boxes[A].items] == [b"before"]
    assert [item.payload for item in inbox.boxes[B].items] == [b"before", b"after"]
    assert (inbox.groups.known(), inbox.groups.unseen) == ([("g", B, 1.0)], {})


def test_a_frame_that_is_none_costs_its_neighbours_nothing(inbox: Inbox, counters: Counters) -> None:
    """Bytes that are no frame are counted; what came before and after them in the batch is delivered."""
    inbox.apply([(0.0, message(b"1")), (0.0, b""), (0.0, b"?"), (0.0, b"g\x09"), (0.0, message(b"2"))], 0.0, 0.0)
    assert [item.payload for item in inbox.boxes[A].items] == [b"1", b"2"]
    assert counters.dropped == {"undecodable": 3}


def test_the_marker_of_a_flush_that_a_claim_has_told_of_changes_nothing(inbox: Inbox, counters: Counters) -> None:
    """A flush from before the last claim, met after it, drops nothing and leaves the claim's generation."""
    inbox.epoch = "flush"
    inbox.apply([(100.0, message(b"1")), (100.0, envelope.flush_frame("flush"))], 0.0, 100.0)
    assert (inbox.generation, inbox.flushed) == ("generation", None)
    assert (inbox.count(), counters.dropped.total()) == (1, 0)
    inbox.apply([(100.0, envelope.flush_frame("next"))], 0.0, 100.0)
    assert (inbox.generation, inbox.flushed, inbox.count()) == ("next", "next", 0)


def test_a_flush_in_the_stream_empties_what_came_before_it(inbox: Inbox, counters: Counters) -> None:
    """A flush drops messages, memberships and credits places that came before it, and nothing that came after."""
    inbox.apply([(0.0, message(b"0"))], 0.0, 0.0)
    inbox.take(inbox.boxes[A], 0.0, promised=False)
    flush = envelope.flush_frame("flush")
    entries = [joined(1), message(b"1"), envelope.group_frame("g", (), b"g"), flush, joined(2, B), message(b"2")]
    inbox.apply([(0.0, frame) for frame in entries], 0.0, 0.0)
    assert [item.payload for item in inbox.boxes[A].items] == [b"2"]
    assert inbox.groups.known() == [("g", B, 0.0)]
    assert (inbox.generation, inbox.epoch, inbox.flushed, inbox.credits) == ("flush", "flush", "flush", {})
    assert counters.dropped == {"flushed": 2}


def test_places_are_told_of_until_the_store_has_heard(inbox: Inbox) -> None:
    """A request to give back is repeated as it was; what is taken meanwhile comes after it, with another serial."""
    inbox.apply([(0.0, message(b"1")), (0.0, message(b"2"))], 0.0, 0.0)
    box = inbox.boxes[A]
    inbox.take(box, 0.0, promised=False)
    first = inbox.credit_batch()
    assert first is not None
    inbox.take(box, 0.0, promised=False)
    assert inbox.credit_batch() is first
    inbox.returning = None
    second = inbox.credit_batch()
    assert second is not None
    assert second.serial > first.serial
    assert first.places == second.places == ((A, 1),)
    inbox.returning = None
    assert inbox.credit_batch() is None


def test_places_of_an_old_count_are_not_given_back(inbox: Inbox) -> None:
    """When the lease is taken anew the count begins anew: what was on its way back before is not sent any more."""
    inbox.apply([(0.0, message(b"1"))], 0.0, 0.0)
    inbox.take(inbox.boxes[A], 0.0, promised=False)
    assert inbox.credit_batch() is not None
    inbox.generation = ""
    assert inbox.credit_batch() is None
    inbox.generation = "another"
    assert inbox.credit_batch() is None


def test_a_quarter_of_the_places_is_urgent(inbox: Inbox) -> None:
    """Senders hear at once of free places when they are a quarter of the capacity."""
    inbox.apply([(0.0, message(b"1", B))] * 10, 0.0, 0.0)
    box = inbox.boxes[B]
    urgent: list[bool] = []
    for _ in range(10):
        inbox.take(box, 0.0, promised=False)
        urgent.append(inbox.urgent(box))
    assert urgent == [False] * 9 + [True]


def buffer_of(name: str, kind: Kind, counters: Counters, *payloads: bytes) -> QueueBuffer:
    """Make a buffer whose mailbox `name` holds messages."""
    buffer = QueueBuffer(
        Queue(name.partition("!")[0] + "!" if kind is Kind.INBOX else name, kind), CapacityTable(9), counters
    )
    box = buffer.box(name, 0.0)
    for payload in payloads:
        box.put(Item(10.0, payload, "", (0, Entry(0.0, payload))))
    return buffer


def test_a_claimed_inbox_hands_out_only_what_a_pop_has_promised(counters: Counters) -> None:
    """What waits for a claimed inbox may have been flushed: neither a take nor a cancelled receiver promises it."""
    buffer = buffer_of("daphne!x", Kind.INBOX, counters, b"1")
    box = buffer.boxes["daphne!x"]
    assert buffer.take(box, 0.0, promised=False) is None
    first, second, third = Caller(), Caller(), Caller()
    box.waiters.extend([first, second, third])
    held_back = [buffer.held_back]
    assert buffer.abandon(box, second) == []
    assert buffer.promise() == [first]
    held_back.append(buffer.held_back)
    assert buffer.abandon(box, first) == []
    held_back.append(buffer.held_back)
    assert held_back == [True, False, True]
    assert buffer.promise() == [third]
    item = buffer.take(box, 0.0, promised=True)
    assert item is not None
    assert item.payload == b"1"
    assert buffer.idle


def test_the_surplus_of_a_buffer_goes_back_in_order(counters: Counters) -> None:
    """What nobody waits for any more goes back oldest first, and what is promised stays."""
    buffer = buffer_of("jobs", Kind.NORMAL, counters, b"1", b"2", b"3")
    box = buffer.boxes["jobs"]
    first, second = Caller(), Caller()
    box.waiters.extend([first, second])
    assert buffer.demand == 2
    assert buffer.promise() == [first, second]
    assert buffer.demand == 0
    assert [item.payload for item in buffer.surplus()] == [b"3"]
    buffer.abandon(box, first)
    buffer.abandon(box, second)
    assert [item.payload for item in buffer.surplus()] == [b"1", b"2"]
    assert buffer.surplus() == []


def test_nothing_is_promised_to_who_was_dismissed(counters: Counters) -> None:
    """What comes in for receivers that have been told of an error meanwhile is nobody's, and goes back."""
    buffer = buffer_of("jobs", Kind.NORMAL, counters)
    box = buffer.boxes.get("jobs") or buffer.box("jobs", 0.0)
    waiting = Caller()
    box.waiters.append(waiting)
    gone = RuntimeError("gone")
    buffer.dismiss(gone)
    assert waiting.errors == [gone]
    assert buffer.demand == 0
    box.put(Item(OLD, b"1", "", (0, Entry(0.0, b"1"))))  # a pop that was on its way
    assert buffer.promise() == []
    assert [item.payload for item in buffer.surplus()] == [b"1"]
    assert buffer.idle


def test_a_buffer_hands_out_nothing_too_old(counters: Counters) -> None:
    """A message that became too old after it was popped is counted, not handed out."""
    buffer = buffer_of("jobs", Kind.NORMAL, counters, b"1")
    assert buffer.take(buffer.boxes["jobs"], 10.0, promised=False) is None
    assert counters.dropped == {"expired": 1}
    assert counters.delivered == 0


def test_a_reader_forgets_mailboxes_that_nobody_uses(counters: Counters) -> None:
    """Of a queue's mailboxes those are forgotten that are empty and unused for so long; one in use is not."""
    buffer = QueueBuffer(Queue("claimed!", Kind.INBOX), CapacityTable(2), counters)
    for name in ("claimed!old", "claimed!holds", "claimed!waits", "claimed!young"):
        buffer.box(name, 100.0)
    buffer.boxes["claimed!holds"].put(Item(1000.0, b"1", "", None))
    buffer.boxes["claimed!waits"].waiters.append(Caller())
    assert buffer.take(buffer.boxes["claimed!young"], 105.0, promised=False) is None
    buffer.forget(110.0, 10.0)
    assert set(buffer.boxes) == {"claimed!holds", "claimed!waits", "claimed!young"}


@pytest.mark.parametrize("swept", [False, True], ids=["marker first", "sweep first"])
def test_a_joining_that_is_met_late_is_as_old_as_it_is(inbox: Inbox, *, swept: bool) -> None:
    """A message that expires unread after a joining ends it, though its marker is met only when that has happened."""
    again, other = joined(2), envelope.marker_frame(envelope.MembershipMarker("h", A, True, 3, 0))
    late = OLD + LIMIT
    inbox.apply([(OLD, joined(1))], 0.0, OLD)
    inbox.apply([(late, message(b"unread"))], 0.0, late)
    if swept:
        assert inbox.sweep(late + 10.0) == [("g", A, 1)]
        inbox.forget(late + 10.0)
    inbox.apply([(late + 5.0, again), (late + 5.0, other)], 0.0, late + 12.0)
    assert sorted(inbox.sweep(late + 12.0)) == [("g", A, 2), ("h", A, 3)]


@pytest.mark.parametrize("doubt", [0.0, 6.0])
def test_a_joining_forgives_what_was_too_old_before_it(inbox: Inbox, doubt: float) -> None:
    """A message that was too old when its channel joined ends nothing; nor does one of which nobody can tell."""
    inbox.apply([(OLD, message(b"unread"))], 0.0, OLD)
    joined_at = OLD + 10.5 - doubt
    inbox.apply([(joined_at, joined(1))], 0.0, OLD + 12.0, doubt)
    assert inbox.sweep(OLD + 12.0) == inbox.sweep(OLD + 2 * LIMIT) == []


def test_a_mailbox_remembers_that_it_was_not_read_for_as_long_as_markers_may_be_late(inbox: Inbox) -> None:
    """It is not forgotten as soon as its last message is too old: a joining of before that may be met next."""
    inbox.apply([(OLD, message(b"unread"))], 0.0, OLD)
    inbox.sweep(OLD + 10.0)
    inbox.forget(OLD + 19.0)
    inbox.apply([(OLD + 1.0, joined(1))], 0.0, OLD + 19.0)
    assert inbox.sweep(OLD + LIMIT) == [("g", A, 1)]


def test_a_membership_is_ended_until_its_end_is_met(inbox: Inbox) -> None:
    """The store refuses to end it while it knows of a later joining; once that is met here, it is asked again."""
    inbox.apply([(OLD, joined(1)), (OLD, message(b"unread"))], 0.0, OLD)
    late = OLD + LIMIT
    assert inbox.sweep(late) == [("g", A, 1)]
    inbox.apply([(late, joined(2, B))], 0.0, late)
    assert inbox.sweep(late + 1.0) == [("g", A, 2)]
    inbox.apply([(late + 2.0, joined(3, there=False))], 0.0, late + 2.0)
    assert inbox.sweep(late + 2.0) == []
    inbox.apply([(late + 3.0, joined(4))], 0.0, late + 3.0)
    assert inbox.sweep(late + 3.0) == []


@pytest.mark.parametrize(("expiry", "limit"), [(10.0, 600.0), (59.0, 600.0), (60.0, 600.0), (90.0, 900.0)])
def test_a_channel_leaves_its_groups_after_ten_times_expiry_without_a_receive(expiry: float, limit: float) -> None:
    """It leaves them after 600 s at least, and only if a message expired unread."""
    inbox = Inbox(Queue("specific.me!", Kind.INBOX), 0, CapacityTable(2), Counters(), expiry, None)
    inbox.apply([(OLD, joined(1)), (OLD, joined(2, B)), (OLD, message(b"unread"))], 0.0, OLD)
    assert inbox.sweep(OLD + expiry) == inbox.sweep(OLD + limit - 0.01) == []
    assert inbox.sweep(OLD + limit) == [("g", A, 2)]


@pytest.mark.parametrize("seen", ["took", "found nothing", "waits", "was cancelled", "any channel", "subscribed"])
def test_a_receive_keeps_the_memberships_of_a_channel_that_let_a_message_expire(inbox: Inbox, seen: str) -> None:
    """However late it comes, and whatever it brings: the channel has a consumer, which was slow once."""
    inbox.apply([(OLD, joined(1)), (OLD, message(b"unread"))], 0.0, OLD)
    assert inbox.sweep(OLD + 10.0) == []
    late, box, caller = OLD + LIMIT - 1.0, inbox.boxes[A], Caller()
    if seen == "took":
        inbox.apply([(late, message(b"next"))], 0.0, late)
        assert inbox.take(box, late, promised=False) is not None
    elif seen == "found nothing":
        assert inbox.take(box, late, promised=False) is None
    elif seen == "any channel":
        inbox.received_at = late
    elif seen == "subscribed":
        box.kept = True
    else:
        box.waiters.append(caller)
        if seen == "was cancelled":
            inbox.abandon(box, caller)
            box.used_at = late
    assert inbox.sweep(OLD + LIMIT) == inbox.sweep(late + 2 * LIMIT) == []


def test_a_receive_that_was_called_and_does_not_run_keeps_memberships_for_as_long(inbox: Inbox) -> None:
    """A receiver that has waited for long is there when a message comes; if it never runs, it is gone at last."""
    inbox.apply([(OLD, joined(1))], 0.0, OLD)
    caller, came = Caller(), OLD + 2 * LIMIT
    box = inbox.boxes[A]
    box.waiters.append(caller)
    assert inbox.apply([(came, message(b"1")), (came, message(b"2"))], 0.0, came) == [caller]
    for seconds in (10.0, LIMIT - 20.0, LIMIT - 1.0):
        inbox.apply([(came + seconds, message(b"3"))], 0.0, came + seconds)
        assert inbox.sweep(came + seconds) == []
    assert inbox.sweep(came + LIMIT) == [("g", A, 1)]


def test_an_inbox_tells_how_many_members_a_batch_reaches(inbox: Inbox) -> None:
    """The largest of the groups counts, and what is no message to a group, or to none that is known, counts nothing."""
    inbox.box(A, 0.0)
    inbox.box(B, 0.0)
    both = (0.0, envelope.group_frame("g", (), b"1"))
    assert inbox.largest_group([both]) == 0
    inbox.apply([(0.0, joined(1)), (0.0, joined(2, B))], 0.0, 0.0)
    inbox.apply([(0.0, envelope.marker_frame(envelope.MembershipMarker("h", A, True, 3, 0)))], 0.0, 0.0)
    one = (0.0, envelope.group_frame("h", (), b"1"))
    other = (0.0, message(b"1"))
    none = (0.0, envelope.group_frame("nobody", (), b"1"))
    assert inbox.largest_group([one]) == 1
    assert inbox.largest_group([other, none, both, one, (0.0, b""), (0.0, both[1][:2])]) == 2
    assert inbox.largest_group([other, none, (0.0, both[1][:2])]) == 0
