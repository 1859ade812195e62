"""Whole operations: what each use case does for a layer object, with its retries, its credits and its accounts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from channel_layer import commands as c
from channel_layer import operations
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.counters import Statistics
from channel_layer.domain.frames import MembershipMarker, flush_frame, marker_frame, message_frame
from channel_layer.domain.mailbox import Item
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.domain.rates import Rates
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.errors import StoreError
from channel_layer.operations import leases
from channel_layer.operations.credits import return_credits, return_one_batch
from channel_layer.operations.leases import Renewal
from channel_layer.operations.steps import EnsureReading, RestoreLease, Sleep, Together, Unbroken
from channel_layer.testing import make_rules
from tests.support.operations import make_state, play, together

if TYPE_CHECKING:
    from channel_layer.domain.inbox import Inbox
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Step
    from channel_layer.options import NoLocalReaderOption

GROUP = GroupName.parse("room")
JOBS = ChannelName.parse("jobs")
OWN = ChannelName.parse("specific.me!x")
NOT_SENT = StoreError("away", retryable=True, outcome="not_sent")
UNKNOWN = StoreError("away", retryable=True, outcome="unknown")
TAKEN, FULL = c.Pushed(True, 0), c.Pushed(False, 0)


class Clock:
    """A clock that stands still, but for when a test moves it."""

    offset = 0.0

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        """Return seconds since some moment."""
        return self.time


def make(
    *,
    local: int | None = None,
    policy: NoLocalReaderOption = "remote",
    group_expiry: float | None = 600.0,
    clock: Clock | None = None,
) -> LayerState:
    """Make a state over one host, and a local store if told so; every channel holds 9 messages."""
    routes = Routes(Ring(["host:6379/0"]), CapacityTable(9), local=local, no_local_reader=policy)
    rules = make_rules(group_expiry=group_expiry)
    return make_state(routes, rules, clock or Clock())


def own(state: LayerState) -> Inbox:
    """Let the layer own the inbox of `OWN`, with a lease that it knows of."""
    inbox = state.inboxes[OWN.queue.name] = state.make_inbox(OWN.queue)
    inbox.generation, inbox.lease_until = "first", 590.0
    state.clocks[0].observe(1000.0, 1000.0, 500.0)
    return inbox


def take_one(inbox: Inbox) -> None:
    """Let a message come to `OWN`, and be taken: the inbox owes a credit."""
    inbox.apply([(500.0, message_frame(OWN.name, b"taken"))], -500.0, 1000.0)
    assert inbox.take(inbox.boxes[OWN.name], 1000.0, promised=False) is not None


def push(channel: ChannelName = OWN, shard: int = 0, *, if_registered: bool = False) -> c.Push:
    """Ask to push the payload."""
    return c.Push(shard, channel, 9, b"payload", if_registered=if_registered)


def credits_command(serial: int, places: int = 1) -> c.ReturnCredits:
    """Ask to take credits of `OWN` back."""
    return c.ReturnCredits(0, OWN.queue, "first", serial, ((OWN.name, places),))


# -- credits


def test_credits_are_returned_until_none_are_left() -> None:
    """Each batch goes to the shard of the inbox, with the generation of its lease; the next one has another serial."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    returning = return_credits(state, inbox)
    assert next(returning) == credits_command(1)
    take_one(inbox)
    take_one(inbox)
    assert returning.send(None) == credits_command(2, 2)
    with pytest.raises(StopIteration):
        returning.send(None)
    assert inbox.returning is None
    assert play(return_one_batch(state, inbox)) is False


@pytest.mark.parametrize("error", [NOT_SENT, UNKNOWN])
def test_credits_that_may_not_have_been_heard_of_are_told_again(error: StoreError) -> None:
    """A batch whose command failed comes first the next time, as it was; returning all stops at the failure."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    with pytest.raises(StoreError):
        play(return_one_batch(state, inbox), (credits_command(1), error))
    take_one(inbox)
    assert play(return_credits(state, inbox), (credits_command(1), error)) is None
    assert play(return_one_batch(state, inbox), (credits_command(1), None)) is True
    assert play(return_one_batch(state, inbox), (credits_command(2), None)) is True


def test_a_batch_that_another_one_has_returned_meanwhile_is_not_forgotten_twice() -> None:
    """If two tasks return the same batch, the later reply does not take the next batch for told."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    first, second = return_one_batch(state, inbox), return_one_batch(state, inbox)
    assert next(first) == next(second) == credits_command(1)
    with pytest.raises(StopIteration):
        first.send(None)
    take_one(inbox)
    third = return_one_batch(state, inbox)
    assert next(third) == credits_command(2)
    with pytest.raises(StopIteration):
        second.send(None)
    assert inbox.returning is not None
    assert inbox.returning.serial == 2


