"""What the model of a store keeps: times, messages, inboxes, groups and reports as a correct store would have them.

A thing is *doubtful* where the contract leaves open whether a store still has it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from channel_layer.ports import Capabilities

__all__ = (
    "GUARD",
    "SLACK",
    "Claimant",
    "Facts",
    "Group",
    "InboxEntry",
    "Moment",
    "OwnedInbox",
    "QueuedMessage",
    "Reports",
    "Span",
    "Unclear",
    "has_passed",
)

SLACK = 0.25
"""Seconds by which a time that a store tells may be off: its clock may be a coarse one, and be set while we look."""

GUARD = 0.005
"""Seconds on either side of a limit in which nothing is checked: stores round to the millisecond, some twice."""


class Unclear(Exception):
    """A limit fell into the time that a request took: no reply to it can be checked."""


class Span(NamedTuple):
    """When something happened: between these two local times, in seconds by the clock that is moved."""

    low: float
    high: float

    def plus(self, seconds: float) -> Span:
        """Return the same so much later."""
        return Span(self.low + seconds, self.high + seconds)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a model knows of its store beforehand.

    Attributes:
        capabilities: what the store can do.
        expiry: seconds that a message may wait.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        inbox_capacity: entries that an owned inbox may hold.
        leases_move: a lease ends by the clock that is moved; else by a real one, and so never while we look.
        claims_move: the same for the claim of a claimed inbox.
    """

    capabilities: Capabilities
    expiry: float
    group_expiry: float | None
    inbox_capacity: int
    leases_move: bool = True
    claims_move: bool = True

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts: two renewals may be missed."""
        return 1.5 * self.expiry

    @property
    def unread(self) -> float:
        """Seconds after a message to a member that takes none: until it expires, and as long again."""
        return 2 * self.expiry

    @property
    def lifetime(self) -> float:
        """Seconds that a group lives if no channel joins it: its ``group_expiry``, or a day."""
        return 86400.0 if self.group_expiry is None else self.group_expiry

    @property
    def remembered(self) -> float:
        """Seconds for which a store has to remember that a member left: two leases."""
        return 2 * self.lease


@dataclass(slots=True)
class QueuedMessage:
    """A message in a queue, or away from it."""

    channel: str
    frame: bytes
    since: Span
    slot: int
    """The same for those that were pushed at once, whose order is free."""
    stamp: float | None = None
    """What the store has said of its age, once it has."""
    flushed: bool = False
    """It was away when everything was flushed: it may be in the queue, but must not come out of it."""
    uncounted: bool = False
    """It may have gone without being counted: all that was in its queue was too old."""


@dataclass(slots=True)
class InboxEntry:
    """An entry of an owned inbox."""

    frame: bytes
    since: Span
    slot: int
    channel: str = ""
    """Of a message to one channel."""
    marker: bool = False


@dataclass(slots=True)
class OwnedInbox:
    """An owned inbox."""

    until: Span
    generation: str
    items: list[InboxEntry] = field(default_factory=list[InboxEntry])
    base: int = 0
    """How many entries came before these."""
    fetched: int = 0
    """How many entries have been read at least once, of all that there ever were."""
    positions: dict[str, int] = field(default_factory=dict[str, int])
    """What each position stands for: so many entries."""
    unread: Counter[str] = field(default_factory=Counter[str])
    serial: int = 0
    generations: list[str] = field(default_factory=list[str])
    acknowledged: set[str] = field(default_factory=set[str])

    @property
    def new(self) -> int:
        """The place of the first entry that was never read."""
        return max(0, self.fetched - self.base)

    @property
    def messages(self) -> int:
        """How many entries are no markers."""
        return sum(not item.marker for item in self.items)


@dataclass(slots=True)
class Reports:
    """What was reported of a queue."""

    counts: list[tuple[Span, int, int]] = field(default_factory=list[tuple[Span, int, int]])
    """When, messages, refused ones."""
    may_begin: list[int] = field(default_factory=lambda: [0])
    """Places in it at which a store may have begun anew, because nothing had been reported for long."""

    def add(self, at: Span, messages: int, refused: int, lasts: float) -> None:
        """Note a report."""
        if self.counts and at.high >= self.counts[-1][0].low + lasts - GUARD:
            self.may_begin.append(len(self.counts))
        self.counts.append((at, messages, refused))

    def sums(self, at: Span, lasts: float) -> list[tuple[int, int]]:
        """Return what it may all come to."""
        places = list(self.may_begin)
        if self.counts and at.high >= self.counts[-1][0].low + lasts - GUARD:
            places.append(len(self.counts))
        sums = [self._sum(self.counts[place:]) for place in places]
        return list(dict.fromkeys(sums))

    def since(self, at: Span, seconds: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the least and the most that was reported in the last seconds."""
        surely = [each for each in self.counts if each[0].low > at.high - seconds + SLACK]
        maybe = [each for each in self.counts if each[0].high > at.low - seconds - SLACK]
        return self._sum(surely), self._sum(maybe)

    def _sum(self, counts: list[tuple[Span, int, int]]) -> tuple[int, int]:
        return sum(messages for _, messages, _ in counts), sum(refused for _, _, refused in counts)


@dataclass(slots=True)
class Claimant:
    """The claimant of an inbox, and until when."""

    name: str
    until: Span
    doubtful: bool = False


@dataclass(slots=True)
class Moment:
    """Since when something is so that a store remembers for a while.

    That is that a channel is a member of a group, that it got a message as one and has taken nothing since, or that it
    has left an inbox's groups.
    """

    since: Span
    doubtful: bool = False


@dataclass(slots=True)
class Group:
    """A group, and what a store may have forgotten of it."""

    owned: dict[str, Moment] = field(default_factory=dict[str, Moment])
    others: dict[str, Moment] = field(default_factory=dict[str, Moment])
    over: set[str] = field(default_factory=set[str])
    """Owned members whose time is over and that a store may not have removed yet."""
    joins: dict[str, int] = field(default_factory=dict[str, int])
    """Of each inbox with owned members, the version in which its owner's last one came."""
    changed: int = -1
    """The version of the last change, or -1."""
    known: int = -1
    """The highest version that was told."""
    touched: Span | None = None


def has_passed(limit: Span, at: Span) -> bool:
    """Whether a limit had passed when a request was carried out.

    Raises:
        Unclear: it may or may not have.
    """
    if at.low >= limit.high + GUARD:
        return True
    if at.high < limit.low - GUARD:
        return False
    raise Unclear
