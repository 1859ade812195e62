"""The metrics: their units, and whether more is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ("FAMILIES", "METRICS", "Metric", "family", "number", "one_way", "percentile", "rate")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a workload.

    Attributes:
        title: the head of its column.
        more: whether more is better.
        plotted: whether the plot shows it.
        compared: whether it is worth comparing with the base.
    """

    title: str
    more: bool = False
    plotted: bool = False
    compared: bool = True


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "messages_per_second": Metric("messages/s", more=True, plotted=True),
        "deliveries_per_second": Metric("deliveries/s", more=True, plotted=True),
        "calls_per_second": Metric("calls/s", more=True, plotted=True),
        "sends_per_second": Metric("sends/s", more=True, plotted=True),
        "group_sends_per_second": Metric("group_sends/s", more=True, plotted=True),
        "of_a_loop": Metric("of a loop of sends", more=True, compared=False),
        "empty_calls_per_second": Metric("empty calls/s", more=True, compared=False),
        "of_empty": Metric("of empty", more=True),
        "cycles_per_second": Metric("cycles/s", more=True, plotted=True),
        "megabytes_per_second": Metric("MB/s", more=True, plotted=True),
        "p50_ms": Metric("p50 ms", plotted=True),
        "p99_ms": Metric("p99 ms", plotted=True),
        "group_send_ms": Metric("group_send ms", plotted=True),
        "group_send_alone_ms": Metric("alone ms"),
        "server_cpu_us": Metric("server CPU µs", plotted=True),
        "client_cpu_us": Metric("client CPU µs"),
        "refused": Metric("refused", compared=False),
        "connections_per_call": Metric("connections/call", compared=False),
        "server_bytes_per_message": Metric("server bytes/message", plotted=True),
        "commands_per_second": Metric("commands/s", plotted=True),
        "client_bytes_per_channel": Metric("client bytes/channel", plotted=True),
    }
)
"""Every metric, by name, in the order of the columns."""

FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "direct": "one process sends to 50 channels of another one",
        "latency": "one way, half of a ping-pong between two processes",
        "fanout": "one process sends to a group whose members live in others",
        "worker": "four processes share the work of one normal channel",
        "sync": "a plain script calls async_to_sync(layer.group_send)",
        "blocking": "a plain script sends to channels, to 10 members, and to 1 000 of one process",
        "churn": "consumers come, join a group, ask, get an answer and go",
        "large": "messages of 1 MB to two channels of another process",
        "pending": "what waiting messages cost the server",
        "idle": "what 10 000 waiting channels of one process cost",
    }
)
"""The families of workloads, each with what it does."""


def family(workload: str) -> str:
    """Return the family of a workload: ``fanout`` of ``fanout-100x2``."""
    return workload.partition("-")[0]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not below *share* of all; of none, NaN."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def one_way(trips: Sequence[float]) -> dict[str, float]:
    """Return the percentiles of half of each round trip, given in seconds."""
    return {"p50_ms": percentile(trips, 0.5) / 2 * 1e3, "p99_ms": percentile(trips, 0.99) / 2 * 1e3}


def rate(count: float, seconds: float) -> float:
    """Return how many a second; 0 if the time is that of a message that never came."""
    return count / seconds if seconds > 0 else 0.0


def number(value: float) -> str:
    """Return a figure as text, with at least three significant digits."""
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1:
        return f"{value:.2f}"
    return f"{value:.3g}" if size else "0"
