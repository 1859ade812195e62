"""The main module of a worker process of a `Fleet`: `python -m tests.support.child <file descriptor>`.

It is a module of its own so that `tests.support.processes` is imported under its real name, and objects pickled on one
side can be unpickled on the other.
"""

from __future__ import annotations

import sys

from tests.support.processes import run_child

if __name__ == "__main__":
    run_child(int(sys.argv[1]))
