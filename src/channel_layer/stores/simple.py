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
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import commands as c
from channel_layer.domain.expiry import counts_lifetimes
from channel_layer.domain.rates import Meters
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.stores.wrapper import one_by_one

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, BlockingStore, SimpleStore

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

    capabilities: Capabilities = Capabilities(leases=False, blocking=False, lapses=False, statistics=False)
    connects = True

    def __init__(self, make: Callable[[], SimpleStore], identity: str) -> None:
        self.make = make
        self.identities: tuple[str, ...] = (identity,)
        self.forked()

    def open(self) -> AsyncStore:
        """Make a store for the running event loop; the simple one is made when it is first asked for something."""
        return _Completed(self)

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process; each has a simple one of its own, as soon as it asks."""
        return _CompletedForThreads(self)

    def forked(self) -> None:
        """Count anew; nothing else here is shared with the parent."""
        self.tally: _Counted = _Counted()


class _Counted:
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


class _Completed:
    """The store port over a simple store: see `channel_layer.ports.AsyncStore`."""

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._store: SimpleStore | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="channel-layer-store")  # which starts at the first call
        self._closed = asyncio.get_running_loop().create_future()
        self._pauses: dict[str, float] = {}
        """Seconds until the next look at each queue that was empty at the last one."""

    def _begin(self, work: Callable[[SimpleStore], R]) -> asyncio.Future[R]:
        """Have *work* done in the thread, whoever still waits for it.

        Raises:
            StoreError: the store is closed.
        """
        if self._closed.done():
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        done.add_done_callback(_see)
        return done

    async def _call(self, work: Callable[[SimpleStore], R]) -> R:
        """Have *work* done in the thread; a caller who is cancelled goes, and it is done all the same."""
        return await asyncio.shield(self._begin(work))

    async def _finish(self, work: Callable[[SimpleStore], R]) -> R:
        """Have *work* done in the thread; a cancellation meanwhile is left to the caller, who sees it in its task."""
        done = self._begin(work)
        while True:
            try:
                return await asyncio.shield(done)
            except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
                if done.done():
                    return done.result()

    def _do(self, work: Callable[[SimpleStore], R]) -> R:
        if self._store is None:
            self._store = self._backend.make()
        return work(self._store)

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        self._pauses.pop(request.channel.queue.name, None)  # whoever waits here looks again soon
        return await self._call(lambda store: store.push(request))

    async def forgive(self, _request: c.Forgive, /) -> None:
        """Nothing is held against anybody."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        popped = await self._finish(lambda store: store.pop(request))
        if popped.entries:
            self._pauses.pop(request.queue.name, None)
        return popped

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        return await self._finish(lambda store: store.put_back(request))

    async def unclaim(self, _request: c.Unclaim, /) -> None:
        """An inbox belongs to nobody here."""

    async def wait(self, request: c.Wait, /) -> None:
        pause = self._pauses.pop(request.queue.name, _LOOK_FIRST)
        self._pauses[request.queue.name] = min(_LOOK_MOST, pause * 2)
        if len(self._pauses) > _REMEMBERED:
            del self._pauses[next(iter(self._pauses))]
        await asyncio.sleep(min(pause, request.block))

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        raise _lacking("note of who attends to a queue")

    async def pending(self, request: c.Pending, /) -> int:
        return await self._call(lambda store: store.pending(request))

    # -- statistics, of this process

    async def report(self, request: c.Report, /) -> None:
        self._backend.tally.report(request)

    async def reported(self, request: c.Reported, /) -> Rates:
        return self._backend.tally.reported(request)

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        channel = request.channel
        pending = None if channel is None else await self.pending(c.Pending(request.shard, channel))
        return c.Surveyed(pending, oldest=None)

    # -- minted inboxes, of which there are none

    async def claim(self, _request: c.Claim, /) -> c.Claimed:
        raise _lacking("lease")

    async def renew(self, _request: c.Renew, /) -> c.Renewed:
        raise _lacking("lease")

    async def release(self, _request: c.Release, /) -> int:
        raise _lacking("lease")

    async def read(self, _request: c.Read, /) -> c.Batch:
        raise _lacking("minted inbox")

    async def give_back(self, _request: c.GiveBack, /) -> None:
        raise _lacking("minted inbox")

    async def mark(self, _request: c.Mark, /) -> bool:
        return False

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return (False,) * len(request.inboxes)

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        await self._call(lambda store: store.join(request))
        return _CHANGED

    async def leave(self, request: c.Leave, /) -> c.Changed:
        await self._call(lambda store: store.leave(request))
        return _CHANGED

    async def publish(self, request: c.Publish, /) -> c.Published:
        roster = await self.members(c.Members(request.shard, request.group))
        return c.Published(version=0, done=False, inboxes=(), others=roster.others, full=())

    async def deliver(self, _request: c.Deliver, /) -> c.Delivery:
        return c.Delivery.NO_OWNER

    async def prune(self, _request: c.Prune, /) -> None:
        """Nobody is found to be gone."""

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._call(lambda store: store.members(request))

    async def touch(self, _request: c.Touch, /) -> None:
        """No membership depends on its owner."""

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        self._backend.tally.clear()
        return c.Flushing((), await self._call(lambda store: store.flush(request)))

    async def unflushed(self, _request: c.Unflushed, /) -> tuple[str, ...]:
        return ()

    async def acknowledge(self, _request: c.Acknowledge, /) -> None:
        """Nobody waits for it."""

    # -- the connection that is the store's own affair

    async def incarnation(self, _shard: int, /) -> str:
        return "simple"

    async def disconnected(self, _shard: int, /) -> None:
        await asyncio.shield(self._closed)

    async def aclose(self) -> None:
        """Close the simple store, in its thread, and end that."""
        if self._closed.done():
            return
        if self._store is not None:
            await self._call(lambda store: store.close())
        self._closed.set_result(None)
        self._thread.shutdown(wait=False)


