"""Layers that break one promise of the specification each: the kit's machine has to find every one of them."""

# pyright: reportPrivateUsage=false
# What is wrong is deep inside.

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Final

from channel_layer import ChannelFull, ChannelLayer, Message
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.codec import MsgpackCodec
from channel_layer.domain.counters import Counters, Reason
from channel_layer.domain.frames import GroupFrame, MembershipMarker, marker_frame
from channel_layer.domain.inbox import CreditBatch, Inbox
from channel_layer.domain.mailbox import Item, Mailbox, QueueBuffer, Waiter
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.rules import Rules
from channel_layer.operations import sending
from channel_layer.operations.state import LayerState
from channel_layer.ports import Clock
from channel_layer.runtime.receivers import Receivers
from channel_layer.runtime.wakeups import ReceiveWaiter
from channel_layer.testing import MakeLayer
from channel_layer_memory._store import MemoryBackend
from tests.support.stores import shared

__all__ = ("WRONG_LAYERS", "over_memory")


class _State(LayerState):
    kind: type[Inbox]

    def make_inbox(self, queue: Queue) -> Inbox:
        shard, rules = self.routes.ring.queue(queue), self.rules
        return self.kind(queue, shard, rules.capacity, self.counters, rules.expiry, rules.group_expiry)


class WithInbox(ChannelLayer):
    """Has inboxes of another kind."""

    kind: ClassVar[type[Inbox]]

    def _begin(self) -> None:
        pipeline, old = self._pipeline, self._pipeline.state
        pipeline.state = state = _State(old.rules, old.routes, old.clock, lock=old.lock, claimant=old.claimant)
        state.kind = self.kind
        super()._begin()


class LosesOnCancel(ChannelLayer):
    """Takes a message, and may be cancelled before it hands it over."""

    async def receive(self, channel: str) -> Message:
        """Receive, with one await too many."""
        message = await super().receive(channel)
        await asyncio.sleep(0)
        return message


class _StayingReceivers(Receivers):
    def _leave(self, source: Inbox | QueueBuffer, waiter: ReceiveWaiter) -> None:
        """Leave nothing."""


class KeepsItsPlaceInTheQueue(ChannelLayer):
    """A receiver that was cancelled is called all the same."""

    def _begin(self) -> None:
        super()._begin()
        self._receivers = _StayingReceivers(self._pipeline, self._sessions, self._background, connects=self._connects)


class _SharingCodec(MsgpackCodec):
    """Decodes a group's message once."""

    def __init__(self, max_size: int) -> None:
        super().__init__(max_size)
        self._known: dict[bytes, Message] = {}

    def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
        """Return the same object to every receiver."""
        if not shared:
            return super().decode(payload)
        if payload not in self._known:
            self._known[payload] = super().decode(payload)
        return self._known[payload]


class SharesObjects(ChannelLayer):
    """All members of a group get the same dict."""

    def _begin(self) -> None:
        super()._begin()
        self._pipeline.codec = _SharingCodec(self._rules.max_message_size)


class _DropsForAllInbox(Inbox):
    def _expand(self, frame: GroupFrame, stamp: float, lifetime: float, now: float, wake: list[Waiter]) -> None:
        members = [member.box for member in self.groups.members(frame.group, stamp).values()]
        if any(len(box.items) >= box.capacity for box in members):
            for box in members:
                self._counters.drop("full", box.name)
            self._counters.expanded += len(members)
        else:
            super()._expand(frame, stamp, lifetime, now, wake)


class DropsForAll(WithInbox):
    """One full member costs all members of its process the message."""

    kind: ClassVar[type[Inbox]] = _DropsForAllInbox


class _DropsOldestInbox(Inbox):
    def _room(self, box: Mailbox, now: float) -> bool:
        if super()._room(box, now):
            return True
        oldest = next((item for item in box.items if item.group), None)
        if oldest is None:
            return False
        box.items.remove(oldest)
        box.grouped -= 1
        return True


class DropsOldest(WithInbox):
    """A full member loses the oldest message of a group for the newest."""

    kind: ClassVar[type[Inbox]] = _DropsOldestInbox


class _ApartInbox(Inbox):
    def _room(self, box: Mailbox, now: float) -> bool:
        return box.grouped < box.capacity or super()._room(box, now)


class CountsKindsApart(WithInbox):
    """A channel full of direct messages takes as many of a group."""

    kind: ClassVar[type[Inbox]] = _ApartInbox


class _DeafInbox(Inbox):
    def _flush(self, generation: str) -> None:
        self.generation = self.epoch = self.flushed = generation
        self.credits.clear()


class DeafToFlushes(WithInbox):
    """Acknowledges a flush, and keeps what it holds."""

    kind: ClassVar[type[Inbox]] = _DeafInbox


class _EverlastingInbox(Inbox):
    def _expire(self, box: Mailbox, now: float) -> None:
        """Keep it."""

    def take(self, box: Mailbox, now: float, *, promised: bool) -> Item | None:
        return super().take(box, now - 1e6, promised=promised)


class DeliversTooLate(WithInbox):
    """Hands out what is too old."""

    kind: ClassVar[type[Inbox]] = _EverlastingInbox


class _MiserlyInbox(Inbox):
    def _add_credits(self, name: str, places: int) -> None:
        """Owe nothing."""

    def credit_batch(self) -> CreditBatch | None:
        return None


class NeverGivesPlacesBack(WithInbox):
    """A channel that was full once is full for ever."""

    kind: ClassVar[type[Inbox]] = _MiserlyInbox


