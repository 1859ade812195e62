"""The counters: over any run of losses and clock readings, every loss is told once, and seldom."""

from __future__ import annotations

import re
from collections import Counter
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.counters import Counters, Reason

REASONS: tuple[Reason, ...] = get_args(Reason)
LOSSES = st.tuples(st.sampled_from(REASONS), st.sampled_from(["chat", "chat!a", "chat!b", "room"]), st.integers(0, 50))


def counts_in(warning: str) -> Counter[str]:
    """Read the losses by reason out of a warning."""
    told = warning.split(": ", 1)[1].split("; ", 1)[0]
    return Counter({reason: int(count) for count, reason in re.findall(r"(\d+) (\w+)", told)})


@given(st.lists(st.tuples(st.floats(0, 90), st.lists(LOSSES, max_size=4)), max_size=30))
def test_every_loss_is_told_exactly_once_and_warnings_are_a_minute_apart(
    run: list[tuple[float, list[tuple[Reason, str, int]]]],
) -> None:
    """Warnings add up to the losses, and come just when there is news and a minute has passed."""
    counters, now = Counters(), 0.0
    lost, told, untold = Counter[str](), Counter[str](), Counter[str]()
    warned_at: float | None = None
    for elapsed, losses in run:
        now += elapsed
        for reason, where, count in losses:
            counters.drop(reason, where, count)
            lost[reason] += count
            untold[where] += count
        assert counters.has_news == (lost.total() > told.total())
        due = warned_at is None or now - warned_at >= 60
        warning = counters.warning(now)
        assert (warning is not None) == (due and lost.total() > told.total())
        if warning is not None:
            told += counts_in(warning)
            warned_at = now
            assert told == lost
            assert warning.endswith(f"; {lost.total()} in all since the start")
            assert f"({max(untold.values())})" in warning.split("most on ")[1].split(",")[0]
            untold.clear()
    assert counters.counts(0).dropped == +lost
