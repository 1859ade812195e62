"""The counters: what is counted, and when a loss is worth a line in the log."""

from __future__ import annotations

import dataclasses

import pytest

from channel_layer.domain.counters import Counters, Counts, PendingCounts, Statistics
from channel_layer.domain.names import Queue


def test_nothing_lost_is_nothing_to_say() -> None:
    """A counters without losses has no news and no warning, whatever else it counted."""
    counters = Counters()
    counters.sent += 3
    counters.delivered += 3
    assert not counters.has_news
    assert counters.warning(0.0) is None


def test_the_first_loss_is_told_at_once() -> None:
    """The first loss is worth a warning of its own, at any local time, with its reason and its place."""
    counters = Counters()
    counters.drop("expired", "chat!x")
    assert counters.has_news
    assert counters.warning(0.0) == "messages dropped: 1 expired; most on chat!x (1); 1 in all since the start"
    assert counters.warning(1e9) is None


def test_later_losses_are_told_at_most_once_a_minute() -> None:
    """For a minute after a warning losses are only counted; then one line tells of all of them."""
    counters = Counters()
    counters.drop("full", "a", 2)
    assert counters.warning(0.0) is not None
    for second in range(1, 60):
        counters.drop("full", "b")
        assert counters.has_news
        assert counters.warning(float(second)) is None
    assert counters.warning(60.0) == (
        "messages dropped since the last warning: 59 full; most on b (59); 61 in all since the start"
    )
    counters.drop("full", "b")
    assert counters.warning(119.9) is None
    assert counters.warning(120.0) is not None


def test_a_warning_sums_by_reason_and_names_the_three_worst_places() -> None:
    """Every reason is summed; of the places the three with the most losses are named, the worst first."""
    counters = Counters()
    counters.drop("full", "one", 1)
    counters.drop("full", "four", 4)
    counters.drop("expired", "three", 2)
    counters.drop("full", "three", 1)
    counters.drop("expired", "two", 2)
    assert counters.warning(0.0) == (
        "messages dropped: 4 expired, 6 full; most on four (4), three (3), two (2); 10 in all since the start"
    )


def test_the_worst_are_those_since_the_last_warning() -> None:
    """What was told is not told again: a place that lost much an hour ago is not among the worst of today."""
    counters = Counters()
    counters.drop("full", "old", 1000)
    counters.warning(0.0)
    counters.drop("full", "new")
    assert counters.warning(3600.0) == (
        "messages dropped since the last warning: 1 full; most on new (1); 1001 in all since the start"
    )


def test_losses_at_very_many_places_are_all_counted() -> None:
    """Only so many places are remembered, but every loss is in the totals."""
    counters = Counters()
    for number in range(5_000):
        counters.drop("full", f"chat!{number}")
    counters.drop("full", "chat!7", 10)
    warning = counters.warning(0.0)
    assert warning is not None
    assert "5010 full; most on chat!7 (11)," in warning
    assert counters.dropped == {"full": 5010}


def test_dropping_nothing_is_no_news() -> None:
    """A loss of no messages, as a difference may turn out to be, is no loss and no reason to warn."""
    counters = Counters()
    counters.drop("expired", "chat", 0)
    assert not counters.has_news
    assert counters.warning(0.0) is None
    assert counters.counts(0).dropped == {}


def test_counts_are_a_snapshot() -> None:
    """Counts hold every counter as it stood, and do not move on with the counters."""
    counters = Counters()
    counters.sent, counters.refused, counters.expanded, counters.delivered = 1, 2, 3, 4
    counters.drop("flushed", "chat", 5)
    taken = counters.counts(6)
    counters.sent = 100
    counters.drop("flushed", "chat")
    counters.drop("closed", "chat")
    assert taken == Counts(sent=1, refused=2, expanded=3, delivered=4, dropped={"flushed": 5}, waiting=6)


def test_counts_start_at_zero_and_cannot_be_changed() -> None:
    """A new counters has counted nothing, and what it hands out is frozen."""
    nothing = Counters().counts(0)
    assert nothing == Counts()
    with pytest.raises(dataclasses.FrozenInstanceError):
        nothing.__setattr__("sent", 1)


def test_a_pending_counts_is_handed_over_once() -> None:
    """What a pending_counts has counted of each queue is taken from it as one sum, and is not in it any more."""
    pending_counts = PendingCounts()
    assert not pending_counts
    pending_counts.add("jobs", 1)
    pending_counts.add("chat.x!", 2)
    pending_counts.add("jobs", 3, 4)
    assert pending_counts
    assert pending_counts.take() == (("jobs", 4, 4), ("chat.x!", 2, 0))
    assert not pending_counts
    assert pending_counts.take() == ()


def test_a_pending_counts_counts_answers_together() -> None:
    """Single-reader channels that begin alike are one family: there is one for each answer."""
    pending_counts = PendingCounts()
    for name in ("reply?x", "reply?y", "other?x", "jobs", "chat.x!"):
        pending_counts.count(Queue.named(name), 1, 1)
    assert pending_counts.take() == (("reply?", 2, 2), ("other?", 1, 1), ("jobs", 1, 1), ("chat.x!", 1, 1))


def test_a_pending_counts_of_very_many_queues_loses_no_message() -> None:
    """Of more than 1 000 queues a pending_counts keeps 1 000 apart; the rest is in the sum, under no name."""
    pending_counts = PendingCounts()
    for n in range(1_003):
        pending_counts.add(f"queue{n}", 1, 2)
    pending_counts.add("queue0", 1)
    counts = pending_counts.take()
    assert len(counts) == 1_001
    assert counts[0] == ("queue0", 2, 2)
    assert counts[-1] == ("", 3, 6)


def test_statistics_are_the_dict_of_the_specification() -> None:
    """As a dict they have the names of ASGI-1, and leave out what a store cannot tell."""
    known = Statistics(6, 0.1, 2, 1.5, 1, 0.0)
    assert known.as_dict() == {
        "messages_count": 6,
        "messages_count_per_second": 0.1,
        "messages_pending": 2,
        "messages_max_age": 1.5,
        "channel_full_count": 1,
        "channel_full_count_per_second": 0.0,
    }
    assert known.as_dict().keys() - Statistics(6, 0.1, None, None, 1, 0.0).as_dict().keys() == {
        "messages_pending",
        "messages_max_age",
    }
