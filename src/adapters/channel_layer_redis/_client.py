"""One server, as reached from one event loop: its connections, and how calls are sent over them."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import ignore
from channel_layer_redis._connecting import connect
from channel_layer_redis._connection import Connection
from channel_layer_redis._greeting import NotPrimary
from channel_layer_redis._replies import UnknownScript
from channel_layer_redis._sockets import CHECK_SHARE

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from channel_layer_redis._connection import SentCommand
    from channel_layer_redis._locators import Locator, Stays
    from channel_layer_redis._replies import Redirection
    from channel_layer_redis._requests.calls import ScriptCall

__all__ = ("CallSender", "ServerClient", "closed_error", "outcome_of", "seconds_left", "send_calls")

T = TypeVar("T")

_MOST_SPARE: Final = 64
"""Idle connections that are kept for the next commands that block; further ones are closed at once."""

_SPARE_SECONDS: Final = 5.0
"""A connection is closed when it has been idle for this long, or twice as long at most."""

_LEAST_SECONDS: Final = 0.01
"""Seconds that a command gets even if connecting has used up its time."""


class CallSender(ABC):
    """What sends calls to one shard from one event loop, on a connection for commands that all tasks share."""

    @property
    @abstractmethod
    def ready(self) -> Connection | None:
        """The connection for commands, if one can be sent at once."""

    @abstractmethod
    async def connection(self) -> Connection:
        """Return the connection for commands; it is made if need be."""

    @abstractmethod
    def seconds_left(self, began: float) -> float:
        """Return the seconds that are left for what began at a time of the loop."""

    def left(self, connection: Connection, error: StoreError) -> bool:  # noqa: ARG002 - in a Cluster it matters
        """Whether what failed on a borrowed connection did so because another server has the shard now."""
        return False

    async def send(self, calls: Sequence[ScriptCall]) -> list[object]:
        """Send calls in one write, and return the outcome of each; see `send_calls`."""
        connection, limit = self.ready, None
        if connection is None:
            try:
                connection, limit = await self.connected()
            except StoreError as exc:
                return [exc] * len(calls)
        return await send_calls(connection, calls, limit=limit)

    async def connected(self) -> tuple[Connection, float]:
        """Return the connection for commands, and the seconds that are left for a command after connecting."""
        began = asyncio.get_running_loop().time()
        connection = await self.connection()
        return connection, self.seconds_left(began)


class ServerClient(CallSender):
    """The connections of one event loop to the server of one shard: one for commands, and others for what blocks.

    Args:
        locator: where the server is.
        timeout: seconds that a command may take, connecting included.
        redirected: what takes care of commands that a node of a Cluster redirects; see `Connection`.
    """

    def __init__(
        self,
        locator: Locator,
        timeout: float,
        redirected: Callable[[Redirection, SentCommand], bool] | None = None,
    ) -> None:
        self._locator = locator
        self._timeout = timeout
        self._redirected = redirected
        self._loop = asyncio.get_running_loop()
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._spare: list[Connection] = []
        """Idle ones; the last is used first, so the first ones are those that are not needed."""
        self._unneeded = 0
        """How many of the first ones have not been used since the timer was set."""
        self._trimming: asyncio.TimerHandle | None = None
        self._all: set[Connection] = set()
        """All whose socket may be open, those that are being made included."""
        self._making: set[asyncio.Task[Connection]] = set()
        self._closed = False
        locator.add(self)

    def drop(self, stays: Stays, /) -> None:
        """Close the connections that may not stay; called in any thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and they with it
            self._loop.call_soon_threadsafe(self._drop, stays)

    def _drop(self, stays: Stays) -> None:
        for connection in self._all:
            if not stays(connection.address, connection.run_id):
                connection.abort()

    def seconds_left(self, began: float) -> float:
        """Return the seconds that are left for what began at a time of the loop."""
        return seconds_left(self._loop, began, self._timeout)

    @property
    def connected_now(self) -> bool:
        """Whether there is an open connection for commands."""
        return self._connection is not None and self._connection.open

    @property
    def ready(self) -> Connection | None:
        """The connection for commands, if it is open, its buffer has room, and it was not idle for long."""
        connection = self._connection
        return connection if connection is not None and connection.ready else None

    async def connection(self) -> Connection:
        """Return the connection for commands; a new one if need be, which all callers wait for together.

        One that was idle for long has to answer first, or is replaced: if a command were lost with it, it would be
        unknown whether it was carried out.
        """
        connection = self._connection
        if connection is None or not connection.open or connection.stale:
            if self._connecting is None or self._connecting.done():
                self._connecting = self._begin(self._connect_for_commands)
            connection = await outcome_of(self._connecting)
        await connection.room()
        return connection

    def take_spare(self) -> Connection | None:
        """Return an idle connection for a command that blocks, for the caller alone; None: there is none."""
        while self._spare:
            connection = self._spare.pop()
            if len(self._spare) < self._unneeded:  # noqa: PLR1730 - every read comes here, and min() is slower
                self._unneeded = len(self._spare)
            if connection.open and not connection.stale:
                return connection
            connection.abort()
        return None

    async def beside(self, connection: Connection) -> Connection:  # noqa: ARG002 - all lead to one server
        """Return the connection for commands to the server to which a borrowed one leads."""
        return await self.connection()

    async def follow(self, refusal: Redirection, connection: Connection) -> Connection | None:
        """Raise a redirection of a command on a borrowed connection: only a Cluster has where to follow it."""
        connection.abort()
        raise refusal

    async def lost(self) -> None:
        """Return once the connection for commands is lost, or leads to another server."""
        connection = await self.connection()
        await asyncio.shield(connection.closed)

    async def answered(self) -> None:
        """Return once all commands that have been sent by now are answered, or a share of the timeout has passed."""
        connection = self._connection
        if connection is not None and connection.open and not connection.usable:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self._timeout * CHECK_SHARE):
                    await connection.call("PING")

    async def replace(self) -> None:
        """Have the next command make a connection; close the one that there is, once it has answered."""
        connection = self._connection
        await self.answered()
        if connection is not None:
            connection.abort()

    async def borrow(self) -> Connection:
        """Return a connection for a command that blocks, for the caller alone."""
        connection = self.take_spare()
        if connection is None:
            making = self._begin(self._connect)
            try:
                connection = await outcome_of(making)
            except asyncio.CancelledError:
                making.add_done_callback(self._keep)
                raise
        return connection

    def _keep(self, making: asyncio.Task[Connection]) -> None:
        """Keep a connection that was made for a caller which has gone."""
        if not making.cancelled() and making.exception() is None:
            self.give(making.result())

    def give(self, connection: Connection) -> None:
        """Take back a borrowed connection; it is closed if a reply is still to come."""
        if connection.usable and len(self._spare) < _MOST_SPARE:
            connection.touch()
            self._spare.append(connection)
            if self._trimming is None:
                self._trim_later()
        else:
            connection.abort()

    def _trim_later(self) -> None:
        self._unneeded = len(self._spare)
        self._trimming = self._loop.call_later(_SPARE_SECONDS, self._trim)

    def _trim(self) -> None:
        """Close the connections that were not needed since the timer was set: one timer for all of them."""
        self._trimming = None
        for connection in self._spare[: self._unneeded]:
            connection.abort()
        del self._spare[: self._unneeded]
        if self._spare:
            self._trim_later()

    async def aclose(self) -> None:
        """Close all connections, and refuse to make others; return when the sockets are closed."""
        self._closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        for task in self._making:
            task.cancel()
        if self._making:
            await asyncio.wait(self._making)
        for connection in self._all:
            connection.abort()
        await asyncio.gather(*(connection.closed for connection in self._all))
        self._locator.remove(self)

    def abandon(self) -> None:
        """End all connections, because the loop was closed before `aclose`; called in any thread."""
        self._locator.remove(self)
        for connection in self._all.copy():
            connection.abandon()

    def _begin(self, connect_for: Callable[[], Coroutine[object, object, Connection]]) -> asyncio.Task[Connection]:
        """Make a connection in a task of its own, which goes on if the caller is cancelled and ends with `aclose`."""
        if self._closed:
            raise closed_error()
        task = asyncio.get_running_loop().create_task(connect_for())
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        task.add_done_callback(ignore)
        return task

    async def _connect_for_commands(self) -> Connection:
        deadline = self._loop.time() + self._timeout
        connection, self._connection = self._connection, None  # no command is sent on it while it is checked
        try:
            if connection is None or not connection.open or not await connection.answers():
                connection = await self._connect(deadline, self._redirected)
                connection.closed.add_done_callback(self._lost)
            self._connection = connection
        finally:
            self._connecting = None  # its error's traceback refers to the frames of those that wait for it
        return connection

    def _lost(self, _closed: asyncio.Future[None]) -> None:
        if not self._closed:
            self._locator.lost()

    async def _connect(
        self,
        deadline: float | None = None,
        redirected: Callable[[Redirection, SentCommand], bool] | None = None,
    ) -> Connection:
        """Make a connection until the loop's clock reaches a deadline; None: within the timeout."""
        if deadline is None:
            deadline = self._loop.time() + self._timeout
        address = await self._locator.address()
        connection = Connection(address, self._timeout, self._locator.demoted, redirected)
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        try:
            await connect(address, connection, deadline, self._locator)
        except NotPrimary:
            self._locator.demoted(address)
            raise
        self._locator.met(address, connection.run_id)
        return connection


