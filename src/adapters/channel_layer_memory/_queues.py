"""The handlers of commands on popped queues, and of the statistics."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.expiry import UNREAD_FACTOR
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer.runtime.wakeups import ReceiveWaiter
from channel_layer_memory._state import Handlers, append_entry, wake_next

if TYPE_CHECKING:
    from channel_layer.domain.mailbox import Waiter
    from channel_layer.domain.names import ChannelName
    from channel_layer.domain.rates import Rates

__all__ = ("QueueHandlers",)


class QueueHandlers(Handlers):
    """Pushes, pops, waits and counts; each handler does what its command in `channel_layer.commands` says."""

    def push(self, request: c.Push, /) -> c.Pushed:
        frame = message_frame(request.channel.name, request.payload)
        now = self._now()
        inbox = self._owned(request.channel.queue.name)
        if inbox is not None:
            unread = inbox.unread.get(request.channel.name, 0)
            if unread >= request.capacity or len(inbox.entries) >= self._rules.inbox_capacity:
                return c.Pushed(accepted=False, expired=0)
            inbox.unread[request.channel.name] = unread + 1
            append_entry(inbox, now, frame)
            return c.Pushed(accepted=True, expired=0)
        if request.if_registered and not self._has_reader(request.channel.queue.name, now):
            left = self._all.lines.get(request.channel.queue.name)
            orphaned = len(left.entries) if left is not None else 0
            return c.Pushed(accepted=False, expired=0, orphaned=orphaned)
        if request.to_member and self._unread_expired(request.channel, now):
            return c.Pushed(accepted=False, expired=0, unread_expired=True)
        line = self._all.lines[request.channel.queue.name]
        expired = 0
        if len(line.entries) >= request.capacity:
            expired = self._expire(line, now)
            if len(line.entries) >= request.capacity:
                return c.Pushed(accepted=False, expired=expired)
        line.entries.append(c.Entry(now, frame))
        if request.to_member:
            channels = self._all.unread.setdefault(request.channel.queue.name, {})
            channels.setdefault(request.channel.name, now)
        wake_next(line)
        return c.Pushed(accepted=True, expired=expired)

    def clear_unread(self, request: c.ClearUnread, /) -> None:
        name = request.channel.queue.name
        channels = self._all.unread.get(name, {})
        if channels.pop(request.channel.name, None) is not None and not channels:
            del self._all.unread[name]

    def pop(self, request: c.Pop, /) -> c.Popped:
        name = request.queue.name
        now = self._now()
        if request.queue.kind is Kind.INBOX:
            if self._owned(name) is not None or name in self._all.parents:
                return c.Popped((), 0, now, self._all.epoch, owned=True)
            claimant, until = self._all.claims.get(name, (request.claimant, now))
            if claimant != request.claimant and until > now:
                return c.Popped((), 0, now, self._all.epoch, held_for=until - now)
            self._all.claims[name] = (request.claimant, now + self._lease)
        elif request.register:
            self._all.registered.setdefault(name, {})[request.claimant] = now + request.register
        line = self._all.lines[name]
        expired = self._expire(line, now)
        count = min(request.count, len(line.entries))
        entries = tuple(line.entries.popleft() for _ in range(count))
        if request.count:
            self._all.unread.pop(name, None)
        wake_next(line)
        self._remove_if_idle(name)
        return c.Popped(entries, expired, now, self._all.epoch)

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        line = self._all.lines[request.queue.name]
        entries = [entry for entry in request.entries if entry.stamp >= self._all.flushed_at]
        line.entries.extendleft(reversed(entries))
        wake_next(line)
        return c.Returned(expired=0, flushed=len(request.entries) - len(entries))

    def release_claim(self, request: c.ReleaseClaim, /) -> None:
        self._all.registered.get(request.inbox.name, {}).pop(request.claimant, None)
        claim = self._all.claims.get(request.inbox.name)
        if claim is not None and claim[0] == request.claimant:
            del self._all.claims[request.inbox.name]

    async def wait(self, request: c.Wait, /) -> None:
        name = request.queue.name
        waiter = ReceiveWaiter(asyncio.get_running_loop())
        if not self.add_waiter(name, waiter):
            return
        done = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(request.block):
                    await waiter
            done = True
        finally:
            # Of a closed loop it is passed over, and this is the garbage collector, which may hold the lock.
            if not waiter.lost and self.remove_waiter(name, waiter) and not done:
                with self._lock:  # cancelled before it ran: the entry is for the next one
                    wake_next(self._all.lines[name])
                    self._remove_if_idle(name)

    def orphaned(self, _request: c.FindOrphaned, /) -> tuple[str, ...]:
        now = self._now()
        filled = [name for name, line in self._all.lines.items() if line.entries and not name.endswith("!")]
        return tuple(name for name in filled if not self._has_reader(name, now))

    def add_waiter(self, queue: str, waiter: Waiter) -> bool:
        """Have *waiter* woken when a queue may hold a message; return False if it may hold one now."""
        with self._lock:
            line = self._all.lines[queue]
            if line.wakeup_due:
                line.wakeup_due = False
                return False
            line.waiters.append(waiter)
            return True

    def remove_waiter(self, queue: str, waiter: Waiter) -> bool:
        """Stop having *waiter* woken for a queue, and return whether it was woken."""
        with self._lock:
            line = self._all.lines.get(queue)
            waits = line is not None and waiter in line.waiters
            if line is not None and waits:
                line.waiters.remove(waiter)
            self._remove_if_idle(queue)
            return not waits

    def pending(self, request: c.Pending, /) -> int:
        name = request.channel.name
        inbox = self._owned(request.channel.queue.name)
        prefix = message_frame(name, b"")
        if inbox is not None:
            return sum(frame.startswith(prefix) for _, _, frame in inbox.entries)
        line = self._all.lines.get(request.channel.queue.name)
        return sum(entry.frame.startswith(prefix) for entry in line.entries) if line is not None else 0

    # -- statistics

    def report(self, request: c.Report, /) -> None:
        counts = [(each.queue.name, each.messages, each.refused) for each in request.counts]
        self._all.meters.add(self._now(), counts, request.messages, request.refused)

    def reported(self, request: c.Reported, /) -> Rates:
        return self._all.meters.read(self._now(), None if request.queue is None else request.queue.name)

    def survey(self, request: c.Survey, /) -> c.Surveyed:
        channel = request.channel
        now = self._now()
        names = {*self._all.lines, *self._all.inboxes} if channel is None else {channel.queue.name}
        begins = b"m" if channel is None else message_frame(channel.name, b"")
        found = [self._count_waiting(name, begins, now) for name in names]
        count = sum(pending for pending, _ in found)
        stamps = [stamp for _, stamp in found if stamp is not None]
        oldest = max(0.0, now - min(stamps)) if stamps else None
        return c.Surveyed(count, oldest)

    def _count_waiting(self, name: str, begins: bytes, now: float) -> tuple[int, float | None]:
        """Return how many messages wait in a queue, and the stamp of the oldest of them that the store still holds.

        Only messages count whose frames begin with *begins*.
        """
        inbox = self._owned(name)
        if inbox is not None:
            channels = (channel for channel in inbox.unread if message_frame(channel, b"").startswith(begins))
            count = sum(inbox.unread[channel] for channel in channels)
            stamps = [stamp for _, stamp, frame in inbox.entries if frame.startswith(begins)]
            return count, min(stamps, default=None) if count else None
        line = self._all.lines.get(name)
        entries = line.entries if line is not None else ()
        waiting = [entry.stamp for entry in entries if entry.frame.startswith(begins)]
        fresh = [stamp for stamp in waiting if stamp + self._rules.expiry > now]
        return len(fresh), min(fresh, default=None)

    # -- under the lock

    def _unread_expired(self, channel: ChannelName, now: float) -> bool:
        """Whether a group message to *channel* has long expired, and no reader has asked for messages since it came."""
        unread = self._all.unread
        while unread and max(unread[first := next(iter(unread))].values()) + self._lifetime <= now:
            del unread[first]
        since = unread.get(channel.queue.name, {}).get(channel.name)
        return since is not None and since + UNREAD_FACTOR * self._rules.expiry <= now

    def _has_reader(self, name: str, now: float) -> bool:
        """Whether a queue has a registered reader; forget the registrations that have ended."""
        readers = self._all.registered.get(name, {})
        for reader in [reader for reader, until in readers.items() if until <= now]:
            del readers[reader]
        if not readers:
            self._all.registered.pop(name, None)
        return bool(readers)

    def _remove_if_idle(self, name: str) -> None:
        """Remove a queue that has neither entries nor waiters."""
        line = self._all.lines.get(name)
        if line is not None and not line.entries and not line.waiters:
            del self._all.lines[name]