# -- send


def test_a_send_is_counted() -> None:
    """A message that was taken, one that was refused, and old ones that made room, are counted by what they are."""
    state = make()
    assert play(operations.send(state, JOBS, b"payload", 0), (push(JOBS), c.Pushed(True, 2))) == c.Pushed(True, 2)
    assert play(operations.send(state, JOBS, b"payload", 0), (push(JOBS), FULL)) == c.Pushed(False, 0)
    counters = state.counters
    assert (counters.sent, counters.refused, counters.dropped) == (1, 1, {"expired": 2})
    assert counters.pending_counts.take() == (("jobs", 1, 1),)


def test_a_send_that_fails_counts_nothing() -> None:
    """A message of which nobody knows what became of it is neither sent nor refused."""
    state = make()
    with pytest.raises(StoreError):
        play(operations.send(state, JOBS, b"payload", 0), (push(JOBS), UNKNOWN))
    assert (state.counters.sent, state.counters.refused, state.counters.pending_counts.take()) == (0, 0, ())


def test_a_full_inbox_of_this_process_gets_its_credits_back_first() -> None:
    """If the store does not know of places that are free it hears of them, and the message is sent again."""
    state = make()
    take_one(own(state))
    sending = operations.send(state, OWN, b"payload", 0)
    assert play(sending, (push(), FULL), (credits_command(1), None), (push(), TAKEN)) == c.Pushed(True, 0)
    assert (state.counters.sent, state.counters.refused) == (1, 0)


def test_a_full_inbox_without_free_places_is_full() -> None:
    """If nothing is credits, the message is refused with one command; so is one to an inbox of another process."""
    state = make()
    own(state)
    assert play(operations.send(state, OWN, b"payload", 0), (push(), FULL)) == c.Pushed(False, 0)
    other = ChannelName.parse("specific.other!x")
    assert play(operations.send(state, other, b"payload", 0), (push(other), FULL)) == c.Pushed(False, 0)
    assert state.counters.refused == 2


