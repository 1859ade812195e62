"""The network between 4 sending and 4 receiving processes and a server is cut again and again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator

import pytest

from tests.drills.conftest import Turn
from tests.support.drills import Account, Moments, Plan, run
from tests.support.network import CUTS, Cut, Network
from tests.support.servers import Server


@pytest.fixture
def network(turn: Turn) -> Generator[Network]:
    """Leads to a server."""
    with Server(turn.kind) as server, Network(server.port) as network:
        yield network


def test_repeated_drops(network: Network, prefix: str, turn: Turn, report: Callable[[Account], None]) -> None:
    """All that was accepted arrives, whether connections are reset, deaf or slow."""
    cuts: list[Cut] = [*CUTS, *random.Random(turn.seed).choices(CUTS, k=3)] if turn.long else [*CUTS]

    def drop() -> Moments:
        began = time.monotonic()
        for cut in cuts:
            network.cut(2.0 if turn.long else 0.5, cut)
            time.sleep(2.0 if turn.long else 0.2)
        return Moments(began, time.monotonic())

    account = run(f"drops {turn.kind.value}", Plan((network.url,), prefix, turn.seed), turn.length, drop)
    report(account)
    account.check()
    assert not account.lost, account.row()
