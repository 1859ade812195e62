"""The command `channel-layer`: tools for whoever runs or compares channel layers.

Importing this package needs no extra, so that the command itself can say which one is missing.
"""

from __future__ import annotations

import sys

__all__ = ("main",)

_NEEDED = ("click", "rich")


def main() -> None:
    """Run the command line; what it is given stands in ``sys.argv``.

    Raises:
        SystemExit: always; the code says how it went, the text what to install if an extra is missing.
    """
    try:
        from channel_layer_cli._main import cli  # noqa: PLC0415 - where a missing extra can be told about
    except ImportError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _NEEDED:
            raise
        sys.exit(f'channel-layer needs {missing}: pip install "channel-layer[cli]"')
    sys.exit(cli())
