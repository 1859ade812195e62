"""Every message that enters and leaves, counted, and every loss with its reason.

One process's side of the conservation law *accepted = delivered + dropped + pending*; the decision when a loss is worth
a line in the log: at the first one, then at most once a minute with totals and the worst channels; and what the store
has yet to be told, so that it can add up the counts of all processes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from channel_layer.domain.names import Queue

__all__ = ("Counts", "Ledger", "Reason", "Statistics", "Tally")

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


_SINGLE_READER = Kind.SINGLE_READER

_FAMILIES_AT_ONCE = 1000
"""Queues of which is told each second how much was sent to them: more than an application has names for, few enough
that telling costs a server some milliseconds."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What one layer object has counted in this process since it was made.

    Attributes:
        sent: messages that ``send`` put into a queue.
        refused: sends that ended in ``ChannelFull``.
        expanded: group messages, counted once for each member: by the owner of its inbox, or by the sender for a member
            that no process owns; and once for an inbox that had no room for any.
        delivered: messages handed to a ``receive()``.
        dropped: messages lost, by reason (see `Reason`).
        waiting: messages that this process holds for a ``receive()`` to come.
    """

    sent: int = 0
    refused: int = 0
    expanded: int = 0
    delivered: int = 0
    dropped: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """What all processes have counted, of one channel or of all: the statistics of ASGI-1, by their names there.

    What a process has counted is known to the others within about a second. A process that is killed takes with it what
    it has not told yet.

    The channels of one inbox (``specific.x!``) are counted together, and so are single-reader channels that begin alike
    (``resp?``). What waits is that of the very channel that was asked for.

    Attributes:
        messages_count: messages that were put into a channel, by ``send`` and by ``group_send``, every copy for itself.
        messages_count_per_second: the same a second, over the last minute.
        messages_pending: messages that wait unread, as the capacity counts them: in the queues, and in the mailboxes
            of their owners those that came by ``send``. None: this store cannot tell.
        messages_max_age: seconds that the oldest of them has waited, 0 if none does. A mailbox tells of its messages'
            age only to those who ask in its own process. None: this store cannot tell.
        channel_full_count: sends that ended in ``ChannelFull``.
        channel_full_count_per_second: the same a second, over the last minute.

    Source: ASGI specification 1.1, "Statistics".
    """

    messages_count: int
    messages_count_per_second: float
    messages_pending: int | None
    messages_max_age: float | None
    channel_full_count: int
    channel_full_count_per_second: float

    def as_dict(self) -> dict[str, float]:
        """Return them as ASGI-1 has them: a dict without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Tally:
    """Messages put into queues, and refused, that the store has not been told of. Not thread-safe.

    Of very many queues it keeps the first ones apart; the others count in the sum of all.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, list[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def count(self, queue: Queue, messages: int, refused: int) -> None:
        """Count, as `add` does, what was sent to a queue; every send does."""
        counts = self._counts.get(queue.name if queue.kind is not _SINGLE_READER else queue.family)
        if counts is None:
            self.add(queue.family, messages, refused)
        else:
            counts[0] += messages
            counts[1] += refused

    def add(self, family: str, messages: int, refused: int = 0) -> None:
        """Count.

        Args:
            family: of the queue, see `channel_layer.domain.names.Queue.family`.
            messages: so many went into it.
            refused: for so many there was no room.
        """
        counts = self._counts.get(family)
        if counts is None:
            if len(self._counts) >= _FAMILIES_AT_ONCE:
                family = ""
            counts = self._counts.setdefault(family, [0, 0])
        counts[0] += messages
        counts[1] += refused

    def take(self) -> tuple[tuple[str, int, int], ...]:
        """Return (family, messages, refused) of all that has been counted, and begin anew.

        The family of those that were not kept apart is "".
        """
        counts, self._counts = self._counts, {}
        return tuple((family, messages, refused) for family, (messages, refused) in counts.items())


class Ledger:
    """The counters of one layer object. Not thread-safe: its owner holds a lock."""

    __slots__ = (
        "_causes",
        "_unsaid",
        "_warned_at",
        "_worst",
        "delivered",
        "dropped",
        "expanded",
        "refused",
        "sent",
        "tally",
    )

    def __init__(self) -> None:
        self.sent: int = 0
        self.refused: int = 0
        self.expanded: int = 0
        self.delivered: int = 0
        self.dropped: Counter[Reason] = Counter()
        self.tally: Tally = Tally()
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

    def counts(self, waiting: int) -> Counts:
        """Return the counters as they stand."""
        return Counts(
            sent=self.sent,
            refused=self.refused,
            expanded=self.expanded,
            delivered=self.delivered,
            dropped=dict(self.dropped),
            waiting=waiting,
        )
