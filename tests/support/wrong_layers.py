"""Channel layers that are wrong on purpose, one way each: the tests of layers have to notice every one of them."""

from __future__ import annotations

from channel_layer import Message
from channel_layer_memory import MemoryChannelLayer

__all__ = ("Doubling", "Failing", "Losing", "Swapping")

_UNLUCKY = 1
"""The number of the message that each of them treats wrongly."""


class Losing(MemoryChannelLayer):
    """Never delivers the unlucky message."""

    async def receive(self, channel: str) -> Message:
        """Wait for the next message, but the unlucky one."""
        while (message := await super().receive(channel)).get("n") == _UNLUCKY:
            pass
        return message


class Doubling(MemoryChannelLayer):
    """Delivers the unlucky message twice."""

    _again: dict[str, Message] | None = None

    async def receive(self, channel: str) -> Message:
        """Wait for the next message."""
        if self._again is None:
            self._again = {}
        if channel in self._again:
            return self._again.pop(channel)
        message = await super().receive(channel)
        if message.get("n") == _UNLUCKY:
            self._again[channel] = message
        return message


class Swapping(MemoryChannelLayer):
    """Delivers the unlucky message after the one that was sent next."""

    _held: dict[str, Message] | None = None

    async def receive(self, channel: str) -> Message:
        """Wait for the next message, or the one after."""
        if self._held is None:
            self._held = {}
        if channel in self._held:
            return self._held.pop(channel)
        message = await super().receive(channel)
        if message.get("n") == _UNLUCKY:
            self._held[channel] = message
            return await super().receive(channel)
        return message


class Failing(MemoryChannelLayer):
    """Cannot deliver the unlucky message."""

    async def receive(self, channel: str) -> Message:
        """Wait for the next message.

        Raises:
            OSError: it is the unlucky one.
        """
        message = await super().receive(channel)
        if message.get("n") == _UNLUCKY:
            raise OSError("the unlucky message cannot be read")
        return message
