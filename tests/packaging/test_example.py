"""The SQLite layer of docs/examples is built, installed and tested on its own, as a third party does it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import Distributions
from tests.packaging.support import ROOT, Environment, run

_EXAMPLE = ROOT / "docs" / "examples" / "sqlite"

_MOST_LINES = 250
"""The limit for a useful store and its tests together."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example's folder, outside of the working tree."""
    folder = tmp_path_factory.mktemp("third-party") / "sqlite"
    shutil.copytree(_EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="module")
def third_party(distributions: Distributions, copy: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel, the kit and the example, and nothing else."""
    wheel = f"{distributions.wheel}[testing]"
    return Environment.create(tmp_path_factory.mktemp("environment"), wheel, str(copy))


def test_it_is_short() -> None:
    """The whole example, its tests included, has fewer than 250 lines."""
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in _EXAMPLE.rglob("*.py")) < _MOST_LINES


def test_its_own_tests_pass(third_party: Environment, copy: Path) -> None:
    """The extension kit finds no fault in the example."""
    run(third_party.python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=copy)


def test_it_is_found_by_its_entry_point(third_party: Environment) -> None:
    """The entry points of the group contain the example beside our own layers."""
    code = """
from importlib.metadata import entry_points
found = entry_points(group="channel_layer.adapters")
print(*(found[name].load().__name__ for name in ("sqlite", "memory")))
"""
    assert third_party.execute(code).split() == ["SQLiteChannelLayer", "MemoryChannelLayer"]


def test_it_is_typed(third_party: Environment, copy: Path) -> None:
    """mypy and pyright, both strict, find no error in the example and its tests."""
    python = ["--python-executable", str(third_party.python)]
    run(sys.executable, "-m", "mypy", "--strict", "--config-file=", *python, "sqlite_channel_layer", "tests", cwd=copy)
    config = {
        "include": ["sqlite_channel_layer", "tests"],
        "typeCheckingMode": "strict",
        "venvPath": str(third_party.path.parent),
        "venv": third_party.path.name,
    }
    (copy / "pyrightconfig.json").write_text(json.dumps(config), encoding="utf-8")
    run(sys.executable, "-m", "pyright", "--project", str(copy), cwd=copy)
