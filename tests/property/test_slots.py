"""The partitions of a Cluster: where their tags are, and how nodes announce themselves."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from channel_layer.testing.strategies import channel_names
from channel_layer_redis._keys import KINDS, Keys, prefix_of
from channel_layer_redis._slots import (
    SLOTS,
    SlotRange,
    moves,
    read_endpoint,
    read_slots,
    served_by,
    slot_of,
    tags,
)

_PARTITIONS = st.integers(2, 1024)

_NODES: list[tuple[list[object], tuple[str, int] | None]] = [
    ([b"10.0.0.1", 7000, b"id"], ("10.0.0.1", 7000)),
    ([b"Node-1.example", 7000, b"id", [b"ip", b"10.0.0.1"]], ("node-1.example", 7000)),
    ([b"", 7000, b"id", []], ("asked", 7000)),
    ([None, 7000, b"id", [b"ip", b"10.0.0.1"]], ("asked", 7000)),
    ([b"?", 7000, b"id", []], None),
    ([b"?", 7000, b"id"], None),
    ([b"?", 7000, b"id", [b"hostname", b"", b"ip", b"10.0.0.1"]], ("10.0.0.1", 7000)),
    ([b"2001:db8::1", 7000, b"id"], ("2001:db8::1", 7000)),
    ([b"10.0.0.1", 0, b"id"], None),
]

_NO_REPLIES: list[object] = [b"OK", [[1, 2, []]], [[b"x", 2]], [3], [[1, 2, [b"host", b"port"]]]]


@given(_PARTITIONS, st.integers(1, 20))
def test_every_node_has_its_share_of_the_partitions(partitions: int, nodes: int) -> None:
    """Of any number of partitions, each of 1 to 20 nodes with equal ranges has its share, at most one off."""
    slots = [slot_of(tag) for tag in tags(partitions)]
    edges = [round(place * SLOTS / nodes) for place in range(nodes + 1)]
    kept = [sum(first <= slot < end for slot in slots) for first, end in itertools.pairwise(edges)]
    assert sum(kept) == partitions
    assert all(abs(count - partitions / nodes) <= 1 for count in kept)


@given(_PARTITIONS)
def test_no_two_partitions_share_a_slot_or_a_tag(partitions: int) -> None:
    """So a slot says which partition it is, and a partition moves without another one."""
    found = tags(partitions)
    assert len(set(found)) == len(set(map(slot_of, found))) == partitions


def test_the_tags_never_change() -> None:
    """Processes of two releases share a Cluster during a deployment: the tags are part of the format."""
    assert tags(2) == ("4129", "356")
    assert tags(64)[:6] == ("40821", "5469", "3017", "2113", "574", "18834")


@given(st.sampled_from(["asgi:", "a:b", "x*?[y]", ""]), _PARTITIONS, st.data(), channel_names())
def test_all_keys_of_a_partition_are_in_its_slot(prefix: str, partitions: int, data: st.DataObject, name: str) -> None:
    """Whatever the prefix, the kind and the name; and all of them can be read back from the key."""
    tag = data.draw(st.sampled_from(tags(partitions)))
    keys, kind = Keys(prefix, tag), data.draw(st.sampled_from(sorted(KINDS)))
    key = keys.key(kind, name)
    assert key_slot(key.encode()) == slot_of(tag)
    assert keys.split(key) == (kind, name)
    assert prefix_of(key) == prefix_of(Keys(prefix).key(kind, name)) == prefix


def test_the_keys_of_a_host_are_as_they_were() -> None:
    """Without a Cluster nothing is new in a key: servers hold what older releases wrote."""
    keys = Keys("asgi:")
    assert keys.queue("jobs") == ("asgi:q:{jobs}", "asgi:t:{jobs}")
    assert (keys.epoch, keys.counts()) == ("asgi:e:{}", "asgi:n:{}")
    assert keys.pattern == "asgi:[qtrulscgoixne]:{*}"
    assert Keys("asgi:", "17").pattern == "asgi:{17}[qtrulscgoixne]:*"


@pytest.mark.parametrize(("node", "endpoint"), _NODES)
def test_a_node_is_found_however_it_announces_itself(node: list[object], endpoint: tuple[str, int] | None) -> None:
    """By an address, a name, nothing at all (it is the host that was asked), or a question mark."""
    replica = [b"10.9.9.9", 1, b"other"]
    ranges = read_slots([[0, 100, node, replica], [200, 16383, node]], "asked")
    assert served_by(ranges, [0, 100, 101, 200, 16383]) == [endpoint, endpoint, None, endpoint, endpoint]


@pytest.mark.parametrize(
    ("announced", "endpoint"),
    [
        ("10.0.0.1:7000", ("10.0.0.1", 7000)),
        (":7000", ("asked", 7000)),
        ("?:7000", None),
        ("2001:db8::1:7000", ("2001:db8::1", 7000)),
        ("Node-1.example:7000", ("node-1.example", 7000)),
        ("nothing", None),
        ("10.0.0.1:0", None),
    ],
)
def test_a_redirection_is_read_in_the_same_ways(announced: str, endpoint: tuple[str, int] | None) -> None:
    """The host of a redirection may be missing or unknown, too."""
    assert read_endpoint(announced, "asked") == endpoint


@pytest.mark.parametrize("reply", _NO_REPLIES)
def test_what_is_no_reply_is_refused(reply: object) -> None:
    """A proxy may answer with anything."""
    with pytest.raises(ValueError, match=r"unexpected|unpack|values"):
        read_slots(reply, "asked")


@st.composite
def _ranges(draw: st.DrawFn) -> list[SlotRange]:
    """Draw ranges that do not overlap, with gaps or without."""
    edges = sorted(draw(st.sets(st.integers(0, SLOTS), min_size=2, max_size=6)))
    endpoints = st.sampled_from([None, ("a", 1), ("b", 2)])
    return [SlotRange(first, end - 1, draw(endpoints)) for first, end in itertools.pairwise(edges)]


@given(_ranges(), _ranges())
def test_moves_are_of_the_slots_whose_node_is_another(before: list[SlotRange], after: list[SlotRange]) -> None:
    """All of them are counted once, and whether any has stayed."""
    slots = range(SLOTS)
    pairs = list(zip(served_by(before, slots), served_by(after, slots), strict=True))
    found = moves(before, after)
    assert sum(move.count for move in found) == sum(old != new for old, new in pairs)
    assert moves(before, before) == []
    for move in found:
        assert move.count == pairs.count((move.source, move.target))
        assert move.every == (move.count == [old for old, _ in pairs].count(move.source))
