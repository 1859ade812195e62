"""Where the server of a shard is: asked at each connect, so that it may be another one after a failover."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("Connections", "FixedLocator", "Locator", "leads_elsewhere")


class Connections(Protocol):
    """The connections of one event loop, or of all threads, to the server of a shard."""

    def drop(self, run_id: str, /) -> None:
        """Close those to any other run of a server than this one; called in any thread."""
        ...


def leads_elsewhere(run_id: str, wanted: str) -> bool:
    """Whether a connection to one run of a server is to be dropped for another run; "": it is not known, or none."""
    return not wanted or run_id not in ("", wanted)


class Locator(ABC):
    """Finds the server of one shard. It is shared by all event loops and threads of the process.

    What one connection learns of the server holds for all. Else a reader would wait for ever on
    one to a server that has become a replica, or that a name or a proxy has left for another one.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connections] = weakref.WeakSet()
        self._run_id = ""

    @property
    @abstractmethod
    def label(self) -> str:
        """What errors call the shard when no server is known; without credentials."""

    @abstractmethod
    async def address(self) -> ServerAddress:
        """Return where the server is now.

        Raises:
            StoreError: it is not known.
        """

    @abstractmethod
    def address_blocking(self) -> ServerAddress:
        """Do the same in a thread."""

    def add(self, connections: Connections) -> None:
        """Have connections dropped when they no longer lead to the primary of the shard."""
        with self._lock:
            self._connections.add(connections)

    def met(self, run_id: str) -> None:
        """A new connection was made to this run of a server; "": its user may not ask."""
        if run_id and run_id != self._run_id:
            known, self._run_id = self._run_id, run_id
            if known:
                self._drop(run_id)

    def demoted(self) -> None:
        """A server says that it is no primary: no connection is to be used any more."""
        self._drop("")

    def _drop(self, run_id: str) -> None:
        with self._lock:
            everywhere = list(self._connections)
        for connections in everywhere:
            connections.drop(run_id)


class FixedLocator(Locator):
    """The locator of a server that never moves."""

    def __init__(self, address: ServerAddress) -> None:
        super().__init__()
        self._address = address

    @property
    def label(self) -> str:
        """The address without credentials."""
        return self._address.label

    async def address(self) -> ServerAddress:
        """Return the address."""
        return self._address

    def address_blocking(self) -> ServerAddress:
        """Return the address."""
        return self._address
