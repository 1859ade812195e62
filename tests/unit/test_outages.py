"""When an outage begins and ends, as the parts of a layer that use a shard meet it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.outages import Outages


def test_an_outage_ends_when_all_parts_that_failed_have_succeeded() -> None:
    """A server that serves reads and refuses writes is not back; other shards have nothing to do with it."""
    outages = Outages()
    assert outages.succeed(0, "reads", 9.0) is None
    assert outages.fail(0, "reads", 10.0)
    assert not outages.fail(0, "pops", 11.0)
    assert outages.succeed(0, "reads", 12.0) is None
    assert outages.fail(1, "reads", 12.0)
    assert outages.succeed(0, "leases", 12.5) is None
    assert outages.succeed(0, "pops", 13.0) == 3.0
    assert set(outages.away) == {1}


def test_a_part_that_has_ended_does_not_keep_an_outage() -> None:
    """What has not tried again for a while has no receivers left."""
    outages = Outages()
    outages.fail(0, "pops", 10.0)
    outages.fail(0, "reads", 14.0)
    assert outages.succeed(0, "reads", 20.0) == 10.0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1), st.sampled_from(["a", "b"]), st.floats(0, 3))))
def test_beginnings_and_ends_alternate(events: list[tuple[bool, int, str, float]]) -> None:
    """Of each shard a beginning and an end are told in turns, and an end tells the time since the beginning."""
    outages, now = Outages(), 100.0
    since: dict[int, float] = {}
    for failed, shard, part, seconds in events:
        now += seconds
        if failed:
            assert outages.fail(shard, part, now) == (shard not in since)
            since.setdefault(shard, now)
        elif (took := outages.succeed(shard, part, now)) is not None:
            assert took == now - since.pop(shard)
    assert set(outages.away) == set(since)
