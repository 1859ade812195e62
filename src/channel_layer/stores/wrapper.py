"""What stands in front of another backend, as far as it changes nothing; stores that do one thing at a time; loans.

Whoever hinders a store or translates for it has to pass everything else on, and forgetting to would be found late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from channel_layer.commands import BlockingCommand, Together
from channel_layer.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.commands import Step
    from channel_layer.ports import Backend, BlockingStore, Capabilities, Loan

__all__ = ("Front", "InlineLoan", "blocking_requests", "one_by_one")

R = TypeVar("R")


def blocking_requests(step: Step[object]) -> list[BlockingCommand[object]]:
    """Return the requests that a step consists of.

    Raises:
        TypeError: one of them is only for who owns an inbox, in an event loop that lives.
    """
    requests: list[BlockingCommand[object]] = []
    for each in step.several if isinstance(step, Together) else (step,):
        if not isinstance(each, BlockingCommand):
            raise TypeError(f"{each!r} is nothing that may be asked of a store from here")
        requests.append(each)
    return requests


def one_by_one(store: BlockingStore, requests: Sequence[BlockingCommand[R]]) -> list[R | StoreError]:
    """Carry out requests one after another, for a store whose `BlockingStore.together` can do no better."""
    outcomes: list[R | StoreError] = []
    for request in requests:
        try:
            outcomes.append(request.on_blocking(store))
        except StoreError as exc:
            outcomes.append(exc)
    return outcomes


class InlineLoan:
    """A loan of a store that waits for nobody: what is asked of it is done in the event loop's own thread.

    Args:
        store: it.
    """

    def __init__(self, store: BlockingStore) -> None:
        self._store = store

    async def together(self, requests: Sequence[BlockingCommand[R]], /) -> list[R | StoreError]:
        """Do several things; see `channel_layer.ports.Loan.together`."""
        return self._store.together(requests)

    def end(self) -> None:
        """Nothing has to be given back."""


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


if TYPE_CHECKING:
    _fits: type[Loan] = InlineLoan
