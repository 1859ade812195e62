"""A Cluster fails over, and its slots move, while 4 processes send and 4 receive: nothing doubled or silently lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import pytest

from channel_layer_redis.options import ClusterDict
from tests.drills.conftest import Turn
from tests.support.clusters import Cluster, await_true
from tests.support.drills import Account, Moments, Plan, run
from tests.support.server_watch import ServerWatch
from tests.support.servers import ServerKind


@pytest.fixture
def cluster(turn: Turn) -> Generator[Cluster]:
    """Three primaries, each with a replica."""
    with Cluster(turn.kind, primaries=3, replicas=1, node_timeout=2000) as cluster:
        yield cluster


def plan_of(cluster: Cluster, prefix: str, turn: Turn) -> Plan:
    """Make the plan of a run."""
    entry: ClusterDict = {"cluster": [("127.0.0.1", node.port) for node in cluster.nodes[:2]]}
    return Plan((entry,), prefix, turn.seed, fifo=False)


def test_a_killed_primary(cluster: Cluster, prefix: str, turn: Turn, report: Callable[[Account], None]) -> None:
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


def test_a_planned_failover(cluster: Cluster, prefix: str, turn: Turn, report: Callable[[Account], None]) -> None:
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


def test_moving_slots(prefix: str, turn: Turn, report: Callable[[Account], None]) -> None:
    """A node is added and gets a third of all slots: key by key, or with Valkey all at once."""
    atomic = turn.kind is ServerKind.VALKEY
    with Cluster(turn.kind, primaries=3) as cluster:

        def move() -> Moments:
            primaries = list(cluster.nodes)
            target = cluster.add_node()
            began = time.monotonic()
            for source in primaries:
                slots = cluster.slots_of(source)
                if atomic:
                    cluster.migrate_slots(slots[0], slots[len(slots) // 3], target)
                else:
                    used = [slot for slot in slots if cluster.command(source, "CLUSTER", "COUNTKEYSINSLOT", slot)]
                    cluster.move_slots(used[: max(1, len(used) // 3)], target)  # the others would take minutes
            return Moments(began, time.monotonic())

        how = "atomically" if atomic else "by keys"
        account = run(f"cluster moved {how} {turn.kind.value}", plan_of(cluster, prefix, turn), turn.length, move)
        report(account)
        account.check()
        assert not account.lost, account.row()
        if turn.long and atomic:
            assert account.stall <= 0.5, account.row()
