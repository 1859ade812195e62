"""A Cluster, as reached from threads: a pool of connections to each node, and which of them a partition takes."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from channel_layer.errors import StoreError
from channel_layer_redis._blocking_connection import Pool
from channel_layer_redis._cluster import more_lasting
from channel_layer_redis._replies import Refusal, explained

if TYPE_CHECKING:
    from channel_layer_redis._cluster import ClusterMap, NodeLocator
    from channel_layer_redis._replies import Redirection
    from channel_layer_redis._slots import Endpoint

__all__ = ("ClusterPools",)


class ClusterPools:
    """The connections of all threads to the nodes of a Cluster.

    Args:
        cluster: where the partitions are.
        timeout: seconds that a command may take, connecting included.
    """

    def __init__(self, cluster: ClusterMap, timeout: float) -> None:
        self._map = cluster
        self._timeout = timeout
        self._lock = threading.Lock()
        self._pools: dict[Endpoint, Pool] = {}
        self._refreshing = threading.Lock()
        self._doubted = False
        self._closed = False
        cluster.add(self)

    def pool(self, shard: int) -> Pool:
        """Return the pool of the node that has a partition now.

        Raises:
            StoreError: it is not known.
        """
        cluster = self._map
        if cluster.endpoints[shard] is None:
            self._refresh(self._refreshing.acquire(timeout=self._timeout))
        elif (self._doubted or cluster.old) and self._refreshing.acquire(blocking=False):
            with contextlib.suppress(StoreError):  # what is known may do
                self._refresh(locked=True)
        return self._at(cluster.endpoint(shard))

    def another(self, shard: int, pool: Pool, began: float, error: StoreError) -> Pool:
        """Return the pool of another node that has a partition, after no connection to one could be had.

        Args:
            shard: the partition.
            pool: that of the first node.
            began: by the monotonic clock.
            error: why there is no connection.

        Raises:
            StoreError: the *error*, if there is none.
        """
        self.doubt()
        if not error.retryable or time.monotonic() - began > self._timeout / 2:
            raise error
        if (found := self.pool(shard)) is pool:
            raise error
        return found

    def follow(self, refusal: Redirection, pool: Pool) -> Pool | None:
        """Learn from a redirection by a node; return the pool of the one to ask only this once, if there is one."""
        self.doubt()
        with self._lock:
            asked = next((endpoint for endpoint, each in self._pools.items() if each is pool), ("", 0))
        endpoint = self._map.redirection(refusal, asked)
        if endpoint == asked and not refusal.asking:
            pool.drop(lambda _address, _run_id: False)  # the connection leads elsewhere
        return self._at(endpoint) if refusal.asking and endpoint is not None else None

    def changed(self) -> None:
        """Close the pools of nodes that serve nothing any more; called in any thread."""
        used = set(self._map.endpoints)
        with self._lock:
            left = [self._pools.pop(endpoint) for endpoint in self._pools.keys() - used]
        for pool in left:
            pool.close()

    def doubt(self) -> None:
        """Ask the nodes before the next command; called in any thread."""
        self._doubted = True

    def close(self) -> None:
        """Close every connection; those in use once they are free."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.close()

    def _at(self, endpoint: Endpoint) -> Pool:
        with self._lock:
            pool = self._pools.get(endpoint)
            if pool is None:
                pool = self._pools[endpoint] = Pool(self._map.locator(endpoint), self._timeout)
                if self._closed:
                    pool.close()
            return pool

    def _refresh(self, locked: bool) -> None:  # noqa: FBT001 - what acquiring the lock returns
        """Ask a node where the slots are, unless that was heard just now; then release the lock.

        Raises:
            StoreError: none of the nodes says so.
        """
        if not locked:
            raise StoreError(f"{self._map.label} did not answer in time", retryable=True, outcome="not_sent")
        error: StoreError | None = None
        try:
            self._doubted = False
            if self._map.heard_lately:
                return
            for locator, seconds in self._map.asked(self._timeout):
                try:
                    self._ask(locator, seconds)
                except StoreError as exc:
                    error = more_lasting(error, exc)
                else:
                    return
            if error is not None:
                raise error
        finally:
            self._refreshing.release()

    def _ask(self, locator: NodeLocator, seconds: float) -> None:
        if self._closed:
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        pool = Pool(locator, seconds)
        try:
            reply = pool.call("CLUSTER", "SLOTS")
        finally:
            pool.close()
        if isinstance(reply, Refusal):
            raise explained(reply, ("CLUSTER",), ())
        self._map.heard(reply, locator.node)
