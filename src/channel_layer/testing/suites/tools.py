"""What the suites share: an environment of layers, patience, channels of every kind, and the steps of an event loop.

A race is forced by naming the step at which it happens, and threads begin at one barrier, so that no result depends
on luck or on how busy the machine is.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import select
import selectors
import signal
import threading
import time
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, ParamSpec, TypedDict, TypeVar, Unpack

from channel_layer.errors import ChannelFull, StoreError
from channel_layer.testing.factories import Violation, VirtualClock, fresh_prefix, make_rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from channel_layer.domain.codec import Message
    from channel_layer.layer import ChannelLayer
    from channel_layer.options import ChannelPattern
    from channel_layer.ports import Capabilities
    from channel_layer.testing.factories import MakeLayer

__all__ = (
    "KINDS",
    "ORDERED",
    "POPPED",
    "CheckingEventLoop",
    "Environment",
    "LayerEnvironment",
    "Options",
    "Steps",
    "async_test",
    "at_once",
    "dice",
    "drain",
    "dropped",
    "expect",
    "fails_with",
    "in_fork",
    "make_channel",
    "number",
    "pass_turns",
    "receive_or_none",
    "retried",
    "run",
    "run_stepping",
    "send_patiently",
    "sends",
)

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=BaseException)

KINDS: Final = ("normal", "single-reader", "process-specific", "claimed")
"""Of channels, by how their messages are kept."""

ORDERED: Final = KINDS[1:]
"""Those on which one writer's messages are received in the order of its sends."""

POPPED: Final = ("jobs", "reply?x", "daemon!x")
"""Channels whose messages wait in the store until they are received, one of each kind."""

_LOOK_SECONDS: Final = 0.005
"""Between two looks at what must come about by itself."""


# -- results


def expect(came: object, due: object, rule: str, asked: str) -> None:
    """Compare what came with what is due, and raise a `Violation` of *rule* if they differ."""
    if came != due:
        raise Violation(f"{rule}\n  asked: {asked}\n  came: {came!r}\n  should have come: {due!r}")


async def fails_with(kind: type[E], call: Awaitable[object], rule: str, asked: str) -> E:
    """Await what must fail, and return the error; a `Violation` of *rule* if it does not fail, or in another way."""
    try:
        came = await call
    except kind as exc:
        return exc
    except Exception as exc:
        raise Violation(f"{rule}\n  asked: {asked}\n  came: {exc!r}\n  should have come: {kind.__name__}") from exc
    raise Violation(f"{rule}\n  asked: {asked}\n  came: {came!r}\n  should have come: {kind.__name__}")


# -- environments


class Options(TypedDict, total=False):
    """Rules that differ from the usual ones; see `channel_layer.testing.make_rules`."""

    expiry: float
    group_expiry: float | None
    capacity: int
    channel_capacity: Mapping[ChannelPattern, int]
    max_message_size: int
    inbox_capacity: int
    timeout: float


@dataclass(kw_only=True)
class Environment:
    """One prefix, and patience with what has to happen in it.

    Attributes:
        patience: seconds of real time after which what has not happened is taken not to happen.
        prefix: of all keys.
        clock: moves every clock of this env.
    """

    patience: float
    prefix: str = field(default_factory=fresh_prefix)
    clock: VirtualClock = field(default_factory=VirtualClock)

    async def soon(self, call: Awaitable[R], rule: str, *, steps: int = 1) -> R:
        """Await what has to happen, for as many times patience as it has *steps*; a `Violation` if it does not."""
        limit = asyncio.timeout(steps * self.patience)
        try:
            async with limit:
                return await call
        except TimeoutError:
            if not limit.expired():
                raise
            raise Violation(f"{rule}\n  came: nothing within {steps * self.patience:g} s") from None

    async def end(self, tasks: Iterable[asyncio.Task[R]]) -> None:
        """Cancel tasks, and wait until they have ended; what one of them has failed with is raised."""
        some = list(tasks)
        for task in some:
            task.cancel()
        outcomes = asyncio.gather(*some, return_exceptions=True)
        for outcome in await self.soon(outcomes, "a task that is cancelled in a call ends"):
            if isinstance(outcome, Exception):
                raise outcome

    async def cancel_at(
        self,
        step: int,
        task: asyncio.Task[R],
        steps: Steps,
        rule: str,
        *,
        late: bool = False,
        meanwhile: Awaitable[object] | None = None,
    ) -> bool:
        """Cancel a task at a step of the running loop (see `Steps.arm`), and wait until it has ended in whichever way.

        What is to happen *meanwhile* is awaited first. Returns whether the task was there to be cancelled at that step.
        """
        told = False

        def cancel() -> None:
            nonlocal told
            told = task.cancel()

        steps.arm(step, cancel, late=late)
        if meanwhile is not None:
            await meanwhile
        await self.soon(asyncio.wait([task]), rule)
        steps.disarm()
        return told

    async def eventually(self, holds: Callable[[], bool | Awaitable[bool]], rule: str) -> None:
        """Wait for something that must come about by itself; a `Violation` of *rule* if it does not, in time."""
        until = time.monotonic() + self.patience
        while True:
            found = holds()
            if found if isinstance(found, bool) else await found:
                return
            if time.monotonic() > until:
                raise Violation(f"{rule}\n  came: not within {self.patience:g} s")
            await asyncio.sleep(_LOOK_SECONDS)


