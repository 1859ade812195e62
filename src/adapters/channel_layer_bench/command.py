"""The command `channel-layer bench`: options in, tables and an exit code out.

Everything that can be wrong with the options is found before anything runs, since a benchmark takes minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib.util
import math
import signal
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from channel_layer_bench import bars, plot, report
from channel_layer_bench.contenders import BUILT_IN, DEFAULT, Contender, UnknownContender, parse_contender
from channel_layer_bench.metrics import FAMILIES, family
from channel_layer_bench.plan import WINDOW_MOST, Plan
from channel_layer_bench.runner import run_all
from channel_layer_bench.servers import NoServer
from channel_layer_bench.workloads import UnknownWorkload, choose

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from channel_layer_bench.bars import Bar
    from channel_layer_bench.results import Results
    from channel_layer_bench.workloads import Workload

__all__ = ("Request", "parse", "run")

_N = TypeVar("_N", int, float)
_T = TypeVar("_T")

_PROGRAM: Final = "channel-layer bench"

_MISSED: Final = 1
"""Exit code: a bar was missed."""

_FAILED: Final = 1
"""Exit code: nothing could be run."""

_WRONG: Final = 2
"""Exit code: a layer lost, doubled or disordered a message, or came to no result."""

_PLAIN_WIDTH: Final = 200
"""Columns of a table that is not for a terminal: wide enough that a file or a log gets whole lines."""

_HELP_WIDTH: Final = 80


@dataclass(frozen=True, slots=True)
class Request:
    """What a benchmark is to do.

    Attributes:
        plan: the options of each run.
        contenders: the layers to measure; all are installed.
        workloads: what to measure.
        base: the layer to compare the others with.
        bars: what to check.
        json_file: where to write everything; None: nowhere.
        plot_file: where to draw the medians; None: nowhere.
    """

    plan: Plan
    contenders: Sequence[Contender]
    workloads: Sequence[Workload]
    base: str
    bars: Sequence[Bar]
    json_file: Path | None
    plot_file: Path | None


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        arguments: the words behind ``bench``.

    Raises:
        SystemExit: see `parse`.
    """
    request = parse(arguments)
    try:
        results = _measure(request)
    except NoServer as exc:
        return _fail(str(exc))
    console = _console(stderr=False)
    console.print(report.heading(results), soft_wrap=not console.is_terminal)
    for workload in results.workloads:
        console.print(f"\n{workload}: {FAMILIES[family(workload)]}", style="bold")
        console.print(report.table(results, workload, request.base))
    if request.json_file is not None:
        request.json_file.write_text(report.as_json(results, request.base), encoding="utf-8")
    if request.plot_file is not None:
        plot.draw(results, request.plot_file)
    missed = _check_bars(request.bars, results, console)
    wrong = _report_troubles(results)
    return _WRONG if wrong else _MISSED if missed else 0


def _fail(problem: str) -> int:
    print(f"{_PROGRAM}: error: {problem}", file=sys.stderr)
    return _FAILED


# -- options in ----------------------------------------------------------------------------------------------


class _Options(argparse.Namespace):
    """What the command line said, beside the fields of a `Plan`."""

    contenders: list[Contender] | None = None
    workloads: list[str] | None = None
    base: str | None = None
    bars: Sequence[Bar] = ()
    json_file: Path | None = None
    plot_file: Path | None = None