class _CompletedForThreads:
    """The blocking store port over simple stores, one for each thread: see `channel_layer.ports.BlockingStore`.

    Args:
        backend: makes simple stores.
    """

    def __init__(self, backend: SimpleBackend) -> None:
        self._backend = backend
        self._own = threading.local()
        self._pauses: dict[Queue, float] = {}
        """Seconds until the next look at each queue that was empty at the last one."""
        self._closed = False

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

    def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        return one_by_one(self, requests)

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        self._pauses.pop(request.channel.queue, None)  # whoever waits here looks again soon
        return self._store().push(request)

    def forgive(self, _request: c.Forgive, /) -> None:
        """Nothing is held against anybody."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        popped = self._store().pop(request)
        if popped.entries:
            self._pauses.pop(request.queue, None)
        return popped

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return self._store().put_back(request)

    def unclaim(self, _request: c.Unclaim, /) -> None:
        """An inbox belongs to nobody here."""

    def waiting(self, request: c.WaitAny, /) -> _Pause:
        pauses = [self._pauses.pop(queue, _LOOK_FIRST) for queue in request.queues]
        for queue, pause in zip(request.queues, pauses, strict=True):
            self._pauses[queue] = min(_LOOK_MOST, pause * 2)
        while len(self._pauses) > _REMEMBERED:
            self._pauses.pop(next(iter(self._pauses)), None)
        return _Pause(min(*pauses, request.block))

    def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        raise _lacking("note of who attends")

    def pending(self, request: c.Pending, /) -> int:
        return self._store().pending(request)

    # -- statistics, of this process

    def report(self, request: c.Report, /) -> None:
        self._backend.tally.report(request)

    def reported(self, request: c.Reported, /) -> Rates:
        return self._backend.tally.reported(request)

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        channel = request.channel
        pending = None if channel is None else self.pending(c.Pending(request.shard, channel))
        return c.Surveyed(pending, oldest=None)

    # -- minted inboxes, of which there are none

    def give_back(self, _request: c.GiveBack, /) -> None:
        raise _lacking("minted inbox")

    def mark(self, _request: c.Mark, /) -> bool:
        return False

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return (False,) * len(request.inboxes)

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        self._store().join(request)
        return _CHANGED

    def leave(self, request: c.Leave, /) -> c.Changed:
        self._store().leave(request)
        return _CHANGED

    def publish(self, request: c.Publish, /) -> c.Published:
        roster = self.members(c.Members(request.shard, request.group))
        return c.Published(version=0, done=False, inboxes=(), others=roster.others, full=())

    def deliver(self, _request: c.Deliver, /) -> c.Delivery:
        return c.Delivery.NO_OWNER

    def prune(self, _request: c.Prune, /) -> None:
        """Nobody is found to be gone."""

    def members(self, request: c.Members, /) -> c.Roster:
        return self._store().members(request)

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        return c.Flushing((), self._store().flush(request))

    def unflushed(self, _request: c.Unflushed, /) -> tuple[str, ...]:
        return ()

    def lend(self) -> None:
        """Nothing: nobody knows how long its methods take."""

    def close(self) -> None:
        """Close the calling thread's simple store; another thread's is closed by that one, when it asks or ends."""
        self._closed = True
        self._drop()


_CHANGED: Final = c.Changed(version=0, marked=False, applied=True, owned=False)


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


def _lacking(what: str) -> StoreError:
    return StoreError(f"this store keeps no {what}", retryable=False, outcome="not_sent")


if TYPE_CHECKING:
    _fits: type[AsyncStore] = _Completed
    _fits_too: type[Backend] = SimpleBackend
    _fits_threads: type[BlockingStore] = _CompletedForThreads
