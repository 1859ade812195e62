"""Builds the distribution and installs it into separate environments, as a user does.

Only tests of an installed wheel find missing files, superfluous files and undeclared dependencies.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

__all__ = ("PACKAGES", "ROOT", "Environment", "pyproject", "run")

_T = TypeVar("_T")

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    path.parent.name: path.parent
    for path in sorted([*ROOT.glob("src/*/__init__.py"), *ROOT.glob("src/adapters/*/__init__.py")])
}
"""The import packages of the working tree: name -> folder."""


def pyproject(kind: type[_T], *path: str) -> _T:
    """Return the value in pyproject.toml under the keys *path*, which must be of the type *kind*."""
    value: object = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for key in path:
        value = TypeAdapter(dict[str, object]).validate_python(value)[key]
    return TypeAdapter(kind).validate_python(value)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run *command* in *cwd* and return its output; if it fails, the assertion error shows the output."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with the built wheel and its dependencies, without the working tree."""

    path: Path

    @classmethod
    def create(cls, path: Path, *requirements: str) -> Environment:
        """Make an environment at *path* and install *requirements* into it."""
        run(sys.executable, "-m", "venv", "--without-pip", path)
        made = cls(path)
        run(sys.executable, "-m", "pip", "--python", made.python, "install", "--quiet", *requirements)
        return made

    @property
    def python(self) -> Path:
        """The interpreter of the environment."""
        return self.path / "bin" / "python"

    def execute(self, code: str) -> str:
        """Run *code* with warnings as errors, outside of the working tree, and return its output."""
        return run(self.python, "-I", "-W", "error", "-c", code, cwd=self.path)
