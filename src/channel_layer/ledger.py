"""Every message that enters and leaves, counted, and every loss with its reason.

One process's side of the conservation law *accepted = delivered + dropped + pending*; and the decision when a
loss is worth a line in the log: at the first one, then at most once a minute with totals and the worst
channels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ("Ledger", "Reason", "Statistics")

Reason = Literal[
    "closed", "expired", "flushed", "full", "inbox_full", "invalid", "store_lost", "unauthentic", "undecodable"
]
"""Why a message was dropped.

``closed``: it waited in a layer that closed. ``expired``: nobody read it in time. ``flushed``: ``flush()``
removed it. ``full``: it was sent to a group, and this member's channel was full. ``inbox_full``: the same for
a whole process. ``invalid``: it was received, and is not of the type that its receiver expects. ``store_lost``:
it was taken from the store for a ``receive()`` that was cancelled, and the store went away before it could be put
back. ``unauthentic``: it was not sealed with one of our keys for the channel, prefix and time at which it came.
``undecodable``: its bytes are not a message.
"""

_WARN_EVERY = 60.0
"""Seconds between warnings."""

_WORST = 3
"""Channels named in a warning; also causes."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What one layer object has counted since it was made.

    Attributes:
        sent: messages that ``send`` put into a queue.
        refused: sends that ended in ``ChannelFull``.
        expanded: group messages, counted once for each member: by the owner of its inbox, or by the sender for a member
            that no process owns; and once for an inbox that had no room for any.
        delivered: messages handed to a ``receive()``.
        dropped: messages lost, by reason (see `Reason`).
        waiting: messages that this process holds for a ``receive()`` to come.
        pending: messages that wait unread in the store, where a channel was asked for; else None.
    """

    sent: int = 0
    refused: int = 0
    expanded: int = 0
    delivered: int = 0
    dropped: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    waiting: int = 0
    pending: int | None = None


class Ledger:
    """The counters of one layer object. Not thread-safe: its owner holds a lock."""

    __slots__ = ("_causes", "_unsaid", "_warned_at", "_worst", "delivered", "dropped", "expanded", "refused", "sent")

    def __init__(self) -> None:
        self.sent: int = 0
        self.refused: int = 0
        self.expanded: int = 0
        self.delivered: int = 0
        self.dropped: Counter[Reason] = Counter()
        self._worst: Counter[str] = Counter()
        self._unsaid: Counter[Reason] = Counter()
        self._warned_at: float | None = None
        self._causes: dict[str, None] = {}
        """What else is known of losses that no warning has told of, in that order, each once."""

    def drop(self, reason: Reason, where: str, count: int = 1, *, cause: str = "") -> None:
        """Count a loss.

        Args:
            reason: of which kind it is.
            where: the channel, inbox or group that it was for.
            count: how many messages; none is no loss.
            cause: what a person should know to mend it.
        """
        if not count:
            return
        self.dropped[reason] += count
        self._unsaid[reason] += count
        if len(self._worst) < 1000 or where in self._worst:  # many names, then only those that are known
            self._worst[where] += count
        if cause and len(self._causes) < _WORST:
            self._causes[cause] = None

    @property
    def has_news(self) -> bool:
        """Whether something was lost that no warning has told of."""
        return bool(self._unsaid)

    def warning(self, now: float) -> str | None:
        """Return what to log at local time *now* (seconds), or None: nothing is new, or it is too soon."""
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

    def statistics(self, waiting: int, pending: int | None) -> Statistics:
        """Return the counters as they stand."""
        return Statistics(
            sent=self.sent,
            refused=self.refused,
            expanded=self.expanded,
            delivered=self.delivered,
            dropped=dict(self.dropped),
            waiting=waiting,
            pending=pending,
        )
