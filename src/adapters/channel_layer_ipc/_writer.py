"""Carries out calls in transactions, notifies the readers and waiters for which that brings something, and sweeps.

The store for event loops and the store for threads share it; where calls come from and where outcomes go is theirs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import lmdb

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_ipc._key_values import Times
from channel_layer_ipc._sweeping import sweep
from channel_layer_ipc._transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_ipc._doorbell import Doorbell
    from channel_layer_ipc._environment import Environment
    from channel_layer_ipc._handlers import Call

__all__ = ("Progress", "Writer")

_logger = logging.getLogger("channel_layer")

_SWEEP_SECONDS: Final = 1.0
"""How often a store that is in use removes what has ended, at least."""

_SWEEP_LIMIT: Final = 200
"""Records that are looked at then, within one transaction; the next one goes on."""

_WARN_SECONDS: Final = 60.0

_clock: Final = SystemClock()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `Writer.carry_out` came.

    Attributes:
        done: how many of the calls have an outcome; they are the first ones.
        notified: there is something for a reader or waiter of the store's own doorbell.
        swept: all that has ended was removed.
    """

    done: int
    notified: bool
    swept: bool


class Writer:
    """Carries out calls in transactions. May be used by several threads at once.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.

    Attributes:
        sweep_at: when to remove what has ended.
        transactions: how many there have been, for tests of what something costs.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._clock = clock
        self._times = Times.of(rules)
        self._period = min(_SWEEP_SECONDS, rules.expiry / 20)
        self._warn_at = float("-inf")
        self.sweep_at: float = 0.0
        self.transactions: int = 0

    def carry_out(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call[Any]]) -> Progress:
        """Carry out the first of these calls, as many as there is room for, in one transaction if that succeeds.

        It raises nothing: the calls note what went wrong. If one of them spoils a transaction for all, each gets a
        transaction of its own.

        Args:
            environment: the environment.
            doorbell: the store's own.
            calls: one at least.
        """
        try:
            return self._write(environment, doorbell, calls)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the call's reply raises it
            if len(calls) == 1:
                self.fail(calls[0], environment, exc)
                return Progress(1, notified=False, swept=False)
        parts = [self.carry_out(environment, doorbell, (call,)) for call in calls]
        notified, swept = any(part.notified for part in parts), any(part.swept for part in parts)
        return Progress(len(calls), notified, swept)

    def fail(self, call: Call[Any], environment: Environment | None, error: Exception) -> None:
        """Note in a call that its transaction failed, or that there could be none."""
        if _is_full(error) and call.may_be_refused:
            self._warn()
            call.refuse()
        else:
            call.fail(_failure(environment, error))

    def _write(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call[Any]]) -> Progress:
        done, swept = 0, False
        self.transactions += 1
        with environment.write() as handle:
            now = self._now()
            measure = partial(environment.room, handle)
            tx = Transaction(handle, environment.database, self._times, now, measure, doorbell)
            if now >= self.sweep_at:
                swept = not sweep(tx, _SWEEP_LIMIT)
                self.sweep_at = now + self._period if swept else now
            for call in calls:
                if done and call.need is not None and not tx.has_room(call.need):
                    break
                call.perform(tx)
                done += 1
            tx.save()
            notified = tx.notify()
            if tx.wrote:
                handle.commit()
        if tx.exhausted:
            self._warn()
        for each in tx.after_commit:
            each()
        return Progress(done, notified, swept)

    def _warn(self) -> None:
        """Say that the memory is full, unless that was said just now."""
        now = self._now()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            _logger.warning(
                "the memory of the channel layer is full, and messages are refused: raise memory, or read what waits"
            )

    def _now(self) -> float:
        return _clock.now() + self._clock.offset


def _is_full(error: Exception) -> bool:
    """Whether a transaction failed for want of room."""
    return isinstance(error, (lmdb.MapFullError, lmdb.DiskError))


def _failure(environment: Environment | None, error: Exception) -> Exception:
    """Return the error for a call whose transaction failed, so that nothing of it was done."""
    if isinstance(error, lmdb.Error):
        damaged = (lmdb.CorruptedError, lmdb.PanicError, lmdb.PageNotFoundError)
        if environment is not None and isinstance(error, damaged):
            failure = environment.process_lock.damaged_error(str(error))
            failure.__cause__ = error
            return failure
    elif not isinstance(error, OSError):
        return error
    failure = StoreError(f"channel_layer_ipc: {error}", retryable=True, outcome="not_sent")
    failure.__cause__ = error
    return failure
