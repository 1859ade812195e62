"""Numbers for pops, so that one whose reply was lost with a connection can be asked again for what it took.

The server keeps what each *reader* has taken last. A reader has one pop under way at a time, so a process has as many
for a queue as it has pops of that queue at once: seldom more than one.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from channel_layer import commands as c

__all__ = ("Numbered", "RepeatablePops")

_Place: TypeAlias = tuple[int, str]
"""Shard and queue."""


@dataclass(frozen=True, slots=True)
class Numbered:
    """One pop, or another try of it.

    Attributes:
        reader: no reader of this queue in another process has this name.
        number: its own, above those of this reader's earlier pops.
        again: whether it has been tried before.
    """

    reader: str
    number: int
    again: bool = False


@dataclass(slots=True)
class _Readers:
    """Of one queue.

    Attributes:
        busy: those whose pop is under way or lost.
        lost: pops whose replies were lost, and when, in seconds of the monotonic clock.
    """

    busy: set[str] = field(default_factory=set[str])
    lost: list[tuple[float, Numbered]] = field(default_factory=list[tuple[float, Numbered]])


class RepeatablePops:
    """The pops of this process that are under way or lost.

    Args:
        lifetime: seconds for which the server keeps what a pop has taken.
    """

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._queues: dict[_Place, _Readers] = {}
        self._lock = threading.Lock()

    def begin(self, command: c.Pop) -> Numbered:
        """Return the number of a pop: that of one whose reply was lost, if there is one."""
        place = _place(command)
        with self._lock:
            readers = self._queues.get(place)
            if readers is not None and readers.lost:
                self._forget_old()
                if readers.lost:
                    return readers.lost.pop(0)[1]
            readers = self._queues.setdefault(place, _Readers())
            names = (f"{self._name}/{reader}" for reader in itertools.count())
            reader = next(name for name in names if name not in readers.busy)
            readers.busy.add(reader)
            return Numbered(reader, next(self._numbers))

    def end(self, command: c.Pop, numbered: Numbered, *, lost: bool) -> None:
        """A pop has ended; *lost*: it may have taken something, and its reply will never come."""
        place = _place(command)
        with self._lock:
            readers = self._queues[place]
            if lost:
                readers.lost.append((time.monotonic(), replace(numbered, again=True)))
                self._forget_old()
            else:
                readers.busy.discard(numbered.reader)
                if not readers.busy:
                    del self._queues[place]

    def _forget_old(self) -> None:
        """Forget pops whose records no server has any more."""
        oldest = time.monotonic() - self._lifetime
        for place, readers in list(self._queues.items()):
            old = [numbered for at, numbered in readers.lost if at <= oldest]
            readers.lost = [(at, numbered) for at, numbered in readers.lost if at > oldest]
            readers.busy.difference_update(numbered.reader for numbered in old)
            if not readers.busy:
                del self._queues[place]


def _place(command: c.Pop) -> _Place:
    return command.shard, command.queue.name
