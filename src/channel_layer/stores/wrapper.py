"""What stores have in common: commands that are carried out one by one, and a backend in front of another one."""

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
    """Carry out commands at once, each by itself, for a store whose `Store.execute_many` can do no better."""
    outcomes = await asyncio.gather(*map(store.execute, commands), return_exceptions=True)
    replies: list[R | StoreError] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, StoreError):
            raise outcome
        replies.append(outcome)
    return replies


def execute_each_blocking(store: BlockingStore, commands: Iterable[Command[R]]) -> list[R | StoreError]:
    """Carry out commands one after another, for a store whose `BlockingStore.execute_many` can do no better."""
    outcomes: list[R | StoreError] = []
    for command in commands:
        try:
            outcomes.append(store.execute(command))
        except StoreError as exc:
            outcomes.append(exc)
    return outcomes


def unsupported(command: Command[object]) -> StoreError:
    """Return the error for a command that a store does not support: its `Capabilities` say so, too."""
    what = f"this store does not support {type(command).__name__}"
    return StoreError(what, retryable=False, outcome="not_sent")


class StoreWrapper:
    """All of a backend except for `Backend.open` and `Backend.open_blocking`, which a subclass adds.

    Args:
        backend: the one behind, which does the work.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend: Backend = backend

    @property
    def capabilities(self) -> Capabilities:
        """Those of the backend behind."""
        return self._backend.capabilities

    @property
    def identities(self) -> tuple[str, ...]:
        """Those of the backend behind."""
        return self._backend.identities

    @property
    def connects(self) -> bool:
        """As the backend behind."""
        return self._backend.connects

    def forked(self) -> None:
        """Tell the backend behind."""
        self._backend.forked()
