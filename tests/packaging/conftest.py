"""One build and two environments for all packaging tests, because making them takes most of the time."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.packaging.support import Environment, run


@dataclass(frozen=True, slots=True)
class Distributions:
    """The files that a release uploads."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Distributions:
    """The sdist, and the wheel that is built from the sdist instead of the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    [sdist] = folder.glob("*.tar.gz")
    [wheel] = folder.glob("*.whl")
    return Distributions(sdist, wheel)


@pytest.fixture(scope="session")
def bare(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and no extra."""
    return Environment.create(tmp_path_factory.mktemp("bare"), str(distributions.wheel))


@pytest.fixture(scope="session")
def full(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and every extra."""
    return Environment.create(tmp_path_factory.mktemp("full"), f"{distributions.wheel}[all]")
