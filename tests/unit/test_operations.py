"""Operations: each use case step by step, against a script of what the store replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from channel_layer import commands as c
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.counters import Statistics
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.domain.rates import Rates
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.errors import StoreError
from channel_layer.operations import groups, sending, statistics
from channel_layer.operations.groups import NoOwner, SentToGroup
from tests.support.operations import play, together

if TYPE_CHECKING:
    from channel_layer.operations.steps import Step

GROUP = GroupName.parse("room")
BODY = b"payload"


def routes_over(hosts: int, capacity: int = 100) -> Routes:
    """Make the routes of a configuration with that many hosts."""
    return Routes(Ring([f"host{number}:6379/0" for number in range(hosts)]), CapacityTable(capacity))


ONE, TWO, THREE = routes_over(1), routes_over(2), routes_over(3)
HERE = TWO.ring.group(GROUP)
"""The group's shard, of two."""


def forgiven(channel: ChannelName, *shards: int) -> tuple[Step, object]:
    """Return the step in which a member that is added anew is forgiven what it let expire."""
    return together(*(c.ClearUnread(shard, channel) for shard in shards)), (None,) * len(shards)


def owned(shard: int, local: str = "x") -> ChannelName:
    """Name a channel whose inbox is on that shard, of two."""
    names = (ChannelName.parse(f"specific.p{number}!{local}") for number in range(1000))
    return next(name for name in names if TWO.ring.queue(name.queue) == shard)


NEAR, FAR = owned(HERE), owned(1 - HERE)


def push(shard: int, name: str, capacity: int, *, to_member: bool = False) -> c.Push:
    """Ask to push the body."""
    return c.Push(shard, ChannelName.parse(name), capacity, BODY, to_member)


# -- send


@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("name", ["http.request", "resp?x", "specific.p1!x"])
def test_with_one_host_a_send_is_one_push(name: str, accepted: bool) -> None:  # noqa: FBT001 - a parameter
    """With one host each send is one command with the channel's whole capacity."""
    sent = sending.push(ONE, ChannelName.parse(name), BODY, turn=5)
    assert play(sent, (push(0, name, 100), c.Pushed(accepted, 3))) == c.Pushed(accepted, 3)


@pytest.mark.parametrize("name", ["resp?x", "specific.p1!x"])
def test_a_queue_on_one_shard_is_asked_there_only(name: str) -> None:
    """A single-reader channel or an inbox lives on one shard and has its whole capacity there."""
    channel = ChannelName.parse(name)
    sent = sending.push(THREE, channel, BODY, turn=1)
    assert play(sent, (push(THREE.ring.queue(channel.queue), name, 100), c.Pushed(False, 0))) == c.Pushed(False, 0)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_a_normal_channel_tries_every_share_from_its_turn_on(turn: int) -> None:
    """A send begins at the shard whose turn it is, asks the others in order, and adds up what made room."""
    order = THREE.ring.order(ChannelName.parse("jobs").queue)
    shares = [(order[0], 34), (order[1], 33), (order[2], 33)]
    first, second, third = (shares[(turn + place) % 3] for place in range(3))
    refused = c.Pushed(False, 1)
    script = [(push(shard, "jobs", share), refused) for shard, share in (first, second, third)]
    job = ChannelName.parse("jobs")
    assert play(sending.push(THREE, job, BODY, turn), *script) == c.Pushed(False, 3)
    script[1] = (script[1][0], c.Pushed(True, 0))
    assert play(sending.push(THREE, job, BODY, turn), *script[:2]) == c.Pushed(True, 1)


def test_a_share_of_nothing_is_not_asked() -> None:
    """A capacity smaller than the number of hosts leaves some without a share, and they get no command."""
    routes, job = routes_over(3, capacity=1), ChannelName.parse("jobs")
    only = (push(routes.ring.order(job.queue)[0], "jobs", 1), c.Pushed(False, 0))
    for turn in range(3):
        assert play(sending.push(routes, job, BODY, turn), only) == c.Pushed(False, 0)


