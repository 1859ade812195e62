"""Sessions that end with their event loop, calls from one event loop to another, and the I/O thread."""

from __future__ import annotations

import _thread as _thread_module
import asyncio
import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from concurrent.futures import Future, InvalidStateError, wait
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer.errors import StoreError
from channel_layer.runtime.threads import refuse_patched_threads

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

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
    "await_endings",
    "await_endings_in_thread",
    "end_in_io_thread",
    "end_in_thread",
    "ignore",
    "in_io_thread",
    "io_thread",
    "io_thread_started",
    "run_in",
    "yield_processor",
)

R = TypeVar("R")

SETTLE_SECONDS = 1.0
"""A loop that has run for this long gets connections of its own; a loop of ``async_to_sync`` lives milliseconds."""

UNRESPONSIVE_SECONDS = 1.0
"""A loop that has not answered for this long counts as blocked: the code that blocks it may be waiting for this one."""

THREAD_NAME = "channel-layer-io"

_LOOK_SECONDS = 0.05
"""Seconds between two checks whether the event loop that a task waits for still runs."""

_START_SECONDS = 30.0
"""Seconds for which a call waits for the I/O thread to begin."""

_STOP_SECONDS = 5.0
"""Seconds for which the interpreter's exit waits for the I/O thread."""


_BOOT_TIME: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)


