"""Stores that are wrong on purpose, each in one way: the machine that judges stores has to notice every one of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine, Generator
from dataclasses import replace
from typing import TypeVar

from channel_layer import commands as c
from channel_layer.config import Rules
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.rates import Rates
from channel_layer.ports import Clock, SimpleStore
from channel_layer.testing import MakeSimpleStore, MakeStore
from channel_layer_memory._store import MemoryBackend, MemoryStore
from tests.support.stores import shared

__all__ = (
    "WRONG_STORES",
    "DropsWhenAsked",
    "OneTooMany",
    "WrongBackend",
    "WrongStore",
    "simple_stores",
    "wrong_stores",
)

R = TypeVar("R")

_LONG = 1e9
"""Seconds that are more than any store is judged for."""


class WrongBackend(MemoryBackend):
    """A world whose stores are of a wrong kind.

    Args:
        kind: of the stores.
        worlds: where all worlds of one factory are noted, by prefix.
        rules: the configuration.
        clock: what time it is.
    """

    def __init__(self, kind: type[WrongStore], worlds: dict[str, WrongBackend], rules: Rules, clock: Clock) -> None:
        super().__init__(rules, clock)
        self.kind = kind
        self.worlds = worlds
        worlds[rules.prefix] = self

    def open(self) -> WrongStore:
        """Make a wrong store."""
        return self.kind(self)


class WrongStore(MemoryStore):
    """What all of them share; right by itself."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.world = backend
        self.rules = backend.rules

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
        return self._line(queue.name).entries

    def has_owner(self, queue: Queue) -> bool:
        """Whether a queue is an inbox with a minting owner who lives."""
        return self._minted(queue.name) is not None


# -- messages ----------------------------------------------------------------------------------------------------


class OneTooMany(WrongStore):
    """Takes one message more than the capacity."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return await super().push(replace(request, capacity=request.capacity + 1))


class TwoForOne(WrongStore):
    """Takes two messages where only one may wait."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return await super().push(replace(request, capacity=max(2, request.capacity)))


class ChecksThenPushes(WrongStore):
    """Looks whether there is room, and pushes a moment later."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        if len(self.entries(request.channel.queue)) >= request.capacity or self.has_owner(request.channel.queue):
            return await super().push(request)
        await asyncio.sleep(0)
        return await super().push(replace(request, capacity=1000))


class LastFirst(WrongStore):
    """Pops the newest message first."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = await super().pop(replace(request, count=0))
        if popped.minted or popped.held_for is not None:
            return popped
        entries = self.entries(request.queue)
        newest = [entries.pop() for _ in range(min(request.count, len(entries)))]
        if newest:
            self.world.unread.pop(request.queue.name, None)
        return replace(popped, entries=tuple(newest))


class PopsTheOld(WrongStore):
    """Pops messages that are too old."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        with self.under(replace(self.rules, expiry=_LONG)):
            return await super().pop(request)


class CountsTheOld(WrongStore):
    """Counts messages that are too old against the capacity."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        if request.to_member:
            return await super().push(request)
        with self.under(replace(self.rules, expiry=_LONG)):
            return await super().push(request)


class DropsUncounted(WrongStore):
    """Drops messages that are too old without a word."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return replace(await super().pop(request), expired=0)


class DropsWhenAsked(WrongStore):
    """Loses a message when it is asked for none."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = await super().pop(request)
        entries = self.entries(request.queue)
        if not request.count and entries and popped.held_for is None and not popped.minted:
            entries.popleft()
        return popped


class WholeSeconds(WrongStore):
    """Ignores fractions of a second in ``expiry``."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._rules = self.rules = replace(backend.rules, expiry=float(int(backend.rules.expiry)))


class IgnoresCase(WrongStore):
    """Takes names that differ only in case for the same."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        queue = request.channel.queue
        channel = replace(request.channel, queue=replace(queue, name=queue.name.lower()))
        return await super().push(replace(request, channel=channel))

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return await super().pop(replace(request, queue=replace(request.queue, name=request.queue.name.lower())))


class PutsBackBehind(WrongStore):
    """Puts messages back at the tail of their queue."""

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        before = len(self.entries(request.queue))
        returned = await super().put_back(request)
        entries = self.entries(request.queue)
        entries.rotate(before - len(entries))
        return returned


