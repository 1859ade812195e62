"""Where the partitions of a Cluster are: what all event loops and threads of a process know of its nodes.

A partition is all keys with one hash tag, and so in one slot; the node that serves the slot changes as slots are moved
and primaries fail. What one loop or thread hears of that holds for all.
"""

from __future__ import annotations

import logging
import random
import re
import threading
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from channel_layer.errors import StoreError
from channel_layer_redis._locators import FixedLocator
from channel_layer_redis._replies import UNREADABLE
from channel_layer_redis._slots import moves, read_endpoint, read_slots, served_by, slot_of, tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer_redis._greeting import Role
    from channel_layer_redis._replies import Redirection
    from channel_layer_redis._slots import Endpoint, SlotMove, SlotRange
    from channel_layer_redis.addresses import ClusterNodes, ServerAddress, TCPAddress

__all__ = ("REFRESH_SECONDS", "ClusterMap", "Listener", "NodeLocator", "more_lasting")

_logger = logging.getLogger("channel_layer")

REFRESH_SECONDS: Final = 30.0
"""How often the nodes are asked where the slots are, if nothing else gives a reason to."""

_ASK_SECONDS: Final = 1.0
"""How long one node may take to say where the slots are, before another one is asked."""

_ENOUGH_SECONDS: Final = 0.1
"""What was heard so lately is not asked again."""

_MOST_TOLD: Final = 4
"""Moves of slots between two nodes that one line of the log names."""

_TAG: Final = re.compile(rb"\{(\d+)\}[a-z]:")
"""The tag in a key of ours; a script, which may be before the keys of a command, has nothing like it."""


class Listener(Protocol):
    """The connections of one event loop, or of all threads, to the nodes of a Cluster."""

    def changed(self) -> None:
        """Do what the map says now; called in any thread."""
        ...

    def doubt(self) -> None:
        """Ask the nodes soon; called in any thread."""
        ...


class NodeLocator(FixedLocator):
    """The locator of one node. A node that has lost its slots keeps its place: only the map says what it serves."""

    def __init__(self, address: TCPAddress, role: Role, cluster: ClusterMap) -> None:
        super().__init__(address)
        self.node: TCPAddress = address
        self._role: Role = role
        self._cluster = cluster

    @property
    def role(self) -> Role:
        """What the node has to be."""
        return self._role

    def demoted(self, address: ServerAddress) -> None:  # noqa: ARG002 - there is but one
        """The node has become a replica: another one serves its slots, and it redirects what is on its way to it."""
        self._cluster.doubt()

    def lost(self) -> None:
        """The node may have gone."""
        self._cluster.doubt()


