"""The background work of a layer, in one event loop.

Its inboxes are read, leases kept, queues consumed, and old messages dropped. All state of this lives in the
`LayerState`, which belongs to the layer in this process and not to any loop. So the work can end at any moment, and
that of another loop goes on where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.errors import StoreError
from channel_layer.operations.leases import end_memberships
from channel_layer.operations.receiving import closed_error
from channel_layer.operations.sending import move_all_to_remote
from channel_layer.operations.statistics import report
from channel_layer.runtime.background_tasks import BackgroundTasks
from channel_layer.runtime.event_loops import LoopLiveness
from channel_layer.runtime.inbox_reader import InboxReader, LeaseKeeper
from channel_layer.runtime.queue_consumer import QueueConsumer
from channel_layer.runtime.reporting import REPORT_SECONDS, log_losses
from channel_layer.runtime.wakeups import WakeQueue, wake_all

if TYPE_CHECKING:
    from channel_layer.domain.inbox import Inbox
    from channel_layer.domain.mailbox import QueueBuffer
    from channel_layer.domain.names import Queue
    from channel_layer.operations.state import LayerState
    from channel_layer.runtime.event_loops import LoopSession

__all__ = ("BackgroundWork",)


class BackgroundWork:
    """The background work in one event loop.

    Attributes:
        tasks: what it consists of.
        liveness: for other loops that need what this one does.
    """

    def __init__(self, state: LayerState, session: LoopSession) -> None:
        self.session: LoopSession = session
        self.tasks: BackgroundTasks = BackgroundTasks(session.store)
        self.liveness: LoopLiveness = LoopLiveness(session.loop)
        self._state = state
        self._retired = False
        self._wakeups = WakeQueue(self.tasks.loop)
        self._readers: dict[str, InboxReader] = {}
        self._consumers: dict[str, QueueConsumer] = {}
        self._keepers = [
            LeaseKeeper(shard, state, self.tasks, self._reader_of) for shard in range(len(state.routes.ring))
        ]
        self._adopting = asyncio.Lock()

    # -- begin and end

    def start(self) -> None:
        """Take over all that the layer holds in this process."""
        self._leave_lost()
        self.tasks.start(self._maintain())
        for keeper in self._keepers:
            self.tasks.start(keeper.keep())
        with self._state.lock:
            buffers = list(self._state.buffers.values())
        for inbox in self._state.owned_inboxes():
            reader = self._reader_of(inbox)
            reader.start()
            reader.return_credits(soon=True)
        for buffer in buffers:
            self.consume(buffer)

    async def stop(self) -> None:
        """End all work; nothing that has arrived is lost."""
        try:
            await self.tasks.stop()
        finally:
            self._wakeups.wake_rest()

    def retire(self) -> None:
        """Do nothing any more, not even when the loop, which does not respond, runs again; called in any thread."""
        with self._state.lock:
            self.tasks.stopping = self._retired = True
        self.tasks.post(self.tasks.cancel)
        self._wakeups.wake_rest()

    # -- owned inboxes

    async def adopt(self, queue: Queue) -> None:
        """Claim a new inbox and begin to read it, unless that has been done.

        Raises:
            StoreError: the store cannot be reached.
        """
        state = self._state
        async with self._adopting:
            inbox = state.inboxes.get(queue.name)
            if inbox is None:
                inbox = state.make_inbox(queue)
                reader = self._make_reader(inbox)
                try:
                    await reader.ensure_lease()
                    with state.lock:
                        if not state.closed:
                            state.inboxes[queue.name] = inbox
                            self._readers[queue.name] = reader
                finally:
                    if state.closed:  # meanwhile, without knowing of this inbox
                        await self.tasks.store.execute(c.ReleaseLease(inbox.shard, queue))
                if state.closed:
                    raise closed_error()
        reader = self._reader_of(inbox)
        if not reader.begun:
            reader.start()

    async def ensure_lease(self, inbox: Inbox) -> None:
        """Acquire the lease of an inbox again if it is gone.

        Raises:
            StoreError: the store cannot be reached.
        """
        await self._reader_of(inbox).ensure_lease()

    def is_returning(self, inbox: Inbox, *, soon: bool) -> bool:
        """Whether credits of an inbox are on their way to the store already, or will be. Any thread may ask."""
        reader = self._readers.get(inbox.queue.name)
        return reader is not None and reader.is_returning(soon=soon)

    def return_credits(self, inbox: Inbox, *, soon: bool) -> None:
        """Have the store told of credits of an inbox that are free again."""
        self._reader_of(inbox).return_credits(soon=soon)

    def _reader_of(self, inbox: Inbox) -> InboxReader:
        reader = self._readers.get(inbox.queue.name)
        if reader is None:
            reader = self._readers[inbox.queue.name] = self._make_reader(inbox)
        return reader

    def _make_reader(self, inbox: Inbox) -> InboxReader:
        return InboxReader(inbox, self._state, self.tasks, self._wakeups, self._keepers[inbox.shard].look_soon)

    # -- queues that are popped

    def consume(self, buffer: QueueBuffer) -> None:
        """Receivers of a queue have come or gone: see that it is popped for them."""
        if self.tasks.stopping:
            return
        consumer = self._consumers.get(buffer.queue.name)
        if consumer is None:
            consumer = self._consumers[buffer.queue.name] = QueueConsumer(buffer, self._state, self.tasks)
            self.tasks.start(self._run_consumer(consumer))
        consumer.notify()

    async def _run_consumer(self, consumer: QueueConsumer) -> None:
        try:
            await consumer.run()
        finally:
            if not self.tasks.loop.is_closed():  # else the garbage collector is here, and may hold the lock
                self._forget_consumer(consumer.buffer)

    def _forget_consumer(self, buffer: QueueBuffer) -> None:
        state = self._state
        self._consumers.pop(buffer.queue.name, None)
        with state.lock:
            over = buffer.idle and not self._retired  # else the background work of another loop serves it by now
            if over and state.buffers.get(buffer.queue.name) is buffer:
                del state.buffers[buffer.queue.name]
        if not over and not self.tasks.stopping:  # a receiver came at the last moment
            self.consume(buffer)

    def _leave_lost(self) -> None:
        """Let others have what was promised to tasks of closed loops."""
        others, buffers = self._state.leave_lost()
        wake_all(others)
        for buffer in buffers:
            self.consume(buffer)

    # -- what is done every so often

    async def run_maintenance(self) -> None:
        """Do at once what is done every so often: renew leases, drop what is too old, return all credits.

        Raises:
            StoreError: the store cannot be reached.
        """
        for keeper in self._keepers:
            await keeper.look()
        await self._sweep(forget=True)
        for inbox in self._state.owned_inboxes():
            await self._reader_of(inbox).settle()

    async def _maintain(self) -> None:
        """Sweep, and report, for ever."""
        state = self._state
        expiry = state.rules.expiry
        period = min(1.0, expiry / 20)
        forget_at = state.clock.now() + expiry / 2
        report_at = state.clock.now()
        while True:
            await asyncio.sleep(period)
            if state.counters.pending_counts and state.clock.now() >= report_at:
                report_at = state.clock.now() + REPORT_SECONDS
                self.tasks.start(self.tasks.run(report(state)))
            forget = state.clock.now() >= forget_at
            if forget:
                forget_at = state.clock.now() + expiry / 2
            await self._sweep(forget=forget)

    async def _sweep(self, *, forget: bool) -> None:
        """Drop what was not read in time, end memberships over it, and log losses; *forget* also what is not used."""
        self._leave_lost()
        state = self._state
        now = state.clock.now()
        ending: list[tuple[str, str, int]] = []
        with state.lock:
            inboxes = list(state.inboxes.values())
            for inbox in inboxes:
                ending.extend(inbox.sweep(now))
                if forget:
                    inbox.forget(now)
            for buffer in state.buffers.values():
                for box in buffer.boxes.values():
                    buffer.expire(box, now)
                if forget:
                    buffer.forget(now, state.rules.expiry)
        for inbox in inboxes:
            if inbox.credits:
                self.return_credits(inbox, soon=True)
        with contextlib.suppress(StoreError):  # the next sweep finds them
            await self.tasks.run(move_all_to_remote(state))
        log_losses(state)
        await self.tasks.run(end_memberships(state, ending))
