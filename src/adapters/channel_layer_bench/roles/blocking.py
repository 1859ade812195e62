"""The roles of code without an event loop, which calls a layer from the main thread."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import HasBlocking, padding

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from channel_layer_bench.context import Context

__all__ = ("Calls", "async_to_sync_caller", "blocking_caller")

_CHANNELS: Final = 10
"""Channels that are sent to, so that none of them is full before the time is over."""

_SLICE: Final = 0.06
"""Seconds for which calls of one kind are made before those of the other, so that both see the same machine."""


@dataclass(slots=True)
class Calls:
    """Calls that were repeated, with or without pauses.

    Attributes:
        count: how many.
        seconds: how long they took, without the pauses.
    """

    count: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Calls per second."""
        return self.count / self.seconds

    def repeat(self, seconds: float, call: Callable[[int], object], most: float = math.inf) -> None:
        """Repeat a call for some time, at least once; it is given the number of calls before it."""
        began = now = time.monotonic()
        while now < began + seconds and self.count < most:
            call(self.count)
            self.count += 1
            now = time.monotonic()
        self.seconds += now - began


def async_to_sync_caller(context: Context, group: str) -> Generator[Calls | None, None, None]:
    """Call ``async_to_sync(layer.group_send)`` from a plain script: each call gets a new event loop.

    Reports these calls, then those of an empty coroutine.
    """
    from asgiref.sync import async_to_sync  # noqa: PLC0415 - of the extra `bench`; only these roles need it

    layer, plan = context.layer, context.plan
    text = padding(plan.payload, n=100_000, t=0.5)

    async def nothing() -> None: ...

    async def group_send(n: int) -> None:
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": 0.5, "text": text})

    yield None
    calls, empty = Calls(), Calls()
    async_to_sync(group_send)(0)
    time.sleep(plan.warmup)
    async_to_sync(nothing)()
    yield None
    deadline = time.monotonic() + 4 / 3 * plan.seconds
    while time.monotonic() < deadline:
        calls.repeat(_SLICE, lambda n: async_to_sync(group_send)(n + 1))
        empty.repeat(_SLICE / 3, lambda _: async_to_sync(nothing)())
    yield calls
    yield empty


def blocking_caller(
    context: Context, channel: str, groups: Sequence[tuple[str, int]]
) -> Generator[Calls | None, None, None]:
    """Call ``layer.blocking`` from a plain script, or `async_to_sync` if the layer has no such attribute.

    First it sends to channels whose names begin with *channel*, then to each group, with the most messages to it.
    """
    layer, seconds = context.layer, context.plan.seconds / 2
    text = padding(context.plan.payload, n=100_000, t=0.5)
    if isinstance(layer, HasBlocking):
        send, group_send = layer.blocking.send, layer.blocking.group_send
    else:
        from asgiref.sync import async_to_sync  # noqa: PLC0415 - as above

        send, group_send = async_to_sync(layer.send), async_to_sync(layer.group_send)

    def message(n: int) -> dict[str, object]:
        return {"type": "bench.message", "n": n, "t": 0.5, "text": text}

    def to_group(group: str) -> Callable[[int], None]:
        return lambda n: group_send(group, message(n + 1))

    yield None
    send(channel, message(0))
    for group, _ in groups:
        group_send(group, message(0))
    time.sleep(context.plan.warmup)
    calls = Calls()
    calls.repeat(seconds, lambda n: send(f"{channel}.{n % _CHANNELS}", message(n)))
    yield calls
    for group, most in groups:
        calls = Calls()
        calls.repeat(seconds, to_group(group), most)
        yield calls
