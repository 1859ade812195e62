"""The sdist and the wheel hold what they should, and nothing else."""

from __future__ import annotations

import sys
import tarfile
from pathlib import PurePosixPath
from zipfile import ZipFile

from tests.packaging.conftest import Distributions
from tests.packaging.support import PACKAGES, ROOT, pyproject, run


def _contents(distributions: Distributions) -> set[str]:
    """Return the files of the wheel, without its own records."""
    with ZipFile(distributions.wheel) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheel_is_the_source_file_by_file(distributions: Distributions) -> None:
    """Each file of each package, Lua scripts too, is in the wheel under its import name; no other is."""
    source = {
        f"{name}/{file.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert _contents(distributions) == source


def test_wheel_has_exactly_our_top_level_names(distributions: Distributions) -> None:
    """Nothing is installed beside our packages, least of all ``adapters``, another project's name."""
    assert {name.split("/")[0] for name in _contents(distributions)} == PACKAGES.keys()


def test_every_package_says_that_it_is_typed(distributions: Distributions) -> None:
    """Type checkers read the annotations of each package, because each has its ``py.typed``."""
    assert {f"{name}/py.typed" for name in PACKAGES} <= _contents(distributions)


def test_lua_scripts_are_shipped(distributions: Distributions) -> None:
    """The Redis layer finds its scripts where it is installed."""
    shipped = {name for name in _contents(distributions) if name.endswith(".lua")}
    written = {f"channel_layer_redis/_scripts/{path.name}" for path in ROOT.glob("src/adapters/*/_scripts/*.lua")}
    assert shipped == written
    assert written


def test_wheel_passes_the_guard(distributions: Distributions) -> None:
    """check-wheel-contents finds no stray, duplicate or misplaced file."""
    run(sys.executable, "-m", "check_wheel_contents", distributions.wheel)


def test_wheel_carries_the_license(distributions: Distributions) -> None:
    """The terms of the licence travel with each copy, as it demands."""
    with ZipFile(distributions.wheel) as wheel:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_sdist_holds_the_project_and_no_litter(distributions: Distributions) -> None:
    """The sdist has the sources, tests and docs, and no cache or stray file of the machine that built it."""
    with tarfile.open(distributions.sdist) as sdist:
        paths = [PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]) for name in sdist.getnames()]
    listed = pyproject(list[str], "tool", "hatch", "build", "targets", "sdist", "include")
    expected = {name.strip("/") for name in listed} | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {path.parts[0] for path in paths if path.parts} == expected
    assert not [path for path in paths if "__pycache__" in path.parts or path.suffix == ".pyc"]
