"""`RedisChannelLayer`: the options of its CONFIG, checked, and the servers that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from channel_layer.config import parse
from channel_layer.layer import ChannelLayer
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Never

    from channel_layer.config import CommonConfig
    from channel_layer.options import ChannelPattern, SequenceNotStr
    from channel_layer.ports import Clock
    from channel_layer_redis.options import HostsOption

__all__ = ("RedisChannelLayer",)


class RedisChannelLayer(ChannelLayer):
    """A channel layer over one Redis or Valkey server, or over several that share the work.

    Args:
        hosts: the servers: URLs (``redis://``, ``rediss://``, ``unix://``, ``valkey://``, ``valkeys://``), (host, port)
            pairs or dicts; the default is ``localhost``, port 6379.
        host: shorthand for one server: its name.
        port: shorthand for one server: its port.
        db: shorthand for one server: the number of its database.
        prefix: what every key begins with; without braces.
        expiry: seconds that a message may wait unread.
        group_expiry: seconds that a membership lasts; None: as long as its owner lives.
        capacity: unread messages that a channel may hold.
        channel_capacity: exceptions from it by pattern, the first match wins.
        symmetric_encryption_keys: what messages are encrypted with: the first encrypts, all decrypt; none: plain text.
        encryption: ``"aes-256-gcm"`` or ``"fernet"``.
        blind_names: also hide names from readers of the store: True, or the key to hide them with.
        max_message_size: bytes of an encoded message.
        inbox_capacity: entries that the inbox of one process may hold.
        timeout: seconds that any command may wait for a server.
        faults: faults to inject, and how often; None: none.
        clock: local time; another one is for tests.

    Raises:
        ConfigError: an option is wrong or unknown; it names all that are.
        ImportError: there are keys, and the extra ``cryptography`` is not installed.
    """

    config: ClassVar[type[CommonConfig] | None] = RedisConfig

    def __init__(
        self,
        *,
        hosts: HostsOption | None = None,
        host: str | None = None,
        port: int | str | None = None,
        db: int | str | None = None,
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
            "hosts": hosts,
            "host": host,
            "port": port,
            "db": db,
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
        config = parse(RedisConfig, options)
        rules = config.rules()
        clock = clock if clock is not None else SystemClock()
        super().__init__(rules, RedisBackend(config.servers, rules, clock), clock=clock)
