"""When an outage begins and ends, as the parts of a layer that use a server meet it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.outages import Outages


def test_an_outage_ends_when_all_parts_that_failed_have_succeeded() -> None:
    """A server that serves reads and refuses writes is not back; other shards have nothing to do with it."""
    outages = Outages(5.0)
    assert outages.succeed((0, "reads"), 9.0) == []
    assert outages.fail("a", (0, "reads"), 10.0)
    assert not outages.fail("a", (0, "pops"), 11.0)
    assert outages.succeed((0, "reads"), 12.0) == []
    assert outages.fail("b", (1, "reads"), 12.0)
    assert outages.succeed((0, "leases"), 12.5) == []
    assert outages.succeed((0, "pops"), 13.0) == [("a", 3.0)]
    assert set(outages.away) == {"b"}


def test_all_shards_of_a_server_share_its_outage() -> None:
    """It ends with the last of them, whatever the shards of other servers do."""
    outages = Outages(5.0)
    assert [outages.fail("a", (shard, "leases"), 10.0) for shard in range(3)] == [True, False, False]
    assert outages.succeed((3, "leases"), 100.0) == []
    assert not outages.fail("a", (2, "leases"), 99.0)
    assert outages.succeed((0, "leases"), 100.0) == []
    assert outages.succeed((2, "leases"), 101.0) == [("a", 91.0)]


def test_a_part_that_goes_on_failing_is_in_one_outage() -> None:
    """While a replica takes over, other servers refuse what was lost with the first one."""
    outages = Outages(5.0)
    assert outages.fail("a", (0, "reads"), 10.0)
    assert not outages.fail("b", (0, "reads"), 11.0)
    assert outages.fail("b", (1, "reads"), 11.0)
    assert outages.succeed((0, "reads"), 12.0) == [("a", 2.0)]
    assert set(outages.away) == {"b"}


def test_a_part_that_has_ended_does_not_keep_an_outage() -> None:
    """What has not tried again for longer than a try takes has no receivers left."""
    outages = Outages(2.0)
    outages.fail("a", (0, "pops"), 10.0)
    outages.fail("a", (0, "reads"), 14.0)
    assert outages.succeed((0, "reads"), 16.9) == []
    assert outages.succeed((0, "reads"), 17.0) == [("a", 7.0)]


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.sampled_from(["s", "t"]),
            st.tuples(st.integers(0, 2), st.sampled_from(["a", "b"])),
            st.floats(0, 5),
        )
    )
)
def test_beginnings_and_ends_alternate(events: list[tuple[bool, str, tuple[int, str], float]]) -> None:
    """Of each server a beginning and an end are told in turns, and an end tells the time since the beginning."""
    outages, now = Outages(1.0), 100.0
    since: dict[str, float] = {}
    for failed, server, part, seconds in events:
        now += seconds
        if failed:
            if outages.fail(server, part, now):
                assert server not in since
                since[server] = now
        else:
            for ended, took in outages.succeed(part, now):
                assert took == now - since.pop(ended)
        assert set(outages.away) == set(since)
