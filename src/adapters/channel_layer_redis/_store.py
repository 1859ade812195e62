"""The store port over Redis or Valkey, for event loops; what to ask a server for stands in `_requests`.

A `RedisStore` belongs to one event loop. It has one connection a host for commands, shared by everybody in the loop,
and further ones for what blocks: one for each inbox that is read and one for each queue that is waited for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from channel_layer import commands as c
from channel_layer.domain.names import Kind
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.runtime.event_loops import ignore
from channel_layer.stores.wrapper import execute_each
from channel_layer_redis._blocking import RedisBlockingStore
from channel_layer_redis._protocol import Connection, NoScript, Several, connect, pack_argument, pack_head
from channel_layer_redis._requests import Requests, list_of, pushed, text, unexpected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock, Store
    from channel_layer_redis._requests import Ask
    from channel_layer_redis.hosts import Host

__all__ = ("RedisBackend", "RedisStore")

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")

_READ_COUNT = 256
"""Entries that one read of an inbox brings at most: enough to make a round trip cheap, few enough to stay small."""

_REMEMBERED = 16384
"""Beginnings of commands that are kept at hand."""

_LEAST_SECONDS = 0.01
"""Seconds that a command gets even if connecting has used up its time."""

_UNBLOCK_FIRST, _UNBLOCK_MOST = 0.001, 0.05
"""Seconds between tries to end a wait whose command the server may not have seen yet."""


class RedisBackend:
    """The servers, before any event loop.

    Args:
        hosts: one for each shard.
        rules: the configuration.
        clock: its offset is added to the servers' clocks.
    """

    capabilities: Capabilities = Capabilities()
    connects = True

    def __init__(self, hosts: tuple[Host, ...], rules: Rules, clock: Clock) -> None:
        self.hosts = hosts
        self.rules = rules
        self.clock = clock
        self.identities = tuple(host.identity for host in hosts)

    def open(self) -> RedisStore:
        """Make a store for the running event loop; it connects when it is first asked for something."""
        return RedisStore(self)

    def open_blocking(self) -> RedisBlockingStore:
        """Make a store for the threads of this process; it connects when it is first asked for something."""
        return RedisBlockingStore(self.hosts, self.rules, self.clock)

    def forked(self) -> None:
        """Nothing here is shared with the parent."""


class _Link:
    """One server, as seen from one event loop."""

    def __init__(self, host: Host, timeout: float) -> None:
        self.host = host
        self._timeout = timeout
        self._connection: Connection | None = None
        self._connecting: asyncio.Task[Connection] | None = None
        self._spare: list[Connection] = []
        self._all: set[Connection] = set()
        """Every one whose socket may be open, those that are being made included."""
        self._making: set[asyncio.Task[Connection]] = set()
        self._closed = False

    async def evaluate(self, asks: Sequence[Ask]) -> list[object]:
        """Send commands in one write, and return what came of each: a reply, or `StoreError`."""
        connection, limit = self.ready, None
        if connection is None:
            try:
                connection, limit = await self.connected()
            except StoreError as exc:
                return [exc] * len(asks)
        return await _evaluate(connection, asks, limit=limit)

    async def connected(self) -> tuple[Connection, float]:
        """Return the connection for commands, and the seconds that are left for one: to connect counts, too."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection = await self.connection()
        return connection, max(_LEAST_SECONDS, began + self._timeout - loop.time())

    @property
    def ready(self) -> Connection | None:
        """The connection for commands, if it is there and has room."""
        connection = self._connection
        return connection if connection is not None and connection.open and not connection.crowded else None

    async def connection(self) -> Connection:
        """Return the connection for commands, a new one if need be; callers at the same time share the attempt."""
        connection = self._connection
        if connection is None or not connection.open:
            if self._connecting is None or self._connecting.done():
                self._connecting = self._begin(self._connect_for_commands)
            connection = await self._made(self._connecting)
        if connection.crowded:
            await connection.room()
        return connection

    def take_spare(self) -> Connection | None:
        """Return a connection for a command that blocks, if there is one; nobody else uses it."""
        connection = self._spare.pop() if self._spare else None
        return connection if connection is not None and connection.open else None

    async def borrow(self) -> Connection:
        """Return a connection for a command that blocks; nobody else uses it."""
        while True:
            while self._spare:
                connection = self._spare.pop()
                if connection.open:
                    return connection
            await self._made(self._begin(self._connect_for_one))

    def give(self, connection: Connection) -> None:
        """Return a borrowed connection whose replies have all come."""
        if connection.usable:
            self._spare.append(connection)
        else:
            connection.abort()

    async def aclose(self) -> None:
        """Close every connection, and see to it that none is made; return when the sockets are closed."""
        self._closed = True
        for task in self._making:
            task.cancel()
        if self._making:
            await asyncio.wait(self._making)
        for connection in self._all:
            connection.abort()
        await asyncio.gather(*(connection.closed for connection in self._all))

    def _begin(self, connect_for: Callable[[], Coroutine[object, object, Connection]]) -> asyncio.Task[Connection]:
        """Make a connection in a task of its own: it outlives callers that are cancelled, but not `aclose`."""
        if self._closed:
            raise self._let_go()
        task = asyncio.get_running_loop().create_task(connect_for())
        self._making.add(task)
        task.add_done_callback(self._making.discard)
        task.add_done_callback(ignore)
        return task

    async def _made(self, making: asyncio.Task[Connection]) -> Connection:
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise self._let_go() from None  # it was not the caller that has been told to end

    async def _connect_for_commands(self) -> Connection:
        self._connection = connection = await self._connect()
        return connection

    async def _connect_for_one(self) -> Connection:
        connection = await self._connect()
        self._spare.append(connection)
        return connection

    async def _connect(self) -> Connection:
        connection = Connection(self.host.label, self._timeout)
        self._all.add(connection)
        connection.closed.add_done_callback(lambda _: self._all.discard(connection))
        await connect(self.host, connection)
        return connection

    def _let_go(self) -> StoreError:
        return StoreError("this event loop has let go of its connections", retryable=True, outcome="not_sent")