# -- group_send


def test_a_group_that_the_store_served_at_once_needs_one_command() -> None:
    """With one host, and members of owned inboxes only, a group send is one command; full inboxes are reported."""
    found = c.Published(3, done=True, inboxes=("specific.p1!",), others=(), full=("specific.p1!",))
    sent = groups.publish(ONE, GROUP, BODY, turn=0)
    assert play(sent, (c.Publish(0, GROUP, BODY, at_once=True), found)) == SentToGroup((), (), ("specific.p1!",), ())


def test_a_group_send_over_several_hosts_tells_each_inbox_once() -> None:
    """Members that somebody else added ride along with their inbox; all others get a message of their own."""
    extra_recipient = owned(1 - HERE, "extra_recipient")
    others = (extra_recipient.name, "resp?x")
    found = c.Published(3, done=False, inboxes=(NEAR.queue.name, FAR.queue.name), others=others, full=())
    single = ChannelName.parse("resp?x")
    assert play(
        groups.publish(TWO, GROUP, BODY, turn=0),
        (c.Publish(HERE, GROUP, BODY, at_once=False), found),
        (
            together(
                c.Deliver(HERE, NEAR.queue, GROUP, (), BODY),
                c.Deliver(1 - HERE, FAR.queue, GROUP, (extra_recipient.name,), BODY),
            ),
            (c.Delivery.FULL, c.Delivery.DONE),
        ),
        (together(push(TWO.ring.queue(single.queue), "resp?x", 100, to_member=True)), (c.Pushed(True, 2),)),
    ) == SentToGroup(("resp?",), (), (NEAR.queue.name,), (("resp?x", 2),))


def test_extra_recipients_of_a_dead_inbox_get_their_own_message_and_its_members_are_pruned() -> None:
    """An inbox without an owner is a queue like any other to extra_recipients; what its owner had added is removed."""
    near, far = owned(HERE, "extra_recipient"), owned(1 - HERE, "extra_recipient")
    found = c.Published(3, done=False, inboxes=(NEAR.queue.name,), others=(near.name, far.name), full=())
    assert play(
        groups.publish(TWO, GROUP, BODY, turn=0),
        (c.Publish(HERE, GROUP, BODY, at_once=False), found),
        (
            together(
                c.Deliver(HERE, NEAR.queue, GROUP, (near.name,), BODY),
                c.Deliver(1 - HERE, FAR.queue, GROUP, (far.name,), BODY),
            ),
            (c.Delivery.NO_OWNER, c.Delivery.NO_OWNER),
        ),
        (
            together(push(HERE, near.name, 100, to_member=True), push(1 - HERE, far.name, 100, to_member=True)),
            (c.Pushed(False, 0), c.Pushed(True, 0)),
        ),
        (c.Prune(HERE, GROUP, 3, (NEAR.queue.name,), ()), None),
    ) == SentToGroup((FAR.queue.name,), (near.name,), (), ())


def test_normal_members_are_tried_on_every_shard_in_step() -> None:
    """The sends to all outside members go on together, round by round; each ends when one share had room."""
    jobs, mail = (TWO.ring.order(ChannelName.parse(name).queue) for name in ("jobs", "mail"))
    found = c.Published(3, done=False, inboxes=(), others=("jobs", "mail"), full=())
    assert play(
        groups.publish(TWO, GROUP, BODY, turn=0),
        (c.Publish(HERE, GROUP, BODY, at_once=False), found),
        (
            together(push(jobs[0], "jobs", 50, to_member=True), push(mail[0], "mail", 50, to_member=True)),
            (c.Pushed(False, 1), c.Pushed(True, 0)),
        ),
        (together(push(jobs[1], "jobs", 50, to_member=True)), (c.Pushed(False, 2),)),
    ) == SentToGroup(("mail",), ("jobs",), (), (("jobs", 3),))


