"""The checkers of the benchmark find every loss, every duplicate and every message out of order, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer_bench.faults import Faults, ReceiverChecks, SequenceChecker


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
    checks = ReceiverChecks(2)
    checks.misdelivered(1)
    assert checks.faults([0, 0]) == Faults(0, disordered=1)


def test_a_message_without_its_number_is_an_error() -> None:
    """A layer that changes messages is not counted, but stopped."""
    with pytest.raises(TypeError, match="came with the number None"):
        SequenceChecker().add(None)


def test_a_book_knows_when_all_have_come() -> None:
    """It says so with the message that makes it complete, and duplicates do not stand in for what is missing."""
    checks = ReceiverChecks(2)
    assert not checks.add(0, 0)
    assert not checks.expect(3)
    assert not checks.add(0, 0)
    assert not checks.add(0, 0)
    assert not checks.add(1, 0)
    assert checks.add(1, 1)
    assert checks.faults([1, 2]) == Faults(3, doubled=2)


def test_a_book_knows_that_all_had_come_before() -> None:
    """If the number is told after the last message, the telling says so."""
    checks = ReceiverChecks(1)
    checks.add(0, 0)
    assert checks.expect(1)


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
