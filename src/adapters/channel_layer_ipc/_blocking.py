"""The store port over LMDB, for threads: each request is one transaction, and each thread that waits has a doorbell.

What is done in a transaction is what is done for event loops, too: see `channel_layer_ipc._store`.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from channel_layer.errors import StoreError
from channel_layer_ipc import _queue_commands as queues
from channel_layer_ipc._doorbell import Doorbell, remove_dead
from channel_layer_ipc._files import list_doorbells
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

_AT_ONCE = 512
"""Requests that share a transaction at most."""

_SPARE = 8
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
        """By it others are rung; it hangs if this process is known to attend to a queue."""
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
        """Begin to wait, at a doorbell of its own."""
        doorbell = self._lend()
        try:
            return _Waiting(self, doorbell, request)
        except BaseException:
            doorbell.close()
            raise

    # -- the world

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        for doorbell in self._spare:
            doorbell.close()
        self._spare.clear()
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        if self._reference is not None:
            self._reference.release()
            self._reference = None

    def _enter(self) -> tuple[Environment, Doorbell]:
        """Return the environment, and what rings others; open them if this is the first time.

        Raises:
            StoreError: it cannot be opened.
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
                remove_dead(process_lock, list_doorbells(process_lock))
                self._reference, self._doorbell = reference, Doorbell(process_lock)
                self._writer.sweep_at = 0.0
            return self._reference.environment, self._doorbell

    def _check_world(self, environment: Environment) -> None:
        """Notice that somebody has removed the files: those who come now meet in another world, so go there, too."""
        if not environment.process_lock.is_current:
            with self._lock:
                if self._reference is not None and self._reference.environment is environment:
                    self._let_go()

    # -- doorbells

    def _lend(self) -> Doorbell:
        """Return a doorbell that hangs, and at which nobody else is."""
        environment, _ = self._enter()
        with self._lock:
            doorbell = self._spare.pop() if self._spare else None
        if doorbell is None:
            doorbell = Doorbell(environment.process_lock)
        doorbell.bind()
        return doorbell

    def take_back(self, doorbell: Doorbell) -> None:
        """Nobody is at a doorbell any more."""
        doorbell.clear()
        with self._lock:
            process_lock = self._reference.environment.process_lock if self._reference is not None else None
            keep = doorbell.process_lock is process_lock and len(self._spare) < _SPARE
            if keep:
                self._spare.append(doorbell)
        if not keep:
            doorbell.close()

    # -- transactions

    def perform(self, work: Callable[[Transaction, Q], R], request: Q) -> R:
        """Do something of our own in a transaction, for which there is room at any time.

        Raises:
            StoreError: it was not done.
        """
        reply: R = self._ask(Handler(work), request)
        return reply

    def _ask(self, handler: Handler, request: object) -> Any:
        call = Call[Any](handler, request)
        self._carry_out([call])
        return call.reply()

    def _carry_out(self, calls: Sequence[Call[Any]]) -> None:
        """Give each of these calls its outcome."""
        done = 0
        while done < len(calls):
            environment: Environment | None = None
            try:
                environment, doorbell = self._enter()
            except Exception as exc:  # noqa: BLE001 - whatever it is, the replies raise it
                for call in calls[done:]:
                    self._writer.fail(call, None, exc)
                return
            progress = self._writer.carry_out(environment, doorbell, calls[done : done + _AT_ONCE])
            done += progress.done
            if progress.swept:
                self._check_world(environment)


class _Waiting:
    """See `channel_layer.ports.Waiting`.

    Args:
        store: where.
        doorbell: rung by whoever has something for one of the queues.
        request: which those are.
    """

    def __init__(self, store: IPCBlockingStore, doorbell: Doorbell, request: c.WaitAny) -> None:
        self._store = store
        self._doorbell = doorbell
        self._keys = store.perform(self._begin, request)
        # What is there already may be for somebody else who was called, and may be for nobody: look.
        self.seconds: float = request.block if len(self._keys) == len(request.queues) else 0.0

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._doorbell.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        called: tuple[Queue, ...] = ()
        with contextlib.suppress(StoreError):
            called = self._store.perform(_leave, self._keys)
        self._store.take_back(self._doorbell)
        return called

    def _begin(self, tx: Transaction, request: c.WaitAny) -> dict[Queue, bytes]:
        """Write down that somebody waits for those queues that are empty."""
        names = {queue: queue.name.encode("ascii") for queue in request.queues}
        return {
            queue: queues.add_waiter(tx, name, self._doorbell.number)
            for queue, name in names.items()
            if not queues.count_messages(tx, name)
        }


def _leave(tx: Transaction, keys: dict[Queue, bytes]) -> tuple[Queue, ...]:
    """Remove these notes; return the queues whose note was removed by who called."""
    return tuple(queue for queue, key in keys.items() if not queues.remove_waiter(tx, key))


if TYPE_CHECKING:
    _fits: type[BlockingStore] = IPCBlockingStore
