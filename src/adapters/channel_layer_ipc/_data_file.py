"""Checks a data file before LMDB maps it: what LMDB takes on trust can end the process.

LMDB has no checksums. It follows the numbers that it finds in a file, and a wrong one leads to a signal, or to a failed
assertion, which is a signal, too. So what a process is about to trust is read here first, as plain bytes: the two meta
pages, and the pages that can be reached from the newer one.
"""

from __future__ import annotations

import os
import struct
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from typing import Self

__all__ = ("find_damage",)

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_METAS: Final = 2
_NO_PAGE: Final = 2**64 - 1
_DEPTH: Final = 32
"""Levels of a tree, at most."""

_SMALLEST_PAGE, _LARGEST_PAGE = 512, 1 << 16

_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
"""Kinds of pages."""

_OVERFLOWS: Final = 1
"""The flag of an entry whose value is in overflow pages; this library uses none of the other flags."""

_DUPLICATES: Final = 0x76
"""The flags of a tree with several values for a key, or with keys in another order."""

_HEADER: Final = struct.Struct("=QHHHH")
"""Of a page: its number, padding, its kind, where the pointers to its nodes end, where the nodes begin."""

_RUN: Final = struct.Struct("=QHHI")
"""The same of an overflow page, with the number of pages that belong together."""

_NODE: Final = struct.Struct("=HHHH")
"""The head of a node: a size in two parts, flags, the size of the key. In a branch page three are a page number."""

_NUMBER: Final = struct.Struct("=Q")
_META_LAYOUT: Final = struct.Struct("=QHHHH IIQQ IHHQQQQQ IHHQQQQQ QQ")


class _Tree(NamedTuple):
    """Where a tree begins, and how many levels it has."""

    pad: int
    flags: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


@dataclass(frozen=True, slots=True)
class _Meta:
    """What a meta page says.

    Attributes:
        size: of a page, in bytes.
        free: the tree of free pages, by the transaction that freed them.
        main: the tree of records.
        last: the number of the last page that was ever used.
        transaction: the number of the one that wrote this.
    """

    size: int
    free: _Tree
    main: _Tree
    last: int
    transaction: int

    @classmethod
    def unpack(cls, data: bytes, number: int) -> Self:
        """Make it from the meta page of this number.

        Raises:
            _DamageError: it is none.
        """
        _require(len(data) == _META_LAYOUT.size, "it is cut short")
        found = _META_LAYOUT.unpack(data)
        page, _, kind, _, _, magic, version, _, _ = found[:9]
        free, main = _Tree(*found[9:17]), _Tree(*found[17:25])
        last, transaction = found[25:]
        _require(magic == _MAGIC and version == _VERSION, "it is no file of LMDB 0.9")
        _require(kind == _META and page == number, f"meta page {number} is wrong")
        _require(not (free.flags | main.flags) & _DUPLICATES and not main.pad, f"meta page {number} is wrong")
        # A transaction writes the meta page whose turn it is.
        _require(transaction % _METAS == number or not transaction, f"meta page {number} is wrong")
        return cls(free.pad, free, main, last, transaction)


class _DamageError(Exception):
    """Says what is wrong with the file."""


def find_damage(descriptor: int, pages: int) -> str | None:
    """Return what is wrong with a data file; None if nothing is, as far as this looks.

    A file of another kind of LMDB, of 32 bits or of the next major version, is left to LMDB itself.

    Args:
        descriptor: of the file, which is locked.
        pages: how many are looked at, at most, beside the meta pages: those near the roots first. Each takes 25 µs.
    """
    try:
        if not _is_of_another_kind(descriptor):
            _check(descriptor, pages)
    except _DamageError as exc:
        return str(exc)
    return None


def _is_of_another_kind(descriptor: int) -> bool:
    """Return whether the head of the first page is of another size."""
    data = os.pread(descriptor, 32, 0)
    return any(data[at : at + 4] == struct.pack("=I", _MAGIC) for at in (12, 24))


def _check(descriptor: int, pages: int) -> None:
    first = _Meta.unpack(os.pread(descriptor, _META_LAYOUT.size, 0), 0)
    size = first.size
    _require(_SMALLEST_PAGE <= size <= _LARGEST_PAGE and not size & (size - 1), "meta page 0 is wrong")
    second = _Meta.unpack(os.pread(descriptor, _META_LAYOUT.size, size), 1)
    newer = max(first, second, key=lambda meta: meta.transaction)
    step = abs(first.transaction - second.transaction)
    _require(second.size == size and step == (newer.transaction > 0), "the meta pages contradict each other")
    _require(newer.last >= _METAS - 1, "the meta pages contradict each other")
    _Walk(descriptor, newer, pages).run()


