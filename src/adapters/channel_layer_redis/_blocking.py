"""The store port over Redis or Valkey, for threads; `_requests` says what each command asks a server for.

One object serves all threads: they share a few connections for commands, and each thread that waits has one of its own
to every server on which it does.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer_redis._blocking_connection import Pool
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import UNREADABLE, Refusal, list_of, text
from channel_layer_redis._requests import begin
from channel_layer_redis._requests.calls import RequestSettings, ScriptCall

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_redis._blocking_connection import BlockingConnection
    from channel_layer_redis._locators import Locator
    from channel_layer_redis._requests.calls import PendingRequest

__all__ = ("RedisBlockingStore",)

R = TypeVar("R")

_NEED_REPLY: Final = (c.Pop, c.PutBack)
"""Commands whose replies are needed, although the thread is interrupted: what they speak of is nowhere else."""

_UNBLOCK_FIRST, _UNBLOCK_MOST = 0.001, 0.05
"""Seconds between attempts to end a wait whose command the server may not have seen yet."""


class RedisBlockingStore:
    """See `channel_layer.ports.BlockingStore`.

    Args:
        locators: one for each shard.
        rules: the configuration.
        clock: its offset is added to the servers' clocks.
    """

    def __init__(self, locators: Sequence[Locator], rules: Rules, clock: Clock) -> None:
        self._settings = RequestSettings(rules, clock)
        self._timeout = rules.timeout
        self._pools = tuple(Pool(locator, rules.timeout) for locator in locators)

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        interrupts: list[BaseException] | None = [] if type(command) in _NEED_REPLY else None
        request = begin(self._settings, command)
        while request.calls:
            request.resume(self._send(command.shard, request.calls, interrupts))
        if interrupts:
            self._put_back((command,), (request.outcome,))
            raise interrupts[0]
        return request.result()

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands in step: in each round all of them share one write to each server."""
        needed = any(type(command) in _NEED_REPLY for command in commands)
        interrupts: list[BaseException] = []
        requests = [begin(self._settings, command) for command in commands]
        while unfinished := [request for request in requests if request.calls]:
            self._exchange(unfinished, interrupts if needed else None)
        outcomes = [request.outcome for request in requests]
        if interrupts:
            self._put_back(commands, outcomes)
            raise interrupts[0]
        return outcomes

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Begin to wait for a signal of the queues; the one that is taken stands for no message."""
        pool = self._pools[request.shard]
        signals = {self._settings.keys.queue(queue.name)[1]: queue for queue in request.queues}
        connection = pool.borrow()
        try:
            connection.send(pack(("BLPOP", *signals, f"{max(0.001, request.block):.3f}")))
        except BaseException:
            pool.give(connection)
            raise
        return _Waiting(connection, pool, signals, request.block, self._timeout)

    def close(self) -> None:
        """Close every connection; those in use once they are free."""
        for pool in self._pools:
            pool.close()

    def _send(self, shard: int, calls: Sequence[ScriptCall], interrupts: list[BaseException] | None) -> list[object]:
        """Send calls in one write, and return the outcome of each: a reply, a `StoreError` or `UnknownScript`."""
        pool = self._pools[shard]
        try:
            connection, deadline = pool.acquire()
            try:
                connection.send(_pack(calls))
                return connection.read(len(calls), deadline, interrupts)
            finally:
                pool.release(connection)
        except StoreError as exc:
            return [exc] * len(calls)

    def _exchange(self, requests: Sequence[PendingRequest[Any]], interrupts: list[BaseException] | None) -> None:
        """Send the next calls of some requests, in one write to each server, and only then wait for the replies."""
        with contextlib.ExitStack() as stack:
            sent: list[tuple[list[PendingRequest[Any]], BlockingConnection, float]] = []
            for shard in sorted({request.shard for request in requests}):  # else two threads could wait for each other
                together = [request for request in requests if request.shard == shard]
                pool = self._pools[shard]
                try:
                    connection, deadline = pool.acquire()
                    stack.callback(pool.release, connection)
                    connection.send(b"".join([_pack(request.calls) for request in together]))
                except StoreError as exc:
                    _resume(together, itertools.repeat(exc))
                else:
                    sent.append((together, connection, deadline))
            for together, connection, deadline in sent:
                try:
                    outcomes = connection.read(sum(len(each.calls) for each in together), deadline, interrupts)
                except StoreError as exc:
                    _resume(together, itertools.repeat(exc))
                else:
                    _resume(together, iter(outcomes))

    def _put_back(self, commands: Iterable[c.Command[object]], outcomes: Iterable[object]) -> None:
        """Return the messages that were popped to their queues."""
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(command, c.Pop) and isinstance(outcome, c.Popped) and outcome.entries:
                with contextlib.suppress(StoreError):
                    self.execute(c.PutBack(command.shard, command.queue, outcome.entries))


def _pack(calls: Sequence[ScriptCall]) -> bytes:
    return b"".join([pack(call.command()) for call in calls])


def _resume(requests: Iterable[PendingRequest[Any]], outcomes: Iterator[object]) -> None:
    """Let each request go on with the outcomes of its calls."""
    for request in requests:
        request.resume(list(itertools.islice(outcomes, len(request.calls))))


class _Waiting:
    """See `channel_layer.ports.Waiting`: ``BLPOP`` on the signals of all queues, on a connection of its own.

    *signals* are the queues by the keys of their signals. The server ends the wait by itself after so many seconds;
    ending it may take *timeout* seconds.
    """

    def __init__(
        self, connection: BlockingConnection, pool: Pool, signals: Mapping[str, Queue], seconds: float, timeout: float
    ) -> None:
        self.seconds: Final = seconds
        self._connection = connection
        self._pool = pool
        self._signals = signals
        self._timeout = timeout

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The socket's file descriptor."""
        return (self._connection.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        """End the wait, and return the queue whose signal it has taken, if it has."""
        connection, pause = self._connection, _UNBLOCK_FIRST
        deadline = time.monotonic() + self._timeout
        try:
            came = connection.take(0.0)
            while not came and time.monotonic() < deadline:
                if isinstance(self._pool.call("CLIENT", "UNBLOCK", connection.client_id), Refusal):
                    connection.close()  # the user may not; a signal that came at this moment goes with it
                    return tuple(self._signals.values())
                came = connection.take(pause)  # the server may not have seen the wait itself yet
                pause = min(_UNBLOCK_MOST, pause * 2)
            (reply,) = connection.read(1, deadline)
        except StoreError:
            connection.close()  # one connection or the other is gone, and the wait with it
            return ()
        finally:
            self._pool.give(connection)
        if reply is None:
            return ()
        waiting = ScriptCall(None, tuple(self._signals), ("BLPOP",))
        if isinstance(reply, Exception):
            raise waiting.failure(reply)
        try:
            return (self._signals[text(list_of(reply)[0])],)
        except UNREADABLE as exc:
            raise waiting.failure(exc) from exc


if TYPE_CHECKING:
    _fits: type[BlockingStore] = RedisBlockingStore
