"""The store port over LMDB: what the tasks of an event loop ask in one turn of it is one transaction.

A transaction costs more than what most commands do in it, so those that come together share one. Nobody holds one
across an ``await``. Who finds nothing is written down as waiting in the same transaction that looked; who brings
something rings those who wait before his transaction is committed, so that there is no moment at which he can be killed
and has left a message of which nobody was told. Who was rung looks, and has to wait for that transaction.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.runtime.event_loops import ignore
from channel_layer.stores.wrapper import execute_each
from channel_layer_ipc import _inbox_commands as inboxes
from channel_layer_ipc import _queue_commands as queues
from channel_layer_ipc._blocking import IPCBlockingStore
from channel_layer_ipc._doorbell import LoopDoorbell, remove_dead
from channel_layer_ipc._environment import EnvironmentLocation, EnvironmentReference
from channel_layer_ipc._files import default_directory, list_doorbells
from channel_layer_ipc._handlers import Call, Handler, handler_of
from channel_layer_ipc._writer import Writer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock, Store
    from channel_layer_ipc._environment import Environment
    from channel_layer_ipc._transaction import Transaction

__all__ = ("IPCBackend", "IPCStore")

R = TypeVar("R")

_logger = logging.getLogger("channel_layer")

_AT_ONCE: Final = 512
"""Commands that share a transaction at most: enough to make its cost small, few enough to keep nobody waiting."""

_TURN_SECONDS: Final = 0.005
"""How long one turn of the loop may go on with transactions; what is left then has to wait for the next one."""


class IPCBackend:
    """A world on this machine, before any event loop.

    It keeps the world open, and so what is in it, for as long as it lives itself.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        directory: where the files are; None: see `default_directory`.
        memory: bytes of messages and groups at most.
    """

    capabilities: Capabilities = Capabilities(attends=True)
    identities: tuple[str, ...] = ("ipc",)
    connects: bool = True
    """Opening costs little. But somebody has to keep the leases while no loop of this process runs."""

    def __init__(self, rules: Rules, clock: Clock, directory: Path | None, memory: int) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        self._directory = directory
        self._memory = memory
        self.forked()

    def open(self) -> IPCStore:
        """Make a store for the running event loop; it opens the files when it is first asked for something."""
        return IPCStore(self)

    def open_blocking(self) -> IPCBlockingStore:
        """Make a store for the threads of this process; it opens the files when it is first asked for something."""
        return IPCBlockingStore(self.rules, self.clock, self.acquire_environment)

    def forked(self) -> None:
        """Forget the environment: it is the parent's. See `channel_layer_ipc._environment`."""
        self._lock = threading.Lock()
        self._reference: EnvironmentReference | None = None

    def close(self) -> None:
        """Leave the world, if no store is in it; whoever asks for something enters it again."""
        with self._lock:
            old, self._reference = self._reference, None
        if old is not None:
            old.release()

    def acquire_environment(self) -> EnvironmentReference:
        """Return a claim on the environment, for one store, and keep one for as long as this object lives.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._lock:
            if self._reference is None or not self._reference.environment.process_lock.is_current:
                old, self._reference = self._reference, None
                if old is not None:
                    old.release()
                directory = self._directory if self._directory is not None else default_directory()
                location = EnvironmentLocation(directory, self.rules.prefix, self._memory, self.rules.timeout)
                self._reference = EnvironmentReference(location)
                memory = self._reference.environment.process_lock.shared_store.memory
                if memory != self._memory:
                    _logger.warning(
                        "memory is %d bytes here, but %d in the process that began: that one counts",
                        self._memory,
                        memory,
                    )
                self._location = location
            return EnvironmentReference(self._location)


class _AwaitedCall(Call[R]):
    """A call whose outcome a future gets.

    Args:
        handler: carries out the request.
        request: the request.
        future: gets the outcome.
    """

    __slots__ = ("future",)

    def __init__(self, handler: Handler, request: object, future: asyncio.Future[R]) -> None:
        super().__init__(handler, request)
        self.future: asyncio.Future[R] = future

    def settle(self) -> None:
        """Give the future the outcome that there is now, unless it is done or cancelled."""
        if self.future.done():
            return
        try:
            reply = self.reply()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is raised where the future is awaited
            self.future.set_exception(exc)
        else:
            self._deliver(reply)

    def _deliver(self, reply: R) -> None:
        self.future.set_result(reply)


class _PendingRead(_AwaitedCall[c.Batch | None]):
    """A read that goes on until there is something: it looks at the start, and whenever the doorbell rings."""

    __slots__ = ()

    def _deliver(self, reply: c.Batch | None) -> None:
        if reply is not None:
            super()._deliver(reply)


_READ: Final = Handler(inboxes.read)


@dataclass(eq=False, slots=True)
class _Spot:
    """Those in this loop who wait for one queue."""

    waiters: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])
    key: bytes | None = None
    """Of the record that says so, until somebody calls."""


class IPCStore:
    """See `channel_layer.ports.Store`.

    Args:
        backend: the world.
    """

    def __init__(self, backend: IPCBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(backend.rules, backend.clock)
        self._reference: EnvironmentReference | None = None
        self._doorbell: LoopDoorbell | None = None
        self._calls: list[_AwaitedCall[Any]] = []
        self._special: Mapping[type, Callable[[Any], Awaitable[Any]]] = {
            c.Pop: self._pop,
            c.PutBack: self._put_back,
            c.Read: self._read,
        }
        self._looking = Handler(self._look)
        self._passing_on = Handler(self._pass_on)
        self._spots: dict[str, _Spot] = {}
        self._readings: set[_PendingRead] = set()
        self._gone: asyncio.Future[None] | None = None
        self._closed = False

    def execute(self, command: c.Command[R], /) -> Awaitable[R]:
        """Carry out a command in the next transaction, with all others that are asked for in this turn of the loop."""
        special: Callable[[Any], Awaitable[R]] | None = self._special.get(type(command))
        return special(command) if special is not None else self._ask(handler_of(command), command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> Awaitable[list[R | StoreError]]:
        """Carry out several commands: they are asked for in one turn of the loop, and so share a transaction."""
        return execute_each(self, commands)

    async def _pop(self, request: c.Pop) -> c.Popped:
        """Pop; what was taken is returned though the caller is cancelled."""
        answer: asyncio.Future[c.Popped] = self._ask(handler_of(request), request)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():  # it was carried out just before
                return answer.result()
            raise

    async def _put_back(self, request: c.PutBack) -> c.Returned:
        """Put messages back, though the caller is cancelled."""
        answer: asyncio.Future[c.Returned] = self._ask(handler_of(request), request)
        while True:
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
                if answer.done():
                    return answer.result()

    async def _read(self, request: c.Read) -> c.Batch:
        """Return what comes into an inbox, or nothing when the time is over."""
        reading = _PendingRead(_READ, request, self._loop.create_future())
        self._readings.add(reading)
        timer = self._loop.call_later(request.block, _finish, reading.future, None)
        self._add(reading)
        try:
            found = await reading.future
        finally:
            timer.cancel()
            self._readings.discard(reading)
        return found if found is not None else c.Batch((), request.after)

    async def wait(self, request: c.Wait, /) -> None:
        name = request.queue.name
        spot = self._spots.setdefault(name, _Spot())
        waiter: asyncio.Future[None] = self._loop.create_future()
        spot.waiters.append(waiter)
        timer = self._loop.call_later(request.block, _finish, waiter, None)
        returned = False
        try:
            await self._ask(self._looking, name)
            await waiter
            returned = True
        finally:
            timer.cancel()
            if waiter in spot.waiters:  # his time is up, or he goes without having been called
                spot.waiters.remove(waiter)
                self._leave(name)
            elif not returned:  # he was called, and goes
                self._leave(name)

    # -- the world

    async def run_id(self, _shard: int, /) -> str:
        environment, _ = self._enter()
        return environment.process_lock.shared_store.run_id

    async def disconnected(self, _shard: int, /) -> None:
        """Return once it was noticed that somebody has removed the files."""
        if self._gone is None or self._gone.done():
            self._gone = self._loop.create_future()
        await asyncio.shield(self._gone)

    async def aclose(self) -> None:
        """Carry out what was asked, end all waits, and let go."""
        if self._closed:
            return
        self._end_waits(_let_go_error())
        for name in self._spots:
            self._leave(name)
        while self._calls:
            self._turn()
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        if self._reference is not None:
            self._reference.release()
            self._reference = None

    def _enter(self) -> tuple[Environment, LoopDoorbell]:
        """Return the environment, and the bell of this loop; open them if this is the first time.

        Raises:
            StoreError: it cannot be opened.
        """
        if self._closed:
            raise _let_go_error()
        if self._reference is None or self._doorbell is None:
            reference = self._backend.acquire_environment()
            process_lock = reference.environment.process_lock
            remove_dead(process_lock, list_doorbells(process_lock))
            self._reference, self._doorbell = reference, LoopDoorbell(process_lock, self._loop, self._on_notified)
            self._writer.sweep_at = 0.0
        return self._reference.environment, self._doorbell

    def _check_world(self) -> None:
        """Notice that somebody has removed the files: those who come now meet in another world, so go there, too."""
        if self._reference is None or self._reference.environment.process_lock.is_current:
            return
        _logger.error(
            "the files of the channel layer in %s were removed while they were in use; what was in them is lost",
            self._reference.environment.process_lock.data.parent,
        )
        self._let_go()
        self._end_waits(
            StoreError("channel_layer_ipc: the files were removed by somebody", retryable=True, outcome="not_sent")
        )
        self._spots = {}
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _end_waits(self, error: StoreError) -> None:
        for spot in self._spots.values():
            for waiter in spot.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            spot.waiters.clear()
        for reading in self._readings:
            if not reading.future.done():
                reading.future.set_exception(error)

    # -- transactions

    def _ask(self, handler: Handler, request: object) -> asyncio.Future[Any]:
        """Have a request carried out in the next transaction."""
        call = _AwaitedCall[Any](handler, request, self._loop.create_future())
        self._add(call)
        return call.future

    def _add(self, call: _AwaitedCall[Any]) -> None:
        if self._closed:
            call.future.set_exception(_let_go_error())
            return
        if not self._calls:
            self._loop.call_soon(self._turn)
        self._calls.append(call)

    def _turn(self) -> None:
        """Carry out all that was asked in this turn of the loop, as far as that does not take too long."""
        end = self._loop.time() + _TURN_SECONDS
        while self._calls:
            self._work_off()
            if self._calls and self._loop.time() > end:
                self._loop.call_soon(self._turn)
                return

    def _work_off(self) -> None:
        """Carry out some of what was asked, in one transaction if that succeeds."""
        calls = [call for call in self._calls[:_AT_ONCE] if not call.future.done()]
        del self._calls[:_AT_ONCE]
        if not calls:
            return
        try:
            environment, doorbell = self._enter()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the futures raise it
            for call in calls:
                self._writer.fail(call, None, exc)
                call.settle()
            return
        progress = self._writer.carry_out(environment, doorbell, calls)
        self._calls[:0] = calls[progress.done :]
        for call in calls[: progress.done]:
            call.settle()
        if progress.own:
            self._loop.call_soon(self._heard)
        if progress.swept:
            self._check_world()

    @property
    def transactions(self) -> int:
        """How many there have been, for whoever wants to know what something costs."""
        return self._writer.transactions

    # -- waiting

    def _on_notified(self) -> None:
        """Somebody has rung: look at once."""
        self._heard()
        self._turn()

    def _heard(self) -> None:
        """There may be something: look at all that is waited for here."""
        for name in self._spots:
            self._ask(self._looking, name).add_done_callback(partial(self._fail_spot, name))
        for reading in self._readings:
            self._add(reading)

    def _fail_spot(self, name: str, future: asyncio.Future[None]) -> None:
        spot = self._spots.get(name)
        if spot is not None:
            for waiter in spot.waiters:
                _pass_error(waiter, future)

    def _look(self, tx: Transaction, name: str) -> None:
        """Call as many of those who wait here as there are messages; the others go on waiting."""
        spot = self._spots.get(name)
        if spot is None:
            return
        queue = name.encode("ascii")
        waiting = [waiter for waiter in spot.waiters if not waiter.done()]
        count = queues.count_messages(tx, queue)
        called, staying = waiting[:count], waiting[count:]
        key = tx.places.get(name, spot.key)
        if not staying:
            if key is not None:
                queues.remove_waiter(tx, key)
                key = None
        elif key is None or not queues.has_waiter(tx, key):
            key = queues.add_waiter(tx, queue, tx.doorbell.bind())
        tx.places[name] = key
        tx.committed.append(partial(self._called, name, called, key))

    def _called(self, name: str, waiters: list[asyncio.Future[None]], key: bytes | None) -> None:
        spot = self._spots.get(name)
        if spot is None:
            return
        spot.key = key
        for waiter in waiters:
            if waiter in spot.waiters:
                spot.waiters.remove(waiter)
            _finish(waiter, None)
        if not spot.waiters and key is None:
            del self._spots[name]

    def _leave(self, name: str) -> None:
        """Somebody does not wait any more, who may have been called: another one is, if there is something."""
        self._ask(self._passing_on, name).add_done_callback(ignore)

    def _pass_on(self, tx: Transaction, name: str) -> None:
        spot = self._spots.get(name)
        if spot is not None and spot.waiters:
            self._look(tx, name)
            return
        if spot is not None:
            key = tx.places.get(name, spot.key)
            if key is not None:
                queues.remove_waiter(tx, key)
            tx.places[name] = None
            tx.committed.append(partial(self._forget, name, spot))
        queue = name.encode("ascii")
        if count := queues.count_messages(tx, queue):
            tx.call(queue, count)

    def _forget(self, name: str, spot: _Spot) -> None:
        spot.key = None
        if not spot.waiters and self._spots.get(name) is spot:
            del self._spots[name]


def _finish(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _pass_error(answer: asyncio.Future[R], future: asyncio.Future[None]) -> None:
    """Tell whoever waits for an answer that it cannot come."""
    if not future.cancelled() and (error := future.exception()) is not None and not answer.done():
        answer.set_exception(error)


def _let_go_error() -> StoreError:
    return StoreError("this event loop has let go of the files", retryable=True, outcome="not_sent")


if TYPE_CHECKING:
    _fits: type[Store] = IPCStore
    _fits_too: type[Backend] = IPCBackend
