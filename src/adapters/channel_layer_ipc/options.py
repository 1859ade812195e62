"""The CONFIG of the IPC layer as type checkers see it; it needs no LMDB, so that a settings file needs none."""

from __future__ import annotations

from pathlib import Path

from channel_layer.options import CommonConfigDict

__all__ = ("IPCConfigDict",)


class IPCConfigDict(CommonConfigDict, total=False):
    """The CONFIG of an `IPCChannelLayer`, for type checkers."""

    directory: str | Path | None
    memory: int
