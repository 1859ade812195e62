"""The channel layer as asyncio programs use it: the Channels 4 contract over any store.

A facade: it parses what it is given, and hands over to the operations and to what runs. Cancelling any call at any
await loses no message.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import secrets
import threading
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeVar, overload

from channel_layer import operations
from channel_layer.blocking import BlockingChannelLayer
from channel_layer.config import options_from_url
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME
from channel_layer.domain.names import LOCAL_LENGTH, GroupName, owned_inbox
from channel_layer.errors import ChannelFull, MessageTooLarge, SubscriptionError
from channel_layer.operations.receiving import closed_error
from channel_layer.runtime.drivers import run
from channel_layer.runtime.event_loops import SystemClock
from channel_layer.runtime.lifetime import LayerLifetime
from channel_layer.runtime.receivers import Receivers
from channel_layer.runtime.reporting import log_losses, warn
from channel_layer.subscription import Intake, Source, Subscription
from channel_layer.typed import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from channel_layer.config import CommonConfig
    from channel_layer.domain.codec import Message
    from channel_layer.domain.counters import Counts, Statistics
    from channel_layer.domain.names import ChannelName
    from channel_layer.domain.rules import Rules
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation
    from channel_layer.options import ChannelPattern
    from channel_layer.ports import Backend, Clock

__all__ = ("ChannelLayer",)

L = TypeVar("L")
R = TypeVar("R")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")

_CALLS_BEFORE_YIELD = 64
"""Calls of one layer that may be made without letting the event loop run: a store in memory, and a mailbox that holds
messages, never wait for anything."""

_RENEWALS = 3
"""How often a subscription renews its memberships in the time that they last: two may fail."""


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
            checked without a layer being made; None: they are not known beforehand.
    """

    config: ClassVar[type[CommonConfig] | None] = None
    extensions: Final = ("groups", "flush", "statistics")
    ChannelFull: Final = ChannelFull
    MessageTooLarge: Final = MessageTooLarge

    def __init__(self, rules: Rules, backend: Backend, *, clock: Clock | None = None) -> None:
        self._rules = rules
        self._lifetime = LayerLifetime(rules, backend, clock if clock is not None else SystemClock())
        self._pipeline = self._lifetime.pipeline
        self._backend = self._lifetime.backend
        self._connects = self._backend.connects
        self._blocking: BlockingChannelLayer | None = None
        self._begin()
        self._lifetime.add(self)

    def _begin(self) -> None:
        self._lifetime.begin()
        self.begin()

    def begin(self) -> None:
        """Use what belongs to this process; called again in a child after a fork, by itself."""
        resources = self._lifetime.resources
        self._state = resources.state
        self._client = secrets.token_urlsafe(12)
        self._sessions = resources.sessions
        self._background = resources.background
        self._reporter = resources.reporter
        self._member_changes = resources.member_changes
        self._receivers = Receivers(self._pipeline, self._sessions, self._background, connects=self._connects)
        self._making_blocking = threading.Lock()
        self._is_due: Callable[[], bool] = itertools.cycle((*[False] * (_CALLS_BEFORE_YIELD - 1), True)).__next__
        """Count a call; whether it is time to let other tasks run."""

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
            ChannelFull: the channel is full, or its store has no room. Nothing was sent.
            NoLocalReader: no process on this machine receives from it, and ``no_local_reader`` is ``"error"``.
            StoreError: the store could not be reached, or did not answer within ``timeout`` seconds.
        """
        pipeline = self._pipeline
        name = pipeline.channel(channel)
        payload = pipeline.for_channel(message, name)
        sent = await self._run(operations.send(self._state, name, payload, next(pipeline.turns)))
        self._reporter.note()
        if sent.expired:
            log_losses(self._state)
        if self._is_due() or not sent.accepted:  # which may be tried again at once
            await asyncio.sleep(0)
        if not sent.accepted:
            raise pipeline.full_error(name, sent.no_room)

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel and return it.

        Several tasks may wait for one channel; each message goes to one of them. Cancelling loses nothing.

        Args:
            channel: a full channel name: one that this layer object made with `new_channel`, in any of its loops; a
                normal channel such as ``http.request``; a single-reader channel; or a channel of an inbox that no
                process owns, which this process then claims.

        Raises:
            InvalidName: *channel* is not a valid channel name, or belongs to another process that is alive.
            StoreError: the layer is closed, or the store refuses to serve it. While a store is away, this waits.
        """
        name = self._pipeline.channel(channel)
        if self._is_due():
            await asyncio.sleep(0)
        message = self._receivers.take(name)  # a second coroutine would make what is here a good deal slower
        return message if message is not None else await self._receivers.receive(name)

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
        queue = owned_inbox(prefix, self._client)
        if self._state.closed:
            raise closed_error()
        if self._backend.capabilities.leases and queue.name not in self._state.inboxes:
            await self._background.call(lambda work: work.adopt(queue))
        return queue.name + secrets.token_urlsafe(LOCAL_LENGTH * 3 // 4)

    # -- groups

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; adding it again keeps one membership and makes it last from now.

        Args:
            group: the group's name.
            channel: any valid channel name, of this process or not.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        await self._change(GroupName.parse(group), self._pipeline.channel(channel), operations.group_add)

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, also one that another process added; without effect if it is no member.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        await self._change(GroupName.parse(group), self._pipeline.channel(channel), operations.group_discard)

    async def _change(
        self,
        group: GroupName,
        channel: ChannelName,
        change: Callable[[LayerState, GroupName, ChannelName], Operation[None]],
    ) -> None:
        if len(self._pipeline.routes.ring) == 1:  # where it is one step
            await self._run(change(self._state, group, channel))
            if self._is_due():
                await asyncio.sleep(0)
        else:
            await self._member_changes.make(group, channel, lambda: self._run(change(self._state, group, channel)))

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group.

        It never raises `ChannelFull`: a member whose channel is full misses the message, and the loss is counted.

        Args:
            group: the group's name.
            message: as for `send`.

        Raises:
            InvalidName: *group* is not a valid group name.
            InvalidMessage: *message* is not a valid message.
            MessageTooLarge: the encoded message is over ``max_message_size``.
            StoreError: the store could not be reached; some members may have got the message.
        """
        pipeline, name = self._pipeline, GroupName.parse(group)
        payload, for_channel = pipeline.for_group(message, name)
        sent = await self._run(operations.group_send(self._state, name, payload, next(pipeline.turns), for_channel))
        log_losses(self._state)
        if sent.others:
            self._reporter.note()
        if self._is_due():
            await asyncio.sleep(0)

    async def group_channels(self, group: str) -> list[str]:
        """Return the full names of a group's members, sorted; members whose owner is dead are left out.

        Raises:
            InvalidName: *group* is not a valid group name.
            StoreError: the store could not be reached.
        """
        return await self._run(operations.group_channels(self._pipeline.routes, GroupName.parse(group)))

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
                every or math.inf, GROUP_KEYS_LIFETIME / _RENEWALS, self.expiry / 2 if able.tracks_unread else math.inf
            )
        return Subscription(
            Intake(
                new_channel=self.new_channel,
                group_add=self.group_add,
                group_discard=self.group_discard,
                receive=self._receivers.receive_first,
                keep=self._receivers.keep,
                let_go=self._receivers.let_go,
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
        self._receivers.reject(channel, problem)

    # -- the whole

    async def ready(self) -> None:
        """Return if the layer can serve: for the probes of an orchestrator, and before a process begins its work.

        It connects if need be. Every host has to be a primary of a version that is supported, and to let this user send
        and receive a message, join and leave a group, and own an inbox; the inbox of this process has to be its own.
        Nothing of it is seen by receivers or counted. It takes one to three round trips to each host.

        Raises:
            StoreError: it cannot; the text says why, and ``retryable`` whether that may pass by itself.
        """
        await self._run(operations.check_readiness(self._state, leases=self._backend.capabilities.leases))

    async def flush(self) -> None:
        """Remove every message and every membership of this prefix, on all hosts and in all processes.

        It returns when no process can deliver an older message any more: each has dropped what it held, or its lease
        has ended. After ``timeout`` seconds it returns all the same, and logs how many have not answered; one that was
        killed is not waited for again.

        Raises:
            StoreError: the store could not be reached.
        """
        warn(await self._run(operations.flush(self._state, secrets.token_urlsafe(9))))

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
        name = None if channel is None else self._pipeline.channel(channel)
        return await self._run(operations.read_statistics(self._state, name))

    def counts(self) -> Counts:
        """Return what this layer object has counted in this process. No I/O; it never fails."""
        with self._state.lock:
            return self._state.counters.counts(self._state.waiting())

    async def run_maintenance(self) -> None:
        """Do the periodic background work now, and return when it is done.

        It renews leases, drops messages that are too old and returns credits. Only tests that move the clock need it:
        afterwards everything is as if the time had passed.

        Raises:
            StoreError: the store could not be reached.
        """
        if self._background.work is not None:
            await self._background.call(lambda work: work.run_maintenance())

    @property
    def blocking(self) -> BlockingChannelLayer:
        """The same layer for threads without an event loop: WSGI views, Celery tasks, scripts. One object for all."""
        with self._making_blocking:
            if self._blocking is None:
                self._blocking = BlockingChannelLayer(self._lifetime)
            return self._blocking

    # -- the end

    async def close_pools(self) -> None:
        """Let go of this event loop's connections. The layer, its channels and its messages stay usable.

        Django Channels' users know the name from channels_redis. It is seldom needed: a loop that ends in good order
        lets go by itself.
        """
        session = self._sessions.by_loop.get(asyncio.get_running_loop())
        if session is not None:
            await session.close()

    async def aclose(self) -> None:
        """End this layer object: its channels leave their groups, its inbox and its leases are given up.

        Receivers that wait get a `StoreError`, as does every later call. Unread messages of its own channels are
        counted as ``closed``; those of other channels go to other processes. Closing twice is harmless.
        """
        await self._lifetime.close()

    async def __aenter__(self) -> Self:
        """Return the layer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    # -- where operations run

    async def _run(self, operation: Operation[R]) -> R:
        """Run an operation in the event loop that carries the calls of the running one.

        Raises:
            StoreError: the layer is closed.
        """
        if self._state.closed:
            operation.close()
            raise closed_error()
        session = self._sessions.by_loop.get(asyncio.get_running_loop())
        if session is None:
            return await self._sessions.run(operation, self._background.perform)
        return await run(operation, session.store, self._background.perform)


def _make(layer: Callable[..., L], options: Mapping[str, object]) -> L:
    """Make a layer of options that are known to be its own, which no type checker can know of a subclass."""
    return layer(**options)