class PutsBackAnew(WrongStore):
    """Gives messages that are put back a new stamp."""

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        entries = tuple(replace(entry, stamp=self._now()) for entry in request.entries)
        return await super().put_back(replace(request, entries=entries))


class PutsBackTheFlushed(WrongStore):
    """Lets messages in again that were popped before a flush."""

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Put back."""
        self.world.flushed_at = 0.0
        return await super().put_back(request)


class PopsTwice(WrongStore):
    """Queues a message again after half its life, though a reader has it: that one may have been killed."""

    popped: dict[str, list[c.Entry]]

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.popped = {}

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        held = self.popped.setdefault(request.queue.name, [])
        for entry in [entry for entry in held if entry.stamp + self.rules.expiry / 2 <= self._now()]:
            held.remove(entry)
            self.entries(request.queue).appendleft(entry)
        popped = await super().pop(request)
        held.extend(popped.entries)
        return popped


class FullNames(WrongStore):
    """Keeps messages by the full name of their channel, where nobody who reads the inbox finds them."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        name = request.channel.name
        if request.channel.queue.kind is Kind.INBOX and not self.has_owner(request.channel.queue):
            return await super().push(replace(request, channel=ChannelName(name, Queue(name, Kind.INBOX))))
        return await super().push(request)


class StandsStill(WrongStore):
    """Tells the time by a clock that is not moved with the others."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = await super().pop(request)
        return replace(popped, now=popped.now - self.world.clock.offset)


class CountsAllPending(WrongStore):
    """Counts what waits in the queue, whomever it is for."""

    async def pending(self, request: c.Pending, /) -> int:
        """Count."""
        if self.has_owner(request.channel.queue):
            return await super().pending(request)
        return len(self.entries(request.channel.queue))


class CountsAlikeNames(WrongStore):
    """Counts for a channel what waits in a minted inbox for others whose names begin like its own."""

    async def pending(self, request: c.Pending, /) -> int:
        """Count."""
        inbox = self._minted(request.channel.queue.name)
        if inbox is None:
            return await super().pending(request)
        name = request.channel.name.encode()
        return sum(frame[:1] == b"m" and frame[2:].startswith(name) for _, _, frame in inbox.entries)


# -- claimed inboxes


class ReportsTwice(WrongStore):
    """Counts what a process reports twice."""

    async def report(self, request: c.Report, /) -> None:
        """Report."""
        await super().report(request)
        await super().report(request)


class ForgetsTheNameless(WrongStore):
    """Adds up what is reported of queues, and forgets those whose names are not told."""

    async def report(self, request: c.Report, /) -> None:
        """Report."""
        messages, refused = sum(each.messages for each in request.counts), sum(each.refused for each in request.counts)
        await super().report(replace(request, messages=messages, refused=refused))


class CountsForEver(WrongStore):
    """Takes all that was ever reported for what was reported lately."""

    async def reported(self, request: c.Reported, /) -> Rates:
        """Tell."""
        rates = await super().reported(request)
        return replace(rates, lately=rates.messages, refused_lately=rates.refused)


class OneCountForAll(WrongStore):
    """Tells of every queue what was reported of all."""

    async def reported(self, request: c.Reported, /) -> Rates:
        """Tell."""
        return await super().reported(replace(request, queue=None))


class SurveysTheOld(WrongStore):
    """Takes messages that are too old for some that wait."""

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        with self.under(replace(self.rules, expiry=_LONG)):
            return await super().survey(request)


class SurveysTheYoungest(WrongStore):
    """Tells how long the youngest message has waited."""

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        surveyed = await super().survey(request)
        line = self.entries(request.channel.queue) if request.channel is not None else None
        return replace(surveyed, oldest=self._now() - line[-1].stamp) if line else surveyed


class SurveysTheRead(WrongStore):
    """Takes messages that an owner has read, and nobody received, for ones that do not wait."""

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        """Survey."""
        if request.channel is None or not self.has_owner(request.channel.queue):
            return await super().survey(request)
        return c.Surveyed(await self.pending(c.Pending(request.shard, request.channel)), None)


class TwoReaders(WrongStore):
    """Lets two claimants read one inbox at once."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        self.world.claims.clear()
        return await super().pop(request)


