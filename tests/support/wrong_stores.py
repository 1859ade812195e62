"""Stores that are wrong on purpose, each in one way: the kit's test of stores has to notice every one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import ClassVar, TypeVar

from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.rates import Rates
from channel_layer.domain.rules import Rules
from channel_layer.errors import StoreError
from channel_layer.ports import Capabilities, Clock, SimpleStore
from channel_layer.stores.wrapper import unsupported
from channel_layer.testing import MakeSimpleStore, MakeStore
from channel_layer_memory._store import MemoryBackend, MemoryBlockingStore, MemoryStore
from tests.support.stores import shared

__all__ = (
    "WRONG_STORES",
    "ChecksThenPushes",
    "DropsWhenAsked",
    "FailsAsAWhole",
    "LacksAHandler",
    "MixesOutcomesUp",
    "OneTooMany",
    "RefusesACommand",
    "ThreadsLackAHandler",
    "TwoForOne",
    "WrongBackend",
    "WrongStore",
    "simple_stores",
    "wrong_stores",
)

R = TypeVar("R")

_LONG = 1e9
"""Seconds that are more than any store is tested for."""


class WrongBackend(MemoryBackend):
    """A backend whose stores are of a wrong kind.

    Args:
        kind: of the stores.
        backends: all of one factory, by prefix.
        rules: the configuration.
        clock: what time it is.
    """

    def __init__(self, kind: type[WrongStore], backends: dict[str, WrongBackend], rules: Rules, clock: Clock) -> None:
        super().__init__(rules, clock)
        self.kind = kind
        self.capabilities = kind.capabilities
        self.backends = backends
        backends[rules.prefix] = self

    def open(self) -> WrongStore:
        """Make a wrong store."""
        return self.kind(self)

    def open_blocking(self) -> MemoryBlockingStore:
        """Make one for threads."""
        return self.open().for_threads()


class WrongStore(MemoryStore):
    """What all of them share; right by itself."""

    capabilities: ClassVar[Capabilities] = MemoryBackend.capabilities

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.backend = backend
        self.rules = backend.rules

    def for_threads(self) -> MemoryBlockingStore:
        """Return this store for threads."""
        return MemoryBlockingStore(self)

    @contextlib.contextmanager
    def under(self, rules: Rules) -> Generator[None]:
        """Let other rules hold in here."""
        self._rules, right = rules, self._rules
        try:
            yield
        finally:
            self._rules = right

    def entries(self, queue: Queue) -> deque[c.Entry]:
        """Return what is in a queue."""
        return self._all.lines[queue.name].entries

    def has_owner(self, queue: Queue) -> bool:
        """Whether a queue is an inbox with a living owner."""
        return self._owned(queue.name) is not None


# -- the vocabulary ----------------------------------------------------------------------------------------------


class LacksAHandler(WrongStore):
    """Fails for a command that it does not know."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out any command but one."""
        kind = type(command)
        if kind is c.Prune:
            raise KeyError(kind)
        return await super().execute(command)


class RefusesACommand(WrongStore):
    """Does not support a command for which its capabilities are enough."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out any command but one."""
        kind = type(command)
        if kind is c.CheckGroups:
            raise unsupported(command)
        return await super().execute(command)


class _LacksAHandler(MemoryBlockingStore):
    def execute(self, command: c.Command[R], /) -> R:
        kind = type(command)
        if kind is c.Acknowledge:
            raise unsupported(command)
        return super().execute(command)


class ThreadsLackAHandler(WrongStore):
    """Carries out in threads all but one of the commands."""

    def for_threads(self) -> MemoryBlockingStore:
        """Return the same store for threads, but for one command."""
        return _LacksAHandler(self)


