"""Changes of groups that must not stop half way when their caller is cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from channel_layer.domain.names import ChannelName, GroupName

__all__ = ("MemberChanges",)


class MemberChanges:
    """Changes of groups, each of which goes on in the background if its caller is cancelled.

    A change takes two steps where the group and the member's inbox are on different shards. A later change of the same
    member waits for one that goes on so: else a `group_discard` could return before a cancelled `group_add` has begun.
    """

    def __init__(self) -> None:
        self._abandoned: dict[tuple[str, str], asyncio.Task[None]] = {}
        """The last change of each member that goes on though its caller was cancelled."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def make(
        self, group: GroupName, channel: ChannelName, change: Callable[[], Coroutine[object, object, None]]
    ) -> None:
        """Await a change of a group."""
        key = (group.name, channel.name)
        task = asyncio.get_running_loop().create_task(_after(self._abandoned.get(key), change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.done():
                self._abandoned[key] = task
                task.add_done_callback(lambda _: self._abandoned.get(key) is task and self._abandoned.pop(key))
            raise


async def _after(before: asyncio.Task[None] | None, change: Callable[[], Coroutine[object, object, None]]) -> None:
    """Await *change* when the task *before* has ended, however; one in another event loop is not waited for."""
    if before is not None and before.get_loop() is asyncio.get_running_loop():
        await asyncio.wait([before])
    await change()
