"""The names of all keys: ``<prefix><kind>:{<name>}``, and in a Cluster ``<prefix>{<tag>}<kind>:<name>``.

A kind is one letter, so that (prefix, kind, name) can be read back from a key: no two prefixes share one, even if one
begins with the other. The braces are a hash tag: all keys of one queue, or of one group, are in one slot of a Cluster;
with the tag of a partition all keys of that partition are. That tag stands before all that the pattern of a SCAN leaves
open, so that Valkey 8 and Redis 8 look only at that slot.
"""

from __future__ import annotations

import re

__all__ = ("KINDS", "SCAN_COUNT", "Keys", "prefix_of")

KINDS = {
    "q": "queue that is popped (list)",
    "t": "signal: one element when a reader should look at the queue (list)",
    "r": "what each reader of a queue has taken last, for one whom the reply does not reach (hash)",
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
    """The keys of one prefix.

    Args:
        prefix: begins all of them.
        tag: the hash tag of a partition of a Cluster; "": the keys are not in one.
    """

    __slots__ = ("_head", "_left", "_right", "epoch", "pattern", "prefix", "tag")

    def __init__(self, prefix: str, tag: str = "") -> None:
        self.prefix = prefix
        self.tag = tag
        place = f"{{{tag}}}" if tag else ""
        self._head = prefix + place
        self._left, self._right = ("", "") if tag else ("{", "}")
        self.epoch = self.key("e", "")
        self.pattern = _GLOB.sub(r"\\\1", prefix) + place + f"[{''.join(KINDS)}]:{self._left}*{self._right}"
        """A pattern for SCAN that matches these keys, and of all prefixes only this one's."""

    def key(self, kind: str, name: str) -> str:
        """Return the key of a kind."""
        return f"{self._head}{kind}:{self._left}{name}{self._right}"

    def split(self, key: str) -> tuple[str, str]:
        """Return kind and name of one of these keys."""
        rest = key[len(self._head) :]
        return rest[0], rest[2:] if self.tag else rest[3:-1]

    def queue(self, name: str) -> tuple[str, str]:
        """Return queue and signal."""
        return self.key("q", name), self.key("t", name)

    def unread(self, name: str) -> str:
        """Return the hash of channels that got a message as members of a group."""
        return self.key("u", name)

    def taking(self, name: str) -> tuple[str, str, str]:
        """Return the keys that change when messages are taken from a queue: queue, signal and unread."""
        return *self.queue(name), self.unread(name)

    def taken(self, name: str) -> str:
        """Return the hash of what each reader of a queue has taken last."""
        return self.key("r", name)

    def inbox(self, name: str) -> tuple[str, str]:
        """Return lease and stream."""
        return self.key("l", name), self.key("s", name)

    def claim(self, name: str) -> str:
        """Return the claim."""
        return self.key("c", name)

    def counts(self, name: str = "") -> str:
        """Return the statistics of a queue; of all without a name."""
        return self.key("n", name)

    def group(self, name: str) -> tuple[str, str, str, str]:
        """Return owned, others, inboxes and left."""
        return self.key("g", name), self.key("o", name), self.key("i", name), self.key("x", name)


def prefix_of(key: str) -> str:
    """Return the prefix of a key; neither a prefix nor a name has braces."""
    before, _, rest = key.partition("{")
    return before[:-2] if rest.endswith("}") else before
