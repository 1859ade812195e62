"""The store's clock: whatever the delays, the drift and the steps, never behind and never far ahead."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.expiry import StoreClock

PPM = 1e-6
GRAIN = 2e-6
"""Seconds that rounding may cost: a Unix time as a float has a grain of a quarter of a microsecond."""


@dataclass(frozen=True)
class Exchange:
    """A request and its reply, in local seconds."""

    sent: float
    answered: float
    received: float

    @property
    def round_trip(self) -> float:
        """Seconds from the request to the reply."""
        return self.received - self.sent


@dataclass(frozen=True)
class World:
    """A store's clock that starts at some time and runs apart from the local one at a fixed rate."""

    start: float
    rate: float

    def time(self, local: float) -> float:
        """Return what the store's clock really shows."""
        return self.start + local * (1 + self.rate)


def worlds() -> st.SearchStrategy[World]:
    """Return stores whose clocks drift by up to 200 ppm from the local one."""
    return st.builds(World, st.floats(0, 2e9), st.floats(-200 * PPM, 200 * PPM))


@st.composite
def exchanges(draw: st.DrawFn, quickest: float = 0.0) -> list[Exchange]:
    """Draw some requests and replies, one after the other, with delays up to five seconds each way.

    Args:
        draw: given by Hypothesis.
        quickest: seconds that each way takes at least.
    """
    delays = st.one_of(st.floats(quickest, 5), st.floats(quickest, 0.001))
    now, result = draw(st.floats(0, 100)), list[Exchange]()
    for _ in range(draw(st.integers(1, 8))):
        sent = now + draw(st.one_of(st.just(0.0), st.floats(0, 600)))
        answered = sent + draw(delays)
        received = answered + draw(delays)
        result.append(Exchange(sent, answered, received))
        now = received
    return result


def observe(clock: StoreClock, world: World, exchange: Exchange) -> None:
    """Let a clock see one exchange with the store of a world."""
    clock.observe(exchange.sent, exchange.received, world.time(exchange.answered))


# Replies as quick as the grain of a float would leave it to rounding whether two of them agree.
@given(worlds(), exchanges(quickest=10e-6), st.floats(0, 3600))
def test_the_latest_time_is_never_behind_and_ahead_by_the_best_round_trip_and_the_drift(
    world: World, seen: list[Exchange], later: float
) -> None:
    """However old the last reply is, `latest` is late, by no more than the best of all replies allows."""
    clock = StoreClock()
    for count, exchange in enumerate(seen, 1):
        observe(clock, world, exchange)
        for local in (exchange.received, exchange.received + later):
            ahead = clock.latest(local) - world.time(local)
            best = min(past.round_trip + 400 * PPM * (local - past.sent) for past in seen[:count])
            assert -GRAIN <= ahead <= best + GRAIN


@given(worlds(), exchanges(), st.floats(0, 3600))
def test_the_best_guess_is_off_by_half_a_round_trip_and_the_drift(
    world: World, seen: list[Exchange], later: float
) -> None:
    """`middle` misses the truth by no more than half the last round trip, but for the drift since."""
    clock = StoreClock()
    for exchange in seen:
        observe(clock, world, exchange)
    local = seen[-1].received + later
    bound = seen[-1].round_trip / 2 + 400 * PPM * (local - seen[-1].sent) + GRAIN
    assert abs(clock.middle(local) - world.time(local)) <= bound


@given(st.data(), worlds(), exchanges())
def test_the_order_in_which_replies_are_reported_does_not_break_the_bound(
    data: st.DataObject, world: World, seen: list[Exchange]
) -> None:
    """Replies of several event loops may be reported in any order; `latest` is never behind."""
    clock = StoreClock()
    for exchange in data.draw(st.permutations(seen)):
        observe(clock, world, exchange)
        for local in (exchange.received, seen[-1].received):
            assert clock.latest(local) >= world.time(local) - GRAIN


@given(worlds(), exchanges(), st.floats(-1e6, 1e6))
def test_a_step_of_the_stores_clock_is_followed_after_one_reply(
    world: World, seen: list[Exchange], step: float
) -> None:
    """The first reply after a step brings the clock to within its round trip of the new truth.

    It is on the late side, as always, unless the step was too small to be told from the delays.
    """
    clock = StoreClock()
    for exchange in seen[:-1]:
        observe(clock, world, exchange)
    last, stepped = seen[-1], World(world.start + step, world.rate)
    observe(clock, stepped, last)
    ahead = clock.latest(last.received) - stepped.time(last.received)
    slack = 400 * PPM * (last.received - seen[0].sent) + GRAIN
    assert -last.round_trip - slack <= ahead <= last.round_trip + slack
    if abs(step) > 2 * max(exchange.round_trip for exchange in seen) + slack:
        assert ahead >= -GRAIN
