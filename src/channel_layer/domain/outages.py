"""Which shards cannot be reached, and since when: told once when it begins and once when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ("Outages",)

_SILENT_SECONDS = 5.0
"""A part of the layer that has not failed for so long has ended: each tries again within a second or two."""


@dataclass(slots=True)
class _Outage:
    """One shard that some parts of the layer cannot use.

    Attributes:
        since: local time at which the first of them failed.
        failed_at: of each part, when it failed last.
    """

    since: float
    failed_at: dict[str, float] = field(default_factory=dict[str, float])


class Outages:
    """The shards that a layer object cannot use in this process. Not thread-safe: the caller holds the layer's lock.

    A shard is back when the parts that failed have succeeded: a server may serve reads and refuse writes.

    Attributes:
        away: by shard. Empty while all is well, which any thread may look at.
    """

    __slots__ = ("away",)

    def __init__(self) -> None:
        self.away: dict[int, _Outage] = {}

    def fail(self, shard: int, part: str, now: float) -> bool:
        """Note that a part of the layer could not use a shard; return whether this begins an outage.

        Args:
            shard: the shard.
            part: names what failed.
            now: local time, in seconds.
        """
        begins = shard not in self.away
        self.away.setdefault(shard, _Outage(now)).failed_at[part] = now
        return begins

    def succeed(self, shard: int, part: str, now: float) -> float | None:
        """Note that a part could use a shard; return how many seconds the outage took if this ends it."""
        outage = self.away.get(shard)
        if outage is None:
            return None
        outage.failed_at.pop(part, None)
        if any(now - at < _SILENT_SECONDS for at in outage.failed_at.values()):
            return None
        del self.away[shard]
        return now - outage.since
