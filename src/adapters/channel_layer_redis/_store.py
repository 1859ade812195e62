"""The store port over Redis or Valkey: each request is one script, or one pipeline of commands that need none.

A `RedisStore` belongs to one event loop. It has one connection a host for commands, shared by everybody in the loop,
and further ones for what blocks: one for each inbox that is read and one for each queue that is waited for.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from channel_layer import commands as c
from channel_layer.envelope import group_frame, marker_frame, message_frame
from channel_layer.errors import StoreError
from channel_layer.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR
from channel_layer.names import Kind
from channel_layer.ports import Capabilities
from channel_layer_redis import _scripts
from channel_layer_redis._keys import Keys, split
from channel_layer_redis._protocol import Connection, NoScript, connect, is_list, pack_head

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from channel_layer.config import Rules
    from channel_layer.names import Queue
    from channel_layer.ports import AsyncStore, Backend, Clock
    from channel_layer_redis._protocol import Arg
    from channel_layer_redis._scripts import Script
    from channel_layer_redis.hosts import Host

__all__ = ("RedisBackend", "RedisStore")

T = TypeVar("T")

_ACKNOWLEDGE = _scripts.load("acknowledge")
_CLAIM = _scripts.load("claim")
_DELIVER = _scripts.load("deliver")
_FLUSH_INBOX = _scripts.load("flush_inbox")
_GIVE_BACK = _scripts.load("give_back")
_JOIN = _scripts.load("join")
_LEAVE = _scripts.load("leave")
_PENDING = _scripts.load("pending")
_POP = _scripts.load("pop")
_PRUNE = _scripts.load("prune")
_PUBLISH = _scripts.load("publish")
_PUSH_INBOX = _scripts.load("push_inbox")
_PUSH_QUEUE = _scripts.load("push_queue")
_PUT_BACK = _scripts.load("put_back")
_RELEASE = _scripts.load("release")
_RENEW = _scripts.load("renew")
_UNCLAIM = _scripts.load("unclaim")

_READ_COUNT = 256
"""Entries that one read of an inbox brings at most: enough to make a round trip cheap, few enough to stay small."""

_SCAN_COUNT = 1000
"""Keys that the server looks at in one step of a flush."""

_REMEMBERED = 16384
"""Beginnings of commands that are kept at hand."""

_ACCEPTED = c.Pushed(accepted=True, expired=0)

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
        task.add_done_callback(_ignore)
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
        self._keys = Keys(rules.prefix)
        self._links = [_Link(host, rules.timeout) for host in backend.hosts]
        self._expiry = _milliseconds(rules.expiry)
        self._lease = _milliseconds(rules.expiry * LEASE_FACTOR)
        self._left = 2 * self._lease
        self._group = _milliseconds(rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME)
        self._owned_last = -1 if rules.group_expiry is None else self._group
        self._tails: set[asyncio.Task[None]] = set()
        self._heads: dict[tuple[str, int], bytes] = {}

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        channel = request.channel
        queue = channel.queue
        name = channel.name.encode("ascii")
        frame = b"m%c%b%b" % (len(name), name, request.payload)
        connection = self._links[request.shard].ready
        if connection is None or request.to_member or self._clock.offset:
            return await self._push(request, frame)
        head = self._heads.get((queue.name, request.capacity)) or self._head(queue, request.capacity)
        try:
            reply = await connection.send(b"%b$%d\r\n%b\r\n" % (head, len(frame), frame), now=True)
        except NoScript:
            return await self._push(request, frame)
        return _pushed(reply)

    async def _push(self, request: c.Push, frame: bytes) -> c.Pushed:
        queue = request.channel.queue
        script, keys, args = self._pushing(queue, request.capacity)
        args = (*args, frame)
        if request.to_member:
            keys, args = (*keys, self._keys.unread(queue.name)), (*args, self._group)
        return _pushed(await self._script(request.shard, script, keys, args))

    async def forgive(self, request: c.Forgive, /) -> None:
        channel = request.channel
        await self._call(request.shard, "HDEL", self._keys.unread(channel.queue.name), channel.name)

    def _pushing(self, queue: Queue, capacity: int) -> tuple[Script, tuple[str, ...], tuple[Arg, ...]]:
        """Return a push's script, its keys, and its arguments but for the last, which is the frame."""
        keys: tuple[str, ...] = self._keys.queue(queue.name)
        args: tuple[Arg, ...] = (capacity, self._expiry, self._offset())
        if queue.kind is not Kind.INBOX:
            return _PUSH_QUEUE, keys, args
        return _PUSH_INBOX, (*self._keys.inbox(queue.name), *keys), (*args, self._rules.inbox_capacity)

    def _head(self, queue: Queue, capacity: int) -> bytes:
        """Return all of a push command but its frame. It is the same each time, and takes long to put together."""
        script, keys, args = self._pushing(queue, capacity)
        head = pack_head(b"EVALSHA", script.sha, len(keys), *keys, *args)
        if len(self._heads) >= _REMEMBERED:
            self._heads = {}
        self._heads[queue.name, capacity] = head
        return head

    async def pop(self, request: c.Pop, /) -> c.Popped:
        name = request.queue.name
        keys: tuple[str, ...] = self._keys.taking(name)
        args: tuple[Arg, ...] = (request.count, self._expiry, self._offset())
        if request.queue.kind is not Kind.INBOX:
            return await self._pop(request, keys, args)
        keys = (*keys, self._keys.inbox(name)[0], self._keys.claim(name))
        args = (*args, request.claimant, self._lease)
        return await self._pop(request, keys, args)

    async def _pop(self, request: c.Pop, keys: tuple[str, ...], args: tuple[Arg, ...]) -> c.Popped:
        """Run the script; see to it that what a flush has missed goes no further.

        A flush raises the epoch first and empties the queue then: what is popped meanwhile is looked at, if it can
        matter. A normal channel's messages cannot be told from ones received just before, unless they were put back.
        """
        connection = await self._links[request.shard].connection()
        popped, returned = _popped(await _unbroken(connection, _POP, keys, args))
        if not returned and request.queue.kind is not Kind.INBOX:
            return popped
        try:
            generation, began = _epoch(await _settled(connection.call("GET", self._keys.epoch)))
        except StoreError:
            if not popped.entries:
                raise
            try:
                await self._put_back(connection, request.queue, popped.entries)
            except StoreError:
                return replace(popped, entries=(), lost=len(popped.entries))
            raise
        entries = tuple(entry for entry in popped.entries if entry.stamp * 1000 >= began)
        return replace(popped, entries=entries, flushed=len(popped.entries) - len(entries), epoch=generation)

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        connection = await self._links[request.shard].connection()
        return await self._put_back(connection, request.queue, request.entries)

    async def _put_back(self, connection: Connection, queue: Queue, some: tuple[c.Entry, ...]) -> c.Returned:
        entries = [struct.pack(">d", entry.stamp * -1000) + entry.frame for entry in some]
        args: tuple[Arg, ...] = (self._expiry, self._offset(), *entries)
        expired = _number(await _unbroken(connection, _PUT_BACK, self._keys.queue(queue.name), args))
        return c.Returned(expired, flushed=0)

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._script(request.shard, _UNCLAIM, (self._keys.claim(request.inbox.name),), (request.claimant,))

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
            reply.add_done_callback(_ignore)  # should the connection be lost, nobody waits to hear of it
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
                keys = self._keys.taking(request.queue.name)
                await self._script(request.shard, _POP, keys, (0, self._expiry, self._offset()))
        except StoreError:
            pass  # one connection or the other is gone, and the wait with it
        finally:
            if not reply.done():
                connection.abort()  # its reply must not meet the next one who borrows it
            link.give(connection)

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        raise StoreError("nobody notes here who attends to a queue", retryable=False, outcome="not_sent")

    async def pending(self, request: c.Pending, /) -> int:
        queue = request.channel.queue
        keys: tuple[str, ...] = self._keys.queue(queue.name)[:1]
        if queue.kind is Kind.INBOX:
            keys = (*keys, self._keys.inbox(queue.name)[1])
        head = message_frame(request.channel.name, b"")
        return _number(await self._script(request.shard, _PENDING, keys, (self._expiry, self._offset(), head)))

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        name = request.inbox.name
        keys = (*self._keys.inbox(name), *self._keys.taking(name))
        held = [part for channel, count in request.held for part in (channel, count)]
        args = (request.generation, self._lease, self._expiry, self._offset(), request.after or "0-0", *held)
        claiming = self._script(request.shard, _CLAIM, keys, args)
        epoch = self._call(request.shard, "GET", self._keys.epoch)
        reply, last = await _both(claiming, epoch)
        now, fresh, expired = _numbers(reply)
        return c.Claimed(now / 1000, fresh == 1, _epoch(last)[0], expired)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        keys = self._keys.inbox(request.inbox.name)
        renewing = self._script(request.shard, _RENEW, keys, (self._lease, self._offset()))
        epoch = self._call(request.shard, "GET", self._keys.epoch)
        reply, last = await _both(renewing, epoch)
        now, held = _numbers(reply)
        return c.Renewed(now / 1000, held == 1, _epoch(last)[0])

    async def release(self, request: c.Release, /) -> int:
        return _number(await self._script(request.shard, _RELEASE, self._keys.inbox(request.inbox.name), ()))

    async def read(self, request: c.Read, /) -> c.Batch:
        link = self._links[request.shard]
        stream = self._keys.inbox(request.inbox.name)[1]
        connection = await link.borrow()
        try:
            if request.after:
                milliseconds, _, number = request.after.partition("-")
                trimmed = connection.call("XTRIM", stream, "MINID", f"{milliseconds}-{int(number) + 1}")
                trimmed.add_done_callback(_ignore)
            reply = await connection.call(
                "XREAD", "COUNT", _READ_COUNT, "BLOCK", max(1, round(request.block * 1000)),
                "STREAMS", stream, request.after or "0-0", limit=request.block + self._rules.timeout,
            )  # fmt: skip
        except BaseException:
            connection.abort()  # a reply may be on its way; reading again brings it again
            raise
        finally:
            link.give(connection)
        return _batch(reply, request.after)

    async def give_back(self, request: c.GiveBack, /) -> None:
        places = [part for channel, count in request.places for part in (channel, count)]
        keys = self._keys.inbox(request.inbox.name)[:1]
        await self._script(request.shard, _GIVE_BACK, keys, (request.generation, request.serial, *places))

    async def mark(self, request: c.Mark, /) -> bool:
        keys = self._keys.inbox(request.inbox.name)
        args = (marker_frame(request.marker), self._offset(), -1)
        return _number(await self._script(request.shard, _DELIVER, keys, args)) == 1

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        leases = [self._keys.inbox(inbox.name)[0] for inbox in request.inboxes]
        replies = await asyncio.gather(*(self._call(request.shard, "HEXISTS", lease, "g") for lease in leases))
        return tuple(reply == 1 for reply in replies)

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        queue = request.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self._keys.group(request.group.name)
        if request.mark:
            keys = (*keys, *self._keys.inbox(inbox))
        args = (
            request.group.name, request.channel.name, inbox, int(request.owned), round(request.age * 1000),
            int(request.restore), self._group, self._offset(),
        )  # fmt: skip
        version, marked, applied, owned = _numbers(await self._script(request.shard, _JOIN, keys, args))
        return c.Changed(version, marked == 1, applied == 1, owned == 1)

    async def leave(self, request: c.Leave, /) -> c.Changed:
        queue = request.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self._keys.group(request.group.name)
        if request.mark:
            keys = (*keys, *self._keys.inbox(inbox))
        latest = "" if request.latest is None else request.latest
        args = (request.group.name, request.channel.name, inbox, self._group, self._left, self._offset(), latest)
        version, marked, applied = _numbers(await self._script(request.shard, _LEAVE, keys, args))
        return c.Changed(version, marked == 1, applied == 1, owned=False)

    async def publish(self, request: c.Publish, /) -> c.Published:
        frame = group_frame(request.group.name, (), request.payload)
        args = (
            int(request.at_once), frame, self._keys.prefix, self._rules.inbox_capacity,
            self._owned_last, self._group, self._offset(),
        )  # fmt: skip
        reply = await self._script(request.shard, _PUBLISH, self._keys.group(request.group.name)[:3], args)
        version, done, first, *rest = _list(reply)
        if done == 1:
            return c.Published(_number(version), done=True, inboxes=(), others=(), full=_texts(first))
        return c.Published(_number(version), False, _texts(first), _texts(rest[0]), ())

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        frame = group_frame(request.group.name, request.riders, request.payload)
        args = (frame, self._offset(), self._rules.inbox_capacity)
        keys = self._keys.inbox(request.inbox.name)
        outcome = _number(await self._script(request.shard, _DELIVER, keys, args))
        return {1: c.Delivery.DONE, 0: c.Delivery.FULL}.get(outcome, c.Delivery.NO_OWNER)

    async def prune(self, request: c.Prune, /) -> None:
        args: tuple[Arg, ...] = (request.version, len(request.inboxes), *request.inboxes, *request.others)
        await self._script(request.shard, _PRUNE, self._keys.group(request.group.name)[:3], args)

    async def members(self, request: c.Members, /) -> c.Roster:
        owned, others, _, _ = self._keys.group(request.group.name)
        now = int(await self._now(request.shard))
        first = "-inf" if self._owned_last < 0 else f"({now - self._owned_last}"
        found = await _both(
            self._call(request.shard, "ZRANGEBYSCORE", owned, first, "+inf"),
            self._call(request.shard, "ZRANGEBYSCORE", others, f"({now - self._group}", "+inf"),
        )
        return c.Roster(_texts(found[0]), _texts(found[1]))

    async def touch(self, request: c.Touch, /) -> None:
        keys = [key for group in request.groups for key in self._keys.group(group.name)[:3]]
        await asyncio.gather(*(self._call(request.shard, "PEXPIRE", key, self._group) for key in keys))

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        shard = request.shard
        lifetime = max(self._left, self._group)
        began = await self._now(shard)
        await self._call(shard, "SET", self._keys.epoch, f"{request.generation} {began:.3f}", "PX", lifetime)
        inboxes: list[str] = []
        dropped = 0
        cursor = "0"
        while True:
            step = await self._call(shard, "SCAN", cursor, "MATCH", self._keys.pattern, "COUNT", _SCAN_COUNT)
            head, keys = _list(step)
            cursor = _text(head)
            found = [split(self._keys.prefix, key) for key in _texts(keys)]
            outcomes = await asyncio.gather(*(self._flush_inbox(request, name) for kind, name in found if kind == "l"))
            for name, count in outcomes:
                if count >= 0:
                    inboxes.append(name)
                    dropped += count
            dropped += sum(
                await asyncio.gather(
                    *(self._flush_key(request, kind, name) for kind, name in found if kind not in "lce")
                )
            )
            if cursor == "0":
                return c.Flushing(tuple(inboxes), dropped)

    async def _flush_inbox(self, request: c.Flush, name: str) -> tuple[str, int]:
        args = (request.generation, self._offset())
        return name, _number(await self._script(request.shard, _FLUSH_INBOX, self._keys.inbox(name), args))

    async def _flush_key(self, request: c.Flush, kind: str, name: str) -> int:
        key = f"{self._keys.prefix}{kind}:{{{name}}}"
        if kind == "s":  # its owner's lease has the say; without one it is trimmed, for an owner who may come back
            lease = self._keys.inbox(name)[0]
            if await self._call(request.shard, "HEXISTS", lease, "g") == 0:
                await self._call(request.shard, "XTRIM", key, "MAXLEN", 0)
            return 0
        if kind == "q":
            length, _ = await _both(self._call(request.shard, "LLEN", key), self._call(request.shard, "UNLINK", key))
            return _number(length)
        await self._call(request.shard, "UNLINK", key)
        return 0

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        replies = await asyncio.gather(
            *(self._call(request.shard, "HMGET", self._keys.inbox(name)[0], "g", "f") for name in request.inboxes)
        )
        left: list[str] = []
        for name, reply in zip(request.inboxes, replies, strict=True):
            generation, flushed = _list(reply)
            if generation is not None and flushed != generation:  # of this flush, a later one, or a new lease
                left.append(name)
        return tuple(left)

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

    async def _now(self, shard: int) -> float:
        """Return the shard's time in milliseconds, to the microsecond."""
        seconds, micros = _texts(await self._call(shard, "TIME"))
        return int(seconds) * 1000 + int(micros) / 1000 + self._offset()

    def _offset(self) -> int:
        return round(self._clock.offset * 1000)

    async def _call(self, shard: int, *args: Arg) -> object:
        return await self._links[shard].call(*args)

    async def _script(self, shard: int, script: Script, keys: tuple[str, ...], args: Iterable[Arg]) -> object:
        return await _evaluate(self._links[shard].call, script, keys, tuple(args))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


