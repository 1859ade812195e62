"""Counters of messages that enter and leave, and of losses by reason, in one process.

They are this process's side of the conservation law *accepted = delivered + dropped + pending*. They also decide when
to log a loss (the first one, then at most once a minute, with totals and the worst channels), and hold the counts that
have not been reported to the store, which adds up the counts of all processes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from channel_layer.domain.names import Queue

__all__ = ("Counters", "Counts", "PendingCounts", "Reason", "Statistics")

Reason = Literal[
    "closed",
    "damaged",
    "expired",
    "flushed",
    "full",
    "inbox_full",
    "invalid",
    "store_lost",
    "unauthentic",
    "undecodable",
]
"""Why a message was dropped.

``closed``: it waited in a layer that closed. ``damaged``: it was sent to a group, and another program has written what
the store keeps for this member's queue (see `DamagedRecord`). ``expired``: it was not read in time. ``flushed``:
``flush()`` removed it. ``full``: it was sent to a group, and this member's channel was full. ``inbox_full``: it was
sent to a group, and the inbox of a whole process was full. ``invalid``: it was received, and is not of the type that
the receiver expects. ``store_lost``: it was taken from the store for a ``receive()`` that was cancelled, and the store
became unavailable before it could be put back. ``unauthentic``: it was not sealed with one of our keys for its channel,
prefix and time. ``undecodable``: its bytes are not a message.
"""

_WARN_EVERY = 60.0
"""Seconds between warnings."""

_WORST = 3
"""Channels named in a warning, at most; also causes."""

_SINGLE_READER = Kind.SINGLE_READER

_FAMILIES_AT_ONCE = 1000
"""Queues whose counts are reported separately each second: more than an application has names for, and few enough that
a report costs the server only milliseconds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one layer object has counted in this process since it was made.

    Attributes:
        sent: messages that ``send`` put into a queue.
        refused: sends that ended in ``ChannelFull``.
        expanded: group messages, counted once for each member: by the owner of the member's inbox, or by the sender for
            a member that no process owns; and once for an inbox that was full.
        delivered: messages handed to a ``receive()``.
        dropped: messages lost, by reason (see `Reason`).
        waiting: messages that this process holds for a later ``receive()``.
        memberships_restored: memberships of this process's channels that a store had lost, and that were made again.
    """

    sent: int = 0
    refused: int = 0
    expanded: int = 0
    delivered: int = 0
    dropped: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    waiting: int = 0
    memberships_restored: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What all processes have counted, for one channel or for all: the statistics of ASGI-1, under their names there.

    Each process reports its counts about once a second; what a killed process had not reported is missing.

    The channels of one inbox (``specific.x!``) are counted together, and so are single-reader channels with the same
    prefix (``resp?``). Messages that wait are those of exactly the channel that was asked for.

    Attributes:
        messages_count: messages put into channels, by ``send`` and by ``group_send``; each copy counts.
        messages_count_per_second: the same per second, over the last minute.
        messages_pending: messages that wait unread, as the capacity counts them: those in the queues, and those in the
            mailboxes of owners that came by ``send``. None: this store cannot tell.
        messages_max_age: seconds that the oldest of them has waited, 0 if there is none. The age of messages in a
            mailbox is known only in the process of that mailbox. None: this store cannot tell.
        channel_full_count: sends that ended in ``ChannelFull``.
        channel_full_count_per_second: the same per second, over the last minute.

    Source: ASGI specification 1.1, "Statistics".
    """

    messages_count: int
    messages_count_per_second: float
    messages_pending: int | None
    messages_max_age: float | None
    channel_full_count: int
    channel_full_count_per_second: float

    def as_dict(self) -> dict[str, float]:
        """Return the statistics as in ASGI-1: a dict without the values that are not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class PendingCounts:
    """Counts of messages put into queues, and refused, that have not been reported to the store. Not thread-safe.

    Up to 1000 queues are counted separately; further ones only in the total.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def count(self, queue: Queue, messages: int, refused: int) -> None:
        """Count what was sent to a queue, as `add` does. Called for every send."""
        counts = self._counts.get(queue.name if queue.kind is not _SINGLE_READER else queue.family)
        if counts is None:
            self.add(queue.family, messages, refused)
        else:
            counts[0] += messages
            counts[1] += refused

    def add(self, family: str, messages: int, refused: int = 0) -> None:
        """Count how many messages were put into the queues of a family, and how many were refused by full ones."""
        counts = self._counts.get(family)
        if counts is None:
            if len(self._counts) >= _FAMILIES_AT_ONCE:
                family = ""
            counts = self._counts.setdefault(family, [0, 0])
        counts[0] += messages
        counts[1] += refused

    def take(self) -> tuple[tuple[str, int, int], ...]:
        """Return all counts as (family, messages, refused), and start again from zero.

        The family of queues that were not counted separately is "".
        """
        counts, self._counts = self._counts, {}
        return tuple((family, messages, refused) for family, (messages, refused) in counts.items())


