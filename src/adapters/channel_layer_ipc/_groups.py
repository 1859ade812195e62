"""The commands about groups, carried out within a transaction.

What each has to do is said by its request in `channel_layer.commands`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker, group_frame
from channel_layer.domain.names import Kind
from channel_layer_ipc import _inboxes as inboxes
from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer_ipc._batch import Batch

__all__ = ("join", "leave", "members", "prune", "publish", "touch")


def join(batch: Batch, request: c.Join) -> c.Changed:
    """Add a member, or refresh it."""
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    left = k.below(k.LEFT, name, member)
    if request.restore and batch.timed(left) is not None:
        return c.Changed(batch.last_version(), marked=False, applied=False, owned=False)
    batch.remove_timed(left)
    crowd = batch.make_crowd(name)
    crowd.version = version = batch.next_version()
    joined = batch.now - request.age
    owned = request.owned or batch.has_member(crowd, k.OWNED, member)
    if owned:
        batch.remove_member(crowd, k.OTHER, member)
        new = batch.add_member(crowd, k.OWNED, member, joined)
        home = batch.home(crowd, inbox)
        batch.put_home(crowd, inbox, Home(version, (home.members if home is not None else 0) + new))
    else:
        batch.add_member(crowd, k.OTHER, member, joined)
    marker = MembershipMarker(request.group.name, request.channel.name, True, version, round(request.age * 1000))
    marked = owned and request.mark and inboxes.put_marker(batch, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=owned)


def leave(batch: Batch, request: c.Leave) -> c.Changed:
    """Remove a member, and remember for a while that it has left."""
    name, member = request.group.name.encode("ascii"), request.channel.name.encode("ascii")
    inbox = request.channel.queue.name.encode("ascii")
    crowd = batch.crowd(name)
    if request.latest is not None:
        home = batch.home(crowd, inbox) if crowd is not None else None
        if (
            crowd is None
            or home is None
            or home.version > request.latest
            or not batch.has_member(crowd, k.OWNED, member)
        ):
            return c.Changed(batch.last_version(), marked=False, applied=False, owned=False)
    version = batch.next_version()
    if crowd is not None:
        crowd.version = version
        batch.remove_member(crowd, k.OTHER, member)
        batch.remove_owned(crowd, member)
        batch.settle_crowd(crowd)
    if request.channel.queue.kind is Kind.INBOX:
        batch.put_timed(k.below(k.LEFT, name, member), batch.now + batch.times.left)
    marker = MembershipMarker(request.group.name, request.channel.name, False, version, 0)
    marked = request.mark and inboxes.put_marker(batch, inbox, marker)
    return c.Changed(version, marked, applied=True, owned=False)


def publish(batch: Batch, request: c.Publish) -> c.Published:
    """Deliver to every inbox if the group holds nothing else, else say who is in it."""
    crowd = batch.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return c.Published(batch.last_version(), done=True, inboxes=(), others=(), full=())
    homes = batch.homes(crowd)
    if crowd.others or not request.at_once:
        others = batch.members(crowd, k.OTHER)
        return c.Published(crowd.version, done=False, inboxes=_texts(homes), others=_texts(others), full=())
    frame = group_frame(request.group.name, (), request.payload)
    full: list[bytes] = []
    for home in homes:
        outcome = inboxes.put(batch, home, frame)
        if outcome is c.Delivery.FULL:
            full.append(home)
        elif outcome is c.Delivery.NO_OWNER:
            batch.drop_home(crowd, home)
    version = crowd.version
    if crowd.changed:
        batch.settle_crowd(crowd)
    return c.Published(version, done=True, inboxes=(), others=(), full=_texts(full))


def prune(batch: Batch, request: c.Prune) -> None:
    """Remove who is gone: inboxes, unless one of their channels has joined since; others, if nothing has changed."""
    crowd = batch.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return
    unchanged = crowd.version <= request.version
    for name in request.inboxes:
        inbox = name.encode("ascii")
        home = batch.home(crowd, inbox)
        if home is not None and home.version <= request.version:
            batch.drop_home(crowd, inbox)
    if unchanged:
        for name in request.others:
            batch.remove_member(crowd, k.OTHER, name.encode("ascii"))
    batch.settle_crowd(crowd)


def members(batch: Batch, request: c.Members) -> c.Roster:
    """List the members."""
    crowd = batch.crowd(request.group.name.encode("ascii"))
    if crowd is None:
        return c.Roster((), ())
    return c.Roster(_texts(batch.members(crowd, k.OWNED)), _texts(batch.members(crowd, k.OTHER)))


def touch(batch: Batch, request: c.Touch) -> None:
    """Keep groups alive."""
    for group in request.groups:
        crowd = batch.crowd(group.name.encode("ascii"))
        if crowd is not None:
            crowd.until, crowd.changed = max(crowd.until, batch.now + batch.times.group), True


def _texts(names: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(name.decode("ascii") for name in names)