@dataclass
class LayerEnvironment(Environment):
    """One prefix, and any number of layers over it, as several processes would have them.

    Attributes:
        make_layer: makes each of them.
        capabilities: of the store.
    """

    make_layer: MakeLayer
    capabilities: Capabilities

    def layer(self, **options: Unpack[Options]) -> ChannelLayer:
        """Make another process's layer."""
        return self.make_layer(make_rules(prefix=self.prefix, **options), self.clock)

    def beside(self, prefix: str | None = None) -> LayerEnvironment:
        """Return an environment of another prefix, by default a new one."""
        return replace(self, prefix=fresh_prefix() if prefix is None else prefix, clock=VirtualClock())

    async def receive(self, layer: ChannelLayer, channel: str) -> Message:
        """Receive a message that has to come."""
        return await self.soon(layer.receive(channel), f"what was sent to {channel} is received")

    async def number(self, layer: ChannelLayer, channel: str) -> int:
        """Receive a numbered message that has to come, and return its number."""
        return number(await self.receive(layer, channel))

    async def numbers(self, layer: ChannelLayer, channel: str, count: int) -> list[int]:
        """Receive numbered messages that have to come, and return their numbers."""
        return [await self.number(layer, channel) for _ in range(count)]

    async def holds(self, layer: ChannelLayer, count: int) -> None:
        """Wait until so many messages wait in a layer's process."""
        rule = f"what was sent comes to the process that owns the channels: {count} messages"
        await self.eventually(lambda: layer.counts().waiting == count, rule)

    async def collect(self, layer: ChannelLayer, channel: str) -> list[Message]:
        """Take everything that waits for a channel whose messages keep their order.

        It sends one message more and receives up to that one, so there is no guessing when the rest has arrived. The
        channel must have room for it.
        """
        await layer.send(channel, {"end": True})
        messages: list[Message] = []
        while "end" not in (message := await self.receive(layer, channel)):
            messages.append(message)
        return messages

    async def forward(self, seconds: float, layers: Iterable[ChannelLayer]) -> None:
        """Let time pass, and let some layers do what they do in the background meanwhile."""
        self.clock.advance(seconds)
        for layer in layers:
            await layer.run_maintenance()


async def make_channel(kind: str, owner: ChannelLayer, place: int = 0) -> str:
    """Name a channel of one of the `KINDS`; a process-specific one shares its inbox with those of its *place* only."""
    names = {"normal": f"jobs{place}", "single-reader": f"reply{place}?x", "claimed": f"daemon{place}!x"}
    return names[kind] if kind in names else await owner.new_channel(f"own{place}")


def number(message: Message) -> int:
    """Return the number of a numbered message, ``{"n": number}``."""
    value = message.get("n")
    if not isinstance(value, int):
        raise Violation(f"a message is received as it was sent\n  came: {message!r}\n  should have come: a number")
    return value


async def sends(layer: ChannelLayer, channel: str, n: int = 0) -> bool:
    """Send a numbered message; return whether there was room."""
    try:
        await layer.send(channel, {"n": n})
    except ChannelFull:
        return False
    return True


async def send_patiently(layer: ChannelLayer, channel: str, message: Mapping[str, object]) -> int:
    """Send; where the channel is full, try again. Return how often it was."""
    tries = 0
    while True:
        try:
            await layer.send(channel, message)
        except ChannelFull:
            tries += 1
            await asyncio.sleep(0.001 * dice(tries).uniform(0.5, 2))
        else:
            return tries


async def receive_or_none(layer: ChannelLayer, channel: str, seconds: float = 0.05) -> Message | None:
    """Receive what is there; None if nothing comes for a while. Cancelling must lose nothing, so this does not."""
    try:
        async with asyncio.timeout(seconds):
            return await layer.receive(channel)
    except TimeoutError:
        return None


