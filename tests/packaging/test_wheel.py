"""The sdist and the wheel hold the files that they should, and no others."""

from __future__ import annotations

import sys
import tarfile
from pathlib import PurePosixPath
from zipfile import ZipFile

from tests.packaging.conftest import Distributions
from tests.packaging.support import PACKAGES, ROOT, pyproject, run


def _contents(distributions: Distributions) -> set[str]:
    """Return the files of the wheel, without its metadata."""
    with ZipFile(distributions.wheel) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheel_is_the_source_file_by_file(distributions: Distributions) -> None:
    """The wheel has each file of each package, including Lua scripts, under its import name, and no other file."""
    source = {
        f"{name}/{file.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert _contents(distributions) == source


def test_wheel_has_exactly_our_top_level_names(distributions: Distributions) -> None:
    """The wheel installs only our packages; a top-level ``adapters`` would overwrite another project's."""
    assert {name.split("/")[0] for name in _contents(distributions)} == PACKAGES.keys()


def test_every_package_says_that_it_is_typed(distributions: Distributions) -> None:
    """Each package has a ``py.typed``, without which type checkers ignore its annotations."""
    assert {f"{name}/py.typed" for name in PACKAGES} <= _contents(distributions)


def test_lua_scripts_are_shipped(distributions: Distributions) -> None:
    """The wheel has every Lua script of the Redis layer."""
    shipped = {name for name in _contents(distributions) if name.endswith(".lua")}
    written = {f"channel_layer_redis/_scripts/{path.name}" for path in ROOT.glob("src/adapters/*/_scripts/*.lua")}
    assert shipped == written
    assert written


def test_wheel_passes_the_guard(distributions: Distributions) -> None:
    """check-wheel-contents finds no stray, duplicate or misplaced file."""
    run(sys.executable, "-m", "check_wheel_contents", distributions.wheel)


def test_wheel_carries_the_license(distributions: Distributions) -> None:
    """The wheel contains the licence, as the licence demands."""
    with ZipFile(distributions.wheel) as wheel:
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_sdist_holds_the_project_and_no_other_file(distributions: Distributions) -> None:
    """The sdist has the sources, tests and docs, and no cache or stray file of the machine that built it."""
    with tarfile.open(distributions.sdist) as sdist:
        paths = [PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]) for name in sdist.getnames()]
    listed = pyproject(list[str], "tool", "hatch", "build", "targets", "sdist", "include")
    expected = {name.strip("/") for name in listed} | {"pyproject.toml", "PKG-INFO", ".gitignore"}
    assert {path.parts[0] for path in paths if path.parts} == expected
    assert not [path for path in paths if "__pycache__" in path.parts or path.suffix == ".pyc"]
