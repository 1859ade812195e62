"""`channel-layer bench` from end to end: real processes, real servers, right and wrong layers. No time is asserted."""

from __future__ import annotations

import json
import os
import pstats
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from tests.support import reaper
from tests.support.processes import wait_for_end
from tests.support.servers import Server

_ROOT = Path(__file__).parents[2]

_QUICK = ["--seconds", "0.15", "--repeat", "1", "--warmup", "0.05"]

_METRICS = {
    "direct": {"messages_per_second", "client_cpu_us", "refused"},
    "latency": {"p50_ms", "p99_ms"},
    "fanout-10x2": {"deliveries_per_second", "group_send_ms", "group_send_alone_ms", "p99_ms", "client_cpu_us"},
    "worker": {"messages_per_second", "client_cpu_us", "refused"},
    "sync": {"calls_per_second", "empty_calls_per_second", "of_empty"},
    "churn": {"cycles_per_second", "client_cpu_us"},
    "large": {"megabytes_per_second", "client_cpu_us", "refused"},
}
"""What each workload measures of every layer."""

_OF_SERVERS = {
    "latency": set[str](),
    "sync": {"connections_per_call"},
}
"""What it measures of one with a server besides; the others: the server's processor time."""


class _Entry(BaseModel):
    workload: str
    layer: str
    trouble: str | None
    metrics: dict[str, dict[str, float | None]]


class _Document(BaseModel):
    server: str
    summary: list[_Entry]

    def entry(self, workload: str, layer: str) -> _Entry:
        """The entry of a layer in a workload."""
        [found] = [each for each in self.summary if (each.workload, each.layer) == (workload, layer)]
        return found


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "channel_layer_cli", "bench", *arguments]
    return subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=200, check=False)


def _chosen(*workloads: str) -> list[str]:
    return [word for workload in workloads for word in ("--workload", workload)]


def test_every_layer_is_measured_in_every_workload(tmp_path: Path) -> None:
    """Our layers pass every message once and in order, and each figure of each workload is there, peers' too."""
    file = tmp_path / "results.json"
    layers = ["redis", "memory", "core", "pubsub"]
    chosen = [word for layer in layers for word in ("--layer", layer)]
    done = _bench(*_QUICK, *chosen, *_chosen(*_METRICS), "--json", str(file))
    assert file.exists(), done.stderr
    document = _Document.model_validate_json(file.read_text(encoding="utf-8"))
    troubled: list[_Entry] = []
    for workload, metrics in _METRICS.items():
        for layer in layers:
            entry = document.entry(workload, layer)
            if entry.trouble is not None:
                troubled.append(entry)
            elif (workload, layer) == ("worker", "pubsub"):
                assert entry.metrics == {}  # it has no queues
            else:
                served = set[str]() if layer == "memory" else _OF_SERVERS.get(workload, {"server_cpu_us"})
                assert entry.metrics.keys() == metrics | served, (workload, layer)
    # A peer may be wrong, and it is the benchmark's task to say so: channels_redis.core gives jobs to several workers.
    assert not [entry for entry in troubled if entry.layer in ("redis", "memory")], done.stderr
    assert not [entry for entry in troubled if (entry.trouble or "").startswith("failed")], done.stderr
    assert done.returncode == (2 if troubled else 0), done.stderr
    assert all(workload in done.stdout for workload in _METRICS)
    assert document.server


@pytest.mark.parametrize("layer", ["redis-sentinel", "redis-cluster"])
def test_what_servers_are_put_together_to_is_measured(tmp_path: Path, layer: str) -> None:
    """The benchmark starts what such a layer needs, and one that is wrong there would be named."""
    file = tmp_path / "results.json"
    done = _bench(*_QUICK, "--layer", layer, *_chosen("direct", "fanout-10x2"), "--json", str(file))
    assert done.returncode == 0, done.stderr
    document = _Document.model_validate_json(file.read_text(encoding="utf-8"))
    for workload in ("direct", "fanout-10x2"):
        assert document.entry(workload, layer).metrics.keys() == _METRICS[workload] | {"server_cpu_us"}


