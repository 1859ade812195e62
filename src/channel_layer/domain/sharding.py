"""Which host keeps a queue or a group: rendezvous hashing over host identities.

With rendezvous hashing, a host that is added takes its share from all the others, and nothing else moves. Identities
are hashed (``host:port/db``), so credentials, schemes and the order of the list do not matter.

Source: Thaler and Ravishankar, "Using name-based mappings to increase hit rates" (1998).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.domain.names import GroupName, Queue

__all__ = ("Ring",)

_REMEMBERED = 65536
"""Names whose shards are cached; a full cache is emptied."""


class Ring:
    """The hosts, and which of them keeps a queue or a group.

    Args:
        identities: one string for each host, all different; shard *i* is the host of ``identities[i]``.
        spread: whether normal channels are spread over all shards; else each is on one, like everything else.

    Attributes:
        spread: whether they are spread over several shards.
    """

    __slots__ = ("_identities", "_keys", "_orders", "_ranks", "spread")

    def __init__(self, identities: Sequence[str], *, spread: bool = True) -> None:
        self.spread: bool = spread and len(identities) > 1
        self._ranks = None if spread else 1
        self._identities = tuple(identity.encode() for identity in identities)
        self._keys = tuple(blake2b(identity, digest_size=16).digest() for identity in self._identities)
        self._orders: dict[str, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self._identities)

    def name(self, shard: int) -> str:
        """Return the identity of a host."""
        return self._identities[shard].decode()

    def queue(self, queue: Queue) -> int:
        """Return the shard that keeps *queue*. It takes a `Queue`, so that a full name cannot be routed by mistake."""
        return 0 if len(self._identities) == 1 else self.order(queue)[0]

    def group(self, group: GroupName) -> int:
        """Return the shard that keeps *group*."""
        return 0 if len(self._identities) == 1 else (self._orders.get(group.name) or self._rank(group.name))[0]

    def order(self, queue: Queue) -> tuple[int, ...]:
        """Return the shards of a normal channel, the one that `queue` returns first."""
        return self._orders.get(queue.name) or self._rank(queue.name)

    def _rank(self, name: str) -> tuple[int, ...]:
        text = name.encode()
        weights = [blake2b(text, digest_size=8, key=key).digest() for key in self._keys]
        ranked = sorted(zip(weights, self._identities, range(len(weights)), strict=True), reverse=True)
        if len(self._orders) >= _REMEMBERED:
            self._orders = {}
        order = self._orders[name] = tuple(shard for _, _, shard in ranked[: self._ranks])
        return order
