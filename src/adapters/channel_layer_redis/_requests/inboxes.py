"""Plans of commands about owned inboxes and flushes: leases, credits, markers; a new epoch, and all keys emptied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import marker_frame
from channel_layer.errors import DamagedRecord
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number, numbers
from channel_layer_redis._requests.calls import (
    Each,
    ScriptCall,
    call_command,
    get_clock,
    get_epoch,
    read_clock,
    read_epoch,
    run_command,
    run_script,
    scan,
)

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import RequestPlan, RequestSettings

__all__ = (
    "acknowledge",
    "acquire_lease",
    "alive",
    "flush",
    "mark",
    "release_lease",
    "renew_lease",
    "return_credits",
    "unflushed",
)

_ACKNOWLEDGE = _scripts.load("acknowledge")
_ACQUIRE_LEASE = _scripts.load("acquire_lease")
_DELIVER = _scripts.load("deliver")
_FLUSH_INBOX = _scripts.load("flush_inbox")
_RETURN_CREDITS = _scripts.load("return_credits")
_RELEASE_LEASE = _scripts.load("release_lease")
_RENEW_LEASE = _scripts.load("renew_lease")


def acquire_lease(settings: RequestSettings, command: c.AcquireLease) -> RequestPlan[c.LeaseAcquired]:
    """Acquire the lease, and move into the inbox what was sent while it had no owner."""
    name = command.inbox.name
    keys = (*settings.keys.inbox(name), *settings.keys.taking(name))
    held = [part for channel, count in command.held for part in (channel, count)]
    args = (
        command.generation,
        settings.lease,
        settings.expiry,
        settings.offset,
        command.after or "0-0",
        *held,
    )
    reply, last_flush = yield ScriptCall(_ACQUIRE_LEASE, keys, args), get_epoch(settings)
    now, fresh, expired = numbers(reply)
    return c.LeaseAcquired(now / 1000, fresh == 1, read_epoch(last_flush)[0], expired)


def renew_lease(settings: RequestSettings, command: c.RenewLease) -> RequestPlan[c.LeaseRenewed]:
    """Renew the lease."""
    held = [part for channel, count in command.held for part in (channel, count)]
    args = (settings.lease, settings.offset, command.after or "0-0", command.serial, *held)
    renewal = ScriptCall(_RENEW_LEASE, settings.keys.inbox(command.inbox.name), args)
    reply, last_flush = yield renewal, get_epoch(settings)
    now, renewed = numbers(reply)
    return c.LeaseRenewed(now / 1000, renewed == 1, read_epoch(last_flush)[0])


def release_lease(settings: RequestSettings, command: c.ReleaseLease) -> RequestPlan[int]:
    """Release the lease, and remove the inbox."""
    return number((yield from run_script(_RELEASE_LEASE, settings.keys.inbox(command.inbox.name))))


def return_credits(settings: RequestSettings, command: c.ReturnCredits) -> RequestPlan[None]:
    """Return credits."""
    credits_ = [part for channel, count in command.places for part in (channel, count)]
    keys = settings.keys.inbox(command.inbox.name)[:1]
    yield from run_script(_RETURN_CREDITS, keys, command.generation, command.serial, *credits_)


def mark(settings: RequestSettings, command: c.Mark) -> RequestPlan[bool]:
    """Put a marker."""
    keys = settings.keys.inbox(command.inbox.name)
    return number((yield from run_script(_DELIVER, keys, marker_frame(command.marker), settings.offset, -1))) == 1


def alive(settings: RequestSettings, command: c.Alive) -> RequestPlan[tuple[bool, ...]]:
    """Return which inboxes have a lease."""
    return tuple((yield from _have_leases(settings, [inbox.name for inbox in command.inboxes])))


def acknowledge(settings: RequestSettings, command: c.Acknowledge) -> RequestPlan[None]:
    """Note that the owner has applied a flush."""
    yield from run_script(_ACKNOWLEDGE, settings.keys.inbox(command.inbox.name)[:1], command.generation)


def flush(settings: RequestSettings, command: c.Flush) -> RequestPlan[c.Flushing]:
    """Set a new epoch, then empty all keys of this prefix."""
    lifetime = max(settings.left, settings.group)
    (moment,) = yield (get_clock(),)
    began = read_clock(settings, moment)
    yield from run_command("SET", settings.keys.epoch, f"{command.generation} {began:.3f}", "PX", lifetime)
    inboxes: list[str] = []
    dropped = 0
    cursor = ""
    while cursor != "0":
        cursor, found = yield from scan(settings, cursor)
        leases = [name for kind, name in found if kind == "l"]
        args = (command.generation, settings.offset)
        replies = yield Each(ScriptCall(_FLUSH_INBOX, settings.keys.inbox(name), args) for name in leases)
        for name, reply in zip(leases, replies, strict=True):
            if isinstance(reply, DamagedRecord):
                yield (call_command("UNLINK", *settings.keys.inbox(name)),)  # its owner, if there is one, makes it anew
            elif (count := number(reply)) >= 0:
                inboxes.append(name)
                dropped += count
        dropped += yield from _flush_others(settings, found)
    return c.Flushing(tuple(inboxes), dropped)


def _flush_others(settings: RequestSettings, found: list[tuple[str, str]]) -> RequestPlan[int]:
    found = list(dict.fromkeys(found))  # SCAN may name a key twice, which would be counted twice
    # An inbox with a lease is flushed with that. Without one its stream is trimmed, as the owner may return.
    streams = [name for kind, name in found if kind == "s"]
    living = yield from _have_leases(settings, streams)
    dead = [name for name, lives in zip(streams, living, strict=True) if not lives]
    trims = [call_command("XTRIM", settings.keys.inbox(name)[1], "MAXLEN", 0) for name in dead]
    lines = [settings.keys.queue(name)[0] for kind, name in found if kind == "q"]
    lengths = [call_command("LLEN", key) for key in lines]
    others = [settings.keys.key(kind, name) for kind, name in found if kind not in "lcesq"]
    removals = [call_command("UNLINK", key) for key in (*lines, *others)]
    replies = yield Each((*lengths, *removals, *trims))
    damaged = [
        name
        for name, reply in zip(dead, replies[len(replies) - len(dead) :], strict=True)
        if isinstance(reply, DamagedRecord)
    ]
    yield tuple(call_command("UNLINK", settings.keys.inbox(name)[1]) for name in damaged)
    return sum(number(reply) for reply in replies[: len(lengths)] if not isinstance(reply, DamagedRecord))


def _have_leases(settings: RequestSettings, names: list[str]) -> RequestPlan[list[bool]]:
    """Return which inboxes have a lease; one that is damaged is none."""
    replies = yield Each(call_command("HEXISTS", settings.keys.inbox(name)[0], "g") for name in names)
    return [reply == 1 for reply in replies]


def unflushed(settings: RequestSettings, command: c.Unflushed) -> RequestPlan[tuple[str, ...]]:
    """Return the inboxes whose owners have not acknowledged the flush."""
    replies = yield Each(call_command("HMGET", settings.keys.inbox(name)[0], "g", "f") for name in command.inboxes)
    left: list[str] = []
    for name, reply in zip(command.inboxes, replies, strict=True):
        if isinstance(reply, DamagedRecord):
            continue  # as if there were no lease
        generation, flushed = list_of(reply)
        if generation is not None and flushed != generation:  # of this flush, a later one, or a new lease
            left.append(name)
    return tuple(left)
