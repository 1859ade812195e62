"""Messages and frames: any message makes the trip unharmed, and no bytes whatever break their reader."""

from __future__ import annotations

import datetime as dt
import decimal
import struct
from typing import TYPE_CHECKING, TypeAlias

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer.domain import frames as envelope
from channel_layer.domain.codec import MsgpackCodec
from channel_layer.domain.frames import BadFrame, GroupFrame, MembershipMarker
from channel_layer.errors import InvalidMessage, MessageTooLarge
from channel_layer.testing.strategies import (
    channel_names,
    group_names,
    messages,
    process_names,
    sendable_messages,
    values,
)

if TYPE_CHECKING:
    from channel_layer.domain.codec import Value
    from channel_layer.testing.strategies import Sendable

Read: TypeAlias = tuple[str, bytes] | GroupFrame | MembershipMarker | str

CODEC = MsgpackCodec(1 << 24)


def exactly(value: object) -> object:
    """Return what is equal only for values of the same types; zeros have a sign and NaN has its bits."""
    if isinstance(value, float):
        return "float", struct.pack(">d", value)
    if isinstance(value, (list, tuple)):
        items: list[object] = [*value]
        return "list", [exactly(item) for item in items]
    if isinstance(value, dict):
        pairs: list[tuple[object, object]] = [*value.items()]
        return "dict", [(key, exactly(item)) for key, item in pairs]
    return type(value).__name__, value


# -- messages


@given(sendable_messages())
def test_any_message_arrives_as_it_was_sent(message: dict[str, Sendable]) -> None:
    """Values, types, keys and their order survive the trip; tuples arrive as lists."""
    arrived = CODEC.decode(CODEC.encode(message))
    assert type(arrived) is dict
    assert exactly(arrived) == exactly(message)
    assert not any(isinstance(value, tuple) for value in arrived.values())


@given(sendable_messages())
def test_the_callers_message_and_the_recipients_share_nothing(message: dict[str, Sendable]) -> None:
    """Changing the message after the send changes nothing, and each recipient has a message of its own."""
    before = exactly(message)
    payload = CODEC.encode(message)
    assert exactly(message) == before
    scramble(message)
    first = CODEC.decode(payload)
    assert exactly(first) == before
    scramble(first)
    assert exactly(CODEC.decode(payload)) == before


def scramble(value: object) -> None:
    """Change every list and dict inside a value."""
    if isinstance(value, (list, tuple)):
        items: list[object] = [*value]
        for item in items:
            scramble(item)
    if isinstance(value, list):
        value[:0] = ["scrambled"]
    if isinstance(value, dict):
        inner: list[object] = [*value.values()]
        for item in inner:
            scramble(item)
        value["scrambled"] = True


@given(messages())
def test_the_size_limit_is_that_of_the_encoded_message(message: dict[str, Value]) -> None:
    """A limit of exactly the size lets a message pass, one byte less refuses it and tells both numbers."""
    size = len(msgpack.packb(message))
    MsgpackCodec(size).encode(message)
    with pytest.raises(MessageTooLarge) as caught:
        MsgpackCodec(size - 1).encode(message)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)


SOUND: st.SearchStrategy[object] = st.sampled_from([1, "x", b"x", None, 0.5, ["x", {"y": (2,)}], {"x": []}])

KEYS = st.text("abc", min_size=1, max_size=5)


@st.composite
def spoiled_messages(draw: st.DrawFn) -> tuple[dict[str, object], str]:
    """Draw a message with one value that may not be sent, and the path of that value."""
    spoiled: object = draw(
        st.sampled_from([object(), {1}, bytearray(b"x"), 2**63, -(2**63) - 1, 1j, "\udfff", decimal.Decimal(1)])
        | st.dates()
    )
    path = ""
    for wrap in draw(st.lists(st.sampled_from(["list", "tuple", "dict"]), max_size=5)):
        before, after = draw(st.lists(SOUND, max_size=2)), draw(st.lists(SOUND, max_size=2))
        if wrap == "dict":
            spoiled, key = wrapped(before, draw(KEYS), spoiled)
            path = f'["{key}"]{path}'
        else:
            items = [*before, spoiled, *after]
            spoiled = items if wrap == "list" else tuple(items)
            path = f"[{len(before)}]{path}"
    message, key = wrapped(draw(st.lists(SOUND, max_size=2)), draw(KEYS), spoiled)
    return message, f'["{key}"]{path}'


def wrapped(before: list[object], key: str, value: object) -> tuple[dict[str, object], str]:
    """Return a dict that holds a value among others, and the value's key."""
    return {**{str(place): item for place, item in enumerate(before)}, key: value, "after": "x"}, key


@given(spoiled_messages())
def test_a_value_that_may_not_be_sent_is_refused_with_its_exact_path(
    spoiled: tuple[dict[str, object], str],
) -> None:
    """Wherever it hides, the error starts with the path of the one value that is wrong."""
    message, path = spoiled
    with pytest.raises(InvalidMessage) as caught:
        CODEC.encode(message)
    assert str(caught.value).startswith(f"message{path}: ")


# -- bytes that are not ours


