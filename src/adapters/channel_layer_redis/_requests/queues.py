"""Plans of commands about messages: what is sent to a channel, and received from a queue."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number
from channel_layer_redis._requests.calls import (
    ScriptCall,
    get_clock,
    get_epoch,
    read_clock,
    read_epoch,
    run_command,
    run_script,
)

if TYPE_CHECKING:
    from channel_layer.domain.names import Queue
    from channel_layer_redis._packing import Arg
    from channel_layer_redis._repeatable_pops import Numbered
    from channel_layer_redis._requests.calls import RequestPlan, RequestSettings

__all__ = (
    "clear_unread",
    "inbox_push",
    "pending",
    "pop",
    "push",
    "push_call",
    "put_back",
    "queue_push",
    "read_pushed",
    "release_claim",
    "signal",
)

_PENDING = _scripts.load("pending")
_POP = _scripts.load("pop")
_PUSH_INBOX = _scripts.load("push_inbox")
_PUSH_QUEUE = _scripts.load("push_queue")
_PUT_BACK = _scripts.load("put_back")
_RELEASE_CLAIM = _scripts.load("release_claim")

_ACCEPTED = c.Pushed(accepted=True, expired=0)


def queue_push(settings: RequestSettings, queue: str, capacity: int) -> ScriptCall:
    """Return a push into a queue without its last argument, which is the frame."""
    return ScriptCall(_PUSH_QUEUE, settings.keys.queue(queue), (capacity, settings.expiry, settings.offset))


def inbox_push(settings: RequestSettings, inbox: str) -> ScriptCall:
    """Return a push into an inbox without its last arguments: the capacity and the frame of each message."""
    keys = (*settings.keys.inbox(inbox), *settings.keys.queue(inbox))
    return ScriptCall(
        _PUSH_INBOX,
        keys,
        (settings.expiry, settings.offset, settings.inbox_capacity, settings.group),
    )


def push(settings: RequestSettings, command: c.Push) -> RequestPlan[c.Pushed]:
    """Push a message."""
    (reply,) = yield (push_call(settings, command),)
    return read_pushed(reply)


def push_call(settings: RequestSettings, command: c.Push) -> ScriptCall:
    """Return the call that pushes a message."""
    queue = command.channel.queue
    frame = message_frame(command.channel.name, command.payload)
    unread = (settings.keys.unread(queue.name),) if command.to_member else ()
    if queue.kind is Kind.INBOX:
        call = inbox_push(settings, queue.name)
        return ScriptCall(call.script, (*call.keys, *unread), (*call.args, command.capacity, frame))
    call = queue_push(settings, queue.name, command.capacity)
    return ScriptCall(call.script, (*call.keys, *unread), (*call.args, frame, settings.group))


def clear_unread(settings: RequestSettings, command: c.ClearUnread) -> RequestPlan[None]:
    """Forget that a channel has an unread message of a group."""
    key = settings.keys.unread(command.channel.queue.name)
    try:
        yield from run_command("HDEL", key, command.channel.name)
    except DamagedRecord:
        yield from run_command("UNLINK", key)


def pop(settings: RequestSettings, command: c.Pop) -> RequestPlan[c.Popped]:
    """Pop messages, without those that a flush at the same time should have removed.

    A flush sets the epoch first and empties the queues then. So the messages of inboxes, those that had been put back
    and those that the server tells for the second time are compared with the epoch. Others cannot be told from messages
    that were received just before it.
    """
    numbered = settings.pops.begin(command) if command.count else None
    popped, returned = yield from _take(settings, command, numbered)
    again = numbered is not None and numbered.again
    if not (again or returned or command.queue.kind is Kind.INBOX):
        return popped
    try:
        last_flush, moment = yield get_epoch(settings), get_clock()
        generation, began = read_epoch(last_flush)
        now = read_clock(settings, moment)
    except StoreError:
        if not popped.entries:
            raise
        if lost := (yield from _put_back_again(settings, command, popped.entries)):
            return replace(popped, entries=(), lost=lost)
        raise
    if began > now:
        began = -math.inf  # no flush of ours, then
    entries = tuple(entry for entry in popped.entries if entry.stamp * 1000 >= began)
    more = entries[command.count :]  # that a pop has taken whose reply was lost
    lost = (yield from _put_back_again(settings, command, more)) if more else 0
    flushed = len(popped.entries) - len(entries)
    return replace(popped, entries=entries[: command.count], flushed=flushed, lost=lost, epoch=generation)


def _take(settings: RequestSettings, command: c.Pop, numbered: Numbered | None) -> RequestPlan[tuple[c.Popped, bool]]:
    """Run the script; return its reply, and whether one of the messages had been put back."""
    queue = command.queue
    keys: tuple[str, ...] = (*settings.keys.taking(queue.name), settings.keys.taken(queue.name))
    args: tuple[Arg, ...] = (command.count, settings.expiry, settings.offset)
    if numbered is None:
        args += ("", 0, "")
    else:
        args += (numbered.reader, numbered.number, "again" if numbered.again else "")
    if queue.kind is Kind.INBOX:
        keys = (*keys, settings.keys.inbox(queue.name)[0], settings.keys.claim(queue.name))
        args = (*args, command.claimant, settings.lease)
    lost = True
    try:
        reply = yield from run_script(_POP, keys, *args)
        lost = False
    except StoreError as exc:
        lost = exc.outcome == "unknown"
        raise
    finally:
        if numbered is not None:
            settings.pops.end(command, numbered, lost=lost)
    return _popped(reply)


def _put_back_again(settings: RequestSettings, command: c.Pop, entries: tuple[c.Entry, ...]) -> RequestPlan[int]:
    """Put messages back that were popped; return how many are lost."""
    try:
        yield from put_back(settings, c.PutBack(command.shard, command.queue, entries))
    except StoreError:
        return len(entries)
    return 0


def signal(settings: RequestSettings, queue: Queue) -> RequestPlan[object]:
    """Signal another reader, if the queue holds anything."""
    return run_script(_POP, settings.keys.taking(queue.name), 0, settings.expiry, settings.offset)


def put_back(settings: RequestSettings, command: c.PutBack) -> RequestPlan[c.Returned]:
    """Return messages to the head of their queue."""
    entries = [struct.pack(">d", entry.stamp * -1000) + entry.frame for entry in command.entries]
    keys = settings.keys.queue(command.queue.name)
    expired = number((yield from run_script(_PUT_BACK, keys, settings.expiry, settings.offset, *entries)))
    return c.Returned(expired, flushed=0)


def release_claim(settings: RequestSettings, command: c.ReleaseClaim) -> RequestPlan[None]:
    """Give up a claim."""
    yield from run_script(_RELEASE_CLAIM, (settings.keys.claim(command.inbox.name),), command.claimant)


def pending(settings: RequestSettings, command: c.Pending) -> RequestPlan[int]:
    """Count what waits for one channel."""
    queue = command.channel.queue
    keys: tuple[str, ...] = settings.keys.queue(queue.name)[:1]
    if queue.kind is Kind.INBOX:
        keys = (*keys, settings.keys.inbox(queue.name)[1])
    head = message_frame(command.channel.name, b"")
    return number((yield from run_script(_PENDING, keys, settings.expiry, settings.offset, head)))


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
