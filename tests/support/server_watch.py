"""Watches servers while they fail over: when each was a primary, and when it last accepted a command that sends."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import hiredis

from channel_layer_redis._packing import pack
from tests.support.servers import Server

__all__ = ("ServerWatch",)

_PAUSE: Final = 0.02
"""Seconds between two looks: as much later than it happened something may be seen."""

_PATIENCE: Final = 0.5
"""Seconds that a server gets to answer."""


class ServerWatch:
    """Looks at servers, each in a thread of its own, until the end of its block.

    Args:
        servers: primaries and replicas.
        sentinels: from which the moment of a switch is heard.
    """

    def __init__(self, servers: Sequence[Server], sentinels: Sequence[Server] = ()) -> None:
        self._ended = threading.Event()
        self._promoted: dict[int, float] = {}
        self._written: dict[int, list[float]] = defaultdict(list)
        self._switched: list[float] = []
        self._listening = threading.Barrier(len(sentinels) + 1)
        self._threads = [threading.Thread(target=self._look, args=(server.port,)) for server in servers]
        self._threads += [threading.Thread(target=self._listen, args=(each.port,)) for each in sentinels]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        self._listening.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def switched(self) -> float:
        """Return when the first sentinel told of a new primary."""
        return min(self._switched)

    def promoted(self, server: Server) -> float:
        """Return when a server was first seen to be a primary, after it had been a replica."""
        return self._promoted[server.port]

    def last_write(self, server: Server, until: float = float("inf")) -> float | None:
        """Return when a server last accepted a command that sends, or was seen to have; None: never."""
        return max((moment for moment in self._written[server.port] if moment < until), default=None)

    def _look(self, port: int) -> None:
        was_replica, writes = False, 0
        while not self._ended.is_set():
            with contextlib.suppress(OSError, EOFError), _Connection(port) as connection:
                while not self._ended.wait(_PAUSE):
                    began = time.monotonic()
                    info = str(connection.ask("INFO", "replication", "commandstats"))
                    if "role:slave" in info:
                        was_replica = True
                    elif was_replica:
                        was_replica = False
                        self._promoted[port] = began
                    found = re.search(r"cmdstat_evalsha:calls=(\d+),.*?failed_calls=(\d+)", info)
                    done = int(found[1]) - int(found[2]) if found is not None else 0
                    if done > writes:
                        self._written[port].append(began)
                    writes = done

    def _listen(self, port: int) -> None:
        with _Connection(port) as connection:
            connection.ask("SUBSCRIBE", "+switch-master")
            self._listening.wait(30)
            while not self._ended.is_set():
                with contextlib.suppress(TimeoutError):
                    connection.read()
                    self._switched.append(time.monotonic())


class _Connection:
    """A connection to a server; an OSError ends it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _PATIENCE)
        self._reader = hiredis.Reader(encoding="utf-8", errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, *words: str) -> object:
        """Return the reply to a command."""
        self._socket.sendall(pack(words))
        return self.read()

    def read(self) -> object:
        """Return what comes next."""
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self._reader.feed(data)
        return reply
