"""Changes that a receiver may make to its message."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channel_layer.domain.codec import Message

__all__ = ("spoil",)


def spoil(message: Message) -> None:
    """Change a message, and the list in it if there is one: a message belongs to its receiver."""
    nested = message.get("list")
    if isinstance(nested, list):
        nested.append("mine")
    message["n"] = "mine"
    message["more"] = "mine"
