"""Subscriptions: the messages that are sent to groups, as an asynchronous iterator.

To receive from a group takes a channel, a membership that is renewed, and leaving the group at the end, also after an
error. A subscription does all three.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from channel_layer.errors import InvalidFields, StoreError, SubscriptionError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
    from types import TracebackType

    from channel_layer.domain.codec import Message
    from channel_layer.typed import Invalid

__all__ = ("Intake", "Source", "Subscription")

T_co = TypeVar("T_co", covariant=True)

_logger = logging.getLogger("channel_layer")

_LOOK_SECONDS = 0.001
"""Between checks whether all tasks that wait for a message have been told that the subscription has ended."""

_TRIES = 3
"""Attempts to leave a group, if the end of the event loop cancels them."""


class Source(Protocol[T_co]):
    """What a subscription needs from a group; every `channel_layer.Group` fits."""

    @property
    def layer(self) -> object:
        """The layer that carries its messages."""
        ...

    @property
    def name(self) -> str:
        """The group's name."""
        ...

    @property
    def type(self) -> object:
        """The type of its messages; None: any message, as a dict."""
        ...

    @property
    def invalid(self) -> Invalid:
        """What is done with a message that does not fit the type."""
        ...

    def load(self, message: Message) -> T_co:
        """Turn a message into a value."""
        ...


@dataclass(frozen=True, slots=True)
class Intake:
    """What a subscription needs from its layer.

    Attributes:
        new_channel: makes a channel of this process.
        group_add: adds a channel to a group.
        group_discard: removes a channel from a group.
        receive: waits for the next message of any of several channels, and returns it with the name of its channel.
        keep: lets the memberships of a channel continue when its messages expire unread.
        let_go: undoes `keep`, and raises the error in every task that waits for the channel.
        reject: counts a message that cannot be used.
        renew_every: seconds between renewals of the memberships; None: they last as long as the process.
    """

    new_channel: Callable[[], Awaitable[str]]
    group_add: Callable[[str, str], Awaitable[None]]
    group_discard: Callable[[str, str], Awaitable[None]]
    receive: Callable[[Sequence[str]], Awaitable[tuple[str, Message]]]
    keep: Callable[[str], None]
    let_go: Callable[[str, Exception], None]
    reject: Callable[[str, str], None]
    renew_every: float | None


class _State(Enum):
    NEW = "new"
    OPEN = "open"
    CLOSED = "closed"


