"""What stands in front of another backend, as far as it changes nothing; and stores that do one thing at a time.

Whoever hinders a store or translates for it has to pass everything else on, and forgetting to would be found late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from channel_layer.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.commands import BlockingCommand
    from channel_layer.ports import Backend, BlockingStore, Capabilities

__all__ = ("Front", "one_by_one")

R = TypeVar("R")


def one_by_one(store: BlockingStore, requests: Sequence[BlockingCommand[R]]) -> list[R | StoreError]:
    """Carry out requests one after another, for a store whose `BlockingStore.together` can do no better."""
    outcomes: list[R | StoreError] = []
    for request in requests:
        try:
            outcomes.append(request.on_blocking(store))
        except StoreError as exc:
            outcomes.append(exc)
    return outcomes


class Front:
    """All of a backend but for `channel_layer.ports.Backend.open`, which a subclass adds.

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
