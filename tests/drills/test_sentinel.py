"""Sentinels fail a service over while 4 processes send and 4 receive: nothing doubled, nothing silently lost."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Generator
from typing import Final

import pytest

from tests.drills.conftest import Report, Turn
from tests.support.drills import Account, Moments, Plan, run
from tests.support.sentinels import Service
from tests.support.server_watch import ServerWatch

LAG: Final = 0.5
"""Seconds by which a replica may be behind at most."""

STOPPED: Final = 20.0
"""Seconds for which a primary is stopped, in a long run."""

AFTERWARDS: Final = 10.0
"""Seconds of load once it goes on: after eight the sentinels make it a replica."""


PEER_AFTERWARDS: Final = 20.0
"""Seconds of load after the failover of a peer, which uses the old primary for ten of them."""


class Failover:
    """A failover of a service that is watched.

    Args:
        service: which.
        watch: of its servers and sentinels.
    """

    def __init__(self, service: Service, watch: ServerWatch) -> None:
        self.service = service
        self._watch = watch
        self._old = service.primary

    def planned(self) -> Moments:
        """Order it, as in maintenance."""
        began = time.monotonic()
        return self._moments(began, self.service.fail_over().port)

    def killed(self) -> Moments:
        """Kill the primary."""
        began = time.monotonic()
        self._old.kill()
        return self._moments(began, self.service.await_failover(self._old).port)

    def stopped(self, turn: Turn) -> Moments:
        """Stop the primary, and let it go on once there is another one."""
        began = time.monotonic()
        self._old.pause()
        moments = self._moments(began, self.service.await_failover(self._old).port)
        if turn.long:
            time.sleep(began + STOPPED - time.monotonic())
        self._old.resume()
        if turn.long:
            time.sleep(AFTERWARDS)
        return moments

    def _moments(self, began: float, port: int) -> Moments:
        new = next(server for server in self.service.servers if server.port == port)
        return Moments(began, self._watch.switched(), self._watch.promoted(new))

    def see_last_write(self, account: Account) -> None:
        """Note when the old primary accepted the last command."""
        account.moments.last_write = self._watch.last_write(self._old)


@pytest.fixture
def failover(turn: Turn) -> Generator[Failover]:
    """A service with a replica and three sentinels, to be failed over."""
    with contextlib.ExitStack() as stack:
        service = Service(stack, turn.kind)
        yield Failover(service, stack.enter_context(ServerWatch(service.servers, service.sentinels)))


def plan_of(failover: Failover, prefix: str, turn: Turn, *, peer: bool = False) -> Plan:
    """Make the plan of a run."""
    return Plan((failover.service.entry,), prefix, turn.seed, peer=peer)


def check(account: Account, turn: Turn, *, since: float, sends: float) -> None:
    """Check an account; its times only after a long run.

    Args:
        account: of the run.
        turn: the drill's.
        since: what was accepted earlier than this, the new primary must have.
        sends: when sends must work again.
    """
    account.check()
    moments, bound = account.moments, 1.5 if turn.long else 15.0
    for kind in ("direct", "jobs"):  # what the old primary had not replicated
        lost = account.lost_of(kind)
        assert all(sent.ended >= since - LAG * (1 if turn.long else 10) for sent in lost), account.row()
        assert all(sent.ended <= moments.switched + bound for sent in lost), account.row()
    if turn.long:
        assert account.sends_again <= sends, account.row()
        assert account.members_again <= max(sends, moments.switched) + 2.0, account.row()


def test_a_planned_failover(failover: Failover, prefix: str, turn: Turn, report: Report) -> None:
    """The old primary, which goes on taking writes, gets none later than 1.5 s after the switch."""
    account = run(f"planned {turn.kind.value}", plan_of(failover, prefix, turn), turn.length, failover.planned)
    failover.see_last_write(account)
    report(account)
    moments = account.moments
    check(account, turn, since=moments.promoted, sends=max(moments.promoted, moments.switched) + 2.0)
    if turn.long:
        assert moments.last_write is not None
        assert moments.last_write <= moments.switched + 1.5, account.row()


def test_a_killed_primary(failover: Failover, prefix: str, turn: Turn, report: Report) -> None:
    """What is accepted after the switch arrives, and all members get it."""
    account = run(f"killed {turn.kind.value}", plan_of(failover, prefix, turn), turn.length, failover.killed)
    report(account)
    check(account, turn, since=account.moments.began, sends=account.moments.switched + 2.0)


def test_a_stopped_primary(failover: Failover, prefix: str, turn: Turn, report: Report) -> None:
    """One that goes on later, and calls itself the primary for seconds, changes nothing."""

    def stop() -> Moments:
        return failover.stopped(turn)

    account = run(f"stopped {turn.kind.value}", plan_of(failover, prefix, turn), turn.length, stop)
    report(account)
    check(account, turn, since=account.moments.began, sends=account.moments.switched + 2.0)


@pytest.mark.parametrize("cause", ["planned", "killed"])
def test_a_peer(failover: Failover, prefix: str, turn: Turn, cause: str, report: Report) -> None:
    """The account of channels_redis in the same drill, for comparison: it is printed."""
    if not (turn.long and turn.first):
        pytest.skip("once is enough for a comparison")
    pytest.importorskip("channels_redis")
    act = failover.planned if cause == "planned" else failover.killed
    plan = plan_of(failover, prefix, turn, peer=True)
    length = dataclasses.replace(turn.length, after=PEER_AFTERWARDS)
    account = run(f"channels_redis {cause} {turn.kind.value}", plan, length, act)
    failover.see_last_write(account)
    report(account)
