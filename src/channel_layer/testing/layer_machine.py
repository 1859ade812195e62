"""A state machine that makes any calls of several layers over one store, and checks them against the specification.

It knows nothing of stores, leases or markers: what it expects follows from the calls that returned. What a rule leaves
open (which worker gets a message, whether a member that does not read has been removed yet) is asked for, and only what
may not be is a violation.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import hypothesis
from hypothesis import currently_in_test_context, note
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from channel_layer.errors import ChannelFull, StoreError
from channel_layer.ports import Capabilities
from channel_layer.testing.factories import Violation, VirtualClock, make_rules
from channel_layer.testing.profiles import machine_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from channel_layer.domain.codec import Message
    from channel_layer.layer import ChannelLayer
    from channel_layer.options import ChannelPattern
    from channel_layer.testing.factories import MakeLayer

__all__ = ("LayerMachine", "run_layer_conformance_test")

P = ParamSpec("P")
T = TypeVar("T")

_EXPIRY = 30.5
_LEASE = 1.5 * _EXPIRY
_GROUP_EXPIRY = 100.0
_UNREAD_LIMIT = 600.0
"""Seconds without a receive() after which a channel that let a message expire leaves its groups."""

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

_STEPS = 30
"""Steps of an example."""

_GROUPS = ("green", "red")
_JOBS, _REPLY, _CLAIMED = "jobs", "reply?x", ("box!a", "box!b")
_WORKER = 2
"""The layer that owns no channel."""

_Op = tuple[str, int, int, int]

_GROUP = st.sampled_from(_GROUPS)
_CHANNEL = st.integers(0, 7)
_LAYER = st.integers(0, 2)
_AFTER_TURNS = st.integers(0, 8)
"""Turns of the event loop after which a call is cancelled."""

_PICK = st.integers(0, 255)
"""Picks one of those that there are."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A message that was accepted and neither received nor lost."""

    number: int
    sent: float
    grouped: bool


@dataclass(slots=True, eq=False)
class _Member:
    joined: float
    by_owner: bool | None
    """The owner of the channel added it; None: unknown, because a call that may have changed it was cancelled."""
    unread: bool = False
    """A message to it expired unread, so it may leave: with the next one, or when there was no receive() for long."""


@dataclass(slots=True, eq=False)
class _Channel:
    """A channel, as the specification sees it.

    Attributes:
        name: its full name.
        reader: the layer that may receive from it; None: any.
        pool: what shares its capacity.
        ordered: one reader gets what one writer sends in that order.
        owned: a process owns it and its messages arrive there by themselves.
        entries: what waits, oldest first.
        waiters: the calls of receive() that wait, longest first.
        overdue: how many entries have just expired, perhaps on their way to the owner.
        read_at: when there was a receive() last.
    """

    name: str
    reader: int | None
    pool: str
    ordered: bool
    owned: bool
    entries: list[_Entry] = field(default_factory=list[_Entry])
    waiters: list[asyncio.Task[Message]] = field(default_factory=list["asyncio.Task[Message]"])
    overdue: int = 0
    read_at: float = 0.0


def _recorded(
    rule: Callable[Concatenate[LayerMachine, P], Coroutine[object, object, None]],
) -> Callable[Concatenate[LayerMachine, P], None]:
    """Run a rule, unless it is too late, and write down that it was called.

    Hypothesis does not print a race that goes another way the next time.
    """

    @functools.wraps(rule)
    def recorded(machine: LayerMachine, /, *args: P.args, **kwargs: P.kwargs) -> None:
        machine.script.append(
            f"state.{rule.__name__}({', '.join(f'{key}={value!r}' for key, value in kwargs.items())})"
        )
        if not machine.is_too_late:
            machine.run(rule(machine, *args, **kwargs))

    return recorded


def _message(number: int) -> dict[str, object]:
    return {"type": "test.message", "number": number, "inner": {"list": [number]}}


