"""Queues, inboxes and groups as Python objects behind one lock: the plainest store that keeps every promise.

It is written to be read beside `channel_layer.commands`, as the reference for other stores; leases, markers and
versions are all here, so that several layer objects over one of these behave as several processes over a server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from channel_layer import commands as c
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer.domain.frames import MembershipMarker, flush_frame, group_frame, marker_frame, message_frame
from channel_layer.domain.names import Kind, queue_name
from channel_layer.domain.rates import Meters
from channel_layer.ports import Capabilities
from channel_layer.runtime.threads import Alarm
from channel_layer.runtime.wakeups import Receiver
from channel_layer.stores.wrapper import execute_each, execute_each_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from channel_layer.config import Rules
    from channel_layer.domain.inbox import Waiter
    from channel_layer.domain.names import ChannelName, GroupName, Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.errors import StoreError
    from channel_layer.ports import Backend, BlockingStore, Clock, Store

__all__ = ("MemoryBackend", "MemoryBlockingStore", "MemoryStore")

R = TypeVar("R")


@dataclass(slots=True)
class _Line:
    """A queue that is popped."""

    entries: deque[c.Entry] = field(default_factory=deque[c.Entry])
    waiters: deque[Waiter] = field(default_factory=deque["Waiter"])
    called: bool = False
    """There is something, and nobody has been told."""


@dataclass(slots=True)
class _Minted:
    """An inbox that its owner reads."""

    until: float
    generation: str
    entries: deque[tuple[int, float, bytes]] = field(default_factory=deque[tuple[int, float, bytes]])
    last: int = 0
    unread: dict[str, int] = field(default_factory=dict[str, int])
    serial: int = 0
    flushed: str = ""
    readers: deque[Receiver] = field(default_factory=deque[Receiver])


@dataclass(slots=True)
class _Group:
    owned: dict[str, float] = field(default_factory=dict[str, float])
    others: dict[str, float] = field(default_factory=dict[str, float])
    inboxes: dict[str, int] = field(default_factory=dict[str, int])
    """Each inbox with members that its owner added, and the version when it last added one."""
    oldest: float = math.inf
    """No membership was made before this: until it is over, none is."""

    def join(self, memberships: dict[str, float], name: str, joined: float) -> None:
        """Add a membership to *owned* or *others*."""
        memberships[name] = joined
        self.oldest = min(joined, self.oldest)

    def retire(self, now: float, owned: float, others: float) -> None:
        """End the memberships that are over, given how long they last."""
        if now - self.oldest < min(owned, others):
            return
        for member in [member for member, at in self.others.items() if now - at >= others]:
            del self.others[member]
        over = [member for member, at in self.owned.items() if now - at >= owned]
        for member in over:
            del self.owned[member]
        if over:
            _forget_empty(self, set(map(queue_name, over)))
        self.oldest = min((*self.owned.values(), *self.others.values()), default=math.inf)


class MemoryBackend:
    """One store for all the event loops and threads of this process.

    Args:
        rules: the configuration.
        clock: what time it is, here and in the store.
    """

    capabilities: Capabilities = Capabilities(attends=True)
    identities: tuple[str, ...] = ("memory",)
    connects: bool = False

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        self.inboxes: dict[str, _Minted] = {}
        self.parents: set[str] = set()
        """Inboxes that were minted before a fork: their owner lives, though not here."""
        self.forked()

    def open(self) -> MemoryStore:
        """Return the way there; it is the same from every loop."""
        return MemoryStore(self)

    def open_blocking(self) -> MemoryBlockingStore:
        """Return the way there for threads."""
        return MemoryBlockingStore(self.open())

    def forked(self) -> None:
        """Begin empty: what the parent holds stays the parent's."""
        self.lock: threading.Lock = threading.Lock()
        self.lines: dict[str, _Line] = {}
        self.unread: dict[str, dict[str, float]] = {}
        """Of each queue from which nothing has been taken since, the channels that got a group's message, and when."""
        self.parents.update(self.inboxes)
        self.inboxes = {}
        self.claims: dict[str, tuple[str, float]] = {}
        self.attending: dict[str, dict[str, float]] = {}
        """Of each queue, who attends to it, and until when."""
        self.groups: dict[str, _Group] = {}
        self.version: int = 0
        """Of all groups together, so that one that was empty for a while does not begin anew."""
        self.left: dict[tuple[str, str], float] = {}
        """When which member left which group, oldest first, for as long as an owner might announce it again."""
        self.meters: Meters = Meters(*counts_lifetimes(self.rules.group_expiry))
        self.epoch: str = ""
        self.flushed_at: float = 0.0


