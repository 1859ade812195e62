"""The two drivers of operations, for event loops and for threads: the one place where the use cases meet the world.

An error of the store, cancellation, and what interrupts a thread are thrown into the operation, which may still answer
with a step: it may have something in hand that is nowhere else.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeVar

from channel_layer.commands import Command
from channel_layer.operations.steps import Together

if TYPE_CHECKING:
    from channel_layer.operations.steps import Operation
    from channel_layer.ports import BlockingStore, Store

__all__ = ("run", "run_blocking")

R = TypeVar("R")


async def run(operation: Operation[R], store: Store) -> R:
    """Run an operation against a store of the running event loop."""
    try:
        step = next(operation)
        while True:
            try:
                reply: object
                if isinstance(step, Command):
                    reply = await store.execute(step)
                elif isinstance(step, Together):
                    reply = await store.execute_many(step.commands)
                else:
                    reply = await asyncio.sleep(step.seconds)
            except BaseException as exc:  # noqa: BLE001 - the operation decides, cancellation included
                step = operation.throw(exc)
            else:
                step = operation.send(reply)
    except StopIteration as stop:
        result: R = stop.value
        return result


def run_blocking(operation: Operation[R], store: BlockingStore) -> R:
    """Run an operation against a store in the calling thread."""
    try:
        step = next(operation)
        while True:
            try:
                reply: object
                if isinstance(step, Command):
                    reply = store.execute(step)
                elif isinstance(step, Together):
                    reply = store.execute_many(step.commands)
                else:
                    reply = time.sleep(step.seconds)
            except BaseException as exc:  # noqa: BLE001 - the operation decides, a KeyboardInterrupt included
                step = operation.throw(exc)
            else:
                step = operation.send(reply)
    except StopIteration as stop:
        result: R = stop.value
        return result
