"""Event loops that come and go: sessions that end with them, calls from one to another, and the I/O thread."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from channel_layer.ports import Store

__all__ = (
    "SETTLE_SECONDS",
    "THREAD_NAME",
    "UNRESPONSIVE_SECONDS",
    "IOThread",
    "LoopLiveness",
    "LoopSession",
    "LoopUnavailable",
    "SystemClock",
    "ignore",
    "in_io_thread",
    "io_thread",
    "run_in",
)

R = TypeVar("R")

SETTLE_SECONDS = 1.0
"""A loop that has run for so long gets connections of its own. ``async_to_sync`` makes loops that live milliseconds."""

UNRESPONSIVE_SECONDS = 1.0
"""A loop that has not gone round for so long is taken to stand still: what blocks it may be waiting for us."""

THREAD_NAME = "channel-layer-io"

_LOOK_SECONDS = 0.05
"""How often somebody who waits for another event loop looks whether that one still runs."""

_STOP_SECONDS = 5.0
"""How long the interpreter's exit waits for the I/O thread."""


_BOOT_TIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The clock of production: monotonic, with no offset; where the system has it, one that counts its sleep too."""

    __slots__ = ()

    offset: float = 0.0

    def now(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


def ignore(future: asyncio.Future[R]) -> None:
    """Take note of a result that nobody awaits, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()


class LoopUnavailable(Exception):
    """An event loop has ended, or does not respond, before it did what another one asked of it."""


class LoopLiveness:
    """Whether the event loop of another thread goes round. It is felt by asking, from any thread, now and again.

    Args:
        loop: of the other thread.
    """

    __slots__ = ("_asked", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: float | None = None
        """Since when it has not answered."""

    @property
    def stopped(self) -> bool:
        """Whether the loop does not run, or has given no answer for `UNRESPONSIVE_SECONDS`."""
        if not self._loop.is_running():
            return True
        now, asked = SystemClock().now(), self._asked  # which the other thread may set to None at any moment
        if asked is None:
            self._asked = asked = now
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # closed just now
                return True
        return now - asked > UNRESPONSIVE_SECONDS

    def _answer(self) -> None:
        self._asked = None


async def run_in(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[object, object, R]]) -> R:
    """Await *work* in the event loop of another thread; cancelling this cancels it there.

    Raises:
        LoopUnavailable: that loop does not run, or has ceased to, or something keeps it from going round. The work may
            have been begun, even done.
    """
    outcome: Future[R] = Future()
    tasks: list[asyncio.Task[R]] = []

    def begin() -> None:
        if not outcome.cancelled():  # else this loop stood still for a while, and nobody waits any more
            task = loop.create_task(work())
            tasks.append(task)
            task.add_done_callback(report)

    def report(task: asyncio.Task[R]) -> None:
        with contextlib.suppress(InvalidStateError):  # nobody waits any more
            if task.cancelled():
                outcome.cancel()
            elif (error := task.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(task.result())

    try:
        loop.call_soon_threadsafe(begin)
    except RuntimeError as exc:
        raise LoopUnavailable from exc
    wrapped = asyncio.wrap_future(outcome)
    liveness = LoopLiveness(loop)
    try:
        # What a loop is given in its last moment is not even begun, and nobody is told of that.
        while not wrapped.done() and (not liveness.stopped or outcome.done()):
            await asyncio.wait((wrapped,), timeout=_LOOK_SECONDS)
    finally:
        if not wrapped.cancel() and not wrapped.cancelled():
            wrapped.exception()  # seen, even if the caller has been cancelled
        for task in tasks:
            if not task.done():
                with contextlib.suppress(RuntimeError):  # closed
                    loop.call_soon_threadsafe(task.cancel)
    if wrapped.cancelled():
        raise LoopUnavailable
    return wrapped.result()


class LoopSession:
    """A layer's store in one event loop, which ends with the loop.

    Args:
        store: opened for the running loop.
        on_close: awaited in the loop when it ends in good order (``asyncio.run`` and ``async_to_sync`` do so by closing
            its asynchronous generators), or when the session is closed before.
    """

    __slots__ = ("_guard", "_on_close", "loop", "store")

    def __init__(self, store: Store, on_close: Callable[[LoopSession], Awaitable[None]]) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.store: Store = store
        self._on_close = on_close
        self._guard: AsyncGenerator[None, None] | None = None

    async def begin(self) -> None:
        """Have the loop close this session when it ends."""
        self._guard = self._guarded()
        await anext(self._guard)

    async def close(self) -> None:
        """Close it now."""
        guard, self._guard = self._guard, None
        if guard is not None:
            await guard.aclose()

    async def _guarded(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._on_close(self)


class IOThread:
    """A daemon thread with an event loop that ends with the process.

    Its loop ends before the interpreter goes away, in good order: tasks are cancelled, homes say farewell. Finalizers,
    which take down what the loop has used, files and sockets, are called only then.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()
        self._started.wait()
        weakref.finalize(self, _nothing)  # the first in a process asks to be called at its end: before we do
        atexit.register(self.stop)

    def run(self, coroutine: Coroutine[object, object, R]) -> asyncio.Future[R]:
        """Run a coroutine in the thread; await the result in the calling loop. Cancelling it cancels the coroutine."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def stop(self) -> None:
        """End the thread and wait for it, a few seconds at most."""
        atexit.unregister(self.stop)
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._started.set)
        try:
            self.loop.run_forever()
        finally:
            self.loop.run_until_complete(self._end())
            self.loop.close()

    async def _end(self) -> None:
        rest = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await self.loop.shutdown_asyncgens()


def _nothing() -> None:
    """Do nothing."""


_lock = threading.Lock()
_thread: IOThread | None = None
_parents: list[IOThread] = []


def io_thread() -> IOThread:
    """Return the process's I/O thread; start it if it does not run."""
    global _thread  # noqa: PLW0603 - one thread a process is the point
    with _lock:
        if _thread is None or _thread.loop.is_closed():
            _thread = IOThread()
        return _thread


def in_io_thread() -> bool:
    """Whether the running event loop is that of the I/O thread."""
    return _thread is not None and _thread.loop is asyncio.get_running_loop()


def _after_fork() -> None:
    """Start anew in a child: the thread is not there, and its loop's file descriptors are the parent's."""
    global _thread, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _thread is not None:
        atexit.unregister(_thread.stop)
        _parents.append(_thread)  # kept, never closed: closing would touch the epoll set that the parent waits on
        _thread = None


os.register_at_fork(after_in_child=_after_fork)
