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
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeAlias, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.errors import StoreError
from channel_layer.testing.factories import Violation, VirtualClock, fresh_prefix, make_rules
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

_Step: TypeAlias = "Callable[Concatenate[StoreMachine, P], None]"

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
    """How much of a run was checked, and what broke a rule.

    Attributes:
        examples: how many there were.
        replies: how many replies were checked.
        found: every violation; see `LayerMachine`.
    """

    examples: int = 0
    replies: int = 0
    found: list[Violation] = field(default_factory=list[Violation])


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
    shard: int
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

    @property
    def owns(self) -> bool:
        """Whether it has not given the inbox up; its lease may have ended all the same."""
        return self.claimed and not self.released


def _about(*topics: str, needs: str | None = None) -> Callable[[_Step[P]], _Step[P]]:
    """Say which examples a rule is used in.

    Args:
        topics: in those about one of these, or about everything; without any, in all.
        needs: the capability of the store without which it is not used. What the topics need need not be said.
    """

    def applies(machine: StoreMachine) -> bool:
        about = machine.topics if machine.topic == "everything" else [machine.topic]
        fits = not topics or any(topic in about for topic in topics)
        return fits and (needs is None or bool(getattr(machine.traits.capabilities, needs)))

    def make_step(step: _Step[P]) -> _Step[P]:
        return precondition(applies)(_checked(step))

    return make_step


def _checked(step: _Step[P]) -> _Step[P]:
    """Let a step do nothing once its example is not checked any more. A step that another one takes is a part of it."""

    @wraps(step)
    def checked(self: StoreMachine, /, *args: P.args, **kwargs: P.kwargs) -> None:
        if self.is_in_step:
            step(self, *args, **kwargs)
            return
        if self.unchecked:
            return
        self.steps += 1
        if self.script is not None:
            self.script.append(
                f"state.{step.__name__}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"
            )
        self.is_in_step = True
        try:
            step(self, *args, **kwargs)
        except (Unclear, _TooLate):
            self.unchecked = True
            self.say("the rest of this example is not checked: it has taken too long")
        except BaseException as exc:
            self.failed = True
            if isinstance(exc, Violation):
                self.run_counts.found.append(exc)
            raise
        finally:
            self.is_in_step = False

    return checked


def _of(choose: Callable[[StoreMachine], Sequence[str]]) -> st.SearchStrategy[str]:
    """Draw one of the names that an example uses."""

    def choose_for(machine: object) -> st.SearchStrategy[str]:
        return st.sampled_from(choose(machine) if isinstance(machine, StoreMachine) else ("",))

    return st.runner().flatmap(choose_for)


