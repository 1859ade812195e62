"""What every message passes through: encoded and sealed on its way out, opened and decoded on its way in.

One `MessagePipeline` belongs to one layer object. The asynchronous and the blocking facade share it, and with it the
`LayerState`, so both are views on the same rules, inboxes and counters, and neither has to wrap the other.
"""

from __future__ import annotations

import itertools
import secrets
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from channel_layer.domain.codec import MsgpackCodec, is_flat
from channel_layer.domain.frames import BadFrame, Unauthentic
from channel_layer.domain.names import ChannelName
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.errors import ChannelFull, MessageTooLarge
from channel_layer.operations.state import LayerState
from channel_layer.runtime.sealing import make_seal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from channel_layer.domain.codec import Message
    from channel_layer.domain.mailbox import Item
    from channel_layer.domain.names import GroupName
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Backend, Clock, Codec
    from channel_layer.runtime.sealing import Seal

__all__ = ("MessagePipeline", "for_channels")

_REMEMBERED = 16384
"""Parsed names that are kept at hand."""

_OPENED = 64
"""Messages to groups that are kept at hand; a group's members take the same few again and again."""

_SMALL = 4096
"""Bytes of payload; larger messages are not kept."""


class MessagePipeline:
    """The codec and the cipher of one layer object, and its state in this process. Any thread may use it.

    Attributes:
        seal: encrypts; None: nothing is encrypted.
        turns: numbers that change from call to call.
    """

    def __init__(self, rules: Rules, backend: Backend, clock: Clock) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        shards, can = backend.identities, backend.capabilities
        local = len(shards) - 1 if can.local else None
        ring = Ring(shards[:local], spread=can.spreads)
        self.routes: Routes = Routes(ring, rules.capacity, local, rules.no_local_reader)
        self.codec: Codec = MsgpackCodec(rules.max_message_size)
        self.seal: Seal | None = make_seal(rules, clock)
        self.turns: Iterator[int] = itertools.count()
        self._names: dict[str, ChannelName] = {}
        self._opened: dict[int, tuple[Item, Message]] = {}
        """By the id of what a group was sent: this, which keeps the id its own, and its message, to be copied."""
        self.begin()

    def begin(self) -> None:
        """Set up what belongs to one process."""
        self.state: LayerState = LayerState(
            self.rules, self.routes, self.clock, lock=threading.Lock(), claimant=secrets.token_urlsafe(9)
        )

    # -- names and messages

    def channel(self, channel: str) -> ChannelName:
        """Parse a channel's name, and remember it.

        Raises:
            InvalidName: it is none.
        """
        return self._names.get(channel) or self._parse(channel)

    def _parse(self, channel: str) -> ChannelName:
        name = ChannelName.parse(channel)
        if len(self._names) >= _REMEMBERED:
            self._names = {}
        self._names[channel] = name
        return name

    def for_channel(self, message: object, name: ChannelName) -> bytes:
        """Encode a message, and seal it for its channel."""
        payload = self._encode(message)
        return payload if self.seal is None else self.seal.for_channel(payload, name.name)

    def for_group(self, message: object, group: GroupName) -> tuple[bytes, Callable[[str], bytes] | None]:
        """Encode a message, and seal it for a group.

        Returns:
            The payload, and what makes one for a member outside any owned inbox, if that is another one.
        """
        payload = self._encode(message)
        if self.seal is None:
            return payload, None
        return self.seal.for_group(payload, group.name), partial(self.seal.for_channel, payload)

    def open(self, item: Item, channel: str) -> Message | None:
        """Return the message that was taken; None if it is none, which counts as a loss."""
        try:
            if item.group:
                known = self._opened.get(id(item))
                return self._open_first(item) if known is None or known[0] is not item else known[1].copy()
            payload, seal = item.payload, self.seal
            return self.codec.decode(payload if seal is None else seal.sealer.open(payload, "channel", channel))
        except BadFrame as exc:
            with self.state.lock:
                counters = self.state.counters
                counters.delivered -= 1
                if isinstance(exc, Unauthentic):
                    counters.drop("unauthentic", channel, cause=str(exc))
                else:
                    counters.drop("undecodable", channel)
            return None

    def _open_first(self, item: Item) -> Message:
        payload = item.payload if self.seal is None else self.seal.open_shared(item.payload, item.group)
        message = self.codec.decode(payload, shared=True)
        if len(payload) < _SMALL and is_flat(message):
            if len(self._opened) >= _OPENED:
                self._opened = {}
            self._opened[id(item)] = item, message.copy()
        return message

    def full_error(self, name: ChannelName, no_room: str) -> ChannelFull:
        """Return the error for a message that its channel had no room for, or its store: see `Pushed.no_room`."""
        return for_channels(ChannelFull)(name.name, self.rules.capacity.of(name.name), no_room)

    def _encode(self, message: object) -> bytes:
        """Encode a message: see `channel_layer.ports.Codec`."""
        try:
            return self.codec.encode(message)
        except MessageTooLarge as exc:
            raise for_channels(MessageTooLarge)(exc.size, exc.limit) from None


# -- errors that users of Channels can catch by its names


_E = TypeVar("_E", bound=Exception)
_twins: dict[tuple[type[Exception], type[Exception]], type[Exception]] = {}


def for_channels(ours: type[_E]) -> type[_E]:
    """Return a subclass that ``except channels.exceptions.<same name>`` catches too, if Channels is in use.

    It imports nothing: a program that has not imported Channels cannot name its exceptions.
    """
    theirs: object = getattr(sys.modules.get("channels.exceptions"), ours.__name__, None)
    if not (isinstance(theirs, type) and issubclass(theirs, Exception)):
        return ours
    twin = _twins.get((ours, theirs))
    if twin is None:
        body = {"__module__": ours.__module__, "__reduce__": _reduce_twin}
        twin = _twins[ours, theirs] = type(ours.__name__, (ours, theirs), body)
    return twin if issubclass(twin, ours) else ours


def _reduce_twin(error: Exception) -> tuple[object, ...]:
    """Pickle an error of a class that is made on demand: it is made again where it is restored."""
    return _restore_twin, (type(error).__mro__[1], error.args), error.__dict__


def _restore_twin(ours: type[Exception], args: tuple[object, ...]) -> Exception:
    kind = for_channels(ours)
    return kind.__new__(kind, *args)