def test_members_that_let_a_message_expire_unread_are_removed() -> None:
    """A member that a push finds unread_expired, on whichever shard, is neither sent to nor full: it is pruned."""
    jobs = TWO.ring.order(ChannelName.parse("jobs").queue)
    single = ChannelName.parse("resp?x")
    found = c.Published(3, done=False, inboxes=(), others=("jobs", "resp?x"), full=())
    unread_expired = c.Pushed(False, 0, unread_expired=True)
    assert play(
        groups.publish(TWO, GROUP, BODY, turn=0),
        (c.Publish(HERE, GROUP, BODY, at_once=False), found),
        (
            together(
                push(jobs[0], "jobs", 50, to_member=True),
                push(TWO.ring.queue(single.queue), "resp?x", 100, to_member=True),
            ),
            (c.Pushed(False, 1), unread_expired),
        ),
        (together(push(jobs[1], "jobs", 50, to_member=True)), (unread_expired,)),
        (c.Prune(HERE, GROUP, 3, (), ("jobs", "resp?x")), None),
    ) == SentToGroup((), (), (), (("jobs", 1),))


# -- groups


def test_a_member_beside_its_group_is_marked_in_the_same_step() -> None:
    """When group and inbox are on one shard, the join puts the marker itself."""
    join = c.Join(HERE, GROUP, NEAR, owned=True, age=0.0, restore=False, mark=True)
    adding = groups.join(TWO, GROUP, NEAR, owned=True)
    changed = c.Changed(8, True, True, True)
    assert play(adding, (join, changed)) == changed


def test_a_member_on_another_shard_is_marked_in_a_second_step() -> None:
    """When the inbox is elsewhere, its shard gets the marker, with the version and the age of the membership."""
    join = c.Join(HERE, GROUP, FAR, owned=True, age=2.5, restore=True, mark=False)
    marker = MembershipMarker("room", FAR.name, joined=True, version=8, age=2500)
    adding = groups.join(TWO, GROUP, FAR, owned=True, age=2.5, restore=True)
    mark = c.Mark(1 - HERE, FAR.queue, marker)
    changed = c.Changed(8, False, True, True)
    assert play(adding, (join, changed), (mark, True)) == changed


def test_an_owner_without_a_lease_is_told_so() -> None:
    """If the marker finds no owner the caller has to claim its inbox first, on one shard or on two."""
    join = c.Join(HERE, GROUP, NEAR, owned=True, age=0.0, restore=False, mark=True)
    with pytest.raises(NoOwner, match=NEAR.queue.name):
        play(groups.join(TWO, GROUP, NEAR, owned=True), (join, c.Changed(8, False, True, True)))
    join = c.Join(HERE, GROUP, FAR, owned=True, age=0.0, restore=False, mark=False)
    mark = c.Mark(1 - HERE, FAR.queue, MembershipMarker("room", FAR.name, joined=True, version=8, age=0))
    with pytest.raises(NoOwner, match=FAR.queue.name):
        play(groups.join(TWO, GROUP, FAR, owned=True), (join, c.Changed(8, False, True, True)), (mark, False))


@pytest.mark.parametrize("owned", [True, False])
def test_a_stranger_is_told_of_no_lease(owned: bool) -> None:  # noqa: FBT001 - a parameter
    """Who refreshes somebody else's member does not care whether its owner lives, whoever has it in his mirror."""
    join = c.Join(HERE, GROUP, FAR, owned=False, age=0.0, restore=False, mark=False)
    mark = c.Mark(1 - HERE, FAR.queue, MembershipMarker("room", FAR.name, joined=True, version=8, age=0))
    changed = c.Changed(8, False, True, owned)
    script = [forgiven(FAR, 1 - HERE), (join, changed)]
    if owned:
        script.append((mark, False))
    assert play(groups.join(TWO, GROUP, FAR, owned=False), *script) == changed


