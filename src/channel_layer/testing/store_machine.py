"""A state machine that does anything with a store in any order, and compares every reply with `Model`.

Two processes share the store under test, and a neighbour has a prefix that begins like theirs. Time is a clock that is
moved; nothing here sleeps. Real time goes on meanwhile: an example that takes too long is not checked to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.errors import StoreError
from channel_layer.testing.factories import VirtualClock, fresh_prefix, make_rules
from channel_layer.testing.model import Model, describe
from channel_layer.testing.model_state import GUARD, Facts, Span, Unclear

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Store
    from channel_layer.testing.factories import MakeStore
    from channel_layer.testing.store_traits import Traits

__all__ = ("EXAMPLE_SECONDS", "RunCounts", "StoreMachine")

P = ParamSpec("P")
R = TypeVar("R")

EXAMPLE_SECONDS = 0.4
"""Real seconds for which the replies of an example are checked."""

_BEFORE, _AFTER = 0.5, 0.01
"""Seconds to which time passes before and after a limit; before it more than an example lasts, as real time goes on."""

_APART = 0.55
"""Seconds by which two limits are apart if time can pass to in between: more than `_BEFORE` and `_AFTER`."""

_STEP = 0.6
"""Seconds between messages that do not expire together: more than `_APART`."""

_STEPS_ON_A_SHARD = 5
"""Steps after which normal channels are used on the next shard."""

_OWNED = ("specific.me!a", "specific.me!ab", "specific.you!a")
_TOPICS = {
    "queues": ("jobs", "reply?x", "Jobs"),
    "claimed inboxes": ("claimed!a", "claimed!b"),
    "members": ("jobs", "claimed!a", "reply?x", "Jobs"),
    "readers": ("jobs", "Jobs"),
    "owned inboxes": ("specific.me!a", "specific.me!ab", "specific.me!a", "specific.you!a"),
    "groups": ("specific.me!a", "specific.you!a", "jobs", "specific.me!ab"),
    "everything": ("jobs", "Jobs", "reply?x", "claimed!a", "claimed!b", *_OWNED),
}
"""What an example is about, and the channels that it uses: the fewer there are, the more of what is done meets."""

_INBOXES = ("specific.me!", "specific.you!")
_GROUPS = ("g", "G")


class _TooLate(Exception):
    """The example takes longer than its replies can be checked for."""


@dataclass(slots=True)
class RunCounts:
    """How much of a run was checked."""

    examples: int = 0
    replies: int = 0


class _ScriptLine:
    """A request and its reply, written out only when it is printed."""

    def __init__(self, who: str, request: object, reply: object) -> None:
        self._parts = who, request, reply

    def __repr__(self) -> str:
        who, request, reply = self._parts
        return f"  {who}: {describe(request)} -> {describe(reply)}"


@dataclass(slots=True)
class _Owner:
    """What the owner of an owned inbox knows."""

    queue: Queue
    claimed: bool = False
    released: bool = False
    generation: str = ""
    after: str = ""
    """Where the last read began."""
    position: str = ""
    """Where the next one goes on."""
    batch: int = 0
    """Entries between the two."""
    held: Counter[str] = field(default_factory=Counter[str])
    """Messages to single channels that were read and not received."""
    serial: int = 0
    returned: c.ReturnCredits | None = None
    unacknowledged: str = ""
    """The generation that has yet to be acknowledged."""


@dataclass(frozen=True, slots=True)
class _PoppedMessages:
    """What one pop brought and no receiver has got yet."""

    shard: int
    queue: Queue
    entries: tuple[c.Entry, ...]


@dataclass(frozen=True, slots=True)
class _BegunFlush:
    """A flush that was begun."""

    shard: int
    generation: str
    inboxes: tuple[str, ...]


def _checked(step: Callable[Concatenate[StoreMachine, P], None]) -> Callable[Concatenate[StoreMachine, P], None]:
    """Let a rule do nothing once its example is not checked any more."""

    @wraps(step)
    def checked(self: StoreMachine, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.unchecked:
            return
        self.steps += 1
        if self.script is not None:
            self.script.append(
                f"state.{step.__name__}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"
            )
        try:
            step(self, *args, **kwargs)
        except (Unclear, _TooLate):
            self.unchecked = True
            self.say("the rest of this example is not checked: it has taken too long")
        except BaseException:
            self.failed = True
            raise

    return checked


def _about(*topics: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a rule be used in examples about these topics, and about everything."""

    def applies(machine: StoreMachine) -> bool:
        return machine.topic in topics or machine.topic == "everything"

    return precondition(applies)


def _of(choose: Callable[[StoreMachine], Sequence[str]]) -> st.SearchStrategy[str]:
    """Draw one of the names that an example uses."""

    def choose_for(machine: object) -> st.SearchStrategy[str]:
        return st.sampled_from(choose(machine) if isinstance(machine, StoreMachine) else ("",))

    return st.runner().flatmap(choose_for)


def _inbox_of(channel: str) -> str:
    return ChannelName.parse(channel).queue.name


_topics = _of(lambda machine: machine.topics)
_channels = _of(lambda machine: machine.channels)
_owned = _of(lambda machine: machine.owned)
_inboxes = _of(lambda machine: [_inbox_of(name) for name in machine.owned])
_groups = st.sampled_from(("g", "g", "G"))


