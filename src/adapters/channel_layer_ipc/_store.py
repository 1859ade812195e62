"""The store port over LMDB: what the tasks of an event loop ask in one turn of it is one transaction.

A transaction costs more than what most commands do in it, so those that come together share one. Nobody holds one
across an ``await``. Who finds nothing is written down as waiting in the same transaction that looked; who brings
something rings those who wait before his transaction is committed, so that there is no moment at which he can be killed
and has left a message of which nobody was told. Who was rung looks, and has to wait for that transaction.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities
from channel_layer.runtime.event_loops import ignore
from channel_layer_ipc import _counts as counts
from channel_layer_ipc import _groups as groups
from channel_layer_ipc import _inboxes as inboxes
from channel_layer_ipc import _queues as queues
from channel_layer_ipc._batch import Batch, entry_need
from channel_layer_ipc._blocking import IPCBlockingStore
from channel_layer_ipc._doorbell import Doorbell, remove_silent
from channel_layer_ipc._environment import Hold, Place
from channel_layer_ipc._files import default_directory, doorbells
from channel_layer_ipc._writer import RECORD, Writer, failure, full_error, is_full

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from channel_layer.config import Rules
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, Clock
    from channel_layer_ipc._environment import Environment

__all__ = ("IPCBackend", "IPCStore")

Q = TypeVar("Q")
R = TypeVar("R")

_logger = logging.getLogger("channel_layer")

_AT_ONCE: Final = 512
"""Commands that share a transaction at most: enough to make its cost small, few enough to keep nobody waiting."""

_TURN_SECONDS: Final = 0.005
"""How long one turn of the loop may go on with transactions; what is left then has to wait for the next one."""


class IPCBackend:
    """A world on this machine, before any event loop.

    It keeps the world open, and so what is in it, for as long as it lives itself.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        directory: where the files are; None: see `default_directory`.
        memory: bytes of messages and groups at most.
    """

    capabilities: Capabilities = Capabilities(attends=True)
    identities: tuple[str, ...] = ("ipc",)
    connects: bool = True
    """Opening costs little. But somebody has to keep the leases while no loop of this process runs."""

    def __init__(self, rules: Rules, clock: Clock, directory: Path | None, memory: int) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        self._directory = directory
        self._memory = memory
        self.forked()

    def open(self) -> IPCStore:
        """Make a store for the running event loop; it opens the files when it is first asked for something."""
        return IPCStore(self)

    def open_blocking(self) -> IPCBlockingStore:
        """Make a store for the threads of this process; it opens the files when it is first asked for something."""
        return IPCBlockingStore(self.rules, self.clock, self.hold)

    def forked(self) -> None:
        """Forget the environment: it is the parent's. See `channel_layer_ipc._environment`."""
        self._lock = threading.Lock()
        self._hold: Hold | None = None

    def close(self) -> None:
        """Leave the world, if no store is in it; whoever asks for something enters it again."""
        with self._lock:
            old, self._hold = self._hold, None
        if old is not None:
            old.release()

    def hold(self) -> Hold:
        """Return a claim on the environment, for one store, and keep one for as long as this object lives.

        Raises:
            StoreError: it cannot be opened.
        """
        with self._lock:
            if self._hold is None or not self._hold.environment.gate.stands:
                old, self._hold = self._hold, None
                if old is not None:
                    old.release()
                directory = self._directory if self._directory is not None else default_directory()
                place = Place(directory, self.rules.prefix, self._memory, self.rules.timeout)
                self._hold = Hold(place)
                memory = self._hold.environment.gate.world.memory
                if memory != self._memory:
                    _logger.warning(
                        "memory is %d bytes here, but %d in the process that began: that one counts",
                        self._memory,
                        memory,
                    )
                self._place = place
            return Hold(self._place)


