"""What a type checker sees of the installed wheel."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import AliasPath, BaseModel, Field

from tests.packaging.support import PACKAGES, ROOT, Environment, run

_SAMPLE = ROOT / "tests" / "typing" / "downstream"

_ACCEPTED = {
    "a literal": 'await layer.send("c", {"type": "t", "list": [1, 2.5, None, True, b"x", {"k": [1]}]})',
    "any hosts": 'RedisChannelLayer(hosts=["redis://h", ("h", 6379), {"host": "h", "port": 6379}])',
}
_REFUSED = {
    "a name that is no text": 'await layer.send(b"c", {})',
    "a message that is no dict": 'await layer.send("c", "text")',
    "a key that is no text": 'await layer.send("c", {1: "one"})',
    "a group message that is no dict": 'await layer.group_send("g", ["text"])',
    "a name that is not there": "await layer.receive()",
    "an attribute that is not there": "await layer.publish()",
    "a capacity that is text": 'RedisChannelLayer(capacity="100")',
    "an option that does not exist": "RedisChannelLayer(capactiy=100)",
    "an option by position": 'RedisChannelLayer("redis://h")',
    "a pattern without a number": 'MemoryChannelLayer(channel_capacity=["http.*"])',
    "a store that is a Redis option": 'MemoryChannelLayer(hosts=["redis://h"])',
    "a change of a setting": "layer.capacity = 10",
    "an outcome that does not exist": 'StoreError("x", retryable=True, outcome="maybe")',
}
_LINES = [*_ACCEPTED.values(), *_REFUSED.values()]
_PREAMBLE = """\
from channel_layer import ChannelLayer, StoreError
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer

async def use(layer: ChannelLayer) -> None:
"""


class _MypyFinding(BaseModel):
    """One line of what mypy writes as JSON."""

    severity: str
    line: int


class _PyrightFinding(BaseModel):
    """One diagnostic of pyright; its lines count from 0."""

    severity: str
    line: int = Field(validation_alias=AliasPath("range", "start", "line"))


class _PyrightReport(BaseModel):
    """What pyright writes as JSON."""

    findings: list[_PyrightFinding] = Field(validation_alias="generalDiagnostics")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the downstream application, out of reach of this project's own configuration."""
    shutil.copytree(_SAMPLE, tmp_path / "downstream")
    return tmp_path


def _mypy(environment: Environment, folder: Path, *options: str) -> list[str]:
    """Return the command that checks the folder's code strictly against *environment*."""
    python = ["--python-executable", str(environment.python)]
    return [sys.executable, "-m", "mypy", "--strict", "--config-file=", *python, *options, str(folder)]


def _pyright(environment: Environment, folder: Path, *options: str) -> list[str]:
    """Return the command that checks the folder's code strictly against *environment*."""
    config = {
        "typeCheckingMode": "strict",
        "venvPath": str(environment.path.parent),
        "venv": environment.path.name,
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    return [sys.executable, "-m", "pyright", "--project", str(folder), *options]


def test_sample_uses_every_public_name() -> None:
    """The application in tests/typing uses each name of each package: nothing escapes the checkers."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in _SAMPLE.glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    used |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    public = {name for package in PACKAGES for name in importlib.import_module(package).__all__}
    assert public <= used


def test_sample_has_no_ignore() -> None:
    """No line of the application asks a type checker to look away."""
    for file in _SAMPLE.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not [word for word in ("type: ignore", "pyright:", "cast(", "Any") if word in text], file.name


def test_sample_passes_mypy(full: Environment, sample: Path) -> None:
    """mypy, strict, finds nothing in an application that uses every public name."""
    run(*_mypy(full, sample), cwd=sample)


def test_sample_passes_pyright(full: Environment, sample: Path) -> None:
    """pyright, strict, finds nothing in an application that uses every public name."""
    run(*_pyright(full, sample), cwd=sample)


def test_sample_runs(full: Environment) -> None:
    """The application does what its types say, on the installed wheel."""
    full.execute(f"import runpy, sys; sys.path.insert(0, {str(_SAMPLE.parent)!r}); runpy.run_module('downstream')")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_type_is_known(full: Environment, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyright finds the type of each public symbol complete: no user sees an unknown."""
    # --verifytypes looks for the package where `python` is, and takes no notice of a configuration
    monkeypatch.setenv("PATH", str(full.python.parent), prepend=os.pathsep)
    monkeypatch.setenv("VIRTUAL_ENV", str(full.path))
    output = run(sys.executable, "-m", "pyright", "--ignoreexternal", "--verifytypes", package, cwd=full.path)
    assert "Type completeness score: 100%" in output


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    """A module with right and wrong calls, one a line, out of reach of this project's own configuration."""
    body = "".join(f"    {line}\n" for line in _LINES)
    (tmp_path / "calls.py").write_text(_PREAMBLE + body, encoding="utf-8")
    return tmp_path


def _lines(numbers: set[int]) -> set[str]:
    """Return the calls that stand in the lines *numbers*, counted from 1."""
    return {_LINES[number - _PREAMBLE.count("\n") - 1] for number in numbers}


def test_mypy_refuses_exactly_the_wrong_calls(full: Environment, calls: Path) -> None:
    """Each wrong call is an error before it runs, and no right one is."""
    command = _mypy(full, calls, "--output=json")
    done = subprocess.run(command, cwd=calls, capture_output=True, text=True, check=False)
    findings = [_MypyFinding.model_validate_json(line) for line in done.stdout.splitlines()]
    errors = {finding.line for finding in findings if finding.severity == "error"}
    assert _lines(errors) == set(_REFUSED.values())


def test_pyright_refuses_exactly_the_wrong_calls(full: Environment, calls: Path) -> None:
    """Each wrong call is an error before it runs, and no right one is."""
    command = _pyright(full, calls, "--outputjson")
    done = subprocess.run(command, cwd=calls, capture_output=True, text=True, check=False)
    findings = _PyrightReport.model_validate_json(done.stdout).findings
    errors = {finding.line + 1 for finding in findings if finding.severity == "error"}
    assert _lines(errors) == set(_REFUSED.values())
