"""What all requests of a store have in common: the names of the keys, lifetimes, and the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer_redis._keys import Keys

if TYPE_CHECKING:
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock

__all__ = ("RequestSettings",)


class RequestSettings:
    """The configuration as requests need it.

    Attributes:
        expiry: milliseconds that a message lives.
        lease: milliseconds that a lease lasts.
        left: milliseconds for which it is known which members have left a group.
        group: milliseconds that the membership of a channel lasts that the owner of its inbox did not add.
        owned: milliseconds that one lasts that the owner did add; -1: as long as the owner lives.
        all_counts: milliseconds that the statistics of all queues together are kept.
        queue_counts: milliseconds that those of one queue are kept.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._clock = clock
        self.keys: Keys = Keys(rules.prefix)
        self.expiry: int = _milliseconds(rules.expiry)
        self.lease: int = _milliseconds(rules.expiry * LEASE_FACTOR)
        self.left: int = 2 * self.lease
        self.group: int = _milliseconds(rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME)
        self.owned: int = -1 if rules.group_expiry is None else self.group
        self.inbox_capacity: int = rules.inbox_capacity
        whole, each = counts_lifetimes(rules.group_expiry)
        self.all_counts: int = _milliseconds(whole)
        self.queue_counts: int = _milliseconds(each)

    @property
    def offset(self) -> int:
        """Milliseconds to add to the server's clock."""
        return round(self._clock.offset * 1000)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