class _Asked(ABC):
    """A command that somebody awaits, whatever its reply is.

    Attributes:
        need: the room that it has to find; None: whatever there is will do.
    """

    __slots__ = ("need",)

    need: int | None

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether nobody awaits it any more."""

    @property
    @abstractmethod
    def may_be_refused(self) -> bool:
        """Whether there is a reply for the case that there is no room."""

    @abstractmethod
    def perform(self, batch: Batch) -> None:
        """Carry it out, or find that there is no room for it."""

    @abstractmethod
    def refuse(self) -> None:
        """Find that there is no room for it."""

    @abstractmethod
    def settle(self) -> None:
        """Tell whoever awaits it what came of it."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """Tell whoever awaits it that it was not carried out."""


class _Call(_Asked, Generic[Q, R]):
    """A command, typed by its reply.

    Args:
        work: what to do with a request.
        request: the request.
        need: the room that has to be there; None: whatever there is will do.
        answer: what somebody awaits.
        refusal: what to reply if there is no room; None: an error.
    """

    __slots__ = ("_answer", "_refusal", "_refused", "_reply", "_request", "_work")

    _reply: R

    def __init__(
        self,
        work: Callable[[Batch, Q], R],
        request: Q,
        need: int | None,
        answer: asyncio.Future[R],
        refusal: R | None,
    ) -> None:
        self.need = need
        self._work = work
        self._request = request
        self._answer = answer
        self._refusal = refusal
        self._refused = False

    @property
    def over(self) -> bool:
        return self._answer.done()

    @property
    def may_be_refused(self) -> bool:
        return self._refusal is not None

    def perform(self, batch: Batch) -> None:
        if self.need is not None and not batch.has_room(self.need):
            batch.overflowed = self._refused = True
        else:
            self._refused = False
            self._reply = self._work(batch, self._request)

    def refuse(self) -> None:
        self._refused = True

    def settle(self) -> None:
        if self._answer.done():
            return
        if not self._refused:
            self._answer.set_result(self._reply)
        elif self._refusal is not None:
            self._answer.set_result(self._refusal)
        else:
            self._answer.set_exception(full_error())

    def fail(self, error: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(error)


@dataclass(eq=False, slots=True)
class _Spot:
    """Those in this loop who wait for one queue."""

    waiters: deque[asyncio.Future[None]] = field(default_factory=deque[asyncio.Future[None]])
    key: bytes | None = None
    """Of the record that says so, until somebody calls."""


@dataclass(eq=False, slots=True)
class _Reading(_Asked):
    """Somebody who waits for more in an inbox. He looks when he comes, and whenever his doorbell rings."""

    request: c.Read
    answer: asyncio.Future[c.Batch]
    doorbell: int
    found: c.Batch | None = None
    need: int | None = None

    @property
    def over(self) -> bool:
        return self.answer.done()

    @property
    def may_be_refused(self) -> bool:
        return False

    def perform(self, batch: Batch) -> None:
        self.found = inboxes.read(batch, self.request, self.doorbell)

    def refuse(self) -> None:
        """Never: see `may_be_refused`."""

    def settle(self) -> None:
        if self.found is not None:
            _finish(self.answer, self.found)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class IPCStore:
    """See `channel_layer.ports.AsyncStore`.

    Args:
        backend: the world.
    """

    def __init__(self, backend: IPCBackend) -> None:
        self._backend = backend
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(backend.rules, backend.clock)
        self._hold: Hold | None = None
        self._bell: Doorbell | None = None
        self._calls: list[_Asked] = []
        self._spots: dict[str, _Spot] = {}
        self._readings: set[_Reading] = set()
        self._gone: asyncio.Future[None] | None = None
        self._closed = False

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        size = len(request.payload) + len(request.channel.name)
        return await self._ask(queues.push, request, entry_need(size), queues.REFUSED)

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._ask(queues.forgive, request)

    async def pop(self, request: c.Pop, /) -> c.Popped:
        answer = self._attend(request) if request.attend else self._ask(queues.pop, request)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled():  # it was carried out just before
                return answer.result()
            raise

    def _attend(self, request: c.Pop) -> asyncio.Future[c.Popped]:
        """Pop, and be known to do so: as one who has a doorbell, by which others see that he lives."""
        return self._ask(partial(queues.attend, doorbell=self._listen()), request)

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        answer = self._ask(queues.put_back, request)
        while True:
            try:
                return await asyncio.shield(answer)
            except asyncio.CancelledError:  # a loop that ends cancels everything, some of it twice
                if answer.done():
                    return answer.result()

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._ask(queues.unclaim, request)

    async def wait(self, request: c.Wait, /) -> None:
        name = request.queue.name
        spot = self._spots.setdefault(name, _Spot())
        waiter: asyncio.Future[None] = self._loop.create_future()
        spot.waiters.append(waiter)
        timer = self._loop.call_later(request.block, _finish, waiter, None)
        returned = False
        try:
            self._listen()
            await self._ask(self._look, name)
            await waiter
            returned = True
        finally:
            timer.cancel()
            if waiter in spot.waiters:  # his time is up, or he goes without having been called
                spot.waiters.remove(waiter)
                self._leave(name)
            elif not returned:  # he was called, and goes
                self._leave(name)

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return await self._ask(queues.unattended, request)

    async def pending(self, request: c.Pending, /) -> int:
        return await self._ask(queues.pending, request)

    # -- statistics

    async def report(self, request: c.Report, /) -> None:
        await self._ask(counts.report, request, RECORD)

    async def reported(self, request: c.Reported, /) -> Rates:
        return await self._ask(counts.reported, request)

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        return await self._ask(counts.survey, request)

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        return await self._ask(inboxes.claim, request, RECORD)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        return await self._ask(inboxes.renew, request)

    async def release(self, request: c.Release, /) -> int:
        return await self._ask(inboxes.release, request)

    async def read(self, request: c.Read, /) -> c.Batch:
        number = self._listen()
        reading = _Reading(request, self._loop.create_future(), number)
        self._readings.add(reading)
        timer = self._loop.call_later(request.block, _finish, reading.answer, c.Batch((), request.after))
        self._add(reading)
        try:
            return await reading.answer
        finally:
            timer.cancel()
            self._readings.discard(reading)

    async def give_back(self, request: c.GiveBack, /) -> None:
        await self._ask(inboxes.give_back, request)

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._ask(inboxes.mark, request, RECORD)

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._ask(inboxes.alive, request)

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._ask(groups.join, request, RECORD)

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._ask(groups.leave, request)

    async def publish(self, request: c.Publish, /) -> c.Published:
        return await self._ask(groups.publish, request)

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._ask(inboxes.deliver, request)

    async def prune(self, request: c.Prune, /) -> None:
        await self._ask(groups.prune, request)

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._ask(groups.members, request)

    async def touch(self, request: c.Touch, /) -> None:
        await self._ask(groups.touch, request)

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        return await self._ask(inboxes.flush, request)

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return await self._ask(inboxes.unflushed, request)

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._ask(inboxes.acknowledge, request)

    # -- the world

    async def incarnation(self, _shard: int, /) -> str:
        return self._environment().gate.world.session

    async def disconnected(self, _shard: int, /) -> None:
        """Return once it was noticed that somebody has removed the files."""
        if self._gone is None or self._gone.done():
            self._gone = self._loop.create_future()
        await asyncio.shield(self._gone)

    async def aclose(self) -> None:
        """Carry out what was asked, end all waits, and let go."""
        if self._closed:
            return
        self._end_waits(_let_go_error())
        for name in self._spots:
            self._leave(name)
        while self._calls:
            self._turn()
        self._closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _environment(self) -> Environment:
        """Return the environment; open it if this is the first time.

        Raises:
            StoreError: it cannot be opened.
        """
        if self._closed:
            raise _let_go_error()
        if self._hold is None:
            hold = self._backend.hold()
            gate = hold.environment.gate
            remove_silent(gate, doorbells(gate))
            self._bell = Doorbell(gate, self._loop, self._rung)
            self._hold = hold
            self._writer.sweep_at = 0.0
        return self._hold.environment

    def _check_world(self) -> None:
        """Notice that somebody has removed the files: those who come now meet in another world, so go there, too."""
        if self._hold is None or self._hold.environment.gate.stands:
            return
        _logger.error(
            "the files of the channel layer in %s were removed while they were in use; what was in them is lost",
            self._hold.environment.gate.data.parent,
        )
        self._let_go()
        self._end_waits(
            StoreError("channel_layer_ipc: the files were removed by somebody", retryable=True, outcome="not_sent")
        )
        self._spots = {}
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)

    def _end_waits(self, error: StoreError) -> None:
        for spot in self._spots.values():
            for waiter in spot.waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            spot.waiters.clear()
        for reading in self._readings:
            if not reading.answer.done():
                reading.answer.set_exception(error)

    # -- transactions

    def _ask(
        self, work: Callable[[Batch, Q], R], request: Q, need: int | None = None, refusal: R | None = None
    ) -> asyncio.Future[R]:
        """Have something done in the next transaction.

        Args:
            work: what to do with a request.
            request: the request.
            need: the room that has to be there; None: whatever there is will do.
            refusal: what to reply if it is not; None: an error.
        """
        answer: asyncio.Future[R] = self._loop.create_future()
        self._add(_Call(work, request, need, answer, refusal))
        return answer

    def _add(self, call: _Asked) -> None:
        if self._closed:
            call.fail(_let_go_error())
            return
        if not self._calls:
            self._loop.call_soon(self._turn)
        self._calls.append(call)

    def _turn(self) -> None:
        """Carry out all that was asked in this turn of the loop, as far as that does not take too long."""
        end = self._loop.time() + _TURN_SECONDS
        while self._calls:
            self._work_off()
            if self._calls and self._loop.time() > end:
                self._loop.call_soon(self._turn)
                return

    def _work_off(self) -> None:
        """Carry out some of what was asked, in one transaction if that succeeds."""
        calls = [call for call in self._calls[:_AT_ONCE] if not call.over]
        del self._calls[:_AT_ONCE]
        if not calls:
            return
        try:
            environment = self._environment()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is told to those whom it concerns
            for call in calls:
                self._fail_one(call, exc)
            return
        try:
            done = self._commit(environment, calls)
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is told to those whom it concerns
            if len(calls) == 1:
                self._fail_one(calls[0], exc)
            else:  # one of them has spoiled it for all
                for call in calls:
                    self._commit_one(environment, call)
        else:
            self._calls[:0] = calls[done:]

    def _commit_one(self, environment: Environment, call: _Asked) -> None:
        try:
            self._commit(environment, [call])
        except Exception as exc:  # noqa: BLE001 - see above
            self._fail_one(call, exc)

    def _fail_one(self, call: _Asked, exc: Exception) -> None:
        if is_full(exc) and call.may_be_refused:
            self._writer.warn()
            call.refuse()
            call.settle()
        else:
            call.fail(failure(self._hold.environment if self._hold is not None else None, exc))

    def _commit(self, environment: Environment, calls: list[_Asked]) -> int:
        """Carry out the first of these calls, as many as there is room for, in one transaction; return how many."""
        if self._bell is None:
            raise _let_go_error()
        written = self._writer.write(environment, self._bell, calls)
        for each in written.batch.committed:
            each()
        for call in calls[: written.done]:
            call.settle()
        if written.own:
            self._loop.call_soon(self._heard)
        if written.swept:
            self._check_world()
        return written.done

    @property
    def transactions(self) -> int:
        """How many there have been, for whoever wants to know what something costs."""
        return self._writer.transactions

    # -- waiting

    def _listen(self) -> int:
        """Have a doorbell, and return its number.

        Raises:
            StoreError: there can be none.
        """
        self._environment()
        bell = self._bell
        if bell is None:
            raise _let_go_error()
        try:
            bell.hang()
        except OSError as exc:
            raise StoreError(
                f"channel_layer_ipc: cannot make a socket: {exc.strerror}", retryable=True, outcome="not_sent"
            ) from exc
        return bell.number

    def _rung(self) -> None:
        """Somebody has rung: look at once."""
        self._heard()
        self._turn()

    def _heard(self) -> None:
        """There may be something: look at all that is waited for here."""
        for name in self._spots:
            self._ask(self._look, name).add_done_callback(partial(self._fail_spot, name))
        for reading in self._readings:
            self._add(reading)

    def _fail_spot(self, name: str, future: asyncio.Future[None]) -> None:
        spot = self._spots.get(name)
        if spot is not None:
            for waiter in spot.waiters:
                _pass_error(waiter, future)

    def _look(self, batch: Batch, name: str) -> None:
        """Call as many of those who wait here as there are messages; the others go on waiting."""
        spot = self._spots.get(name)
        if spot is None or self._bell is None:
            return
        queue = name.encode("ascii")
        waiting = [waiter for waiter in spot.waiters if not waiter.done()]
        count = queues.count(batch, queue)
        called, staying = waiting[:count], waiting[count:]
        key = batch.places.get(name, spot.key)
        if not staying:
            if key is not None:
                queues.leave(batch, key)
                key = None
        elif key is None or not queues.waits(batch, key):
            key = queues.enter(batch, queue, self._bell.number)
        batch.places[name] = key
        batch.committed.append(partial(self._called, name, called, key))

    def _called(self, name: str, waiters: list[asyncio.Future[None]], key: bytes | None) -> None:
        spot = self._spots.get(name)
        if spot is None:
            return
        spot.key = key
        for waiter in waiters:
            if waiter in spot.waiters:
                spot.waiters.remove(waiter)
            _finish(waiter, None)
        if not spot.waiters and key is None:
            del self._spots[name]

    def _leave(self, name: str) -> None:
        """Somebody does not wait any more, who may have been called: another one is, if there is something."""
        self._ask(self._pass_on, name).add_done_callback(ignore)

    def _pass_on(self, batch: Batch, name: str) -> None:
        spot = self._spots.get(name)
        if spot is not None and spot.waiters:
            self._look(batch, name)
            return
        if spot is not None:
            key = batch.places.get(name, spot.key)
            if key is not None:
                queues.leave(batch, key)
            batch.places[name] = None
            batch.committed.append(partial(self._forget, name, spot))
        queue = name.encode("ascii")
        if count := queues.count(batch, queue):
            batch.call(queue, count)

    def _forget(self, name: str, spot: _Spot) -> None:
        spot.key = None
        if not spot.waiters and self._spots.get(name) is spot:
            del self._spots[name]


def _finish(future: asyncio.Future[R], result: R) -> None:
    if not future.done():
        future.set_result(result)


def _pass_error(answer: asyncio.Future[R], future: asyncio.Future[None]) -> None:
    """Tell whoever waits for an answer that it cannot come."""
    if not future.cancelled() and (error := future.exception()) is not None and not answer.done():
        answer.set_exception(error)


def _let_go_error() -> StoreError:
    return StoreError("this event loop has let go of the files", retryable=True, outcome="not_sent")


if TYPE_CHECKING:
    _fits: type[AsyncStore] = IPCStore
    _fits_too: type[Backend] = IPCBackend
