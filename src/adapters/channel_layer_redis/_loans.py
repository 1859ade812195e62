"""Connections of threads in the hands of an event loop that lives for one call.

Such a loop cannot open connections of its own, and the way through the I/O thread and back wakes two threads. A socket
that is already there can be asked from any loop, as long as nobody else uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from channel_layer.errors import StoreError
from channel_layer_redis._protocol import NoScript, pack
from channel_layer_redis._runs import batches_of, start

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer import commands as c
    from channel_layer.ports import Loan
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

    async def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        if len(requests) == 1:  # as nearly always; what several need costs as much as the request itself
            return [await self._alone(requests[0])]
        runs = start(requests, self._plans)
        while batches := batches_of(runs):
            await self._step(batches)
        return [run.outcome() for run in runs]

    async def _alone(self, request: c.BlockingCommand[R]) -> R | StoreError:
        (run,) = start((request,), self._plans)
        while (asks := run.asks) is not None:
            if not asks:
                run.resume([])
                continue
            exchange = _Exchange(self._wires[run.shard], asks, self._timeout)
            try:
                if rest := exchange.begin():
                    await exchange.send(rest)
                replies = exchange.at_once() or await exchange.read()
            except StoreError as exc:
                run.fail(exc)
            else:
                run.resume(replies)
        outcome: R | StoreError = run.outcome()
        return outcome

    def end(self) -> None:
        for pool, wire in zip(self._pools, self._wires, strict=False):  # fewer, if not all could be had
            pool.give(wire)

    async def _step(self, batches: Sequence[Batch]) -> None:
        """Send to every server, in one write each, and only then wait for the replies."""
        sent: list[tuple[Batch, _Exchange]] = []
        for batch in batches:
            if not batch.asks:
                batch.resume([])
                continue
            exchange = _Exchange(self._wires[batch.shard], batch.asks, self._timeout)
            try:
                if rest := exchange.begin():
                    await exchange.send(rest)
            except StoreError as exc:
                batch.fail(exc)
            else:
                sent.append((batch, exchange))
        for batch, exchange in sent:
            try:
                replies = exchange.at_once() or await exchange.read()
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

    __slots__ = ("_asks", "_deadline", "_replies", "_timeout", "_wire")

    def __init__(self, wire: Wire, asks: Sequence[Ask], timeout: float) -> None:
        self._wire = wire
        self._asks = asks
        self._replies: list[Reply] = []
        self._timeout = timeout
        self._deadline: float | None = None

    def begin(self) -> bytes:
        """Send what the socket takes; return the rest, for `send`.

        Raises:
            StoreError: the connection is lost.
        """
        try:
            return self._wire.send_now(b"".join([pack(ask.named()) for ask in self._asks]))
        except BaseException:
            self._wire.close()
            raise

    def at_once(self) -> list[Reply] | None:
        """Wait for the replies in place, for a moment; None: that is not all, and `read` has the rest.

        Raises:
            StoreError: the connection is lost.
        """
        wire, replies, count = self._wire, self._replies, len(self._asks)
        try:
            done = wire.take(_IN_PLACE_SECONDS) and wire.collect(replies, count)
        except BaseException:
            wire.close()
            raise
        return replies if done and not _unknown(replies) else None

    async def send(self, rest: bytes) -> None:
        """Send the rest.

        Raises:
            StoreError: the connection is lost, or the server does not take it in time.
        """
        wire, loop = self._wire, asyncio.get_running_loop()
        try:
            while rest:
                await self._until(loop, loop.add_writer, loop.remove_writer)
                rest = wire.send_now(rest)
        except BaseException:
            wire.close()
            raise

    async def read(self) -> list[Reply]:
        """Return the replies; scripts that the server does not know are sent whole, for nothing was done for those.

        Raises:
            StoreError: the connection is lost, or the server does not answer in time.
        """
        replies = self._replies
        await self._read(replies, len(self._asks))
        if unknown := _unknown(replies):
            try:
                rest = self._wire.send_now(b"".join([pack(self._asks[place].whole()) for place in unknown]))
            except BaseException:
                self._wire.close()
                raise
            await self.send(rest)
            again: list[Reply] = []
            await self._read(again, len(unknown))
            for place, reply in zip(unknown, again, strict=True):
                replies[place] = reply
        return replies

    async def _read(self, replies: list[Reply], count: int) -> None:
        wire, loop = self._wire, asyncio.get_running_loop()
        try:
            while len(replies) < count:
                if wire.take_now():
                    wire.collect(replies, count)
                else:
                    await self._until(loop, loop.add_reader, loop.remove_reader)
        except BaseException:
            wire.close()
            raise

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