def parse(arguments: Sequence[str]) -> Request:
    """Return what the options ask for.

    Args:
        arguments: the words behind ``bench``.

    Raises:
        SystemExit: an option is wrong (code 2), or a layer that it names is not installed (code 1). Standard error
            says what to do.
    """
    parser = _parser()
    options = parser.parse_args(arguments, _Options())
    fields = {field.name for field in dataclasses.fields(Plan)}
    plan = Plan(**{name: value for name, value in vars(options).items() if name in fields})
    contenders = options.contenders or _installed_by_default()
    names = [contender.name for contender in contenders]
    try:
        workloads = choose(options.workloads or (), plan)
    except UnknownWorkload as exc:
        parser.error(f"argument --workload: {exc}")
    if len(set(names)) < len(names):
        parser.error("argument --layer: a name is given twice")
    if options.base is not None and options.base not in names:
        parser.error(f"argument --base: {options.base} takes no part; there are {', '.join(names)}")
    if plan.loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        parser.error("argument --loop: uvloop is not installed: pip install uvloop")
    missing = [problem for contender in contenders if (problem := contender.missing()) is not None]
    if missing or not contenders:
        sys.exit(_fail("; ".join(missing) or 'there is nothing to measure: pip install "channel-layer[redis]"'))
    base = options.base or ("core" if "core" in names else names[0])
    return Request(plan, contenders, workloads, base, options.bars, options.json_file, options.plot_file)


def _installed_by_default() -> list[Contender]:
    """Return the default layers that are installed, and name the others on standard error."""
    known = [(BUILT_IN[name], BUILT_IN[name].missing()) for name in DEFAULT]
    for _, missing in known:
        if missing is not None:
            print(f"left out: {missing}", file=sys.stderr)
    return [contender for contender, missing in known if missing is None]


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Adds the default of each option that has one, and keeps the paragraphs at the end."""


def _parser() -> argparse.ArgumentParser:
    paragraphs = (
        f"Layers: {', '.join(BUILT_IN)}.",
        f"Workloads: {', '.join(FAMILIES)}, fanout-MEMBERSxPROCESSES.",
        "Exit codes: 0 all is well, 1 a bar was missed or nothing could be run, 2 a layer was wrong or an option is.",
    )
    parser = argparse.ArgumentParser(
        _PROGRAM,
        usage="%(prog)s [OPTIONS]",
        description="Measure channel layers side by side, and check each run for loss, duplicates and order.",
        epilog="\n\n".join(textwrap.fill(text, _HELP_WIDTH, break_on_hyphens=False) for text in paragraphs),
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    count = _number(int, lambda number: number >= 1, "a whole number, 1 or more")
    window = _number(int, lambda number: 1 <= number <= WINDOW_MOST, f"a whole number from 1 to {WINDOW_MOST}")
    seconds = _number(float, lambda number: 0 < number < math.inf, "a number of seconds above 0")
    pause = _number(float, lambda number: 0 <= number < math.inf, "a number of seconds, 0 or more")
    plan, option = Plan(), parser.add_argument
    option(
        "--layer",
        dest="contenders",
        action="append",
        type=_reading(parse_contender),
        metavar="NAME[=CLASS[:JSON]]",
        help="A layer to measure: one of those below, or any class by its dotted path, with its configuration. "
        f"May be repeated (default: {', '.join(DEFAULT)}).",
    )
    option(
        "--workload",
        dest="workloads",
        action="append",
        metavar="NAME",
        help="What to measure: one of those below. May be repeated (default: all).",
    )
    option("--seconds", type=seconds, default=plan.seconds, metavar="SECONDS", help="How long a run sends")
    option("--repeat", type=count, default=plan.repeat, metavar="RUNS", help="Runs, of which medians are made")
    option("--payload", type=count, default=plan.payload, metavar="BYTES", help="Bytes of a message")
    option("--capacity", type=count, default=plan.capacity, metavar="MESSAGES", help="Of each layer that has one")
    option(
        "--url",
        dest="urls",
        action="append",
        metavar="URL",
        help="A server to measure on, never flushed. May be repeated (default: a fresh one for each run).",
    )
    option("--base", metavar="NAME", help="The layer that the others are compared with (default: core, or the first).")
    option("--json", dest="json_file", type=_file, metavar="FILE", help="Write everything to a file.")
    option("--plot", dest="plot_file", type=_file, metavar="FILE", help="Draw a picture, .svg or .png.")
    option(
        "--assert",
        dest="bars",
        type=_reading(bars.load),
        metavar="FILE",
        help="Check the bars of a TOML file; 'default': those of this project.",
    )
    option("--loop", choices=("asyncio", "uvloop"), default=plan.loop, help="The event loop to run on")
    option(
        "--members",
        action="append",
        type=count,
        metavar="MEMBERS",
        help=f"Of a group. May be repeated (default: {', '.join(map(str, plan.members))}).",
    )
    option(
        "--receivers",
        action="append",
        type=count,
        metavar="PROCESSES",
        help=f"Processes that the members live in. May be repeated (default: {', '.join(map(str, plan.receivers))}).",
    )
    option(
        "--window",
        type=window,
        default=plan.window,
        metavar="MESSAGES",
        help=f"Group messages that may be on their way at once, {WINDOW_MOST} at most",
    )
    option(
        "--warmup",
        type=pause,
        default=plan.warmup,
        metavar="SECONDS",
        help="How long a process lives before it is measured",
    )
    option(
        "--patience",
        type=seconds,
        default=plan.patience,
        metavar="SECONDS",
        help="How long nothing may progress before what is missing counts as lost",
    )
    option(
        "--profile",
        dest="profiles",
        type=_folder,
        metavar="FOLDER",
        help="Where every process writes a profile for pstats; it slows them down.",
    )
    return parser


def _number(kind: Callable[[str], _N], allowed: Callable[[_N], bool], wanted: str) -> Callable[[str], _N]:
    """Return what reads an option that is a number, and refuses the numbers that are not allowed."""

    def read(text: str) -> _N:
        with contextlib.suppress(ValueError):
            if allowed(number := kind(text)):
                return number
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return read


def _reading(make: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return what reads an option by a function whose errors say what is wrong with the text."""

    def read(text: str) -> _T:
        try:
            return make(text)
        except (OSError, UnknownContender, bars.Unreadable) as exc:
            raise argparse.ArgumentTypeError(str(exc)) from exc

    return read


