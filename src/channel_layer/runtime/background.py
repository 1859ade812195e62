"""The background work of a layer: reading inboxes, keeping leases, popping for who waits, giving places back.

All of it runs in one event loop at a time, the host, and all of its state lives in the `Desk`, which belongs to the
layer in this process and not to any loop. So a host can end at any moment and another one goes on where it was: what
was read is either in a mailbox or still in the store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import secrets
import threading
from collections import deque
from typing import TYPE_CHECKING, TypeVar

from channel_layer import commands as c
from channel_layer.domain import frames as envelope
from channel_layer.domain.counters import Ledger
from channel_layer.domain.expiry import ATTENDANCE, LEASE_FACTOR, RENEWALS_PER_EXPIRY, StoreClock, deadline
from channel_layer.domain.inbox import Inbox, Item, Mailbox, Tap
from channel_layer.domain.names import ChannelName, GroupName, Kind
from channel_layer.errors import InvalidName, StoreError
from channel_layer.operations import programs
from channel_layer.operations.steps import run_together
from channel_layer.runtime.drivers import run
from channel_layer.runtime.event_loops import LoopStopped, Pulse, give_way, ignore
from channel_layer.runtime.wakeups import wake_all

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
    from typing import TypeAlias

    from channel_layer.config import Rules
    from channel_layer.domain.inbox import Waiter
    from channel_layer.domain.names import Queue
    from channel_layer.domain.routing import Routes
    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Clock, Store
    from channel_layer.runtime.event_loops import Home

    Untold: TypeAlias = list[tuple[str, int, int]]

__all__ = ("REPORT_SECONDS", "Desk", "Host", "claimed_error", "closed_error", "foreign_error", "report")

T = TypeVar("T")

_logger = logging.getLogger("channel_layer")

_BLOCK_SECONDS = 25.0
"""How long a blocking read waits before it asks again: under the 30 s to 60 s after which proxies drop idle peers."""

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 1.0
"""Seconds between tries to reach a store that is away; jittered, doubled up to the most."""

_GIVE_BACK_SECONDS = 0.02
"""How long places may wait to be given back while fewer than a quarter of a channel's capacity are owed."""

_LINGER_SECONDS = 1.0
"""How long the waits of a queue stay open after its last receiver went, for a worker that comes back for more."""

_RENEW_BELOW = 0.75
"""What is left of the time for which a process attends to a queue when a pop renews it. With a wait of a third of
``expiry`` in between, it never ends under one who waits."""

_ANNOUNCE_AT_ONCE = 500
"""Memberships that are announced again, or ended, in one write."""

_WAKE_AT_ONCE = 128
"""Receivers that are let run in one turn of the loop: many enough to make a turn's cost small, few enough that what
they make and drop stays under the garbage collector's threshold of 700 objects."""

_SEVERAL = 8
_CROWD = 1000
"""A message to so many channels of one process keeps it busy, for milliseconds if it is a crowd. It may have been woken
on the processor of the server, before that had answered who sent the message: so it gives way once, then begins."""

_TOUCH_SECONDS = 3600.0
"""How often groups without a group_expiry are kept alive by the owners of their members."""


REPORT_SECONDS = 1.0
"""How long the store may not have been told what was counted."""

_UNKNOWN = object()


class Desk:
    """What a layer holds in this process, whichever loops come and go. Guarded by `lock`.

    Args:
        rules: the configuration.
        routes: where things are.
        clock: local time.
    """

    def __init__(self, rules: Rules, routes: Routes, clock: Clock) -> None:
        self.rules: Rules = rules
        self.routes: Routes = routes
        self.clock: Clock = clock
        self.lock: threading.Lock = threading.Lock()
        self.ledger: Ledger = Ledger()
        self.inboxes: dict[str, Inbox] = {}
        self.taps: dict[str, Tap] = {}
        self.watchers: dict[str, list[Waiter]] = {}
        """Threads that wait for a queue's messages without a mailbox of their own: for any channel of an inbox."""
        self.clocks: list[StoreClock] = [StoreClock() for _ in routes.all_shards]
        self.leases: dict[str, float] = {}
        """When each inbox's lease ends if it is not renewed, by its shard's clock."""
        self.incarnations: dict[int, str] = {}
        """What each shard's server was called when its memberships were last known to be there."""
        self.claimant: str = secrets.token_urlsafe(9)
        self.closed: bool = False

    @property
    def lease(self) -> float:
        """Seconds that a lease lasts."""
        return self.rules.expiry * LEASE_FACTOR

    def make_inbox(self, queue: Queue) -> Inbox:
        """Begin to own an inbox."""
        rules = self.rules
        return Inbox(
            queue, self.routes.ring.queue(queue), rules.capacity, self.ledger, rules.expiry, rules.group_expiry
        )

    def tap(self, queue: Queue) -> Tap:
        """Return the tap of a queue; make it if there is none."""
        tap = self.taps.get(queue.name)
        if tap is None:
            tap = self.taps[queue.name] = Tap(queue, self.rules.capacity, self.ledger)
        return tap

    def watching(self, queue: str) -> list[Waiter]:
        """Remove and return who watches a queue: something has come to it that nobody was promised."""
        return self.watchers.pop(queue, []) if self.watchers else []

    def offset(self, shard: int, now: float) -> float:
        """Return the latest that the shard's clock can be ahead of the local one, in seconds."""
        return self.clocks[shard].latest(now) - now

    def doubt(self, shard: int, now: float) -> float:
        """Return by how many seconds it may be ahead less than `offset` says."""
        return self.clocks[shard].latest(now) - self.clocks[shard].earliest(now)

    def joined(self, inbox: Inbox, group: str, member: str, version: int) -> None:
        """Remember a membership that the store has just confirmed. Call it under the `lock`."""
        inbox.confirmed(group, member, version, self.clocks[inbox.shard].middle(self.clock.now()))

    def left(self, inbox: Inbox, group: str, member: str, version: int) -> None:
        """Remember that the store has just ended a membership. Call it under the `lock`."""
        inbox.confirmed(group, member, version, None)

    def tell(self) -> None:
        """Say in the log what was lost, if there is news and it was not said just now."""
        with self.lock:
            warning = self.ledger.warning(self.clock.now()) if self.ledger.has_news else None
        if warning is not None:
            _logger.warning("%s", warning)

    def rescued(self, queue: Queue, moved: programs.Moved) -> None:
        """Count what was lost when messages were moved from this machine's half to the other one."""
        with self.lock:
            self.ledger.drop("expired", queue.name, moved.expired)
            self.ledger.drop("flushed", queue.name, moved.flushed)
            self.ledger.drop("store_lost", queue.name, moved.lost)

    def ages(self, inboxes: Iterable[Inbox], channel: ChannelName | None) -> Iterator[float]:
        """Yield for how many seconds messages have waited in mailboxes that came by ``send``.

        Args:
            inboxes: where to look.
            channel: for whom; None: for anybody.
        """
        now = self.clock.now()
        for inbox in inboxes:
            for box in inbox.boxes.values() if channel is None else filter(None, [inbox.boxes.get(channel.name)]):
                yield from (self.rules.expiry + now - item.deadline for item in box.items if not item.group)

    def count(self) -> int:
        """Return how many messages wait in this process."""
        boxes = (box for tap in self.taps.values() for box in tap.boxes.values())
        return sum(inbox.count() for inbox in self.inboxes.values()) + sum(len(box.items) for box in boxes)


