"""Typed messages: whatever fits its type makes the trip through bytes unharmed, and whatever does not is named."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import pathlib
import uuid
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, NotRequired, TypeAlias, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from channel_layer.domain.codec import Message, MsgpackCodec
from channel_layer.errors import InvalidFields
from channel_layer.schema import Schema, Untyped
from channel_layer.testing.strategies import messages

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")

_CODEC = MsgpackCodec(1 << 24)


class Color(enum.Enum):
    """An enum of text."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """An enum that is a number, too."""

    LOW = 1
    HIGH = 2


class Raw(enum.Enum):
    """An enum of bytes that are no text."""

    ONE = b"\xff"
    TWO = b"\xfe"


class Point(NamedTuple):
    """A tuple with names."""

    x: int
    y: float


@dataclass(frozen=True)
class Part:
    """A dataclass in a message, and a message."""

    id: uuid.UUID
    raw: bytes
    tags: frozenset[str] = frozenset()


class Extra(TypedDict):
    """A TypedDict in a message, and a message."""

    when: dt.datetime
    how: NotRequired[Level]


class Everything(BaseModel):
    """One field of each kind that people put into messages."""

    kind: Literal["everything"] = "everything"
    none: None = None
    flag: bool
    count: int = Field(ge=-(2**63), lt=2**63)
    ratio: float
    text: str
    raw: bytes
    id: uuid.UUID
    when: dt.datetime
    day: dt.date
    time: dt.time
    span: dt.timedelta
    amount: Decimal
    color: Color
    level: Level
    odd: Raw
    path: pathlib.PurePosixPath
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    point: Point
    pair: tuple[int, bytes]
    names: set[str]
    blobs: frozenset[bytes]
    queue: deque[int]
    parts: list[Part]
    by_id: dict[uuid.UUID, Part]
    by_number: dict[int, str]
    by_color: dict[Color, bytes]
    extra: Extra | None
    under: str = Field(alias="_under")


class Which(enum.StrEnum):
    """What tells the members of a union apart."""

    STRICT = "strict"
    OTHER = "other"


class Strict(BaseModel):
    """A model that takes nothing for something else."""

    model_config = ConfigDict(strict=True, extra="forbid")

    kind: Literal[Which.STRICT] = Which.STRICT
    count: int = Field(ge=-(2**63), lt=2**63)
    color: Color = Color.BLUE
    when: dt.datetime
    id: uuid.UUID
    pair: tuple[int, str] = (1, "a")


class Other(BaseModel):
    """The other one of a union, told apart by a member of an enum."""

    kind: Literal[Which.OTHER] = Which.OTHER
    text: str


Union: TypeAlias = Annotated[Strict | Other, Field(discriminator="kind")]

_LONGS = st.integers(-(2**63), 2**63 - 1)
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_ZONES = st.just(dt.UTC) | st.builds(dt.timezone, st.integers(-23, 23).map(lambda hours: dt.timedelta(hours=hours)))
_TIMES = st.datetimes(timezones=st.none() | _ZONES)
_PARTS = st.builds(Part, st.uuids(), st.binary(), st.frozensets(_TEXT))
_PATHS = st.text("abc./", min_size=1).map(pathlib.PurePosixPath)
_EXTRAS = st.fixed_dictionaries({"when": _TIMES}, optional={"how": st.sampled_from(Level)})
_EVERYTHING = st.builds(
    Everything,
    flag=st.booleans(),
    count=_LONGS,
    ratio=st.floats(allow_nan=False),
    text=_TEXT,
    raw=st.binary(),
    id=st.uuids(),
    when=_TIMES,
    day=st.dates(),
    time=st.times(),
    span=st.timedeltas(dt.timedelta(days=-10_000), dt.timedelta(days=10_000)),
    amount=st.decimals(allow_nan=False, allow_infinity=False),
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    odd=st.sampled_from(Raw),
    path=_PATHS,
    address=st.ip_addresses(),
    point=st.builds(Point, _LONGS, st.floats(allow_nan=False)),
    pair=st.tuples(_LONGS, st.binary()),
    names=st.sets(_TEXT),
    blobs=st.frozensets(st.binary()),
    queue=st.lists(_LONGS).map(deque),
    parts=st.lists(_PARTS, max_size=3),
    by_id=st.dictionaries(st.uuids(), _PARTS, max_size=3),
    by_number=st.dictionaries(_LONGS, _TEXT),
    by_color=st.dictionaries(st.sampled_from(Color), st.binary()),
    extra=st.none() | _EXTRAS,
    _under=_TEXT,
)
_STRICT = st.builds(Strict, count=_LONGS, when=_TIMES, id=st.uuids())


def trip(type_: TypeForm[T] | Untyped, value: T) -> T:
    """Send a value and receive it."""
    schema = Schema(type_)
    return schema.load(_CODEC.decode(_CODEC.encode(schema.dump(value))))


@given(_EVERYTHING)
def test_a_model_makes_the_trip(value: Everything) -> None:
    """Every kind of field arrives equal and of its own type: bytes as bytes, and dates, UUIDs, enums, sets as such."""
    came = trip(Everything, value)
    assert came == value
    for name in Everything.model_fields:
        assert type(getattr(came, name)) is type(getattr(value, name)), name


@given(_PARTS)
def test_a_dataclass_makes_the_trip(value: Part) -> None:
    """A dataclass arrives as an equal one."""
    assert trip(Part, value) == value


@given(_EXTRAS)
def test_a_typed_dict_makes_the_trip(value: Extra) -> None:
    """A ``TypedDict`` arrives equal, and what may be missing may."""
    assert trip(Extra, value) == value


@given(_STRICT | st.builds(Other, text=_TEXT))
def test_a_union_makes_the_trip(value: Strict | Other) -> None:
    """A union arrives as the member that was sent, told apart by an enum, a strict model with its dates included."""
    came = trip(Union, value)
    assert came == value
    assert type(came) is type(value)


@given(messages())
def test_without_a_type_a_message_is_left_alone(value: Message) -> None:
    """Without a type a message is the very object that was sent, and the one that came."""
    schema: Schema[Message] = Schema(Untyped.DICT)
    assert schema.dump(value) is value
    assert schema.load(value) is value


@given(_STRICT, messages())
def test_what_is_sent_is_what_a_receiver_takes(value: Strict, wrong: Message) -> None:
    """Whatever a value holds, made without checks or not, it is refused when sent or it is received: never in between.

    `Strict` forbids what it does not know, and takes no number for a text.
    """
    forged = Strict.model_construct(None, **{**dict(value), "count": wrong, "when": wrong.get("when")})
    schema = Schema(Strict)
    with pytest.raises(InvalidFields) as caught:
        schema.dump(forged)
    assert {error.field.partition(".")[0] for error in caught.value.errors} >= {"count"}
    assert caught.value.received is None


@given(messages())
def test_any_message_is_a_value_or_an_error_with_fields(wrong: Message) -> None:
    """What another program sent is read or refused with the names of fields, and with the message; nothing else."""
    for schema in (Schema(Everything), Schema(Extra)):
        with pytest.raises(InvalidFields) as caught:
            schema.load(wrong)
        assert caught.value.errors
        assert caught.value.received is wrong
