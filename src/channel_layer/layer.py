"""The channel layer as asyncio programs use it: the Channels 4 contract over any store.

A facade: it parses what it is given, picks the event loop that carries a call, and hands over to the programs and to
the background work. Cancelling any call at any await loses no message.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import secrets
import threading
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeVar, overload

from channel_layer import commands as c
from channel_layer.blocking import Background, BlockingChannelLayer
from channel_layer.config import options_from_url
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME
from channel_layer.domain.inbox import Inbox, Tap
from channel_layer.domain.names import LOCAL_LENGTH, ChannelName, GroupName, minted_inbox
from channel_layer.errors import ChannelFull, MessageTooLarge, StoreError, SubscriptionError
from channel_layer.operations import programs
from channel_layer.operations.steps import execute_all
from channel_layer.runtime.background import REPORT_SECONDS, Host, closed_error, report
from channel_layer.runtime.drivers import run
from channel_layer.runtime.event_loops import (
    STILL_SECONDS,
    Guest,
    Home,
    LoopStopped,
    SystemClock,
    io_thread,
    run_in,
)
from channel_layer.runtime.pipeline import Courier
from channel_layer.runtime.sealing import blinded
from channel_layer.runtime.wakeups import Receiver
from channel_layer.stores.faults import FaultyBackend
from channel_layer.subscription import Intake, Source, Subscription
from channel_layer.typed import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
    from concurrent.futures import Future
    from types import TracebackType

    from channel_layer.config import CommonConfig, Rules
    from channel_layer.domain.counters import Counts, Statistics
    from channel_layer.domain.frames import Message
    from channel_layer.domain.inbox import Item, Mailbox
    from channel_layer.domain.names import Queue
    from channel_layer.operations.steps import Operation
    from channel_layer.options import ChannelPattern
    from channel_layer.ports import Backend, Clock, Store
    from channel_layer.runtime.wakeups import Prompt

__all__ = ("ChannelLayer",)

L = TypeVar("L")
R = TypeVar("R")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")

_REMEMBERED = 16384
"""Parsed names that are kept at hand."""

_CALLS_BEFORE_YIELD = 64
"""Calls of one layer that may be made without letting the event loop run: a store in memory, and a mailbox that holds
messages, never wait for anything."""

_JOIN_TRIES = 5
"""How often a group_add claims its own inbox again when the store loses it at that very moment."""

_RENEWALS = 3
"""How often a subscription renews its memberships in the time that they last: two may fail."""

_FLUSH_POLL_FIRST, _FLUSH_POLL_MOST = 0.002, 0.1
"""Seconds between looks at who has acknowledged a flush."""

_LAST_WORD_SECONDS = 1.0
"""How long a loop's end waits, at most, for the store to be told what was counted."""

_layers: weakref.WeakSet[ChannelLayer] = weakref.WeakSet()


