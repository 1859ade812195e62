"""Counts over time: sums that stay, rates that forget, and lifetimes."""

from __future__ import annotations

from channel_layer.domain.rates import Meter, Meters, Rates


def test_a_meter_forgets_in_slices() -> None:
    """What was counted stays in the sum, and in the rate until its slice of ten seconds is over a minute old."""
    meter = Meter()
    meter.add(100.0, 3, 1)
    meter.add(109.9, 1, 0)
    assert meter.read(109.9) == Rates(4, 1, 4, 1, 69.9)
    assert meter.read(110.0) == Rates(4, 1, 4, 1, 60.0)
    assert meter.read(169.0).lately == 4
    assert meter.read(170.0) == Rates(4, 1, 0, 0, 60.0)
    meter.add(170.0, 2, 2)
    assert meter.read(171.0) == Rates(6, 3, 2, 2, 61.0)


def test_a_meter_keeps_few_slices() -> None:
    """However long it counts, a meter holds the slices of the last minute and the one that has begun."""
    meter = Meter()
    for second in range(0, 1_000, 5):
        meter.add(float(second), 1, 0)
    assert len(meter.slices) == 7
    assert meter.read(995.0).lately == 14


def test_meters_count_each_queue_and_all_of_them() -> None:
    """The sum of all is what it is told, names or not; a queue that nobody counts has had nothing."""
    meters = Meters(100.0, 100.0)
    meters.add(0.0, [("jobs", 2, 1), ("chat", 1, 0)], 5, 1)
    assert (meters.read(1.0, "jobs").messages, meters.read(1.0, "jobs").refused) == (2, 1)
    assert meters.read(1.0, "chat").messages == 1
    assert meters.read(1.0, None).messages == 5
    assert meters.read(1.0, "other") == Rates(0, 0, 0, 0, 61.0)
    meters.clear()
    assert meters.read(1.0, None).messages == meters.read(1.0, "jobs").messages == 0


def test_meters_end() -> None:
    """The count of a queue ends when it has not changed for its time, and that of all when none has for theirs."""
    meters = Meters(50.0, 20.0)
    meters.add(0.0, [("jobs", 1, 0), ("chat", 1, 0)], 2, 0)
    meters.add(19.0, [("jobs", 1, 0)], 1, 0)
    assert meters.read(20.0, "chat").messages == 0
    assert meters.read(38.9, "jobs").messages == 2
    meters.add(39.0, [("jobs", 1, 0)], 1, 0)
    assert meters.read(39.0, "jobs").messages == 1
    assert meters.read(88.9, None).messages == 4
    assert meters.read(89.0, None).messages == 0
    meters.add(89.0, (), 1, 0)
    assert meters.read(89.0, None).messages == 1


def test_meters_hold_no_more_than_what_is_used() -> None:
    """Queues that are counted once each do not pile up: whoever counts removes those whose time is over."""
    meters = Meters(1_000.0, 20.0)
    for second in range(1_000):
        meters.add(float(second), [(f"queue{second}", 1, 0)], 1, 0)
    assert len(meters._queues) == 20  # pyright: ignore[reportPrivateUsage] - what is kept is what this is about
    assert meters.read(999.0, None).messages == 1_000