def test_a_wrong_layer_is_named_and_scores_nothing(tmp_path: Path) -> None:
    """A layer that loses, doubles, swaps or breaks has no figure, costs the exit code, and does not disturb others."""
    wrong = {
        "Losing": "lost 50 of",
        "Doubling": "doubled 50 of",
        "Swapping": "disordered 50 of",
        "Failing": "failed: OSError: the unlucky message",
    }
    chosen = [word for name in wrong for word in ("--layer", f"{name}=tests.support.wrong_layers.{name}")]
    file = tmp_path / "results.json"
    done = _bench(
        *_QUICK, "--patience", "0.4", "--layer", "memory", *chosen, "--workload", "direct", "--json", str(file)
    )
    assert done.returncode == 2, done.stderr
    document = _Document.model_validate_json(file.read_text(encoding="utf-8"))
    assert document.entry("direct", "memory").metrics["messages_per_second"]["median"]
    for name, words in wrong.items():
        entry = document.entry("direct", name)
        assert (entry.trouble or "").startswith(words)
        assert entry.metrics == {}
        assert f"WRONG: {name} in direct: {words}" in done.stderr


def test_every_workload_notices_a_loss(tmp_path: Path) -> None:
    """A single message that never arrives ends no workload in a hang, and none with a figure."""
    file = tmp_path / "results.json"
    layer = "Losing=tests.support.wrong_layers.Losing"
    workloads = _METRICS.keys() - {"direct"}  # which the test above is about
    done = _bench(*_QUICK, "--patience", "0.4", "--layer", layer, *_chosen(*workloads), "--json", str(file))
    assert done.returncode == 2, done.stderr
    document = _Document.model_validate_json(file.read_text(encoding="utf-8"))
    for workload in workloads:
        entry = document.entry(workload, "Losing")
        assert (entry.trouble or "").startswith("lost"), workload
        assert entry.metrics == {}


def test_a_given_server_is_never_flushed(server: Server, tmp_path: Path) -> None:
    """What was on a --url stays, and what the benchmark leaves there expires; floor, plot, bars and profiles work."""
    plot, missed = tmp_path / "plot.svg", tmp_path / "bars.toml"
    missed.write_text(
        '[[bar]]\nworkload = "direct"\nmetric = "messages_per_second"\nlayer = "redis"\nbase = "floor"\n'
        "at_least = 1000000\n",
        encoding="utf-8",
    )
    host = server.host()
    host.command("SET", "somebody-elses", "1")
    try:
        done = _bench(
            *_QUICK,
            *("--layer", "redis", "--layer", "floor", "--url", server.url),
            *_chosen("direct", "pending"),
            *("--plot", str(plot), "--assert", str(missed), "--profile", str(tmp_path)),
        )
        assert done.returncode == 1, done.stderr
        assert "MISSED" in done.stdout
        assert pstats.Stats(str(next(tmp_path.glob("direct-redis-0-receiver-*.prof")))).get_stats_profile().total_tt > 0
        assert "<svg" in plot.read_text(encoding="utf-8")
        assert host.command("GET", "somebody-elses") == b"1"
        left = host.lifetimes("bench-")
        assert left
        assert -1 not in left.values()
    finally:
        host.remove("bench-")
        host.command("DEL", "somebody-elses")


def _family(pid: int) -> set[int]:
    """Return the descendants of a process."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(child): int(parent) for child, parent in map(str.split, listed.splitlines())}
    found, fresh = set[int](), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


def test_nothing_outlives_the_benchmark(tmp_path: Path) -> None:
    """Even after kill -9 its servers and its processes end."""
    with (tmp_path / "output").open("wb") as output:
        process = reaper.launch(
            [
                *(sys.executable, "-m", "channel_layer_cli", "bench", "--layer", "redis"),
                *("--workload", "direct", "--seconds", "60"),
            ],
            output=output,
            environment={**os.environ, "TMPDIR": str(tmp_path)},
            directory=_ROOT,
        )
        try:
            deadline = time.monotonic() + 30
            while len(family := _family(process.pid)) < 5:  # a shell, its guard, a server, and two processes
                assert time.monotonic() < deadline, (tmp_path / "output").read_text()
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            for pid in family:
                wait_for_end(pid)
        finally:
            reaper.end(process)


def test_the_results_are_json_even_when_nothing_was_measured(tmp_path: Path) -> None:
    """A benchmark whose only layer broke leaves a file that a program can read."""
    file = tmp_path / "results.json"
    done = _bench(*_QUICK, "--layer", "gone=no_such_package.Layer", "--workload", "direct", "--json", str(file))
    assert done.returncode == 2
    assert "No module named 'no_such_package'" in done.stderr
    assert json.loads(file.read_text(encoding="utf-8"))["summary"][0]["trouble"].startswith("failed")
