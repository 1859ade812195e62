"""The store port over Redis or Valkey, for threads; what to ask a server for stands in `_requests`.

One object serves all threads: they share a few connections for commands, and each that waits has one of its own to
every server on which it does.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer_redis._protocol import NoScript, pack
from channel_layer_redis._requests import Requests, list_of, text
from channel_layer_redis._wire import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from channel_layer.domain.names import Queue
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_redis._requests import Ask, PendingRequest
    from channel_layer_redis._wire import Wire
    from channel_layer_redis.hosts import Host

__all__ = ("RedisBlockingStore",)

R = TypeVar("R")

_UNBLOCK_FIRST, _UNBLOCK_MOST = 0.001, 0.05
"""Seconds between tries to end a wait whose command the server may not have seen yet."""


class RedisBlockingStore:
    """See `channel_layer.ports.BlockingStore`.

    Args:
        hosts: one for each shard.
        rules: the configuration.
        clock: its offset is added to the servers' clocks.
    """

    def __init__(self, hosts: tuple[Host, ...], rules: Rules, clock: Clock) -> None:
        self._requests = Requests(rules, clock)
        self._timeout = rules.timeout
        self._pools = tuple(Pool(host, rules.timeout) for host in hosts)

    def execute(self, command: c.Command[R], /) -> R:
        (outcome,) = self.execute_many((command,))
        if isinstance(outcome, StoreError):
            raise outcome
        return outcome

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        needed = any(isinstance(command, c.Pop | c.PutBack) for command in commands)
        held: list[BaseException] = []
        requests = [self._requests.begin(command) for command in commands]
        while unfinished := [request for request in requests if request.asks]:
            self._exchange(unfinished, held if needed else None)
        outcomes = [request.outcome for request in requests]
        if held:
            self._put_back(commands, outcomes)
            raise held[0]
        return outcomes

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """See `BlockingStore.wait`: it takes an element of a call list, which stands for no message."""
        pool = self._pools[request.shard]
        calls = {self._requests.keys.queue(queue.name)[1]: queue for queue in request.queues}
        wire = pool.borrow()
        try:
            wire.send(pack(("BLPOP", *calls, f"{max(0.001, request.block):.3f}")))
        except BaseException:
            pool.give(wire)
            raise
        return _Waiting(wire, pool, calls, request.block, self._timeout)

    def close(self) -> None:
        """Let go of every connection; those in use follow when they are free."""
        for pool in self._pools:
            pool.close()

    def _exchange(self, requests: Sequence[PendingRequest[Any]], held: list[BaseException] | None) -> None:
        """Send what some requests ask for, in one write to each server, and only then wait for the replies.

        Args:
            requests: none of them is done.
            held: see `Wire.read`.
        """
        with contextlib.ExitStack() as stack:
            sent: list[tuple[Pipeline, Wire, float]] = []
            for shard in sorted({request.shard for request in requests}):  # else two threads could wait for each other
                pipeline = Pipeline([request for request in requests if request.shard == shard])
                pool = self._pools[shard]
                try:
                    wire, deadline = pool.begin()
                    stack.callback(pool.end, wire)
                    wire.send(b"".join([pack(ask.named()) for ask in pipeline.asks]))
                except StoreError as exc:
                    pipeline.fail(exc)
                else:
                    sent.append((pipeline, wire, deadline))
            for pipeline, wire, deadline in sent:
                try:
                    outcomes = _read(wire, pipeline.asks, deadline, held)
                except StoreError as exc:
                    pipeline.fail(exc)
                else:
                    pipeline.resume(outcomes)

    def _put_back(self, commands: Iterable[c.Command[object]], outcomes: Iterable[object]) -> None:
        """Return what was popped to its queues."""
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(command, c.Pop) and isinstance(outcome, c.Popped) and outcome.entries:
                with contextlib.suppress(StoreError):
                    self.execute(c.PutBack(command.shard, command.queue, outcome.entries))


class Pipeline:
    """What some requests ask one server for, in one write.

    Args:
        requests: none of them is done.

    Attributes:
        asks: what all of them ask for, in their order.
    """

    __slots__ = ("_requests", "asks")

    def __init__(self, requests: list[PendingRequest[Any]]) -> None:
        self.asks: list[Ask] = [ask for request in requests for ask in request.asks]
        self._requests = requests

    def resume(self, outcomes: list[object]) -> None:
        """Let each request go on with its share of the outcomes."""
        place = 0
        for request in self._requests:
            count = len(request.asks)
            request.resume(outcomes[place : place + count])
            place += count

    def fail(self, error: StoreError) -> None:
        """Let each request go on with an error."""
        self.resume([error] * len(self.asks))


def _read(wire: Wire, asks: Sequence[Ask], deadline: float, held: list[BaseException] | None) -> list[object]:
    """Return what came of each; scripts that the server does not know are sent whole: nothing was done for those."""
    outcomes = wire.read(len(asks), deadline, held)
    unknown = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, NoScript)]
    if unknown:
        wire.send(b"".join([pack(asks[place].whole()) for place in unknown]))
        for place, outcome in zip(unknown, wire.read(len(unknown), deadline, held), strict=True):
            outcomes[place] = outcome
    return outcomes


class _Waiting:
    """See `channel_layer.ports.Waiting`: ``BLPOP`` on the calls of all queues, on a connection of its own.

    Args:
        wire: the connection.
        pool: its pool.
        calls: the queues, by the keys of their calls.
        seconds: after which the server ends it by itself.
        timeout: seconds that ending it may take.
    """

    def __init__(self, wire: Wire, pool: Pool, calls: Mapping[str, Queue], seconds: float, timeout: float) -> None:
        self.seconds: Final = seconds
        self._wire = wire
        self._pool = pool
        self._calls = calls
        self._timeout = timeout

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._wire.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        wire, pause = self._wire, _UNBLOCK_FIRST
        deadline = time.monotonic() + self._timeout
        try:
            came = wire.take(0.0)
            while not came and time.monotonic() < deadline:
                self._pool.call("CLIENT", "UNBLOCK", wire.client_id)
                came = wire.take(pause)  # the server may not have seen the wait itself yet
                pause = min(_UNBLOCK_MOST, pause * 2)
            (reply,) = wire.read(1, deadline)
            if reply is None or isinstance(reply, Exception):
                return ()
            return (self._calls[text(list_of(reply)[0])],)
        except StoreError:
            wire.close()  # one connection or the other is gone, and the wait with it
            return ()
        finally:
            self._pool.give(wire)


if TYPE_CHECKING:
    _fits: type[BlockingStore] = RedisBlockingStore
