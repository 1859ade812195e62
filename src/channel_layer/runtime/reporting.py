"""What was counted in this process: told to the store within a second; and losses, to the log."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from channel_layer.operations.statistics import report
from channel_layer.runtime.drivers import refuse, run

if TYPE_CHECKING:
    from channel_layer.errors import DamagedRecord, StoreError
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.event_loops import LoopSession
    from channel_layer.runtime.loop_sessions import LoopSessions

__all__ = ("REPORT_SECONDS", "Reporter", "log_damage", "log_failure", "log_losses", "log_success", "warn")

_logger = logging.getLogger("channel_layer")

REPORT_SECONDS = 1.0
"""How long the store may not have been told what was counted."""

_MOST_DAMAGES = 1000
"""Damaged records of which it is known that the log tells of them."""

_LAST_SECONDS = 1.0
"""How long a loop's end waits, at most, for the store to be told what was counted."""


def log_losses(state: LayerState) -> None:
    """Say in the log what was lost since the last warning: at the first loss, then at most once a minute."""
    if not state.counters.has_news:
        return
    with state.lock:
        warning = state.counters.warning(state.clock.now())
    if warning is not None:
        _logger.warning("%s", warning)


def log_failure(state: LayerState, shard: int, part: str, error: StoreError) -> None:
    """Say in the log that a server cannot be used, once for each outage.

    Args:
        state: the state of the layer.
        shard: the shard that was used.
        part: what failed, for `Outages`.
        error: why. One that a person has to remove is logged as an error.
    """
    server = error.server or state.routes.name(shard)
    with state.lock:
        begins = state.outages.fail(server, (shard, part), state.clock.now())
    if begins and not state.closed:
        level = logging.WARNING if error.retryable else logging.ERROR
        what = "what waits goes on waiting" if error.retryable else "this has to be repaired"
        _logger.log(level, "cannot use %s: %s; %s, and it is tried again", server, error, what)


def log_damage(state: LayerState, error: DamagedRecord) -> None:
    """Say in the log that a queue is damaged, once for each."""
    with state.lock:
        new = str(error) not in state.damages
        if len(state.damages) >= _MOST_DAMAGES:
            state.damages.clear()
        state.damages.add(str(error))
    if new:
        _logger.error("cannot receive, and try again: %s", error)


def log_success(state: LayerState, shard: int, part: str) -> None:
    """Say in the log that what a server has can be used again, and for how long it could not be."""
    if not state.outages.away:
        return
    with state.lock:
        ended = state.outages.succeed((shard, part), state.clock.now())
    for server, seconds in ended:
        # Another server may have taken what this one had.
        what = server if server == state.routes.name(shard) else f"what {server} served"
        _logger.info("%s can be used again, after %.1f s", what, seconds)


def warn(text: str) -> None:
    """Log a warning, unless there is nothing to warn of."""
    if text:
        _logger.warning("%s", text)


class Reporter:
    """Tells the store what the asynchronous facade has counted, while there is no background work that does."""

    def __init__(self, state: LayerState, sessions: LoopSessions) -> None:
        self._state = state
        self._sessions = sessions
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop in which the store will be told."""
        self._tasks: set[asyncio.Task[None]] = set()

    def note(self) -> None:
        """Something was counted, in the running loop."""
        if self._loop is None or not self._loop.is_running():
            self._report_soon()

    def _report_soon(self) -> None:
        session = self._sessions.by_loop.get(asyncio.get_running_loop()) or self._sessions.in_thread
        if session is None:
            return  # this loop's session has ended meanwhile, and with it the store was told
        self._loop = session.loop
        with contextlib.suppress(RuntimeError):  # closed just now: the next one that counts sees that
            session.loop.call_soon_threadsafe(session.loop.call_later, REPORT_SECONDS, self._report_from, session)

    def _report_from(self, session: LoopSession) -> None:
        self._loop = None
        if self._state.counters.pending_counts:
            task = session.loop.create_task(run(report(self._state), session.store, refuse))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def report_last(self, session: LoopSession) -> None:
        """Tell the store now, because a session ends; it is not waited for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(_LAST_SECONDS, self._state.rules.timeout)):
                await run(report(self._state), session.store, refuse)