class LayerMachine(RuleBasedStateMachine):
    """Three layers over one store.

    The first two own two channels each, the first also reads a claimed inbox, the third owns nothing.

    Args:
        make_layer: makes each of them.
        capabilities: of the store.
        patience: seconds of real time after which what has not happened is taken not to happen.
        found: gets every violation: one that depends on a race need not come again when Hypothesis repeats the example.
    """

    def __init__(
        self, make_layer: MakeLayer, capabilities: Capabilities, patience: float, found: list[Violation]
    ) -> None:
        super().__init__()
        self._found = found
        self._patience = patience
        self.script: list[str] = []
        """The calls and what became of them, for runs without Hypothesis."""
        self._make_layer = make_layer
        self._can = capabilities
        self._clock = VirtualClock()
        self._runner = asyncio.Runner()
        self._layers: list[ChannelLayer] = []
        self._channels: list[_Channel] = []
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
        """Something too old or flushed may lie in the store, or in a layer, until a call finds it."""
        self._began = 0.0
        self._broken = False

    # -- begin and end

    @initialize(group_expiry=st.sampled_from([_GROUP_EXPIRY, None]))
    def begin(self, group_expiry: float | None) -> None:
        """Make the layers and their channels."""
        self.script.append(f"state.begin(group_expiry={group_expiry!r})")
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
                name = self.run(self._within(self._layers[owner].new_channel(), "new_channel() returns"))
                pool = name if self._can.leases else f"layer {owner}"
                self._channels.append(_Channel(name, owner, pool, ordered=True, owned=self._can.leases))
        self._channels.append(_Channel(_JOBS, None, _JOBS, ordered=False, owned=False))
        self._channels.append(_Channel(_REPLY, _WORKER, _REPLY, ordered=True, owned=False))
        self._channels += [_Channel(name, 0, "box!", ordered=True, owned=False) for name in _CLAIMED]
        names = {channel.name for channel in self._channels}
        if len(names) != len(self._channels):
            raise Violation(f"new_channel() made a name twice: {sorted(names)}")

    def teardown(self) -> None:
        """Receive all that is left, check that nothing else comes and that the counts add up, and close."""
        try:
            if self._channels and not self.is_too_late and not self._broken:
                self.run(self._end())
        finally:
            try:
                self.run(self._close())
            finally:
                self._runner.close()

    async def _close(self) -> None:
        waiting = [task for channel in self._channels for task in channel.waiters]
        for layer in self._layers:
            await layer.aclose()
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _end(self) -> None:
        for channel in self._channels:
            await self._cancel_waiters(channel, list(channel.waiters))
        await self._until(self._missing_group_messages)
        for channel in self._channels:
            while channel.entries:
                await self._receive(channel)
        for channel in self._channels:
            for _ in range(2):
                await self._send(channel, self._layers[1])
                await self._receive(channel)  # and not one that was received before
        await self._check_counts()

    async def _check_counts(self) -> None:
        """Accepted = delivered + dropped + pending, by the layers' own counts and by ours."""
        counts = [layer.counts() for layer in self._layers]
        dropped = {reason: sum(c.dropped.get(reason, 0) for c in counts) for c in counts for reason in c.dropped}
        self._say(f"statistics: {counts}")
        self._compare("messages that send() accepted (`sent`)", sum(c.sent for c in counts), self._sent)
        self._compare(
            "group messages counted once a member (`expanded`)", sum(c.expanded for c in counts), self._expanded
        )
        self._compare("messages that were received (`delivered`)", sum(c.delivered for c in counts), self._received)
        self._compare("group messages for full members (`full`)", dropped.get("full", 0), self._full)
        self._compare("messages that wait in a process (`waiting`)", sum(c.waiting for c in counts), 0)
        await self._check_statistics()
        # What expires in the store is counted by the call that finds it, as flushed perhaps; on several hosts there may
        # be none.
        slack = self._expired_in_store
        more = slack + self._perhaps_on_its_way
        self._compare("messages that expired", dropped.get("expired", 0), self._expired, less=slack, more=slack)
        self._compare("messages that were flushed", dropped.get("flushed", 0), self._flushed, less=slack, more=more)
        strange = {reason: n for reason, n in dropped.items() if reason not in {"full", "expired", "flushed"} and n}
        if strange:
            raise Violation(f"messages were dropped for reasons that there were none for: {strange}")

    async def _check_statistics(self) -> None:
        """Each layer tells what it has counted, and the last one knows it all, unless that was flushed or too old."""
        known = [await layer.statistics() for layer in self._layers]
        told = known[-1:] if self._can.statistics else known
        accepted = self._sent + self._expanded - self._full
        found = sum(each.messages_count for each in told)
        self._say(f"and {known[-1]}")
        keeps_all = not self._was_flushed and self._clock.offset < self._group_lifetime
        if found > accepted or (found < accepted and keeps_all):
            raise Violation(f"the statistics do not add up: `messages_count` is {found} and should be {accepted}")

    def _compare(self, what: str, found: int, expected: int, *, less: int = 0, more: int = 0) -> None:
        if not expected - less <= found <= expected + more:
            raise Violation(f"the statistics do not add up: {what} are {found} and should be {expected}")

    # -- calls, one after another

    @rule(at=_CHANNEL, by=_LAYER)
    @_recorded
    async def send(self, at: int, by: int) -> None:
        """A layer sends a message to a channel; a receiver that waits there gets it."""
        channel = self._channels[at]
        if self._is_shared(channel) and self._left(channel) == 0:
            return
        if await self._send(channel, self._layers[by]) is not None:
            await self._check_waiters(channel)

    @rule(pick=_PICK, by=_LAYER, most=st.integers(1, 3))
    @_recorded
    async def receive(self, pick: int, by: int, most: int) -> None:
        """A layer receives what is there, one after another: the oldest message, or of a normal channel any."""
        channel = self._pick(pick, lambda channel: bool(channel.entries))
        if channel is not None:
            for _ in range(min(most, len(channel.entries))):
                await self._receive(channel, by)

    @rule(pick=_PICK, turns=_AFTER_TURNS)
    @_recorded
    async def cancel_amid(self, pick: int, turns: int) -> None:
        """A receive() that would get a message is cancelled after some turns of the event loop; nothing is lost."""
        clean = not self._stale  # else the counts do not tell what is on its way
        channel = self._pick(pick, lambda channel: bool(channel.entries) and (channel.owned or clean))
        if channel is None:
            return
        task = await self._cancel_after(self._receive_call(channel), turns, f"a receive() from {channel.name}")
        channel.read_at = self._clock.offset
        if not task.cancelled():
            self._check_received(channel, task.result())
        if not channel.owned:
            await self._until(self._not_returned)

    @rule(at=_CHANNEL, by=_LAYER, turns=_AFTER_TURNS)
    @_recorded
    async def cancel_send(self, at: int, by: int, turns: int) -> None:
        """A send() is cancelled after some turns: its message comes before any later one, or never."""
        channel, layer = self._channels[at], self._layers[by]
        alone = channel.ordered and not channel.waiters and not self._is_shared(channel)
        if not alone or self._left(channel) <= 1:
            return
        self._number = doubtful = self._number + 1
        counted = layer.counts().sent
        task = await self._cancel_after(layer.send(channel.name, _message(doubtful)), turns, "send()")
        returned = False
        # Credits come back in batches, which may refuse a message too many for a moment.
        with contextlib.suppress(ChannelFull, asyncio.CancelledError):
            task.result()
            returned = True
        if returned:
            self._sent += 1
            channel.entries.append(_Entry(doubtful, self._clock.offset, grouped=False))
        last = await self._send(channel, layer)
        came = returned
        while channel.entries:
            message = await self._next_message(channel)
            if not came and message.get("number") == doubtful and self._held(channel) == [last]:
                self._say(f"the message {doubtful} had been sent")
                came = True
                self._received += 1
                continue
            self._check_received(channel, message)
        if not returned and layer.counts().sent - counted > (last is not None):  # cancelled when it was counted already
            if not came:
                raise Violation(f"message {doubtful} to {channel.name} was counted as sent, and has not come")
            self._sent += 1

    @rule(group=_GROUP, at=_CHANNEL, by=_LAYER, turns=_AFTER_TURNS, first=st.booleans(), then=st.booleans())
    @_recorded
    async def cancel_change(self, group: str, at: int, by: int, turns: int, *, first: bool, then: bool) -> None:
        """A change of a group is cancelled after some turns; the next one, if it returns, holds against it."""
        channel, layer = self._channels[at], self._layers[by]
        change = layer.group_add if first else layer.group_discard
        task = await self._cancel_after(change(group, channel.name), turns, "a change of a group")
        if not task.cancelled():
            task.result()
        known = self._groups[group].get(channel.name)
        if known is not None and channel.owned:
            known.by_owner = None
        if then:
            await self._group_add(group, channel, by)
        else:
            await self._group_discard(group, channel, by)
        await self._until(self._missing_group_messages)

    @rule(pick=_PICK, by=_LAYER)
    @_recorded
    async def wait(self, pick: int, by: int) -> None:
        """A layer begins to wait for a message that is yet to come."""
        channel = self._pick(pick, lambda channel: not channel.entries)
        if channel is None:
            return
        task = asyncio.create_task(self._receive_call(channel, by))
        channel.waiters.append(task)
        for _ in range(3):
            await asyncio.sleep(0)
        if task.done():
            channel.waiters.remove(task)
            self._check_received(channel, task.result())

    @rule(pick=_PICK, which=_PICK)
    @_recorded
    async def cancel_waiting(self, pick: int, which: int) -> None:
        """A waiting receiver is cancelled."""
        channel = self._pick(pick, lambda channel: bool(channel.waiters))
        if channel is not None:
            await self._cancel_waiters(channel, [channel.waiters[which % len(channel.waiters)]])

    @rule(group=_GROUP, at=_CHANNEL, by=_LAYER)
    @_recorded
    async def group_add(self, group: str, at: int, by: int) -> None:
        """A layer adds a channel to a group, its own or another one's."""
        await self._group_add(group, self._channels[at], by)

    @rule(group=_GROUP, at=_CHANNEL, by=_LAYER)
    @_recorded
    async def group_discard(self, group: str, at: int, by: int) -> None:
        """A layer removes a channel from a group, by whichever layer it was added."""
        await self._group_discard(group, self._channels[at], by)

    @rule(group=_GROUP, by=_LAYER)
    @_recorded
    async def group_send(self, group: str, by: int) -> None:
        """A layer sends to a group: each member gets one message of its own, or none if it is full."""
        if self._fits(group):
            await self._group_send(group, by)
            for channel in self._channels:
                await self._check_waiters(channel)
            await self._until(self._missing_group_messages)

    @rule(group=_GROUP, by=_LAYER)
    @_recorded
    async def group_channels(self, group: str, by: int) -> None:
        """A layer lists a group's members, by whichever layer they were added."""
        await self._learn_members(group, (), self._layers[by])

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
    async def burst(self, ops: list[_Op]) -> None:
        """Calls follow each other without a pause in which what they have done could arrive."""
        if self._is_idle:
            await self._burst(ops)

    @rule(group=_GROUP, some=st.integers(0, 2), by=_LAYER, count=st.sampled_from([3, 1]))
    @_recorded
    async def fill_group(self, group: str, some: int, by: int, count: int) -> None:
        """Two channels join a group, and several messages come at once: some may be too many."""
        joins: list[_Op] = [("group_add", _GROUPS.index(group), at, some) for at in (2 * some, 2 * some + 1)]
        if self._is_idle:
            await self._burst([*joins, *[("group_send", _GROUPS.index(group), 0, by)] * count])

    @rule(group=_GROUP, owner=st.integers(0, 1), by=_LAYER)
    @_recorded
    async def change_amid(self, group: str, owner: int, by: int) -> None:
        """One channel of a process joins a group and another one leaves it, while messages to it are on their way."""
        if not self._is_idle:
            return
        which = _GROUPS.index(group)
        await self._burst([("group_add", which, 2 * owner, owner), ("group_discard", which, 2 * owner + 1, by)])
        changes: list[_Op] = [("group_add", which, 2 * owner + 1, owner), ("group_discard", which, 2 * owner, by)]
        sends: _Op = ("group_send", which, 0, by)
        direct: _Op = ("send", which, 2 * owner, owner)
        await self._burst([sends, direct, changes[0], sends, changes[1], sends])

    @rule(by=_LAYER)
    @_recorded
    async def flush(self, by: int) -> None:
        """A layer flushes: when it returns, no process can deliver what was there, and every group is empty."""
        await self._within(self._layers[by].flush(), "flush returns")
        for channel in self._channels:
            self._flushed += len(channel.entries)
            if channel.owned:
                self._perhaps_on_its_way += len(channel.entries) + channel.overdue
                self._expired_in_store += channel.overdue
                channel.overdue = 0
            channel.entries.clear()
        for members in self._groups.values():
            members.clear()
        # What a layer has popped besides for another channel of its inbox, it drops when that is received from.
        self._stale = any(layer.counts().waiting for layer in self._layers)
        self._was_flushed = True

    @rule(pick=_PICK)
    @_recorded
    async def pass_time(self, pick: int) -> None:
        """Time passes, to just before or just after one of the moments at which something ends."""
        now = self._clock.offset
        limits = sorted(set(self._limits()))
        moments = [moment for limit in limits for moment in (limit - _UNDER, limit + _OVER) if moment > now]
        clear = [m for m in moments if not any(m < limit < m + _UNDER - _OVER for limit in limits)]
        if clear:
            seconds = clear[pick % len(clear)] - now
            self._say(f"{seconds} seconds pass")
            await self._pass_time(seconds)

    @_recorded
    async def stop_reading(self, group: str, at: int, by: int) -> None:
        """Nothing is received from a channel while messages to its group expire, until it leaves the group.

        No rule: it takes too many steps.
        """
        channel = self._channels[at]
        if not channel.owned:
            return
        began = self._clock.offset
        while self._clock.offset - began < _UNREAD_LIMIT and not self.is_too_late:
            await self._group_add(group, channel, by=at // 2)
            await self._group_send(group, by)
            await self._until(self._missing_group_messages)
            await self._pass_time(_LEASE - 2 * _UNDER)  # the owner keeps its lease
        if channel.name in self._groups[group] and not self.is_too_late:
            raise Violation(
                f"{channel.name} is in group {group!r} though a message to it expired unread, and nothing has been "
                f"received from it for {self._clock.offset - began:g} seconds"
            )

    # -- what is true

    @property
    def is_too_late(self) -> bool:
        """So much real time has passed that "just before a limit" may have become "after" it: check no more."""
        return time.monotonic() - self._began > _UNDER / 2

    @property
    def _is_idle(self) -> bool:
        waiting = any(channel.waiters for channel in self._channels)
        return not waiting and not any(
            self._may_have_left(name, member) for members in self._groups.values() for name, member in members.items()
        )

    def _pick(self, pick: int, fits: Callable[[_Channel], bool]) -> _Channel | None:
        """Return one of the channels that fit, if any do; what is drawn must not depend on how a race ended."""
        fitting = [channel for channel in self._channels if fits(channel)]
        if not fitting:
            return None
        channel = fitting[pick % len(fitting)]
        self._say(f"it is {channel.name}, where {self._held(channel)} wait")
        return channel

    def _limits(self) -> Iterable[float]:
        for channel in self._channels:
            for entry in channel.entries:
                yield entry.sent + _EXPIRY
        for members in self._groups.values():
            for member in members.values():
                if member.joined + self._group_lifetime < self._clock.offset + 10 * _GROUP_EXPIRY:
                    yield member.joined + self._group_lifetime

    def _is_shared(self, channel: _Channel) -> bool:
        """Whether several channels share its capacity."""
        return sum(other.pool == channel.pool for other in self._channels) > 1

    def _left(self, channel: _Channel) -> int:
        """How many more messages its pool takes at least."""
        capacity = _SHARED_CAPACITY if self._is_shared(channel) else _OWN_CAPACITY
        held = [entry for other in self._channels if other.pool == channel.pool for entry in other.entries]
        return capacity - sum(not (entry.grouped and channel.owned) for entry in held)

    def _fits(self, group: str) -> bool:
        """Whether all members that share a pool have room in it."""
        members = [
            channel for channel in self._channels if channel.name in self._groups[group] and self._is_shared(channel)
        ]
        return all(sum(m.pool == channel.pool for m in members) <= self._left(channel) for channel in members)

    def _channel(self, name: str) -> _Channel:
        return next(channel for channel in self._channels if channel.name == name)

    def _receive_call(self, channel: _Channel, by: int = _WORKER) -> Coroutine[object, object, Message]:
        """Call receive() of the layer that may, or of the one that is given if any may."""
        return self._layers[by if channel.reader is None else channel.reader].receive(channel.name)

    # -- each call, and what it means

    async def _send(self, channel: _Channel, layer: ChannelLayer) -> int | None:
        """Send a message; return its number, or None if the channel was full, as it should."""
        self._number = number = self._number + 1
        left = self._left(channel)
        refused = False
        deadline = time.monotonic() + self._patience
        while True:
            message = _message(number)
            try:
                await self._within(layer.send(channel.name, message), f"send to {channel.name} returns")
            except ChannelFull:
                if left <= 0:
                    return None
                refused = True  # credits come back in batches, which may refuse a message too many for a moment
                if time.monotonic() > deadline:
                    raise Violation(
                        f"{channel.name} refuses a message although it holds {self._held(channel)} and may hold "
                        f"{left} more: a credit is never returned"
                    ) from None
                for each in self._layers:
                    await each.run_maintenance()
                continue
            break
        if left <= 0:
            raise Violation(
                f"{channel.name} accepted a message over its capacity: it holds {self._held(channel)} already"
            )
        if refused:
            self._say(f"{channel.name} had to be asked more than once")
        _change_everything(message)
        self._sent += 1
        channel.entries.append(_Entry(number, self._clock.offset, grouped=False))
        return number

    def _held(self, channel: _Channel) -> list[int]:
        return [entry.number for entry in channel.entries]

    async def _check_waiters(self, channel: _Channel) -> None:
        """Check that, of the receivers that waited for the message that has come, the right one gets it."""
        if not (channel.waiters and channel.entries):
            return
        done, _ = await asyncio.wait(channel.waiters, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise Violation(
                f"message {self._held(channel)} came to {channel.name}, and no receiver that waits there got it"
            )
        if len(done) > 1:
            raise Violation(f"one message came to {channel.name}, and {len(done)} receivers got one")
        [task] = done
        if channel.owned and task is not channel.waiters[0]:
            raise Violation(f"{channel.name}: a receiver that came later got the message")
        channel.waiters.remove(task)
        self._check_received(channel, await task)

    async def _receive(self, channel: _Channel, by: int = _WORKER) -> None:
        self._check_received(channel, await self._next_message(channel, by))

    async def _next_message(self, channel: _Channel, by: int = _WORKER) -> Message:
        what = f"receive from {channel.name}, where {self._held(channel)} wait, returns"
        return await self._within(self._receive_call(channel, by), what)

    def _check_received(self, channel: _Channel, message: Message) -> None:
        """Check that a message that came is one that may come now."""
        number = message.get("number")
        channel.read_at = self._clock.offset
        self._say(f"received from {channel.name}: {number!r}")
        may = channel.entries[:1] if channel.ordered else channel.entries
        for entry in may:
            if entry.number == number:
                if message != _message(entry.number):
                    raise Violation(
                        f"message {number} came to {channel.name} changed, as {message!r}: another receiver shares it"
                    )
                channel.entries.remove(entry)
                self._received += 1
                _change_everything(message)
                return
        problem = (
            "was there before its turn"
            if any(entry.number == number for entry in channel.entries)
            else "may not come: it was received, dropped, flushed or expired before, or was never sent there"
        )
        raise Violation(f"{channel.name}: expected message {self._held(channel)}, got {number!r}, which {problem}")

    async def _cancel_after(self, call: Coroutine[object, object, T], turns: int, what: str) -> asyncio.Task[T]:
        """Begin a call, and cancel it after some turns; return its task, which has ended."""
        task = asyncio.create_task(call)
        for _ in range(turns):
            await asyncio.sleep(0)
        await self._cancel([task], what)
        return task

    async def _cancel(self, tasks: list[asyncio.Task[T]], what: str) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            _, still = await asyncio.wait(tasks, timeout=self._patience)
            if still:
                raise Violation(f"{what} that was cancelled does not end")

    async def _cancel_waiters(self, channel: _Channel, leaving: list[asyncio.Task[Message]]) -> None:
        for task in leaving:
            channel.waiters.remove(task)
        channel.read_at = self._clock.offset
        await self._cancel(leaving, f"a receive() from {channel.name}")
        for task in leaving:
            if not task.cancelled():
                self._check_received(channel, task.result())

    async def _not_returned(self) -> str:
        """Say if something is on its way still: what a cancelled receiver was to get is back, or in its own channel."""
        counts = [layer.counts() for layer in self._layers]
        worker = self._layers[_WORKER]
        outside = [channel for channel in self._channels if not channel.owned]
        stored = [(await worker.statistics(channel.name)).messages_pending or 0 for channel in outside]
        found = sum(count.waiting for count in counts) + sum(stored)
        expected = sum(len(channel.entries) for channel in self._channels)
        if counts[_WORKER].waiting == 0 and found == expected:
            return ""
        return f"a receive() was cancelled, and now {found} messages wait where {expected} should"

    async def _group_add(self, group: str, channel: _Channel, by: int) -> None:
        await self._within(self._layers[by].group_add(group, channel.name), "group_add returns")
        known = self._groups[group].get(channel.name)
        by_owner: bool | None = channel.owned and by == channel.reader
        if channel.owned and not by_owner and known is not None:
            by_owner = known.by_owner
        self._groups[group][channel.name] = _Member(self._clock.offset, by_owner)
        for members in self._groups.values():
            if channel.name in members:
                members[channel.name].unread = False

    async def _group_discard(self, group: str, channel: _Channel, by: int) -> None:
        await self._within(self._layers[by].group_discard(group, channel.name), "group_discard returns")
        self._groups[group].pop(channel.name, None)

    async def _group_send(self, group: str, by: int) -> None:
        self._number = number = self._number + 1
        message = _message(number)
        try:
            await self._within(self._layers[by].group_send(group, message), "group_send returns")
        except ChannelFull as exc:
            raise Violation(f"group_send raised ChannelFull: {exc}") from exc
        _change_everything(message)
        unread = [name for name, member in self._groups[group].items() if self._may_have_left(name, member)]
        if unread:
            await self._learn_members(group, unread, self._layers[_WORKER])
        for channel in [self._channel(name) for name in self._groups[group]]:
            self._expanded += 1
            if (_OWN_CAPACITY - len(channel.entries) if channel.owned else self._left(channel)) > 0:
                channel.entries.append(_Entry(number, self._clock.offset, grouped=True))
            else:
                self._full += 1

    async def _burst(self, ops: list[_Op]) -> None:
        for name, group, at, by in ops:
            channel = self._channels[at]
            if name == "group_add":
                await self._group_add(_GROUPS[group], channel, by)
            elif name == "group_discard":
                await self._group_discard(_GROUPS[group], channel, by)
            elif name == "group_send" and self._fits(_GROUPS[group]):
                await self._group_send(_GROUPS[group], by)
            elif name == "send" and not (self._is_shared(channel) and self._left(channel) == 0):
                await self._send(channel, self._layers[by])
        await self._until(self._missing_group_messages)

    async def _missing_group_messages(self) -> str:
        """Say if a process has yet to take in group messages that were sent to it."""
        found = sum(layer.counts().expanded for layer in self._layers)
        if found > self._expanded:
            raise Violation(
                f"{found} messages to groups have come, counted once for each member, and {self._expanded} should "
                "have: a channel got one that was no member when it was sent, or got it twice"
            )
        if found == self._expanded:
            return ""
        return (
            f"of the messages to groups, counted once for each member, {self._expanded} should have come; the layers "
            f"count {found} (`expanded`)"
        )

    async def _learn_members(self, group: str, open_: Iterable[str], layer: ChannelLayer) -> None:
        """Compare a group's members; where it is open whether a channel is one, take it as it is."""
        members = self._groups[group]
        maybe = set(open_)
        certain = set(members) - maybe
        found: set[str] = set()

        async def differ() -> str:
            nonlocal found
            listed = await self._within(layer.group_channels(group), "group_channels returns")
            found = set(listed)
            if len(listed) != len(found):
                raise Violation(f"group_channels lists a member of {group!r} twice: {listed}")
            if certain <= found <= certain | maybe:
                return ""
            perhaps = f" and perhaps {sorted(maybe)}" if maybe else ""
            return f"the members of {group!r} should be {sorted(certain)}{perhaps}, and are {sorted(found)}"

        await self._until(differ)
        for name in maybe - found:
            members.pop(name, None)

    async def _pass_time(self, seconds: float) -> None:
        self._clock.advance(seconds)
        now = self._clock.offset
        for layer in self._layers:
            await self._within(layer.run_maintenance(), "run_maintenance returns")
        for channel in self._channels:
            over = [entry for entry in channel.entries if entry.sent + _EXPIRY <= now]
            channel.entries = [entry for entry in channel.entries if entry.sent + _EXPIRY > now]
            self._expired += len(over)
            channel.overdue = len(over)
            if not channel.owned:
                self._expired_in_store += len(over)
                self._stale = self._stale or bool(over)
            if over:
                self._note_unread(channel, grouped=any(entry.grouped for entry in over))
            if channel.waiters:
                channel.read_at = now
        for group, members in self._groups.items():
            for name, member in list(members.items()):
                lasts = None if member.by_owner and self._group_expiry is None else self._group_lifetime
                if lasts is not None and member.joined + lasts <= now:
                    del members[name]
            maybe = [
                name
                for name, member in members.items()
                if self._channel(name).owned and self._may_have_left(name, member)
            ]
            await self._learn_members(group, maybe, self._layers[_WORKER])

    def _note_unread(self, channel: _Channel, *, grouped: bool) -> None:
        """Note that a message, to a group perhaps, has expired unread: its channel may leave its groups."""
        for members in self._groups.values():
            member = members.get(channel.name)
            if member is not None and (channel.owned or (grouped and self._can.tracks_unread)):
                member.unread = True

    def _may_have_left(self, name: str, member: _Member) -> bool:
        """Whether a member may be none any more, because a message to it expired unread."""
        if not (member.unread and member.by_owner):
            return member.unread
        return self._clock.offset - self._channel(name).read_at >= _UNREAD_LIMIT - _UNDER

    # -- a fixed script

    def run_script(self) -> None:
        """Make a fixed sequence of calls in which each promise is tried once: most mistakes show here.

        Raises:
            Violation: a promise is broken.
        """
        self.begin(group_expiry=_GROUP_EXPIRY)
        for some, by in ((0, 2), (2, 0)):  # full members, in a process and outside of any
            self.fill_group(group="green", some=some, by=by, count=3)
            self.receive(pick=0, by=2, most=2)
            self.group_send(group="green", by=1)
            self._receive_all()
        for owner in (0, 1):  # messages and changes on their way together
            self.change_amid(group="red", owner=owner, by=1 - owner)
            self.change_amid(group="green", owner=owner, by=2)
            self._receive_all()
        for at in (0, 3, 4, 5, 6):  # capacity, and credits that are returned
            for by in (0, 1, 2):
                self.send(at=at, by=by)
            self.receive(pick=0, by=0, most=1)
            self.send(at=at, by=1)
            self._receive_all()
        for turns in range(4):  # cancellation
            for at in (0, 4, 5):
                self.send(at=at, by=1)
                self.cancel_amid(pick=0, turns=turns)
                self._receive_all()
            self.cancel_send(at=1, by=0, turns=turns)
            self.cancel_change(group="red", at=1, by=0, turns=turns, first=True, then=False)
        self.wait(pick=0, by=0)
        self.wait(pick=0, by=0)
        self.cancel_waiting(pick=0, which=0)
        self.send(at=0, by=2)
        for by in (2, 0):  # membership
            self.group_add(group="red", at=0, by=0)
            self.group_channels(group="red", by=1)
            self.group_send(group="red", by=1)
            self.group_discard(group="red", at=0, by=by)
            self.group_channels(group="red", by=0)
        self.group_add(group="red", at=0, by=0)
        self.fill_group(group="red", some=1, by=1, count=1)
        self.send(at=1, by=2)
        self.flush(by=2)
        self.send(at=1, by=2)
        self._receive_all()
        self.stop_reading(group="red", at=0, by=2)
        for pick in (1, 0, 1):  # time: after, before, after
            self.group_add(group="red", at=0, by=0)
            self.group_send(group="red", by=1)
            self.send(at=1, by=2)
            self.pass_time(pick=pick)
            self.send(at=1, by=0)
            self._receive_all()

    def _receive_all(self) -> None:
        for _ in self._channels:
            self.receive(pick=0, by=_WORKER, most=3)

    # -- running

    def _say(self, text: str) -> None:
        """Write a line of the script of a failure."""
        self.script.append(text)
        if currently_in_test_context():
            note(text)

    def run(self, work: Coroutine[object, object, T]) -> T:
        """Run something; a violation gets the script."""
        try:
            return self._runner.run(work)
        except BaseException as exc:
            self._broken = True
            if isinstance(exc, Violation):
                exc.script = "\n".join(["state = LayerTest()", *self.script, "state.teardown()"])
                self._found.append(exc)
            raise

    async def _within(self, work: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._patience):
                return await work
        except TimeoutError:
            raise Violation(f"after {self._patience} seconds it is not true that {what}") from None
        except StoreError as exc:
            raise Violation(f"it is not true that {what}: {exc}") from exc

    async def _until(self, problem: Callable[[], Awaitable[str]]) -> None:
        """Look until there is no problem; the bound is for what is wrong."""
        deadline = time.monotonic() + self._patience
        turn = 0
        while text := await problem():
            if time.monotonic() > deadline:
                raise Violation(text)
            turn += 1
            await asyncio.sleep(0 if turn < _TURNS else 0.001)


def _change_everything(message: dict[str, object] | Message) -> None:
    """Change a message that no other receiver should hold, at every depth."""
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
    """Test that a layer keeps the promises of the specification, for any calls in any order.

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
        settings = machine_settings(_STEPS)

    found: list[Violation] = []

    class LayerTest(LayerMachine):
        def __init__(self) -> None:
            super().__init__(make_layer, can, patience, found)

    _run_script(LayerTest())
    try:
        run_state_machine_as_test(LayerTest, settings=settings)
    except (BaseExceptionGroup, Flaky) as flaky:  # a race went another way when Hypothesis tried the example again
        if not found:
            raise
        found[-1].add_note(found[-1].script)
        raise found[-1] from flaky


def _run_script(machine: LayerMachine) -> None:
    """Run the fixed script, its end included."""
    try:
        try:
            machine.run_script()
        finally:
            machine.teardown()
    except Violation as violation:
        violation.add_note(violation.script)
        raise
