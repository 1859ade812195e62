"""What an operation may ask of its driver, one step at a time, and how it gets typed replies.

An operation is a generator: it yields steps, is sent what came of each, and returns its result. It knows no I/O, so
that each use case is written once, for event loops and for threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from channel_layer.commands import Command
from channel_layer.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from channel_layer.domain.inbox import Inbox

__all__ = (
    "EnsureReading",
    "Operation",
    "RestoreLease",
    "Sleep",
    "Step",
    "Together",
    "Unbroken",
    "execute",
    "execute_all",
    "run_together",
)

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Together:
    """Several commands at once, in one write where the store can; what came of each is sent back, in the same order."""

    commands: tuple[Command[Any], ...]


@dataclass(frozen=True, slots=True)
class Sleep:
    """A pause of so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Unbroken:
    """An operation that runs to its end even if the caller is cancelled: what it has in hand is nowhere else."""

    operation: Operation[None]


@dataclass(frozen=True, slots=True)
class RestoreLease:
    """The lease of an inbox of this process is gone: have it acquired again, and wait for that.

    A `StoreError` is thrown into the operation if it was not, in time.
    """

    inbox: Inbox


@dataclass(frozen=True, slots=True)
class EnsureReading:
    """Have the inboxes of this process read while the operation goes on.

    The reply is the names of those that are not, because the thread that reads them is the one that runs this.
    """


Step: TypeAlias = "Command[Any] | Together | Sleep | Unbroken | RestoreLease | EnsureReading"
"""What an operation may yield."""

# A generator has one type for all that is sent into it, and each command has a reply type of its own, so the middle one
# cannot be said. `execute` and `execute_all` give the reply to every command its type back.
Operation: TypeAlias = "Generator[Step, Any, R]"
"""A use case: yields steps, is sent their replies, returns *R*."""


def execute(command: Command[R]) -> Operation[R]:
    """Have a command carried out, and return its reply.

    Raises:
        StoreError: it was not carried out, or that is unknown.
    """
    reply: R = yield command
    return reply


def execute_all(commands: Iterable[Command[R]]) -> Operation[list[R]]:
    """Have several commands carried out at once, and return their replies in the same order.

    If some of them fail, the others are still carried out.

    Raises:
        StoreError: one of them was not carried out, or that is unknown: the first one that failed.
    """
    together = Together(tuple(commands))
    outcomes: list[R | StoreError] = (yield together) if together.commands else []
    replies: list[R] = []
    for outcome in outcomes:
        if isinstance(outcome, StoreError):
            raise outcome
        replies.append(outcome)
    return replies


def run_together(operations: Iterable[Operation[R]]) -> Operation[list[R | Exception]]:
    """Run operations side by side that ask for commands only: those of each round go out together.

    Returns:
        What came of each, in the same order; of one that has failed, its error.
    """
    running = [_Running(operation) for operation in operations]
    while commands := [command for each in running for command in each.commands]:
        outcomes = iter((yield Together(tuple(commands))))
        for each in running:
            each.resume([next(outcomes) for _ in each.commands])
    return [each.outcome for each in running]


class _Running(Generic[R]):
    """An operation that runs beside others.

    Attributes:
        commands: what it asks for next; nothing if it has ended.
        outcome: what came of it, once it has ended.
    """

    __slots__ = ("_alone", "_operation", "commands", "outcome")

    outcome: R | Exception

    def __init__(self, operation: Operation[R]) -> None:
        self._operation = operation
        self._alone = False
        self._advance(operation.send, None)

    def resume(self, outcomes: list[Any]) -> None:
        """Go on with what came of its commands."""
        if not self.commands:
            return
        if not self._alone:
            self._advance(self._operation.send, outcomes)
        elif isinstance(outcomes[0], StoreError):
            self._advance(self._operation.throw, outcomes[0])
        else:
            self._advance(self._operation.send, outcomes[0])

    def _advance(self, resume: Callable[[Any], Step], value: object) -> None:
        self.commands: tuple[Command[Any], ...] = ()
        try:
            step = resume(value)
        except StopIteration as stop:
            self.outcome = stop.value
        except Exception as exc:  # noqa: BLE001 - it is the outcome of this one, and the others go on
            self.outcome = exc
        else:
            if not isinstance(step, (Command, Together)):
                raise TypeError(f"an operation that runs beside others cannot ask for {step!r}")
            self._alone = isinstance(step, Command)
            self.commands = (step,) if isinstance(step, Command) else step.commands
