"""Messages and frames: what is refused, in which words, and the bytes that the Redis scripts write too."""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgpack
import pytest
from django.conf import settings
from django.http import QueryDict
from django.utils.datastructures import MultiValueDict

from channel_layer.domain import frames as envelope
from channel_layer.domain.codec import MsgpackCodec
from channel_layer.domain.frames import BadFrame, GroupFrame, MembershipMarker
from channel_layer.errors import InvalidMessage, MessageTooLarge
from tests.support.messages import spoil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CODEC = MsgpackCodec(1 << 20)


class Safe(str):  # noqa: SLOT000 - as in Django
    """A str whose str() is itself, as Django's SafeString."""

    def __str__(self) -> str:
        return self


class Label(str, enum.Enum):  # noqa: UP042 - the older spelling, which str() renders as Label.CHAT
    """A str that str() turns into something else."""

    CHAT = "chat"


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: int


Lazy = type("Lazy", (), {"__class__": property(lambda _: str)})
"""The type of objects that claim to be a str, as Django's lazy objects do."""


def nested(levels: int) -> dict[str, object]:
    """Return a message of lists in lists, with that many levels, its own included."""
    value: object = "x"
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


def refusal(message: object) -> str:
    """Return what the codec says about a message that it refuses."""
    with pytest.raises(InvalidMessage) as caught:
        CODEC.encode(message)
    return str(caught.value)


# -- messages: what is taken


def test_bytes_and_str_stay_apart() -> None:
    """What was bytes arrives as bytes and what was str as str, equal content or not."""
    assert CODEC.decode(CODEC.encode({"a": b"x", "b": "x"})) == {"a": b"x", "b": "x"}


def test_numbers_keep_their_type() -> None:
    """True is not 1 and 1 is not 1.0 after the trip; NaN, infinities and the sign of zero survive."""
    arrived = CODEC.decode(CODEC.encode({"v": [True, 1, 1.0, math.inf, -0.0, math.nan]}))["v"]
    assert isinstance(arrived, list)
    assert [type(value) for value in arrived] == [bool, int, float, float, float, float]
    assert arrived[:4] == [True, 1, 1.0, math.inf]
    assert repr(arrived[4:]) == "[-0.0, nan]"


def test_the_bounds_of_an_int_are_those_of_64_bits_signed() -> None:
    """The smallest and the largest int pass; one beyond either is refused, at the top and below."""
    low, high = -(2**63), 2**63 - 1
    assert CODEC.decode(CODEC.encode({"v": [low, high], "h": high})) == {"v": [low, high], "h": high}
    for value in (low - 1, high + 1, 10**5000):
        assert refusal({"v": value}) == 'message["v"]: an int that does not fit in 64 bits signed; send it as str'
        assert refusal({"v": [0, value]}).startswith('message["v"][1]: ')


def test_tuples_arrive_as_lists() -> None:
    """Tuples, named ones too, are taken at any depth and arrive as lists."""
    assert CODEC.decode(CODEC.encode({"t": (1, (2, [3])), "p": Point(4, 5)})) == {
        "t": [1, [2, [3]]],
        "p": [4, 5],
    }


@pytest.mark.parametrize("text", [Safe("chat"), Label.CHAT])
def test_subclasses_of_str_are_taken_by_value(text: str) -> None:
    """Safe strings and Enum members arrive as plain str, as values and as keys, at the top and below."""
    arrived = CODEC.decode(CODEC.encode({text: text, "in": {text: [text]}}))
    assert arrived == {"chat": "chat", "in": {"chat": ["chat"]}}
    assert {type(value) for value in (*arrived, arrived["chat"])} == {str}


def test_subclasses_of_the_other_types_are_taken_by_value() -> None:
    """IntEnum members, ordered and default dicts and the like arrive as the plain type."""

    class Level(enum.IntEnum):
        HIGH = 3

    counts: collections.defaultdict[str, object] = collections.defaultdict(int, c=1)
    ordered: collections.OrderedDict[str, object] = collections.OrderedDict(a=Level.HIGH, b=counts)
    arrived = CODEC.decode(CODEC.encode(ordered))
    assert arrived == {"a": 3, "b": {"c": 1}}
    assert (type(arrived), type(arrived["a"]), type(arrived["b"])) == (dict, int, dict)


class Lists(dict[str, list[str]]):
    """A dict of lists that has a method for the first of each, as Sanic's RequestParameters: ``items()`` shows all."""

    def getlist(self, key: str) -> list[str]:
        """Return all values of a key."""
        return self[key]


def test_a_dict_that_shows_all_it_holds_is_kept_whole() -> None:
    """Only mappings that hide values are refused: another method that returns a list does no harm."""
    assert CODEC.decode(CODEC.encode({"get": Lists(a=["1", "2"])})) == {"get": {"a": ["1", "2"]}}


