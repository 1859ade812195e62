"""What a role is given, and what its process and the coordinator send to each other.

A role is a generator: it yields its reports, and each `yield` returns the next instruction of the coordinator. One that
is asynchronous runs in an event loop, any other one in the main thread of its process, without an event loop.
"""

from __future__ import annotations

import asyncio
import importlib
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

import msgpack

from channel_layer import ChannelFull

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from channel_layer_bench.plan import Plan

__all__ = (
    "AT_ONCE",
    "GRACE",
    "Context",
    "Failed",
    "HasBlocking",
    "Instruction",
    "Layer",
    "Report",
    "Role",
    "Settings",
    "Stalled",
    "Start",
    "padding",
    "refusals",
    "wait_for",
    "warm_up",
)

_Sent = TypeVar("_Sent")

GRACE: Final = 0.2
"""Seconds for which receivers go on when they have everything, to find duplicates."""

AT_ONCE: Final = 50
"""Calls that prepare a run and are made at once."""

_WARM_TRIES: Final = 30

_LOOK_SECONDS: Final = 0.02
"""Between two looks at what has arrived; when the last message came is noted by what receives it."""

Role: TypeAlias = AsyncGenerator[object, _Sent] | Generator[object, _Sent, None]
"""What runs in a process, and what it is sent."""


# -- what a process is sent, and what it sends -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settings:
    """What a process is told first.

    Attributes:
        backend: the dotted path of the class of its layer.
        config: the keyword arguments of the class.
        plan: the options of the benchmark.
        single_process: whether all roles of the run are in this process, so that a sender has to yield to the
            receivers.
        blocking: whether its main thread is kept for code without an event loop.
        profile: how the names of its profiles begin; empty: it writes none.
    """

    backend: str
    config: Mapping[str, object]
    plan: Plan
    single_process: bool
    blocking: bool
    profile: str


@dataclass(frozen=True, slots=True)
class Start:
    """Starts a role under a number, from 1 on."""

    number: int
    role: Callable[..., Role[Any]]  # `Coordinator.start` checks what it is sent
    arguments: tuple[object, ...]
    named: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Instruction:
    """The next instruction of a role; 0 is the process itself, which reports the processor time that it has used."""

    number: int
    value: object = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a role has yielded; 0 is the process itself."""

    number: int
    value: object


@dataclass(frozen=True, slots=True)
class Failed:
    """A process cannot go on; the reason is a traceback."""

    reason: str


# -- what a role works with ------------------------------------------------------------------------------------


class Layer(Protocol):
    """The Channels 4 contract, as far as it is measured."""

    send: Callable[[str, dict[str, object]], Awaitable[None]]
    receive: Callable[[str], Awaitable[dict[str, object]]]
    new_channel: Callable[[], Awaitable[str]]
    group_add: Callable[[str, str], Awaitable[None]]
    group_discard: Callable[[str, str], Awaitable[None]]
    group_send: Callable[[str, dict[str, object]], Awaitable[None]]


class _BlockingFacade(Protocol):
    """The part of a layer that is called without an event loop, as far as it is measured."""

    send: Callable[[str, dict[str, object]], None]
    group_send: Callable[[str, dict[str, object]], None]


@runtime_checkable
class HasBlocking(Protocol):
    """A layer that can be called without an event loop."""

    blocking: _BlockingFacade


class Stalled(Exception):
    """What a role waits for did not happen in time."""


class Context:
    """What the roles of one process share: their layer, and some of the `Settings`.

    Args:
        settings: of the process.
        fail: called with an error that ends the run.
    """

    def __init__(self, settings: Settings, fail: Callable[[BaseException], object]) -> None:
        module, _, name = settings.backend.rpartition(".")
        make: Callable[..., Layer] = getattr(importlib.import_module(module), name)
        self.layer: Layer = make(**settings.config)
        self.plan: Plan = settings.plan
        self.single_process: bool = settings.single_process
        self._fail = fail
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, body: Coroutine[object, object, None]) -> None:
        """Start a task, whose error ends the run. It is never cancelled: some layers then lose a message."""
        task = asyncio.get_running_loop().create_task(body)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that layers raise when a channel is full."""
    # Only looked up, never imported: a layer that does not use Channels is measured without it.
    theirs: object = getattr(sys.modules.get("channels.exceptions"), "ChannelFull", ChannelFull)
    return (ChannelFull, theirs) if isinstance(theirs, type) and issubclass(theirs, Exception) else (ChannelFull,)


def padding(payload: int, **fields: object) -> str:
    """Return the text that fills a message up to a size, packed by msgpack, or an empty one if it is larger."""
    packed = msgpack.packb({"type": "bench.message", **fields, "text": ""})
    return "x" * max(0, payload - len(packed or b"") - 1)


async def wait_for(arrived: Callable[[], Awaitable[int]], enough: float, patience: float) -> int:
    """Wait until so many messages have arrived, or no other one has for *patience* seconds; return how many have.

    Every wait is bounded, because a layer that loses a message would otherwise be waited for forever.
    """
    before, deadline = -1, 0.0
    while (now := await arrived()) < enough:
        if now != before:
            before, deadline = now, time.monotonic() + patience
        elif time.monotonic() >= deadline:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    return now


async def warm_up(context: Context, width: int = 1) -> None:
    """Bring the process to the state of one that has served for a while: connected, with warm caches.

    A layer may serve an event loop that is younger than a second by other means than one that stays, as this project's
    Redis layer does. The workload `sync` measures such loops.

    It exchanges *width* messages at once, so that a pool of connections has as many as will be needed.

    Raises:
        Stalled: no message arrives.
    """
    channel = await context.layer.new_channel()
    await _exchange(context.layer, channel, 1)
    await asyncio.sleep(context.plan.warmup)
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
