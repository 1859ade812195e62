"""The groups and their members, as one transaction sees them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import GroupInbox, GroupRecord, pack_entry, split_entry
from channel_layer_ipc._tables import Table

if TYPE_CHECKING:
    from channel_layer_ipc._key_values import DueIndex, KeyValues

__all__ = ("GroupTable",)

_VERSION = struct.Struct(">Q")


class GroupTable(Table[GroupRecord]):
    """The groups.

    Members are of two kinds: owned ones, which the owner of their inbox added, and all others. They are told apart by
    the kinds of their keys, `channel_layer_ipc._keys.OWNED` and `channel_layer_ipc._keys.OTHER`.

    Args:
        values: holds them.
        due_index: says when to look at them.
        now: what time it is.
        lifetime: seconds that a group lives that is not touched, and that an other member stays.
        owned_lifetime: seconds that an owned member stays; None: as long as its owner is alive.
    """

    __slots__ = ("_lifetime", "_owned_lifetime", "_version")

    def __init__(
        self, values: KeyValues, due_index: DueIndex, now: float, lifetime: float, owned_lifetime: float | None
    ) -> None:
        super().__init__(GroupRecord, values, due_index, now)
        self._lifetime = lifetime
        self._owned_lifetime = owned_lifetime
        self._version: int | None = None

    def get(self, name: bytes) -> GroupRecord | None:
        """Return a group without the memberships that have ended; None if it has no member left."""
        if name in self._records:
            return self._records[name]
        group = super().get(name)
        if group is None:
            return None
        if group.until <= self._now:
            self.drop(group)
        else:
            self._end_memberships(group)
        return self._records[name]

    def get_or_make(self, name: bytes) -> GroupRecord:
        """Return a group, a new one if there is none, that lives for the time of a membership at least."""
        until = self._now + self._lifetime
        group = self.get(name)
        if group is None:
            group = self._records[name] = GroupRecord(name, until, until)
        group.until = max(group.until, until)
        group.changed = True
        return group

    def touch(self, group: GroupRecord) -> None:
        """Keep a group for as long as if it was made now."""
        group.until, group.changed = max(group.until, self._now + self._lifetime), True

    def drop_if_empty(self, group: GroupRecord) -> None:
        """Remove a group that has no member left."""
        if group.owned <= 0 and group.others <= 0:
            self.drop(group)

    def drop(self, group: GroupRecord) -> None:
        """Remove a group with all its members."""
        for kind in (k.OWNED, k.OTHER, k.JOIN_ORDER, k.GROUP_INBOX):
            self._values.clear(k.below(kind, group.name))
        self._drop_record(group)

    # -- versions

    def next_version(self) -> int:
        """Return a version that no group has had."""
        version = self.last_version() + 1
        self._version = version
        self._values.put(k.VERSION, _VERSION.pack(version))
        return version

    def last_version(self) -> int:
        """Return the last version that any group got."""
        version = self._version
        if version is None:
            data = self._values.get(k.VERSION)
            version = self._version = int(_VERSION.unpack(data)[0]) if data is not None else 0
        return version

    # -- members

    def add_member(self, group: GroupRecord, kind: bytes, member: bytes, joined: float) -> bool:
        """Add a member, or refresh it; return whether it is new.

        Args:
            group: the group.
            kind: `OWNED` or `OTHER`.
            member: the full name.
            joined: when it joined.
        """
        new = not self.remove_member(group, kind, member)
        self._values.put(k.below(kind, group.name, member), pack_entry(joined, b""))
        self._values.put(_joined_key(group, kind, member, joined), b"")
        _change_count(group, kind, 1)
        return new

    def remove_member(self, group: GroupRecord, kind: bytes, member: bytes) -> bool:
        """Remove a member; return whether it was one."""
        data = self._values.take(k.below(kind, group.name, member))
        if data is None:
            return False
        self._values.remove(_joined_key(group, kind, member, split_entry(data)[0]))
        _change_count(group, kind, -1)
        return True

    def has_member(self, group: GroupRecord, kind: bytes, member: bytes) -> bool:
        """Return whether a channel is a member of this kind."""
        return self._values.get(k.below(kind, group.name, member)) is not None

    def members(self, group: GroupRecord, kind: bytes, prefix: bytes = b"") -> list[bytes]:
        """Return the full names of the members whose names begin so."""
        start = len(group.name) + 2
        return [key[start:] for key, _ in self._values.scan(k.below(kind, group.name, prefix))]

    def _end_memberships(self, group: GroupRecord) -> None:
        ended = 0
        for kind, lifetime in ((k.OWNED, self._owned_lifetime), (k.OTHER, self._lifetime)):
            if lifetime is None or not (group.owned if kind == k.OWNED else group.others):
                continue
            start = k.below(k.JOIN_ORDER, group.name, kind)
            last = k.moment(self._now - lifetime)
            while first := self._values.scan(start, 1):
                rest = first[0][0][len(start) :]
                if rest[:8] > last:
                    break
                if kind == k.OWNED:
                    self.remove_owned(group, rest[8:])
                else:
                    self.remove_member(group, kind, rest[8:])
                ended += 1
        if ended:
            self.drop_if_empty(group)

    # -- inboxes with owned members

    def inboxes(self, group: GroupRecord) -> list[bytes]:
        """Return the inboxes that hold owned members."""
        start = len(group.name) + 2
        return [key[start:] for key, _ in self._values.scan(k.below(k.GROUP_INBOX, group.name))]

    def inbox(self, group: GroupRecord, inbox: bytes) -> GroupInbox | None:
        """Return one of these inboxes."""
        data = self._values.get(k.below(k.GROUP_INBOX, group.name, inbox))
        return GroupInbox.unpack(data) if data is not None else None

    def add_owned(self, group: GroupRecord, inbox: bytes, member: bytes, joined: float) -> None:
        """Add an owned member, or refresh it; it has joined with the group's present version."""
        self.remove_member(group, k.OTHER, member)
        new = self.add_member(group, k.OWNED, member, joined)
        found = self.inbox(group, inbox)
        members = (found.members if found is not None else 0) + new
        self._put_inbox(group, inbox, GroupInbox(group.version, members))

    def remove_owned(self, group: GroupRecord, member: bytes) -> None:
        """Remove an owned member, if it is one."""
        if self.remove_member(group, k.OWNED, member):
            inbox = member[: member.index(b"!") + 1]
            found = self.inbox(group, inbox)
            if found is not None:
                self._put_inbox(group, inbox, GroupInbox(found.version, found.members - 1))

    def drop_inbox(self, group: GroupRecord, inbox: bytes) -> None:
        """Remove an inbox from a group, with its owned members."""
        for member in self.members(group, k.OWNED, inbox):
            self.remove_member(group, k.OWNED, member)
        self._values.remove(k.below(k.GROUP_INBOX, group.name, inbox))

    def _put_inbox(self, group: GroupRecord, inbox: bytes, found: GroupInbox) -> None:
        key = k.below(k.GROUP_INBOX, group.name, inbox)
        if found.members > 0:
            self._values.put(key, found.pack())
        else:
            self._values.remove(key)


def _joined_key(group: GroupRecord, kind: bytes, member: bytes, joined: float) -> bytes:
    return k.below(k.JOIN_ORDER, group.name, kind + k.moment(joined) + member)


def _change_count(group: GroupRecord, kind: bytes, change: int) -> None:
    if kind == k.OWNED:
        group.owned += change
    else:
        group.others += change
    group.changed = True
