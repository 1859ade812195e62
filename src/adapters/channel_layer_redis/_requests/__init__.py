"""Every command as calls of scripts: which script, which keys and arguments, and what the replies mean.

Each is written once, as a generator that yields calls and knows no I/O, for the two stores that carry them out: that of
event loops, and that of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from channel_layer import commands as c
from channel_layer.stores.wrapper import unsupported
from channel_layer_redis._requests import groups, inboxes, queues, statistics
from channel_layer_redis._requests.calls import PendingRequest, RequestPlan, RequestSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ("begin",)

R = TypeVar("R")

# One table for commands of all types; each is handed to the plan for its own type, and to no other.
_PLANS: Mapping[type, Callable[[RequestSettings, Any], RequestPlan[Any]]] = {
    c.Acknowledge: inboxes.acknowledge,
    c.AcquireLease: inboxes.acquire_lease,
    c.Alive: inboxes.alive,
    c.ClearUnread: queues.clear_unread,
    c.Deliver: groups.deliver,
    c.Flush: inboxes.flush,
    c.Join: groups.join,
    c.Leave: groups.leave,
    c.Mark: inboxes.mark,
    c.Members: groups.members,
    c.Pending: queues.pending,
    c.Pop: queues.pop,
    c.Prune: groups.prune,
    c.Publish: groups.publish,
    c.Push: queues.push,
    c.PutBack: queues.put_back,
    c.ReleaseClaim: queues.release_claim,
    c.ReleaseLease: inboxes.release_lease,
    c.RenewLease: inboxes.renew_lease,
    c.Report: statistics.report,
    c.Reported: statistics.reported,
    c.ReturnCredits: inboxes.return_credits,
    c.Survey: statistics.survey,
    c.CheckGroups: groups.check_groups,
    c.Unflushed: inboxes.unflushed,
}
"""All but `Read`, which only the store for event loops supports, and `FindOrphaned`: no server knows its readers."""


def begin(settings: RequestSettings, command: c.Command[R]) -> PendingRequest[R]:
    """Begin to carry out a command."""
    return PendingRequest(command.shard, _PLANS.get(type(command), _refuse)(settings, command))


def _refuse(_settings: RequestSettings, command: c.Command[object]) -> RequestPlan[object]:
    yield ()
    raise unsupported(command)