class MemoryStore:
    """The store port over a `MemoryBackend`."""

    def __init__(self, backend: MemoryBackend) -> None:
        self._all = backend
        self._rules = backend.rules
        self._lock = backend.lock
        self._lease = backend.rules.expiry * LEASE_FACTOR
        self._lifetime = backend.rules.group_expiry or GROUP_KEYS_LIFETIME
        # One table for commands of all types; each is handed to the method for its own type, and to no other.
        self._handlers: Mapping[type, Callable[[Any], Any]] = {
            c.Acknowledge: self.acknowledge,
            c.Alive: self.alive,
            c.Claim: self.claim,
            c.Deliver: self.deliver,
            c.Flush: self.flush,
            c.Forgive: self.forgive,
            c.GiveBack: self.give_back,
            c.Join: self.join,
            c.Leave: self.leave,
            c.Mark: self.mark,
            c.Members: self.members,
            c.Pending: self.pending,
            c.Pop: self.pop,
            c.Prune: self.prune,
            c.Publish: self.publish,
            c.Push: self.push,
            c.PutBack: self.put_back,
            c.Read: self.read,
            c.Release: self.release,
            c.Renew: self.renew,
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
            c.Touch: self.touch,
            c.Unattended: self.unattended,
            c.Unclaim: self.unclaim,
            c.Unflushed: self.unflushed,
        }

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        if isinstance(command, c.Read):
            await self._wait_for_entries(command)
        return self.carry_out(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return await execute_each(self, commands)

    def carry_out(self, command: c.Command[R]) -> R:
        """Carry out a command without waiting for anything."""
        reply: R = self._handlers[type(command)](command)
        return reply

    def _now(self) -> float:
        return self._all.clock.now()

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        frame = message_frame(request.channel.name, request.payload)
        with self._lock:
            now = self._now()
            inbox = self._minted(request.channel.queue.name)
            if inbox is not None:
                unread = inbox.unread.get(request.channel.name, 0)
                if unread >= request.capacity or len(inbox.entries) >= self._rules.inbox_capacity:
                    return c.Pushed(accepted=False, expired=0)
                inbox.unread[request.channel.name] = unread + 1
                _append(inbox, now, frame)
                return c.Pushed(accepted=True, expired=0)
            if request.if_attended and not self._attended(request.channel.queue.name, now):
                left = self._all.lines.get(request.channel.queue.name)
                waiting = len(left.entries) if left is not None else 0
                return c.Pushed(accepted=False, expired=0, unattended=waiting)
            if request.to_member and self._has_lapsed(request.channel, now):
                return c.Pushed(accepted=False, expired=0, lapsed=True)
            line = self._line(request.channel.queue.name)
            expired = 0
            if len(line.entries) >= request.capacity:
                expired = self._expire(line, now)
                if len(line.entries) >= request.capacity:
                    return c.Pushed(accepted=False, expired=expired)
            line.entries.append(c.Entry(now, frame))
            if request.to_member:
                channels = self._all.unread.setdefault(request.channel.queue.name, {})
                channels.setdefault(request.channel.name, now)
            _call(line)
            return c.Pushed(accepted=True, expired=expired)

    def forgive(self, request: c.Forgive, /) -> None:
        with self._lock:
            name = request.channel.queue.name
            channels = self._all.unread.get(name, {})
            if channels.pop(request.channel.name, None) is not None and not channels:
                del self._all.unread[name]

    def pop(self, request: c.Pop, /) -> c.Popped:
        name = request.queue.name
        with self._lock:
            now = self._now()
            if request.queue.kind is Kind.INBOX:
                if self._minted(name) is not None or name in self._all.parents:
                    return c.Popped((), 0, now, self._all.epoch, minted=True)
                claimant, until = self._all.claims.get(name, (request.claimant, now))
                if claimant != request.claimant and until > now:
                    return c.Popped((), 0, now, self._all.epoch, held_for=until - now)
                self._all.claims[name] = (request.claimant, now + self._lease)
            elif request.attend:
                self._all.attending.setdefault(name, {})[request.claimant] = now + request.attend
            line = self._line(name)
            expired = self._expire(line, now)
            count = min(request.count, len(line.entries))
            entries = tuple(line.entries.popleft() for _ in range(count))
            if entries:
                self._all.unread.pop(name, None)
            _call(line)
            self._tidy(name)
            return c.Popped(entries, expired, now, self._all.epoch)

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        with self._lock:
            line = self._line(request.queue.name)
            entries = [entry for entry in request.entries if entry.stamp >= self._all.flushed_at]
            line.entries.extendleft(reversed(entries))
            _call(line)
            return c.Returned(expired=0, flushed=len(request.entries) - len(entries))

    def unclaim(self, request: c.Unclaim, /) -> None:
        with self._lock:
            self._all.attending.get(request.inbox.name, {}).pop(request.claimant, None)
            claim = self._all.claims.get(request.inbox.name)
            if claim is not None and claim[0] == request.claimant:
                del self._all.claims[request.inbox.name]

    async def wait(self, request: c.Wait, /) -> None:
        name = request.queue.name
        with self._lock:
            line = self._line(name)
            if line.called:
                line.called = False
                return
            waiter = Receiver(asyncio.get_running_loop())
            line.waiters.append(waiter)
        done = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(request.block):
                    await waiter
            done = True
        finally:
            with self._lock:
                if waiter in line.waiters:
                    line.waiters.remove(waiter)
                elif not done:  # called and cancelled at once
                    _call(line)
                self._tidy(name)

    def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        with self._lock:
            now = self._now()
            holding = [name for name, line in self._all.lines.items() if line.entries and not name.endswith("!")]
            return tuple(name for name in holding if not self._attended(name, now))

    def begin_to_wait(self, queue: str, waiter: Waiter) -> None:
        """Have somebody woken when a queue may hold a message, which may be now."""
        with self._lock:
            line = self._line(queue)
            if line.called:
                line.called = False
                waiter.wake()
            else:
                line.waiters.append(waiter)

    def end_to_wait(self, queue: str, waiter: Waiter) -> bool:
        """Have him woken no more; whether he was."""
        with self._lock:
            line = self._all.lines.get(queue)
            waits = line is not None and waiter in line.waiters
            if line is not None and waits:
                line.waiters.remove(waiter)
            self._tidy(queue)
            return not waits

    def pending(self, request: c.Pending, /) -> int:
        name = request.channel.name
        with self._lock:
            inbox = self._minted(request.channel.queue.name)
            prefix = message_frame(name, b"")
            if inbox is not None:
                return sum(frame.startswith(prefix) for _, _, frame in inbox.entries)
            line = self._all.lines.get(request.channel.queue.name)
            return sum(entry.frame.startswith(prefix) for entry in line.entries) if line is not None else 0

    # -- statistics

    def report(self, request: c.Report, /) -> None:
        with self._lock:
            counts = [(each.queue.name, each.messages, each.refused) for each in request.counts]
            self._all.meters.add(self._now(), counts, request.messages, request.refused)

    def reported(self, request: c.Reported, /) -> Rates:
        with self._lock:
            return self._all.meters.read(self._now(), None if request.queue is None else request.queue.name)

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        channel = request.channel
        with self._lock:
            now = self._now()
            names = {*self._all.lines, *self._all.inboxes} if channel is None else {channel.queue.name}
            begins = b"m" if channel is None else message_frame(channel.name, b"")
            found = [self._waiting(name, begins, now) for name in names]
        count = sum(pending for pending, _ in found)
        stamps = [stamp for _, stamp in found if stamp is not None]
        oldest = max(0.0, now - min(stamps)) if stamps else None
        return c.Surveyed(count, oldest)

    def _waiting(self, name: str, begins: bytes, now: float) -> tuple[int, float | None]:
        """Return how many frames that begin so wait in a queue, and since when those do that are still here."""
        inbox = self._minted(name)
        if inbox is not None:
            count = sum(unread for channel, unread in inbox.unread.items() if _is_for(channel, begins))
            stamps = [stamp for _, stamp, frame in inbox.entries if frame.startswith(begins)]
            return count, min(stamps, default=None) if count else None
        line = self._all.lines.get(name)
        entries = line.entries if line is not None else ()
        waiting = [entry.stamp for entry in entries if entry.frame.startswith(begins)]
        fresh = [stamp for stamp in waiting if stamp + self._rules.expiry > now]
        return len(fresh), min(fresh, default=None)

    # -- minted inboxes

    def claim(self, request: c.Claim, /) -> c.Claimed:
        name = request.inbox.name
        with self._lock:
            now = self._now()
            inbox = self._all.inboxes.get(name)
            fresh = inbox is None
            if inbox is None:
                inbox = self._all.inboxes[name] = _Minted(now + self._lease, request.generation)
            inbox.until, inbox.generation = now + self._lease, request.generation
            inbox.unread, inbox.serial = dict(request.held), 0
            for number, _, frame in inbox.entries:
                if number > int(request.after or "0"):
                    _count(inbox, frame)
            self._all.unread.pop(name, None)
            line = self._all.lines.pop(name, None)
            expired = self._expire(line, now) if line is not None else 0
            for entry in line.entries if line is not None else ():
                _append(inbox, entry.stamp, entry.frame)
                _count(inbox, entry.frame)
            return c.Claimed(now, fresh, self._all.epoch, expired)

    def renew(self, request: c.Renew, /) -> c.Renewed:
        with self._lock:
            now = self._now()
            inbox = self._minted(request.inbox.name)
            if inbox is not None:
                inbox.until = now + self._lease
            return c.Renewed(now, inbox is not None, self._all.epoch)

    def release(self, request: c.Release, /) -> int:
        with self._lock:
            inbox = self._all.inboxes.pop(request.inbox.name, None)
            return sum(frame[:1] == b"m" for _, _, frame in inbox.entries) if inbox is not None else 0

    def read(self, request: c.Read, /) -> c.Batch:
        with self._lock:
            inbox = self._unread(request)
            if inbox is None or not inbox.entries:
                return c.Batch((), request.after)
            return c.Batch(tuple((stamp, frame) for _, stamp, frame in inbox.entries), str(inbox.last))

    async def _wait_for_entries(self, request: c.Read) -> None:
        """Wait until a read of an inbox brings something, or its time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.block):
                while True:
                    with self._lock:
                        inbox = self._unread(request)
                        if inbox is not None and inbox.entries:
                            return
                        waiter = Receiver(asyncio.get_running_loop())
                        if inbox is not None:  # else it was released, or its lease has ended: its owner will see
                            inbox.readers.append(waiter)
                    await waiter

    def _unread(self, request: c.Read) -> _Minted | None:
        """Return an inbox without what has been read of it."""
        inbox = self._all.inboxes.get(request.inbox.name)
        after = int(request.after or "0")
        while inbox is not None and inbox.entries and inbox.entries[0][0] <= after:
            inbox.entries.popleft()
        return inbox

    def give_back(self, request: c.GiveBack, /) -> None:
        with self._lock:
            inbox = self._minted(request.inbox.name)
            if inbox is None or inbox.generation != request.generation or request.serial <= inbox.serial:
                return
            inbox.serial = request.serial
            for name, places in request.places:
                left = inbox.unread.get(name, 0) - places
                if left > 0:
                    inbox.unread[name] = left
                else:
                    inbox.unread.pop(name, None)

    def mark(self, request: c.Mark, /) -> bool:
        with self._lock:
            return self._mark(request.inbox.name, request.marker)

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        with self._lock:
            return tuple(self._minted(inbox.name) is not None for inbox in request.inboxes)

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        name = request.channel.name
        with self._lock:
            now = self._now()
            self._forget_left(now)
            if request.restore and (request.group.name, name) in self._all.left:
                return c.Changed(self._all.version, marked=False, applied=False, owned=False)
            group = self._group(request.group, now) or _Group()
            self._all.groups[request.group.name] = group
            self._all.version = version = self._all.version + 1
            self._all.left.pop((request.group.name, name), None)
            joined = now - request.age
            owned = request.owned or name in group.owned
            if owned:
                group.others.pop(name, None)
                group.join(group.owned, name, joined)
                group.inboxes[request.channel.queue.name] = version
            else:
                group.join(group.others, name, joined)
            marker = MembershipMarker(request.group.name, name, True, version, round(request.age * 1000))
            marked = owned and request.mark and self._mark(request.channel.queue.name, marker)
            return c.Changed(version, marked, applied=True, owned=owned)

    def leave(self, request: c.Leave, /) -> c.Changed:
        name = request.channel.name
        with self._lock:
            now = self._now()
            self._forget_left(now)
            group = self._all.groups.get(request.group.name)
            if request.latest is not None:
                last = group.inboxes.get(request.channel.queue.name) if group is not None else None
                if group is None or name not in group.owned or last is None or last > request.latest:
                    return c.Changed(self._all.version, marked=False, applied=False, owned=False)
            self._all.version = version = self._all.version + 1
            if group is not None:
                group.others.pop(name, None)
                if group.owned.pop(name, None) is not None:
                    _forget_empty(group, [request.channel.queue.name])
                self._group(request.group, now)
            if request.channel.queue.kind is Kind.INBOX:
                self._all.left.pop((request.group.name, name), None)
                self._all.left[request.group.name, name] = now
            marker = MembershipMarker(request.group.name, name, False, version, 0)
            marked = request.mark and self._mark(request.channel.queue.name, marker)
            return c.Changed(version, marked, applied=True, owned=False)

    def publish(self, request: c.Publish, /) -> c.Published:
        with self._lock:
            version = self._all.version
            group = self._group(request.group, self._now())
            if group is None:
                return c.Published(version, done=True, inboxes=(), others=(), full=())
            if group.others or not request.at_once:
                return c.Published(version, False, tuple(group.inboxes), tuple(group.others), ())
            frame = group_frame(request.group.name, (), request.payload)
            outcomes = {name: self._deliver(name, frame) for name in group.inboxes}
            _drop_inboxes(group, [name for name, outcome in outcomes.items() if outcome is c.Delivery.NO_OWNER])
            full = tuple(name for name, outcome in outcomes.items() if outcome is c.Delivery.FULL)
            return c.Published(version, done=True, inboxes=(), others=(), full=full)

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        with self._lock:
            return self._deliver(request.inbox.name, group_frame(request.group.name, request.riders, request.payload))

    def prune(self, request: c.Prune, /) -> None:
        with self._lock:
            group = self._all.groups.get(request.group.name)
            if group is not None:
                _drop_inboxes(
                    group, [n for n in request.inboxes if group.inboxes.get(n, request.version + 1) <= request.version]
                )
                if self._all.version == request.version:
                    for name in request.others:
                        group.others.pop(name, None)

    def members(self, request: c.Members, /) -> c.Roster:
        with self._lock:
            group = self._group(request.group, self._now())
            if group is None:
                return c.Roster((), ())
            return c.Roster(tuple(group.owned), tuple(group.others))

    def touch(self, request: c.Touch, /) -> None:
        """Nothing to do: what nobody uses costs nothing but memory, and goes with the process."""

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        with self._lock:
            dropped = sum(len(line.entries) for line in self._all.lines.values())
            for line in self._all.lines.values():
                line.entries.clear()
                line.called = False
            self._all.unread.clear()
            self._all.groups.clear()
            self._all.meters.clear()
            self._all.epoch = request.generation
            self._all.flushed_at = self._now()
            living = tuple(name for name in list(self._all.inboxes) if self._minted(name) is not None)
            for name, inbox in self._all.inboxes.items():
                dropped += sum(frame[:1] == b"m" for _, _, frame in inbox.entries)
                inbox.entries.clear()
                if name not in living:  # its owner may come back; the epoch tells him what happened
                    continue
                inbox.unread.clear()
                inbox.generation, inbox.serial = request.generation, 0
                _append(inbox, self._now(), flush_frame(request.generation))
            return c.Flushing(living, dropped)

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        with self._lock:
            found = ((name, self._minted(name)) for name in request.inboxes)
            # The generation is that of this flush, of a later one, or of a new lease.
            return tuple(name for name, inbox in found if inbox is not None and inbox.flushed != inbox.generation)

    def acknowledge(self, request: c.Acknowledge, /) -> None:
        with self._lock:
            inbox = self._minted(request.inbox.name)
            if inbox is not None and inbox.generation == request.generation:
                inbox.flushed = request.generation

    # -- the connection that there is none of

    async def run_id(self, _shard: int, /) -> str:
        return "memory"

    async def disconnected(self, _shard: int, /) -> None:
        await asyncio.get_running_loop().create_future()

    async def aclose(self) -> None:
        """Nothing to let go of."""

    # -- under the lock

    def _has_lapsed(self, channel: ChannelName, now: float) -> bool:
        """Whether a message to a member of a group has expired, and nothing was taken from its queue since it came."""
        unread = self._all.unread
        while unread and max(unread[first := next(iter(unread))].values()) + self._lifetime <= now:
            del unread[first]
        since = unread.get(channel.queue.name, {}).get(channel.name)
        return since is not None and since + self._rules.expiry <= now

    def _attended(self, name: str, now: float) -> bool:
        """Whether somebody attends to a queue."""
        claimants = self._all.attending.get(name, {})
        for claimant in [claimant for claimant, until in claimants.items() if until <= now]:
            del claimants[claimant]
        if not claimants:
            self._all.attending.pop(name, None)
        return bool(claimants)

    def _line(self, name: str) -> _Line:
        line = self._all.lines.get(name)
        if line is None:
            line = self._all.lines[name] = _Line()
        return line

    def _tidy(self, name: str) -> None:
        line = self._all.lines.get(name)
        if line is not None and not line.entries and not line.waiters:
            del self._all.lines[name]

    def _expire(self, line: _Line, now: float) -> int:
        count = 0
        while line.entries and line.entries[0].stamp + self._rules.expiry <= now:
            line.entries.popleft()
            count += 1
        return count

    def _minted(self, name: str) -> _Minted | None:
        """Return an inbox whose owner lives."""
        inbox = self._all.inboxes.get(name)
        if inbox is not None and inbox.until <= self._now():
            return None
        return inbox

    def _mark(self, name: str, marker: MembershipMarker) -> bool:
        inbox = self._minted(name)
        if inbox is None:
            return False
        _append(inbox, self._now(), marker_frame(marker))
        return True

    def _deliver(self, name: str, frame: bytes) -> c.Delivery:
        inbox = self._minted(name)
        if inbox is None:
            return c.Delivery.NO_OWNER
        if len(inbox.entries) >= self._rules.inbox_capacity:
            return c.Delivery.FULL
        _append(inbox, self._now(), frame)
        return c.Delivery.DONE

    def _group(self, name: GroupName, now: float) -> _Group | None:
        """Return a group without the memberships that are over; None, and nothing is kept of it, if it is empty."""
        group = self._all.groups.get(name.name)
        if group is None:
            return None
        lasts = self._rules.group_expiry
        group.retire(now, math.inf if lasts is None else lasts, self._lifetime)
        if group.owned or group.others:
            return group
        del self._all.groups[name.name]
        return None

    def _forget_left(self, now: float) -> None:
        left = self._all.left
        while left and now - left[oldest := next(iter(left))] >= 2 * self._lease:
            del left[oldest]


class MemoryBlockingStore:
    """The blocking store port over a `MemoryBackend`.

    Args:
        store: the way to it; it waits for nothing but what `MemoryStore.wait` waits for.
    """

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        return self._store.carry_out(command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return execute_each_blocking(self, commands)

    def wait(self, request: c.WaitAny, /) -> _Waiting:
        """Begin to wait."""
        return _Waiting(self._store, request)

    def close(self) -> None:
        """Nothing to let go of."""


class _Waiting:
    """See `channel_layer.ports.Waiting`."""

    def __init__(self, store: MemoryStore, request: c.WaitAny) -> None:
        self.seconds: Final = request.block
        self._store = store
        self._queues = request.queues
        self._alarm = Alarm()
        for queue in request.queues:
            store.begin_to_wait(queue.name, self._alarm)

    @property
    def descriptors(self) -> tuple[int, ...]:
        return (self._alarm.descriptor,)

    def end(self) -> tuple[Queue, ...]:
        called = tuple(queue for queue in self._queues if self._store.end_to_wait(queue.name, self._alarm))
        self._alarm.close()
        return called


def _append(inbox: _Minted, now: float, frame: bytes) -> None:
    inbox.last += 1
    inbox.entries.append((inbox.last, now, frame))
    while inbox.readers:
        inbox.readers.popleft().wake()


def _count(inbox: _Minted, frame: bytes) -> None:
    if frame[:1] == b"m":
        name = frame[2 : 2 + frame[1]].decode("ascii")
        inbox.unread[name] = inbox.unread.get(name, 0) + 1


def _is_for(channel: str, begins: bytes) -> bool:
    return message_frame(channel, b"").startswith(begins)


def _call(line: _Line) -> None:
    """Tell one of those who wait that there is something."""
    line.called = False
    if line.entries:
        if line.waiters:
            line.waiters.popleft().wake()
        else:
            line.called = True


def _forget_empty(group: _Group, inboxes: Iterable[str]) -> None:
    """Forget inboxes that hold no member any more."""
    for inbox in inboxes:
        if not any(name.startswith(inbox) for name in group.owned):
            group.inboxes.pop(inbox, None)


def _drop_inboxes(group: _Group, inboxes: list[str]) -> None:
    for inbox in inboxes:
        for name in [name for name in group.owned if name.startswith(inbox)]:
            del group.owned[name]
        group.inboxes.pop(inbox, None)


if TYPE_CHECKING:
    _fits: type[Store] = MemoryStore
    _fits_threads: type[BlockingStore] = MemoryBlockingStore
    _fits_too: type[Backend] = MemoryBackend
