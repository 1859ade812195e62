"""Faults on purpose, by chance or on demand, in front of any store: what networks and servers do on bad days.

An application that runs with it for a while shows what it makes of errors before its users do. Seeded, so that a run
can be repeated.

Source: the ASGI channel layer specification, which lets a layer have such a mode for testing resilience.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeVar

from channel_layer import commands as c
from channel_layer.domain.rules import Faults
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import StoreWrapper, execute_each, execute_each_blocking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from channel_layer.ports import Backend, BlockingStore, Store, Waiting

__all__ = ("FaultyBackend", "FaultyBlockingStore", "FaultyStore")

R = TypeVar("R")


class _Disconnected(StoreError):
    """The connection is lost, and with it all that is in flight."""


class FaultyBackend(StoreWrapper):
    """A backend in front of another one, which it hinders.

    Args:
        backend: the one that does the work.
        faults: how often what goes wrong; None: nothing does by itself.
    """

    def __init__(self, backend: Backend, faults: Faults | None = None) -> None:
        super().__init__(backend)
        self.faults: Faults = faults if faults is not None else Faults()
        self.random: random.Random = random.Random(self.faults.seed)  # noqa: S311 - to be repeated, not to be secret
        self.planned: list[tuple[type[object], bool]] = []
        """What is to fail once: a kind of request, and whether it is carried out."""
        self._planning = threading.Lock()
        self._stores: weakref.WeakSet[FaultyStore] = weakref.WeakSet()

    def open(self) -> FaultyStore:
        """Make a store for the running event loop."""
        store = FaultyStore(self, self._backend.open())
        self._stores.add(store)
        return store

    def open_blocking(self) -> FaultyBlockingStore:
        """Make a store for the threads of this process."""
        return FaultyBlockingStore(self, self._backend.open_blocking())

    def fail_once(self, request: type[object], *, acted: bool = False) -> None:
        """Let the next request of a kind fail; called twice, the next two.

        Args:
            request: a class of `channel_layer.commands`.
            acted: it is carried out and its reply is lost; else it is not sent.
        """
        self.planned.append((request, acted))

    def plan(self, request: object) -> bool | None:
        """Return whether the reply to a request is to be lost; None: nothing was planned for it.

        Raises:
            StoreError: it is not sent.
        """
        with self._planning:
            for place, (kind, acted) in enumerate(self.planned):
                if isinstance(request, kind):
                    del self.planned[place]
                    if acted:
                        return True
                    raise _lost("the command was not sent", "not_sent")
        return None

    def delay(self) -> float:
        """Return how many seconds the next command waits."""
        return self.random.uniform(0.0, self.faults.delay) if self.faults.delay else 0.0

    def chance(self) -> bool:
        """Return whether the reply to the next command is to be lost.

        Raises:
            _Disconnected: the connection is lost, and it was not sent.
            StoreError: it is not sent.
        """
        faults, chance = self.faults, self.random.random()
        if chance < faults.refuse:
            raise _lost("the command was not sent", "not_sent")
        if chance < faults.refuse + faults.disconnect:
            raise _Disconnected("the connection was lost (a fault on purpose)", retryable=True, outcome="not_sent")
        return chance < faults.refuse + faults.disconnect + faults.lose_reply

    def forked(self) -> None:
        """Start anew in a child."""
        self._planning = threading.Lock()
        super().forked()

    def cut(self) -> None:
        """Lose every connection: what is in flight in any event loop fails at its next turn, carried out or not."""
        for store in list(self._stores):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                store.loop.call_soon_threadsafe(store.cut)


class FaultyStore:
    """The store port in front of another store.

    Args:
        backend: decides what goes wrong.
        store: does the work.
    """

    def __init__(self, backend: FaultyBackend, store: Store) -> None:
        self._backend = backend
        self._store = store
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._cut: asyncio.Future[None] = self.loop.create_future()

    def cut(self) -> None:
        """Lose the connection: every command in flight fails, carried out or not. Called in the store's loop."""
        self._cut.set_result(None)
        self._cut = self.loop.create_future()

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, or not."""
        loses = await self._decide(command)
        reply = self._store.execute(command)
        if isinstance(command, (c.Pop, c.PutBack)):  # which end by themselves: what they speak of is nowhere else
            return _reply(await reply, loses=loses)
        return _reply(await self._unless_cut(reply), loses=loses)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, each with its own faults."""
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Wait for a queue, or not."""
        loses = await self._decide(request)
        await self._unless_cut(self._store.wait(request))
        if loses:
            raise _lost("the reply was lost", "unknown")

    async def run_id(self, shard: int, /) -> str:
        """Return what names this run of the server."""
        return await self._store.run_id(shard)

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection is lost."""
        with contextlib.suppress(StoreError):
            await self._unless_cut(self._store.disconnected(shard))

    async def aclose(self) -> None:
        """Let go of every connection."""
        await self._store.aclose()

    async def _unless_cut(self, work: Awaitable[R]) -> R:
        """Await *work*, unless the connection is lost first.

        Raises:
            StoreError: it is lost.
        """
        task = asyncio.ensure_future(work)
        cut = self._cut
        try:
            await asyncio.wait((task, cut), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not task.done():
                task.cancel()
        if cut.done():
            await asyncio.gather(task, return_exceptions=True)
            raise _lost("the connection was lost", "unknown")
        return task.result()

    async def _decide(self, request: object) -> bool:
        """Return whether the reply to a request is to be lost.

        Raises:
            StoreError: it is not sent.
        """
        backend = self._backend
        planned = backend.plan(request)
        if planned is not None:
            return planned
        if not isinstance(request, c.PutBack) and (delay := backend.delay()):  # which is finished, cancelled or not
            await asyncio.sleep(delay)
        try:
            return backend.chance()
        except _Disconnected:
            self.cut()
            raise


class FaultyBlockingStore:
    """The blocking store port in front of another store. A connection that is lost is that of one command.

    Args:
        backend: decides what goes wrong.
        store: does the work.
    """

    def __init__(self, backend: FaultyBackend, store: BlockingStore) -> None:
        self._backend = backend
        self._store = store

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, or not."""
        loses = self._decide(command)
        return _reply(self._store.execute(command), loses=loses)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, each with its own faults."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> Waiting:
        """Begin to wait, or not."""
        if self._decide(request):
            raise _lost("the connection was lost", "unknown")
        return self._store.wait(request)

    def close(self) -> None:
        """Let go of every connection."""
        self._store.close()

    def _decide(self, request: object) -> bool:
        """Return whether the reply to a request is to be lost.

        Raises:
            StoreError: it is not sent.
        """
        planned = self._backend.plan(request)
        if planned is not None:
            return planned
        if delay := self._backend.delay():
            time.sleep(delay)
        return self._backend.chance()


def _reply(reply: R, *, loses: bool) -> R:
    """Return the reply to a command that was carried out, or lose it.

    What was taken out of a queue is nowhere else: its loss is told, as by a store that finds out itself.

    Raises:
        StoreError: the reply is lost.
    """
    if not loses:
        return reply
    if isinstance(reply, c.Popped):
        return replace(reply, entries=(), lost=len(reply.entries))
    raise _lost("the reply was lost", "unknown")


def _lost(what: str, outcome: Literal["not_sent", "unknown"]) -> StoreError:
    return StoreError(f"{what} (a fault on purpose)", retryable=True, outcome=outcome)


if TYPE_CHECKING:
    _fits: type[Store] = FaultyStore
    _fits_too: type[Backend] = FaultyBackend
    _fits_threads: type[BlockingStore] = FaultyBlockingStore
