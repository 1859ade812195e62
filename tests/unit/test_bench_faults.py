"""The books of the benchmark find every loss, every duplicate and every message out of order, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer_cli.bench.faults import Book, Faults, Tally


def _tally(numbers: list[int]) -> Tally:
    tally = Tally()
    for number in numbers:
        tally.add(number)
    return tally


@given(st.integers(0, 50))
def test_a_right_layer_has_no_faults(count: int) -> None:
    """All messages, once each and in order, are none."""
    faults = _tally(list(range(count))).faults(count)
    assert not faults
    assert faults.sent == count


@given(st.lists(st.integers(0, 12), max_size=30), st.integers(13, 15))
def test_the_counts_are_exact(numbers: list[int], sent: int) -> None:
    """Whatever comes, in whatever order: what is missing, repeated or late is counted by plain counting."""
    tally, late, highest = _tally(numbers), 0, -1
    for place, number in enumerate(numbers):
        late += number < highest and number not in numbers[:place]
        highest = max(highest, number)
    different = set(numbers)
    assert tally.received == len(different)
    assert tally.faults(sent) == Faults(sent, sent - len(different), len(numbers) - len(different), late)


def test_a_message_that_nobody_sent_counts_as_doubled() -> None:
    """More messages than were sent is a fault too."""
    assert _tally([0, 1, 2]).faults(2) == Faults(2, doubled=1)


def test_a_message_at_the_wrong_place_is_disorder() -> None:
    """What belongs to another channel is noticed even if nothing is missing."""
    book = Book(2)
    book.stray(1)
    assert book.faults([0, 0]) == Faults(0, disordered=1)


def test_a_message_without_its_number_is_an_error() -> None:
    """A layer that changes messages is not counted, but stopped."""
    with pytest.raises(TypeError, match="came with the number None"):
        Tally().add(None)


def test_a_book_knows_when_all_have_come() -> None:
    """It says so with the message that makes it complete, and duplicates do not stand in for what is missing."""
    book = Book(2)
    assert not book.enter(0, 0)
    assert not book.expect(3)
    assert not book.enter(0, 0)
    assert not book.enter(0, 0)
    assert not book.enter(1, 0)
    assert book.enter(1, 1)
    assert book.faults([1, 2]) == Faults(3, doubled=2)


def test_a_book_knows_that_all_had_come_before() -> None:
    """If the number is told after the last message, the telling says so."""
    book = Book(1)
    book.enter(0, 0)
    assert book.expect(1)


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
