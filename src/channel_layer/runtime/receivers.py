"""Receivers in event loops: they wait in the mailboxes of this process, and cancelling one loses nothing.

What wakes a receiver never carries a message: the message stays in its mailbox until a receiver that is sure to run
takes it. The background work fills the mailboxes.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from channel_layer.domain.inbox import Inbox
from channel_layer.domain.mailbox import QueueBuffer
from channel_layer.operations.receiving import closed_error
from channel_layer.runtime import event_loops
from channel_layer.runtime.reporting import log_losses
from channel_layer.runtime.wakeups import ReceiveWaiter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from channel_layer.domain.codec import Message
    from channel_layer.domain.mailbox import Item, Mailbox
    from channel_layer.domain.names import ChannelName
    from channel_layer.runtime.background import Background
    from channel_layer.runtime.loop_sessions import LoopSessions
    from channel_layer.runtime.pipeline import MessagePipeline
    from channel_layer.runtime.wakeups import InlineFuture

    Place: TypeAlias = "tuple[Inbox | QueueBuffer, Mailbox]"

__all__ = ("Receivers",)


class Receivers:
    """What receives from the channels of one layer object, in any of its event loops."""

    def __init__(
        self, pipeline: MessagePipeline, sessions: LoopSessions, background: Background, *, connects: bool
    ) -> None:
        self._pipeline = pipeline
        self._state = pipeline.state
        self._clock = pipeline.clock
        self._sessions = sessions
        self._background = background
        self._connects = connects

    def take(self, name: ChannelName) -> Message | None:
        """Take the next message of a channel; None if none is here.

        Raises:
            StoreError: the layer is closed.
        """
        state = self._state
        lock = state.lock
        lock.acquire()  # `with` takes twice as long, which counts for what is here already
        try:
            if state.closed:
                raise closed_error()
            source: Inbox | QueueBuffer = state.inboxes.get(name.queue.name) or state.buffer(name.queue)
            box = source.boxes.get(name.name) or source.box(name.name, self._clock.now())
            item = source.take(box, self._clock.now(), promised=False) if box.items else None
        finally:
            lock.release()
        return None if item is None else self._open(source, box, item)

    async def receive(self, name: ChannelName) -> Message:
        """Wait for the next message of a channel, unless one is here, and take it.

        Raises:
            InvalidName: it belongs to another process that is alive.
            StoreError: the layer is closed, or the store refuses to serve it.
        """
        state, clock = self._state, self._clock
        message: Message | None = None
        while message is None:
            with state.lock:
                source, box = place = state.place(name)
                item = source.take(box, clock.now(), promised=False) if box.items else None
                waiter = self._join(place) if item is None else None
            if waiter is not None:
                work = self._background.work
                try:
                    if work is None or work.session.loop is not waiter.loop:
                        await self._wait_for_other_loop(waiter, source)
                    elif isinstance(source, QueueBuffer):
                        self._background.consume(source)
                    await waiter
                except BaseException:
                    self._leave(source, waiter)
                    del waiter  # its error refers to this frame
                    raise
                with state.lock:
                    del state.waits[waiter]
                    item = source.take(box, clock.now(), promised=True)
            message = self._open(source, box, item) if item is not None else None
        return message

    def _open(self, source: Inbox | QueueBuffer, box: Mailbox, item: Item) -> Message | None:
        """Return the message that was taken; None if it is none."""
        if not item.group and isinstance(source, Inbox):
            self._background.return_credits(source, box)
        return self._pipeline.open(item, box.name)

    async def _wait_for_other_loop(self, waiter: ReceiveWaiter, source: Inbox | QueueBuffer) -> None:
        """Have the background work done, by a loop that responds, until a message has been promised to a receiver.

        The I/O thread always responds: with it there is nothing to wait for here.
        """
        background, loop = self._background, waiter.loop
        if not background.serves(loop):
            await background.ensure()
        if not (self._connects or loop in self._sessions.by_loop):
            await self._sessions.enter()  # what this loop waits for is its to read, should the loop of the work end
        if isinstance(source, QueueBuffer):
            background.consume(source)
        work = background.work
        if work is None or not (work.session.loop is loop or work.session is self._sessions.in_thread):
            await self._wait_for_any([waiter])

    async def receive_first(self, channels: Sequence[str]) -> tuple[str, Message]:
        """Wait for the next message of any of several channels, as `receive` does for one; the oldest comes first."""
        names = [self._pipeline.channel(channel) for channel in channels]
        if len(names) == 1:
            return names[0].name, await self.receive(names[0])
        state = self._state
        while True:
            await asyncio.sleep(0)  # so that a task that takes one after the other lets others run
            await self._background.ensure()
            if not (self._connects or asyncio.get_running_loop() in self._sessions.by_loop):
                await self._sessions.enter()  # as in `_wait_for_other_loop`
            with state.lock:
                if state.closed:
                    raise closed_error()
                places = [state.place(name) for name in names]
                ready = [place for place in places if len(place[1].items) > place[1].promised]
                taken = self._take_oldest(ready, promised=False)
                waiters = [] if taken is not None else [self._join(place) for place in places]
            if waiters:
                taken = await self._wait_at_any(places, waiters)
            if taken is None:
                continue
            (source, box), item = taken
            if (message := self._open(source, box, item)) is not None:
                return box.name, message

    async def _wait_at_any(
        self, places: Sequence[Place], waiters: Sequence[ReceiveWaiter]
    ) -> tuple[Place, Item] | None:
        """Wait until a message has been promised to one of the receivers, and take it; the others leave."""
        left = dict(zip(waiters, places, strict=True))
        try:
            for source, _ in places:
                if isinstance(source, QueueBuffer):
                    self._background.consume(source)
            await self._wait_for_any(waiters)
            with self._state.lock:
                for waiter in waiters:
                    if waiter.error is not None:
                        raise waiter.error
                oldest = min(
                    (waiter for waiter in waiters if waiter.done()),
                    key=lambda waiter: min((item.deadline for item in left[waiter][1].items), default=math.inf),
                )
                del self._state.waits[oldest]
                return self._take_oldest([left.pop(oldest)], promised=True)
        finally:
            for waiter, (source, _) in left.items():
                self._leave(source, waiter)

    async def _wait_for_any(self, waiters: Sequence[ReceiveWaiter]) -> None:
        """Wait until one is woken; the loop that does the background work may wait for this one meanwhile."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def note(_: InlineFuture) -> None:
            if not woken.done():
                woken.set_result(None)

        for waiter in waiters:
            waiter.add_done_callback(note)
        while not (await asyncio.wait((woken,), timeout=event_loops.UNRESPONSIVE_SECONDS))[0]:
            await self._background.ensure_responsive()

    def _take_oldest(self, places: Sequence[Place], *, promised: bool) -> tuple[Place, Item] | None:
        """Take the message that has waited longest; None if there is none; under the lock."""
        if not places:
            return None
        source, box = min(places, key=lambda place: place[1].items[0].deadline if place[1].items else math.inf)
        item = source.take(box, self._clock.now(), promised=promised)
        return None if item is None else ((source, box), item)

    def _join(self, place: Place) -> ReceiveWaiter:
        """Join the receivers of a mailbox, in the running loop; under the lock.

        Raises:
            StoreError: the layer has been closed: nothing would wake this receiver.
        """
        if self._state.closed:
            raise closed_error()
        waiter = ReceiveWaiter(asyncio.get_running_loop())
        place[1].waiters.append(waiter)
        self._state.waits[waiter] = place
        return waiter

    def _leave(self, source: Inbox | QueueBuffer, waiter: ReceiveWaiter) -> None:
        """Leave without a message, and call the next receiver."""
        if waiter.lost:  # the garbage collector closes this coroutine, perhaps where the lock is held already
            return  # the background work does it
        with self._state.lock:
            others = self._state.leave(waiter)
        for other in others:
            other.wake()
        if isinstance(source, QueueBuffer):
            self._background.consume(source, now=False)

    # -- for subscriptions

    def keep(self, channel: str) -> None:
        """Keep a channel's mailbox, and its memberships, although its messages expire unread."""
        with self._state.lock:
            self._state.place(self._pipeline.channel(channel))[1].kept = True

    def let_go(self, channel: str, error: Exception) -> None:
        """Keep it no more, and end the waits of its receivers with an error."""
        with self._state.lock:
            _, box = self._state.place(self._pipeline.channel(channel))
            box.kept = False
            box.dismiss(error)

    def reject(self, channel: str, problem: str) -> None:
        """Count a message that was received as lost: it cannot be used (``invalid``)."""
        with self._state.lock:
            self._state.counters.delivered -= 1
            self._state.counters.drop("invalid", channel, cause=f"invalid on {channel}: {problem}")
        log_losses(self._state)
