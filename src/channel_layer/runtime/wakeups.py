"""Tasks that wait for something, and whoever lets them go on: without a turn of the event loop, where that can be.

A turn is a good part of what a message costs, and asyncio's own futures take one for each task that awaits them: a
callback is scheduled, with a handle of its own. Here a callback of the event loop, in which no task runs, lets any
number of tasks go on one after the other (`resume_all`).
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
    """What one task awaits, or one callback waits for. It comes in two steps: the result, and then `resume_all`.

    asyncio takes it for a future, as it does whatever has the attribute ``_asyncio_future_blocking``
    (`asyncio.isfuture`). It belongs to its loop's thread.

    Args:
        loop: the one in which it is awaited.

    Attributes:
        loop: the one given.
        error: what it is to raise instead of bringing a result.
    """

    __slots__ = ("_asyncio_future_blocking", "_cancelled", "_context", "_done", "_result", "_wake", "error", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop: asyncio.AbstractEventLoop = loop
        self.error: Exception | None = None
        self._asyncio_future_blocking = False
        self._cancelled: asyncio.CancelledError | None = None
        self._done = False
        self._result: object = None
        self._wake: Callable[[InlineFuture], object] | None = None

    # -- for who has the result

    def done(self) -> bool:
        """Whether it is over: it was let go on, or cancelled."""
        return self._done

    def set_result(self, result: object) -> None:
        """Remember the result; `resume_all` brings it."""
        self._result = result

    def set_exception(self, error: Exception) -> None:
        """Have this raised where it is awaited, soon; it is over with that."""
        self._done = True
        self.error = error
        self._wake_soon()

    def resume(self) -> None:
        """Let who waits go on, here and now, unless it is over; for callbacks of the event loop only (`resume_all`)."""
        if not self._done:
            self._done = True
            if self._wake is not None:
                if self._context is None:
                    self._wake(self)
                else:
                    self._context.run(self._wake, self)

    # -- for who waits

    def __await__(self) -> Generator[InlineFuture, None, object]:
        """Wait for the result."""
        if self._done:
            return self.result()
        if self._wake is not None:
            raise RuntimeError("somebody awaits this already")
        self._asyncio_future_blocking = True
        yield self
        return self._result  # an error is raised by asyncio, which has asked for the `result`

    def add_done_callback(self, fn: Callable[[InlineFuture], object], *, context: Context | None = None) -> None:
        """Remember who waits; asyncio calls this for the task that awaits it."""
        self._wake = fn
        self._context = context
        if self._done:
            self._wake_soon()

    def result(self) -> object:
        """Return the result, or raise what there is instead; asyncio calls this before it lets the task go on."""
        if self._cancelled is not None:
            raise self._cancelled
        if self.error is not None:
            raise self.error
        return self._result

    def cancel(self, msg: object = None) -> bool:
        """Let who waits go on into a cancellation, soon; asyncio calls this if the task is cancelled.

        Returns:
            Whether it was not over yet.
        """
        if self._done:
            return False
        self._done = True
        self._cancelled = asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg)
        self._wake_soon()
        return True

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop; asyncio asks for it."""
        return self.loop

    def _wake_soon(self) -> None:
        if self._wake is not None:
            self.loop.call_soon(self._wake, self, context=self._context)


class ReceiveWaiter(InlineFuture):
    """Somebody who waits in one event loop for a message, and may be woken from any thread.

    Attributes:
        error: why he can never get one, once he was told so.
    """

    __slots__ = ()

    error: Exception | None

    def wake(self) -> None:
        """Let him go on, soon."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:  # called from a thread without a loop
            here = None
        if self.loop is here:
            self.loop.call_soon(self.resume)
        else:
            with contextlib.suppress(RuntimeError):  # his loop is closed; nobody will take the message
                self.loop.call_soon_threadsafe(self.resume)

    def fail(self, error: Exception) -> None:
        """Let him go on, into an error."""
        self.error = error
        self.wake()


class _Turn(threading.local):
    """What runs in this thread's event loop at the moment."""

    soon: list[InlineFuture] | None = None
    """Who goes on before that is over, if it is `resume_all`."""


_turn = _Turn()


def resume_all(prompts: Sequence[InlineFuture]) -> None:
    """Let tasks go on whose results are there, and then whoever they have woken; whom those wake goes on a turn later.

    No task may be running: this is for what the event loop itself calls.
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
        for prompt in prompts[done:]:  # the program is to end, as one of them says
            prompt.loop.call_soon(prompt.resume)


def wake_all(waiters: Iterable[Waiter]) -> None:
    """Let all of them run. The caller runs in an event loop, which is often theirs, too."""
    loop = asyncio.get_running_loop()  # which is dear to find out: before Python 3.12 it is a system call
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
"""Receivers that are let run in one turn of the loop: many enough to make a turn's cost small, few enough that what
they make and drop stays under the garbage collector's threshold of 700 objects."""


class WakeQueue:
    """Wakes the receivers of a message, in turns if they are thousands.

    What each of them makes and drops is then gone before the next turn, where the garbage collector would otherwise
    look through all of it, again and again; other tasks in the loop have their turns in between; and what comes in
    meanwhile is there when they run.

    Args:
        loop: the one that wakes them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiters: deque[Waiter] = deque()

    def wake(self, waiters: Sequence[Waiter]) -> None:
        """Let receivers run whose messages have come; called in the loop."""
        if len(waiters) <= _AT_ONCE and not self._waiters:
            wake_all(waiters)
        elif waiters:
            begun = bool(self._waiters)
            self._waiters.extend(waiters)
            if not begun:
                self._wake_some()

    def _wake_some(self) -> None:
        some: list[Waiter] = []
        with contextlib.suppress(IndexError):  # there are no more
            while len(some) < _AT_ONCE:
                some.append(self._waiters.popleft())
        wake_all(some)
        if self._waiters:
            self._loop.call_soon(self._wake_some)

    def wake_rest(self) -> None:
        """Let all of them run, because there will be no more turns; called in any thread."""
        with contextlib.suppress(IndexError):
            while True:
                self._waiters.popleft().wake()