async def _both(first: Awaitable[object], second: Awaitable[object]) -> tuple[object, object]:
    one, two = await asyncio.gather(first, second)
    return one, two


def _ignore(future: asyncio.Future[T]) -> None:
    """Take note of a result that nobody awaits, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()


# -- what is finished although its caller is cancelled


async def _settled(reply: asyncio.Future[T]) -> T:
    """Await a reply that is needed: a cancellation meanwhile is left to the caller, who sees it in its task."""
    while True:
        try:
            return await asyncio.shield(reply)
        except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
            if reply.done():
                return reply.result()


async def _unbroken(connection: Connection, script: Script, keys: tuple[str, ...], args: tuple[Arg, ...]) -> object:
    """Run a script whose reply is needed: see `_settled`."""
    return await _evaluate(lambda *command: _settled(connection.call(*command)), script, keys, args)


class _Call(Protocol):
    """What sends a command."""

    def __call__(self, *args: Arg) -> Awaitable[object]: ...


async def _evaluate(call: _Call, script: Script, keys: tuple[str, ...], args: tuple[Arg, ...]) -> object:
    """Run a script by its name, or by its text if the server does not know it."""
    try:
        return await call(b"EVALSHA", script.sha, len(keys), *keys, *args)
    except NoScript:
        return await call(b"EVAL", script.source, len(keys), *keys, *args)


# -- replies: what the scripts return, as types


def _pushed(reply: object) -> c.Pushed:
    """Return what a push's script says: how many were too old, or -1 less that number if full; nothing if lapsed."""
    if reply is None:
        return c.Pushed(accepted=False, expired=0, lapsed=True)
    outcome = _number(reply)
    if not outcome:
        return _ACCEPTED
    return c.Pushed(accepted=True, expired=outcome) if outcome > 0 else c.Pushed(accepted=False, expired=-1 - outcome)