def test_the_empty_message_passes() -> None:
    """A message without keys is a message."""
    assert CODEC.decode(CODEC.encode({})) == {}


def test_a_megabyte_of_json_passes_the_default_limit() -> None:
    """262 143 floats, 1.05 MB as JSON, are under 4 MiB when encoded, and arrive."""
    codec, message = MsgpackCodec(4 << 20), {"v": [number + 0.5 for number in range(262_143)]}
    assert codec.decode(codec.encode(message)) == message


# -- messages: what is refused


def query(text: str) -> QueryDict:
    """Return the query of a URL as Django's views get it."""
    if not settings.configured:
        settings.configure()
    return QueryDict(text)


class Pairs(Mapping[str, str]):
    """As multidict's MultiDict and Starlette's QueryParams: no dict, and a key may come twice."""

    def __getitem__(self, key: str) -> str:
        """Return a value."""
        return key

    def __iter__(self) -> Iterator[str]:
        """Return the keys."""
        return iter("aab")

    def __len__(self) -> int:
        """Return the number of pairs."""
        return 3

    def getall(self, key: str) -> list[str]:
        """Return all values of a key."""
        return [key]


@pytest.mark.parametrize(
    ("many", "method"),
    [
        (query("a=1&a=2"), "getlist"),
        (query("a=1"), "getlist"),
        (query(""), "getlist"),
        (MultiValueDict({"a": ["1", "2"]}), "getlist"),
        (Pairs(), "getall"),
    ],
)
def test_a_mapping_that_would_lose_values_is_refused(many: object, method: str) -> None:
    """A mapping of several values a key, of which one would be sent, is refused anywhere, whatever it holds now."""
    for message, place in (({"get": many}, '["get"]'), ({"all": [{"get": many}]}, '["all"][0]["get"]'), (many, "")):
        assert refusal(message) == (
            f"message{place}: {type(many).__name__} may hold several values of a key, of which only one would be sent; "
            f"send {{key: it.{method}(key) for key in it}} to keep all, or dict(it.items()) for one of each"
        )


def test_the_advice_for_a_mapping_of_several_values_is_right() -> None:
    """What the error advises keeps all values, or one of each."""
    it = query("a=1&a=2&b=3")
    assert CODEC.decode(CODEC.encode({key: it.getlist(key) for key in it})) == {"a": ["1", "2"], "b": ["3"]}
    assert CODEC.decode(CODEC.encode(dict(it.items()))) == {"a": "2", "b": "3"}


@pytest.mark.parametrize("message", [None, "x", b"x", 5, ["type"], [("type", "x")], object()])
def test_a_message_is_a_dict(message: object) -> None:
    """What is not a dict is refused by the name of its type."""
    assert refusal(message) == f"a message is a dict, not {type(message).__name__}"


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1},
        frozenset({1}),
        bytearray(b"x"),
        memoryview(b"x"),
        1j,
        decimal.Decimal(1),
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
        range(3),
        iter([1]),
        collections.deque([1]),
        collections.UserDict(a=1),
        msgpack.ExtType(5, b"x"),
        msgpack.Timestamp(1),
        print,
        int,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_of_another_type_is_refused_with_path_and_type(value: object) -> None:
    """A type that is not in the specification is refused where it stands, at the top and deep inside."""
    kind = type(value).__name__
    problem = f"{kind} is not one of bytes, str, int, float, bool, None, list, dict; convert it before sending"
    assert refusal({"a": "x", "b": value}) == f'message["b"]: {problem}'
    assert refusal({"a": {"b": ["x", (b"x", value)]}}) == f'message["a"]["b"][1][1]: {problem}'


@pytest.mark.parametrize("key", [1, None, b"k", ("k",), 1.5])
def test_a_key_that_is_no_str_is_refused_with_the_path_of_its_dict(key: object) -> None:
    """Keys are str in every dict of a message; the error tells which dict and which key."""
    problem = f"the key {key!r} is {type(key).__name__}; keys are str"
    assert refusal({key: "x"}) == f"message: {problem}"
    assert refusal({"a": [{"b": 1, key: 2}]}) == f'message["a"][0]: {problem}'


def test_a_lone_surrogate_is_refused_with_its_path() -> None:
    """Text that UTF-8 cannot say is refused when it is sent, as a value and as a key, where it stands."""
    assert refusal({"a": "fine", "b": "\ud800"}).startswith('message["b"]: ')
    assert refusal({"a": {"b": ["x", "\ud800"]}}).startswith('message["a"]["b"][1]: ')
    assert refusal({"a": [{"\ud800": "x"}]}).startswith('message["a"][0]: ')
    assert "surrogates not allowed" in refusal({"\ud800": "x"})


