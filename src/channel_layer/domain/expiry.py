"""What time it is at a store, as far as one process can know, and how long things live.

The store's clock decides what is too old; a process learns it from replies, to within half a round trip, and
errs towards "later", so that nothing older than ``expiry`` is ever handed out. Local time comes in as an
argument.

Source: Cristian, "Probabilistic clock synchronization" (1989).
"""

from __future__ import annotations

__all__ = (
    "ATTENDANCE",
    "COUNTS_LIFETIME",
    "GROUP_KEYS_LIFETIME",
    "LEASE_FACTOR",
    "RENEWALS_PER_EXPIRY",
    "StoreClock",
    "counts_lifetimes",
    "deadline",
    "moved",
)

LEASE_FACTOR = 1.5
"""A lease lasts this many times ``expiry``: it survives two missed renewals."""

RENEWALS_PER_EXPIRY = 2
"""An owner renews its lease this often in each ``expiry``."""

ATTENDANCE = 0.5
"""Who has popped a queue attends to it for this share of ``expiry``: what comes for him in that time has as long again
to be found by another one, should he not come back."""

GROUP_KEYS_LIFETIME = 86400.0
"""Seconds that a group lives without a ``group_add`` if ``group_expiry`` is None and no owner renews it."""

COUNTS_LIFETIME = 3600.0
"""Seconds at most that a queue's statistics are kept when nothing is sent to it, as in asgi_redis: many may be used
once."""

_DRIFT = 200e-6
"""Seconds a second by which two clocks may run apart: twice the 100 ppm of a poor quartz crystal."""


class StoreClock:
    """An interval that holds the difference between a store's clock and the local one.

    Times are seconds as floats; the store's are since its own epoch, local ones since any fixed moment. A
    step of the store's clock is followed at the next reply; one of less than a round trip may go unseen, and
    then `latest` is behind by no more than that.
    """

    __slots__ = ("_at", "_high", "_low")

    def __init__(self) -> None:
        self._low = 0.0
        self._high = 0.0
        self._at: float | None = None

    @property
    def known(self) -> bool:
        """Whether the store has been heard at all."""
        return self._at is not None

    def observe(self, sent: float, received: float, store_time: float) -> None:
        """Learn from a reply: the store's clock showed *store_time* at a moment from *sent* to *received*."""
        low, high = store_time - received, store_time - sent + _DRIFT * (received - sent)
        if self._at is not None:
            slack = _DRIFT * abs(received - self._at)  # replies of several loops may be seen out of order
            low_then, high_then = self._low - slack, self._high + slack
            if low <= high_then and low_then <= high:  # they agree: keep what both allow
                low, high = max(low, low_then), min(high, high_then)
        self._low, self._high, self._at = low, high, received

    def latest(self, local: float) -> float:
        """Return the latest that the store's clock can show at local time *local*; 0 until it is `known`."""
        if self._at is None:
            return 0.0
        return local + self._high + _DRIFT * abs(local - self._at)

    def earliest(self, local: float) -> float:
        """Return the earliest that the store's clock can show at local time *local*; 0 until it is `known`."""
        if self._at is None:
            return 0.0
        return local + self._low - _DRIFT * abs(local - self._at)

    def middle(self, local: float) -> float:
        """Return the best single guess of what the store's clock shows at local time *local*."""
        return local + (self._low + self._high) / 2


def deadline(stamp: float, expiry: float, offset: float) -> float:
    """Return the local time at which a message is too old, whatever the clocks do until then.

    Args:
        stamp: when the store took it in, by the store's clock.
        expiry: seconds that it may live.
        offset: the latest that the store's clock can be ahead of the local one now, in seconds.
    """
    return stamp + expiry * (1 - _DRIFT) - offset


def moved(stamp: float, here: float, there: float) -> float:
    """Return the stamp of a message that goes from one store to another: it is as old there as it was here, or older.

    Args:
        stamp: when the store that it leaves took it in, by that store's clock.
        here: what that clock showed when the message was taken out.
        there: what the other store's clock has shown before that.
    """
    return there - max(0.0, here - stamp)


def counts_lifetimes(group_expiry: float | None) -> tuple[float, float]:
    """Return for how many seconds statistics are kept after the last message: those of all queues, those of one.

    Args:
        group_expiry: seconds that a membership lasts; None: as long as its owner lives. The statistics of all queues
            are kept for as long, or for a day.
    """
    whole = GROUP_KEYS_LIFETIME if group_expiry is None else group_expiry
    return whole, min(whole, COUNTS_LIFETIME)
