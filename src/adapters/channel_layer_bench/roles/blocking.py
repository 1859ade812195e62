"""The roles of code without an event loop, which calls a layer from the main thread."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from channel_layer_bench.context import HasBlocking
from channel_layer_bench.roles.messages import padding

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_bench.context import BlockingContext

__all__ = ("blocking_caller", "caller")

_CHANNELS: Final = 10
"""Channels that are sent to, so that none of them is full before the time is over."""


def caller(context: BlockingContext) -> None:
    """Call ``async_to_sync(layer.group_send)`` from a plain script: each call gets a new event loop."""
    from asgiref.sync import async_to_sync  # noqa: PLC0415 - of the extra `bench`; only these roles need it

    layer, group, seconds = context.layer, context.params.text("group"), context.params.real("seconds")
    text = padding(context.params.integer("payload"), n=100_000, t=0.5)

    async def nothing() -> None: ...

    async def group_send(n: int) -> None:
        await layer.group_send(group, {"type": "bench.message", "n": n, "t": 0.5, "text": text})

    context.report(ready=True)
    context.next_instruction()
    async_to_sync(group_send)(0)
    time.sleep(context.warmup)
    async_to_sync(nothing)()
    context.report(warm=True)
    context.next_instruction()
    calls, empty = _Rate(), _Rate()
    deadline = time.monotonic() + 4 / 3 * seconds
    while time.monotonic() < deadline:
        calls.repeat(_SLICE, lambda n: async_to_sync(group_send)(n + 1))
        empty.repeat(_SLICE / 3, lambda _: async_to_sync(nothing)())
    context.report(count=1 + calls.count, rate=calls.rate, empty_rate=empty.rate)
    context.next_instruction()


_SLICE = 0.06
"""Seconds for which calls of one kind are made before those of the other, so that both see the same machine."""


class _Rate:
    """The rate of a call that is repeated, with pauses.

    Attributes:
        count: calls so far.
    """

    def __init__(self) -> None:
        self.count: int = 0
        self._seconds = 0.0

    @property
    def rate(self) -> float:
        """Calls per second, without the pauses."""
        return self.count / self._seconds

    def repeat(self, seconds: float, call: Callable[[int], object]) -> None:
        """Repeat a call for some time, at least once; it is given the number of calls before it."""
        began = now = time.monotonic()
        while now < began + seconds:
            call(self.count)
            self.count += 1
            now = time.monotonic()
        self._seconds += now - began


def blocking_caller(context: BlockingContext) -> None:
    """Call ``layer.blocking`` from a plain script, or `async_to_sync` if the layer has no such attribute."""
    layer, channel, seconds = context.layer, context.params.text("channel"), context.params.real("seconds")
    text = padding(context.params.integer("payload"), n=100_000, t=0.5)
    if isinstance(layer, HasBlocking):
        send, group_send = layer.blocking.send, layer.blocking.group_send
    else:
        from asgiref.sync import async_to_sync  # noqa: PLC0415 - as in `_caller`

        send, group_send = async_to_sync(layer.send), async_to_sync(layer.group_send)

    def message(n: int) -> dict[str, object]:
        return {"type": "bench.message", "n": n, "t": 0.5, "text": text}

    context.report(ready=True)
    groups = context.next_instruction().texts("groups")
    send(channel, message(0))
    for group in groups:
        group_send(group, message(0))
    time.sleep(context.warmup)
    sent, began = 0, time.monotonic()
    while (now := time.monotonic()) < began + seconds / 2 or not sent:
        send(f"{channel}.{sent % _CHANNELS}", message(sent))
        sent += 1
    context.report(count=sent, rate=sent / (now - began))
    for group in groups:
        most = context.next_instruction().integer("most")
        count, began = 1, time.monotonic()
        while ((now := time.monotonic()) < began + seconds / 2 and count <= most) or count == 1:
            group_send(group, message(count))
            count += 1
        context.report(count=count, rate=(count - 1) / (now - began))
    context.next_instruction()
