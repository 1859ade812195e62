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
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import UNREADABLE, Redirection, Refusal, list_of, text
from channel_layer_redis._requests import begin
from channel_layer_redis._requests.calls import ScriptCall
from channel_layer_redis._sockets import CHECK_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.ports import BlockingStore
    from channel_layer_redis._blocking_connection import BlockingConnection, Pool
    from channel_layer_redis._requests.calls import PendingRequest, RequestSettings
    from channel_layer_redis._servers import Pools, Servers

__all__ = ("RedisBlockingStore",)

R = TypeVar("R")

_NEED_REPLY: Final = (c.Pop, c.PutBack)
"""Commands whose replies are needed, although the thread is interrupted: what they speak of is nowhere else."""

_UNBLOCK_FIRST, _UNBLOCK_MOST = 0.001, 0.05
"""Seconds between attempts to end a wait whose command the server may not have seen yet."""

_AGAIN_FIRST: Final = 0.002
"""Seconds until a command is sent again to a slot that is moving, or that no node serves; then twice as many."""

_AT_ONCE: Final = 2
"""How often in a row a command follows redirections without a pause."""


class RedisBlockingStore:
    """See `channel_layer.ports.BlockingStore`.

    Args:
        servers: what has the shards.
        settings: those of each shard.
        timeout: seconds that a command may take.
    """

    def __init__(self, servers: Servers, settings: Sequence[RequestSettings], timeout: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._pools = servers.pools()

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        interrupts: list[BaseException] | None = [] if type(command) in _NEED_REPLY else None
        request = begin(self._settings[command.shard], command)
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
        requests = [begin(self._settings[command.shard], command) for command in commands]
        while unfinished := [request for request in requests if request.calls]:
            self._exchange(unfinished, interrupts if needed else None)
        outcomes = [request.outcome for request in requests]
        if interrupts:
            self._put_back(commands, outcomes)
            raise interrupts[0]
        return outcomes

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Begin to wait for a signal of the queues; the one that is taken stands for no message."""
        keys = self._settings[request.shard].keys
        signals = {keys.queue(queue.name)[1]: queue for queue in request.queues}
        pool = self._pools.pool(request.shard)
        began = time.monotonic()
        try:
            connection = pool.borrow()
        except StoreError as exc:
            pool = self._pools.another(request.shard, pool, began, exc)
            connection = pool.borrow()
        try:
            connection.send(pack(("BLPOP", *signals, f"{max(0.001, request.block):.3f}")))
        except BaseException:
            pool.give(connection)
            raise
        return _Waiting(connection, pool, self._pools, signals, request.block, self._timeout)

    def close(self) -> None:
        """Close every connection; those in use once they are free."""
        self._pools.close()

    def _acquire(self, shard: int) -> tuple[Pool, BlockingConnection, float]:
        """Wait for a turn at the server of a shard; see `Pool.acquire`."""
        pool = self._pools.pool(shard)
        began = time.monotonic()
        try:
            return pool, *pool.acquire()
        except StoreError as exc:
            pool = self._pools.another(shard, pool, began, exc)
            return pool, *pool.acquire()

    def _send(self, shard: int, calls: Sequence[ScriptCall], interrupts: list[BaseException] | None) -> list[object]:
        """Send calls in one write, and return the outcome of each: a reply, a `StoreError` or `UnknownScript`."""
        try:
            pool, connection, deadline = self._acquire(shard)
            try:
                connection.send(_pack(calls))
                outcomes = connection.read(len(calls), deadline, interrupts)
            finally:
                pool.release(connection)
        except StoreError as exc:
            return [exc] * len(calls)
        return self._follow(shard, pool, calls, outcomes, deadline, interrupts)

    def _exchange(self, requests: Sequence[PendingRequest[Any]], interrupts: list[BaseException] | None) -> None:
        """Send the next calls of some requests, in one write to each server, and only then wait for the replies."""
        replied: list[tuple[Pool, PendingRequest[Any], list[object], float]] = []
        with contextlib.ExitStack() as stack:
            sent: list[tuple[Pool, list[PendingRequest[Any]], BlockingConnection, float]] = []
            for first, together in self._by_server(requests):
                try:
                    pool, connection, deadline = self._acquire(first)
                    stack.callback(pool.release, connection)
                    connection.send(b"".join([_pack(request.calls) for request in together]))
                except StoreError as exc:
                    _resume(together, itertools.repeat(exc))
                else:
                    sent.append((pool, together, connection, deadline))
            for pool, together, connection, deadline in sent:
                try:
                    outcomes = iter(connection.read(sum(len(each.calls) for each in together), deadline, interrupts))
                except StoreError as exc:
                    _resume(together, itertools.repeat(exc))
                else:
                    for request in together:
                        own = list(itertools.islice(outcomes, len(request.calls)))
                        replied.append((pool, request, own, deadline))
        for pool, request, own, deadline in replied:
            request.resume(self._follow(request.shard, pool, request.calls, own, deadline, interrupts))

    def _by_server(self, requests: Sequence[PendingRequest[Any]]) -> list[tuple[int, list[PendingRequest[Any]]]]:
        """Return the requests for each server, with one of their shards; in the order of the pools' places."""
        found: dict[Pool, list[PendingRequest[Any]]] = {}
        for request in requests:
            try:
                pool = self._pools.pool(request.shard)
            except StoreError as exc:
                _resume([request], itertools.repeat(exc))
            else:
                found.setdefault(pool, []).append(request)
        return [(found[pool][0].shard, found[pool]) for pool in sorted(found, key=lambda each: each.place)]

    def _follow(
        self,
        shard: int,
        pool: Pool,
        calls: Sequence[ScriptCall],
        outcomes: list[object],
        deadline: float,
        interrupts: list[BaseException] | None,
    ) -> list[object]:
        """Send those calls again that a node of a Cluster has redirected, and return the outcomes.

        Only when a node has served one, all others follow in one write: before, it might refuse the first and serve
        the next.
        """
        tries, pause, several = 0, _AGAIN_FIRST, False
        latest = deadline - self._timeout * CHECK_SHARE
        while redirected := [place for place, outcome in enumerate(outcomes) if isinstance(outcome, Redirection)]:
            refusal = outcomes[redirected[0]]
            if not isinstance(refusal, Redirection):
                break
            if time.monotonic() >= latest:
                what = f"{refusal}, for too long: is the slot being moved, or a node away?"
                error = StoreError(what, retryable=True, outcome="not_sent", server=refusal.server)
                return [error if isinstance(outcome, Redirection) else outcome for outcome in outcomes]
            try:
                asked = self._pools.follow(refusal, pool)
                if not several and (not refusal.endpoint or tries >= _AT_ONCE):
                    time.sleep(pause)
                    pause = min(_UNBLOCK_MOST, pause * 2)
                tries += 1
                again = redirected if several and asked is None else redirected[:1]
                pool, found = self._send_again(shard, asked, [calls[place] for place in again], interrupts)
            except StoreError as exc:
                return [exc if isinstance(outcome, Redirection) else outcome for outcome in outcomes]
            several = not any(isinstance(outcome, Redirection) for outcome in found)
            for place, outcome in zip(again, found, strict=True):
                outcomes[place] = outcome
        return outcomes

    def _send_again(
        self, shard: int, asked: Pool | None, calls: Sequence[ScriptCall], interrupts: list[BaseException] | None
    ) -> tuple[Pool, list[object]]:
        """Send calls to the server of a shard, or a single call to another one to which the shard is being moved."""
        if asked is None:
            pool, connection, deadline = self._acquire(shard)
        else:
            pool, (connection, deadline) = asked, asked.acquire()
        try:
            connection.send(_pack(calls) if asked is None else pack(("ASKING",)) + _pack(calls))
            outcomes = connection.read(len(calls) + (asked is not None), deadline, interrupts)
        finally:
            pool.release(connection)
        return pool, outcomes[-len(calls) :]

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
        self,
        connection: BlockingConnection,
        pool: Pool,
        pools: Pools,
        signals: Mapping[str, Queue],
        seconds: float,
        timeout: float,
    ) -> None:
        self.seconds: Final = seconds
        self._connection = connection
        self._pool = pool
        self._pools = pools
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
        if isinstance(reply, Redirection):  # all are looked at where they are now
            if self._pools.follow(reply, self._pool) is not None:
                time.sleep(_UNBLOCK_MOST)  # until the queues are there, there is nothing to wait on
            return tuple(self._signals.values())
        waiting = ScriptCall(None, tuple(self._signals), ("BLPOP",))
        if isinstance(reply, Exception):
            raise waiting.failure(reply)
        try:
            return (self._signals[text(list_of(reply)[0])],)
        except UNREADABLE as exc:
            raise waiting.failure(exc) from exc


if TYPE_CHECKING:
    _fits: type[BlockingStore] = RedisBlockingStore
