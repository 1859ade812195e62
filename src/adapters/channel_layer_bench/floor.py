"""The floor: what one process reaches on a server without a layer.

Raw pushes and raw pings over asyncio and hiredis. No layer can be faster than this on the same machine, so the
difference is what a layer costs.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from hashlib import sha1
from typing import TYPE_CHECKING, Protocol, runtime_checkable
from urllib.parse import unquote, urlsplit

from channel_layer_bench.context import Stalled
from channel_layer_bench.metrics import percentile

if TYPE_CHECKING:
    import hiredis

    from channel_layer_bench.context import BlockingContext, Context

__all__ = ("call", "ping", "push")

_PUSH = b"return redis.call('RPUSH', KEYS[1], ARGV[1])"

_CLEAR_EVERY = 200
"""Batches of pushes after which the list is dropped, so that a long run does not fill the server."""


@runtime_checkable
class _Transport(Protocol):
    """What is used of a transport; the one of uvloop is no `asyncio.Transport`."""

    def write(self, data: bytes, /) -> object: ...


class _Connection(asyncio.Protocol):
    """A connection that counts replies."""

    def __init__(self, reader: hiredis.Reader) -> None:
        self._reader = reader
        self._transport: _Transport | None = None
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._replies = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, _Transport):
            self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        replies = self._replies
        while (reply := self._reader.gets()) is not False:
            if isinstance(reply, Exception):
                self.connection_lost(reply)
                return
            replies += 1
        while self._waiting and self._waiting[0][0] <= replies:
            wanted, done = self._waiting.popleft()
            replies -= wanted
            if not done.done():
                done.set_result(None)
        self._replies = replies

    def connection_lost(self, exc: Exception | None) -> None:
        while self._waiting:
            _, done = self._waiting.popleft()
            if not done.done():
                done.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def request(self, data: bytes, replies: int) -> asyncio.Future[None]:
        """Write commands; the future is done when their replies have come."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._transport is None:
            raise ConnectionResetError("there is no connection")
        self._waiting.append((replies, done))
        self._transport.write(data)
        return done


def _command(*words: str) -> bytes:
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        raw = word.encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
    return b"".join(parts)


async def _connect(url: str) -> _Connection:
    import hiredis  # noqa: PLC0415 - of the extra `redis`, which only Redis layers need

    address = urlsplit(url)
    if address.scheme not in ("redis", "valkey"):
        raise ValueError(f"the floor is measured over redis:// only, not over {address.scheme}://")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: _Connection(hiredis.Reader()), address.hostname or "localhost", address.port or 6379
    )
    if address.password:
        user = [unquote(address.username)] if address.username else []
        await connection.request(_command("AUTH", *user, unquote(address.password)), 1)
    if address.path.strip("/"):
        await connection.request(_command("SELECT", address.path.strip("/")), 1)
    return connection


async def push(context: Context) -> None:
    """Push the payload onto a list, in batches of as many commands as the workload has tasks."""
    tasks, seconds, key = context.params.integer("tasks"), context.params.real("seconds"), context.params.text("key")
    connection = await _connect(context.params.text("url"))
    batch = _command("RPUSH", key, "x" * context.params.integer("payload")) * tasks
    drop = _command("UNLINK", key)
    await connection.request(batch, tasks)
    await asyncio.sleep(context.warmup)
    context.report(ready=True)
    await context.next_instruction()
    first, batches = time.monotonic(), 0
    ahead = deque([connection.request(batch, tasks)])
    while time.monotonic() < first + seconds:
        # One batch is written while the server works on the other, so that neither side waits.
        ahead.append(connection.request(batch, tasks))
        await _bounded(context, ahead.popleft())
        batches += 1
        if batches % _CLEAR_EVERY == 0:
            await _bounded(context, connection.request(drop, 1))
    await _bounded(context, ahead.popleft())
    last = time.monotonic()
    await _bounded(context, connection.request(drop, 1))
    context.report(first=first, last=last, count=(batches + 1) * tasks)


async def ping(context: Context) -> None:
    """Wait for the reply to each PING before the next one."""
    seconds = context.params.real("seconds")
    connection = await _connect(context.params.text("url"))
    command = _command("PING")
    await connection.request(command, 1)
    await asyncio.sleep(context.warmup)
    context.report(ready=True)
    await context.next_instruction()
    trips: list[float] = []
    deadline = time.monotonic() + seconds
    while (began := time.monotonic()) < deadline:
        await connection.request(command, 1)
        trips.append(time.monotonic() - began)
    context.report(p50=percentile(trips, 0.5) / 2, p99=percentile(trips, 0.99) / 2, count=len(trips))


def call(context: BlockingContext) -> None:
    """Run a script that pushes the payload onto a list, one call after another, with redis-py."""
    import redis  # noqa: PLC0415 - of the extra `redis`, which only Redis layers need

    seconds, key = context.params.real("seconds"), context.params.text("key")
    payload = b"x" * context.params.integer("payload")
    address = urlsplit(context.params.text("url"))
    client = redis.Redis(
        host=address.hostname or "localhost",
        port=address.port or 6379,
        db=int(address.path.strip("/") or 0),
        password=unquote(address.password) if address.password else None,
    )
    sha = sha1(_PUSH, usedforsecurity=False).hexdigest()
    client.script_load(_PUSH)
    client.evalsha(sha, 1, key, payload)
    context.report(ready=True)
    context.next_instruction()
    time.sleep(context.warmup)
    count, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds or not count:
        client.evalsha(sha, 1, key, payload)
        count += 1
    client.unlink(key)
    client.close()
    context.report(count=count, rate=count / (now - began))


async def _bounded(context: Context, done: asyncio.Future[None]) -> None:
    try:
        async with asyncio.timeout(context.patience):
            await done
    except TimeoutError as exc:
        raise Stalled("the server does not answer") from exc
