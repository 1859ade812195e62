"""Requests that are carried out in step with others: what all of them ask for next goes out in one write."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from channel_layer.errors import StoreError
from channel_layer_redis._requests import Asking

if TYPE_CHECKING:
    from channel_layer_redis._requests import Ask
    from channel_layer_redis._wire import Reply

__all__ = ("Plan", "Run", "values_of")

# One table for requests of all types; each is handed to the method for its own type, and to no other.
Plan: TypeAlias = Callable[[Any], Asking[Any]]


class Run:
    """A request that is carried out in step with others.

    Args:
        request: it.
        asking: what it asks for.

    Attributes:
        shard: its host.
        asks: what it asks for next; None: it is done.
    """

    __slots__ = ("_asking", "_error", "_result", "asks", "shard")

    def __init__(self, request: Any, asking: Asking[Any]) -> None:
        self.shard: int = request.shard
        self.asks: tuple[Ask, ...] | None = ()
        self._asking = asking
        self._result: Any = None
        self._error: StoreError | None = None

    def resume(self, replies: list[Reply] | None) -> None:
        """Go on with these replies; None: begin."""
        try:
            if replies is None:
                self.asks = next(self._asking)
                return
            try:
                values = values_of(replies)
            except StoreError as exc:
                self.asks = self._asking.throw(exc)
            else:
                self.asks = self._asking.send(values)
        except StopIteration as stop:
            self.asks, self._result = None, stop.value
        except StoreError as exc:
            self.asks, self._error = None, exc

    def fail(self, error: StoreError) -> None:
        """Go on with an error instead of replies."""
        try:
            self.asks = self._asking.throw(error)
        except StopIteration as stop:
            self.asks, self._result = None, stop.value
        except StoreError as exc:
            self.asks, self._error = None, exc

    def outcome(self) -> Any:
        """Return the reply to the request, or the error."""
        return self._result if self._error is None else self._error


def values_of(replies: list[Reply]) -> list[object]:
    """Return the values of some replies.

    Raises:
        StoreError: one of them is an error.
    """
    for reply in replies:
        if reply.error is not None:
            raise reply.error
    return [reply.value for reply in replies]
