"""Event loops that come and go: the driver, the homes of a layer in them, and the process's one I/O thread.

A loop that lives, as a server's does, gets connections of its own. A loop made for one call, as ``async_to_sync``
makes them, must not: it borrows one that is there, or its call goes through a thread of ours whose loop never ends, so
that it opens nothing and leaves nothing behind. Nobody can tell the two apart beforehand, so a loop counts as settled
once it has run for a second.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer.runtime.drivers import run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine

    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Store

__all__ = (
    "SETTLE_SECONDS",
    "STILL_SECONDS",
    "THREAD_NAME",
    "Guest",
    "Home",
    "IOThread",
    "LoopStopped",
    "Pulse",
    "SystemClock",
    "give_way",
    "ignore",
    "io_thread",
    "run_in",
)

R = TypeVar("R")

SETTLE_SECONDS = 1.0
"""A loop that has run for so long gets connections of its own. ``async_to_sync`` makes loops that live milliseconds."""

STILL_SECONDS = 1.0
"""A loop that has not gone round for so long is taken to stand still: what blocks it may be waiting for us."""

THREAD_NAME = "channel-layer-io"

_LOOK_SECONDS = 0.05
"""How often somebody who waits for another event loop looks whether that one still runs."""

_WAY_SECONDS = 0.0001
"""How long a process sleeps to let others go first: as long as it takes to wake one."""

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


class Guest:
    """An event loop that may have been made for one call, and what it calls: each begins after those before it."""

    __slots__ = ("_calls", "_cut", "_since", "_turn")

    def __init__(self) -> None:
        self._since = SystemClock().now()
        self._calls = 0
        self._cut = False
        """Whether a call was cancelled: what it has begun could be overtaken by another one that goes another way."""
        self._turn = asyncio.Lock()

    @property
    def young(self) -> bool:
        """Whether it has not been known for `SETTLE_SECONDS` yet."""
        return SystemClock().now() - self._since < SETTLE_SECONDS

    async def run(self, operation: Operation[R], open_io: Callable[[], Awaitable[Store]]) -> R:
        """Run an operation in the I/O thread.

        Args:
            operation: what to do.
            open_io: gives the store in the I/O thread.
        """
        self._calls += 1
        try:
            async with self._turn:
                reply = io_thread().run(run(operation, await open_io()))
            return await reply
        except asyncio.CancelledError:
            self._cut = True
            raise
        finally:
            self._calls -= 1
            self._renew()

    async def settle(self) -> None:
        """Wait until calls that were cancelled can no longer be overtaken: the loop gets connections of its own now."""
        if self._cut:
            async with self._turn:
                pass
            await io_thread().run(asyncio.sleep(0))  # which begins there after whatever has been begun, or cancelled
            self._cut = False

    def _renew(self) -> None:
        """Let go of a lock that nobody has: one that was waited for holds on to the loop."""
        if not (self._calls or self._turn.locked()):
            self._turn = asyncio.Lock()


def ignore(future: asyncio.Future[R]) -> None:
    """Take note of a result that nobody awaits, so that asyncio does not complain of it."""
    if not future.cancelled():
        future.exception()


def give_way(*, long: bool) -> None:
    """Let other processes have this processor. It blocks the event loop meanwhile.

    Args:
        long: for `_WAY_SECONDS`, so that whoever is woken just now has it, too; else only those who wait for it
            already, if there are any.
    """
    if long:
        time.sleep(_WAY_SECONDS)
    elif sys.platform != "win32":
        os.sched_yield()


class LoopStopped(Exception):
    """An event loop has ended, or stands still, before it did what another one asked of it."""


class Pulse:
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
        """Whether the loop does not run, or has given no answer for `STILL_SECONDS`."""
        if not self._loop.is_running():
            return True
        now, asked = SystemClock().now(), self._asked  # which the other thread may set to None at any moment
        if asked is None:
            self._asked = asked = now
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # closed just now
                return True
        return now - asked > STILL_SECONDS

    def _answer(self) -> None:
        self._asked = None


async def run_in(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[object, object, R]]) -> R:
    """Await *work* in the event loop of another thread; cancelling this cancels it there.

    Raises:
        LoopStopped: that loop does not run, or has ceased to, or something keeps it from going round. The work may have
            been begun, even done.
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
        raise LoopStopped from exc
    wrapped = asyncio.wrap_future(outcome)
    pulse = Pulse(loop)
    try:
        # What a loop is given in its last moment is not even begun, and nobody is told of that.
        while not wrapped.done() and (not pulse.stopped or outcome.done()):
            await asyncio.wait((wrapped,), timeout=_LOOK_SECONDS)
    finally:
        if not wrapped.cancel() and not wrapped.cancelled():
            wrapped.exception()  # seen, even if the caller has been cancelled
        for task in tasks:
            if not task.done():
                with contextlib.suppress(RuntimeError):  # closed
                    loop.call_soon_threadsafe(task.cancel)
    if wrapped.cancelled():
        raise LoopStopped
    return wrapped.result()


class Home:
    """One layer's store in one event loop, and what has to go when the loop does.

    Args:
        store: opened for the running loop.
        farewell: awaited in the loop when it ends in good order (``asyncio.run`` and ``async_to_sync`` see to that by
            closing its asynchronous generators).
    """

    __slots__ = ("_farewell", "_goodbye", "loop", "store")

    def __init__(self, store: Store, farewell: Callable[[Home], Awaitable[None]]) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.store: Store = store
        self._farewell = farewell
        self._goodbye: AsyncGenerator[None, None] | None = None

    async def arrive(self) -> None:
        """Ask the loop to be told of its end."""
        self._goodbye = self._stay()
        await anext(self._goodbye)

    async def leave(self) -> None:
        """Say the farewell now."""
        goodbye, self._goodbye = self._goodbye, None
        if goodbye is not None:
            await goodbye.aclose()

    async def _stay(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self._farewell(self)


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


def _after_fork() -> None:
    """Start anew in a child: the thread is not there, and its loop's file descriptors are the parent's."""
    global _thread, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    if _thread is not None:
        atexit.unregister(_thread.stop)
        _parents.append(_thread)  # kept, never closed: closing would touch the epoll set that the parent waits on
        _thread = None


os.register_at_fork(after_in_child=_after_fork)
