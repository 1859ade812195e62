"""The memory store: queues, inboxes and groups as Python objects behind one lock.

It is the reference for other stores: read it beside `channel_layer.commands`. It has leases, markers and versions as
any store, so that several layer objects over one backend behave as several processes over a server.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.ports import Capabilities
from channel_layer.runtime.threads import ThreadEvent
from channel_layer.stores.wrapper import execute_each, execute_each_blocking
from channel_layer_memory._groups import GroupHandlers
from channel_layer_memory._queues import QueueHandlers
from channel_layer_memory._state import MemoryState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.errors import StoreError
    from channel_layer.ports import Backend, BlockingStore, Store

__all__ = ("MemoryBackend", "MemoryBlockingStore", "MemoryStore")

R = TypeVar("R")


class MemoryBackend(MemoryState):
    """One shared state for the stores of all event loops and threads of this process."""

    capabilities: Capabilities = Capabilities(registers_readers=True)
    identities: tuple[str, ...] = ("memory",)
    connects: bool = False

    def open(self) -> MemoryStore:
        """Return a store over this backend; it belongs to no event loop."""
        return MemoryStore(self)

    def open_blocking(self) -> MemoryBlockingStore:
        """Return a store over this backend for threads."""
        return MemoryBlockingStore(self.open())


class MemoryStore(QueueHandlers, GroupHandlers):
    """The store port over a `MemoryBackend`."""

    def __init__(self, backend: MemoryBackend) -> None:
        super().__init__(backend)
        # Any, because one table holds the handlers of all types of command: a key is the type that its handler takes.
        self._handlers: Mapping[type, Callable[[Any], Any]] = {
            c.Acknowledge: self.acknowledge,
            c.Alive: self.alive,
            c.AcquireLease: self.claim,
            c.Deliver: self.deliver,
            c.Flush: self.flush,
            c.ClearUnread: self.clear_unread,
            c.ReturnCredits: self.return_credits,
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
            c.ReleaseLease: self.release,
            c.RenewLease: self.renew,
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
            c.CheckGroups: self.check_groups,
            c.FindOrphaned: self.orphaned,
            c.ReleaseClaim: self.release_claim,
            c.Unflushed: self.unflushed,
        }

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command; a read of an inbox waits for an entry first."""
        request: object = command  # under a name of its own, so that a type checker does not narrow `command`
        if isinstance(request, c.Read):
            await self._wait_for_entries(request)
        return self.carry_out(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return await execute_each(self, commands)

    def carry_out(self, command: c.Command[R]) -> R:
        """Carry out a command at once."""
        with self._lock:
            reply: R = self._handlers[type(command)](command)
            return reply

    # -- there is no connection

    async def run_id(self, _shard: int, /) -> str:
        """Return a constant: the state lasts as long as the process."""
        return "memory"

    async def disconnected(self, _shard: int, /) -> None:
        """Wait for ever: no connection can be lost."""
        await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Do nothing: there is no connection to close."""

    def abandon(self) -> None:
        """Do nothing: what waits in a closed loop is passed over, see `wake_next`."""


class MemoryBlockingStore:
    """The blocking store port over a `MemoryBackend`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command; a read of an inbox does not wait."""
        return self._store.carry_out(command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Start to wait for a message in one of several queues."""
        return _Waiting(self._store, request)

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


class _Waiting:
    """A wait of a thread for a message in one of several queues: see `channel_layer.ports.Waiting`."""

    def __init__(self, store: MemoryStore, request: c.WaitAny) -> None:
        self.seconds: Final = request.block
        self._store = store
        self._queues = request.queues
        self._event = ThreadEvent()
        for queue in request.queues:
            if not store.add_waiter(queue.name, self._event):
                self._event.wake()

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._event.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        woken = tuple(queue for queue in self._queues if self._store.remove_waiter(queue.name, self._event))
        self._event.close()
        return woken


if TYPE_CHECKING:
    _fits: type[Store] = MemoryStore
    _fits_threads: type[BlockingStore] = MemoryBlockingStore
    _fits_too: type[Backend] = MemoryBackend
