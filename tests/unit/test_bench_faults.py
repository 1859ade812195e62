"""The checkers of the benchmark find every loss, every duplicate and every message out of order, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer_bench.context import wait_for
from channel_layer_bench.faults import Faults, Receipts, SequenceChecker


def _checked(numbers: list[int]) -> SequenceChecker:
    checker = SequenceChecker()
    for number in numbers:
        checker.add(number)
    return checker


@given(st.integers(0, 50))
def test_a_right_layer_has_no_faults(count: int) -> None:
    """All messages, once each and in order, are none."""
    faults = _checked(list(range(count))).faults(count)
    assert not faults
    assert faults.sent == count


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(13, 15))
def test_the_counts_are_exact(numbers: list[int], sent: int) -> None:
    """Whatever comes, in whatever order: what is missing, repeated or late is counted by plain counting."""
    checker, late, highest = _checked(numbers), 0, -1
    for place, number in enumerate(numbers):
        late += number < highest and number not in numbers[:place]
        highest = max(highest, number)
    different = set(numbers)
    assert checker.received == len(different)
    assert checker.faults(sent) == Faults(sent, sent - len(different), len(numbers) - len(different), late)


def test_a_message_that_nobody_sent_counts_as_doubled() -> None:
    """More messages than were sent is a fault too."""
    assert _checked([0, 1, 2]).faults(2) == Faults(2, doubled=1)


def test_a_message_at_the_wrong_place_is_disorder() -> None:
    """What belongs to another channel is noticed even if nothing is missing."""
    checks = Receipts(2)
    checks.checkers[1].misdelivered()
    assert checks.faults([0, 0]) == Faults(0, disordered=1)


def test_a_message_without_its_number_is_an_error() -> None:
    """A layer that changes messages is not counted, but stopped."""
    with pytest.raises(TypeError, match="came with the number None"):
        SequenceChecker().add(None)


async def test_duplicates_do_not_stand_in_for_what_is_missing() -> None:
    """A process counts different messages, of all its receivers together."""
    receipts = Receipts(2)
    for receiver, number in ((0, 0), (0, 0), (0, 0), (1, 0)):
        receipts.checkers[receiver].add(number)
    assert await receipts.received() == 2
    receipts.checkers[1].add(1)
    assert await receipts.received() == 3
    assert receipts.faults([1, 2]) == Faults(3, doubled=2)


def test_the_first_arrival_of_a_message_is_told_from_others() -> None:
    """Adding a message returns its number, also if it comes late, and -1 if it has come before."""
    checker = SequenceChecker()
    assert [checker.add(number) for number in (1, 0, 1, 2)] == [1, 0, -1, 2]


async def test_a_wait_ends_when_all_is_there_or_nothing_comes() -> None:
    """What is waited for is looked at until it is enough, or has not changed for so long."""
    counts = iter(range(10))

    async def arriving() -> int:
        return next(counts)

    async def stuck() -> int:
        return 3

    assert await wait_for(arriving, 5, 1.0) == 5
    assert await wait_for(stuck, 5, 0.05) == 3


@pytest.mark.parametrize(
    ("faults", "text"),
    [
        (Faults(9), "none"),
        (Faults(9000, lost=12), "lost 12 of 9000"),
        (Faults(9, lost=1, doubled=2, disordered=3), "lost 1, doubled 2, disordered 3 of 9"),
    ],
)
def test_faults_are_said_in_words(faults: Faults, text: str) -> None:
    """What went wrong can be read off the table."""
    assert str(faults) == text