def foreign() -> st.SearchStrategy[object]:
    """Return what msgpack can say, of which a message may hold only a part."""
    moments = st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2200, 1, 1))  # noqa: DTZ001
    leaves: st.SearchStrategy[object] = st.one_of(
        values(),
        st.integers(2**63, 2**64 - 1),
        st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4)),
        moments.map(lambda moment: msgpack.Timestamp.from_datetime(moment.replace(tzinfo=dt.UTC))),
    )
    keys = st.one_of(st.text(max_size=3), st.binary(max_size=3), st.integers(0, 300), st.none())
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.dictionaries(keys, inner, max_size=3).map(lambda held: {"k": held, **held}),
        ),
        max_leaves=8,
    )


@st.composite
def mutated(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw valid bytes with some of them cut off, changed, dropped or put in."""
    data = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        stop = draw(st.integers(start, min(start + 4, len(data))))
        wound = draw(st.sampled_from(["cut", "drop", "change", "add"]))
        if wound == "cut":
            data = data[:start]
        else:
            patch = b"" if wound == "drop" else draw(st.binary(min_size=1, max_size=4))
            data = data[:start] + patch + data[start if wound == "add" else stop :]
    return data


@given(
    st.one_of(
        st.binary(max_size=40),
        st.binary(max_size=40).map(lambda data: b"\x01" + data),
        foreign().map(lambda held: b"\x01" + msgpack.packb(held)),
        mutated(messages().map(CODEC.encode)),
    )
)
def test_any_bytes_are_a_message_or_a_bad_frame(payload: bytes) -> None:
    """Decoding raises nothing but `BadFrame`; what it lets through could have been sent by this library."""
    try:
        message = CODEC.decode(payload)
    except BadFrame:
        return
    assert exactly(CODEC.decode(CODEC.encode(message))) == exactly(message)


# -- frames

NUMBERS = st.one_of(st.integers(0, 2**53), st.just(2**63 - 1))
GENERATIONS = st.text("0123456789abcdef-", min_size=1, max_size=32)
PAYLOADS = st.binary(max_size=30)


def group_frames() -> st.SearchStrategy[GroupFrame]:
    """Return messages to groups, with extra_recipients of one inbox."""
    extra_recipients = st.lists(process_names(st.just("specific.k7!")), max_size=4).map(tuple)
    return st.builds(GroupFrame, group_names(), extra_recipients, PAYLOADS)


def markers() -> st.SearchStrategy[MembershipMarker]:
    """Return membership markers."""
    return st.builds(MembershipMarker, group_names(), channel_names(), st.booleans(), NUMBERS, NUMBERS)


def frames() -> st.SearchStrategy[bytes]:
    """Return valid frames of every kind."""
    return st.one_of(
        st.builds(envelope.message_frame, channel_names(), PAYLOADS),
        st.builds(envelope.group_frame, group_names(), st.lists(process_names(), max_size=4), PAYLOADS),
        markers().map(envelope.marker_frame),
        GENERATIONS.map(envelope.flush_frame),
    )


def written(held: Read) -> bytes:
    """Write what was read as a frame."""
    match held:
        case GroupFrame(group, extra_recipients, payload):
            return envelope.group_frame(group, extra_recipients, payload)
        case MembershipMarker():
            return envelope.marker_frame(held)
        case str():
            return envelope.flush_frame(held)
        case (channel, payload):
            return envelope.message_frame(channel, payload)


@given(channel_names(), PAYLOADS)
def test_a_message_frame_is_read_back(channel: str, payload: bytes) -> None:
    """Channel and payload come back, whatever bytes the payload holds."""
    assert envelope.read_message(envelope.message_frame(channel, payload)) == (channel, payload)


@given(group_frames())
def test_a_group_frame_is_read_back(frame: GroupFrame) -> None:
    """Group, extra_recipients and payload come back, without extra_recipients too."""
    assert envelope.read_group(written(frame)) == frame


@given(markers())
def test_a_marker_is_read_back(marker: MembershipMarker) -> None:
    """Every field of a membership marker comes back."""
    assert envelope.read_marker(written(marker)) == marker


@given(GENERATIONS)
def test_a_flush_marker_is_read_back(generation: str) -> None:
    """The generation of a flush comes back."""
    assert envelope.read_flush(written(generation)) == generation


@given(st.one_of(frames(), mutated(frames()), st.binary(max_size=300)))
def test_any_bytes_are_a_frame_of_one_kind_or_a_bad_frame(data: bytes) -> None:
    """One reader at most accepts; the others raise `BadFrame`. What is accepted can be written again."""
    accepted = 0
    for read in (envelope.read_message, envelope.read_group, envelope.read_marker, envelope.read_flush):
        try:
            held: Read = read(data)
        except BadFrame:
            continue
        accepted += 1
        again: Read = read(written(held))
        assert again == held
        if not isinstance(held, MembershipMarker):  # whose numbers may have leading zeros
            assert written(held) == data
    assert accepted <= 1


@given(frames())
def test_the_strategies_draw_valid_frames(data: bytes) -> None:
    """Exactly one reader accepts a valid frame, so that the test above is not vacuous."""
    kinds = {
        envelope.MESSAGE: envelope.read_message,
        envelope.GROUP: envelope.read_group,
        envelope.JOIN: envelope.read_marker,
        envelope.LEAVE: envelope.read_marker,
        envelope.FLUSH: envelope.read_flush,
    }
    assert kinds[data[0]](data) is not None