def _list(reply: object) -> list[object]:
    if not is_list(reply):
        raise _unexpected(reply)
    return reply


def _number(reply: object) -> int:
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes) and reply.isdigit():
        return int(reply)
    raise _unexpected(reply)


def _numbers(reply: object) -> list[int]:
    return [_number(item) for item in _list(reply)]


def _text(reply: object) -> str:
    if reply is None:
        return ""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise _unexpected(reply)


def _texts(reply: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(reply))


def _epoch(reply: object) -> tuple[str, float]:
    """Return the name of the last flush, and when it began: what is older than that has been flushed."""
    name, _, began = _text(reply).partition(" ")
    return name, float(began or "-inf")


def _popped(reply: object) -> tuple[c.Popped, bool]:
    """Return what a pop brought, and whether some of it had been put back."""
    moment, expired, *rest = _list(reply)
    now = _number(moment) / 1000
    if expired == -1:
        return c.Popped((), 0, now, minted=True), False
    if expired == -2:
        return c.Popped((), 0, now, held_for=max(0, _number(rest[0])) / 1000), False
    entries: list[c.Entry] = []
    returned = False
    for item in rest:
        if isinstance(item, bytes) and len(item) >= 8:
            (stamp,) = struct.unpack_from(">d", item)
            returned = returned or stamp < 0
            entries.append(c.Entry(abs(stamp) / 1000, item[8:]))
        else:
            entries.append(c.Entry(now, b""))  # not ours: counted as undecodable where it is read
    return c.Popped(tuple(entries), _number(expired), now), returned


def _batch(reply: object, after: str) -> c.Batch:
    if reply is None:
        return c.Batch((), after)
    entries: list[tuple[float, bytes]] = []
    number: object = b""
    for stream in _list(reply):
        for entry in _list(_list(stream)[1]):
            number, fields = _list(entry)
            if not isinstance(number, bytes):
                raise _unexpected(number)
            milliseconds = int(number[: number.index(b"-")])
            match fields:
                case [bytes() as offset, bytes() as frame]:
                    try:
                        entries.append(((milliseconds + int(offset)) / 1000, frame))
                    except (ValueError, OverflowError):
                        entries.append((milliseconds / 1000, b""))
                case _:
                    entries.append((milliseconds / 1000, b""))
    return c.Batch(tuple(entries), _text(number))


def _unexpected(reply: object) -> StoreError:
    return StoreError(f"unexpected reply: {reply!r:.100}", retryable=False, outcome="unknown")


if TYPE_CHECKING:
    _fits: type[AsyncStore] = RedisStore
    _fits_too: type[Backend] = RedisBackend
