"""The slots of a Cluster: which one a key is in, which nodes serve them, and tags that spread partitions evenly.

Source: the Redis Cluster specification, "Key distribution model", "Hash tags" and "Client first connection and handling
of redirections".
"""

from __future__ import annotations

import itertools
from binascii import crc_hqx
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from channel_layer_redis._replies import list_of, number, text, unexpected

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = (
    "SLOTS",
    "Endpoint",
    "SlotMove",
    "SlotRange",
    "moves",
    "read_endpoint",
    "read_slots",
    "served_by",
    "slot_of",
    "tags",
)

SLOTS: Final = 16384
"""How many slots a Cluster has."""

Endpoint: TypeAlias = tuple[str, int]
"""Host and port, as a node announces them."""

_UNKNOWN: Final = "?"
"""What a node announces that has been told to announce its name, and has none."""


def slot_of(tag: str) -> int:
    """Return the slot of all keys with this hash tag."""
    return crc_hqx(tag.encode(), 0) % SLOTS


@lru_cache
def tags(partitions: int) -> tuple[str, ...]:
    """Return the hash tag of each partition: slots in the middle of equal parts.

    So any contiguous range of slots, as tools give to a node, has its fair share of the partitions. Tags that are just
    counted up leave 27 of 128 on one of six nodes and 15 on another. Keys are made of them, so they may never change.
    """
    wanted = {(2 * place + 1) * SLOTS // (2 * partitions): place for place in range(partitions)}
    found: dict[int, str] = {}
    for count in itertools.count():
        place = wanted.get(crc_hqx(b"%d" % count, 0) % SLOTS)
        if place is not None and place not in found:
            found[place] = str(count)
            if len(found) == partitions:
                break
    return tuple(found[place] for place in range(partitions))


@dataclass(frozen=True, slots=True)
class SlotRange:
    """A range of slots, and the primary that serves them.

    Attributes:
        first: the first slot.
        last: the last one.
        endpoint: where the primary is; None: it does not say.
    """

    first: int
    last: int
    endpoint: Endpoint | None


def read_slots(reply: object, asked: str) -> list[SlotRange]:
    """Return what ``CLUSTER SLOTS`` says; *asked* is the host of the node that says it.

    Raises:
        ValueError: that is no such reply.
    """
    ranges: list[SlotRange] = []
    for entry in list_of(reply):
        first, last, *nodes = list_of(entry)
        endpoint = _endpoint_of(list_of(nodes[0]), asked) if nodes else None
        ranges.append(SlotRange(number(first), number(last), endpoint))
    return ranges


def _endpoint_of(node: list[object], asked: str) -> Endpoint | None:
    """Return where a node is: its endpoint, its port, its id, and since Redis 7 what else it is reached by."""
    if len(node) < 2:
        raise unexpected(node)
    host, port = text(node[0]), number(node[1])
    if host == _UNKNOWN:
        facts = list_of(node[3]) if len(node) > 3 else []
        host = next((text(value) for name, value in itertools.pairwise(facts) if name == b"ip"), "") or _UNKNOWN
    return _endpoint(host, port, asked)


def _endpoint(host: str, port: int, asked: str) -> Endpoint | None:
    """Return an endpoint as it is announced; an empty or missing host stands for the one that was asked."""
    if host == _UNKNOWN or not port:
        return None
    return host.lower() or asked, port


def read_endpoint(announced: str, asked: str) -> Endpoint | None:
    """Return the endpoint in a redirection, ``host:port``, by a node at *asked*; None: it does not say."""
    host, colon, port = announced.rpartition(":")
    if not colon or not port.isdecimal():
        return None
    return _endpoint(host.strip("[]"), int(port), asked)


def served_by(ranges: Iterable[SlotRange], slots: Sequence[int]) -> list[Endpoint | None]:
    """Return of each slot where its primary is; None: no node serves it, or it is not known where that is."""
    ordered = sorted(ranges, key=lambda each: each.first)
    found: list[Endpoint | None] = []
    for slot in slots:
        within = (each.endpoint for each in ordered if each.first <= slot <= each.last)
        found.append(next(within, None))
    return found


@dataclass(frozen=True, slots=True)
class SlotMove:
    """Slots that one primary served and another one serves now.

    Attributes:
        count: how many.
        source: where they were; None: no primary was known to serve them.
        target: where they are; None: none does.
        every: they are all that were there.
    """

    count: int
    source: Endpoint | None
    target: Endpoint | None
    every: bool


def moves(before: Iterable[SlotRange], after: Iterable[SlotRange]) -> list[SlotMove]:
    """Return which slots have moved from where to where, the most of them first."""
    sources, targets = _owners(before), _owners(after)
    had = Counter(sources)
    counts = Counter(pair for pair in zip(sources, targets, strict=True) if pair[0] != pair[1])
    return [SlotMove(count, old, new, count == had[old]) for (old, new), count in counts.most_common()]


def _owners(ranges: Iterable[SlotRange]) -> list[Endpoint | None]:
    owners: list[Endpoint | None] = [None] * SLOTS
    for each in ranges:
        last = min(each.last, SLOTS - 1)
        owners[each.first : last + 1] = [each.endpoint] * (last + 1 - each.first)
    return owners
