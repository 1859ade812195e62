"""Every request as commands to a server: which script, which keys and arguments, and what the replies mean.

Written once, as generators that yield commands and know no I/O, for the two stores that carry them out: that of event
loops, and that of threads.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from channel_layer import commands as c
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer.domain.frames import group_frame, marker_frame, message_frame
from channel_layer.domain.names import Kind, Queue
from channel_layer.domain.rates import SLICE_SECONDS, SLICES, Rates
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import unsupported
from channel_layer_redis import _scripts
from channel_layer_redis._keys import Keys, split
from channel_layer_redis._protocol import Arg, is_list

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_redis._scripts import Script

__all__ = (
    "Ask",
    "Asking",
    "PendingRequest",
    "Requests",
    "epoch",
    "list_of",
    "milliseconds",
    "number",
    "numbers",
    "pushed",
    "text",
    "texts",
    "unexpected",
)

R = TypeVar("R")

_ACKNOWLEDGE = _scripts.load("acknowledge")
_CLAIM = _scripts.load("claim")
_COUNT = _scripts.load("count")
_COUNTED = _scripts.load("counted")
_DELIVER = _scripts.load("deliver")
_FLUSH_INBOX = _scripts.load("flush_inbox")
_GIVE_BACK = _scripts.load("give_back")
_JOIN = _scripts.load("join")
_LEAVE = _scripts.load("leave")
_PENDING = _scripts.load("pending")
_POP = _scripts.load("pop")
_PRUNE = _scripts.load("prune")
_PUBLISH = _scripts.load("publish")
_PUSH_INBOX = _scripts.load("push_inbox")
_PUSH_QUEUE = _scripts.load("push_queue")
_PUT_BACK = _scripts.load("put_back")
_RELEASE = _scripts.load("release")
_RENEW = _scripts.load("renew")
_SURVEY = _scripts.load("survey")
_UNCLAIM = _scripts.load("unclaim")

_SLICES = (int(SLICE_SECONDS * 1000), SLICES)
"""How the scripts of statistics divide time: milliseconds of a slice, and how many are kept."""

_SCAN_COUNT = 1000
"""Keys that the server looks at in one step of a flush."""

_ACCEPTED = c.Pushed(accepted=True, expired=0)


@dataclass(frozen=True, slots=True)
class Ask:
    """One command.

    Attributes:
        script: what to run; None: the arguments are a command of the server's own.
        keys: of the script.
        args: what else.
    """

    script: Script | None
    keys: tuple[str, ...]
    args: tuple[Arg, ...]

    def named(self) -> tuple[Arg, ...]:
        """Return the command, a script by its name."""
        if self.script is None:
            return self.args
        return (b"EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def whole(self) -> tuple[Arg, ...]:
        """Return the command, a script by its text, for a server that does not know it."""
        if self.script is None:
            return self.args
        return (b"EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


# As in `channel_layer.operations.steps`: one generator, replies of many types; they are checked where they are read.
Asking: TypeAlias = Generator[tuple[Ask, ...], list[Any], R]
"""A request: yields commands that may go out at once, is sent their replies, returns its own reply. Of several that
fail the first error is thrown in, when all are done."""


def _script(script: Script, keys: tuple[str, ...], *args: Arg) -> Asking[object]:
    (reply,) = yield (Ask(script, keys, args),)
    result: object = reply
    return result


def _command(*args: Arg) -> Asking[object]:
    (reply,) = yield (Ask(None, (), args),)
    result: object = reply
    return result


def _refuse(command: c.Command[object]) -> Asking[object]:
    yield ()
    raise unsupported(command)


class PendingRequest(Generic[R]):
    """A request that is being carried out; it has begun when it is made.

    Args:
        shard: the server.
        plan: what it asks for, and what it makes of the replies.

    Attributes:
        shard: the one given.
        asks: what it asks for next, which may go out in one write; nothing when it is done.
        outcome: what came of it, once it is done.
    """

    __slots__ = ("_plan", "asks", "outcome", "shard")

    outcome: R | StoreError

    def __init__(self, shard: int, plan: Asking[R]) -> None:
        self.shard: int = shard
        self.asks: tuple[Ask, ...] = ()
        self._plan = plan
        self._advance(plan.send, None)

    def resume(self, outcomes: Sequence[object]) -> None:
        """Go on with what came of each of its commands: a reply, or an error."""
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                return self._advance(self._plan.throw, outcome)
        return self._advance(self._plan.send, list(outcomes))

    def result(self) -> R:
        """Return the reply, once it is done.

        Raises:
            StoreError: it has failed.
        """
        if isinstance(self.outcome, StoreError):
            raise self.outcome
        return self.outcome

    def _advance(self, step: Callable[[Any], tuple[Ask, ...]], value: object) -> None:
        try:
            asks = step(value)
            while not asks:
                asks = self._plan.send([])
        except StopIteration as stop:
            self.asks, self.outcome = (), stop.value
        except StoreError as exc:
            self.asks, self.outcome = (), exc
        else:
            self.asks = asks


class Requests:
    """What to ask a server for, under one configuration.

    Args:
        rules: the configuration.
        clock: its offset is added to the server's clock.

    Attributes:
        keys: the names of all keys.
        expiry: milliseconds that a message lives.
        lease: milliseconds that a lease lasts.
        left: milliseconds for which it is remembered who has left.
        group: milliseconds that a member lasts that the owner of its inbox did not add.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self._clock = clock
        self._rules = rules
        self.keys: Keys = Keys(rules.prefix)
        self.expiry: int = milliseconds(rules.expiry)
        self.lease: int = milliseconds(rules.expiry * LEASE_FACTOR)
        self.left: int = 2 * self.lease
        self.group: int = milliseconds(rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME)
        self._counts = tuple(map(milliseconds, counts_lifetimes(rules.group_expiry)))
        self._owned_last = -1 if rules.group_expiry is None else self.group
        # One table for commands of all types; each is handed to the method for its own type, and to no other.
        self._plans: Mapping[type, Callable[[Any], Asking[Any]]] = {
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
            c.Release: self.release,
            c.Renew: self.renew,
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
            c.Touch: self.touch,
            c.Unclaim: self.unclaim,
            c.Unflushed: self.unflushed,
        }

    def begin(self, command: c.Command[R]) -> PendingRequest[R]:
        """Begin to carry out a command."""
        return PendingRequest(command.shard, self._plans.get(type(command), _refuse)(command))

    @property
    def offset(self) -> int:
        """Milliseconds to add to the server's clock."""
        return round(self._clock.offset * 1000)

    # -- messages

    def pushing(self, queue: Queue, capacity: int) -> Ask:
        """Return a push into a queue that is popped, but for its last argument, which is the frame."""
        return Ask(_PUSH_QUEUE, self.keys.queue(queue.name), (capacity, self.expiry, self.offset))

    def pushing_in(self, inbox: Queue) -> Ask:
        """Return a push into an inbox, but for what follows: capacity and frame, as often as there are messages."""
        keys = (*self.keys.inbox(inbox.name), *self.keys.queue(inbox.name))
        return Ask(_PUSH_INBOX, keys, (self.expiry, self.offset, self._rules.inbox_capacity, self.group))

    def push(self, request: c.Push) -> Asking[c.Pushed]:
        """Push a message."""
        queue = request.channel.queue
        frame = message_frame(request.channel.name, request.payload)
        unread = (self.keys.unread(queue.name),) if request.to_member else ()
        if queue.kind is Kind.INBOX:
            ask = self.pushing_in(queue)
            (reply,) = yield (Ask(ask.script, (*ask.keys, *unread), (*ask.args, request.capacity, frame)),)
            return pushed(reply)
        ask = self.pushing(queue, request.capacity)
        (reply,) = yield (Ask(ask.script, (*ask.keys, *unread), (*ask.args, frame, self.group)),)
        return pushed(reply)

    def forgive(self, request: c.Forgive) -> Asking[None]:
        """Forget the note of a channel."""
        channel = request.channel
        yield from _command("HDEL", self.keys.unread(channel.queue.name), channel.name)

    def pop(self, request: c.Pop) -> Asking[c.Popped]:
        """Pop; see to it that what a flush has missed goes no further.

        A flush raises the epoch first and empties the queue then: what is popped meanwhile is looked at, if it can
        matter. A normal channel's messages cannot be told from ones received just before, unless they were put back.
        """
        name = request.queue.name
        keys: tuple[str, ...] = self.keys.taking(name)
        args: tuple[Arg, ...] = (request.count, self.expiry, self.offset)
        if request.queue.kind is Kind.INBOX:
            keys = (*keys, self.keys.inbox(name)[0], self.keys.claim(name))
            args = (*args, request.claimant, self.lease)
        popped, returned = _popped((yield from _script(_POP, keys, *args)))
        if not returned and request.queue.kind is not Kind.INBOX:
            return popped
        try:
            generation, began = epoch((yield from _command("GET", self.keys.epoch)))
        except StoreError:
            if not popped.entries:
                raise
            try:
                yield from self.put_back(c.PutBack(request.shard, request.queue, popped.entries))
            except StoreError:
                return replace(popped, entries=(), lost=len(popped.entries))
            raise
        entries = tuple(entry for entry in popped.entries if entry.stamp * 1000 >= began)
        return replace(popped, entries=entries, flushed=len(popped.entries) - len(entries), epoch=generation)

    def call(self, queue: Queue) -> Ask:
        """Return what has somebody called, if the queue holds anything."""
        return Ask(_POP, self.keys.taking(queue.name), (0, self.expiry, self.offset))

    def put_back(self, request: c.PutBack) -> Asking[c.Returned]:
        """Return messages to the head of their queue."""
        entries = [struct.pack(">d", entry.stamp * -1000) + entry.frame for entry in request.entries]
        keys = self.keys.queue(request.queue.name)
        expired = number((yield from _script(_PUT_BACK, keys, self.expiry, self.offset, *entries)))
        return c.Returned(expired, flushed=0)

    def unclaim(self, request: c.Unclaim) -> Asking[None]:
        """Give up a claim."""
        yield from _script(_UNCLAIM, (self.keys.claim(request.inbox.name),), request.claimant)

    def pending(self, request: c.Pending) -> Asking[int]:
        """Count what waits for one channel."""
        queue = request.channel.queue
        keys: tuple[str, ...] = self.keys.queue(queue.name)[:1]
        if queue.kind is Kind.INBOX:
            keys = (*keys, self.keys.inbox(queue.name)[1])
        head = message_frame(request.channel.name, b"")
        return number((yield from _script(_PENDING, keys, self.expiry, self.offset, head)))

    # -- statistics

    def report(self, request: c.Report) -> Asking[None]:
        """Add to the statistics of each queue, and to those of all: in one write, none depends on another."""
        whole, each = self._counts
        calls = [(self.keys.counts(count.queue.name), each, count.messages, count.refused) for count in request.counts]
        calls.append((self.keys.counts(), whole, request.messages, request.refused))
        yield tuple(Ask(_COUNT, (key,), (*_SLICES, self.offset, *args)) for key, *args in calls)

    def reported(self, request: c.Reported) -> Asking[Rates]:
        """Tell what was reported."""
        key = self.keys.counts() if request.queue is None else self.keys.counts(request.queue.name)
        messages, refused, lately, refused_lately, span = numbers(
            (yield from _script(_COUNTED, (key,), *_SLICES, self.offset))
        )
        return Rates(messages, refused, lately, refused_lately, span / 1000)

    def survey(self, request: c.Survey) -> Asking[c.Surveyed]:
        """Tell what waits."""
        channel = request.channel
        found: list[tuple[int, float | None]] = []
        if channel is not None:
            found = yield from self._waiting((channel.queue,), message_frame(channel.name, b""))
        else:
            looked = set[Queue]()
            cursor = ""
            while cursor != "0":
                step = yield from _command("SCAN", cursor or "0", "MATCH", self.keys.pattern, "COUNT", _SCAN_COUNT)
                head, keys = list_of(step)
                cursor = text(head)
                kinds = (split(self.keys.prefix, key) for key in texts(keys))
                new = {Queue.named(name) for kind, name in kinds if kind in "ql"} - looked
                looked |= new  # an inbox has both keys, and any key may come twice
                found += yield from self._waiting(tuple(new), b"m")
        ages = [age for _, age in found if age is not None]
        return c.Surveyed(sum(count for count, _ in found), max(ages, default=None))

    def _waiting(self, queues: tuple[Queue, ...], begins: bytes) -> Asking[list[tuple[int, float | None]]]:
        """See how many frames that begin so wait in each queue, and the age in seconds of the oldest one there."""
        asks: list[Ask] = []
        for queue in queues:
            keys: tuple[str, ...] = self.keys.queue(queue.name)[:1]
            if queue.kind is Kind.INBOX:
                keys = (*keys, *self.keys.inbox(queue.name))
            asks.append(Ask(_SURVEY, keys, (self.expiry, self.offset, begins)))
        replies = yield tuple(asks)
        found: list[tuple[int, float | None]] = []
        for reply in replies:
            count, age = list_of(reply)
            found.append((number(count), None if age is None else number(age) / 1000))
        return found

    # -- minted inboxes

    def claim(self, request: c.Claim) -> Asking[c.Claimed]:
        """Take the lease."""
        name = request.inbox.name
        keys = (*self.keys.inbox(name), *self.keys.taking(name))
        held = [part for channel, count in request.held for part in (channel, count)]
        args = (request.generation, self.lease, self.expiry, self.offset, request.after or "0-0", *held)
        reply, last_flush = yield Ask(_CLAIM, keys, args), Ask(None, (), ("GET", self.keys.epoch))
        now, fresh, expired = numbers(reply)
        return c.Claimed(now / 1000, fresh == 1, epoch(last_flush)[0], expired)

    def renew(self, request: c.Renew) -> Asking[c.Renewed]:
        """Keep the lease."""
        renewal = Ask(_RENEW, self.keys.inbox(request.inbox.name), (self.lease, self.offset))
        reply, last_flush = yield renewal, Ask(None, (), ("GET", self.keys.epoch))
        now, held = numbers(reply)
        return c.Renewed(now / 1000, held == 1, epoch(last_flush)[0])

    def release(self, request: c.Release) -> Asking[int]:
        """Give up the inbox."""
        return number((yield from _script(_RELEASE, self.keys.inbox(request.inbox.name))))

    def give_back(self, request: c.GiveBack) -> Asking[None]:
        """Give back places."""
        places = [part for channel, count in request.places for part in (channel, count)]
        keys = self.keys.inbox(request.inbox.name)[:1]
        yield from _script(_GIVE_BACK, keys, request.generation, request.serial, *places)

    def mark(self, request: c.Mark) -> Asking[bool]:
        """Put a marker."""
        keys = self.keys.inbox(request.inbox.name)
        return number((yield from _script(_DELIVER, keys, marker_frame(request.marker), self.offset, -1))) == 1

    def alive(self, request: c.Alive) -> Asking[tuple[bool, ...]]:
        """See which inboxes have a lease."""
        leases = [self.keys.inbox(inbox.name)[0] for inbox in request.inboxes]
        replies = yield tuple(Ask(None, (), ("HEXISTS", lease, "g")) for lease in leases)
        return tuple(reply == 1 for reply in replies)

    # -- groups

    def join(self, request: c.Join) -> Asking[c.Changed]:
        """Add a member."""
        queue = request.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self.keys.group(request.group.name)
        if request.mark:
            keys = (*keys, *self.keys.inbox(inbox))
        reply = yield from _script(
            _JOIN, keys, request.group.name, request.channel.name, inbox, int(request.owned),
            round(request.age * 1000), int(request.restore), self.group, self.offset,
        )  # fmt: skip
        version, marked, applied, owned = numbers(reply)
        return c.Changed(version, marked == 1, applied == 1, owned == 1)

    def leave(self, request: c.Leave) -> Asking[c.Changed]:
        """Remove a member."""
        queue = request.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self.keys.group(request.group.name)
        if request.mark:
            keys = (*keys, *self.keys.inbox(inbox))
        latest = "" if request.latest is None else request.latest
        reply = yield from _script(
            _LEAVE, keys, request.group.name, request.channel.name, inbox, self.group, self.left, self.offset, latest
        )
        version, marked, applied = numbers(reply)
        return c.Changed(version, marked == 1, applied == 1, owned=False)

    def publish(self, request: c.Publish) -> Asking[c.Published]:
        """Send to a group, or ask who is in it."""
        frame = group_frame(request.group.name, (), request.payload)
        reply = yield from _script(
            _PUBLISH, self.keys.group(request.group.name)[:3], int(request.at_once), frame, self.keys.prefix,
            self._rules.inbox_capacity, self._owned_last, self.group, self.offset,
        )  # fmt: skip
        version, done, first, *rest = list_of(reply)
        if done == 1:
            return c.Published(number(version), done=True, inboxes=(), others=(), full=texts(first))
        return c.Published(number(version), False, texts(first), texts(rest[0]), ())

    def deliver(self, request: c.Deliver) -> Asking[c.Delivery]:
        """Deliver a group's message to an inbox."""
        frame = group_frame(request.group.name, request.riders, request.payload)
        keys = self.keys.inbox(request.inbox.name)
        outcome = number((yield from _script(_DELIVER, keys, frame, self.offset, self._rules.inbox_capacity)))
        return {1: c.Delivery.DONE, 0: c.Delivery.FULL}.get(outcome, c.Delivery.NO_OWNER)

    def prune(self, request: c.Prune) -> Asking[None]:
        """Remove who is gone."""
        keys = self.keys.group(request.group.name)[:3]
        yield from _script(_PRUNE, keys, request.version, len(request.inboxes), *request.inboxes, *request.others)

    def members(self, request: c.Members) -> Asking[c.Roster]:
        """List the members."""
        owned, others, _, _ = self.keys.group(request.group.name)
        now = int((yield from self._now()))
        first = "-inf" if self._owned_last < 0 else f"({now - self._owned_last}"
        found = yield (
            Ask(None, (), ("ZRANGEBYSCORE", owned, first, "+inf")),
            Ask(None, (), ("ZRANGEBYSCORE", others, f"({now - self.group}", "+inf")),
        )
        return c.Roster(texts(found[0]), texts(found[1]))

    def touch(self, request: c.Touch) -> Asking[None]:
        """Prolong groups."""
        keys = [key for group in request.groups for key in self.keys.group(group.name)[:3]]
        yield tuple(Ask(None, (), ("PEXPIRE", key, self.group)) for key in keys)

    # -- flush

    def acknowledge(self, request: c.Acknowledge) -> Asking[None]:
        """Note that a flush is done with."""
        yield from _script(_ACKNOWLEDGE, self.keys.inbox(request.inbox.name)[:1], request.generation)

    def flush(self, request: c.Flush) -> Asking[c.Flushing]:
        """Raise the epoch, then empty all keys of this prefix."""
        lifetime = max(self.left, self.group)
        began = yield from self._now()
        yield from _command("SET", self.keys.epoch, f"{request.generation} {began:.3f}", "PX", lifetime)
        inboxes: list[str] = []
        dropped = 0
        cursor = "0"
        while True:
            step = yield from _command("SCAN", cursor, "MATCH", self.keys.pattern, "COUNT", _SCAN_COUNT)
            head, keys = list_of(step)
            cursor = text(head)
            found = [split(self.keys.prefix, key) for key in texts(keys)]
            leases = [name for kind, name in found if kind == "l"]
            for name, count in (yield from self._flush_inboxes(request, leases)):
                if count >= 0:
                    inboxes.append(name)
                    dropped += count
            dropped += yield from self._flush_others(found)
            if cursor == "0":
                return c.Flushing(tuple(inboxes), dropped)

    def _flush_inboxes(self, request: c.Flush, names: list[str]) -> Asking[list[tuple[str, int]]]:
        args = (request.generation, self.offset)
        replies = yield tuple(Ask(_FLUSH_INBOX, self.keys.inbox(name), args) for name in names)
        return [(name, number(reply)) for name, reply in zip(names, replies, strict=True)]

    def _flush_others(self, found: list[tuple[str, str]]) -> Asking[int]:
        found = list(dict.fromkeys(found))  # SCAN may name a key twice, which would be counted twice
        # A stream's owner's lease has the say; without one it is trimmed, for an owner who may come back.
        streams = [name for kind, name in found if kind == "s"]
        living = yield from self.alive_names(streams)
        dead = [name for name, lives in zip(streams, living, strict=True) if not lives]
        trims = [Ask(None, (), ("XTRIM", self.keys.inbox(name)[1], "MAXLEN", 0)) for name in dead]
        lines = [self.keys.queue(name)[0] for kind, name in found if kind == "q"]
        lengths = [Ask(None, (), ("LLEN", key)) for key in lines]
        others = [f"{self.keys.prefix}{kind}:{{{name}}}" for kind, name in found if kind not in "lcesq"]
        removals = [Ask(None, (), ("UNLINK", key)) for key in (*lines, *others)]
        replies = yield (*lengths, *removals, *trims)
        return sum(number(reply) for reply in replies[: len(lengths)])

    def alive_names(self, names: list[str]) -> Asking[list[bool]]:
        """See which inboxes have a lease, by name."""
        replies = yield tuple(Ask(None, (), ("HEXISTS", self.keys.inbox(name)[0], "g")) for name in names)
        return [reply == 1 for reply in replies]

    def unflushed(self, request: c.Unflushed) -> Asking[tuple[str, ...]]:
        """See who has not acknowledged."""
        replies = yield tuple(Ask(None, (), ("HMGET", self.keys.inbox(name)[0], "g", "f")) for name in request.inboxes)
        left: list[str] = []
        for name, reply in zip(request.inboxes, replies, strict=True):
            generation, flushed = list_of(reply)
            if generation is not None and flushed != generation:  # of this flush, a later one, or a new lease
                left.append(name)
        return tuple(left)

    def _now(self) -> Asking[float]:
        """Ask for the server's time in milliseconds, to the microsecond."""
        seconds, micros = texts((yield from _command("TIME")))
        return int(seconds) * 1000 + int(micros) / 1000 + self.offset


