"""Commands as bytes."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, TypeAlias

import hiredis

__all__ = ("Arg", "MergeableCommand", "pack", "pack_argument", "pack_head")

Arg: TypeAlias = bytes | str | int | float
"""One argument of a command."""

_EMPTY_ARGUMENT = b"$0\r\n\r\n"


class _Pack(Protocol):
    """hiredis's ``pack_command``, whose own stub says a tuple of one."""

    def __call__(self, command: tuple[Arg, ...], /) -> bytes: ...


pack: _Pack = getattr(hiredis, "pack_command")  # noqa: B009 - around the stub, which is wrong
"""Turns a command into bytes."""


def pack_head(*args: Arg) -> bytes:
    """Pack a command but for its last argument, which follows: ``$<length>``, a line's end, bytes, a line's end."""
    return pack((*args, b""))[: -len(_EMPTY_ARGUMENT)]


@lru_cache(maxsize=1024)
def pack_argument(value: int) -> bytes:
    """Pack one argument of a command."""
    text = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(text), text)


class MergeableCommand:
    """A command that does the same for several who ask, each with arguments of his own, and replies to each of them.

    Its reply to one alone is not in an array.

    Args:
        args: what they have in common.
        each: how many arguments each of them adds.
    """

    __slots__ = ("_count", "_each", "_head")

    def __init__(self, *args: Arg, each: int) -> None:
        self._count = len(args)
        self._each = each
        self._head = pack(args).partition(b"\r\n")[2]

    def packed(self, parts: list[bytes]) -> bytes:
        """Return the command of those who have asked."""
        return b"*%d\r\n%b%b" % (self._count + self._each * len(parts), self._head, b"".join(parts))
