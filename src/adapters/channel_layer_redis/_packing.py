"""Commands as the bytes that go over the wire."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol, TypeAlias

import hiredis

__all__ = ("Arg", "MergeableCommand", "pack", "pack_argument", "pack_head")

Arg: TypeAlias = bytes | str | int | float
"""One argument of a command."""

_EMPTY_ARGUMENT = b"$0\r\n\r\n"


class _Pack(Protocol):
    """The type of hiredis's ``pack_command``, whose own stub takes a tuple of one argument."""

    def __call__(self, command: tuple[Arg, ...], /) -> bytes: ...


pack: _Pack = getattr(hiredis, "pack_command")  # noqa: B009 - around the stub, which is wrong
"""Turns a command into bytes."""


def pack_head(*args: Arg) -> bytes:
    """Pack a command without its last argument, which has to follow: its length, and its bytes."""
    return pack((*args, b""))[: -len(_EMPTY_ARGUMENT)]


@lru_cache(maxsize=1024)
def pack_argument(value: int) -> bytes:
    """Pack one argument of a command."""
    text = b"%d" % value
    return b"$%d\r\n%b\r\n" % (len(text), text)


class MergeableCommand:
    """What requests have in common that one command can carry out, with an array of replies, one for each of them.

    The reply to a single request is not in an array. Each request adds *each* arguments.
    """

    __slots__ = ("_count", "_each", "_head")

    def __init__(self, *args: Arg, each: int) -> None:
        self._count = len(args)
        self._each = each
        self._head = pack(args).partition(b"\r\n")[2]

    def packed(self, parts: list[bytes]) -> bytes:
        """Return the command for some requests, given the packed arguments of each."""
        return b"*%d\r\n%b%b" % (self._count + self._each * len(parts), self._head, b"".join(parts))
