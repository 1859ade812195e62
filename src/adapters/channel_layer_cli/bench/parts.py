"""What a part of a workload is given to play with: a layer, its line to the benchmark, and a crew of tasks.

Everything here lives in the processes that are measured. Every wait is bounded, because a layer that loses a message
would otherwise be waited for without end.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import sys
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from channel_layer import ChannelFull
from channel_layer_cli.bench.inputs import Said

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = (
    "GRACE",
    "BlockingHalf",
    "Crew",
    "HasBlockingHalf",
    "Layer",
    "Part",
    "PlainPart",
    "Stalled",
    "make_layer",
    "refusals",
    "warm_up",
)

GRACE: Final = 0.2
"""Seconds that receivers listen on when they have everything, for what comes twice."""

_WARM_TRIES: Final = 30


class Stalled(Exception):
    """Something that had to happen did not, although it was waited for with patience."""


class Layer(Protocol):
    """The Channels 4 contract, as far as it is measured."""

    async def send(self, channel: str, message: dict[str, object]) -> None:
        """Send to a channel."""
        ...

    async def receive(self, channel: str) -> dict[str, object]:
        """Wait for a channel's next message."""
        ...

    async def new_channel(self) -> str:
        """Make a channel of this process."""
        ...

    async def group_add(self, group: str, channel: str) -> None:
        """Add a channel to a group."""
        ...

    async def group_discard(self, group: str, channel: str) -> None:
        """Remove a channel from a group."""
        ...

    async def group_send(self, group: str, message: dict[str, object]) -> None:
        """Send to every member."""
        ...


class BlockingHalf(Protocol):
    """What plain code calls of a layer that has a half for it."""

    def send(self, channel: str, message: dict[str, object]) -> None:
        """Send to a channel."""
        ...

    def group_send(self, group: str, message: dict[str, object]) -> None:
        """Send to every member."""
        ...


@runtime_checkable
class HasBlockingHalf(Protocol):
    """A layer that has one."""

    @property
    def blocking(self) -> BlockingHalf:
        """It."""
        ...


def make_layer(backend: str, config: Mapping[str, object]) -> Layer:
    """Make a layer.

    Args:
        backend: the dotted path of its class.
        config: its keyword arguments.
    """
    module, _, name = backend.rpartition(".")
    make: Callable[..., Layer] = getattr(importlib.import_module(module), name)
    return make(**config)


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions by which layers say that a channel is full."""
    # Only looked up, never imported: a layer that does without Channels is measured without it.
    theirs: object = getattr(sys.modules.get("channels.exceptions"), "ChannelFull", ChannelFull)
    return (ChannelFull, theirs) if isinstance(theirs, type) and issubclass(theirs, Exception) else (ChannelFull,)


class Part:
    """One part of a workload, played in an event loop.

    Args:
        layer: the layer; shared with the other parts of this process.
        params: what the part was cast with.
        shared: whether all parts are in this process.
        warmup: seconds.
        patience: seconds.
        tell: how a fact gets to the benchmark.

    Attributes:
        params: what the part was cast with.
        shared: whether all parts are in this process, so that a sender has to give way to the receivers.
        warmup: seconds that the part lives before it is measured.
        patience: seconds without any progress after which what is still missing counts as lost.
    """

    def __init__(
        self,
        layer: Layer | None,
        params: Said,
        *,
        shared: bool,
        warmup: float,
        patience: float,
        tell: Callable[[Said], None],
    ) -> None:
        self._layer = layer
        self.params = params
        self.shared = shared
        self.warmup = warmup
        self.patience = patience
        self._tell = tell
        self._heard: asyncio.Queue[Said] = asyncio.Queue()

    @property
    def layer(self) -> Layer:
        """The layer.

        Raises:
            LookupError: there is none: the floor plays only parts without a layer.
        """
        return _present(self._layer)

    def say(self, **facts: object) -> None:
        """Tell the benchmark something."""
        self._tell(Said(facts))

    def deliver(self, word: Said) -> None:
        """Take what the benchmark says; from this part's event loop."""
        self._heard.put_nowait(word)

    async def hear(self) -> Said:
        """Wait for what the benchmark says; if its process ends, so does this one."""
        return await self._heard.get()


