"""The results: every run, and the medians of the layers that were right."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from channel_layer_bench.faults import Faults
from channel_layer_bench.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer_bench.contenders import Contender
    from channel_layer_bench.plan import Plan

__all__ = ("Cell", "Figure", "Results", "Run", "machine")

_PACKAGES: Final = (
    "asgiref",
    "channel-layer",
    "channels",
    "channels-redis",
    "hiredis",
    "msgpack",
    "redis",
    "uvloop",
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        workload: its name.
        layer: the contender's name.
        turn: which repetition it was, from 0.
        metrics: figures by name; worth nothing if there are faults.
        faults: what went wrong with the messages.
        failure: why the run came to no result; None: it did.
    """

    workload: str
    layer: str
    turn: int
    metrics: dict[str, float]
    faults: Faults
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure over all repetitions.

    Attributes:
        median: the middle one.
        low: the smallest.
        high: the largest.
    """

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Cell:
    """The result of one layer in one workload.

    Attributes:
        figures: by the name of the metric; empty if the layer does not support the workload, or was wrong.
        trouble: what was wrong; None: nothing.
    """

    figures: dict[str, Figure]
    trouble: str | None = None


@dataclass
class Results:
    """The results of a benchmark.

    Attributes:
        plan: its options.
        layers: the layers that were measured.
        workloads: the names of the workloads.
        server: the servers that the layers were measured on.
        runs: every run.
    """

    plan: Plan
    layers: Sequence[Contender]
    workloads: Sequence[str]
    server: str = ""
    runs: list[Run] = field(default_factory=list[Run])

    def cell(self, workload: str, layer: str) -> Cell:
        """Return the result of a layer in a workload: medians, unless one of its runs went wrong."""
        runs = [run for run in self.runs if (run.workload, run.layer) == (workload, layer)]
        failure = next((run.failure for run in runs if run.failure is not None), None)
        faults = sum((run.faults for run in runs if run.faults), start=Faults())
        if faults:
            return Cell({}, str(faults))
        if failure is not None:
            return Cell({}, f"failed: {failure.splitlines()[-1] if failure else 'no reason given'}")
        figures: dict[str, Figure] = {}
        for metric in METRICS:
            values = [run.metrics[metric] for run in runs if metric in run.metrics]
            if values:
                figures[metric] = Figure(statistics.median(values), min(values), max(values))
        return Cell(figures)

    def ratio(self, workload: str, layer: str, base: str, metric: str) -> float | None:
        """Return the figure of a layer divided by that of the base; None if either has none."""
        ours, theirs = (self.cell(workload, name).figures.get(metric) for name in (layer, base))
        return ours.median / theirs.median if ours and theirs and theirs.median else None

    def worthless(self, workload: str, layer: str, metric: str) -> float | None:
        """Return the figure of a layer that was wrong; it only explains why a comparison means nothing."""
        values = [
            run.metrics[metric]
            for run in self.runs
            if (run.workload, run.layer) == (workload, layer) and metric in run.metrics
        ]
        return statistics.median(values) if values else None

    @property
    def troubles(self) -> list[tuple[str, str, str]]:
        """What went wrong, as tuples of workload, layer and trouble."""
        cells = [
            (work, each.name, self.cell(work, each.name).trouble) for work in self.workloads for each in self.layers
        ]
        return [(workload, layer, trouble) for workload, layer, trouble in cells if trouble is not None]


def machine() -> dict[str, object]:
    """Return what the figures depend on: processors, system, and the releases of what was measured."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