def seconds_left(loop: asyncio.AbstractEventLoop, began: float, timeout: float) -> float:
    """Return the seconds that are left of a timeout for what began at a time of the loop."""
    return max(_LEAST_SECONDS, began + timeout - loop.time())


def closed_error() -> StoreError:
    """Return the error for what waits for a connection when all are closed."""
    return StoreError("this event loop has let go of its connections", retryable=True, outcome="not_sent")


async def outcome_of(task: asyncio.Task[T]) -> T:
    """Await a task that other callers await, too.

    Raises:
        StoreError: its own error, or not the caller was cancelled, but the task, because all connections are closed.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        caller = asyncio.current_task()
        if caller is not None and caller.cancelling():
            raise
        raise closed_error() from None


async def send_calls(
    connection: Connection, calls: Sequence[ScriptCall], *, limit: float | None = None, shielded: bool = False
) -> list[object]:
    """Send calls in one write, and return the outcome of each: a reply, a `StoreError` or `UnknownScript`.

    They may take *limit* seconds; None: the connection's timeout. For *shielded*, see `_shielded`.
    """
    replies = [connection.call(*call.command(), limit=limit) for call in calls]
    if len(replies) > 1:
        joined: asyncio.Future[list[object]] = asyncio.gather(*replies, return_exceptions=True)
        return await (_shielded(joined) if shielded else joined)
    try:
        return [await (_shielded(replies[0]) if shielded else replies[0])]
    except (StoreError, UnknownScript) as exc:
        return [exc]


async def _shielded(reply: asyncio.Future[T]) -> T:
    """Await a reply that is needed; if the task is cancelled meanwhile, the caller sees it by ``cancelling()``."""
    while True:
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
            if reply.done():
                return reply.result()
