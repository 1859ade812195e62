"""The Lua scripts, one a file, with what they take and return at the top of each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final

__all__ = ("Script", "load")

_WHOLE: Final = b"""\
local function whole(text)
  local number = tonumber(text)
  return number and number >= 0 and number < 2 ^ 53 and math.floor(number) or 0
end
"""
"""Begins scripts that use it: turns text into a whole number that Lua represents exactly; 0 for what is none."""

_FAILED_AT: Final = re.compile(r"@user_script: ?(\d+)")
"""How an error names the line of a script."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script, and the SHA-1 in hexadecimal by which a server knows it."""

    source: bytes
    sha: bytes

    def line(self, error: str) -> str:
        """Return the line in which a server met an error; the whole script if the error does not tell."""
        text = self.source.decode()
        found = _FAILED_AT.search(error)
        return text if found is None else text.splitlines()[int(found[1]) - 1]


def load(name: str) -> Script:
    """Read one script from the package."""
    source = files(__name__).joinpath(f"{name}.lua").read_bytes()
    if b"whole(" in source:
        source = _WHOLE + source
    return Script(source, sha1(source, usedforsecurity=False).hexdigest().encode())
