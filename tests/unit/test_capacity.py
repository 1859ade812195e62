"""Capacity: patterns as they are written in settings, and the bounded memory of answers."""

from __future__ import annotations

import gc
import re

import pytest

from channel_layer.domain.capacity import CapacityTable, compile_glob, shares


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("http.request", "http.request", True),
        ("http.request", "httpxrequest", False),
        ("http.*", "http.request", True),
        ("http.*", "http.", True),
        ("http.*", "xhttp.request", False),
        ("http", "http.request", False),
        ("HTTP.*", "http.request", False),
        ("http.*", "HTTP.request", False),
        ("resp?x", "resp?x", True),
        ("resp?x", "resp!x", True),
        ("specific.*!*", "specific.abc!x", True),
        ("specific.*!*", "specific.abc", False),
        ("job[0-9]", "job7", True),
        ("job[0-9]", "jobx", False),
        ("job[!0-9]", "jobx", True),
        ("job[!0-9]", "job7", False),
        ("job[", "job[", True),
        ("*", "x", True),
    ],
)
def test_a_glob_matches_whole_names_and_minds_case(pattern: str, name: str, matches: bool) -> None:  # noqa: FBT001
    """A glob means what it means to a shell on a case-sensitive file system, over the whole name."""
    assert (compile_glob(pattern).match(name) is not None) is matches


def test_a_regex_is_matched_at_the_start_and_not_to_the_end() -> None:
    """A regex decides by the start of the name: it need not reach the end, and does not search further on."""
    table = CapacityTable(100, [(re.compile(r"http\."), 5)])
    assert table.of("http.request") == 5
    assert table.of("xhttp.request") == 100


def test_the_first_pattern_that_matches_wins_in_the_order_given() -> None:
    """Of two patterns that match, the earlier one decides, be it the narrower or the wider."""
    narrow, wide = (compile_glob("http.request"), 5), (compile_glob("http.*"), 50)
    assert CapacityTable(100, [narrow, wide]).of("http.request") == 5
    assert CapacityTable(100, [wide, narrow]).of("http.request") == 50


def test_a_capacity_is_that_of_the_full_name() -> None:
    """A process-specific channel is looked up by its full name, not by that of its inbox."""
    table = CapacityTable(100, [(compile_glob("*!slow"), 5)])
    assert table.of("specific.abc!slow") == 5
    assert table.of("specific.abc!fast") == 100


def test_answers_are_remembered_in_bounded_memory_and_stay_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many names are asked for, only so many answers are kept, and every answer is right."""
    monkeypatch.setattr("channel_layer.domain.capacity._REMEMBERED", 50)
    table = CapacityTable(100, iter([(compile_glob("*7"), 5)]))
    for number in (*range(120), *range(10)):
        assert table.of(f"job{number}") == (5 if number % 10 == 7 else 100)
    remembered = [len(held) for held in gc.get_referents(table) if hasattr(held, "keys")]
    assert remembered == [30]


@pytest.mark.parametrize(
    ("capacity", "shards", "parts"),
    [
        (10, (2, 0, 1), ((2, 4), (0, 3), (1, 3))),
        (11, (2, 0, 1), ((2, 4), (0, 4), (1, 3))),
        (9, (2, 0, 1), ((2, 3), (0, 3), (1, 3))),
        (2, (2, 0, 1), ((2, 1), (0, 1), (1, 0))),
        (7, (0,), ((0, 7),)),
    ],
)
def test_what_does_not_divide_goes_to_the_preferred_shards(
    capacity: int, shards: tuple[int, ...], parts: tuple[tuple[int, int], ...]
) -> None:
    """Shares keep the order of preference, and the first ones are the larger ones."""
    assert shares(capacity, shards) == parts
