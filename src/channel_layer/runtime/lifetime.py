"""How long what a layer object has in a process lives: until it is closed, is collected, or has been copied by a fork.

Nothing that runs in the background refers to a layer object, so one that the program drops is collected while it has
inboxes, connections and tasks. Then they go, too.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from typing import TYPE_CHECKING, Protocol, TypeVar

from channel_layer.errors import StoreError
from channel_layer.operations.leases import give_up
from channel_layer.operations.receiving import closed_error, put_back_all
from channel_layer.operations.sending import move_all_to_remote
from channel_layer.operations.steps import execute_all
from channel_layer.runtime.background import Background
from channel_layer.runtime.event_loops import end_in_io_thread, end_in_thread
from channel_layer.runtime.loop_sessions import LoopSessions
from channel_layer.runtime.member_changes import MemberChanges
from channel_layer.runtime.pipeline import MessagePipeline
from channel_layer.runtime.reporting import Reporter
from channel_layer.runtime.sealing import blinded
from channel_layer.runtime.thread_session import ThreadSession
from channel_layer.stores.faults import FaultyBackend

if TYPE_CHECKING:
    from channel_layer.domain.rules import Rules
    from channel_layer.operations.state import LayerState
    from channel_layer.operations.steps import Operation
    from channel_layer.ports import Backend, Clock
    from channel_layer.runtime.event_loops import LoopSession

__all__ = ("Facade", "LayerLifetime", "LayerResources")

R = TypeVar("R")


class LayerResources:
    """What a layer object has in one process, and how it is given up. It refers neither to the layer nor to a facade.

    Attributes:
        state: its inboxes, buffers and counters.
        sessions: its store in event loops.
        background: what reads, and keeps leases.
        reporter: tells the store what was counted.
        member_changes: changes of groups whose callers may have gone.
        threads: its store for threads.
    """

    def __init__(self, state: LayerState, backend: Backend) -> None:
        self.state: LayerState = state
        self.sessions: LoopSessions = LoopSessions(backend, self._session_closed)
        self.background: Background = Background(state, self.sessions, connects=backend.connects)
        self.reporter: Reporter = Reporter(state, self.sessions)
        self.member_changes: MemberChanges = MemberChanges()
        self.threads: ThreadSession = ThreadSession(state, backend)
        self._connects = backend.connects
        self._collected = False

    async def close(self) -> None:
        """Give up everything; return when that is done."""
        state = self.state
        with state.lock:
            if state.closed and not self._collected:
                return
            state.closed = True
            watchers = state.dismiss_all(closed_error())
        for watcher in watchers:
            watcher.wake()
        try:
            await self._give_up()
        finally:
            await self.background.stop(waits=not self._collected)
            if self.sessions:
                await self._run(put_back_all(state))
                with contextlib.suppress(StoreError):  # it waits here for another process, or expires
                    await self._run(move_all_to_remote(state))
            with state.lock:
                for buffer in state.buffers.values():
                    buffer.empty("closed")
            await self.sessions.close_all(waits=not self._collected)

    def collected(self) -> None:
        """Give up everything soon, because the layer was collected.

        The garbage collector may call this, so in any thread and in the midst of anything, in which a lock may be held.
        It takes none, and waits for nothing.
        """
        self._collected = self.sessions.ending = True
        if not self._connects:  # what is in this process goes with its loops
            for session in list(self.sessions.by_loop.values()):
                session.close_soon()
        elif self.sessions or self.state.inboxes:
            end_in_io_thread(self.close)
        elif self.threads.is_open:
            end_in_thread(self._close_in_thread)
        else:
            self._refuse()

    def _close_in_thread(self) -> None:
        with contextlib.suppress(StoreError):  # what is claimed ends by itself
            self.threads.close()
        self._refuse()

    def _refuse(self) -> None:
        self.threads.refuse()
        self.sessions.refuse()

    async def _give_up(self) -> None:
        """Give up inboxes and claims."""
        for inbox in self.state.owned_inboxes():
            with contextlib.suppress(StoreError):  # the lease ends by itself
                await self._run(give_up(self.state, inbox))
        if claims := self.threads.let_go(reports=not self._collected):
            with contextlib.suppress(StoreError):  # they end by themselves
                await self._run(execute_all(claims))

    async def _run(self, operation: Operation[R]) -> R:
        return await self.sessions.run(operation, self.background.perform)

    async def _session_closed(self, session: LoopSession) -> None:
        """An event loop ends, or lets go of its connections."""
        try:
            if self._collected and not self._connects and not self.state.closed:
                self.state.closed = True
                await self._give_up()
            await self.background.session_closed(session)
            await self.reporter.report_last(session)
        finally:
            await session.store.aclose()


class Facade(Protocol):
    """What a program has of a layer."""

    def begin(self) -> None:
        """Use what belongs to this process; called in a child after a fork."""
        ...


class LayerLifetime:
    """What the facades of one layer object share; nothing else refers to it, so it is collected with the last of them.

    Attributes:
        backend: the store.
        pipeline: what every message passes through.
        resources: what the layer has in this process.
    """

    resources: LayerResources

    def __init__(self, rules: Rules, backend: Backend, clock: Clock) -> None:
        backend = blinded(backend, rules)
        self.pipeline: MessagePipeline = MessagePipeline(rules, backend, clock)
        self.backend: Backend = backend if rules.faults is None else FaultyBackend(backend, rules.faults)
        self._facades: weakref.WeakSet[Facade] = weakref.WeakSet()
        _lifetimes.add(self)

    def begin(self) -> None:
        """Set up what belongs to one process."""
        self.resources = LayerResources(self.pipeline.state, self.backend)
        self._finalizer = weakref.finalize(self, self.resources.collected)
        self._finalizer.atexit = False  # a process may just exit

    def add(self, facade: Facade) -> None:
        """Tell a facade after a fork."""
        self._facades.add(facade)

    async def close(self) -> None:
        """End the layer object."""
        await self.resources.close()
        self._finalizer.detach()

    def after_fork(self) -> None:
        """Start anew in a child process; called there by itself.

        What the parent holds is kept alive unused: closing it would disturb the parent.
        """
        self._finalizer.detach()
        _parents.append(self.resources)
        self.backend.forked()
        self.pipeline.begin()
        self.begin()
        for facade in list(self._facades):
            facade.begin()


_lifetimes: weakref.WeakSet[LayerLifetime] = weakref.WeakSet()
_parents: list[LayerResources] = []


def _after_fork() -> None:
    for lifetime in list(_lifetimes):
        lifetime.after_fork()


os.register_at_fork(after_in_child=_after_fork)
