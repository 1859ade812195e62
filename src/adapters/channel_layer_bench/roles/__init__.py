"""The roles of the workloads: what each process does while it is measured.

The code for each message is short and the same for every layer, because it is measured as well.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from channel_layer_bench import floor
from channel_layer_bench.roles import blocking, consumers, groups, queues

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from channel_layer_bench.context import BlockingContext, Context

__all__ = ("BLOCKING_ROLES", "ROLES")

ROLES: Final[Mapping[str, Callable[[Context], Awaitable[None]]]] = MappingProxyType(
    {
        "sender": queues.sender,
        "receiver": queues.receiver,
        "large-sender": queues.large_sender,
        "large-receiver": queues.large_receiver,
        "worker": queues.worker,
        "pinger": queues.pinger,
        "ponger": queues.ponger,
        "members": groups.members,
        "publisher": groups.publisher,
        "echo": consumers.echo,
        "churner": consumers.churner,
        "filler": consumers.filler,
        "idler": consumers.idler,
        "floor-pusher": floor.push,
        "floor-pinger": floor.ping,
    }
)
"""Every role that runs in an event loop, by name."""

BLOCKING_ROLES: Final[Mapping[str, Callable[[BlockingContext], None]]] = MappingProxyType(
    {
        "caller": blocking.caller,
        "blocking-caller": blocking.blocking_caller,
        "floor-caller": floor.call,
    }
)
"""Every role that runs without an event loop, by name."""
