"""The roles of the workloads: what each process does while it is measured.

The code for each message is short and the same for every layer, because it is measured as well.
"""

from __future__ import annotations

__all__: tuple[str, ...] = ()
