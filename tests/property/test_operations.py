"""Operations: over any hosts, names and replies of a store, commands go where the ring says, and outcomes are right."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer import commands as c
from channel_layer.domain.capacity import CapacityTable, shares
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.operations import groups, sending
from channel_layer.operations.groups import NoOwner
from channel_layer.operations.steps import Operation, Step, Together
from channel_layer.testing.strategies import channel_names, group_names, host_identities, inbox_names, normal_names

R = TypeVar("R")
Answer: TypeAlias = Callable[[c.Command[Any]], object]


def drive(operation: Operation[R], answer: Answer) -> tuple[R, list[c.Command[Any]]]:
    """Run an operation against a function that answers its commands; return its result and the commands."""
    asked: list[c.Command[Any]] = []

    def reply_to(step: Step) -> object:
        if isinstance(step, Together):
            return [reply_to(command) for command in step.commands]
        assert isinstance(step, c.Command)
        asked.append(step)
        return answer(step)

    try:
        step = next(operation)
        while True:
            step = operation.send(reply_to(step))
    except StopIteration as stop:
        result: R = stop.value
        return result, asked


def routes_over(hosts: list[str], capacity: int = 10) -> Routes:
    """Make the routes of a configuration."""
    return Routes(Ring(hosts), CapacityTable(capacity))


@st.composite
def occupancies(draw: st.DrawFn) -> tuple[list[str], int, list[int]]:
    """Draw hosts, a capacity, and how many messages each host holds: often just as many as its share."""
    hosts = draw(host_identities(largest=6))
    capacity = draw(st.integers(1, 20))
    share = capacity // len(hosts)
    held = draw(st.lists(st.sampled_from([share, share + 1, 0]), min_size=len(hosts), max_size=len(hosts)))
    return hosts, capacity, held


@given(occupancies(), normal_names(), st.integers(0, 2**64))
def test_a_normal_channel_is_full_only_when_every_share_of_it_is(
    scene: tuple[list[str], int, list[int]], name: str, turn: int
) -> None:
    """A send is accepted if and only if some host's share has room, and asks no host twice or without a share."""
    hosts, capacity, held = scene
    routes, channel = routes_over(hosts, capacity), ChannelName.parse(name)

    def answer(step: c.Command[Any]) -> object:
        assert isinstance(step, c.Push)
        return c.Pushed(accepted=held[step.shard] < step.capacity, expired=1)

    sent, asked = drive(sending.push(routes, channel, b"payload", turn), answer)
    limits = dict(shares(capacity, routes.ring.order(channel.queue)))
    pushes = [(step.shard, step.capacity) for step in asked if isinstance(step, c.Push)]
    assert sent.accepted == any(held[shard] < limit for shard, limit in limits.items())
    assert sent.expired == len(pushes) == len(dict(pushes))
    assert all(limits[shard] == share > 0 for shard, share in pushes)
    if not sent.accepted:
        assert sum(share for _, share in pushes) == capacity


@given(host_identities(), st.integers(1, 1000), normal_names(), st.integers(0, 1000))
def test_turns_spread_the_first_try_over_all_shares(hosts: list[str], capacity: int, name: str, turn: int) -> None:
    """As many turns in a row as there are hosts begin with every host that has a share; none begins elsewhere."""
    routes, channel = routes_over(hosts, capacity), ChannelName.parse(name)
    first: set[int] = set()
    for place in range(len(hosts)):
        sent, asked = drive(sending.push(routes, channel, b"", turn + place), lambda _: c.Pushed(True, 0))
        assert sent.accepted
        assert len(asked) == 1
        assert isinstance(asked[0], c.Push)
        first.add(asked[0].shard)
    assert first == {shard for shard, share in shares(capacity, routes.ring.order(channel.queue)) if share}


