"""What a worker process of a `Fleet` runs: `python -m tests.support.child <file descriptor>`.

A module of its own, so that the rest is imported under its real name and pickles alike on both sides.
"""

from __future__ import annotations

import sys

from tests.support.processes import run_child

if __name__ == "__main__":
    run_child(int(sys.argv[1]))
