"""The floor: what one process reaches on a server without a layer.

Raw pushes and raw pings over asyncio and hiredis. No layer can be faster than this on the same machine, so the
difference is what a layer costs.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from channel_layer_bench.faults import Faults, Sample
from channel_layer_bench.metrics import one_way
from channel_layer_bench.roles.blocking import Calls
from channel_layer_bench.servers import connect

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    import hiredis

    from channel_layer_bench.context import Context

__all__ = ("call", "ping", "push")

_PUSH = "return redis.call('RPUSH', KEYS[1], ARGV[1])"

_CLEAR_EVERY = 200
"""Batches of pushes after which the list is dropped, so that a long run does not fill the server."""


class _Connection:
    """A connection that counts replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parser: hiredis.Reader) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = parser
        self._missing = 0

    def write(self, commands: bytes) -> None:
        """Write commands."""
        self._writer.write(commands)

    async def replies(self, count: int) -> None:
        """Wait for so many replies more."""
        self._missing += count
        while self._missing > 0:
            data = await self._reader.read(1 << 16)
            if not data:
                raise ConnectionResetError("the server closed the connection")
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                if isinstance(reply, Exception):
                    raise reply
                self._missing -= 1


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
    streams = await asyncio.open_connection(address.hostname or "localhost", address.port or 6379)
    connection = _Connection(*streams, hiredis.Reader())
    if address.password:
        user = [unquote(address.username)] if address.username else []
        connection.write(_command("AUTH", *user, unquote(address.password)))
        await connection.replies(1)
    if address.path.strip("/"):
        connection.write(_command("SELECT", address.path.strip("/")))
        await connection.replies(1)
    return connection


async def push(context: Context, url: str, key: str, tasks: int) -> AsyncGenerator[Sample | None, None]:
    """Push the payload onto a list, in batches of as many commands as the workload has tasks."""
    connection = await _connect(url)
    batch, drop = _command("RPUSH", key, "x" * context.plan.payload) * tasks, _command("UNLINK", key)
    connection.write(batch)
    await connection.replies(tasks)
    await asyncio.sleep(context.plan.warmup)
    yield None
    first, batches = time.monotonic(), 0
    connection.write(batch)
    while time.monotonic() < first + context.plan.seconds:
        # One batch is written while the server works on the other, so that neither side waits.
        connection.write(batch)
        await connection.replies(tasks)
        batches += 1
        if batches % _CLEAR_EVERY == 0:
            connection.write(drop)
            await connection.replies(1)
    await connection.replies(tasks)
    seconds, count = time.monotonic() - first, (batches + 1) * tasks
    connection.write(drop)
    await connection.replies(1)
    yield Sample({"messages_per_second": count / seconds}, Faults(count))


async def ping(context: Context, url: str) -> AsyncGenerator[Sample | None, None]:
    """Wait for the reply to each PING before the next one."""
    connection, command = await _connect(url), _command("PING")
    connection.write(command)
    await connection.replies(1)
    await asyncio.sleep(context.plan.warmup)
    yield None
    trips: list[float] = []
    deadline = time.monotonic() + context.plan.seconds
    while (began := time.monotonic()) < deadline:
        connection.write(command)
        await connection.replies(1)
        trips.append(time.monotonic() - began)
    yield Sample(one_way(trips), Faults(len(trips)))


def call(context: Context, url: str, key: str) -> Generator[Calls | None, None, None]:
    """Run a script that pushes the payload onto a list, one call after another, with redis-py."""
    client, payload = connect(url), "x" * context.plan.payload
    sha = client.script_load(_PUSH)
    client.evalsha(sha, 1, key, payload)
    yield None
    time.sleep(context.plan.warmup)
    calls = Calls()
    calls.repeat(context.plan.seconds / 2, lambda _: client.evalsha(sha, 1, key, payload))
    client.unlink(key)
    yield calls