class RedisStore:
    """See `channel_layer.ports.Store`.

    Args:
        backend: the servers.
    """

    def __init__(self, backend: RedisBackend) -> None:
        rules = backend.rules
        self._clock = backend.clock
        self._rules = rules
        self._requests = Requests(rules, backend.clock)
        self._keys = self._requests.keys
        self._links = [_Link(host, rules.timeout) for host in backend.hosts]
        self._tails: set[asyncio.Task[None]] = set()
        self._heads: dict[tuple[str, int, float], bytes] = {}
        self._pushes: dict[tuple[str, float], Several] = {}
        self._reads: dict[tuple[str, float], tuple[bytes, bytes]] = {}
        # What is of event loops only; all else is carried out as `Requests` says.
        self._handlers: Mapping[type, Callable[[Any], Awaitable[Any]]] = {
            c.Pop: self._finish,
            c.Push: self._push,
            c.PutBack: self._finish,
            c.Read: self._read,
        }

    def execute(self, command: c.Command[R], /) -> Awaitable[R]:
        return self._handlers.get(type(command), self._carry_out)(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """See `Store.execute_many`: what is sent in one turn of the event loop goes out in one write."""
        return await execute_each(self, commands)

    # -- commands

    async def _carry_out(self, command: c.Command[R]) -> R:
        """Carry out a command; if its caller is cancelled, it may be carried out or not."""
        link = self._links[command.shard]
        request = self._requests.begin(command)
        while request.asks:
            request.resume(await link.evaluate(request.asks))
        return request.result()

    async def _finish(self, command: c.Command[R]) -> R:
        """Carry out a command whose reply is needed: see `_settled`."""
        connection = await self._links[command.shard].connection()
        request = self._requests.begin(command)
        while request.asks:
            request.resume(await _evaluate(connection, request.asks, settle=True))
        return request.result()

    async def _push(self, command: c.Push) -> c.Pushed:
        """Push; what is the same each time is packed once, and pushes into one inbox share a command."""
        if command.to_member:
            return await self._carry_out(command)
        channel, offset = command.channel, self._clock.offset
        queue = channel.queue
        name = channel.name.encode("ascii")
        frame = b"m%c%b%b" % (len(name), name, command.payload)
        link, limit = self._links[command.shard], None
        connection = link.ready
        if connection is None:
            connection, limit = await link.connected()
        try:
            if queue.kind is Kind.INBOX:
                several = self._pushes.get((queue.name, offset)) or self._several(queue, offset)
                part = b"%b$%d\r\n%b\r\n" % (pack_argument(command.capacity), len(frame), frame)
                reply = await connection.join(several, part, limit=limit)
            else:
                head = self._heads.get((queue.name, command.capacity, offset)) or self._head(
                    queue, command.capacity, offset
                )
                reply = await connection.ask(b"%b$%d\r\n%b\r\n" % (head, len(frame), frame), limit=limit)
        except NoScript:
            return await self._carry_out(command)
        return pushed(reply)

    def _head(self, queue: Queue, capacity: int, offset: float) -> bytes:
        """Return all of a push command but its frame. It is the same each time, and takes long to put together."""
        head = pack_head(*self._requests.pushing(queue, capacity).named())
        return _remember(self._heads, (queue.name, capacity, offset), head)

    def _several(self, inbox: Queue, offset: float) -> Several:
        """Return what pushes into one inbox have in common; see `_head`."""
        several = Several(*self._requests.pushing_in(inbox).named(), each=2)
        return _remember(self._pushes, (inbox.name, offset), several)

    async def _read(self, command: c.Read) -> c.Batch:
        """Read an inbox on a connection of its own, and trim what has been read."""
        link, after = self._links[command.shard], command.after
        connection = link.take_spare() or await link.borrow()
        try:
            read, trim = self._reads.get((command.inbox.name, command.block)) or self._read_heads(command)
            place = after.encode() or b"0-0"
            reading = b"%b$%d\r\n%b\r\n" % (read, len(place), place)
            if after:
                milliseconds, _, number = place.partition(b"-")
                first = b"%b-%d" % (milliseconds, int(number) + 1)
                trimming = b"%b$%d\r\n%b\r\n" % (trim, len(first), first)
                if silently := connection.silenced(trimming):  # its reply would wake this process for nothing
                    reading = silently + reading
                else:
                    connection.send(trimming).add_done_callback(ignore)
            reply = await connection.ask(reading, limit=command.block + self._rules.timeout)
        except BaseException:
            connection.abort()  # a reply may be on its way; reading again brings it again
            raise
        finally:
            link.give(connection)
        return _batch(reply, after)

    def _read_heads(self, command: c.Read) -> tuple[bytes, bytes]:
        """Return all of the two commands of a read but what changes from one to the next; see `_head`."""
        stream, block = self._keys.inbox(command.inbox.name)[1], max(1, round(command.block * 1000))
        heads = (
            pack_head("XREAD", "COUNT", _READ_COUNT, "BLOCK", block, "STREAMS", stream),
            pack_head("XTRIM", stream, "MINID"),
        )
        return _remember(self._reads, (command.inbox.name, command.block), heads)

    # -- waiting

    async def wait(self, request: c.Wait, /) -> None:
        """See `Store.wait`: it takes the one element of the call list, which stands for no message."""
        link = self._links[request.shard]
        call = self._keys.queue(request.queue.name)[1]
        connection = await link.borrow()
        limit = request.block + self._rules.timeout
        reply = connection.call("BLPOP", call, f"{request.block:.3f}", limit=limit)
        try:
            await asyncio.shield(reply)
        except asyncio.CancelledError:
            reply.add_done_callback(ignore)  # should the connection be lost, nobody waits to hear of it
            self._in_background(self._end_wait(request, link, connection, reply))
            raise
        except BaseException:
            link.give(connection)
            raise
        link.give(connection)

    async def _end_wait(
        self, request: c.Wait, link: _Link, connection: Connection, reply: asyncio.Future[object]
    ) -> None:
        """End a wait that nobody needs; if it was called at that moment, pass the call on."""
        pause = _UNBLOCK_FIRST
        try:
            while not reply.done():
                commands = await link.connection()
                await commands.call("CLIENT", "UNBLOCK", connection.client_id)
                await asyncio.wait([reply], timeout=pause)  # the server may not have seen the wait itself yet
                pause = min(_UNBLOCK_MOST, pause * 2)
            if reply.result() is not None:
                await link.evaluate((self._requests.call(request.queue),))
        except StoreError:
            pass  # one connection or the other is gone, and the wait with it
        finally:
            if not reply.done():
                connection.abort()  # its reply must not meet the next one who borrows it
            link.give(connection)

    # -- the connections

    async def run_id(self, shard: int, /) -> str:
        return (await self._links[shard].connection()).run_id

    async def disconnected(self, shard: int, /) -> None:
        connection = await self._links[shard].connection()
        await asyncio.shield(connection.closed)

    async def aclose(self) -> None:
        """Let go of every connection; waits that are being ended come first."""
        if self._tails:
            await asyncio.wait(self._tails, timeout=self._rules.timeout)
        await asyncio.gather(*(link.aclose() for link in self._links))

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tails.add(task)
        task.add_done_callback(self._tails.discard)


def _remember(known: dict[K, V], key: K, value: V) -> V:
    """Keep at hand what is the same each time and takes long to put together."""
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
    return value


# -- what is finished although its caller is cancelled


async def _settled(reply: asyncio.Future[T]) -> T:
    """Await a reply that is needed: a cancellation meanwhile is left to the caller, who sees it in its task."""
    while True:
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
            if reply.done():
                return reply.result()


async def _evaluate(
    connection: Connection, asks: Sequence[Ask], *, limit: float | None = None, settle: bool = False
) -> list[object]:
    """Send commands in one write; scripts that the server does not know are sent whole: nothing was done for those.

    Args:
        connection: where.
        asks: the commands.
        limit: seconds that they may take, if not the connection's timeout.
        settle: see `_settled`.

    Returns:
        what came of each: a reply, or `StoreError`.
    """
    outcomes = await _outcomes([connection.call(*ask.named(), limit=limit) for ask in asks], settle=settle)
    unknown = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, NoScript)]
    if unknown:
        again = [connection.call(*asks[place].whole(), limit=limit) for place in unknown]
        for place, outcome in zip(unknown, await _outcomes(again, settle=settle), strict=True):
            outcomes[place] = outcome
    return outcomes


