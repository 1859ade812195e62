"""A Cluster of fake nodes on 127.0.0.1, one slot range each, whose refusals a test scripts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from channel_layer_redis._replies import is_list
from channel_layer_redis.addresses import ClusterNodes, TCPAddress
from tests.support.fake_server import fake_redis

__all__ = ("SILENCE", "FakeCluster", "FakeNode", "fake_cluster", "resp")

SILENCE: Final = object()
"""The reply of a node that says nothing."""


class Refused(Exception):
    """An error reply."""


def resp(value: object) -> bytes:
    """Return a reply as it goes over the wire."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case str():
            return resp(value.encode())
        case Refused():
            return b"-%b\r\n" % str(value).encode()
        case _ if is_list(value):
            parts = value
            return b"*%d\r\n%b" % (len(parts), b"".join(map(resp, parts)))
        case _:
            raise TypeError(value)


@dataclass
class FakeNode:
    """One node.

    Attributes:
        cluster: of which it is one.
        refusals: what it answers to the next commands with a key; "" serves one. Once they are over it serves.
        port: its port.
        role: what it says it is.
        seen: how many commands with a key it has got.
        connections: how many it has had.
        moving: only commands with these bytes in them are refused.
    """

    cluster: FakeCluster
    refusals: Iterator[str] = field(default_factory=lambda: iter(()))
    port: int = 0
    role: str = "master"
    seen: int = 0
    connections: int = 0
    moving: bytes = b""
    asking: bool = False

    def answer(self, command: list[bytes]) -> bytes:
        """Answer a command."""
        match command[0].upper():
            case b"HELLO":
                self.connections += 1
                mode = self.cluster.mode
                return resp(["mode", mode, "role", self.role, "id", 1])
            case b"INFO":
                return resp(f"redis_version:7.2.0\r\nrun_id:of-{self.port}\r\n")
            case b"CLUSTER":
                self.cluster.asked += 1
                return resp(self.cluster.slots())
            case b"ASKING":
                self.asking = True
                return b"+OK\r\n"
            case b"PING":
                return b"+PONG\r\n"
            case b"SCRIPT":
                return resp("0" * 40)
            case _:
                return self._serve(command)

    def _serve(self, command: list[bytes]) -> bytes:
        asked, self.asking = self.asking, False
        self.seen += 1
        refusal = next(self.refusals, "") if any(self.moving in word for word in command) else ""
        if refusal:
            return resp(Refused(refusal.format(*(node.port for node in self.cluster.nodes))))
        self.cluster.served.append((self, asked, command))
        reply = self.cluster.reply(command)
        return b"" if reply is SILENCE else resp(reply)


@dataclass
class FakeCluster:
    """All nodes.

    Attributes:
        nodes: they.
        owner: the number of the node that is said to have all slots; None: none has.
        served: the commands that were carried out, by which node, and whether it was asked only this once.
        asked: how often one was asked where the slots are.
        mode: what the nodes say they run in.
        reply: makes the reply to a command.
        slots: makes the reply to ``CLUSTER SLOTS``.
    """

    nodes: list[FakeNode] = field(default_factory=list[FakeNode])
    owner: int | None = 0
    served: list[tuple[FakeNode, bool, list[bytes]]] = field(default_factory=list[tuple[FakeNode, bool, list[bytes]]])
    asked: int = 0
    mode: str = "cluster"
    reply: Callable[[list[bytes]], object] = lambda _: 0

    def __post_init__(self) -> None:
        self.slots: Callable[[], list[object]] = self._slots

    def hosts(self, partitions: int = 2) -> ClusterNodes:
        """Return what a layer is given."""
        return ClusterNodes((TCPAddress("127.0.0.1", self.nodes[0].port),), partitions)

    def _slots(self) -> list[object]:
        if self.owner is None:
            return [[1, 1, ["127.0.0.1", self.nodes[0].port, "id"]]]
        return [[0, 16383, ["127.0.0.1", self.nodes[self.owner].port, "id"]]]


@contextlib.asynccontextmanager
async def fake_cluster(*refusals: list[str]) -> AsyncGenerator[FakeCluster]:
    """Run a Cluster of fake nodes.

    Args:
        refusals: of each node; ``{n}`` stands for the port of node n.
    """
    cluster = FakeCluster()
    async with contextlib.AsyncExitStack() as stack:
        for each in refusals:
            node = FakeNode(cluster, iter(each))
            cluster.nodes.append(node)
            node.port = await stack.enter_async_context(fake_redis(node.answer))
        yield cluster
