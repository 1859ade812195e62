"""Finds lost, doubled and disordered messages, exactly, in every workload.

A sender numbers its messages from 0. A receiver adds each number to a checker. When it is known how many were sent, the
checker says what went wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("Faults", "Receipts", "Sample", "SequenceChecker")


@dataclass(frozen=True, slots=True)
class Faults:
    """The counts of what went wrong in a run; false if nothing did.

    Attributes:
        sent: messages that should have arrived, each recipient counted.
        lost: that did not arrive.
        doubled: arrivals beyond the first.
        disordered: that arrived after one that was sent later, or at the wrong receiver.
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
        counts = {"lost": self.lost, "doubled": self.doubled, "disordered": self.disordered}
        parts = [f"{word} {count}" for word, count in counts.items() if count]
        return f"{', '.join(parts)} of {self.sent}" if parts else "none"


@dataclass(frozen=True, slots=True)
class Sample:
    """The result of one run.

    Attributes:
        metrics: figures by name; worth nothing if there are faults.
        faults: what went wrong with the messages.
    """

    metrics: dict[str, float]
    faults: Faults


class SequenceChecker:
    """Checks the numbers that one receiver gets from one sender, in the order in which they arrive.

    Attributes:
        next: the number that is expected next: all before it have arrived, except those that are missing.
    """

    __slots__ = ("_disordered", "_doubled", "_missing", "next")

    def __init__(self) -> None:
        self.next: int = 0
        self._missing: set[int] = set()
        self._doubled = 0
        self._disordered = 0

    def add(self, number: object) -> int:
        """Add the number of a message; return it, or -1 if it had arrived before.

        Raises:
            TypeError: it is no number: the layer has changed the message.
        """
        if not isinstance(number, int):
            raise TypeError(f"a message came with the number {number!r}")
        if number >= self.next:
            self._missing.update(range(self.next, number))
            self.next = number + 1
        elif number in self._missing:
            self._missing.discard(number)
            self._disordered += 1
        else:
            self._doubled += 1
            return -1
        return number

    def misdelivered(self) -> None:
        """Count a message that was sent to another receiver."""
        self._disordered += 1

    @property
    def received(self) -> int:
        """How many different messages have arrived."""
        return self.next - len(self._missing)

    def faults(self, sent: int) -> Faults:
        """Return what went wrong.

        Args:
            sent: how many messages were sent, numbered 0 to ``sent - 1``.
        """
        lost = sum(number < sent for number in self._missing) + max(0, sent - self.next)
        return Faults(sent, lost, self._doubled + max(0, self.next - sent), self._disordered)


class Receipts:
    """What has arrived at the receivers of one process.

    Args:
        receivers: how many there are.

    Attributes:
        checkers: one for each receiver.
        last: when the latest message arrived, by ``time.monotonic()``, one clock for all processes of a machine.
    """

    def __init__(self, receivers: int) -> None:
        self.checkers: list[SequenceChecker] = [SequenceChecker() for _ in range(receivers)]
        self.last: float = 0.0

    async def received(self) -> int:
        """Return how many different messages have arrived."""
        return sum(checker.received for checker in self.checkers)

    def faults(self, sent: list[int]) -> Faults:
        """Return what went wrong.

        Args:
            sent: how many messages were sent to each receiver.
        """
        faults = [checker.faults(count) for checker, count in zip(self.checkers, sent, strict=True)]
        return sum(faults, start=Faults())
