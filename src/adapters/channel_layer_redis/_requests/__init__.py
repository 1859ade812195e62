"""Every command as calls of scripts: which script, which keys and arguments, and what the replies mean.

Each is written once, as a generator that yields calls and knows no I/O, for the two stores that carry them out: that of
event loops, and that of threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from channel_layer.stores.wrapper import unsupported
from channel_layer_redis._requests.calls import PendingRequest
from channel_layer_redis._requests.flushing import FlushPlans
from channel_layer_redis._requests.groups import GroupPlans
from channel_layer_redis._requests.inboxes import InboxPlans
from channel_layer_redis._requests.queues import QueuePlans
from channel_layer_redis._requests.settings import RequestSettings
from channel_layer_redis._requests.statistics import StatisticsPlans

if TYPE_CHECKING:
    from channel_layer.commands import Command
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_redis._keys import Keys
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan

__all__ = ("Requests",)

R = TypeVar("R")


class Requests:
    """The plan of each command, under one configuration.

    Args:
        rules: the configuration.
        clock: its offset is added to the servers' clocks.

    Attributes:
        keys: the names of all keys.
        queues: the plans about messages.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        settings = RequestSettings(rules, clock)
        self.keys: Keys = settings.keys
        self.queues: QueuePlans = QueuePlans(settings)
        self._plans: PlanTable = {
            **self.queues.table,
            **InboxPlans(settings).table,
            **GroupPlans(settings).table,
            **FlushPlans(settings).table,
            **StatisticsPlans(settings).table,
        }

    def begin(self, command: Command[R]) -> PendingRequest[R]:
        """Begin to carry out a command."""
        return PendingRequest(command.shard, self._plans.get(type(command), _refuse)(command))


def _refuse(command: Command[object]) -> RequestPlan[object]:
    yield ()
    raise unsupported(command)
