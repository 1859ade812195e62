"""Connections of threads in the hands of an event loop that lives for one call.

Such a loop cannot open connections of its own, and the way through the I/O thread and back wakes two threads. A socket
that is already there can be asked from any loop, as long as nobody else uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

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
        runs = start(requests, self._plans)
        while batches := batches_of(runs):
            await self._step(batches)
        return [run.outcome() for run in runs]

    def end(self) -> None:
        for pool, wire in zip(self._pools, self._wires, strict=False):  # fewer, if not all could be had
            pool.give(wire)

    async def _step(self, batches: Sequence[Batch]) -> None:
        """Send to every server, in one write each, and only then wait for the replies."""
        sent: list[tuple[Batch, _Exchange]] = []
        for batch in batches:
            exchange = _Exchange(self._wires[batch.shard], batch.asks, self._timeout)
            try:
                await exchange.send()
            except StoreError as exc:
                batch.fail(exc)
            else:
                sent.append((batch, exchange))
        for batch, exchange in sent:
            try:
                replies = await exchange.read()
            except StoreError as exc:
                batch.fail(exc)
            else:
                batch.resume(replies)


class _Exchange:
    """Some commands, and the replies to them. If that fails, or is cancelled, the connection is closed.

    Args:
        wire: the connection.
        asks: the commands.
        timeout: seconds that it may take.
    """

    __slots__ = ("_asks", "_deadline", "_loop", "_wire")

    def __init__(self, wire: Wire, asks: list[Ask], timeout: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._wire = wire
        self._asks = asks

    async def send(self) -> None:
        """Send them.

        Raises:
            StoreError: the connection is lost, or the server does not take them in time.
        """
        await self._send([ask.named() for ask in self._asks])

    async def read(self) -> list[Reply]:
        """Return the replies; scripts that the server does not know are sent whole, for nothing was done for those.

        Raises:
            StoreError: the connection is lost, or the server does not answer in time.
        """
        replies = await self._read(len(self._asks))
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply.error, NoScript)]
        if unknown:
            await self._send([self._asks[place].whole() for place in unknown])
            for place, reply in zip(unknown, await self._read(len(unknown)), strict=True):
                replies[place] = reply
        return replies

    async def _send(self, commands: list[Any]) -> None:
        wire = self._wire
        try:
            rest = wire.send_now(b"".join(map(pack, commands)))
            while rest:
                await self._until(self._loop.add_writer, self._loop.remove_writer)
                rest = wire.send_now(rest)
        except BaseException:
            wire.close()
            raise

    async def _read(self, count: int) -> list[Reply]:
        wire = self._wire
        replies: list[Reply] = []
        try:
            done = count == 0 or (wire.take(_IN_PLACE_SECONDS) and wire.collect(replies, count))
            while not done:
                await self._until(self._loop.add_reader, self._loop.remove_reader)
                while not done and wire.take_now():  # TLS may hold more than what the system tells of
                    done = wire.collect(replies, count)
        except BaseException:
            wire.close()
            raise
        return replies

    async def _until(self, add: Callable[..., object], remove: Callable[[int], object]) -> None:
        """Wait until the socket is ready.

        Raises:
            StoreError: it is not in time.
        """
        ready: asyncio.Future[None] = self._loop.create_future()
        descriptor = self._wire.descriptor
        timer = self._loop.call_at(self._deadline, self._give_up, ready)
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


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


if TYPE_CHECKING:
    _fits: type[Loan] = RedisLoan
