"""Names as the store sees them: tokens, where names are to be hidden from who can read it.

Only this module knows: it stands in front of a store, and on its other side the whole of the core works with names as
their users wrote them. A token keeps the kind of its name (``!`` and ``?`` stay), so that a store need not know either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from channel_layer import commands as c
from channel_layer.domain import frames as envelope
from channel_layer.domain.frames import BadFrame, GroupFrame, MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.errors import StoreError
from channel_layer.stores.wrapper import Front

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Iterator, Mapping, Sequence

    from channel_layer.domain.rates import Rates
    from channel_layer.ports import AsyncStore, Backend, Blinder, BlockingStore, Loan, Waiting

__all__ = ("BlindBackend", "BlindBlockingStore", "BlindStore", "Tokens")

_REMEMBERED = 16384
"""Names, tokens and heads of frames that are kept at hand, of each kind."""

_K = TypeVar("_K")
_R = TypeVar("_R")
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

    def open_blocking(self) -> BlindBlockingStore:
        """Make a store for the threads of this process."""
        return BlindBlockingStore(self._backend.open_blocking(), self._tokens)


# One table for requests and replies of all types; each is handed to the method for its own type, and to no other.
_Translate: TypeAlias = Callable[[Any], Any]


class _Words:
    """Requests with tokens for names, and replies with names for tokens.

    Args:
        tokens: translates.
    """

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._requests: Mapping[type, _Translate] = {
            c.Alive: self.alive,
            c.Deliver: self.deliver,
            c.Forgive: self.forgive,
            c.GiveBack: self.give_back,
            c.Join: self.join,
            c.Leave: self.leave,
            c.Mark: self.mark,
            c.Members: self.members,
            c.Pending: self.pending,
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
            c.Pop: self.pop,
            c.Prune: self.prune,
            c.Publish: self.publish,
            c.Push: self.push,
            c.PutBack: self.put_back,
            c.Unclaim: self.unclaim,
            c.Unflushed: self.unflushed,
        }
        self._replies: Mapping[type, _Translate] = {
            c.Flush: self.flushing,
            c.Members: self.roster,
            c.Pop: self.popped,
            c.Publish: self.published,
            c.Unattended: tokens.names,
            c.Unflushed: tokens.names,
        }

    def request(self, request: c.BlockingCommand[_R]) -> c.BlockingCommand[_R]:
        """Return a request of any type as it goes to the store."""
        translate = self._requests.get(type(request))
        translated: c.BlockingCommand[_R] = request if translate is None else translate(request)
        return translated

    def reply(self, request: c.BlockingCommand[_R], reply: _R) -> _R:
        """Return the reply to a request of any type as it goes to the core."""
        translate = self._replies.get(type(request))
        translated: _R = reply if translate is None else translate(reply)
        return translated

    def outcomes(
        self, requests: Sequence[c.BlockingCommand[_R]], outcomes: Iterable[_R | StoreError]
    ) -> list[_R | StoreError]:
        """Return what came of several requests as it goes to the core."""
        return [
            outcome if isinstance(outcome, StoreError) else self.reply(request, outcome)
            for request, outcome in zip(requests, outcomes, strict=True)
        ]

    # -- requests

    def push(self, request: c.Push) -> c.Push:
        channel = self._tokens.channel(request.channel)
        return c.Push(request.shard, channel, request.capacity, request.payload, request.to_member, request.if_attended)

    def forgive(self, request: c.Forgive) -> c.Forgive:
        return replace(request, channel=self._tokens.channel(request.channel))

    def pop(self, request: c.Pop) -> c.Pop:
        return replace(request, queue=self._tokens.queue(request.queue))

    def put_back(self, request: c.PutBack) -> c.PutBack:
        frame = self._tokens.frame
        entries = tuple(c.Entry(entry.stamp, frame(entry.frame)) for entry in request.entries)
        return c.PutBack(request.shard, self._tokens.queue(request.queue), entries)

    def unclaim(self, request: c.Unclaim) -> c.Unclaim:
        return replace(request, inbox=self._tokens.queue(request.inbox))

    def pending(self, request: c.Pending) -> c.Pending:
        return replace(request, channel=self._tokens.channel(request.channel))

    def report(self, request: c.Report) -> c.Report:
        queue = self._tokens.queue
        counts = tuple(c.Count(queue(each.queue), each.messages, each.refused) for each in request.counts)
        return replace(request, counts=counts)

    def reported(self, request: c.Reported) -> c.Reported:
        return request if request.queue is None else replace(request, queue=self._tokens.queue(request.queue))

    def survey(self, request: c.Survey) -> c.Survey:
        return request if request.channel is None else replace(request, channel=self._tokens.channel(request.channel))

    def give_back(self, request: c.GiveBack) -> c.GiveBack:
        return replace(request, inbox=self._tokens.queue(request.inbox), places=self.places(request.places))

    def places(self, places: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
        return tuple((self._tokens.full(name), count) for name, count in places)

    def mark(self, request: c.Mark) -> c.Mark:
        return c.Mark(request.shard, self._tokens.queue(request.inbox), self._tokens.marker(request.marker))

    def alive(self, request: c.Alive) -> c.Alive:
        return c.Alive(request.shard, tuple(map(self._tokens.queue, request.inboxes)))

    def join(self, request: c.Join) -> c.Join:
        return replace(request, group=self._tokens.group(request.group), channel=self._tokens.channel(request.channel))

    def leave(self, request: c.Leave) -> c.Leave:
        return replace(request, group=self._tokens.group(request.group), channel=self._tokens.channel(request.channel))

    def publish(self, request: c.Publish) -> c.Publish:
        return replace(request, group=self._tokens.group(request.group))

    def deliver(self, request: c.Deliver) -> c.Deliver:
        inbox, group = self._tokens.queue(request.inbox), self._tokens.group(request.group)
        return replace(request, inbox=inbox, group=group, riders=tuple(map(self._tokens.full, request.riders)))

    def prune(self, request: c.Prune) -> c.Prune:
        group = self._tokens.group(request.group)
        inboxes, others = map(self._tokens.inbox, request.inboxes), map(self._tokens.full, request.others)
        return c.Prune(request.shard, group, request.version, tuple(inboxes), tuple(others))

    def members(self, request: c.Members) -> c.Members:
        return replace(request, group=self._tokens.group(request.group))

    def unflushed(self, request: c.Unflushed) -> c.Unflushed:
        return replace(request, inboxes=tuple(map(self._tokens.inbox, request.inboxes)))

    # -- replies

    def popped(self, popped: c.Popped) -> c.Popped:
        if not popped.entries:
            return popped
        read = self._tokens.read
        return replace(popped, entries=tuple(c.Entry(entry.stamp, read(entry.frame)) for entry in popped.entries))

    def published(self, found: c.Published) -> c.Published:
        names = self._tokens.names
        return replace(found, inboxes=names(found.inboxes), others=names(found.others), full=names(found.full))

    def roster(self, roster: c.Roster) -> c.Roster:
        return c.Roster(self._tokens.names(roster.owned), self._tokens.names(roster.others))

    def flushing(self, begun: c.Flushing) -> c.Flushing:
        return replace(begun, inboxes=self._tokens.names(begun.inboxes))


class BlindStore:
    """The store port in front of another store, which gets to see tokens instead of names.

    Args:
        store: does the work.
        tokens: translates.
    """

    def __init__(self, store: AsyncStore, tokens: Tokens) -> None:
        self._store = store
        self._tokens = tokens
        self._words = _Words(tokens)

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        return await self._store.push(self._words.push(request))

    async def forgive(self, request: c.Forgive, /) -> None:
        await self._store.forgive(self._words.forgive(request))

    async def pop(self, request: c.Pop, /) -> c.Popped:
        return self._words.popped(await self._store.pop(self._words.pop(request)))

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        return await self._store.put_back(self._words.put_back(request))

    async def unclaim(self, request: c.Unclaim, /) -> None:
        await self._store.unclaim(self._words.unclaim(request))

    async def wait(self, request: c.Wait, /) -> None:
        await self._store.wait(replace(request, queue=self._tokens.queue(request.queue)))

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return self._tokens.names(await self._store.unattended(request))

    async def pending(self, request: c.Pending, /) -> int:
        return await self._store.pending(self._words.pending(request))

    # -- statistics

    async def report(self, request: c.Report, /) -> None:
        await self._store.report(self._words.report(request))

    async def reported(self, request: c.Reported, /) -> Rates:
        return await self._store.reported(self._words.reported(request))

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        return await self._store.survey(self._words.survey(request))

    # -- minted inboxes

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        inbox, held = self._tokens.queue(request.inbox), self._words.places(request.held)
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
        await self._store.give_back(self._words.give_back(request))

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._store.mark(self._words.mark(request))

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._store.alive(self._words.alive(request))

    # -- groups

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._store.join(self._words.join(request))

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._store.leave(self._words.leave(request))

    async def publish(self, request: c.Publish, /) -> c.Published:
        return self._words.published(await self._store.publish(self._words.publish(request)))

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._store.deliver(self._words.deliver(request))

    async def prune(self, request: c.Prune, /) -> None:
        await self._store.prune(self._words.prune(request))

    async def members(self, request: c.Members, /) -> c.Roster:
        return self._words.roster(await self._store.members(self._words.members(request)))

    async def touch(self, request: c.Touch, /) -> None:
        await self._store.touch(c.Touch(request.shard, tuple(map(self._tokens.group, request.groups))))

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        return self._words.flushing(await self._store.flush(request))

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._tokens.names(await self._store.unflushed(self._words.unflushed(request)))

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


class BlindBlockingStore:
    """The same for threads: see `BlindStore`.

    Args:
        store: does the work.
        tokens: translates.
    """

    def __init__(self, store: BlockingStore, tokens: Tokens) -> None:
        self._store = store
        self._tokens = tokens
        self._words = _Words(tokens)

    def together(self, requests: Sequence[c.BlockingCommand[_R]], /) -> list[_R | StoreError]:
        words = self._words
        return words.outcomes(requests, self._store.together([words.request(request) for request in requests]))

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        return self._store.push(self._words.push(request))

    def forgive(self, request: c.Forgive, /) -> None:
        self._store.forgive(self._words.forgive(request))

    def pop(self, request: c.Pop, /) -> c.Popped:
        return self._words.popped(self._store.pop(self._words.pop(request)))

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        return self._store.put_back(self._words.put_back(request))

    def unclaim(self, request: c.Unclaim, /) -> None:
        self._store.unclaim(self._words.unclaim(request))

    def waiting(self, request: c.WaitAny, /) -> _BlindWaiting:
        queues = {self._tokens.queue(queue): queue for queue in request.queues}
        return _BlindWaiting(self._store.waiting(replace(request, queues=tuple(queues))), queues)

    def unattended(self, request: c.Unattended, /) -> tuple[str, ...]:
        return self._tokens.names(self._store.unattended(request))

    def pending(self, request: c.Pending, /) -> int:
        return self._store.pending(self._words.pending(request))

    def report(self, request: c.Report, /) -> None:
        self._store.report(self._words.report(request))

    def reported(self, request: c.Reported, /) -> Rates:
        return self._store.reported(self._words.reported(request))

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        return self._store.survey(self._words.survey(request))

    # -- minted inboxes

    def give_back(self, request: c.GiveBack, /) -> None:
        self._store.give_back(self._words.give_back(request))

    def mark(self, request: c.Mark, /) -> bool:
        return self._store.mark(self._words.mark(request))

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return self._store.alive(self._words.alive(request))

    # -- groups

    def join(self, request: c.Join, /) -> c.Changed:
        return self._store.join(self._words.join(request))

    def leave(self, request: c.Leave, /) -> c.Changed:
        return self._store.leave(self._words.leave(request))

    def publish(self, request: c.Publish, /) -> c.Published:
        return self._words.published(self._store.publish(self._words.publish(request)))

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._store.deliver(self._words.deliver(request))

    def prune(self, request: c.Prune, /) -> None:
        self._store.prune(self._words.prune(request))

    def members(self, request: c.Members, /) -> c.Roster:
        return self._words.roster(self._store.members(self._words.members(request)))

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        return self._words.flushing(self._store.flush(request))

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._tokens.names(self._store.unflushed(self._words.unflushed(request)))

    def lend(self) -> _BlindLoan | None:
        loan = self._store.lend()
        return None if loan is None else _BlindLoan(loan, self._words)

    def close(self) -> None:
        """Let go of every connection."""
        self._store.close()


class _BlindLoan:
    """See `channel_layer.ports.Loan`."""

    def __init__(self, loan: Loan, words: _Words) -> None:
        self._loan = loan
        self._words = words

    async def together(self, requests: Sequence[c.BlockingCommand[_R]], /) -> list[_R | StoreError]:
        words = self._words
        return words.outcomes(requests, await self._loan.together([words.request(request) for request in requests]))

    def end(self) -> Awaitable[object] | None:
        return self._loan.end()


class _BlindWaiting:
    """See `channel_layer.ports.Waiting`."""

    def __init__(self, waiting: Waiting, queues: Mapping[Queue, Queue]) -> None:
        self._waiting = waiting
        self._queues = queues

    @property
    def descriptors(self) -> tuple[int, ...]:
        return self._waiting.descriptors

    @property
    def seconds(self) -> float:
        return self._waiting.seconds

    def end(self) -> tuple[Queue, ...]:
        return tuple(self._queues[queue] for queue in self._waiting.end())


if TYPE_CHECKING:
    _fits: type[AsyncStore] = BlindStore
    _fits_too: type[Backend] = BlindBackend
    _fits_threads: type[BlockingStore] = BlindBlockingStore
