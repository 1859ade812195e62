"""A whole store out of a simple one: what it lacks is done without, and what blocks is done in a thread.

So somebody who has queues and groups, in a database say, has a channel layer for a page of code.
"""

from __future__ import annotations

import asyncio
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

_LOOK_FIRST, _LOOK_MOST = 0.002, 0.1
"""Seconds between two looks at a queue: doubled while nothing is there, up to the most."""

_REMEMBERED = 4096
"""Queues of which it is known how long they have been empty."""


class SimpleBackend:
    """A backend with one shard over a simple store.

    Its layer polls: a message that comes to a queue where nothing has come for a while is seen up to 0.1 s later. Its
    statistics are those of this process.

    Args:
        make: makes the store. Each one that it makes is used in the thread that made it, and in no other.
        identity: what names the place where everything is kept, the same in every process.
    """

    capabilities: Capabilities = Capabilities(leases=False, blocking=False, tracks_unread=False, statistics=False)
    connects = True

    def __init__(self, make: Callable[[], SimpleStore], identity: str) -> None:
        self.make = make
        self.identities: tuple[str, ...] = (identity,)
        self.forked()

    def open(self) -> Store:
        """Make a store for the running event loop; the simple one is made when it is first asked for something."""
        return _CompleteStore(self)

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process; each has a simple one of its own, as soon as it asks."""
        return _CompleteBlockingStore(self)

    def forked(self) -> None:
        """Count anew; nothing else here is shared with the parent."""
        self.rates: _ProcessRates = _ProcessRates()


class _ProcessRates:
    """What this process has sent, for all its event loops and threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._meters = Meters(*counts_lifetimes(None))

    def report(self, request: c.Report) -> None:
        """Add what was counted."""
        counts = [(each.queue.name, each.messages, each.refused) for each in request.counts]
        with self._lock:
            self._meters.add(time.monotonic(), counts, request.messages, request.refused)

    def reported(self, request: c.Reported) -> Rates:
        """Tell it."""
        with self._lock:
            return self._meters.read(time.monotonic(), None if request.queue is None else request.queue.name)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._meters.clear()


# -- what each command does with a simple store


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

# Two tables for commands of all types; each is handed to what is for its own type, and to nothing else.
_IN_STORE: Final[Mapping[type, Callable[[SimpleStore, Any], Any]]] = {
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
"""What is done in the simple store."""

_WITHOUT_STORE: Final[Mapping[type, Callable[[_ProcessRates, Any], Any]]] = {
    c.Acknowledge: lambda _rates, _request: None,
    c.Alive: lambda _rates, request: (False,) * len(request.inboxes),
    c.Deliver: lambda _rates, _request: c.Delivery.NO_OWNER,
    c.ClearUnread: lambda _rates, _request: None,
    c.Mark: lambda _rates, _request: False,
    c.Prune: lambda _rates, _request: None,
    c.Report: lambda rates, request: rates.report(request),
    c.Reported: lambda rates, request: rates.reported(request),
    c.Touch: lambda _rates, _request: None,
    c.ReleaseClaim: lambda _rates, _request: None,
    c.Unflushed: lambda _rates, _request: (),
}
"""What needs none: there are no leases, no owned inboxes and no claims, and statistics are those of this process."""


class _Pauses:
    """How long to wait before the next look at each queue that was empty at the last one, in seconds."""

    def __init__(self) -> None:
        self._pauses: dict[Queue, float] = {}

    def next(self, queue: Queue) -> float:
        """Return the pause before the next look at a queue; it is twice as long the next time, up to a limit."""
        pause = self._pauses.pop(queue, _LOOK_FIRST)
        self._pauses[queue] = min(_LOOK_MOST, pause * 2)
        while len(self._pauses) > _REMEMBERED:
            self._pauses.pop(next(iter(self._pauses)), None)
        return pause

    def note(self, command: c.Command[object], reply: object) -> None:
        """Have a queue looked at soon, because something was pushed to it or popped from it."""
        if isinstance(command, c.Push):
            self._pauses.pop(command.channel.queue, None)
        elif isinstance(command, c.Pop) and isinstance(reply, c.Popped) and reply.entries:
            self._pauses.pop(command.queue, None)


class _CompleteStore:
    """The store port over a simple store: see `channel_layer.ports.Store`."""

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._store: SimpleStore | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="channel-layer-store")  # which starts at the first call
        self._closed = asyncio.get_running_loop().create_future()
        self._pauses = _Pauses()

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, in the thread if the simple store has a part in it."""
        kind = type(command)
        reply: R
        if (without := _WITHOUT_STORE.get(kind)) is not None:
            reply = without(self._backend.rates, command)
            return reply
        if (work := _IN_STORE.get(kind)) is None:
            raise unsupported(command)
        if kind is c.Flush:
            self._backend.rates.clear()
        needed = kind in (c.Pop, c.PutBack)
        reply = await self._call(lambda store: work(store, command), needed=needed)
        self._pauses.note(command, reply)
        return reply

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Wait for a while: nothing tells when a message comes."""
        await asyncio.sleep(min(self._pauses.next(request.queue), request.block))

    async def run_id(self, _shard: int, /) -> str:
        """Return what names this run of the store, which is the only one that is known."""
        return "simple"

    async def disconnected(self, _shard: int, /) -> None:
        """Return once this store is closed."""
        await asyncio.shield(self._closed)

    async def aclose(self) -> None:
        """Close the simple store, in its thread, and end that."""
        if self._closed.done():
            return
        if self._store is not None:
            await self._call(lambda store: store.close())
        self._closed.set_result(None)
        self._thread.shutdown(wait=False)

    async def _call(self, work: Callable[[SimpleStore], R], *, needed: bool = False) -> R:
        """Have *work* done in the thread; it is done although its caller is cancelled.

        Args:
            work: what to do with the simple store.
            needed: the result has to come back: a cancellation is left to the caller, which sees it in its task.

        Raises:
            StoreError: the store is closed.
        """
        if self._closed.done():
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        done.add_done_callback(_see)
        while True:
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
                if not needed:
                    raise
                if done.done():
                    return done.result()

    def _do(self, work: Callable[[SimpleStore], R]) -> R:
        if self._store is None:
            self._store = self._backend.make()
        return work(self._store)