def test_credits_that_were_returned_meanwhile_are_a_reason_to_try_again() -> None:
    """A batch that the background work returned while the send was under way may have come after the send."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    sending = operations.send(state, OWN, b"payload", 0)
    assert next(sending) == push()
    play(return_one_batch(state, inbox), (credits_command(1), None))
    assert sending.send(FULL) == push()
    with pytest.raises(StopIteration) as stop:
        sending.send(TAKEN)
    assert stop.value.value == c.Pushed(True, 0)


def test_a_send_does_not_fail_for_credits_that_cannot_be_returned() -> None:
    """The second try decides: the background work tells of the credits later."""
    state = make()
    take_one(own(state))
    sending = operations.send(state, OWN, b"payload", 0)
    assert play(sending, (push(), FULL), (credits_command(1), UNKNOWN), (push(), FULL)) == c.Pushed(False, 0)


def test_what_was_left_in_the_local_store_is_moved_first() -> None:
    """Earlier messages that no process here reads are moved to the remote store, unbroken; then the message follows."""
    state = make(local=1)
    sending = operations.send(state, JOBS, b"payload", 0)
    assert next(sending) == push(JOBS, 1, if_registered=True)
    step = sending.send(c.Pushed(False, 0, orphaned=2))
    assert isinstance(step, Unbroken)
    left = c.Entry(90.0, b"left")
    play(
        step.operation,
        (together(c.Pop(0, JOBS.queue, 0, "")), [c.Popped((), 0, now=1000.0)]),
        (c.Pop(1, JOBS.queue, 1 << 30, ""), c.Popped((left,), 1, now=100.0, flushed=1, lost=1)),
        (c.PutBack(0, JOBS.queue, (c.Entry(990.0, b"left"),)), c.Returned(expired=1, flushed=1)),
    )
    assert state.counters.dropped == {"expired": 2, "flushed": 2, "store_lost": 1}
    assert sending.send(None) == push(JOBS, 1, if_registered=True)
    assert sending.send(c.Pushed(False, 0, orphaned=1)) == push(JOBS), "what came meanwhile is overtaken"
    with pytest.raises(StopIteration) as stop:
        sending.send(TAKEN)
    assert stop.value.value == c.Pushed(True, 0)


def test_all_that_no_process_reads_is_moved() -> None:
    """Each queue of the local store without a reader is moved by itself."""
    state = make(local=1)
    play(
        operations.move_all_to_remote(state),
        (c.FindOrphaned(1), ("jobs", "mail")),
        (together(c.Pop(0, JOBS.queue, 0, "")), [c.Popped((), 0, now=1000.0)]),
        (c.Pop(1, JOBS.queue, 1 << 30, ""), c.Popped((), 0, now=100.0)),
        (together(c.Pop(0, Queue.named("mail"), 0, "")), [c.Popped((), 0, now=1000.0)]),
        (c.Pop(1, Queue.named("mail"), 1 << 30, ""), c.Popped((), 3, now=100.0)),
    )
    assert state.counters.dropped == {"expired": 3}


# -- groups


def join(*, age: float = 0.0, restore: bool = False, channel: ChannelName = OWN, owned: bool = True) -> c.Join:
    """Ask to add a channel to the group."""
    return c.Join(0, GROUP, channel, owned=owned, age=age, restore=restore, mark=channel.queue.kind is Kind.INBOX)


JOINED, LOST = c.Changed(8, True, True, True), c.Changed(8, False, True, True)


def test_a_membership_of_this_process_is_remembered() -> None:
    """What the store has confirmed holds from the middle of what its clock can show; a discard ends it."""
    state = make()
    inbox = own(state)
    play(operations.group_add(state, GROUP, OWN), (join(), JOINED))
    assert inbox.groups.known() == [("room", OWN.name, 500.0)]
    leave = c.Leave(0, GROUP, OWN, mark=True)
    play(operations.group_discard(state, GROUP, OWN), (leave, c.Changed(9, True, True, True)))
    assert inbox.groups.known() == []


def test_the_membership_of_another_channel_is_not_remembered() -> None:
    """A channel that this process does not own is added to the group, and nothing is kept here."""
    state = make()
    clear_unread, changed = together(c.ClearUnread(0, JOBS)), c.Changed(8, False, True, False)
    play(operations.group_add(state, GROUP, JOBS), (clear_unread, [None]), (join(channel=JOBS, owned=False), changed))
    play(operations.group_discard(state, GROUP, JOBS), (c.Leave(0, GROUP, JOBS, mark=False), changed))
    assert not state.inboxes


def test_a_lost_lease_is_restored_before_the_next_try() -> None:
    """A store that has lost the inbox gets it again, and then the channel is added; five times at most."""
    state = make()
    inbox = own(state)
    lost = (join(), LOST), (RestoreLease(inbox), None)
    play(operations.group_add(state, GROUP, OWN), *lost, *lost, (join(), JOINED))
    assert inbox.groups.known() == [("room", OWN.name, 500.0)]
    with pytest.raises(StoreError, match=r"keeps losing inbox specific\.me!") as caught:
        play(operations.group_add(state, GROUP, OWN), *lost * 5)
    assert (caught.value.retryable, caught.value.outcome) == (True, "unknown")


def test_a_lease_that_cannot_be_restored_is_an_error() -> None:
    """The caller of group_add is told what kept the lease from being restored."""
    state = make()
    inbox = own(state)
    with pytest.raises(StoreError) as caught:
        play(operations.group_add(state, GROUP, OWN), (join(), LOST), (RestoreLease(inbox), NOT_SENT))
    assert caught.value is NOT_SENT


def test_a_group_send_is_counted() -> None:
    """Copies for members outside owned inboxes are counted, as are members and inboxes without room."""
    state = make()
    mail = ChannelName.parse("mail")
    found = c.Published(3, done=False, inboxes=("specific.p!",), others=("jobs", "mail"), full=())
    sent = play(
        operations.group_send(state, GROUP, b"payload", 0),
        (c.Publish(0, GROUP, b"payload", at_once=True), found),
        (together(c.Deliver(0, Queue("specific.p!", Kind.INBOX), GROUP, (), b"payload")), [c.Delivery.FULL]),
        (
            together(c.Push(0, JOBS, 9, b"payload", to_member=True), c.Push(0, mail, 9, b"payload", to_member=True)),
            [c.Pushed(True, 1), FULL],
        ),
    )
    assert (sent.others, sent.full, sent.inbox_full) == (("jobs",), ("mail",), ("specific.p!",))
    counters = state.counters
    assert (counters.expanded, counters.sent) == (3, 0)
    assert counters.dropped == {"full": 1, "inbox_full": 1, "expired": 1}
    assert counters.pending_counts.take() == (("jobs", 1, 0),)


# -- flush


def test_a_flush_waits_until_every_owner_has_acknowledged() -> None:
    """Every shard is flushed at once; then the owners that have not answered are asked for, in pauses that double."""
    state = make(local=1)
    state.buffer(JOBS.queue).box("jobs", 1000.0).put(_popped_item())
    slow = ("specific.a!", "specific.b!")
    play(
        operations.flush(state, "g"),
        (together(c.Flush(0, "g"), c.Flush(1, "g")), [c.Flushing(slow, 2), c.Flushing((), 3)]),
        (Sleep(0.002), None),
        (together(c.Unflushed(0, slow, "g")), [slow]),
        (Sleep(0.004), None),
        (together(c.Unflushed(0, slow, "g")), [slow[1:]]),
        (Sleep(0.008), None),
        (together(c.Unflushed(0, slow[1:], "g")), [()]),
    )
    assert state.counters.dropped == {"flushed": 1 + 2 + 3}
    assert state.waiting() == 0


def _popped_item() -> Item:
    return Item(2000.0, b"popped", "", None)


def test_the_pauses_of_a_flush_are_a_tenth_of_a_second_at_most() -> None:
    """However long an owner takes, it is asked for ten times a second."""
    state, slow = make(), ("specific.a!",)
    flushing = operations.flush(state, "g")
    next(flushing)
    step, pauses = flushing.send([c.Flushing(slow, 0)]), list[float]()
    for _ in range(9):
        assert isinstance(step, Sleep)
        pauses.append(step.seconds)
        flushing.send(None)
        step = flushing.send([slow])
    assert pauses == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1, 0.1]


def flush_unanswered(state: LayerState, silent: tuple[str, ...]) -> tuple[str, float, int]:
    """Flush while the owners of some inboxes never answer.

    Returns:
        The warning, for how many seconds it has waited, and how often it has asked for them.
    """
    clock = state.clock
    assert isinstance(clock, Clock)
    flushing = operations.flush(state, "g")
    reply: list[c.Flushing] | list[tuple[str, ...]] | None = None
    began, asked = clock.time, 0
    try:
        while True:
            step, reply = flushing.send(reply), None
            if isinstance(step, Sleep):
                clock.time += step.seconds
            elif isinstance(step, Together) and isinstance(step.commands[0], c.Flush):
                reply = [c.Flushing(silent if command.shard == 0 else (), 0) for command in step.commands]
            else:
                assert step == together(c.Unflushed(0, silent, "g"))
                asked += 1
                reply = [silent]
    except StopIteration as stop:
        warning: str = stop.value
        return warning, clock.time - began, asked


def test_a_flush_waits_for_the_timeout_and_tells_who_did_not_answer() -> None:
    """Owners have `timeout` seconds to answer, to the instant; then the warning counts their inboxes, by shard."""
    state = make(local=1)
    warning, seconds, _ = flush_unanswered(state, ("specific.a!", "specific.b!"))
    assert seconds == pytest.approx(state.rules.timeout)
    assert warning.startswith("flush() returned before the owners of 2 inboxes answered (2 on host:6379/0): ")
    assert "its lease ends within 90 s" in warning
    assert state.unflushed == (c.Unflushed(0, ("specific.a!", "specific.b!"), "g"),)


def test_an_owner_that_did_not_answer_is_not_waited_for_again_until_it_has() -> None:
    """The next flush asks for it once and goes on; it warns again, and waits again once the owner has answered."""
    state, silent = make(), ("specific.a!",)
    flush_unanswered(state, silent)
    warning, seconds, asked = flush_unanswered(state, silent)
    assert (seconds, asked) == (0.0, 1)
    assert "the owners of 1 inbox answered (1 on host:6379/0)" in warning
    play(
        operations.flush(state, "h"),
        (together(c.Unflushed(0, silent, "g")), [()]),  # it has answered
        (together(c.Flush(0, "h")), [c.Flushing(silent, 0)]),
        (Sleep(0.002), None),
        (together(c.Unflushed(0, silent, "h")), [()]),
    )
    assert state.unflushed == ()


def test_a_flush_waits_for_others_beside_one_that_did_not_answer() -> None:
    """An owner that lives is waited for, whoever else is silent."""
    state = make()
    flush_unanswered(state, ("specific.a!",))
    both = ("specific.a!", "specific.b!")
    warning = play(
        operations.flush(state, "h"),
        (together(c.Unflushed(0, both[:1], "g")), [both[:1]]),
        (together(c.Flush(0, "h")), [c.Flushing(both, 0)]),
        (Sleep(0.002), None),
        (together(c.Unflushed(0, both, "h")), [both]),
        (Sleep(0.004), None),
        (together(c.Unflushed(0, both, "h")), [both[:1]]),
    )
    assert "the owners of 1 inbox answered" in warning


def test_a_flush_does_not_wait_for_the_thread_that_calls_it() -> None:
    """Own inboxes are read meanwhile; those that are read by the calling thread itself are not waited for."""
    state = make()
    own(state)
    mine, other = frozenset({"specific.me!"}), ("specific.other!",)
    play(
        operations.flush(state, "g"),
        (EnsureReading(), mine),
        (together(c.Flush(0, "g")), [c.Flushing(("specific.me!", *other), 0)]),
        (Sleep(0.002), None),
        (EnsureReading(), mine),
        (together(c.Unflushed(0, other, "g")), [()]),
    )
    play(
        operations.flush(state, "h"),
        (EnsureReading(), mine),
        (together(c.Flush(0, "h")), [c.Flushing(("specific.me!",), 0)]),
    )


# -- statistics


def test_what_could_not_be_told_is_told_the_next_time() -> None:
    """Counts go to the store once; those of a report that was not sent are in the next one."""
    state = make()
    state.counters.pending_counts.add("jobs", 2, 1)
    report = c.Report(0, (c.Count(JOBS.queue, 2, 1),), 2, 1)
    play(operations.report(state), (report, NOT_SENT))
    state.counters.pending_counts.add("jobs", 1, 0)
    play(operations.report(state), (c.Report(0, (c.Count(JOBS.queue, 3, 1),), 3, 1), None))
    assert play(operations.report(state)) is None, "nothing is left to tell"


def test_statistics_count_what_this_process_has_not_told() -> None:
    """Credits and counts are told before the store is asked, and the oldest message may wait in a mailbox here."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    inbox.apply([(470.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    state.counters.pending_counts.add("jobs", 1, 0)
    found = play(
        operations.read_statistics(state, None),
        (credits_command(1), None),
        (c.Report(0, (c.Count(JOBS.queue, 1, 0),), 1, 0), None),
        (together(c.Reported(0, None)), [Rates(6, 1, 3, 0, 60.0)]),
        (together(c.Survey(0, None)), [c.Surveyed(2, 5.0)]),
    )
    assert found.messages_max_age == pytest.approx(30.0, abs=0.1)
    assert found.messages_pending == 2
    other = play(
        operations.read_statistics(state, JOBS),
        (together(c.Reported(0, JOBS.queue)), [Rates(6, 1, 3, 0, 60.0)]),
        (together(c.Survey(0, JOBS)), [c.Surveyed(1, 5.0)]),
    )
    assert other == Statistics(6, 0.05, 1, 5.0, 1, 0.0)


