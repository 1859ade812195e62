"""Blocking stores and blocking interfaces in the form that the kit tests: the rules of the asynchronous ones hold here.

A store in this form carries out all commands but `channel_layer.commands.Read` by its blocking store. A layer in this
form makes in threads, by its blocking interface, the calls that this has; a message may go in by one interface and come
out by the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import commands as c
from channel_layer.layer import ChannelLayer
from channel_layer.stores.wrapper import StoreWrapper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer.domain.codec import Message
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.errors import StoreError
    from channel_layer.ports import Backend, BlockingStore, Clock, Store
    from channel_layer.testing.factories import MakeLayer, MakeStore

__all__ = ("BlockingWrapper", "blocking_layers", "blocking_stores")

R = TypeVar("R")

_ASYNC_ONLY: Final = (c.Read,)
"""Commands that a blocking store does not support."""

_SLICE_SECONDS = 0.05
"""Seconds that one blocking receive() waits; a receiver that was cancelled is gone after as long."""


def blocking_stores(make_store: MakeStore) -> MakeStore:
    """Return a factory of backends whose stores answer through their blocking stores.

    Args:
        make_store: makes the backends.
    """

    def make(rules: Rules, clock: Clock) -> Backend:
        return BlockingWrapper(make_store(rules, clock))

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


class BlockingWrapper(StoreWrapper):
    """A backend whose stores answer through the blocking store of the one behind."""

    def open(self) -> Store:
        """Make a store for the running event loop."""
        return _BlockingAsAsync(self._backend.open(), self._backend.open_blocking())

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process."""
        return self._backend.open_blocking()


class _BlockingAsAsync:
    """The store port over a blocking store; what that does not support is asked of an asynchronous one.

    It holds up the event loop for the time of each command: a test has nothing else to do.
    """

    def __init__(self, store: Store, blocking: BlockingStore) -> None:
        self._store = store
        self._blocking = blocking
        self._claimants: dict[Queue, str] = {}

    async def execute(self, command: c.Command[R], /) -> R:
        if type(command) in _ASYNC_ONLY:
            return await self._store.execute(command)
        self._note_claimant(command)
        return self._blocking.execute(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        for command in commands:
            self._note_claimant(command)
        return self._blocking.execute_many(commands)

    def _note_claimant(self, command: c.Command[object]) -> None:
        if isinstance(command, c.Pop):
            self._claimants[command.queue] = command.claimant

    async def wait(self, request: c.Wait, /) -> None:
        loop, queue = asyncio.get_running_loop(), request.queue
        readable = loop.create_future()
        waiting = self._blocking.wait(c.WaitAny(request.shard, (queue,), request.block))
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
                claimant = self._claimants.get(queue, "unknown")
                self._blocking.execute(c.Pop(request.shard, queue, 0, claimant))

    async def run_id(self, shard: int, /) -> str:
        return await self._store.run_id(shard)

    async def disconnected(self, shard: int, /) -> None:
        await self._store.disconnected(shard)

    async def aclose(self) -> None:
        self._blocking.close()
        await self._store.aclose()

    def abandon(self) -> None:
        self._store.abandon()


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


# -- layers ------------------------------------------------------------------------------------------------------


class _BlockingLayer(ChannelLayer):
    """A layer whose calls are made in threads, by its blocking interface.

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
    """Make a call in a thread; it cannot be cancelled, so a caller that is cancelled gets its result, too."""
    done = asyncio.get_running_loop().run_in_executor(None, call)
    while True:
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if done.done():
                return done.result()


if TYPE_CHECKING:
    _fits: type[Store] = _BlockingAsAsync
    _fits_too: type[Backend] = BlockingWrapper
