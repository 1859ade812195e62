"""Channels and groups with a type: what they take, what they refuse, and what they say of it."""

from __future__ import annotations

import copy
import pickle
import re
from collections import deque
from collections.abc import Callable
from dataclasses import make_dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, computed_field, field_validator

from channel_layer import (
    Channel,
    ChannelLayerError,
    FieldError,
    Group,
    InvalidFields,
    InvalidMessage,
    InvalidName,
    Message,
)
from channel_layer.schema import Schema
from channel_layer_memory import MemoryChannelLayer


class Order(BaseModel):
    """A message with a field for each thing that can be wrong."""

    model_config = ConfigDict(extra="forbid")

    id: int
    price: Annotated[float, Field(gt=0)] = 1.0
    tags: list[str] = []
    more: object = None

    @field_validator("tags")
    @classmethod
    def _short(cls, tags: list[str]) -> list[str]:
        if len(tags) > 2:
            raise ValueError("two tags are enough")
        return tags


@pytest.fixture
def layer() -> MemoryChannelLayer:
    """A layer, not used."""
    return MemoryChannelLayer()


# -- making one ----------------------------------------------------------------------------------------------


def test_a_name_is_checked_when_it_is_given(layer: MemoryChannelLayer) -> None:
    """A wrong name is an error where the channel or the group is made, not where it is used."""
    with pytest.raises(InvalidName, match="invalid channel name 'a b'"):
        Channel(layer, "a b", Order)
    with pytest.raises(InvalidName, match="invalid group name 'a!b'"):
        Group(layer, "a!b", Order)


def test_a_type_is_checked_when_it_is_given(layer: MemoryChannelLayer) -> None:
    """What Pydantic cannot read is an error that names the argument, the type and the reason."""

    class Opaque:
        pass

    with pytest.raises(InvalidMessage, match="type: Opaque cannot be a type of messages: Unable to generate"):
        Channel(layer, "c", Opaque)
    lost = make_dataclass("Lost", [("friend", "Nobody")])
    with pytest.raises(InvalidMessage, match=r"type: Lost cannot be a type of messages: .* not (fully )?defined"):
        Group(layer, "g", lost)


def test_what_happens_to_the_invalid_is_one_of_two(layer: MemoryChannelLayer) -> None:
    """Anything but drop and raise is an error that names the argument."""
    makers: list[Callable[..., object]] = [Channel, Group]
    for make in makers:
        for wrong in ("ignore", None, True):
            with pytest.raises(ValueError, match=r"invalid: must be 'drop' or 'raise', not "):
                make(layer, "g", Order, invalid=wrong)


def test_they_say_what_they_are(layer: MemoryChannelLayer) -> None:
    """Name, type and the choice can be read, and stand in the repr."""
    group = Group(layer, "orders", Order, invalid="raise")
    assert (group.layer, group.name, group.type, group.invalid) == (layer, "orders", Order, "raise")
    assert repr(group) == "Group('orders', Order)"
    channel = Channel(layer, "orders")
    assert (channel.layer, channel.name, channel.type, channel.invalid) == (layer, "orders", None, "drop")
    assert repr(channel) == "Channel('orders', dict)"


# -- what is wrong with a message ----------------------------------------------------------------------------

_WRONG: dict[str, tuple[Message, dict[str, str]]] = {
    "missing": ({}, {"id": "is missing"}),
    "unknown": ({"id": 1, "x": "secret"}, {"x": "there is no such field"}),
    "of another kind": ({"id": "secret"}, {"id": "should be a valid integer, .*, not a str"}),
    "out of range": ({"id": 1, "price": -1}, {"price": "should be greater than 0, not -1"}),
    "deep inside": ({"id": 1, "tags": ["a", b"\xff"]}, {r"tags\[1\]": "should be a valid string, .*, not a bytes"}),
    "by a rule of its own": ({"id": 1, "tags": ["a", "b", "c"]}, {"tags": "Value error, two tags are enough"}),
    "all at once": ({"price": None, "tags": 1}, {"id": "is missing", "price": ".*, not None", "tags": ".*, not 1"}),
}


@pytest.mark.parametrize(("message", "problems"), _WRONG.values(), ids=_WRONG)
def test_every_wrong_field_is_named(message: Message, problems: dict[str, str]) -> None:
    """An error names each wrong field, what is wrong and the kind of what came, and no value but a number."""
    with pytest.raises(InvalidFields) as caught:
        Schema(Order).load(message)
    error = caught.value
    assert len(error.errors) == len(problems)
    for found, (field, problem) in zip(error.errors, problems.items(), strict=True):
        assert re.fullmatch(field, found.field)
        assert re.fullmatch(problem, found.problem)
    assert error.type == "Order"
    assert error.received is message
    assert "secret" not in str(error)
    assert error.__context__ is None  # Pydantic's, which holds the values