def test_a_restored_member_that_has_left_stays_away() -> None:
    """A restored membership that the store refuses, because the member has left, is marked nowhere."""
    join = c.Join(HERE, GROUP, FAR, owned=True, age=1.0, restore=True, mark=False)
    adding = groups.join(TWO, GROUP, FAR, owned=True, age=1.0, restore=True)
    refused = c.Changed(8, False, False, True)
    assert play(adding, (join, refused)) == refused


@pytest.mark.parametrize("name", ["jobs", "resp?x"])
def test_a_member_outside_inboxes_is_never_marked(name: str) -> None:
    """A channel without an inbox has no owner to tell."""
    channel = ChannelName.parse(name)
    join = c.Join(HERE, GROUP, channel, owned=False, age=0.0, restore=False, mark=False)
    leave = c.Leave(HERE, GROUP, channel, mark=False)
    changed = c.Changed(8, False, True, False)
    places = TWO.ring.order(channel.queue) if name == "jobs" else (TWO.ring.queue(channel.queue),)
    adding = groups.join(TWO, GROUP, channel, owned=False)
    assert play(adding, forgiven(channel, *places), (join, changed)) == changed
    play(groups.leave(TWO, GROUP, channel), (leave, changed))


def test_a_discard_tells_the_inbox_wherever_it_is() -> None:
    """A discard marks an inbox on the group's shard in the same step, one elsewhere in a second."""
    changed = c.Changed(9, True, True, True)
    play(groups.leave(TWO, GROUP, NEAR), (c.Leave(HERE, GROUP, NEAR, mark=True), changed))
    marker = MembershipMarker("room", FAR.name, joined=False, version=9, age=0)
    play(
        groups.leave(TWO, GROUP, FAR),
        (c.Leave(HERE, GROUP, FAR, mark=False), changed),
        (c.Mark(1 - HERE, FAR.queue, marker), True),
    )


def test_a_discard_that_came_too_late_tells_nobody() -> None:
    """An owner that tidies up leaves a member alone that has joined since; no marker says otherwise."""
    leave = c.Leave(HERE, GROUP, FAR, mark=False, latest=4)
    play(groups.leave(TWO, GROUP, FAR, 4), (leave, c.Changed(9, False, False, True)))


def test_members_of_dead_owners_are_not_listed() -> None:
    """Owners are asked about once a shard, each inbox once; the members of the dead are left out."""
    second = owned(HERE, "y")
    members = c.GroupMembers((NEAR.name, second.name, FAR.name), ("jobs",))
    assert play(
        groups.group_channels(TWO, GROUP),
        (c.Members(HERE, GROUP), members),
        (together(c.Alive(HERE, (NEAR.queue,)), c.Alive(1 - HERE, (FAR.queue,))), ((True,), (False,))),
    ) == sorted([NEAR.name, second.name, "jobs"])


def test_a_group_without_owned_members_asks_about_no_owner() -> None:
    """A group whose members all stand outside owned inboxes is listed as it is."""
    members = c.GroupMembers((), ("mail", "jobs"))
    listing = groups.group_channels(TWO, GROUP)
    assert play(listing, (c.Members(HERE, GROUP), members)) == ["jobs", "mail"]


# -- statistics --------------------------------------------------------------------------------------------------

INBOX, REPLIES = NEAR.queue, Queue("resp?", Kind.SINGLE_READER)
THERE = next(name for name in (f"jobs{n}" for n in range(100)) if TWO.ring.queue(ChannelName.parse(name).queue) != HERE)


def test_each_shard_is_told_what_it_keeps() -> None:
    """What was counted goes to the shard that each queue prefers, with the sum; what has no name is in a sum only."""
    counts = [(INBOX.name, 3, 0), (THERE, 2, 5)]
    told = play(
        statistics.report_counts(TWO, counts),
        (c.Report(HERE, (c.Count(INBOX, 3, 0),), 3, 0), None),
        (c.Report(1 - HERE, (c.Count(Queue(THERE, Kind.NORMAL), 2, 5),), 2, 5), None),
    )
    assert told == []
    nameless = play(statistics.report_counts(ONE, [("jobs", 1, 0), ("", 7, 2)]), (report("jobs", 1, 0, 8, 2), None))
    assert nameless == []


