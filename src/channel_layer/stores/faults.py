"""Injects faults into any store, at random or on demand: refused commands, lost replies, lost connections, delays.

They show how an application handles errors before its users meet one. The random generator is seeded, so that a run
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
    """The connection is lost, and every command in flight fails."""


class FaultyBackend(StoreWrapper):
    """A backend that injects faults into another one.

    Args:
        backend: the wrapped backend, which does the work.
        faults: how often each kind of fault is injected; None: only on demand (`fail_once`, `cut`).
    """

    def __init__(self, backend: Backend, faults: Faults | None = None) -> None:
        super().__init__(backend)
        self.faults: Faults = faults if faults is not None else Faults()
        self.random: random.Random = random.Random(self.faults.seed)  # noqa: S311 - repeatable, not secret
        self.planned: list[tuple[type[object], bool]] = []
        """The requests that fail once: the class, and whether the request is carried out."""
        self._planning = threading.Lock()
        self._stores: weakref.WeakSet[FaultyStore] = weakref.WeakSet()

    def open(self) -> FaultyStore:
        store = FaultyStore(self, self._backend.open())
        self._stores.add(store)
        return store

    def open_blocking(self) -> FaultyBlockingStore:
        return FaultyBlockingStore(self, self._backend.open_blocking())

    def fail_once(self, request: type[object], *, acted: bool = False) -> None:
        """Let the next request of a class fail; called twice, the next two.

        Args:
            request: a class of `channel_layer.commands`.
            acted: the request is carried out and its reply is lost; else it is not sent.
        """
        self.planned.append((request, acted))

    def plan(self, request: object) -> bool | None:
        """Return whether `fail_once` asks to lose the reply to a request; None: it asks nothing.

        Raises:
            StoreError: the request is not sent.
        """
        with self._planning:
            for index, (kind, acted) in enumerate(self.planned):
                if isinstance(request, kind):
                    del self.planned[index]
                    if acted:
                        return True
                    raise _lost("the command was not sent", "not_sent")
        return None

    def delay(self) -> float:
        """Return how many seconds the next command waits."""
        return self.random.uniform(0.0, self.faults.delay) if self.faults.delay else 0.0

    def chance(self) -> bool:
        """Return at random whether to lose the reply to the next command.

        Raises:
            _Disconnected: the connection is lost, and the command is not sent.
            StoreError: the command is not sent.
        """
        faults, chance = self.faults, self.random.random()
        if chance < faults.refuse:
            raise _lost("the command was not sent", "not_sent")
        if chance < faults.refuse + faults.disconnect:
            raise _Disconnected("the connection was lost (an injected fault)", retryable=True, outcome="not_sent")
        return chance < faults.refuse + faults.disconnect + faults.lose_reply

    def forked(self) -> None:
        """Use a new lock in a child process, and tell the wrapped backend."""
        self._planning = threading.Lock()
        super().forked()

    def cut(self) -> None:
        """Lose every connection: commands in flight, in any event loop, fail, carried out or not."""
        for store in list(self._stores):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                store.loop.call_soon_threadsafe(store.cut)


class FaultyStore:
    """A store that injects faults into another one."""

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
        """Carry out a command, unless a fault prevents it."""
        loses = await self._decide(command)
        reply = self._store.execute(command)
        if isinstance(command, (c.Pop, c.PutBack)):  # never cut short: their messages are in no queue meanwhile
            return _reply(await reply, loses=loses)
        return _reply(await self._unless_cut(reply), loses=loses)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, each with its own faults."""
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Wait for a queue, unless a fault prevents it."""
        loses = await self._decide(request)
        await self._unless_cut(self._store.wait(request))
        if loses:
            raise _lost("the reply was lost", "unknown")

    async def run_id(self, shard: int, /) -> str:
        return await self._store.run_id(shard)

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection of a shard is lost, also by an injected fault."""
        with contextlib.suppress(StoreError):
            await self._unless_cut(self._store.disconnected(shard))

    async def aclose(self) -> None:
        await self._store.aclose()

    def abandon(self) -> None:
        self._store.abandon()

    async def _unless_cut(self, work: Awaitable[R]) -> R:
        """Await *work*, unless the connection is lost first.

        Raises:
            StoreError: the connection is lost.
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
        """Return whether to lose the reply to a request.

        Raises:
            StoreError: the request is not sent.
        """
        backend = self._backend
        planned = backend.plan(request)
        if planned is not None:
            return planned
        # A PutBack is never delayed: it has to be carried out even if its task is cancelled.
        if not isinstance(request, c.PutBack) and (delay := backend.delay()):
            await asyncio.sleep(delay)
        try:
            return backend.chance()
        except _Disconnected:
            self.cut()
            raise


class FaultyBlockingStore:
    """A blocking store that injects faults into another one. A lost connection fails one command only."""

    def __init__(self, backend: FaultyBackend, store: BlockingStore) -> None:
        self._backend = backend
        self._store = store

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, unless a fault prevents it."""
        loses = self._decide(command)
        return _reply(self._store.execute(command), loses=loses)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, each with its own faults."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> Waiting:
        """Start to wait, unless a fault prevents it."""
        if self._decide(request):
            raise _lost("the connection was lost", "unknown")
        return self._store.wait(request)

    def close(self) -> None:
        self._store.close()

    def _decide(self, request: object) -> bool:
        """Return whether to lose the reply to a request: see `FaultyStore`."""
        planned = self._backend.plan(request)
        if planned is not None:
            return planned
        if delay := self._backend.delay():
            time.sleep(delay)
        return self._backend.chance()


def _reply(reply: R, *, loses: bool) -> R:
    """Return the reply to a command that was carried out, or lose it.

    A lost reply to a `Pop` becomes a reply that counts the messages as lost, as from a store that lost them itself:
    they are in no queue any more.

    Raises:
        StoreError: the reply is lost.
    """
    if not loses:
        return reply
    if isinstance(reply, c.Popped):
        return replace(reply, entries=(), lost=len(reply.entries))
    raise _lost("the reply was lost", "unknown")


def _lost(what: str, outcome: Literal["not_sent", "unknown"]) -> StoreError:
    return StoreError(f"{what} (an injected fault)", retryable=True, outcome=outcome)


if TYPE_CHECKING:
    _fits: type[Store] = FaultyStore
    _fits_too: type[Backend] = FaultyBackend
    _fits_threads: type[BlockingStore] = FaultyBlockingStore
