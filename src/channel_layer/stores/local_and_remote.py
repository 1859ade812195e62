"""Two stores as one: this machine's own, and one that all machines see.

The core knows the local one as one more shard, the last; what may be there and when is said by
`channel_layer.domain.routing`. So a wait for a channel that both may hold is one wait, at the speed of whichever
answers first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from channel_layer import commands as c
from channel_layer.stores.wrapper import one_by_one

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from channel_layer.domain.rates import Rates
    from channel_layer.errors import StoreError
    from channel_layer.ports import AsyncStore, Backend, BlockingStore, Capabilities, Loan, Waiting

__all__ = ("LocalAndRemote",)

_R = TypeVar("_R")


class LocalAndRemote:
    """A backend of two.

    Args:
        local: keeps the normal channels of this machine. One shard, which notes who attends to its queues
            (`channel_layer.ports.Capabilities.attends`).
        remote: keeps everything else, and what nobody here reads.

    Raises:
        ValueError: *local* has several shards, or does not note who attends.
    """

    def __init__(self, local: Backend, remote: Backend) -> None:
        if len(local.identities) != 1 or not local.capabilities.attends:
            raise ValueError("the local store has one shard and notes who attends to its queues; this one does not")
        self._local = local
        self._remote = remote
        able, here = remote.capabilities, local.capabilities
        self.capabilities: Capabilities = replace(
            able,
            blocking=able.blocking and here.blocking,
            lapses=able.lapses and here.lapses,
            statistics=able.statistics and here.statistics,
            attends=False,
            local=True,
        )
        self.identities: tuple[str, ...] = (*remote.identities, "local")

    @property
    def connects(self) -> bool:
        """Whether opening either costs connections."""
        return self._local.connects or self._remote.connects

    def open(self) -> _Halves:
        """Make a store for the running event loop."""
        return _Halves(self._local.open(), self._remote.open(), len(self._remote.identities))

    def open_blocking(self) -> _BlockingHalves:
        """Make a store for the threads of this process."""
        return _BlockingHalves(self._local.open_blocking(), self._remote.open_blocking(), len(self._remote.identities))

    def forked(self) -> None:
        """Tell both."""
        self._local.forked()
        self._remote.forked()


class _Halves:
    """The store port over two stores. Only what concerns normal channels can go to the local one.

    Args:
        local: this machine's.
        remote: the one that all machines see.
        shards: how many shards that one has.
    """

    def __init__(self, local: AsyncStore, remote: AsyncStore, shards: int) -> None:
        self._local = local
        self._remote = remote
        self._shards = shards

    # -- messages

    async def push(self, request: c.Push, /) -> c.Pushed:
        if request.shard < self._shards:
            return await self._remote.push(request)
        return await self._local.push(_push_here(request))

    async def forgive(self, request: c.Forgive, /) -> None:
        if request.shard < self._shards:
            await self._remote.forgive(request)
        else:
            await self._local.forgive(c.Forgive(0, request.channel))

    async def pop(self, request: c.Pop, /) -> c.Popped:
        if request.shard < self._shards:
            return await self._remote.pop(request)
        return await self._local.pop(_pop_here(request))

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        if request.shard < self._shards:
            return await self._remote.put_back(request)
        return await self._local.put_back(c.PutBack(0, request.queue, request.entries))

    async def unclaim(self, request: c.Unclaim, /) -> None:
        if request.shard < self._shards:
            await self._remote.unclaim(request)
        else:
            await self._local.unclaim(c.Unclaim(0, request.inbox, request.claimant))

    async def wait(self, request: c.Wait, /) -> None:
        if request.shard < self._shards:
            await self._remote.wait(request)
        else:
            await self._local.wait(c.Wait(0, request.queue, request.block))

    async def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        return await self._local.unattended(c.Unattended(0))

    async def pending(self, request: c.Pending, /) -> int:
        if request.shard < self._shards:
            return await self._remote.pending(request)
        return await self._local.pending(c.Pending(0, request.channel))

    # -- statistics

    async def report(self, request: c.Report, /) -> None:
        if request.shard < self._shards:
            await self._remote.report(request)
        else:
            await self._local.report(replace(request, shard=0))

    async def reported(self, request: c.Reported, /) -> Rates:
        if request.shard < self._shards:
            return await self._remote.reported(request)
        return await self._local.reported(c.Reported(0, request.queue))

    async def survey(self, request: c.Survey, /) -> c.Surveyed:
        if request.shard < self._shards:
            return await self._remote.survey(request)
        return await self._local.survey(c.Survey(0, request.channel))

    # -- minted inboxes, which all machines see

    async def claim(self, request: c.Claim, /) -> c.Claimed:
        return await self._remote.claim(request)

    async def renew(self, request: c.Renew, /) -> c.Renewed:
        return await self._remote.renew(request)

    async def release(self, request: c.Release, /) -> int:
        return await self._remote.release(request)

    async def read(self, request: c.Read, /) -> c.Batch:
        return await self._remote.read(request)

    async def give_back(self, request: c.GiveBack, /) -> None:
        await self._remote.give_back(request)

    async def mark(self, request: c.Mark, /) -> bool:
        return await self._remote.mark(request)

    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return await self._remote.alive(request)

    # -- groups, likewise

    async def join(self, request: c.Join, /) -> c.Changed:
        return await self._remote.join(request)

    async def leave(self, request: c.Leave, /) -> c.Changed:
        return await self._remote.leave(request)

    async def publish(self, request: c.Publish, /) -> c.Published:
        return await self._remote.publish(request)

    async def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return await self._remote.deliver(request)

    async def prune(self, request: c.Prune, /) -> None:
        await self._remote.prune(request)

    async def members(self, request: c.Members, /) -> c.Roster:
        return await self._remote.members(request)

    async def touch(self, request: c.Touch, /) -> None:
        await self._remote.touch(request)

    # -- flush

    async def flush(self, request: c.Flush, /) -> c.Flushing:
        if request.shard < self._shards:
            return await self._remote.flush(request)
        return await self._local.flush(c.Flush(0, request.generation))

    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return await self._remote.unflushed(request) if request.shard < self._shards else ()

    async def acknowledge(self, request: c.Acknowledge, /) -> None:
        await self._remote.acknowledge(request)

    # -- connections

    async def incarnation(self, shard: int, /) -> str:
        return await (self._remote.incarnation(shard) if shard < self._shards else self._local.incarnation(0))

    async def disconnected(self, shard: int, /) -> None:
        await (self._remote.disconnected(shard) if shard < self._shards else self._local.disconnected(0))

    async def aclose(self) -> None:
        """Let go of both."""
        try:
            await self._local.aclose()
        finally:
            await self._remote.aclose()


class _BlockingHalves:
    """The blocking store port over two stores: see `_Halves`.

    Args:
        local: this machine's.
        remote: the one that all machines see.
        shards: how many shards that one has.
    """

    def __init__(self, local: BlockingStore, remote: BlockingStore, shards: int) -> None:
        self._local = local
        self._remote = remote
        self._shards = shards

    def together(self, requests: Sequence[c.BlockingCommand[_R]], /) -> list[_R | StoreError]:
        there, here = _parted(requests, self._shards)
        outcomes: dict[int, _R | StoreError] = {}
        if there:
            outcomes.update(zip(there, self._remote.together(list(there.values())), strict=True))
        outcomes.update(zip(here, one_by_one(self, list(here.values())), strict=True))
        return [outcomes[place] for place in range(len(requests))]

    # -- messages

    def push(self, request: c.Push, /) -> c.Pushed:
        if request.shard < self._shards:
            return self._remote.push(request)
        return self._local.push(_push_here(request))

    def forgive(self, request: c.Forgive, /) -> None:
        if request.shard < self._shards:
            self._remote.forgive(request)
        else:
            self._local.forgive(c.Forgive(0, request.channel))

    def pop(self, request: c.Pop, /) -> c.Popped:
        if request.shard < self._shards:
            return self._remote.pop(request)
        return self._local.pop(_pop_here(request))

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        if request.shard < self._shards:
            return self._remote.put_back(request)
        return self._local.put_back(c.PutBack(0, request.queue, request.entries))

    def unclaim(self, request: c.Unclaim, /) -> None:
        if request.shard < self._shards:
            self._remote.unclaim(request)
        else:
            self._local.unclaim(c.Unclaim(0, request.inbox, request.claimant))

    def waiting(self, request: c.WaitAny, /) -> Waiting:
        if request.shard < self._shards:
            return self._remote.waiting(request)
        return self._local.waiting(c.WaitAny(0, request.queues, request.block))

    def unattended(self, _request: c.Unattended, /) -> tuple[str, ...]:
        return self._local.unattended(c.Unattended(0))

    def pending(self, request: c.Pending, /) -> int:
        if request.shard < self._shards:
            return self._remote.pending(request)
        return self._local.pending(c.Pending(0, request.channel))

    def report(self, request: c.Report, /) -> None:
        if request.shard < self._shards:
            self._remote.report(request)
        else:
            self._local.report(replace(request, shard=0))

    def reported(self, request: c.Reported, /) -> Rates:
        if request.shard < self._shards:
            return self._remote.reported(request)
        return self._local.reported(c.Reported(0, request.queue))

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        if request.shard < self._shards:
            return self._remote.survey(request)
        return self._local.survey(c.Survey(0, request.channel))

    # -- minted inboxes, which all machines see

    def give_back(self, request: c.GiveBack, /) -> None:
        self._remote.give_back(request)

    def mark(self, request: c.Mark, /) -> bool:
        return self._remote.mark(request)

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return self._remote.alive(request)

    # -- groups, likewise

    def join(self, request: c.Join, /) -> c.Changed:
        return self._remote.join(request)

    def leave(self, request: c.Leave, /) -> c.Changed:
        return self._remote.leave(request)

    def publish(self, request: c.Publish, /) -> c.Published:
        return self._remote.publish(request)

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._remote.deliver(request)

    def prune(self, request: c.Prune, /) -> None:
        self._remote.prune(request)

    def members(self, request: c.Members, /) -> c.Roster:
        return self._remote.members(request)

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        if request.shard < self._shards:
            return self._remote.flush(request)
        return self._local.flush(c.Flush(0, request.generation))

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        return self._remote.unflushed(request) if request.shard < self._shards else ()

    def lend(self) -> _HalvesLoan | None:
        if self._local.lend() is None or (remote := self._remote.lend()) is None:
            return None
        return _HalvesLoan(self, remote, self._shards)

    def close(self) -> None:
        """Let go of both."""
        try:
            self._local.close()
        finally:
            self._remote.close()


class _HalvesLoan:
    """See `channel_layer.ports.Loan`: what is for this machine's store is done by the way.

    Args:
        store: both.
        remote: lent by the one that all machines see.
        shards: how many shards that one has.
    """

    def __init__(self, store: _BlockingHalves, remote: Loan, shards: int) -> None:
        self._store = store
        self._remote = remote
        self._shards = shards

    async def together(self, requests: Sequence[c.BlockingCommand[_R]], /) -> list[_R | StoreError]:
        there, here = _parted(requests, self._shards)
        outcomes: dict[int, _R | StoreError] = {}
        outcomes.update(zip(here, one_by_one(self._store, list(here.values())), strict=True))
        if there:
            outcomes.update(zip(there, await self._remote.together(list(there.values())), strict=True))
        return [outcomes[place] for place in range(len(requests))]

    def end(self) -> Awaitable[object] | None:
        return self._remote.end()


_Places: TypeAlias = "dict[int, c.BlockingCommand[_R]]"


def _parted(requests: Sequence[c.BlockingCommand[_R]], shards: int) -> tuple[_Places[_R], _Places[_R]]:
    """Return those for the remote store and those for the local one, each by its place among all."""
    numbered = dict(enumerate(requests))
    there = {place: request for place, request in numbered.items() if request.shard < shards}
    return there, {place: request for place, request in numbered.items() if request.shard >= shards}


def _push_here(request: c.Push) -> c.Push:
    return c.Push(0, request.channel, request.capacity, request.payload, request.to_member, request.if_attended)


def _pop_here(request: c.Pop) -> c.Pop:
    return c.Pop(0, request.queue, request.count, request.claimant, request.attend)


if TYPE_CHECKING:
    _fits: type[AsyncStore] = _Halves
    _fits_too: type[Backend] = LocalAndRemote
    _fits_threads: type[BlockingStore] = _BlockingHalves