def check_place(routes: Routes, step: c.Command[Any], group: GroupName) -> None:
    """Check that a command goes to the shard that keeps what it is about."""
    if isinstance(step, c.Push):
        assert step.shard in routes.shards(step.channel.queue)
        assert step.channel.queue.kind is Kind.NORMAL or step.shard == routes.ring.queue(step.channel.queue)
        assert step.capacity <= routes.capacity.of(step.channel.name)
    elif isinstance(step, c.ClearUnread):
        assert step.channel.queue.kind is Kind.NORMAL or step.shard == routes.ring.queue(step.channel.queue)
    elif isinstance(step, (c.Deliver, c.Mark)):
        assert step.inbox.kind is Kind.INBOX
        assert step.shard == routes.ring.queue(step.inbox)
    elif isinstance(step, c.Alive):
        assert step.inboxes
        assert all(step.shard == routes.ring.queue(inbox) for inbox in step.inboxes)
    else:
        assert isinstance(step, (c.Publish, c.Prune, c.Join, c.Leave, c.Members))
        assert step.shard == routes.ring.group(group)
        assert step.group == group
        if isinstance(step, (c.Join, c.Leave)):
            queue = step.channel.queue
            assert step.mark == (queue.kind is Kind.INBOX and routes.ring.queue(queue) == step.shard)


@given(
    host_identities(largest=5),
    group_names().map(GroupName.parse),
    st.lists(inbox_names(), max_size=4, unique=True),
    st.lists(channel_names(), max_size=6, unique=True),
    st.data(),
)
def test_a_group_send_reaches_every_member_once_and_says_who_had_no_room(
    hosts: list[str], group: GroupName, inboxes: list[str], strangers: list[str], data: st.DataObject
) -> None:
    """Each inbox is delivered to once; every other member, and extra recipients in dead inboxes, get their own message.

    The members of dead inboxes, and those that have let a message expire unread, are removed.
    """
    some = st.lists(st.sampled_from(inboxes), max_size=4) if inboxes else st.just(list[str]())
    others = list(dict.fromkeys([*strangers, *(f"{inbox}{place}" for place, inbox in enumerate(data.draw(some)))]))
    others = [name for name in others if len(name) <= 100]
    routes = routes_over(hosts)
    outcomes: dict[str, c.Delivery] = {}
    accepts: dict[str, bool] = {}
    tracks_unread: dict[str, bool] = {}

    def answer(step: c.Command[Any]) -> object:
        check_place(routes, step, group)
        if isinstance(step, c.Publish):
            assert step.at_once == (len(hosts) == 1)
            return c.Published(7, done=False, inboxes=tuple(inboxes), others=tuple(others), full=())
        if isinstance(step, c.Deliver):
            assert step.inbox.name not in outcomes
            assert step.extra_recipients == tuple(name for name in others if name.startswith(step.inbox.name))
            return outcomes.setdefault(step.inbox.name, data.draw(st.sampled_from(c.Delivery)))
        if isinstance(step, c.Push):
            assert step.to_member
            accepted = accepts.setdefault(step.channel.name, data.draw(st.booleans()))
            unread_expired = tracks_unread.setdefault(step.channel.name, not accepted and data.draw(st.booleans()))
            return c.Pushed(accepted, 0, unread_expired)
        assert isinstance(step, c.Prune)
        assert step.version == 7
        return None

    sent, asked = drive(groups.publish(routes, group, b"payload", data.draw(st.integers(0, 9))), answer)
    assert all(step.payload == b"payload" for step in asked if isinstance(step, (c.Publish, c.Deliver, c.Push)))

    homes = {name: ChannelName.parse(name).queue for name in others}
    riding = {name: homes[name].name for name in others if homes[name].kind is Kind.INBOX}
    assert set(outcomes) == {*inboxes, *riding.values()}
    dead = {inbox for inbox, outcome in outcomes.items() if outcome is c.Delivery.NO_OWNER}
    alone = {name for name in others if riding.get(name) in dead or name not in riding}
    full = {name for name, accepted in accepts.items() if not accepted and not tracks_unread[name]}
    gone = tuple(name for name in others if tracks_unread.get(name))
    assert set(accepts) == alone
    assert set(sent.full) == full
    assert sorted(sent.others) == sorted(homes[name].family for name in alone - full - set(gone))
    assert set(sent.inbox_full) == {inbox for inbox, outcome in outcomes.items() if outcome is c.Delivery.FULL}
    pruned = [(step.inboxes, set(step.others)) for step in asked if isinstance(step, c.Prune)]
    buried = tuple(inbox for inbox in inboxes if inbox in dead)
    assert pruned == ([(buried, set(gone))] if buried or gone else [])


