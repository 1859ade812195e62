"""`IPCChannelLayer`: the options of its CONFIG, checked, and the shared store on this machine that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from channel_layer.config import parse
from channel_layer.layer import ChannelLayer
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_ipc._backend import IPCBackend
from channel_layer_ipc.config import IPCConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Never

    from channel_layer.config import CommonConfig
    from channel_layer.options import ChannelPattern, SequenceNotStr
    from channel_layer.ports import Clock

__all__ = ("IPCChannelLayer",)


class IPCChannelLayer(ChannelLayer):
    """A channel layer between the processes of one user on one machine, with no server to run.

    Messages last for as long as any process has a layer with this directory and prefix.

    Args:
        directory: where its files are, private to the user; None: a directory in memory where the system has one.
        memory: bytes that all messages and groups may take.
        prefix: layers with different prefixes share nothing.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: unread messages that a channel may hold.
        channel_capacity: exceptions from it by pattern, the first match wins.
        symmetric_encryption_keys: what messages are encrypted with: the first encrypts, all decrypt; none: plain text.
        encryption: ``"aes-256-gcm"`` or ``"fernet"``.
        blind_names: also hide names from readers of the files: True, or the key to do it with.
        max_message_size: bytes of an encoded message; at most a quarter of the memory.
        inbox_capacity: entries that the inbox of one process may hold.
        timeout: seconds that opening may wait for a process that opens or closes at that moment.
        faults: which faults to inject, and how often; None: none.
        clock: local time; for tests.

    Raises:
        ConfigError: options are wrong or unknown; it names all of them.
        ImportError: there are keys, and the extra ``cryptography`` is not installed.
    """

    config: ClassVar[type[CommonConfig] | None] = IPCConfig

    def __init__(
        self,
        *,
        directory: str | Path | None = None,
        memory: int = 100 * 1024 * 1024,
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
            "directory": directory,
            "memory": memory,
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
        config = parse(IPCConfig, options)
        rules = config.rules()
        clock = clock if clock is not None else SystemClock()
        self._ipc_backend = IPCBackend(rules, clock, config.directory, config.memory)
        super().__init__(rules, self._ipc_backend, clock=clock)

    async def aclose(self) -> None:
        """End it, and let go of the files; the last layer to do so removes them. See `ChannelLayer.aclose`."""
        await super().aclose()
        self._ipc_backend.close()
