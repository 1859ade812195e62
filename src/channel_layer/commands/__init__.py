"""The commands that the core sends to a store, and their replies: frozen data, and a closed set.

Each command is one object, so that a field can be added without breaking stores of third parties, and so that commands
can be logged, compared and generated. Times are seconds by the shard's own clock unless stated otherwise; a command
carries no "now", because the shard's clock decides what is too old.

A store takes names as they are. With ``blind_names`` each name is a token of the same grammar, but of up to 255
characters: do not parse it; `channel_layer.domain.names.queue_name` returns the name of its queue.
"""

from __future__ import annotations

from channel_layer.commands.command import Command
from channel_layer.commands.flushing import Acknowledge, Flush, Flushing, Unflushed
from channel_layer.commands.groups import (
    Changed,
    CheckedGroups,
    CheckGroups,
    Deliver,
    Delivery,
    GroupMembers,
    Join,
    Leave,
    Members,
    Prune,
    Publish,
    Published,
)
from channel_layer.commands.inboxes import (
    AcquireLease,
    Alive,
    Batch,
    LeaseAcquired,
    LeaseRenewed,
    Mark,
    Read,
    ReleaseLease,
    RenewLease,
    ReturnCredits,
)
from channel_layer.commands.messages import (
    ClearUnread,
    FindOrphaned,
    Pending,
    Pop,
    Popped,
    Push,
    Pushed,
    PutBack,
    ReleaseClaim,
    Returned,
    Wait,
    WaitAny,
)
from channel_layer.commands.statistics import Count, Report, Reported, Survey, Surveyed
from channel_layer.domain.frames import Entry

__all__ = (
    "Acknowledge",
    "AcquireLease",
    "Alive",
    "Batch",
    "Changed",
    "CheckGroups",
    "CheckedGroups",
    "ClearUnread",
    "Command",
    "Count",
    "Deliver",
    "Delivery",
    "Entry",
    "FindOrphaned",
    "Flush",
    "Flushing",
    "GroupMembers",
    "Join",
    "LeaseAcquired",
    "LeaseRenewed",
    "Leave",
    "Mark",
    "Members",
    "Pending",
    "Pop",
    "Popped",
    "Prune",
    "Publish",
    "Published",
    "Push",
    "Pushed",
    "PutBack",
    "Read",
    "ReleaseClaim",
    "ReleaseLease",
    "RenewLease",
    "Report",
    "Reported",
    "ReturnCredits",
    "Returned",
    "Survey",
    "Surveyed",
    "Unflushed",
    "Wait",
    "WaitAny",
)
