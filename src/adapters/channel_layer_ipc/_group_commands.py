"""The commands about groups, carried out within a transaction.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker, group_frame
from channel_layer.domain.names import Kind
from channel_layer_ipc import _inbox_commands as inboxes
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import GroupInbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer_ipc._transaction import Transaction

__all__ = ("join", "leave", "members", "prune", "publish", "touch")


def join(tx: Transaction, request: c.Join) -> c.Changed:
    """Add a member, or refresh it."""
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    left = k.below(k.LEFT, name, member)
    if request.restore and tx.timed(left) is not None:
        return c.Changed(tx.last_version(), marked=False, applied=False, owned=False)
    tx.remove_timed(left)
    crowd = tx.make_crowd(name)
    crowd.version = version = tx.next_version()
    joined = tx.now - request.age
    owned = request.owned or tx.has_member(crowd, k.OWNED, member)
    if owned:
        tx.remove_member(crowd, k.OTHER, member)
        new = tx.add_member(crowd, k.OWNED, member, joined)
        home = tx.home(crowd, inbox)
        tx.put_home(crowd, inbox, GroupInbox(version, (home.members if home is not None else 0) + new))
    else:
        tx.add_member(crowd, k.OTHER, member, joined)
    marker = MembershipMarker(request.group.name, request.channel.name, True, version, round(request.age * 1000))
    marked = owned and request.mark and inboxes.put_marker(tx, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=owned)


def leave(tx: Transaction, request: c.Leave) -> c.Changed:
    """Remove a member, and remember for a while that it has left."""
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    crowd = tx.crowd(name)
    if request.latest is not None:
        home = tx.home(crowd, inbox) if crowd is not None else None
        if crowd is None or home is None or home.version > request.latest or not tx.has_member(crowd, k.OWNED, member):
            return c.Changed(tx.last_version(), marked=False, applied=False, owned=False)
    version = tx.next_version()
    if crowd is not None:
        crowd.version = version
        tx.remove_member(crowd, k.OTHER, member)
        tx.remove_owned(crowd, member)
        tx.settle_crowd(crowd)
    if request.channel.queue.kind is Kind.INBOX:
        tx.put_timed(k.below(k.LEFT, name, member), tx.now + tx.times.left)
    marker = MembershipMarker(request.group.name, request.channel.name, False, version, 0)
    marked = request.mark and inboxes.put_marker(tx, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=False)


def publish(tx: Transaction, request: c.Publish) -> c.Published:
    """Deliver to every inbox if the group holds nothing else, else say who is in it."""
    crowd = tx.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return c.Published(tx.last_version(), done=True, inboxes=(), others=(), full=())
    homes = tx.homes(crowd)
    if crowd.others or not request.at_once:
        others = tx.members(crowd, k.OTHER)
        return c.Published(crowd.version, done=False, inboxes=_texts(homes), others=_texts(others), full=())
    frame = group_frame(request.group.name, (), request.payload)
    full: list[bytes] = []
    for home in homes:
        outcome = inboxes.put(tx, home, frame)
        if outcome is c.Delivery.FULL:
            full.append(home)
        elif outcome is c.Delivery.NO_OWNER:
            tx.drop_home(crowd, home)
    version = crowd.version
    if crowd.changed:
        tx.settle_crowd(crowd)
    return c.Published(version, done=True, inboxes=(), others=(), full=_texts(full))


def prune(tx: Transaction, request: c.Prune) -> None:
    """Remove who is gone: inboxes, unless one of their channels has joined since; others, if nothing has changed."""
    crowd = tx.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return
    unchanged = crowd.version <= request.version
    for name in request.inboxes:
        inbox = name.encode("ascii")
        home = tx.home(crowd, inbox)
        if home is not None and home.version <= request.version:
            tx.drop_home(crowd, inbox)
    if unchanged:
        for name in request.others:
            tx.remove_member(crowd, k.OTHER, name.encode("ascii"))
    tx.settle_crowd(crowd)


def members(tx: Transaction, request: c.Members) -> c.Roster:
    """List the members."""
    crowd = tx.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return c.Roster((), ())
    return c.Roster(_texts(tx.members(crowd, k.OWNED)), _texts(tx.members(crowd, k.OTHER)))


def touch(tx: Transaction, request: c.Touch) -> None:
    """Keep groups alive."""
    for group in request.groups:
        crowd = tx.crowd(group.name.encode("ascii"))
        if crowd is not None:
            crowd.until, crowd.changed = max(crowd.until, tx.now + tx.times.group), True


def _texts(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(name.decode("ascii") for name in names)
