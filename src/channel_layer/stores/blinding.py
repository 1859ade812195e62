"""A store wrapper that hides names: the store sees tokens, and the core sees the names as the application wrote them.

Neither the core nor the store knows of it. A token keeps the kind of its name (``!`` and ``?`` stay), so that a store
can treat it like a name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from channel_layer import commands as c
from channel_layer.domain import frames as envelope
from channel_layer.domain.frames import BadFrame, GroupFrame, MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import StoreWrapper

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from channel_layer.ports import Backend, Blinder, BlockingStore, Store, Waiting

__all__ = ("BlindBackend", "BlindBlockingStore", "BlindStore", "Tokens")

_REMEMBERED = 16384
"""Entries of each cache of names, tokens and frame heads."""

K = TypeVar("K")
R = TypeVar("R")
T = TypeVar("T")
V = TypeVar("V")

_GROUP, _NORMAL, _SINGLE, _INBOX = "group", "channel", "single-reader", "inbox"
"""The scopes in which names are blinded; the scope of an inbox's channel is the name of the inbox, ending in ``!``."""

_QUEUES = {Kind.NORMAL: (_NORMAL, ""), Kind.SINGLE_READER: (_SINGLE, "?"), Kind.INBOX: (_INBOX, "!")}
"""By the kind of a queue, the scope of its name and the end of its token."""


class Tokens:
    """Translates names to tokens and back, with caches. Thread-safe."""

    def __init__(self, blinder: Blinder) -> None:
        self._blinder = blinder
        self._queues: dict[Queue, Queue] = {}
        self._channels: dict[str, ChannelName] = {}
        self._groups: dict[str, GroupName] = {}
        self._names: dict[str, str] = {}
        self._group_names: dict[str, str] = {}
        self._heads: dict[bytes, bytes] = {}

    # -- to tokens

    def queue(self, queue: Queue) -> Queue:
        """Return the token of a queue."""
        return self._queues.get(queue) or _remember(self._queues, queue, self._queue(queue))

    def _queue(self, queue: Queue) -> Queue:
        scope, end = _QUEUES[queue.kind]
        return Queue(self._blinder.blind(queue.name, scope) + end, queue.kind)

    def channel(self, channel: ChannelName) -> ChannelName:
        """Return the token of a channel."""
        return self._channels.get(channel.name) or _remember(self._channels, channel.name, self._channel(channel))

    def _channel(self, channel: ChannelName) -> ChannelName:
        queue = self.queue(channel.queue)
        if queue.kind is not Kind.INBOX:
            return ChannelName(queue.name, queue)
        inbox = channel.queue.name
        return ChannelName(queue.name + self._blinder.blind(channel.name.removeprefix(inbox), inbox), queue)

    def full(self, name: str) -> str:
        """Return the token of a channel, given its full name."""
        known = self._channels.get(name)
        return (known or self.channel(ChannelName.parse(name))).name

    def inbox(self, inbox: Queue | str) -> Queue | str:
        """Return the token of an inbox, as a `Queue` or as text, whichever was given."""
        return self.queue(inbox) if isinstance(inbox, Queue) else self.queue(Queue(inbox, Kind.INBOX)).name

    def group(self, group: GroupName) -> GroupName:
        """Return the token of a group."""
        known = self._groups.get(group.name)
        return known or _remember(self._groups, group.name, GroupName(self._blinder.blind(group.name, _GROUP)))

    def frame(self, frame: bytes) -> bytes:
        """Return a message frame with the token of its channel: the reverse of `message`."""
        name, payload = envelope.read_message(frame)
        return envelope.message_frame(self.full(name), payload)

    # -- and back

    def name(self, token: str) -> str:
        """Return the name of a channel or an inbox.

        Raises:
            BadFrame: *token* was not made with this key.
        """
        return self._names.get(token) or _remember(self._names, token, self._name(token))

    def _name(self, token: str) -> str:
        reveal = self._blinder.reveal
        head, bang, local = token.partition("!")
        if bang:
            inbox = reveal(head, _INBOX)
            return inbox + reveal(local, inbox) if local else inbox
        return reveal(token[:-1], _SINGLE) if token.endswith("?") else reveal(token, _NORMAL)

    def group_name(self, token: str) -> str:
        """Return the name of a group.

        Raises:
            BadFrame: *token* was not made with this key.
        """
        known = self._group_names.get(token)
        return known or _remember(self._group_names, token, self._blinder.reveal(token, _GROUP))

    def names(self, tokens: Iterable[str]) -> tuple[str, ...]:
        """Return the names of channels or inboxes; leave out tokens that were not made with this key."""
        return tuple(self._known(tokens))

    def _known(self, tokens: Iterable[str]) -> Iterator[str]:
        for token in tokens:
            try:
                yield self.name(token)
            except BadFrame:
                continue

    def read(self, frame: bytes) -> bytes:
        """Return a frame with names for tokens; an empty, undecodable one if a token was not made with this key."""
        try:
            match frame[0] if frame else 0:
                case envelope.MESSAGE:
                    return self.message(frame)
                case envelope.GROUP:
                    return self._read_group(envelope.read_group(frame))
                case envelope.JOIN | envelope.LEAVE:
                    return self._read_marker(envelope.read_marker(frame))
                case _:
                    return frame
        except BadFrame:
            return b""

    def message(self, frame: bytes) -> bytes:
        """Return a message frame with the name of its channel.

        Raises:
            BadFrame: *frame* is no message frame, or the token in it was not made with this key.
        """
        head = envelope.message_head(frame)
        known = self._heads.get(head)
        if known is None:
            token, _ = envelope.read_message(frame)
            known = _remember(self._heads, head, envelope.message_frame(self.name(token), b""))
        return known + frame[len(head) :]

    def _read_group(self, sent: GroupFrame) -> bytes:
        extra_recipients = (self.name(token) for token in sent.extra_recipients)
        return envelope.group_frame(self.group_name(sent.group), extra_recipients, sent.payload)

    def _read_marker(self, marker: MembershipMarker) -> bytes:
        group, member = self.group_name(marker.group), self.name(marker.member)
        return envelope.marker_frame(replace(marker, group=group, member=member))

    def marker(self, marker: MembershipMarker) -> MembershipMarker:
        """Return a marker with tokens for names."""
        return replace(marker, group=self.group(GroupName(marker.group)).name, member=self.full(marker.member))


