"""Plans of commands about groups: membership, and messages to all members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import group_frame
from channel_layer.domain.names import Kind
from channel_layer.errors import DamagedRecord
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number, numbers, texts
from channel_layer_redis._requests.calls import (
    Each,
    ScriptCall,
    call_command,
    get_clock,
    get_epoch,
    read_clock,
    read_epoch,
    run_script,
)

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import RequestPlan, RequestSettings

__all__ = ("check_groups", "deliver", "join", "leave", "members", "prune", "publish")

_DELIVER = _scripts.load("deliver")
_JOIN = _scripts.load("join")
_LEAVE = _scripts.load("leave")
_PRUNE = _scripts.load("prune")
_PUBLISH = _scripts.load("publish")


def join(settings: RequestSettings, command: c.Join) -> RequestPlan[c.Changed]:
    """Add a member."""
    keys, inbox = _member_keys(settings, command)
    reply = yield from run_script(
        _JOIN, keys, command.group.name, command.channel.name, inbox, int(command.owned),
        round(command.age * 1000), int(command.restore), settings.group, settings.offset,
    )  # fmt: skip
    version, marked, applied, owned = numbers(reply)
    return c.Changed(version, marked == 1, applied == 1, owned == 1)


def leave(settings: RequestSettings, command: c.Leave) -> RequestPlan[c.Changed]:
    """Remove a member."""
    keys, inbox = _member_keys(settings, command)
    latest = "" if command.latest is None else command.latest
    reply = yield from run_script(
        _LEAVE, keys, command.group.name, command.channel.name, inbox,
        settings.group, settings.left, settings.offset, latest,
    )  # fmt: skip
    version, marked, applied = numbers(reply)
    return c.Changed(version, marked == 1, applied == 1, owned=False)


def _member_keys(settings: RequestSettings, change: c.Join | c.Leave) -> tuple[tuple[str, ...], str]:
    """Return the keys that a change of a member touches, and the name of the member's inbox; "" if it has none."""
    queue = change.channel.queue
    inbox = queue.name if queue.kind is Kind.INBOX else ""
    keys: tuple[str, ...] = settings.keys.group(change.group.name)
    return (*keys, *settings.keys.inbox(inbox)) if change.mark else keys, inbox


def publish(settings: RequestSettings, command: c.Publish) -> RequestPlan[c.Published]:
    """Deliver to all members in one step, or return the members.

    A partition of a Cluster never delivers in one step: inboxes are in other slots.
    """
    at_once = command.at_once and not settings.keys.tag
    frame = group_frame(command.group.name, (), command.payload)
    keys = settings.keys.group(command.group.name)[:3]
    args = (
        frame, settings.keys.prefix, settings.inbox_capacity, settings.owned, settings.group, settings.offset,
        settings.lease,
    )  # fmt: skip
    try:
        reply = yield from run_script(_PUBLISH, keys, int(at_once), *args)
    except DamagedRecord:
        if not at_once:
            raise
        # Nothing was delivered. If an inbox is damaged, the others get the message one by one.
        reply = yield from run_script(_PUBLISH, keys, 0, *args)
    version, done, first, *rest = list_of(reply)
    if done == 1:
        return c.Published(number(version), done=True, inboxes=(), others=(), full=texts(first))
    return c.Published(number(version), False, texts(first), texts(rest[0]), ())


def deliver(settings: RequestSettings, command: c.Deliver) -> RequestPlan[c.Delivery]:
    """Deliver a message of a group to an inbox."""
    frame = group_frame(command.group.name, command.extra_recipients, command.payload)
    keys = settings.keys.inbox(command.inbox.name)
    outcome = number((yield from run_script(_DELIVER, keys, frame, settings.offset, settings.inbox_capacity)))
    return {1: c.Delivery.DONE, 0: c.Delivery.FULL}.get(outcome, c.Delivery.NO_OWNER)


def prune(settings: RequestSettings, command: c.Prune) -> RequestPlan[None]:
    """Remove members that are gone."""
    keys = settings.keys.group(command.group.name)[:3]
    yield from run_script(_PRUNE, keys, command.version, len(command.inboxes), *command.inboxes, *command.others)


def members(settings: RequestSettings, command: c.Members) -> RequestPlan[c.GroupMembers]:
    """List the members."""
    owned, others, _, _ = settings.keys.group(command.group.name)
    (moment,) = yield (get_clock(),)
    now = int(read_clock(settings, moment))
    first = "-inf" if settings.owned < 0 else f"({now - settings.owned}"
    found = yield (
        call_command("ZRANGEBYSCORE", owned, first, "+inf"),
        call_command("ZRANGEBYSCORE", others, f"({now - settings.group}", "+inf"),
    )
    return c.GroupMembers(texts(found[0]), texts(found[1]))


def check_groups(settings: RequestSettings, command: c.CheckGroups) -> RequestPlan[c.CheckedGroups]:
    """Look which groups hold owned members of an inbox, and extend their lifetimes if that is wanted.

    In a group that is damaged none can be restored.
    """
    calls: list[ScriptCall] = []
    for group in command.groups:
        owned, others, inboxes, _ = settings.keys.group(group.name)
        calls += [call_command("EXISTS", owned), call_command("HGET", inboxes, command.inbox.name)]
        if command.extend:
            calls += [call_command("PEXPIRE", key, settings.group) for key in (owned, others, inboxes)]
    *replies, last_flush = yield Each((*calls, get_epoch(settings)))
    each = len(calls) // max(1, len(command.groups))
    known = tuple(
        isinstance(count, DamagedRecord) or (exists == 1 and isinstance(count, bytes) and not count.startswith(b"0:"))
        for exists, count in zip(replies[::each], replies[1::each], strict=True)
    )
    return c.CheckedGroups(known, read_epoch(last_flush)[0])
