"""The tasks of the background work in one event loop: begun, held on to, and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import TYPE_CHECKING, TypeVar

from channel_layer.runtime.drivers import refuse, run
from channel_layer.runtime.event_loops import LoopUnavailable, ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from channel_layer.operations.receiving import Backoff
    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Store

__all__ = ("BackgroundTasks", "raise_cancellation", "wait_before_retry")

R = TypeVar("R")

_logger = logging.getLogger("channel_layer")


class BackgroundTasks:
    """The tasks of the background work in the running event loop, and the store that they use.

    Attributes:
        stopping: no more work is begun.
    """

    def __init__(self, store: Store) -> None:
        self.store: Store = store
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.stopping: bool = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        """Those that have been told to end; ``cancelling()`` is also true of one whose timeout is up."""

    @property
    def here(self) -> bool:
        """Whether the caller runs in this loop. Any thread may ask."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:  # a thread without one
            return False

    def post(self, work: Callable[[], object]) -> None:
        """Do *work* in this loop, soon; called in any thread."""
        with contextlib.suppress(
            RuntimeError
        ):  # it is closed: the next background work starts with a look at everything
            self.loop.call_soon_threadsafe(work)

    def start(self, work: Coroutine[object, object, None]) -> None:
        """Begin a task; if it fails, that is a fault of ours, which is logged."""
        _ = self.start_task(work)  # held on to until it ends

    def start_task(self, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Begin a task, as `start` does, and return it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("background work of the channel layer failed; please report this", exc_info=error)

    async def finish(self, work: Coroutine[object, object, None]) -> None:
        """Await work that ends with this background work, and does not end with its caller.

        Raises:
            LoopUnavailable: the background work has ended; it has to be done by the next one.
        """
        if self.stopping:
            work.close()
            raise LoopUnavailable
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(ignore)  # should its caller be cancelled
        await asyncio.wait((task,))
        if task.cancelled():
            raise LoopUnavailable
        task.result()

    async def run(self, operation: Operation[R]) -> R:
        """Run an operation."""
        return await run(operation, self.store, refuse)

    def cancel(self) -> None:
        """Tell every task to end, once: a second time would meet it while it puts back what it holds."""
        for task in self._tasks - self._cancelled:
            self._cancelled.add(task)
            task.cancel()

    async def stop(self) -> None:
        """End every task, and wait for that."""
        self.stopping = True
        tasks = list(self._tasks)
        self.cancel()
        if tasks:
            await asyncio.wait(tasks)  # not gather: if this is cancelled, they have been cancelled enough


async def wait_before_retry(backoff: Backoff) -> None:
    """Wait before the next try to reach a store that is away."""
    await asyncio.sleep(backoff.pause(random.random()))  # noqa: S311 - jitter, not a secret


def raise_cancellation() -> None:
    """Raise the cancellation that a store has held back, while it finished what it had begun."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
