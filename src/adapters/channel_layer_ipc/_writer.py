"""Carries out commands in one transaction, rings those for whom that brings something, and sweeps now and then.

What the store of an event loop and the store of threads have in common: who asks, and how he is answered, is theirs.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import lmdb

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_ipc import _queue_commands as queues
from channel_layer_ipc._transaction import Times, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_ipc._doorbell import Doorbell
    from channel_layer_ipc._environment import Environment

__all__ = ("RECORD", "Call", "Progress", "Writer", "full_error")

_logger = logging.getLogger("channel_layer")

RECORD: Final = 8192 - (256 << 10)
"""Room that a command has to find that writes a record: it has half of what messages leave. What takes something away
finds enough at any time."""

_SWEEP_SECONDS: Final = 1.0
"""How often a store that is in use looks for what is over, at least."""

_SWEEP_MOST: Final = 200
"""Records that are looked at then, within one transaction; the next one goes on."""

_WARN_SECONDS: Final = 60.0

_clock: Final = SystemClock()


class Call(Protocol):
    """A request to be carried out in a transaction; see `channel_layer_ipc._handlers.Call`."""

    @property
    def need(self) -> int | None: ...
    @property
    def may_be_refused(self) -> bool: ...
    def perform(self, tx: Transaction, /) -> None: ...
    def refuse(self) -> None: ...
    def fail(self, error: Exception, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `Writer.carry_out` came.

    Attributes:
        done: how many of the calls have an outcome; they are the first ones.
        own: there is something for those who are at the bell that was given.
        swept: all has been looked at that may be over.
    """

    done: int
    own: bool
    swept: bool


class Writer:
    """Carries out calls in transactions. May be used by several threads at once.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.

    Attributes:
        sweep_at: when to look for what is over.
        transactions: how many there have been, for whoever wants to know what something costs.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._clock = clock
        self._times = Times.of(rules)
        self._period = min(_SWEEP_SECONDS, rules.expiry / 20)
        self._warn_at = float("-inf")
        self.sweep_at: float = 0.0
        self.transactions: int = 0

    def carry_out(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call]) -> Progress:
        """Carry out the first of these calls, as many as there is room for, in one transaction if that succeeds.

        It raises nothing: the calls note what went wrong. If one of them spoils a transaction for all, each gets a
        transaction of its own.

        Args:
            environment: where.
            doorbell: by which others are rung.
            calls: one at least.
        """
        try:
            return self._write(environment, doorbell, calls)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the call's reply raises it
            if len(calls) == 1:
                self.fail(calls[0], environment, exc)
                return Progress(1, own=False, swept=False)
        parts = [self.carry_out(environment, doorbell, (call,)) for call in calls]
        return Progress(len(calls), own=any(part.own for part in parts), swept=any(part.swept for part in parts))

    def fail(self, call: Call, environment: Environment | None, error: Exception) -> None:
        """Note in a call that its transaction failed, or that there could be none."""
        if _is_full(error) and call.may_be_refused:
            self._warn()
            call.refuse()
        else:
            call.fail(_failure(environment, error))

    def _write(self, environment: Environment, doorbell: Doorbell, calls: Sequence[Call]) -> Progress:
        done, swept = 0, False
        self.transactions += 1
        with environment.write() as handle:
            now = self._now()
            measure = partial(environment.room, handle)
            tx = Transaction(handle, self._times, now, measure, environment.database, doorbell)
            if now >= self.sweep_at:
                swept = not tx.sweep(_SWEEP_MOST)
                self.sweep_at = now + self._period if swept else now
            for call in calls:
                if done and call.need is not None and not tx.has_room(call.need):
                    break
                call.perform(tx)
                done += 1
            tx.save()
            own = _notify(tx, doorbell)
            if tx.wrote:
                handle.commit()
        if tx.overflowed:
            self._warn()
        for each in tx.committed:
            each()
        return Progress(done, own, swept)

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


def _notify(tx: Transaction, doorbell: Doorbell) -> bool:
    """Ring those for whom there is something; whether those at this bell are among them."""
    own = False
    for number in tx.readers_to_notify:
        if number == doorbell.number:
            own = True
        else:
            doorbell.notify(number)
    for name, count in tx.calls.items():
        left = count
        while left > 0 and (found := queues.waiters(tx, name, left)):
            for key, number in found:
                queues.remove_waiter(tx, key)
                if number == doorbell.number:
                    own = True
                elif number not in tx.readers_to_notify and not doorbell.notify(number):
                    continue  # he was killed: another one is called in his place
                left -= 1
    return own


def _is_full(error: Exception) -> bool:
    """Whether a transaction failed for want of room."""
    return isinstance(error, (lmdb.MapFullError, lmdb.DiskError))


def full_error() -> StoreError:
    """Return the error for a command for which there is no room."""
    return StoreError(
        "channel_layer_ipc: the memory is full: raise memory, or read what waits", retryable=True, outcome="not_sent"
    )


def _failure(environment: Environment | None, error: Exception) -> Exception:
    """Return what the caller of a command is told of a transaction that failed, and of which nothing was done."""
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
