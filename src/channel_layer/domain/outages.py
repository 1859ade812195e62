"""Which servers cannot be used, and since when: told once when it begins and once when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ("Outages", "Part")

Part: TypeAlias = tuple[int, str]
"""A part of the layer that uses a shard: the shard, and what names the part."""

_AGAIN_SECONDS = 5.0
"""Each part tries again within a second or two; one that has not failed for longer than a try takes has ended."""


@dataclass(slots=True)
class _Outage:
    """One server that some parts of the layer cannot use.

    Attributes:
        since: local time at which the first of them failed.
        failed_at: of each part, when it failed last.
        shards: those of the parts that have failed.
    """

    since: float
    failed_at: dict[Part, float] = field(default_factory=dict[Part, float])
    shards: set[int] = field(default_factory=set[int])


class Outages:
    """The servers that a layer object cannot use in this process. Not thread-safe: the caller holds the layer's lock.

    All shards that a server has share its outage. It is over when the parts that failed have succeeded, at this server
    or at another one that has taken its shards: a server may serve reads and refuse writes.

    Args:
        timeout: seconds that a try takes at most.

    Attributes:
        away: by the server's name. Empty while all is well, which any thread may look at.
    """

    __slots__ = ("_silent_seconds", "away")

    def __init__(self, timeout: float) -> None:
        self.away: dict[str, _Outage] = {}
        self._silent_seconds = timeout + _AGAIN_SECONDS

    def fail(self, server: str, part: Part, now: float) -> bool:
        """Note that a part of the layer could not use a server; return whether this begins an outage.

        A part that goes on failing, for whatever reason, does so because of the same outage.

        Args:
            server: its name.
            part: what failed.
            now: local time, in seconds.
        """
        failed = (name for name, outage in self.away.items() if part in outage.failed_at)
        server = next(failed, server)
        begins = server not in self.away
        outage = self.away.setdefault(server, _Outage(now))
        outage.failed_at[part] = now
        outage.shards.add(part[0])
        return begins

    def succeed(self, part: Part, now: float) -> list[tuple[str, float]]:
        """Note that a part could use its shard; return the servers whose outages this ends, and their seconds."""
        ended: list[tuple[str, float]] = []
        for server, outage in list(self.away.items()):
            if part[0] in outage.shards:
                outage.failed_at.pop(part, None)
                if not any(now - at < self._silent_seconds for at in outage.failed_at.values()):
                    del self.away[server]
                    ended.append((server, now - outage.since))
        return ended
