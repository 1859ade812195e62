"""Makes a complete store from a simple one: missing features are done without, blocking calls run in a thread.

So queues and groups in a database, for example, become a channel layer with a page of code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.domain.expiry import counts_lifetimes
from channel_layer.domain.rates import Meters
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.stores.wrapper import execute_each, execute_each_blocking, unsupported

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import Backend, BlockingStore, SimpleStore, Store

__all__ = ("SimpleBackend",)

R = TypeVar("R")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
"""Seconds between two polls of a queue: the pause doubles after each poll of an empty queue, up to the longest."""

_REMEMBERED = 4096
"""Queues whose pauses are remembered."""


class SimpleBackend:
    """A backend with one shard over a simple store.

    Its layer polls: a message to a queue that has been empty for a while is received up to 0.1 s later. Its statistics
    are those of this process.

    Args:
        make: makes a simple store. Each store is used only in the thread that made it.
        identity: the name of the data that the stores share, the same in every process.
    """

    capabilities: Capabilities = Capabilities(leases=False, blocking=False, tracks_unread=False, statistics=False)
    connects = True

    def __init__(self, make: Callable[[], SimpleStore], identity: str) -> None:
        self.make = make
        self.identities: tuple[str, ...] = (identity,)
        self.forked()

    def open(self) -> Store:
        """Make a store for the running event loop; its simple store is made at the first command that needs it."""
        return _CompleteStore(self)

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process; each thread gets a simple store at its first command."""
        return _CompleteBlockingStore(self)

    def forked(self) -> None:
        """Start the statistics at 0 in a child process; nothing else is shared with the parent."""
        self.rates: _ProcessRates = _ProcessRates()


class _ProcessRates:
    """The statistics of this process, for all its event loops and threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meters = Meters(*counts_lifetimes(None))

    def report(self, request: c.Report) -> None:
        """Add counts."""
        counts = [(each.queue.name, each.messages, each.refused) for each in request.counts]
        with self._lock:
            self._meters.add(time.monotonic(), counts, request.messages, request.refused)

    def reported(self, request: c.Reported) -> Rates:
        """Return what has been reported."""
        with self._lock:
            return self._meters.read(time.monotonic(), None if request.queue is None else request.queue.name)

    def clear(self) -> None:
        """Start at 0 again."""
        with self._lock:
            self._meters.clear()


# -- the handlers of commands


def _survey(store: SimpleStore, request: c.Survey) -> c.Surveyed:
    pending = None if request.channel is None else store.pending(c.Pending(request.shard, request.channel))
    return c.Surveyed(pending, oldest=None)


def _join(store: SimpleStore, request: c.Join) -> c.Changed:
    store.join(request)
    return _CHANGED


def _leave(store: SimpleStore, request: c.Leave) -> c.Changed:
    store.leave(request)
    return _CHANGED


def _publish(store: SimpleStore, request: c.Publish) -> c.Published:
    members = store.members(c.Members(request.shard, request.group)).others
    return c.Published(version=0, done=False, inboxes=(), others=members, full=())


_CHANGED: Final = c.Changed(version=0, marked=False, applied=True, owned=False)

# Any, because each table holds the handlers of all its types of command: a key is the type that its handler takes.
_IN_STORE: Mapping[type, Callable[[SimpleStore, Any], Any]] = {
    c.Flush: lambda store, request: c.Flushing((), store.flush(request)),
    c.Join: _join,
    c.Leave: _leave,
    c.Members: lambda store, request: store.members(request),
    c.Pending: lambda store, request: store.pending(request),
    c.Pop: lambda store, request: store.pop(request),
    c.Publish: _publish,
    c.Push: lambda store, request: store.push(request),
    c.PutBack: lambda store, request: store.put_back(request),
    c.Survey: _survey,
}
"""The handlers of commands that need the simple store."""

_WITHOUT_STORE: Mapping[type, Callable[[_ProcessRates, Any], Any]] = {
    c.Acknowledge: lambda _rates, _request: None,
    c.Alive: lambda _rates, request: (False,) * len(request.inboxes),
    c.Deliver: lambda _rates, _request: c.Delivery.NO_OWNER,
    c.ClearUnread: lambda _rates, _request: None,
    c.Mark: lambda _rates, _request: False,
    c.Prune: lambda _rates, _request: None,
    c.Report: lambda rates, request: rates.report(request),
    c.Reported: lambda rates, request: rates.reported(request),
    c.CheckGroups: lambda _rates, request: c.CheckedGroups((True,) * len(request.groups), ""),
    c.ReleaseClaim: lambda _rates, _request: None,
    c.Unflushed: lambda _rates, _request: (),
}
"""The handlers of the other commands: there are no leases, owned inboxes or claims, and statistics are per process."""


def _reply_without_store(command: c.Command[R], rates: _ProcessRates) -> R:
    """Carry out a command of `_WITHOUT_STORE`."""
    reply: R = _WITHOUT_STORE[type(command)](rates, command)
    return reply


def _work_in_store(command: c.Command[R], rates: _ProcessRates) -> Callable[[SimpleStore], R]:
    """Return what the simple store has to do for any other command. A flush clears the statistics at once.

    Raises:
        StoreError: a simple store does not support the command.
    """
    handler = _IN_STORE.get(type(command))
    if handler is None:
        raise unsupported(command)
    if isinstance(command, c.Flush):
        rates.clear()
    return lambda store: handler(store, command)


class _Pauses:
    """How many seconds to pause before the next poll of each queue that was empty at the last poll."""

    def __init__(self) -> None:
        self._pauses: dict[Queue, float] = {}

    def next(self, queue: Queue) -> float:
        """Return the pause before the next poll of a queue; the one after it is twice as long, up to a limit."""
        pause = self._pauses.pop(queue, _FIRST_PAUSE)
        self._pauses[queue] = min(_LONGEST_PAUSE, pause * 2)
        while len(self._pauses) > _REMEMBERED:
            self._pauses.pop(next(iter(self._pauses)), None)
        return pause

    def note(self, command: c.Command[object], reply: object) -> None:
        """Start again with the first pause for a queue to which a message was pushed, or from which one was popped."""
        if isinstance(command, c.Push):
            self._pauses.pop(command.channel.queue, None)
        elif isinstance(command, c.Pop) and isinstance(reply, c.Popped) and reply.entries:
            self._pauses.pop(command.queue, None)


class _CompleteStore:
    """The store port over a simple store: see `channel_layer.ports.Store`."""

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._store: SimpleStore | None = None
        self._started = False
        """The thread was asked for something, so that there may be a simple store to close."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="channel-layer-store")  # which starts at the first call
        self._closed = asyncio.get_running_loop().create_future()
        self._pauses = _Pauses()

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, in the thread if it needs the simple store."""
        rates = self._backend.rates
        if type(command) in _WITHOUT_STORE:
            return _reply_without_store(command, rates)
        reply = await self._call(_work_in_store(command, rates), needed=isinstance(command, (c.Pop, c.PutBack)))
        self._pauses.note(command, reply)
        return reply

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Pause until the next poll: a simple store does not notify of messages."""
        await asyncio.sleep(min(self._pauses.next(request.queue), request.block))

    async def run_id(self, _shard: int, /) -> str:
        """Return a constant: a simple store does not say when it was restarted."""
        return "simple"

    async def disconnected(self, _shard: int, /) -> None:
        """Return once this store is closed."""
        await asyncio.shield(self._closed)

    async def aclose(self) -> None:
        """Close the simple store in its thread, and end the thread."""
        if self._closed.done():
            return
        try:
            if self._started:  # after all that was asked for before
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._close))
        finally:
            self._closed.set_result(None)
            self._thread.shutdown(wait=False)

    def abandon(self) -> None:
        """Have the thread close the simple store, and end."""
        with contextlib.suppress(RuntimeError):  # it has ended
            self._thread.submit(self._close)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[SimpleStore], R], *, needed: bool = False) -> R:
        """Run *work* in the thread, to its end even if the caller is cancelled.

        Args:
            work: what to do with the simple store.
            needed: return the result even to a cancelled caller, which then has to check for the cancellation.

        Raises:
            StoreError: the store is closed.
        """
        if self._closed.done():
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        self._started = True
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        done.add_done_callback(_retrieve_error)
        while True:
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:  # in a loop, because a task may be cancelled twice when its event loop ends
                if not needed:
                    raise
                if done.done():
                    return done.result()

    def _do(self, work: Callable[[SimpleStore], R]) -> R:
        if self._store is None:
            self._store = self._backend.make()
        return work(self._store)

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()


