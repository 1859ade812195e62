"""The channel layer as threads use it: the whole contract of ASGI 1, and the senders of Channels, over any store.

The sibling of `channel_layer.layer`: operations and rules are the same, the driver is another one. It has no event loop
and starts no thread; only what a process owns, the inboxes of `new_channel` in asynchronous code, has background work.

Source: the ASGI channel layer specification, version 1.1, "Channel Layers" and "Extensions".
"""

from __future__ import annotations

import secrets
import warnings
from typing import TYPE_CHECKING, Final, TypeVar

from channel_layer import operations
from channel_layer.domain.names import LOCAL_LENGTH, MAX_NAME_LENGTH, ChannelName, GroupName, Kind
from channel_layer.errors import ChannelFull, InvalidName, MessageTooLarge, StoreError
from channel_layer.operations.receiving import closed_error
from channel_layer.operations.steps import EnsureReading
from channel_layer.runtime.blocking_receive import BlockingReceive
from channel_layer.runtime.drivers import run_blocking
from channel_layer.runtime.reporting import log_losses, warn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType
    from typing import Self

    from channel_layer.domain.codec import Message
    from channel_layer.domain.names import Queue
    from channel_layer.operations.steps import Operation
    from channel_layer.runtime.drivers import RuntimeStep
    from channel_layer.runtime.lifetime import LayerLifetime

__all__ = ("BlockingChannelLayer",)

R = TypeVar("R")