def test_an_error_can_be_copied_and_pickled() -> None:
    """It crosses process borders whole, and is caught as what the specification raises."""
    error = InvalidFields("Order", [FieldError("id", "is missing")])
    error.received = {"a": 1}
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - our own
        assert isinstance(other, InvalidFields)
        assert str(other) == "the message is not of type Order: id: is missing"
        assert (other.type, other.errors, other.received) == (error.type, error.errors, error.received)
    assert isinstance(error, (ChannelLayerError, TypeError))


# -- what can be sent ----------------------------------------------------------------------------------------

_UNSENDABLE: dict[str, tuple[object, str, str]] = {
    "a secret": ({"a": [SecretStr("x")]}, r"more\.a\[0\]", "a secret is not sent by accident"),
    "an object": (object(), "more", "an object cannot be sent: Unable to"),
    "two keys that are one": ({"1": 1, 1: 2}, "more", "two keys are '1'"),
    "a key that is no text": ({b"\xff": 2}, "more", "a dict cannot be sent: 'utf-8'"),
}


@pytest.mark.parametrize(("value", "field", "problem"), _UNSENDABLE.values(), ids=_UNSENDABLE)
def test_what_no_message_can_hold_is_named(value: object, field: str, problem: str) -> None:
    """What Pydantic lets through and a message cannot hold is an error with its path, not lost or changed."""
    with pytest.raises(InvalidFields, match=f"the message is not of type Order: {field}: {problem}"):
        Schema(Order).dump(Order(id=1, more=value))


_SENDABLE: dict[str, tuple[object, object]] = {
    "bytes": (b"\xff", b"\xff"),
    "a bytearray": (bytearray(b"\xff"), b"\xff"),
    "a deque of bytes": (deque([b"\xff"]), [b"\xff"]),
    "a mapping": (MappingProxyType({1: b"\xff"}), {"1": b"\xff"}),
    "a decimal": (Decimal("1.50"), "1.50"),
    "a model": (Order(id=2), {"id": 2, "price": 1.0, "tags": [], "more": None}),
    "infinity": (float("inf"), float("inf")),
}


@pytest.mark.parametrize(("value", "sent"), _SENDABLE.values(), ids=_SENDABLE)
def test_what_has_no_type_is_sent_as_what_it_is(value: object, sent: object) -> None:
    """A field for anything takes anything that has a form in a message; bytes stay bytes wherever they are."""
    assert Schema(Order).dump(Order(id=1, more=value))["more"] == sent


def test_fields_go_by_their_aliases_and_without_what_is_computed() -> None:
    """What is sent is what the receiver's type asks for, or it is refused here."""

    class Model(BaseModel):
        model_config = ConfigDict(extra="forbid")
        count: int = Field(alias="n")

        @computed_field
        def double(self) -> int:
            return self.count * 2

    schema = Schema(Model)
    assert schema.dump(Model(n=2)) == {"n": 2}
    assert schema.load({"n": 2}) == Model(n=2)

    class OneWay(BaseModel):
        count: int = Field(validation_alias="other")

    with pytest.raises(InvalidFields, match="other: is missing"):
        Schema(OneWay).dump(OneWay.model_validate({"other": 1}))


def test_a_type_that_is_no_dict_is_told_so() -> None:
    """A type whose values are not dumped as dicts is an error that says so, when the first one is sent."""
    with pytest.raises(InvalidMessage, match=r"a message is a dict, not list: RootModel\[list\[int\]\] has to be"):
        Schema(RootModel[list[int]]).dump(RootModel[list[int]]([1]))
    with pytest.raises(InvalidMessage, match=r"a message is a dict, not int: int has to be"):
        Schema(int).dump(1)


def _untyped(call: Callable[..., object]) -> Callable[..., object]:
    """Take the types off a call, as a program has it that no type checker looks at."""
    return call


def test_a_value_of_another_type_is_refused() -> None:
    """What was made without checks, or is of another class altogether, does not leave."""
    with pytest.raises(InvalidFields, match="id: should be a valid integer"):
        Schema(Order).dump(Order.model_construct(id="x"))
    dump = _untyped(Schema(Order).dump)
    for wrong in (None, 1, "text", [1]):
        with pytest.raises(InvalidMessage, match="a message is a dict, not"):
            dump(wrong)
    with pytest.raises(InvalidFields, match="id: is missing"):
        dump({})
