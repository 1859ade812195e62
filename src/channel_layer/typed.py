"""Channels and groups whose messages have a type: checked when sent, checked when received.

Processes exchange only bytes, and another release of a program may send messages that this one does not know. A
`Channel` or a `Group` is a name with a layer and a type, and the only place where a message becomes a value of that
type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Literal, Protocol, Self, TypeAlias, TypeVar, overload

from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import InvalidFields
from channel_layer.schema import Schema, Untyped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import TypeForm

    from channel_layer.domain.codec import Message

__all__ = ("Channel", "Group", "Invalid", "Messenger")

T = TypeVar("T")

Invalid: TypeAlias = Literal["drop", "raise"]
"""What a receiver does with a message that does not fit the type: count it as lost, or raise `InvalidFields`."""

_INVALID: Final[tuple[Invalid, ...]] = ("drop", "raise")


class Messenger(Protocol):
    """What channels and groups need from a layer; every `channel_layer.ChannelLayer` fits."""

    async def send(self, channel: str, message: Mapping[str, object]) -> None:
        """Send a message to a channel."""
        ...

    async def receive(self, channel: str) -> Message:
        """Wait for the next message of a channel."""
        ...

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group."""
        ...

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group."""
        ...

    async def group_send(self, group: str, message: Mapping[str, object]) -> None:
        """Send a message to every member of a group."""
        ...

    def reject(self, channel: str, problem: str) -> None:
        """Count a message that was received, but cannot be used, as lost."""
        ...


class Channel(Generic[T]):
    """A channel whose messages are of one type.

    Make one where it is used, in any number of processes: it is a name, a type and a layer, and has no state. Making
    one does no I/O. The arguments are its attributes; ``type`` is None if messages are dicts.

    Args:
        layer: the layer that carries the messages.
        name: a full channel name.
        type: the type of the messages: a Pydantic model, a dataclass, a ``TypedDict``, or a union of them,
            discriminated or not. Without one, messages are dicts.
        invalid: what `receive` does with a message that does not fit the type. ``"drop"``: it counts the message
            (``invalid``), logs it, and waits for the next one. ``"raise"``: it raises `InvalidFields`, which holds the
            message; the next `receive` continues with the message after it.

    Raises:
        InvalidName: *name* is not a valid channel name.
        InvalidMessage: Pydantic cannot read *type*.
        ValueError: *invalid* is neither ``"drop"`` nor ``"raise"``.
    """

    __slots__ = ("_schema", "invalid", "layer", "name", "type")

    @overload
    def __init__(self: Channel[Message], layer: Messenger, name: str) -> None: ...
    @overload
    def __init__(self, layer: Messenger, name: str, type: TypeForm[T], *, invalid: Invalid = "drop") -> None: ...
    def __init__(
        self,
        layer: Messenger,
        name: str,
        type: TypeForm[T] | Untyped = Untyped.DICT,  # noqa: A002 - the natural name of the parameter
        *,
        invalid: Invalid = "drop",
    ) -> None:
        self.layer: Final = layer
        self.name: Final = ChannelName.parse(name).name
        self.type: Final[object] = None if type is Untyped.DICT else type
        self.invalid: Final = _check_invalid(invalid)
        self._schema: Schema[T] = Schema(type)

    def __repr__(self) -> str:
        return f"Channel({self.name!r}, {self._schema.name})"

    async def send(self, message: T) -> None:
        """Check a message and send it.

        Raises:
            InvalidFields: *message* does not fit the type; nothing was sent.
            InvalidMessage: the dict that it is dumped to cannot be sent; the text says where.
            MessageTooLarge: the encoded message is larger than ``max_message_size``.
            ChannelFull: the channel holds as many unread messages as its capacity allows. Nothing was sent.
            StoreError: the store could not be reached, or did not answer within ``timeout`` seconds.
        """
        await self.layer.send(self.name, self._schema.dump(message))

    async def receive(self) -> T:
        """Wait for the next message that fits the type and return it; cancelling loses nothing.

        Raises:
            InvalidFields: a message does not fit the type; only with ``invalid="raise"``.
            InvalidName: the channel belongs to another process that is alive.
            StoreError: the layer is closed, or the store refuses requests. While a store is unavailable, this waits.
        """
        while True:
            message = await self.layer.receive(self.name)
            try:
                return self._schema.load(message)
            except InvalidFields as exc:
                if self.invalid == "raise":
                    raise
                self.layer.reject(self.name, str(exc))

    def __aiter__(self) -> Self:
        """Return the channel itself: ``async for message in channel`` receives indefinitely."""
        return self

    async def __anext__(self) -> T:
        """Receive the next message."""
        return await self.receive()


class Group(Generic[T]):
    """A group whose messages are of one type. `ChannelLayer.subscribe` receives them.

    It is a name, a type and a layer, and has no state. Making one does no I/O. The arguments are its attributes;
    ``type`` is None if messages are dicts.

    Args:
        layer: the layer that carries the messages.
        name: the group's name.
        type: the type of the messages: a Pydantic model, a dataclass, a ``TypedDict``, or a union of them,
            discriminated or not. Without one, messages are dicts.
        invalid: what a subscription does with a message that does not fit the type. ``"drop"``: it counts the message
            (``invalid``), logs it, and waits for the next one. ``"raise"``: it raises `InvalidFields`, which holds the
            message; the subscription stays open, and continues with the message after it.

    Raises:
        InvalidName: *name* is not a valid group name.
        InvalidMessage: Pydantic cannot read *type*.
        ValueError: *invalid* is neither ``"drop"`` nor ``"raise"``.
    """

    __slots__ = ("_schema", "invalid", "layer", "name", "type")

    @overload
    def __init__(self: Group[Message], layer: Messenger, name: str) -> None: ...
    @overload
    def __init__(self, layer: Messenger, name: str, type: TypeForm[T], *, invalid: Invalid = "drop") -> None: ...
    def __init__(
        self,
        layer: Messenger,
        name: str,
        type: TypeForm[T] | Untyped = Untyped.DICT,  # noqa: A002 - as for Channel
        *,
        invalid: Invalid = "drop",
    ) -> None:
        self.layer: Final = layer
        self.name: Final = GroupName.parse(name).name
        self.type: Final[object] = None if type is Untyped.DICT else type
        self.invalid: Final = _check_invalid(invalid)
        self._schema: Schema[T] = Schema(type)

    def __repr__(self) -> str:
        return f"Group({self.name!r}, {self._schema.name})"

    async def send(self, message: T) -> None:
        """Check a message and send it to every member.

        It never raises `ChannelFull`: a member whose channel is full misses the message, which is counted.

        Raises:
            InvalidFields: *message* does not fit the type; nothing was sent.
            InvalidMessage: the dict that it is dumped to cannot be sent; the text says where.
            MessageTooLarge: the encoded message is larger than ``max_message_size``.
            StoreError: the store could not be reached; some members may have got the message.
        """
        await self.layer.group_send(self.name, self._schema.dump(message))

    async def add(self, channel: Channel[T]) -> None:
        """Add a channel, whose messages have the same type; adding it again renews its membership.

        Raises:
            StoreError: the store could not be reached.
        """
        await self.layer.group_add(self.name, channel.name)

    async def discard(self, channel: Channel[T]) -> None:
        """Remove a channel, whichever process added it; nothing happens if it is not a member.

        Raises:
            StoreError: the store could not be reached.
        """
        await self.layer.group_discard(self.name, channel.name)

    def load(self, message: Message) -> T:
        """Check a message that was received elsewhere, as by a Django Channels consumer, and return it as a value.

        Raises:
            InvalidFields: it does not fit the type.
        """
        return self._schema.load(message)


def _check_invalid(invalid: Invalid) -> Invalid:
    if invalid not in _INVALID:
        raise ValueError(f"invalid: must be 'drop' or 'raise', not {invalid!r:.80}")
    return invalid