class EndlessClaim(WrongStore):
    """Keeps an inbox for ever for who has popped it once."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = _LONG

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        popped = await super().pop(request)
        return popped if popped.held_for is None else replace(popped, held_for=1.5 * self.rules.expiry)

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        """Claim, with a lease that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return await super().claim(request)
        finally:
            self._lease = _LONG

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        """Renew a lease that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return await super().renew(request)
        finally:
            self._lease = _LONG


class Inherits(WrongStore):
    """Gives who claims an inbox what its predecessor has popped."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self.last: dict[str, tuple[str, tuple[c.Entry, ...]]] = backend.__dict__.setdefault("last", {})

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        name = request.queue.name
        claim = self.world.claims.get(name)
        predecessor, entries = self.last.get(name, (request.claimant, ()))
        free = claim is None or claim[1] <= self._now()
        if request.queue.kind is Kind.INBOX and free and predecessor != request.claimant:
            self.entries(request.queue).extendleft(reversed(entries))
        popped = await super().pop(request)
        if popped.entries:
            self.last[name] = request.claimant, popped.entries
        return popped


# -- lapses


class ForgivesNobody(WrongStore):
    """Does not forget that a member has let a message expire."""

    async def forgive(self, request: c.Forgive, /) -> None:
        """Forgive."""


class LapsesReaders(WrongStore):
    """Takes a member that reads for one that lets its messages expire."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        noted = dict(self.world.unread)
        popped = await super().pop(request)
        self.world.unread.update(noted)
        return popped


class LapsesNobody(WrongStore):
    """Says that it notes which members let messages expire, and does not."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return await super().push(replace(request, to_member=False))


# -- flush -------------------------------------------------------------------------------------------------------


class FlushesNeighbours(WrongStore):
    """Flushes every prefix that begins like its own."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        for prefix, world in self.world.worlds.items():
            if prefix.startswith(self.rules.prefix) and world is not self.world:
                world.lines.clear()
        return await super().flush(request)


class KeepsGroups(WrongStore):
    """Leaves the groups when it flushes."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        groups = dict(self.world.groups)
        flushing = await super().flush(request)
        self.world.groups.update(groups)
        return flushing


class FlushesSilently(WrongStore):
    """Puts no flush marker into the inboxes that it empties."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        flushing = await super().flush(request)
        for name in flushing.inboxes:
            self.world.inboxes[name].entries.clear()
        return flushing


class SparesTheDead(WrongStore):
    """Leaves, when it flushes, what waits in inboxes whose lease has ended, for owners who may come back."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        spared = {name: list(inbox.entries) for name, inbox in self.world.inboxes.items() if self._minted(name) is None}
        flushing = await super().flush(request)
        for name, entries in spared.items():
            inbox = self.world.inboxes[name]
            inbox.entries.clear()
            inbox.entries.extend(entries)
        return flushing


class AwaitsNobody(WrongStore):
    """Says at once that every inbox has acknowledged a flush."""

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        """Say."""
        del request
        return ()


# -- minted inboxes ----------------------------------------------------------------------------------------------


class EndlessLease(WrongStore):
    """Lets no lease end."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = _LONG

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop, with a claim that ends."""
        self._lease = 1.5 * self.rules.expiry
        try:
            return await super().pop(request)
        finally:
            self._lease = _LONG


class HalfALease(WrongStore):
    """Lets leases end after half their time."""

    def __init__(self, backend: WrongBackend) -> None:
        super().__init__(backend)
        self._lease = 0.75 * backend.rules.expiry


