"""What the benchmark makes of its runs: medians, ratios, bars, tables and JSON; and nothing of a run that was wrong."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from channel_layer_bench import bars, report
from channel_layer_bench.contenders import BUILT_IN
from channel_layer_bench.context import padding
from channel_layer_bench.faults import Faults
from channel_layer_bench.metrics import METRICS, number, percentile
from channel_layer_bench.plan import Plan
from channel_layer_bench.results import Figure, Results, Run
from channel_layer_bench.workloads import UnknownWorkload, choose

_RATE = "messages_per_second"


def _results(
    rates: dict[str, Sequence[float]], faults: dict[str, Faults] | None = None, *, workload: str = "direct"
) -> Results:
    """Results of one workload: a rate for each repetition, and what went wrong in the last one."""
    runs = [
        Run(
            workload,
            layer,
            turn,
            {_RATE: value},
            (faults or {}).get(layer, Faults(10)) if turn == len(values) - 1 else Faults(10),
        )
        for layer, values in rates.items()
        for turn, value in enumerate(values)
    ]
    return Results(Plan(), [BUILT_IN[name] for name in rates], [workload], "Redis 7", runs)


def _rendered(results: Results, base: str) -> str:
    output = io.StringIO()
    Console(file=output, width=200).print(report.table(results, results.workloads[0], base))
    return output.getvalue()


# --- medians and ratios


def test_a_cell_has_the_median_and_the_spread() -> None:
    """The middle of all repetitions is shown, with the smallest and the largest."""
    results = _results({"redis": [30.0, 10.0, 20.0]})
    assert results.cell("direct", "redis").figures == {_RATE: Figure(20.0, 10.0, 30.0)}


def test_a_ratio_is_of_medians() -> None:
    """A layer is compared with the base by the medians; where either has none, there is no ratio."""
    results = _results({"redis": [30.0, 40.0, 50.0], "core": [4.0, 2.0, 1.0], "pubsub": []})
    assert results.ratio("direct", "redis", "core", _RATE) == 20.0
    assert results.ratio("direct", "redis", "pubsub", _RATE) is None
    assert results.ratio("latency", "redis", "core", _RATE) is None


def test_one_wrong_run_costs_all_figures() -> None:
    """A layer that was wrong once has no figure in this workload, whatever its other runs brought."""
    results = _results({"redis": [9.0, 9.0], "core": [1.0, 1.0]}, {"redis": Faults(10, lost=2)})
    cell = results.cell("direct", "redis")
    assert (cell.figures, cell.trouble) == ({}, "lost 2 of 10")
    assert results.ratio("direct", "redis", "core", _RATE) is None
    assert results.troubles == [("direct", "redis", "lost 2 of 10")]
    assert results.cell("direct", "core").trouble is None


def test_a_run_without_a_result_is_trouble_too() -> None:
    """A layer that fails is accused with the last line of its error."""
    results = _results({"redis": []})
    results.runs.append(Run("direct", "redis", 0, {}, Faults(), "Traceback\nOSError: away"))
    assert results.troubles == [("direct", "redis", "failed: OSError: away")]


# --- tables and JSON


def test_the_table_shows_medians_spread_and_ratio() -> None:
    """One row for each layer; the base has no ratio."""
    text = _rendered(_results({"redis": [30_000.0, 40_000.0], "core": [1000.0, 1000.0]}), "core")
    assert "35 000 (30 000..40 000)" in text
    assert "35.0 x" in text
    assert text.count(" x ") == 1


def test_the_table_shows_trouble_in_place_of_figures() -> None:
    """Of a layer that was wrong the table says what it did, and none of its figures."""
    text = _rendered(_results({"redis": [777.0], "core": [111.0]}, {"redis": Faults(9000, lost=12)}), "core")
    assert "lost 12 of 9000" in text
    assert "777" not in text
    assert "111" in text


def test_the_table_shows_a_dash_for_what_a_layer_has_not() -> None:
    """A layer that takes no part in a workload has a row without figures."""
    assert " - " in _rendered(_results({"redis": [777.0], "pubsub": []}), "redis")


def test_the_heading_says_what_was_measured_how() -> None:
    """Server, payload, capacity, and the window of the fan-out are printed with the figures."""
    text = report.heading(_results({"redis": [1.0]}, workload="fanout-100x2"))
    for part in ("Redis 7", "100 bytes", "capacity 100000", "with 16 messages on their way", "5 runs"):
        assert part in text


def test_json_has_everything() -> None:
    """Machine, releases, options, every run and the medians can be read by a program."""
    results = _results({"redis": [20.0, 30.0], "core": [5.0, 5.0]}, {"core": Faults(10, doubled=1)})
    document = json.loads(report.as_json(results, "core"))
    assert document.keys() == {"machine", "server", "plan", "layers", "base", "summary", "runs"}
    assert document["machine"]["packages"]["channel-layer"]
    assert document["plan"]["capacity"] == 100_000
    assert document["plan"]["payload"] == 100
    assert document["plan"]["window"] == 16
    assert len(document["runs"]) == 4
    ours, theirs = document["summary"]
    assert ours["metrics"][_RATE] == {"median": 25.0, "low": 20.0, "high": 30.0, "ratio": None}
    assert (theirs["metrics"], theirs["trouble"]) == ({}, "doubled 1 of 10")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05049, "0.0505"), (1.004, "1.00"), (12.34, "12.3"), (123.4, "123"), (1234567.8, "1 234 568")],
)
def test_figures_are_short(value: float, text: str) -> None:
    """Three significant digits, or whole numbers."""
    assert number(value) == text


# --- bars


def _bar(line: str) -> str:
    return f'[[bar]]\nworkload = "direct"\nmetric = "{_RATE}"\nlayer = "redis"\n{line}\n'


@pytest.mark.parametrize(
    ("line", "met"),
    [
        ("at_least = 100", True),
        ("at_least = 101", False),
        ("at_most = 100", True),
        ("at_most = 99", False),
        ('base = "core"\nat_least = 25', True),
        ('base = "core"\nat_least = 26', False),
        ('against = { layer = "core" }\nat_most = 24.9', False),
        ('base = "pubsub"\nat_least = 1', None),
        ('against = { workload = "latency" }\nat_least = 1', None),
    ],
)
def test_a_bar_is_met_or_missed_or_not_measured(line: str, met: bool | None) -> None:  # noqa: FBT001 - the verdict
    """Absolute bars and ratios are judged by medians; a bar that nobody ran for is neither met nor missed."""
    results = _results({"redis": [100.0], "core": [4.0]})
    [spec] = bars.read(_bar(line))
    assert bars.evaluate(spec, results).met is met


def test_a_bar_against_another_workload_of_the_same_layer() -> None:
    """Ours at 10 000 members can be held against ours at 100."""
    results = _results({"redis": [100.0]})
    results.workloads = ["direct", "latency"]
    results.runs.append(Run("latency", "redis", 0, {_RATE: 50.0}, Faults()))
    [spec] = bars.read(_bar('against = { workload = "latency" }\nat_most = 1.9'))
    outcome = bars.evaluate(spec, results)
    assert outcome.met is False
    assert "measured 2.00 x" in outcome.text


def test_a_bar_against_a_wrong_layer_is_moot() -> None:
    """A wrong layer scores nothing, not even as a base; what its figure would make is said beside it."""
    results = _results({"redis": [100.0], "core": [5.0]}, {"core": Faults(350, doubled=241)})
    [spec] = bars.read(_bar('base = "core"\nat_least = 10'))
    outcome = bars.evaluate(spec, results)
    assert outcome.met is None
    assert "doubled 241 of 350" in outcome.text
    assert "20.0 x" in outcome.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bar = 1",
        "[[bar",
        _bar(""),
        _bar("at_least = 1\nat_most = 2"),
        _bar('base = "core"\nagainst = { layer = "core" }\nat_least = 1'),
        _bar("at_leest = 1"),
    ],
    ids=["empty", "no list", "no TOML", "no limit", "two limits", "two bases", "a slip"],
)
def test_a_wrong_file_of_bars_is_refused(text: str) -> None:
    """A bar that would check nothing is an error, not a bar that is always met."""
    with pytest.raises(bars.Unreadable):
        bars.read(text)


def test_the_bars_of_the_package_are_about_what_there_is() -> None:
    """Each names workloads, metrics and layers that the benchmark knows."""
    plan = Plan()
    workloads = {workload.name for workload in choose([], plan)}
    specs = bars.load(bars.DEFAULT)
    assert specs
    for spec in specs:
        against = spec.against
        assert {spec.workload, (against and against.workload) or spec.workload} <= workloads
        assert spec.metric in METRICS
        assert {spec.layer, spec.base or spec.layer} <= BUILT_IN.keys()


def test_bars_are_read_from_a_file(tmp_path: Path) -> None:
    """A path names bars of one's own."""
    file = tmp_path / "bars.toml"
    file.write_text(_bar("at_least = 1"), encoding="utf-8")
    [spec] = bars.load(str(file))
    assert spec.at_least == 1