async def report(desk: Desk, drive: Callable[[Operation[Untold]], Awaitable[Untold]]) -> None:
    """Tell the store what was counted; what it could not be told is told the next time.

    Args:
        desk: where it was counted.
        drive: drives an operation.
    """
    with desk.lock:
        counts = desk.ledger.tally.take()
    if counts:
        left = await drive(programs.report(desk.routes, counts))
        with desk.lock:
            for family, messages, refused in left:
                desk.ledger.tally.add(family, messages, refused)


def closed_error() -> StoreError:
    """Return what whoever uses a layer that was closed is told."""
    return StoreError("this channel layer is closed", retryable=False, outcome="not_sent")


def foreign_error(inbox: Queue) -> InvalidName:
    """Return what whoever receives from somebody else's minted inbox is told."""
    return InvalidName(
        f"cannot receive from inbox {inbox.name!r}: it belongs to another process that is alive (or to another layer "
        f"object); a name from new_channel() is received where it was made"
    )


def claimed_error(inbox: Queue) -> InvalidName:
    """Return what whoever receives from an inbox is told that another one reads for more than a lease."""
    return InvalidName(
        f"cannot receive from inbox {inbox.name!r}: another process reads it; give each process an inbox of its own"
    )


class _Backoff:
    """Waits that get longer, with jitter, so that a fleet does not come back as one."""

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = _BACKOFF_FIRST

    def reset(self) -> None:
        self._next = _BACKOFF_FIRST

    async def wait(self) -> None:
        delay, self._next = self._next, min(_BACKOFF_MOST, self._next * 2)
        await asyncio.sleep(delay * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret


class Host:
    """The background work, in one event loop.

    Args:
        desk: the state.
        home: the loop and its store.
        alone: no other process sends through that store.
    """

    def __init__(self, desk: Desk, home: Home, *, alone: bool) -> None:
        self.home: Home = home
        self.pulse: Pulse = Pulse(home.loop)
        """For those in other loops who need what this one does."""
        self._desk = desk
        self._store = home.store
        self._loop = home.loop
        self._alone = alone
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: set[asyncio.Task[None]] = set()
        """Those that have been told to end; ``cancelling()`` is also true of one whose timeout is up."""
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._pumps: dict[str, _Pump] = {}
        self._adopting = asyncio.Lock()
        self._claiming: dict[str, asyncio.Lock] = {}
        self._acknowledging: dict[str, asyncio.Lock] = {}
        self._pauses: dict[int, asyncio.Timeout] = {}
        """The ends of what the keepers of the shards wait for until they look again."""
        self._giving: dict[str, asyncio.TimerHandle | None] = {}
        """Inboxes whose places are being given back, or will be when the timer goes."""
        self._givers: dict[str, asyncio.Lock] = {}
        self._woken: deque[Waiter] = deque()
        """Receivers whose message has come and who are to run, soon."""
        self._touched: dict[int, float] = {}
        """When the groups on each shard were last kept alive."""
        self._stopping = False
        self._retired = False
        self._complaints: set[str] = set()

    # -- called in the host's loop

    def start(self) -> None:
        """Take over all that the desk holds."""
        self._start(self._sweep())
        for shard in range(len(self._desk.routes.ring)):
            self._start(self._keep(shard))
        with self._desk.lock:
            inboxes = list(self._desk.inboxes.values())
            taps = list(self._desk.taps.values())
        for inbox in inboxes:
            self._read(inbox)
            self.give_back(inbox, soon=True)
        for tap in taps:
            self.pump(tap)

    async def stop(self) -> None:
        """End all work; nothing that has arrived is lost."""
        self._stopping = True
        tasks = list(self._tasks)
        self._cancel()
        try:
            if tasks:
                await asyncio.wait(tasks)  # not gather: if this is cancelled, they have been cancelled enough
        finally:
            self._wake_rest()

    def _cancel(self) -> None:
        for task in self._tasks - self._cancelled:  # a second time would meet it while it puts back what it holds
            self._cancelled.add(task)
            task.cancel()

    async def adopt(self, queue: Queue) -> None:
        """Claim a new inbox and begin to read it, unless that has been done; it goes on if the caller is cancelled.

        Raises:
            StoreError: the store cannot be reached.
            LoopStopped: this host has ended; another one has to see to it.
        """
        await self._see_to(self._adopt(queue))

    async def _adopt(self, queue: Queue) -> None:
        desk = self._desk
        async with self._adopting:
            inbox = desk.inboxes.get(queue.name)
            if inbox is None:
                inbox = desk.make_inbox(queue)
                try:
                    await self._ensure_claimed(inbox)
                    with desk.lock:
                        if not desk.closed:
                            desk.inboxes[queue.name] = inbox
                finally:
                    if desk.closed:  # meanwhile, and whoever closed it did not know of this inbox
                        await self._store.execute(c.Release(inbox.shard, queue))
                if desk.closed:
                    raise closed_error()
        if queue.name not in self._readers:
            self._read(inbox)

    def giving(self, inbox: Inbox, *, soon: bool) -> bool:
        """Whether places of an inbox are on their way back already, or will be. Any thread may ask."""
        timer = self._giving.get(inbox.queue.name, _UNKNOWN)
        return timer is None or (timer is not _UNKNOWN and not soon)

    async def ensure_claimed(self, inbox: Inbox) -> None:
        """Claim an inbox again if its lease is gone; it goes on if the caller is cancelled.

        Raises:
            StoreError: the store cannot be reached.
            LoopStopped: this host has ended; another one has to see to it.
        """
        await self._see_to(self._ensure_claimed(inbox))

    def pump(self, tap: Tap) -> None:
        """Receivers of a tap have come or gone."""
        if self._stopping:
            return
        pump = self._pumps.get(tap.queue.name)
        if pump is None:
            pump = self._pumps[tap.queue.name] = _Pump(self._desk, self._store, tap)
            self._start(self._run_pump(pump))
        pump.poke()

    def give_back(self, inbox: Inbox, *, soon: bool) -> None:
        """Places are owed; see to it that the store hears of them."""
        name = inbox.queue.name
        if self._stopping:
            return
        if name not in self._giving:
            if soon:
                self._giving[name] = None
                self._loop.call_soon(self._begin_giving, inbox)
            else:
                self._giving[name] = self._loop.call_later(_GIVE_BACK_SECONDS, self._begin_giving, inbox)
        elif soon and (timer := self._giving[name]) is not None:
            timer.cancel()
            self._giving[name] = None
            self._loop.call_soon(self._begin_giving, inbox)

    async def settle(self, inbox: Inbox) -> None:
        """Give back what is owed, now; return when the store has heard of it, or cannot be reached."""
        if (timer := self._giving.get(inbox.queue.name)) is not None:
            timer.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._desk.rules.timeout):
                await self._give(inbox, everything=True)

    async def tend(self) -> None:
        """Do at once what is done every so often: renew leases, drop what is too old, give back all that is owed.

        Raises:
            StoreError: the store cannot be reached.
            LoopStopped: this host has ended; another one has to see to it.
        """
        await self._see_to(self._tend())

    async def _tend(self) -> None:
        for shard in range(len(self._desk.routes.ring)):
            await self._look_after(shard)
        await self._sweep_once(forget=True)
        for inbox in self._all_inboxes():
            await self.settle(inbox)

    async def _see_to(self, work: Coroutine[object, object, None]) -> None:
        """Do what must end with this host, but neither before it nor with the one who has asked for it."""
        if self._stopping:
            work.close()
            raise LoopStopped
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(ignore)  # should its caller be cancelled
        await asyncio.wait((task,))
        if task.cancelled():
            raise LoopStopped
        task.result()

    # -- called in any thread

    @property
    def here(self) -> bool:
        """Whether the caller runs in the host's loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:  # a thread without one
            return False

    def post(self, work: Callable[[], object]) -> None:
        """Do *work* in the host's loop, soon."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the next host starts with a look at everything
            self._loop.call_soon_threadsafe(work)

    def retire(self) -> None:
        """Do nothing any more, not even when the loop, which stands still, runs again."""
        with self._desk.lock:
            self._stopping = self._retired = True
        self.post(self._cancel)
        self._wake_rest()

    # -- receivers

    def wake(self, waiters: Sequence[Waiter]) -> None:
        """Let receivers run whose messages have come; called in the host's loop.

        A message to a group may be for thousands. They are let run in turns of a few: what each of them makes and drops
        is then gone before the next turn, where the garbage collector would otherwise look through all of it, again and
        again; others in the loop have their turns in between; and what comes in meanwhile is there when they run.
        """
        if len(waiters) <= _WAKE_AT_ONCE and not self._woken:
            wake_all(waiters)
        elif waiters:
            begun = bool(self._woken)
            self._woken.extend(waiters)
            if not begun:
                self._wake_some()

    def _wake_some(self) -> None:
        some: list[Waiter] = []
        with contextlib.suppress(IndexError):  # there are no more
            while len(some) < _WAKE_AT_ONCE:
                some.append(self._woken.popleft())
        wake_all(some)
        if self._woken:
            self._loop.call_soon(self._wake_some)

    def _wake_rest(self) -> None:
        """Let all of them run, from whatever thread."""
        with contextlib.suppress(IndexError):
            while True:
                self._woken.popleft().wake()

    # -- tasks

    def _start(self, work: Coroutine[object, object, None]) -> None:
        self._keep_track(self._loop.create_task(work))

    def _keep_track(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("background work of the channel layer failed; please report this", exc_info=error)

    def _complain(self, text: str) -> None:
        """Say once what only a person can mend; the tries go on."""
        if text not in self._complaints:
            self._complaints.add(text)
            _logger.error("%s", text)

    async def _timed(self, shard: int, reply: Awaitable[T], now_of: Callable[[T], float]) -> T:
        """Await a reply that shows the shard's clock, and learn from it."""
        sent = self._desk.clock.now()
        result = await reply
        with self._desk.lock:
            self._desk.clocks[shard].observe(sent, self._desk.clock.now(), now_of(result))
        return result

    # -- minted inboxes

    def _read(self, inbox: Inbox) -> None:
        """Begin to read an inbox, unless it is not known to be claimed: then that begins with the claim.

        Else what comes in after a claim could be taken for what was there before it.
        """
        old = self._readers.get(inbox.queue.name)
        if old is not None:
            old.cancel()
        if inbox.generation and not self._stopping:
            task = self._readers[inbox.queue.name] = self._loop.create_task(self._reader(inbox))
            self._keep_track(task)

    async def _reader(self, inbox: Inbox) -> None:
        """Read an inbox for ever. No consumer holds a reference to this task, so none can cancel it."""
        desk, queue = self._desk, inbox.queue
        block = min(_BLOCK_SECONDS, desk.rules.expiry)
        backoff = _Backoff()
        while True:
            try:
                batch = await self._store.execute(c.Read(inbox.shard, queue, inbox.position, block))
            except StoreError as exc:
                if not exc.retryable:
                    self._complain(f"cannot read inbox {queue}: {exc}")
                await backoff.wait()
                continue
            backoff.reset()
            if len(inbox.boxes) >= _SEVERAL and not self._alone:
                with desk.lock:
                    reach = inbox.reach(batch.entries)
                if reach >= _SEVERAL:
                    give_way(long=reach >= _CROWD)
            with desk.lock:
                if self._stopping:  # whoever hosts next reads this again, or has done so
                    return
                now = desk.clock.now()
                shard = inbox.shard
                waiters = inbox.apply(batch.entries, desk.offset(shard, now), now, desk.doubt(shard, now))
                waiters += desk.watching(queue.name)
                inbox.position = batch.position
            self.wake(waiters)
            del waiters  # what each of them drops goes at once: else the garbage collector looks at all of it
            if inbox.flushed is not None:
                await self._acknowledge(inbox)

    async def _acknowledge(self, inbox: Inbox) -> None:
        """Tell the store that a flush has been applied, once it has been on this machine's half, too."""
        desk = self._desk
        async with self._acknowledging.setdefault(inbox.queue.name, asyncio.Lock()):
            if (due := inbox.due_here) is not None:
                await self._flush_here(due)
                with desk.lock:
                    if inbox.due_here == due:
                        inbox.due_here = None
            if (generation := inbox.flushed) is None:
                return
            try:
                await self._store.execute(c.Acknowledge(inbox.shard, inbox.queue, generation))
            except StoreError:
                return  # `flushed` stays set, the next batch or renewal tries again
            with desk.lock:
                if inbox.flushed == generation:
                    inbox.flushed = None

    def _begin_giving(self, inbox: Inbox) -> None:
        self._giving[inbox.queue.name] = None
        if self._stopping:
            del self._giving[inbox.queue.name]
        else:
            self._start(self._give(inbox))

    async def _give(self, inbox: Inbox, *, everything: bool = False) -> None:
        """Give back what is owed; each batch has a serial, so that repeating it after an error counts once.

        Args:
            inbox: whose places they are.
            everything: also what comes to be owed meanwhile; else that waits for others to share a command with,
                unless it is urgent.
        """
        name = inbox.queue.name
        async with self._givers.setdefault(name, asyncio.Lock()):  # in the order of their serials
            self._giving[name] = None
            try:
                await self._give_batches(inbox, everything=everything)
            finally:
                self._giving.pop(name, None)
        if inbox.owed:
            self.give_back(inbox, soon=False)

    async def _give_batches(self, inbox: Inbox, *, everything: bool) -> None:
        desk = self._desk
        backoff = _Backoff()
        while True:
            with desk.lock:
                request = inbox.return_places()
            if request is None:
                return
            try:
                await self._store.execute(
                    c.GiveBack(inbox.shard, inbox.queue, request.generation, request.serial, request.places)
                )
            except StoreError:
                await backoff.wait()
                continue
            with desk.lock:
                if inbox.returning is request:
                    inbox.returning = None
                if not (everything or inbox.pressed):
                    return

    async def _keep(self, shard: int) -> None:
        """Keep the leases on one shard, and notice when its server has restarted."""
        desk = self._desk
        period = desk.rules.expiry / RENEWALS_PER_EXPIRY
        backoff = _Backoff()
        while True:
            try:
                await self._look_after(shard)
                backoff.reset()
            except StoreError as exc:
                if not exc.retryable:
                    self._complain(f"cannot keep the leases on {desk.routes.name(shard)}: {exc}")
                await backoff.wait()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(period) as self._pauses[shard]:
                    await self._store.disconnected(shard)

    async def _look_after(self, shard: int) -> None:
        """Renew the leases on one shard, and announce what its server may have lost."""
        desk = self._desk
        incarnation = await self._store.run_id(shard)
        lost = desk.incarnations.setdefault(shard, incarnation) != incarnation
        for inbox in self._inboxes(shard):
            await self._ensure_claimed(inbox)
            await self._acknowledge(inbox)
            if inbox.queue.name not in self._readers:  # it came while the work moved here
                self._read(inbox)
        if lost:
            await self._announce(self._memberships(lambda group: desk.routes.ring.group(group) == shard))
        touched = self._touched.setdefault(shard, desk.clock.now())
        if desk.rules.group_expiry is None and desk.clock.now() - touched >= _TOUCH_SECONDS:
            self._touched[shard] = desk.clock.now()
            await self._touch(shard)
        desk.incarnations[shard] = incarnation

    def _inboxes(self, shard: int) -> list[Inbox]:
        with self._desk.lock:
            return [inbox for inbox in self._desk.inboxes.values() if inbox.shard == shard]

    async def _ensure_claimed(self, inbox: Inbox) -> None:
        """Renew a lease; where it is gone, take it anew and announce the members again."""
        desk, name = self._desk, inbox.queue.name
        async with self._claiming.setdefault(name, asyncio.Lock()):
            first = name not in desk.leases
            missed = False
            if not first:
                renewed = await self._timed(
                    inbox.shard, self._store.execute(c.Renew(inbox.shard, inbox.queue)), lambda reply: reply.now
                )
                missed = not renewed.held and renewed.now >= desk.leases[name]
                desk.leases[name] = renewed.now + desk.lease
                if renewed.held and inbox.generation:  # else a claim was made, and nobody has heard how it ended
                    if inbox.unannounced:
                        await self._announce_all(inbox)
                    return
                if desk.closed:
                    return  # it has been given up for good
            with desk.lock:
                if missed:
                    inbox.empty("expired")  # others have been told that this owner is dead
                inbox.owed.clear()
                inbox.generation = ""  # nothing is given back until the count begins anew
                held = inbox.held()
            if (reader := self._readers.get(name)) is not None:
                reader.cancel()  # until the claim is known here, it might meet the marker of a flush that came after it
            generation = secrets.token_urlsafe(9)
            claim = c.Claim(inbox.shard, inbox.queue, generation, inbox.position, held)
            try:
                claimed = await self._timed(inbox.shard, self._store.execute(claim), lambda reply: reply.now)
            except BaseException:
                self._look_soon(inbox.shard)  # until then nobody reads
                raise
            with desk.lock:
                inbox.generation = generation
                desk.leases[name] = claimed.now + desk.lease
                if claimed.fresh:
                    inbox.position = ""
                if claimed.epoch != inbox.epoch and not first and claimed.epoch:
                    inbox.empty("flushed")
                    inbox.disband()
                inbox.epoch = claimed.epoch or inbox.epoch
                inbox.apply_leavings(desk.clock.now())
                if claimed.expired:
                    desk.ledger.drop("expired", name, claimed.expired)
                if not first:
                    inbox.flushed = generation  # a flush may be waiting for a marker that went with the old lease
                    inbox.unannounced = True
            self.give_back(inbox, soon=True)
            if first:
                return
            self._read(inbox)
            _logger.warning("the lease of inbox %s was lost and has been taken again", inbox.queue)
            await self._acknowledge(inbox)
            await self._announce_all(inbox)

    def _look_soon(self, shard: int) -> None:
        if (pause := self._pauses.get(shard)) is not None:
            with contextlib.suppress(RuntimeError):  # it is over, and its keeper at work
                pause.reschedule(self._loop.time())

    async def _announce_all(self, inbox: Inbox) -> None:
        await self._announce([(inbox, *each) for each in self._all(inbox)])
        inbox.unannounced = False

    def _all(self, inbox: Inbox) -> list[tuple[str, str, float]]:
        with self._desk.lock:
            return inbox.memberships()

    def _memberships(self, wanted: Callable[[GroupName], bool]) -> list[tuple[Inbox, str, str, float]]:
        with self._desk.lock:
            inboxes = list(self._desk.inboxes.values())
        return [(inbox, *each) for inbox in inboxes for each in self._all(inbox) if wanted(GroupName.parse(each[0]))]

    async def _announce(self, memberships: list[tuple[Inbox, str, str, float]]) -> None:
        """Tell the store of memberships that it may have lost."""
        desk = self._desk
        now, limit = desk.clock.now(), desk.rules.group_expiry
        valid: list[tuple[Inbox, str, str, float]] = []
        for inbox, group, member, joined in memberships:
            age = max(0.0, desk.clocks[inbox.shard].middle(now) - joined)
            if limit is None or age < limit:  # else it is over, and a joining by somebody else may have followed
                valid.append((inbox, group, member, age))
        for start in range(0, len(valid), _ANNOUNCE_AT_ONCE):
            some = valid[start : start + _ANNOUNCE_AT_ONCE]
            joins = [
                programs.group_add(
                    desk.routes, GroupName.parse(group), ChannelName.parse(member), owned=True, age=age, restore=True
                )
                for _, group, member, age in some
            ]
            outcomes = await run(run_together(joins), self._store)
            for (inbox, group, member, _), outcome in zip(some, outcomes, strict=True):
                if isinstance(outcome, programs.NoOwner):
                    raise StoreError("the lease was lost again", retryable=True, outcome="unknown")
                if isinstance(outcome, Exception):
                    raise outcome
                if not outcome.applied:  # somebody removed it while there was no lease, so no marker told of it
                    with desk.lock:
                        inbox.retract(group, member, outcome.version, desk.clock.now())

    async def _touch(self, shard: int) -> None:
        groups = {group for inbox in self._all_inboxes() for group, _, _ in self._all(inbox)}
        names = tuple(name for name in map(GroupName.parse, groups) if self._desk.routes.ring.group(name) == shard)
        if names:
            await self._store.execute(c.Touch(shard, names))

    def _all_inboxes(self) -> list[Inbox]:
        with self._desk.lock:
            return list(self._desk.inboxes.values())

    async def _sweep(self) -> None:
        """Sweep for ever."""
        desk = self._desk
        expiry = desk.rules.expiry
        period = min(1.0, expiry / 20)
        forget_at = desk.clock.now() + expiry / 2
        report_at = desk.clock.now()
        while True:
            await asyncio.sleep(period)
            if desk.ledger.tally and desk.clock.now() >= report_at:
                report_at = desk.clock.now() + REPORT_SECONDS
                self._start(report(desk, self._drive))
            forget = desk.clock.now() >= forget_at
            if forget:
                forget_at = desk.clock.now() + expiry / 2
            await self._sweep_once(forget=forget)

    async def _drive(self, program: Operation[T]) -> T:
        return await run(program, self._store)

    async def _sweep_once(self, *, forget: bool) -> None:
        """Drop what nobody read in time, end memberships over it, and say in the log what was lost.

        Args:
            forget: also forget what nobody uses.
        """
        desk = self._desk
        now = desk.clock.now()
        leaving: list[tuple[str, str, int]] = []
        with desk.lock:
            inboxes = list(desk.inboxes.values())
            for inbox in inboxes:
                leaving.extend(inbox.sweep(now))
                if forget:
                    inbox.forget(now)
            for tap in desk.taps.values():
                for box in tap.boxes.values():
                    tap.expire(box, now)
                if forget:
                    tap.forget(now, desk.rules.expiry)
        for inbox in inboxes:
            if inbox.owed:
                self.give_back(inbox, soon=True)
        with contextlib.suppress(StoreError):  # the next look finds them
            await self._rescue_stranded()
        desk.tell()
        for start in range(0, len(leaving), _ANNOUNCE_AT_ONCE):
            leaves = [
                programs.group_discard(desk.routes, GroupName.parse(group), ChannelName.parse(member), latest)
                for group, member, latest in leaving[start : start + _ANNOUNCE_AT_ONCE]
            ]
            # What fails, or is refused, is tried again with the next sweep.
            await run(run_together(leaves), self._store)

    # -- this machine's half

    async def _rescue_stranded(self) -> None:
        """Move what waits on this machine and nobody here reads any more to where all machines see it."""
        routes = self._desk.routes
        stranded = programs.stranded(routes)
        for queue in await run(stranded, self._store) if stranded is not None else ():
            self._desk.rescued(queue, await run(programs.rescue(routes, queue), self._store))

    async def _flush_here(self, generation: str) -> None:
        """A flush that was begun on another machine, maybe, has come: this machine's half is a part of it."""
        local = self._desk.routes.local
        if local is None:
            return
        with contextlib.suppress(StoreError):
            flushing = await self._store.execute(c.Flush(local, generation))
            with self._desk.lock:
                self._desk.ledger.drop("flushed", "the store", flushing.dropped)

    # -- taps

    async def _run_pump(self, pump: _Pump) -> None:
        try:
            await pump.run()
        finally:
            name = pump.tap.queue.name
            self._pumps.pop(name, None)
            with self._desk.lock:
                over = pump.tap.idle and not self._retired  # else another host serves it by now
                if over and self._desk.taps.get(name) is pump.tap:
                    del self._desk.taps[name]
            if not over and not self._stopping:  # somebody came at the last moment
                self.pump(pump.tap)


def _heed() -> None:
    """Raise the cancellation that a store has held back, while it finished what it had begun."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class _Pump:
    """Pops one queue for the receivers of this process, as many messages as there are receivers, and never more.

    It first pops without waiting on every shard; then it waits on all of them at once. A wait takes no message: it is
    told that there may be one. So a killed process loses none but those that it had popped for a receiver.
    """

    def __init__(self, desk: Desk, store: Store, tap: Tap) -> None:
        self.tap = tap
        self._desk = desk
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._poked = asyncio.Event()
        self._waits: dict[int, asyncio.Task[None]] = {}
        self._called = set[int]()
        """Shards whose wait is over and that have not been popped since."""
        self._passed = set[int]()
        """Shards that called when nobody here needed a message: the next one who does looks there, too."""
        self._shards = desk.routes.shards(tap.queue)
        self._local = desk.routes.local_of(tap.queue)
        self._backoffs = {shard: _Backoff() for shard in self._shards}
        self._turn = random.randrange(len(self._shards))  # noqa: S311 - where to look first
        self._attendance = desk.rules.expiry * ATTENDANCE
        """Seconds for which this process attends to a queue of this machine after each pop."""
        self._attends_until = -math.inf
        self._sated = False
        """The last pop has brought all that was asked for, so that there may be more."""
        self._linger_seconds = _LINGER_SECONDS if self._local is None else self._attendance
        self._held_until: float | None = None
        self._block = min(_BLOCK_SECONDS, desk.rules.expiry / 3)

    def poke(self) -> None:
        """Receivers have come or gone."""
        self._poked.set()

    async def run(self) -> None:
        """Work until nobody has waited for a while."""
        backoff = _Backoff()
        try:
            while True:
                self._poked.clear()
                try:
                    self._collect()
                    if not self._demand():
                        await self._return_surplus()
                        _heed()
                        await self._pass_on()
                        if not self._poked.is_set() and not await self._linger():
                            return
                    elif not await self._pop_all():
                        await self._wait_all()
                    backoff.reset()
                except StoreError as exc:
                    if not exc.retryable:
                        self._fail(exc)
                    _heed()
                    await backoff.wait()
        finally:
            for task in self._waits.values():
                task.cancel()
            try:
                await self._return_surplus()
            finally:
                await asyncio.gather(*self._waits.values(), return_exceptions=True)
                await self._return_calls()
            await self._unclaim()

    async def _unclaim(self) -> None:
        """Let another process claim this inbox at once, unless something of it waits here for another receiver.

        Of a queue of this machine: let senders know that nobody here reads it any more.
        """
        desk, tap = self._desk, self.tap
        shard = desk.routes.ring.queue(tap.queue) if tap.queue.kind is Kind.INBOX else self._local
        with desk.lock:
            over = tap.idle or desk.closed
        if over and shard is not None:
            with contextlib.suppress(StoreError):  # the lease ends by itself
                await self._store.execute(c.Unclaim(shard, tap.queue, desk.claimant))

    def _demand(self) -> int:
        with self._desk.lock:
            return self.tap.demand

    def _collect(self) -> None:
        """See which waits are over: those shards may hold a message, and nobody else has been told."""
        for shard, task in list(self._waits.items()):
            if task.done():
                del self._waits[shard]
                try:
                    task.result()
                except StoreError as exc:
                    self._reach(shard, exc)
                else:
                    self._called.add(shard)

    def _reach(self, shard: int, error: StoreError) -> None:
        """A shard is away: look out for it in the background, while the others are served.

        Raises:
            StoreError: a person has to mend it.
        """
        self._called.discard(shard)
        if not error.retryable:
            raise error
        if shard not in self._waits:
            self._watch(shard, self._return_of(shard))

    async def _return_of(self, shard: int) -> None:
        while True:
            await self._backoffs[shard].wait()
            try:
                await self._store.run_id(shard)
            except StoreError as exc:
                if not exc.retryable:
                    raise
            else:
                return

    def _wait_for(self, shard: int) -> None:
        self._watch(shard, self._store.wait(c.Wait(shard, self.tap.queue, self._block)))

    def _watch(self, shard: int, work: Coroutine[object, object, None]) -> None:
        task = self._loop.create_task(work)
        task.add_done_callback(lambda _: self._poked.set())
        self._waits[shard] = task

    async def _pass_on(self) -> None:
        """Nobody here needs a message any more: let the store call somebody else."""
        while self._called:
            shard = next(iter(self._called))
            await self._pop(shard, 0)
            self._passed.add(shard)

    async def _return_calls(self) -> None:
        """Pass on, at the end of all waits, what nobody here has answered; else a message waits for the next look."""
        desk, tap = self._desk, self.tap
        answered = {shard for shard, task in self._waits.items() if not (task.cancelled() or task.exception())}
        for shard in self._called | answered:
            with contextlib.suppress(StoreError):
                await self._store.execute(c.Pop(shard, tap.queue, 0, desk.claimant))

    async def _linger(self) -> bool:
        """Keep the waits open for a while; whether anything happened."""
        lingered = False

        def enough() -> None:
            nonlocal lingered
            lingered = True
            self._poked.set()

        timer = self._loop.call_later(self._linger_seconds, enough)
        await self._poked.wait()
        timer.cancel()
        return not lingered

    @property
    def _attends(self) -> bool:
        """Whether this process is known to read this machine's half."""
        return self._desk.clock.now() < self._attends_until

    @property
    def _arrives(self) -> bool:
        """Whether there is a half of this machine, and this process is not known to read it."""
        return self._local is not None and not self._attends

    def _order(self) -> tuple[int, ...]:
        """Return the shards, each in its turn the first.

        Who does not attend yet to this machine's half looks there last, and not before the other one is empty: what was
        sent while nobody here read is older than what will be sent from now on, and counts towards the same capacity.
        """
        self._turn += 1
        first, local = self._turn % len(self._shards), self._local
        shards = self._shards[first:] + self._shards[:first]
        if local is not None and self._arrives:
            return (*(shard for shard in shards if shard != local), local)
        return shards

    async def _pop_all(self) -> bool:
        """Pop from each shard that is not being waited for, until nobody needs more; whether anything came.

        What waits here for a claimed inbox's channels is promised by a pop only, so then none may be left out.

        Who attends to this machine's half waits for the other one all the time, and looks there when he is called: so a
        worker who is kept busy from here costs the other one nothing, and yet hears of what comes there.
        """
        came = False
        for shard in self._order():
            if shard in self._waits and not self.tap.held_back:
                continue
            called = shard in self._called or shard in self._passed
            if shard != self._local and not called and self._attends:
                self._wait_for(shard)
                continue
            demand = self._demand()
            if not demand:
                break
            try:
                came = await self._pop(shard, demand) or came
                if self._sated and self._arrives:
                    break  # there may be more of what is older, though somebody else has come meanwhile
            except StoreError as exc:
                self._reach(shard, exc)
            else:
                self._backoffs[shard].reset()
        return came

    async def _pop(self, shard: int, demand: int) -> bool:
        desk, tap = self._desk, self.tap
        sent = desk.clock.now()
        attend = 0.0
        if shard == self._local and demand and self._attends_until - sent < self._attendance * _RENEW_BELOW:
            attend = self._attendance
            self._attends_until = sent + attend
        popped = await self._store.execute(c.Pop(shard, tap.queue, demand, desk.claimant, attend))
        self._called.discard(shard)
        if demand:
            self._passed.discard(shard)
        self._sated = len(popped.entries) + popped.flushed >= demand
        with desk.lock:
            now = desk.clock.now()
            desk.clocks[shard].observe(sent, now, popped.now)
            desk.ledger.drop("expired", tap.queue.name, popped.expired)
            desk.ledger.drop("flushed", tap.queue.name, popped.flushed)
            desk.ledger.drop("store_lost", tap.queue.name, popped.lost)
            if tap.queue.kind is Kind.INBOX and popped.epoch != tap.epoch:
                for box in tap.boxes.values():
                    if dropped := box.clear():
                        desk.ledger.drop("flushed", box.name, dropped)
                tap.epoch = popped.epoch
            self._take_in(shard, popped.entries, desk.offset(shard, now), now)
            waiters = tap.promise()
            waiters += desk.watching(tap.queue.name)
        wake_all(waiters)
        _heed()
        if popped.minted:
            self._fail(foreign_error(tap.queue))
        elif popped.held_for is not None:
            await self._wait_for_claim(popped.held_for)
        else:
            self._held_until = None
        return bool(popped.entries) or popped.flushed > 0 or popped.held_for is not None or popped.minted

    def _take_in(self, shard: int, entries: Iterable[c.Entry], offset: float, now: float) -> None:
        tap, desk = self.tap, self._desk
        for entry in entries:
            try:
                name, payload = envelope.read_message(entry.frame)
            except envelope.BadFrame:
                desk.ledger.drop("undecodable", tap.queue.name)
                continue
            claimed = tap.queue.kind is Kind.INBOX
            box = tap.box(name if claimed else tap.queue.name, now)
            if claimed and len(box.items) >= max(box.capacity, box.promised + len(box.waiters)):
                desk.ledger.drop("full", name)  # it waits here for a channel that nobody reads
                continue
            over = deadline(entry.stamp, desk.rules.expiry, offset)
            box.put(Item(over, payload, "", (shard, entry)))

    async def _wait_for_claim(self, held_for: float) -> None:
        """Another one has claimed this inbox; it may be dead. One lease shows."""
        now = self._desk.clock.now()
        if self._held_until is None:
            self._held_until = now + self._desk.lease
        if now >= self._held_until:
            self._held_until = None
            self._fail(claimed_error(self.tap.queue))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(held_for, self._held_until - now) + 0.001):
                while self._demand():
                    self._poked.clear()
                    await self._poked.wait()

    async def _wait_all(self) -> None:
        """Wait on every shard until one may hold a message, or receivers come or go."""
        for shard in self._shards:
            if shard not in self._waits:
                self._wait_for(shard)
        _heed()
        await self._poked.wait()

    async def _return_surplus(self) -> None:
        """Put back what was popped for receivers that have gone since."""
        if self.tap.queue.kind is Kind.INBOX:
            return  # it waits for the other channels of the inbox
        with self._desk.lock:
            items = self.tap.surplus()
        by_shard: dict[int, list[Item]] = {}
        for item in items:
            if item.origin is not None:
                by_shard.setdefault(item.origin[0], []).append(item)
        ledger, name = self._desk.ledger, self.tap.queue.name
        cancelled: asyncio.CancelledError | None = None
        for shard, some in by_shard.items():
            entries = tuple(item.origin[1] for item in some if item.origin is not None)
            try:
                returned = await self._store.execute(c.PutBack(shard, self.tap.queue, entries))
            except (asyncio.CancelledError, StoreError) as exc:
                with self._desk.lock:
                    if isinstance(exc, asyncio.CancelledError) or exc.outcome == "not_sent":
                        self._keep_surplus(some)
                    else:
                        ledger.drop("store_lost", name, len(some))
                if isinstance(exc, asyncio.CancelledError):
                    cancelled = exc  # the other shards' have yet to go
            else:
                with self._desk.lock:
                    ledger.drop("expired", name, returned.expired)
                    ledger.drop("flushed", name, returned.flushed)
        if cancelled is not None:
            raise cancelled

    def _keep_surplus(self, items: list[Item]) -> None:
        """The store is away: they wait here for this process's next receiver."""
        box: Mailbox = self.tap.box(self.tap.queue.name, self._desk.clock.now())
        box.items.extendleft(reversed(items))

    def _fail(self, error: Exception) -> None:
        """Tell every receiver that it will never get a message."""
        with self._desk.lock:
            for waiter in self.tap.dismiss():
                waiter.fail(error)