class BlockingChannelLayer:
    """Named channels and groups between processes, for code without an event loop: the view `ChannelLayer.blocking`.

    It has the same rules, queues and groups as the layer that it belongs to, and any number of threads may use it at
    once. After a fork it starts anew in the child. A call waits for the store, and `receive`, if it is told to, for
    messages. Called in the thread of an event loop it holds that up for as long; nothing worse happens.

    Made by `ChannelLayer.blocking`.

    Args:
        lifetime: what it shares with the layer.

    Attributes:
        extensions: the optional parts of the specification that are there: ``groups``, ``flush`` and ``statistics``.
        ChannelFull: raised by `send` when a channel is full.
        MessageTooLarge: raised by `send` and `group_send` for a message over ``max_message_size``.
    """

    extensions: Final = ("groups", "flush", "statistics")
    ChannelFull: Final = ChannelFull
    MessageTooLarge: Final = MessageTooLarge

    def __init__(self, lifetime: LayerLifetime) -> None:
        self._lifetime = lifetime
        self._pipeline = lifetime.pipeline
        lifetime.add(self)
        self.begin()

    def begin(self) -> None:
        """Use what belongs to this process; called again in a child after a fork, by itself."""
        resources = self._lifetime.resources
        self._background = resources.background
        self._threads = resources.threads

    # -- configuration

    @property
    def expiry(self) -> float:
        """Seconds that a message may wait unread."""
        return self._pipeline.rules.expiry

    @property
    def group_expiry(self) -> float | None:
        """Seconds that a membership lasts after the last `group_add`; None: as long as its owner lives."""
        return self._pipeline.rules.group_expiry

    @property
    def capacity(self) -> int:
        """Unread messages that a channel may hold, unless a pattern of ``channel_capacity`` says otherwise."""
        return self._pipeline.rules.default_capacity

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
            ChannelFull: the channel is full, or its store has no room. Nothing was sent.
            NoLocalReader: no process on this machine receives from it, and ``no_local_reader`` is ``"error"``.
            StoreError: the store could not be reached, or did not answer within ``timeout`` seconds.
        """
        pipeline = self._pipeline
        name = pipeline.channel(channel)
        payload = pipeline.for_channel(message, name)
        sent = self._run(operations.send(pipeline.state, name, payload, next(pipeline.turns)))
        self._threads.note()
        if sent.expired:
            log_losses(pipeline.state)
        if not sent.accepted:
            raise pipeline.full_error(name, sent.no_room)

    def receive(
        self,
        channels: Iterable[str],
        block: bool = False,  # noqa: FBT001, FBT002 - the specification calls it so
        *,
        block_timeout: float = 5.0,
    ) -> tuple[str, Message] | tuple[None, None]:
        """Return the next message of any of several channels, and the channel that it came to.

        Each call looks at another channel first, so that a busy one does not delay a quiet one. Each message goes to
        one receiver. Interrupting it loses nothing.

        Args:
            channels: normal channels such as ``http.request``; single-reader channels; and inboxes such as
                ``daphne.host1!``, which stand for all channels that begin so: the oldest message of any is returned,
                with the full name of its channel. An inbox that no process owns is claimed by the process that receives
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
        queues, store = _parse(channels), self._threads.open()
        receive = BlockingReceive(queues, self._pipeline, store, self._background, self._threads.memory)
        try:
            return receive.run(block_timeout if block else None)
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
        """Make the name of a single-reader channel that no other call returns, for example for a reply.

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
            channel: any valid channel name, also one that has no reader.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        name, member = GroupName.parse(group), self._pipeline.channel(channel)
        self._run(operations.group_add(self._pipeline.state, name, member))

    def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group, also one that another process added; without effect if it is no member.

        Raises:
            InvalidName: a name is not valid.
            StoreError: the store could not be reached.
        """
        name, member = GroupName.parse(group), self._pipeline.channel(channel)
        self._run(operations.group_discard(self._pipeline.state, name, member))

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
        pipeline, name = self._pipeline, GroupName.parse(group)
        payload, for_channel = pipeline.for_group(message, name)
        sent = self._run(operations.group_send(pipeline.state, name, payload, next(pipeline.turns), for_channel))
        log_losses(pipeline.state)
        if sent.others:
            self._threads.note()

    def send_group(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group: what the specification calls `group_send`."""
        self.group_send(group, message)

    def group_channels(self, group: str) -> list[str]:
        """Return the full names of a group's members, sorted; members whose owner is dead are left out.

        Raises:
            InvalidName: *group* is not a valid group name.
            StoreError: the store could not be reached.
        """
        return self._run(operations.group_channels(self._pipeline.routes, GroupName.parse(group)))

    # -- the whole

    def ready(self) -> None:
        """Return if the layer can serve: for the probes of an orchestrator, and before a process begins its work.

        The same as `ChannelLayer.ready`.

        Raises:
            StoreError: it cannot; the text says why, and ``retryable`` whether that may pass by itself.
        """
        leases = self._lifetime.backend.capabilities.leases
        self._run(operations.check_readiness(self._pipeline.state, leases=leases))

    def flush(self) -> None:
        """Remove every message and every membership of this prefix, on all hosts and in all processes.

        It returns when no process can deliver an older message any more: each has dropped what it held, or its lease
        has ended. After ``timeout`` seconds it returns all the same, and logs how many have not answered; one that was
        killed is not waited for again. In the event loop that reads this layer's own inboxes it waits for all processes
        but this one, whose turn comes when it returns.

        Raises:
            StoreError: the store could not be reached.
        """
        warn(self._run(operations.flush(self._pipeline.state, secrets.token_urlsafe(9))))

    # -- statistics

    def global_statistics(self) -> dict[str, float]:
        """Return what all processes have counted, and what waits, of all channels.

        Returns:
            The statistics of ASGI 1 by their names there, without what the store cannot tell: see
            `channel_layer.domain.counters.Statistics`. It looks through everything that the store holds.

        Raises:
            StoreError: the store could not be reached.
        """
        return self._run(operations.read_statistics(self._pipeline.state, None)).as_dict()

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
        name = self._pipeline.channel(channel)
        return self._run(operations.read_statistics(self._pipeline.state, name)).as_dict()

    # -- the end

    def close(self) -> None:
        """Let go of connections, and of inboxes that `receive` has claimed. Harmless if it is called twice.

        The layer stays usable: the next call connects again. What other threads are doing at that moment is finished.
        It does not end the asynchronous layer; `ChannelLayer.aclose` ends both.
        """
        self._threads.close()

    def __enter__(self) -> Self:
        """Return the layer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    # -- where operations run

    def _run(self, operation: Operation[R]) -> R:
        try:
            store = self._threads.open()
        except StoreError:
            operation.close()
            raise
        try:
            return run_blocking(operation, store, self._perform)
        except StoreError as exc:
            self._check_open(exc)
            raise

    def _check_open(self, error: StoreError) -> None:
        """Say that the layer was closed meanwhile, if that is why the store did nothing."""
        if self._pipeline.state.closed and error.outcome == "not_sent":
            raise closed_error() from error

    def _perform(self, step: RuntimeStep) -> object:
        """Do what an operation asks of the runtime."""
        background, state = self._background, self._pipeline.state
        if isinstance(step, EnsureReading):
            background.ensure_for_threads()
            return frozenset(state.inboxes) if background.here else frozenset[str]()
        inbox = step.inbox
        if background.here:
            raise StoreError(f"the store has lost inbox {inbox.queue}", retryable=True, outcome="unknown")
        restoring = background.restore_lease_for_threads(inbox)
        try:
            return restoring.result(self._pipeline.rules.timeout)
        except TimeoutError as exc:
            restoring.cancel()
            raise StoreError(
                f"inbox {inbox.queue} could not be claimed again", retryable=True, outcome="not_sent"
            ) from exc


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
