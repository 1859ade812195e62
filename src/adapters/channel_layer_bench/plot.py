"""The results as a picture: bars side by side, on a logarithmic scale, since layers differ by orders of magnitude."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any, Protocol

from channel_layer_bench.metrics import METRICS, family, number

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from channel_layer_bench.results import Results

__all__ = ("draw",)

_COLUMNS = 3
_PANEL = (5.2, 3.2)
"""Inches."""


class _Axes(Protocol):
    """What is used of matplotlib's axes."""

    def bar(self, x: list[float], height: list[float], width: float, *, color: str) -> object: ...
    def bar_label(
        self, container: object, labels: list[str], *, fontsize: int, rotation: int, padding: int
    ) -> object: ...
    def set_yscale(self, value: str) -> None: ...
    def set_xlim(self, left: float, right: float) -> object: ...
    def set_ylim(self, bottom: float, top: float) -> object: ...
    def set_xticks(self, ticks: list[int], labels: list[str], *, fontsize: int) -> object: ...
    def set_title(self, label: str, *, fontsize: int) -> object: ...


class _Figure(Protocol):
    """What is used of matplotlib's figure."""

    def add_subplot(self, rows: int, columns: int, index: int, /) -> _Axes: ...
    def legend(self, *, handles: list[object], loc: str, ncols: int) -> object: ...
    def savefig(self, path: Path, /) -> None: ...


def draw(results: Results, path: Path) -> None:
    """Write a picture: for each family of workloads and each main figure a panel with a bar for each layer.

    The suffix of the path says in which format, such as ``.svg`` or ``.png``.
    """
    panels = _panels(results)
    columns = max(1, min(_COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    size = (_PANEL[0] * columns, _PANEL[1] * rows)
    figure: _Figure = _matplotlib("figure", "Figure")(figsize=size, layout="constrained")
    names = [layer.name for layer in results.layers]
    for place, (metric, workloads) in enumerate(panels):
        _panel(figure.add_subplot(rows, columns, place + 1), results, names, metric, workloads)
    handles = [_matplotlib("patches", "Patch")(color=f"C{index}", label=name) for index, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(names))
    figure.savefig(path)


def _panel(axes: _Axes, results: Results, names: list[str], metric: str, workloads: list[str]) -> None:
    width, shown = 0.8 / len(names), list[float]()
    for index, name in enumerate(names):
        found = [
            (at + (index - (len(names) - 1) / 2) * width, figure.median)
            for at, workload in enumerate(workloads)
            if (figure := results.cell(workload, name).figures.get(metric)) is not None and figure.median > 0
        ]
        values = [value for _, value in found]
        bars = axes.bar([where for where, _ in found], values, width, color=f"C{index}")
        axes.bar_label(bars, [number(value) for value in values], fontsize=7, rotation=90, padding=2)
        shown += values
    axes.set_yscale("log")
    # From a power of ten well below the smallest: bars from just below it would make small differences look large.
    axes.set_ylim(10.0 ** (math.floor(math.log10(min(shown, default=1.0))) - 1), max(shown, default=1.0) * 8)
    axes.set_xlim(-0.5, len(workloads) - 0.5)
    axes.set_xticks(list(range(len(workloads))), workloads, fontsize=8)
    better = "more is better" if METRICS[metric].more else "less is better"
    axes.set_title(f"{family(workloads[0])}: {METRICS[metric].title} ({better})", fontsize=9)


def _matplotlib(module: str, name: str) -> Callable[..., Any]:
    # By name: a strict type checker does not accept matplotlib's own types, of which many are unknown.
    made: Callable[..., Any] = getattr(importlib.import_module(f"matplotlib.{module}"), name)
    return made


def _panels(results: Results) -> list[tuple[str, list[str]]]:
    """Return the main figures, each with the workloads of one family that have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for workload in results.workloads:
        measured = {metric for layer in results.layers for metric in results.cell(workload, layer.name).figures}
        for metric, meaning in METRICS.items():
            if meaning.plotted and metric in measured:
                found.setdefault((family(workload), metric), []).append(workload)
    return [(metric, workloads) for (_, metric), workloads in found.items()]
