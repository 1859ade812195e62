"""Judges a layer: several processes' worth of it over one store, any calls in any order, against the specification.

It knows nothing of stores, leases or markers: what it expects follows from the calls that returned. Whatever a rule
leaves open (which worker gets a message, whether a member that does not read has been removed yet) is asked for, and
only what may not be is a violation.
"""

from __future__ import annotations

import asyncio
import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import hypothesis
from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from channel_layer.errors import ChannelFull, StoreError
from channel_layer.ports import Capabilities
from channel_layer.testing.factories import Violation, VirtualClock, make_rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from channel_layer.config import ChannelPattern
    from channel_layer.domain.frames import Message
    from channel_layer.layer import ChannelLayer
    from channel_layer.testing.factories import MakeLayer

__all__ = ("LayerMachine", "run_layer_conformance_test")

P = ParamSpec("P")
T = TypeVar("T")

_EXPIRY = 30.5
_LEASE = 1.5 * _EXPIRY
_GROUP_EXPIRY = 100.0
_FOREVER = 86400.0
"""Seconds that a member outside every process may stay where ``group_expiry`` is None."""

_UNDER, _OVER = 3.0, 0.01
"""Seconds before a limit, and after it, to which time is moved. It goes on by itself, so "before" needs room."""

_TURNS = 200
"""Turns of the event loop before looking again costs a millisecond."""

_OWN_CAPACITY = 2
"""Of each channel that a process owns, of "jobs" and of "reply?x"."""

_SHARED_CAPACITY = 7
"""Of an inbox whose channels share it."""

_GROUPS = ("green", "red")
_JOBS, _REPLY, _CLAIMED = "jobs", "reply?x", ("box!a", "box!b")
_WORKER = 2
"""The layer that owns no channel."""

_Op = tuple[str, int, int, int]

_PICK = st.integers(0, 255)
"""Picks one of those that there are."""


@dataclass(slots=True, eq=False)
class _Letter:
    """A message that was accepted and neither received nor lost."""

    number: int
    sent: float
    grouped: bool


@dataclass(slots=True, eq=False)
class _Member:
    joined: float
    by_owner: bool | None
    """The owner of the channel added it; None: nobody knows, for a call that may have changed it was cancelled."""
    lapsing: bool = False
    """A group's message to it expired unread, so the next one may remove it."""


@dataclass(slots=True, eq=False)
class _Place:
    """A channel, as the specification sees it.

    Attributes:
        name: its full name.
        reader: the layer that may receive from it; None: any.
        pool: what shares its capacity.
        ordered: one reader gets what one writer sends in that order.
        owned: a process owns it and its messages arrive there by themselves.
        letters: what waits, oldest first.
        waiters: who waits, longest first: the layer, and the receive() that it is in.
        overdue: how many letters have just expired, perhaps on their way to the owner.
    """

    name: str
    reader: int | None
    pool: str
    ordered: bool
    owned: bool
    letters: list[_Letter] = field(default_factory=list[_Letter])
    waiters: list[tuple[int, asyncio.Task[Message]]] = field(default_factory=list[tuple[int, "asyncio.Task[Message]"]])
    overdue: int = 0


def _recorded(rule: Callable[Concatenate[LayerMachine, P], None]) -> Callable[Concatenate[LayerMachine, P], None]:
    """Write down that a rule was played: of a race that goes another way next time nobody else does."""

    @functools.wraps(rule)
    def play(machine: LayerMachine, /, *args: P.args, **kwargs: P.kwargs) -> None:
        machine.said.append(f"state.{rule.__name__}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})")
        rule(machine, *args, **kwargs)

    return play


def _message(number: int) -> dict[str, object]:
    return {"type": "test.message", "number": number, "inner": {"list": [number]}}