class ClusterMap:
    """Which node has the slot of each partition. One object serves all event loops and threads of the process.

    Args:
        nodes: how to reach the Cluster.

    Attributes:
        identities: the names of the partitions, which no node has a part in: they stay where nodes come and go.
        tags: the hash tags of the partitions.
        label: what errors call the Cluster.
        endpoints: where each partition is; None: no node is known to have its slot. Replaced as a whole.
    """

    def __init__(self, nodes: ClusterNodes) -> None:
        count = nodes.partitions
        self.identities: tuple[str, ...] = tuple(f"partition {place} of {count}" for place in range(count))
        self.tags: tuple[str, ...] = tags(count)
        self.label: str = nodes.label
        self.endpoints: tuple[Endpoint | None, ...] = (None,) * count
        self._nodes = nodes
        self._slots = tuple(map(slot_of, self.tags))
        self._partitions = {slot: place for place, slot in enumerate(self._slots)}
        self._by_tag = {tag: place for place, tag in enumerate(self.tags)}
        self._ranges: list[SlotRange] = []
        """What the nodes have said last."""
        self._known: tuple[Endpoint, ...] = ()
        """All primaries that were last heard of, those without a partition too."""
        self._heard_at = -REFRESH_SECONDS - _ENOUGH_SECONDS + time.monotonic()
        self._lock = threading.Lock()
        self._locators: dict[Endpoint, NodeLocator] = {}
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()

    # -- what is known

    @property
    def heard_lately(self) -> bool:
        """Whether the nodes were asked just now."""
        return time.monotonic() - self._heard_at < _ENOUGH_SECONDS

    @property
    def old(self) -> bool:
        """Whether the nodes should be asked again."""
        return time.monotonic() - self._heard_at >= REFRESH_SECONDS

    def endpoint(self, partition: int) -> Endpoint:
        """Return where a partition is.

        Raises:
            StoreError: no node is known to have its slot.
        """
        endpoint = self.endpoints[partition]
        if endpoint is None:
            what = f"no node of {self.label} serves slot {self._slots[partition]}: see CLUSTER SLOTS, and assign it"
            raise StoreError(what, retryable=True, outcome="not_sent", server=self.label)
        return endpoint

    def partition(self, refusal: Redirection, command: bytes) -> int | None:
        """Return the partition of a command that was redirected; None: it is of none."""
        if refusal.slot is not None:
            return self._partitions.get(refusal.slot)
        found = _TAG.search(command)
        return None if found is None else self._by_tag.get(found[1].decode())

    def locator(self, endpoint: Endpoint) -> NodeLocator:
        """Return the locator of a node, the same for all event loops and threads."""
        with self._lock:
            locator = self._locators.get(endpoint)
            if locator is None:
                locator = self._locators[endpoint] = NodeLocator(self._address(endpoint), "primary", self)
            return locator

    def asked(self, timeout: float) -> list[tuple[NodeLocator, float]]:
        """Return all nodes that can be asked where the slots are, in order, and the seconds that each may take.

        Args:
            timeout: what the last of them may take.
        """
        known = list(self._known)
        random.shuffle(known)  # else all processes ask one node
        endpoints = dict.fromkeys((*known, *((node.host, node.port) for node in self._nodes.nodes)))
        locators = [NodeLocator(self._address(endpoint), "node", self) for endpoint in endpoints]
        seconds = [min(_ASK_SECONDS, timeout)] * (len(locators) - 1)
        return list(zip(locators, [*seconds, timeout], strict=True))

    def _address(self, endpoint: Endpoint) -> TCPAddress:
        host, port = endpoint
        return replace(self._nodes.nodes[0], host=host, port=port)

    # -- what is heard

    def add(self, listener: Listener) -> None:
        """Tell a listener of changes from now on."""
        with self._lock:
            self._listeners.add(listener)

    def heard(self, reply: object, asked: TCPAddress) -> None:
        """Learn from the reply of a node to ``CLUSTER SLOTS``.

        Raises:
            StoreError: it is no such reply.
        """
        try:
            ranges = read_slots(reply, asked.host)
        except UNREADABLE as exc:
            what = f"{asked.label} gives no answer to CLUSTER SLOTS that can be read: {exc}"
            raise StoreError(what, retryable=True, outcome="not_sent", server=asked.identity) from exc
        if not ranges:  # it was reset, or has not joined yet
            what = f"{asked.label} knows no slots: make the Cluster by redis-cli --cluster create, or see CLUSTER INFO"
            raise StoreError(what, retryable=True, outcome="not_sent", server=asked.identity)
        ranges = [replace(each, endpoint=self._reachable(each.endpoint)) for each in ranges]
        endpoints = tuple(served_by(ranges, self._slots))
        with self._lock:
            changed = endpoints != self.endpoints
            self.endpoints = endpoints
            before, self._ranges = self._ranges, ranges
            self._known = tuple({each.endpoint: None for each in ranges if each.endpoint is not None})
            self._heard_at = time.monotonic()
            for left in self._locators.keys() - set(self._known):
                del self._locators[left]
        if changed:
            self._tell_changed()
        if before not in ([], ranges) and (moved := moves(before, ranges)):
            _logger.info("%s", self._told(moved))

    def redirection(self, refusal: Redirection, asked: Endpoint) -> Endpoint | None:
        """Learn from a redirection by the node at *asked*; return where the command is to be sent, if that is known."""
        endpoint = self._reachable(read_endpoint(refusal.endpoint, asked[0]))
        if endpoint is None or refusal.asking or refusal.slot is None:
            return endpoint
        place = self._partitions.get(refusal.slot)
        with self._lock:
            changed = place is not None and self.endpoints[place] != endpoint
            if place is not None and changed:
                self.endpoints = (*self.endpoints[:place], endpoint, *self.endpoints[place + 1 :])
        if changed:
            self._tell_changed()
        return endpoint

    def doubt(self) -> None:
        """Have the nodes asked soon, as a slot may have moved, or a node gone."""
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.doubt()

    def _told(self, moved: Sequence[SlotMove]) -> str:
        """Return what the log says of slots that have moved."""
        told: list[str] = []
        for each in moved[:_MOST_TOLD]:
            every = each.every and each.source is not None and each.target is not None
            slots = "1 slot that was" if each.count == 1 else f"{'all ' * every}{each.count} slots that were"
            source = f"at {self._address(each.source).endpoint}" if each.source is not None else "at no known node"
            target = f"{self._address(each.target).endpoint} now" if each.target is not None else "no known node"
            told.append(f"{target} serves {slots} {source}")
        if len(moved) > _MOST_TOLD:
            told.append(f"{len(moved) - _MOST_TOLD} more such moves: see CLUSTER SLOTS")
        return "; ".join(told)

    def _tell_changed(self) -> None:
        with self._lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.changed()

    def _reachable(self, endpoint: Endpoint | None) -> Endpoint | None:
        """Return an endpoint as it can be reached from here."""
        remap = self._nodes.address_remap
        return endpoint if endpoint is None or remap is None else remap(endpoint)


def more_lasting(known: StoreError | None, new: StoreError) -> StoreError:
    """Return which of the errors of two nodes to raise: the later one, unless the first does not pass by itself."""
    return new if known is None or known.retryable else known
