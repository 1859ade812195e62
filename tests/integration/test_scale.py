"""The example that measures what a fleet costs a server, on a small one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "scale" / "measure.py"


@pytest.mark.redis
def test_every_cost_is_measured() -> None:
    """Each line has a figure, which is more than nothing; how much is not judged.

    Of idle processes and of reports the server may have noticed too little to tell.
    """
    command = [sys.executable, str(_SCRIPT), "--inboxes", "3", "--members", "300", "--idle", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    found = {line[:45].strip(): float(line[45:]) for line in done.stdout.splitlines()}
    assert len(found) == 11
    assert all(value > 0 for name, value in found.items() if not name.startswith(("idle", "report")))
