"""Loss, duplicates and order: the books that every workload keeps.

A sender numbers its messages from 0. Whoever receives them enters each number, and when it is known how many were
sent, the book says what went wrong, exactly.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

__all__ = ("Book", "Faults", "Tally")


@dataclass(frozen=True, slots=True)
class Faults:
    """What went wrong in a run; with nothing but zeros behind ``sent``, nothing did.

    Attributes:
        sent: messages that should have arrived, each recipient counted.
        lost: that did not.
        doubled: that arrived once too often.
        disordered: that arrived after one that was sent later, or at the wrong place.
    """

    sent: int = 0
    lost: int = 0
    doubled: int = 0
    disordered: int = 0

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.disordered)

    def __add__(self, other: Faults) -> Faults:
        return Faults(
            self.sent + other.sent,
            self.lost + other.lost,
            self.doubled + other.doubled,
            self.disordered + other.disordered,
        )

    def __str__(self) -> str:
        parts = [
            f"{word} {count}"
            for word, count in (("lost", self.lost), ("doubled", self.doubled), ("disordered", self.disordered))
            if count
        ]
        return f"{', '.join(parts)} of {self.sent}" if parts else "none"


class Tally:
    """The numbers that one receiver got from one sender, in the order in which they came.

    Attributes:
        next: the number that should come next: all before it have come, but those that are missing.
    """

    __slots__ = ("_disordered", "_doubled", "_missing", "next")

    def __init__(self) -> None:
        self.next: int = 0
        self._missing: set[int] = set()
        self._doubled = 0
        self._disordered = 0

    def add(self, number: object) -> None:
        """Enter a message.

        Raises:
            TypeError: it has no number: the layer has changed it.
        """
        if number == self.next:
            self.next += 1
        elif not isinstance(number, int):
            raise TypeError(f"a message came with the number {number!r}")
        elif number > self.next:
            self._missing.update(range(self.next, number))
            self.next = number + 1
        elif number in self._missing:
            self._missing.discard(number)
            self._disordered += 1
        else:
            self._doubled += 1

    def stray(self) -> None:
        """Enter a message that was meant for somebody else."""
        self._disordered += 1

    @property
    def received(self) -> int:
        """How many different messages have come."""
        return self.next - len(self._missing)

    def faults(self, sent: int) -> Faults:
        """Judge.

        Args:
            sent: how many there were to receive: 0 to ``sent - 1``.
        """
        lost = sum(number < sent for number in self._missing) + max(0, sent - self.next)
        return Faults(sent, lost, self._doubled + max(0, self.next - sent), self._disordered)


class Book:
    """The tallies of several receivers in one process.

    Attributes:
        tallies: one for each.
        last: when the latest message came, by ``time.monotonic()``, one clock for all processes of a machine.
    """

    def __init__(self, receivers: int) -> None:
        self.tallies: list[Tally] = [Tally() for _ in range(receivers)]
        self.last: float = 0.0
        self._entered = 0
        self._enough = sys.maxsize

    def enter(self, receiver: int, number: object) -> bool:
        """Enter a message; return whether all have come, as far as is known."""
        self.tallies[receiver].add(number)
        self.last = time.monotonic()
        self._entered += 1
        return self._entered >= self._enough and self.received >= self._enough

    def stray(self, receiver: int) -> None:
        """Enter a message that came to the wrong receiver."""
        self.tallies[receiver].stray()

    def expect(self, total: int) -> bool:
        """Say how many will have come in the end; return whether they have."""
        self._enough = total
        return self.received >= total

    @property
    def received(self) -> int:
        """How many different messages have come."""
        return sum(tally.received for tally in self.tallies)

    def faults(self, sent: list[int]) -> Faults:
        """Judge.

        Args:
            sent: how many there were for each receiver.
        """
        judged = [tally.faults(count) for tally, count in zip(self.tallies, sent, strict=True)]
        return sum(judged, start=Faults())
