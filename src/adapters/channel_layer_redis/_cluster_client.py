"""A Cluster, as reached from one event loop: connections to its nodes, and which of them a partition's commands take.

All partitions of a node share its connections. A command that a node redirects is sent again where it belongs, and
those of its partition that come later wait until then: so the order is kept, and the caller notices nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import ignore
from channel_layer_redis._client import CallSender, ServerClient, closed_error, outcome_of, seconds_left
from channel_layer_redis._cluster import REFRESH_SECONDS, more_lasting
from channel_layer_redis._replies import Refusal, explained, is_replica
from channel_layer_redis._sockets import CHECK_SHARE

if TYPE_CHECKING:
    from channel_layer_redis._cluster import ClusterMap, NodeLocator
    from channel_layer_redis._connection import Connection, SentCommand
    from channel_layer_redis._replies import Redirection
    from channel_layer_redis._slots import Endpoint

__all__ = ("ClusterClient", "PartitionClient")

_DOUBT_SECONDS: Final = 0.2
"""Seconds until the nodes are asked where the slots are; jittered, as many processes notice at once."""

_LEAVE_SECONDS: Final = 1.0
"""After so long nothing is expected any more from a node that has left, or has lost a slot."""

_AGAIN_FIRST, _AGAIN_MOST = 0.002, 0.05
"""Seconds between tries to send a command to a slot that is moving, or that no node serves at the moment."""

_AT_ONCE: Final = 2
"""How often in a row a command follows redirections without a pause."""


@dataclass(frozen=True, slots=True)
class _Returned:
    """A command that was redirected.

    Attributes:
        sent: the command.
        refusal: what the node said.
        asked: to which node alone it is to be sent, after ``ASKING``; None: to that which has the slot.
        reconnect: the node named itself: the connection leads elsewhere, or its address was taken over.
    """

    sent: SentCommand
    refusal: Redirection
    asked: Endpoint | None
    reconnect: bool


class PartitionClient(CallSender):
    """The interface of a `ServerClient` for one partition: each call goes to the node that has its slot now.

    Args:
        cluster: the connections.
        number: which partition.
    """

    def __init__(self, cluster: ClusterClient, number: int) -> None:
        self._cluster = cluster
        self._number = number
        self._client: ServerClient | None = None
        """The node that commands are sent to; None: they wait until that is settled."""
        self._last: ServerClient | None = None
        """The node that they were sent to last."""
        self._returned: list[_Returned] = []
        """What was redirected and has not been sent again, in the order in which it was sent."""
        self._settling: asyncio.Task[ServerClient] | None = None
        self._waiters: list[asyncio.Future[ServerClient]] = []
        """What waits until it is settled, in the order in which that came."""
        self._borrowed: dict[Connection, ServerClient] = {}
        self._moved: asyncio.Future[None] = cluster.loop.create_future()
        """Done when another node has the slot."""

    # -- as a `ServerClient`

    @property
    def ready(self) -> Connection | None:
        """The connection for commands, if one can be sent at once."""
        client = self._client
        return client.ready if client is not None else None

    def seconds_left(self, began: float) -> float:
        """Return the seconds that are left for what began at a time of the loop."""
        return self._cluster.left(began)

    async def connection(self) -> Connection:
        """Return the connection for commands."""
        began = self._cluster.loop.time()
        client = self._client or self._first() or await self._settled()
        try:
            return await client.connection()
        except StoreError as exc:
            return await (await self._elsewhere(client, began, exc)).connection()

    def take_spare(self) -> Connection | None:
        """Return an idle connection for a command that blocks, for the caller alone; None: there is none."""
        client = self._client
        connection = client.take_spare() if client is not None else None
        if client is not None and connection is not None:
            self._borrowed[connection] = client
        return connection

    async def borrow(self) -> Connection:
        """Return a connection for a command that blocks, for the caller alone."""
        began = self._cluster.loop.time()
        client = self._client or self._first() or await self._settled()
        try:
            connection = await client.borrow()
        except StoreError as exc:
            client = await self._elsewhere(client, began, exc)
            connection = await client.borrow()
        self._borrowed[connection] = client
        return connection

    def give(self, connection: Connection) -> None:
        """Take back a borrowed connection; it is closed if a reply is still to come."""
        self._borrowed.pop(connection).give(connection)

    def left(self, connection: Connection, error: StoreError) -> bool:
        """Whether what failed on a borrowed connection did so because another node has the slot now."""
        handed_over = isinstance(error, Refusal) and is_replica(error.answer)
        return handed_over or self._is_elsewhere(self._borrowed[connection])

    async def beside(self, connection: Connection) -> Connection:
        """Return the connection for commands to the server to which a borrowed one leads."""
        return await self._borrowed[connection].connection()

    async def lost(self) -> None:
        """Return once the connection for commands is lost, or leads to another server."""
        moved = self._moved
        connection = await self.connection()
        await asyncio.wait((moved, connection.closed), return_when=asyncio.FIRST_COMPLETED)

    async def follow(self, refusal: Redirection, connection: Connection) -> Connection | None:
        """Do as a redirection of a command says that was sent on a borrowed connection.

        Returns:
            A borrowed connection on which to send the command next, if only that is to be sent elsewhere.

        Raises:
            StoreError: the node does not say where, or that cannot be reached.
        """
        endpoint = self._cluster.follow(refusal, self._borrowed[connection])
        if endpoint is None:
            raise StoreError(str(refusal), retryable=True, outcome="not_sent", server=refusal.server)
        if not refusal.asking:
            self.check()
            return None
        client = self._cluster.client(endpoint)
        found = await client.borrow()
        self._borrowed[found] = client
        found.call("ASKING").add_done_callback(ignore)
        return found

    # -- as a part of the Cluster

    @property
    def client(self) -> ServerClient | None:
        """The node that commands are or were sent to."""
        return self._client or self._last

    @property
    def busy(self) -> bool:
        """Whether it is being settled where commands go."""
        return self._settling is not None

    def check(self) -> None:
        """See whether the slot is at the node that commands are sent to."""
        endpoint = self._cluster.map.endpoints[self._number]
        if self._client is not None and endpoint is not None and self._client is not self._cluster.client(endpoint):
            self._settle()

    def send_back(self, returned: _Returned) -> None:
        """Send a command again that was redirected, before any other of this partition."""
        self._returned.append(returned)
        self._settle()

    def close(self) -> None:
        """Fail what waits; nothing is sent any more."""
        if self._settling is not None:
            self._settling.cancel()
        self._fail(closed_error())
        self._moved.cancel()

    def _first(self) -> ServerClient | None:
        """Return the node that has the slot, if it is known, and none has been sent anything that could come back."""
        endpoint = self._cluster.map.endpoints[self._number]
        if endpoint is not None and self._last is None and self._settling is None:
            self._client = self._cluster.client(endpoint)
        return self._client

    async def _settled(self) -> ServerClient:
        self._settle()
        waiter: asyncio.Future[ServerClient] = self._cluster.loop.create_future()
        self._waiters.append(waiter)
        return await waiter

    async def _elsewhere(self, client: ServerClient, began: float, error: StoreError) -> ServerClient:
        """Return another node that has the slot, after no connection to one could be made.

        Raises:
            StoreError: the *error*, if there is none.
        """
        cluster = self._cluster
        if error.outcome != "not_sent" or not error.retryable or cluster.closed:
            raise error
        if not self._is_elsewhere(client):
            if cluster.left(began) < cluster.timeout / 2:  # no time is left to try another one
                cluster.map.doubt()
                raise error
            with contextlib.suppress(StoreError):
                await cluster.refresh()
            if not self._is_elsewhere(client):
                raise error
        self.check()
        return self._client or await self._settled()

    def _is_elsewhere(self, client: ServerClient) -> bool:
        """Whether another node than this one is known to have the slot."""
        endpoint = self._cluster.map.endpoints[self._number]
        return endpoint is not None and self._cluster.client(endpoint) is not client

    def _settle(self) -> None:
        if self._settling is None:
            self._last, self._client = self._client or self._last, None
            self._settling = self._cluster.loop.create_task(self._send_returned())
            self._settling.add_done_callback(self._end_settling)

    def _end_settling(self, settling: asyncio.Task[ServerClient]) -> None:
        over = settling.cancelled() or self._cluster.closed
        error = closed_error() if over else settling.exception()
        if error is not None:
            self._settling = None
            self._fail(error)
            return
        client = settling.result()
        if client is not self._last:
            self._leave()
        self._last = client
        self._open(client)

    def _open(self, client: ServerClient) -> None:
        """Let commands go to a node: first those that wait, as new ones must not overtake them."""
        waiters, self._waiters = self._waiters, []
        if waiters:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(client)
            self._cluster.loop.call_soon(self._open, client)
            return
        self._settling = None
        if self._returned:
            self._settle()
        else:
            self._client = client
            self.check()

    def _fail(self, error: BaseException) -> None:
        failure = error if isinstance(error, StoreError) else closed_error()
        returned, self._returned = self._returned, []
        for each in returned:
            each.sent.fail(failure)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def _leave(self) -> None:
        """Another node has the slot now."""
        self._moved.set_result(None)
        self._moved = self._cluster.loop.create_future()
        if self._borrowed:
            self._cluster.loop.call_later(_LEAVE_SECONDS, self._drop_borrowed, dict(self._borrowed))

    def _drop_borrowed(self, borrowed: dict[Connection, ServerClient]) -> None:
        """Close connections on which a command still blocks at a node that has left: it may never answer."""
        for connection, client in borrowed.items():
            if self._borrowed.get(connection) is client and client is not self.client:
                connection.abort()

    async def _send_returned(self) -> ServerClient:
        """Send all that was redirected to where it belongs; return the node that has the slot.

        The next command is sent once that before it is answered, or has come back, and so goes first. Only when a node
        has served one, all others follow in one write: before, it might refuse the first and serve the next.
        """
        sent_to, left = self._last, list[_Returned]()
        rounds, pause, several = 0, _AGAIN_FIRST, False
        try:
            while True:
                if sent_to is not None:
                    await sent_to.answered()
                several = rounds > 0 and not self._returned
                left, self._returned = self._returned + left, []
                if not left:
                    client = await self._find()
                    if not self._returned:
                        return client
                    continue
                if not several and (not left[0].refusal.endpoint or rounds >= _AT_ONCE):
                    self._cluster.map.doubt()
                    await asyncio.sleep(pause)
                    pause = min(_AGAIN_MOST, pause * 2)
                rounds += 1
                sent_to = await self._send_batch(left, several=several)
        except BaseException:
            self._returned = left + self._returned
            raise

    async def _send_batch(self, left: list[_Returned], *, several: bool) -> ServerClient:
        """Send the first of some commands again, or *several* if they all go to the node that has the slot.

        What is sent, or is too late, is removed from the list.

        Returns:
            The node that it was sent to.
        """
        first = left[0]
        client = await self._find() if first.asked is None else self._cluster.client(first.asked)
        if first.reconnect:
            await client.replace()
        connection = await client.connection()
        now, share = self._cluster.loop.time(), self._cluster.timeout * CHECK_SHARE
        count = len(left) if several and all(each.asked is None for each in left) else 1
        batch, left[:] = left[:count], left[count:]
        for each in batch:
            if each.sent.deadline - now >= share:
                asking = first.asked is not None
                connection.send_again(each.sent, asking=asking, limit=each.sent.deadline - now)
            else:
                what = f"{each.refusal}, for too long: is the slot being moved, or a node away?"
                each.sent.fail(StoreError(what, retryable=True, outcome="not_sent", server=each.refusal.server))
        return client

    async def _find(self) -> ServerClient:
        """Return the node that has the slot now, once it is connected.

        Raises:
            StoreError: it is not known, or cannot be reached.
        """
        cluster, began, tried = self._cluster, self._cluster.loop.time(), None
        while True:
            if cluster.map.endpoints[self._number] is None:
                await cluster.refresh()
            client = cluster.client(cluster.map.endpoint(self._number))
            try:
                await client.connection()
            except StoreError:
                if client is tried or cluster.left(began) < cluster.timeout / 2:
                    raise
                tried = client
                await cluster.refresh()
            else:
                return client


class ClusterClient:
    """The connections of one event loop to the nodes of a Cluster.

    Args:
        cluster: where the partitions are.
        timeout: seconds that a command may take, connecting included.

    Attributes:
        shards: what reaches each partition.
        closed: no connection is made any more.
    """

    def __init__(self, cluster: ClusterMap, timeout: float) -> None:
        self.map: ClusterMap = cluster
        self.timeout: float = timeout
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.closed: bool = False
        self._clients: dict[Endpoint, ServerClient] = {}
        self._refreshing: asyncio.Task[None] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.shards: list[PartitionClient] = [PartitionClient(self, place) for place in range(len(cluster.tags))]
        cluster.add(self)

    def client(self, endpoint: Endpoint) -> ServerClient:
        """Return the connections to a node.

        Raises:
            StoreError: there are none, and no more are made.
        """
        client = self._clients.get(endpoint)
        if client is None:
            if self.closed:
                raise closed_error()
            redirected = functools.partial(self._redirected, endpoint)
            client = self._clients[endpoint] = ServerClient(self.map.locator(endpoint), self.timeout, redirected)
        return client

    def left(self, began: float) -> float:
        """Return the seconds that are left for what began at a time of the loop."""
        return seconds_left(self.loop, began, self.timeout)

    # -- redirections

    def follow(self, refusal: Redirection, client: ServerClient) -> Endpoint | None:
        """Learn from a redirection by a node; return where it points, if it does."""
        self.doubt()
        asked = next((endpoint for endpoint, each in self._clients.items() if each is client), ("", 0))
        return self.map.redirection(refusal, asked)

    def _redirected(self, asked: Endpoint, refusal: Redirection, sent: SentCommand) -> bool:
        """Have a command sent again that the node at *asked* has redirected; return whether it will be."""
        place = self.map.partition(refusal, sent.packed)
        if place is None or self.closed:
            return False
        self.doubt()
        endpoint = self.map.redirection(refusal, asked)
        reconnect = endpoint == asked and not refusal.asking
        self.shards[place].send_back(_Returned(sent, refusal, endpoint if refusal.asking else None, reconnect))
        return True

    # -- where the slots are

    def changed(self) -> None:
        """See whether the slots are at the nodes that commands are sent to; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._check)

    def doubt(self) -> None:
        """Ask soon where the slots are; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._later, "doubt", random.uniform(0.25, 1) * _DOUBT_SECONDS)  # noqa: S311

    def _check(self) -> None:
        if not self.closed:
            for partition in self.shards:
                partition.check()
            self._later("leave", 2 * _LEAVE_SECONDS)

    def _later(self, what: str, seconds: float) -> None:
        """Do something once after some seconds, unless it will be done sooner."""
        at = self.loop.time() + seconds
        timer = self._timers.get(what)
        if not self.closed and (timer is None or timer.when() > at):
            if timer is not None:
                timer.cancel()
            self._timers[what] = self.loop.call_at(at, self._do, what)

    def _do(self, what: str) -> None:
        del self._timers[what]
        if what == "leave":
            self._leave_nodes()
        elif what == "doubt" or any(client.connected_now for client in self._clients.values()):
            self._refreshing = self._begin_refresh()

    async def refresh(self) -> None:
        """Ask a node where the slots are, unless that was heard just now.

        Raises:
            StoreError: none of the nodes says so, or all connections are closed.
        """
        if self.closed:
            raise closed_error()
        if not self.map.heard_lately:
            await outcome_of(self._begin_refresh())

    def _begin_refresh(self) -> asyncio.Task[None]:
        task = self._refreshing
        if task is None or task.done():
            task = self._refreshing = self.loop.create_task(self._refresh())
            task.add_done_callback(ignore)
        return task

    async def _refresh(self) -> None:
        error: StoreError | None = None
        try:
            for locator, seconds in self.map.asked(self.timeout):
                try:
                    await self._ask(locator, seconds)
                except StoreError as exc:
                    error = more_lasting(error, exc)
                else:
                    return
            if error is not None:
                raise error
        finally:
            self._refreshing = None
            self._later("refresh", random.uniform(0.75, 1.25) * REFRESH_SECONDS)  # noqa: S311 - not all at once

    async def _ask(self, locator: NodeLocator, seconds: float) -> None:
        address = locator.node
        known = self._clients.get((address.host, address.port))
        connection, client = (known.ready if known is not None else None), None
        try:
            if connection is None:
                client = ServerClient(locator, seconds)
                connection = await client.connection()
            async with asyncio.timeout(seconds):
                reply = await connection.call("CLUSTER", "SLOTS")
        except TimeoutError as exc:
            what, server = f"{address.label} did not answer in time", address.identity
            raise StoreError(what, retryable=True, outcome="not_sent", server=server) from exc
        except Refusal as exc:
            raise explained(exc, ("CLUSTER",), ()) from None
        finally:
            if client is not None:
                await client.aclose()
        self.map.heard(reply, address)

    def _leave_nodes(self) -> None:
        """Close the connections to nodes that serve no partition any more."""
        used = {endpoint for endpoint in self.map.endpoints if endpoint is not None}
        if any(partition.busy for partition in self.shards):
            self._later("leave", _LEAVE_SECONDS)
            return
        in_use = {id(partition.client) for partition in self.shards}
        for endpoint, client in list(self._clients.items()):
            if endpoint not in used and id(client) not in in_use:
                del self._clients[endpoint]
                task = self.loop.create_task(client.aclose())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    # -- the end

    async def aclose(self) -> None:
        """Close all connections, and refuse to make others; return when the sockets are closed."""
        self.closed = True
        for timer in self._timers.values():
            timer.cancel()
        for partition in self.shards:
            partition.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        await asyncio.gather(*(client.aclose() for client in self._clients.values()), *self._closing)

    def abandon(self) -> None:
        """End all connections, because the loop was closed before `aclose`; called in any thread."""
        for client in list(self._clients.values()):
            client.abandon()