class _CompleteBlockingStore:
    """The blocking store port over simple stores, one for each thread: see `channel_layer.ports.BlockingStore`.

    Args:
        backend: makes simple stores.
    """

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._own = threading.local()
        self._pauses = _Pauses()
        self._closed = False

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        kind = type(command)
        reply: R
        if (without := _WITHOUT_STORE.get(kind)) is not None:
            reply = without(self._backend.rates, command)
            return reply
        if (work := _IN_STORE.get(kind)) is None:
            raise unsupported(command)
        if kind is c.Flush:
            self._backend.rates.clear()
        reply = work(self._store(), command)
        self._pauses.note(command, reply)
        return reply

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> _Pause:
        """Begin to wait for a while: nothing tells when a message comes."""
        return _Pause(min(request.block, *map(self._pauses.next, request.queues)))

    def close(self) -> None:
        """Close the calling thread's simple store; another thread's is closed by that one, when it asks or ends."""
        self._closed = True
        self._drop()

    def _store(self) -> SimpleStore:
        """Return the calling thread's.

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
    """Closes a simple store when its thread ends, or before: a thread's own objects go with it, in it."""

    __slots__ = ("__weakref__", "_finalizer", "store")

    def __init__(self, store: SimpleStore) -> None:
        self.store: SimpleStore = store
        self._finalizer = weakref.finalize(self, _close, store, os.getpid())

    def close(self) -> None:
        """Close it now."""
        self._finalizer()


def _close(store: SimpleStore, process: int) -> None:
    if process == os.getpid():  # else it is the parent's
        store.close()


class _Pause:
    """See `channel_layer.ports.Waiting`: nobody will call.

    Args:
        seconds: until the next look.
    """

    def __init__(self, seconds: float) -> None:
        self.descriptors: tuple[int, ...] = ()
        self.seconds: float = seconds

    def end(self) -> tuple[Queue, ...]:
        return ()


def _see(done: asyncio.Future[R]) -> None:
    """Take note of an error that nobody may be waiting for, so that asyncio does not complain of it."""
    if not done.cancelled():
        done.exception()


if TYPE_CHECKING:
    _fits: type[Store] = _CompleteStore
    _fits_too: type[Backend] = SimpleBackend
    _fits_threads: type[BlockingStore] = _CompleteBlockingStore
