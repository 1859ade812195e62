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
from channel_layer_ipc import _queues as queues
from channel_layer_ipc._batch import Batch, Times

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.config import Rules
    from channel_layer.ports import Clock
    from channel_layer_ipc._doorbell import Bell
    from channel_layer_ipc._environment import Environment

__all__ = ("RECORD", "Task", "Writer", "Written", "failure", "full_error", "is_full")

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


class Task(Protocol):
    """Something to do in a transaction."""

    @property
    def need(self) -> int | None:
        """The room that it has to find; None: whatever there is will do."""
        ...

    def perform(self, batch: Batch, /) -> None:
        """Do it, or find that there is no room for it."""
        ...


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction has done.

    Attributes:
        done: how many of the tasks.
        batch: the transaction, which is committed.
        own: there is something for those who are at the bell that was given.
        swept: all has been looked at that may be over.
    """

    done: int
    batch: Batch
    own: bool
    swept: bool


class Writer:
    """Carries out tasks. May be used by several threads at once.

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

    def write(self, environment: Environment, bell: Bell, tasks: Sequence[Task]) -> Written:
        """Carry out the first of these tasks, as many as there is room for, in one transaction.

        Args:
            environment: where.
            bell: by which others are rung.
            tasks: one at least.

        Raises:
            lmdb.Error: nothing was done; see `failure`. So it is with whatever a task raises.
        """
        done, swept = 0, False
        self.transactions += 1
        with environment.write() as transaction:
            now = self._now()
            measure = partial(environment.room, transaction)
            batch = Batch(transaction, self._times, now, measure, environment.database, bell.answers)
            if now >= self.sweep_at:
                swept = not batch.sweep(_SWEEP_MOST)
                self.sweep_at = now + self._period if swept else now
            for task in tasks:
                if done and task.need is not None and not batch.has_room(task.need):
                    break
                task.perform(batch)
                done += 1
            batch.save()
            own = _ring(batch, bell)
            if batch.wrote:
                transaction.commit()
        if batch.overflowed:
            self.warn()
        return Written(done, batch, own, swept)

    def warn(self) -> None:
        """Say that the memory is full, unless that was said just now."""
        now = self._now()
        if now >= self._warn_at:
            self._warn_at = now + _WARN_SECONDS
            _logger.warning(
                "the memory of the channel layer is full, and messages are refused: raise memory, or read what waits"
            )

    def _now(self) -> float:
        return _clock.now() + self._clock.offset


def _ring(batch: Batch, bell: Bell) -> bool:
    """Ring those for whom there is something; whether those at this bell are among them."""
    own = False
    for number in batch.rung:
        if number == bell.number:
            own = True
        else:
            bell.ring(number)
    for name, count in batch.calls.items():
        left = count
        while left > 0 and (found := queues.waiters(batch, name, left)):
            for key, number in found:
                queues.leave(batch, key)
                if number == bell.number:
                    own = True
                elif number not in batch.rung and not bell.ring(number):
                    continue  # he was killed: another one is called in his place
                left -= 1
    return own


def is_full(error: Exception) -> bool:
    """Whether a transaction failed for want of room."""
    return isinstance(error, (lmdb.MapFullError, lmdb.DiskError))


def full_error() -> StoreError:
    """Return what whoever asked is told when there is no room."""
    return StoreError(
        "channel_layer_ipc: the memory is full: raise memory, or read what waits", retryable=True, outcome="not_sent"
    )


def failure(environment: Environment | None, error: Exception) -> Exception:
    """Return what whoever asked is told of a transaction that failed, and of which nothing was done."""
    if isinstance(error, lmdb.Error):
        damaged = (lmdb.CorruptedError, lmdb.PanicError, lmdb.PageNotFoundError)
        if environment is not None and isinstance(error, damaged):
            return environment.gate.corrupt(str(error))
    elif not isinstance(error, OSError):
        return error
    return StoreError(f"channel_layer_ipc: {error}", retryable=True, outcome="not_sent")
