"""The store port over LMDB, for threads: each command is one transaction, and each thread that waits has a doorbell.

What is done in a transaction is what is done for event loops, too: see `channel_layer_ipc._handlers`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer.errors import StoreError
from channel_layer_ipc._doorbell import Doorbell
from channel_layer_ipc._handlers import Call, Handler, handler_of
from channel_layer_ipc._writer import CALLS_PER_TRANSACTION, Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer import commands as c
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_ipc._environment import EnvironmentReference
    from channel_layer_ipc._transaction import Transaction

__all__ = ("IPCBlockingStore",)

Q = TypeVar("Q")
R = TypeVar("R")

_SPARE: Final = 8
"""Doorbells that are kept for the next threads that wait."""


class IPCBlockingStore:
    """See `channel_layer.ports.BlockingStore`; for its arguments see `Writer`."""

    def __init__(self, rules: Rules, clock: Clock, acquire_environment: Callable[[], EnvironmentReference]) -> None:
        # The writer's doorbell notifies others; it is bound once this process is a registered reader of a queue.
        self._writer = Writer(rules, clock, acquire_environment, Doorbell)
        self._lock = threading.Lock()
        self._spare: list[Doorbell] = []
        self._closed = False

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command in a transaction of its own."""
        call: Call[R] = Call(handler_of(command), command)
        self._carry_out([call])
        return call.reply()

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, in one transaction if none of them spoils it."""
        calls: list[Call[R]] = [Call(handler_of(command), command) for command in commands]
        self._carry_out(calls)
        outcomes: list[R | StoreError] = []
        for call in calls:
            try:
                outcomes.append(call.reply())
            except StoreError as exc:
                outcomes.append(exc)
        return outcomes

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Begin to wait, with a doorbell of its own."""
        doorbell = self._take_doorbell()
        try:
            return _Waiting(self, doorbell, request)
        except BaseException:
            doorbell.close()
            raise

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._closed = True
            for doorbell in self._spare:
                doorbell.close()
            self._spare.clear()
        self._writer.close(_refuse_to_open)

    # -- transactions

    def perform(self, work: Callable[[Transaction, Q], R], request: Q) -> R:
        """Do something in a transaction for which there is room at any time.

        Raises:
            StoreError: it was not done.
        """
        call: Call[R] = Call(Handler(work), request)
        self._carry_out([call])
        return call.reply()

    def _carry_out(self, calls: Sequence[Call[Any]]) -> None:
        """Give each of these calls its outcome."""
        done = 0
        while done < len(calls):
            done += self._writer.carry_out(calls[done : done + CALLS_PER_TRANSACTION]).done

    # -- doorbells

    def _take_doorbell(self) -> Doorbell:
        """Return a bound doorbell that no other thread uses."""
        environment, _ = self._writer.open()
        with self._lock:
            while self._spare:
                doorbell = self._spare.pop()
                if doorbell.process_lock is environment.process_lock:
                    return doorbell
                doorbell.close()  # of files that were removed
        doorbell = Doorbell(environment.process_lock)
        doorbell.bind()
        return doorbell

    def give_doorbell_back(self, doorbell: Doorbell) -> None:
        """Keep a doorbell that its thread does not use any more for the next one, or close it."""
        doorbell.drain()
        with self._lock:
            if not self._closed and len(self._spare) < _SPARE:
                self._spare.append(doorbell)
                return
        doorbell.close()


class _Waiting:
    """See `channel_layer.ports.Waiting`."""

    def __init__(self, store: IPCBlockingStore, doorbell: Doorbell, request: c.WaitAny) -> None:
        self._store = store
        self._doorbell = doorbell
        self._keys = store.perform(self._begin, request)
        # A message that is there already may be for another waiter that was notified, or for none: look.
        self.seconds: float = request.block if len(self._keys) == len(request.queues) else 0.0

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._doorbell.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        notified: tuple[Queue, ...] = ()
        with contextlib.suppress(StoreError):
            notified = self._store.perform(_end, self._keys)
        self._store.give_doorbell_back(self._doorbell)
        return notified

    def _begin(self, tx: Transaction, request: c.WaitAny) -> dict[Queue, bytes]:
        """Record that a thread waits for those queues that are empty; return the keys of the records."""
        names = {queue: queue.name.encode("ascii") for queue in request.queues}
        return {
            queue: tx.add_waiter(name, self._doorbell.number)
            for queue, name in names.items()
            if not tx.queues.count(name)
        }


def _end(tx: Transaction, keys: dict[Queue, bytes]) -> tuple[Queue, ...]:
    """Remove these records; return the queues whose record was removed before, to notify the thread."""
    return tuple(queue for queue, key in keys.items() if not tx.remove_timed(key))


def _refuse_to_open() -> EnvironmentReference:
    raise StoreError("this store is closed", retryable=False, outcome="not_sent")


if TYPE_CHECKING:
    _fits: type[BlockingStore] = IPCBlockingStore
