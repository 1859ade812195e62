"""What a role is given: a layer, the connection to the coordinator, and a set of tasks.

Everything here lives in the processes that are measured. Every wait is bounded, because a layer that loses a message
would otherwise be waited for forever.
"""

from __future__ import annotations

import asyncio
import importlib
import queue
import sys
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from channel_layer import ChannelFull
from channel_layer_bench.inputs import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

__all__ = (
    "GRACE",
    "BlockingContext",
    "BlockingFacade",
    "Context",
    "HasBlocking",
    "Layer",
    "RoleTasks",
    "Stalled",
    "make_layer",
    "refusals",
    "warm_up",
)

GRACE: Final = 0.2
"""Seconds for which receivers go on when they have everything, to find duplicates."""

_WARM_TRIES: Final = 30


class Stalled(Exception):
    """What a role waits for did not happen in time."""


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


class BlockingFacade(Protocol):
    """The part of a layer that is called without an event loop, as far as it is measured."""

    def send(self, channel: str, message: dict[str, object]) -> None:
        """Send to a channel."""
        ...

    def group_send(self, group: str, message: dict[str, object]) -> None:
        """Send to every member."""
        ...


@runtime_checkable
class HasBlocking(Protocol):
    """A layer that can be called without an event loop."""

    @property
    def blocking(self) -> BlockingFacade:
        """The facade for such calls."""
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
    """Return the exceptions that layers raise when a channel is full."""
    # Only looked up, never imported: a layer that does not use Channels is measured without it.
    theirs: object = getattr(sys.modules.get("channels.exceptions"), "ChannelFull", ChannelFull)
    return (ChannelFull, theirs) if isinstance(theirs, type) and issubclass(theirs, Exception) else (ChannelFull,)


class Context:
    """The context of a role that runs in an event loop.

    Args:
        layer: the layer; shared with the other roles of this process.
        params: the parameters of the role.
        single_process: whether all roles of the run are in this process.
        warmup: seconds.
        patience: seconds.
        send: sends a report to the coordinator.

    Attributes:
        params: the parameters of the role.
        single_process: whether all roles of the run are in this process, so that a sender has to yield to
            the receivers.
        warmup: seconds that the role runs before it is measured.
        patience: seconds without any progress after which what is still missing counts as lost.
    """

    def __init__(
        self,
        layer: Layer | None,
        params: Record,
        *,
        single_process: bool,
        warmup: float,
        patience: float,
        send: Callable[[Record], None],
    ) -> None:
        self._layer = layer
        self.params = params
        self.single_process = single_process
        self.warmup = warmup
        self.patience = patience
        self._send = send
        self._instructions: asyncio.Queue[Record] = asyncio.Queue()

    @property
    def layer(self) -> Layer:
        """The layer.

        Raises:
            LookupError: there is none: the roles of the floor have no layer.
        """
        return _present(self._layer)

    def report(self, **facts: object) -> None:
        """Send a report to the coordinator."""
        self._send(Record(facts))

    def deliver(self, instruction: Record) -> None:
        """Add an instruction of the coordinator; call it in the event loop of the role."""
        self._instructions.put_nowait(instruction)

    async def next_instruction(self) -> Record:
        """Wait for the next instruction of the coordinator; if its process ends, so does this one."""
        return await self._instructions.get()


def _present(layer: Layer | None) -> Layer:
    if layer is None:
        raise LookupError("this role has no layer")
    return layer


class BlockingContext:
    """The context of a role that runs in the main thread, without an event loop.

    Arguments and attributes are those of `Context`.
    """

    def __init__(self, layer: Layer | None, params: Record, *, warmup: float, send: Callable[[Record], None]) -> None:
        self._layer = layer
        self.params = params
        self.warmup = warmup
        self._send = send
        self._instructions: queue.SimpleQueue[Record] = queue.SimpleQueue()

    @property
    def layer(self) -> Layer:
        """The layer; see `Context.layer`."""
        return _present(self._layer)

    def report(self, **facts: object) -> None:
        """Send a report to the coordinator."""
        self._send(Record(facts))

    def deliver(self, instruction: Record) -> None:
        """Add an instruction of the coordinator; call it in any thread."""
        self._instructions.put(instruction)

    def next_instruction(self) -> Record:
        """Wait for the next instruction of the coordinator; if its process ends, so does this one."""
        return self._instructions.get()


class RoleTasks:
    """The tasks of one role. None is ever cancelled: some layers lose a message when `receive` is cancelled."""

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
        """Make `wait_until` look again."""
        self._wake.set()

    def check(self) -> None:
        """Raise the first error that ended a task."""
        if self._error is not None:
            raise self._error

    async def wait_until(self, done: Callable[[], bool], progress: Callable[[], object], within: float) -> bool:
        """Wait until a condition holds; it is looked at whenever a task ends or calls `wake`.

        Args:
            done: the condition.
            progress: how far the tasks are; the wait goes on while this changes.
            within: seconds for which it may stay the same.

        Returns:
            Whether the condition holds; if not, there was no progress for too long.
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
        """Wait until every task has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
            self.check()
        self.check()


async def warm_up(context: Context, width: int = 1) -> None:
    """Bring the process to the state of one that has served for a while: connected, with warm caches.

    A layer may serve an event loop that is younger than a second by other means than one that stays, as this project's
    Redis layer does. The workload `sync` measures such loops.

    Args:
        context: of the role.
        width: messages at once, so that a pool of connections has as many as will be needed.

    Raises:
        Stalled: no message arrives.
    """
    channel = await context.layer.new_channel()
    await _exchange(context.layer, channel, 1)
    await asyncio.sleep(context.warmup)
    await _exchange(context.layer, channel, width)


async def _exchange(layer: Layer, channel: str, width: int) -> None:
    async def take() -> None:
        for _ in range(width):
            await layer.receive(channel)

    taking = asyncio.ensure_future(take())
    for _ in range(_WARM_TRIES):
        await asyncio.gather(*(layer.send(channel, {"type": "bench.warm"}) for _ in range(width)))
        # Sent again if needed: a subscription may take effect after the call that made it has returned.
        await asyncio.wait({taking}, timeout=1)
        if taking.done():
            return taking.result()
    raise Stalled(f"the first message did not arrive at {channel}")