@given(
    host_identities(largest=5),
    group_names().map(GroupName.parse),
    channel_names().map(ChannelName.parse),
    st.builds(c.Changed, st.integers(0, 2**53), st.booleans(), st.booleans(), st.booleans()),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_a_marker_reaches_the_members_inbox_at_most_once(
    hosts: list[str],
    group: GroupName,
    channel: ChannelName,
    changed: c.Changed,
    answers: tuple[bool, bool, bool],
) -> None:
    """A join or leave asks the group's shard once; a marker follows only for an inbox elsewhere that needs it."""
    owned, restore, told = answers
    routes = routes_over(hosts)
    inbox = channel.queue.kind is Kind.INBOX
    if not inbox:  # then no owner has it in his mirror
        owned, changed = False, c.Changed(changed.version, False, changed.applied, False)
    elsewhere = inbox and routes.ring.queue(channel.queue) != routes.ring.group(group)

    def answer(step: c.Command[Any]) -> object:
        check_place(routes, step, group)
        if isinstance(step, c.Mark):
            assert elsewhere
            assert step.inbox == channel.queue
            marker = step.marker
            assert (marker.group, marker.member, marker.version) == (group.name, channel.name, changed.version)
            return told
        return changed if not isinstance(step, c.ClearUnread) else None

    _, asked = drive(groups.leave(routes, group, channel), answer)
    assert len(asked) == 1 + (elsewhere and changed.applied)
    adding = groups.join(routes, group, channel, owned=owned, age=1.5, restore=restore)
    meant = changed.owned and changed.applied
    marked = told if elsewhere else changed.marked
    if owned and meant and not marked:
        with pytest.raises(NoOwner, match=re.escape(channel.queue.name)):
            drive(adding, answer)
    else:
        joined, asked = drive(adding, answer)
        assert joined == changed
        forgiven = 0 if owned else len(hosts) if channel.queue.kind is Kind.NORMAL else 1
        assert [isinstance(step, c.ClearUnread) for step in asked[:forgiven]] == [True] * forgiven  # before it joins
        assert len(asked) == forgiven + 1 + (elsewhere and meant)


@given(
    host_identities(largest=5),
    group_names().map(GroupName.parse),
    st.dictionaries(inbox_names(), st.booleans(), max_size=6),
    st.lists(normal_names(), max_size=3, unique=True),
)
def test_members_of_the_dead_are_left_out(
    hosts: list[str], group: GroupName, alive: dict[str, bool], strangers: list[str]
) -> None:
    """A group's list holds the members of living owners and all that somebody else added, each once and sorted."""
    routes = routes_over(hosts)
    owned = tuple(f"{inbox}{local}" for inbox in alive for local in "xy" if len(inbox) < 100)
    asked_about: list[Queue] = []

    def answer(step: c.Command[Any]) -> object:
        check_place(routes, step, group)
        if isinstance(step, c.Alive):
            asked_about.extend(step.inboxes)
            return tuple(alive[inbox.name] for inbox in step.inboxes)
        return c.GroupMembers(owned, tuple(strangers))

    found, asked = drive(groups.group_channels(routes, group), answer)
    assert found == sorted([*(name for name in owned if alive[name.partition("!")[0] + "!"]), *strangers])
    assert sorted(queue.name for queue in asked_about) == sorted(alive)
    assert sum(isinstance(step, c.Alive) for step in asked) == len({routes.ring.queue(q) for q in asked_about})
