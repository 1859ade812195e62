"""The store port over LMDB: what the tasks of an event loop ask for in one turn of it is one transaction.

A transaction costs more than what most commands do in it, so those that come together share one. None is open across an
``await``.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import execute_each
from channel_layer_ipc import _inbox_commands as inboxes
from channel_layer_ipc._directory import unavailable
from channel_layer_ipc._doorbell import LoopDoorbell
from channel_layer_ipc._handlers import Call, Handler, handler_of
from channel_layer_ipc._loop_waiters import LoopWaiters, finish
from channel_layer_ipc._writer import CALLS_PER_TRANSACTION, Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock, Store
    from channel_layer_ipc._environment import EnvironmentReference
    from channel_layer_ipc._process_lock import ProcessLock

__all__ = ("IPCStore",)

R = TypeVar("R")

_TURN_SECONDS: Final = 0.005
"""How long one turn of the loop may go on with transactions; the calls that are left wait for the next turn."""


class _AwaitedCall(Call[R]):
    """A call whose outcome a future gets."""

    __slots__ = ("future",)

    def __init__(self, handler: Handler, request: object, future: asyncio.Future[R]) -> None:
        super().__init__(handler, request)
        self.future: asyncio.Future[R] = future

    def settle(self) -> None:
        """Give the future the outcome, unless it was cancelled."""
        if self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._reply)
        else:
            self.future.set_exception(self._error)


class _PendingRead(_AwaitedCall[c.Batch | None]):
    """A read, which is carried out at once, and again whenever the doorbell is notified, until it finds something."""

    __slots__ = ()

    def settle(self) -> None:
        """Give the future the outcome, unless it was cancelled, or nothing was found."""
        if self._error is not None or self._reply is not None:
            super().settle()


_READ: Final = Handler(inboxes.read)


class IPCStore:
    """See `channel_layer.ports.Store`; for its arguments see `Writer`."""

    def __init__(self, rules: Rules, clock: Clock, acquire_environment: Callable[[], EnvironmentReference]) -> None:
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(rules, clock, acquire_environment, self._make_doorbell)
        self._calls: list[_AwaitedCall[Any]] = []
        self._special: Mapping[type, Callable[[Any], Awaitable[Any]]] = {
            c.Pop: self._pop,
            c.PutBack: self._put_back,
            c.Read: self._read,
        }
        """What carries out the commands that are more than a call."""
        self._waiters = LoopWaiters(self._loop, self._ask)
        self._reads: set[_PendingRead] = set()
        self._lost: asyncio.Future[None] | None = None
        self._closed = False

    def execute(self, command: c.Command[R], /) -> Awaitable[R]:
        """Carry out a command in the next transaction, with all others that are asked for in this turn of the loop."""
        special: Callable[[Any], Awaitable[R]] | None = self._special.get(type(command))
        return special(command) if special is not None else self._ask(handler_of(command), command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> Awaitable[list[R | StoreError]]:
        """Carry out several commands: they are asked for in one turn of the loop, and so share a transaction."""
        return execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Return when the queue may hold a message, or after ``request.block`` seconds."""
        await self._waiters.wait(request.queue.name, request.block)

    async def run_id(self, _shard: int, /) -> str:
        """Return what names the shared store: it is another one after its files were removed."""
        environment, _ = self._writer.open()
        return environment.process_lock.shared_store.run_id

    async def disconnected(self, _shard: int, /) -> None:
        """Return once it was noticed that the files were removed."""
        if self._lost is None or self._lost.done():
            self._lost = self._loop.create_future()
        await asyncio.shield(self._lost)

    async def aclose(self) -> None:
        """Carry out what was asked for, end all waits, and let go of the files."""
        if self._closed:
            return
        self._end_waits(_closed_error())
        self._waiters.leave()
        while self._calls:
            self._turn()
        self._closed = True
        self._writer.close(_refuse_to_open)

    def abandon(self) -> None:
        """Let go of the files and the doorbell: others take a waiter without one for dead, and notify the next."""
        self._closed = True
        self._writer.close(_refuse_to_open)

    @property
    def transactions(self) -> int:
        """How many there have been, for tests of what something costs."""
        return self._writer.transactions

    # -- commands that are more than a call

    async def _pop(self, request: c.Pop) -> c.Popped:
        """Pop; what was taken is returned though the caller is cancelled."""
        future: asyncio.Future[c.Popped] = self._ask(handler_of(request), request)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():  # it was carried out just before
                return future.result()
            raise

    async def _put_back(self, request: c.PutBack) -> c.Returned:
        """Put messages back, though the caller is cancelled."""
        future: asyncio.Future[c.Returned] = self._ask(handler_of(request), request)
        while True:
            try:
                return await asyncio.shield(future)
            except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
                if future.done():
                    return future.result()

    async def _read(self, request: c.Read) -> c.Batch:
        """Return what comes into an inbox, or nothing after ``request.block`` seconds."""
        read = _PendingRead(_READ, request, self._loop.create_future())
        self._reads.add(read)
        timer = self._loop.call_later(request.block, finish, read.future)
        self._add(read)
        try:
            found = await read.future
        finally:
            timer.cancel()
            self._reads.discard(read)
        return found if found is not None else c.Batch((), request.after)

    # -- transactions

    def _ask(self, handler: Handler, request: object) -> asyncio.Future[Any]:
        """Have a request carried out in the next transaction."""
        call: _AwaitedCall[Any] = _AwaitedCall(handler, request, self._loop.create_future())
        self._add(call)
        return call.future

    def _add(self, call: _AwaitedCall[Any]) -> None:
        if self._closed:
            call.future.set_exception(_closed_error())
            return
        if not self._calls:
            self._loop.call_soon(self._turn)
        self._calls.append(call)

    def _turn(self) -> None:
        """Carry out all that was asked for in this turn of the loop, as far as that does not take too long."""
        end = self._loop.time() + _TURN_SECONDS
        while self._calls:
            self._carry_out_some()
            if self._calls and self._loop.time() > end:
                self._loop.call_soon(self._turn)
                return

    def _carry_out_some(self) -> None:
        """Carry out some of what was asked for, in one transaction if that succeeds."""
        calls = [call for call in self._calls[:CALLS_PER_TRANSACTION] if not call.future.done()]
        del self._calls[:CALLS_PER_TRANSACTION]
        if not calls:
            return
        progress = self._writer.carry_out(calls)
        self._calls[:0] = calls[progress.done :]
        for call in calls[: progress.done]:
            call.settle()
        if progress.notified:
            self._loop.call_soon(self._look)
        if progress.lost:
            self._on_files_lost()

    # -- waiting

    def _make_doorbell(self, process_lock: ProcessLock) -> LoopDoorbell:
        return LoopDoorbell(process_lock, self._loop, self._on_notified)

    def _on_notified(self) -> None:
        """Look at once."""
        self._look()
        self._turn()

    def _look(self) -> None:
        """Look at all that is waited for in this loop: there may be something."""
        self._waiters.look()
        for read in self._reads:
            self._add(read)

    def _end_waits(self, error: StoreError) -> None:
        self._waiters.fail(error)
        for read in self._reads:
            if not read.future.done():
                read.future.set_exception(error)

    def _on_files_lost(self) -> None:
        """End what waits in files that were removed."""
        self._end_waits(unavailable("the files were removed"))
        self._waiters.forget()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)


def _refuse_to_open() -> EnvironmentReference:
    raise _closed_error()


def _closed_error() -> StoreError:
    return StoreError("this event loop has let go of the files", retryable=True, outcome="not_sent")


if TYPE_CHECKING:
    _fits: type[Store] = IPCStore
