"""The suites notice what a sequence of calls cannot show: stores and layers that are wrong on purpose, one way each."""

# pyright: reportPrivateUsage=false
# What is wrong is deep inside.

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Capabilities, Clock
from channel_layer.runtime.wakeups import ReceiveWaiter
from channel_layer.stores.faults import FaultyBackend
from channel_layer.testing import LayerSuite, StoreSuite, Violation
from channel_layer.testing.suites.stores import StoreEnvironment
from channel_layer.testing.suites.tools import LayerEnvironment
from tests.support.stores import memory_stores
from tests.support.wrong_stores import WrongBackend, WrongStore, wrong_stores

pytestmark = pytest.mark.usefixtures("tidied")

R = TypeVar("R")

_PATIENCE = 0.3


class Deaf(WrongStore):
    """Hears of a message only when it looks again."""

    async def wait(self, request: c.Wait, /) -> None:
        """Sleep."""
        await asyncio.sleep(request.block)


class CallsNobodyElse(WrongStore):
    """Forgets a call when the one who was called is cancelled."""

    async def wait(self, request: c.Wait, /) -> None:
        """Wait, and take the call along."""
        line = self._all.lines[request.queue.name]
        if line.wakeup_due:
            line.wakeup_due = False
            return
        waiter = ReceiveWaiter(asyncio.get_running_loop())
        line.waiters.append(waiter)
        try:
            async with asyncio.timeout(request.block):
                await waiter
        finally:
            if waiter in line.waiters:
                line.waiters.remove(waiter)


class LosesWhenCancelled(WrongStore):
    """May be cancelled after it has taken something."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Take, then wait for a moment."""
        reply = await super().execute(command)
        if isinstance(reply, c.Popped):
            await asyncio.sleep(0)
        return reply


class ForgetsToPutBack(WrongStore):
    """May be cancelled before it has put anything back."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Wait for a moment before anything is put back."""
        kind = type(command)
        if kind is c.PutBack:
            await asyncio.sleep(0)
        return await super().execute(command)


class GoesOn(WrongStore):
    """Does not let itself be cancelled, whatever it does."""

    async def execute(self, command: c.Command[R], /) -> R:
        """Push, come what may."""
        kind = type(command)
        if kind is c.Push:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        return await super().execute(command)


class DeafReader(WrongStore):
    """Looks into an inbox once in a while."""

    async def _wait_for_entries(self, request: c.Read) -> None:
        """Sleep if there is nothing."""
        if not self.read(request).entries:
            await asyncio.sleep(request.block)


class ChangesBytes(WrongStore):
    """Takes a payload for text."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push what can be read."""
        return super().push(replace(request, payload=request.payload.decode("ascii", "replace").encode()))


class ClosesOnce(WrongStore):
    """Cannot be closed twice."""

    _over = False

    async def aclose(self) -> None:
        """Close, once."""
        if self._over:
            raise StoreError("closed already", retryable=False, outcome="not_sent")
        self._over = True


class LivesInOneLoop(WrongStore):
    """Belongs to the event loop in which it was first used."""

    def push(self, request: c.Push, /) -> c.Pushed:
        """Push, at home."""
        loops: list[asyncio.AbstractEventLoop] = self.backend.__dict__.setdefault("loops", [])
        loops.append(asyncio.get_running_loop())
        if loops[0] is not loops[-1]:
            raise StoreError("Event loop is closed", retryable=False, outcome="not_sent")
        return super().push(request)


_CAUGHT: dict[type[WrongStore], Callable[[StoreSuite, StoreEnvironment], None]] = {
    Deaf: StoreSuite.test_a_wait_is_woken_by_its_own_queue,
    CallsNobodyElse: StoreSuite.test_a_cancelled_wait_passes_its_call_on,
    LosesWhenCancelled: StoreSuite.test_a_pop_that_is_cancelled_loses_nothing,
    ForgetsToPutBack: StoreSuite.test_a_put_back_that_is_cancelled_is_carried_out,
    GoesOn: StoreSuite.test_all_other_commands_end_as_cancelled,
    DeafReader: StoreSuite.test_a_blocked_read_is_woken,
    ChangesBytes: StoreSuite.test_payloads_come_out_as_they_went_in,
    ClosesOnce: StoreSuite.test_a_store_may_be_closed_at_any_time,
    LivesInOneLoop: StoreSuite.test_one_backend_serves_loops_and_threads_one_after_another,
}


