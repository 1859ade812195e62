"""The network between 4 sending and 4 receiving processes and a server is cut, or leads to another server."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Generator
from typing import Final

import pytest

from tests.drills.conftest import Report, Turn
from tests.integration.test_failover import follow
from tests.support.drills import Moments, Plan, run
from tests.support.network import CUTS, Cut, Network
from tests.support.servers import Server

BEHIND: Final = 3.0
"""Seconds by which the clock of a new primary is behind."""

LACKING: Final = 100
"""Entries of each inbox that a new primary has not got."""


@pytest.fixture
def servers(turn: Turn) -> Generator[list[Server]]:
    """A primary and a replica that no sentinel watches."""
    with contextlib.ExitStack() as stack:
        primary, replica = (stack.enter_context(Server(turn.kind)) for _ in range(2))
        follow(replica, primary)
        yield [primary, replica]


@pytest.fixture
def network(servers: list[Server]) -> Generator[Network]:
    """Leads to the primary."""
    with Network(servers[0].port) as network:
        yield network


def test_repeated_drops(network: Network, prefix: str, turn: Turn, report: Report) -> None:
    """All that was accepted arrives, whether connections are reset, deaf or slow."""
    cuts: list[Cut] = [*CUTS, *random.Random(turn.seed).choices(CUTS)] if turn.long else [*CUTS]

    def drop() -> Moments:
        began = time.monotonic()
        for cut in cuts:
            network.cut(2.0 if turn.long else 0.5, cut)
            time.sleep(1.0 if turn.long else 0.2)
        return Moments(began, time.monotonic())

    account = run(f"drops {turn.kind.value}", Plan((network.url,), prefix, turn.seed), turn.length, drop)
    report(account)
    account.check()
    assert not account.lost, account.row()


def test_a_primary_that_is_behind(
    servers: list[Server], network: Network, prefix: str, turn: Turn, report: Report
) -> None:
    """A primary whose clock is 3 s behind, and that lacks what was read last, has every entry read that it takes.

    Instead of its clock, the last ids of the streams of the other one are set: its next ids follow them.
    """
    old, new = servers

    def change() -> Moments:
        began = time.monotonic()
        new.host().command("REPLICAOF", "NO", "ONE")
        milliseconds = round((time.time() + BEHIND) * 1000)
        with old.admin() as admin:
            streams = [key for key in old.keys(prefix) if admin.type(key) == b"stream"]
            before = {key: admin.xinfo_stream(key)["entries-added"] for key in streams}
            for key in streams:
                old.host().command("XSETID", key, f"{milliseconds}-0")
            deadline = time.monotonic() + 30
            while any(admin.xinfo_stream(key)["entries-added"] < before[key] + LACKING for key in streams):
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert len(streams) >= 4
        old.kill()
        network.lead_to(new.port)
        return Moments(began, time.monotonic())

    account = run(f"behind {turn.kind.value}", Plan((network.url,), prefix, turn.seed), turn.length, change)
    report(account)
    account.check()
    switched = account.moments.switched
    # Whether a group message reaches a member that the new primary does not know yet is not promised.
    grace = 2.0 if turn.long else 15.0
    for sent, _ in account.lost:
        assert sent.began < switched + (grace if sent.target == "all" else 0), account.row()
    if turn.long:
        assert account.members_again <= switched + 4.0