class Counters:
    """The counters of one layer object. Not thread-safe: the caller holds the layer's lock."""

    __slots__ = (
        "_causes",
        "_unsaid",
        "_warned_at",
        "_worst",
        "delivered",
        "dropped",
        "expanded",
        "memberships_restored",
        "pending_counts",
        "refused",
        "sent",
    )

    def __init__(self) -> None:
        self.sent: int = 0
        self.refused: int = 0
        self.expanded: int = 0
        self.delivered: int = 0
        self.memberships_restored: int = 0
        self.dropped: Counter[Reason] = Counter()
        self.pending_counts: PendingCounts = PendingCounts()
        self._worst: Counter[str] = Counter()
        self._unsaid: Counter[Reason] = Counter()
        self._warned_at: float | None = None
        self._causes: dict[str, None] = {}
        """Causes of losses that have not been in a warning, each once, in the order in which they became known."""

    def drop(self, reason: Reason, where: str, count: int = 1, *, cause: str = "") -> None:
        """Count a loss.

        Args:
            reason: why the messages were lost.
            where: the channel, inbox or group that they were for.
            count: how many messages; with 0 nothing happens.
            cause: what an operator has to know to fix it.
        """
        if not count:
            return
        self.dropped[reason] += count
        self._unsaid[reason] += count
        if len(self._worst) < 1000 or where in self._worst:  # a bound on names
            self._worst[where] += count
        if cause:
            self.explain(cause)

    def explain(self, cause: str) -> None:
        """Have a cause of losses in the next warning."""
        if len(self._causes) < _WORST:
            self._causes[cause] = None

    @property
    def has_news(self) -> bool:
        """Whether there are losses that have not been in a warning."""
        return bool(self._unsaid)

    def warning(self, now: float) -> str | None:
        """Return the warning to log at local time *now* (seconds); None if nothing is new or it is too soon."""
        if not self._unsaid or (self._warned_at is not None and now - self._warned_at < _WARN_EVERY):
            return None
        lost = ", ".join(f"{count} {reason}" for reason, count in sorted(self._unsaid.items()))
        worst = ", ".join(f"{name} ({count})" for name, count in self._worst.most_common(_WORST))
        total = sum(self.dropped.values())
        first = self._warned_at is None
        self._warned_at = now
        self._unsaid.clear()
        self._worst.clear()
        causes = "".join(f"; {cause}" for cause in self._causes)
        self._causes.clear()
        when = "" if first else " since the last warning"
        return f"messages dropped{when}: {lost}; most on {worst}; {total} in all since the start{causes}"

    def counts(self, waiting: int) -> Counts:
        """Return the current counts."""
        return Counts(
            sent=self.sent,
            refused=self.refused,
            expanded=self.expanded,
            delivered=self.delivered,
            dropped=dict(self.dropped),
            waiting=waiting,
            memberships_restored=self.memberships_restored,
        )
