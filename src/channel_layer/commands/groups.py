"""Commands about groups and the messages for them, and their replies."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from channel_layer.commands.command import Command
from channel_layer.domain.immutable import immutable

if TYPE_CHECKING:
    from channel_layer.domain.names import ChannelName, GroupName, Queue

__all__ = (
    "Changed",
    "CheckGroups",
    "CheckedGroups",
    "Deliver",
    "Delivery",
    "GroupMembers",
    "Join",
    "Leave",
    "Members",
    "Prune",
    "Publish",
    "Published",
)


@immutable
class Changed:
    """The reply to a `Join` or a `Leave`.

    Attributes:
        version: the group's version after the change.
        marked: whether the marker is in the member's inbox.
        applied: False if a `Join` that restores found that the member has left since, or if a `Leave` with a
            ``latest`` found a later join.
        owned: the owner of the member's inbox knows the membership, or will, so it needs a marker.
    """

    version: int
    marked: bool
    applied: bool
    owned: bool


@immutable
class Join(Command[Changed]):
    """Add a channel to a group, or refresh its membership.

    A member that the owner of its inbox added remains the owner's, whichever process refreshes it.

    Attributes:
        group: the group.
        channel: the member.
        owned: the caller owns the member's inbox and mirrors its memberships.
        age: seconds since the channel joined; 0 except for a restored membership.
        restore: the membership is announced again after the store lost it; nothing happens if the member has left
            since. So a store remembers for two leases which members of an inbox have left.
        mark: the member's inbox is on the same shard; put a marker into it in the same step, if the owner added the
            member.
    """

    group: GroupName
    channel: ChannelName
    owned: bool
    age: float
    restore: bool
    mark: bool


@immutable
class Leave(Command[Changed]):
    """Remove a channel from a group, whichever process added it.

    Attributes:
        group: the group.
        channel: the member.
        mark: the member's inbox is on the same shard; put the marker into it in the same step.
        latest: if not None, remove only a member that the owner of its inbox added, and only if no channel of that
            inbox has joined the group after this version.
    """

    group: GroupName
    channel: ChannelName
    mark: bool
    latest: int | None = None


@immutable
class Published:
    """The reply to a `Publish`.

    Attributes:
        version: the group's version at that moment; 0 if the store knows no such group.
        done: whether the store has delivered to every inbox in the same step; if not, the caller has to.
        inboxes: owned inboxes with members that their owners added.
        others: full names of all other members.
        full: if *done*, inboxes that were full.
    """

    version: int
    done: bool
    inboxes: tuple[str, ...]
    others: tuple[str, ...]
    full: tuple[str, ...]


@immutable
class Publish(Command[Published]):
    """Send to a group.

    Attributes:
        group: the group.
        payload: the encoded message.
        at_once: every inbox is on this shard, so the store may deliver to all of them in one step.
    """

    group: GroupName
    payload: bytes
    at_once: bool


class Delivery(Enum):
    """The reply to a `Deliver`."""

    DONE = "done"
    FULL = "full"
    NO_OWNER = "no owner"


@immutable
class Deliver(Command[Delivery]):
    """Put a group message into an owned inbox, if its owner is alive and ``inbox_capacity`` leaves room.

    Attributes:
        inbox: the inbox.
        group: the group.
        extra_recipients: extra recipients: members in this inbox that its owner did not add.
        payload: the encoded message.
    """

    inbox: Queue
    group: GroupName
    extra_recipients: tuple[str, ...]
    payload: bytes


@immutable
class Prune(Command[None]):
    """Remove members that no longer exist from a group.

    Attributes:
        group: the group.
        version: the group's version when the members were found not to exist.
        inboxes: inboxes whose members, as far as their owners added them, are removed, unless one of them has joined
            since.
        others: full names of other members, which are removed unless any member has joined or left since.
    """

    group: GroupName
    version: int
    inboxes: tuple[str, ...]
    others: tuple[str, ...]


@immutable
class GroupMembers:
    """The members of a group.

    Attributes:
        owned: full names of members that the owners of their inboxes added.
        others: full names of all other members.
    """

    owned: tuple[str, ...]
    others: tuple[str, ...]


@immutable
class Members(Command[GroupMembers]):
    """Return the members of a group."""

    group: GroupName


@immutable
class CheckedGroups:
    """The reply to a `CheckGroups`.

    Attributes:
        known: for each group, whether members in the inbox that its owner added are known there.
        epoch: the last flush of this prefix on this shard, or "", as it was after the look at the groups.
    """

    known: tuple[bool, ...]
    epoch: str


@immutable
class CheckGroups(Command[CheckedGroups]):
    """Look whether groups still hold the members of an owned inbox: a server may have evicted or lost some.

    Attributes:
        inbox: the inbox.
        groups: groups that channels of the inbox have joined, all on this shard.
        extend: keep these groups for another lifetime: their memberships do not end while the owner is alive.
    """

    inbox: Queue
    groups: tuple[GroupName, ...]
    extend: bool
