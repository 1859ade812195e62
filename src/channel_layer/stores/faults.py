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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import Front, one_by_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, BlockingStore, Waiting

__all__ = ("Faults", "FaultyBackend", "FaultyBlockingStore", "FaultyStore")

Q = TypeVar("Q")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong.

    Attributes:
        refuse: the share of commands, from 0 to 1, that are not sent.
        lose_reply: the share that are carried out, and whose reply is lost.
        disconnect: the share at which the connection is lost: this command and all in flight fail, carried out or not.
        delay: seconds that a command waits before it is sent, at most; evenly spread from 0 on.
        seed: of the generator that decides; the same seed decides the same, command by command.
    """

    refuse: float = 0.0
    lose_reply: float = 0.0
    disconnect: float = 0.0
    delay: float = 0.0
    seed: int = 0


class _Disconnected(StoreError):
    """The connection is lost, and with it all that is in flight."""


class FaultyBackend(Front):
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

    def __init__(self, backend: FaultyBackend, store: AsyncStore) -> None:
        self._backend = backend
        self._store = store
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._cut: asyncio.Future[None] = self.loop.create_future()

    def cut(self) -> None:
        """Lose the connection: every command in flight fails, carried out or not. Called in the store's loop."""
        self._cut.set_result(None)
        self._cut = self.loop.create_future()

    # -- what goes through

    async def push(self, request: c.Push, /) -> c.Pushed:
        return await self._ask(request, self._store.push)

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._ask(request, self._store.forgive)

    async def pop(self, request: c.Pop, /) -> c.Popped:
        loses = await self._decide(request)
        popped = await self._store.pop(request)
        # What was taken out is nowhere else: its loss is told, as by a store that finds out itself.
        return replace(popped, entries=(), lost=len(popped.entries)) if loses else popped

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        loses = await self._decide(request)
        returned = await self._store.put_back(request)
        if loses:
            raise _lost("the reply was lost", "unknown")
        return returned

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._ask(request, self._store.unclaim)

    async def wait(self, request: c.Wait, /) -> None:
        await self._ask(request, self._store.wait)

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return await self._ask(request, self._store.unattended)

    async def pending(self, request: c.Pending, /) -> int:
        return await self._ask(request, self._store.pending)

    async def report(self, request: c.Report, /) -> None:
        await self._ask(request, self._store.report)

    async def reported(self, request: c.Reported, /) -> Rates:
        return await self._ask(request, self._store.reported)

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        return await self._ask(request, self._store.survey)

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        return await self._ask(request, self._store.claim)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        return await self._ask(request, self._store.renew)

    async def release(self, request: c.Release, /) -> int:
        return await self._ask(request, self._store.release)

    async def read(self, request: c.Read, /) -> c.Batch:
        return await self._ask(request, self._store.read)

    async def give_back(self, request: c.GiveBack, /) -> None:
        await self._ask(request, self._store.give_back)

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._ask(request, self._store.mark)

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._ask(request, self._store.alive)

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._ask(request, self._store.join)

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._ask(request, self._store.leave)

    async def publish(self, request: c.Publish, /) -> c.Published:
        return await self._ask(request, self._store.publish)

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._ask(request, self._store.deliver)

    async def prune(self, request: c.Prune, /) -> None:
        await self._ask(request, self._store.prune)

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._ask(request, self._store.members)

    async def touch(self, request: c.Touch, /) -> None:
        await self._ask(request, self._store.touch)

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        return await self._ask(request, self._store.flush)

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return await self._ask(request, self._store.unflushed)

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._ask(request, self._store.acknowledge)

    async def incarnation(self, shard: int, /) -> str:
        return await self._store.incarnation(shard)

    async def disconnected(self, shard: int, /) -> None:
        with contextlib.suppress(StoreError):
            await self._unless_cut(self._store.disconnected(shard))

    async def aclose(self) -> None:
        """Let go of every connection."""
        await self._store.aclose()

    # -- what goes wrong

    async def _ask(self, request: Q, call: Callable[[Q], Awaitable[R]]) -> R:
        """Let a request through, or not."""
        loses = await self._decide(request)
        reply = await self._unless_cut(call(request))
        if loses:
            raise _lost("the reply was lost", "unknown")
        return reply

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

    def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        return one_by_one(self, requests)

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        return self._ask(request)

    def forgive(self, request: c.Forgive, /) -> None:
        self._ask(request)

    def pop(self, request: c.Pop, /) -> c.Popped:
        loses = self._decide(request)
        popped = self._store.pop(request)
        return replace(popped, entries=(), lost=len(popped.entries)) if loses else popped  # as in `FaultyStore.pop`

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return self._ask(request)

    def unclaim(self, request: c.Unclaim, /) -> None:
        self._ask(request)

    def waiting(self, request: c.WaitAny, /) -> Waiting:
        if self._decide(request):
            raise _lost("the connection was lost", "unknown")
        return self._store.waiting(request)

    def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return self._ask(request)

    def pending(self, request: c.Pending, /) -> int:
        return self._ask(request)

    def report(self, request: c.Report, /) -> None:
        self._ask(request)

    def reported(self, request: c.Reported, /) -> Rates:
        return self._ask(request)

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        return self._ask(request)

    # -- minted inboxes

    def give_back(self, request: c.GiveBack, /) -> None:
        self._ask(request)

    def mark(self, request: c.Mark, /) -> bool:
        return self._ask(request)

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return self._ask(request)

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        return self._ask(request)

    def leave(self, request: c.Leave, /) -> c.Changed:
        return self._ask(request)

    def publish(self, request: c.Publish, /) -> c.Published:
        return self._ask(request)

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._ask(request)

    def prune(self, request: c.Prune, /) -> None:
        self._ask(request)

    def members(self, request: c.Members, /) -> c.Roster:
        return self._ask(request)

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        return self._ask(request)

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._ask(request)

    def lend(self) -> None:
        """Nothing: whoever borrows would meet no faults."""

    def close(self) -> None:
        """Let go of every connection."""
        self._store.close()

    # -- what goes wrong

    def _ask(self, request: c.BlockingCommand[R]) -> R:
        """Let a request through, or not."""
        loses = self._decide(request)
        reply = request.on_blocking(self._store)
        if loses:
            raise _lost("the reply was lost", "unknown")
        return reply

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


def _lost(what: str, outcome: Literal["not_sent", "unknown"]) -> StoreError:
    return StoreError(f"{what} (a fault on purpose)", retryable=True, outcome=outcome)


if TYPE_CHECKING:
    _fits: type[AsyncStore] = FaultyStore
    _fits_too: type[Backend] = FaultyBackend
    _fits_threads: type[BlockingStore] = FaultyBlockingStore
