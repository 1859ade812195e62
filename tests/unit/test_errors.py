"""The errors: one tree, texts that say the mend, and copies that are whole."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING

import pytest

from channel_layer.errors import (
    ChannelFull,
    ChannelLayerError,
    ConfigError,
    FieldError,
    InvalidMessage,
    InvalidName,
    MessageTooLarge,
    StoreError,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class OtherFull(Exception):
    """Stands for the ChannelFull of another library."""


class BothFull(ChannelFull, OtherFull):
    """What an adapter raises where that library is in use."""


EVERY_ERROR: tuple[ChannelLayerError, ...] = (
    ChannelLayerError("wrong"),
    InvalidName("wrong name"),
    InvalidMessage("wrong message"),
    MessageTooLarge(11, 10),
    ChannelFull("chat", 100),
    BothFull("chat", 100),
    ConfigError([FieldError("hosts[1].port", "not a number"), FieldError("expiry", "must be over 0")]),
    StoreError("gone", retryable=True, outcome="unknown"),
)


def through_pickle(error: ChannelLayerError) -> object:
    """Send an error to another process and back."""
    restored: object = pickle.loads(pickle.dumps(error))  # noqa: S301 - the bytes are our own
    return restored


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("clone", [through_pickle, copy.copy, copy.deepcopy])
def test_an_error_survives_a_copy_and_a_pickle(
    clone: Callable[[ChannelLayerError], object], error: ChannelLayerError
) -> None:
    """Process pools and task queues pickle what a job raised: type, text and attributes arrive unchanged."""
    restored = clone(error)
    assert type(restored) is type(error)
    assert str(restored) == str(error)
    assert vars(restored) == vars(error)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: type(error).__name__)
def test_one_except_clause_catches_every_error(error: ChannelLayerError) -> None:
    """Every error of the library is a `ChannelLayerError`."""
    with pytest.raises(ChannelLayerError):
        raise error


@pytest.mark.parametrize(
    ("error", "builtin"), [(InvalidName, TypeError), (InvalidMessage, TypeError), (ConfigError, ValueError)]
)
def test_an_error_is_also_what_callers_of_other_layers_catch(
    error: type[ChannelLayerError], builtin: type[Exception]
) -> None:
    """Wrong names and messages are TypeErrors and a wrong configuration is a ValueError."""
    assert issubclass(error, builtin)


def test_back_pressure_and_trouble_with_the_store_are_nobodys_type_error() -> None:
    """``except TypeError`` around a send does not swallow what is not the caller's fault."""
    for error in (ChannelFull, MessageTooLarge, StoreError):
        assert not issubclass(error, (TypeError, ValueError, OSError))


def test_an_adapter_may_raise_a_channel_full_that_another_library_catches_too() -> None:
    """A subclass of `ChannelFull` and a foreign error keeps the text and the attributes."""
    with pytest.raises(OtherFull, match="channel 'chat' is full: 100 messages wait in it unread"):
        raise BothFull("chat", 100)


def test_a_full_channel_is_named_with_its_capacity() -> None:
    """`ChannelFull` tells the channel and its capacity, in the text and as attributes."""
    error = ChannelFull("chat!x", 7)
    assert str(error) == "channel 'chat!x' is full: 7 messages wait in it unread"
    assert (error.channel, error.capacity) == ("chat!x", 7)


def test_a_message_too_large_tells_size_limit_and_mend() -> None:
    """`MessageTooLarge` tells both sizes and which setting raises the limit."""
    error = MessageTooLarge(11, 10)
    assert str(error).startswith("the message is 11 bytes when encoded, over the limit of 10: send less")
    assert "max_message_size" in str(error)
    assert (error.size, error.limit) == (11, 10)


def test_a_configuration_error_lists_every_field_in_order() -> None:
    """`ConfigError` has one line for each problem, in the order given, after a line that counts them."""
    fields = [FieldError("hosts[1].port", "not a number"), FieldError("expiry", "must be over 0")]
    error = ConfigError(iter(fields))
    assert error.errors == tuple(fields)
    assert str(error) == (
        "2 problems in the channel layer's CONFIG:\n  hosts[1].port: not a number\n  expiry: must be over 0"
    )
    assert str(ConfigError(fields[:1])).startswith("1 problem in")


def test_a_store_error_says_whether_repeating_helps_and_is_safe() -> None:
    """`StoreError` tells if the call may succeed later and if it may have been carried out."""
    error = StoreError("gone", retryable=True, outcome="not_sent")
    assert (str(error), error.retryable, error.outcome) == ("gone", True, "not_sent")
