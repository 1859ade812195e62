"""How many unread messages a channel may hold: the configured default, exceptions by pattern, and shares.

Pure and compiled once, because every send asks; the answer depends on nothing but the configuration and the
name, so that two processes with one configuration always agree.

Source: the asgi_redis README ("capacity", "channel_capacity") and the specification's section on capacity.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from channel_layer.domain.names import ChannelName

__all__ = ("CapacityTable", "compile_glob", "shares")

_REMEMBERED = 4096
"""Names whose capacity is kept at hand; full, the table starts anew, so that random names cannot grow it."""


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Turn a shell pattern into a regular expression that matches whole names, case-sensitively."""
    return re.compile(translate(pattern))


class CapacityTable:
    """The capacity of every channel name.

    Args:
        default: messages, for names that no pattern matches.
        exceptions: (pattern, messages) pairs, tried in this order; the first pattern that matches from the
            start of the name wins.
    """

    __slots__ = ("_default", "_exceptions", "_known")

    def __init__(self, default: int, exceptions: Iterable[tuple[re.Pattern[str], int]] = ()) -> None:
        self._default = default
        self._exceptions = tuple(exceptions)
        self._known: dict[str, int] = {}

    def __call__(self, channel: ChannelName) -> int:
        """Return how many unread messages *channel* may hold."""
        return self.of(channel.name)

    def of(self, name: str) -> int:
        """Return how many unread messages the channel of this full name may hold."""
        if not self._exceptions:
            return self._default
        known = self._known.get(name)
        if known is None:
            known = next((limit for pattern, limit in self._exceptions if pattern.match(name)), self._default)
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[name] = known
        return known


def shares(capacity: int, shards: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Split a capacity over shards so that the parts sum to it exactly.

    Args:
        capacity: messages in all.
        shards: in the order of preference; the first ones get what does not divide evenly.

    Returns:
        (shard, share) pairs in the order given; a share of 0 means that the shard takes no message of this
        queue.
    """
    each, more = divmod(capacity, len(shards))
    return tuple((shard, each + (1 if place < more else 0)) for place, shard in enumerate(shards))
