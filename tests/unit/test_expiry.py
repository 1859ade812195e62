"""The store's clock as a process sees it: worked examples, in seconds."""

from __future__ import annotations

import pytest

from channel_layer.domain.expiry import LEASE_FACTOR, RENEWALS_PER_EXPIRY, StoreClock

EPOCH = 1_700_000_000.0
CLOSE = 1e-6
"""Seconds: floats of the size of a Unix time are a quarter of a microsecond apart."""


def near(seconds: float) -> object:
    """Return what equals *seconds* to within the grain of a float."""
    return pytest.approx(seconds, abs=CLOSE, rel=0)


def test_nothing_is_known_before_the_first_reply() -> None:
    """A clock that never heard its store says so, and calls nothing too old."""
    clock = StoreClock()
    assert not clock.known
    assert clock.latest(1_000.0) == 0.0
    clock.observe(10.0, 10.2, EPOCH)
    assert clock.known


def test_a_reply_narrows_the_time_to_its_round_trip() -> None:
    """The latest is as if the store had answered at once, the best guess half a round trip before that."""
    clock = StoreClock()
    clock.observe(10.0, 10.2, EPOCH)
    assert clock.latest(10.2) == pytest.approx(EPOCH + 0.2, abs=1e-4, rel=0)
    assert clock.middle(10.2) == pytest.approx(EPOCH + 0.1, abs=1e-4, rel=0)


def test_a_drift_of_200_ppm_is_allowed_for() -> None:
    """Each second since the request went out adds 200 µs to the latest time, within the round trip too."""
    clock = StoreClock()
    clock.observe(10.0, 11.0, EPOCH)
    assert clock.latest(11.0) == near(EPOCH + 1.0 + 200e-6)
    assert clock.latest(61.0) == near(EPOCH + 51.0 + 51 * 200e-6)


def test_a_slow_reply_does_not_spoil_what_a_quick_one_told() -> None:
    """Of two replies that agree, the tighter one counts, but for the drift since."""
    clock = StoreClock()
    clock.observe(10.0, 10.002, EPOCH)
    clock.observe(11.0, 15.0, EPOCH + 2.0)
    assert clock.latest(15.0) == pytest.approx(EPOCH + 5.0, abs=0.0031, rel=0)
    assert clock.latest(15.0) >= EPOCH + 5.0


def test_a_quick_reply_narrows_what_a_slow_one_told() -> None:
    """The clock gets better as soon as a better reply comes."""
    clock = StoreClock()
    clock.observe(10.0, 14.0, EPOCH + 1.0)
    assert clock.latest(14.0) > EPOCH + 4.9
    clock.observe(14.0, 14.002, EPOCH + 4.001)
    assert clock.latest(14.002) == pytest.approx(EPOCH + 4.003, abs=1e-5, rel=0)


@pytest.mark.parametrize("step", [-86_400.0, -1.0, 1.0, 86_400.0])
def test_a_step_of_the_stores_clock_is_followed_at_once(step: float) -> None:
    """After one reply from a clock that was set, nothing is left of what was believed before."""
    clock = StoreClock()
    for second in range(10):
        clock.observe(10.0 + second, 10.002 + second, EPOCH + second + 0.001)
    clock.observe(20.0, 20.002, EPOCH + 10.001 + step)
    assert clock.latest(20.002) == pytest.approx(EPOCH + 10.003 + step, abs=1e-5, rel=0)


def test_replies_seen_out_of_order_keep_the_bound() -> None:
    """A reply that came earlier, but is reported later, does not make the clock fall behind."""
    clock = StoreClock()
    drift = 150e-6
    clock.observe(1_000.0, 1_000.0, EPOCH)
    clock.observe(0.0, 0.0, EPOCH - 1_000 * (1 + drift))
    assert clock.latest(2_000.0) >= EPOCH + 1_000 * (1 + drift) - CLOSE


def test_a_lease_survives_two_missed_renewals() -> None:
    """The third renewal since the last that went through is due no later than the end of the lease."""
    assert LEASE_FACTOR * RENEWALS_PER_EXPIRY >= 3