def _remember(cache: dict[K, V], key: K, value: V) -> V:
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = value
    return value


class BlindBackend(StoreWrapper):
    """A backend that hides names from another one: that one sees tokens.

    Args:
        backend: the wrapped backend.
        blinder: makes and reads tokens, with the same key in every process.
    """

    def __init__(self, backend: Backend, blinder: Blinder) -> None:
        super().__init__(backend)
        self._translation = _Translation(Tokens(blinder))

    def open(self) -> BlindStore:
        return BlindStore(self._backend.open(), self._translation)

    def open_blocking(self) -> BlindBlockingStore:
        return BlindBlockingStore(self._backend.open_blocking(), self._translation)


# Any, because the tables below hold functions for fields and replies of all types, each for one type.
_Translate: TypeAlias = Callable[[Any], Any]


class _Translation:
    """Puts tokens for names into commands, and names for tokens into replies.

    A field has the same meaning in every command that has it, so one table by field name serves all commands.
    """

    def __init__(self, tokens: Tokens) -> None:
        self.tokens: Tokens = tokens
        self._fields: Mapping[str, _Translate] = {
            "channel": _unless_none(tokens.channel),
            "counts": _each(self._count),
            "entries": _each(self._entry),
            "group": tokens.group,
            "groups": _each(tokens.group),
            "held": _each(self._held),
            "inbox": tokens.queue,
            "inboxes": _each(tokens.inbox),
            "marker": tokens.marker,
            "others": _each(tokens.full),
            "places": _each(self._held),
            "queue": _unless_none(tokens.queue),
            "extra_recipients": _each(tokens.full),
        }
        self._replies: Mapping[type, _Translate] = {
            c.Flush: lambda begun: replace(begun, inboxes=tokens.names(begun.inboxes)),
            c.Members: lambda members: c.GroupMembers(tokens.names(members.owned), tokens.names(members.others)),
            c.Pop: self._popped,
            c.Publish: self._published,
            c.Read: self._batch,
            c.FindOrphaned: tokens.names,
            c.Unflushed: tokens.names,
        }
        self._plans: dict[type, tuple[tuple[str, _Translate], ...]] = {}
        """By type of command, its fields in order and the translation of each."""

    def command(self, command: c.Command[R]) -> c.Command[R]:
        """Return a command with tokens for names."""
        kind: Callable[..., c.Command[R]] = type(command)
        plan = self._plans.get(type(command)) or self._plan(command)
        return kind(*[translate(getattr(command, name)) for name, translate in plan])

    def reply(self, command: c.Command[R], reply: R) -> R:
        """Return the reply to a command with names for tokens."""
        translate = self._replies.get(type(command))
        translated: R = reply if translate is None else translate(reply)
        return translated

    def replies(self, commands: Iterable[c.Command[R]], outcomes: Iterable[R | StoreError]) -> list[R | StoreError]:
        """Return the outcomes of several commands with names for tokens."""
        return [
            outcome if isinstance(outcome, StoreError) else self.reply(command, outcome)
            for command, outcome in zip(commands, outcomes, strict=True)
        ]

    def _plan(self, command: c.Command[object]) -> tuple[tuple[str, _Translate], ...]:
        plan = tuple((field.name, self._fields.get(field.name, _as_it_is)) for field in fields(command))
        return self._plans.setdefault(type(command), plan)

    # -- fields

    def _count(self, count: c.Count) -> c.Count:
        return replace(count, queue=self.tokens.queue(count.queue))

    def _entry(self, entry: c.Entry) -> c.Entry:
        return c.Entry(entry.stamp, self.tokens.frame(entry.frame))

    def _held(self, held: tuple[str, int]) -> tuple[str, int]:
        name, count = held
        return self.tokens.full(name), count

    # -- replies

    def _popped(self, popped: c.Popped) -> c.Popped:
        if not popped.entries:
            return popped
        read = self.tokens.read
        return replace(popped, entries=tuple(c.Entry(entry.stamp, read(entry.frame)) for entry in popped.entries))

    def _published(self, found: c.Published) -> c.Published:
        names = self.tokens.names
        return replace(found, inboxes=names(found.inboxes), others=names(found.others), full=names(found.full))

    def _batch(self, batch: c.Batch) -> c.Batch:
        read = self.tokens.read
        return c.Batch(tuple([(stamp, read(frame)) for stamp, frame in batch.entries]), batch.position)


