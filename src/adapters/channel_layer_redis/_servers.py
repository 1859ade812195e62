"""The servers of a layer, in any topology: what its shards are, and what reaches them from an event loop or a thread.

Hosts are a shard each. A Cluster is as many shards as it has partitions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeAlias

from channel_layer_redis._blocking_connection import Pool
from channel_layer_redis._client import ServerClient
from channel_layer_redis._cluster import ClusterMap
from channel_layer_redis._cluster_client import ClusterClient, PartitionClient
from channel_layer_redis._cluster_pools import ClusterPools
from channel_layer_redis._locators import FixedLocator
from channel_layer_redis._sentinel import SentinelLocator
from channel_layer_redis.addresses import ClusterNodes, SentinelService

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from channel_layer.errors import StoreError
    from channel_layer_redis._locators import Locator
    from channel_layer_redis._replies import Redirection
    from channel_layer_redis.addresses import HostsEntry, ServerAddress

__all__ = ("Clients", "Pools", "Servers", "ShardClient", "servers_at")

ShardClient: TypeAlias = ServerClient | PartitionClient
"""What reaches one shard from one event loop."""


class Clients(Protocol):
    """What reaches all shards from one event loop."""

    @property
    def shards(self) -> Sequence[ShardClient]:
        """What reaches each."""
        ...

    async def aclose(self) -> None:
        """Close all connections; return when the sockets are closed."""
        ...

    def abandon(self) -> None:
        """End all connections, because the loop was closed before `aclose`; called in any thread."""
        ...


class Pools(Protocol):
    """What reaches all shards from threads."""

    def pool(self, shard: int, /) -> Pool:
        """Return the connections to the server that has a shard now.

        Raises:
            StoreError: it is not known.
        """
        ...

    def another(self, shard: int, pool: Pool, began: float, error: StoreError, /) -> Pool:
        """Return those to another server that has the shard, after no connection of a pool could be had.

        Raises:
            StoreError: the *error*, if there is none.
        """
        ...

    def follow(self, refusal: Redirection, pool: Pool, /) -> Pool | None:
        """Learn from a redirection by a server; return the pool of the one to ask only this once, if there is one.

        Raises:
            StoreError: the *refusal*: no other server can have the shard.
        """
        ...

    def close(self) -> None:
        """Close every connection; those in use once they are free."""
        ...


class Servers(Protocol):
    """The servers of a layer; one object serves all event loops and threads of the process."""

    @property
    def identities(self) -> tuple[str, ...]:
        """What names each shard."""
        ...

    @property
    def tags(self) -> tuple[str, ...]:
        """The hash tag of the keys of each shard; "": they have no tag."""
        ...

    def clients(self) -> Clients:
        """Return what reaches the shards from the running event loop."""
        ...

    def pools(self) -> Pools:
        """Return what reaches the shards from threads."""
        ...


class _HostClients:
    """Connections to hosts, as `Clients`."""

    def __init__(self, locators: Iterable[Locator], timeout: float) -> None:
        self.shards: Sequence[ServerClient] = [ServerClient(locator, timeout) for locator in locators]

    async def aclose(self) -> None:
        await asyncio.gather(*(client.aclose() for client in self.shards))

    def abandon(self) -> None:
        for client in self.shards:
            client.abandon()


class _HostPools:
    """Connections to hosts, as `Pools`."""

    def __init__(self, locators: Iterable[Locator], timeout: float) -> None:
        self._pools = [Pool(locator, timeout) for locator in locators]

    def pool(self, shard: int, /) -> Pool:
        return self._pools[shard]

    def another(self, _shard: int, _pool: Pool, _began: float, error: StoreError, /) -> Pool:
        raise error

    def follow(self, refusal: Redirection, _pool: Pool, /) -> Pool | None:
        raise refusal

    def close(self) -> None:
        for pool in self._pools:
            pool.close()


class _Hosts:
    """Servers that run alone, or that sentinels name, as `Servers`."""

    def __init__(self, entries: Sequence[ServerAddress | SentinelService], timeout: float) -> None:
        self._timeout = timeout
        self.identities: tuple[str, ...] = tuple(entry.identity for entry in entries)
        self.tags: tuple[str, ...] = ("",) * len(entries)
        self._locators = tuple(
            SentinelLocator(entry, timeout) if isinstance(entry, SentinelService) else FixedLocator(entry)
            for entry in entries
        )

    def clients(self) -> Clients:
        return _HostClients(self._locators, self._timeout)

    def pools(self) -> Pools:
        return _HostPools(self._locators, self._timeout)


class _Cluster:
    """A Cluster, as `Servers`."""

    def __init__(self, nodes: ClusterNodes, timeout: float) -> None:
        self._timeout = timeout
        self._map = ClusterMap(nodes)
        self.identities: tuple[str, ...] = self._map.identities
        self.tags: tuple[str, ...] = self._map.tags

    def clients(self) -> Clients:
        return ClusterClient(self._map, self._timeout)

    def pools(self) -> Pools:
        return ClusterPools(self._map, self._timeout)


def servers_at(entries: Sequence[HostsEntry], timeout: float) -> Servers:
    """Return the servers at the entries of ``hosts``; a command may take *timeout* seconds."""
    hosts = [entry for entry in entries if not isinstance(entry, ClusterNodes)]
    clusters = [entry for entry in entries if isinstance(entry, ClusterNodes)]
    return _Cluster(clusters[0], timeout) if clusters else _Hosts(hosts, timeout)
