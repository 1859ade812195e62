"""Capacity: any settings and any names against a matcher of its own, and shares for any number of shards."""

from __future__ import annotations

import re
import warnings

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.capacity import CapacityTable, compile_glob, shares
from channel_layer.testing.strategies import capacity_maps, short_names


def glob_matches(pattern: str, name: str) -> bool:
    """Say whether a pattern of letters, ``*`` and ``?`` matches a whole name."""
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(glob_matches(pattern[1:], name[skip:]) for skip in range(len(name) + 1))
    return bool(name) and pattern[0] in {"?", name[0]} and glob_matches(pattern[1:], name[1:])


def regex_matches(pattern: str, name: str) -> bool:
    """Say whether a regex of letters and ``.`` (any character) matches at the start of a name."""
    return len(name) >= len(pattern) and all(p in {".", n} for p, n in zip(pattern, name, strict=False))


def compiled(settings: dict[str | re.Pattern[str], int]) -> list[tuple[re.Pattern[str], int]]:
    """Compile settings as the configuration does."""
    return [(compile_glob(key) if isinstance(key, str) else key, limit) for key, limit in settings.items()]


@given(st.integers(1, 1000), capacity_maps(), st.lists(short_names(), max_size=20))
def test_the_first_match_in_the_order_of_the_mapping_decides(
    default: int, settings: dict[str | re.Pattern[str], int], names: list[str]
) -> None:
    """For any settings, each name has the capacity of the first pattern that matches it, else the default."""
    table = CapacityTable(default, compiled(settings))
    for name in names + names:
        expected = default
        for key, limit in settings.items():
            if glob_matches(key, name) if isinstance(key, str) else regex_matches(key.pattern, name):
                expected = limit
                break
        assert table.of(name) == expected


@given(st.text(max_size=12) | st.text("[]!-^&~|\\*?ab", max_size=12), short_names())
def test_any_text_is_a_glob(pattern: str, name: str) -> None:
    """No text given as a glob fails to compile or to match, or makes the regex engine warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compile_glob(pattern).match(name)


@given(
    st.integers(1, 10_000),
    st.integers(1, 40).flatmap(lambda hosts: st.permutations(range(hosts))),
)
def test_shares_sum_to_the_capacity_and_differ_by_at_most_one(capacity: int, shards: list[int]) -> None:
    """Every shard has a share, in the order of preference; together they are the capacity, evenly split."""
    parts = shares(capacity, shards)
    assert [shard for shard, _ in parts] == shards
    sizes = [share for _, share in parts]
    assert sum(sizes) == capacity
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)
