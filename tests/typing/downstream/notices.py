"""A message of the application, and its form in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_type

from channel_layer import ChannelLayer, InvalidMessage, Message, Value

__all__ = ("Notice", "announce", "await_notice", "text_of")


@dataclass(frozen=True)
class Notice:
    """An event, described for people."""

    text: str
    urgency: int = 0

    def to_message(self) -> Message:
        """Return the message that carries this notice."""
        return {"type": "notice", "text": self.text, "urgency": self.urgency, "tags": ["app", self.text[:10]]}

    @classmethod
    def from_message(cls, message: Message) -> Notice:
        """Read a notice back; a field that is missing or of another type is an error of the sender."""
        urgency = message.get("urgency")
        if not isinstance(urgency, int):
            raise InvalidMessage(f"urgency is {type(urgency).__name__}")
        return cls(text_of(message["text"]), urgency)


def text_of(value: Value) -> str:
    """Return any value of a message as text; the match covers every type that a message can hold."""
    match value:
        case str():
            return assert_type(value, str)
        case bytes():
            return value.decode()
        case list():
            return ", ".join(text_of(item) for item in value)
        case dict():
            return ", ".join(f"{key}: {text_of(item)}" for key, item in value.items())
        case bool() | int() | float() | None:
            return str(value)


async def announce(layer: ChannelLayer, group: str, notice: Notice) -> None:
    """Send a notice to all members of *group*."""
    assert_type(await layer.group_send(group, notice.to_message()), None)


async def await_notice(layer: ChannelLayer, channel: str) -> Notice:
    """Wait for the next notice on *channel*."""
    return Notice.from_message(assert_type(await layer.receive(channel), Message))
