"""Counts of messages over time, for the stores that keep them: totals, and how many there were in the last minute.

A rate needs to know when what was counted. Slices of ten seconds are coarse enough to be few, and fine enough for a
minute.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ("SLICES", "SLICE_SECONDS", "Meter", "Meters", "Rates")

SLICE_SECONDS = 10.0
"""Seconds of one slice."""

SLICES = 7
"""Slices that are kept: a whole minute, and the one that has begun."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was counted.

    Attributes:
        messages: in all.
        refused: of those that there was no room for, in all.
        lately: messages in the last `seconds`.
        refused_lately: refused ones in the last `seconds`.
        seconds: from 60 up to 70: to the beginning of the oldest slice that is kept.
    """

    messages: int
    refused: int
    lately: int
    refused_lately: int
    seconds: float


@dataclass(slots=True)
class Meter:
    """One count.

    Attributes:
        messages: in all.
        refused: in all.
        slices: by number (seconds of the clock, divided by `SLICE_SECONDS`): messages, and refused ones.
    """

    messages: int = 0
    refused: int = 0
    slices: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def add(self, now: float, messages: int, refused: int) -> None:
        """Count.

        Args:
            now: what time it is, in seconds.
            messages: so many.
            refused: so many that there was no room for.
        """
        self.messages += messages
        self.refused += refused
        number = int(now // SLICE_SECONDS)
        for old in [each for each in self.slices if each <= number - SLICES]:
            del self.slices[old]
        before, refused_before = self.slices.get(number, (0, 0))
        self.slices[number] = before + messages, refused_before + refused

    def read(self, now: float) -> Rates:
        """Return what was counted, as of a time in seconds."""
        number = int(now // SLICE_SECONDS)
        late = [counts for each, counts in self.slices.items() if each > number - SLICES]
        return Rates(
            self.messages,
            self.refused,
            sum(messages for messages, _ in late),
            sum(refused for _, refused in late),
            now - (number - SLICES + 1) * SLICE_SECONDS,
        )


class Meters:
    """The counts of many queues, and of all together. Not thread-safe.

    Args:
        lifetime: seconds for which the count of all is kept after it has last changed.
        each: the same for the count of one queue.
    """

    def __init__(self, lifetime: float, each: float) -> None:
        self._lifetime = lifetime
        self._each = each
        self._all: tuple[float, Meter] | None = None
        self._queues: dict[str, tuple[float, Meter]] = {}
        """Since when each has not changed; the one that has changed last comes last."""

    def add(self, now: float, counts: Iterable[tuple[str, int, int]], messages: int, refused: int) -> None:
        """Count.

        Args:
            now: what time it is, in seconds.
            counts: (queue, messages, refused) of each queue.
            messages: of all together, as many at least.
            refused: of all together.
        """
        while self._queues and self._over(self._queues[first := next(iter(self._queues))][0], now, self._each):
            del self._queues[first]
        whole = self._all[1] if self._all is not None and not self._over(self._all[0], now, self._lifetime) else Meter()
        whole.add(now, messages, refused)
        self._all = now, whole
        for queue, some, none in counts:
            _, meter = self._queues.pop(queue, (now, Meter()))
            meter.add(now, some, none)
            self._queues[queue] = now, meter

    def read(self, now: float, queue: str | None) -> Rates:
        """Return what was counted of one queue; of all together for None."""
        found = self._all if queue is None else self._queues.get(queue)
        lasts = self._lifetime if queue is None else self._each
        if found is None or self._over(found[0], now, lasts):
            return Meter().read(now)
        return found[1].read(now)

    def clear(self) -> None:
        """Begin anew."""
        self._all = None
        self._queues.clear()

    def _over(self, changed: float, now: float, lasts: float) -> bool:
        return now - changed >= lasts