def test_an_object_that_claims_to_be_a_str_is_refused_with_its_path() -> None:
    """A lazy object passes isinstance(), but cannot be sent; it is refused as everything else is."""
    assert refusal({"a": ["x", Lazy()]}) == "message[\"a\"][1]: can not serialize 'Lazy' object"


def test_a_hundred_levels_pass_and_one_more_does_not() -> None:
    """The bound counts lists and dicts alike, the message itself included, be the innermost empty or not."""
    assert CODEC.decode(CODEC.encode(nested(100))) == nested(100)
    assert "more than 100 levels deep" in refusal(nested(101))
    hollow: dict[str, object] = {}
    for _ in range(99):
        hollow = {"a": hollow}
    assert CODEC.decode(CODEC.encode(hollow)) == hollow
    assert "more than 100 levels deep" in refusal({"a": hollow})


def test_what_contains_itself_is_refused() -> None:
    """A list or a dict that contains itself ends in an error, a short one, not in a RecursionError."""
    ring: list[object] = []
    ring.extend([1, ring, ring])
    loop: dict[str, object] = {"type": "x"}
    loop["loop"] = loop
    for message, start in (({"a": ring}, 'message["a"][1][1][1]'), (loop, 'message["loop"]["loop"]')):
        text = refusal(message)
        assert text.startswith(start)
        assert text.endswith("...: more than 100 levels deep; does a list or dict contain itself?")
        assert len(text) < 300


def test_a_refused_message_does_not_flood_the_log() -> None:
    """Endless keys and values stay out of the error's text."""
    for message in ({"k" * 10**6: object()}, {b"k" * 10**6: 1}, {"a": {"k" * 10**6: 2**64}}):
        assert len(refusal(message)) < 400


def test_the_size_limit_is_exact() -> None:
    """A message of exactly the limit passes; one byte more is refused, with both numbers."""
    size = len(msgpack.packb({"type": "x" * 100}))
    MsgpackCodec(size).encode({"type": "x" * 100})
    with pytest.raises(MessageTooLarge) as caught:
        MsgpackCodec(size).encode({"type": "x" * 101})
    assert (caught.value.size, caught.value.limit) == (size + 1, size)


# -- messages: what cannot be decoded


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x01",
        b"\x02\x80",
        b"\x80",
        b"\x01\x90",
        b"\x01\xc0",
        b"\x01\x80\x80",
        b"\x01\x81\xa1a",
        b"\x01\xc1",
        b"\x01\xdf\xff\xff\xff\xff",
        b"\x01\x81\xa1a\xdd\xff\xff\xff\xff",
        b"\x01\x81\xa1a\xa1\xff",
        b"\x01\x81\xa1a" + b"\x91" * 2000,
        b"\x01" + msgpack.packb({1: "x"}),
        b"\x01" + msgpack.packb({b"a": "x"}),
        b"\x01" + msgpack.packb({"a": {b"b": "x"}}),
        b"\x01" + msgpack.packb({"a": 2**63}),
        b"\x01" + msgpack.packb({"a": msgpack.ExtType(5, b"x")}),
        b"\x01" + msgpack.packb({"a": [msgpack.ExtType(5, b"x")]}),
        b"\x01" + msgpack.packb({"a": msgpack.Timestamp(1)}),
        b"\x01\x81\xa1a\xc7\x0c\xff" + b"\xff" * 12,
        b"\x01" + msgpack.packb(nested(101)),
    ],
    ids=lambda payload: payload[:12].hex() or "empty",
)
def test_bytes_that_are_no_message_are_a_bad_frame(payload: bytes) -> None:
    """Unknown formats, broken msgpack, and msgpack that holds what no message may: all are `BadFrame`."""
    with pytest.raises(BadFrame):
        CODEC.decode(payload)


def test_the_payload_format_is_fixed() -> None:
    """A payload is the byte 1 and msgpack with bin types: processes of two releases understand each other."""
    assert CODEC.encode({"a": b"x", "b": "y"}) == b"\x01\x82\xa1a\xc4\x01x\xa1b\xa1y"


# -- frames


def test_the_bytes_of_every_frame_are_fixed() -> None:
    """The Redis scripts and other releases write and read these very bytes."""
    joined = MembershipMarker("room", "chat.k7!x", joined=True, version=12, age=345)
    left = MembershipMarker("room", "chat.k7!x", joined=False, version=13, age=0)
    assert envelope.message_frame("chat.k7!x", b"PAY") == b"m\x09chat.k7!xPAY"
    assert envelope.group_frame("room", [], b"PAY") == b"g\x04room\x00\x00\x00\x00PAY"
    assert envelope.group_frame("room", iter(["a!x", "b"]), b"PAY") == b"g\x04room\x00\x00\x00\x05a!x\nbPAY"
    assert envelope.marker_frame(joined) == b"+\x04room\x09chat.k7!x12:345"
    assert envelope.marker_frame(left) == b"-\x04room\x09chat.k7!x13:0"
    assert envelope.flush_frame("3f2a") == b"f3f2a"


