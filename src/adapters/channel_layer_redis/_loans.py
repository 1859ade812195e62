"""Connections of threads in the hands of an event loop that lives for one call.

Such a loop cannot open connections of its own, and the way through the I/O thread and back wakes two threads. A socket
that is already there can be asked from any loop, as long as nobody else uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import ignore
from channel_layer_redis._protocol import NoScript, pack
from channel_layer_redis._runs import batches_of, start

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from channel_layer import commands as c
    from channel_layer.ports import Loan
    from channel_layer_redis._protocol import Arg
    from channel_layer_redis._requests import Ask
    from channel_layer_redis._runs import Batch, Plan
    from channel_layer_redis._wire import Pool, Reply, Wire

__all__ = ("RedisLoan",)

R = TypeVar("R")

_IN_PLACE_SECONDS = 0.001
"""How long a reply is waited for in the loop's own thread, before the loop goes round and waits for it. Nothing else is
asked of this layer in the loop meanwhile, and most replies come within a fifth of that."""


class RedisLoan:
    """See `channel_layer.ports.Loan`.

    Args:
        wires: one to each host.
        pools: where they come from.
        plans: what each type of request asks for.
        timeout: seconds that a command may take.
    """

    def __init__(
        self, wires: Sequence[Wire], pools: Sequence[Pool], plans: Mapping[type, Plan], timeout: float
    ) -> None:
        self._wires = wires
        self._pools = pools
        self._plans = plans
        self._timeout = timeout
        self._tasks: list[asyncio.Task[list[Reply]]] = []
        """Exchanges that could not be done in place."""

    async def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        runs = start(requests, self._plans)
        while batches := batches_of(runs):
            if slow := self._try(batches):
                await self._finish(slow)
        return [run.outcome() for run in runs]

    def end(self) -> Awaitable[object] | None:
        going_on = [task for task in self._tasks if not (task.done() or task.get_loop().is_closed())]
        if not going_on:
            self._give()
            return None
        over = asyncio.gather(*going_on, return_exceptions=True)
        over.add_done_callback(lambda _: self._give())
        return over

    def _give(self) -> None:
        for pool, wire in zip(self._pools, self._wires, strict=False):  # fewer, if not all could be had
            pool.give(wire)

    def _try(self, batches: Sequence[Batch]) -> list[tuple[Batch, _Exchange]]:
        """Send to every server, in one write each, and only then look for the replies; return what takes longer."""
        sent: list[tuple[Batch, _Exchange]] = []
        for batch in batches:
            exchange = _Exchange(self._wires[batch.shard], batch.asks, self._timeout)
            try:
                exchange.begin()
            except StoreError as exc:
                batch.fail(exc)
            else:
                sent.append((batch, exchange))
        slow: list[tuple[Batch, _Exchange]] = []
        for batch, exchange in sent:
            try:
                replies = exchange.at_once()
            except StoreError as exc:
                batch.fail(exc)
            else:
                if replies is None:
                    slow.append((batch, exchange))
                else:
                    batch.resume(replies)
        return slow

    async def _finish(self, slow: Sequence[tuple[Batch, _Exchange]]) -> None:
        """Wait for the replies. Whoever is cancelled leaves that to tasks: a later request must not overtake his."""
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(exchange.finish()) for _, exchange in slow]
        self._tasks += tasks
        for task in tasks:
            task.add_done_callback(ignore)  # should its caller be cancelled
        for (batch, _), task in zip(slow, tasks, strict=True):
            try:
                replies = await asyncio.shield(task)
            except StoreError as exc:
                batch.fail(exc)
            else:
                batch.resume(replies)


class _Exchange:
    """Some commands, and the replies to them. If that fails, or is cancelled, the connection is closed.

    Args:
        wire: the connection.
        asks: the commands; at least one.
        timeout: seconds that it may take, from when it cannot be done in place.
    """

    __slots__ = ("_asks", "_deadline", "_replies", "_rest", "_timeout", "_wire")

    def __init__(self, wire: Wire, asks: Sequence[Ask], timeout: float) -> None:
        self._wire = wire
        self._asks = asks
        self._rest = b""
        self._replies: list[Reply] = []
        self._timeout = timeout
        self._deadline: float | None = None

    def begin(self) -> None:
        """Send what the socket takes.

        Raises:
            StoreError: the connection is lost.
        """
        self._send(ask.named() for ask in self._asks)

    def at_once(self) -> list[Reply] | None:
        """Wait for the replies in place, for a moment; None: that is not all, and `finish` has the rest.

        Raises:
            StoreError: the connection is lost.
        """
        wire, replies, count = self._wire, self._replies, len(self._asks)
        try:
            done = not self._rest and wire.take(_IN_PLACE_SECONDS) and wire.collect(replies, count)
        except BaseException:
            wire.close()
            raise
        return replies if done and not _unknown(replies) else None

    async def finish(self) -> list[Reply]:
        """Return the replies; scripts that the server does not know are sent whole, for nothing was done for those.

        Raises:
            StoreError: the connection is lost, or the server does not take or answer it in time.
        """
        try:
            await self._flush()
            await self._read(self._replies, len(self._asks))
            if unknown := _unknown(self._replies):
                self._send(self._asks[place].whole() for place in unknown)
                await self._flush()
                again: list[Reply] = []
                await self._read(again, len(unknown))
                for place, reply in zip(unknown, again, strict=True):
                    self._replies[place] = reply
        except BaseException:
            self._wire.close()
            raise
        return self._replies

    def _send(self, commands: Iterable[tuple[Arg, ...]]) -> None:
        try:
            self._rest = self._wire.send_now(b"".join([pack(command) for command in commands]))
        except BaseException:
            self._wire.close()
            raise

    async def _flush(self) -> None:
        wire, loop = self._wire, asyncio.get_running_loop()
        while self._rest:
            await self._until(loop, loop.add_writer, loop.remove_writer)
            self._rest = wire.send_now(self._rest)

    async def _read(self, replies: list[Reply], count: int) -> None:
        wire, loop = self._wire, asyncio.get_running_loop()
        while not wire.collect(replies, count):
            if not wire.take_now():
                await self._until(loop, loop.add_reader, loop.remove_reader)

    async def _until(
        self, loop: asyncio.AbstractEventLoop, add: Callable[..., object], remove: Callable[[int], object]
    ) -> None:
        """Wait until the socket is ready.

        Raises:
            StoreError: it is not in time.
        """
        if self._deadline is None:
            self._deadline = loop.time() + self._timeout
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self._wire.descriptor
        timer = loop.call_at(self._deadline, self._give_up, ready)
        add(descriptor, _set, ready)
        try:
            await ready
        finally:
            timer.cancel()
            with contextlib.suppress(RuntimeError):  # the loop was closed before its time
                remove(descriptor)

    def _give_up(self, ready: asyncio.Future[None]) -> None:
        if not ready.done():
            ready.set_exception(self._wire.late())


def _unknown(replies: Sequence[Reply]) -> list[int]:
    """Return the places of scripts that the server does not know."""
    return [place for place, reply in enumerate(replies) if isinstance(reply.error, NoScript)]


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


if TYPE_CHECKING:
    _fits: type[Loan] = RedisLoan
