"""Bars: figures that have to be reached, read from a file, so that a claim can be checked."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from channel_layer_bench.inputs import read_bars
from channel_layer_bench.metrics import METRICS, number

if TYPE_CHECKING:
    from channel_layer_bench.inputs import BarSpec
    from channel_layer_bench.results import Results

__all__ = ("DEFAULT", "Outcome", "evaluate", "load")

DEFAULT: Final = "default"
"""The name of the bars that come with the package."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a bar.

    Attributes:
        met: whether the bar was reached; None: it was not measured.
        text: the bar and the measured figure.
    """

    met: bool | None
    text: str


def load(name: str) -> list[BarSpec]:
    """Return the bars of a file.

    Args:
        name: its path; or `DEFAULT`.

    Raises:
        OSError: it cannot be read.
        Unreadable: it does not hold bars.
    """
    resource = files("channel_layer_bench") / "bars.toml"
    return read_bars(
        resource.read_text(encoding="utf-8") if name == DEFAULT else Path(name).read_text(encoding="utf-8")
    )


def evaluate(bar: BarSpec, results: Results) -> Outcome:
    """Compare a bar with the results."""
    value, what = _measured(results, bar.workload, bar.layer, bar.metric), f"{bar.workload} {_title(bar.metric)}"
    text, note = f"{what}: {bar.layer}", "not measured"
    if bar.base is not None or bar.against is not None:
        against = bar.against
        workload = (against.workload if against else None) or bar.workload
        metric = (against.metric if against else None) or bar.metric
        layer = (against.layer if against else None) or bar.base or bar.layer
        other = _measured(results, workload, layer, metric)
        if value is not None and other is None:
            note = _no_comparison(results, workload, layer, metric, value)
        value = value / other if value is not None and other else None
        place = " in " + workload if workload != bar.workload else ""
        text += f" against {layer}{place}{' ' + _title(metric) if metric != bar.metric else ''}"
    wanted = f"at least {bar.at_least:g}" if bar.at_least is not None else f"at most {bar.at_most:g}"
    unit = " x" if bar.base is not None or bar.against is not None else ""
    if value is None:
        return Outcome(None, f"{text}: {wanted}{unit}, {note}")
    met = (bar.at_least is None or value >= bar.at_least) and (bar.at_most is None or value <= bar.at_most)
    return Outcome(met, f"{text}: {wanted}{unit}, measured {number(value)}{unit}")


def _no_comparison(results: Results, workload: str, layer: str, metric: str, value: float) -> str:
    """Return why there is no figure to compare with."""
    trouble = results.cell(workload, layer).trouble
    if trouble is None:
        return "not measured"
    worthless = results.worthless(workload, layer, metric)
    shown = f" (its worthless figure would make {number(value / worthless)} x)" if worthless else ""
    return f"moot, since {layer} was wrong: {trouble}{shown}"


def _title(metric: str) -> str:
    return METRICS[metric].title if metric in METRICS else metric


def _measured(results: Results, workload: str, layer: str, metric: str) -> float | None:
    figure = results.cell(workload, layer).figures.get(metric)
    return None if figure is None else figure.median