def test_the_first_byte_tells_the_kind_of_a_frame() -> None:
    """The constants that a reader switches on are the first bytes of the frames."""
    marker = MembershipMarker("room", "x", joined=True, version=1, age=0)
    assert envelope.message_frame("x", b"")[0] == envelope.MESSAGE
    assert envelope.group_frame("x", [], b"")[0] == envelope.GROUP
    assert envelope.marker_frame(marker)[0] == envelope.JOIN
    assert b"-"[0] == envelope.LEAVE
    assert envelope.flush_frame("x")[0] == envelope.FLUSH


def test_frames_of_names_of_full_length_are_read_back() -> None:
    """Names of 100 characters and extra_recipients of more than 64 KiB fit."""
    name, extra_recipients = "n" * 100, tuple(f"specific.{number}!" + "r" * 80 for number in range(1000))
    assert envelope.read_message(envelope.message_frame(name, b"PAY")) == (name, b"PAY")
    assert envelope.read_group(envelope.group_frame(name, extra_recipients, b"PAY")) == GroupFrame(
        name, extra_recipients, b"PAY"
    )


@pytest.mark.parametrize(
    ("read", "frame"),
    [
        (envelope.read_message, b""),
        (envelope.read_message, b"m"),
        (envelope.read_message, b"m\x05chat"),
        (envelope.read_message, b"m\x05cha\xc3\xa9"),
        (envelope.read_message, b"g\x04roomPAY"),
        (envelope.read_group, b""),
        (envelope.read_group, b"g"),
        (envelope.read_group, b"g\x05room"),
        (envelope.read_group, b"g\x04room"),
        (envelope.read_group, b"g\x04room\x00\x00\x00"),
        (envelope.read_group, b"g\x04room\x00\x00\x00\x04a!x"),
        (envelope.read_group, b"g\x04room\xff\xff\xff\xffa!xPAY"),
        (envelope.read_group, b"g\x04room\x00\x00\x00\x02\xc3\xa9"),
        (envelope.read_group, b"m\x04room\x00\x00\x00\x00PAY"),
        (envelope.read_marker, b""),
        (envelope.read_marker, b"+"),
        (envelope.read_marker, b"+\x04room"),
        (envelope.read_marker, b"+\x04room\x01"),
        (envelope.read_marker, b"+\x04room\x01x"),
        (envelope.read_marker, b"+\x04room\x01x12"),
        (envelope.read_marker, b"+\x04room\x01x12:"),
        (envelope.read_marker, b"+\x04room\x01x:5"),
        (envelope.read_marker, b"+\x04room\x01x1e3:5"),
        (envelope.read_marker, b"+\x04room\x01x12:5:6"),
        (envelope.read_marker, b"+\x04room\x01x12:\xd9\xa3"),
        (envelope.read_marker, b"+\x04room\x01x1:" + b"9" * 400),
        (envelope.read_marker, b"+\x04room\x01x" + b"9" * 5000 + b":1"),
        (envelope.read_marker, b"f\x04room\x01x1:1"),
        (envelope.read_flush, b""),
        (envelope.read_flush, b"f"),
        (envelope.read_flush, b"f\xff"),
        (envelope.read_flush, b"m3f2a"),
    ],
)
def test_a_frame_that_is_broken_or_of_another_kind_is_refused(read: Callable[[bytes], object], frame: bytes) -> None:
    """Cut short, with a name that is not ASCII, a number that is none, or of another kind: `BadFrame`."""
    with pytest.raises(BadFrame):
        read(frame)


def test_a_flush_is_read_back() -> None:
    """The generation of a flush marker is what stands after its first byte."""
    assert envelope.read_flush(b"f3f2a") == "3f2a"


@pytest.mark.parametrize("message", [{"type": "t", "n": 1, "b": b"x", "none": None}, {"list": [1, {"a": 2}], "n": 1}])
def test_copies_of_a_group_message_are_nobody_elses(message: dict[str, object]) -> None:
    """However often one payload is decoded, each receiver may do with his copy what he likes."""
    codec = MsgpackCodec(1000)
    payload = codec.encode(message)
    for _ in range(4):
        copy = codec.decode(payload, shared=True)
        assert copy == message
        spoil(copy)
