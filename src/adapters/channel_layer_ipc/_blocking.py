"""The store port over LMDB, for threads: each command is one transaction, and each thread that waits has a doorbell.

What is done in a transaction is what is done for event loops, too: see `channel_layer_ipc._handlers`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer.errors import StoreError
from channel_layer_ipc._doorbell import Doorbell, remove_dead
from channel_layer_ipc._handlers import Call, Handler, handler_of
from channel_layer_ipc._writer import Writer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer import commands as c
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_ipc._environment import Environment, EnvironmentReference
    from channel_layer_ipc._transaction import Transaction

__all__ = ("IPCBlockingStore",)

Q = TypeVar("Q")
R = TypeVar("R")

_CALLS_PER_TRANSACTION: Final = 512
"""Calls that share a transaction at most."""

_SPARE: Final = 8
"""Doorbells that are kept for the next threads that wait."""


class IPCBlockingStore:
    """See `channel_layer.ports.BlockingStore`.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        acquire_environment: opens the environment.
    """

    def __init__(self, rules: Rules, clock: Clock, acquire_environment: Callable[[], EnvironmentReference]) -> None:
        self._writer = Writer(rules, clock)
        self._acquire_environment = acquire_environment
        self._lock = threading.Lock()
        self._reference: EnvironmentReference | None = None
        self._doorbell: Doorbell | None = None
        """Notifies others; it is bound once this process is a registered reader of a queue."""
        self._spare: list[Doorbell] = []
        self._closed = False

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command in a transaction of its own."""
        reply: R = self._ask(handler_of(command), command)
        return reply

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
            self._release()

    # -- transactions

    def perform(self, work: Callable[[Transaction, Q], R], request: Q) -> R:
        """Do something in a transaction for which there is room at any time.

        Raises:
            StoreError: it was not done.
        """
        reply: R = self._ask(Handler(work), request)
        return reply

    def _ask(self, handler: Handler, request: object) -> Any:
        call: Call[Any] = Call(handler, request)
        self._carry_out([call])
        return call.reply()

    def _carry_out(self, calls: Sequence[Call[Any]]) -> None:
        """Give each of these calls its outcome."""
        done = 0
        while done < len(calls):
            try:
                environment, doorbell = self._open()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the replies raise it
                for call in calls[done:]:
                    self._writer.fail(call, None, exc)
                return
            progress = self._writer.carry_out(environment, doorbell, calls[done : done + _CALLS_PER_TRANSACTION])
            done += progress.done
            if progress.swept:
                self._check_files(environment)

    # -- doorbells

    def _take_doorbell(self) -> Doorbell:
        """Return a bound doorbell that no other thread uses."""
        environment, _ = self._open()
        with self._lock:
            doorbell = self._spare.pop() if self._spare else None
        if doorbell is None:
            doorbell = Doorbell(environment.process_lock)
        doorbell.bind()
        return doorbell

    def give_doorbell_back(self, doorbell: Doorbell) -> None:
        """Keep a doorbell that its thread does not use any more for the next one, or close it."""
        doorbell.drain()
        with self._lock:
            process_lock = self._reference.environment.process_lock if self._reference is not None else None
            keep = doorbell.process_lock is process_lock and len(self._spare) < _SPARE
            if keep:
                self._spare.append(doorbell)
        if not keep:
            doorbell.close()

    # -- the files

    def _open(self) -> tuple[Environment, Doorbell]:
        """Return the environment, and the doorbell that notifies others; open them if this is the first time.

        Raises:
            StoreError: they cannot be opened.
        """
        reference, doorbell = self._reference, self._doorbell
        if reference is not None and doorbell is not None:
            return reference.environment, doorbell
        with self._lock:
            if self._closed:
                raise StoreError("this store is closed", retryable=False, outcome="not_sent")
            if self._reference is None or self._doorbell is None:
                reference = self._acquire_environment()
                process_lock = reference.environment.process_lock
                remove_dead(process_lock)
                self._reference, self._doorbell = reference, Doorbell(process_lock)
                self._writer.sweep_at = 0.0
            return self._reference.environment, self._doorbell

    def _release(self) -> None:
        for doorbell in self._spare:
            doorbell.close()
        self._spare.clear()
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        if self._reference is not None:
            self._reference.release()
            self._reference = None

    def _check_files(self, environment: Environment) -> None:
        """Notice that the files were removed: processes that come now meet in a new shared store, so go there, too."""
        if not environment.process_lock.is_current:
            with self._lock:
                if self._reference is not None and self._reference.environment is environment:
                    self._release()


class _Waiting:
    """See `channel_layer.ports.Waiting`.

    Args:
        store: the store that has the queues.
        doorbell: is notified when there is something in one of them.
        request: says which those are.
    """

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


if TYPE_CHECKING:
    _fits: type[BlockingStore] = IPCBlockingStore