class _CompleteBlockingStore:
    """The blocking store port over simple stores, one for each thread: see `channel_layer.ports.BlockingStore`."""

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._own = threading.local()
        self._pauses = _Pauses()
        self._closed = False

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command in the calling thread."""
        rates = self._backend.rates
        if type(command) in _WITHOUT_STORE:
            return _reply_without_store(command, rates)
        reply = _work_in_store(command, rates)(self._store())
        self._pauses.note(command, reply)
        return reply

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> _Pause:
        """Return the pause until the next poll: a simple store does not notify of messages."""
        return _Pause(min(request.block, *map(self._pauses.next, request.queues)))

    def close(self) -> None:
        """Close the calling thread's simple store; every other thread closes its own at its next command or its end."""
        self._closed = True
        self._drop()

    def _store(self) -> SimpleStore:
        """Return the simple store of the calling thread.

        Raises:
            StoreError: this store is closed.
        """
        if self._closed:
            self._drop()
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        keeper: _Keeper | None = getattr(self._own, "keeper", None)
        if keeper is None:
            keeper = self._own.keeper = _Keeper(self._backend.make())
        return keeper.store

    def _drop(self) -> None:
        keeper: _Keeper | None = self._own.__dict__.pop("keeper", None)
        if keeper is not None:
            keeper.close()


class _Keeper:
    """Closes the simple store of a thread, at the latest when the thread ends and drops its thread-local objects."""

    __slots__ = ("__weakref__", "_finalizer", "store")

    def __init__(self, store: SimpleStore) -> None:
        self.store: SimpleStore = store
        self._finalizer = weakref.finalize(self, _close, store, os.getpid())

    def close(self) -> None:
        """Close the store now."""
        self._finalizer()


def _close(store: SimpleStore, process: int) -> None:
    if process == os.getpid():  # else it belongs to the parent process
        store.close()


class _Pause:
    """A wait that only its time ends: see `channel_layer.ports.Waiting`."""

    def __init__(self, seconds: float) -> None:
        self.descriptors: tuple[int, ...] = ()
        self.seconds: float = seconds

    def end(self) -> tuple[Queue, ...]:
        return ()


def _retrieve_error(done: asyncio.Future[R]) -> None:
    """Retrieve an error that no task may be waiting for, so that asyncio does not log it."""
    if not done.cancelled():
        done.exception()


if TYPE_CHECKING:
    _fits: type[Store] = _CompleteStore
    _fits_too: type[Backend] = SimpleBackend
    _fits_threads: type[BlockingStore] = _CompleteBlockingStore
