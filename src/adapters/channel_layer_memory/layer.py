"""`MemoryChannelLayer`: a channel layer with a memory store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from channel_layer.config import parse
from channel_layer.layer import ChannelLayer
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_memory._store import MemoryBackend
from channel_layer_memory.config import MemoryConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Never

    from channel_layer.config import CommonConfig
    from channel_layer.options import ChannelPattern, SequenceNotStr
    from channel_layer.ports import Clock

__all__ = ("MemoryChannelLayer",)


class MemoryChannelLayer(ChannelLayer):
    """A channel layer inside one process; every object has queues and groups of its own.

    Args:
        prefix: accepted because every layer has this option; two objects never share anything.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: unread messages that a channel may hold.
        channel_capacity: other capacities by pattern; the first match wins.
        symmetric_encryption_keys: keys that messages are encrypted with: the first encrypts, all decrypt; without any,
            messages are plain text.
        encryption: ``"aes-256-gcm"`` or ``"fernet"``.
        blind_names: also hide names from anyone who can read the store: True, or the key to hide them with.
        max_message_size: bytes that an encoded message may have.
        inbox_capacity: entries that the inbox of one process may hold.
        timeout: accepted because every layer has this option; no operation here waits for a server.
        faults: the faults to inject, and how often; None: no faults.
        clock: local time; only tests pass another one.

    Raises:
        ConfigError: an option is wrong or unknown; the error names every such option.
        ImportError: there are keys, and the extra ``cryptography`` is not installed.
    """

    config: ClassVar[type[CommonConfig] | None] = MemoryConfig

    def __init__(
        self,
        *,
        prefix: str = "asgi:",
        expiry: float = 60,
        group_expiry: float | None = 86400,
        capacity: int = 100,
        channel_capacity: Mapping[ChannelPattern, int] | None = None,
        symmetric_encryption_keys: SequenceNotStr[str | bytes] = (),
        encryption: str = "aes-256-gcm",
        blind_names: bool | str | bytes = False,
        max_message_size: int = 4 * 1024 * 1024,
        inbox_capacity: int = 10_000,
        timeout: float = 5,
        faults: Mapping[str, float] | None = None,
        clock: Clock | None = None,
        **unknown: Never,
    ) -> None:
        options: dict[str, object] = {
            "prefix": prefix,
            "expiry": expiry,
            "group_expiry": group_expiry,
            "capacity": capacity,
            "channel_capacity": channel_capacity,
            "symmetric_encryption_keys": symmetric_encryption_keys,
            "encryption": encryption,
            "blind_names": blind_names,
            "max_message_size": max_message_size,
            "inbox_capacity": inbox_capacity,
            "timeout": timeout,
            "faults": faults,
            **unknown,
        }
        rules = parse(MemoryConfig, options).rules()
        clock = clock if clock is not None else SystemClock()
        super().__init__(rules, MemoryBackend(rules, clock), clock=clock)