def _inbox_of(channel: str) -> str:
    return ChannelName.parse(channel).queue.name


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
        self.topics: list[str] = ["queues", "claimed inboxes", "members", "everything"]
        """What an example can be about; there is most to say of what needs leases."""
        if traits.capabilities.registers_readers:
            self.topics.append("readers")
        if traits.capabilities.leases:
            self.topics += ["owned inboxes", "owned inboxes", "groups", "groups"]
        self.topic: str = ""
        self.channels: tuple[str, ...] = ()
        self.owned: list[str] = []
        self.unchecked: bool = True
        self.is_in_step = False
        self.failed = False
        self.script: list[object] | None = None
        """What was done, if Hypothesis does not write it down."""
        self.stores: list[Store] = []
        self.runner: asyncio.Runner | None = None

    @property
    def leases(self) -> bool:
        """Whether the store keeps owned inboxes."""
        return self.traits.capabilities.leases

    @initialize(
        topic=_of(lambda machine: machine.topics),
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
        self.popped: list[c.PutBack] = []
        """What each pop brought and no receiver has got yet."""
        queues = [Queue(name, Kind.INBOX) for name in _INBOXES]
        self.owners: dict[str, _Owner] = {queue.name: _Owner(queue, self.shard(queue)) for queue in queues}
        self.mirror: dict[tuple[str, str], Span] = {}
        """What owners believe to be their memberships: (group, channel), and since when."""
        self.versions: dict[str, list[int]] = {name: [] for name in _GROUPS}
        self.flushes: list[c.Unflushed] = []
        """What is to be asked after each flush."""
        self.runner = asyncio.Runner()
        self.loop: asyncio.AbstractEventLoop = self.runner.get_loop()
        opened = (prefixes[0], *prefixes)
        self.backends: list[Backend] = [self.make_store(rules(prefix), self.clock) for prefix in opened]
        self.stores = self.loop.run_until_complete(_open(self.backends))
        self.run_counts.examples += 1
        self.began: float = time.monotonic()
        self.unchecked = False

    # -- messages

    @rule(channel=_channels, times=st.sampled_from([1, 1, 2, 4]))
    @_about("queues", "claimed inboxes", "members", "owned inboxes", "groups")
    def push(self, channel: str, times: int) -> None:
        """Push so many messages, one after another."""
        for _ in range(times):
            self.push_one(channel)

    def push_one(self, channel: str, *, to_member: bool = False, if_registered: bool = False) -> c.Pushed:
        """Push one message; return what became of it."""
        return self.ask(replace(self.push_request(channel), to_member=to_member, if_registered=if_registered))

    def push_request(self, channel: str) -> c.Push:
        """Return a push of a message that there is only one of."""
        name = ChannelName.parse(channel)
        return c.Push(self.shard(name.queue), name, self.capacity + (channel == "claimed!b"), self.new_payload())

    def new_payload(self) -> bytes:
        """Return what there is only one of."""
        self.number += 1
        return b"\x01%d\r\n\xff\x00" % self.number

    @rule(channel=_channels, count=st.integers(2, 5))
    @_about("queues", "claimed inboxes", "owned inboxes")
    def push_at_once(self, channel: str, count: int) -> None:
        """Push so many messages to one channel at once, from both processes."""
        requests = [self.push_request(channel) for _ in range(count)]
        replies = self.ask_at_once(requests)
        self.models[requests[0].shard].check_at_once(requests, replies, self.last)

    @rule(channel=_channels)
    @_about("members", needs="tracks_unread")
    def push_to_member(self, channel: str) -> None:
        """Push a message that a channel gets as a member of a group."""
        self.push_one(channel, to_member=True)

    @rule(channel=_channels)
    @_about("members", needs="tracks_unread")
    def clear_unread(self, channel: str) -> None:
        """Forget that a member has let a message expire unread."""
        name = ChannelName.parse(channel)
        self.ask(c.ClearUnread(self.shard(name.queue), name))

    @rule(channel=_channels, count=st.integers(0, 3), claimant=st.sampled_from(["anna", "anna", "ben"]))
    @_about("queues", "claimed inboxes", "members")
    def pop(self, channel: str, count: int, claimant: str) -> None:
        """Take messages from the queue of a channel."""
        queue = ChannelName.parse(channel).queue
        self.pop_some(queue, count, claimant, self.shard(queue))

    def pop_some(self, queue: Queue, count: int, claimant: str, shard: int, register: float = 0.0) -> None:
        """Pop once."""
        reply = self.ask(c.Pop(shard, queue, count, claimant, register))
        if reply.entries and queue.kind is not Kind.INBOX:  # what was in an inbox waits for its other channels
            self.popped.append(c.PutBack(shard, queue, reply.entries))

    @rule(which=st.integers(0, 3), count=st.integers(1, 3))
    @_about("queues")
    def put_back(self, which: int, count: int) -> None:
        """Put back the last ones of what a pop has brought: the first ones have been received."""
        if self.popped:
            taken = self.popped.pop(-1 - which % len(self.popped))
            self.ask(replace(taken, entries=taken.entries[-count:]))

    @rule(
        channel=_channels,
        to=st.sampled_from(["after", "after", "before"]),
        then=st.sampled_from(["pop", "pop one", "push"]),
    )
    @_about("queues", "claimed inboxes")
    def grow_old(self, channel: str, to: str, then: str) -> None:
        """Two messages come, with some time between them, and the first one gets too old, or nearly so."""
        self.push_one(channel)
        limit = self.last.plus(self.expiry)
        self.pass_a_little_time()
        self.push_one(channel)
        self.pass_limit(to, limit)
        if then == "push":
            self.fill(channel)
        else:
            self.pop(channel, 1 if then == "pop one" else 3, "anna")

    @rule(
        channel=_channels,
        count=st.integers(1, 3),
        back=st.integers(1, 3),
        meanwhile=st.sampled_from(["nothing", "fill", "pop", "flush", "time"]),
    )
    @_about("queues")
    def receive_and_cancel(self, channel: str, count: int, back: int, meanwhile: str) -> None:
        """Messages are popped for receivers, some of which are cancelled: the last ones go back to the head."""
        self.fill(channel)
        self.pop(channel, count, "anna")
        self.do(meanwhile, channel)
        self.put_back(0, back)
        self.pop(channel, 2, "ben")

    def do(self, what: str, channel: str) -> None:
        """Do what comes between two other steps."""
        match what:
            case "push":
                self.push_one(channel)
            case "fill":
                self.fill(channel)
            case "pop":
                self.pop(channel, 1, "ben")
            case "clear unread":
                self.clear_unread(channel)
            case "claim":
                self.claim(_inbox_of(channel))
            case "flush":
                self.flush()
            case "time":
                self.pass_time("before", "message")
            case _:
                pass

    @rule(channel=_channels, how=st.sampled_from(["by time", "by release", "not yet"]))
    @_about("claimed inboxes")
    def hand_over(self, channel: str, how: str) -> None:
        """A claimed inbox goes over to another claimant, which gets nothing again that the first one has popped."""
        self.fill(channel)
        self.pop(channel, 1, "anna")
        if how == "by time":
            self.pass_limit("after", self.last.plus(1.5 * self.expiry))
        elif how == "by release":
            self.release_claim(channel, "anna")
        self.push_one(channel)
        self.pop(channel, 2, "ben")

    @rule(
        channel=_channels,
        meanwhile=st.sampled_from(["nothing", "clear unread", "pop", "late pop", "peek", "flush"]),
        to=st.sampled_from(["after", "after", "before"]),
    )
    @_about("members", needs="tracks_unread")
    def stop_reading(self, channel: str, meanwhile: str, to: str) -> None:
        """A member gets a message, then another one: the first has long expired, unless it is read or forgotten."""
        self.push_one(channel, to_member=True)
        expires, limit = self.last.plus(self.expiry), self.last.plus(2 * self.expiry)
        match meanwhile:
            case "clear unread":
                self.pass_limit(to, limit)
                self.clear_unread(channel)
            case "late pop":
                self.pass_limit("after", expires)
                self.pop(channel, 1, "anna")
                self.pass_limit(to, limit)
            case "peek":
                self.pop(channel, 0, "anna")
                self.pass_limit(to, limit)
            case _:
                self.do(meanwhile, channel)
                self.pass_limit(to, limit)
        self.push_one(channel, to_member=True)

    @rule(channel=_channels, claimant=st.sampled_from(["anna", "ben"]))
    @_about("claimed inboxes")
    def release_claim(self, channel: str, claimant: str) -> None:
        """Give up an inbox that was claimed by popping it; a store without claims and readers need not support it."""
        if self.leases or self.traits.capabilities.registers_readers:
            queue = ChannelName.parse(channel).queue
            self.ask(c.ReleaseClaim(self.shard(queue), queue, claimant))

    @rule(
        channel=_channels,
        claimant=st.sampled_from(["anna", "ben"]),
        count=st.integers(0, 2),
        then=st.sampled_from(["push", "release", "other releases", "flush", "before", "after", "longer"]),
    )
    @_about("readers")
    def register_reader(self, channel: str, claimant: str, count: int, then: str) -> None:
        """A process registers as reader, perhaps for long enough, and a message comes that needs a reader."""
        queue = ChannelName.parse(channel).queue
        if queue.kind is Kind.INBOX:
            return  # it has a claimant instead
        seconds = self.expiry / 2
        self.pop_some(queue, count, claimant, self.shard(queue), seconds)
        limit = self.last.plus(seconds)
        self.push_one(channel, if_registered=True)
        match then:
            case "release":
                self.release_claim(channel, claimant)
            case "other releases":
                self.release_claim(channel, "anna" if claimant == "ben" else "ben")
            case "longer":
                self.pass_limit("before", limit)
                self.pop_some(queue, count, claimant, self.shard(queue), seconds)
                self.pass_limit("after", limit)
            case "before" | "after":
                self.pass_limit(then, limit)
            case _:
                self.do(then, channel)
        self.push_one(channel, if_registered=True)
        self.check_orphaned()

    @rule(channel=_channels)
    @_about("readers")
    def push_without_reader(self, channel: str) -> None:
        """A message comes, with a reader or without; then one comes that needs a registered reader."""
        if ChannelName.parse(channel).queue.kind is not Kind.INBOX:
            self.push_one(channel)
            self.push_one(channel, if_registered=True)
            self.check_orphaned()

    def check_orphaned(self) -> None:
        """Ask on every shard which queues have no registered reader."""
        for shard in range(self.traits.shards):
            self.ask(c.FindOrphaned(shard))

    @rule(channel=_channels)
    @_about("queues", "claimed inboxes", "owned inboxes")
    def pending(self, channel: str) -> None:
        """Count what waits."""
        name = ChannelName.parse(channel)
        self.ask(c.Pending(self.shard(name.queue), name))

    @rule(channel=_channels, messages=st.integers(0, 3), refused=st.integers(0, 2), others=st.integers(0, 1))
    @_about("queues", "claimed inboxes", "owned inboxes", needs="statistics")
    def report(self, channel: str, messages: int, refused: int, others: int) -> None:
        """A process reports what it has counted of a queue, and of others without their names; then both are asked."""
        queue = ChannelName.parse(channel).queue
        shard = self.shard(queue)
        self.ask(c.Report(shard, (c.Count(queue, messages, refused),), messages + others, refused))
        self.ask(c.Reported(shard, queue))
        self.ask(c.Reported(shard, None))

    @rule(channel=_channels, whole=st.booleans())
    @_about("queues", "claimed inboxes", "owned inboxes", needs="statistics")
    def survey(self, channel: str, *, whole: bool) -> None:
        """Ask what waits for a channel, or for any."""
        name = ChannelName.parse(channel)
        self.ask(c.Survey(self.shard(name.queue), None if whole else name))

    @rule(channel=_channels, seconds=st.sampled_from([9.0, 58.0, 61.0, 71.0]))
    @_about("queues", "owned inboxes", needs="statistics")
    def slow_down(self, channel: str, seconds: float) -> None:
        """Messages are reported, some time passes, and others are: a rate forgets the first ones after a minute."""
        self.report(channel, 2, 1, 0)
        self.pass_seconds(seconds)
        self.report(channel, 1, 0, 0)

    # -- groups

    @rule(group=_groups, channel=_channels)
    @_about("members", "groups")
    def join(self, group: str, channel: str) -> None:
        """A process that does not own a channel adds it to a group."""
        name = ChannelName.parse(channel)
        if self.traits.capabilities.tracks_unread:
            for shard in self.shards(name.queue):
                self.ask(c.ClearUnread(shard, name))
        self.join_as(group, name, owned=False)

    def join_as(self, group: str, name: ChannelName, *, owned: bool, age: float = 0.0) -> None:
        """Join, and put the marker where it belongs if that is another shard; with an age it restores."""
        shard, inbox_shard = self.group_shard(group), self.shard(name.queue)
        mark = self.leases and name.queue.kind is Kind.INBOX and inbox_shard == shard
        restore = age > 0.0
        reply = self.ask(c.Join(shard, GroupName.parse(group), name, owned=owned, age=age, restore=restore, mark=mark))
        self.joined_at = at = self.last
        if reply.applied:
            self.versions[group].append(reply.version)
        if reply.owned and reply.applied:
            self.mirror[group, name.name] = Span(at.low - age, at.high - age)
            if inbox_shard != shard:
                marker = MembershipMarker(group, name.name, True, reply.version, round(age * 1000))
                self.ask(c.Mark(inbox_shard, name.queue, marker))
        elif restore:
            self.mirror.pop((group, name.name), None)

    @rule(group=_groups, channel=_channels)
    @_about("members", "groups")
    def leave(self, group: str, channel: str) -> None:
        """A process removes a channel from a group."""
        self.leave_as(group, channel, None)

    def leave_as(self, group: str, channel: str, latest: int | None) -> None:
        """Leave, and put the marker where it belongs if that is another shard."""
        name = ChannelName.parse(channel)
        shard, inbox_shard = self.group_shard(group), self.shard(name.queue)
        is_inbox = self.leases and name.queue.kind is Kind.INBOX
        mark = is_inbox and inbox_shard == shard
        reply = self.ask(c.Leave(shard, GroupName.parse(group), name, mark=mark, latest=latest))
        if is_inbox and not mark and reply.applied:
            self.ask(c.Mark(inbox_shard, name.queue, MembershipMarker(group, name.name, False, reply.version, 0)))

    @rule(group=_groups)
    @_about("members", "groups")
    def members(self, group: str) -> None:
        """List a group's members."""
        self.ask(c.Members(self.group_shard(group), GroupName.parse(group)))

    @rule(group=_groups, channel=_channels)
    @_about("members", "groups")
    def join_again(self, group: str, channel: str) -> None:
        """A member joins again before its time is over, and is one still when the first joining would be over."""
        name = ChannelName.parse(channel)
        self.join_as(group, name, owned=False)
        self.pass_a_little_time()
        self.join_as(group, name, owned=False)
        self.pass_limit("before", self.joined_at.plus(86400.0 if self.group_expiry is None else self.group_expiry))
        self.members(group)

    # -- owned inboxes

    def lives(self, inbox: str) -> bool:
        """Whether an inbox has a living owner."""
        now = self.clock.now()
        return self.models[self.owners[inbox].shard].lives(inbox, Span(now, now))

    @rule(inbox=_inboxes)
    @_about("owned inboxes", "groups")
    def claim(self, inbox: str) -> None:
        """Take the lease of an inbox; again, if it was taken before. Not if the owner has given it up for good."""
        owner = self.owners[inbox]
        if owner.released:
            return
        self.number += 1
        generation = f"generation-{self.number}"
        held = tuple((+owner.held).items())
        reply = self.ask(c.AcquireLease(owner.shard, owner.queue, generation, owner.position, held))
        if reply.fresh:
            owner.position = ""
        if owner.claimed:
            owner.unacknowledged = generation
        owner.claimed, owner.generation = True, generation
        owner.after, owner.batch = owner.position, 0

    def own(self, inbox: str) -> None:
        """Claim an inbox if it has no living owner."""
        if not self.lives(inbox):
            self.claim(inbox)

    @rule(inbox=_inboxes)
    @_about("owned inboxes", "groups")
    def renew(self, inbox: str) -> None:
        """Keep a lease."""
        owner = self.owners[inbox]
        if owner.owns:
            self.ask(c.RenewLease(owner.shard, owner.queue))

    @rule(inbox=_inboxes, sure=st.integers(1, 6))
    @_about("owned inboxes", "groups")
    def release(self, inbox: str, sure: int) -> None:
        """Give an inbox up for good; not often."""
        owner = self.owners[inbox]
        if owner.owns and sure == 6:
            self.ask(c.ReleaseLease(owner.shard, owner.queue))
            owner.released = True
            self.mirror = {key: since for key, since in self.mirror.items() if not key[1].startswith(inbox)}

    @rule(inbox=_inboxes, where=st.sampled_from(["on", "on", "again"]))
    @_about("owned inboxes", "groups")
    def read(self, inbox: str, where: str = "on") -> None:
        """Read an inbox whose owner lives: go on, or repeat the last read, as after a lost connection."""
        if not self.lives(inbox):
            return
        owner, again = self.owners[inbox], where == "again"
        after = owner.after if again else owner.position
        block = 0.2 if self.models[owner.shard].waits(inbox, after) else 0.001
        reply = self.ask(c.Read(owner.shard, owner.queue, after, block))
        known = owner.batch if again else 0
        if len(reply.entries) >= known:
            owner.after, owner.position, owner.batch = after, reply.position, len(reply.entries)
            for _, frame in reply.entries[known:]:
                if frame[:1] == b"m":
                    owner.held[frame[2 : 2 + frame[1]].decode("ascii")] += 1
                elif frame[:1] == b"f":
                    owner.held.clear()
                    owner.generation = owner.unacknowledged = frame[1:].decode("ascii")

    @rule(inbox=_inboxes, count=st.integers(1, 3))
    @_about("owned inboxes")
    def return_credits(self, inbox: str, count: int) -> None:
        """Receive so many of the messages that were read, and return their credits."""
        owner = self.owners[inbox]
        received = Counter(list(owner.held.elements())[:count])
        if received:
            owner.held -= received
            owner.serial += 1
            places = tuple(received.items())
            owner.returned = c.ReturnCredits(owner.shard, owner.queue, owner.generation, owner.serial, places)
            self.ask(owner.returned)

    @rule(inbox=_inboxes)
    @_about("owned inboxes")
    def return_credits_again(self, inbox: str) -> None:
        """Repeat the last request that returned credits, as after a lost connection."""
        returned = self.owners[inbox].returned
        if returned is not None:
            self.ask(returned)

    @rule(inbox=_inboxes, channel=_owned)
    @_about("owned inboxes")
    def read_and_fill(self, inbox: str, channel: str) -> None:
        """Read all and return all credits, and then push until there is no room: every credit is there again."""
        if self.lives(inbox):
            self.empty(inbox)
            self.fill(channel)

    def empty(self, inbox: str) -> None:
        """Read all that is in an inbox, receive it, and let go of it."""
        self.read(inbox)
        self.return_credits(inbox, 100)
        self.read(inbox)

    @rule(channel=_owned, received=st.integers(0, 2), meanwhile=st.sampled_from(["nothing", "flush", "claim"]))
    @_about("owned inboxes")
    def count_credits(self, channel: str, received: int, meanwhile: str) -> None:
        """Credits are returned, and the request comes again, late: then pushes find exactly the room that there is."""
        inbox = _inbox_of(channel)
        self.own(inbox)
        self.empty(inbox)
        self.fill(channel)
        self.read(inbox)
        self.return_credits(inbox, received)
        self.do(meanwhile, channel)
        self.push_one(channel)
        self.return_credits_again(inbox)
        self.fill(channel)

    @rule(channel=_owned, meanwhile=st.sampled_from(["nothing", "push", "pop", "flush"]))
    @_about("owned inboxes", "groups")
    def come_back(self, channel: str, meanwhile: str) -> None:
        """A lease ends, if time ends leases; the owner takes it again, and reads on."""
        inbox = _inbox_of(channel)
        self.own(inbox)
        self.push_one(channel)
        self.pass_time("after", "lease")
        self.do(meanwhile, channel)
        self.claim(inbox)
        self.read(inbox)

    @rule()
    @_about("owned inboxes")
    def alive(self) -> None:
        """Ask which inboxes live."""
        for shard in range(self.traits.general_shards):
            inboxes = tuple(owner.queue for owner in self.owners.values() if owner.shard == shard)
            if inboxes:
                self.ask(c.Alive(shard, inboxes))

    @rule(group=_groups, channel=_owned)
    @_about("owned inboxes")
    def mark(self, group: str, channel: str) -> None:
        """Put a marker into an inbox, as if the group were on another shard."""
        owner = self.owners[_inbox_of(channel)]
        self.number += 1
        marker = MembershipMarker(group, channel, self.number % 3 > 0, self.number, 0)
        self.ask(c.Mark(owner.shard, owner.queue, marker))

    # -- groups of owned inboxes

    @rule(group=_groups, channel=_owned)
    @_about("groups")
    def join_own(self, group: str, channel: str) -> None:
        """An owner adds a channel of its own to a group; its lease may have ended without its knowledge."""
        name = ChannelName.parse(channel)
        if self.owners[name.queue.name].owns:
            self.join_as(group, name, owned=True)

    @rule(which=st.integers(0, 5))
    @_about("groups")
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

    @rule(which=st.integers(0, 5), known=st.sampled_from(["all", "all", "not the last"]))
    @_about("groups")
    def tidy_up(self, which: int, known: str) -> None:
        """An owner removes a channel that did not read, unless it has joined later than the owner knows of."""
        if not self.mirror:
            return
        group, channel = list(self.mirror)[which % len(self.mirror)]
        versions = self.versions[group]
        if known == "all" or len(versions) > 1:
            self.leave_as(group, channel, versions[-1 if known == "all" else -2])

    @rule(
        group=_groups,
        meanwhile=st.sampled_from(["nothing", "nothing", "an owner comes back", "a stranger joins"]),
        channel=_owned,
    )
    @_about("groups")
    def send_to_group(self, group: str, meanwhile: str, channel: str) -> None:
        """Publish, deliver where that was not done at once, and prune the members that were found to be gone."""
        shard, name = self.group_shard(group), GroupName.parse(group)
        now = self.clock.now()
        if self.models[shard].unsettled(group, Span(now, now)):
            self.members(group)
        payload = self.new_payload()
        reply = self.ask(c.Publish(shard, name, payload, at_once=self.traits.general_shards == 1))
        if reply.done:
            return
        dead: list[str] = []
        for inbox in reply.inboxes:
            extra_recipients = tuple(other for other in reply.others if other.startswith(inbox))
            if self.deliver_to(inbox, group, payload, extra_recipients) is c.Delivery.NO_OWNER:
                dead.append(inbox)
        outside = tuple(other for other in reply.others if "!" not in other)[:1]
        if meanwhile == "an owner comes back":
            self.claim(_inbox_of(channel))
            self.join_own(group, channel)
        elif meanwhile == "a stranger joins":
            self.join_as(group, ChannelName.parse("jobs"), owned=False)
        if dead or outside:
            self.ask(c.Prune(shard, name, reply.version, tuple(dead), outside))
            self.members(group)

    @rule(inbox=_inboxes, group=_groups, extra_recipients=st.integers(0, 1))
    @_about("owned inboxes", "groups")
    def deliver(self, inbox: str, group: str, extra_recipients: int) -> None:
        """Put a group message into an inbox, with members in it that its owner did not add."""
        self.deliver_to(inbox, group, self.new_payload(), (inbox + "a", inbox + "ab")[: 2 * extra_recipients])

    def deliver_to(self, inbox: str, group: str, payload: bytes, extra_recipients: tuple[str, ...] = ()) -> c.Delivery:
        """Deliver; return what became of it."""
        owner = self.owners[inbox]
        return self.ask(c.Deliver(owner.shard, owner.queue, GroupName.parse(group), extra_recipients, payload))

    @rule(group=_groups, channel=_owned)
    @_about("groups")
    def leave_and_be_restored(self, group: str, channel: str) -> None:
        """A process removes a member, and the owner, which does not know of it, announces the member again."""
        self.own(_inbox_of(channel))
        self.join_own(group, channel)
        self.leave(group, channel)
        self.restore_one(group, channel)
        self.members(group)

    @rule(group=_groups, channel=_owned, other=_owned)
    @_about("groups")
    def tidy_up_late(self, group: str, channel: str, other: str) -> None:
        """An owner removes a channel that did not read; it, or another one, has joined since."""
        self.own(_inbox_of(channel))
        self.join_own(group, channel)
        latest = self.versions[group][-1:]
        self.join_own(group, other)
        if latest:
            self.leave_as(group, channel, latest[0])
        self.members(group)

    @rule(group=_groups, channel=_owned)
    @_about("groups")
    def send_to_a_full_one(self, group: str, channel: str) -> None:
        """One inbox is full, and the others get what is sent to the group all the same."""
        for member in self.owned:
            self.own(_inbox_of(member))
            self.join_own(group, member)
        for _ in range(self.inbox_capacity):
            if self.deliver_to(_inbox_of(channel), group, self.new_payload()) is not c.Delivery.DONE:
                break
        self.send_to_group(group, "nothing", channel)

    @rule(group=_groups, channel=_owned, meanwhile=st.sampled_from(["nothing", "an owner comes back"]))
    @_about("groups")
    def send_to_a_dead_one(self, group: str, channel: str, meanwhile: str) -> None:
        """A lease ends, if time ends leases, and its members are removed, unless their owner comes back meanwhile."""
        self.own(_inbox_of(channel))
        self.join_own(group, channel)
        self.pass_time("after", "lease")
        self.join_as(group, ChannelName.parse("jobs"), owned=False)
        self.send_to_group(group, meanwhile, channel)

    @rule(channel=_owned, extend=st.booleans())
    @_about("groups")
    def check_groups(self, channel: str, *, extend: bool) -> None:
        """Look which groups hold members of an inbox, and keep them alive if members do not expire."""
        for shard in range(self.traits.general_shards):
            groups = tuple(GroupName.parse(group) for group in _GROUPS if self.group_shard(group) == shard)
            if groups:
                self.ask(c.CheckGroups(shard, ChannelName.parse(channel).queue, groups, extend))

    # -- flush

    @rule()
    @_about()
    def flush(self) -> None:
        """Empty everything of this prefix; the neighbour, whose prefix begins like it, keeps what it has."""
        self.number += 1
        shard = self.number % self.traits.general_shards
        jobs, group = ChannelName.parse("jobs"), GroupName.parse("g")
        own = ChannelName.parse(f"specific.{self.number}!a")
        self.ask_neighbour(c.Push(shard, jobs, 1, b"\x01neighbour"))
        self.ask_neighbour(c.Join(shard, group, jobs, owned=False, age=0.0, restore=False, mark=False))
        if self.leases:
            self.ask_neighbour(c.AcquireLease(shard, own.queue, f"generation-{self.number}", "", ()))
            self.ask_neighbour(c.Push(shard, own, 100, b"\x01neighbour"))
        generation = f"flush-{self.number}"
        for each in range(self.traits.shards):
            reply = self.ask(c.Flush(each, generation))
            self.flushes.append(c.Unflushed(each, tuple(dict.fromkeys(reply.inboxes)), generation))
        self.mirror.clear()
        if self.leases:
            self.ask_neighbour(c.Read(shard, own.queue, "", 0.2))
            self.ask_neighbour(c.ReleaseLease(shard, own.queue))
        self.ask_neighbour(c.Pop(shard, jobs.queue, 1, "neighbour"))
        self.ask_neighbour(c.Members(shard, group))

    @rule(which=st.integers(0, 3))
    @_about("owned inboxes")
    def unflushed(self, which: int) -> None:
        """Ask which inboxes have yet to acknowledge a flush."""
        if self.flushes:
            self.ask(self.flushes[-1 - which % len(self.flushes)])

    @rule(inbox=_inboxes)
    @_about("owned inboxes")
    def acknowledge(self, inbox: str) -> None:
        """An owner reads on, and says that it has dropped what it held before a flush, or a lost lease."""
        self.read(inbox)
        owner = self.owners[inbox]
        if owner.unacknowledged:
            self.ask(c.Acknowledge(owner.shard, owner.queue, owner.unacknowledged))
            owner.unacknowledged = ""

    # -- time

    @rule(
        to=st.sampled_from(["after", "after", "before"]),
        what=st.sampled_from(["message", "message", "lease", "claim", "membership", "anything"]),
    )
    @_about()
    def pass_time(self, to: str, what: str) -> None:
        """Let time pass to just before, or just after, something ends: what ends first, if nothing else is near."""
        now = self.clock.now()
        for start, end, kinds in self.edges():
            target = end + _AFTER if to == "after" else start - _BEFORE
            if target > now and (what in kinds or what == "anything"):
                self.advance(target - now)
                return

    @rule()
    @_about()
    def pass_a_little_time(self) -> None:
        """Let so much time pass that what comes now does not end together with what came before."""
        self.pass_seconds(_STEP)

    def pass_seconds(self, seconds: float) -> None:
        """Move the clock by so much, unless something ends just then."""
        target = self.clock.now() + seconds
        if all(target <= start - _BEFORE or target >= end + _AFTER for start, end, _ in self.edges()):
            self.advance(seconds)

    def pass_limit(self, to: str, limit: Span) -> None:
        """Move the clock to an edge of a limit, also of one at which nothing ends if the store is right."""
        now = self.clock.now()
        edges = [(start, end) for start, end, _ in self.edges() if start <= limit.high <= end]
        start, end = edges[0] if edges else limit
        self.advance(max(0.0, (end + _AFTER if to == "after" else start - _BEFORE) - now))

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
            self.members(group)
        for inbox, owner in self.owners.items():
            if owner.owns:
                self.own(inbox)
            self.read(inbox)
        for channel in dict.fromkeys(self.channels):
            self.pending(channel)
            if self.traits.capabilities.statistics:
                self.survey(channel, whole=False)
                self.survey(channel, whole=True)
            self.fill(channel)
        for queue in dict.fromkeys(ChannelName.parse(channel).queue for channel in self.channels):
            for shard in self.shards(queue):
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

    def shards(self, queue: Queue) -> Sequence[int]:
        """Return every shard on which a queue may be."""
        return range(self.traits.shards) if queue.kind is Kind.NORMAL else [self.shard(queue)]

    def group_shard(self, group: str) -> int:
        """Return where a group is."""
        return zlib.crc32(group.encode("ascii")) % self.traits.general_shards

    def ask(self, request: c.Command[R]) -> R:
        """Ask the stores of the two processes by turns, and check the reply."""
        self.asked += 1
        return self.ask_store(self.asked % 2, self.models, request)

    def ask_neighbour(self, request: c.Command[R]) -> R:
        """Ask the neighbour's store."""
        return self.ask_store(2, self.neighbours, request)

    def ask_store(self, which: int, models: list[Model], request: c.Command[R]) -> R:
        """Ask, write it down, and check the reply."""
        reply = self.timed(_execute(self.stores[which], request))
        self.say(_ScriptLine(("one process", "the other", "the neighbour")[which], request, reply))
        models[request.shard].check(request, reply, self.last)
        return reply

    def ask_at_once(self, requests: Sequence[c.Command[R]]) -> list[R]:
        """Ask both processes' stores at once, by turns."""

        async def asked() -> list[R]:
            calls = [self.stores[place % 2].execute(request) for place, request in enumerate(requests)]
            return await asyncio.gather(*calls)

        replies = self.timed(asked())
        for request, reply in zip(requests, replies, strict=True):
            self.say(_ScriptLine("at once", request, reply))
        return replies

    def timed(self, work: Coroutine[object, object, R]) -> R:
        """Run something in the example's loop; note when it was.

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
        self.last = Span(sent, self.clock.now())
        if time.monotonic() - self.began > EXAMPLE_SECONDS:
            raise _TooLate
        self.run_counts.replies += 1
        return reply


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
