"""The store port over Redis or Valkey, for event loops; what to ask a server for stands in `_requests`.

A `RedisStore` belongs to one event loop. It has one connection a host for commands, shared by everybody in the loop,
and further ones for what blocks: one for each inbox that is read and one for each queue that is waited for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from channel_layer import commands as c
from channel_layer.domain.names import Kind
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.runtime.event_loops import ignore
from channel_layer.runtime.wakeups import after_woken
from channel_layer_redis import _scripts
from channel_layer_redis._blocking import RedisBlockingStore
from channel_layer_redis._protocol import Connection, NoScript, Several, connect, pack_argument, pack_head
from channel_layer_redis._requests import Ask, Requests, epoch, list_of, number, numbers, pushed, text, unexpected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from channel_layer.config import Rules
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, Clock
    from channel_layer_redis._protocol import Arg
    from channel_layer_redis._requests import Asking
    from channel_layer_redis._scripts import Script
    from channel_layer_redis.hosts import Host

__all__ = ("RedisBackend", "RedisStore")

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")

_ACKNOWLEDGE = _scripts.load("acknowledge")
_CLAIM = _scripts.load("claim")
_RELEASE = _scripts.load("release")
_RENEW = _scripts.load("renew")

_FEW = 1 / 8
"""Of what an inbox may hold: so much may be in it that was read and is not trimmed yet."""

_READ_COUNT = 256
"""Entries that one read of an inbox brings at most: enough to make a round trip cheap, few enough to stay small."""

_REMEMBERED = 16384
"""Beginnings of commands that are kept at hand."""

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

    async def call(self, *args: Arg) -> object:
        """Send a command and await its reply; connecting and waiting for room count towards its time."""
        if (connection := self.ready) is not None:
            return await connection.call(*args)
        loop = asyncio.get_running_loop()
        began = loop.time()
        connection = await self.connection()
        return await connection.call(*args, limit=max(0.01, began + self._timeout - loop.time()))

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

    @property
    def spare(self) -> Connection | None:
        """A connection for a command that blocks, if there is one; nobody else uses it."""
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
    """See `channel_layer.ports.AsyncStore`.

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
        self._heads: dict[tuple[str, int], bytes] = {}
        self._pushes: dict[str, Several] = {}
        self._reads: dict[tuple[str, float], tuple[bytes, bytes]] = {}
        self._unhurried: set[str] = set()
        """Inboxes that held little when they were last read."""

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        channel = request.channel
        queue = channel.queue
        name = channel.name.encode("ascii")
        frame = b"m%c%b%b" % (len(name), name, request.payload)
        connection = self._links[request.shard].ready
        if connection is None or request.to_member or self._clock.offset:
            return await self._ask(request.shard, self._requests.push(request))
        try:
            if queue.kind is Kind.INBOX:
                several = self._pushes.get(queue.name) or self._several(queue)
                part = b"%b$%d\r\n%b\r\n" % (pack_argument(request.capacity), len(frame), frame)
                reply = await connection.join(several, part)
            else:
                head = self._heads.get((queue.name, request.capacity)) or self._head(queue, request.capacity)
                reply = await connection.ask(b"%b$%d\r\n%b\r\n" % (head, len(frame), frame))
        except NoScript:
            return await self._ask(request.shard, self._requests.push(request))
        return pushed(reply)

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._ask(request.shard, self._requests.forgive(request))

    def _head(self, queue: Queue, capacity: int) -> bytes:
        """Return all of a push command but its frame. It is the same each time, and takes long to put together."""
        head = pack_head(*self._requests.pushing(queue, capacity).named())
        return _remember(self._heads, (queue.name, capacity), head)

    def _several(self, inbox: Queue) -> Several:
        """Return what pushes into one inbox have in common; see `_head`."""
        several = Several(*self._requests.pushing_in(inbox).named(), each=2)
        return _remember(self._pushes, inbox.name, several)

    async def pop(self, request: c.Pop, /) -> c.Popped:
        return await self._ask_unbroken(request.shard, self._requests.pop(request))

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        return await self._ask_unbroken(request.shard, self._requests.put_back(request))

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._ask(request.shard, self._requests.unclaim(request))

    async def wait(self, request: c.Wait, /) -> None:
        """See `AsyncStore.wait`: it takes the one element of the call list, which stands for no message."""
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
                await self._ask(request.shard, self._requests.call(request.queue))
        except StoreError:
            pass  # one connection or the other is gone, and the wait with it
        finally:
            if not reply.done():
                connection.abort()  # its reply must not meet the next one who borrows it
            link.give(connection)

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        raise StoreError("nobody notes here who attends to a queue", retryable=False, outcome="not_sent")

    async def pending(self, request: c.Pending, /) -> int:
        return await self._ask(request.shard, self._requests.pending(request))

    # -- statistics

    async def report(self, request: c.Report, /) -> None:
        await self._ask(request.shard, self._requests.report(request))

    async def reported(self, request: c.Reported, /) -> Rates:
        return await self._ask(request.shard, self._requests.reported(request))

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        return await self._ask(request.shard, self._requests.survey(request))

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        name = request.inbox.name
        keys = (*self._keys.inbox(name), *self._keys.taking(name))
        held = [part for channel, count in request.held for part in (channel, count)]
        asked = self._requests
        args = (request.generation, asked.lease, asked.expiry, asked.offset, request.after or "0-0", *held)
        claiming = self._script(request.shard, _CLAIM, keys, args)
        last_flush = self._call(request.shard, "GET", self._keys.epoch)
        reply, last = await _both(claiming, last_flush)
        now, fresh, expired = numbers(reply)
        return c.Claimed(now / 1000, fresh == 1, epoch(last)[0], expired)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        keys = self._keys.inbox(request.inbox.name)
        renewing = self._script(request.shard, _RENEW, keys, (self._requests.lease, self._requests.offset))
        last_flush = self._call(request.shard, "GET", self._keys.epoch)
        reply, last = await _both(renewing, last_flush)
        now, held = numbers(reply)
        return c.Renewed(now / 1000, held == 1, epoch(last)[0])

    async def release(self, request: c.Release, /) -> int:
        return number(await self._script(request.shard, _RELEASE, self._keys.inbox(request.inbox.name), ()))

    async def read(self, request: c.Read, /) -> c.Batch:
        link, after = self._links[request.shard], request.after
        if request.inbox.name in self._unhurried:  # receivers go first, for this takes a while to put together
            await after_woken()
        connection = link.spare or await link.borrow()
        try:
            read, trim = self._reads.get((request.inbox.name, request.block)) or self._read_heads(request)
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
            reply = await connection.ask(reading, limit=request.block + self._rules.timeout)
        except BaseException:
            connection.abort()  # a reply may be on its way; reading again brings it again
            raise
        finally:
            link.give(connection)
        batch = _batch(reply, after)
        if len(batch.entries) <= self._rules.inbox_capacity * _FEW:
            self._unhurried.add(request.inbox.name)
        else:  # senders may find the inbox full until this is trimmed, with the next read
            self._unhurried.discard(request.inbox.name)
        return batch

    def _read_heads(self, request: c.Read) -> tuple[bytes, bytes]:
        """Return all of the two commands of a read but what changes from one to the next; see `_head`."""
        stream, block = self._keys.inbox(request.inbox.name)[1], max(1, round(request.block * 1000))
        heads = (
            pack_head("XREAD", "COUNT", _READ_COUNT, "BLOCK", block, "STREAMS", stream),
            pack_head("XTRIM", stream, "MINID"),
        )
        return _remember(self._reads, (request.inbox.name, request.block), heads)

    async def give_back(self, request: c.GiveBack, /) -> None:
        await self._ask(request.shard, self._requests.give_back(request))

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._ask(request.shard, self._requests.mark(request))

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._ask(request.shard, self._requests.alive(request))

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._ask(request.shard, self._requests.join(request))

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._ask(request.shard, self._requests.leave(request))

    async def publish(self, request: c.Publish, /) -> c.Published:
        return await self._ask(request.shard, self._requests.publish(request))

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._ask(request.shard, self._requests.deliver(request))

    async def prune(self, request: c.Prune, /) -> None:
        await self._ask(request.shard, self._requests.prune(request))

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._ask(request.shard, self._requests.members(request))

    async def touch(self, request: c.Touch, /) -> None:
        keys = [key for group in request.groups for key in self._keys.group(group.name)[:3]]
        await asyncio.gather(*(self._call(request.shard, "PEXPIRE", key, self._requests.group) for key in keys))

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        return await self._ask(request.shard, self._requests.flush(request))

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return await self._ask(request.shard, self._requests.unflushed(request))

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._script(request.shard, _ACKNOWLEDGE, self._keys.inbox(request.inbox.name)[:1], (request.generation,))

    # -- the connections

    async def incarnation(self, shard: int, /) -> str:
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

    async def _ask(self, shard: int, asking: Asking[R]) -> R:
        """Carry out a request."""
        return await _carry_out(asking, self._links[shard].call)

    async def _ask_unbroken(self, shard: int, asking: Asking[R]) -> R:
        """Carry out a request whose reply is needed: see `_settled`."""
        connection = await self._links[shard].connection()
        return await _carry_out(asking, lambda *command: _settled(connection.call(*command)))

    async def _call(self, shard: int, *args: Arg) -> object:
        return await self._links[shard].call(*args)

    async def _script(self, shard: int, script: Script, keys: tuple[str, ...], args: Iterable[Arg]) -> object:
        return await _evaluate(self._links[shard].call, Ask(script, keys, tuple(args)))


