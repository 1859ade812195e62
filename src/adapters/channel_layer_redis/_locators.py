"""Where the server of a shard is: asked at each connect, so that it may be another one after a failover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("FixedLocator", "Locator")


class Locator(Protocol):
    """Finds the server of one shard. It is shared by all event loops and threads of the process."""

    @property
    def label(self) -> str:
        """What errors call the shard when no server is known; without credentials."""
        ...

    async def address(self) -> ServerAddress:
        """Return where the server is now.

        Raises:
            StoreError: it is not known.
        """
        ...

    def address_blocking(self) -> ServerAddress:
        """Do the same in a thread."""
        ...


class FixedLocator:
    """The locator of a server that never moves."""

    def __init__(self, address: ServerAddress) -> None:
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
