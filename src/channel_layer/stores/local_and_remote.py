"""Two stores as one: this machine's own, and one that all machines see.

The core knows the local one as one more shard, the last; what may be there and when is said by
`channel_layer.domain.routing`. So a wait for a channel that both may hold is one wait, at the speed of whichever
answers first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from channel_layer.stores.wrapper import execute_each

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from channel_layer import commands as c
    from channel_layer.errors import StoreError
    from channel_layer.ports import Backend, BlockingStore, Capabilities, Store, Waiting

__all__ = ("LocalAndRemote",)

R = TypeVar("R")


class LocalAndRemote:
    """A backend of two.

    Args:
        local: keeps the normal channels of this machine. One shard, which notes who registers_readers to its queues
            (`channel_layer.ports.Capabilities.registers_readers`).
        remote: keeps everything else, and what nobody here reads.

    Raises:
        ValueError: *local* has several shards, or does not note who registers_readers.
    """

    def __init__(self, local: Backend, remote: Backend) -> None:
        if len(local.identities) != 1 or not local.capabilities.registers_readers:
            raise ValueError(
                "the local store has one shard and notes who registers_readers to its queues; this one does not"
            )
        self._local = local
        self._remote = remote
        able, here = remote.capabilities, local.capabilities
        self.capabilities: Capabilities = replace(
            able,
            blocking=able.blocking and here.blocking,
            tracks_unread=able.tracks_unread and here.tracks_unread,
            statistics=able.statistics and here.statistics,
            registers_readers=False,
            local=True,
        )
        self.identities: tuple[str, ...] = (*remote.identities, "local")

    @property
    def connects(self) -> bool:
        """Whether opening either costs connections."""
        return self._local.connects or self._remote.connects

    def open(self) -> _LocalAndRemoteStore:
        """Make a store for the running event loop."""
        return _LocalAndRemoteStore(self._local.open(), self._remote.open(), len(self._remote.identities))

    def open_blocking(self) -> _BlockingLocalAndRemoteStore:
        """Make a store for the threads of this process."""
        return _BlockingLocalAndRemoteStore(
            self._local.open_blocking(), self._remote.open_blocking(), len(self._remote.identities)
        )

    def forked(self) -> None:
        """Tell both."""
        self._local.forked()
        self._remote.forked()


class _LocalAndRemoteStore:
    """The store port over two stores. Only what concerns normal channels can go to the local one.

    Args:
        local: this machine's.
        remote: the one that all machines see.
        shards: how many shards the remote one has.
    """

    def __init__(self, local: Store, remote: Store, shards: int) -> None:
        self._local = local
        self._remote = remote
        self._shards = shards

    def execute(self, command: c.Command[R], /) -> Awaitable[R]:
        """Carry out a command, in the store that has its shard."""
        if command.shard < self._shards:
            return self._remote.execute(command)
        return self._local.execute(command)

    async def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, those of each store together."""
        if all(command.shard < self._shards for command in commands):
            return await self._remote.execute_many(commands)
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        """Wait for a queue."""
        if request.shard < self._shards:
            await self._remote.wait(request)
        else:
            await self._local.wait(request)

    async def run_id(self, shard: int, /) -> str:
        """Return what names this run of the server."""
        return await (self._remote.run_id(shard) if shard < self._shards else self._local.run_id(0))

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection is lost."""
        await (self._remote.disconnected(shard) if shard < self._shards else self._local.disconnected(0))

    async def aclose(self) -> None:
        """Let go of both."""
        try:
            await self._local.aclose()
        finally:
            await self._remote.aclose()


class _BlockingLocalAndRemoteStore:
    """The blocking store port over two stores: see `_LocalAndRemoteStore`.

    Args:
        local: this machine's.
        remote: the one that all machines see.
        shards: how many shards the remote one has.
    """

    def __init__(self, local: BlockingStore, remote: BlockingStore, shards: int) -> None:
        self._local = local
        self._remote = remote
        self._shards = shards

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, in the store that has its shard."""
        if command.shard < self._shards:
            return self._remote.execute(command)
        return self._local.execute(command)

    def execute_many(self, commands: Sequence[c.Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, those of each store together."""
        remote = [command for command in commands if command.shard < self._shards]
        local = [command for command in commands if command.shard >= self._shards]
        remote_outcomes = iter(self._remote.execute_many(remote) if remote else ())
        local_outcomes = iter(self._local.execute_many(local) if local else ())
        return [next(remote_outcomes if command.shard < self._shards else local_outcomes) for command in commands]

    def wait(self, request: c.WaitAny, /) -> Waiting:
        """Begin to wait."""
        if request.shard < self._shards:
            return self._remote.wait(request)
        return self._local.wait(request)

    def close(self) -> None:
        """Let go of both."""
        try:
            self._local.close()
        finally:
            self._remote.close()


if TYPE_CHECKING:
    _fits: type[Store] = _LocalAndRemoteStore
    _fits_too: type[Backend] = LocalAndRemote
    _fits_threads: type[BlockingStore] = _BlockingLocalAndRemoteStore