class ChannelLayer:
    """Named channels and groups between processes. Made by the adapters, which give it a store.

    One object may be used from any number of event loops and threads, at once or one after another, and in a child
    after a fork, where it starts anew. Making one does no I/O.

    Args:
        rules: the configuration.
        backend: the store.
        clock: local time; another one is for tests.

    Attributes:
        extensions: the optional parts of the specification that are there: ``groups``, ``flush`` and ``statistics``.
        ChannelFull: raised by `send` when a channel is full.
        MessageTooLarge: raised by `send` and `group_send` for a message over ``max_message_size``.
        config: the model of its options, a subclass of `channel_layer.config.CommonConfig`, by which a CONFIG is
            checked without a layer being made; None: nobody knows them beforehand.
    """

    config: ClassVar[type[CommonConfig] | None] = None
    extensions: Final = ("groups", "flush", "statistics")
    ChannelFull: Final = ChannelFull
    MessageTooLarge: Final = MessageTooLarge

    def __init__(self, rules: Rules, backend: Backend, *, clock: Clock | None = None) -> None:
        self._rules = rules
        backend = blinded(backend, rules)
        self._connects = backend.connects
        self._backend: Backend = backend if rules.faults is None else FaultyBackend(backend, rules.faults)
        self._clock: Clock = clock if clock is not None else SystemClock()
        self._courier = Courier(rules, backend, self._clock)
        self._blocking: BlockingChannelLayer | None = None
        self._begin()
        _layers.add(self)

    def _begin(self) -> None:
        """Set up what belongs to one process."""
        self._desk = self._courier.desk
        self._routes = self._courier.routes
        self._client = secrets.token_urlsafe(12)
        self._homes: dict[asyncio.AbstractEventLoop, Home] = {}
        self._seen: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Guest] = weakref.WeakKeyDictionary()
        self._io_home: Home | None = None
        self._host: Host | None = None
        self._hosting = threading.RLock()
        self._moving = False
        self._reporter: asyncio.AbstractEventLoop | None = None
        """The loop in which the store will be told, within a second, what was counted."""
        self._is_due: Callable[[], bool] = itertools.cycle((*[False] * (_CALLS_BEFORE_YIELD - 1), True)).__next__
        """Count a call; whether it is time to let other tasks run."""
        self._loose: set[asyncio.Task[object]] = set()
        self._abandoned: dict[tuple[str, str], asyncio.Task[None]] = {}
        """The last change of each member that goes on though its caller was cancelled."""

    # -- configuration

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Make a layer from a URL that holds its whole CONFIG, as it may stand in the environment.

        Args:
            url: ``redis://redis.example:6379/0?prefix=chat:&capacity=200``, ``memory://?capacity=10``.

        Raises:
            ConfigError: something is wrong with the URL; it names every wrong parameter, and repeats no value.
            TypeError: the class does not say what options it has.
        """
        if cls.config is None:
            raise TypeError(f"{cls.__name__} has no config, which says what its options are: make it without a URL")
        return _make(cls, options_from_url(cls.config, url))

    @property
    def prefix(self) -> str:
        """What all keys in the store begin with."""
        return self._rules.prefix

    @property
    def expiry(self) -> float:
        """Seconds that a message may wait unread."""
        return self._rules.expiry

    @property
    def group_expiry(self) -> float | None:
        """Seconds that a membership lasts after the last `group_add`; None: as long as its owner lives."""
        return self._rules.group_expiry

    @property
    def capacity(self) -> int:
        """Unread messages that a channel may hold, unless a pattern of `channel_capacity` says otherwise."""
        return self._rules.default_capacity

    @property
    def channel_capacity(self) -> Mapping[ChannelPattern, int]:
        """Capacities by pattern, in the order in which they are tried."""
        return self._rules.channel_capacity

    # -- messages

    async def send(self, channel: str, message: Mapping[str, object]) -> None:
        """Send a message to a channel.

        Args:
            channel: a full channel name.
            message: a dict with str keys; values bytes, str, int of 64 bits signed, float, bool, None, lists and
                dicts of these. It is copied: changing it afterwards changes nothing.

        Raises:
            InvalidName: *channel* is not a valid channel name.
            InvalidMessage: *message* holds something else; the text says where.
            MessageTooLarge: the encoded message is over ``max_message_size``.
            ChannelFull: the channel holds as many unread messages as it may. Nothing was sent.
            NoLocalReader: nobody on this machine receives from it, and ``no_local_reader`` is ``"error"``.
            StoreError: the store could not be reached, or did not answer within ``timeout`` seconds.
        """
        courier = self._courier
        name = courier.names.get(channel) or courier.channel(channel)
        payload = courier.for_channel(message, name)
        inbox = self._desk.inboxes.get(name.queue.name)
        known = inbox.returned if inbox is not None else 0
        sent = await self._run(programs.send(self._routes, name, payload, next(courier.turns)))
        if sent.stranded:
            sent = await self._send_after_rescue(name, payload)
        if not sent.accepted and inbox is not None and (inbox.owed or inbox.returned != known or inbox.returning):
            # Our own inbox, and the store did not know of places in it that are free, or have become free since.
            await self._on_host(lambda host: host.settle(inbox))
            sent = await self._run(programs.send(self._routes, name, payload, next(courier.turns)))
        if self._reporter is None or not self._reporter.is_running():
            self._report_soon()
        try:
            courier.count_sent(name, sent)
        finally:
            if self._is_due() or not sent.accepted:  # which may be tried again at once
                await asyncio.sleep(0)

    async def _send_after_rescue(self, name: ChannelName, payload: bytes) -> programs.Sent:
        """Send to a channel that nobody on this machine reads any more, after what waits here for it."""
        task = asyncio.get_running_loop().create_task(self._rescue(name.queue))
        self._keep_track(task)
        await asyncio.shield(task)  # what it has in hand is nowhere else
        return await self._run(
            programs.send(self._routes, name, payload, next(self._courier.turns), pass_stranded=True)
        )

    async def _rescue(self, queue: Queue, *, closing: bool = False) -> None:
        rescuing = programs.rescue(self._routes, queue)
        self._desk.rescued(queue, await self._run(rescuing, closing=closing))

    async def _rescue_all(self) -> None:
        """At the end: what nobody on this machine reads any more might go with its last process."""
        used = self._homes or self._io_home is not None
        if used and (stranded := programs.stranded(self._routes)) is not None:
            for queue in await self._run(stranded, closing=True):
                await self._rescue(queue, closing=True)

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel and return it.

        Several may wait for one channel; each message goes to one of them. Cancelling loses nothing.

        Args:
            channel: a full channel name: one that this layer object made with `new_channel`, in any of its loops; a
                normal channel such as ``http.request``; a single-reader channel; or a channel of an inbox that no
                process has minted, which this process then claims.

        Raises:
            InvalidName: *channel* is not a valid channel name, or belongs to another process that is alive.
            StoreError: the layer is closed, or the store refuses to serve it. While a store is away, this waits.
        """
        name = self._courier.names.get(channel) or self._courier.channel(channel)
        if self._is_due():
            await asyncio.sleep(0)
        desk, clock = self._desk, self._clock
        lock = desk.lock
        lock.acquire()  # `with` takes twice as long, which counts for what is here already
        try:
            if desk.closed:
                raise closed_error()
            source: Inbox | Tap = desk.inboxes.get(name.queue.name) or desk.tap(name.queue)
            box = source.boxes.get(channel) or source.box(name.name, clock.now())
            item = source.take(box, clock.now(), promised=False) if box.items else None
            waiter = self._wait_at(box) if item is None else None
        finally:
            lock.release()
        while True:
            if waiter is not None:
                loop, host = waiter.loop, self._host
                try:
                    if host is None or (
                        host.home.loop is not loop and (not host.home.loop.is_running() or self._should_move(host))
                    ):
                        host = await self._ensure_host()
                    if not (self._connects or loop in self._homes):
                        await self._arrive()  # what this loop waits for is its to read, should the host's loop end
                    if isinstance(source, Tap):
                        self._poke(source)
                    if not (host.home.loop is loop or host.home is self._io_home):
                        await self._wait_for_any([waiter])
                    await waiter
                except BaseException:
                    self._abandon(source, box, waiter)
                    raise
                now = clock.now()
                with desk.lock:
                    item = source.take(box, now, promised=True)
                    waiter = self._wait_at(box) if item is None else None
            if item is not None:
                if not item.group and isinstance(source, Inbox):
                    self._give_back(source, box)
                if (message := self._courier.open(item, name.name)) is not None:
                    return message
                with desk.lock:
                    item = source.take(box, clock.now(), promised=False)
                    waiter = self._wait_at(box) if item is None else None

    async def new_channel(self, prefix: str = "specific") -> str:
        """Make a channel that only this process receives from, in any of its event loops.

        Args:
            prefix: the first part of its name.

        Returns:
            A name that no other channel has or will have: ``<prefix>.<this process>!<this channel>``.

        Raises:
            InvalidName: *prefix* is not valid in a channel name, or too long.
            StoreError: the store could not be reached.
        """
        queue = minted_inbox(prefix, self._client)
        if self._desk.closed:
            raise closed_error()
        if self._backend.capabilities.leases and queue.name not in self._desk.inboxes:
            await self._on_host(lambda host: host.adopt(queue))
        return queue.name + secrets.token_urlsafe(LOCAL_LENGTH * 3 // 4)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; adding it again keeps one membership and makes it last from now.

        Args:
            group: the group's name.
            channel: any valid channel name, whoever reads it.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        name, member = GroupName.parse(group), self._courier.names.get(channel) or self._courier.channel(channel)
        await self._change(name, member, lambda: self._group_add(name, member))

    async def _group_add(self, group: GroupName, channel: ChannelName) -> None:
        for left in reversed(range(_JOIN_TRIES)):
            inbox = self._desk.inboxes.get(channel.queue.name)
            try:
                joined = await self._run(programs.group_add(self._routes, group, channel, owned=inbox is not None))
            except programs.NoOwner as exc:
                if inbox is None or not left:
                    raise StoreError(
                        f"the store keeps losing inbox {channel.queue}", retryable=True, outcome="unknown"
                    ) from exc
                await self._claim_again(inbox)
                continue
            if inbox is not None:
                with self._desk.lock:
                    self._desk.joined(inbox, group.name, channel.name, joined.version)
            return

    async def _claim_again(self, inbox: Inbox) -> None:
        await self._on_host(lambda host: host.ensure_claimed(inbox))

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, whoever added it; nothing happens if it is no member.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        name, member = GroupName.parse(group), self._courier.names.get(channel) or self._courier.channel(channel)
        await self._change(name, member, lambda: self._group_discard(name, member))

    async def _group_discard(self, group: GroupName, channel: ChannelName) -> None:
        version = await self._run(programs.group_discard(self._routes, group, channel))
        inbox = self._desk.inboxes.get(channel.queue.name)
        if inbox is not None:
            with self._desk.lock:
                self._desk.left(inbox, group.name, channel.name, version)

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group.

        It never raises `ChannelFull`: a member whose channel is full misses the message, which is counted.

        Args:
            group: the group's name.
            message: as for `send`.

        Raises:
            InvalidName: *group* is not a valid group name.
            InvalidMessage: *message* is not a valid message.
            MessageTooLarge: the encoded message is over ``max_message_size``.
            StoreError: the store could not be reached; some members may have got the message.
        """
        name = GroupName.parse(group)
        payload, for_channel = self._courier.for_group(message, name)
        turn = next(self._courier.turns)
        sent = await self._run(programs.group_send(self._routes, name, payload, turn, for_channel))
        self._courier.count_sent_to_group(sent)
        if sent.others and (self._reporter is None or not self._reporter.is_running()):
            self._report_soon()
        if self._is_due():
            await asyncio.sleep(0)

    async def group_channels(self, group: str) -> list[str]:
        """Return the full names of a group's members, sorted; members whose owner is dead are left out.

        Raises:
            InvalidName: *group* is not a valid group name.
            StoreError: the store could not be reached.
        """
        return await self._run(programs.group_channels(self._routes, GroupName.parse(group)))

    # -- messages that have a type, and subscriptions

    @overload
    def subscribe(self, group: str, /, *more: str) -> Subscription[Message]: ...
    @overload
    def subscribe(self, group1: Source[T1], group2: Source[T2], /) -> Subscription[T1 | T2]: ...
    @overload
    def subscribe(
        self, group1: Source[T1], group2: Source[T2], group3: Source[T3], /
    ) -> Subscription[T1 | T2 | T3]: ...
    @overload
    def subscribe(
        self, group1: Source[T1], group2: Source[T2], group3: Source[T3], group4: Source[T4], /
    ) -> Subscription[T1 | T2 | T3 | T4]: ...
    @overload
    def subscribe(self, group: Source[T1], /, *more: Source[T1]) -> Subscription[T1]: ...
    def subscribe(self, *groups: str | Source[object]) -> Subscription[object]:
        """Receive what is sent to some groups, from when it is entered to when it is left; see `Subscription`.

        Args:
            groups: names, whose messages are dicts, or groups of a type (`Group`).

        Returns:
            Messages, for ``async with``, or right in ``async for``. Nothing has been joined yet.

        Raises:
            InvalidName: a name is not a valid group name.
            SubscriptionError: no group is given, one twice with different types, or one that is bound to another layer.
        """
        sources = [Group(self, group) if isinstance(group, str) else group for group in groups]
        for source in sources:
            if source.layer is not self:
                raise SubscriptionError(f"{source!r} is bound to another layer: subscribe with that one")
        able = self._backend.capabilities
        every = None if self.group_expiry is None else self.group_expiry / _RENEWALS
        if not able.leases:  # with them, the process that owns a channel is who ends its memberships
            every = min(
                every or math.inf, GROUP_KEYS_LIFETIME / _RENEWALS, self.expiry / 2 if able.lapses else math.inf
            )
        return Subscription(
            Intake(
                new_channel=self.new_channel,
                group_add=self.group_add,
                group_discard=self.group_discard,
                receive=self._receive_first,
                keep=self._keep,
                let_go=self._let_go,
                reject=self.reject,
                renew_every=every,
            ),
            sources,
        )

    def reject(self, channel: str, problem: str) -> None:
        """Count a message that `receive` has returned as lost: it cannot be used (``invalid``).

        `Channel` and subscriptions do so by themselves. It is for who checks messages in another way.

        Args:
            channel: where it came from.
            problem: what is wrong with it, for the log; no more often than other losses.
        """
        with self._desk.lock:
            self._desk.ledger.delivered -= 1
            self._desk.ledger.drop("invalid", channel, cause=f"invalid on {channel}: {problem}")
        self._desk.tell()

    def _keep(self, channel: str) -> None:
        with self._desk.lock:
            self._place(self._courier.channel(channel))[1].kept = True

    def _let_go(self, channel: str, error: Exception) -> None:
        with self._desk.lock:
            _, box = self._place(self._courier.channel(channel))
            box.kept = False
            for waiter in box.dismiss():
                waiter.fail(error)

    def _place(self, name: ChannelName) -> tuple[Inbox | Tap, Mailbox]:
        """Return where the messages of a channel are waited for; under the lock."""
        source: Inbox | Tap = self._desk.inboxes.get(name.queue.name) or self._desk.tap(name.queue)
        return source, source.boxes.get(name.name) or source.box(name.name, self._clock.now())

    async def _receive_first(self, channels: Sequence[str]) -> tuple[str, Message]:
        """Wait for the next message of any of several channels, as `receive` does for one; the oldest comes first."""
        if len(channels) == 1:
            return channels[0], await self.receive(channels[0])
        names = [self._courier.channel(channel) for channel in channels]
        while True:
            await asyncio.sleep(0)  # so that who takes one after the other lets others run
            await self._ensure_host()
            if not (self._connects or asyncio.get_running_loop() in self._homes):
                await self._arrive()  # as in `receive`
            with self._desk.lock:
                if self._desk.closed:
                    raise closed_error()
                places = [self._place(name) for name in names]
                ready = [place for place in places if len(place[1].items) > place[1].promised]
                taken = self._take_oldest(ready, promised=False)
                waiters = [] if taken is not None else [self._wait_at(box) for _, box in places]
            if waiters:
                taken = await self._wait_at_any(places, waiters)
            if taken is None:
                continue
            (source, box), item = taken
            if isinstance(source, Inbox) and not item.group:
                self._give_back(source, box)
            if (message := self._courier.open(item, box.name)) is not None:
                return box.name, message

    async def _wait_at_any(
        self, places: Sequence[tuple[Inbox | Tap, Mailbox]], waiters: Sequence[Receiver]
    ) -> tuple[tuple[Inbox | Tap, Mailbox], Item] | None:
        """Wait until a message has been promised to one of the waiters, and take it; the others go."""
        left = dict(zip(waiters, places, strict=True))
        try:
            for source, _ in places:
                if isinstance(source, Tap):
                    self._poke(source)
            await self._wait_for_any(waiters)
            with self._desk.lock:
                for waiter in waiters:
                    if waiter.error is not None:
                        raise waiter.error
                oldest = min(
                    (waiter for waiter in waiters if waiter.done()),
                    key=lambda waiter: min((item.deadline for item in left[waiter][1].items), default=math.inf),
                )
                return self._take_oldest([left.pop(oldest)], promised=True)
        finally:
            for waiter, (source, box) in left.items():
                self._abandon(source, box, waiter)

    async def _wait_for_any(self, waiters: Sequence[Receiver]) -> None:
        """Wait until one is woken; see to it that somebody can: the loop that reads for all may wait for this one."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def note(_: Prompt) -> None:
            if not woken.done():
                woken.set_result(None)

        for waiter in waiters:
            waiter.add_done_callback(note)
        while not (await asyncio.wait((woken,), timeout=STILL_SECONDS))[0]:
            await self._ensure_pulse()

    async def _ensure_pulse(self) -> None:
        """Host somewhere else if the loop that does so stands still."""
        host = self._host
        if host is None or (not host.here and host.pulse.stopped and self._drop(host)):
            await self._ensure_host()

    def _take_oldest(
        self, places: Sequence[tuple[Inbox | Tap, Mailbox]], *, promised: bool
    ) -> tuple[tuple[Inbox | Tap, Mailbox], Item] | None:
        """Take the message that has waited longest; None if there is none; under the lock."""
        if not places:
            return None
        now = self._clock.now()
        source, box = min(places, key=lambda place: place[1].items[0].deadline if place[1].items else math.inf)
        item = source.take(box, now, promised=promised)
        return None if item is None else ((source, box), item)

    # -- the whole

    async def flush(self) -> None:
        """Remove every message and every membership of this prefix, on all hosts and in all processes.

        It returns when no process can deliver an older message any more: each has dropped what it held, or its lease
        has ended, which takes up to one and a half ``expiry`` for a process that was killed.

        Raises:
            StoreError: the store could not be reached.
        """
        generation = secrets.token_urlsafe(9)
        if self._desk.inboxes:
            await self._ensure_host()
        shards = self._routes.all_shards
        begun = await self._run(execute_all([c.Flush(shard, generation) for shard in shards]))
        self._courier.count_flushed(begun)
        left: dict[int, tuple[str, ...]] = {
            shard: flushing.inboxes for shard, flushing in zip(shards, begun, strict=True) if flushing.inboxes
        }
        pause = _FLUSH_POLL_FIRST
        while left:
            await asyncio.sleep(pause)
            pause = min(_FLUSH_POLL_MOST, pause * 2)
            if self._desk.inboxes:
                await self._ensure_pulse()
            still = await self._run(
                execute_all([c.Unflushed(shard, inboxes, generation) for shard, inboxes in left.items()])
            )
            left = {shard: some for shard, some in zip(tuple(left), still, strict=True) if some}

    async def statistics(self, channel: str | None = None) -> Statistics:
        """Return what all processes have counted, and what waits: of one channel, or of all.

        What this process has counted is in it, what others have counted in the last second may not be. Of all channels
        it looks through everything that the store holds, as `flush` does.

        Args:
            channel: a full channel name; None: all channels.

        Raises:
            InvalidName: *channel* is not a valid channel name.
            StoreError: the store could not be reached.
        """
        name = None if channel is None else self._courier.channel(channel)
        with self._desk.lock:
            inboxes = [each for each in self._desk.inboxes.values() if name is None or each.queue == name.queue]
        for inbox in inboxes:
            if inbox.owed or inbox.returning:
                await self._on_host(partial(_settle, inbox))
        await report(self._desk, self._run)
        found = await self._run(programs.statistics(self._routes, name))
        with self._desk.lock:
            age = max(self._desk.ages(inboxes, name), default=0.0)
        return replace(found, messages_max_age=max(age, found.messages_max_age or 0.0)) if age else found

    def counts(self) -> Counts:
        """Return what this layer object has counted in this process. It asks nobody, and never fails."""
        with self._desk.lock:
            return self._desk.ledger.counts(self._desk.count())

    async def tend(self) -> None:
        """Do at once what the background work does every so often, and return when it is done.

        It renews leases, drops what is too old and gives places back. Nobody has to call it, but for tests whose clock
        jumps: after a jump all is as if the time had passed.

        Raises:
            StoreError: the store could not be reached.
        """
        if self._host is not None:
            await self._on_host(lambda host: host.tend())

    @property
    def blocking(self) -> BlockingChannelLayer:
        """The same layer for threads without an event loop: WSGI views, Celery tasks, scripts. One object for all."""
        with self._hosting:
            if self._blocking is None:
                ensure, claim = self._host_for_threads, self._claim_for_threads
                background = Background(ensure, self._give_back, claim, self._is_host)
                self._blocking = BlockingChannelLayer(self._courier, self._backend, background)
            return self._blocking

    # -- the end

    async def close_pools(self) -> None:
        """Let go of this event loop's connections. The layer, its channels and its messages stay usable.

        Django Channels' users know the name from channels_redis. It is seldom needed: a loop that ends in good order
        lets go by itself.
        """
        home = self._homes.get(asyncio.get_running_loop())
        if home is not None:
            await home.leave()

    async def aclose(self) -> None:
        """End this layer object: its channels leave their groups, its inbox and its leases are given up.

        Receivers that wait get a `StoreError`, as does every later call. Unread messages of its own channels are
        counted as ``closed``. Closing twice is harmless.
        """
        desk = self._desk
        with desk.lock:
            if desk.closed:
                return
            desk.closed = True
            inboxes = list(desk.inboxes.values())
            boxes = [box for inbox in inboxes for box in inbox.boxes.values()]
            boxes += [box for tap in desk.taps.values() for box in tap.boxes.values()]
            for box in boxes:
                for waiter in box.dismiss():
                    waiter.fail(closed_error())
            watchers = [watcher for queue in list(desk.watchers) for watcher in desk.watching(queue)]
        for watcher in watchers:
            watcher.wake()
        try:
            if inboxes:
                with contextlib.suppress(StoreError):  # the leases end by themselves
                    await self._give_up(inboxes)
            if self._blocking is not None:
                claims = self._blocking.let_go()
                with contextlib.suppress(StoreError):  # they end by themselves
                    if claims:
                        await self._run(execute_all(claims), closing=True)
        finally:
            await self._stop_host()
            with contextlib.suppress(StoreError):  # it waits here for another process, or expires
                await self._rescue_all()
            with desk.lock:
                for tap in desk.taps.values():
                    for box in tap.boxes.values():
                        desk.ledger.drop("closed", box.name, box.clear())
            await self._leave_everywhere()

    async def __aenter__(self) -> Self:
        """Return the layer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    async def _give_up(self, inboxes: Iterable[Inbox]) -> None:
        desk = self._desk
        for inbox in inboxes:
            with desk.lock:
                members = inbox.memberships()
            leaves = [
                programs.group_discard(self._routes, GroupName.parse(group), ChannelName.parse(member))
                for group, member, _ in members
            ]
            for start in range(0, len(leaves), _REMEMBERED):
                some = leaves[start : start + _REMEMBERED]
                await asyncio.gather(*(self._run(leave, closing=True) for leave in some))
            waiting = await self._run(execute_all([c.Release(inbox.shard, inbox.queue)]), closing=True)
            with desk.lock:
                inbox.empty("closed")
                inbox.disband()
                if waiting[0]:
                    desk.ledger.drop("closed", inbox.queue.name, waiting[0])

    # -- receiving

    def _wait_at(self, box: Mailbox) -> Receiver:
        """Join those who wait for a mailbox, in the running loop; under the lock.

        Raises:
            StoreError: the layer has been closed: nobody would come to wake him.
        """
        if self._desk.closed:
            raise closed_error()
        loop = asyncio.get_running_loop()
        waiter = Receiver(loop)
        box.waiters.append(waiter)
        return waiter

    def _give_back(self, inbox: Inbox, box: Mailbox) -> None:
        """See to it that the store hears of the place of a message that was taken."""
        host = self._host
        if host is None:
            return  # the next one begins with it
        soon = inbox.urgent(box)
        if not host.giving(inbox, soon=soon):
            if host.here:
                host.give_back(inbox, soon=soon)
            else:
                host.post(lambda: host.give_back(inbox, soon=soon))

    def _poke(self, tap: Tap) -> None:
        """Receivers of a tap have come or gone."""
        host = self._host
        if host is None:
            return  # the next one begins with it
        if host.here:
            host.pump(tap)
        else:
            host.post(lambda: host.pump(tap))

    def _abandon(self, source: Inbox | Tap, box: Mailbox, waiter: Receiver) -> None:
        """A receiver goes without its message: call the next one."""
        with self._desk.lock:
            others = source.abandon(box, waiter) if waiter.error is None else []
            if len(box.items) > box.promised:
                others += self._desk.watching(source.queue.name)
            box.used_at = self._clock.now()
        for other in others:
            other.wake()
        if isinstance(source, Tap) and (host := self._host) is not None:
            host.post(lambda: host.pump(source))

    # -- what the store is told of, now and then

    def _report_soon(self) -> None:
        """Something was counted, and nobody is about to tell the store."""
        home = self._homes.get(asyncio.get_running_loop()) or self._io_home
        if home is None:
            return  # this loop has said its farewell meanwhile, and with it the store was told
        self._reporter = home.loop
        with contextlib.suppress(RuntimeError):  # closed just now: the next one who counts sees that
            home.loop.call_soon_threadsafe(home.loop.call_later, REPORT_SECONDS, self._report_from, home)

    def _report_from(self, home: Home) -> None:
        self._reporter = None
        if self._desk.ledger.tally:
            self._keep_track(home.loop.create_task(report(self._desk, partial(_drive, home))))

    # -- which loop carries what

    async def _run(self, program: Operation[R], *, closing: bool = False) -> R:
        """Drive a program in this loop if it has a home of its own; else in the I/O thread.

        Args:
            program: what to do.
            closing: it belongs to the end of this layer.
        """
        if self._desk.closed and not closing:
            program.close()
            raise closed_error()
        loop = asyncio.get_running_loop()
        home = self._homes.get(loop)
        if home is None:
            if self._connects and (guest := self._guest(loop)).young:
                return await guest.run(program, self._io_store)
            home = await self._settle_in(loop)
        return await run(program, home.store)

    async def _arrive(self) -> Home | None:
        """Return the home in the running loop, a new one if it is one that lives; None if that is not known yet."""
        loop = asyncio.get_running_loop()
        if (home := self._homes.get(loop)) is not None:
            return home
        return None if self._connects and self._guest(loop).young else await self._settle_in(loop)

    async def _settle_in(self, loop: asyncio.AbstractEventLoop) -> Home:
        if (guest := self._seen.get(loop)) is not None:
            await guest.settle()
            if (home := self._homes.get(loop)) is not None:  # made meanwhile
                return home
        for closed in [each for each in self._homes if each.is_closed()]:
            self._homes.pop(closed, None)
        home = Home(self._backend.open(), self._farewell)
        self._homes[loop] = home
        await home.arrive()
        return home

    async def _io_store(self) -> Store:
        return (await self._io()).store

    async def _io(self) -> Home:
        """Return the home in the I/O thread."""
        home = self._io_home
        if home is None or home.loop.is_closed():
            home = await io_thread().run(self._arrive_in_thread())
        return home

    async def _arrive_in_thread(self) -> Home:
        if self._io_home is None or self._io_home.loop.is_closed():
            self._io_home = Home(self._backend.open(), self._farewell)
            await self._io_home.arrive()
        return self._io_home

    async def _farewell(self, home: Home) -> None:
        """A loop ends, or lets go of its connections."""
        self._homes.pop(home.loop, None)
        in_thread = self._io_home is home
        if in_thread:
            self._io_home = None
        host = self._host
        if host is not None and host.home is home:
            await host.stop()
            with self._hosting:
                if self._host is host:
                    self._host = None
        if self._host is None and not in_thread:  # else the process ends
            self._host_elsewhere()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_LAST_WORD_SECONDS, self._rules.timeout)):
                await report(self._desk, partial(_drive, home))
        await home.store.aclose()

    # -- who hosts the background work

    def _should_move(self, host: Host) -> bool:
        """Whether the background work should come into the running loop: it lives, and the work is in the thread."""
        home = self._io_home
        return home is not None and host.home is home and not self._moving and self._settled()

    def _settled(self) -> bool:
        loop = asyncio.get_running_loop()
        return loop in self._homes or not self._guest(loop).young

    def _guest(self, loop: asyncio.AbstractEventLoop) -> Guest:
        """Return what is known of the running loop."""
        return self._seen.get(loop) or self._seen.setdefault(loop, Guest())

    async def _ensure_host(self) -> Host:
        """Return the host; begin one if there is none, and move it here from the thread if this loop lives."""
        while True:
            host = self._host
            if host is not None and host.home.loop.is_running():
                if self._should_move(host):
                    home = await self._arrive()
                    if home is not None:
                        self._keep_track(home.loop.create_task(self._move(host, home)))
                return host
            home = await self._arrive()
            if home is not None:
                self._start_host(home)
            else:
                io_home = await self._io()
                await io_thread().run(self._start_host_here(io_home))

    def _start_host(self, home: Home) -> None:
        """Begin to host in the running loop, unless somebody does already."""
        with self._hosting:
            host = self._host
            if self._desk.closed:
                raise closed_error()
            if host is not None and not host.home.loop.is_running():
                host.retire()  # its loop is closed, or waits for its program to go on
                host = None
            if host is None:
                self._host = host = Host(self._desk, home, alone=not self._connects)
                host.start()

    async def _start_host_here(self, home: Home) -> None:
        self._start_host(home)

    async def _move(self, old: Host, home: Home) -> None:
        """Take the background work over from the I/O thread."""
        if self._moving:
            return
        self._moving = True
        try:
            await io_thread().run(old.stop())
            with self._hosting:
                if self._host is old and not home.loop.is_closed() and home.loop in self._homes:
                    self._host = Host(self._desk, home, alone=not self._connects)
                    self._host.start()
        finally:
            self._moving = False
            if self._drop(old):  # this loop ended meanwhile
                self._host_elsewhere()

    def _drop(self, host: Host) -> bool:
        """Let a host of another loop do nothing any more, whether it has been told to end or not; False if it has gone.

        Else it would go on beside the next one, and both would hand over the same messages.
        """
        with self._hosting:
            if self._host is not host:
                return False
            host.retire()
            self._host = None
            return True

    def _host_elsewhere(self) -> None:
        """The host's loop has ended: go on in another one, if there is anything to do."""
        if self._desk.closed or not (self._desk.inboxes or self._desk.taps):
            return
        if self._backend.connects:
            asyncio.run_coroutine_threadsafe(self._host_in_thread(), io_thread().loop)
            return
        for home in sorted(self._homes.values(), key=lambda home: not home.loop.is_running()):
            with contextlib.suppress(RuntimeError):  # it is closed
                home.loop.call_soon_threadsafe(self._start_host_if_home, home)
                return

    def _start_host_if_home(self, home: Home) -> None:
        """Begin to host in the running loop, unless it has said its farewell since it was asked to."""
        with contextlib.suppress(StoreError):  # closed meanwhile
            if self._homes.get(home.loop) is home:
                self._start_host(home)
            elif self._host is None:
                self._host_elsewhere()

    async def _host_in_thread(self) -> None:
        with contextlib.suppress(StoreError):  # closed meanwhile
            self._start_host(await self._arrive_in_thread())

    async def _on_host(self, work: Callable[[Host], Coroutine[object, object, R]]) -> R:
        """Await *work* in the host's loop, and in the next one's too if the host changes meanwhile.

        Args:
            work: something that may be done twice.
        """
        while True:
            if self._desk.closed:
                raise closed_error()
            host = await self._ensure_host()
            try:
                if host.here:
                    result = await work(host)
                else:
                    result = await run_in(host.home.loop, partial(work, host))
            except LoopStopped:
                self._drop(host)
                continue
            except StoreError:
                if self._host is host:
                    raise
                continue  # its loop has let go of its connections meanwhile
            if self._host is host:
                return result
            # Else the work has moved meanwhile; doing it again there is harmless.

    # -- threads, for `BlockingChannelLayer`

    def _is_host(self) -> bool:
        """Whether the background work is done in the event loop of this very thread, which stands still meanwhile."""
        host = self._host
        return host is not None and host.here

    def _host_for_threads(self) -> Future[None] | None:
        """See to it that somebody does the background work; return what to wait for if that takes a while."""
        host = self._host
        if host is not None and host.home.loop.is_running():
            return None
        return asyncio.run_coroutine_threadsafe(self._host_in_thread(), io_thread().loop)

    def _claim_for_threads(self, inbox: Inbox) -> Future[None]:
        """Claim an inbox again whose lease is gone; return what to wait for."""
        host = self._host
        loop = io_thread().loop if host is None else host.home.loop
        return asyncio.run_coroutine_threadsafe(self._claim_again(inbox), loop)

    async def _stop_host(self) -> None:
        with self._hosting:
            host, self._host = self._host, None
        if host is None:
            return
        if host.here:
            await host.stop()
        else:
            with contextlib.suppress(LoopStopped):
                await run_in(host.home.loop, host.stop)
            host.retire()

    async def _leave_everywhere(self) -> None:
        """Let go of all connections in all loops."""
        homes = [*self._homes.values(), *([self._io_home] if self._io_home is not None else [])]
        for home in homes:
            if home.loop.is_closed():
                self._homes.pop(home.loop, None)
            elif home.loop is asyncio.get_running_loop():
                await home.leave()
            else:
                with contextlib.suppress(LoopStopped):
                    await run_in(home.loop, home.leave)

    # -- calls that must not stop half way

    async def _change(
        self, group: GroupName, channel: ChannelName, work: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Await a change of a group; if the caller is cancelled, it goes on in the background.

        It takes two steps where the group and the inbox are on different hosts. A later change of the same member waits
        for one that goes on so: else a `group_discard` could return before a cancelled `group_add` has begun.
        """
        if len(self._routes.ring) == 1:
            await work()
            if self._is_due():
                await asyncio.sleep(0)
            return
        key = (group.name, channel.name)
        task = asyncio.get_running_loop().create_task(_after(self._abandoned.get(key), work))
        self._keep_track(task)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned[key] = task
                task.add_done_callback(lambda _: self._abandoned.get(key) is task and self._abandoned.pop(key))
            raise

    def _keep_track(self, task: asyncio.Task[R]) -> None:
        """Hold on to a task: an event loop does not."""
        self._loose.add(task)
        task.add_done_callback(self._loose.discard)

    def after_fork(self) -> None:
        """Start anew in a child process; called there by itself.

        What the parent holds is kept alive unused: closing it would disturb him.
        """
        _parents.append((self._homes, self._io_home, self._host, self._loose, self._desk))
        self._backend.forked()
        self._courier.begin()
        self._begin()
        if self._blocking is not None:
            self._blocking.forked()


_parents: list[object] = []


async def _after(before: asyncio.Task[None] | None, work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Await *work* when the task *before* has ended, however; one in another event loop is not waited for."""
    if before is not None and before.get_loop() is asyncio.get_running_loop():
        await asyncio.wait([before])
    await work()


async def _settle(inbox: Inbox, host: Host) -> None:
    await host.settle(inbox)


async def _drive(home: Home, program: Operation[R]) -> R:
    return await run(program, home.store)


def _make(layer: Callable[..., L], options: Mapping[str, object]) -> L:
    """Make a layer of options that are known to be its own, which no type checker can know of a subclass."""
    return layer(**options)


def _after_fork() -> None:
    for layer in list(_layers):
        layer.after_fork()


os.register_at_fork(after_in_child=_after_fork)
