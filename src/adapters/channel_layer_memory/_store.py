"""Queues, inboxes and groups as Python objects behind one lock: the plainest store that keeps every promise.

It is written to be read beside `channel_layer.commands`, as the reference for other stores; leases, markers and
versions are all here, so that several layer objects over one of these behave as several processes over a server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.ports import Capabilities
from channel_layer.runtime.threads import Alarm
from channel_layer.stores.wrapper import execute_each, execute_each_blocking
from channel_layer_memory._groups import GroupCommands
from channel_layer_memory._queues import QueueCommands
from channel_layer_memory._state import MemoryState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.errors import StoreError
    from channel_layer.ports import Backend, BlockingStore, Store

__all__ = ("MemoryBackend", "MemoryBlockingStore", "MemoryStore")

R = TypeVar("R")


class MemoryBackend(MemoryState):
    """One store for all the event loops and threads of this process."""

    capabilities: Capabilities = Capabilities(attends=True)
    identities: tuple[str, ...] = ("memory",)
    connects: bool = False

    def open(self) -> MemoryStore:
        """Return the way there; it is the same from every loop."""
        return MemoryStore(self)

    def open_blocking(self) -> MemoryBlockingStore:
        """Return the way there for threads."""
        return MemoryBlockingStore(self.open())


class MemoryStore(QueueCommands, GroupCommands):
    """The store port over a `MemoryBackend`.

    Args:
        backend: what is shared.
    """

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        # One table for commands of all types; each is handed to the method for its own type, and to no other.
        self._handlers: Mapping[type, Callable[[Any], Any]] = {
            c.Acknowledge: self.acknowledge,
            c.Alive: self.alive,
            c.Claim: self.claim,
            c.Deliver: self.deliver,
            c.Flush: self.flush,
            c.Forgive: self.forgive,
            c.GiveBack: self.give_back,
            c.Join: self.join,
            c.Leave: self.leave,
            c.Mark: self.mark,
            c.Members: self.members,
            c.Pending: self.pending,
            c.Pop: self.pop,
            c.Prune: self.prune,
            c.Publish: self.publish,
            c.Push: self.push,
            c.PutBack: self.put_back,
            c.Read: self.read,
            c.Release: self.release,
            c.Renew: self.renew,
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
            c.Touch: self.touch,
            c.Unattended: self.unattended,
            c.Unclaim: self.unclaim,
            c.Unflushed: self.unflushed,
        }

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        if isinstance(command, c.Read):
            await self._wait_for_entries(command)
        return self.carry_out(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return await execute_each(self, commands)

    def carry_out(self, command: c.Command[R]) -> R:
        """Carry out a command without waiting for anything."""
        reply: R = self._handlers[type(command)](command)
        return reply

    # -- the connection that there is none of

    async def run_id(self, _shard: int, /) -> str:
        return "memory"

    async def disconnected(self, _shard: int, /) -> None:
        await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Nothing to let go of."""


class MemoryBlockingStore:
    """The blocking store port over a `MemoryBackend`.

    Args:
        store: the way to it; it waits for nothing but what `MemoryStore.wait` waits for.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        return self._store.carry_out(command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Begin to wait."""
        return _Waiting(self._store, request)

    def close(self) -> None:
        """Nothing to let go of."""


class _Waiting:
    """See `channel_layer.ports.Waiting`."""

    def __init__(self, store: MemoryStore, request: c.WaitAny) -> None:
        self.seconds: Final = request.block
        self._store = store
        self._queues = request.queues
        self._alarm = Alarm()
        for queue in request.queues:
            store.begin_to_wait(queue.name, self._alarm)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._alarm.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        called = tuple(queue for queue in self._queues if self._store.end_to_wait(queue.name, self._alarm))
        self._alarm.close()
        return called


if TYPE_CHECKING:
    _fits: type[Store] = MemoryStore
    _fits_threads: type[BlockingStore] = MemoryBlockingStore
    _fits_too: type[Backend] = MemoryBackend
