"""Carries out calls in transactions, notifies the readers and waiters for which that brings something, and sweeps.

The store for event loops and the store for threads share it, and the files that it opens; where calls come from and
where outcomes go is theirs.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import lmdb

from channel_layer.runtime.event_loops import SystemClock
from channel_layer_ipc import _keys as k
from channel_layer_ipc._directory import unavailable
from channel_layer_ipc._doorbell import Doorbell, remove_dead
from channel_layer_ipc._environment import RECORD_ERRORS
from channel_layer_ipc._key_values import Times
from channel_layer_ipc._transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_ipc._environment import Environment, EnvironmentReference
    from channel_layer_ipc._handlers import Call
    from channel_layer_ipc._process_lock import ProcessLock

__all__ = ("CALLS_PER_TRANSACTION", "Progress", "Writer")

DoorbellT = TypeVar("DoorbellT", bound=Doorbell)

_logger = logging.getLogger("channel_layer")

CALLS_PER_TRANSACTION: Final = 512
"""Calls that share a transaction at most: enough to make its cost small, few enough that no process waits for long."""

_SWEEP_SECONDS: Final = 1.0
"""How often a store that is in use removes what has ended, at least."""

_SWEEP_LIMIT: Final = 200
"""Records that are looked at then, within one transaction; the next one goes on."""

_UNCOUNTED: Final = 10
"""Times ``expiry`` for which it is known how many messages were swept from a queue that is not used."""

_WARN_SECONDS: Final = 60.0

_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `Writer.carry_out` came.

    Attributes:
        done: how many of the calls have an outcome; they are the first ones.
        notified: there is something for a reader or waiter of the store's own doorbell.
        lost: it was noticed that the files were removed, and they were let go of: processes that come now meet in a new
            shared store, and the next calls go there, too.
    """

    done: int
    notified: bool
    lost: bool


class Writer(Generic[DoorbellT]):
    """Carries out calls in transactions. May be used by several threads at once.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        acquire_environment: opens the environment.
        make_doorbell: makes the store's own doorbell, which notifies others.

    Attributes:
        transactions: how many there have been, for tests of what something costs.
    """

    def __init__(
        self,
        rules: Rules,
        clock: Clock,
        acquire_environment: Callable[[], EnvironmentReference],
        make_doorbell: Callable[[ProcessLock], DoorbellT],
    ) -> None:
        self._clock = clock
        self._times = Times.of(rules)
        self._acquire_environment = acquire_environment
        self._make_doorbell = make_doorbell
        self._lock = threading.Lock()
        self._opened: tuple[EnvironmentReference, DoorbellT] | None = None
        self._period = min(_SWEEP_SECONDS, rules.expiry / 20)
        self._sweep_at = 0.0
        self._warn_at = float("-inf")
        self.transactions: int = 0

    def open(self) -> tuple[Environment, DoorbellT]:
        """Return the environment, and the store's own doorbell; open them if this is the first time.

        Raises:
            StoreError: they cannot be opened.
        """
        opened = self._opened
        if opened is None:
            with self._lock:
                opened = self._opened
                if opened is None:
                    reference = self._acquire_environment()
                    process_lock = reference.environment.process_lock
                    remove_dead(process_lock)
                    opened = self._opened = reference, self._make_doorbell(process_lock)
                    self._sweep_at = 0.0
        return opened[0].environment, opened[1]

    def close(self, refuse: Callable[[], EnvironmentReference]) -> None:
        """Let go of the files; calls that come later get the error that *refuse* raises.

        A store is a part of reference cycles: the backend, and with it the files, must not wait for their collection.
        """
        with self._lock:
            self._acquire_environment = refuse
            self._release()

    def carry_out(self, calls: Sequence[Call[Any]]) -> Progress:
        """Carry out the first of these calls, as many as there is room for, in one transaction if that succeeds.

        It raises nothing: the calls note what went wrong. If one of them spoils a transaction for all, each gets a
        transaction of its own.

        Args:
            calls: one at least, and not more than `CALLS_PER_TRANSACTION`.
        """
        try:
            environment, doorbell = self.open()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the replies raise it
            for call in calls:
                self._fail(call, None, exc)
            return Progress(len(calls), notified=False, lost=False)
        progress = self._write_or_fail(environment, doorbell, calls)
        if progress.lost:
            with self._lock:
                if self._opened is not None and self._opened[0].environment is environment:
                    _logger.error(
                        "the files of the channel layer in %s were removed while they were in use; "
                        "what was in them is lost",
                        environment.process_lock.data.parent,
                    )
                    self._release()
        return progress

    def _write_or_fail(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call[Any]]) -> Progress:
        try:
            return self._write(environment, doorbell, calls)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the call's reply raises it
            if len(calls) == 1:
                self._fail(calls[0], environment, exc)
                return Progress(1, notified=False, lost=not environment.process_lock.is_current)
        parts = [self._write_or_fail(environment, doorbell, (call,)) for call in calls]
        return Progress(len(calls), any(part.notified for part in parts), any(part.lost for part in parts))

    def _fail(self, call: Call[Any], environment: Environment | None, error: Exception) -> None:
        """Note in a call that its transaction failed, or that there could be none."""
        if environment is not None and isinstance(error, (lmdb.MapFullError, lmdb.DiskError)):
            call.refuse(environment.why_full())
            self._warn(environment)
        else:
            call.fail(_failure(environment, error))

    def _write(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call[Any]]) -> Progress:
        done, swept = 0, False
        self.transactions += 1
        with environment.write() as handle:
            now = self._now()
            measure = partial(environment.room, handle)
            tx = Transaction(handle, environment.database, self._times, now, measure, environment.why_full, doorbell)
            if now >= self._sweep_at:
                environment.check()
                swept = not _sweep(tx, _SWEEP_LIMIT)
                self._sweep_at = now + self._period if swept else now
            for call in calls:
                if not call.perform(tx, first=not done):
                    break
                done += 1
            tx.save()
            notified = tx.notify()
            if tx.wrote:
                handle.commit()
        if tx.exhausted:
            self._warn(environment)
        for each in tx.after_commit:
            each()
        return Progress(done, notified, lost=swept and not environment.process_lock.is_current)

    def _release(self) -> None:
        if self._opened is not None:
            reference, doorbell = self._opened
            self._opened = None
            doorbell.close()
            reference.release()

    def _warn(self, environment: Environment) -> None:
        """Say what is full, unless that was said just now."""
        now = self._now()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            _logger.warning("the channel layer refuses messages: %s", environment.why_full())

    def _now(self) -> float:
        return _clock.now() + self._clock.offset


