"""Which channels of an owned inbox are in which groups, as far as the owner of the inbox knows.

The store keeps the groups; the owner keeps a mirror of them for the channels of its own inbox, because a message to a
group reaches the inbox once and is expanded there. Versions decide between two markers of one member that arrive in
the wrong order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from channel_layer.domain.frames import MembershipMarker
    from channel_layer.domain.mailbox import Mailbox

__all__ = ("Member", "Memberships", "Mirror")


@dataclass(slots=True)
class Member:
    """One channel in one group.

    Attributes:
        box: the channel's mailbox.
        joined: when its membership was last made, in seconds of the store's clock.
    """

    box: Mailbox
    joined: float


@dataclass(slots=True)
class Mirror:
    """One group, as far as channels of the inbox are in it. There is at least one.

    Attributes:
        oldest: when the membership that was made first was made; see `Member.joined`.
        latest: the version of the last join of any channel that has been met.
        members: by the full name of the channel.
    """

    oldest: float
    latest: int
    members: dict[str, Member] = field(default_factory=dict[str, Member])


_NO_MEMBERS: Final[Mapping[str, Member]] = MappingProxyType({})


class Memberships:
    """The memberships of all channels of one inbox.

    Attributes:
        mirrors: by the name of the group.
        unseen: changes of (group, member) that the store has confirmed and whose markers have not been met: the
            version of each, and when the membership was made, by the store's clock; None if it has ended.
    """

    __slots__ = ("_group_expiry", "_versions", "mirrors", "unseen")

    def __init__(self, group_expiry: float | None) -> None:
        self.mirrors: dict[str, Mirror] = {}
        self.unseen: dict[tuple[str, str], tuple[int, float | None]] = {}
        self._group_expiry = group_expiry
        self._versions: dict[tuple[str, str], tuple[int, float]] = {}
        """The highest version met of each (group, member), and the local time at which it was met."""

    # -- what the owner looks up

    def count(self, group: str) -> int:
        """Return how many channels of the inbox are in a group."""
        mirror = self.mirrors.get(group)
        return 0 if mirror is None else len(mirror.members)

    def members(self, group: str, stamp: float) -> Mapping[str, Member]:
        """Return the members of a group at the store's time *stamp*; end the memberships that are over then."""
        mirror = self.mirrors.get(group)
        if mirror is None:
            return _NO_MEMBERS
        if self._group_expiry is not None and stamp - mirror.oldest >= self._group_expiry:
            self._end_old(group, mirror, stamp, self._group_expiry)
        return mirror.members

    def latest(self, group: str) -> int:
        """Return the version of the last join of a group that is mirrored."""
        return self.mirrors[group].latest

    def names(self) -> list[str]:
        """Return the groups in which a channel of the inbox is known to be, or may be."""
        return list(dict.fromkeys((*self.mirrors, *(group for group, _ in self.unseen))))

    def known(self) -> list[tuple[str, str, float]]:
        """Return (group, member, when it joined by the store's clock) of each membership that is known to hold."""
        known: dict[tuple[str, str], float | None] = {
            (group, name): member.joined
            for group, mirror in self.mirrors.items()
            for name, member in mirror.members.items()
        }
        known.update((key, joined) for key, (_, joined) in self.unseen.items())
        return [(group, name, joined) for (group, name), joined in known.items() if joined is not None]

    # -- changes

    def accept(self, marker: MembershipMarker, now: float) -> bool:
        """Note the version of a marker that has been met; return whether it changes anything.

        It does not if a later change of the same member has been met before.
        """
        key = (marker.group, marker.member)
        unseen = self.unseen.get(key)
        if unseen is not None and marker.version >= unseen[0]:
            del self.unseen[key]
        mirror = self.mirrors.get(marker.group)
        if marker.joined and mirror is not None:
            mirror.latest = max(marker.version, mirror.latest)
        known = self._versions.get(key)
        if known is not None and known[0] >= marker.version:
            return False
        self._versions[key] = (marker.version, now)
        return True

    def join(self, marker: MembershipMarker, box: Mailbox, joined: float) -> None:
        """Make or renew the membership that an accepted marker tells of, *joined* by the store's clock."""
        mirror = self.mirrors.get(marker.group)
        if mirror is None:
            mirror = self.mirrors[marker.group] = Mirror(joined, marker.version)
        mirror.oldest = min(joined, mirror.oldest)
        mirror.members[marker.member] = Member(box, joined)
        box.groups.add(marker.group)

    def leave(self, group: str, name: str) -> None:
        """End a membership; nothing happens if there is none."""
        mirror = self.mirrors.get(group)
        member = mirror.members.pop(name, None) if mirror is not None else None
        if mirror is None or member is None:
            return
        member.box.groups.discard(group)
        if not mirror.members:
            del self.mirrors[group]

    def confirm(self, group: str, name: str, version: int, joined: float | None) -> None:
        """Remember a change that the store has confirmed, until its marker is met.

        Args:
            group: the group.
            name: the member's full name.
            version: the group's, with this change.
            joined: when, by the store's clock; None for a member that has left.
        """
        key = (group, name)
        if version > max(self._versions.get(key, (0, 0.0))[0], self.unseen.get(key, (0, None))[0]):
            self.unseen[key] = version, joined

    def shift(self, step: float, now: float) -> None:
        """Keep the ages of all memberships: the store's clock was set forward by *step* seconds, and shows *now*."""
        for mirror in self.mirrors.values():
            for member in mirror.members.values():
                member.joined = min(member.joined + step, now)
            mirror.oldest = min(member.joined for member in mirror.members.values())
        for key, (version, joined) in self.unseen.items():
            if joined is not None:
                self.unseen[key] = version, min(joined + step, now)

    def unseen_leaves(self) -> list[tuple[str, str, int]]:
        """Return (group, member, version) of the memberships that the store has ended and whose markers are unseen."""
        return [(group, name, version) for (group, name), (version, joined) in self.unseen.items() if joined is None]

    def forget(self, now: float, after: float) -> None:
        """Forget the versions of members that have left, met *after* seconds ago or earlier."""
        for key, (_, at) in list(self._versions.items()):
            group, name = key
            if now - at >= after and not self._has(group, name):
                del self._versions[key]

    def clear(self) -> None:
        """End every membership, and forget what is unseen. Versions stay: a marker may still come too late."""
        for mirror in self.mirrors.values():
            for member in mirror.members.values():
                member.box.groups.clear()
        self.mirrors.clear()
        self.unseen.clear()

    def _has(self, group: str, name: str) -> bool:
        mirror = self.mirrors.get(group)
        return mirror is not None and name in mirror.members

    def _end_old(self, group: str, mirror: Mirror, stamp: float, limit: float) -> None:
        for name, member in list(mirror.members.items()):
            if stamp - member.joined >= limit:
                self.leave(group, name)
        if mirror.members:
            mirror.oldest = min(member.joined for member in mirror.members.values())
