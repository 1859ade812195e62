"""The channel layer as threads use it: the whole contract of ASGI 1, and the senders of Channels, over any store.

The sibling of `channel_layer.layer`: programs and rules are the same, the driver is another one. It has no event loop
and starts no thread; only what a process owns, the inboxes of `new_channel` in asynchronous code, has background work.

Source: the ASGI channel layer specification, version 1.1, "Channel Layers" and "Extensions".
"""

from __future__ import annotations

import contextlib
import itertools
import random
import secrets
import threading
import time
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import commands as c
from channel_layer.domain import frames as envelope
from channel_layer.domain.expiry import ATTENDANCE, deadline
from channel_layer.domain.inbox import Item
from channel_layer.domain.names import LOCAL_LENGTH, MAX_NAME_LENGTH, ChannelName, GroupName, Kind, Queue
from channel_layer.errors import ChannelFull, InvalidName, MessageTooLarge, StoreError
from channel_layer.operations import programs
from channel_layer.operations.steps import execute_all
from channel_layer.runtime.background import REPORT_SECONDS, claimed_error, closed_error, foreign_error
from channel_layer.runtime.drivers import run_blocking
from channel_layer.runtime.threads import Alarm, await_any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future
    from types import TracebackType
    from typing import Self

    from channel_layer.domain.frames import Message
    from channel_layer.domain.inbox import Inbox, Mailbox, Tap
    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Backend, BlockingStore, Waiting
    from channel_layer.runtime.background import Desk
    from channel_layer.runtime.pipeline import Courier

__all__ = ("Background", "BlockingChannelLayer")

R = TypeVar("R")
T = TypeVar("T")

_BLOCK_SECONDS = 25.0
"""How long one wait lasts at most: as in `channel_layer.runtime.background`."""

_BACKOFF_FIRST, _BACKOFF_MOST = 0.02, 1.0
"""Seconds between tries to reach a shard that is away; jittered, doubled up to the most."""

_FLUSH_POLL_FIRST, _FLUSH_POLL_MOST = 0.002, 0.1
"""Seconds between looks at who has acknowledged a flush."""

_JOIN_TRIES = 5
"""How often a group_add has its own inbox claimed again when the store loses it at that very moment."""

_LISTS_REMEMBERED = 1024
"""Lists of channels for which it is known where the next receive() begins to look."""


@dataclass(frozen=True, slots=True)
class Background:
    """What the asynchronous half of a layer object does for this one, all of it from any thread.

    Attributes:
        ensure: see to it that inboxes are read and leases kept, by whomever; returns what to wait for, or None.
        give_back: see to it that the store hears of the place of a message that was taken.
        claim: claim an inbox again whose lease is gone; returns what to wait for.
        here: whether this work is done in an event loop of this very thread, and so stands still while it waits.
    """

    ensure: Callable[[], Future[None] | None]
    give_back: Callable[[Inbox, Mailbox], None]
    claim: Callable[[Inbox], Future[None]]
    here: Callable[[], bool]


