"""Which event loop carries a call of a layer.

A loop that lives, as a server's does, gets a session, with connections of its own. A loop made for one call, as
``async_to_sync`` makes them, must not: its calls go through the I/O thread of the process, whose loop never ends, so
that they open nothing and leave nothing behind. The two cannot be told apart beforehand, so a loop counts as settled
once it has been known for a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from typing import TYPE_CHECKING, TypeVar

from channel_layer.operations.receiving import closed_error
from channel_layer.runtime import event_loops
from channel_layer.runtime.drivers import run
from channel_layer.runtime.event_loops import (
    LoopSession,
    LoopUnavailable,
    SystemClock,
    await_endings,
    in_io_thread,
    io_thread,
    io_thread_started,
    run_in,
)
from channel_layer.runtime.threads import refuse_patched_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Backend, Store
    from channel_layer.runtime.drivers import Perform

__all__ = ("LoopSessions",)

R = TypeVar("R")


class _KnownLoop:
    """An event loop that has no session yet.

    Attributes:
        interrupted: a call of it was cancelled, and what that has begun in the I/O thread may still be under way.
    """

    __slots__ = ("_since", "interrupted")

    def __init__(self) -> None:
        self._since = SystemClock().now()
        self.interrupted = False

    @property
    def settled(self) -> bool:
        """Whether it has been known for long enough to get a session."""
        return SystemClock().now() - self._since >= event_loops.SETTLE_SECONDS


class LoopSessions:
    """The sessions of one layer object: one in each settled event loop, and one in the I/O thread for all others.

    Attributes:
        by_loop: the sessions in settled loops.
        in_thread: the one in the I/O thread, if there is one.
        ending: the layer was collected: it waits for no other one.
    """

    def __init__(self, backend: Backend, on_close: Callable[[LoopSession], Coroutine[object, object, None]]) -> None:
        self.ending: bool = False
        self.by_loop: dict[asyncio.AbstractEventLoop, LoopSession] = {}
        self.in_thread: LoopSession | None = None
        self._open_store: Callable[[], Store] = backend.open
        self._connects = backend.connects
        self._on_close = on_close
        self._closed = False
        self._known: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _KnownLoop] = weakref.WeakKeyDictionary()

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.by_loop) or self.in_thread is not None

    @property
    def settled(self) -> bool:
        """Whether the running loop has a session, or would get one."""
        loop = asyncio.get_running_loop()
        return loop in self.by_loop or not self._connects or self._know(loop).settled

    async def run(self, operation: Operation[R], perform: Perform) -> R:
        """Run an operation with a session of the running loop, or in the I/O thread if the loop is to have none."""
        session = await self.enter()
        if session is not None:
            return await run(operation, session.store, perform)
        try:
            return await io_thread().run(self._run_in_thread(operation, perform))
        except asyncio.CancelledError:
            self._know(asyncio.get_running_loop()).interrupted = True
            raise

    async def _run_in_thread(self, operation: Operation[R], perform: Perform) -> R:
        session = await self.open_in_thread()
        return await run(operation, session.store, perform)

    async def enter(self) -> LoopSession | None:
        """Return the running loop's session, a new one if the loop is settled; None if it is not.

        Raises:
            StoreError: the layer is closed.
        """
        loop = asyncio.get_running_loop()
        if (session := self.by_loop.get(loop)) is not None:
            return session
        if in_io_thread():
            return await self.open_in_thread()
        self._refuse_if_closed()
        if self._connects:
            refuse_patched_threads()
        if not self.settled:
            return None
        if self._connects and self._know(loop).interrupted:
            # What a cancelled call has begun in the thread must not be overtaken: this begins there after it.
            await io_thread().run(asyncio.sleep(0))
            self._know(loop).interrupted = False
        self.abandon_closed()
        if self._connects:
            await await_endings()
            if (session := self.by_loop.get(loop)) is not None:  # made meanwhile
                return session
            self._refuse_if_closed()
        session = self.by_loop[loop] = LoopSession(self._open_store(), self._on_close)
        await session.begin()
        return session

    async def open_in_thread(self) -> LoopSession:
        """Return the session in the I/O thread, a new one if there is none; called in that thread.

        Raises:
            StoreError: the layer is closed.
        """
        self._refuse_if_closed()
        if self._opened_in_thread() is None and not self.ending:
            await await_endings()
            self._refuse_if_closed()
        session = self._opened_in_thread()
        if session is None:
            session = self.in_thread = LoopSession(self._open_store(), self._on_close)
            await session.begin()
        return session

    def forget(self, session: LoopSession) -> None:
        """Forget a session that ends."""
        self.by_loop.pop(session.loop, None)
        if self.in_thread is session:
            self.in_thread = None

    def refuse(self) -> None:
        """Open no store any more, for good.

        These objects are a part of reference cycles: the backend must not wait for their collection.
        """
        self._closed, self._open_store = True, _refuse_to_open

    def abandon_closed(self) -> None:
        """Let go of what the sessions of loops that were closed without a shutdown hold; it goes by itself no more."""
        for loop in [each for each in list(self.by_loop) if each.is_closed()]:
            session = self.by_loop.pop(loop, None)
            if session is not None:
                session.store.abandon()

    async def close_all(self, *, waits: bool) -> None:
        """Close the sessions in all loops, for good.

        Args:
            waits: return when they are closed in the loops of other threads, too.
        """
        self.refuse()
        self.abandon_closed()
        for session in list(self.by_loop.values()):
            if session.loop is asyncio.get_running_loop():
                await session.close()
            elif waits:
                with contextlib.suppress(LoopUnavailable):  # it is closed when its loop ends
                    await run_in(session.loop, session.close)
            else:
                session.close_soon()
        if in_io_thread():
            await self._close_in_thread()
        elif io_thread_started():
            with contextlib.suppress(LoopUnavailable):  # the process ends
                await run_in(io_thread().loop, self._close_in_thread)

    async def _close_in_thread(self) -> None:
        """Close the session in the I/O thread; called there, after all that was begun there and may have made it."""
        session = self.in_thread
        if session is not None and session.loop is asyncio.get_running_loop():
            await session.close()

    def _opened_in_thread(self) -> LoopSession | None:
        return self.in_thread if self.in_thread is not None and not self.in_thread.loop.is_closed() else None

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise closed_error()

    def _know(self, loop: asyncio.AbstractEventLoop) -> _KnownLoop:
        return self._known.get(loop) or self._known.setdefault(loop, _KnownLoop())


def _refuse_to_open() -> Store:
    raise closed_error()
