"""The groups and their members, as one transaction sees them."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from channel_layer_ipc import _keys as k
from channel_layer_ipc._records import GroupRecord, pack_entry, split_entry
from channel_layer_ipc._tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ("GroupTable",)

_VERSION = struct.Struct(">Q")
_INBOX = struct.Struct(">QI")

_VERSION_END: Final = 2**63


class GroupTable(Table[GroupRecord]):
    """The groups.

    Members are of two kinds: owned ones, which the owner of their inbox added, and all others. They are told apart by
    the kinds of their keys, `channel_layer_ipc._keys.OWNED` and `channel_layer_ipc._keys.OTHER`.
    """

    __slots__ = ()

    record_type = GroupRecord
    part_kinds: Sequence[bytes] = (k.OWNED, k.OTHER, k.JOIN_ORDER, k.GROUP_INBOX)

    def get(self, name: bytes) -> GroupRecord | None:
        """Return a group without the memberships that have ended; None if it has no member left."""
        if name in self._records:
            return self._records[name]
        group = super().get(name)
        if group is None:
            return None
        if group.until <= self._values.now:
            self.drop(group)
        else:
            self._end_memberships(group)
        return self._records[name]

    def get_or_make(self, name: bytes) -> GroupRecord:
        """Return a group, a new one if there is none, that lives for the time of a membership at least."""
        group = self.get(name)
        if group is None:
            until = self._values.now + self._values.times.group
            group = self._records[name] = GroupRecord(name, until, until)
        self.touch(group)
        return group

    def touch(self, group: GroupRecord) -> None:
        """Keep a group for as long as if it was made now."""
        group.until, group.changed = max(group.until, self._values.now + self._values.times.group), True

    def drop_if_empty(self, group: GroupRecord) -> None:
        """Remove a group that has no member left."""
        if group.owned <= 0 and group.others <= 0:
            self.drop(group)

    def drop(self, record: GroupRecord) -> None:
        """Remove a group with all its members."""
        for kind in self.part_kinds:
            self._values.clear(k.key(kind, record.name))
        super().drop(record)

    # -- versions

    def next_version(self) -> int:
        """Return a version that no group has had."""
        version = self.last_version() + 1
        self._values.put(k.VERSION, _VERSION.pack(version))
        return version

    def last_version(self) -> int:
        """Return the last version that any group got."""
        data = self._values.get(k.VERSION)
        if data is None:
            return 0
        version = int.from_bytes(data)
        if len(data) == _VERSION.size and version < _VERSION_END:
            return version
        return round(self._values.now * 1e6)  # it is damaged: a version that is later than any that was given

    # -- members

    def add_member(self, group: GroupRecord, kind: bytes, member: bytes, joined: float) -> bool:
        """Add a member of a kind, `OWNED` or `OTHER`, or refresh it; return whether it is new."""
        new = not self.remove_member(group, kind, member)
        self._values.put(k.key(kind, group.name, member), pack_entry(joined, b""))
        self._values.put(_joined_key(group, kind, member, joined), b"")
        _change_count(group, kind, 1)
        return new

    def remove_member(self, group: GroupRecord, kind: bytes, member: bytes) -> bool:
        """Remove a member; return whether it was one."""
        data = self._values.take(k.key(kind, group.name, member))
        if data is None:
            return False
        self._values.remove(_joined_key(group, kind, member, split_entry(data)[0]))
        _change_count(group, kind, -1)
        return True

    def is_owned(self, group: GroupRecord, member: bytes) -> bool:
        """Return whether a channel is an owned member."""
        return self._values.get(k.key(k.OWNED, group.name, member)) is not None

    def _end_memberships(self, group: GroupRecord) -> None:
        times, ended = self._values.times, False
        for kind, lifetime in ((k.OWNED, times.owned), (k.OTHER, times.group)):
            if lifetime is None or not (group.owned if kind == k.OWNED else group.others):
                continue
            start = k.key(k.JOIN_ORDER, group.name, kind)
            last = k.moment(self._values.now - lifetime)
            while first := self._values.scan(start, 1):
                key = first[0][0]
                rest = key[len(start) :]
                if rest[:8] > last:
                    break
                self._values.take_found(key)  # first, so that one without its member is gone, too
                if kind == k.OWNED:
                    self.remove_owned(group, rest[8:])
                else:
                    self.remove_member(group, kind, rest[8:])
                ended = True
        if ended:
            self.drop_if_empty(group)

    # -- inboxes with owned members

    def has_owned(self, group: GroupRecord, inbox: bytes) -> bool:
        """Return whether an inbox holds owned members."""
        return self._inbox(group, inbox)[1] > 0

    def is_unchanged(self, group: GroupRecord, inbox: bytes, version: int) -> bool:
        """Return whether an inbox holds owned members, none of which has joined since a version."""
        joined, members = self._inbox(group, inbox)
        return members > 0 and joined <= version

    def add_owned(self, group: GroupRecord, inbox: bytes, member: bytes, joined: float) -> None:
        """Add an owned member, or refresh it; it has joined with the group's present version."""
        self.remove_member(group, k.OTHER, member)
        new = self.add_member(group, k.OWNED, member, joined)
        _, members = self._inbox(group, inbox)
        self._put_inbox(group, inbox, group.version, members + new)

    def remove_owned(self, group: GroupRecord, member: bytes) -> None:
        """Remove an owned member, if it is one."""
        if self.remove_member(group, k.OWNED, member):
            inbox = member[: member.find(b"!") + 1]
            version, members = self._inbox(group, inbox)
            self._put_inbox(group, inbox, version, members - 1)

    def drop_inbox(self, group: GroupRecord, inbox: bytes) -> None:
        """Remove an inbox from a group, with its owned members."""
        for rest in self._values.parts(k.OWNED, group.name, inbox):
            self.remove_member(group, k.OWNED, rest)
        self._values.remove(k.key(k.GROUP_INBOX, group.name, inbox))

    def _inbox(self, group: GroupRecord, inbox: bytes) -> tuple[int, int]:
        """Return the version of the last owned member of an inbox that joined, and how many there are."""
        data = self._values.get(k.key(k.GROUP_INBOX, group.name, inbox))
        try:
            return _INBOX.unpack(data) if data is not None else (0, 0)
        except struct.error:  # it is damaged
            return group.version, len(self._values.parts(k.OWNED, group.name, inbox))

    def _put_inbox(self, group: GroupRecord, inbox: bytes, version: int, members: int) -> None:
        key = k.key(k.GROUP_INBOX, group.name, inbox)
        if members > 0:
            self._values.put(key, _INBOX.pack(version, members))
        else:
            self._values.remove(key)


def _joined_key(group: GroupRecord, kind: bytes, member: bytes, joined: float) -> bytes:
    return k.key(k.JOIN_ORDER, group.name, kind + k.moment(joined) + member)


def _change_count(group: GroupRecord, kind: bytes, change: int) -> None:
    if kind == k.OWNED:
        group.owned += change
    else:
        group.others += change
    group.changed = True
