"""The grammar of names, against a second reading of the specification that shares no code with the first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain.names import LOCAL_LENGTH, MAX_NAME_LENGTH, ChannelName, GroupName, Kind, owned_inbox
from channel_layer.errors import InvalidName
from channel_layer.testing.strategies import (
    channel_names,
    group_names,
    inbox_names,
    near_names,
    normal_names,
    process_names,
    single_reader_names,
)

PLAIN = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


def is_group(text: str) -> bool:
    """Read the grammar of groups character by character."""
    return 0 < len(text) < 101 and all(character in PLAIN for character in text)


def is_channel(text: str) -> bool:
    """Read the grammar of channels character by character."""
    marks = 0
    for place, character in enumerate(text):
        if character in {"?", "!"} and place > 0:
            marks += 1
        elif character not in PLAIN:
            return False
    return 0 < len(text) < 101 and marks < 2 and text[-1] != "!"


@given(near_names())
def test_a_channel_name_is_accepted_exactly_where_the_grammar_allows_it(text: str) -> None:
    """For any text, `ChannelName.parse` agrees with a reading of the grammar character by character."""
    if is_channel(text):
        assert ChannelName.parse(text).name == text
    else:
        with pytest.raises(InvalidName):
            ChannelName.parse(text)


@given(near_names())
def test_a_group_name_is_accepted_exactly_where_the_grammar_allows_it(text: str) -> None:
    """For any text, `GroupName.parse` agrees with a reading of the grammar character by character."""
    if is_group(text):
        assert GroupName.parse(text).name == text
    else:
        with pytest.raises(InvalidName):
            GroupName.parse(text)


@given(st.one_of(channel_names(), group_names()))
def test_the_strategies_draw_valid_names(text: str) -> None:
    """What the shared strategies call a valid name is one, so that no test that uses them is vacuous."""
    assert is_channel(text)


@given(normal_names())
def test_a_normal_channel_is_its_own_queue(text: str) -> None:
    """A name without a mark waits in a queue of the same name."""
    channel = ChannelName.parse(text)
    assert (channel.queue.name, channel.queue.kind) == (text, Kind.NORMAL)


@given(single_reader_names())
def test_a_single_reader_channel_is_its_own_queue(text: str) -> None:
    """A name with a question mark waits in a queue of the same name, local part included."""
    channel = ChannelName.parse(text)
    assert (channel.queue.name, channel.queue.kind) == (text, Kind.SINGLE_READER)


@given(st.data(), inbox_names())
def test_channels_of_one_process_share_one_queue(data: st.DataObject, inbox: str) -> None:
    """Whatever stands after the exclamation mark, the queue is what stands before it, the mark included."""
    one, other = (ChannelName.parse(data.draw(process_names(st.just(inbox)))) for _ in range(2))
    assert one.queue == other.queue
    assert (one.queue.name, one.queue.kind) == (inbox, Kind.INBOX)


@given(st.text("abc-_.9", min_size=1, max_size=110), st.text("xyz0", min_size=8, max_size=24))
def test_a_owned_inbox_has_room_for_its_channels_or_is_refused(prefix: str, client: str) -> None:
    """With a local part of the fixed length it is a valid name; a prefix too long for that is refused."""
    longest = f"{prefix}.{client}!" + "x" * LOCAL_LENGTH
    if len(longest) <= MAX_NAME_LENGTH:
        inbox = owned_inbox(prefix, client)
        assert ChannelName.parse(longest).queue == inbox
    else:
        with pytest.raises(InvalidName):
            owned_inbox(prefix, client)
