"""Commands about statistics, and their replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer.commands.command import Command
from channel_layer.domain.immutable import immutable
from channel_layer.domain.rates import Rates

if TYPE_CHECKING:
    from channel_layer.domain.names import ChannelName, Queue

__all__ = (
    "Count",
    "Report",
    "Reported",
    "Survey",
    "Surveyed",
)


@immutable
class Count:
    """What one process has counted for a queue since its last report.

    Attributes:
        queue: a queue; for single-reader channels their common prefix, as in ``resp?``.
        messages: messages that were put into it.
        refused: sends that were refused because it was full.
    """

    queue: Queue
    messages: int
    refused: int


@immutable
class Report(Command[None]):
    """Add what a process has counted to the statistics. Nothing is reported twice.

    The shard's clock decides when it was counted, and `channel_layer.domain.expiry.counts_lifetimes` how long it is
    kept. A flush removes it.

    Attributes:
        counts: at most one for each queue.
        messages: messages to add to the total of all queues; at least the sum of those in *counts*.
        refused: refused sends to add to the total of all queues.
    """

    counts: tuple[Count, ...]
    messages: int
    refused: int


@immutable
class Reported(Command[Rates]):
    """Return what has been reported.

    Attributes:
        queue: as in a `Count`; None: the total of all queues.
    """

    queue: Queue | None


@immutable
class Surveyed:
    """Messages that wait on one shard. Group messages in an owned inbox are being delivered, and do not count.

    Attributes:
        pending: messages that wait: in a queue that is popped, those that are in it and not too old; in an owned inbox
            whose owner is alive, those that were pushed and whose credits have not been returned. None: the store
            cannot tell.
        oldest: seconds that the oldest of those messages that are still in the store has waited. None: there are none,
            or the store cannot tell.
    """

    pending: int | None
    oldest: float | None


@immutable
class Survey(Command[Surveyed]):
    """Return how many messages wait.

    Attributes:
        channel: the channel that they are for; None: all channels.
    """

    channel: ChannelName | None
