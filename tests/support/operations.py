"""Runs operations against a script, without a store and without an event loop."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, TypeVar

from channel_layer.operations.state import LayerState
from channel_layer.operations.steps import Together
from channel_layer.testing.factories import VirtualClock, make_rules

if TYPE_CHECKING:
    from channel_layer.commands import Command
    from channel_layer.domain.routing import Routes
    from channel_layer.domain.rules import Rules
    from channel_layer.operations.steps import Operation, Step
    from channel_layer.ports import Clock

__all__ = ("make_state", "play", "together")

R = TypeVar("R")


def make_state(routes: Routes, rules: Rules | None = None, clock: Clock | None = None) -> LayerState:
    """Make what a layer object holds in a process, with nothing in it yet."""
    return LayerState(
        make_rules() if rules is None else rules,
        routes,
        VirtualClock() if clock is None else clock,
        lock=threading.Lock(),
        claimant="me",
    )


def together(*commands: Command[Any]) -> Together:
    """Ask for several commands at once."""
    return Together(commands)


def play(operation: Operation[R], *script: tuple[Step, object]) -> R:
    """Run an operation that has to yield just these steps.

    Args:
        operation: what to run.
        script: each step, and the reply that it is sent; an exception is thrown into it.
    """
    left = list(script)
    try:
        step = next(operation)
        while left:
            expected, reply = left.pop(0)
            assert step == expected
            step = operation.throw(reply) if isinstance(reply, BaseException) else operation.send(reply)
        raise AssertionError(f"one step too many: {step}")
    except StopIteration as stop:
        assert not left, f"the operation ended before it asked for {left}"
        result: R = stop.value
        return result
