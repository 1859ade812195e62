"""The commands about groups, carried out within a transaction.

What each has to do is said by its class in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker, group_frame
from channel_layer.domain.names import Kind
from channel_layer_ipc import _inbox_commands as inboxes
from channel_layer_ipc import _keys as k

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer_ipc._transaction import Transaction

__all__ = ("check_groups", "join", "leave", "members", "prune", "publish")


def join(tx: Transaction, request: c.Join) -> c.Changed:
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    left = k.key(k.LEFT, name, member)
    if request.restore and tx.get_timed(left) is not None:
        return c.Changed(tx.groups.last_version(), marked=False, applied=False, owned=False)
    tx.remove_timed(left)
    group = tx.groups.get_or_make(name)
    group.version = version = tx.groups.next_version()
    joined = tx.now - request.age
    owned = request.owned or tx.groups.is_owned(group, member)
    if owned:
        tx.groups.add_owned(group, inbox, member, joined)
    else:
        tx.groups.add_member(group, k.OTHER, member, joined)
    marker = MembershipMarker(request.group.name, request.channel.name, True, version, round(request.age * 1000))
    marked = owned and request.mark and inboxes.put_marker(tx, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=owned)


def leave(tx: Transaction, request: c.Leave) -> c.Changed:
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    group = tx.groups.get(name)
    if request.latest is not None:
        owned = group is not None and tx.groups.is_owned(group, member)
        if group is None or not owned or not tx.groups.is_unchanged(group, inbox, request.latest):
            return c.Changed(tx.groups.last_version(), marked=False, applied=False, owned=False)
    version = tx.groups.next_version()
    if group is not None:
        group.version, group.changed = version, True
        tx.groups.remove_member(group, k.OTHER, member)
        tx.groups.remove_owned(group, member)
        tx.groups.drop_if_empty(group)
    if request.channel.queue.kind is Kind.INBOX:
        tx.put_timed(k.key(k.LEFT, name, member), tx.now + tx.times.left)
    marker = MembershipMarker(request.group.name, request.channel.name, False, version, 0)
    marked = request.mark and inboxes.put_marker(tx, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=False)


def publish(tx: Transaction, request: c.Publish) -> c.Published:
    """Deliver to every inbox if the group holds nothing else, else say which members it has."""
    group = tx.groups.get(request.group.name.encode("ascii"))
    if group is None:
        return c.Published(tx.groups.last_version(), done=True, inboxes=(), others=(), full=())
    names = tx.parts(k.GROUP_INBOX, group.name)
    if group.others or not request.at_once:
        others = tx.parts(k.OTHER, group.name)
        return c.Published(group.version, done=False, inboxes=_texts(names), others=_texts(others), full=())
    frame = group_frame(request.group.name, (), request.payload)
    full: list[bytes] = []
    for name in names:
        outcome = inboxes.put(tx, name, frame)
        if outcome is c.Delivery.FULL:
            full.append(name)
        elif outcome is c.Delivery.NO_OWNER:
            tx.groups.drop_inbox(group, name)
    tx.groups.drop_if_empty(group)
    return c.Published(group.version, done=True, inboxes=(), others=(), full=_texts(full))


def prune(tx: Transaction, request: c.Prune) -> None:
    """Remove inboxes, unless one of their channels has joined since; and others, if nothing has changed."""
    group = tx.groups.get(request.group.name.encode("ascii"))
    if group is None:
        return
    for name in request.inboxes:
        inbox = name.encode("ascii")
        if tx.groups.is_unchanged(group, inbox, request.version):
            tx.groups.drop_inbox(group, inbox)
    if group.version <= request.version:
        for name in request.others:
            tx.groups.remove_member(group, k.OTHER, name.encode("ascii"))
    tx.groups.drop_if_empty(group)


def members(tx: Transaction, request: c.Members) -> c.GroupMembers:
    name = request.group.name.encode("ascii")
    if tx.groups.get(name) is None:
        return c.GroupMembers((), ())
    return c.GroupMembers(_texts(tx.parts(k.OWNED, name)), _texts(tx.parts(k.OTHER, name)))


def check_groups(tx: Transaction, request: c.CheckGroups) -> c.CheckedGroups:
    known: list[bool] = []
    inbox = request.inbox.name.encode("ascii")
    for each in request.groups:
        group = tx.groups.get(each.name.encode("ascii"))
        known.append(group is not None and tx.groups.has_owned(group, inbox))
        if group is not None and request.extend:
            tx.groups.touch(group)
    return c.CheckedGroups(tuple(known), tx.last_flush()[1])


def _texts(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(name.decode("ascii") for name in names)
