"""Bars: figures that have to be reached, read from a file, so that a claim can be checked.

Only this module of the package uses Pydantic.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, Field, ValidationError

from channel_layer_bench.metrics import METRICS, number

if TYPE_CHECKING:
    from channel_layer_bench.results import Results

__all__ = ("DEFAULT", "Bar", "Outcome", "Unreadable", "evaluate", "load", "read")

DEFAULT: Final = "default"
"""The name of the bars that come with the package."""


class Unreadable(ValueError):
    """A text holds no bars; the message says where."""


class _Against(BaseModel, frozen=True, extra="forbid"):
    """The figure that a bar compares with; a field that is not given is that of the bar."""

    workload: str | None = None
    metric: str | None = None
    layer: str | None = None


class Bar(BaseModel, frozen=True, extra="forbid"):
    """One bar of a file."""

    workload: str
    metric: str
    layer: str
    base: str | None = None
    against: _Against | None = None
    at_least: float | None = None
    at_most: float | None = None


class _File(BaseModel, frozen=True, extra="forbid"):
    """A file of bars."""

    bar: list[Bar] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a bar.

    Attributes:
        met: whether the bar was reached; None: it was not measured.
        text: the bar and the measured figure.
    """

    met: bool | None
    text: str


def load(name: str) -> list[Bar]:
    """Return the bars of a file.

    Args:
        name: its path; or `DEFAULT`.

    Raises:
        OSError: it cannot be read.
        Unreadable: it does not hold bars.
    """
    path = files("channel_layer_bench") / "bars.toml" if name == DEFAULT else Path(name)
    return read(path.read_text(encoding="utf-8"))


def read(text: str) -> list[Bar]:
    """Return the bars of a TOML text.

    Raises:
        Unreadable: it is no TOML, or does not hold bars.
    """
    try:
        bars = _File.model_validate(tomllib.loads(text)).bar
    except tomllib.TOMLDecodeError as exc:
        raise Unreadable(str(exc)) from exc
    except ValidationError as exc:
        problems = (f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in exc.errors())
        raise Unreadable("; ".join(problems)) from exc
    for bar in bars:
        if (bar.at_least is None) == (bar.at_most is None):
            raise Unreadable(f"the bar for {bar.metric} of {bar.layer}: give at_least or at_most, one of them")
        if bar.base is not None and bar.against is not None:
            raise Unreadable(f"the bar for {bar.metric} of {bar.layer}: base and against exclude each other")
    return bars


def evaluate(bar: Bar, results: Results) -> Outcome:
    """Compare a bar with the results."""
    value = _measured(results, bar.workload, bar.layer, bar.metric)
    text, unit, note = f"{bar.workload} {_title(bar.metric)}: {bar.layer}", "", "not measured"
    if bar.base is not None or bar.against is not None:
        against = bar.against or _Against(layer=bar.base)
        workload, metric = against.workload or bar.workload, against.metric or bar.metric
        layer = against.layer or bar.layer
        other = _measured(results, workload, layer, metric)
        if value is not None and other is None:
            note = _no_comparison(results, workload, layer, metric, value)
        value = value / other if value is not None and other else None
        place = " in " + workload if workload != bar.workload else ""
        text += f" against {layer}{place}{' ' + _title(metric) if metric != bar.metric else ''}"
        unit = " x"
    wanted = f"at least {bar.at_least:g}" if bar.at_least is not None else f"at most {bar.at_most:g}"
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
