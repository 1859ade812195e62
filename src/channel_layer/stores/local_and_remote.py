"""Two stores as one: a local store of this machine, and a remote store that all machines share.

The core sees the local store as one more shard, the last; `channel_layer.domain.routing` says which messages go there.
So one wait covers a channel that both stores may hold, and returns when the first of them answers.
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
    """A backend of two: normal channels with a reader on this machine are local, everything else is remote.

    Args:
        local: keeps the normal channels that a task on this machine reads. It has one shard, and registers readers
            (`channel_layer.ports.Capabilities.registers_readers`).
        remote: keeps everything else.

    Raises:
        ValueError: *local* has several shards, or does not register readers.
    """

    def __init__(self, local: Backend, remote: Backend) -> None:
        if len(local.identities) != 1 or not local.capabilities.registers_readers:
            raise ValueError(
                "the local store must have one shard and `Capabilities.registers_readers`: give another store"
            )
        self._local = local
        self._remote = remote
        both = local.capabilities, remote.capabilities
        self.capabilities: Capabilities = replace(
            remote.capabilities,
            blocking=all(each.blocking for each in both),
            tracks_unread=all(each.tracks_unread for each in both),
            statistics=all(each.statistics for each in both),
            registers_readers=False,
            local=True,
        )
        self.identities: tuple[str, ...] = (*remote.identities, "local")

    @property
    def connects(self) -> bool:
        return self._local.connects or self._remote.connects

    def open(self) -> _LocalAndRemoteStore:
        return _LocalAndRemoteStore(self._local.open(), self._remote.open(), len(self._remote.identities))

    def open_blocking(self) -> _BlockingLocalAndRemoteStore:
        return _BlockingLocalAndRemoteStore(
            self._local.open_blocking(), self._remote.open_blocking(), len(self._remote.identities)
        )

    def forked(self) -> None:
        self._local.forked()
        self._remote.forked()


class _LocalAndRemoteStore:
    """The store port over two stores. Only commands about normal channels go to the local one."""

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
        """Carry out several commands: in one call if all are for the remote store, else each by itself."""
        if all(command.shard < self._shards for command in commands):
            return await self._remote.execute_many(commands)
        return await execute_each(self, commands)

    async def wait(self, request: c.Wait, /) -> None:
        if request.shard < self._shards:
            await self._remote.wait(request)
        else:
            await self._local.wait(request)

    async def run_id(self, shard: int, /) -> str:
        return await (self._remote.run_id(shard) if shard < self._shards else self._local.run_id(0))

    async def disconnected(self, shard: int, /) -> None:
        await (self._remote.disconnected(shard) if shard < self._shards else self._local.disconnected(0))

    async def aclose(self) -> None:
        try:
            await self._local.aclose()
        finally:
            await self._remote.aclose()

    def abandon(self) -> None:
        self._local.abandon()
        self._remote.abandon()


class _BlockingLocalAndRemoteStore:
    """The blocking store port over two stores: see `_LocalAndRemoteStore`."""

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
        if request.shard < self._shards:
            return self._remote.wait(request)
        return self._local.wait(request)

    def close(self) -> None:
        try:
            self._local.close()
        finally:
            self._remote.close()


if TYPE_CHECKING:
    _fits: type[Store] = _LocalAndRemoteStore
    _fits_too: type[Backend] = LocalAndRemote
    _fits_threads: type[BlockingStore] = _BlockingLocalAndRemoteStore