class SharedPlaces(WrongStore):
    """Counts the whole minted inbox against the capacity of one channel."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        inbox = self._minted(request.channel.queue.name)
        if inbox is not None and sum(inbox.unread.values()) >= request.capacity:
            return c.Pushed(accepted=False, expired=0)
        return await super().push(request)


class GivesBackTwice(WrongStore):
    """Counts places again when the same request comes again."""

    async def give_back(self, request: c.GiveBack, /) -> None:
        """Give back."""
        inbox = self._minted(request.inbox.name)
        if inbox is not None:
            inbox.serial = 0
        await super().give_back(request)


class GivesBackTheFlushed(WrongStore):
    """Counts places of an older generation."""

    async def give_back(self, request: c.GiveBack, /) -> None:
        """Give back."""
        inbox = self._minted(request.inbox.name)
        await super().give_back(request if inbox is None else replace(request, generation=inbox.generation))


class ForgetsTheHeld(WrongStore):
    """Forgets, when a lease is taken again, what the owner holds unread."""

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        """Claim."""
        return await super().claim(replace(request, held=()))


class LeavesBehind(WrongStore):
    """Leaves behind what was sent to an inbox before it had an owner."""

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        """Claim."""
        self.world.lines.pop(request.inbox.name, None)
        return await super().claim(request)


class ReadsOnce(WrongStore):
    """Lets go of entries when they are read, so that a read cannot be repeated."""

    async def read(self, request: c.Read, /) -> c.Batch:
        """Read."""
        batch = await super().read(request)
        inbox = self.world.inboxes.get(request.inbox.name)
        if inbox is not None:
            inbox.entries.clear()
        return batch


class OneFullForAll(WrongStore):
    """Delivers a group message to nobody if one inbox is full."""

    async def publish(self, request: c.Publish, /) -> c.Published:
        """Publish."""
        group = self.world.groups.get(request.group.name)
        inboxes = [self._minted(name) for name in group.inboxes] if group is not None else []
        if any(inbox is not None and len(inbox.entries) >= self.rules.inbox_capacity for inbox in inboxes):
            with self.under(replace(self.rules, inbox_capacity=0)):
                return await super().publish(request)
        return await super().publish(request)


class ForgetsRiders(WrongStore):
    """Delivers a group message without the names of the members that the owner did not add."""

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        """Deliver."""
        return await super().deliver(replace(request, riders=()))


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

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        self.joined.append((request.group.name, request.channel.name))
        return await super().join(request)

    async def members(self, request: c.Members, /) -> c.Roster:
        """List the members."""
        roster = await super().members(request)
        others = [name for name in roster.others for _ in range(self.joined.count((request.group.name, name)))]
        return replace(roster, others=tuple(others) or roster.others)


class NeverRefreshes(WrongStore):
    """Lets a membership end a ``group_expiry`` after the first joining, whatever came after it."""

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        group = self._group(request.group, self._now())
        joined = group.others.get(request.channel.name) if group is not None else None
        changed = await super().join(request)
        group = self.world.groups[request.group.name] if changed.applied else None
        if group is not None and joined is not None and request.channel.name in group.others:
            group.others[request.channel.name] = joined
        return changed


class RestoresTheLeft(WrongStore):
    """Lets a member come back that has left, when its owner announces it again."""

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        self.world.left.pop((request.group.name, request.channel.name), None)
        return await super().join(request)


class JoinsUnmarked(WrongStore):
    """Says that the marker of a joining is in the inbox, and puts none."""

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        changed = await super().join(replace(request, mark=False))
        marked = request.mark and changed.owned and self.has_owner(request.channel.queue)
        return replace(changed, marked=marked)


class TakesFromOwners(WrongStore):
    """Lets a stranger who adds a member take it from its owner."""

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        group = self.world.groups.get(request.group.name)
        if group is not None and not request.owned:
            group.owned.pop(request.channel.name, None)
        return await super().join(request)


class TidiesTooMuch(WrongStore):
    """Removes for its owner a channel that has joined again since he looked."""

    async def leave(self, request: c.Leave, /) -> c.Changed:
        """Leave."""
        return await super().leave(request if request.latest is None else replace(request, latest=2**62))


class PrunesWhoCameBack(WrongStore):
    """Prunes the members of an inbox that one of them has joined from since."""

    async def prune(self, request: c.Prune, /) -> None:
        """Prune."""
        await super().prune(replace(request, version=2**62 if request.inboxes else request.version))


class StaysTheSame(WrongStore):
    """Tells a version that does not grow when a member joins again."""

    async def join(self, request: c.Join, /) -> c.Changed:
        """Join."""
        version = self.world.version
        changed = await super().join(request)
        if changed.applied and version:
            self.world.version = version
        return replace(changed, version=self.world.version)


# -- who attends -------------------------------------------------------------------------------------------------


class PushesToNobody(WrongStore):
    """Takes a message although nobody attends."""

    async def push(self, request: c.Push, /) -> c.Pushed:
        """Push."""
        return await super().push(replace(request, if_attended=False))


class NotesNobody(WrongStore):
    """Does not note who attends."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return await super().pop(replace(request, attend=0.0))