class LayerMachine(RuleBasedStateMachine):
    """Three layers over one store.

    The first two own two channels each, the first also reads an inbox that nobody minted, the third owns nothing.

    Args:
        make_layer: makes each of them.
        capabilities: of the store.
        patience: seconds of real time after which what has not happened is taken not to happen.
    """

    def __init__(self, make_layer: MakeLayer, capabilities: Capabilities, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self.said: list[str] = []
        """The calls and what became of them, for who plays them without Hypothesis."""
        self._make_layer = make_layer
        self._can = capabilities
        self._clock = VirtualClock()
        self._runner = asyncio.Runner()
        self._layers: list[ChannelLayer] = []
        self._places: list[_Place] = []
        self._groups: dict[str, dict[str, _Member]] = {name: {} for name in _GROUPS}
        self._group_lifetime = _FOREVER
        self._group_expiry: float | None = None
        self._number = 0
        self._sent = self._expanded = self._full = self._received = self._expired = self._flushed = 0
        self._expired_in_store = 0
        self._perhaps_on_its_way = 0
        """Messages for a process that were flushed: one in a batch that it has yet to take in counts in both places."""
        self._was_flushed = False
        self._stale = False
        """Something too old may lie in the store until somebody comes by."""
        self._found = 0
        self._began = 0.0
        self._broken = False

    # -- the world

    @initialize(group_expiry=st.sampled_from([_GROUP_EXPIRY, None]))
    @_recorded
    def begin(self, group_expiry: float | None) -> None:
        """Make the layers and their channels."""
        self._began = time.monotonic()
        self._group_expiry = group_expiry
        self._group_lifetime = _FOREVER if group_expiry is None else group_expiry
        shared: dict[ChannelPattern, int] = {"box!*": _SHARED_CAPACITY}
        if not self._can.leases:
            shared["specific.*"] = _SHARED_CAPACITY
        rules = make_rules(
            expiry=_EXPIRY, group_expiry=group_expiry, capacity=_OWN_CAPACITY, channel_capacity=shared, timeout=5.0
        )
        self._layers = [self._make_layer(rules, self._clock) for _ in range(3)]
        for owner in (0, 1):
            for _ in range(2):
                name = self._run(self._within(self._layers[owner].new_channel(), "new_channel() returns"))
                pool = name if self._can.leases else f"layer {owner}"
                self._places.append(_Place(name, owner, pool, ordered=True, owned=self._can.leases))
        self._places.append(_Place(_JOBS, None, _JOBS, ordered=False, owned=False))
        self._places.append(_Place(_REPLY, _WORKER, _REPLY, ordered=True, owned=False))
        self._places += [_Place(name, 0, "box!", ordered=True, owned=False) for name in _CLAIMED]
        names = {place.name for place in self._places}
        if len(names) != len(self._places):
            raise Violation(f"new_channel() made a name twice: {sorted(names)}")

    def teardown(self) -> None:
        """Receive all that is left, see that nothing else comes, close, and balance the accounts."""
        try:
            if self._places and not self._late and not self._broken:
                self._run(self._end())
        finally:
            try:
                self._run(self._close())
            finally:
                self._runner.close()

    async def _close(self) -> None:
        waiting = [task for place in self._places for _, task in place.waiters]
        for layer in self._layers:
            await layer.aclose()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _end(self) -> None:
        for place in self._places:
            await self._give_up(place, range(len(place.waiters)))
        await self._settle()
        for place in self._places:
            while place.letters:
                await self._receive(place, self._reader(place))
        for place in self._places:
            for _ in range(2):
                await self._send(place, self._layers[1])
                await self._receive(place, self._reader(place))  # and not one that was received before
        await self._balance()

    async def _balance(self) -> None:
        """Accepted = delivered + dropped + pending, by the layers' own counts and by ours."""
        counts = [layer.counts() for layer in self._layers]
        dropped = {reason: sum(c.dropped.get(reason, 0) for c in counts) for c in counts for reason in c.dropped}
        self._say(f"statistics: {counts}")
        self._equal("messages that send() accepted (`sent`)", sum(c.sent for c in counts), self._sent)
        self._equal(
            "group messages counted once a member (`expanded`)", sum(c.expanded for c in counts), self._expanded
        )
        self._equal("messages that were received (`delivered`)", sum(c.delivered for c in counts), self._received)
        self._equal("group messages for full members (`full`)", dropped.get("full", 0), self._full)
        self._equal("messages that wait in a process (`waiting`)", sum(c.waiting for c in counts), 0)
        await self._add_up()
        # What expires in the store is counted when somebody comes by; on several hosts perhaps by nobody.
        slack = self._expired_in_store
        self._between("expired", dropped.get("expired", 0), self._expired, slack, slack)
        self._between("flushed", dropped.get("flushed", 0), self._flushed, slack, slack + self._perhaps_on_its_way)
        strange = {reason: n for reason, n in dropped.items() if reason not in {"full", "expired", "flushed"} and n}
        if strange:
            raise Violation(f"messages were dropped for reasons that there were none for: {strange}")

    async def _add_up(self) -> None:
        """Each layer tells what it has counted, and the last one knows it all, unless that was flushed or too old."""
        known = [await layer.statistics() for layer in self._layers]
        told = known[-1:] if self._can.statistics else known
        accepted = self._sent + self._expanded - self._full
        found = sum(each.messages_count for each in told)
        self._say(f"and {known[-1]}")
        if found > accepted or (found < accepted and self._keeps_counts):
            raise Violation(f"the statistics do not add up: `messages_count` is {found} and should be {accepted}")

    @property
    def _keeps_counts(self) -> bool:
        """Whether all that was ever counted is still to be known."""
        return not self._was_flushed and self._clock.offset < self._group_lifetime

    def _equal(self, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise Violation(f"the statistics do not add up: {what} are {found} and should be {expected}")

    def _between(self, reason: str, found: int, expected: int, less: int, more: int) -> None:
        """Messages that were too old may have been counted as flushed, or by nobody."""
        if not expected - less <= found <= expected + more:
            raise Violation(f"the statistics do not add up: {found} messages {reason}, should be {expected}")

    # -- calls, one after another

    @rule(at=st.integers(0, 7), by=st.integers(0, 2))
    @_recorded
    def send(self, at: int, by: int) -> None:
        """A layer sends a message to a channel; whoever waits there gets it."""
        place = self._places[at]
        if self._late or (self._is_shared(place) and self._left(place) == 0):
            return
        self._run(self._send_and_meet(place, self._layers[by]))

    @rule(pick=_PICK, by=st.integers(0, 2), most=st.integers(1, 3))
    @_recorded
    def receive(self, pick: int, by: int, most: int) -> None:
        """A layer receives what is there, one after another: the oldest message, or of a normal channel any."""
        place = self._pick(pick, lambda place: bool(place.letters))
        if place is not None:
            for _ in range(min(most, len(place.letters))):
                self._run(self._receive(place, by if place.reader is None else place.reader))

    @rule(pick=_PICK, turns=st.integers(0, 8))
    @_recorded
    def cancel_amid(self, pick: int, turns: int) -> None:
        """A receive() that would get a message is cancelled after some turns of the event loop; nothing is lost."""
        clean = not self._stale  # else nobody can tell from the counts what is on its way
        place = self._pick(pick, lambda place: bool(place.letters) and (place.owned or clean))
        if place is not None:
            self._run(self._cancel_amid(place, turns))

    @rule(at=st.integers(0, 7), by=st.integers(0, 2), turns=st.integers(0, 8))
    @_recorded
    def cancel_send(self, at: int, by: int, turns: int) -> None:
        """A send() is cancelled after some turns: its message comes before any later one, or never."""
        place = self._places[at]
        alone = place.ordered and not place.waiters and not self._is_shared(place)
        if not self._late and alone and self._left(place) > 1:
            self._run(self._cancel_send(place, self._layers[by], turns))

    @rule(
        group=st.sampled_from(_GROUPS),
        at=st.integers(0, 7),
        by=st.integers(0, 2),
        turns=st.integers(0, 8),
        first=st.booleans(),
        then=st.booleans(),
    )
    @_recorded
    def cancel_change(self, group: str, at: int, by: int, turns: int, first: bool, then: bool) -> None:  # noqa: FBT001
        """A change of a group is cancelled after some turns; the next one, if it returns, holds against it."""
        if not self._late:
            self._run(self._cancel_change(group, self._places[at], by, turns, first=first, then=then))

    @rule(pick=_PICK, by=st.integers(0, 2))
    @_recorded
    def wait(self, pick: int, by: int) -> None:
        """A layer begins to wait for a message that is yet to come."""
        place = self._pick(pick, lambda place: not place.letters)
        if place is not None:
            self._run(self._wait(place, by if place.reader is None else place.reader))

    @rule(pick=_PICK, which=_PICK)
    @_recorded
    def cancel_waiting(self, pick: int, which: int) -> None:
        """One who waits is cancelled."""
        place = self._pick(pick, lambda place: bool(place.waiters))
        if place is not None:
            self._run(self._give_up(place, [which % len(place.waiters)]))

    @rule(group=st.sampled_from(_GROUPS), at=st.integers(0, 7), by=st.integers(0, 2))
    @_recorded
    def group_add(self, group: str, at: int, by: int) -> None:
        """A layer adds a channel to a group, its own or another one's."""
        if not self._late:
            self._run(self._group_add(group, self._places[at], by))

    @rule(group=st.sampled_from(_GROUPS), at=st.integers(0, 7), by=st.integers(0, 2))
    @_recorded
    def group_discard(self, group: str, at: int, by: int) -> None:
        """A layer removes a channel from a group, whoever added it."""
        if not self._late:
            self._run(self._group_discard(group, self._places[at], by))

    @rule(group=st.sampled_from(_GROUPS), by=st.integers(0, 2))
    @_recorded
    def group_send(self, group: str, by: int) -> None:
        """A layer sends to a group: each member gets one message of its own, or none if it is full."""
        if not self._late and self._fits(group):
            self._run(self._group_send_and_meet(group, by))

    @rule(group=st.sampled_from(_GROUPS), by=st.integers(0, 2))
    @_recorded
    def group_channels(self, group: str, by: int) -> None:
        """A layer lists a group's members, whoever added them."""
        if not self._late:
            self._run(self._adopt(group, (), self._layers[by]))

    @rule(
        ops=st.lists(
            st.tuples(
                st.sampled_from(["group_add", "group_discard", "group_send", "group_send", "send"]),
                st.integers(0, 1),
                st.integers(0, 3),
                st.integers(0, 2),
            ),
            min_size=2,
            max_size=5,
        )
    )
    @_recorded
    def burst(self, ops: list[_Op]) -> None:
        """Calls follow each other without a pause in which what they have done could arrive."""
        if not self._late and self._is_calm:
            self._run(self._burst(ops))

    @rule(group=st.sampled_from(_GROUPS), some=st.integers(0, 2), by=st.integers(0, 2), count=st.sampled_from([3, 1]))
    @_recorded
    def crowd(self, group: str, some: int, by: int, count: int) -> None:
        """Two channels join a group, and several messages come at once: some may be too many."""
        joins: list[_Op] = [("group_add", _GROUPS.index(group), at, some) for at in (2 * some, 2 * some + 1)]
        if not self._late and self._is_calm:
            self._run(self._burst([*joins, *[("group_send", _GROUPS.index(group), 0, by)] * count]))

    @rule(group=st.sampled_from(_GROUPS), owner=st.integers(0, 1), by=st.integers(0, 2))
    @_recorded
    def change_amid(self, group: str, owner: int, by: int) -> None:
        """One channel of a process joins a group and another one leaves it, while messages to it are on their way."""
        if self._late or not self._is_calm:
            return
        which = _GROUPS.index(group)
        self._run(self._burst([("group_add", which, 2 * owner, owner), ("group_discard", which, 2 * owner + 1, by)]))
        changes: list[_Op] = [("group_add", which, 2 * owner + 1, owner), ("group_discard", which, 2 * owner, by)]
        sends: _Op = ("group_send", which, 0, by)
        direct: _Op = ("send", which, 2 * owner, owner)
        self._run(self._burst([sends, direct, changes[0], sends, changes[1], sends]))

    @rule(by=st.integers(0, 2))
    @_recorded
    def flush(self, by: int) -> None:
        """A layer flushes: when it returns, no process can deliver what was there, and nobody is in a group."""
        if not self._late:
            self._run(self._flush(by))

    @rule(pick=_PICK)
    @_recorded
    def pass_time(self, pick: int) -> None:
        """Time passes, to just before or just after one of the moments at which something ends."""
        if self._late:
            return
        now = self._clock.offset
        limits = sorted(set(self._limits()))
        moments = [moment for limit in limits for moment in (limit - _UNDER, limit + _OVER) if moment > now]
        clear = [m for m in moments if not any(m < limit < m + _UNDER - _OVER for limit in limits)]
        if clear:
            seconds = clear[pick % len(clear)] - now
            self._say(f"{seconds} seconds pass")
            self._run(self._pass_time(seconds))

    # -- what is true

    @property
    def _late(self) -> bool:
        """So much real time has passed that "just before a limit" may have become "after" it: judge no more."""
        return time.monotonic() - self._began > _UNDER / 2

    @property
    def _is_calm(self) -> bool:
        waiting = any(place.waiters for place in self._places)
        return not waiting and not any(m.lapsing for members in self._groups.values() for m in members.values())

    def _pick(self, pick: int, fits: Callable[[_Place], bool]) -> _Place | None:
        """Return one of the channels that fit, if any do; what is drawn must not depend on how a race ended."""
        fitting = [] if self._late else [place for place in self._places if fits(place)]
        if not fitting:
            return None
        place = fitting[pick % len(fitting)]
        self._say(f"it is {place.name}, where {self._held(place)} wait")
        return place

    def _limits(self) -> Iterable[float]:
        for place in self._places:
            for letter in place.letters:
                yield letter.sent + _EXPIRY
        for members in self._groups.values():
            for member in members.values():
                if member.joined + self._group_lifetime < self._clock.offset + 10 * _GROUP_EXPIRY:
                    yield member.joined + self._group_lifetime

    def _is_shared(self, place: _Place) -> bool:
        """Whether several channels share its capacity: who holds what is open then, until somebody receives."""
        return sum(other.pool == place.pool for other in self._places) > 1

    def _left(self, place: _Place) -> int:
        """How many more messages its pool takes at least."""
        capacity = _SHARED_CAPACITY if self._is_shared(place) else _OWN_CAPACITY
        held = [letter for other in self._places if other.pool == place.pool for letter in other.letters]
        return capacity - sum(not (letter.grouped and place.owned) for letter in held)

    def _fits(self, group: str) -> bool:
        """Whether all members that share a pool have room in it."""
        members = [place for place in self._places if place.name in self._groups[group] and self._is_shared(place)]
        return all(sum(m.pool == place.pool for m in members) <= self._left(place) for place in members)

    def _place(self, name: str) -> _Place:
        return next(place for place in self._places if place.name == name)

    def _reader(self, place: _Place) -> int:
        return _WORKER if place.reader is None else place.reader

    # -- each call, and what it means

    async def _send(self, place: _Place, layer: ChannelLayer) -> int | None:
        """Send a message; return its number, or None if the channel was full, as it should."""
        self._number = number = self._number + 1
        left = self._left(place)
        refused = False
        deadline = time.monotonic() + self._patience
        while True:
            message = _message(number)
            try:
                await self._within(layer.send(place.name, message), f"send to {place.name} returns")
            except ChannelFull:
                if left <= 0:
                    return None
                refused = True  # places come back in batches, which may refuse a message too many for a moment
                if time.monotonic() > deadline:
                    raise Violation(
                        f"{place.name} refuses a message although it holds {self._held(place)} and may hold "
                        f"{left} more: a place that was taken is never given back"
                    ) from None
                for each in self._layers:
                    await each.tend()
                continue
            break
        if left <= 0:
            raise Violation(f"{place.name} accepted a message over its capacity: it holds {self._held(place)} already")
        if refused:
            self._say(f"{place.name} had to be asked more than once")
        _spoil(message)
        self._sent += 1
        place.letters.append(_Letter(number, self._clock.offset, grouped=False))
        return number

    def _held(self, place: _Place) -> list[int]:
        return [letter.number for letter in place.letters]

    async def _send_and_meet(self, place: _Place, layer: ChannelLayer) -> None:
        if await self._send(place, layer) is not None:
            await self._meet(place)

    async def _meet(self, place: _Place) -> None:
        """Somebody may have waited for the message that has come: see that one of them, the right one, gets it."""
        if not (place.waiters and place.letters):
            return
        tasks = [task for _, task in place.waiters]
        done, _ = await asyncio.wait(tasks, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise Violation(f"message {self._held(place)} came to {place.name}, and nobody who waits there got it")
        if len(done) > 1:
            raise Violation(f"one message came to {place.name}, and {len(done)} receivers got one")
        [task] = done
        if place.owned and task is not tasks[0]:
            raise Violation(f"{place.name}: a receiver that came later got the message")
        place.waiters = [waiter for waiter in place.waiters if waiter[1] is not task]
        self._judge(place, await task)

    async def _receive(self, place: _Place, by: int) -> None:
        expected = self._held(place)
        what = f"receive from {place.name} by layer {by}, where {expected} wait, returns"
        self._judge(place, await self._within(self._layers[by].receive(place.name), what))

    def _judge(self, place: _Place, message: Message) -> None:
        """See that a message that came is one that may come now."""
        number = message.get("number")
        self._say(f"received from {place.name}: {number!r}")
        may = place.letters[:1] if place.ordered else place.letters
        for letter in may:
            if letter.number == number:
                if message != _message(letter.number):
                    raise Violation(
                        f"message {number} came to {place.name} changed, as {message!r}: somebody shares it"
                    )
                place.letters.remove(letter)
                self._received += 1
                _spoil(message)
                return
        problem = (
            "was there before its turn"
            if any(letter.number == number for letter in place.letters)
            else "may not come: it was received, dropped, flushed or expired before, or was never sent there"
        )
        raise Violation(f"{place.name}: expected message {self._held(place)}, got {number!r}, which {problem}")

    async def _cancel_amid(self, place: _Place, turns: int) -> None:
        by = self._reader(place)
        task = asyncio.create_task(self._layers[by].receive(place.name))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=self._patience)
        if not task.done():
            raise Violation(f"a receive() from {place.name} that was cancelled does not end")
        if not task.cancelled():
            self._judge(place, task.result())
        if not place.owned:
            await self._return_surplus()

    async def _cancel_send(self, place: _Place, layer: ChannelLayer, turns: int) -> None:
        self._number = doubtful = self._number + 1
        try:
            done = await self._cancelled(layer.send(place.name, _message(doubtful)), turns, "send()")
        except ChannelFull:  # places come back in batches, which may refuse a message too many for a moment
            done = False
        if done:
            self._sent += 1
            place.letters.append(_Letter(doubtful, self._clock.offset, grouped=False))
        last = await self._send(place, layer)
        while place.letters:
            by = self._reader(place)
            what = f"receive from {place.name} by layer {by}, where {self._held(place)} wait, returns"
            message = await self._within(self._layers[by].receive(place.name), what)
            if not done and message.get("number") == doubtful and self._held(place) == [last]:
                self._say(f"the message {doubtful} had been sent")
                done = True
                self._received += 1
                continue
            self._judge(place, message)

    async def _cancel_change(self, group: str, place: _Place, by: int, turns: int, *, first: bool, then: bool) -> None:
        layer = self._layers[by]
        change = layer.group_add if first else layer.group_discard
        await self._cancelled(change(group, place.name), turns, "a change of a group")
        known = self._groups[group].get(place.name)
        if known is not None and place.owned:
            known.by_owner = None
        if then:
            await self._group_add(group, place, by)
        else:
            await self._group_discard(group, place, by)
        await self._settle()

    async def _cancelled(self, call: Coroutine[object, object, None], turns: int, what: str) -> bool:
        """Begin a call and cancel it after some turns; return whether it had returned by then."""
        task = asyncio.create_task(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=self._patience)
        if not task.done():
            raise Violation(f"{what} that was cancelled does not end")
        if task.cancelled():
            return False
        task.result()
        return True

    async def _return_surplus(self) -> None:
        """Wait until nothing is on its way: what was taken for one who left is back, or waits for its own channel."""
        await self._until(
            self._is_still,
            lambda: (
                f"a receive() was cancelled, and now {self._found} messages wait where "
                f"{sum(len(place.letters) for place in self._places)} should"
            ),
        )

    async def _is_still(self) -> bool:
        counts = [layer.counts() for layer in self._layers]
        outside = [place for place in self._places if not place.owned]
        stored = [(await self._layers[_WORKER].statistics(place.name)).messages_pending or 0 for place in outside]
        self._found = sum(count.waiting for count in counts) + sum(stored)
        back = counts[_WORKER].waiting == 0
        return back and self._found == sum(len(place.letters) for place in self._places)

    async def _wait(self, place: _Place, by: int) -> None:
        task = asyncio.create_task(self._layers[by].receive(place.name))
        place.waiters.append((by, task))
        for _ in range(3):
            await asyncio.sleep(0)
        if task.done():
            place.waiters.remove((by, task))
            self._judge(place, task.result())

    async def _give_up(self, place: _Place, which: Iterable[int]) -> None:
        leaving = [place.waiters[at] for at in which]
        for waiter in leaving:
            place.waiters.remove(waiter)
            waiter[1].cancel()
        tasks = [task for _, task in leaving]
        if tasks:
            await asyncio.wait(tasks, timeout=self._patience)
        for task in tasks:
            if not task.done():
                raise Violation(f"a receive() from {place.name} that was cancelled does not end")
            if not task.cancelled():
                self._judge(place, task.result())

    async def _group_add(self, group: str, place: _Place, by: int) -> None:
        await self._within(self._layers[by].group_add(group, place.name), "group_add returns")
        known = self._groups[group].get(place.name)
        by_owner: bool | None = place.owned and by == place.reader
        if place.owned and not by_owner and known is not None:
            by_owner = known.by_owner
        self._groups[group][place.name] = _Member(self._clock.offset, by_owner)
        for members in self._groups.values():
            if place.name in members:
                members[place.name].lapsing = False

    async def _group_discard(self, group: str, place: _Place, by: int) -> None:
        await self._within(self._layers[by].group_discard(group, place.name), "group_discard returns")
        self._groups[group].pop(place.name, None)

    async def _group_send(self, group: str, by: int) -> None:
        self._number = number = self._number + 1
        message = _message(number)
        try:
            await self._within(self._layers[by].group_send(group, message), "group_send returns")
        except ChannelFull as exc:
            raise Violation(f"group_send raised ChannelFull: {exc}") from exc
        _spoil(message)
        lapsing = [name for name, member in self._groups[group].items() if member.lapsing]
        if lapsing:
            await self._adopt(group, lapsing, self._layers[_WORKER])
        for place in [self._place(name) for name in self._groups[group]]:
            self._expanded += 1
            grouped = sum(letter.grouped for letter in place.letters)
            if (_OWN_CAPACITY - grouped if place.owned else self._left(place)) > 0:
                place.letters.append(_Letter(number, self._clock.offset, grouped=True))
            else:
                self._full += 1

    async def _group_send_and_meet(self, group: str, by: int) -> None:
        await self._group_send(group, by)
        for place in self._places:
            await self._meet(place)
        await self._settle()

    async def _burst(self, ops: list[_Op]) -> None:
        for name, group, at, by in ops:
            place = self._places[at]
            if name == "group_add":
                await self._group_add(_GROUPS[group], place, by)
            elif name == "group_discard":
                await self._group_discard(_GROUPS[group], place, by)
            elif name == "group_send" and self._fits(_GROUPS[group]):
                await self._group_send(_GROUPS[group], by)
            elif name == "send" and not (self._is_shared(place) and self._left(place) == 0):
                await self._send(place, self._layers[by])
        await self._settle()

    async def _settle(self) -> None:
        """Wait until every process has taken in the group messages that were sent to it."""
        await self._until(
            self._is_settled,
            lambda: (
                f"of the messages to groups, counted once for each member, {self._expanded} should have come; "
                "the layers count another number (`expanded`)"
            ),
        )

    async def _is_settled(self) -> bool:
        found = sum([layer.counts().expanded for layer in self._layers])
        if found > self._expanded:
            raise Violation(
                f"{found} messages to groups have come, counted once for each member, and {self._expanded} should "
                "have: somebody got one who was no member when it was sent, or got it twice"
            )
        return found == self._expanded

    async def _adopt(self, group: str, open_: Iterable[str], layer: ChannelLayer) -> None:
        """See who is in a group; where that is open, take it as it is."""
        members = self._groups[group]
        maybe = set(open_)
        certain = set(members) - maybe
        found: set[str] = set()

        async def agrees() -> bool:
            nonlocal found
            listed = await self._within(layer.group_channels(group), "group_channels returns")
            found = set(listed)
            if len(listed) != len(found):
                raise Violation(f"group_channels lists a member of {group!r} twice: {listed}")
            return certain <= found <= certain | maybe

        await self._until(
            agrees,
            lambda: (
                f"the members of {group!r} should be {sorted(certain)}"
                + (f" and perhaps {sorted(maybe)}" if maybe else "")
                + f", and are {sorted(found)}"
            ),
        )
        for name in maybe - found:
            members.pop(name, None)

    async def _flush(self, by: int) -> None:
        await self._within(self._layers[by].flush(), "flush returns")
        for place in self._places:
            self._flushed += len(place.letters)
            if place.owned:
                self._perhaps_on_its_way += len(place.letters) + place.overdue
                self._expired_in_store += place.overdue
                place.overdue = 0
            place.letters.clear()
        for members in self._groups.values():
            members.clear()
        self._stale = False
        self._was_flushed = True

    async def _pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        now = self._clock.offset
        for layer in self._layers:
            await self._within(layer.tend(), "tend returns")
        for place in self._places:
            over = [letter for letter in place.letters if letter.sent + _EXPIRY <= now]
            place.letters = [letter for letter in place.letters if letter.sent + _EXPIRY > now]
            self._expired += len(over)
            place.overdue = len(over)
            if not place.owned:
                self._expired_in_store += len(over)
                self._stale = self._stale or bool(over)
            if over:
                self._lapse(place, grouped=any(letter.grouped for letter in over), missed=seconds >= _LEASE)
        for group, members in self._groups.items():
            for name, member in list(members.items()):
                lasts = None if member.by_owner and self._group_expiry is None else self._group_lifetime
                if lasts is not None and member.joined + lasts <= now:
                    del members[name]
            maybe = [name for name, member in members.items() if member.lapsing and self._place(name).owned]
            await self._adopt(group, maybe, self._layers[_WORKER])
            for name in maybe:
                if name in members:
                    members[name].lapsing = False

    def _lapse(self, place: _Place, *, grouped: bool, missed: bool) -> None:
        """A message has expired unread: its channel leaves its groups, at once or with the next message to them.

        Args:
            place: the channel.
            grouped: it was a message to a group.
            missed: the owner of the channel had lost its lease meanwhile, and with it knows no more what expired.
        """
        for members in self._groups.values():
            member = members.get(place.name)
            if member is None:
                continue
            if member.by_owner and not missed:
                del members[place.name]
            elif member.by_owner or place.owned or (grouped and self._can.lapses):
                member.lapsing = True

    # -- the rehearsal

    def rehearse(self) -> None:
        """Play a fixed sequence of calls in which each promise is tried once: most of what is wrong shows here.

        Raises:
            Violation: a promise is broken.
        """
        self._act("begin", group_expiry=_GROUP_EXPIRY)
        for some, by in ((0, 2), (2, 0)):  # members that are full, in a process and outside of any
            self._act("crowd", group="green", some=some, by=by, count=3)
            self._act("receive", pick=0, by=2, most=2)
            self._act("group_send", group="green", by=1)
            self._receive_all()
        for owner in (0, 1):  # messages and changes on their way together
            self._act("change_amid", group="red", owner=owner, by=1 - owner)
            self._act("change_amid", group="green", owner=owner, by=2)
            self._receive_all()
        for at in (0, 3, 4, 5, 6):  # capacity, and places that come back
            for by in (0, 1, 2):
                self._act("send", at=at, by=by)
            self._act("receive", pick=0, by=0, most=1)
            self._act("send", at=at, by=1)
            self._receive_all()
        for turns in range(4):  # cancellation
            for at in (0, 4, 5):
                self._act("send", at=at, by=1)
                self._act("cancel_amid", pick=0, turns=turns)
                self._receive_all()
            self._act("cancel_send", at=1, by=0, turns=turns)
            self._act("cancel_change", group="red", at=1, by=0, turns=turns, first=True, then=False)
        self._act("wait", pick=0, by=0)
        self._act("wait", pick=0, by=0)
        self._act("cancel_waiting", pick=0, which=0)
        self._act("send", at=0, by=2)
        for by in (2, 0):  # membership
            self._act("group_add", group="red", at=0, by=0)
            self._act("group_channels", group="red", by=1)
            self._act("group_send", group="red", by=1)
            self._act("group_discard", group="red", at=0, by=by)
            self._act("group_channels", group="red", by=0)
        self._act("group_add", group="red", at=0, by=0)
        self._act("crowd", group="red", some=1, by=1, count=1)
        self._act("send", at=1, by=2)
        self._act("flush", by=2)
        self._act("send", at=1, by=2)
        self._receive_all()
        for pick in (1, 0, 1):  # time: after, before, after
            self._act("group_add", group="red", at=0, by=0)
            self._act("group_send", group="red", by=1)
            self._act("send", at=1, by=2)
            self._act("pass_time", pick=pick)
            self._act("send", at=1, by=0)
            self._receive_all()

    def _receive_all(self) -> None:
        for _ in self._places:
            self._act("receive", pick=0, by=_WORKER, most=3)

    def _act(self, name: str, **arguments: object) -> None:
        """Play one call."""
        getattr(self, name)(**arguments)

    # -- running

    def _say(self, text: str) -> None:
        """Write a line of the script of a failure."""
        self.said.append(text)
        if currently_in_test_context():
            note(text)

    def _run(self, work: Coroutine[object, object, T]) -> T:
        try:
            return self._runner.run(work)
        except BaseException as exc:
            self._broken = True
            if isinstance(exc, Violation):
                exc.script = "\n".join(["state = LayerTest()", *self.said, "state.teardown()"])
            raise

    async def _within(self, work: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await work
        except TimeoutError:
            raise Violation(f"after {self._patience} seconds it is not true that {what}") from None
        except StoreError as exc:
            raise Violation(f"it is not true that {what}: {exc}") from exc

    async def _until(self, holds: Callable[[], Awaitable[bool]], problem: Callable[[], str]) -> None:
        """Look until something is so; the bound is for what is wrong."""
        deadline = time.monotonic() + self._patience
        turn = 0
        while not await holds():
            if time.monotonic() > deadline:
                raise Violation(problem())
            turn += 1
            await asyncio.sleep(0 if turn < _TURNS else 0.001)


def _spoil(message: dict[str, object] | Message) -> None:
    """Change a message that nobody else should hold, at every depth."""
    inner = message.get("inner")
    if isinstance(inner, dict):
        inner["list"] = []
        inner.clear()
    message.clear()


def run_layer_conformance_test(
    make_layer: MakeLayer,
    *,
    capabilities: Capabilities | None = None,
    settings: hypothesis.settings | None = None,
    patience: float = 5.0,
) -> None:
    """Prove that a layer keeps the promises of the specification, whatever calls come in whatever order.

    Args:
        make_layer: makes one process's layer; see `channel_layer.testing.layers_over`.
        capabilities: of its store; None: all.
        settings: Hypothesis's; None: those of the current profile, with 30 steps in each example.
        patience: seconds of real time after which what has not happened is taken not to happen.

    Raises:
        Violation: it breaks a promise; the example that does is printed as a script.
    """
    can = capabilities if capabilities is not None else Capabilities()
    if settings is None:
        settings = hypothesis.settings(
            deadline=None, stateful_step_count=30, suppress_health_check=[hypothesis.HealthCheck.too_slow]
        )

    class LayerTest(LayerMachine):
        def __init__(self) -> None:
            super().__init__(make_layer, can, patience)

    _rehearse(LayerTest())
    try:
        run_state_machine_as_test(LayerTest, settings=settings)
    except BaseExceptionGroup as group:  # a race went another way when Hypothesis tried the example again
        for error in group.exceptions:
            if isinstance(error, Violation):
                error.add_note(error.script)
                raise error from group
        raise


def _rehearse(machine: LayerMachine) -> None:
    """Play the rehearsal, its end included."""
    try:
        try:
            machine.rehearse()
        finally:
            machine.teardown()
    except Violation as violation:
        violation.add_note(violation.script)
        raise
