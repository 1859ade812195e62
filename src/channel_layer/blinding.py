"""Names as the store sees them: tokens, where names are to be hidden from who can read it.

Only this module knows: it stands in front of a store, and on its other side the whole of the core works with names as
their users wrote them. A token keeps the kind of its name (``!`` and ``?`` stay), so that a store need not know either.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from channel_layer import commands as c
from channel_layer import envelope
from channel_layer.envelope import BadFrame, GroupFrame, MembershipMarker
from channel_layer.fronts import Front
from channel_layer.names import ChannelName, GroupName, Kind, Queue

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from channel_layer.ports import AsyncStore, Backend, Blinder

__all__ = ("BlindBackend", "BlindStore", "Tokens")

_REMEMBERED = 16384
"""Names, tokens and heads of frames that are kept at hand, of each kind."""

_K = TypeVar("_K")
_V = TypeVar("_V")

_GROUP, _NORMAL, _SINGLE, _INBOX = "group", "channel", "single-reader", "inbox"
"""What a name is blinded as; a channel of an inbox is blinded within the name of that inbox, which ends in ``!``."""


class Tokens:
    """Names to tokens and back, remembered. May be used by several threads at once.

    Args:
        blinder: makes and reads tokens.
    """

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
        """Return what a queue is called in the store."""
        return self._queues.get(queue) or _remember(self._queues, queue, self._queue(queue))

    def _queue(self, queue: Queue) -> Queue:
        blind = self._blinder.blind
        match queue.kind:
            case Kind.NORMAL:
                return Queue(blind(queue.name, _NORMAL), queue.kind)
            case Kind.SINGLE_READER:
                return Queue(blind(queue.name, _SINGLE) + "?", queue.kind)
            case Kind.INBOX:
                return Queue(blind(queue.name, _INBOX) + "!", queue.kind)

    def channel(self, channel: ChannelName) -> ChannelName:
        """Return what a channel is called in the store."""
        return self._channels.get(channel.name) or _remember(self._channels, channel.name, self._channel(channel))

    def _channel(self, channel: ChannelName) -> ChannelName:
        queue = self.queue(channel.queue)
        if queue.kind is not Kind.INBOX:
            return ChannelName(queue.name, queue)
        inbox = channel.queue.name
        return ChannelName(queue.name + self._blinder.blind(channel.name.removeprefix(inbox), inbox), queue)

    def full(self, name: str) -> str:
        """Return what a channel is called in the store, by its full name."""
        known = self._channels.get(name)
        return (known or self.channel(ChannelName.parse(name))).name

    def inbox(self, name: str) -> str:
        """Return what an inbox is called in the store, by its name."""
        return self.queue(Queue(name, Kind.INBOX)).name

    def group(self, group: GroupName) -> GroupName:
        """Return what a group is called in the store."""
        known = self._groups.get(group.name)
        return known or _remember(self._groups, group.name, GroupName(self._blinder.blind(group.name, _GROUP)))

    def frame(self, frame: bytes) -> bytes:
        """Return a message frame that `message` has revealed, as the store had it."""
        name, payload = envelope.read_message(frame)
        return envelope.message_frame(self.full(name), payload)

    # -- and back

    def name(self, token: str) -> str:
        """Return the name of a channel or an inbox.

        Raises:
            BadFrame: this is no token of ours.
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
            BadFrame: this is no token of ours.
        """
        known = self._group_names.get(token)
        return known or _remember(self._group_names, token, self._blinder.reveal(token, _GROUP))

    def names(self, tokens: Iterable[str]) -> tuple[str, ...]:
        """Return the names of channels or inboxes, but for tokens that are not ours: nobody here could mean those."""
        return tuple(self._known(tokens))

    def _known(self, tokens: Iterable[str]) -> Iterator[str]:
        for token in tokens:
            try:
                yield self.name(token)
            except BadFrame:
                continue

    def read(self, frame: bytes) -> bytes:
        """Return a frame with its names; an empty one, which counts as undecodable, if they are not ours."""
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
        """Return a message frame with its channel's name.

        Raises:
            BadFrame: it is none, or its channel's name is no token of ours.
        """
        head = envelope.message_head(frame)
        known = self._heads.get(head)
        if known is None:
            token, _ = envelope.read_message(frame)
            known = _remember(self._heads, head, envelope.message_frame(self.name(token), b""))
        return known + frame[len(head) :]

    def _read_group(self, sent: GroupFrame) -> bytes:
        riders = (self.name(token) for token in sent.riders)
        return envelope.group_frame(self.group_name(sent.group), riders, sent.payload)

    def _read_marker(self, marker: MembershipMarker) -> bytes:
        group, member = self.group_name(marker.group), self.name(marker.member)
        return envelope.marker_frame(replace(marker, group=group, member=member))

    def marker(self, marker: MembershipMarker) -> MembershipMarker:
        """Return a marker as it goes to the store."""
        return replace(marker, group=self.group(GroupName(marker.group)).name, member=self.full(marker.member))


def _remember(where: dict[_K, _V], key: _K, value: _V) -> _V:
    if len(where) >= _REMEMBERED:
        where.clear()
    where[key] = value
    return value


class BlindBackend(Front):
    """Another backend, which gets to see tokens instead of names.

    Args:
        backend: the one behind.
        blinder: makes and reads tokens; the same in every process.
    """

    def __init__(self, backend: Backend, blinder: Blinder) -> None:
        super().__init__(backend)
        self._tokens = Tokens(blinder)

    def open(self) -> BlindStore:
        """Make a store for the running event loop."""
        return BlindStore(self._backend.open(), self._tokens)


class BlindStore:
    """The store port in front of another store, which gets to see tokens instead of names.

    Args:
        store: does the work.
        tokens: translates.
    """

    def __init__(self, store: AsyncStore, tokens: Tokens) -> None:
        self._store = store
        self._tokens = tokens

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        channel = self._tokens.channel(request.channel)
        return await self._store.push(
            c.Push(request.shard, channel, request.capacity, request.payload, request.to_member, request.if_attended)
        )

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._store.forgive(replace(request, channel=self._tokens.channel(request.channel)))

    async def pop(self, request: c.Pop, /) -> c.Popped:
        popped = await self._store.pop(replace(request, queue=self._tokens.queue(request.queue)))
        if not popped.entries:
            return popped
        read = self._tokens.read
        entries = tuple(c.Entry(entry.stamp, read(entry.frame)) for entry in popped.entries)
        return replace(popped, entries=entries)

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        frame = self._tokens.frame
        entries = tuple(c.Entry(entry.stamp, frame(entry.frame)) for entry in request.entries)
        return await self._store.put_back(c.PutBack(request.shard, self._tokens.queue(request.queue), entries))

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._store.unclaim(replace(request, inbox=self._tokens.queue(request.inbox)))

    async def wait(self, request: c.Wait, /) -> None:
        await self._store.wait(replace(request, queue=self._tokens.queue(request.queue)))

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return self._tokens.names(await self._store.unattended(request))

    async def pending(self, request: c.Pending, /) -> int:
        return await self._store.pending(replace(request, channel=self._tokens.channel(request.channel)))

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        inbox, held = self._tokens.queue(request.inbox), self._places(request.held)
        return await self._store.claim(replace(request, inbox=inbox, held=held))

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        return await self._store.renew(replace(request, inbox=self._tokens.queue(request.inbox)))

    async def release(self, request: c.Release, /) -> int:
        return await self._store.release(replace(request, inbox=self._tokens.queue(request.inbox)))

    async def read(self, request: c.Read, /) -> c.Batch:
        batch = await self._store.read(replace(request, inbox=self._tokens.queue(request.inbox)))
        read = self._tokens.read
        return c.Batch(tuple([(stamp, read(frame)) for stamp, frame in batch.entries]), batch.position)

    async def give_back(self, request: c.GiveBack, /) -> None:
        inbox, places = self._tokens.queue(request.inbox), self._places(request.places)
        await self._store.give_back(replace(request, inbox=inbox, places=places))

    async def mark(self, request: c.Mark, /) -> bool:
        inbox, marker = self._tokens.queue(request.inbox), self._tokens.marker(request.marker)
        return await self._store.mark(c.Mark(request.shard, inbox, marker))

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._store.alive(c.Alive(request.shard, tuple(map(self._tokens.queue, request.inboxes))))

    def _places(self, places: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((self._tokens.full(name), count) for name, count in places)

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        group, channel = self._tokens.group(request.group), self._tokens.channel(request.channel)
        return await self._store.join(replace(request, group=group, channel=channel))

    async def leave(self, request: c.Leave, /) -> c.Changed:
        group, channel = self._tokens.group(request.group), self._tokens.channel(request.channel)
        return await self._store.leave(replace(request, group=group, channel=channel))

    async def publish(self, request: c.Publish, /) -> c.Published:
        names = self._tokens.names
        found = await self._store.publish(replace(request, group=self._tokens.group(request.group)))
        return replace(found, inboxes=names(found.inboxes), others=names(found.others), full=names(found.full))

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        inbox, group = self._tokens.queue(request.inbox), self._tokens.group(request.group)
        riders = tuple(map(self._tokens.full, request.riders))
        return await self._store.deliver(replace(request, inbox=inbox, group=group, riders=riders))

    async def prune(self, request: c.Prune, /) -> None:
        group = self._tokens.group(request.group)
        inboxes, others = map(self._tokens.inbox, request.inboxes), map(self._tokens.full, request.others)
        await self._store.prune(c.Prune(request.shard, group, request.version, tuple(inboxes), tuple(others)))

    async def members(self, request: c.Members, /) -> c.Roster:
        roster = await self._store.members(replace(request, group=self._tokens.group(request.group)))
        return c.Roster(self._tokens.names(roster.owned), self._tokens.names(roster.others))

    async def touch(self, request: c.Touch, /) -> None:
        await self._store.touch(c.Touch(request.shard, tuple(map(self._tokens.group, request.groups))))

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        begun = await self._store.flush(request)
        return replace(begun, inboxes=self._tokens.names(begun.inboxes))

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        inboxes = tuple(map(self._tokens.inbox, request.inboxes))
        return self._tokens.names(await self._store.unflushed(replace(request, inboxes=inboxes)))

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._store.acknowledge(replace(request, inbox=self._tokens.queue(request.inbox)))

    # -- connections

    async def incarnation(self, shard: int, /) -> str:
        return await self._store.incarnation(shard)

    async def disconnected(self, shard: int, /) -> None:
        await self._store.disconnected(shard)

    async def aclose(self) -> None:
        """Let go of every connection."""
        await self._store.aclose()


if TYPE_CHECKING:
    _fits: type[AsyncStore] = BlindStore
    _fits_too: type[Backend] = BlindBackend
