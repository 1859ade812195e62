"""Blocking stores and facades in the form that the kit judges: what is proved of the asynchronous ones holds for them.

A store that is judged so answers every request that threads may make through its blocking half, and all others as ever.
A layer does with its blocking facade whatever that can do, in threads; a message may go in by one and come out by the
other.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.layer import ChannelLayer
from channel_layer.stores.wrapper import Front

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from channel_layer.config import Rules
    from channel_layer.domain.frames import Message
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, BlockingStore, Clock
    from channel_layer.testing.worlds import MakeLayer, MakeStore

__all__ = ("BlockingFront", "blocking_layers", "blocking_stores")

R = TypeVar("R")

_NOT_LENT: Final = (c.Pop, c.PutBack)
"""What is not asked of a loan: it takes messages out of a queue, or puts them back."""

_SLICE_SECONDS = 0.05
"""Seconds that one blocking receive() waits; a receiver that was cancelled is gone after as long."""


def blocking_stores(make_store: MakeStore, *, lent: bool = False) -> MakeStore:
    """Return a factory of backends whose stores answer through their blocking halves.

    Args:
        make_store: makes the backends.
        lent: they answer through what those lend to event loops (`BlockingStore.lend`), as far as that goes.
    """

    def make(rules: Rules, clock: Clock) -> Backend:
        return BlockingFront(make_store(rules, clock), lent=lent)

    return make


def blocking_layers(make_store: MakeStore, *, mixed: bool = False) -> MakeLayer:
    """Return a factory of layers that do what they can through `ChannelLayer.blocking`, in threads.

    Args:
        make_store: makes their stores.
        mixed: only every other layer does; the rest are as ever.
    """
    made = 0

    def make(rules: Rules, clock: Clock) -> ChannelLayer:
        nonlocal made
        made += 1
        kind = ChannelLayer if mixed and made % 2 else _BlockingLayer
        return kind(rules, make_store(rules, clock), clock=clock)

    return make


# -- stores ------------------------------------------------------------------------------------------------------


class BlockingFront(Front):
    """A backend whose stores answer through the blocking half of the one behind, as far as that goes.

    Args:
        backend: the one behind.
        lent: what that lends to event loops is used, too.
    """

    def __init__(self, backend: Backend, *, lent: bool = False) -> None:
        super().__init__(backend)
        self._kind = _LentAsAsync if lent else _BlockingAsAsync

    def open(self) -> AsyncStore:
        """Make a store for the running event loop."""
        return self._kind(self._backend.open(), self._backend.open_blocking())

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process."""
        return self._backend.open_blocking()


class _BlockingAsAsync:
    """The store port over a blocking store; what that cannot do is asked of an asynchronous one.

    It holds up the event loop for the time of each request: a judge has nothing else to do.
    """

    def __init__(self, store: AsyncStore, blocking: BlockingStore) -> None:
        self._store = store
        self._blocking = blocking
        self._claimants: dict[Queue, str] = {}

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        return await self._ask(request)

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._ask(request)

    async def pop(self, request: c.Pop, /) -> c.Popped:
        self._claimants[request.queue] = request.claimant
        return await self._ask(request)

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        return await self._ask(request)

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._ask(request)

    async def wait(self, request: c.Wait, /) -> None:
        loop, queue = asyncio.get_running_loop(), request.queue
        readable = loop.create_future()
        waiting = self._blocking.waiting(c.WaitAny(request.shard, (queue,), request.block))
        descriptors = [descriptor for descriptor in waiting.descriptors if descriptor >= 0]
        served = False
        try:
            for descriptor in descriptors:
                loop.add_reader(descriptor, _finish, readable)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(waiting.seconds):
                    await readable
            served = True
        finally:
            for descriptor in descriptors:
                loop.remove_reader(descriptor)
            if waiting.end() and not served:
                claimant = self._claimants.get(queue, "nobody")
                self._blocking.pop(c.Pop(request.shard, queue, 0, claimant))

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return await self._ask(request)

    async def report(self, request: c.Report, /) -> None:
        await self._ask(request)

    async def reported(self, request: c.Reported, /) -> Rates:
        return await self._ask(request)

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        return await self._ask(request)

    async def pending(self, request: c.Pending, /) -> int:
        return await self._ask(request)

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        return await self._store.claim(request)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        return await self._store.renew(request)

    async def release(self, request: c.Release, /) -> int:
        return await self._store.release(request)

    async def read(self, request: c.Read, /) -> c.Batch:
        return await self._store.read(request)

    async def give_back(self, request: c.GiveBack, /) -> None:
        await self._ask(request)

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._ask(request)

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._ask(request)

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._ask(request)

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._ask(request)

    async def publish(self, request: c.Publish, /) -> c.Published:
        return await self._ask(request)

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._ask(request)

    async def prune(self, request: c.Prune, /) -> None:
        await self._ask(request)

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._ask(request)

    async def touch(self, request: c.Touch, /) -> None:
        await self._store.touch(request)

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        return await self._ask(request)

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return await self._ask(request)

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._store.acknowledge(request)

    # -- connections

    async def incarnation(self, shard: int, /) -> str:
        return await self._store.incarnation(shard)

    async def disconnected(self, shard: int, /) -> None:
        await self._store.disconnected(shard)

    async def aclose(self) -> None:
        self._blocking.close()
        await self._store.aclose()

    async def _ask(self, request: c.BlockingCommand[R]) -> R:
        return request.on_blocking(self._blocking)


class _LentAsAsync(_BlockingAsAsync):
    """The same over what a blocking store lends; what may not be asked of that, or if it lends nothing, is as above."""

    async def _ask(self, request: c.BlockingCommand[R]) -> R:
        loan = None if type(request) in _NOT_LENT else self._blocking.lend()
        if loan is None:
            return await super()._ask(request)
        try:
            (outcome,) = await loan.together([request])
        finally:
            if (rest := loan.end()) is not None:
                await rest
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# -- layers ------------------------------------------------------------------------------------------------------


class _BlockingLayer(ChannelLayer):
    """A layer whose calls are made in threads, by its blocking facade.

    That receives from an inbox, and not from one of its channels: those are received as ever.
    """

    async def send(self, channel: str, message: Mapping[str, object]) -> None:
        await _in_thread(lambda: self.blocking.send(channel, message))

    async def receive(self, channel: str) -> Message:
        if "!" in channel:
            return await super().receive(channel)
        while True:
            _, message = await _in_thread(
                lambda: self.blocking.receive([channel], block=True, block_timeout=_SLICE_SECONDS)
            )
            if message is not None:
                return message
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    async def group_add(self, group: str, channel: str) -> None:
        await _in_thread(lambda: self.blocking.group_add(group, channel))

    async def group_discard(self, group: str, channel: str) -> None:
        await _in_thread(lambda: self.blocking.group_discard(group, channel))

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        await _in_thread(lambda: self.blocking.group_send(group, message))

    async def group_channels(self, group: str) -> list[str]:
        return await _in_thread(lambda: self.blocking.group_channels(group))

    async def flush(self) -> None:
        await _in_thread(self.blocking.flush)


async def _in_thread(call: Callable[[], R]) -> R:
    """Make a call in a thread; it cannot be cancelled, so what came of it is returned to who was cancelled, too."""
    done = asyncio.get_running_loop().run_in_executor(None, call)
    while True:
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if done.done():
                return done.result()


if TYPE_CHECKING:
    _fits: type[AsyncStore] = _BlockingAsAsync
    _fits_too: type[Backend] = BlockingFront
