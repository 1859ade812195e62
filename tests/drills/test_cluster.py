"""A Cluster fails over, and its slots move, while 4 processes send and 4 receive: nothing doubled or silently lost."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Final, NamedTuple

import pytest

from channel_layer_redis._slots import slot_of
from channel_layer_redis.options import ClusterDict
from tests.drills.conftest import Report, Turn
from tests.support.clusters import Cluster, await_true
from tests.support.drills import Moments, Plan, run
from tests.support.server_watch import ServerWatch
from tests.support.servers import ServerKind

_EMPTY: Final = 200
"""Slots without keys that each node gives away key by key, too."""

_FORK: Final = 2.0
"""Milliseconds that a node which forks takes from the processes with which it shares two processors."""

_RANGES: Final = 8
"""Parts in which a node gives its slots away: so many short moves are enough to judge what they delay."""


@pytest.fixture
def cluster(turn: Turn) -> Generator[Cluster]:
    """Three primaries, each with a replica."""
    with Cluster(turn.kind, primaries=3, replicas=1, node_timeout=2000) as cluster:
        yield cluster


def plan_of(cluster: Cluster, prefix: str, turn: Turn) -> Plan:
    """Make the plan of a run."""
    entry: ClusterDict = {"cluster": [("127.0.0.1", node.port) for node in cluster.nodes[:2]]}
    return Plan((entry,), prefix, turn.seed, fifo=False)


def test_a_killed_primary(cluster: Cluster, prefix: str, turn: Turn, report: Report) -> None:
    """What is accepted once its replica has taken over arrives."""
    old = cluster.nodes[0]
    new = cluster.replica_of(old)

    def kill() -> Moments:
        with ServerWatch([new]) as watch:
            began = time.monotonic()
            old.kill()
            await_true(lambda: cluster.is_primary(new), "the replica did not take over")
            time.sleep(0.1)  # until the watch has seen it
            return Moments(began, watch.promoted(new))

    account = run(f"cluster killed {turn.kind.value}", plan_of(cluster, prefix, turn), turn.length, kill)
    report(account)
    account.check()
    moments = account.moments
    late = 0.1 if turn.long else 15.0
    for kind in ("direct", "jobs"):  # what it had not replicated
        assert all(sent.ended <= moments.began + late for sent in account.lost_of(kind)), account.row()
    if turn.long:
        assert account.sends_again <= moments.switched + 2.0, account.row()
        assert account.members_again <= moments.switched + 4.0, account.row()


def test_a_planned_failover(cluster: Cluster, prefix: str, turn: Turn, report: Report) -> None:
    """A replica that takes over in agreement with its primary lacks nothing."""
    old = cluster.nodes[0]

    def fail_over() -> Moments:
        began = time.monotonic()
        cluster.fail_over(old)
        return Moments(began, time.monotonic())

    account = run(f"cluster failover {turn.kind.value}", plan_of(cluster, prefix, turn), turn.length, fail_over)
    report(account)
    account.check()
    assert not account.lost_of("direct") + account.lost_of("jobs"), account.row()
    if turn.long:
        assert account.sends_again <= account.moments.switched + 2.0, account.row()


def test_moving_slots(prefix: str, turn: Turn, report: Report) -> None:
    """A node is added and gets a third of all slots: key by key, or with Valkey range by range.

    What is elsewhere is not delayed: in slots that stay, and on other nodes while a Valkey node migrates a range, since
    it pauses all writes for the end of that.
    """
    atomic = turn.kind is ServerKind.VALKEY
    keys: list[str] = []
    moves: list[Move] = []
    with Cluster(turn.kind, primaries=3) as cluster:

        def move() -> Moments:
            primaries = list(cluster.nodes)
            target = cluster.add_node()
            keys.extend(cluster.keys(prefix))
            for source in primaries:
                slots = cluster.slots_of(source)
                if atomic:
                    size = len(slots) // 3 // _RANGES
                    for leaving in (slots[place * size :][:size] for place in range(_RANGES)):
                        began = time.monotonic()
                        cluster.migrate_slots(leaving[0], leaving[-1], target)
                        moves.append(Move(leaving, slots, began, time.monotonic()))
                else:  # a third of those with keys, and some without: all would take minutes
                    used = [slot for slot in slots if cluster.command(source, "CLUSTER", "COUNTKEYSINSLOT", slot)]
                    leaving = [*used[: max(1, len(used) // 3)], *sorted(set(slots) - set(used))[:_EMPTY]]
                    began = time.monotonic()
                    cluster.move_slots(leaving, target)
                    moves.append(Move(leaving, leaving, began, time.monotonic()))
            return Moments(moves[0].began, moves[-1].ended)

        how = "atomically" if atomic else "by keys"
        account = run(f"cluster moved {how} {turn.kind.value}", plan_of(cluster, prefix, turn), turn.length, move)
    slots = {channel: slot_of_inbox(channel, keys) for channel in account.channels}
    moved = {slot for part in moves for slot in part.leaving}
    stay = {channel: slot for channel, slot in slots.items() if slot not in moved}
    started = min(sent.began for sent in account.sent) + 1.0
    usual = account.delays(slots, started, account.moments.began)
    elsewhere = [
        delay
        for part in moves
        for delay in account.delays([each for each in stay if stay[each] not in part.paused], part.began, part.ended)
    ]
    before, during = p99(usual), p99(elsewhere)
    report(account, f"p99 elsewhere {during:.1f} ms, of {len(elsewhere)}, and {before:.1f} ms before")
    account.check()
    assert not account.lost, account.row()
    if turn.long and atomic:
        assert account.stall <= 0.5, account.row()
    if turn.long:
        assert during <= 2 * before + _FORK, account.row()


class Move(NamedTuple):
    """Slots that were moved from one node.

    Attributes:
        leaving: those.
        paused: those in which it may have delayed something.
        began: when it began, by ``time.monotonic()``.
        ended: when it had ended.
    """

    leaving: list[int]
    paused: list[int]
    began: float
    ended: float


def slot_of_inbox(channel: str, keys: list[str]) -> int:
    """Return the slot in which the inbox of an owned channel is."""
    inbox = channel.partition(".")[2].partition("!")[0]
    tag = next(key.partition("{")[2].partition("}")[0] for key in keys if inbox in key)
    return slot_of(tag)


def p99(delays: list[float]) -> float:
    """Return the 99th percentile of some seconds, in milliseconds; 0 if there are none."""
    return sorted(delays)[len(delays) * 99 // 100] * 1000 if delays else 0.0