def _remember(known: dict[K, V], key: K, value: V) -> V:
    """Keep at hand what is the same each time and takes long to put together."""
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
    return value


async def _both(first: Awaitable[object], second: Awaitable[object]) -> tuple[object, object]:
    one, two = await asyncio.gather(first, second)
    return one, two


# -- what is finished although its caller is cancelled


async def _settled(reply: asyncio.Future[T]) -> T:
    """Await a reply that is needed: a cancellation meanwhile is left to the caller, who sees it in its task."""
    while True:
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
            if reply.done():
                return reply.result()


class _Call(Protocol):
    """What sends a command."""

    def __call__(self, *args: Arg) -> Awaitable[object]: ...


async def _evaluate(call: _Call, ask: Ask) -> object:
    """Send a command; a script by its name, or by its text if the server does not know it."""
    try:
        return await call(*ask.named())
    except NoScript:
        return await call(*ask.whole())


async def _carry_out(asking: Asking[R], call: _Call) -> R:
    """Drive a request."""
    try:
        asks = next(asking)
        while True:
            try:
                replies: list[Any] = (
                    [await _evaluate(call, asks[0])] if len(asks) == 1 else await _evaluate_all(call, asks)
                )
            except BaseException as exc:  # noqa: BLE001 - the request decides, cancellation included
                asks = asking.throw(exc)
            else:
                asks = asking.send(replies)
    except StopIteration as stop:
        result: R = stop.value
        return result


async def _evaluate_all(call: _Call, asks: tuple[Ask, ...]) -> list[object]:
    outcomes = await asyncio.gather(*(_evaluate(call, ask) for ask in asks), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return list(outcomes)


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
    _fits: type[AsyncStore] = RedisStore
    _fits_too: type[Backend] = RedisBackend
