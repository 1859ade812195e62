"""What stores share: `execute_many` by one command at a time, and a backend that wraps another one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from channel_layer.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.commands import Command
    from channel_layer.ports import Backend, BlockingStore, Capabilities, Store

__all__ = ("StoreWrapper", "execute_each", "execute_each_blocking", "unsupported")

R = TypeVar("R")


async def execute_each(store: Store, commands: Iterable[Command[R]]) -> list[R | StoreError]:
    """Carry out commands concurrently, each by `Store.execute`, for a store that cannot send several in one write."""
    outcomes = await asyncio.gather(*map(store.execute, commands), return_exceptions=True)
    replies: list[R | StoreError] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, StoreError):
            raise outcome
        replies.append(outcome)
    return replies


def execute_each_blocking(store: BlockingStore, commands: Iterable[Command[R]]) -> list[R | StoreError]:
    """Carry out commands one after another, each by `BlockingStore.execute`: see `execute_each`."""
    outcomes: list[R | StoreError] = []
    for command in commands:
        try:
            outcomes.append(store.execute(command))
        except StoreError as exc:
            outcomes.append(exc)
    return outcomes


def unsupported(command: Command[object]) -> StoreError:
    """Return the error for a command that a store does not support, as its `Capabilities` say."""
    what = f"this store does not support {type(command).__name__}"
    return StoreError(what, retryable=False, outcome="not_sent")


class StoreWrapper:
    """A backend that wraps another one; a subclass adds `Backend.open` and `Backend.open_blocking`."""

    def __init__(self, backend: Backend) -> None:
        self._backend: Backend = backend

    @property
    def capabilities(self) -> Capabilities:
        return self._backend.capabilities

    @property
    def identities(self) -> tuple[str, ...]:
        return self._backend.identities

    @property
    def connects(self) -> bool:
        return self._backend.connects

    def forked(self) -> None:
        self._backend.forked()
