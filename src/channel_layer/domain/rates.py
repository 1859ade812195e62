"""Counts of messages over time, for stores that keep them: totals, and how many there were in the last minute.

A rate depends on when the messages were counted. Slices of ten seconds are few, and precise enough for a minute.
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
"""Slices that are kept: those of a whole minute, and the current one."""


@dataclass(frozen=True, slots=True)
class Rates:
    """What was counted.

    Attributes:
        messages: all messages.
        refused: all messages that were refused because a queue was full.
        lately: messages in the last `seconds`.
        refused_lately: refused messages in the last `seconds`.
        seconds: the time since the beginning of the oldest slice that is kept: from 60 up to 70.
    """

    messages: int
    refused: int
    lately: int
    refused_lately: int
    seconds: float


@dataclass(slots=True)
class Meter:
    """The counts of one queue, or of all.

    Attributes:
        messages: all messages.
        refused: all messages that were refused.
        slices: (messages, refused) by the number of the slice: seconds of the clock, divided by `SLICE_SECONDS`.
    """

    messages: int = 0
    refused: int = 0
    slices: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])

    def add(self, now: float, messages: int, refused: int) -> None:
        """Add to the counts at the time *now*, in seconds."""
        self.messages += messages
        self.refused += refused
        number = int(now // SLICE_SECONDS)
        for old in [each for each in self.slices if each <= number - SLICES]:
            del self.slices[old]
        before, refused_before = self.slices.get(number, (0, 0))
        self.slices[number] = before + messages, refused_before + refused

    def read(self, now: float) -> Rates:
        """Return what has been counted at the time *now*, in seconds."""
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
    """The counts of many queues, and their total. Not thread-safe.

    Args:
        lifetime: seconds for which the total is kept after its last change.
        each: the same for the counts of one queue.
    """

    def __init__(self, lifetime: float, each: float) -> None:
        self._lifetime = lifetime
        self._each = each
        self._all: tuple[float, Meter] | None = None
        self._queues: dict[str, tuple[float, Meter]] = {}
        """For each queue the time of its last change, and its counts; the queue that changed last is the last one."""

    def add(self, now: float, counts: Iterable[tuple[str, int, int]], messages: int, refused: int) -> None:
        """Add to the counts.

        Args:
            now: the time, in seconds.
            counts: (queue, messages, refused) for each queue.
            messages: messages to all queues: at least the sum of those in *counts*.
            refused: refused messages of all queues.
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
        """Return what was counted for one queue; for None, the total."""
        found = self._all if queue is None else self._queues.get(queue)
        lasts = self._lifetime if queue is None else self._each
        if found is None or self._over(found[0], now, lasts):
            return Meter().read(now)
        return found[1].read(now)

    def clear(self) -> None:
        """Reset all counts."""
        self._all = None
        self._queues.clear()

    def _over(self, changed: float, now: float, lasts: float) -> bool:
        return now - changed >= lasts
