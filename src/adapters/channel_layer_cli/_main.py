"""The command line: options in, work done elsewhere, tables and exit codes out."""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from channel_layer import __version__
from channel_layer_cli._config import check, genkey, schema
from channel_layer_cli.bench import bars, plot, report
from channel_layer_cli.bench.contenders import (
    BUILT_IN,
    DEFAULT,
    Contender,
    UnknownContender,
    parse_contender,
)
from channel_layer_cli.bench.inputs import Unreadable
from channel_layer_cli.bench.metrics import FAMILIES
from channel_layer_cli.bench.plan import WINDOW_MOST, Plan
from channel_layer_cli.bench.runner import count_runs, run_all
from channel_layer_cli.bench.servers import NoServer
from channel_layer_cli.bench.workloads import UnknownWorkload, choose

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from channel_layer_cli.bench.inputs import BarSpec
    from channel_layer_cli.bench.results import Results
    from channel_layer_cli.bench.workloads import Workload

__all__ = ("cli",)

_MISSED: Final = 1
"""Exit code: a bar was missed."""

_WRONG: Final = 2
"""Exit code: a layer lost, doubled or disordered a message, or came to no result."""

_PLAIN_WIDTH: Final = 200
"""Columns of a table that is not for a terminal: wide enough that a file or a log gets whole lines."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="channel-layer")
def cli() -> None:
    """Tools for channel layers."""


cli.add_command(check)
cli.add_command(genkey)
cli.add_command(schema)


@cli.command(epilog="Exit codes: 0 all is well, 1 a bar was missed, 2 a layer was wrong or the options are.")
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME[=CLASS[:JSON]]",
    help=f"Who takes part: {', '.join(BUILT_IN)}, or any class by its dotted path, with its configuration. "
    "May be repeated.",
)
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    metavar="NAME",
    help=f"What is measured: {', '.join(FAMILIES)}, fanout-MEMBERSxPROCESSES. May be repeated; default: all.",
)
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), default=3.0, show_default=True, help="How long a run sends."
)
@click.option("--repeat", type=click.IntRange(1), default=5, show_default=True, help="Runs, of which medians are made.")
@click.option("--payload", type=click.IntRange(1), default=100, show_default=True, help="Bytes of a message.")
@click.option(
    "--capacity", type=click.IntRange(1), default=100_000, show_default=True, help="Of each layer that has one."
)
@click.option("--url", "urls", multiple=True, help="A server to measure on, never flushed; default: a fresh one a run.")
@click.option("--base", help="The layer that the others are compared with; default: core, or else the first.")
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Write everything to a file."
)
@click.option(
    "--plot", "plot_file", type=click.Path(dir_okay=False, path_type=Path), help="Draw a picture, .svg or .png."
)
@click.option(
    "--assert", "bars_file", metavar="FILE", help="Check the bars of a TOML file; 'default': those of this project."
)
@click.option(
    "--loop", type=click.Choice(["asyncio", "uvloop"]), default="asyncio", show_default=True, help="What it runs on."
)
@click.option(
    "--members",
    multiple=True,
    type=click.IntRange(1),
    default=(100, 1000, 10_000),
    show_default=True,
    help="Of groups.",
)
@click.option(
    "--receivers", multiple=True, type=click.IntRange(1), default=(2, 8), show_default=True, help="Their processes."
)
@click.option(
    "--window",
    type=click.IntRange(1, WINDOW_MOST),
    default=16,
    show_default=True,
    help="Group messages that may be on their way at once.",
)
@click.option(
    "--warmup",
    type=click.FloatRange(0),
    default=1.2,
    show_default=True,
    help="Seconds that a process lives before it is measured.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds without any progress after which what is missing counts as lost.",
)
@click.option(
    "--profile",
    "profiles",
    type=click.Path(file_okay=False, exists=True, resolve_path=True),
    default=None,
    help="A folder that every process writes a profile to, for pstats; it slows them down.",
)
def bench(
    *,
    layers: tuple[str, ...],
    workloads: tuple[str, ...],
    seconds: float,
    repeat: int,
    payload: int,
    capacity: int,
    urls: tuple[str, ...],
    base: str | None,
    json_file: Path | None,
    plot_file: Path | None,
    bars_file: str | None,
    loop: str,
    members: tuple[int, ...],
    receivers: tuple[int, ...],
    window: int,
    warmup: float,
    patience: float,
    profiles: str | None,
) -> None:
    """Measure channel layers side by side, and check each run for loss, duplicates and order."""
    plan = Plan(
        seconds, repeat, payload, capacity, warmup, patience, loop, members, receivers, urls, window, profiles or ""
    )
    contenders, chosen = _contenders(layers), _workloads(workloads, plan)
    names = [contender.name for contender in contenders]
    if base is not None and base not in names:
        raise click.UsageError(f"--base {base}: takes no part; there are {', '.join(names)}")
    specs = _bars(bars_file)
    if loop == "uvloop" and importlib.util.find_spec("uvloop") is None:
        raise click.UsageError("--loop uvloop: pip install uvloop")
    if plot_file is not None:
        try:
            plot.need_plotter()
        except plot.MissingPlotter as exc:
            raise click.ClickException(str(exc)) from exc

    results = _run(plan, contenders, chosen)

    base = report.choose_base(names, base)
    console = _console(stderr=False)
    console.print(report.heading(results), soft_wrap=not console.is_terminal)
    for workload in results.workloads:
        console.print(f"\n{report.title(workload)}", style="bold")
        console.print(report.table(results, workload, base))
    if json_file is not None:
        json_file.write_text(report.as_json(results, base), encoding="utf-8")
    if plot_file is not None:
        plot.draw(results, plot_file)
    missed = _judge(specs, results, console)
    wrong = _accuse(results)
    sys.exit(_WRONG if wrong else _MISSED if missed else 0)


def _contenders(names: Sequence[str]) -> list[Contender]:
    try:
        found = [parse_contender(name) for name in names]
    except UnknownContender as exc:
        raise click.BadParameter(str(exc), param_hint="--layer") from exc
    if not found:
        known = [BUILT_IN[name] for name in DEFAULT]
        for contender in known:
            if (missing := contender.missing()) is not None:
                click.echo(f"left out: {missing}", err=True)
        found = [contender for contender in known if contender.missing() is None]
    for contender in found:
        if (missing := contender.missing()) is not None:
            raise click.ClickException(missing)
    if len({contender.name for contender in found}) < len(found):
        raise click.BadParameter("a name is given twice", param_hint="--layer")
    if not found:
        raise click.ClickException('there is nothing to measure: pip install "channel-layer[redis]"')
    return found


def _workloads(names: Sequence[str], plan: Plan) -> list[Workload]:
    try:
        return choose(names, plan)
    except UnknownWorkload as exc:
        raise click.BadParameter(str(exc), param_hint="--workload") from exc


def _bars(name: str | None) -> list[BarSpec]:
    if name is None:
        return []
    try:
        return bars.load(name)
    except (OSError, Unreadable) as exc:
        raise click.BadParameter(str(exc), param_hint="--assert") from exc


def _run(plan: Plan, contenders: Sequence[Contender], workloads: Sequence[Workload]) -> Results:
    # An end by SIGTERM is as orderly as one by Ctrl-C: processes and servers end before we do.
    signal.signal(signal.SIGTERM, _terminate)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    # Drawn seldom: whatever this process does, it takes from those that are measured.
    with Progress(*columns, console=_console(stderr=True), transient=True, refresh_per_second=2) as progress:
        task = progress.add_task("", total=count_runs(plan, contenders, workloads), start=True)
        begun = False

        def tell(workload: str, layer: str) -> None:
            nonlocal begun
            progress.update(task, advance=int(begun), description=f"{workload} · {layer}")
            begun = True

        try:
            return asyncio.run(run_all(plan, contenders, workloads, tell))
        except NoServer as exc:
            raise click.ClickException(str(exc)) from exc


def _terminate(number: int, frame: FrameType | None) -> None:
    del number, frame
    signal.raise_signal(signal.SIGINT)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=_PLAIN_WIDTH)


def _judge(specs: Sequence[BarSpec], results: Results, console: Console) -> bool:
    """Print what became of each bar; return whether one was missed, or not a single one measured."""
    verdicts = [bars.judge(spec, results) for spec in specs]
    if verdicts:
        console.print()
    for verdict in verdicts:
        word, style = {True: ("met   ", "green"), False: ("MISSED", "bold red"), None: ("-     ", "dim")}[verdict.met]
        console.print(f"{word}  {verdict.text}", style=style, soft_wrap=True, markup=False)
    return any(verdict.met is False for verdict in verdicts) or (
        bool(verdicts) and all(verdict.met is None for verdict in verdicts)
    )


def _accuse(results: Results) -> bool:
    """Say loudly who was wrong; return whether anybody was."""
    for workload, layer, trouble in results.troubles:
        click.secho(f"WRONG: {layer} in {workload}: {trouble}", err=True, fg="red", bold=True)
    for run in results.runs:
        if run.failure is not None:
            click.echo(f"\n{run.layer} in {run.workload}, run {run.turn + 1}:\n{run.failure}", err=True)
    return bool(results.troubles)
