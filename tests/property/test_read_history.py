"""What is unread in an older copy of a stream is told from what has been read, whatever ids its server gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from channel_layer_redis._read_history import Entry, ReadHistory


class Copy:
    """A stream, as servers add to it and lose the end of it: (milliseconds, what is in it) of each entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.trimmed = 0
        self._last = (0, 0)
        self._count = 0

    def add(self, milliseconds: int) -> None:
        """Add an entry that no other is like, as a server does whose clock shows so much."""
        last, number = self._last
        self._last = (milliseconds, 0) if milliseconds > last else (last, number + 1)
        self._count += 1
        self.entries.append((b"%d-%d" % self._last, self._count))

    def cut(self, length: int) -> None:
        """Lose all but the first entries, and forget their ids."""
        del self.entries[length:]
        self._last = (0, 0)
        if self.entries:
            first, _, second = self.entries[-1][0].partition(b"-")
            self._last = int(first), int(second)


def order(entry: Entry) -> tuple[int, int]:
    """Return the id of an entry as numbers."""
    first, _, second = entry[0].partition(b"-")
    return int(first), int(second)


MOMENTS = st.lists(st.integers(1, 30), max_size=8)


@given(st.lists(st.tuples(MOMENTS, st.integers(0, 8), st.integers(0, 8), MOMENTS, st.booleans()), max_size=4))
def test_each_entry_is_read_once(failovers: list[tuple[list[int], int, int, list[int], bool]]) -> None:
    """A server adds some, of which some are read; the next one lacks some, and adds others before it is read."""
    copy, history, position = Copy(), ReadHistory("run 0", ""), ""
    read: list[int] = []

    def read_on(count: int) -> None:
        nonlocal position
        assert history.goes_on_after(position)
        first = order((position.encode(), 0)) if position else (0, 0)
        batch = [entry for entry in copy.entries if order(entry) > first][:count]
        if batch:
            position = history.add(batch)
            read.extend(content for _, content in batch)

    for turn, (moments, count, lacking, later, cancelled) in enumerate(failovers, 1):
        for milliseconds in moments:
            copy.add(milliseconds)
        read_on(count)
        last = order((position.encode(), 0)) if position else (0, 0)
        unread_before = [entry for entry in copy.entries if order(entry) > last]
        if not unread_before:  # what is beyond the position of the reader is no matter of its history
            copy.cut(max(min(turn, 2) - 1, len(copy.entries) - lacking))  # the first one may lack all
        for milliseconds in later:
            copy.add(milliseconds)
        first = last if position else (1 << 60, 0)
        found = [entry for entry in copy.entries if order(entry) <= first]
        assert history.goes_on_after(position)
        known, next_position = history.move(f"run {turn}", found)
        if cancelled and next_position != position:
            assert history.goes_on_after(position)
            assert history.move(f"run {turn}", found) == (known, next_position)
        position = next_position
        read.extend(content for _, content in found[known:])
        read_on(1000)
        assert len(read) == len(set(read))
        assert set(read) >= {content for _, content in copy.entries}


def test_what_was_read_elsewhere_is_not_read_again() -> None:
    """A history that begins in the middle takes what was before it for read."""
    history = ReadHistory("run 1", "5-0")
    assert history.goes_on_after("5-0")
    assert history.move("run 2", [(b"4-0", 1), (b"5-0", 2)]) == (2, "5-0")
    assert history.goes_on_after("5-0")
    assert history.run == "run 2"
    assert not history.goes_on_after("6-0")


def test_nothing_is_left() -> None:
    """A server that has none of the entries is read from its beginning."""
    history = ReadHistory("run 1", "")
    history.add([(b"5-0", 1)])
    assert history.goes_on_after("5-0")
    assert history.move("run 2", []) == (0, "")
    assert history.goes_on_after("")
    assert history.move("run 3", [(b"1-0", 7)]) == (0, "1-0")
