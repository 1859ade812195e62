"""The tasks of one event loop that wait for queues: one record in the store stands for all that wait for one queue."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from channel_layer.runtime.event_loops import ignore
from channel_layer_ipc._handlers import Handler

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.errors import StoreError
    from channel_layer_ipc._transaction import Transaction

__all__ = ("LoopWaiters", "finish")

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _QueueWaiters:
    """The tasks that wait for one queue.

    Attributes:
        tasks: a future for each; the first one has waited for longest.
        key: of their record; None: there is none, because it was removed when they were notified.
    """

    tasks: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])
    key: bytes | None = None


class LoopWaiters:
    """The tasks of one event loop that wait for queues."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ask: Callable[[Handler, str], asyncio.Future[None]]) -> None:
        self._loop = loop
        self._ask = ask
        self._looking = Handler(self._look)
        self._passing_on = Handler(self._pass_on)
        self._queues: dict[str, _QueueWaiters] = {}

    async def wait(self, name: str, block: float) -> None:
        """Return when a queue may hold a message, or after *block* seconds."""
        waiters = self._queues.setdefault(name, _QueueWaiters())
        waiter: asyncio.Future[None] = self._loop.create_future()
        waiters.tasks.append(waiter)
        timer = self._loop.call_later(block, finish, waiter)
        returned = False
        try:
            await self._ask(self._looking, name)
            await waiter
            returned = True
        finally:
            timer.cancel()
            waits = waiter in waiters.tasks  # its time is over, or it was cancelled before it was woken
            if waits:
                waiters.tasks.remove(waiter)
            # Or it was woken, and cancelled before it returned. In a closed loop nothing can be asked for.
            if (waits or not returned) and not self._loop.is_closed():
                self._leave(name)

    def look(self) -> None:
        """Look at all queues that are waited for: there may be something."""
        for name in self._queues:
            self._ask(self._looking, name).add_done_callback(partial(self._pass_error, name))

    def fail(self, error: StoreError) -> None:
        """End all waits with an error."""
        for waiters in self._queues.values():
            for waiter in waiters.tasks:
                if not waiter.done():
                    waiter.set_exception(error)
            waiters.tasks.clear()

    def leave(self) -> None:
        """Have the records of all queues removed, after `fail`."""
        for name in self._queues:
            self._leave(name)

    def forget(self) -> None:
        """Forget all queues, after `fail`: the store that had the records is gone."""
        self._queues = {}

    # -- in a transaction

    def _look(self, tx: Transaction, name: str) -> None:
        """Wake as many of the tasks that wait for a queue as it has messages; the others go on waiting."""
        waiters = self._queues.get(name)
        if waiters is None:
            return
        queue = name.encode("ascii")
        waiting = [waiter for waiter in waiters.tasks if not waiter.done()]
        count = tx.queues.count(queue)
        woken, staying = waiting[:count], waiting[count:]
        key = tx.waiter_keys.get(name, waiters.key)
        if not staying:
            if key is not None:
                tx.remove_timed(key)
                key = None
        elif key is None or tx.get(key) is None:
            key = tx.add_waiter(queue, tx.doorbell.bind())
        tx.waiter_keys[name] = key
        tx.after_commit.append(partial(self._wake, name, woken, key))

    def _pass_on(self, tx: Transaction, name: str) -> None:
        """Notify another waiter if there is something: one that may have been notified does not wait any more."""
        self._look(tx, name)
        waiters = self._queues.get(name)
        queue = name.encode("ascii")
        if (waiters is None or not waiters.tasks) and (count := tx.queues.count(queue)):
            tx.notify_waiters(queue, count)

    # -- after it

    def _wake(self, name: str, woken: list[asyncio.Future[None]], key: bytes | None) -> None:
        waiters = self._queues.get(name)
        if waiters is None:
            return
        waiters.key = key
        for waiter in woken:
            if waiter in waiters.tasks:
                waiters.tasks.remove(waiter)
            finish(waiter)
        if not waiters.tasks and key is None:
            del self._queues[name]

    def _leave(self, name: str) -> None:
        self._ask(self._passing_on, name).add_done_callback(ignore)

    def _pass_error(self, name: str, future: asyncio.Future[None]) -> None:
        """Have the tasks that wait for a queue raise the error of a transaction that looked at it."""
        if future.cancelled() or (error := future.exception()) is None or name not in self._queues:
            return
        for waiter in self._queues[name].tasks:
            if not waiter.done():
                waiter.set_exception(error)


def finish(future: asyncio.Future[T | None]) -> None:
    """Give a future None, unless it is done."""
    if not future.done():
        future.set_result(None)