# -- leases


def renewal(inbox: Inbox, *, serial: int = 0, held: int = 0) -> c.RenewLease:
    """Ask to renew the lease of `OWN`'s inbox, where *held* messages are unread."""
    return c.RenewLease(0, OWN.queue, inbox.position, serial, ((OWN.name, held),) if held else ())


def test_a_renewal_says_whether_the_lease_is_held() -> None:
    """A renewed lease lasts from what the store's clock shows."""
    clock = Clock()
    state = make(clock=clock)
    inbox = own(state)
    renew = renewal(inbox)
    clock.time = 1010.0
    assert play(leases.renew_lease(state, inbox), (renew, c.LeaseRenewed(510.0, True, ""))) == Renewal(True, False)
    assert inbox.lease_until == 510.0 + state.lease
    clock.time = 1011.0
    lost = (renew, c.LeaseRenewed(511.0, False, ""))
    assert play(leases.renew_lease(state, inbox), lost) == Renewal(False, False), "before its time"
    clock.time = 1011.0 + state.lease
    over = (renew, c.LeaseRenewed(511.0 + state.lease, False, ""))
    assert play(leases.renew_lease(state, inbox), over) == Renewal(False, True)


def test_a_lease_that_ended_because_a_clock_was_set_was_not_missed() -> None:
    """The owner was there all the time: it keeps what it holds, and losses have the step as their cause."""
    clock = Clock()
    state = make(clock=clock)
    inbox = own(state)
    clock.time = 1010.0
    stepped = (renewal(inbox), c.LeaseRenewed(1110.0, False, ""))
    assert play(leases.renew_lease(state, inbox), stepped) == Renewal(False, False)
    state.counters.drop("expired", "jobs")
    assert "the clock of host:6379/0 was set by +600 s" in (state.counters.warning(1010.0) or "")
    clock.time = 1010.0 + state.lease
    over = (renewal(inbox), c.LeaseRenewed(1110.0 + state.lease, False, ""))
    assert play(leases.renew_lease(state, inbox), over) == Renewal(False, True), "a lease later it is missed"


