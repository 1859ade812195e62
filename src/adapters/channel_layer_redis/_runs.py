"""Requests that are carried out in step with others: what all of them ask for next goes out in one write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from channel_layer.errors import StoreError
from channel_layer_redis._requests import Asking

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from channel_layer_redis._requests import Ask
    from channel_layer_redis._wire import Reply

__all__ = ("Batch", "Plan", "Run", "batches_of", "start", "values_of")

# One table for requests of all types; each is handed to the method for its own type, and to no other.
Plan: TypeAlias = Callable[[Any], Asking[Any]]


class Run:
    """A request that is carried out in step with others; it has begun when it is made.

    Args:
        request: it.
        asking: what it asks for.

    Attributes:
        shard: its host.
        asks: what it asks for next, which is something; None: it is done.
    """

    __slots__ = ("_asking", "_error", "_result", "asks", "shard")

    def __init__(self, request: Any, asking: Asking[Any]) -> None:
        self.shard: int = request.shard
        self.asks: tuple[Ask, ...] | None = None
        self._asking = asking
        self._result: Any = None
        self._error: StoreError | None = None
        self._go_on(asking.send, None)

    def resume(self, replies: list[Reply]) -> None:
        """Go on with these replies."""
        try:
            values = values_of(replies)
        except StoreError as exc:
            self.fail(exc)
        else:
            self._go_on(self._asking.send, values)

    def fail(self, error: StoreError) -> None:
        """Go on with an error instead of replies."""
        self._go_on(self._asking.throw, error)

    def _go_on(self, step: Callable[[Any], tuple[Ask, ...]], value: object) -> None:
        try:
            self.asks = step(value)
            while not self.asks:
                self.asks = self._asking.send([])
        except StopIteration as stop:
            self.asks, self._result = None, stop.value
        except StoreError as exc:
            self.asks, self._error = None, exc

    def outcome(self) -> Any:
        """Return the reply to the request, or the error."""
        return self._result if self._error is None else self._error


class Batch:
    """What some requests to one server ask for next.

    Args:
        shard: the server.
        runs: the requests; none of them is done.

    Attributes:
        shard: the one given.
        asks: what all of them ask for, to go out in one write.
    """

    __slots__ = ("_runs", "asks", "shard")

    def __init__(self, shard: int, runs: list[Run]) -> None:
        self.shard: int = shard
        self.asks: list[Ask] = [ask for run in runs for ask in run.asks or ()]
        self._runs = runs

    def resume(self, replies: list[Reply]) -> None:
        """Let each of them go on with its share of the replies."""
        place = 0
        for run in self._runs:
            count = len(run.asks or ())
            run.resume(replies[place : place + count])
            place += count

    def fail(self, error: StoreError) -> None:
        """Let each of them go on with an error."""
        for run in self._runs:
            run.fail(error)


def start(requests: Iterable[Any], plans: Mapping[type, Plan]) -> list[Run]:
    """Begin to carry out some requests.

    Args:
        requests: them.
        plans: what each type of request asks for.
    """
    return [Run(request, plans[type(request)](request)) for request in requests]


def batches_of(runs: list[Run]) -> list[Batch]:
    """Return what is to be asked next of each server, in the order of the servers; nothing if all is done."""
    if len(runs) == 1:  # as nearly always
        return [Batch(runs[0].shard, runs)] if runs[0].asks is not None else []
    by_shard: dict[int, list[Run]] = {}
    for run in runs:
        if run.asks is not None:
            by_shard.setdefault(run.shard, []).append(run)
    return [Batch(shard, some) for shard, some in sorted(by_shard.items())]


def values_of(replies: list[Reply]) -> list[object]:
    """Return the values of some replies.

    Raises:
        StoreError: one of them is an error.
    """
    for reply in replies:
        if reply.error is not None:
            raise reply.error
    return [reply.value for reply in replies]
