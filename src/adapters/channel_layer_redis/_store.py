"""The store port over Redis or Valkey, for event loops; `_requests` says what each command asks a server for.

A `RedisStore` belongs to one event loop. It has one connection a shard for commands, which all tasks of the loop share,
and others for what blocks: one for each inbox that is read, and one for each queue that is waited for.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.domain.names import Kind
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.runtime.event_loops import ignore
from channel_layer.stores.wrapper import execute_each
from channel_layer_redis._blocking import RedisBlockingStore
from channel_layer_redis._client import send_calls
from channel_layer_redis._packing import MergeableCommand, pack_argument, pack_head
from channel_layer_redis._read_history import Entry, ReadHistory
from channel_layer_redis._replies import UNREADABLE, Redirection, Refusal, UnknownScript, list_of, unexpected
from channel_layer_redis._requests import begin
from channel_layer_redis._requests.calls import PendingRequest, RequestSettings, call_command
from channel_layer_redis._requests.queues import inbox_push, push_call, queue_push, read_pushed, signal
from channel_layer_redis._servers import servers_at

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock, Store
    from channel_layer_redis._connection import Connection
    from channel_layer_redis._servers import ShardClient
    from channel_layer_redis.addresses import HostsEntry

__all__ = ("RedisBackend", "RedisStore")

R = TypeVar("R")

_READ_COUNT: Final = 256
"""Entries that one read of an inbox brings at most: enough to make a round trip cheap, few enough to stay small."""

_CACHE_SIZE: Final = 16384
"""Beginnings of commands of one kind that are cached."""

_UNBLOCK_FIRST, _UNBLOCK_MOST = 0.001, 0.05
"""Seconds between attempts to end a wait whose command the server may not have seen yet."""


class RedisBackend:
    """The servers, before any event loop.

    Args:
        entries: of ``hosts``: one for each shard, or a Cluster.
        rules: the configuration.
        clock: its offset is added to the servers' clocks.
    """

    connects = True

    def __init__(self, entries: tuple[HostsEntry, ...], rules: Rules, clock: Clock) -> None:
        self.rules = rules
        self.clock = clock
        self.histories: dict[str, ReadHistory] = {}
        """Of the inboxes that are read, by name: each in one event loop, and in another one later."""
        self._entries = entries
        self.servers = servers_at(entries, rules.timeout)
        self.identities = self.servers.identities
        self.capabilities: Capabilities = Capabilities(spreads=not any(self.servers.tags))
        self.settings: tuple[RequestSettings, ...] = self._settings()
        """Those of each shard; the same for all that have no tag."""

    def open(self) -> RedisStore:
        """Make a store for the running event loop; it connects with its first command."""
        return RedisStore(self)

    def open_blocking(self) -> RedisBlockingStore:
        """Make a store for the threads of this process; it connects with its first command."""
        return RedisBlockingStore(self.servers, self.settings, self.rules.timeout)

    def forked(self) -> None:
        """Look for the servers anew: what the parent knows of them, its threads keep true. So with its pops."""
        self.servers = servers_at(self._entries, self.rules.timeout)
        self.settings = self._settings()

    def _settings(self) -> tuple[RequestSettings, ...]:
        tags = self.servers.tags
        settings = {tag: RequestSettings(self.rules, self.clock, tag) for tag in tags}
        return tuple(settings[tag] for tag in tags)


class RedisStore:
    """See `channel_layer.ports.Store`."""

    def __init__(self, backend: RedisBackend) -> None:
        self._clock = backend.clock
        self._timeout = backend.rules.timeout
        self._settings = backend.settings
        self._servers = backend.servers.clients()
        self._clients: Sequence[ShardClient] = self._servers.shards
        self._ending_waits: set[asyncio.Task[None]] = set()
        self._histories = backend.histories
        cached = lru_cache(_CACHE_SIZE)
        self._queue_push: Callable[[RequestSettings, str, int, float], bytes] = cached(_queue_push)
        self._inbox_push: Callable[[RequestSettings, str, float], MergeableCommand] = cached(_inbox_push)
        self._read_command: Callable[[RequestSettings, str, float], tuple[bytes, bytes]] = cached(_read_command)
        # What event loops do in a way of their own; `_carry_out` does the rest. One table for commands of all types;
        # each is handed to the method for its own type, and to no other.
        self._handlers: Mapping[type, Callable[[Any], Awaitable[Any]]] = {
            c.Pop: self._carry_out_shielded,
            c.Push: self._push,
            c.PutBack: self._carry_out_shielded,
            c.Read: self._read,
        }

    def execute(self, command: c.Command[R], /) -> Awaitable[R]:
        """Carry out a command."""
        return self._handlers.get(type(command), self._carry_out)(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands: what is sent in one turn of the event loop goes out in one write."""
        return await execute_each(self, commands)

    # -- commands

    async def _carry_out(self, command: c.Command[R]) -> R:
        client = self._clients[command.shard]
        request = begin(self._settings[command.shard], command)
        while request.calls:
            request.resume(await client.send(request.calls))
        return request.result()

    async def _carry_out_shielded(self, command: c.Command[R]) -> R:
        """Carry out a command whose reply is needed, although the caller is cancelled once it may have been sent."""
        connection = await self._clients[command.shard].connection()
        request = begin(self._settings[command.shard], command)
        while request.calls:
            request.resume(await send_calls(connection, request.calls, shielded=True))
        return request.result()

    async def _push(self, command: c.Push) -> c.Pushed:
        """Push a message: all that is the same each time is packed once, and pushes into one inbox share a command."""
        if command.to_member:
            return await self._carry_out(command)
        channel, offset = command.channel, self._clock.offset
        queue = channel.queue
        name = channel.name.encode("ascii")
        frame = b"m%c%b%b" % (len(name), name, command.payload)
        settings, client, limit = self._settings[command.shard], self._clients[command.shard], None
        connection = client.ready
        if connection is None:
            connection, limit = await client.connected()
        try:
            if queue.kind is Kind.INBOX:
                mergeable = self._inbox_push(settings, queue.name, offset)
                part = b"%b$%d\r\n%b\r\n" % (pack_argument(command.capacity), len(frame), frame)
                reply = await connection.send_merged(mergeable, part, limit=limit)
            else:
                head = self._queue_push(settings, queue.name, command.capacity, offset)
                reply = await connection.send_inline(b"%b$%d\r\n%b\r\n" % (head, len(frame), frame), limit=limit)
            return read_pushed(reply)
        except UnknownScript:
            return await self._carry_out(command)
        except (Refusal, *UNREADABLE) as exc:
            raise push_call(settings, command).failure(exc) from None

    async def _read(self, command: c.Read) -> c.Batch:
        """Read an inbox on a connection of its own, and remove what was read before."""
        settings, client, after = self._settings[command.shard], self._clients[command.shard], command.after
        connection = client.take_spare() or await client.borrow()
        try:
            run = connection.run_id or connection.token
            history = self._histories.get(command.inbox.name)
            if history is None or not history.goes_on_after(after):
                self._histories[command.inbox.name] = history = ReadHistory(run, after)
            if not after:
                history.run = run  # all of the stream is unread
            elif history.run != run:
                batch = await self._read_again(command, connection, history, run)
                if batch.entries:
                    return batch
                after = batch.position
                history.goes_on_after(after)
            read, trim = self._read_command(settings, command.inbox.name, command.block)
            place = after.encode() or b"0-0"
            sent = b"%b$%d\r\n%b\r\n" % (read, len(place), place)
            if after:
                milliseconds, _, number = place.partition(b"-")
                first = b"%b-%d" % (milliseconds, int(number) + 1)
                trimming = b"%b$%d\r\n%b\r\n" % (trim, len(first), first)
                if silently := connection.silenced(trimming):  # its reply would wake this process for nothing
                    sent = silently + sent
                else:
                    connection.send(trimming).add_done_callback(ignore)
            reply = await connection.send_inline(sent, limit=command.block + self._timeout)
            return c.Batch((), after) if reply is None else _batch(reply, history)
        except Redirection as exc:
            elsewhere = await client.follow(exc, connection)
        except BaseException as exc:
            connection.abort()  # a reply may be on its way; reading again brings it again
            elsewhere = None
            if not (isinstance(exc, StoreError) and client.left(connection, exc)):
                if not isinstance(exc, (Refusal, *UNREADABLE)):
                    raise
                raise call_command("XREAD", settings.keys.inbox(command.inbox.name)[1]).failure(exc) from None
        finally:
            client.give(connection)
        return await (self._read(command) if elsewhere is None else self._read_elsewhere(command, elsewhere))

    async def _read_elsewhere(self, command: c.Read, connection: Connection) -> c.Batch:
        """Read an inbox once at the node of a Cluster to which it is being moved."""
        client, (_, stream) = self._clients[command.shard], self._settings[command.shard].keys.inbox(command.inbox.name)
        milliseconds, after = max(1, round(command.block * 1000)), command.after
        words = ("XREAD", "COUNT", _READ_COUNT, "BLOCK", milliseconds, "STREAMS", stream, after or "0-0")
        try:
            reply = await connection.call(*words, limit=command.block + self._timeout)
            return c.Batch((), after) if reply is None else _batch(reply, self._histories[command.inbox.name])
        except BaseException as exc:
            connection.abort()
            if isinstance(exc, Redirection):  # it is not there any more
                raise StoreError(str(exc), retryable=True, outcome="not_sent", server=exc.server) from None
            if not isinstance(exc, (Refusal, *UNREADABLE)):
                raise
            raise call_command("XREAD", stream).failure(exc) from None
        finally:
            client.give(connection)

    async def _read_again(self, command: c.Read, connection: Connection, history: ReadHistory, run: str) -> c.Batch:
        """Return what a server that may have an older copy has up to the position and was not read before.

        It has given its ids without those that it lacks. So the next read goes on after its last one, and not after the
        position, and removes nothing that it adds meanwhile.
        """
        stream = self._settings[command.shard].keys.inbox(command.inbox.name)[1]
        found = await connection.call("XRANGE", stream, "-", command.after or "+")
        entries, known = _entries(list_of(found))
        count, position = history.move(run, known)
        return c.Batch(tuple(entries[count:]), position)

    # -- waiting

    async def wait(self, request: c.Wait, /) -> None:
        """Wait for a signal of the queue; the one that is taken stands for no message. See `Store.wait`."""
        client = self._clients[request.shard]
        key = self._settings[request.shard].keys.queue(request.queue.name)[1]
        connection: Connection | None = await client.borrow()
        while connection is not None:
            connection = await self._wait_on(connection, request, client, key)

    async def _wait_on(
        self, connection: Connection, request: c.Wait, client: ShardClient, key: str
    ) -> Connection | None:
        """Wait on a borrowed connection; return the one on which to go on, if the queue is being moved."""
        reply = connection.call("BLPOP", key, f"{request.block:.3f}", limit=request.block + self._timeout)
        try:
            await asyncio.shield(reply)
        except asyncio.CancelledError:
            reply.add_done_callback(ignore)  # its error, should the connection be lost, is of no interest
            self._in_background(self._end_wait(request, client, connection, reply))
            raise
        except Redirection as exc:
            try:
                return await client.follow(exc, connection)
            finally:
                client.give(connection)
        except BaseException as exc:
            left = isinstance(exc, StoreError) and client.left(connection, exc)
            client.give(connection)
            if left:
                return None  # the queue is looked at where it is now
            if not isinstance(exc, Refusal):
                raise
            raise call_command("BLPOP", key).failure(exc) from None
        client.give(connection)
        return None

    async def _end_wait(
        self, request: c.Wait, client: ShardClient, connection: Connection, reply: asyncio.Future[object]
    ) -> None:
        """End a wait that was cancelled; a signal that came at that moment is passed on."""
        pause = _UNBLOCK_FIRST
        try:
            while not reply.done():
                commands = await client.beside(connection)
                try:
                    await commands.call("CLIENT", "UNBLOCK", connection.client_id)
                except Refusal as exc:
                    if exc.retryable:
                        raise
                    connection.abort()  # the user may not; a signal that came at this moment goes with it
                    break
                await asyncio.wait([reply], timeout=pause)  # the server may not have seen the wait itself yet
                pause = min(_UNBLOCK_MOST, pause * 2)
            if not reply.done() or reply.result() is not None:
                passing = PendingRequest(request.shard, signal(self._settings[request.shard], request.queue))
                while passing.calls:
                    passing.resume(await client.send(passing.calls))
        except StoreError:
            pass  # one connection or the other is gone, and the wait with it
        finally:
            if not reply.done():
                connection.abort()  # else its reply would be taken for that to the next command
            client.give(connection)

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._ending_waits.add(task)
        task.add_done_callback(self._ending_waits.discard)

    # -- the connections

    async def run_id(self, shard: int, /) -> str:
        """Return what names this run of the shard's server; without the right to ask, what names the connection."""
        connection = await self._clients[shard].connection()
        return connection.run_id or connection.token

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection for commands to the shard is lost, or the shard is at another server."""
        await self._clients[shard].lost()

    async def aclose(self) -> None:
        """Close every connection, after the waits that are being ended."""
        if self._ending_waits:
            await asyncio.wait(self._ending_waits, timeout=self._timeout)
        await self._servers.aclose()

    def abandon(self) -> None:
        """Have the servers end all waits: their connections outlive a loop that is closed without a shutdown."""
        self._servers.abandon()


# What follows is the same in command after command, and packing it takes long. The clock's offset, which the settings
# hold, is an argument so that it is a part of the key.


def _queue_push(settings: RequestSettings, queue: str, capacity: int, _offset: float) -> bytes:
    """Return all of a push into a queue but its frame."""
    return pack_head(*queue_push(settings, queue, capacity).command())


def _inbox_push(settings: RequestSettings, inbox: str, _offset: float) -> MergeableCommand:
    """Return what all pushes into one inbox have in common."""
    return MergeableCommand(*inbox_push(settings, inbox).command(), each=2)


def _read_command(settings: RequestSettings, inbox: str, block: float) -> tuple[bytes, bytes]:
    """Return all of the two commands of a read but the positions: reading, and removing what was read before."""
    stream, milliseconds = settings.keys.inbox(inbox)[1], max(1, round(block * 1000))
    return (
        pack_head("XREAD", "COUNT", _READ_COUNT, "BLOCK", milliseconds, "STREAMS", stream),
        pack_head("XTRIM", stream, "MINID"),
    )


def _batch(reply: object, history: ReadHistory) -> c.Batch:
    ((_, found),) = map(list_of, list_of(reply))  # of the one stream that was asked for
    entries, known = _entries(list_of(found))
    return c.Batch(tuple(entries), history.add(known))


def _entries(found: list[object]) -> tuple[list[tuple[float, bytes]], list[Entry]]:
    """Return entries of a stream as a batch has them, and as they are remembered."""
    entries: list[tuple[float, bytes]] = []
    known: list[Entry] = []
    for entry in found:
        place, fields = list_of(entry)
        if not isinstance(place, bytes):
            raise unexpected(place)
        stamp = place.partition(b"-")[0]
        try:
            offset, frame = list_of(fields)
            if isinstance(offset, bytes) and isinstance(frame, bytes):
                entries.append(((int(stamp) + int(offset)) / 1000, frame))
                known.append((place, hash(frame)))
                continue
        except (ValueError, OverflowError):  # not one of ours
            pass
        entries.append((int(stamp) / 1000, b""))
        known.append((place, 0))
    return entries, known


if TYPE_CHECKING:
    _fits: type[Store] = RedisStore
    _fits_too: type[Backend] = RedisBackend