async def _outcomes(replies: Sequence[asyncio.Future[object]], *, settle: bool) -> list[object]:
    if len(replies) > 1:
        joined: asyncio.Future[list[object]] = asyncio.gather(*replies, return_exceptions=True)
        return await (_settled(joined) if settle else joined)
    try:
        return [await (_settled(replies[0]) if settle else replies[0])]
    except (StoreError, NoScript) as exc:
        return [exc]


# -- replies: what the scripts return, as types


def _batch(reply: object, after: str) -> c.Batch:
    if reply is None:
        return c.Batch((), after)
    entries: list[tuple[float, bytes]] = []
    place: object = b""
    for stream in list_of(reply):
        for entry in list_of(list_of(stream)[1]):
            place, fields = list_of(entry)
            if not isinstance(place, bytes):
                raise unexpected(place)
            stamp = place.partition(b"-")[0]
            try:
                offset, frame = list_of(fields)
                if isinstance(offset, bytes) and isinstance(frame, bytes):
                    entries.append(((int(stamp) + int(offset)) / 1000, frame))
                    continue
            except (ValueError, OverflowError, StoreError):  # somebody else's
                pass
            entries.append((int(stamp) / 1000, b""))
    return c.Batch(tuple(entries), text(place))


if TYPE_CHECKING:
    _fits: type[Store] = RedisStore
    _fits_too: type[Backend] = RedisBackend
