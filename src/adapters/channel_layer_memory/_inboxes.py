"""The handlers of commands on owned inboxes: leases, credits, markers and flushes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import flush_frame, marker_frame
from channel_layer.runtime.wakeups import ReceiveWaiter
from channel_layer_memory._state import Handlers, OwnedInbox, append_entry

if TYPE_CHECKING:
    from channel_layer.domain.frames import MembershipMarker

__all__ = ("InboxHandlers",)


class InboxHandlers(Handlers):
    """What the owner of an inbox asks for, and what others put into it, as `channel_layer.commands` says."""

    def claim(self, request: c.AcquireLease, /) -> c.LeaseAcquired:
        name = request.inbox.name
        now = self._now()
        inbox = self._all.inboxes.get(name)
        fresh = inbox is None
        if inbox is None:
            inbox = self._all.inboxes[name] = OwnedInbox(now + self._lease, request.generation)
        inbox.until, inbox.generation = now + self._lease, request.generation
        inbox.unread, inbox.serial = dict(request.held), 0
        for number, _, frame in inbox.entries:
            if number > int(request.after or "0"):
                _count(inbox, frame)
        self._all.unread.pop(name, None)
        line = self._all.lines.pop(name, None)
        expired = self._expire(line, now) if line is not None else 0
        for entry in line.entries if line is not None else ():
            append_entry(inbox, entry.stamp, entry.frame)
            _count(inbox, entry.frame)
        return c.LeaseAcquired(now, fresh, self._all.epoch, expired)

    def renew(self, request: c.RenewLease, /) -> c.LeaseRenewed:
        now = self._now()
        inbox = self._owned(request.inbox.name)
        if inbox is not None:
            inbox.until = now + self._lease
        return c.LeaseRenewed(now, inbox is not None, self._all.epoch)

    def release(self, request: c.ReleaseLease, /) -> int:
        inbox = self._all.inboxes.pop(request.inbox.name, None)
        return sum(frame[:1] == b"m" for _, _, frame in inbox.entries) if inbox is not None else 0

    def read(self, request: c.Read, /) -> c.Batch:
        inbox = self._drop_read(request)
        if inbox is None or not inbox.entries:
            return c.Batch((), request.after)
        return c.Batch(tuple((stamp, frame) for _, stamp, frame in inbox.entries), str(inbox.last))

    async def _wait_for_entries(self, request: c.Read) -> None:
        """Wait until a read of an inbox would bring an entry, or its time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(request.block):
                while True:
                    with self._lock:
                        inbox = self._drop_read(request)
                        if inbox is not None and inbox.entries:
                            return
                        waiter = ReceiveWaiter(asyncio.get_running_loop())
                        if inbox is not None:  # else it was released, and the read ends when its time is up
                            inbox.readers.append(waiter)
                    await waiter

    def _drop_read(self, request: c.Read) -> OwnedInbox | None:
        """Drop the entries that the owner has read, and return its inbox."""
        inbox = self._all.inboxes.get(request.inbox.name)
        after = int(request.after or "0")
        while inbox is not None and inbox.entries and inbox.entries[0][0] <= after:
            inbox.entries.popleft()
        return inbox

    def return_credits(self, request: c.ReturnCredits, /) -> None:
        inbox = self._owned(request.inbox.name)
        if inbox is None or inbox.generation != request.generation or request.serial <= inbox.serial:
            return
        inbox.serial = request.serial
        for name, places in request.places:
            left = inbox.unread.get(name, 0) - places
            if left > 0:
                inbox.unread[name] = left
            else:
                inbox.unread.pop(name, None)

    def mark(self, request: c.Mark, /) -> bool:
        return self._mark(request.inbox.name, request.marker)

    def alive(self, request: c.Alive, /) -> tuple[bool, ...]:
        return tuple(self._owned(inbox.name) is not None for inbox in request.inboxes)

    # -- flush

    def flush(self, request: c.Flush, /) -> c.Flushing:
        dropped = sum(len(line.entries) for line in self._all.lines.values())
        for line in self._all.lines.values():
            line.entries.clear()
            line.wakeup_due = False
        self._all.unread.clear()
        self._all.groups.clear()
        self._all.meters.clear()
        self._all.epoch = request.generation
        self._all.flushed_at = self._now()
        living = tuple(name for name in list(self._all.inboxes) if self._owned(name) is not None)
        for name, inbox in self._all.inboxes.items():
            dropped += sum(frame[:1] == b"m" for _, _, frame in inbox.entries)
            inbox.entries.clear()
            if name not in living:  # an owner that comes back learns of the flush from the epoch
                continue
            inbox.unread.clear()
            inbox.generation, inbox.serial = request.generation, 0
            append_entry(inbox, self._now(), flush_frame(request.generation))
        return c.Flushing(living, dropped)

    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]:
        found = ((name, self._owned(name)) for name in request.inboxes)
        # An inbox has the generation of this flush, of a later one or of a new lease.
        return tuple(name for name, inbox in found if inbox is not None and inbox.flushed != inbox.generation)

    def acknowledge(self, request: c.Acknowledge, /) -> None:
        inbox = self._owned(request.inbox.name)
        if inbox is not None and inbox.generation == request.generation:
            inbox.flushed = request.generation

    # -- under the lock

    def _mark(self, name: str, marker: MembershipMarker) -> bool:
        """Put a marker into an owned inbox, and return whether its owner is alive."""
        inbox = self._owned(name)
        if inbox is None:
            return False
        append_entry(inbox, self._now(), marker_frame(marker))
        return True

    def _deliver(self, name: str, frame: bytes) -> c.Delivery:
        """Put the frame of a group message into an owned inbox, if there is room."""
        inbox = self._owned(name)
        if inbox is None:
            return c.Delivery.NO_OWNER
        if len(inbox.entries) >= self._rules.inbox_capacity:
            return c.Delivery.FULL
        append_entry(inbox, self._now(), frame)
        return c.Delivery.DONE


def _count(inbox: OwnedInbox, frame: bytes) -> None:
    """Count a frame as unread by its channel, if it is a message and no marker."""
    if frame[:1] == b"m":
        name = frame[2 : 2 + frame[1]].decode("ascii")
        inbox.unread[name] = inbox.unread.get(name, 0) + 1