class MixesOutcomesUp(WrongStore):
    """Returns what came of several commands in another order."""

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands."""
        return (await super().execute_many(commands))[::-1]


class FailsAsAWhole(WrongStore):
    """Raises what one of several commands fails with, in the place of all outcomes."""

    capabilities: ClassVar[Capabilities] = Capabilities(registers_readers=False)

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, if it is supported."""
        kind = type(command)
        if kind is c.FindOrphaned:
            raise unsupported(command)
        return await super().execute(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, and fail if one of them does."""
        outcomes = await super().execute_many(commands)
        for outcome in outcomes:
            if isinstance(outcome, StoreError):
                raise outcome
        return outcomes


# -- messages ----------------------------------------------------------------------------------------------------


class OneTooMany(WrongStore):
    """Takes one message more than the capacity."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return super().push(replace(request, capacity=request.capacity + 1))


class TwoForOne(WrongStore):
    """Takes two messages where only one may wait."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return super().push(replace(request, capacity=max(2, request.capacity)))


class ChecksThenPushes(WrongStore):
    """Looks whether there is room, and pushes a moment later."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.checked: list[c.Push] = []

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, a push in two steps."""
        if self.has_room(command):
            await asyncio.sleep(0)
        return await super().execute(command)

    def has_room(self, command: c.Command[object]) -> bool:
        """Whether this is a push, and may be carried out whatever comes between."""
        if not isinstance(command, c.Push) or self.has_owner(command.channel.queue):
            return False
        if len(self.entries(command.channel.queue)) >= command.capacity:
            return False
        self.checked.append(command)
        return True

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push, without another look if there was one."""
        if request in self.checked:
            self.checked.remove(request)
            return super().push(replace(request, capacity=1000))
        return super().push(request)


class LastFirst(WrongStore):
    """Pops the newest message first."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = super().pop(replace(request, count=0))
        if popped.owned or popped.held_for is not None:
            return popped
        entries = self.entries(request.queue)
        newest = [entries.pop() for _ in range(min(request.count, len(entries)))]
        if request.count:
            self.backend.unread.pop(request.queue.name, None)
        return replace(popped, entries=tuple(newest))


class PopsTheOld(WrongStore):
    """Pops messages that are too old."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        with self.under(replace(self.rules, expiry=_LONG)):
            return super().pop(request)


class CountsTheOld(WrongStore):
    """Counts messages that are too old against the capacity."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        if request.to_member:
            return super().push(request)
        with self.under(replace(self.rules, expiry=_LONG)):
            return super().push(request)


class DropsUncounted(WrongStore):
    """Drops messages that are too old without a word."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return replace(super().pop(request), expired=0)


class DropsWhenAsked(WrongStore):
    """Loses a message when it is asked for none."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = super().pop(request)
        entries = self.entries(request.queue)
        if not request.count and entries and popped.held_for is None and not popped.owned:
            entries.popleft()
        return popped


class WholeSeconds(WrongStore):
    """Ignores fractions of a second in ``expiry``."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._rules = self.rules = replace(backend.rules, expiry=float(int(backend.rules.expiry)))


class IgnoresCase(WrongStore):
    """Takes names that differ only in case for the same."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        queue = request.channel.queue
        channel = replace(request.channel, queue=replace(queue, name=queue.name.lower()))
        return super().push(replace(request, channel=channel))

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return super().pop(replace(request, queue=replace(request.queue, name=request.queue.name.lower())))


class PutsBackBehind(WrongStore):
    """Puts messages back at the tail of their queue."""

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        before = len(self.entries(request.queue))
        returned = super().put_back(request)
        entries = self.entries(request.queue)
        entries.rotate(before - len(entries))
        return returned


class PutsBackAnew(WrongStore):
    """Gives messages that are put back a new stamp."""

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        entries = tuple(replace(entry, stamp=self._now()) for entry in request.entries)
        return super().put_back(replace(request, entries=entries))


class PutsBackTheFlushed(WrongStore):
    """Lets messages in again that were popped before a flush."""

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        self.backend.flushed_at = 0.0
        return super().put_back(request)


class PopsTwice(WrongStore):
    """Queues a message again after half its life, though a reader has it: that one may have been killed."""

    popped: dict[str, list[c.Entry]]

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.popped = {}

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        held = self.popped.setdefault(request.queue.name, [])
        for entry in [entry for entry in held if entry.stamp + self.rules.expiry / 2 <= self._now()]:
            held.remove(entry)
            self.entries(request.queue).appendleft(entry)
        popped = super().pop(request)
        held.extend(popped.entries)
        return popped


class FullNames(WrongStore):
    """Keeps messages by the full name of their channel, where no reader of the inbox finds them."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        name = request.channel.name
        if request.channel.queue.kind is Kind.INBOX and not self.has_owner(request.channel.queue):
            return super().push(replace(request, channel=ChannelName(name, Queue(name, Kind.INBOX))))
        return super().push(request)


class StandsStill(WrongStore):
    """Tells the time by a clock that is not moved with the others."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = super().pop(request)
        return replace(popped, now=popped.now - self.backend.clock.offset)


class CountsAllPending(WrongStore):
    """Counts all that waits in the queue, for other channels, too."""

    def pending(self, request: c.Pending, /) -> int:
        """Count."""
        if self.has_owner(request.channel.queue):
            return super().pending(request)
        return len(self.entries(request.channel.queue))


class CountsAlikeNames(WrongStore):
    """Counts for a channel what waits in an owned inbox for others whose names begin like its own."""

    def pending(self, request: c.Pending, /) -> int:
        """Count."""
        inbox = self._owned(request.channel.queue.name)
        if inbox is None:
            return super().pending(request)
        name = request.channel.name.encode()
        return sum(frame[:1] == b"m" and frame[2:].startswith(name) for _, _, frame in inbox.entries)


# -- claimed inboxes


class ReportsTwice(WrongStore):
    """Counts what a process reports twice."""

    def report(self, request: c.Report, /) -> None:
        """Report."""
        super().report(request)
        super().report(request)


class ForgetsTheNameless(WrongStore):
    """Adds up what is reported of queues, and forgets those whose names are not told."""

    def report(self, request: c.Report, /) -> None:
        """Report."""
        messages, refused = sum(each.messages for each in request.counts), sum(each.refused for each in request.counts)
        super().report(replace(request, messages=messages, refused=refused))


class CountsForEver(WrongStore):
    """Takes all that was ever reported for what was reported lately."""

    def reported(self, request: c.Reported, /) -> Rates:
        """Tell."""
        rates = super().reported(request)
        return replace(rates, lately=rates.messages, refused_lately=rates.refused)


class OneCountForAll(WrongStore):
    """Tells of every queue what was reported of all."""

    def reported(self, request: c.Reported, /) -> Rates:
        """Tell."""
        return super().reported(replace(request, queue=None))


class SurveysTheOld(WrongStore):
    """Takes messages that are too old for some that wait."""

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        with self.under(replace(self.rules, expiry=_LONG)):
            return super().survey(request)


class SurveysTheYoungest(WrongStore):
    """Tells how long the youngest message has waited."""

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        surveyed = super().survey(request)
        line = self.entries(request.channel.queue) if request.channel is not None else None
        return replace(surveyed, oldest=self._now() - line[-1].stamp) if line else surveyed


class SurveysTheRead(WrongStore):
    """Takes messages that an owner has read, and that were not received, for ones that do not wait."""

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        if request.channel is None or not self.has_owner(request.channel.queue):
            return super().survey(request)
        return c.Surveyed(self.pending(c.Pending(request.shard, request.channel)), None)


class TwoReaders(WrongStore):
    """Lets two claimants read one inbox at once."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        self.backend.claims.clear()
        return super().pop(request)


class EndlessClaim(WrongStore):
    """Keeps an inbox for ever for the claimant that has popped it once."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = _LONG

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = super().pop(request)
        return popped if popped.held_for is None else replace(popped, held_for=1.5 * self.rules.expiry)

    def claim(self, request: c.AcquireLease, /) -> c.LeaseAcquired:
        """Claim, with a lease that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return super().claim(request)
        finally:
            self._lease = _LONG

    def renew(self, request: c.RenewLease, /) -> c.LeaseRenewed:
        """Renew a lease that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return super().renew(request)
        finally:
            self._lease = _LONG


class Inherits(WrongStore):
    """Gives the claimant of an inbox what its predecessor has popped."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.last: dict[str, tuple[str, tuple[c.Entry, ...]]] = backend.__dict__.setdefault("last", {})

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        name = request.queue.name
        claim = self.backend.claims.get(name)
        predecessor, entries = self.last.get(name, (request.claimant, ()))
        free = claim is None or claim[1] <= self._now()
        if request.queue.kind is Kind.INBOX and free and predecessor != request.claimant:
            self.entries(request.queue).extendleft(reversed(entries))
        popped = super().pop(request)
        if popped.entries:
            self.last[name] = request.claimant, popped.entries
        return popped


# -- unread messages


class KeepsUnread(WrongStore):
    """Does not forget that a member has let a message expire."""

    def clear_unread(self, request: c.ClearUnread, /) -> None:
        """Forgive."""


class TakesReadForUnread(WrongStore):
    """Takes a member that reads for one that lets its messages expire."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        noted = dict(self.backend.unread)
        popped = super().pop(request)
        self.backend.unread.update(noted)
        return popped


class TakesSlowForUnread(WrongStore):
    """Takes a member that comes back for one that does not read, if its message has expired and no other one waits."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        noted = dict(self.backend.unread)
        popped = super().pop(request)
        if not popped.entries:
            self.backend.unread.update(noted)
        return popped


class RemovesAtFirstExpiry(WrongStore):
    """Takes a member for one that does not read as soon as a message to it has expired."""

    def _unread_expired(self, channel: ChannelName, now: float) -> bool:
        return super()._unread_expired(channel, now + self._rules.expiry)


class NotesNoUnread(WrongStore):
    """Says that it notes which members let messages expire, and does not."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return super().push(replace(request, to_member=False))


# -- flush -------------------------------------------------------------------------------------------------------


class FlushesNeighbours(WrongStore):
    """Flushes every prefix that begins like its own."""

    def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        for prefix, other in self.backend.backends.items():
            if prefix.startswith(self.rules.prefix) and other is not self.backend:
                other.lines.clear()
        return super().flush(request)


class KeepsGroups(WrongStore):
    """Leaves the groups when it flushes."""

    def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        groups = dict(self.backend.groups)
        flushing = super().flush(request)
        self.backend.groups.update(groups)
        return flushing


class FlushesSilently(WrongStore):
    """Puts no flush marker into the inboxes that it empties."""

    def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        flushing = super().flush(request)
        for name in flushing.inboxes:
            self.backend.inboxes[name].entries.clear()
        return flushing


class SparesTheDead(WrongStore):
    """Leaves, when it flushes, what waits in inboxes whose lease has ended, for owners who may come back."""

    def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        spared = {
            name: list(inbox.entries) for name, inbox in self.backend.inboxes.items() if self._owned(name) is None
        }
        flushing = super().flush(request)
        for name, entries in spared.items():
            inbox = self.backend.inboxes[name]
            inbox.entries.clear()
            inbox.entries.extend(entries)
        return flushing


class AwaitsNoOwner(WrongStore):
    """Says at once that every inbox has acknowledged a flush."""

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        """Say."""
        del request
        return ()


# -- owned inboxes -----------------------------------------------------------------------------------------------


class EndlessLease(WrongStore):
    """Lets no lease end."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = _LONG

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop, with a claim that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return super().pop(request)
        finally:
            self._lease = _LONG


class HalfALease(WrongStore):
    """Lets leases end after half their time."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = 0.75 * backend.rules.expiry


class SharedCapacity(WrongStore):
    """Counts the whole owned inbox against the capacity of one channel."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        inbox = self._owned(request.channel.queue.name)
        if inbox is not None and sum(inbox.unread.values()) >= request.capacity:
            return c.Pushed(accepted=False, expired=0)
        return super().push(request)


class GivesBackTwice(WrongStore):
    """Counts places again when the same request comes again."""

    def return_credits(self, request: c.ReturnCredits, /) -> None:
        """Give back."""
        inbox = self._owned(request.inbox.name)
        if inbox is not None:
            inbox.serial = 0
        super().return_credits(request)


class GivesBackTheFlushed(WrongStore):
    """Counts places of an older generation."""

    def return_credits(self, request: c.ReturnCredits, /) -> None:
        """Give back."""
        inbox = self._owned(request.inbox.name)
        super().return_credits(request if inbox is None else replace(request, generation=inbox.generation))


class ForgetsTheHeld(WrongStore):
    """Forgets, when a lease is taken again, what the owner holds unread."""

    def claim(self, request: c.AcquireLease, /) -> c.LeaseAcquired:
        """Claim."""
        return super().claim(replace(request, held=()))


class LeavesBehind(WrongStore):
    """Leaves behind what was sent to an inbox before it had an owner."""

    def claim(self, request: c.AcquireLease, /) -> c.LeaseAcquired:
        """Claim."""
        self.backend.lines.pop(request.inbox.name, None)
        return super().claim(request)


class ReadsOnce(WrongStore):
    """Lets go of entries when they are read, so that a read cannot be repeated."""

    def read(self, request: c.Read, /) -> c.Batch:
        """Read."""
        batch = super().read(request)
        inbox = self.backend.inboxes.get(request.inbox.name)
        if inbox is not None:
            inbox.entries.clear()
        return batch


class OneFullForAll(WrongStore):
    """Delivers a group message to no inbox if one is full."""

    def publish(self, request: c.Publish, /) -> c.Published:
        """Publish."""
        group = self.backend.groups.get(request.group.name)
        inboxes = [self._owned(name) for name in group.inboxes] if group is not None else []
        if any(inbox is not None and len(inbox.entries) >= self.rules.inbox_capacity for inbox in inboxes):
            with self.under(replace(self.rules, inbox_capacity=0)):
                return super().publish(request)
        return super().publish(request)


class ForgetsExtraRecipients(WrongStore):
    """Delivers a group message without the names of the members that the owner did not add."""

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        """Deliver."""
        return super().deliver(replace(request, extra_recipients=()))


# -- groups ------------------------------------------------------------------------------------------------------


class EndlessGroup(WrongStore):
    """Lets no membership end by time."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lifetime = _LONG
        self._rules = self.rules = replace(backend.rules, group_expiry=None)


class JoinsTwice(WrongStore):
    """Makes two members of one that joins twice."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.joined: list[tuple[str, str]] = []

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        self.joined.append((request.group.name, request.channel.name))
        return super().join(request)

    def members(self, request: c.Members, /) -> c.GroupMembers:
        """List the members."""
        listed = super().members(request)
        others = [name for name in listed.others for _ in range(self.joined.count((request.group.name, name)))]
        return replace(listed, others=tuple(others) or listed.others)


class NeverRefreshes(WrongStore):
    """Lets a membership end a ``group_expiry`` after the first joining, whatever came after it."""

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        group = self._group(request.group, self._now())
        joined = group.others.get(request.channel.name) if group is not None else None
        changed = super().join(request)
        group = self.backend.groups[request.group.name] if changed.applied else None
        if group is not None and joined is not None and request.channel.name in group.others:
            group.others[request.channel.name] = joined
        return changed


class RestoresTheLeft(WrongStore):
    """Lets a member come back that has left, when its owner announces it again."""

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        self.backend.left.pop((request.group.name, request.channel.name), None)
        return super().join(request)


class JoinsUnmarked(WrongStore):
    """Says that the marker of a joining is in the inbox, and puts none."""

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        changed = super().join(replace(request, mark=False))
        marked = request.mark and changed.owned and self.has_owner(request.channel.queue)
        return replace(changed, marked=marked)


class TakesFromOwners(WrongStore):
    """Lets a stranger who adds a member take it from its owner."""

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        group = self.backend.groups.get(request.group.name)
        if group is not None and not request.owned:
            group.owned.pop(request.channel.name, None)
        return super().join(request)


class RemovesTooMuch(WrongStore):
    """Removes for its owner a channel that has joined again since."""

    def leave(self, request: c.Leave, /) -> c.Changed:
        """Leave."""
        return super().leave(request if request.latest is None else replace(request, latest=2**62))


class PrunesMembersThatCameBack(WrongStore):
    """Prunes the members of an inbox that one of them has joined from since."""

    def prune(self, request: c.Prune, /) -> None:
        """Prune."""
        super().prune(replace(request, version=2**62 if request.inboxes else request.version))


class StaysTheSame(WrongStore):
    """Tells a version that does not grow when a member joins again."""

    def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        version = self.backend.version
        changed = super().join(request)
        if changed.applied and version:
            self.backend.version = version
        return replace(changed, version=self.backend.version)


# -- registered readers----------------------------------------------------------------------------------------------


class PushesWithoutReader(WrongStore):
    """Takes a message although its queue has no registered reader."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return super().push(replace(request, if_registered=False))


class RegistersNoReader(WrongStore):
    """Registers no reader."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return super().pop(replace(request, register=0.0))


class KeepsReadersForEver(WrongStore):
    """Does not see when a reader's time is over."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return super().pop(replace(request, register=_LONG if request.register else 0.0))


class RegistersOnce(WrongStore):
    """Does not let a registered reader register again."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        noted = self._all.registered.get(request.queue.name, {})
        return super().pop(replace(request, register=0.0) if request.claimant in noted else request)


class KeepsReleasedReaders(WrongStore):
    """Keeps a reader registered that has released the queue."""

    def release_claim(self, request: c.ReleaseClaim, /) -> None:
        """Unclaim."""
        if request.inbox.kind is Kind.INBOX:
            super().release_claim(request)


class ForgetsAllReaders(WrongStore):
    """Forgets all readers of a queue when one of them has gone."""

    def release_claim(self, request: c.ReleaseClaim, /) -> None:
        """Unclaim."""
        self._all.registered.pop(request.inbox.name, None)
        super().release_claim(request)


class FlushesReaders(WrongStore):
    """Forgets the registered readers when everything is flushed."""

    def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        self._all.registered.clear()
        return super().flush(request)


class ForgetsOrphans(WrongStore):
    """Names no orphaned queue."""

    def orphaned(self, _request: c.FindOrphaned, /) -> tuple[str, ...]:
        """Say."""
        return ()


class OrphansReadQueues(WrongStore):
    """Names queues orphaned that have a registered reader."""

    def orphaned(self, _request: c.FindOrphaned, /) -> tuple[str, ...]:
        """Say."""
        return tuple(name for name, line in self._all.lines.items() if line.entries)


# -- factories ---------------------------------------------------------------------------------------------------


class _Simple:
    """A simple store over one that is more: its calls end at once."""

    def __init__(self, store: WrongStore) -> None:
        self._store = store

    def push(self, request: c.Push, /) -> c.Pushed:
        return self._store.push(request)

    def pop(self, request: c.Pop, /) -> c.Popped:
        return self._store.pop(request)

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return self._store.put_back(request)

    def pending(self, request: c.Pending, /) -> int:
        return self._store.pending(request)

    def join(self, request: c.Join, /) -> None:
        self._store.join(request)

    def leave(self, request: c.Leave, /) -> None:
        self._store.leave(request)

    def members(self, request: c.Members, /) -> c.GroupMembers:
        return self._store.members(request)

    def flush(self, request: c.Flush, /) -> int:
        return self._store.flush(request).dropped

    def close(self) -> None:
        """Nothing is open."""


def wrong_stores(kind: type[WrongStore]) -> MakeStore:
    """Return a factory of stores of one kind."""
    backends: dict[str, WrongBackend] = {}
    return shared(lambda rules, clock: WrongBackend(kind, backends, rules, clock))


def simple_stores(kind: type[WrongStore]) -> MakeSimpleStore:
    """Return a factory of simple stores of one kind; of `WrongStore` itself, right ones."""
    backends: dict[str, WrongBackend] = {}

    def make_store(rules: Rules, clock: Clock) -> SimpleStore:
        backend = backends.get(rules.prefix)
        return _Simple(kind(backend if backend is not None else WrongBackend(kind, backends, rules, clock)))

    return make_store


WRONG_STORES: tuple[type[WrongStore], ...] = (
    LacksAHandler,
    RefusesACommand,
    ThreadsLackAHandler,
    MixesOutcomesUp,
    FailsAsAWhole,
    PushesWithoutReader,
    RegistersNoReader,
    KeepsReadersForEver,
    RegistersOnce,
    KeepsReleasedReaders,
    ForgetsAllReaders,
    FlushesReaders,
    ForgetsOrphans,
    OrphansReadQueues,
    OneTooMany,
    TwoForOne,
    ChecksThenPushes,
    LastFirst,
    PopsTheOld,
    CountsTheOld,
    DropsUncounted,
    DropsWhenAsked,
    WholeSeconds,
    IgnoresCase,
    PutsBackBehind,
    PutsBackAnew,
    PutsBackTheFlushed,
    PopsTwice,
    FullNames,
    StandsStill,
    CountsAllPending,
    CountsAlikeNames,
    ReportsTwice,
    ForgetsTheNameless,
    CountsForEver,
    OneCountForAll,
    SurveysTheOld,
    SurveysTheYoungest,
    SurveysTheRead,
    TwoReaders,
    EndlessClaim,
    Inherits,
    KeepsUnread,
    RemovesAtFirstExpiry,
    TakesReadForUnread,
    TakesSlowForUnread,
    NotesNoUnread,
    FlushesNeighbours,
    KeepsGroups,
    FlushesSilently,
    SparesTheDead,
    AwaitsNoOwner,
    EndlessLease,
    HalfALease,
    SharedCapacity,
    GivesBackTwice,
    GivesBackTheFlushed,
    ForgetsTheHeld,
    LeavesBehind,
    ReadsOnce,
    OneFullForAll,
    ForgetsExtraRecipients,
    EndlessGroup,
    JoinsTwice,
    NeverRefreshes,
    RestoresTheLeft,
    JoinsUnmarked,
    TakesFromOwners,
    RemovesTooMuch,
    PrunesMembersThatCameBack,
    StaysTheSame,
)
"""All of them."""