class Subscription(Generic[T_co]):
    """The messages that are sent to one or several groups from now on. Made by `ChannelLayer.subscribe`, and used once.

    ``async with layer.subscribe(group) as messages`` joins the groups when the block begins, and leaves them when it
    ends, also after an error; in the block, ``async for message in messages`` continues indefinitely. ``async for
    message in layer.subscribe(group)`` joins at the first step and leaves when the loop ends; after a ``break``, a
    moment later.

    Groups with the same type of messages share a channel, and their messages keep the order in which they were sent.
    Groups with different types have a channel each, because the channel tells the type of a message; of messages that
    wait in several channels the oldest comes first.

    Cancelling a step loses no message. Messages that still wait when the subscription ends are not delivered, and count
    as ``expired`` when they are too old.

    Args:
        intake: what is needed from the layer.
        groups: the groups to join.

    Raises:
        SubscriptionError: there is no group, or one is named twice with different types.
    """

    __slots__ = ("_bundles", "_closing", "_groups", "_intake", "_memberships", "_renewing", "_state", "_steps")

    def __init__(self, intake: Intake, groups: Sequence[Source[T_co]]) -> None:
        self._intake = intake
        self._bundles = _bundle(groups)
        self._groups: dict[str, Source[T_co]] = {}
        """For each channel, a group that has the type of its messages."""
        self._memberships: list[tuple[str, str]] = []
        self._state = _State.NEW
        self._steps = 0
        """How many tasks wait for a message."""
        self._renewing: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the channels that are members, one for each type of messages."""
        return tuple(self._groups)

    async def __aenter__(self) -> Self:
        """Join the groups; messages that are sent to them from now on are received.

        Raises:
            StoreError: the store could not be reached; no group has been joined.
            SubscriptionError: it has been used before.
        """
        if self._state is not _State.NEW:
            raise SubscriptionError("a subscription is used once: call subscribe() again for another one")
        self._state = _State.OPEN
        try:
            for bundle in self._bundles:
                channel = await self._intake.new_channel()
                self._groups[channel] = bundle[0]
                self._intake.keep(channel)
                for group in bundle:
                    self._memberships.append((group.name, channel))
                    await self._intake.group_add(group.name, channel)
        except BaseException:
            await self.aclose()
            raise
        if self._intake.renew_every is not None:
            self._renewing = asyncio.create_task(self._renew(self._intake.renew_every))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the groups."""
        await self.aclose()

    async def aclose(self) -> None:
        """Leave the groups. Tasks that wait for a message get a `SubscriptionError`. Closing twice is harmless.

        If the caller is cancelled, this finishes first; it takes at most ``timeout`` seconds if the store is
        unavailable. A membership that could not be ended ends when its first message has expired, or with this process.
        """
        if self._closing is None:
            self._state = _State.CLOSED
            self._closing = asyncio.create_task(self._leave())
        await _outlast(self._closing)

    def __aiter__(self) -> AsyncIterator[T_co]:
        """Return the subscription itself in ``async with``, else an iterator that joins and leaves by itself.

        Raises:
            SubscriptionError: it has ended.
        """
        match self._state:
            case _State.OPEN:
                return self
            case _State.NEW:
                return self._whole()
            case _State.CLOSED:
                raise _closed_error()

    async def __anext__(self) -> T_co:
        """Wait for the next message; cancelling loses nothing.

        Raises:
            InvalidFields: a message does not fit the type of its group; only with ``invalid="raise"``.
            StoreError: the layer is closed. While a store is unavailable, this waits.
            SubscriptionError: it has not begun, or has ended.
        """
        if self._state is _State.NEW:
            raise SubscriptionError(
                "no group has been joined yet: write `async with layer.subscribe(...) as messages:`"
            )
        while self._state is _State.OPEN:
            self._steps += 1
            try:
                channel, message = await self._intake.receive(self.channels)
            finally:
                self._steps -= 1
            group = self._groups[channel]
            try:
                return group.load(message)
            except InvalidFields as exc:
                if group.invalid == "raise":
                    raise
                self._intake.reject(channel, str(exc))
        raise _closed_error()

    async def _whole(self) -> AsyncGenerator[T_co]:
        async with self:
            while True:
                yield await self.__anext__()

    async def _renew(self, every: float) -> None:
        """Renew the memberships repeatedly."""
        while True:
            await _pause(every)
            for group, channel in self._memberships:
                try:
                    await self._intake.group_add(group, channel)
                except StoreError as exc:  # it is tried again before the membership ends
                    _logger.warning("a subscription could not renew its membership of group %s: %s", group, exc)

    async def _leave(self) -> None:
        renewing, self._renewing = self._renewing, None  # its cancellation refers to this object
        if renewing is not None:
            renewing.cancel()
            await asyncio.wait([renewing])
        for channel in self._groups:
            self._intake.let_go(channel, _closed_error())
        while self._steps:  # tasks that were about to wait have to be told again
            await asyncio.sleep(_LOOK_SECONDS)
            for channel in self._groups:
                self._intake.let_go(channel, _closed_error())
        for group, channel in self._memberships:
            for _ in range(_TRIES):
                try:
                    await self._intake.group_discard(group, channel)
                except asyncio.CancelledError:  # the event loop is ending, and cancels all tasks
                    continue
                except StoreError as exc:
                    if exc.retryable:
                        _logger.warning("a subscription could not leave group %s: %s", group, exc)
                break


def _bundle(groups: Sequence[Source[T_co]]) -> list[list[Source[T_co]]]:
    """Combine groups whose messages have the same type and handling."""
    if not groups:
        raise SubscriptionError("there is nothing to subscribe to: name a group")
    bundles: list[list[Source[T_co]]] = []
    seen: dict[str, Source[T_co]] = {}
    for group in groups:
        if (twin := seen.setdefault(group.name, group)) is not group:
            if not _alike(twin, group):
                raise SubscriptionError(
                    f"group {group.name!r} is named twice, with different types: make it a union of them"
                )
            continue
        for bundle in bundles:
            if _alike(bundle[0], group):
                bundle.append(group)
                break
        else:
            bundles.append([group])
    return bundles


def _alike(one: Source[object], other: Source[object]) -> bool:
    return one.invalid == other.invalid and (one.type is other.type or one.type == other.type)


def _closed_error() -> SubscriptionError:
    return SubscriptionError("this subscription has ended: call subscribe() again for another one")


async def _pause(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def _outlast(task: asyncio.Task[None]) -> None:
    """Await a task to its end; if the caller is cancelled meanwhile, raise the cancellation afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = exc
    if cancelled is not None:
        raise cancelled
    if not task.cancelled():
        task.result()
