"""What the application does about each error of the channel layer."""

from __future__ import annotations

import enum
from typing import Literal, assert_never, assert_type

from channel_layer import (
    ChannelFull,
    ChannelLayer,
    ChannelLayerError,
    ConfigError,
    DamagedRecord,
    FieldError,
    InvalidMessage,
    InvalidName,
    Message,
    MessageTooLarge,
    NoLocalReader,
    PatchedThreadsError,
    StoreError,
)

__all__ = ("Verdict", "classify", "explain", "offer")


class Verdict(enum.Enum):
    """How the sending of a message ended."""

    SENT = "sent"
    LATER = "try again later"
    UNKNOWN = "it may have arrived"
    NEVER = "the message or the name is wrong"


async def offer(layer: ChannelLayer, channel: str, message: Message) -> Verdict:
    """Send *message*, and classify the error if there is one."""
    try:
        await layer.send(channel, message)
    except layer.ChannelFull:  # as code that is written against the specification catches it
        return Verdict.LATER
    except layer.MessageTooLarge:
        return Verdict.NEVER
    except ChannelLayerError as error:
        return classify(error)
    return Verdict.SENT


def classify(error: ChannelLayerError) -> Verdict:
    """Return what an error means for the message that was to be sent."""
    match error:
        case ChannelFull():
            assert_type(error.channel, str)
            assert_type(error.capacity, int)
            return Verdict.LATER
        case NoLocalReader():
            assert_type(error.channel, str)
            return Verdict.LATER
        case MessageTooLarge():
            assert_type(error.size, int)
            assert_type(error.limit, int)
            return Verdict.NEVER
        case DamagedRecord():  # until another program's record is gone
            return Verdict.LATER
        case StoreError(retryable=True, outcome=outcome):
            return _verdict(outcome)
        case PatchedThreadsError():
            assert_type(error.by, str)
            return Verdict.NEVER
        case InvalidName() | InvalidMessage() | ConfigError():
            return Verdict.NEVER
        case _:
            return Verdict.UNKNOWN


def _verdict(outcome: Literal["not_sent", "unknown"]) -> Verdict:
    match outcome:
        case "not_sent":
            return Verdict.LATER
        case "unknown":
            return Verdict.UNKNOWN
        case _:
            assert_never(outcome)


def explain(error: ConfigError) -> dict[str, str]:
    """Return each wrong field of a configuration and what is wrong with it."""
    assert_type(error.errors, tuple[FieldError, ...])
    return {each.field: each.problem for each in error.errors}