def report(name: str, messages: int, refused: int, all_messages: int, all_refused: int) -> c.Report:
    """Make a report of one queue, to one shard."""
    return c.Report(0, (c.Count(Queue(name, Kind.NORMAL), messages, refused),), all_messages, all_refused)


@pytest.mark.parametrize("sent", [False, True])
def test_what_may_have_been_told_is_not_told_again(*, sent: bool) -> None:
    """A report that was not sent comes back, to be told later; one whose outcome is unknown is let go of."""
    counts = [(INBOX.name, 3, 0), (THERE, 2, 5)]
    reporting = statistics.report_counts(TWO, counts)
    next(reporting)
    reporting.throw(StoreError("away", retryable=True, outcome="unknown" if sent else "not_sent"))
    with pytest.raises(StopIteration) as stop:
        reporting.send(None)
    assert stop.value.value == ([] if sent else counts[:1])


def test_the_statistics_of_a_channel_are_those_of_its_family() -> None:
    """What was counted is asked of the family's shard, and what waits of the channel's; both are put together."""
    name = ChannelName.parse("resp?x")
    rates, found = Rates(10, 2, 6, 1, 60.0), c.Surveyed(3, 1.5)
    home, place = TWO.ring.queue(REPLIES), TWO.ring.queue(name.queue)
    assert play(
        statistics.add_up(TWO, name),
        (together(c.Reported(home, REPLIES)), (rates,)),
        (together(c.Survey(place, name)), (found,)),
    ) == Statistics(10, 0.1, 3, 1.5, 2, 1 / 60)


def test_statistics_of_several_shards_are_added_up() -> None:
    """Sums and rates are added, the highest age is that of the oldest message; nothing that waits has no age."""
    asked = together(c.Reported(0, None), c.Reported(1, None)), (Rates(1, 0, 1, 0, 60.0), Rates(2, 3, 2, 3, 50.0))
    waiting = together(c.Survey(0, None), c.Survey(1, None))
    counted = (3, 1 / 60 + 2 / 50)
    refused = (3, 3 / 50)
    for found, pending, age in (
        ((c.Surveyed(1, 2.0), c.Surveyed(4, 7.0)), 5, 7.0),
        ((c.Surveyed(0, None), c.Surveyed(0, None)), 0, 0.0),
        ((c.Surveyed(2, None), c.Surveyed(0, None)), 2, None),
        ((c.Surveyed(None, None), c.Surveyed(0, None)), None, None),
    ):
        known = play(statistics.add_up(TWO, None), asked, (waiting, found))
        assert known == Statistics(*counted, pending, age, *refused)


def test_what_this_machine_may_keep_is_counted_here() -> None:
    """Over two halves normal channels are counted in the local one, so that they cost the servers nothing."""
    halves = Routes(Ring(["host0:6379/0"]), CapacityTable(100), local=1)
    jobs = ChannelName.parse("jobs")
    play(
        statistics.report_counts(halves, [("jobs", 2, 0), (INBOX.name, 1, 0)]),
        (c.Report(1, (c.Count(jobs.queue, 2, 0),), 2, 0), None),
        (c.Report(0, (c.Count(INBOX, 1, 0),), 1, 0), None),
    )
    known = play(
        statistics.add_up(halves, jobs),
        (together(c.Reported(1, jobs.queue)), (Rates(2, 0, 0, 0, 60.0),)),
        (together(c.Survey(1, jobs), c.Survey(0, jobs)), (c.Surveyed(1, 1.0), c.Surveyed(1, 2.0))),
    )
    assert (known.messages_count, known.messages_pending, known.messages_max_age) == (2, 2, 2.0)
    asked = next(statistics.add_up(halves, None))
    assert asked == together(c.Reported(0, None), c.Reported(1, None))
