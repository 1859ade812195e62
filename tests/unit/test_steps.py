"""Steps of operations: how typed replies are got, and how several operations run side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.errors import StoreError
from channel_layer.operations.steps import Sleep, execute, execute_all, run_together
from tests.support.operations import play, together

if TYPE_CHECKING:
    from channel_layer.operations.steps import Operation

JOBS = ChannelName.parse("jobs")


def pending(shard: int) -> c.Pending:
    """Ask a shard for a number."""
    return c.Pending(shard, JOBS)


def away(text: str = "away") -> StoreError:
    """Return the error of a store that cannot be reached."""
    return StoreError(text, retryable=True, outcome="unknown")


def count(*shards: int) -> Operation[int]:
    """Ask some shards, one after the other, and add up what they reply."""
    total = 0
    for shard in shards:
        total += yield from execute(pending(shard))
    return total


# -- execute_all


def test_commands_asked_together_reply_in_their_order() -> None:
    """Several commands are one step, and their replies are returned in the order of the commands."""
    asking = execute_all([pending(0), pending(1), pending(2)])
    assert play(asking, (together(pending(0), pending(1), pending(2)), [5, 6, 7])) == [5, 6, 7]


def test_no_commands_are_no_step() -> None:
    """Without commands there is nothing to ask a store for."""
    assert play(execute_all(list[c.Pending]())) == []


def test_the_first_failure_of_several_commands_is_raised() -> None:
    """If commands that were asked together fail, the error of the first of them is raised."""
    asking = execute_all([pending(0), pending(1), pending(2)])
    with pytest.raises(StoreError, match="first"):
        play(asking, (together(pending(0), pending(1), pending(2)), [1, away("first"), away("second")]))


# -- run_together


def test_operations_share_a_step_in_each_round() -> None:
    """What operations ask for goes out together, round by round; each gets its own replies, and ends by itself."""
    both = execute_all([pending(7), pending(8)])
    outcomes = play(
        run_together([count(0, 1, 2), count(3), count(4, 5)]),
        (together(pending(0), pending(3), pending(4)), [1, 10, 100]),
        (together(pending(1), pending(5)), [2, 200]),
        (together(pending(2)), [3]),
    )
    assert outcomes == [6, 10, 300]
    lists = play(run_together([both]), (together(pending(7), pending(8)), [1, 2]))
    assert lists == [[1, 2]]


def test_an_operation_that_asks_for_several_commands_keeps_them_apart() -> None:
    """An operation with several commands in one step gets a list of replies, beside others that ask for one."""

    def several() -> Operation[int]:
        first = yield from execute_all([pending(1), pending(2)])
        return 10 * sum(first) + (yield from execute(pending(3)))

    outcomes = play(
        run_together([count(0, 4), several()]),
        (together(pending(0), pending(1), pending(2)), [1, 2, 3]),
        (together(pending(4), pending(3)), [4, 5]),
    )
    assert outcomes == [5, 55]


def test_errors_stay_apart() -> None:
    """The error of one operation is its own outcome; the others go on and have theirs."""
    error, other = away(), away("another")

    def patient() -> Operation[int]:
        try:
            return (yield from execute(pending(1)))
        except StoreError:
            return (yield from execute(pending(2)))

    def wrong() -> Operation[int]:
        yield from execute(pending(3))
        raise ValueError("wrong")

    def several() -> Operation[int]:
        return sum((yield from execute_all([pending(4), pending(5)])))

    outcomes = play(
        run_together([count(0, 6), patient(), wrong(), several(), count(7)]),
        (
            together(pending(0), pending(1), pending(3), pending(4), pending(5), pending(7)),
            [error, away(), 1, 1, other, 9],
        ),
        (together(pending(2)), [2]),
    )
    assert outcomes[0] is error
    assert outcomes[1] == 2
    assert isinstance(outcomes[2], ValueError)
    assert outcomes[3] is other
    assert outcomes[4] == 9


def test_operations_that_ask_for_nothing_are_over_at_once() -> None:
    """Operations without a step need no round, and neither do no operations."""
    assert play(run_together([count(), count()])) == [0, 0]
    assert play(run_together(list["Operation[int]"]())) == []


def test_what_interrupts_a_round_ends_all() -> None:
    """A cancellation is no outcome of one operation: it is raised, and no operation goes on."""
    running = run_together([count(0, 1), count(2, 3)])
    next(running)
    with pytest.raises(KeyboardInterrupt):
        running.throw(KeyboardInterrupt)


def test_operations_side_by_side_cannot_sleep() -> None:
    """A step that is not a command is refused, whether it comes first or later, because it would hold up the others."""

    def sleep() -> Operation[int]:
        yield Sleep(2.0)
        return 0

    def later() -> Operation[int]:
        yield from execute(pending(0))
        yield Sleep(1.0)
        return 0

    with pytest.raises(TypeError, match=r"cannot ask for Sleep\(seconds=1.0\)"):
        play(run_together([count(1), later()]), (together(pending(1), pending(0)), [0, 0]))
    with pytest.raises(TypeError, match="cannot ask for Sleep"):
        next(run_together([sleep()]))
