"""Plans for what is sent to a channel and received from a queue."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer.errors import StoreError
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number
from channel_layer_redis._requests.calls import ScriptCall, run_command, run_script
from channel_layer_redis._requests.epochs import read_epoch

if TYPE_CHECKING:
    from channel_layer.domain.names import Queue
    from channel_layer_redis._packing import Arg
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan
    from channel_layer_redis._requests.settings import RequestSettings

__all__ = ("QueuePlans", "read_pushed")

_PENDING = _scripts.load("pending")
_POP = _scripts.load("pop")
_PUSH_INBOX = _scripts.load("push_inbox")
_PUSH_QUEUE = _scripts.load("push_queue")
_PUT_BACK = _scripts.load("put_back")
_RELEASE_CLAIM = _scripts.load("release_claim")

_ACCEPTED = c.Pushed(accepted=True, expired=0)


class QueuePlans:
    """Commands about messages in queues.

    Args:
        settings: what all requests have in common.
    """

    def __init__(self, settings: RequestSettings) -> None:
        self._settings = settings
        self._keys = settings.keys

    @property
    def table(self) -> PlanTable:
        """The plan of each of these commands."""
        return {
            c.ClearUnread: self.clear_unread,
            c.Pending: self.pending,
            c.Pop: self.pop,
            c.Push: self.push,
            c.PutBack: self.put_back,
            c.ReleaseClaim: self.release_claim,
        }

    def queue_push(self, queue: Queue, capacity: int) -> ScriptCall:
        """Return a push into a queue without its last argument, which is the frame."""
        return ScriptCall(
            _PUSH_QUEUE, self._keys.queue(queue.name), (capacity, self._settings.expiry, self._settings.offset)
        )

    def inbox_push(self, inbox: Queue) -> ScriptCall:
        """Return a push into an inbox without its last arguments: the capacity and the frame of each message."""
        keys = (*self._keys.inbox(inbox.name), *self._keys.queue(inbox.name))
        return ScriptCall(
            _PUSH_INBOX,
            keys,
            (self._settings.expiry, self._settings.offset, self._settings.inbox_capacity, self._settings.group),
        )

    def push(self, command: c.Push) -> RequestPlan[c.Pushed]:
        """Push a message."""
        queue = command.channel.queue
        frame = message_frame(command.channel.name, command.payload)
        unread = (self._keys.unread(queue.name),) if command.to_member else ()
        if queue.kind is Kind.INBOX:
            call = self.inbox_push(queue)
            (reply,) = yield (ScriptCall(call.script, (*call.keys, *unread), (*call.args, command.capacity, frame)),)
            return read_pushed(reply)
        call = self.queue_push(queue, command.capacity)
        (reply,) = yield (ScriptCall(call.script, (*call.keys, *unread), (*call.args, frame, self._settings.group)),)
        return read_pushed(reply)

    def clear_unread(self, command: c.ClearUnread) -> RequestPlan[None]:
        """Forget that a channel has an unread message of a group."""
        channel = command.channel
        yield from run_command("HDEL", self._keys.unread(channel.queue.name), channel.name)

    def pop(self, command: c.Pop) -> RequestPlan[c.Popped]:
        """Pop messages, without those that a flush at the same time should have removed.

        A flush sets the epoch first and empties the queues then. So the messages of inboxes, and those that had been
        put back, are compared with the epoch. Others cannot be told from messages that were received just before it.
        """
        name = command.queue.name
        keys: tuple[str, ...] = self._keys.taking(name)
        args: tuple[Arg, ...] = (command.count, self._settings.expiry, self._settings.offset)
        if command.queue.kind is Kind.INBOX:
            keys = (*keys, self._keys.inbox(name)[0], self._keys.claim(name))
            args = (*args, command.claimant, self._settings.lease)
        popped, returned = _popped((yield from run_script(_POP, keys, *args)))
        if not returned and command.queue.kind is not Kind.INBOX:
            return popped
        try:
            generation, began = read_epoch((yield from run_command("GET", self._keys.epoch)))
        except StoreError:
            if not popped.entries:
                raise
            try:
                yield from self.put_back(c.PutBack(command.shard, command.queue, popped.entries))
            except StoreError:
                return replace(popped, entries=(), lost=len(popped.entries))
            raise
        entries = tuple(entry for entry in popped.entries if entry.stamp * 1000 >= began)
        return replace(popped, entries=entries, flushed=len(popped.entries) - len(entries), epoch=generation)

    def signal(self, queue: Queue) -> ScriptCall:
        """Return the call that signals another reader, if the queue holds anything."""
        return ScriptCall(_POP, self._keys.taking(queue.name), (0, self._settings.expiry, self._settings.offset))

    def put_back(self, command: c.PutBack) -> RequestPlan[c.Returned]:
        """Return messages to the head of their queue."""
        entries = [struct.pack(">d", entry.stamp * -1000) + entry.frame for entry in command.entries]
        keys = self._keys.queue(command.queue.name)
        expired = number(
            (yield from run_script(_PUT_BACK, keys, self._settings.expiry, self._settings.offset, *entries))
        )
        return c.Returned(expired, flushed=0)

    def release_claim(self, command: c.ReleaseClaim) -> RequestPlan[None]:
        """Give up a claim."""
        yield from run_script(_RELEASE_CLAIM, (self._keys.claim(command.inbox.name),), command.claimant)

    def pending(self, command: c.Pending) -> RequestPlan[int]:
        """Count what waits for one channel."""
        queue = command.channel.queue
        keys: tuple[str, ...] = self._keys.queue(queue.name)[:1]
        if queue.kind is Kind.INBOX:
            keys = (*keys, self._keys.inbox(queue.name)[1])
        head = message_frame(command.channel.name, b"")
        return number((yield from run_script(_PENDING, keys, self._settings.expiry, self._settings.offset, head)))


def read_pushed(reply: object) -> c.Pushed:
    """Return what a push's script replies: expired messages, or -1 minus them if full; nil if one expired unread."""
    if reply is None:
        return c.Pushed(accepted=False, expired=0, unread_expired=True)
    outcome = number(reply)
    if not outcome:
        return _ACCEPTED
    return c.Pushed(accepted=True, expired=outcome) if outcome > 0 else c.Pushed(accepted=False, expired=-1 - outcome)


def _popped(reply: object) -> tuple[c.Popped, bool]:
    """Return the reply of a pop's script, and whether one of its messages had been put back."""
    moment, expired, *rest = list_of(reply)
    now = number(moment) / 1000
    if expired == -1:
        return c.Popped((), 0, now, owned=True), False
    if expired == -2:
        return c.Popped((), 0, now, held_for=max(0, number(rest[0])) / 1000), False
    entries: list[c.Entry] = []
    returned = False
    for item in rest:
        if isinstance(item, bytes) and len(item) >= 8:
            (stamp,) = struct.unpack_from(">d", item)
            returned = returned or stamp < 0
            entries.append(c.Entry(abs(stamp) / 1000, item[8:]))
        else:
            entries.append(c.Entry(now, b""))  # not one of ours: the receiver counts it as undecodable
    return c.Popped(tuple(entries), number(expired), now), returned
