"""Sharding: figures over many names, and the mistake that must not be typeable."""

from __future__ import annotations

import gc
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.domain.sharding import Ring

if TYPE_CHECKING:

    def a_full_name_cannot_be_routed(ring: Ring, channel: ChannelName) -> None:
        """The type checkers refuse it: in strict mode an ignore that nothing needs is an error itself."""
        ring.queue(channel)  # type: ignore[arg-type]  # proves that a full name is no Queue
        ring.order(channel)  # type: ignore[arg-type]  # the same
        ring.queue(channel.queue)


NAMES = 20_000
QUEUES = [Queue(f"chat.room-{number}", Kind.NORMAL) for number in range(NAMES)]
GROUPS = [GroupName(f"room-{number}") for number in range(NAMES)]


def hosts(count: int) -> list[str]:
    """Return the identities of *count* hosts of one fleet."""
    return [f"redis-{number}.internal:6379/0" for number in range(count)]


@pytest.mark.parametrize("count", [2, 3, 5])
def test_queues_and_groups_are_spread_evenly(count: int) -> None:
    """Of 20 000 names each host keeps its part to within five per cent."""
    ring = Ring(hosts(count))
    for kept in (Counter(map(ring.queue, QUEUES)), Counter(map(ring.group, GROUPS))):
        assert sorted(kept) == list(range(count))
        for names in kept.values():
            assert names == pytest.approx(NAMES / count, rel=0.05)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_new_host_takes_its_part_and_nothing_else_moves(count: int) -> None:
    """Adding a host to n moves 1/(n+1) of the names, within five per cent, all of them to the new host."""
    before, after = Ring(hosts(count)), Ring(hosts(count + 1))
    moved = [after.queue(queue) for queue in QUEUES if after.queue(queue) != before.queue(queue)]
    assert set(moved) == {count}
    assert len(moved) == pytest.approx(NAMES / (count + 1), rel=0.05)


def test_what_a_removed_host_kept_is_spread_over_the_others() -> None:
    """Removing one of four hosts moves only what it kept, about a third to each of the others."""
    names = hosts(4)
    before, after = Ring(names), Ring(names[:2] + names[3:])
    moved: Counter[int] = Counter()
    for queue in QUEUES:
        now = (0, 1, 3)[after.queue(queue)]
        if before.queue(queue) == 2:
            moved[now] += 1
        else:
            assert now == before.queue(queue)
    assert sorted(moved) == [0, 1, 3]
    for taken in moved.values():
        assert taken == pytest.approx(sum(moved.values()) / 3, rel=0.1)


def test_second_choices_are_spread_as_well() -> None:
    """Queues that prefer one host do not all have the same second choice, so that an overflow spreads."""
    ring = Ring(hosts(4))
    second = Counter(order[1] for order in map(ring.order, QUEUES) if order[0] == 0)
    for queues in second.values():
        assert queues == pytest.approx(sum(second.values()) / 3, rel=0.1)


def test_one_host_keeps_everything() -> None:
    """With a single host there is nothing to choose."""
    ring = Ring(["localhost:6379/0"])
    assert len(ring) == 1
    assert {ring.queue(queue) for queue in QUEUES[:100]} == {0}
    assert {ring.group(group) for group in GROUPS[:100]} == {0}
    assert ring.order(QUEUES[0]) == (0,)


def test_places_never_change_from_one_release_to_the_next() -> None:
    """Processes of two releases share a store during a deployment: these places are part of the format."""
    ring = Ring(hosts(3))
    assert [ring.queue(queue) for queue in QUEUES[:12]] == [0, 0, 2, 0, 0, 0, 2, 0, 0, 2, 1, 0]
    assert [ring.group(group) for group in GROUPS[:12]] == [0, 2, 0, 2, 2, 1, 1, 2, 1, 1, 1, 1]
    assert ring.order(Queue("specific.abc!", Kind.INBOX)) == (0, 2, 1)


def test_places_are_remembered_in_bounded_memory_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are asked for, only so many places are kept, and every answer is right."""
    monkeypatch.setattr("channel_layer.domain.sharding._REMEMBERED", 50)
    ring = Ring(hosts(2))
    for queue, group in zip(QUEUES[:120] + QUEUES[:3], GROUPS[:120] + GROUPS[:3], strict=True):
        fresh = Ring(hosts(2))
        assert ring.queue(queue) == fresh.queue(queue)
        assert ring.order(queue) == fresh.order(queue)
        assert ring.group(group) == fresh.group(group)
    remembered = [len(held) for held in gc.get_referents(ring) if hasattr(held, "keys")]
    assert remembered == [46]


def test_a_normal_channel_that_is_not_spread_is_where_everything_else_would_be() -> None:
    """The partitions of a Cluster keep each normal channel whole: its order, its capacity, and one wait."""
    spread, whole = Ring(hosts(5)), Ring(hosts(5), spread=False)
    assert (spread.spread, whole.spread, Ring(hosts(1)).spread) == (True, False, False)
    for queue in QUEUES[:100]:
        assert whole.order(queue) == (whole.queue(queue),) == (spread.queue(queue),)
