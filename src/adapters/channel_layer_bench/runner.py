"""Runs every workload with every layer: the layers in turns, each run in fresh processes.

In turns, because a machine is never equally fast for long: what slows it down for a minute slows all layers down.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING

from channel_layer_bench.coordinator import Coordinator, RunFailed
from channel_layer_bench.faults import Faults
from channel_layer_bench.metrics import family
from channel_layer_bench.results import Results, Run
from channel_layer_bench.servers import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from channel_layer_bench.contenders import Contender
    from channel_layer_bench.plan import Plan
    from channel_layer_bench.workloads import Workload

__all__ = ("run_all",)


async def run_all(
    plan: Plan,
    layers: Sequence[Contender],
    workloads: Sequence[Workload],
    on_run: Callable[[str, str, int, int], object],
) -> Results:
    """Run everything.

    Args:
        plan: the options.
        layers: what to measure.
        workloads: what to measure them in.
        on_run: called before each run with the names of the workload and the layer, how many runs are over, and how
            many there are.

    Raises:
        NoServer: there is no server to measure on.
    """
    results = Results(plan, layers, [workload.name for workload in workloads])
    wrong: set[tuple[str, str]] = set()
    runs = [
        (workload, turn, layer)
        for workload in workloads
        for turn in range(plan.repeat)
        for layer in layers
        if family(workload.name) not in layer.lacks
    ]
    for place, (workload, turn, layer) in enumerate(runs):
        on_run(workload.name, layer.name, place, len(runs))
        if (workload.name, layer.name) in wrong:
            continue  # it was wrong already, and the next run may wait for lost messages, too
        run = await _run(plan, layer, workload, turn, results)
        results.runs.append(run)
        if run.faults or run.failure is not None:
            wrong.add((workload.name, layer.name))
    return results


async def _run(plan: Plan, layer: Contender, workload: Workload, turn: int, results: Results) -> Run:
    with serve(layer.hosts, plan.urls, layer.topology) as servers:
        if servers.urls and not results.server:
            results.server = servers.describe()
        prefix = f"bench-{secrets.token_hex(5)}:"
        try:
            async with Coordinator(layer, servers, plan, prefix, f"{workload.name}-{layer.name}-{turn}") as coordinator:
                sample = await coordinator.run(workload.run)
        except RunFailed as exc:
            return Run(workload.name, layer.name, turn, {}, Faults(), str(exc))
    metrics = {name: value for name, value in sample.metrics.items() if math.isfinite(value)}
    return Run(workload.name, layer.name, turn, metrics, sample.faults)