class SystemClock:
    """The clock of production: monotonic, without an offset. Where the system can, it counts suspended time too."""

    __slots__ = ()

    offset: float = 0.0

    def now(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


def ignore(future: asyncio.Future[R]) -> None:
    """Retrieve the error of a future that no task awaits, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


def yield_processor() -> None:
    """Let processes that wait for this processor run first. It returns at once if there are none."""
    if sys.platform != "win32":
        os.sched_yield()


class LoopUnavailable(Exception):
    """An event loop ended or stopped responding before it finished the work of another loop."""


class LoopLiveness:
    """Checks whether the event loop of another thread responds; any thread may ask, repeatedly."""

    __slots__ = ("_asked", "_late", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: float | None = None
        """The time of the question that the loop has not answered yet."""
        self._late = False
        """Half of the time is over without an answer."""

    @property
    def stopped(self) -> bool:
        """Whether the loop does not run, or has not answered for `UNRESPONSIVE_SECONDS`.

        It has half of that time, and then as much again: the first may pass at once if this whole process was
        suspended or got no processor.
        """
        if not self._loop.is_running():
            return True
        now, asked = SystemClock().now(), self._asked  # which the other thread may set to None at any moment
        if asked is None:
            self._asked, self._late = now, False
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # closed just now
                return True
        elif now - asked > UNRESPONSIVE_SECONDS / 2:
            if self._late:
                return True
            self._asked, self._late = now, True
        return False

    def _answer(self) -> None:
        self._asked = None


async def run_in(loop: asyncio.AbstractEventLoop, work: Callable[[], Coroutine[object, object, R]]) -> R:
    """Await *work* in the event loop of another thread; cancelling this cancels it there.

    Raises:
        LoopUnavailable: that loop does not run, has ended or is blocked. The work may have been started, or even
            finished.
    """
    outcome: Future[R] = Future()
    tasks: list[asyncio.Task[R]] = []

    def begin() -> None:
        if not outcome.cancelled():  # else the loop was blocked for a while, and the caller has given up
            task = loop.create_task(work())
            tasks.append(task)
            task.add_done_callback(report)

    def report(task: asyncio.Task[R]) -> None:
        with contextlib.suppress(InvalidStateError):  # the caller has given up
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
        # A loop that is ending drops its new callbacks without a notice, so check that it still runs.
        while not wrapped.done() and (not liveness.stopped or outcome.done()):
            await asyncio.wait((wrapped,), timeout=_LOOK_SECONDS)
    finally:
        if not wrapped.cancel() and not wrapped.cancelled():
            wrapped.exception()  # retrieved, even if the caller was cancelled, so that asyncio does not log it
        for task in tasks:
            if not task.done():
                with contextlib.suppress(RuntimeError):  # closed
                    loop.call_soon_threadsafe(task.cancel)
    if wrapped.cancelled():
        raise LoopUnavailable
    return wrapped.result()


class LoopSession:
    """A layer's store in one event loop, closed when the loop ends.

    Args:
        store: opened for the running loop.
        on_close: awaited in the loop when the session is closed, or when the loop shuts down its asynchronous
            generators, as ``asyncio.run`` and ``async_to_sync`` do at their end.
    """

    __slots__ = ("_begun", "_closing", "_guard", "_on_close", "loop", "store")

    def __init__(self, store: Store, on_close: Callable[[LoopSession], Coroutine[object, object, None]]) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.store: Store = store
        self._on_close = on_close
        self._guard: AsyncGenerator[None, None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._begun = False

    async def begin(self) -> None:
        """Register the session to be closed when the loop ends."""
        self._guard = self._guarded()
        await anext(self._guard)

    async def close(self) -> None:
        """Close the session now."""
        closing = self._begin_to_close()
        if closing is not asyncio.current_task():
            await asyncio.shield(closing)

    def close_soon(self) -> None:
        """Have the session closed in its loop, at the latest when that ends; any thread, and a finalizer, may ask."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self._begin_to_close)

    def _begin_to_close(self) -> asyncio.Task[None]:
        """Close it in one task, for which the end of the loop waits whatever has begun it."""
        if self._closing is None or (self._closing.cancelled() and not self._begun):  # by the end of the loop
            self._closing = self.loop.create_task(self._close())
        return self._closing

    async def _close(self) -> None:
        self._begun = True
        try:
            await self._on_close(self)
        finally:
            guard, self._guard = self._guard, None
            if guard is not None:
                await guard.aclose()

    async def _guarded(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._guard = None
            await self.close()


class IOThread:
    """A daemon thread with an event loop that runs until the process exits.

    The loop is shut down before the interpreter exits: its tasks are cancelled and its sessions are closed. Only then
    do finalizers close the files and sockets that the loop has used.
    """

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()
        self.ending: bool = False
        """The loop is being shut down: no task is to be begun in it."""
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()
        if not self._started.wait(_START_SECONDS):
            raise StoreError(
                f"the thread {THREAD_NAME} did not begin within {_START_SECONDS:g} s: look for what keeps this process "
                f"from running threads",
                retryable=True,
                outcome="not_sent",
            )
        # The first finalizer of a process registers an exit handler. Handlers run in reverse order, so register it
        # before `stop`.
        weakref.finalize(self, _nothing)
        atexit.register(self.stop)

    def run(self, coroutine: Coroutine[object, object, R]) -> asyncio.Future[R]:
        """Run a coroutine in the thread; the future of the calling loop has its result, and cancels it if cancelled."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def stop(self) -> None:
        """End the thread, and wait for it a few seconds at most."""
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
            self.ending = True
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


# -- endings: what layers that were collected had


_ENDING_SECONDS = 1.0
"""How long a store is not opened, at most, because of layers that end: one of them may hold what the caller expects to
be free. A server that is away is not waited for longer."""

_endings: set[Future[None]] = set()
"""Those that go on."""

_ending_tasks: set[asyncio.Task[None]] = set()
"""Those in the I/O thread: an event loop holds on to none of its tasks."""


def end_in_io_thread(work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Await *work*, which ends a layer, in the I/O thread, soon.

    Like `end_in_thread`, this takes no lock and waits for nothing, so that a finalizer may call it.
    """
    ended = _begin_ending()

    def begin() -> None:
        if _thread is not None and _thread.ending:  # the process exits, and what a layer had ends by itself
            _end(ended)
            return
        task = asyncio.get_running_loop().create_task(work())
        _ending_tasks.add(task)
        task.add_done_callback(_ending_tasks.discard)
        task.add_done_callback(lambda _: _end(ended))

    thread = _thread
    if thread is None:
        _thread_module.start_new_thread(lambda: io_thread().loop.call_soon_threadsafe(begin), ())
    else:
        with contextlib.suppress(RuntimeError):  # it is closed, because the process ends
            thread.loop.call_soon_threadsafe(begin)


def end_in_thread(work: Callable[[], None]) -> None:
    """Do *work*, which ends a layer, in a thread of its own."""
    ended = _begin_ending()

    def run() -> None:
        try:
            work()
        finally:
            _end(ended)

    _thread_module.start_new_thread(run, ())


def _begin_ending() -> Future[None]:
    ended: Future[None] = Future()
    _endings.add(ended)
    return ended


def _end(ended: Future[None]) -> None:
    _endings.discard(ended)
    ended.set_result(None)


async def await_endings() -> None:
    """Wait for the layers that end, but not for long."""
    if _endings:
        await asyncio.wait([asyncio.wrap_future(each) for each in _endings.copy()], timeout=_ENDING_SECONDS)


def await_endings_in_thread() -> None:
    """Do the same in a thread without an event loop."""
    if _endings:
        wait(_endings.copy(), timeout=_ENDING_SECONDS)


# -- the I/O thread of the process


_lock = threading.Lock()
_thread: IOThread | None = None
_parents: list[IOThread] = []


def io_thread() -> IOThread:
    """Return the I/O thread of the process; start it if it does not run.

    Raises:
        PatchedThreadsError: there can be none.
    """
    refuse_patched_threads()
    global _thread  # noqa: PLW0603 - one thread for the whole process
    with _lock:
        if _thread is None or _thread.loop.is_closed():
            _thread = IOThread()
        return _thread


def io_thread_started() -> bool:
    """Whether this process has an I/O thread."""
    return _thread is not None and not _thread.loop.is_closed()


def in_io_thread() -> bool:
    """Whether the running event loop is that of the I/O thread."""
    return _thread is not None and _thread.loop is asyncio.get_running_loop()


def _after_fork() -> None:
    """Forget the thread in a child process: it does not run there, and its loop shares the parent's descriptors."""
    global _thread, _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _endings.clear()
    if _thread is not None:
        atexit.unregister(_thread.stop)
        _parents.append(_thread)  # referenced for ever: closing its loop would change the epoll set of the parent
        _thread = None


os.register_at_fork(after_in_child=_after_fork)
