"""The two drivers of operations, for event loops and for threads: the one place where the use cases meet the world.

An error of the store, cancellation, and what interrupts a thread are thrown into the operation, which may still answer
with a step: it may have something in hand that is nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn, TypeAlias, TypeVar

from channel_layer.commands import Command
from channel_layer.operations.steps import EnsureReading, RestoreLease, Sleep, Together, Unbroken
from channel_layer.runtime.event_loops import ignore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from channel_layer.operations.steps import Operation
    from channel_layer.ports import BlockingStore, Store

__all__ = ("Perform", "PerformBlocking", "RuntimeStep", "refuse", "run", "run_blocking")

R = TypeVar("R")

RuntimeStep: TypeAlias = "RestoreLease | EnsureReading"
"""What an operation may ask of the runtime that it runs in."""

Perform: TypeAlias = "Callable[[RuntimeStep], Awaitable[object]]"
"""Does what an operation asks of the runtime, and returns the reply."""

PerformBlocking: TypeAlias = "Callable[[RuntimeStep], object]"
"""The same in a thread without an event loop."""


def refuse(step: RuntimeStep) -> NoReturn:
    """Do nothing of what an operation asks of the runtime, because this one does not ask.

    Raises:
        TypeError: it does.
    """
    raise TypeError(f"this operation cannot ask for {step!r} here")


_unbroken: set[asyncio.Task[None]] = set()
"""Operations that go on though their callers may have gone: an event loop holds on to none of its tasks."""


async def run(operation: Operation[R], store: Store, perform: Perform) -> R:
    """Run an operation with a store of the running event loop."""
    try:
        step = next(operation)
        while True:
            try:
                reply: object = None
                if isinstance(step, Command):
                    reply = await store.execute(step)
                elif isinstance(step, Together):
                    reply = await store.execute_many(step.commands)
                elif isinstance(step, Sleep):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Unbroken):
                    await _run_unbroken(step.operation, store, perform)
                else:
                    reply = await perform(step)
            except BaseException as exc:  # noqa: BLE001 - the operation decides, cancellation included
                step = operation.throw(exc)
            else:
                step = operation.send(reply)
    except StopIteration as stop:
        result: R = stop.value
        return result


async def _run_unbroken(operation: Operation[None], store: Store, perform: Perform) -> None:
    task = asyncio.get_running_loop().create_task(run(operation, store, perform))
    _unbroken.add(task)
    task.add_done_callback(_unbroken.discard)
    task.add_done_callback(ignore)  # should the caller be cancelled
    await asyncio.shield(task)


def run_blocking(operation: Operation[R], store: BlockingStore, perform: PerformBlocking) -> R:
    """Run an operation with a store in the calling thread."""
    try:
        step = next(operation)
        while True:
            try:
                reply: object = None
                if isinstance(step, Command):
                    reply = store.execute(step)
                elif isinstance(step, Together):
                    reply = store.execute_many(step.commands)
                elif isinstance(step, Sleep):
                    time.sleep(step.seconds)
                elif isinstance(step, Unbroken):
                    run_blocking(step.operation, store, perform)
                else:
                    reply = perform(step)
            except BaseException as exc:  # noqa: BLE001 - the operation decides, a KeyboardInterrupt included
                step = operation.throw(exc)
            else:
                step = operation.send(reply)
    except StopIteration as stop:
        result: R = stop.value
        return result
