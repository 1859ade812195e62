"""Sentinels on 127.0.0.1, and services that they watch: a primary and its replicas."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import redis

from channel_layer.testing.servers import ServerNotStarted
from channel_layer_redis._replies import is_list, number
from channel_layer_redis.options import SentinelDict
from tests.support.servers import Server, ServerKind
from tests.support.tls import Certificates

__all__ = ("SERVICE", "Sentinel", "Service")

SERVICE: Final = "mymaster"
"""What sentinels call a service."""

_PATIENCE: Final = 30.0
"""Seconds within which a sentinel or a replica has to have seen what it waits for, on a busy machine, too."""

_PAUSE: Final = 0.02


class Sentinel(Server):
    """A sentinel. What it is given to watch, it is told by commands."""

    def _command_line(self, tls_port: int, certificates: Certificates | None) -> list[str | Path]:
        binary, *rest = super()._command_line(tls_port, certificates)
        configuration = self.unix_path.parent / "sentinel.conf"
        configuration.touch()
        return [binary, configuration, "--sentinel", *rest]


class Service:
    """A primary and its replicas, and the sentinels that watch them.

    Args:
        stack: ends all of them.
        kind: of every server.
        replicas: how many.
        sentinels: how many.
        down_after: seconds after which the sentinels hold a silent primary for dead.
        password: of the primary and its replicas.
        sentinel_password: of the sentinels.
        name: what they call it.
        watchers: sentinels that watch another service already.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        kind: ServerKind | None = None,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        down_after: float = 1.0,
        password: str | None = None,
        sentinel_password: str | None = None,
        name: str = SERVICE,
        watchers: tuple[Sentinel, ...] = (),
    ) -> None:
        self.name = name
        self.password = password
        self._stack = stack
        login = () if password is None else ("--masterauth", password)
        quick = ("--repl-diskless-sync-delay", "0", "--replica-announce-ip", "127.0.0.1")
        arguments = (*login, *quick)
        self.servers = [
            stack.enter_context(Server(kind, password=password, arguments=arguments)) for _ in range(1 + replicas)
        ]
        primary = self.servers[0]
        for replica in self.servers[1:]:
            replica.host().command("REPLICAOF", "127.0.0.1", primary.port)
        _await(lambda: all(_is_linked(replica) for replica in self.servers[1:]))
        self.sentinels = watchers or tuple(
            stack.enter_context(Sentinel(kind, password=sentinel_password)) for _ in range(sentinels)
        )
        settings = {"down-after-milliseconds": round(down_after * 1000), "failover-timeout": 5000}
        self._look(info=200, publish=200)
        for sentinel in self.sentinels:
            quorum = len(self.sentinels) // 2 + 1
            sentinel.host().command("SENTINEL", "MONITOR", name, "127.0.0.1", primary.port, quorum)
            if password is not None:
                sentinel.host().command("SENTINEL", "SET", name, "auth-pass", password)
            for option, value in settings.items():
                sentinel.host().command("SENTINEL", "SET", name, option, value)
        _await(self._is_complete)
        self._look(info=10_000, publish=2_000)  # the defaults

    def pids(self) -> set[int]:
        """Return the process ids of all servers and sentinels."""
        return {server.pid for server in (*self.servers, *self.sentinels)}

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with a prefix."""
        for host in self.primary.host().databases():
            host.remove(prefix)

    def stop(self) -> None:
        """Stop what the stack ends. Idempotent."""
        self._stack.close()

    @property
    def entry(self) -> SentinelDict:
        """The entry of ``hosts``."""
        pairs = [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]
        entry: SentinelDict = {"sentinels": pairs, "master_name": self.name}
        if self.password is not None:
            entry["password"] = self.password
        if self.sentinels[0].password is not None:
            entry["sentinel_kwargs"] = {"password": self.sentinels[0].password}
        return entry

    @property
    def primary(self) -> Server:
        """The server that a sentinel calls the primary."""
        return next(server for server in self.servers if server.port == self._named(self.sentinels[0]))

    def is_replicated(self) -> bool:
        """Whether every replica has got what has been written."""
        offset = self.primary.host().info("replication")["master_repl_offset"]
        return all(server.host().info("replication")["master_repl_offset"] == offset for server in self.servers)

    def fail_over(self) -> Server:
        """Have the sentinels make a replica the primary, as in maintenance; return it once all of them name it."""
        old = self.primary
        _await(self._begins_failover)
        return self.await_failover(old)

    def await_failover(self, old: Server) -> Server:
        """Wait until all sentinels name another primary, and return it."""
        _await(lambda: {self._named(sentinel) for sentinel in self.sentinels}.isdisjoint({old.port}))
        return self.primary

    def _look(self, *, info: int, publish: int) -> None:
        """Let the sentinels look for replicas and tell one another of themselves, every so many milliseconds."""
        for sentinel in self.sentinels:
            sentinel.host().command("SENTINEL", "DEBUG", "info-period", info, "publish-period", publish)

    def _begins_failover(self) -> bool:
        try:
            self.sentinels[0].host().command("SENTINEL", "FAILOVER", self.name)
        except redis.ResponseError as exc:  # it does not know of a good replica yet, or one is under way
            if "NOGOODSLAVE" in str(exc) or "INPROG" in str(exc):
                return False
            raise
        return True

    def _named(self, sentinel: Sentinel) -> int:
        reply = sentinel.host().command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.name)
        return number(_items(reply)[1])

    def _is_complete(self) -> bool:
        """Whether each sentinel knows all others and all replicas."""
        wanted = (len(self.servers) - 1, len(self.sentinels) - 1)
        found: set[tuple[int, int]] = set()
        for sentinel in self.sentinels:
            replicas, others = (
                _items(sentinel.host().command("SENTINEL", what, self.name)) for what in ("REPLICAS", "SENTINELS")
            )
            found.add((len(replicas), len(others)))
        return found == {wanted}


def _items(reply: object) -> list[object]:
    """Return a reply that has to be a list."""
    assert is_list(reply)
    return reply


def _is_linked(replica: Server) -> bool:
    return replica.host().info("replication")["master_link_status"] == "up"


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ServerNotStarted("the sentinels have not seen in time what they have to")
        time.sleep(_PAUSE)
