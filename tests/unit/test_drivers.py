"""The two drivers: what each step of an operation does, what is thrown into it, and what goes on without its caller."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, TypeVar

import pytest

from channel_layer import commands as c
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.errors import StoreError
from channel_layer.operations.steps import (
    EnsureReading,
    RestoreLease,
    Sleep,
    Unbroken,
    execute,
    execute_all,
)
from channel_layer.runtime.drivers import refuse, run, run_blocking
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_memory import _store
from tests.support.operations import make_state

if TYPE_CHECKING:
    from channel_layer.operations.steps import Operation
    from channel_layer.runtime.drivers import RuntimeStep

R = TypeVar("R")

JOBS = ChannelName.parse("jobs")


class Store(_store.MemoryStore):
    """A store in memory that writes down what it is asked for, and can hold back or refuse it.

    Attributes:
        asked: every command, when it begins.
        done: every command that was carried out.
        failures: what the next commands fail with, each instead of being carried out.
        begun: a command has come.
        gate: each command waits here.
    """

    def __init__(self) -> None:
        super().__init__(_store.MemoryBackend(make_rules(), VirtualClock()))
        self.asked: list[c.Command[object]] = []
        self.done: list[c.Command[object]] = []
        self.failures: list[BaseException] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command, when the gate is open."""
        self.asked.append(command)
        self.begun.set()
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop(0)
        reply = await super().execute(command)
        self.done.append(command)
        return reply


class BlockingStore(_store.MemoryBlockingStore):
    """The same for threads.

    Attributes:
        done: every command that was carried out.
        failures: what the next commands fail with, each instead of being carried out.
    """

    def __init__(self) -> None:
        super().__init__(_store.MemoryStore(_store.MemoryBackend(make_rules(), VirtualClock())))
        self.done: list[c.Command[object]] = []
        self.failures: list[BaseException] = []

    def execute(self, command: c.Command[R], /) -> R:
        """Carry out a command."""
        if self.failures:
            raise self.failures.pop(0)
        reply = super().execute(command)
        self.done.append(command)
        return reply


PUSH, PENDING, POP = c.Push(0, JOBS, 10, b"payload"), c.Pending(0, JOBS), c.Pop(0, JOBS.queue, 1, "me")
AWAY = StoreError("away", retryable=True, outcome="not_sent")


def use() -> Operation[tuple[int, list[object], frozenset[str]]]:
    """Ask for steps of every kind that needs no more than a store and a runtime."""
    yield from execute(PUSH)
    waiting = yield from execute(PENDING)
    several: list[object] = list((yield from execute_all([PENDING, PENDING])))
    yield Sleep(0.001)
    unread: frozenset[str] = yield EnsureReading()
    return waiting, several, unread


def fall_back() -> Operation[str]:
    """Answer what interrupts a command with another command, and go on with what interrupted it unless it is `AWAY`."""
    try:
        yield from execute(PENDING)
    except BaseException as exc:
        yield from execute_all([PUSH, PUSH])
        if exc is not AWAY:
            raise
        return "fell back"
    return "nothing happened"


def move() -> Operation[None]:
    """Take two steps that must not be parted."""
    yield from execute(PENDING)
    yield from execute(PUSH)


def move_and_look() -> Operation[int]:
    """Take those steps unbroken, and one more."""
    yield Unbroken(move())
    return (yield from execute(PENDING))


# -- in event loops


async def test_each_step_is_done_and_its_reply_sent_back() -> None:
    """Commands go to the store, pauses are made, and the runtime is asked for the rest; the result is returned."""
    store, steps = Store(), list[object]()

    async def perform(step: RuntimeStep, /) -> object:
        steps.append(step)
        return frozenset({"specific.me!"})

    assert await run(use(), store, perform) == (1, [1, 1], frozenset({"specific.me!"}))
    assert store.done == [PUSH, PENDING, PENDING, PENDING]
    assert steps == [EnsureReading()]


