"""Where the server of a shard is: asked at each connect, so that it may be another one after a failover."""

from __future__ import annotations

import threading
import weakref
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias

from channel_layer_redis._logins import RenewalLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_redis._greeting import Role
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("Connections", "FixedLocator", "Locator", "Stays")


Stays: TypeAlias = "Callable[[ServerAddress, str], bool]"
"""Whether a connection may stay: to a server's address, and to a run of it; "": it is not known."""


class Connections(Protocol):
    """The connections of one event loop, or of all threads, to the server of a shard."""

    def drop(self, stays: Stays, /) -> None:
        """Close those that may not stay; called in any thread."""
        ...


class Locator(ABC):
    """Finds the server of one shard. It is shared by all event loops and threads of the process.

    What one connection learns of the server holds for all. Else a reader would wait for ever on
    one to a server that has become a replica, or that a name or a proxy has left for another one.

    Attributes:
        renewals: logs how connections are logged in anew.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connections] = weakref.WeakSet()
        self._run_id = ""
        self.renewals: RenewalLog = RenewalLog()

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

    def remove(self, connections: Connections) -> None:
        """Forget connections that are closed."""
        with self._lock:
            self._connections.discard(connections)

    def met(self, address: ServerAddress, run_id: str) -> None:  # noqa: ARG002 - where servers move it matters
        """A new connection was made to this run of a server; "": its user may not ask."""
        if run_id and run_id != self._run_id:
            known, self._run_id = self._run_id, run_id
            if known:
                self._drop(lambda _, other: other in {"", run_id})

    def demoted(self, address: ServerAddress) -> None:
        """A server says that it is no primary: no connection to it is to be used any more."""
        self._drop(lambda other, _: other != address)

    @property
    def role(self) -> Role:
        """What the server has to be."""
        return "server"

    def lost(self) -> None:  # noqa: B027 - one locator does more
        """A connection for commands was lost: the server may have gone."""

    def _drop(self, stays: Stays) -> None:
        with self._lock:
            everywhere = list(self._connections)
        for connections in everywhere:
            connections.drop(stays)


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
