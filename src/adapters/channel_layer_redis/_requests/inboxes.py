"""Plans for owned inboxes: leases, credits, markers, acknowledged flushes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import marker_frame
from channel_layer_redis import _scripts
from channel_layer_redis._replies import number, numbers
from channel_layer_redis._requests.calls import ScriptCall, call_command, run_script
from channel_layer_redis._requests.epochs import read_epoch

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan
    from channel_layer_redis._requests.settings import RequestSettings

__all__ = ("InboxPlans",)

_ACKNOWLEDGE = _scripts.load("acknowledge")
_ACQUIRE_LEASE = _scripts.load("acquire_lease")
_DELIVER = _scripts.load("deliver")
_RETURN_CREDITS = _scripts.load("return_credits")
_RELEASE_LEASE = _scripts.load("release_lease")
_RENEW_LEASE = _scripts.load("renew_lease")


class InboxPlans:
    """Commands about owned inboxes.

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
            c.Acknowledge: self.acknowledge,
            c.Alive: self.alive,
            c.AcquireLease: self.acquire_lease,
            c.ReturnCredits: self.return_credits,
            c.Mark: self.mark,
            c.ReleaseLease: self.release_lease,
            c.RenewLease: self.renew_lease,
        }

    def acquire_lease(self, command: c.AcquireLease) -> RequestPlan[c.LeaseAcquired]:
        """Acquire the lease, and move into the inbox what was sent while it had no owner."""
        name = command.inbox.name
        keys = (*self._keys.inbox(name), *self._keys.taking(name))
        held = [part for channel, count in command.held for part in (channel, count)]
        args = (
            command.generation,
            self._settings.lease,
            self._settings.expiry,
            self._settings.offset,
            command.after or "0-0",
            *held,
        )
        reply, last_flush = yield ScriptCall(_ACQUIRE_LEASE, keys, args), call_command("GET", self._keys.epoch)
        now, fresh, expired = numbers(reply)
        return c.LeaseAcquired(now / 1000, fresh == 1, read_epoch(last_flush)[0], expired)

    def renew_lease(self, command: c.RenewLease) -> RequestPlan[c.LeaseRenewed]:
        """Renew the lease."""
        renewal = ScriptCall(
            _RENEW_LEASE, self._keys.inbox(command.inbox.name), (self._settings.lease, self._settings.offset)
        )
        reply, last_flush = yield renewal, call_command("GET", self._keys.epoch)
        now, held = numbers(reply)
        return c.LeaseRenewed(now / 1000, held == 1, read_epoch(last_flush)[0])

    def release_lease(self, command: c.ReleaseLease) -> RequestPlan[int]:
        """Release the lease, and remove the inbox."""
        return number((yield from run_script(_RELEASE_LEASE, self._keys.inbox(command.inbox.name))))

    def return_credits(self, command: c.ReturnCredits) -> RequestPlan[None]:
        """Return credits."""
        credits_ = [part for channel, count in command.places for part in (channel, count)]
        keys = self._keys.inbox(command.inbox.name)[:1]
        yield from run_script(_RETURN_CREDITS, keys, command.generation, command.serial, *credits_)

    def mark(self, command: c.Mark) -> RequestPlan[bool]:
        """Put a marker."""
        keys = self._keys.inbox(command.inbox.name)
        return (
            number((yield from run_script(_DELIVER, keys, marker_frame(command.marker), self._settings.offset, -1)))
            == 1
        )

    def alive(self, command: c.Alive) -> RequestPlan[tuple[bool, ...]]:
        """Return which inboxes have a lease."""
        leases = [self._keys.inbox(inbox.name)[0] for inbox in command.inboxes]
        replies = yield tuple(call_command("HEXISTS", lease, "g") for lease in leases)
        return tuple(reply == 1 for reply in replies)

    def acknowledge(self, command: c.Acknowledge) -> RequestPlan[None]:
        """Note that the owner has applied a flush."""
        yield from run_script(_ACKNOWLEDGE, self._keys.inbox(command.inbox.name)[:1], command.generation)
