"""Build the distribution and install it into environments of its own, as a user gets it.

Tests of the working tree cannot see what a wheel lacks, what it ships too much of, or what it needs and does
not declare; these can.
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
    """Return what stands in pyproject.toml under the keys *path*; it has to be of *kind*."""
    value: object = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for key in path:
        value = TypeAdapter(dict[str, object]).validate_python(value)[key]
    return TypeAdapter(kind).validate_python(value)


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run *command* in *cwd* and return what it wrote; its output is the failure's text if it fails."""
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with the built wheel and what it asked for, and nothing of the working tree."""

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
        """The environment's interpreter."""
        return self.path / "bin" / "python"

    def execute(self, code: str) -> str:
        """Run *code* with warnings as errors, away from the working tree, and return its output."""
        return run(self.python, "-I", "-W", "error", "-c", code, cwd=self.path)
