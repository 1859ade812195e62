"""The handlers of commands on groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker, group_frame
from channel_layer.domain.names import Kind
from channel_layer_memory._inboxes import InboxHandlers
from channel_layer_memory._state import Group, forget_empty_inboxes

if TYPE_CHECKING:
    from channel_layer.domain.names import GroupName

__all__ = ("GroupHandlers",)


class GroupHandlers(InboxHandlers):
    """Memberships, and group messages to the members' inboxes, as `channel_layer.commands` says."""

    def join(self, request: c.Join, /) -> c.Changed:
        name = request.channel.name
        now = self._now()
        self._forget_left(now)
        if request.restore and (request.group.name, name) in self._all.left:
            return c.Changed(self._all.version, marked=False, applied=False, owned=False)
        group = self._group(request.group, now) or Group()
        self._all.groups[request.group.name] = group
        self._all.version = version = self._all.version + 1
        self._all.left.pop((request.group.name, name), None)
        joined = now - request.age
        owned = request.owned or name in group.owned
        if owned:
            group.others.pop(name, None)
            group.join(group.owned, name, joined)
            group.inboxes[request.channel.queue.name] = version
        else:
            group.join(group.others, name, joined)
        marker = MembershipMarker(request.group.name, name, True, version, round(request.age * 1000))
        marked = owned and request.mark and self._mark(request.channel.queue.name, marker)
        return c.Changed(version, marked, applied=True, owned=owned)

    def leave(self, request: c.Leave, /) -> c.Changed:
        name = request.channel.name
        now = self._now()
        self._forget_left(now)
        group = self._all.groups.get(request.group.name)
        if request.latest is not None:
            last = group.inboxes.get(request.channel.queue.name) if group is not None else None
            if group is None or name not in group.owned or last is None or last > request.latest:
                return c.Changed(self._all.version, marked=False, applied=False, owned=False)
        self._all.version = version = self._all.version + 1
        if group is not None:
            group.others.pop(name, None)
            if group.owned.pop(name, None) is not None:
                forget_empty_inboxes(group, [request.channel.queue.name])
            self._group(request.group, now)
        if request.channel.queue.kind is Kind.INBOX:
            self._all.left.pop((request.group.name, name), None)
            self._all.left[request.group.name, name] = now
        marker = MembershipMarker(request.group.name, name, False, version, 0)
        marked = request.mark and self._mark(request.channel.queue.name, marker)
        return c.Changed(version, marked, applied=True, owned=False)

    def publish(self, request: c.Publish, /) -> c.Published:
        version = self._all.version
        group = self._group(request.group, self._now())
        if group is None:
            return c.Published(version, done=True, inboxes=(), others=(), full=())
        if group.others or not request.at_once:
            return c.Published(version, False, tuple(group.inboxes), tuple(group.others), ())
        frame = group_frame(request.group.name, (), request.payload)
        outcomes = {name: self._deliver(name, frame) for name in group.inboxes}
        _drop_inboxes(group, [name for name, outcome in outcomes.items() if outcome is c.Delivery.NO_OWNER])
        full = tuple(name for name, outcome in outcomes.items() if outcome is c.Delivery.FULL)
        return c.Published(version, done=True, inboxes=(), others=(), full=full)

    def deliver(self, request: c.Deliver, /) -> c.Delivery:
        return self._deliver(
            request.inbox.name, group_frame(request.group.name, request.extra_recipients, request.payload)
        )

    def prune(self, request: c.Prune, /) -> None:
        group = self._all.groups.get(request.group.name)
        if group is not None:
            version = request.version
            _drop_inboxes(group, [n for n in request.inboxes if group.inboxes.get(n, version + 1) <= version])
            if self._all.version == version:
                for name in request.others:
                    group.others.pop(name, None)

    def members(self, request: c.Members, /) -> c.GroupMembers:
        group = self._group(request.group, self._now())
        if group is None:
            return c.GroupMembers((), ())
        return c.GroupMembers(tuple(group.owned), tuple(group.others))

    def check_groups(self, request: c.CheckGroups, /) -> c.CheckedGroups:
        """Look which groups hold owned members. None is to be extended: they end with the process."""
        now, inbox = self._now(), request.inbox.name
        groups = [self._group(name, now) for name in request.groups]
        known = tuple(group is not None and inbox in group.inboxes for group in groups)
        return c.CheckedGroups(known, self._all.epoch)

    # -- under the lock

    def _group(self, name: GroupName, now: float) -> Group | None:
        """Return a group without the memberships that have ended; None if no membership is left, and then forget it."""
        group = self._all.groups.get(name.name)
        if group is None:
            return None
        expiry = self._rules.group_expiry
        group.remove_ended(now, math.inf if expiry is None else expiry, self._lifetime)
        if group.owned or group.others:
            return group
        del self._all.groups[name.name]
        return None

    def _forget_left(self, now: float) -> None:
        """Forget the members that left so long ago that no owner restores them any more."""
        left = self._all.left
        while left and now - left[oldest := next(iter(left))] >= 2 * self._lease:
            del left[oldest]


def _drop_inboxes(group: Group, inboxes: list[str]) -> None:
    """Remove the owned members in these inboxes from a group."""
    for inbox in inboxes:
        for name in [name for name in group.owned if name.startswith(inbox)]:
            del group.owned[name]
        group.inboxes.pop(inbox, None)
