"""The Lua scripts, one a file, with what they take and return at the top of each."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files

__all__ = ("Script", "load")


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the SHA-1 in hexadecimal by which a server knows it."""

    source: bytes
    sha: bytes


def load(name: str) -> Script:
    """Read one script from the package."""
    source = files(__name__).joinpath(f"{name}.lua").read_bytes()
    return Script(source, sha1(source, usedforsecurity=False).hexdigest().encode())