# -- replies: what the scripts return, as types


def pushed(reply: object) -> c.Pushed:
    """Return what a push's script says: how many were too old, or -1 less that number if full; nothing if lapsed."""
    if reply is None:
        return c.Pushed(accepted=False, expired=0, lapsed=True)
    outcome = number(reply)
    if not outcome:
        return _ACCEPTED
    return c.Pushed(accepted=True, expired=outcome) if outcome > 0 else c.Pushed(accepted=False, expired=-1 - outcome)


def list_of(reply: object) -> list[object]:
    """Return a reply that has to be an array."""
    if not is_list(reply):
        raise unexpected(reply)
    return reply


def number(reply: object) -> int:
    """Return a reply that has to be a number."""
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes) and reply.isdigit():
        return int(reply)
    raise unexpected(reply)


def numbers(reply: object) -> list[int]:
    """Return a reply that has to be an array of numbers."""
    return [number(item) for item in list_of(reply)]


def text(reply: object) -> str:
    """Return a reply that has to be text; "" for none."""
    if reply is None:
        return ""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise unexpected(reply)


def texts(reply: object) -> tuple[str, ...]:
    """Return a reply that has to be an array of texts."""
    return tuple(text(item) for item in list_of(reply))


def epoch(reply: object) -> tuple[str, float]:
    """Return the name of the last flush, and when it began: what is older than that has been flushed."""
    name, _, began = text(reply).partition(" ")
    return name, float(began or "-inf")


def _popped(reply: object) -> tuple[c.Popped, bool]:
    """Return what a pop brought, and whether some of it had been put back."""
    moment, expired, *rest = list_of(reply)
    now = number(moment) / 1000
    if expired == -1:
        return c.Popped((), 0, now, minted=True), False
    if expired == -2:
        return c.Popped((), 0, now, held_for=max(0, number(rest[0])) / 1000), False
    entries: list[c.Entry] = []
    returned = False
    for item in rest:
        if isinstance(item, bytes) and len(item) >= 8:
            (stamp,) = struct.unpack_from(">d", item)
            returned = returned or stamp < 0
            entries.append(c.Entry(abs(stamp) / 1000, item[8:]))
        else:
            entries.append(c.Entry(now, b""))  # not ours: counted as undecodable where it is read
    return c.Popped(tuple(entries), number(expired), now), returned


def unexpected(reply: object) -> StoreError:
    """Return what whoever asked is told of a reply that cannot be."""
    return StoreError(f"unexpected reply: {reply!r:.100}", retryable=False, outcome="unknown")


def milliseconds(seconds: float) -> int:
    """Return a time as the server takes it."""
    return max(1, round(seconds * 1000))