def test_a_renewal_tells_what_is_unread() -> None:
    """What waits here counts, and what was taken whose credits are still to be returned; nothing while some are."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    inbox.apply([(500.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    held = (renewal(inbox, held=2), c.LeaseRenewed(500.0, True, ""))
    assert play(leases.renew_lease(state, inbox), held) == Renewal(True, False)
    returning = return_one_batch(state, inbox)
    assert next(returning) == credits_command(1)
    unclear = (renewal(inbox, serial=-1), c.LeaseRenewed(500.0, True, ""))
    assert play(leases.renew_lease(state, inbox), unclear) == Renewal(True, False)
    with pytest.raises(StopIteration):
        returning.send(None)
    told = (renewal(inbox, serial=1, held=1), c.LeaseRenewed(500.0, True, ""))
    assert play(leases.renew_lease(state, inbox), told) == Renewal(True, False)


@pytest.mark.parametrize(("stamp", "shows"), [(400.0, 430.0), (700.0, 730.0)], ids=["back", "forward"])
def test_the_clock_is_looked_at_without_a_renewal(stamp: float, shows: float) -> None:
    """What looks too old on its arrival, or is yet to be, is a reason to ask for the time; the lease stays."""
    state = make()
    inbox = own(state)
    assert not state.clocks[0].contradicts(500.0, state.rules.expiry, state.clock.now())
    assert state.clocks[0].contradicts(stamp, state.rules.expiry, state.clock.now())
    asked = (c.RenewLease(0, OWN.queue), c.LeaseRenewed(shows, True, ""))
    play(leases.observe_clock(state, inbox), asked)
    assert not state.clocks[0].contradicts(stamp, state.rules.expiry, state.clock.now())
    assert inbox.lease_until == 590.0


def test_memberships_are_as_old_as_before_when_a_clock_is_set_forward() -> None:
    """None is over for it, and none has been made in the future."""
    clock = Clock()
    state = make(clock=clock)
    inbox = own(state)
    inbox.groups.confirm("told", OWN.name, 1, 490.0)
    for stamp, group, version in ((495.0, "met", 2), (1109.0, "new", 3)):
        marker = marker_frame(MembershipMarker(group, OWN.name, True, version, 0))
        inbox.apply([(stamp, marker)], -500.0, 1000.0)
    clock.time = 1010.0
    play(leases.observe_clock(state, inbox), (c.RenewLease(0, OWN.queue), c.LeaseRenewed(1110.0, True, "")))
    found = {group: round(1110.0 - joined) for group, _, joined in inbox.groups.known()}
    assert found == {"told": 20, "met": 15, "new": 0}
    assert inbox.groups.count("met") == 1


def test_a_first_lease_begins_at_the_position_that_the_store_says() -> None:
    """With the first claim nothing was lost: there is nothing to announce, and no flush to acknowledge."""
    state = make()
    inbox = state.make_inbox(OWN.queue)
    claim = c.AcquireLease(0, OWN.queue, "g", "", ())
    play(leases.acquire_lease(state, inbox, "g"), (claim, c.LeaseAcquired(500.0, True, "epoch", 2)))
    assert (inbox.generation, inbox.epoch, inbox.lease_until) == ("g", "epoch", 500.0 + state.lease)
    assert (inbox.unannounced, inbox.flushed) == (False, None)
    assert state.counters.dropped == {"expired": 2}
    assert state.clocks[0].middle(1000.0) == 500.0


def test_a_lease_that_was_lost_is_acquired_with_what_is_held() -> None:
    """What waits here counts towards the capacity; memberships are to be announced, and a flush acknowledged."""
    state = make()
    inbox = own(state)
    take_one(inbox)
    inbox.apply([(500.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    inbox.position = "7"
    claim = c.AcquireLease(0, OWN.queue, "second", "7", ((OWN.name, 1),))
    acquiring = leases.acquire_lease(state, inbox, "second")
    assert next(acquiring) == claim
    assert inbox.credit_batch() is None, "the count begins anew with the claim"
    with pytest.raises(StopIteration):
        acquiring.send(c.LeaseAcquired(500.0, False, "", 0))
    assert (inbox.generation, inbox.position, inbox.flushed, inbox.unannounced) == ("second", "7", "second", True)
    assert inbox.count() == 1
    assert inbox.credits == {}


def test_a_lease_that_was_missed_drops_what_is_held() -> None:
    """Once a lease has ended, senders have been told that the owner is dead: what waits here counts as expired."""
    state = make()
    inbox = own(state)
    inbox.apply([(500.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    inbox.position = "7"
    claim = c.AcquireLease(0, OWN.queue, "second", "7", ())
    play(leases.acquire_lease(state, inbox, "second", missed=True), (claim, c.LeaseAcquired(700.0, True, "", 0)))
    assert inbox.position == "", "a new inbox is read from its beginning"
    assert state.counters.dropped == {"expired": 1}


def test_a_flush_that_was_missed_is_applied_with_the_claim() -> None:
    """Another epoch than the last one tells of a flush: messages and memberships from before it are dropped."""
    state = make()
    inbox = own(state)
    inbox.apply([(500.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    claim = c.AcquireLease(0, OWN.queue, "second", "", ((OWN.name, 1),))
    play(leases.acquire_lease(state, inbox, "second"), (claim, c.LeaseAcquired(500.0, True, "flush", 0)))
    assert inbox.epoch == "flush"
    assert inbox.groups.known() == []
    assert state.counters.dropped == {"flushed": 1}


def test_a_claim_that_fails_leaves_no_generation() -> None:
    """Until it is known how a claim has ended nothing is given back, and the next renewal does not count as held."""
    state = make()
    inbox = own(state)
    with pytest.raises(StoreError):
        play(leases.acquire_lease(state, inbox, "second"), (c.AcquireLease(0, OWN.queue, "second", "", ()), UNKNOWN))
    assert inbox.generation == ""


def test_a_flush_is_acknowledged_after_the_local_store_was_flushed() -> None:
    """The local store may hold what came before a flush that began on another machine, so it is emptied first."""
    state = make(local=1)
    inbox = own(state)
    inbox.apply([(500.0, flush_frame("g"))], -500.0, 1000.0)
    acknowledge = c.Acknowledge(0, OWN.queue, "g")
    flushed = (c.Flush(1, "g"), c.Flushing((), 4))
    play(leases.acknowledge_flush(state, inbox), flushed, (acknowledge, UNKNOWN))
    assert (inbox.due_locally, inbox.flushed) == (None, "g"), "it is told again"
    play(leases.acknowledge_flush(state, inbox), (acknowledge, None))
    assert inbox.flushed is None
    assert play(leases.acknowledge_flush(state, inbox)) is None
    assert state.counters.dropped == {"flushed": 4}


def test_a_later_flush_is_not_taken_for_acknowledged() -> None:
    """A flush that comes while an earlier one is acknowledged has yet to be acknowledged."""
    state = make()
    inbox = own(state)
    inbox.apply([(500.0, flush_frame("g"))], -500.0, 1000.0)
    telling = leases.acknowledge_flush(state, inbox)
    assert next(telling) == c.Acknowledge(0, OWN.queue, "g")
    inbox.apply([(500.0, flush_frame("h"))], -500.0, 1000.0)
    with pytest.raises(StopIteration):
        telling.send(None)
    assert inbox.flushed == "h"


def test_memberships_are_announced_with_their_age() -> None:
    """Each membership that still lasts is told again; one that was ended meanwhile is ended here, too."""
    state = make(group_expiry=100.0)
    inbox = own(state)
    inbox.unannounced = True
    inbox.groups.confirm("room", OWN.name, 8, 470.0)
    inbox.groups.confirm("other", OWN.name, 8, 399.0)  # it has lasted for more than a hundred seconds
    announcing = leases.announce(state, inbox)
    removed = c.Changed(9, True, False, True)
    assert play(announcing, look("room", "other"), (together(join(age=30.0, restore=True)), [removed])) == 0
    assert not inbox.unannounced
    assert [group for group, _, _ in inbox.groups.known()] == ["other"]


def test_memberships_of_an_inbox_that_is_lost_again_are_announced_later() -> None:
    """If the lease is gone once more, or the store is away, what was not told stays to be told."""
    state = make()
    inbox = own(state)
    inbox.unannounced = True
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    told = together(join(restore=True))
    with pytest.raises(StoreError, match="the lease was lost again"):
        play(leases.announce(state, inbox), look("room"), (told, [LOST]))
    with pytest.raises(StoreError, match="away"):
        play(leases.announce(state, inbox), look("room"), (told, [UNKNOWN]))
    assert inbox.unannounced


def look(
    *groups: str, lost: tuple[str, ...] = (), epoch: str = "", extend: bool = False
) -> tuple[Step, c.CheckedGroups]:
    """Return the question whether the store still has the members in groups, and the answer."""
    asked = c.CheckGroups(0, OWN.queue, tuple(map(GroupName.parse, groups)), extend)
    return asked, c.CheckedGroups(tuple(group not in lost for group in groups), epoch)


def test_only_the_memberships_that_were_lost_are_restored() -> None:
    """A look at all groups tells which have lost the members; those are told again, and counted."""
    state = make()
    inbox = own(state)
    for group in ("room", "other"):
        inbox.groups.confirm(group, OWN.name, 8, 500.0)
    assert play(leases.restore_memberships(state, 0), look("room", "other")) == 0
    assert play(leases.restore_memberships(state, 1)) == 0, "no group is on another shard"
    restoring = leases.restore_memberships(state, 0)
    told = together(join(restore=True))
    assert play(restoring, look("room", "other", lost=("room",)), (told, [JOINED])) == 1
    assert state.counters.counts(0).memberships_restored == 1


def test_after_a_restart_every_membership_is_told_again() -> None:
    """A server may have come back with older groups; what counts as restored is what was missing."""
    state = make()
    inbox = own(state)
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    restoring = leases.restore_memberships(state, 0, everything=True)
    assert play(restoring, look("room"), (together(join(restore=True)), [JOINED])) == 0


def test_a_flush_that_has_not_been_met_is_no_loss() -> None:
    """Groups that a flush has emptied are not restored, though its marker has not been read yet."""
    state = make()
    inbox = own(state)
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    assert play(leases.restore_memberships(state, 0), look("room", lost=("room",), epoch="flush")) == 0
    inbox.epoch = "flush"
    told = together(join(restore=True))
    restoring = leases.restore_memberships(state, 0)
    assert play(restoring, look("room", lost=("room",), epoch="flush"), (told, [JOINED])) == 1


def test_a_sender_restores_its_own_members_of_a_group_that_is_lost() -> None:
    """A message to a group of which the store knows nothing is sent again, once the members here are restored."""
    state = make()
    inbox = own(state)
    inbox.apply([(500.0, marker_frame(MembershipMarker("room", OWN.name, joined=True, version=8, age=0)))], 0.0, 1000.0)
    sending = operations.group_send(state, GROUP, b"payload", 0)
    publish = c.Publish(0, GROUP, b"payload", at_once=True)
    unknown, done = c.Published(0, True, (), (), ()), c.Published(9, True, (), (), ())
    told = together(join(age=0.0, restore=True))
    play(sending, (publish, unknown), look("room", lost=("room",)), (told, [JOINED]), (publish, done))
    play(operations.group_send(state, GROUP, b"payload", 0), (publish, unknown), look("room"))
    away = (look("room")[0], NOT_SENT)
    play(operations.group_send(state, GROUP, b"payload", 0), (publish, unknown), away)


def test_memberships_are_ended_side_by_side_and_errors_wait() -> None:
    """Members that let messages expire leave as far as is known here; what fails comes again with the next sweep."""
    state = make()
    leaves = [c.Leave(0, GroupName.parse(group), OWN, mark=True, latest=4) for group in ("room", "other")]
    ending = leases.end_memberships(state, [("room", OWN.name, 4), ("other", OWN.name, 4)])
    assert play(ending, (together(*leaves), [UNKNOWN, c.Changed(9, True, False, True)])) is None
    assert play(leases.end_memberships(state, [])) is None


def test_groups_without_end_are_kept_alive_by_owners() -> None:
    """The look at the groups in which this process has members extends their lifetimes."""
    state = make(group_expiry=None)
    inbox = own(state)
    assert play(leases.restore_memberships(state, 0, extend=True)) == 0
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    assert play(leases.restore_memberships(state, 0, extend=True), look("room", extend=True)) == 0


def test_an_inbox_that_is_given_up_leaves_its_groups_first() -> None:
    """Members leave, the lease is released, and what waited, here and in the store, counts as closed."""
    state = make()
    inbox = own(state)
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    inbox.apply([(500.0, message_frame(OWN.name, b"waits"))], -500.0, 1000.0)
    leave = together(c.Leave(0, GROUP, OWN, mark=True))
    play(
        operations.give_up(state, inbox),
        (leave, [c.Changed(9, True, True, True)]),
        (c.ReleaseLease(0, OWN.queue), 2),
    )
    assert inbox.groups.known() == []
    assert state.counters.dropped == {"closed": 3}


def test_an_inbox_that_cannot_leave_its_groups_keeps_its_lease() -> None:
    """If a member cannot leave, the lease is not released: it ends by itself, and the members with it."""
    state = make()
    inbox = own(state)
    inbox.groups.confirm("room", OWN.name, 8, 500.0)
    with pytest.raises(StoreError):
        play(operations.give_up(state, inbox), (together(c.Leave(0, GROUP, OWN, mark=True)), [NOT_SENT]))
    assert not state.counters.dropped
