"""The clock of a store as one process can estimate it, and how long everything lives.

The store's clock decides what is too old. A process learns it from replies, to within half a round trip, and
errs towards "later", so that nothing older than ``expiry`` is ever delivered. Local time is an argument.

Source: Cristian, "Probabilistic clock synchronization" (1989).
"""

from __future__ import annotations

__all__ = (
    "COUNTS_LIFETIME",
    "GROUP_KEYS_LIFETIME",
    "LEASE_FACTOR",
    "REGISTRATION",
    "RENEWALS_PER_EXPIRY",
    "UNREAD_FACTOR",
    "StoreClock",
    "counts_lifetimes",
    "deadline",
    "moved",
    "unread_limit",
)

LEASE_FACTOR = 1.5
"""Duration of a lease, in multiples of ``expiry``: it survives two missed renewals."""

RENEWALS_PER_EXPIRY = 2
"""How often an owner renews its lease in each ``expiry``."""

REGISTRATION = 0.5
"""For how long a process that has popped a queue is registered as its reader, as a share of ``expiry``. A message that
comes in that time, for a reader that does not return, has as long again to be found by another process."""

UNREAD_FACTOR = 2
"""How many ``expiry`` after a message to it a channel that no process owns leaves its groups, unless a reader asks for
messages of its queue: until the message expires, and as long again."""

_OWN_UNREAD_FACTOR, _OWN_UNREAD_LEAST = 10, 600.0
"""The same for a channel of an owned inbox: so many ``expiry`` without a ``receive()``, so many seconds at least. A
consumer that ends leaves its groups, so one that does not read is more often slow than gone, and harms no other."""

GROUP_KEYS_LIFETIME = 86400.0
"""Seconds that a group is kept without a ``group_add`` if ``group_expiry`` is None and no owner renews it."""

COUNTS_LIFETIME = 3600.0
"""The most seconds that the statistics of a queue are kept when nothing is sent to it, as in asgi_redis: many queues
are used only once."""

_DRIFT = 200e-6
"""By how much two clocks may drift apart, in seconds per second: twice the 100 ppm of a poor quartz crystal."""


class StoreClock:
    """An interval that contains the difference between a store's clock and the local one.

    Times are seconds as floats; the store's count from its own epoch, local ones from any fixed moment. A step of the
    store's clock is noticed at the next reply; one that is shorter than a round trip may go unnoticed, and then
    `latest` is too early by no more than that.

    Attributes:
        stepped: by how many seconds, at least, the store's clock has been set forward against the local one, all in
            all; below 0 if it was set back.
    """

    __slots__ = ("_at", "_high", "_low", "stepped")

    def __init__(self) -> None:
        self.stepped: float = 0.0
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None

    @property
    def known(self) -> bool:
        """Whether the store has replied at least once."""
        return self._at is not None

    def observe(self, sent: float, received: float, store_time: float) -> None:
        """Learn from a reply: the store's clock showed *store_time* at some moment between *sent* and *received*."""
        low, high = store_time - received, store_time - sent + _DRIFT * (received - sent)
        if self._at is not None:
            slack = _DRIFT * abs(received - self._at)  # replies of several loops may be seen out of order
            low_then, high_then = self._low - slack, self._high + slack
            if low <= high_then and low_then <= high:  # they agree: keep the intersection
                low, high = max(low, low_then), min(high, high_then)
            else:  # what was known before says nothing any more
                self.stepped += low - high_then if low > high_then else high - low_then
        self._low, self._high, self._at = low, high, received

    def latest(self, local: float) -> float:
        """Return the latest that the store's clock can show at local time *local*; 0 until it is `known`."""
        if self._at is None:
            return 0.0
        return local + self._high + _DRIFT * abs(local - self._at)

    def offset(self, local: float) -> float:
        """Return the most, in seconds, that the store's clock can be ahead of the local one at local time *local*."""
        return self.latest(local) - local

    def doubt(self, local: float) -> float:
        """Return by how many seconds it may show less than `latest` at local time *local*; 0 until it is `known`."""
        if self._at is None:
            return 0.0
        return self._high - self._low + 2 * _DRIFT * abs(local - self._at)

    def contradicts(self, stamp: float, expiry: float, local: float) -> bool:
        """Return whether what comes in at local time *local* would be too old or yet to be: then the clock was set."""
        latest = self.latest(local)
        return stamp > latest + 1 or deadline(stamp, expiry, latest - local) <= local

    def middle(self, local: float) -> float:
        """Return the best single estimate of the store's clock at local time *local*."""
        return local + (self._low + self._high) / 2


def deadline(stamp: float, expiry: float, offset: float) -> float:
    """Return the local time at which a message is too old, however the clocks drift until then.

    Args:
        stamp: when the store accepted it, by the store's clock.
        expiry: seconds that it may wait unread.
        offset: the most that the store's clock can be ahead of the local one now, in seconds.
    """
    return stamp + expiry * (1 - _DRIFT) - offset


def unread_limit(expiry: float) -> float:
    """Return for how many seconds without a ``receive()`` a channel that let messages expire stays in its groups.

    Args:
        expiry: seconds that a message may wait unread.
    """
    return max(_OWN_UNREAD_FACTOR * expiry, _OWN_UNREAD_LEAST)


def moved(stamp: float, here: float, there: float) -> float:
    """Return the stamp of a message that moves from one store to another: it is as old there as it was here, or older.

    Args:
        stamp: when the first store accepted it, by the clock of that store.
        here: what that clock showed when the message was taken out.
        there: what the clock of the second store showed before that.
    """
    return there - max(0.0, here - stamp)


def counts_lifetimes(group_expiry: float | None) -> tuple[float, float]:
    """Return how many seconds statistics are kept after the last message: the total, and those of one queue.

    Args:
        group_expiry: seconds that a membership lasts; None: as long as its owner lives. The total is kept for as long,
            or for a day.
    """
    whole = GROUP_KEYS_LIFETIME if group_expiry is None else group_expiry
    return whole, min(whole, COUNTS_LIFETIME)
