"""In which event loop the background work of a layer is done.

It is done in one loop at a time: in one that is settled if there is one, else in the I/O thread. When its loop ends,
does not respond, or lets go of its connections, another one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING

from channel_layer.errors import StoreError
from channel_layer.operations.receiving import closed_error
from channel_layer.operations.steps import EnsureReading
from channel_layer.runtime.background_work import BackgroundWork
from channel_layer.runtime.event_loops import LoopUnavailable, io_thread, run_in

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from concurrent.futures import Future

    from channel_layer.domain.inbox import Inbox
    from channel_layer.domain.mailbox import Mailbox, QueueBuffer
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.drivers import RuntimeStep
    from channel_layer.runtime.event_loops import LoopSession
    from channel_layer.runtime.loop_sessions import LoopSessions

__all__ = ("Background",)


class Background:
    """Where the background work of one layer object is done.

    Attributes:
        work: that of the loop that does it now, if one does.
    """

    def __init__(self, state: LayerState, sessions: LoopSessions, *, connects: bool) -> None:
        self.work: BackgroundWork | None = None
        self._state = state
        self._sessions = sessions
        self._connects = connects
        self._lock = threading.RLock()
        self._moving = False
        self._moves: set[asyncio.Task[None]] = set()

    # -- start, move and stop

    def serves(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the work is done, and need not come into this loop, which is the running one."""
        work = self.work
        if work is None:
            return False
        return work.session.loop is loop or (work.session.loop.is_running() and not self._should_move(work))

    async def ensure(self) -> BackgroundWork:
        """Return the work; start it if it is not done, and move it here from the I/O thread if this loop is settled."""
        while True:
            work = self.work
            if work is not None and work.session.loop.is_running():
                if self._should_move(work) and (session := await self._sessions.enter()) is not None:
                    move = session.loop.create_task(self._move(work, session))
                    self._moves.add(move)
                    move.add_done_callback(self._moves.discard)
                return work
            session = await self._sessions.enter()
            if session is not None:
                self._start(session)
            else:
                await io_thread().run(self._start_in_thread())

    async def ensure_responsive(self) -> None:
        """Start the work somewhere else if the loop that does it does not respond: it may wait for this one."""
        work = self.work
        if work is None or (not work.tasks.here and work.liveness.stopped and self.drop(work)):
            await self.ensure()

    def _start(self, session: LoopSession) -> None:
        """Start the work in the running loop, unless another loop does it already.

        Raises:
            StoreError: the layer is closed.
        """
        with self._lock:
            work = self.work
            if self._state.closed:
                raise closed_error()
            if work is not None and not work.session.loop.is_running():
                work.retire()  # its loop is closed, or waits for its program to go on
                work = None
                self._sessions.abandon_closed()
            if work is None:
                self.work = BackgroundWork(self._state, session)
                self.work.start()

    async def _start_in_thread(self) -> None:
        self._start(await self._sessions.open_in_thread())

    def _should_move(self, work: BackgroundWork) -> bool:
        """Whether the work should come into the running loop: that is settled, and the work is in the I/O thread."""
        return work.session is self._sessions.in_thread and not self._moving and self._sessions.settled

    async def _move(self, old: BackgroundWork, session: LoopSession) -> None:
        """Take the work over from the I/O thread."""
        if self._moving:
            return
        self._moving = True
        try:
            await io_thread().run(old.stop())
            with self._lock:
                if self.work is old and self._sessions.by_loop.get(session.loop) is session:
                    self.work = BackgroundWork(self._state, session)
                    self.work.start()
        finally:
            self._moving = False
            if self.drop(old):  # this loop has ended meanwhile
                self._start_elsewhere()

    def drop(self, work: BackgroundWork) -> bool:
        """Let the work of another loop do nothing any more, whether it has been told to end or not.

        Else it would go on beside the next one, and both would hand over the same messages.

        Returns:
            False if it had ended already.
        """
        with self._lock:
            if self.work is not work:
                return False
            work.retire()
            self.work = None
            return True

    async def session_closed(self, session: LoopSession) -> None:
        """A session ends: go on in another loop if the work was done in it."""
        in_thread = self._sessions.in_thread is session
        self._sessions.forget(session)
        work = self.work
        if work is not None and work.session is session:
            await work.stop()
            with self._lock:
                if self.work is work:
                    self.work = None
        if self.work is None and not in_thread:  # else the process ends
            self._start_elsewhere()

    def _start_elsewhere(self) -> None:
        """Start the work in another loop, if there is anything to do."""
        if self._state.closed or not (self._state.inboxes or self._state.buffers):
            return
        if self._connects:
            self.start_for_threads()
            return
        for session in sorted(self._sessions.by_loop.values(), key=lambda session: not session.loop.is_running()):
            with contextlib.suppress(RuntimeError):  # it is closed
                session.loop.call_soon_threadsafe(self._start_if_open, session)
                return

    def _start_if_open(self, session: LoopSession) -> None:
        """Start the work in the running loop, unless its session has ended since this was asked for."""
        with contextlib.suppress(StoreError):  # closed meanwhile
            if self._sessions.by_loop.get(session.loop) is session:
                self._start(session)
            elif self.work is None:
                self._start_elsewhere()

    async def stop(self, *, waits: bool) -> None:
        """End the work.

        Args:
            waits: return when it has ended in the loop of another thread, too.
        """
        with self._lock:
            work, self.work = self.work, None
        if work is None:
            return
        if work.tasks.here:
            await work.stop()
        else:
            if waits:
                with contextlib.suppress(LoopUnavailable):
                    await run_in(work.session.loop, work.stop)
            work.retire()

    # -- what the work is asked for

    async def call(self, do: Callable[[BackgroundWork], Coroutine[object, object, None]]) -> None:
        """Await something in the loop of the work, and in the next one's too if the work moves meanwhile.

        So *do* may be called twice. What it does goes on if the caller is cancelled.
        """
        while True:
            if self._state.closed:
                raise closed_error()
            work = await self.ensure()
            finish = partial(_finish, do, work)
            try:
                await (finish() if work.tasks.here else run_in(work.session.loop, finish))
            except LoopUnavailable:
                self.drop(work)
                continue
            except StoreError:
                if self.work is work:
                    raise
                continue  # its loop has let go of its connections meanwhile
            if self.work is work:
                return
            # Else the work has moved meanwhile; doing it again there is harmless.

    async def perform(self, step: RuntimeStep) -> object:
        """Do what an operation asks of the runtime."""
        if isinstance(step, EnsureReading):
            await self.ensure_responsive()
            return frozenset[str]()
        inbox = step.inbox
        await self.call(lambda work: work.ensure_lease(inbox))
        return None

    def return_credits(self, inbox: Inbox, box: Mailbox) -> None:
        """Have the store told that a message of a mailbox was taken. Any thread may ask."""
        work = self.work
        if work is None:
            return  # the next one begins with it
        soon = inbox.urgent(box)
        if not work.is_returning(inbox, soon=soon):
            if work.tasks.here:
                work.return_credits(inbox, soon=soon)
            else:
                work.tasks.post(lambda: work.return_credits(inbox, soon=soon))

    def consume(self, buffer: QueueBuffer, *, now: bool = True) -> None:
        """Receivers of a queue have come or gone. Any thread may ask.

        Args:
            buffer: the queue's buffer.
            now: at once if this is the loop of the work; else with its next turn.
        """
        work = self.work
        if work is None:
            return  # the next one begins with it
        if now and work.tasks.here:
            work.consume(buffer)
        else:
            work.tasks.post(lambda: work.consume(buffer))

    # -- for threads without an event loop

    @property
    def here(self) -> bool:
        """Whether the work is done in an event loop of this very thread, and so stands still while the thread waits."""
        work = self.work
        return work is not None and work.tasks.here

    def ensure_for_threads(self) -> Future[None] | None:
        """Have the work done; return what to wait for if that takes a while."""
        work = self.work
        return None if work is not None and work.session.loop.is_running() else self.start_for_threads()

    def start_for_threads(self) -> Future[None]:
        """Start the work in the I/O thread, unless another loop does it; return what to wait for."""
        return asyncio.run_coroutine_threadsafe(self._try_to_start_in_thread(), io_thread().loop)

    async def _try_to_start_in_thread(self) -> None:
        with contextlib.suppress(StoreError):  # closed meanwhile
            await self._start_in_thread()

    def restore_lease_for_threads(self, inbox: Inbox) -> Future[None]:
        """Acquire the lease of an inbox again; return what to wait for."""
        work = self.work
        loop = io_thread().loop if work is None else work.session.loop
        return asyncio.run_coroutine_threadsafe(self.call(lambda work: work.ensure_lease(inbox)), loop)


async def _finish(do: Callable[[BackgroundWork], Coroutine[object, object, None]], work: BackgroundWork) -> None:
    await work.tasks.finish(do(work))