async def test_an_error_is_thrown_into_the_operation() -> None:
    """An operation may answer an error of the store with another step; one that it does not handle is raised."""
    store = Store()
    store.failures = [AWAY, AWAY]
    with pytest.raises(StoreError, match="away"):
        await run(execute(PENDING), store, refuse)
    assert await run(fall_back(), store, refuse) == "fell back"
    assert store.done == [PUSH, PUSH]


async def test_a_cancellation_is_thrown_into_the_operation() -> None:
    """A cancelled operation still carries out what it answers with, and the cancellation goes on after that."""
    store = Store()
    store.gate.clear()
    running = asyncio.create_task(run(fall_back(), store, refuse))
    await store.begun.wait()
    running.cancel()
    await asyncio.sleep(0)
    store.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.done == [PUSH, PUSH]


async def test_an_unbroken_operation_goes_on_when_its_caller_is_cancelled() -> None:
    """A caller that is cancelled ends at once; the unbroken operation takes all its steps, and no other is taken."""
    store = Store()
    store.gate.clear()
    running = asyncio.create_task(run(move_and_look(), store, refuse))
    await store.begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.asked == [PENDING]
    store.gate.set()
    async with asyncio.timeout(20):
        while store.done != [PENDING, PUSH]:  # noqa: ASYNC110 - nobody tells of what was left behind
            await asyncio.sleep(0)
    assert store.asked == [PENDING, PUSH]


async def test_an_unbroken_operation_is_waited_for() -> None:
    """A caller that is not cancelled goes on when the unbroken operation has ended, with its error if it failed."""
    store = Store()
    assert await run(move_and_look(), store, refuse) == 1
    assert store.done == [PENDING, PUSH, PENDING]
    store.failures = [AWAY]
    with pytest.raises(StoreError) as caught:
        await run(move_and_look(), store, refuse)
    assert caught.value is AWAY


async def test_an_unbroken_operation_that_fails_unseen_is_not_complained_about() -> None:
    """If nothing waits for an unbroken operation any more, its error is dropped without a message of asyncio."""
    store, complaints = Store(), list[object]()
    store.gate.clear()
    running = asyncio.create_task(run(move_and_look(), store, refuse))
    before = asyncio.all_tasks()
    await store.begun.wait()
    [unseen] = asyncio.all_tasks() - before
    running.cancel()
    await asyncio.wait([running])
    store.failures = [AWAY]
    store.gate.set()
    await asyncio.wait([unseen])
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    try:
        del unseen
        await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(handler)
    assert store.asked == [PENDING]
    assert complaints == []


async def test_what_the_runtime_does_not_do_is_refused() -> None:
    """An operation that asks for something that it cannot have where it runs fails, and says for what."""
    inbox = make_state(Routes(Ring(["a"]), CapacityTable(10))).make_inbox(Queue("specific.me!", Kind.INBOX))

    def ask(step: RuntimeStep) -> Operation[None]:
        yield step

    with pytest.raises(TypeError, match="cannot ask for RestoreLease"):
        await run(ask(RestoreLease(inbox)), Store(), refuse)
    with pytest.raises(TypeError, match="cannot ask for EnsureReading"):
        run_blocking(ask(EnsureReading()), BlockingStore(), refuse)


# -- in threads


def test_a_thread_does_each_step_in_turn() -> None:
    """The same steps are done in the calling thread, unbroken ones in their turn."""
    store, steps = BlockingStore(), list[object]()

    def perform(step: RuntimeStep, /) -> object:
        steps.append(step)
        return frozenset({"specific.me!"})

    assert run_blocking(use(), store, perform) == (1, [1, 1], frozenset({"specific.me!"}))
    assert steps == [EnsureReading()]
    store.done.clear()
    assert run_blocking(move_and_look(), store, refuse) == 2
    assert store.done == [PENDING, PUSH, PENDING]


def test_what_interrupts_a_thread_is_thrown_into_the_operation() -> None:
    """An operation may answer an error, or an interruption, with another step; an interruption goes on after that."""
    store = BlockingStore()
    store.failures = [AWAY]
    assert run_blocking(fall_back(), store, refuse) == "fell back"
    store.failures = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run_blocking(fall_back(), store, refuse)
    assert store.done == [PUSH] * 4