def _file(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a folder, not a file")
    return path


def _folder(text: str) -> str:
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return str(path.resolve())


# -- runs ----------------------------------------------------------------------------------------------------


def _measure(request: Request) -> Results:
    # An end by SIGTERM is as orderly as one by Ctrl-C: processes and servers end before this process does.
    signal.signal(signal.SIGTERM, _terminate)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Drawn seldom: the processor time of this process is missing from those that are measured.
    with Progress(*columns, console=_console(stderr=True), transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("", total=None)

        def on_run(workload: str, layer: str, place: int, total: int) -> None:
            progress.update(task, completed=place, total=total, description=f"{workload} · {layer}")

        return asyncio.run(run_all(request.plan, request.contenders, request.workloads, on_run))


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.raise_signal(signal.SIGINT)


# -- results out ---------------------------------------------------------------------------------------------


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)


def _check_bars(specs: Sequence[Bar], results: Results, console: Console) -> bool:
    """Print what became of each bar; return whether one was missed, or not a single one measured."""
    outcomes = [bars.evaluate(spec, results) for spec in specs]
    if outcomes:
        console.print()
    for outcome in outcomes:
        word, style = {True: ("met   ", "green"), False: ("MISSED", "bold red"), None: ("-     ", "dim")}[outcome.met]
        console.print(f"{word}  {outcome.text}", style=style, soft_wrap=True, markup=False)
    return any(outcome.met is False for outcome in outcomes) or (
        bool(outcomes) and all(outcome.met is None for outcome in outcomes)
    )


def _report_troubles(results: Results) -> bool:
    """Print which layers were wrong to standard error; return whether any was."""
    console = _console(stderr=True)
    for workload, layer, trouble in results.troubles:
        console.print(f"WRONG: {layer} in {workload}: {trouble}", style="bold red", soft_wrap=True, markup=False)
    for run in results.runs:
        if run.failure is not None:
            print(f"\n{run.layer} in {run.workload}, run {run.turn + 1}:\n{run.failure}", file=sys.stderr)
    return bool(results.troubles)