class BlockingChannelLayer:
    """Named channels and groups between processes, for code without an event loop: the view `ChannelLayer.blocking`.

    It has the same rules, queues and groups as the layer that it belongs to, and any number of threads may use it at
    once. After a fork it starts anew in the child. A call waits for the store, and `receive`, if it is told to, for
    messages. Called in the thread of an event loop it holds that up for as long; nothing worse happens.

    Made by `ChannelLayer.blocking`.

    Args:
        courier: the rules, and what the layer holds in this process.
        backend: the store.
        background: what the asynchronous half does for it.

    Attributes:
        extensions: the optional parts of the specification that are there: ``groups``, ``flush`` and ``statistics``.
        ChannelFull: raised by `send` when a channel is full.
        MessageTooLarge: raised by `send` and `group_send` for a message over ``max_message_size``.
    """

    extensions: Final = ("groups", "flush", "statistics")
    ChannelFull: Final = ChannelFull
    MessageTooLarge: Final = MessageTooLarge

    def __init__(self, courier: Courier, backend: Backend, background: Background) -> None:
        self._courier = courier
        self._backend = backend
        self._background = background
        self.forked()

    def forked(self) -> None:
        """Start anew in a child process; called there by itself."""
        self._opening = threading.Lock()
        self._store: BlockingStore | None = None
        self._memory = _Memory()
        self._report_at: float | None = None
        """When the store is to be told what was counted; None: nothing was since it was told."""

    # -- configuration

    @property
    def expiry(self) -> float:
        """Seconds that a message may wait unread."""
        return self._courier.rules.expiry

    @property
    def group_expiry(self) -> float | None:
        """Seconds that a membership lasts after the last `group_add`; None: as long as its owner lives."""
        return self._courier.rules.group_expiry

    @property
    def capacity(self) -> int:
        """Unread messages that a channel may hold, unless a pattern of ``channel_capacity`` says otherwise."""
        return self._courier.rules.default_capacity

    # -- messages

    def send(self, channel: str, message: Mapping[str, object]) -> None:
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
        inbox = courier.desk.inboxes.get(name.queue.name)
        known = inbox.returned if inbox is not None else 0
        sent = self._run(programs.send(courier.routes, name, payload, next(courier.turns)))
        if sent.stranded:
            courier.desk.rescued(name.queue, self._run(programs.rescue(courier.routes, name.queue)))
            sent = self._run(programs.send(courier.routes, name, payload, next(courier.turns), pass_stranded=True))
        if not sent.accepted and inbox is not None and (inbox.owed or inbox.returned != known or inbox.returning):
            # Our own inbox, and the store did not know of places in it that are free, or have become free since.
            self._settle(inbox)
            sent = self._run(programs.send(courier.routes, name, payload, next(courier.turns)))
        try:
            courier.count_sent(name, sent)
        finally:
            self._report_in_time()

    def receive(
        self,
        channels: Iterable[str],
        block: bool = False,  # noqa: FBT001, FBT002 - the specification calls it so
        *,
        block_timeout: float = 5.0,
    ) -> tuple[str, Message] | tuple[None, None]:
        """Return the next message of any of several channels, and the channel that it came to.

        Every call begins to look at another of them, so that a busy one keeps nobody from a quiet one. Each message
        goes to one receiver. Interrupting it loses nothing.

        Args:
            channels: normal channels such as ``http.request``; single-reader channels; and inboxes such as
                ``daphne.host1!``, which stand for all channels that begin so: the oldest message of any is returned,
                with the full name of its channel. An inbox that no process has minted is claimed by whoever receives
                from it, until `close` or for one and a half ``expiry``.
            block: wait for a message if there is none.
            block_timeout: seconds to wait at most.

        Returns:
            The full name of a channel and its message; or ``(None, None)`` if there is none.

        Raises:
            InvalidName: a name is not valid, or belongs to another process that is alive. The name of a channel in an
                inbox cannot be received; the inbox can.
            StoreError: the layer is closed; the store refuses to serve it; or it is away, and *block* is False. A
                receiver that waits goes on waiting then.
        """
        queues, store = _parse(channels), self._open()
        receipt = _Receipt(queues, self._courier, store, self._background, self._memory)
        try:
            return receipt.run(block_timeout if block else None)
        except StoreError as exc:
            self._check_open(exc)
            raise

    def receive_many(
        self,
        channels: Iterable[str],
        block: bool = False,  # noqa: FBT001, FBT002 - the specification calls it so
    ) -> tuple[str, Message] | tuple[None, None]:
        """Receive: the name that this method had before version 1.0 of the specification. Deprecated."""
        warnings.warn("receive_many() is deprecated: call receive()", DeprecationWarning, stacklevel=2)
        return self.receive(channels, block)

    def new_channel(self, pattern: str) -> str:
        """Make the name of a channel that nobody else has: to be sent along, and received by who made it.

        Args:
            pattern: what it begins with, up to and including a question mark: ``http.response?``.

        Returns:
            A name that no other channel has or will have.

        Raises:
            InvalidName: *pattern* does not end in ``?``, is not valid in a channel name, or is too long.
        """
        return ChannelName.parse(_parse_pattern(pattern) + secrets.token_urlsafe(LOCAL_LENGTH * 3 // 4)).name

    # -- groups

    def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group; adding it again keeps one membership and makes it last from now.

        Args:
            group: the group's name.
            channel: any valid channel name, whoever reads it, or nobody.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        courier = self._courier
        name, member = GroupName.parse(group), courier.names.get(channel) or courier.channel(channel)
        for left in reversed(range(_JOIN_TRIES)):
            desk = courier.desk
            inbox = desk.inboxes.get(member.queue.name)
            try:
                joined = self._run(programs.group_add(courier.routes, name, member, owned=inbox is not None))
            except programs.NoOwner as exc:
                if inbox is None or not left or self._background.here():
                    raise StoreError(
                        f"the store has lost inbox {member.queue}", retryable=True, outcome="unknown"
                    ) from exc
                self._claim_again(inbox)
                continue
            if inbox is not None:
                with desk.lock:
                    desk.joined(inbox, name.name, member.name, joined.version)
            return

    def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, whoever added it; nothing happens if it is no member.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        courier = self._courier
        name, member = GroupName.parse(group), courier.names.get(channel) or courier.channel(channel)
        version = self._run(programs.group_discard(courier.routes, name, member))
        desk = courier.desk
        inbox = desk.inboxes.get(member.queue.name)
        if inbox is not None:
            with desk.lock:
                desk.left(inbox, name.name, member.name, version)

    def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group.

        It never raises `ChannelFull`: a member whose channel is full misses the message, which is counted. What it
        costs depends on the number of processes that own members, not on the number of members.

        Args:
            group: the group's name.
            message: as for `send`.

        Raises:
            InvalidName: *group* is not a valid group name.
            InvalidMessage: *message* is not a valid message.
            MessageTooLarge: the encoded message is over ``max_message_size``.
            StoreError: the store could not be reached; some members may have got the message.
        """
        courier = self._courier
        name = GroupName.parse(group)
        payload, for_channel = courier.for_group(message, name)
        sent = self._run(programs.group_send(courier.routes, name, payload, next(courier.turns), for_channel))
        courier.count_sent_to_group(sent)
        if sent.others:
            self._report_in_time()

    def send_group(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group: what the specification calls `group_send`."""
        self.group_send(group, message)

    def group_channels(self, group: str) -> list[str]:
        """Return the full names of a group's members, sorted; members whose owner is dead are left out.

        Raises:
            InvalidName: *group* is not a valid group name.
            StoreError: the store could not be reached.
        """
        return self._run(programs.group_channels(self._courier.routes, GroupName.parse(group)))

    # -- the whole

    def flush(self) -> None:
        """Remove every message and every membership of this prefix, on all hosts and in all processes.

        It returns when no process can deliver an older message any more: each has dropped what it held, or its lease
        has ended, which takes up to one and a half ``expiry`` for a process that was killed. In the event loop that
        reads this layer's own inboxes it waits for all processes but this one, whose turn comes when it returns.

        Raises:
            StoreError: the store could not be reached.
        """
        courier, generation = self._courier, secrets.token_urlsafe(9)
        desk = courier.desk
        own: frozenset[str] = frozenset()
        if desk.inboxes:
            self._background.ensure()
            if self._background.here():
                own = frozenset(desk.inboxes)
        shards = courier.routes.all_shards
        begun = self._run(execute_all([c.Flush(shard, generation) for shard in shards]))
        courier.count_flushed(begun)
        left: dict[int, tuple[str, ...]] = {
            shard: inboxes
            for shard, flushing in zip(shards, begun, strict=True)
            if (inboxes := tuple(inbox for inbox in flushing.inboxes if inbox not in own))
        }
        pause = _FLUSH_POLL_FIRST
        while left:
            time.sleep(pause)
            pause = min(_FLUSH_POLL_MOST, pause * 2)
            still = self._run(execute_all([c.Unflushed(shard, some, generation) for shard, some in left.items()]))
            left = {shard: some for shard, some in zip(tuple(left), still, strict=True) if some}

    # -- statistics

    def global_statistics(self) -> dict[str, float]:
        """Return what all processes have counted, and what waits, of all channels.

        Returns:
            The statistics of ASGI 1 by their names there, without what the store cannot tell: see
            `channel_layer.domain.counters.Statistics`. It looks through everything that the store holds.

        Raises:
            StoreError: the store could not be reached.
        """
        return self._statistics(None)

    def channel_statistics(self, channel: str) -> dict[str, float]:
        """Return what all processes have counted, and what waits, of one channel.

        Args:
            channel: a full channel name.

        Returns:
            As `global_statistics`.

        Raises:
            InvalidName: *channel* is not a valid channel name.
            StoreError: the store could not be reached.
        """
        return self._statistics(self._courier.channel(channel))

    def _statistics(self, channel: ChannelName | None) -> dict[str, float]:
        for inbox in list(self._courier.desk.inboxes.values()):
            if channel is None or inbox.queue == channel.queue:
                self._settle(inbox)
        self._report(self._open())
        return self._run(programs.statistics(self._courier.routes, channel)).as_dict()

    def _report_in_time(self) -> None:
        """Something was counted: tell the store if that has not been done for a second. The next call does so, else."""
        now = time.monotonic()
        if self._report_at is None:
            self._report_at = now + REPORT_SECONDS
        elif now >= self._report_at:
            self._report(self._open())

    def _report(self, store: BlockingStore) -> None:
        """Tell the store what was counted; what it could not be told is told the next time."""
        self._report_at = None
        desk = self._courier.desk
        with desk.lock:
            counts = desk.ledger.tally.take()
        if counts:
            left = run_blocking(programs.report(self._courier.routes, counts), store)
            with desk.lock:
                for family, messages, refused in left:
                    desk.ledger.tally.add(family, messages, refused)

    # -- the end

    def close(self) -> None:
        """Let go of connections, and of inboxes that `receive` has claimed. Harmless if it is called twice.

        The layer stays usable: the next call connects again. What other threads are doing at that moment is finished.
        It does not end what the asynchronous half does; `ChannelLayer.aclose` ends both.
        """
        store, claims = self._store, self._forget()
        if store is None:
            return
        try:
            self._report(store)
            for claim in claims:
                with contextlib.suppress(StoreError):  # the claim ends by itself
                    store.execute(claim)
        finally:
            store.close()

    def let_go(self) -> list[c.Unclaim]:
        """Let go of connections for good, and return what is claimed, to be given up; for `ChannelLayer.aclose`."""
        store, claims = self._store, self._forget()
        if store is not None:
            self._report(store)
            store.close()
        return claims

    def __enter__(self) -> Self:
        """Return the layer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def _forget(self) -> list[c.Unclaim]:
        with self._opening:
            self._store = None
            memory, self._memory = self._memory, _Memory()
        routes, claimant = self._courier.routes, self._courier.desk.claimant
        return [c.Unclaim(routes.shards(queue)[0], queue, claimant) for queue in memory.claims.values()]

    # -- the store

    def _open(self) -> BlockingStore:
        """Return the store; open it if there is none.

        Raises:
            StoreError: the layer is closed.
        """
        store = self._store
        if store is None or self._courier.desk.closed:
            with self._opening:
                if self._courier.desk.closed:
                    raise closed_error()
                if self._store is None:
                    self._store = self._backend.open_blocking()
                store = self._store
        return store

    def _run(self, program: Operation[R]) -> R:
        try:
            store = self._open()
        except StoreError:
            program.close()
            raise
        try:
            return run_blocking(program, store)
        except StoreError as exc:
            self._check_open(exc)
            raise

    def _check_open(self, error: StoreError) -> None:
        """Say that the layer was closed meanwhile, if that is why the store did nothing."""
        if self._courier.desk.closed and error.outcome == "not_sent":
            raise closed_error() from error

    def _settle(self, inbox: Inbox) -> None:
        """Give back what is owed, now, if the store can be reached.

        The host may be doing the same: a batch that is told twice counts once, and is told before the next is made.
        """
        desk, store = self._courier.desk, self._open()
        with contextlib.suppress(StoreError):
            while True:
                with desk.lock:
                    request = inbox.return_places()
                if request is None:
                    return
                store.execute(c.GiveBack(inbox.shard, inbox.queue, request.generation, request.serial, request.places))
                with desk.lock:
                    if inbox.returning is request:
                        inbox.returning = None

    def _claim_again(self, inbox: Inbox) -> None:
        claiming = self._background.claim(inbox)
        try:
            claiming.result(self._courier.rules.timeout)
        except TimeoutError as exc:
            claiming.cancel()
            raise StoreError(
                f"inbox {inbox.queue} could not be claimed again", retryable=True, outcome="not_sent"
            ) from exc


# -- receiving ---------------------------------------------------------------------------------------------------


def _parse(channels: Iterable[str]) -> tuple[Queue, ...]:
    """Return the queues of what can be received, each once.

    Raises:
        InvalidName: something cannot; the text says what to do.
    """
    if isinstance(channels, (str, bytes)):
        raise InvalidName(f"receive() takes a list of channels: receive([{channels!r:.80}])")
    queues: dict[str, Queue] = {}
    for channel in channels:
        queue = _parse_one(channel)
        queues[queue.name] = queue
    if not queues:
        raise InvalidName("receive() needs a channel to receive from: the list is empty")
    return tuple(queues.values())


def _parse_one(channel: object) -> Queue:
    # An inbox's own name is no channel's, so it is looked at as one of its channels.
    inbox = isinstance(channel, str) and channel.endswith("!") and len(channel) < MAX_NAME_LENGTH
    name = ChannelName.parse(f"{channel}x" if inbox else channel)
    if name.queue.kind is Kind.INBOX and not inbox:
        raise InvalidName(
            f"cannot receive from {channel!r} alone: receive its inbox, {name.queue.name!r}, which brings the messages "
            f"of all its channels with their full names"
        )
    return name.queue


def _parse_pattern(pattern: object) -> str:
    if isinstance(pattern, str) and pattern.endswith("?"):
        return pattern
    hint = ""
    if isinstance(pattern, str) and pattern.endswith("!"):
        hint = f"; channels of a process are made in asynchronous code: await layer.new_channel({pattern[:-1]!r})"
    raise InvalidName(f"invalid pattern {pattern!r:.80}: it must end in '?', as in 'http.response?'{hint}")


@dataclass(slots=True)
class _Memory:
    """What is remembered from one receive() to the next.

    Attributes:
        claims: inboxes that were claimed by popping them, and queues that we are known to attend to on this machine, by
            name.
        attends_until: of such a queue, local seconds until when.
        held_until: by the name of an inbox that another one has claimed, local seconds at which it is given up for.
        turns: by the names of its queues, where the next receive() begins to look.
    """

    claims: dict[str, Queue] = field(default_factory=dict[str, Queue])
    attends_until: dict[str, float] = field(default_factory=dict[str, float])
    held_until: dict[str, float] = field(default_factory=dict[str, float])
    turns: dict[tuple[Queue, ...], Iterator[int]] = field(default_factory=dict[tuple[Queue, ...], "Iterator[int]"])

    def turn(self, queues: tuple[Queue, ...]) -> int:
        """Return a number that is one more for each receive() of these queues."""
        turns = self.turns.get(queues)
        if turns is None:
            if len(self.turns) >= _LISTS_REMEMBERED:
                self.turns = {}
            turns = self.turns.setdefault(queues, itertools.count())
        return next(turns)


@dataclass(slots=True)
class _Away:
    """A shard that cannot be reached.

    Attributes:
        error: why.
        until: seconds by the monotonic clock before which it is not tried again.
        pause: seconds of the next pause.
    """

    error: StoreError
    until: float
    pause: float


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a pop brought.

    Attributes:
        channel: full name.
        item: the message.
    """

    channel: str
    item: Item


class _Receipt:
    """One call of `BlockingChannelLayer.receive`: it looks everywhere, then waits everywhere at once, and looks again.

    Args:
        queues: what to receive from.
        courier: the rules, and what the layer holds in this process.
        store: the store.
        background: what the asynchronous half does.
        memory: what is remembered from call to call.
    """

    def __init__(
        self,
        queues: tuple[Queue, ...],
        courier: Courier,
        store: BlockingStore,
        background: Background,
        memory: _Memory,
    ) -> None:
        self._courier = courier
        self._desk: Desk = courier.desk
        self._store = store
        self._background = background
        self._memory = memory
        turn = memory.turn(queues)
        self._queues = _rotated(queues, turn)
        self._turn = turn // len(queues)
        self._called = set[tuple[int, Queue]]()
        """What we were called for and have not popped since: nobody else has been told."""
        self._away: dict[int, _Away] = {}
        self._held: dict[Queue, float] = {}
        """Inboxes that another one has claimed, and seconds by the monotonic clock until when."""

    def run(self, seconds: float | None) -> tuple[str, Message] | tuple[None, None]:
        """Return a message; wait for one for some seconds at most, or not at all."""
        began = time.monotonic()
        try:
            while True:
                for queue in self._queues:
                    found = self._take(queue)
                    if found is not None:
                        return found
                if seconds is None:
                    for away in self._away.values():
                        raise away.error
                    return None, None
                left = began + seconds - time.monotonic()
                if left <= 0:
                    return None, None
                self._wait(left)
        finally:
            self._pass_on()

    # -- looking

    def _take(self, queue: Queue) -> tuple[str, Message] | None:
        desk = self._desk
        with desk.lock:
            if desk.closed:
                raise closed_error()
            inbox = desk.inboxes.get(queue.name)
        if inbox is not None:
            return self._take_from_own(inbox)
        if queue.kind is Kind.INBOX:
            return self._take_from_claimed(queue)
        shards = self._order(queue)
        return self._take_kept(queue) or next(filter(None, (self._take_from(queue, each) for each in shards)), None)

    def _order(self, queue: Queue) -> tuple[int, ...]:
        """Return the shards of a queue in the order in which to look.

        Who is not known yet to attend to this machine's half looks there last, and not before the other one is empty:
        what was sent while nobody here read is older, and counts towards the same capacity.
        """
        routes = self._courier.routes
        shards, local = routes.shards(queue), routes.local_of(queue)
        if local is not None and self._memory.attends_until.get(queue.name, 0.0) <= self._courier.clock.now():
            return (*_rotated(tuple(shard for shard in shards if shard != local), self._turn), local)
        return _rotated(shards, self._turn)

    def _take_from_own(self, inbox: Inbox) -> tuple[str, Message] | None:
        """Take the oldest message that waits in any mailbox of an inbox of this process."""
        starting = self._background.ensure()
        if starting is not None:
            with contextlib.suppress(TimeoutError):
                starting.result(self._courier.rules.timeout)
        while True:
            with self._desk.lock:
                found = self._oldest(inbox, list(inbox.waiting.values()))
            if found is None:
                return None
            box, item = found
            if not item.group:
                self._background.give_back(inbox, box)
            if (message := self._courier.open(item, box.name)) is not None:
                return box.name, message

    def _take_from_claimed(self, queue: Queue) -> tuple[str, Message] | None:
        """Take what the asynchronous half has popped for another channel, else pop; a pop tells of a flush, too."""
        [shard] = self._courier.routes.shards(queue)
        while self._held.get(queue, 0.0) <= time.monotonic():
            kept = self._has_kept(queue)
            came, taken = self._pop(shard, queue, 0 if kept else 1)
            if kept:
                if shard not in self._away and (found := self._take_kept(queue)) is not None:
                    return found
                if self._has_kept(queue):
                    return None  # the store is away, or it is another one's: nobody knows what was flushed
            elif not came:
                return None
            elif taken is not None and (message := self._courier.open(taken.item, taken.channel)) is not None:
                return taken.channel, message
        return None

    def _take_from(self, queue: Queue, shard: int) -> tuple[str, Message] | None:
        """Take a message of a queue from one shard."""
        came = True
        while came:
            came, taken = self._pop(shard, queue, 1)
            if taken is not None and (message := self._courier.open(taken.item, taken.channel)) is not None:
                return taken.channel, message
        return None

    def _has_kept(self, queue: Queue) -> bool:
        """Whether the asynchronous half holds messages of a queue that nobody here was promised."""
        with self._desk.lock:
            tap = self._desk.taps.get(queue.name)
            return tap is not None and any(len(box.items) > box.promised for box in tap.boxes.values())

    def _take_kept(self, queue: Queue) -> tuple[str, Message] | None:
        while True:
            with self._desk.lock:
                tap = self._desk.taps.get(queue.name)
                if tap is None or (found := self._oldest(tap, list(tap.boxes.values()))) is None:
                    return None
            box, item = found
            if (message := self._courier.open(item, box.name)) is not None:
                return box.name, message

    def _oldest(self, source: Inbox | Tap, boxes: list[Mailbox]) -> tuple[Mailbox, Item] | None:
        """Take the message that has waited longest in some mailboxes; under the lock."""
        now = self._courier.clock.now()
        while ready := [box for box in boxes if len(box.items) > box.promised]:
            box = min(ready, key=lambda box: box.items[0].deadline)
            box.promised += 1  # to ourselves
            if (item := source.take(box, now, promised=True)) is not None:
                return box, item
        return None

    def _pop(self, shard: int, queue: Queue, count: int) -> tuple[bool, _Taken | None]:
        """Pop, and count what is not to be delivered.

        Returns:
            Whether anything came, and the message, unless that was none.

        Raises:
            InvalidName: the inbox is somebody else's.
            StoreError: a person has to mend it. Of a shard that is away it is noted.
        """
        if (away := self._away.get(shard)) is not None and away.until > time.monotonic():
            return False, None
        desk, sent = self._desk, self._courier.clock.now()
        attend = 0.0
        if shard == self._courier.routes.local_of(queue):
            attend = self._courier.rules.expiry * ATTENDANCE
            self._memory.attends_until[queue.name] = sent + attend
            self._memory.claims[queue.name] = queue
        try:
            popped = self._store.execute(c.Pop(shard, queue, count, desk.claimant, attend))
        except StoreError as exc:
            self._miss(shard, exc)
            return False, None
        self._away.pop(shard, None)
        self._called.discard((shard, queue))
        with desk.lock:
            now = self._courier.clock.now()
            desk.clocks[shard].observe(sent, now, popped.now)
            taken = self._take_in(shard, queue, popped, now)
        if desk.ledger.has_news:
            desk.tell()
        if popped.minted:
            raise foreign_error(queue)
        if popped.held_for is not None:
            self._hold(queue, popped.held_for)
            return False, None
        if queue.kind is Kind.INBOX:
            self._memory.claims[queue.name] = queue
            self._memory.held_until.pop(queue.name, None)
        return bool(popped.entries) or popped.flushed > 0, taken

    def _take_in(self, shard: int, queue: Queue, popped: c.Popped, now: float) -> _Taken | None:
        """Count what a pop has told of, and return its message; under the lock."""
        desk = self._desk
        ledger = desk.ledger
        ledger.drop("expired", queue.name, popped.expired)
        ledger.drop("flushed", queue.name, popped.flushed)
        ledger.drop("store_lost", queue.name, popped.lost)
        tap = desk.taps.get(queue.name)
        if tap is not None and queue.kind is Kind.INBOX and popped.epoch != tap.epoch:
            for box in tap.boxes.values():
                ledger.drop("flushed", box.name, box.clear())
            tap.epoch = popped.epoch
        for entry in popped.entries:
            channel, payload = _read(queue, entry.frame)
            over = deadline(entry.stamp, self._courier.rules.expiry, desk.offset(shard, now))
            if payload is None:
                ledger.drop("undecodable", queue.name)
            elif over <= now:
                ledger.drop("expired", queue.name)
            else:
                ledger.delivered += 1
                return _Taken(channel, Item(over, payload, "", None))
        return None

    def _hold(self, queue: Queue, held_for: float) -> None:
        """Another one has claimed this inbox; it may be dead. One lease shows.

        Raises:
            InvalidName: it lives.
        """
        now = self._courier.clock.now()
        if now >= self._memory.held_until.setdefault(queue.name, now + self._desk.lease):
            self._memory.held_until.pop(queue.name, None)
            raise claimed_error(queue)
        self._held[queue] = time.monotonic() + held_for + 0.001

    def _miss(self, shard: int, error: StoreError) -> None:
        """A shard is away: leave it alone for a while, and serve the others.

        Raises:
            StoreError: a person has to mend it.
        """
        if not error.retryable:
            raise error
        known = self._away.get(shard)
        pause = _BACKOFF_FIRST if known is None else known.pause
        until = time.monotonic() + pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        self._away[shard] = _Away(error, until, min(_BACKOFF_MOST, pause * 2))

    # -- waiting

    def _wait(self, left: float) -> None:
        """Wait until there may be something to take, for some seconds at most."""
        block = min(left, _BLOCK_SECONDS, self._courier.rules.expiry / 3)
        with Alarm() as alarm, contextlib.ExitStack() as stack:
            stack.callback(self._unwatch, alarm)
            if not self._watch(alarm):
                return
            descriptors = [alarm.descriptor]
            seconds = [block]
            for shard, queues in self._elsewhere().items():
                try:
                    waiting = self._store.wait(c.WaitAny(shard, tuple(queues), block))
                except StoreError as exc:
                    self._miss(shard, exc)
                    continue
                stack.callback(self._end, shard, waiting)
                descriptors += waiting.descriptors
                seconds.append(waiting.seconds)
            moments = [*(away.until for away in self._away.values()), *self._held.values()]
            seconds += [moment - time.monotonic() for moment in moments]
            await_any(descriptors, min(seconds))

    def _watch(self, alarm: Alarm) -> bool:
        """Have the alarm rung for what comes into this process; False if there is something already.

        Raises:
            StoreError: the layer is closed: nobody would come to ring.
        """
        desk = self._desk
        with desk.lock:
            if desk.closed:
                raise closed_error()
            for queue in self._queues:
                desk.watchers.setdefault(queue.name, []).append(alarm)
                source = desk.inboxes.get(queue.name) or desk.taps.get(queue.name)
                boxes = source.boxes.values() if source is not None else ()
                if any(len(box.items) > box.promised for box in boxes):
                    return self._held.get(queue, 0.0) > time.monotonic()
        return True

    def _unwatch(self, alarm: Alarm) -> None:
        watchers = self._desk.watchers
        with self._desk.lock:
            for queue in self._queues:
                if alarm in watchers.get(queue.name, ()):
                    watchers[queue.name].remove(alarm)
                    if not watchers[queue.name]:
                        del watchers[queue.name]

    def _elsewhere(self) -> dict[int, list[Queue]]:
        """Return what is to be waited for in the store, by shard."""
        found: dict[int, list[Queue]] = {}
        now = time.monotonic()
        for queue in self._queues:
            if queue.name in self._desk.inboxes or self._held.get(queue, 0.0) > now:
                continue
            for shard in self._courier.routes.shards(queue):
                if shard not in self._away:
                    found.setdefault(shard, []).append(queue)
        return found

    def _end(self, shard: int, waiting: Waiting) -> None:
        self._called.update((shard, queue) for queue in waiting.end())

    def _pass_on(self) -> None:
        """Let somebody else be called for what we were called for, and have not popped."""
        while self._called:
            shard, queue = self._called.pop()
            with contextlib.suppress(StoreError):
                self._store.execute(c.Pop(shard, queue, 0, self._desk.claimant))


def _rotated(things: tuple[T, ...], turn: int) -> tuple[T, ...]:
    first = turn % len(things)
    return things[first:] + things[:first]


def _read(queue: Queue, frame: bytes) -> tuple[str, bytes | None]:
    """Return channel and payload of a message that was popped; no payload if it is no message of this queue."""
    try:
        name, payload = envelope.read_message(frame)
        if queue.kind is not Kind.INBOX:
            return queue.name, payload
        return name, payload if ChannelName.parse(name).queue == queue else None
    except (envelope.BadFrame, InvalidName):
        return queue.name, None
