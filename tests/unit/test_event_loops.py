"""Whether a loop responds, and what becomes of sessions that are made while a layer closes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from channel_layer import StoreError
from channel_layer.runtime import event_loops
from channel_layer.runtime.event_loops import LoopLiveness, LoopSession, io_thread
from channel_layer.runtime.loop_sessions import LoopSessions
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_memory import _store


class Clock:
    """A clock that a test moves."""

    time = 1000.0

    def now(self) -> float:
        """Return seconds since some moment."""
        return self.time


@contextmanager
def blocked() -> Generator[asyncio.AbstractEventLoop]:
    """Block the loop of the I/O thread meanwhile."""
    begun, gate = threading.Event(), threading.Event()
    loop = io_thread().loop

    def block() -> None:
        begun.set()
        gate.wait(10)

    loop.call_soon_threadsafe(block)
    begun.wait(10)
    try:
        yield loop
    finally:
        gate.set()


def test_a_loop_is_blocked_when_it_has_had_its_time_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump of the clock, as after this process was suspended, is no proof; what follows it is."""
    clock = Clock()
    monkeypatch.setattr(event_loops, "SystemClock", lambda: clock)
    answered = threading.Event()
    with blocked() as loop:
        liveness = LoopLiveness(loop)
        came: list[bool] = []
        for step in (0.0, 100.0, 0.4, 0.2):
            clock.time += step
            came.append(liveness.stopped)
        assert came == [False, False, False, True]
    loop.call_soon_threadsafe(answered.set)
    assert answered.wait(10)
    assert not liveness.stopped


async def test_no_session_is_made_once_all_are_closed() -> None:
    """A call that is on its way to the I/O thread when a layer closes leaves no store open there."""
    backend = _store.MemoryBackend(make_rules(), VirtualClock())

    async def close(session: LoopSession) -> None:
        sessions.forget(session)

    sessions = LoopSessions(backend, close)
    with blocked():
        entering = io_thread().run(sessions.open_in_thread())
        closing = asyncio.create_task(sessions.close_all(waits=True))
        await asyncio.sleep(0)
    await closing
    with pytest.raises(StoreError, match="closed"):
        await entering
    with pytest.raises(StoreError, match="closed"):
        await sessions.enter()
    assert not sessions
