"""Short and long drills: the long ones are many, with bars on times, which a busy machine would fail."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Final, Protocol

import pytest

from tests.support.drills import Account, Length
from tests.support.servers import ServerKind, look_for

TIMES_VARIABLE: Final = "CHANNEL_LAYER_DRILLS"
"""How often each drill is done at length with each kind of server; not set: once, in short, with one kind."""

_KINDS: Final = (ServerKind.VALKEY, ServerKind.REDIS)


@dataclass(frozen=True, slots=True)
class Turn:
    """One of the times that a drill is done.

    Attributes:
        kind: of the servers.
        seed: of what the processes choose.
        first: whether no other one came before.
        long: whether it is done at length, and times are judged.
    """

    kind: ServerKind
    seed: int
    first: bool
    long: bool

    @property
    def length(self) -> Length:
        """How long there is load before and after what the drill does."""
        return Length(2.0, 4.0, 200) if self.long else Length(0.5, 0.5)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each drill its turns."""
    if "turn" in metafunc.fixturenames:
        times = int(os.environ.get(TIMES_VARIABLE, "0"))
        kinds = [kind for kind in _KINDS if look_for(kind)[0] is not None]
        wanted = [kind for kind in kinds for _ in range(times)]
        turns = [Turn(kind, _seed(), first=not place, long=True) for place, kind in enumerate(wanted)]
        short = [Turn(ServerKind.VALKEY, _seed(), first=True, long=False)]
        metafunc.parametrize("turn", turns or short, ids=lambda turn: f"{turn.kind.value}-{turn.seed}")


def _seed() -> int:
    return random.randrange(1 << 32)


class Report(Protocol):
    """Prints an account, in the middle of the other output, too; and what else was seen."""

    def __call__(self, account: Account, /, *seen: str) -> None: ...  # noqa: D102


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """Print an account."""

    def tell(account: Account, /, *seen: str) -> None:
        with capsys.disabled():
            print("\n" + "; ".join((account.row(), *seen)), flush=True)  # noqa: T201 - the table of a run

    return tell
