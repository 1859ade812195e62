"""The room that the store's memory leaves for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ("RECORD", "Room", "entry_need")

RECORD: Final = 8192 - (256 << 10)
"""Room that a command needs that writes a record: it may use half of what messages leave. A command that takes
something away finds enough at any time."""

_PER_ENTRY: Final = 128
"""Bytes of room that an entry takes beside its own: its key, its place in a page, and that pages are not full."""

_PAGE: Final = 4096


class Room:
    """The room that is left in one transaction. It is measured when a command first needs some.

    Args:
        measure: returns how many bytes messages may take, given how many are wanted.

    Attributes:
        exhausted: a command was refused because there was not enough.
    """

    __slots__ = ("_left", "_measure", "exhausted")

    def __init__(self, measure: Callable[[int], int]) -> None:
        self._measure = measure
        self._left: int | None = None
        self.exhausted: bool = False

    def has(self, need: int) -> bool:
        """Return whether there are so many bytes."""
        left = self._left
        if left is None:
            left = self._left = self._measure(need)
        return need <= left

    def take(self, size: int) -> bool:
        """Take the room for a message of *size* bytes; return False if there is not enough."""
        need = entry_need(size)
        if not self.has(need):
            self.exhausted = True
            return False
        self._left = (self._left or 0) - need
        return True


def entry_need(size: int) -> int:
    """Return the room that a message of *size* bytes takes: a large one has whole pages to itself."""
    need = size + _PER_ENTRY
    return need if need < _PAGE // 2 else (need // _PAGE + 2) * _PAGE
