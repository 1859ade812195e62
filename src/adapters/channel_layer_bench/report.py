"""The results as tables and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from channel_layer_bench.metrics import METRICS, family, number
from channel_layer_bench.results import machine

if TYPE_CHECKING:
    from channel_layer_bench.results import Cell, Results

__all__ = ("as_json", "heading", "table")


def heading(results: Results) -> str:
    """Return one paragraph about the conditions of the measurement."""
    plan, facts = results.plan, machine()
    fanout = any(family(workload) == "fanout" for workload in results.workloads)
    server = results.server or "no server"
    return (
        f"{facts['processors']} x {facts['processor']}, {facts['python']}, {plan.loop}, {server}. "
        f"Each run sends for {plan.seconds:g} s; {plan.repeat} runs each, in turns. Messages of {plan.payload} bytes, "
        f"capacity {plan.capacity} where a layer has one."
        + (f" Fan-out is closed loop, with {plan.window} messages on their way at once." if fanout else "")
    )


def table(results: Results, workload: str, base: str) -> Table:
    """Return the table of one workload, where *base* is the layer that the others are compared with."""
    cells = {layer.name: results.cell(workload, layer.name) for layer in results.layers}
    metrics = [name for name in METRICS if any(name in cell.figures for cell in cells.values())]
    made = Table()
    made.add_column("layer", no_wrap=True)
    for metric in metrics or ["messages_per_second"]:
        made.add_column(METRICS[metric].title, justify="right")
    for layer, cell in cells.items():
        made.add_row(layer, *_row(results, workload, layer, base, cell, metrics))
    return made


def _row(results: Results, workload: str, layer: str, base: str, cell: Cell, metrics: list[str]) -> list[Text | str]:
    if cell.trouble is not None:
        return [Text(cell.trouble, style="bold red")]
    row: list[Text | str] = []
    for metric in metrics:
        figure = cell.figures.get(metric)
        if figure is None:
            row.append("-")
            continue
        text = Text(number(figure.median), style="bold")
        if figure.low != figure.high:
            text.append(f" ({number(figure.low)}..{number(figure.high)})", style="not bold dim")
        ratio = results.ratio(workload, layer, base, metric)
        if layer != base and ratio is not None and METRICS[metric].compared:
            text.append(
                f"\n{number(ratio)} x", style="not bold green" if (ratio > 1) == METRICS[metric].more else "not bold"
            )
        row.append(text)
    return row or ["-"]


def as_json(results: Results, base: str) -> str:
    """Return everything: options, machine, every run, and medians with ratios to those of *base*."""
    summary = [
        {
            "workload": workload,
            "layer": layer.name,
            "trouble": cell.trouble,
            "metrics": {
                metric: {
                    **dataclasses.asdict(figure),
                    "ratio": results.ratio(workload, layer.name, base, metric),
                }
                for metric, figure in cell.figures.items()
            },
        }
        for workload in results.workloads
        for layer in results.layers
        for cell in [results.cell(workload, layer.name)]
    ]
    document = {
        "machine": machine(),
        "server": results.server,
        "plan": dataclasses.asdict(results.plan),
        "layers": [
            {"name": layer.name, "backend": layer.backend, "config": dict(layer.config), "hosts": layer.hosts}
            for layer in results.layers
        ],
        "base": base,
        "summary": summary,
        "runs": [dataclasses.asdict(run) for run in results.runs],
    }
    return json.dumps(document, indent=2) + "\n"
