"""Replies of a server, as the types that they have to have."""

from __future__ import annotations

from typing import Final, TypeGuard

from channel_layer.errors import StoreError

__all__ = (
    "INCOMPLETE",
    "is_list",
    "list_of",
    "number",
    "numbers",
    "text",
    "texts",
    "unexpected",
)

INCOMPLETE: Final = object()
"""What hiredis's reader returns while a reply is not whole."""


def is_list(reply: object) -> TypeGuard[list[object]]:
    """Whether a reply is an array."""
    return isinstance(reply, list)


def list_of(reply: object) -> list[object]:
    """Return a reply that has to be an array."""
    if not is_list(reply):
        raise unexpected(reply)
    return reply


def number(reply: object) -> int:
    """Return a reply that has to be a number."""
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes) and reply.isdigit():
        return int(reply)
    raise unexpected(reply)


def numbers(reply: object) -> list[int]:
    """Return a reply that has to be an array of numbers."""
    return [number(item) for item in list_of(reply)]


def text(reply: object) -> str:
    """Return a reply that has to be text; "" for none."""
    if reply is None:
        return ""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise unexpected(reply)


def texts(reply: object) -> tuple[str, ...]:
    """Return a reply that has to be an array of texts."""
    return tuple(text(item) for item in list_of(reply))


def unexpected(reply: object) -> StoreError:
    """Return the error to raise for a reply that is not as it has to be."""
    return StoreError(f"unexpected reply: {reply!r:.100}", retryable=False, outcome="unknown")
