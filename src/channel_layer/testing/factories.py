"""What every test of the kit needs: a clock that is moved instead of slept by, rules, and layers over one store.

All that a factory makes with rules of one prefix shares one store, as processes share a server, and sees nothing of any
other prefix. Each call of a factory stands for one more process.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from channel_layer.config import CommonConfig, parse
from channel_layer.domain.rules import Rules
from channel_layer.layer import ChannelLayer
from channel_layer.ports import Backend, Clock, SimpleStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from channel_layer.options import ChannelPattern

__all__ = (
    "MakeLayer",
    "MakeSimpleStore",
    "MakeStore",
    "Violation",
    "VirtualClock",
    "fresh_prefix",
    "layers_over",
    "make_rules",
)

MakeStore: TypeAlias = Callable[[Rules, Clock], Backend]
"""Makes one process's way to a store; those made with one prefix share everything, others nothing."""

MakeSimpleStore: TypeAlias = Callable[[Rules, Clock], SimpleStore]
"""The same for a simple store."""

MakeLayer: TypeAlias = Callable[[Rules, Clock], ChannelLayer]
"""Makes one process's layer; those made with one prefix share everything, others nothing."""


class Violation(AssertionError):
    """What was tested breaks a rule, which the text names.

    Attributes:
        script: the calls that led to it and what came of them, as far as they were written down.
    """

    script: str = ""


class VirtualClock:
    """A clock that a test moves instead of sleeping; between two moves it goes on like any other.

    Attributes:
        offset: seconds by which it has been moved in all. A store with a clock of its own adds it to that.
    """

    def __init__(self) -> None:
        self.offset: float = 0.0

    def now(self) -> float:
        """Return seconds since some moment."""
        return time.monotonic() + self.offset

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Args:
            seconds: how much; not below 0.
        """
        self.offset += seconds


def fresh_prefix() -> str:
    """Return a prefix that has not been used before: what is made with it shares nothing with anything else."""
    return f"t{secrets.token_hex(6)}:"


def make_rules(
    *,
    prefix: str | None = None,
    expiry: float = 60.0,
    group_expiry: float | None = 86400.0,
    capacity: int = 100,
    channel_capacity: Mapping[ChannelPattern, int] | None = None,
    max_message_size: int = 4 * 1024 * 1024,
    inbox_capacity: int = 10_000,
    timeout: float = 5.0,
) -> Rules:
    """Return rules as a layer's CONFIG would make them.

    Args:
        prefix: of all keys; None for one that has not been used before.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: unread messages that a channel may hold.
        channel_capacity: exceptions from it by pattern.
        max_message_size: bytes of an encoded message.
        inbox_capacity: entries that the inbox of one process may hold.
        timeout: seconds that a command may take.

    Raises:
        ConfigError: an option is wrong; it names all that are.
    """
    options: dict[str, object] = {
        "prefix": fresh_prefix() if prefix is None else prefix,
        "expiry": expiry,
        "group_expiry": group_expiry,
        "capacity": capacity,
        "channel_capacity": {} if channel_capacity is None else channel_capacity,
        "max_message_size": max_message_size,
        "inbox_capacity": inbox_capacity,
        "timeout": timeout,
    }
    return parse(CommonConfig, options).rules()


def layers_over(make_store: MakeStore) -> MakeLayer:
    """Return a factory of plain layers over the stores that *make_store* makes."""

    def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
        return ChannelLayer(rules, make_store(rules, clock), clock=clock)

    return make_layer