class AttendsForEver(WrongStore):
    """Does not see when somebody's time is over."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        return await super().pop(replace(request, attend=_LONG if request.attend else 0.0))


class AttendsOnce(WrongStore):
    """Does not let somebody who attends go on."""

    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Pop."""
        noted = self._all.attending.get(request.queue.name, {})
        return await super().pop(replace(request, attend=0.0) if request.claimant in noted else request)


class KeepsWhoGoes(WrongStore):
    """Takes somebody to attend who has said that he does not."""

    async def unclaim(self, request: c.Unclaim, /) -> None:
        """Unclaim."""
        if request.inbox.kind is Kind.INBOX:
            await super().unclaim(request)


class DismissesAll(WrongStore):
    """Takes nobody to attend when one of them has gone."""

    async def unclaim(self, request: c.Unclaim, /) -> None:
        """Unclaim."""
        self._all.attending.pop(request.inbox.name, None)
        await super().unclaim(request)


class FlushesAttendants(WrongStore):
    """Forgets who attends when everything is flushed."""

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        """Flush."""
        self._all.attending.clear()
        return await super().flush(request)


class ForgetsTheStranded(WrongStore):
    """Does not say what nobody attends to."""

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        """Say."""
        return ()


class TakesFromAttendants(WrongStore):
    """Says of queues that somebody attends to them that nobody does."""

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        """Say."""
        return tuple(name for name, line in self._all.lines.items() if line.entries)


# -- factories ---------------------------------------------------------------------------------------------------


class _Simple:
    """A simple store over one that is more: its calls end at once."""

    def __init__(self, store: WrongStore) -> None:
        self._store = store

    def push(self, request: c.Push, /) -> c.Pushed:
        return _done(self._store.push(request))

    def pop(self, request: c.Pop, /) -> c.Popped:
        return _done(self._store.pop(request))

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return _done(self._store.put_back(request))

    def pending(self, request: c.Pending, /) -> int:
        return _done(self._store.pending(request))

    def join(self, request: c.Join, /) -> None:
        _done(self._store.join(request))

    def leave(self, request: c.Leave, /) -> None:
        _done(self._store.leave(request))

    def members(self, request: c.Members, /) -> c.Roster:
        return _done(self._store.members(request))

    def flush(self, request: c.Flush, /) -> int:
        return _done(self._store.flush(request)).dropped

    def close(self) -> None:
        """Nothing is open."""


def _done(work: Coroutine[object, object, R]) -> R:
    """Return the result of what awaits nothing."""
    try:
        work.send(None)
    except StopIteration as stop:
        result: R = stop.value
        return result
    raise RuntimeError("this call does not end at once")


def wrong_stores(kind: type[WrongStore]) -> MakeStore:
    """Return a factory of stores of one kind."""
    worlds: dict[str, WrongBackend] = {}
    return shared(lambda rules, clock: WrongBackend(kind, worlds, rules, clock))


def simple_stores(kind: type[WrongStore]) -> MakeSimpleStore:
    """Return a factory of simple stores of one kind; of `WrongStore` itself, right ones."""
    worlds: dict[str, WrongBackend] = {}

    def make_store(rules: Rules, clock: Clock) -> SimpleStore:
        world = worlds.get(rules.prefix)
        return _Simple(kind(world if world is not None else WrongBackend(kind, worlds, rules, clock)))

    return make_store


WRONG_STORES: tuple[type[WrongStore], ...] = (
    PushesToNobody,
    NotesNobody,
    AttendsForEver,
    AttendsOnce,
    KeepsWhoGoes,
    DismissesAll,
    FlushesAttendants,
    ForgetsTheStranded,
    TakesFromAttendants,
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
    ForgivesNobody,
    LapsesReaders,
    LapsesNobody,
    FlushesNeighbours,
    KeepsGroups,
    FlushesSilently,
    SparesTheDead,
    AwaitsNobody,
    EndlessLease,
    HalfALease,
    SharedPlaces,
    GivesBackTwice,
    GivesBackTheFlushed,
    ForgetsTheHeld,
    LeavesBehind,
    ReadsOnce,
    OneFullForAll,
    ForgetsRiders,
    EndlessGroup,
    JoinsTwice,
    NeverRefreshes,
    RestoresTheLeft,
    JoinsUnmarked,
    TakesFromOwners,
    TidiesTooMuch,
    PrunesWhoCameBack,
    StaysTheSame,
)
"""All of them."""
