"""Sharding: who keeps what, for any hosts and any names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.domain.sharding import Ring
from channel_layer.testing.strategies import channel_names, group_names, host_identities, inbox_names, process_names


@given(host_identities(), channel_names())
def test_sender_and_receiver_meet_at_one_host(hosts: list[str], name: str) -> None:
    """Two processes with one configuration send to and receive from the same host."""
    sender, receiver = Ring(hosts), Ring(tuple(hosts))
    receiver.order(ChannelName.parse(name).queue)
    assert sender.queue(ChannelName.parse(name).queue) == receiver.queue(ChannelName.parse(name).queue)
    assert sender.order(ChannelName.parse(name).queue) == receiver.order(ChannelName.parse(name).queue)


@given(st.data(), host_identities(), inbox_names())
def test_all_channels_of_a_process_are_at_the_host_of_its_inbox(
    data: st.DataObject, hosts: list[str], inbox: str
) -> None:
    """Senders to different channels of one process meet the one reader of its inbox."""
    ring = Ring(hosts)
    channels = data.draw(st.lists(process_names(st.just(inbox)), min_size=2, max_size=5))
    assert len({ring.queue(ChannelName.parse(name).queue) for name in channels}) == 1


@given(host_identities(), channel_names())
def test_the_order_of_preference_holds_every_host_once_the_keeper_first(hosts: list[str], name: str) -> None:
    """`order` is a permutation of the shards that starts with the one that `queue` gives."""
    ring, queue = Ring(hosts), ChannelName.parse(name).queue
    assert sorted(ring.order(queue)) == list(range(len(hosts)))
    assert ring.order(queue)[0] == ring.queue(queue)


@given(st.data(), host_identities(), channel_names(), group_names())
def test_the_order_of_the_list_of_hosts_does_not_matter(
    data: st.DataObject, hosts: list[str], name: str, group: str
) -> None:
    """The same hosts listed in another order keep the same queues and groups."""
    shuffled = data.draw(st.permutations(hosts))
    one, other = Ring(hosts), Ring(shuffled)
    queue = ChannelName.parse(name).queue
    assert [hosts[shard] for shard in one.order(queue)] == [shuffled[shard] for shard in other.order(queue)]
    assert hosts[one.queue(queue)] == shuffled[other.queue(queue)]
    assert hosts[one.group(GroupName.parse(group))] == shuffled[other.group(GroupName.parse(group))]


@given(st.data(), host_identities(smallest=2), channel_names(), group_names())
def test_a_host_that_comes_or_goes_changes_nothing_among_the_others(
    data: st.DataObject, hosts: list[str], name: str, group: str
) -> None:
    """With one host more or less, the others keep their order: what moves, moves to or from that host."""
    gone = data.draw(st.sampled_from(hosts))
    rest = [host for host in hosts if host != gone]
    more, less = Ring(hosts), Ring(rest)
    queue = ChannelName.parse(name).queue
    preferred = [hosts[shard] for shard in more.order(queue)]
    assert [host for host in preferred if host != gone] == [rest[shard] for shard in less.order(queue)]
    keeper = hosts[more.group(GroupName.parse(group))]
    if keeper != gone:
        assert rest[less.group(GroupName.parse(group))] == keeper


@given(host_identities(), st.lists(channel_names(), max_size=8), st.lists(group_names(), max_size=8))
def test_what_was_asked_before_does_not_matter(hosts: list[str], names: list[str], groups: list[str]) -> None:
    """A ring that remembers gives the answers of a new one, for queues and groups of equal names too."""
    ring = Ring(hosts)
    queues = [ChannelName.parse(name).queue for name in [*names, *groups]]
    for queue in queues + queues:
        assert ring.queue(queue) == Ring(hosts).queue(queue)
        assert ring.order(queue) == Ring(hosts).order(queue)
    for group in groups + groups:
        assert ring.group(GroupName.parse(group)) == Ring(hosts).group(GroupName.parse(group))
