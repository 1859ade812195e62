"""What the kit's strategies draw is what their names say: always accepted, or never."""

from __future__ import annotations

import re

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from channel_layer.config import CommonConfig, parse
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.codec import MsgpackCodec, Value
from channel_layer.domain.names import ChannelName, GroupName, Kind
from channel_layer.errors import InvalidName
from channel_layer.testing.strategies import (
    Sendable,
    capacity_maps,
    channel_names,
    group_names,
    host_lists,
    invalid_channel_names,
    messages,
    sendable_messages,
    short_names,
)
from channel_layer_redis.config import RedisConfig

CODEC = MsgpackCodec(4 * 1024 * 1024)


@given(kinds=st.sets(st.sampled_from(Kind), min_size=1), data=st.data())
def test_channel_names_are_valid_and_of_the_wanted_kinds(kinds: set[Kind], data: st.DataObject) -> None:
    """Every name is one, and its queue of a kind that was asked for."""
    name = data.draw(channel_names(kinds=kinds))
    assert ChannelName.parse(name).queue.kind in kinds


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_of_channel_name_is_drawn(kind: Kind) -> None:
    """Without a choice, names of each kind come, the longest among them."""
    found = find(channel_names(), lambda name: ChannelName.parse(name).queue.kind is kind and len(name) == 100)
    assert ChannelName.parse(found).name == found


def test_no_kinds_are_an_error() -> None:
    """Whoever asks for names of no kind is told so."""
    with pytest.raises(ValueError, match="kinds is empty"):
        channel_names(kinds=())


@given(name=invalid_channel_names())
def test_invalid_channel_names_are_refused(name: str) -> None:
    """Every text that is said to be no channel name is refused."""
    with pytest.raises(InvalidName):
        ChannelName.parse(name)


@given(name=group_names())
def test_group_names_are_valid(name: str) -> None:
    """Every group name is one."""
    assert GroupName.parse(name).name == name


@given(message=messages())
def test_messages_survive_the_way(message: dict[str, Value]) -> None:
    """Every message can be sent, and comes back as it was."""
    assert repr(CODEC.decode(CODEC.encode(message))) == repr(message)  # NaN equals nothing, but looks the same


@given(message=messages(numbers=st.integers(0, 9)))
def test_numbered_messages_have_their_number(message: dict[str, Value]) -> None:
    """A numbered message has one of the wanted numbers, whatever else it holds."""
    assert message["n"] in range(10)
    assert CODEC.encode(message)


@given(message=sendable_messages())
def test_sendable_messages_can_be_sent(message: dict[str, Sendable]) -> None:
    """Every message that may be sent is encoded."""
    assert CODEC.encode(message)


@given(capacities=capacity_maps(), name=short_names())
def test_capacity_maps_are_valid_settings(capacities: dict[str | re.Pattern[str], int], name: str) -> None:
    """Every map is taken as ``channel_capacity``, keeps its order, and gives every channel a capacity."""
    rules = parse(CommonConfig, {"channel_capacity": capacities}).rules()
    assert list(rules.channel_capacity.items()) == list(capacities.items())
    assert isinstance(rules.capacity, CapacityTable)
    assert rules.capacity.of(name) in {rules.default_capacity, *capacities.values()}


@given(hosts=host_lists())
def test_host_lists_are_valid_settings(hosts: list[str]) -> None:
    """Every list is taken as ``hosts``, as that many different hosts."""
    servers = parse(RedisConfig, {"hosts": hosts}).servers
    assert len({server.identity for server in servers}) == len(hosts)