class _Walk:
    """A walk over the pages that can be reached, level by level."""

    def __init__(self, descriptor: int, meta: _Meta, pages: int) -> None:
        self._descriptor = descriptor
        self._meta = meta
        self._size = meta.size
        self._bytes = os.fstat(descriptor).st_size
        self._missing = range(self._bytes // meta.size, meta.last + 1)
        """Pages that are not in the file. LMDB may never have written them, if they are free."""
        self._left = pages if not self._missing else meta.last
        self._used: set[int] = set()
        """The pages that were reached, and the first ones of those that belong together."""
        self._free: set[int] = set()

    def run(self) -> None:
        """Walk over both trees.

        Raises:
            _DamageError: something is wrong.
        """
        self._walk(self._meta.free, is_free=True)
        self._walk(self._meta.main, is_free=False)
        for number in self._free & self._used:
            raise _DamageError(f"page {number} is both free and in use")
        _require(self._missing.stop - self._missing.start <= len(self._free), "it is cut short")
        _require(self._free.issuperset(self._missing), "it is cut short")

    def _walk(self, tree: _Tree, *, is_free: bool) -> None:
        if tree.root == _NO_PAGE:
            _require(not tree.depth and not tree.entries, "the meta pages contradict each other")
            return
        _require(0 < tree.depth <= _DEPTH, "the meta pages contradict each other")
        level = [tree.root]
        for height in reversed(range(tree.depth)):
            below: list[int] = []
            for number in level:
                if self._left <= 0:
                    return
                page = self._read(number, _BRANCH if height else _LEAF)
                if height:
                    below += self._children(number, page, is_free=is_free)
                else:
                    self._check_leaf(number, page, is_free=is_free)
            level = below

    def _read(self, number: int, kind: int) -> bytes:
        self._reach(number)
        page = os.pread(self._descriptor, self._size, number * self._size)
        _require(len(page) == self._size, "it is cut short")
        own_number, _, own_kind, _, _ = _HEADER.unpack_from(page)
        _require(own_number == number and own_kind == kind, f"page {number} is wrong")
        return page

    def _reach(self, number: int) -> None:
        _require(_METAS <= number <= self._meta.last, f"there is no page {number}")
        _require(number not in self._used, f"page {number} is used twice")
        self._used.add(number)
        self._left -= 1

    def _nodes(self, number: int, page: bytes) -> list[tuple[int, int, int, int, int]]:
        """Return where each node of a page begins, and the numbers in its head."""
        _, _, _, lower, upper = _HEADER.unpack_from(page)
        _require(_HEADER.size < lower <= upper <= self._size and not lower % 2, f"page {number} is wrong")
        pointers = struct.unpack_from(f"={(lower - _HEADER.size) // 2}H", page, _HEADER.size)
        _require(upper <= min(pointers) and max(pointers) <= self._size - _NODE.size, f"page {number} is wrong")
        return [(at, *_NODE.unpack_from(page, at)) for at in pointers]

    def _children(self, number: int, page: bytes, *, is_free: bool) -> list[int]:
        """Return the pages that a branch page leads to."""
        found: list[int] = []
        last = b""
        for index, (at, low, high, top, key_size) in enumerate(self._nodes(number, page)):
            end = at + _NODE.size + key_size
            key = page[at + _NODE.size : end]
            # The first key is never looked at: it stands for all that come before the second one.
            _require(end <= self._size, f"page {number} is wrong")
            _require(index < 2 or is_free or key > last, f"the keys in page {number} are not in order")
            last = key
            found.append(low | high << 16 | top << 32)
        return found

    def _check_leaf(self, number: int, page: bytes, *, is_free: bool) -> None:
        last = b""
        for at, low, high, flags, key_size in self._nodes(number, page):
            start = at + _NODE.size + key_size
            size, key = low | high << 16, page[at + _NODE.size : start]
            in_place = _NUMBER.size if flags == _OVERFLOWS else size
            _require(flags in {0, _OVERFLOWS} and key_size > 0, f"page {number} is wrong")
            _require(start + in_place <= self._size, f"page {number} is wrong")
            if is_free:  # its keys are numbers, and in another order
                _require(key_size == _NUMBER.size, f"page {number} is wrong")
            else:
                _require(key > last, f"the keys in page {number} are not in order")
            last = key
            value = page[start : start + in_place]
            if flags == _OVERFLOWS:
                value = self._overflow(int.from_bytes(value, sys.byteorder), size, read=is_free)
            if is_free:
                self._check_free(number, value)

    def _overflow(self, number: int, size: int, *, read: bool) -> bytes:
        """Check the pages of a large value; return it, if it is to be read."""
        self._reach(number)
        start = number * self._size
        head = os.pread(self._descriptor, _RUN.size, start)
        _require(len(head) == _RUN.size, "it is cut short")
        own_number, _, kind, pages = _RUN.unpack(head)
        _require(own_number == number and kind == _OVERFLOW, f"page {number} is wrong")
        # A value that was put anew in the same transaction may leave more pages to a smaller one.
        _require(pages * self._size >= _RUN.size + size, f"page {number} is wrong")
        _require(number + pages - 1 <= self._meta.last, f"page {number} is wrong")
        _require(start + pages * self._size <= self._bytes, "it is cut short")
        return os.pread(self._descriptor, size, start + _RUN.size) if read else b""

    def _check_free(self, number: int, value: bytes) -> None:
        """Check a list of free pages: how many, and which."""
        count, rest = divmod(len(value), _NUMBER.size)
        _require(count > 0 and not rest, f"page {number} is wrong")
        stated, *pages = struct.unpack(f"={count}Q", value)
        _require(stated == count - 1, f"page {number} is wrong")
        _require(all(_METAS <= page <= self._meta.last for page in pages), f"page {number} is wrong")
        _require(len(self._free) + len(pages) == len(self._free.union(pages)), f"page {number} is wrong")
        self._free.update(pages)


def _require(condition: bool, problem: str) -> None:  # noqa: FBT001 - it reads like an assertion
    if not condition:
        raise _DamageError(problem)