def _failure(environment: Environment | None, error: Exception) -> Exception:
    """Return the error for a call whose transaction failed, so that nothing of it was done."""
    failure = environment.failure(error) if environment is not None else None
    if failure is None and isinstance(error, (lmdb.Error, OSError)):
        failure = unavailable(str(error))
    if failure is None:
        return error
    failure.__cause__ = error
    return failure


# -- what has ended


def _sweep(tx: Transaction, limit: int) -> bool:
    """Look at so many records at most, and remove what has ended; return whether there may be more."""
    for _ in range(limit):
        key = tx.pop_due()
        if key is None:
            return False
        try:
            _review(tx, key)
        except RECORD_ERRORS as exc:
            _logger.error("a record of the channel layer is damaged, and is left alone: %r: %s", key, exc)
    return True


def _review(tx: Transaction, key: bytes) -> None:
    kind, name = key[:1], key[1:-1]
    if kind == k.QUEUE:
        _review_queue(tx, name)
    elif kind == k.INBOX:
        _review_inbox(tx, name)
    elif kind == k.GROUP:
        if (group := tx.groups.get(name)) is not None:
            tx.groups.review(group)
    else:
        _review_timed(tx, key)


def _review_queue(tx: Transaction, name: bytes) -> None:
    queue = tx.queues.get(name)
    if queue is None:
        return
    if queue.until <= tx.now and queue.size:
        # The next command that reads or fills the queue counts what has expired, unless there is none for long.
        tx.queues.sweep(queue, tx.now + _UNCOUNTED * tx.times.expiry)
    tx.queues.review(queue)


def _review_inbox(tx: Transaction, name: bytes) -> None:
    inbox = tx.inboxes.get(name)
    if inbox is None:
        return
    if inbox.until <= tx.now and inbox.owner and tx.doorbell.has_listener(inbox.owner):
        # Its owner was held up, or the machine slept: it comes back, and there is news of its groups in the inbox.
        inbox.postpone(tx.now + tx.times.lease)
    else:
        tx.inboxes.review(inbox)


def _review_timed(tx: Transaction, key: bytes) -> None:
    record = tx.peek_timed(key)
    if record is None:
        return
    if record.lasts(tx.now):
        tx.postpone_timed(key, record, record.until)
    elif key[:1] == k.WAITER and tx.doorbell.has_listener(k.waiter_doorbell(key)):
        # A waiter's timer runs by another clock, which stands still while the machine sleeps: it may still be there.
        tx.postpone_timed(key, record, tx.now + tx.times.lease)
    else:
        tx.remove(key)
