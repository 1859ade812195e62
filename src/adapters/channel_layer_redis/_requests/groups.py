"""Plans for groups: membership, and messages to all members."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import group_frame
from channel_layer.domain.names import Kind
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number, numbers, texts
from channel_layer_redis._requests.calls import call_command, run_script
from channel_layer_redis._requests.epochs import read_clock

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan
    from channel_layer_redis._requests.settings import RequestSettings

__all__ = ("GroupPlans",)

_DELIVER = _scripts.load("deliver")
_JOIN = _scripts.load("join")
_LEAVE = _scripts.load("leave")
_PRUNE = _scripts.load("prune")
_PUBLISH = _scripts.load("publish")


class GroupPlans:
    """Commands about groups.

    Args:
        settings: what all requests have in common.
    """

    def __init__(self, settings: RequestSettings) -> None:
        self._settings = settings
        self._keys = settings.keys

    @property
    def table(self) -> PlanTable:
        """The plan of each of these commands."""
        return {
            c.Deliver: self.deliver,
            c.Join: self.join,
            c.Leave: self.leave,
            c.Members: self.members,
            c.Prune: self.prune,
            c.Publish: self.publish,
            c.Touch: self.touch,
        }

    def join(self, command: c.Join) -> RequestPlan[c.Changed]:
        """Add a member."""
        queue = command.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self._keys.group(command.group.name)
        if command.mark:
            keys = (*keys, *self._keys.inbox(inbox))
        reply = yield from run_script(
            _JOIN, keys, command.group.name, command.channel.name, inbox, int(command.owned),
            round(command.age * 1000), int(command.restore), self._settings.group, self._settings.offset,
        )  # fmt: skip
        version, marked, applied, owned = numbers(reply)
        return c.Changed(version, marked == 1, applied == 1, owned == 1)

    def leave(self, command: c.Leave) -> RequestPlan[c.Changed]:
        """Remove a member."""
        queue = command.channel.queue
        inbox = queue.name if queue.kind is Kind.INBOX else ""
        keys: tuple[str, ...] = self._keys.group(command.group.name)
        if command.mark:
            keys = (*keys, *self._keys.inbox(inbox))
        latest = "" if command.latest is None else command.latest
        reply = yield from run_script(
            _LEAVE,
            keys,
            command.group.name,
            command.channel.name,
            inbox,
            self._settings.group,
            self._settings.left,
            self._settings.offset,
            latest,
        )
        version, marked, applied = numbers(reply)
        return c.Changed(version, marked == 1, applied == 1, owned=False)

    def publish(self, command: c.Publish) -> RequestPlan[c.Published]:
        """Deliver to all members in one step, or return the members."""
        frame = group_frame(command.group.name, (), command.payload)
        reply = yield from run_script(
            _PUBLISH, self._keys.group(command.group.name)[:3], int(command.at_once), frame, self._keys.prefix,
            self._settings.inbox_capacity, self._settings.owned, self._settings.group, self._settings.offset,
        )  # fmt: skip
        version, done, first, *rest = list_of(reply)
        if done == 1:
            return c.Published(number(version), done=True, inboxes=(), others=(), full=texts(first))
        return c.Published(number(version), False, texts(first), texts(rest[0]), ())

    def deliver(self, command: c.Deliver) -> RequestPlan[c.Delivery]:
        """Deliver a message of a group to an inbox."""
        frame = group_frame(command.group.name, command.extra_recipients, command.payload)
        keys = self._keys.inbox(command.inbox.name)
        outcome = number(
            (yield from run_script(_DELIVER, keys, frame, self._settings.offset, self._settings.inbox_capacity))
        )
        return {1: c.Delivery.DONE, 0: c.Delivery.FULL}.get(outcome, c.Delivery.NO_OWNER)

    def prune(self, command: c.Prune) -> RequestPlan[None]:
        """Remove members that are gone."""
        keys = self._keys.group(command.group.name)[:3]
        yield from run_script(_PRUNE, keys, command.version, len(command.inboxes), *command.inboxes, *command.others)

    def members(self, command: c.Members) -> RequestPlan[c.GroupMembers]:
        """List the members."""
        owned, others, _, _ = self._keys.group(command.group.name)
        now = int((yield from read_clock(self._settings.offset)))
        first = "-inf" if self._settings.owned < 0 else f"({now - self._settings.owned}"
        found = yield (
            call_command("ZRANGEBYSCORE", owned, first, "+inf"),
            call_command("ZRANGEBYSCORE", others, f"({now - self._settings.group}", "+inf"),
        )
        return c.GroupMembers(texts(found[0]), texts(found[1]))

    def touch(self, command: c.Touch) -> RequestPlan[None]:
        """Extend the lifetimes of groups."""
        keys = [key for group in command.groups for key in self._keys.group(group.name)[:3]]
        yield tuple(call_command("PEXPIRE", key, self._settings.group) for key in keys)