# --- workloads


def test_all_workloads_are_run_unless_some_are_named() -> None:
    """The fan-out has a workload for each size of the group and number of processes."""
    plan = Plan(members=(100, 1000), receivers=(2, 8))
    names = [workload.name for workload in choose([], plan)]
    assert names[:4] == ["direct", "latency", "fanout-100x2", "fanout-100x8"]
    assert len(names) == 9 + 4
    assert [workload.name for workload in choose(["fanout-7x3", "direct"], plan)] == ["direct", "fanout-7x3"]


@pytest.mark.parametrize("name", ["nonsense", "fanout-2x3", "fanout-0x0", "fanout-", "direct-"])
def test_a_workload_that_is_not_there_is_refused(name: str) -> None:
    """A slip in a name is an error, and so is a process without a member."""
    with pytest.raises(UnknownWorkload):
        choose([name], Plan())


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.0, 1)])
def test_percentiles(share: float, value: int) -> None:
    """The smallest value that is not below so many."""
    assert percentile(range(100, 0, -1), share) == value


def test_a_percentile_of_nothing_is_no_number() -> None:
    """It is not 0, which would be a splendid latency."""
    assert math.isnan(percentile([], 0.5))


def test_padding_makes_a_message_as_long_as_was_asked() -> None:
    """The packed message has the bytes of the payload, give or take those of the numbers in it."""
    msgpack = pytest.importorskip("msgpack")
    for payload in (100, 1000):
        text = padding(payload, n=100_000)
        packed = msgpack.packb({"type": "bench.message", "n": 100_000, "text": text})
        assert abs(len(packed) - payload) <= 2
