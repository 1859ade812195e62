"""The names of all keys: ``<prefix><kind>:{<name>}``.

A kind is one letter, so that (prefix, kind, name) can be read back from a key: no two prefixes share one, even if one
begins with the other. The braces are a hash tag: all keys of one queue, or of one group, are in one slot of a Cluster.
"""

from __future__ import annotations

import re

__all__ = ("KINDS", "SCAN_COUNT", "Keys", "split")

KINDS = {
    "q": "queue that is popped (list)",
    "t": "signal: one element when a reader should look at the queue (list)",
    "u": "channels that got a message as members of a group, while nothing was taken from their queue (hash)",
    "l": "lease of an owned inbox (hash)",
    "s": "entries of an owned inbox (stream)",
    "c": "claim: the reader of an inbox that has no owner (string)",
    "g": "members of a group that the owners of their inboxes added (sorted set)",
    "o": "other members of a group (sorted set)",
    "i": "inboxes of a group with their number of members, and its version (hash)",
    "x": "members that left a group not long ago (sorted set)",
    "n": "statistics of a queue, and without a name of all queues (hash)",
    "e": "epoch: the last flush (string)",
}
"""What each letter stands for."""

SCAN_COUNT = 1000
"""Keys that the server looks at in one step of a scan."""

_GLOB = re.compile(r"([\\*?\[\]])")


class Keys:
    """The keys of one prefix."""

    __slots__ = ("epoch", "prefix")

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.epoch = f"{prefix}e:{{}}"

    def queue(self, name: str) -> tuple[str, str]:
        """Return queue and signal."""
        return f"{self.prefix}q:{{{name}}}", f"{self.prefix}t:{{{name}}}"

    def unread(self, name: str) -> str:
        """Return the hash of channels that got a message as members of a group."""
        return f"{self.prefix}u:{{{name}}}"

    def taking(self, name: str) -> tuple[str, str, str]:
        """Return the keys that change when messages are taken from a queue: queue, signal and unread."""
        return *self.queue(name), self.unread(name)

    def inbox(self, name: str) -> tuple[str, str]:
        """Return lease and stream."""
        return f"{self.prefix}l:{{{name}}}", f"{self.prefix}s:{{{name}}}"

    def claim(self, name: str) -> str:
        """Return the claim."""
        return f"{self.prefix}c:{{{name}}}"

    def counts(self, name: str = "") -> str:
        """Return the statistics of a queue; of all without a name."""
        return f"{self.prefix}n:{{{name}}}"

    def group(self, name: str) -> tuple[str, str, str, str]:
        """Return owned, others, inboxes and left."""
        prefix, tag = self.prefix, f"{{{name}}}"
        return f"{prefix}g:{tag}", f"{prefix}o:{tag}", f"{prefix}i:{tag}", f"{prefix}x:{tag}"

    @property
    def pattern(self) -> str:
        """A pattern for SCAN that matches this prefix's keys, and of all prefixes only this one's."""
        escaped = _GLOB.sub(r"\\\1", self.prefix)
        return f"{escaped}[{''.join(KINDS)}]:{{*}}"


def split(prefix: str, key: str) -> tuple[str, str]:
    """Return kind and name of one of this prefix's keys."""
    rest = key[len(prefix) :]
    return rest[0], rest[3:-1]
