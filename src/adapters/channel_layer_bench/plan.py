"""The options of a benchmark, in one frozen object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("WINDOW_MOST", "Plan")

WINDOW_MOST: Final = 64
"""Group messages that can be on their way at once; a power of 2."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The options of a benchmark.

    Attributes:
        seconds: that senders send in each run.
        repeat: runs of each layer in each workload.
        payload: bytes of a message.
        capacity: messages that a channel may hold, for the layers that have such a bound.
        warmup: seconds that each process lives before it is measured.
        patience: seconds without any progress after which what is still missing counts as lost. Peers poll every 5
            seconds.
        loop: ``asyncio`` or ``uvloop``.
        members: sizes of the groups.
        receivers: numbers of the processes that the members live in.
        urls: servers that run already; if none, fresh ones are started.
        window: group messages that may be on their way at once, `WINDOW_MOST` at most.
        profiles: the folder that every process writes a profile of itself to; empty: no profiles.
    """

    seconds: float = 3.0
    repeat: int = 5
    payload: int = 100
    capacity: int = 100_000
    warmup: float = 1.2
    patience: float = 10.0
    loop: str = "asyncio"
    members: Sequence[int] = (100, 1000, 10_000)
    receivers: Sequence[int] = (2, 8)
    urls: Sequence[str] = ()
    window: int = 16
    profiles: str = ""