async def drain(layer: ChannelLayer, channel: str, seconds: float = 0.1) -> list[int]:
    """Receive numbered messages until none comes for a while; return their numbers."""
    numbers: list[int] = []
    while (message := await receive_or_none(layer, channel, seconds)) is not None:
        numbers.append(number(message))
    return numbers


async def retried(call: Callable[[], Awaitable[R]], rule: str) -> R:
    """Repeat what may be repeated until it succeeds; a `Violation` of *rule* if an error says that it may not."""
    while True:
        try:
            return await call()
        except StoreError as exc:
            expect(exc.retryable, True, rule, str(exc))
            await asyncio.sleep(0.001)


def dropped(*layers: ChannelLayer) -> dict[str, int]:
    """Add up what some layers have counted as dropped, by the reason."""
    total: Counter[str] = Counter()
    for layer in layers:
        for reason, count in layer.counts().dropped.items():
            total[reason] += count
    return dict(total)


def dice(seed: int | str) -> random.Random:
    """Return what chooses at random, and the same each time: which task waits, goes or is late protects nothing."""
    return random.Random(seed)  # noqa: S311


# -- event loops, threads and processes


async def pass_turns(count: int) -> None:
    """Let the other tasks of the loop have so many turns."""
    for _ in range(count):
        await asyncio.sleep(0)


class CheckingEventLoop(asyncio.SelectorEventLoop):
    """Checks in asyncio's debug mode from which threads it is called, and whether something holds it up.

    It does not note where each future and each callback was made, which takes half of the time of a test.
    """

    def __init__(self) -> None:
        super().__init__()
        self.set_debug(True)

    def get_debug(self) -> bool:
        """Tell futures and callbacks that there is nothing to note."""
        return False


def run(body: Coroutine[object, object, R]) -> R:
    """Run an async test body in a loop of its own."""
    with asyncio.Runner(loop_factory=CheckingEventLoop) as runner:
        return runner.run(body)


def async_test(test: Callable[P, Coroutine[object, object, None]]) -> Callable[P, None]:
    """Let `run` run a test: who inherits from a suite has pytest, but perhaps no plugin of it that runs async tests."""

    @functools.wraps(test)
    def run_test(*args: P.args, **kwargs: P.kwargs) -> None:
        run(test(*args, **kwargs))

    return run_test


def at_once(count: int, work: Callable[[int], R]) -> list[R]:
    """Do *work*, given the place of its thread, in so many threads that begin together; return what came, in order."""
    barrier = threading.Barrier(count)

    def start(place: int) -> R:
        barrier.wait()
        return work(place)

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(start, range(count)))


def in_fork(work: Callable[[], object], patience: float, rule: str) -> None:
    """Do *work* in a forked child, which ends with it; a `Violation` if it raises, or takes longer than *patience*."""
    result, told = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        child = os.fork()
    if not child:
        text = ""
        try:
            work()
        except BaseException as exc:  # noqa: BLE001 - the parent has to hear of any
            text = f"{type(exc).__name__}: {exc}"
        finally:
            os.write(told, text.encode()[:60_000])  # as much as a pipe takes without a reader
            os._exit(0)
    os.close(told)
    try:
        ready, _, _ = select.select([result], [], [], patience)
        text = os.read(result, 60_000).decode() if ready else f"nothing within {patience:g} s"
    finally:
        os.close(result)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if text:
        raise Violation(f"{rule}\n  asked: it in a child of a fork\n  came: {text}")


class Steps(selectors.DefaultSelector):
    """A selector that acts at a chosen step: an event loop asks its selector exactly once in every iteration.

    So every point at which a coroutine can be suspended is one of the steps, in the order in which they come, and
    nothing depends on how long anything takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: int = 0
        self._at = -1
        self._late = False
        self._action: Callable[[], object] = int

    def arm(self, step: int, action: Callable[[], object], *, late: bool = False) -> None:
        """Act in the iteration after *step* further ones.

        Args:
            step: iterations to let pass.
            action: called in the loop's thread.
            late: let the loop first see which sockets are ready, so that the action competes with their data.
        """
        self.taken, self._at, self._late, self._action = 0, step, late, action

    def disarm(self) -> None:
        """Do not act."""
        self._at = -1

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Ask which sockets are ready; called by the event loop."""
        acts = self.taken == self._at
        self.taken += 1
        if not acts:
            return super().select(timeout)
        self._at = -1
        if self._late:
            ready = super().select(timeout)
            self._action()
            return ready
        self._action()
        return super().select(0)


def run_stepping(body: Callable[[Steps], Coroutine[object, object, R]]) -> R:
    """Run an async test body in an event loop whose steps it can act at."""
    steps = Steps()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(steps)) as runner:
        return runner.run(body(steps))
