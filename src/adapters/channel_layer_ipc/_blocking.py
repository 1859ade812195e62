"""The store port over LMDB, for threads: each request is one transaction, and each thread that waits has a doorbell.

What is done in a transaction is what is done for event loops, too: see `channel_layer_ipc._store`.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import InlineLoan
from channel_layer_ipc import _counts as counts
from channel_layer_ipc import _groups as groups
from channel_layer_ipc import _inboxes as inboxes
from channel_layer_ipc import _queues as queues
from channel_layer_ipc._batch import Batch, entry_need
from channel_layer_ipc._doorbell import Bell, remove_silent
from channel_layer_ipc._files import doorbells
from channel_layer_ipc._writer import RECORD, Writer, failure, full_error, is_full

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from channel_layer.config import Rules
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.ports import BlockingStore, Clock
    from channel_layer_ipc._environment import Environment, Hold

__all__ = ("IPCBlockingStore",)

Q = TypeVar("Q")
R = TypeVar("R")

_AT_ONCE = 512
"""Requests that share a transaction at most."""

_SPARE = 8
"""Doorbells that are kept for the next threads that wait."""


class _Task(Generic[Q, R]):
    """A request, typed by its reply.

    Args:
        work: what to do with it.
        request: it.
        need: the room that has to be there.
        refusal: what to reply if it is not; None: an error.

    Attributes:
        need: the room that has to be there; None: whatever there is will do.
        refused: it was not.
    """

    __slots__ = ("_refusal", "_reply", "_request", "_work", "need", "refused")

    _reply: R

    def __init__(self, work: Callable[[Batch, Q], R], request: Q, need: int | None, refusal: R | None) -> None:
        self.need: int | None = need
        self.refused: bool = False
        self._work = work
        self._request = request
        self._refusal = refusal

    def perform(self, batch: Batch) -> None:
        """Carry it out, or find that there is no room for it."""
        self.refused = self.need is not None and not batch.has_room(self.need)
        if self.refused:
            batch.overflowed = True
        else:
            self._reply = self._work(batch, self._request)

    @property
    def may_be_refused(self) -> bool:
        """Whether there is a reply for the case that there is no room."""
        return self._refusal is not None

    def reply(self) -> R:
        """Return what came of it.

        Raises:
            StoreError: there was no room.
        """
        if not self.refused:
            return self._reply
        if self._refusal is None:
            raise full_error()
        return self._refusal


class IPCBlockingStore:
    """See `channel_layer.ports.BlockingStore`.

    Args:
        rules: the configuration.
        clock: its offset is added to the machine's clock.
        hold: opens the environment.
    """

    def __init__(self, rules: Rules, clock: Clock, hold: Callable[[], Hold]) -> None:
        self._writer = Writer(rules, clock)
        self._open = hold
        self._lock = threading.Lock()
        self._hold: Hold | None = None
        self._bell: Bell | None = None
        """By it others are rung; it hangs if this process is known to attend to a queue."""
        self._spare: list[Bell] = []
        self._closed = False

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        return self._ask(request)

    def forgive(self, request: c.Forgive, /) -> None:
        self._ask(request)

    def pop(self, request: c.Pop, /) -> c.Popped:
        if not request.attend:
            return self._ask(request)
        _, bell = self._enter()
        _hang(bell)
        return self.perform(partial(queues.attend, doorbell=bell.number), request)

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return self._ask(request)

    def unclaim(self, request: c.Unclaim, /) -> None:
        self._ask(request)

    def waiting(self, request: c.WaitAny, /) -> _Waiting:
        bell = self._lend()
        try:
            return _Waiting(self, bell, request)
        except BaseException:
            bell.close()
            raise

    def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return self._ask(request)

    def pending(self, request: c.Pending, /) -> int:
        return self._ask(request)

    def report(self, request: c.Report, /) -> None:
        self._ask(request)

    def reported(self, request: c.Reported, /) -> Rates:
        return self._ask(request)

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        return self._ask(request)

    # -- minted inboxes

    def give_back(self, request: c.GiveBack, /) -> None:
        self._ask(request)

    def mark(self, request: c.Mark, /) -> bool:
        return self._ask(request)

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return self._ask(request)

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        return self._ask(request)

    def leave(self, request: c.Leave, /) -> c.Changed:
        return self._ask(request)

    def publish(self, request: c.Publish, /) -> c.Published:
        return self._ask(request)

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._ask(request)

    def prune(self, request: c.Prune, /) -> None:
        self._ask(request)

    def members(self, request: c.Members, /) -> c.Roster:
        return self._ask(request)

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        return self._ask(request)

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._ask(request)

    # -- the world

    def lend(self) -> InlineLoan:
        """Everything: a transaction is no longer here than in an event loop that has files of its own."""
        return InlineLoan(self)

    def close(self) -> None:
        """Let go of the files."""
        with self._lock:
            self._closed = True
            self._let_go()

    def _let_go(self) -> None:
        for bell in self._spare:
            bell.close()
        self._spare.clear()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._hold is not None:
            self._hold.release()
            self._hold = None

    def _enter(self) -> tuple[Environment, Bell]:
        """Return the environment, and what rings others; open them if this is the first time.

        Raises:
            StoreError: it cannot be opened.
        """
        hold, bell = self._hold, self._bell
        if hold is not None and bell is not None:
            return hold.environment, bell
        with self._lock:
            if self._closed:
                raise StoreError("this store is closed", retryable=False, outcome="not_sent")
            if self._hold is None or self._bell is None:
                hold = self._open()
                gate = hold.environment.gate
                remove_silent(gate, doorbells(gate))
                self._hold, self._bell = hold, Bell(gate)
                self._writer.sweep_at = 0.0
            return self._hold.environment, self._bell

    def _check_world(self, environment: Environment) -> None:
        """Notice that somebody has removed the files: those who come now meet in another world, so go there, too."""
        if not environment.gate.stands:
            with self._lock:
                if self._hold is not None and self._hold.environment is environment:
                    self._let_go()

    # -- doorbells

    def _lend(self) -> Bell:
        """Return a doorbell that hangs, and at which nobody else is."""
        environment, _ = self._enter()
        with self._lock:
            bell = self._spare.pop() if self._spare else None
        if bell is None:
            bell = Bell(environment.gate)
        _hang(bell)
        return bell

    def take_back(self, bell: Bell) -> None:
        """Nobody is at a doorbell any more."""
        bell.clear()
        with self._lock:
            gate = self._hold.environment.gate if self._hold is not None else None
            keep = bell.gate is gate and len(self._spare) < _SPARE
            if keep:
                self._spare.append(bell)
        if not keep:
            bell.close()

    # -- transactions

    def perform(self, work: Callable[[Batch, Q], R], request: Q) -> R:
        """Do something of our own in a transaction, for which there is room at any time."""
        return self._carry_out(_Task(work, request, None, None))

    def _ask(self, request: c.BlockingCommand[R]) -> R:
        return self._carry_out(_task_of(request))

    def _carry_out(self, task: _Task[Q, R]) -> R:
        """Carry out one request.

        Raises:
            StoreError: it was not carried out.
        """
        environment: Environment | None = None
        try:
            environment, bell = self._enter()
            written = self._writer.write(environment, bell, (task,))
        except Exception as exc:
            if is_full(exc) and task.may_be_refused:
                self._writer.warn()
                task.refused = True
                return task.reply()
            error = failure(environment, exc)
            if error is exc:
                raise
            raise error from exc
        for each in written.batch.committed:
            each()
        if written.swept:
            self._check_world(environment)
        return task.reply()

    def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        tasks = [_task_of(request) for request in requests]
        left = tasks
        with contextlib.suppress(Exception):  # one of them has spoiled it for all, or each is told why
            while left:
                environment, bell = self._enter()
                left = left[self._writer.write(environment, bell, left[:_AT_ONCE]).done :]
        outcomes: list[R | StoreError] = []
        for place, task in enumerate(tasks):
            try:
                outcomes.append(task.reply() if place < len(tasks) - len(left) else self._carry_out(task))
            except StoreError as exc:
                outcomes.append(exc)
        return outcomes


def _room_for(request: c.Push) -> int:
    return entry_need(len(request.payload) + len(request.channel.name))


def _no_room(_request: object) -> None:
    return None


def _room_for_record(_request: object) -> int:
    return RECORD


class _Work(NamedTuple):
    """How requests of one type are carried out; each is handed to what is for its own type, and to nothing else."""

    work: Callable[[Batch, Any], Any]
    need: Callable[[Any], int | None] = _no_room
    refusal: Any = None


_WORK: Final[Mapping[type, _Work]] = {
    c.Alive: _Work(inboxes.alive),
    c.Deliver: _Work(inboxes.deliver),
    c.Flush: _Work(inboxes.flush),
    c.Forgive: _Work(queues.forgive),
    c.Report: _Work(counts.report, _room_for_record),
    c.Reported: _Work(counts.reported),
    c.Survey: _Work(counts.survey),
    c.GiveBack: _Work(inboxes.give_back),
    c.Join: _Work(groups.join, _room_for_record),
    c.Leave: _Work(groups.leave),
    c.Mark: _Work(inboxes.mark, _room_for_record),
    c.Members: _Work(groups.members),
    c.Pending: _Work(queues.pending),
    c.Pop: _Work(queues.pop),
    c.Prune: _Work(groups.prune),
    c.Publish: _Work(groups.publish),
    c.Push: _Work(queues.push, _room_for, queues.REFUSED),
    c.PutBack: _Work(queues.put_back),
    c.Unattended: _Work(queues.unattended),
    c.Unclaim: _Work(queues.unclaim),
    c.Unflushed: _Work(inboxes.unflushed),
}
"""What carries out each request, the room that it has to find, and the reply if there is none; None: an error."""


def _task_of(request: c.BlockingCommand[R]) -> _Task[Any, R]:
    how = _WORK[type(request)]
    return _Task(how.work, request, how.need(request), how.refusal)


def _hang(bell: Bell) -> None:
    try:
        bell.hang()
    except OSError as exc:
        what = f"channel_layer_ipc: cannot make a socket: {exc.strerror}"
        raise StoreError(what, retryable=True, outcome="not_sent") from exc


class _Waiting:
    """See `channel_layer.ports.Waiting`.

    Args:
        store: where.
        bell: rung by whoever has something for one of the queues.
        request: which those are.
    """

    def __init__(self, store: IPCBlockingStore, bell: Bell, request: c.WaitAny) -> None:
        self._store = store
        self._bell = bell
        self._keys = store.perform(self._begin, request)
        # What is there already may be for somebody else who was called, and may be for nobody: look.
        self.seconds: float = request.block if len(self._keys) == len(request.queues) else 0.0

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._bell.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        called: tuple[Queue, ...] = ()
        with contextlib.suppress(StoreError):
            called = self._store.perform(_leave, self._keys)
        self._store.take_back(self._bell)
        return called

    def _begin(self, batch: Batch, request: c.WaitAny) -> dict[Queue, bytes]:
        """Write down that somebody waits for those queues that are empty."""
        names = {queue: queue.name.encode("ascii") for queue in request.queues}
        return {
            queue: queues.enter(batch, name, self._bell.number)
            for queue, name in names.items()
            if not queues.count(batch, name)
        }


def _leave(batch: Batch, keys: dict[Queue, bytes]) -> tuple[Queue, ...]:
    """Remove these notes; return the queues whose note was removed by who called."""
    return tuple(queue for queue, key in keys.items() if not queues.leave(batch, key))


if TYPE_CHECKING:
    _fits: type[BlockingStore] = IPCBlockingStore