class StoreMachine(RuleBasedStateMachine):
    """Anything that the core asks of a store, in any order.

    Args:
        make_store: makes the store.
        traits: what is known of it.
        run_counts: where to count what was checked.
    """

    def __init__(self, make_store: MakeStore, traits: Traits, run_counts: RunCounts) -> None:
        super().__init__()
        self.make_store = make_store
        self.traits = traits
        self.run_counts = run_counts
        self.topic: str = ""
        self.channels: tuple[str, ...] = ()
        self.owned: list[str] = []
        self.unchecked: bool = True
        self.failed = False
        self.script: list[object] | None = None
        """What was done, if Hypothesis does not write it down."""
        self.stores: list[Store] = []
        self.runner: asyncio.Runner | None = None

    @property
    def leases(self) -> bool:
        """Whether the store keeps owned inboxes."""
        return self.traits.capabilities.leases

    @property
    def topics(self) -> list[str]:
        """What an example can be about; there is most to say of what needs leases."""
        plain = ["queues", "claimed inboxes", "members", "everything"]
        if self.traits.capabilities.registers_readers:
            plain.append("readers")
        return [*plain, "owned inboxes", "owned inboxes", "groups", "groups"] if self.leases else plain

    @initialize(
        topic=_topics,
        expiry=st.sampled_from([10.0, 2.75]),
        group_expiry=st.sampled_from([25.0, None]),
        capacity=st.integers(1, 3),
        inbox_capacity=st.sampled_from([6, 3]),
        nested=st.sampled_from(["neighbour", "tested"]),
    )
    def begin(
        self, topic: str, expiry: float, group_expiry: float | None, capacity: int, inbox_capacity: int, nested: str
    ) -> None:
        """Make two processes of one prefix, and their neighbour: one of the two prefixes begins with the other."""
        self.topic = topic
        self.channels = _TOPICS[topic]
        self.owned = [channel for channel in self.channels if channel in _OWNED]
        self.clock: VirtualClock = VirtualClock()
        self.capacity = capacity
        self.expiry = expiry
        self.group_expiry = group_expiry
        self.inbox_capacity = inbox_capacity
        outer = fresh_prefix()
        inner = outer + "2:"
        prefixes = (outer, inner) if nested == "neighbour" else (inner, outer)

        def rules(prefix: str) -> Rules:
            return make_rules(
                prefix=prefix,
                expiry=expiry,
                group_expiry=group_expiry,
                capacity=capacity,
                inbox_capacity=inbox_capacity,
                channel_capacity={"claimed!b": capacity + 1},
            )

        facts = Facts(
            self.traits.capabilities,
            expiry,
            group_expiry,
            inbox_capacity,
            leases_move=self.traits.leases_move,
            claims_move=self.traits.claims_move,
        )
        self.models: list[Model] = [Model(facts) for _ in range(self.traits.shards)]
        self.neighbours: list[Model] = [Model(facts) for _ in range(self.traits.shards)]
        self.number: int = 0
        self.asked: int = 0
        self.steps: int = 0
        self.last: Span = Span(0.0, 0.0)
        self.joined_at: Span = self.last
        self.popped: list[_PoppedMessages] = []
        self.owners: dict[str, _Owner] = {name: _Owner(Queue(name, Kind.INBOX)) for name in _INBOXES}
        self.mirror: dict[tuple[str, str], Span] = {}
        """What owners believe to be their memberships: (group, channel), and since when."""
        self.versions: dict[str, list[int]] = {name: [] for name in _GROUPS}
        self.flushes: list[_BegunFlush] = []
        self.runner = asyncio.Runner()
        self.loop: asyncio.AbstractEventLoop = self.runner.get_loop()
        opened = (prefixes[0], *prefixes)
        self.backends: list[Backend] = [self.make_store(rules(prefix), self.clock) for prefix in opened]
        self.stores = self.loop.run_until_complete(_open(self.backends))
        self.neighbour: Store = self.stores[2]
        self.run_counts.examples += 1
        self.began: float = time.monotonic()
        self.unchecked = False

    # -- messages

    @_about("queues", "claimed inboxes", "members", "owned inboxes", "groups")
    @rule(channel=_channels, times=st.sampled_from([1, 1, 2, 4]))
    @_checked
    def push(self, channel: str, times: int) -> None:
        """Push so many messages, one after another."""
        for _ in range(times):
            self.push_one(channel)

    def push_one(self, channel: str, *, to_member: bool = False) -> c.Pushed:
        """Push one message; return what became of it."""
        request = self.push_request(channel, to_member=to_member)
        reply, at = self.ask(request)
        self.models[request.shard].pushed([(request, reply)], at)
        return reply

    def push_request(self, channel: str, *, to_member: bool = False) -> c.Push:
        """Return a push of a message that there is only one of."""
        self.number += 1
        name = ChannelName.parse(channel)
        capacity = self.capacity + (channel == "claimed!b")
        return c.Push(self.shard(name.queue), name, capacity, b"\x01%d\r\n\xff\x00" % self.number, to_member)

    @_about("queues", "claimed inboxes", "owned inboxes")
    @rule(channel=_channels, count=st.integers(2, 5))
    @_checked
    def push_at_once(self, channel: str, count: int) -> None:
        """Push so many messages to one channel at once, from both processes."""
        requests = [self.push_request(channel) for _ in range(count)]
        replies, at = self.ask_at_once(requests)
        self.models[requests[0].shard].pushed(list(zip(requests, replies, strict=True)), at)

    @precondition(lambda self: self.traits.capabilities.tracks_unread)
    @_about("members")
    @rule(channel=_channels)
    @_checked
    def push_to_member(self, channel: str) -> None:
        """Push a message that a channel gets as a member of a group."""
        self.push_one(channel, to_member=True)

    @precondition(lambda self: self.traits.capabilities.tracks_unread)
    @_about("members")
    @rule(channel=_channels)
    @_checked
    def clear_unread(self, channel: str) -> None:
        """Forget that a member has let a message expire unread."""
        name = ChannelName.parse(channel)
        self.clear_unread_once(name, self.shard(name.queue))

    def clear_unread_once(self, name: ChannelName, shard: int) -> None:
        """Forget it on one shard."""
        request = c.ClearUnread(shard, name)
        self.ask(request)
        self.models[shard].unread_cleared(request)

    @_about("queues", "claimed inboxes", "members")
    @rule(
        channel=_channels,
        count=st.integers(0, 3),
        claimant=st.sampled_from(["anna", "anna", "ben"]),
    )
    @_checked
    def pop(self, channel: str, count: int, claimant: str) -> None:
        """Take messages from the queue of a channel."""
        self.pop_once(channel, count, claimant)

    def pop_once(self, channel: str, count: int, claimant: str) -> None:
        """Pop from the queue of a channel, where it is now."""
        queue = ChannelName.parse(channel).queue
        self.pop_some(queue, count, claimant, self.shard(queue))

    def pop_some(self, queue: Queue, count: int, claimant: str, shard: int, register: float = 0.0) -> None:
        """Pop once."""
        request = c.Pop(shard, queue, count, claimant, register)
        reply, at = self.ask(request)
        self.models[request.shard].popped(request, reply, at)
        if reply.entries and queue.kind is not Kind.INBOX:  # what was in an inbox waits for its other channels
            self.popped.append(_PoppedMessages(request.shard, queue, reply.entries))

    @_about("queues")
    @rule(which=st.integers(0, 3), count=st.integers(1, 3))
    @_checked
    def put_back(self, which: int, count: int) -> None:
        """Put back the last ones of what a pop has brought: the first ones have been received."""
        self.put_some_back(which, count)

    def put_some_back(self, which: int, count: int) -> None:
        """Put back the last ones of one pop, the youngest first, if there is any."""
        if not self.popped:
            return
        taken = self.popped.pop(-1 - which % len(self.popped))
        request = c.PutBack(taken.shard, taken.queue, taken.entries[-count:])
        reply, at = self.ask(request)
        self.models[request.shard].put_back(request, reply, at)

    @_about("queues", "claimed inboxes")
    @rule(
        channel=_channels,
        to=st.sampled_from(["after", "after", "before"]),
        then=st.sampled_from(["pop", "pop one", "push"]),
    )
    @_checked
    def grow_old(self, channel: str, to: str, then: str) -> None:
        """Two messages come, with some time between them, and the first one gets too old, or nearly so."""
        self.push_one(channel)
        limit = self.last.plus(self.expiry)
        self.pass_a_step()
        self.push_one(channel)
        self.pass_limit(to, limit)
        if then == "push":
            self.fill(channel)
        else:
            self.pop_once(channel, 1 if then == "pop one" else 3, "anna")

    @_about("queues")
    @rule(
        channel=_channels,
        count=st.integers(1, 3),
        back=st.integers(1, 3),
        meanwhile=st.sampled_from(["nothing", "push", "pop", "flush", "time"]),
    )
    @_checked
    def receive_and_cancel(self, channel: str, count: int, back: int, meanwhile: str) -> None:
        """Messages are popped for receivers, some of which are cancelled: the last ones go back to the head."""
        self.fill(channel)
        self.pop_once(channel, count, "anna")
        if meanwhile == "push":
            self.fill(channel)
        elif meanwhile == "pop":
            self.pop_once(channel, 1, "ben")
        elif meanwhile == "flush":
            self.flush_all()
        elif meanwhile == "time":
            self.pass_to("before", "message")
        self.put_some_back(0, back)
        self.pop_once(channel, 2, "ben")

    @_about("claimed inboxes")
    @rule(channel=_channels, how=st.sampled_from(["by time", "by release", "not yet"]))
    @_checked
    def hand_over(self, channel: str, how: str) -> None:
        """A claimed inbox goes over to another claimant, which gets nothing again that the first one has popped."""
        queue = ChannelName.parse(channel).queue
        self.fill(channel)
        self.pop_once(channel, 1, "anna")
        if how == "by time":
            self.pass_limit("after", self.last.plus(1.5 * self.expiry))
        elif how == "by release":
            self.release_claim_as(queue, "anna")
        self.push_one(channel)
        self.pop_once(channel, 2, "ben")

    @precondition(lambda self: self.traits.capabilities.tracks_unread)
    @_about("members")
    @rule(
        channel=_channels,
        meanwhile=st.sampled_from(["nothing", "clear unread", "pop", "flush"]),
        to=st.sampled_from(["after", "after", "before"]),
    )
    @_checked
    def stop_reading(self, channel: str, meanwhile: str, to: str) -> None:
        """A member gets a message, which gets too old unless it reads or joins anew; then another one comes."""
        self.push_one(channel, to_member=True)
        limit = self.last.plus(self.expiry)
        name = ChannelName.parse(channel)
        if meanwhile == "pop":
            self.pop_once(channel, 1, "anna")
        elif meanwhile == "flush":
            self.flush_all()
        self.pass_limit(to, limit)
        if meanwhile == "clear unread":
            self.clear_unread_once(name, self.shard(name.queue))
        self.push_one(channel, to_member=True)

    @_about("claimed inboxes")
    @rule(channel=_channels, claimant=st.sampled_from(["anna", "ben"]))
    @_checked
    def release_claim(self, channel: str, claimant: str) -> None:
        """Give up an inbox that was claimed by popping it."""
        self.release_claim_as(ChannelName.parse(channel).queue, claimant)

    def release_claim_as(self, queue: Queue, claimant: str) -> None:
        """Release once; a store without leases and registered readers need not support it."""
        if not (self.leases or self.traits.capabilities.registers_readers):
            return
        request = c.ReleaseClaim(self.shard(queue), queue, claimant)
        self.ask(request)
        self.models[request.shard].claim_released(request)

    @precondition(lambda self: self.traits.capabilities.registers_readers)
    @_about("readers")
    @rule(
        channel=_channels,
        claimant=st.sampled_from(["anna", "ben"]),
        count=st.integers(0, 2),
        then=st.sampled_from(["push", "release", "other releases", "flush", "before", "after", "longer"]),
    )
    @_checked
    def register_reader(self, channel: str, claimant: str, count: int, then: str) -> None:
        """A process registers as reader, perhaps for long enough, and a message comes that needs a reader."""
        queue = ChannelName.parse(channel).queue
        if queue.kind is Kind.INBOX:
            return  # it has a claimant instead
        seconds = self.expiry / 2
        self.pop_some(queue, count, claimant, self.shard(queue), seconds)
        limit = self.last.plus(seconds)
        self.push_if_read(channel)
        match then:
            case "release":
                self.release_claim_as(queue, claimant)
            case "other releases":
                self.release_claim_as(queue, "anna" if claimant == "ben" else "ben")
            case "flush":
                self.flush_all()
            case "longer":
                self.pass_limit("before", limit)
                self.pop_some(queue, count, claimant, self.shard(queue), seconds)
                self.pass_limit("after", limit)
            case "before" | "after":
                self.pass_limit(then, limit)
            case _:
                self.push_one(channel)
        self.push_if_read(channel)
        self.check_orphaned()

    @precondition(lambda self: self.traits.capabilities.registers_readers)
    @_about("readers")
    @rule(channel=_channels)
    @_checked
    def push_without_reader(self, channel: str) -> None:
        """A message comes, with a reader or without; then one comes that needs a registered reader."""
        if ChannelName.parse(channel).queue.kind is Kind.INBOX:
            return
        self.push_one(channel)
        self.push_if_read(channel)
        self.check_orphaned()

    def push_if_read(self, channel: str) -> None:
        """Push a message that is refused if the queue has no registered reader."""
        request = replace(self.push_request(channel), if_registered=True)
        reply, at = self.ask(request)
        self.models[request.shard].pushed([(request, reply)], at)

    def check_orphaned(self) -> None:
        """Ask on every shard which queues have no registered reader."""
        for shard, model in enumerate(self.models):
            request = c.FindOrphaned(shard)
            reply, at = self.ask(request)
            model.orphaned(request, reply, at)

    @_about("queues", "claimed inboxes", "owned inboxes")
    @rule(channel=_channels)
    @_checked
    def pending(self, channel: str) -> None:
        """Count what waits."""
        self.count_pending(channel)

    def count_pending(self, channel: str) -> None:
        """Count once."""
        name = ChannelName.parse(channel)
        request = c.Pending(self.shard(name.queue), name)
        reply, at = self.ask(request)
        self.models[request.shard].pending(request, reply, at)

    @precondition(lambda self: self.traits.capabilities.statistics)
    @_about("queues", "claimed inboxes", "owned inboxes")
    @rule(channel=_channels, messages=st.integers(0, 3), refused=st.integers(0, 2), others=st.integers(0, 1))
    @_checked
    def report(self, channel: str, messages: int, refused: int, others: int) -> None:
        """A process reports what it has counted of a queue, and of others without their names."""
        self.report_once(channel, messages, refused, others)

    def report_once(self, channel: str, messages: int, refused: int, others: int) -> None:
        """Report, and ask what comes of it."""
        queue = ChannelName.parse(channel).queue
        shard = self.shard(queue)
        request = c.Report(shard, (c.Count(queue, messages, refused),), messages + others, refused)
        _, at = self.ask(request)
        self.models[shard].reported(request, at)
        self.ask_reported(shard, queue)
        self.ask_reported(shard, None)

    def ask_reported(self, shard: int, queue: Queue | None) -> None:
        """Ask what has been reported."""
        request = c.Reported(shard, queue)
        reply, at = self.ask(request)
        self.models[shard].told_reported(request, reply, at)

    @precondition(lambda self: self.traits.capabilities.statistics)
    @_about("queues", "claimed inboxes", "owned inboxes")
    @rule(channel=_channels, whole=st.booleans())
    @_checked
    def survey(self, channel: str, *, whole: bool) -> None:
        """Ask what waits for a channel, or for any."""
        self.survey_once(channel, whole=whole)

    def survey_once(self, channel: str, *, whole: bool) -> None:
        """Ask once."""
        name = ChannelName.parse(channel)
        request = c.Survey(self.shard(name.queue), None if whole else name)
        reply, at = self.ask(request)
        self.models[request.shard].surveyed(request, reply, at)

    @precondition(lambda self: self.traits.capabilities.statistics)
    @_about("queues", "owned inboxes")
    @rule(channel=_channels, seconds=st.sampled_from([9.0, 58.0, 61.0, 71.0]))
    @_checked
    def slow_down(self, channel: str, seconds: float) -> None:
        """Messages are reported, some time passes, and others are: a rate forgets the first ones after a minute."""
        self.report_once(channel, 2, 1, 0)
        target = self.clock.now() + seconds
        if all(target <= start - _BEFORE or target >= end + _AFTER for start, end, _ in self.edges()):
            self.advance(seconds)
        self.report_once(channel, 1, 0, 0)

    # -- groups

    @_about("members", "groups")
    @rule(group=_groups, channel=_channels)
    @_checked
    def join(self, group: str, channel: str) -> None:
        """A process that does not own a channel adds it to a group."""
        name = ChannelName.parse(channel)
        if self.traits.capabilities.tracks_unread:
            for shard in range(self.traits.shards) if name.queue.kind is Kind.NORMAL else [self.shard(name.queue)]:
                self.clear_unread_once(name, shard)
        self.join_as(group, name, owned=False)

    def join_as(self, group: str, name: ChannelName, *, owned: bool, age: float = 0.0) -> None:
        """Join, and put the marker where it belongs if that is another shard; with an age it restores."""
        shard, inbox_shard = self.group_shard(group), self.shard(name.queue)
        mark = self.leases and name.queue.kind is Kind.INBOX and inbox_shard == shard
        restore = age > 0.0
        request = c.Join(shard, GroupName.parse(group), name, owned=owned, age=age, restore=restore, mark=mark)
        reply, at = self.ask(request)
        self.models[shard].joined(request, reply, at)
        self.joined_at = at
        if reply.applied:
            self.versions[group].append(reply.version)
        if reply.owned and reply.applied:
            self.mirror[group, name.name] = Span(at.low - age, at.high - age)
            if inbox_shard != shard:
                self.mark_at(
                    inbox_shard, name, MembershipMarker(group, name.name, True, reply.version, round(age * 1000))
                )
        elif restore:
            self.mirror.pop((group, name.name), None)

    def mark_at(self, inbox_shard: int, name: ChannelName, marker: MembershipMarker) -> None:
        """Put a marker into an inbox."""
        request = c.Mark(inbox_shard, name.queue, marker)
        reply, at = self.ask(request)
        self.models[inbox_shard].marked(request, reply, at)

    @_about("members", "groups")
    @rule(group=_groups, channel=_channels)
    @_checked
    def leave(self, group: str, channel: str) -> None:
        """A process removes a channel from a group."""
        self.leave_as(group, ChannelName.parse(channel), None)

    def leave_as(self, group: str, name: ChannelName, latest: int | None) -> None:
        """Leave, and put the marker where it belongs if that is another shard."""
        shard, inbox_shard = self.group_shard(group), self.shard(name.queue)
        is_inbox = self.leases and name.queue.kind is Kind.INBOX
        request = c.Leave(shard, GroupName.parse(group), name, mark=is_inbox and inbox_shard == shard, latest=latest)
        reply, at = self.ask(request)
        self.models[shard].left(request, reply, at)
        if is_inbox and inbox_shard != shard and reply.applied:
            self.mark_at(inbox_shard, name, MembershipMarker(group, name.name, False, reply.version, 0))

    @_about("members", "groups")
    @rule(group=_groups)
    @_checked
    def members(self, group: str) -> None:
        """List a group's members."""
        self.list_members(group)

    def list_members(self, group: str) -> None:
        """List them once."""
        request = c.Members(self.group_shard(group), GroupName.parse(group))
        reply, at = self.ask(request)
        self.models[request.shard].listed(request, reply, at)

    # -- owned inboxes

    def owner_of(self, inbox: str) -> tuple[_Owner, int, Model]:
        """Return an inbox's owner, its shard and the model of that."""
        owner = self.owners[inbox]
        shard = self.shard(owner.queue)
        return owner, shard, self.models[shard]

    def lives(self, inbox: str) -> bool:
        """Whether an inbox has a living owner."""
        now = self.clock.now()
        return self.owner_of(inbox)[2].lives(inbox, Span(now, now))

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(inbox=_inboxes)
    @_checked
    def claim(self, inbox: str) -> None:
        """Take the lease of an inbox; again, if it was taken before."""
        self.claim_once(inbox)

    def own(self, inbox: str) -> None:
        """Claim an inbox if it has no living owner."""
        if not self.lives(inbox):
            self.claim_once(inbox)

    def claim_once(self, inbox: str) -> None:
        """Claim, unless the owner has given the inbox up for good."""
        owner, shard, model = self.owner_of(inbox)
        if owner.released:
            return
        self.number += 1
        generation = f"generation-{self.number}"
        held = tuple((+owner.held).items())
        request = c.AcquireLease(shard, owner.queue, generation, owner.position, held)
        reply, at = self.ask(request)
        model.claimed(request, reply, at)
        if reply.fresh:
            owner.position = ""
        if owner.claimed:
            owner.unacknowledged = generation
        owner.claimed, owner.generation = True, generation
        owner.after, owner.batch = owner.position, 0

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(inbox=_inboxes)
    @_checked
    def renew(self, inbox: str) -> None:
        """Keep a lease."""
        owner, shard, model = self.owner_of(inbox)
        if owner.claimed and not owner.released:
            request = c.RenewLease(shard, owner.queue)
            reply, at = self.ask(request)
            model.renewed(request, reply, at)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(inbox=_inboxes, sure=st.integers(1, 6))
    @_checked
    def release(self, inbox: str, sure: int) -> None:
        """Give an inbox up for good; not often."""
        owner, shard, model = self.owner_of(inbox)
        if owner.claimed and not owner.released and sure == 6:
            request = c.ReleaseLease(shard, owner.queue)
            reply, at = self.ask(request)
            model.released(request, reply, at)
            owner.released = True
            self.mirror = {key: since for key, since in self.mirror.items() if not key[1].startswith(inbox)}

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(inbox=_inboxes, where=st.sampled_from(["on", "on", "again"]))
    @_checked
    def read(self, inbox: str, where: str) -> None:
        """Read an inbox: go on, or repeat the last read, as after a lost connection."""
        self.read_once(inbox, again=where == "again")

    def read_once(self, inbox: str, *, again: bool = False) -> None:
        """Read, if the owner lives; take in what is new."""
        if not self.lives(inbox):
            return
        owner, shard, model = self.owner_of(inbox)
        after = owner.after if again else owner.position
        block = 0.2 if model.waits(inbox, after) else 0.001
        request = c.Read(shard, owner.queue, after, block)
        reply, at = self.ask(request)
        model.read(request, reply, at)
        known = owner.batch if again else 0
        if len(reply.entries) >= known:
            owner.after, owner.position, owner.batch = after, reply.position, len(reply.entries)
            for _, frame in reply.entries[known:]:
                if frame[:1] == b"m":
                    owner.held[frame[2 : 2 + frame[1]].decode("ascii")] += 1
                elif frame[:1] == b"f":
                    owner.held.clear()
                    owner.generation = owner.unacknowledged = frame[1:].decode("ascii")

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(inbox=_inboxes, count=st.integers(1, 3))
    @_checked
    def return_credits(self, inbox: str, count: int) -> None:
        """Receive so many of the messages that were read, and return their credits."""
        self.return_some_credits(inbox, count)

    def return_some_credits(self, inbox: str, count: int) -> None:
        """Return credits once, if there are any."""
        owner, shard, model = self.owner_of(inbox)
        received = Counter(list(owner.held.elements())[:count])
        if received:
            owner.held -= received
            owner.serial += 1
            request = c.ReturnCredits(shard, owner.queue, owner.generation, owner.serial, tuple(received.items()))
            _, at = self.ask(request)
            model.credits_returned(request, at)
            owner.returned = request

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(inbox=_inboxes)
    @_checked
    def return_credits_again(self, inbox: str) -> None:
        """Repeat the last request that returned credits, as after a lost connection."""
        self.repeat_returned_credits(inbox)

    def repeat_returned_credits(self, inbox: str) -> None:
        """Repeat it, if there was one."""
        owner, _, model = self.owner_of(inbox)
        if owner.returned is not None:
            _, at = self.ask(owner.returned)
            model.credits_returned(owner.returned, at)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(inbox=_inboxes, channel=_owned)
    @_checked
    def read_and_fill(self, inbox: str, channel: str) -> None:
        """Read all and return all credits, and then push until there is no room: every credit is there again."""
        if self.lives(inbox):
            self.empty(inbox)
            self.fill(channel)

    def empty(self, inbox: str) -> None:
        """Read all that is in an inbox, receive it, and let go of it."""
        self.read_once(inbox)
        self.return_some_credits(inbox, 100)
        self.read_once(inbox)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(
        channel=_owned,
        received=st.integers(0, 2),
        meanwhile=st.sampled_from(["nothing", "flush", "claim"]),
    )
    @_checked
    def count_credits(self, channel: str, received: int, meanwhile: str) -> None:
        """Credits are returned, and the request comes again, late: then pushes find exactly the room that there is."""
        inbox = _inbox_of(channel)
        self.own(inbox)
        self.empty(inbox)
        self.fill(channel)
        self.read_once(inbox)
        self.return_some_credits(inbox, received)
        if meanwhile == "flush":
            self.flush_all()
        elif meanwhile == "claim":
            self.claim_once(inbox)
        self.push_one(channel)
        self.repeat_returned_credits(inbox)
        self.fill(channel)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(channel=_owned, meanwhile=st.sampled_from(["nothing", "push", "pop", "flush"]))
    @_checked
    def come_back(self, channel: str, meanwhile: str) -> None:
        """A lease ends, if time ends leases; the owner takes it again, and reads on."""
        inbox = _inbox_of(channel)
        self.own(inbox)
        self.push_one(channel)
        self.pass_to("after", "lease")
        if meanwhile == "push":
            self.push_one(channel)
        elif meanwhile == "pop":
            self.pop_once(channel, 1, "anna")
        elif meanwhile == "flush":
            self.flush_all()
        self.claim_once(inbox)
        self.read_once(inbox)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule()
    @_checked
    def alive(self) -> None:
        """Ask which inboxes live."""
        for shard, model in enumerate(self.models):
            inboxes = tuple(owner.queue for owner in self.owners.values() if self.shard(owner.queue) == shard)
            if inboxes:
                request = c.Alive(shard, inboxes)
                reply, at = self.ask(request)
                model.told_alive(request, reply, at)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(group=_groups, channel=_owned)
    @_checked
    def mark(self, group: str, channel: str) -> None:
        """Put a marker into an inbox, as if the group were on another shard."""
        name = ChannelName.parse(channel)
        self.number += 1
        marker = MembershipMarker(group, channel, self.number % 3 > 0, self.number, 0)
        self.mark_at(self.shard(name.queue), name, marker)

    # -- groups of owned inboxes

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(group=_groups, channel=_owned)
    @_checked
    def join_own(self, group: str, channel: str) -> None:
        """An owner adds a channel of its own to a group; its lease may have ended without its knowledge."""
        self.join_own_once(group, channel)

    def join_own_once(self, group: str, channel: str) -> None:
        """Join, if there is an owner."""
        name = ChannelName.parse(channel)
        owner = self.owners[name.queue.name]
        if owner.claimed and not owner.released:
            self.join_as(group, name, owned=True)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(which=st.integers(0, 5))
    @_checked
    def restore(self, which: int) -> None:
        """An owner announces a membership again; it may not know that it has ended."""
        if self.mirror:
            self.restore_one(*list(self.mirror)[which % len(self.mirror)])

    def restore_one(self, group: str, channel: str) -> None:
        """Announce one, if its owner believes in it."""
        since = self.mirror.get((group, channel))
        if since is None:
            return
        age = max(1, int((self.clock.now() - since.low) * 8)) / 8  # a number that every store rounds to the same
        if self.group_expiry is not None and age + _STEP > self.group_expiry:
            del self.mirror[group, channel]  # an owner knows that this one is over
            return
        self.join_as(group, ChannelName.parse(channel), owned=True, age=age)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(which=st.integers(0, 5), known=st.sampled_from(["all", "all", "not the last"]))
    @_checked
    def tidy_up(self, which: int, known: str) -> None:
        """An owner removes a channel that did not read, unless it has joined later than the owner knows of."""
        if not self.mirror:
            return
        group, channel = list(self.mirror)[which % len(self.mirror)]
        versions = self.versions[group]
        if known == "all" or len(versions) > 1:
            self.leave_as(group, ChannelName.parse(channel), versions[-1 if known == "all" else -2])

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(
        group=_groups,
        meanwhile=st.sampled_from(["nothing", "nothing", "an owner comes back", "a stranger joins"]),
        channel=_owned,
    )
    @_checked
    def send_to_group(self, group: str, meanwhile: str, channel: str) -> None:
        """Publish, deliver where that was not done at once, and prune the members that were found to be gone."""
        self.send(group, meanwhile, channel)

    def send(self, group: str, meanwhile: str, channel: str) -> None:
        """Do as a ``group_send`` does."""
        shard, name = self.group_shard(group), GroupName.parse(group)
        model = self.models[shard]
        now = self.clock.now()
        if model.unsettled(group, Span(now, now)):
            self.list_members(group)
        self.number += 1
        payload = b"\x01%d" % self.number
        request = c.Publish(shard, name, payload, at_once=self.traits.general_shards == 1)
        reply, at = self.ask(request)
        model.published(request, reply, at)
        if reply.done:
            return
        dead: list[str] = []
        for inbox in reply.inboxes:
            extra_recipients = tuple(other for other in reply.others if other.startswith(inbox))
            if self.deliver_once(inbox, name, extra_recipients, payload) is c.Delivery.NO_OWNER:
                dead.append(inbox)
        outside = tuple(other for other in reply.others if "!" not in other)[:1]
        if meanwhile == "an owner comes back":
            self.claim_once(_inbox_of(channel))
            self.join_own_once(group, channel)
        elif meanwhile == "a stranger joins":
            self.join_as(group, ChannelName.parse("jobs"), owned=False)
        if dead or outside:
            prune = c.Prune(shard, name, reply.version, tuple(dead), outside)
            _, at = self.ask(prune)
            model.pruned(prune, at)
            self.list_members(group)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes", "groups")
    @rule(inbox=_inboxes, group=_groups, extra_recipients=st.integers(0, 1))
    @_checked
    def deliver(self, inbox: str, group: str, extra_recipients: int) -> None:
        """Put a group message into an inbox, with members in it that its owner did not add."""
        self.deliver_new(inbox, group, (inbox + "a", inbox + "ab")[: 2 * extra_recipients])

    def deliver_new(self, inbox: str, group: str, extra_recipients: tuple[str, ...]) -> c.Delivery:
        """Deliver a message that there is only one of."""
        self.number += 1
        return self.deliver_once(inbox, GroupName.parse(group), extra_recipients, b"\x01%d" % self.number)

    @_about("members", "groups")
    @rule(group=_groups, channel=_channels)
    @_checked
    def join_again(self, group: str, channel: str) -> None:
        """A member joins again before its time is over, and is one still when the first joining would be over."""
        name = ChannelName.parse(channel)
        self.join_as(group, name, owned=False)
        self.pass_a_step()
        self.join_as(group, name, owned=False)
        self.pass_limit("before", self.joined_at.plus(86400.0 if self.group_expiry is None else self.group_expiry))
        self.list_members(group)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(group=_groups, channel=_owned)
    @_checked
    def leave_and_be_restored(self, group: str, channel: str) -> None:
        """A process removes a member, and the owner, which does not know of it, announces the member again."""
        self.own(_inbox_of(channel))
        self.join_own_once(group, channel)
        self.leave_as(group, ChannelName.parse(channel), None)
        self.restore_one(group, channel)
        self.list_members(group)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(group=_groups, channel=_owned, other=_owned)
    @_checked
    def tidy_up_late(self, group: str, channel: str, other: str) -> None:
        """An owner removes a channel that did not read; it, or another one, has joined since."""
        self.own(_inbox_of(channel))
        self.join_own_once(group, channel)
        latest = self.versions[group][-1:]
        self.join_own_once(group, other)
        if latest:
            self.leave_as(group, ChannelName.parse(channel), latest[0])
        self.list_members(group)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(group=_groups, channel=_owned)
    @_checked
    def send_to_a_full_one(self, group: str, channel: str) -> None:
        """One inbox is full, and the others get what is sent to the group all the same."""
        for member in self.owned:
            self.own(_inbox_of(member))
            self.join_own_once(group, member)
        for _ in range(self.inbox_capacity):
            if self.deliver_new(_inbox_of(channel), group, ()) is not c.Delivery.DONE:
                break
        self.send(group, "nothing", channel)

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule(group=_groups, channel=_owned, meanwhile=st.sampled_from(["nothing", "an owner comes back"]))
    @_checked
    def send_to_a_dead_one(self, group: str, channel: str, meanwhile: str) -> None:
        """A lease ends, if time ends leases, and its members are removed, unless their owner comes back meanwhile."""
        self.own(_inbox_of(channel))
        self.join_own_once(group, channel)
        self.pass_to("after", "lease")
        self.join_as(group, ChannelName.parse("jobs"), owned=False)
        self.send(group, meanwhile, channel)

    def deliver_once(
        self, inbox: str, group: GroupName, extra_recipients: tuple[str, ...], payload: bytes
    ) -> c.Delivery:
        """Deliver; return what became of it."""
        owner, shard, model = self.owner_of(inbox)
        request = c.Deliver(shard, owner.queue, group, extra_recipients, payload)
        reply, at = self.ask(request)
        model.delivered(request, reply, at)
        return reply

    @precondition(lambda self: self.leases)
    @_about("groups")
    @rule()
    @_checked
    def touch(self) -> None:
        """Keep groups alive whose members do not expire."""
        for shard, model in enumerate(self.models):
            groups = tuple(GroupName.parse(group) for group in _GROUPS if self.group_shard(group) == shard)
            if groups:
                request = c.Touch(shard, groups)
                _, at = self.ask(request)
                model.touched(request, at)

    # -- flush

    @rule()
    @_checked
    def flush(self) -> None:
        """Empty everything of this prefix; the neighbour, whose prefix begins like it, keeps what it has."""
        self.flush_all()

    def flush_all(self) -> None:
        """Flush every shard."""
        self.number += 1
        generation = f"flush-{self.number}"
        neighbour = self.number % self.traits.general_shards
        self.fill_neighbour(neighbour)
        for shard, model in enumerate(self.models):
            request = c.Flush(shard, generation)
            reply, at = self.ask(request)
            model.flushed(request, reply, at)
            self.flushes.append(_BegunFlush(shard, generation, tuple(dict.fromkeys(reply.inboxes))))
        self.mirror.clear()
        self.check_neighbour(neighbour)

    def fill_neighbour(self, shard: int) -> None:
        """Give the neighbour something that a flush could reach."""
        model = self.neighbours[shard]
        push = c.Push(shard, ChannelName.parse("jobs"), 1, b"\x01neighbour", to_member=False)
        pushed, at = self.ask_neighbour(push)
        model.pushed([(push, pushed)], at)
        join = c.Join(shard, GroupName.parse("g"), push.channel, owned=False, age=0.0, restore=False, mark=False)
        changed, at = self.ask_neighbour(join)
        model.joined(join, changed, at)
        if self.leases:
            inbox = self.neighbours_channel()
            claim = c.AcquireLease(shard, inbox.queue, f"generation-{self.number}", "", ())
            claimed, at = self.ask_neighbour(claim)
            model.claimed(claim, claimed, at)
            push = c.Push(shard, inbox, 100, b"\x01neighbour", to_member=False)
            pushed, at = self.ask_neighbour(push)
            model.pushed([(push, pushed)], at)

    def neighbours_channel(self) -> ChannelName:
        """Return a channel in the inbox that the neighbour owns at this flush."""
        return ChannelName.parse(f"specific.{self.number}!a")

    def check_neighbour(self, shard: int) -> None:
        """Look whether the neighbour has it still."""
        model = self.neighbours[shard]
        if self.leases:
            inbox = self.neighbours_channel().queue
            read = c.Read(shard, inbox, "", 0.2)
            batch, at = self.ask_neighbour(read)
            model.read(read, batch, at)
            release = c.ReleaseLease(shard, inbox)
            waited, at = self.ask_neighbour(release)
            model.released(release, waited, at)
        pop = c.Pop(shard, ChannelName.parse("jobs").queue, 1, "neighbour")
        popped, at = self.ask_neighbour(pop)
        model.popped(pop, popped, at)
        members = c.Members(shard, GroupName.parse("g"))
        listed, at = self.ask_neighbour(members)
        model.listed(members, listed, at)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(which=st.integers(0, 3))
    @_checked
    def unflushed(self, which: int) -> None:
        """Ask which inboxes have yet to acknowledge a flush."""
        if not self.flushes:
            return
        begun = self.flushes[-1 - which % len(self.flushes)]
        request = c.Unflushed(begun.shard, begun.inboxes, begun.generation)
        reply, at = self.ask(request)
        self.models[begun.shard].told_unflushed(request, reply, at)

    @precondition(lambda self: self.leases)
    @_about("owned inboxes")
    @rule(inbox=_inboxes)
    @_checked
    def acknowledge(self, inbox: str) -> None:
        """An owner reads on, and says that it has dropped what it held before a flush, or a lost lease."""
        self.read_once(inbox)
        owner, shard, model = self.owner_of(inbox)
        if owner.unacknowledged:
            request = c.Acknowledge(shard, owner.queue, owner.unacknowledged)
            _, at = self.ask(request)
            model.acknowledged(request, at)
            owner.unacknowledged = ""

    # -- time

    @rule(
        to=st.sampled_from(["after", "after", "before"]),
        what=st.sampled_from(["message", "message", "lease", "claim", "membership", "anything"]),
    )
    @_checked
    def pass_time(self, to: str, what: str) -> None:
        """Let time pass to just before, or just after, something ends: what ends first, if nothing else is near."""
        self.pass_to(to, what)

    @rule()
    @_checked
    def pass_a_little_time(self) -> None:
        """Let so much time pass that what comes now does not end together with what came before."""
        self.pass_a_step()

    def pass_to(self, to: str, what: str) -> None:
        """Move the clock to an edge of the next thing of this kind that ends, if there is one."""
        now = self.clock.now()
        for start, end, kinds in self.edges():
            target = end + _AFTER if to == "after" else start - _BEFORE
            if target > now and (what in kinds or what == "anything"):
                self.advance(target - now)
                return

    def pass_limit(self, to: str, limit: Span) -> None:
        """Move the clock to an edge of a limit."""
        now = self.clock.now()
        for start, end, _ in self.edges():
            if start <= limit.high <= end:
                self.advance(max(0.0, (end + _AFTER if to == "after" else start - _BEFORE) - now))

    def pass_a_step(self) -> None:
        """Move the clock by a step, unless something ends just then."""
        target = self.clock.now() + _STEP
        if all(target <= start - _BEFORE or target >= end + _AFTER for start, end, _ in self.edges()):
            self.advance(_STEP)

    def edges(self) -> list[tuple[float, float, set[str]]]:
        """Return when things end, and what: (from, to, kinds). What ends at about the same time is taken together.

        So it does not depend on how fast this machine is where time passes to: an example can be repeated.
        """
        now = self.clock.now()
        models = (*self.models, *self.neighbours)
        limits = [(span, kind) for model in models for kind, span in model.limits() if span.high + GUARD > now]
        edges: list[tuple[float, float, set[str]]] = []
        for span, kind in sorted(limits):
            if edges and span.low < edges[-1][1] + _APART:
                start, end, kinds = edges[-1]
                edges[-1] = start, max(end, span.high), {*kinds, kind}
            else:
                edges.append((span.low, span.high, {kind}))
        return edges

    def advance(self, seconds: float) -> None:
        """Move the clock."""
        self.say(f"  {seconds:.3f} seconds pass")
        self.clock.advance(seconds)

    # -- the end

    def teardown(self) -> None:
        """Look at everything once more, and let go of the stores."""
        if self.runner is None:
            return
        try:
            if not self.failed:
                self.check_everything()
        finally:
            with contextlib.suppress(Exception):  # a store that is wrong may fail here, too; that is not what is tested
                self.loop.run_until_complete(self.clear())
            try:
                self.loop.run_until_complete(_close(self.stores))
            finally:
                self.runner.close()

    @_checked
    def check_everything(self) -> None:
        """Compare what the store holds in the end."""
        for group in _GROUPS:
            self.list_members(group)
        for inbox, owner in self.owners.items():
            if owner.claimed and not owner.released and not self.lives(inbox):
                self.claim_once(inbox)
            self.read_once(inbox)
        for channel in dict.fromkeys(self.channels):
            self.count_pending(channel)
            if self.traits.capabilities.statistics:
                self.survey_once(channel, whole=False)
                self.survey_once(channel, whole=True)
            self.fill(channel)
        for queue in dict.fromkeys(ChannelName.parse(channel).queue for channel in self.channels):
            for shard in range(self.traits.shards) if queue.kind is Kind.NORMAL else [self.shard(queue)]:
                self.pop_some(queue, 20, "anna", shard)

    def fill(self, channel: str) -> None:
        """Push until the channel is full."""
        for _ in range(self.capacity + 3):
            if not self.push_one(channel).accepted:
                return

    async def clear(self) -> None:
        """Leave nothing behind under either prefix that a store can remove."""
        for store in self.stores[1:]:
            for shard in range(self.traits.shards):
                if self.leases and shard < self.traits.general_shards:
                    for owner in self.owners.values():
                        await store.execute(c.ReleaseLease(shard, owner.queue))
                await store.execute(c.Flush(shard, "end"))

    # -- asking

    def say(self, line: object) -> None:
        """Write down what belongs to a script."""
        if self.script is None:
            note(line)
        else:
            self.script.append(line)

    def shard(self, queue: Queue) -> int:
        """Return where a queue is, by a rule of our own: any will do. A normal channel is on every shard by turns."""
        if queue.kind is Kind.NORMAL:
            return self.steps // _STEPS_ON_A_SHARD % self.traits.shards
        return zlib.crc32(queue.name.encode("ascii")) % self.traits.general_shards

    def group_shard(self, group: str) -> int:
        """Return where a group is."""
        return zlib.crc32(group.encode("ascii")) % self.traits.general_shards

    def ask(self, request: c.Command[R]) -> tuple[R, Span]:
        """Ask one of the two processes' stores; return its reply and when it was carried out."""
        return self.ask_store(self.turn(), request)

    def ask_neighbour(self, request: c.Command[R]) -> tuple[R, Span]:
        """Ask the neighbour's store."""
        return self.ask_store(self.neighbour, request)

    def turn(self) -> Store:
        """Return the store of one process, and the next time that of the other one."""
        self.asked += 1
        return self.stores[self.asked % 2]

    def ask_store(self, store: Store, request: c.Command[R]) -> tuple[R, Span]:
        """Ask, and write it down."""
        reply, at = self.timed(_execute(store, request))
        who = ("one process", "the other", "the neighbour")[self.stores.index(store)]
        self.say(_ScriptLine(who, request, reply))
        return reply, at

    def ask_at_once(self, requests: Sequence[c.Command[R]]) -> tuple[list[R], Span]:
        """Ask both processes' stores at once, by turns."""

        async def asked() -> list[R]:
            calls = [self.stores[place % 2].execute(request) for place, request in enumerate(requests)]
            return await asyncio.gather(*calls)

        replies, at = self.timed(asked())
        for request, reply in zip(requests, replies, strict=True):
            self.say(_ScriptLine("at once", request, reply))
        return replies, at

    def timed(self, work: Coroutine[object, object, R]) -> tuple[R, Span]:
        """Run something in the example's loop; return its result and when it was.

        Raises:
            _TooLate: that was too late.
        """
        sent = self.clock.now()
        try:
            reply = self.loop.run_until_complete(work)
        except StoreError:
            if time.monotonic() - self.began > EXAMPLE_SECONDS:
                raise _TooLate from None
            raise
        at = Span(sent, self.clock.now())
        if time.monotonic() - self.began > EXAMPLE_SECONDS:
            raise _TooLate
        self.run_counts.replies += 1
        self.last = at
        return reply, at


async def _execute(store: Store, command: c.Command[R]) -> R:
    return await store.execute(command)


async def _open(backends: Sequence[Backend]) -> list[Store]:
    """Open a store of each, with its connections."""
    stores = [backend.open() for backend in backends]
    for store, backend in zip(stores, backends, strict=True):
        for shard in range(len(backend.identities)):
            await store.run_id(shard)
    return stores


async def _close(stores: Sequence[Store]) -> None:
    for store in stores:
        await store.aclose()