def _as_it_is(value: T) -> T:
    return value


def _each(translate: Callable[[T], V]) -> Callable[[Iterable[T]], tuple[V, ...]]:
    return lambda values: tuple(map(translate, values))


def _unless_none(translate: Callable[[T], V]) -> Callable[[T | None], V | None]:
    return lambda value: None if value is None else translate(value)


class BlindStore:
    """A store that hides names from another one: that one sees tokens."""

    def __init__(self, store: Store, translation: _Translation) -> None:
        self._store = store
        self._translation = translation

    async def execute(self, command: c.Command[R], /) -> R:
        translation = self._translation
        return translation.reply(command, await self._store.execute(translation.command(command)))

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        translation = self._translation
        return translation.replies(commands, await self._store.execute_many([*map(translation.command, commands)]))

    async def wait(self, request: c.Wait, /) -> None:
        await self._store.wait(replace(request, queue=self._translation.tokens.queue(request.queue)))

    async def run_id(self, shard: int, /) -> str:
        return await self._store.run_id(shard)

    async def disconnected(self, shard: int, /) -> None:
        await self._store.disconnected(shard)

    async def aclose(self) -> None:
        await self._store.aclose()

    def abandon(self) -> None:
        self._store.abandon()


class BlindBlockingStore:
    """A blocking store that hides names from another one: see `BlindStore`."""

    def __init__(self, store: BlockingStore, translation: _Translation) -> None:
        self._store = store
        self._translation = translation

    def execute(self, command: c.Command[R], /) -> R:
        translation = self._translation
        return translation.reply(command, self._store.execute(translation.command(command)))

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        translation = self._translation
        return translation.replies(commands, self._store.execute_many([*map(translation.command, commands)]))

    def wait(self, request: c.WaitAny, /) -> _BlindWaiting:
        queues = {self._translation.tokens.queue(queue): queue for queue in request.queues}
        return _BlindWaiting(self._store.wait(replace(request, queues=tuple(queues))), queues)

    def close(self) -> None:
        self._store.close()


class _BlindWaiting:
    """A wait of the wrapped store, with names for tokens: see `channel_layer.ports.Waiting`."""

    def __init__(self, waiting: Waiting, queues: Mapping[Queue, Queue]) -> None:
        self._waiting = waiting
        self._queues = queues
        """By token, the queues that are waited for."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self._waiting.descriptors

    @property
    def seconds(self) -> float:
        return self._waiting.seconds

    def end(self) -> tuple[Queue, ...]:
        return tuple(self._queues[queue] for queue in self._waiting.end())


if TYPE_CHECKING:
    _fits: type[Store] = BlindStore
    _fits_too: type[Backend] = BlindBackend
    _fits_threads: type[BlockingStore] = BlindBlockingStore
