"""Starts real Clusters on 127.0.0.1 for the tests, and moves their slots; they are stopped afterwards."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import redis

from channel_layer_redis._replies import list_of, text
from channel_layer_redis._slots import SLOTS, Endpoint, read_slots
from channel_layer_redis.addresses import ClusterNodes, TCPAddress
from channel_layer_redis.tls import TLS
from tests.support import reaper
from tests.support.servers import Server, ServerKind
from tests.support.tls import issue

__all__ = ("Cluster", "StartCluster", "await_true")

_PATIENCE: Final = 60.0
"""Seconds that nodes get to agree; it takes them two."""

_FAILOVER_LIMIT: Final = 6.0
"""Seconds after which a replica is asked once more to take over: on a busy machine it gives up after five."""


def await_true(condition: Callable[[], object], what: str | Callable[[], str], patience: float = _PATIENCE) -> None:
    """Wait until a condition holds; *what* says why it should have."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, what if isinstance(what, str) else what()
        time.sleep(0.02)


class Cluster:
    """A Cluster whose slots are given to its primaries in equal ranges. A context manager that stops it.

    Args:
        kind: where the servers come from.
        primaries: how many nodes serve slots.
        replicas: how many replicas each of them has.
        node_timeout: milliseconds after which a node counts as away.
        arguments: more of the servers' command lines.
        tls: listen with TLS too, on second ports.

    Attributes:
        nodes: all servers, the primaries first.
    """

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        primaries: int = 3,
        replicas: int = 0,
        node_timeout: int = 5000,
        arguments: tuple[str, ...] = (),
        tls: bool = False,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self._ca_file = Path()
        self._arguments = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout)),
            *("--repl-diskless-sync-delay", "0", "--cluster-replica-validity-factor", "0"),
            *self._tls_arguments(tls=tls),
            *arguments,
        )
        self._kind = kind
        self._tls = tls
        self.nodes: list[Server] = []
        try:
            for _ in range(primaries * (1 + replicas)):
                self.start_node()
            self._form(primaries)
        except BaseException:
            self.stop()
            raise

    def _tls_arguments(self, *, tls: bool) -> tuple[str, ...]:
        """Return what lets the nodes trust one another, who else have an authority each."""
        if not tls:
            return ()
        folder = reaper.scratch_directory()
        self._stack.callback(reaper.discard, folder)
        files = issue(folder)
        self._ca_file = files.ca_file
        names = {
            "cert-file": files.certificate_file,
            "key-file": files.key_file,
            "ca-cert-file": files.ca_file,
            "cluster": "yes",
        }
        return tuple(word for name, value in names.items() for word in (f"--tls-{name}", str(value)))

    # -- its nodes

    def start_node(self) -> Server:
        """Start a node, which knows no other one."""
        node = self._stack.enter_context(Server(self._kind, tls=self._tls, arguments=self._arguments))
        self.nodes.append(node)
        return node

    def add_node(self) -> Server:
        """Start a node, and let it join the Cluster, without slots."""
        node = self.start_node()
        self.command(node, "CLUSTER", "MEET", "127.0.0.1", _own_port(self.nodes[0]))
        self._await_agreement(self.nodes)
        await_true(lambda: self._is_ready(node), "the node was not ready")
        return node

    def hosts(self, partitions: int = 64, *, tls: bool = False) -> ClusterNodes:
        """Return what a layer is given."""
        nodes = (TCPAddress("127.0.0.1", node.port) for node in self.nodes[:2])
        if tls:
            trusted = TLS(str(self._ca_file))
            nodes = (TCPAddress("127.0.0.1", _own_port(node), trusted) for node in self.nodes[:2])
        return ClusterNodes(tuple(nodes), partitions)

    def pids(self) -> set[int]:
        """Return the process ids of the nodes that run."""
        return {node.pid for node in self._running()}

    def stop(self) -> None:
        """Stop all nodes. Idempotent."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # -- what it holds

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of all primaries that begin with a prefix."""
        return sorted({key for node in self._running() if self.is_primary(node) for key in node.keys(prefix)})

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with a prefix."""
        for node in self._running():
            if node.host().databases() and self.is_primary(node):
                for key in node.keys(prefix):
                    node.ask("UNLINK", key)

    # -- where its slots are

    def command(self, node: Server, *arguments: str | float | bytes) -> object:
        """Return the reply of a node to one command, as it comes."""
        return node.ask(*arguments)

    def node_id(self, node: Server) -> str:
        """Return the id of a node."""
        return text(self.command(node, "CLUSTER", "MYID"))

    def is_primary(self, node: Server) -> bool:
        """Whether a node is a primary."""
        return node.host().info("replication")["role"] == "master"

    def owner(self, slot: int) -> Server:
        """Return the node that serves a slot, as the first node that runs sees it."""
        return self._at(self.owners(self._running()[0])[slot])

    def owners(self, node: Server) -> dict[int, Endpoint]:
        """Return which node serves each slot, as one of them sees it."""
        reply = self.command(node, "CLUSTER", "SLOTS")
        return {
            slot: each.endpoint
            for each in read_slots(reply, "127.0.0.1")
            if each.endpoint is not None
            for slot in range(each.first, each.last + 1)
        }

    def move_slots(self, slots: list[int], target: Server) -> None:
        """Move slots to another node, key by key, as ``redis-cli --cluster reshard`` does."""
        for slot in slots:
            source = self.owner(slot)
            if source is not target:
                self.begin_move(slot, source, target)
                while self.move_keys(slot, source, target):
                    pass
                self.end_move(slot, target)

    def begin_move(self, slot: int, source: Server, target: Server) -> None:
        """Tell two nodes that a slot is on its way from one to the other."""
        self.command(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", self.node_id(source))
        self.command(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", self.node_id(target))

    def move_keys(self, slot: int, source: Server, target: Server, count: int = 10) -> int:
        """Move some keys of a slot; return how many."""
        found = self.command(source, "CLUSTER", "GETKEYSINSLOT", slot, count)
        keys = [key for key in list_of(found) if isinstance(key, bytes)]
        if keys:
            self.command(source, "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, slot: int, target: Server) -> None:
        """Give a slot to a node: it hears of it first, and then all primaries."""
        owner = self.node_id(target)
        for node in (target, *(node for node in self._running() if node is not target)):
            if self.is_primary(node):
                self.command(node, "CLUSTER", "SETSLOT", slot, "NODE", owner)

    def migrate_slots(self, first: int, last: int, target: Server) -> None:
        """Move a range of slots of one node to another one at once, as Valkey 9 can; return when that is done."""
        source = self.owner(first)
        self.command(source, "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", self.node_id(target))
        place = ("127.0.0.1", target.port)
        await_true(
            lambda: self.owners(source).get(first) == place,
            lambda: f"the slots were not migrated: {self.command(source, 'CLUSTER', 'GETSLOTMIGRATIONS')!r}",
        )

    def slots_of(self, node: Server) -> list[int]:
        """Return the slots of a node."""
        place = ("127.0.0.1", node.port)
        return [slot for slot, endpoint in self.owners(self._running()[0]).items() if endpoint == place]

    def replica_of(self, primary: Server) -> Server:
        """Return a replica of a primary."""
        port = str(primary.port)
        for node in self._running():
            found = node.host().info("replication")
            if found["role"] != "master" and str(found["master_port"]) == port:
                return node
        raise LookupError(primary)

    def fail_over(self, primary: Server) -> Server:
        """Have a replica take the place of its primary, without a loss; return it once it has."""
        replica = self.replica_of(primary)
        again = 0.0

        def taken_over() -> bool:
            nonlocal again
            if self.is_primary(replica):
                return True
            if time.monotonic() > again:
                again = time.monotonic() + _FAILOVER_LIMIT
                with contextlib.suppress(redis.ResponseError):  # it has become a primary meanwhile
                    self.command(replica, "CLUSTER", "FAILOVER")
            return False

        await_true(taken_over, "the replica did not take over")
        return replica

    # -- forming it

    def _form(self, primaries: int) -> None:
        edges = [round(place * SLOTS / primaries) for place in range(primaries + 1)]
        for place, node in enumerate(self.nodes):
            self.command(node, "CLUSTER", "SET-CONFIG-EPOCH", place + 1)
        for node, (first, end) in zip(self.nodes, itertools.pairwise(edges), strict=False):
            self.command(node, "CLUSTER", "ADDSLOTS", *range(first, end))
        for node in self.nodes[1:]:
            self.command(self.nodes[0], "CLUSTER", "MEET", "127.0.0.1", _own_port(node))
        self._await_agreement(self.nodes)
        for place, node in enumerate(self.nodes[primaries:]):
            self.command(node, "CLUSTER", "REPLICATE", self.node_id(self.nodes[place % primaries]))
        await_true(lambda: all(map(self._is_ready, self.nodes)), "the Cluster was not ready")

    def _await_agreement(self, nodes: list[Server]) -> None:
        def known(node: Server) -> bool:
            found = text(self.command(node, "CLUSTER", "NODES"))
            return len(re.findall(r"\bconnected\b", found)) == len(nodes) and "handshake" not in found

        await_true(lambda: all(map(known, nodes)), "the nodes did not meet")

    def _is_ready(self, node: Server) -> bool:
        replication = node.host().info("replication")
        linked = replication["role"] == "master" or replication["master_link_status"] == "up"
        return linked and "cluster_state:ok" in text(self.command(node, "CLUSTER", "INFO"))

    def _running(self) -> list[Server]:
        return list(self._find_running())

    def _find_running(self) -> Iterator[Server]:
        for node in self.nodes:
            with contextlib.suppress(Exception):
                assert node.pid
                yield node

    def _at(self, endpoint: Endpoint) -> Server:
        return next(node for node in self.nodes if node.port == endpoint[1])


def _own_port(node: Server) -> int:
    """Return the port by which other nodes know a node."""
    return node.port if node.tls is None else node.tls.port


class StartCluster(Protocol):
    """The type of the fixture `start_cluster`: a function that makes a `Cluster`."""

    def __call__(
        self,
        kind: ServerKind | None = None,
        *,
        primaries: int = 3,
        replicas: int = 0,
        node_timeout: int = 5000,
        arguments: tuple[str, ...] = (),
        tls: bool = False,
    ) -> Cluster:
        """Start a Cluster; arguments are those of `Cluster`."""
        ...
