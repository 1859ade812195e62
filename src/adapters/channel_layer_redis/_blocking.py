"""The store port over Redis or Valkey, for threads; what to ask a server for stands in `_requests`.

One object serves all threads: they share a few connections for commands, and each that waits has one of its own to
every server on which it does.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer_redis._loans import RedisLoan
from channel_layer_redis._protocol import NoScript, pack
from channel_layer_redis._requests import Requests, list_of, text
from channel_layer_redis._runs import batches_of, start, values_of
from channel_layer_redis._wire import Pool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from channel_layer.config import Rules
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_redis._requests import Ask, Asking
    from channel_layer_redis._runs import Batch, Plan
    from channel_layer_redis._wire import Reply, Wire
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
        self._requests = requests = Requests(rules, clock)
        self._timeout = rules.timeout
        self._pools = tuple(Pool(host, rules.timeout) for host in hosts)
        self._plans: Mapping[type, Plan] = {
            c.Alive: requests.alive,
            c.Deliver: requests.deliver,
            c.Flush: requests.flush,
            c.Forgive: requests.forgive,
            c.GiveBack: requests.give_back,
            c.Join: requests.join,
            c.Leave: requests.leave,
            c.Mark: requests.mark,
            c.Members: requests.members,
            c.Pending: requests.pending,
            c.Report: requests.report,
            c.Reported: requests.reported,
            c.Survey: requests.survey,
            c.Pop: requests.pop,
            c.Prune: requests.prune,
            c.Publish: requests.publish,
            c.Push: requests.push,
            c.PutBack: requests.put_back,
            c.Unclaim: requests.unclaim,
            c.Unflushed: requests.unflushed,
        }

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        return self._carry_out(request.shard, self._requests.push(request))

    def forgive(self, request: c.Forgive, /) -> None:
        self._carry_out(request.shard, self._requests.forgive(request))

    def pop(self, request: c.Pop, /) -> c.Popped:
        held: list[BaseException] = []
        popped = self._carry_out(request.shard, self._requests.pop(request), held)
        if held:
            if popped.entries:
                with contextlib.suppress(StoreError):
                    self.put_back(c.PutBack(request.shard, request.queue, popped.entries))
            raise held[0]
        return popped

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        held: list[BaseException] = []
        returned = self._carry_out(request.shard, self._requests.put_back(request), held)
        if held:
            raise held[0]
        return returned

    def unclaim(self, request: c.Unclaim, /) -> None:
        self._carry_out(request.shard, self._requests.unclaim(request))

    def waiting(self, request: c.WaitAny, /) -> _Waiting:
        """See `BlockingStore.waiting`: it takes an element of a call list, which stands for no message."""
        pool = self._pools[request.shard]
        calls = {self._requests.keys.queue(queue.name)[1]: queue for queue in request.queues}
        wire = pool.borrow()
        try:
            wire.send(pack(("BLPOP", *calls, f"{max(0.001, request.block):.3f}")))
        except BaseException:
            pool.give(wire)
            raise
        return _Waiting(wire, pool, calls, request.block, self._timeout)

    def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        raise StoreError("nobody notes here who attends to a queue", retryable=False, outcome="not_sent")

    def pending(self, request: c.Pending, /) -> int:
        return self._carry_out(request.shard, self._requests.pending(request))

    def report(self, request: c.Report, /) -> None:
        self._carry_out(request.shard, self._requests.report(request))

    def reported(self, request: c.Reported, /) -> Rates:
        return self._carry_out(request.shard, self._requests.reported(request))

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        return self._carry_out(request.shard, self._requests.survey(request))

    # -- minted inboxes

    def give_back(self, request: c.GiveBack, /) -> None:
        self._carry_out(request.shard, self._requests.give_back(request))

    def mark(self, request: c.Mark, /) -> bool:
        return self._carry_out(request.shard, self._requests.mark(request))

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return self._carry_out(request.shard, self._requests.alive(request))

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        return self._carry_out(request.shard, self._requests.join(request))

    def leave(self, request: c.Leave, /) -> c.Changed:
        return self._carry_out(request.shard, self._requests.leave(request))

    def publish(self, request: c.Publish, /) -> c.Published:
        return self._carry_out(request.shard, self._requests.publish(request))

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._carry_out(request.shard, self._requests.deliver(request))

    def prune(self, request: c.Prune, /) -> None:
        self._carry_out(request.shard, self._requests.prune(request))

    def members(self, request: c.Members, /) -> c.Roster:
        return self._carry_out(request.shard, self._requests.members(request))

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        return self._carry_out(request.shard, self._requests.flush(request))

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._carry_out(request.shard, self._requests.unflushed(request))

    # -- connections

    def lend(self) -> RedisLoan | None:
        wires: list[Wire] = []
        for pool in self._pools:
            if (wire := pool.lend()) is None:
                break
            wires.append(wire)
        loan = RedisLoan(wires, self._pools, self._plans, self._timeout)
        if len(wires) == len(self._pools):
            return loan
        loan.end()
        return None

    def close(self) -> None:
        """Let go of every connection; those in use follow when they are free."""
        for pool in self._pools:
            pool.close()

    # -- one request, or several in step

    def _carry_out(self, shard: int, asking: Asking[R], held: list[BaseException] | None = None) -> R:
        """Drive a request.

        Args:
            shard: the host.
            asking: the request.
            held: see `Wire.read`.
        """
        try:
            asks = next(asking)
            while True:
                try:
                    values = self._values(shard, asks, held)
                except BaseException as exc:  # noqa: BLE001 - the request decides, an interruption included
                    asks = asking.throw(exc)
                else:
                    asks = asking.send(values)
        except StopIteration as stop:
            result: R = stop.value
            return result

    def _values(self, shard: int, asks: tuple[Ask, ...], held: list[BaseException] | None) -> list[object]:
        if not asks:
            return []
        pool = self._pools[shard]
        wire, deadline = pool.begin()
        try:
            _send(wire, asks)
            return values_of(_read(wire, asks, deadline, held))
        finally:
            pool.end(wire)

    def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        runs = start(requests, self._plans)
        while batches := batches_of(runs):
            self._step(batches)
        return [run.outcome() for run in runs]

    def _step(self, batches: Sequence[Batch]) -> None:
        """Send to every server, in one write each, and only then wait for the replies.

        Args:
            batches: in the order of the servers: else two threads could wait for each other's connections.
        """
        with contextlib.ExitStack() as stack:
            sent: list[tuple[Batch, Wire, float]] = []
            for batch in batches:
                pool = self._pools[batch.shard]
                try:
                    wire, deadline = pool.begin()
                    stack.callback(pool.end, wire)
                    _send(wire, batch.asks)
                except StoreError as exc:
                    batch.fail(exc)
                else:
                    sent.append((batch, wire, deadline))
            for batch, wire, deadline in sent:
                try:
                    replies = _read(wire, batch.asks, deadline, None)
                except StoreError as exc:
                    batch.fail(exc)
                else:
                    batch.resume(replies)


def _send(wire: Wire, asks: Sequence[Ask]) -> None:
    wire.send(b"".join([pack(ask.named()) for ask in asks]))


def _read(wire: Wire, asks: Sequence[Ask], deadline: float, held: list[BaseException] | None) -> list[Reply]:
    """Return the replies; scripts that the server does not know are sent whole, for nothing was done for those."""
    replies = wire.read(len(asks), deadline, held)
    unknown = [place for place, reply in enumerate(replies) if isinstance(reply.error, NoScript)]
    if unknown:
        wire.send(b"".join([pack(asks[place].whole()) for place in unknown]))
        for place, reply in zip(unknown, wire.read(len(unknown), deadline, held), strict=True):
            replies[place] = reply
    return replies


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
                self._pool.call([("CLIENT", "UNBLOCK", wire.client_id)])
                came = wire.take(pause)  # the server may not have seen the wait itself yet
                pause = min(_UNBLOCK_MOST, pause * 2)
            (reply,) = wire.read(1, deadline)
            if reply.error is not None or reply.value is None:
                return ()
            return (self._calls[text(list_of(reply.value)[0])],)
        except StoreError:
            wire.close()  # one connection or the other is gone, and the wait with it
            return ()
        finally:
            self._pool.give(wire)


if TYPE_CHECKING:
    _fits: type[BlockingStore] = RedisBlockingStore