class _ForgetfulInbox(Inbox):
    def sweep(self, now: float) -> list[tuple[str, str, int]]:
        super().sweep(now)
        return []


class KeepsMembersThatDoNotRead(WithInbox):
    """A channel whose message expired unread stays in its groups."""

    kind: ClassVar[type[Inbox]] = _ForgetfulInbox


class RaisesChannelFullForAGroup(ChannelLayer):
    """Tells the sender to a group that a member was full."""

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send, and complain."""
        before = self._state.counters.dropped["full"]
        await super().group_send(group, message)
        if self._state.counters.dropped["full"] > before:
            raise ChannelFull(group, 1)


class SendsToGroupsLater(ChannelLayer):
    """Returns from group_send before the message is anywhere."""

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send in the background."""
        tasks: set[asyncio.Task[None]] = self.__dict__.setdefault("tasks", set())
        task = asyncio.get_running_loop().create_task(self._later(group, dict(message)))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _later(self, group: str, message: Mapping[str, object]) -> None:
        await asyncio.sleep(0)
        await super().group_send(group, message)


class ChangesItsMirrorItself(ChannelLayer):
    """Takes a joining for done when it asks for it, not when its marker comes."""

    async def group_add(self, group: str, channel: str) -> None:
        """Add to the mirror, and then to the group."""
        inbox = self._state.inboxes.get(ChannelName.parse(channel).queue.name)
        if inbox is not None:
            now = self._pipeline.clock.now()
            frame = marker_frame(MembershipMarker(group, channel, joined=True, version=0, age=0))
            inbox.groups._versions.pop((group, channel), None)
            inbox.apply([(now, frame)], 0.0, now)
        await super().group_add(group, channel)


class TakesAShortCut(ChannelLayer):
    """Puts what it sends to its own channels straight into their mailboxes."""

    async def send(self, channel: str, message: Mapping[str, object]) -> None:
        """Send, past the store where it can."""
        name = ChannelName.parse(channel)
        inbox = self._state.inboxes.get(name.queue.name)
        if inbox is None:
            await super().send(channel, message)
            return
        now = self._state.clock.now()
        box = inbox.box(channel, now)
        if box.direct >= box.capacity:
            raise ChannelFull(channel, box.capacity)
        box.put(Item(now + self.expiry, self._pipeline.codec.encode(message), "", None))
        inbox.waiting[channel] = box
        self._state.counters.sent += 1
        for waiter in box.promise():
            waiter.wake()


class SendsAgainWhatWasReceived(ChannelLayer):
    """Queues a message again that its receiver may not have finished, as if it had been killed."""

    async def receive(self, channel: str) -> Message:
        """Receive, and put some back."""
        message = await super().receive(channel)
        name = ChannelName.parse(channel)
        if name.queue.kind is Kind.NORMAL:
            await self._run(sending.push(self._pipeline.routes, name, self._pipeline.codec.encode(message), 0))
        return message


class _SilentLedger(Counters):
    __slots__ = ()

    def drop(self, reason: Reason, where: str, count: int = 1, *, cause: str = "") -> None:
        """Say nothing."""


class CountsNoLosses(ChannelLayer):
    """Loses in silence."""

    def _begin(self) -> None:
        super()._begin()
        self._state.counters = _SilentLedger()


class DiscardsOnlyItsOwn(ChannelLayer):
    """Does not let one process remove another one's channel from a group."""

    async def group_discard(self, group: str, channel: str) -> None:
        """Discard what is ours."""
        if ChannelName.parse(channel).queue.name in self._state.inboxes:
            await super().group_discard(group, channel)


class AddsOnce(ChannelLayer):
    """Takes a channel that it has added for a member for ever."""

    async def group_add(self, group: str, channel: str) -> None:
        """Add what it has not added before."""
        added: set[tuple[str, str]] = self.__dict__.setdefault("added", set())
        if (group, channel) not in added:
            added.add((group, channel))
            await super().group_add(group, channel)


class ListsOnlyItsOwn(ChannelLayer):
    """Lists the members that it has added itself."""

    async def group_channels(self, group: str) -> list[str]:
        """List ours."""
        names = await super().group_channels(group)
        return [name for name in names if ChannelName.parse(name).queue.name in self._state.inboxes]


class TakesOneTooMany(ChannelLayer):
    """Allows one message more than the capacity."""

    def __init__(self, rules: Rules, backend: MemoryBackend, *, clock: Clock | None = None) -> None:
        more = CapacityTable(rules.default_capacity + 1)
        super().__init__(dataclasses.replace(rules, capacity=more), backend, clock=clock)


WRONG_LAYERS: Final = (
    AddsOnce,
    ChangesItsMirrorItself,
    CountsKindsApart,
    CountsNoLosses,
    DeafToFlushes,
    DeliversTooLate,
    DiscardsOnlyItsOwn,
    DropsForAll,
    DropsOldest,
    KeepsItsPlaceInTheQueue,
    KeepsMembersThatDoNotRead,
    ListsOnlyItsOwn,
    LosesOnCancel,
    NeverGivesPlacesBack,
    RaisesChannelFullForAGroup,
    SendsAgainWhatWasReceived,
    SendsToGroupsLater,
    SharesObjects,
    TakesAShortCut,
    TakesOneTooMany,
)
"""Each breaks one promise, and says which in its first line."""


def over_memory(kind: type[ChannelLayer]) -> MakeLayer:
    """Return a factory of such layers over the memory store."""
    make_store = shared(MemoryBackend)

    def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
        return kind(rules, make_store(rules, clock), clock=clock)

    return make_layer
