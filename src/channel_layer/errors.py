"""Every error that a channel layer raises on purpose.

All have one base, so that ``except ChannelLayerError`` catches all of them. Each says what is at fault: the
caller (`InvalidName`, `InvalidMessage`, `InvalidFields`, `MessageTooLarge`, `SubscriptionError`, `ConfigError`), the
load (`ChannelFull`, `NoLocalReader`) or the environment (`StoreError`, `DamagedRecord`, `PatchedThreadsError`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = (
    "ChannelFull",
    "ChannelLayerError",
    "ConfigError",
    "ConfigWarning",
    "DamagedRecord",
    "FieldError",
    "InvalidFields",
    "InvalidMessage",
    "InvalidName",
    "MessageTooLarge",
    "NoLocalReader",
    "Outcome",
    "PatchedThreadsError",
    "StoreError",
    "SubscriptionError",
)

Outcome = Literal["not_sent", "unknown"]
"""What is known of a request that failed: it never reached the store, or it may have been carried out."""


class ChannelLayerError(Exception):
    """The base of every error of this library."""

    def __reduce__(self) -> tuple[object, ...]:
        """Let an error be copied and pickled with all its attributes, whatever its ``__init__`` takes."""
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[ChannelLayerError], args: tuple[object, ...]) -> ChannelLayerError:
    return kind.__new__(kind, *args)


class InvalidName(ChannelLayerError, TypeError):
    """A channel or group name that the specification does not allow here.

    It is also a `TypeError`, because the ASGI channel layer specification and Django Channels raise that.
    """


class InvalidMessage(ChannelLayerError, TypeError):
    """A message that is not a dict of the allowed types; the text holds the path of the wrong value."""


class InvalidFields(InvalidMessage):
    """A message that does not fit the type of its `Channel` or `Group`; it names every wrong field.

    Attributes:
        type: the name of the type.
        errors: one `FieldError` for each problem. They hold no values except numbers.
        received: the message, if it was received; None if it was to be sent, and was not.
    """

    def __init__(self, type: str, errors: Iterable[FieldError]) -> None:  # noqa: A002 - named as in `Channel`
        self.type: str = type
        self.errors: tuple[FieldError, ...] = tuple(errors)
        self.received: Mapping[str, object] | None = None
        super().__init__(f"the message is not of type {type}: " + "; ".join(map(str, self.errors)))


class MessageTooLarge(ChannelLayerError):
    """An encoded message that is larger than ``max_message_size``.

    Attributes:
        size: bytes of the encoded message.
        limit: bytes that ``max_message_size`` allows.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"the message is {size} bytes when encoded, over the limit of {limit}: send less, "
            f"or raise max_message_size on every process of this layer"
        )
        self.size: int = size
        self.limit: int = limit


class ChannelFull(ChannelLayerError):
    """The channel holds as many unread messages as its capacity allows, or its store has no room; nothing was sent.

    Attributes:
        channel: the full name that was sent to.
        capacity: messages that it may hold.
    """

    def __init__(self, channel: str, capacity: int, no_room: str = "") -> None:
        full = no_room or f"{capacity} messages wait in it unread"
        super().__init__(f"channel {channel!r} {'takes no message' if no_room else 'is full'}: {full}")
        self.channel = channel
        self.capacity = capacity


@dataclass(frozen=True, slots=True)
class FieldError:
    """One problem with one field of a configuration, or of a message that has a type.

    Attributes:
        field: the path of the field, as in ``hosts[1].port``.
        problem: what is wrong and how to fix it. Never holds a secret.
    """

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


class ConfigError(ChannelLayerError, ValueError):
    """A configuration that cannot work; it names every wrong field.

    Attributes:
        errors: one `FieldError` for each problem, in the order of the fields.
    """

    def __init__(self, errors: Iterable[FieldError]) -> None:
        self.errors: tuple[FieldError, ...] = tuple(errors)
        count = len(self.errors)
        head = "1 problem" if count == 1 else f"{count} problems"
        super().__init__(f"{head} in the channel layer's CONFIG:\n" + "\n".join(f"  {e}" for e in self.errors))


class ConfigWarning(UserWarning):
    """A configuration that works but is unwise, or an option that changes nothing.

    The text names the field and the fix, or the reason, and never holds a secret.
    """


class NoLocalReader(ChannelLayerError):
    """A normal channel has no reader on this machine, and ``no_local_reader`` is ``"error"``; nothing was sent.

    Attributes:
        channel: the full name of the channel.
    """

    def __init__(self, channel: str) -> None:
        self.channel: str = channel
        super().__init__(
            f"no reader on this machine receives from {channel!r}: start a worker here, or set "
            f'no_local_reader="remote" so that a worker on another machine gets the message'
        )


class StoreError(ChannelLayerError):
    """The store (for example a Redis server) could not be reached, did not answer in time, or refused the request.

    The library never resends what it has written to a socket, because that could deliver a message twice.

    Attributes:
        retryable: whether the same call may succeed later with the same configuration.
        outcome: ``"not_sent"``: the store has not seen the request, so that repeating it is safe;
            ``"unknown"``: it may have been carried out.
        server: names the server that the error is about, where that is known: ``host:port/db``, or a socket's path.
    """

    def __init__(self, message: str, *, retryable: bool, outcome: Outcome, server: str = "") -> None:
        super().__init__(message)
        self.retryable = retryable
        self.outcome: Outcome = outcome
        self.server: str = server


class DamagedRecord(StoreError):
    """What the store keeps for one queue or one group is not what this library has put there; the text names it.

    Another program has written it. Other queues and groups are not affected, and this one works again when the record
    is gone. Of an inbox that this process owns, it is replaced within half an ``expiry``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True, outcome="unknown")


class PatchedThreadsError(ChannelLayerError, RuntimeError):
    """An asynchronous call in a process whose threads gevent or eventlet has replaced; nothing was done.

    The event loop of the call and that of the library would run in one thread, where asyncio allows only one.

    Attributes:
        by: the package that has replaced them.
    """

    def __init__(self, by: str) -> None:
        self.by: str = by
        super().__init__(
            f"{by} has replaced the threads of this process, so no event loop of asyncio can run beside the caller: "
            f"use layer.blocking, as in layer.blocking.send(...), whose waits let other greenlets run"
        )


class SubscriptionError(ChannelLayerError, RuntimeError):
    """A subscription that is used before it has begun, after its end, or twice; the text says what to do instead."""