def _present(layer: Layer | None) -> Layer:
    if layer is None:
        raise LookupError("this part is played without a layer")
    return layer


class PlainPart:
    """One part of a workload, played by plain code in the main thread, where no event loop runs.

    Arguments and attributes are those of `Part`.
    """

    def __init__(self, layer: Layer | None, params: Said, *, warmup: float, tell: Callable[[Said], None]) -> None:
        self._layer = layer
        self.params = params
        self.warmup = warmup
        self._tell = tell
        self._heard: queue.SimpleQueue[Said] = queue.SimpleQueue()

    @property
    def layer(self) -> Layer:
        """The layer; see `Part.layer`."""
        return _present(self._layer)

    def say(self, **facts: object) -> None:
        """Tell the benchmark something."""
        self._tell(Said(facts))

    def deliver(self, word: Said) -> None:
        """Take what the benchmark says; from any thread."""
        self._heard.put(word)

    def hear(self) -> Said:
        """Wait for what the benchmark says; if its process ends, so does this one."""
        return self._heard.get()


class Crew:
    """Tasks of one part, none of which is ever cancelled: a peer that is cancelled in `receive` may lose a message."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._error: BaseException | None = None

    def start(self, body: Coroutine[object, object, None]) -> None:
        """Start a task."""
        task = asyncio.get_running_loop().create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._error is None:
            self._error = error
        self._wake.set()

    def wake(self) -> None:
        """Have `until` look again."""
        self._wake.set()

    def check(self) -> None:
        """Raise what ended a task."""
        if self._error is not None:
            raise self._error

    async def until(self, done: Callable[[], bool], progress: Callable[[], object], within: float) -> bool:
        """Wait until something is done, looking whenever a task ends or calls `wake`.

        Args:
            done: whether it is.
            progress: how far it is; while that changes, it is waited for.
            within: seconds that it may stay the same.

        Returns:
            Whether it is done; or else, nothing has changed for too long.
        """
        seen = progress()
        while True:
            self.check()
            if done():
                return True
            self._wake.clear()
            try:
                async with asyncio.timeout(within):
                    await self._wake.wait()
            except TimeoutError:
                if (now := progress()) == seen:
                    return done()
                seen = now

    async def finish(self) -> None:
        """Wait until every task has ended of itself."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            self.check()
        self.check()


async def warm_up(part: Part, width: int = 1) -> None:
    """Live as a server's process has lived when it gets its first message: connected, with warm caches.

    A loop that is younger than a second is another matter, which the workload `sync` measures: layers may serve it by
    other means than one that stays. (Ours gives a loop connections of its own once it has lived for a second.)

    Args:
        part: who.
        width: messages at once, so that a pool of connections has as many as will be needed.

    Raises:
        Stalled: no message ever arrives.
    """
    channel = await part.layer.new_channel()
    await _exchange(part.layer, channel, 1)
    await asyncio.sleep(part.warmup)
    await _exchange(part.layer, channel, width)


async def _exchange(layer: Layer, channel: str, width: int) -> None:
    async def take() -> None:
        for _ in range(width):
            await layer.receive(channel)

    taking = asyncio.ensure_future(take())
    for _ in range(_WARM_TRIES):
        await asyncio.gather(*(layer.send(channel, {"type": "bench.warm"}) for _ in range(width)))
        # Sent again if need be: a subscription may take effect after the call that made it has returned.
        await asyncio.wait({taking}, timeout=1)
        if taking.done():
            return taking.result()
    raise Stalled(f"not even the first message arrives at {channel}")
