"""Futures that resume the tasks which await them without another turn of the event loop.

A turn is a good part of the cost of a message, and an asyncio future takes one for each task that awaits it: it
schedules a callback, with a handle of its own. Here a callback of the event loop resumes any number of tasks, one after
the other (`resume_all`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from contextvars import Context

    from channel_layer.domain.mailbox import Waiter

__all__ = ("InlineFuture", "ReceiveWaiter", "WakeQueue", "resume_all", "wake_all")


class InlineFuture:
    """A future for one task or one callback, which is completed in two steps: `set_result`, then `resume_all`.

    asyncio accepts it as a future because it has the attribute ``_asyncio_future_blocking`` (`asyncio.isfuture`). It is
    used only in the thread of its loop.

    Attributes:
        loop: the event loop in which it is awaited.
        error: raised to the task instead of a result.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_done", "_result", "_wake", "error", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.error: Exception | None = None
        self._asyncio_future_blocking = False
        self._cancelled: tuple[object, ...] | None = None
        """The arguments of the error for the waiting task, if it was cancelled."""
        self._done = False
        self._result: object = None
        self._wake: Callable[[InlineFuture], object] | None = None

    # -- for the producer of the result

    def done(self) -> bool:
        """Whether the future was resumed or cancelled, or has an error."""
        return self._done

    def set_result(self, result: object) -> None:
        """Keep the result until `resume_all` resumes the task."""
        self._result = result

    def set_exception(self, error: Exception) -> None:
        """Complete the future with an error, and schedule its task."""
        self._done = True
        self.error = error
        self._wake_soon()

    def resume(self) -> None:
        """Run the waiting task at once, unless the future is done; only for callbacks of the loop (`resume_all`)."""
        if not self._done:
            self._done = True
            if self._wake is not None:
                if self._context is None:
                    self._wake(self)
                else:
                    self._context.run(self._wake, self)

    # -- for the task that waits

    def __await__(self) -> Generator[InlineFuture, None, object]:
        """Wait for the result."""
        if self._done:
            return self.result()
        if self._wake is not None:
            raise RuntimeError("another task awaits this future already: only one task may await it")
        self._asyncio_future_blocking = True
        yield self
        return self._result  # asyncio has called `result` first, which raises an error

    def add_done_callback(self, fn: Callable[[InlineFuture], object], *, context: Context | None = None) -> None:
        """Set the callback that resumes the waiting task; asyncio calls this for the task that awaits the future."""
        self._wake = fn
        self._context = context
        if self._done:
            self._wake_soon()

    def result(self) -> object:
        """Return the result or raise the error; asyncio calls this before it resumes the task."""
        if self._cancelled is not None:
            raise asyncio.CancelledError(*self._cancelled)
        if self.error is not None:
            error = self.error
            try:
                raise error
            finally:
                del error, self  # its traceback refers to this frame
        return self._result

    def cancel(self, msg: object = None) -> bool:
        """Schedule the waiting task with a `CancelledError`; asyncio calls this if the task is cancelled.

        Returns:
            False if the future was done already.
        """
        if self._done:
            return False
        self._done = True
        self._cancelled = () if msg is None else (msg,)
        self._wake_soon()
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; asyncio calls this."""
        return self.loop

    def _wake_soon(self) -> None:
        wake, self._wake = self._wake, None  # the task's error refers to this, and so would keep the task
        if wake is not None:
            self.loop.call_soon(wake, self, context=self._context)


class ReceiveWaiter(InlineFuture):
    """A task that waits for a message in one event loop, and may be woken from any thread."""

    __slots__ = ()

    error: Exception | None  # which `fail` sets, too; said again for those who read types from the installed files

    @property
    def lost(self) -> bool:
        """Whether the loop was closed while the task waited."""
        return self.loop.is_closed()

    def wake(self) -> None:
        """Schedule the task in its event loop."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # called from a thread without a loop
            here = None
        if self.loop is here:
            self.loop.call_soon(self.resume)
        else:
            with contextlib.suppress(RuntimeError):  # the task's loop is closed, and the task with it
                self.loop.call_soon_threadsafe(self.resume)

    def fail(self, error: Exception) -> None:
        """Schedule the task with an error."""
        self.error = error
        self.wake()


class _Turn(threading.local):
    """The state of the current turn of this thread's event loop."""

    soon: list[InlineFuture] | None = None
    """The futures that the running `resume_all` resumes before it returns; None outside of `resume_all`."""


_turn = _Turn()


def resume_all(prompts: Sequence[InlineFuture]) -> None:
    """Resume tasks whose results are there, and then the tasks that these have woken.

    A task that is woken by one of the latter runs in the next turn of the loop. No task may be running in the loop:
    only a callback of the event loop may call this.
    """
    woken: list[InlineFuture] = []
    _turn.soon = woken
    try:
        _resume(prompts)
    finally:
        _turn.soon = None
        if woken:
            _resume(woken)


def _resume(prompts: Sequence[InlineFuture]) -> None:
    done = 0
    try:
        for prompt in prompts:
            done += 1
            prompt.resume()
    finally:
        for prompt in prompts[
            done:
        ]:  # a task raised SystemExit or KeyboardInterrupt: the others run while the loop ends
            prompt.loop.call_soon(prompt.resume)


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Wake waiters of any event loop or thread; call it in an event loop, which is often their own."""
    loop = asyncio.get_running_loop()  # once for all waiters: before Python 3.12 it costs a system call
    soon = _turn.soon
    here: list[InlineFuture] = [] if soon is None else soon
    for waiter in waiters:
        if isinstance(waiter, ReceiveWaiter) and waiter.loop is loop:
            here.append(waiter)
        else:
            waiter.wake()
    if here and soon is None:
        loop.call_soon(resume_all, here)


_AT_ONCE = 128
"""Receivers that run in one turn of the loop: enough to spread the cost of a turn, and few enough that the objects they
allocate stay under the garbage collector's threshold of 700."""


class WakeQueue:
    """Wakes the receivers of a message, over several turns of the loop if there are many.

    So the garbage collector does not scan the temporary objects of thousands of tasks again and again, other tasks of
    the loop run in between, and messages that come in meanwhile are there when the receivers run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: deque[Waiter] = deque()

    def wake(self, waiters: Sequence[Waiter]) -> None:
        """Wake the receivers of messages that have come; called in the loop."""
        if len(waiters) <= _AT_ONCE and not self._waiters:
            wake_all(waiters)
        elif waiters:
            scheduled = bool(self._waiters)
            self._waiters.extend(waiters)
            if not scheduled:
                self._wake_next()

    def _wake_next(self) -> None:
        """Wake as many receivers as may run in one turn, and schedule the rest."""
        batch: list[Waiter] = []
        with contextlib.suppress(IndexError):  # the deque is empty, perhaps by `wake_rest` in another thread
            while len(batch) < _AT_ONCE:
                batch.append(self._waiters.popleft())
        wake_all(batch)
        if self._waiters:
            self._loop.call_soon(self._wake_next)

    def wake_rest(self) -> None:
        """Wake all remaining receivers, because the loop ends; called in any thread."""
        with contextlib.suppress(IndexError):
            while True:
                self._waiters.popleft().wake()