@pytest.mark.parametrize("wrong", _CAUGHT, ids=lambda wrong: wrong.__name__)
def test_a_wrong_store_is_caught(wrong: type[WrongStore]) -> None:
    """A store that breaks one promise fails the test that is about it."""
    with pytest.raises((Violation, StoreError)):
        _CAUGHT[wrong](StoreSuite(), StoreEnvironment(wrong_stores(wrong), patience=_PATIENCE))


@pytest.mark.parametrize("test", set(_CAUGHT.values()), ids=lambda test: test.__name__)
def test_a_right_store_is_not(test: Callable[[StoreSuite, StoreEnvironment], None]) -> None:
    """The store that all of these are made of passes each of the tests."""
    test(StoreSuite(), StoreEnvironment(wrong_stores(WrongStore), patience=20.0))


class Reconnecting(StoreSuite):
    """Breaks the connections of stores that have none, by faults."""

    reconnects = True

    def __init__(self, backends: list[FaultyBackend], again: Callable[[], None]) -> None:
        self._backends = backends
        self._again = again

    def disconnect(self, backend: Backend) -> None:
        """Cut them all."""
        del backend
        for each in self._backends:
            each.cut()
        self._again()


class NotesWhatItGives(WrongStore):
    """Remembers the last messages that were taken, as if it did not know whether they have arrived."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Take and remember."""
        popped = super().pop(request)
        if popped.entries:
            self.backend.__dict__["given"] = (request.queue.name, popped.entries)
        return popped


@pytest.mark.parametrize("twice", [False, True])
def test_a_message_that_comes_twice_after_a_reconnect_is_caught(twice: bool) -> None:  # noqa: FBT001
    """A store that gives out again what it gave before the connection was lost fails; one that does not passes."""
    made: list[WrongBackend] = []
    made_by_prefix: dict[str, WrongBackend] = {}

    def make_store(rules: Rules, clock: Clock) -> Backend:
        if rules.prefix not in made_by_prefix:
            made.append(WrongBackend(NotesWhatItGives, made_by_prefix, rules, clock))
        return made_by_prefix[rules.prefix]

    def again() -> None:
        name, entries = made[0].__dict__.pop("given", ("", ()))
        if twice and name:
            with made[0].lock:
                made[0].lines[name].entries.extendleft(reversed(entries))

    backends: list[FaultyBackend] = []

    def make_breakable(rules: Rules, clock: Clock) -> Backend:
        backends.append(FaultyBackend(make_store(rules, clock)))
        return backends[-1]

    suite = Reconnecting(backends, again)
    env = StoreEnvironment(make_breakable, patience=1.0 if twice else 20.0)
    if twice:
        with pytest.raises((Violation, KeyError)):
            suite.test_lost_connections_lose_no_message(env)
    else:
        suite.test_lost_connections_lose_no_message(env)


class ForgetsItsEnd(ChannelLayer):
    """Answers after it was closed as before."""

    async def aclose(self) -> None:
        """Let go of nothing."""
        await self.close_pools()


def test_a_layer_that_does_not_end_is_caught() -> None:
    """A layer whose closing gives nothing up fails the test of the end."""

    def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
        return ForgetsItsEnd(rules, make_store(rules, clock), clock=clock)

    make_store = memory_stores()
    with pytest.raises(Violation):
        LayerSuite().test_the_end_of_a_layer_gives_everything_up(
            LayerEnvironment(make_layer, Capabilities(), patience=_PATIENCE)
        )


def test_every_test_of_the_suites_is_about_something_else() -> None:
    """No test of the suites is overridden by another part's: each name is there once."""
    names = Counter(name for part in LayerSuite.__mro__ for name in vars(part) if name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
