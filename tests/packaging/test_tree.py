"""The files of the project name no machine, no package registry and no foreign package."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.packaging.support import ROOT

_FOREIGN = re.compile(
    # a path of one machine
    r"(?<![\w.:~-])/(?:home|root|Users|opt|work|mnt|media|private)/"
    # a registry of packages: the machine that installs the project chooses it
    r"|\b(?:pypi|test\.pypi|npmjs|registry\.npmjs|anaconda|crates)\.(?:org|com|io)/|pythonhosted|--(?:extra-)?index-url|--find-links"
)


def _texts() -> Iterator[tuple[Path, str]]:
    folders = ["src", "tests", "docs", ".ci"]
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]
    for file in sorted([*files, *ROOT.glob("*")]):
        if file.is_file() and "__pycache__" not in file.parts and file != Path(__file__).resolve():
            try:
                yield file, file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # an image


def test_no_file_names_a_machine_or_a_registry() -> None:
    """No file holds a path of one machine or the address of a package registry: a clone works anywhere."""
    found = [f"{file.relative_to(ROOT)}: {match[0]}" for file, text in _texts() for match in _FOREIGN.finditer(text)]
    assert found == []


def test_src_adapters_stays_a_folder() -> None:
    """The folder is no package, because another project installs a top-level package ``adapters``."""
    assert not (ROOT / "src" / "adapters" / "__init__.py").exists()
