"""Channel layers over Redis or Valkey: for many processes, on one machine or many."""

from __future__ import annotations

from typing import TYPE_CHECKING

try:
    import hiredis as _hiredis
    import redis as _redis
except ImportError as _exc:
    if _exc.name not in ("hiredis", "redis"):
        raise
    raise ImportError(
        f'channel_layer_redis needs {_exc.name}: pip install "channel-layer[redis]"', name=_exc.name
    ) from _exc

from channel_layer_redis.layer import RedisChannelLayer
from channel_layer_redis.options import HostOption, LocalDict, RedisConfigDict, RedisLocalConfigDict

if TYPE_CHECKING:
    from channel_layer_redis.local import RedisLocalChannelLayer

del _hiredis, _redis

__all__ = (
    "HostOption",
    "LocalDict",
    "RedisChannelLayer",
    "RedisConfigDict",
    "RedisLocalChannelLayer",
    "RedisLocalConfigDict",
)


def __getattr__(name: str) -> object:
    """Import the local-and-remote layer on first use: it needs a dependency that the Redis layer does not."""
    if name != "RedisLocalChannelLayer":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from channel_layer_redis.local import RedisLocalChannelLayer  # noqa: PLC0415 - see above
    except ImportError as exc:
        if exc.name != "lmdb":
            raise
        raise ImportError(
            'RedisLocalChannelLayer needs lmdb: pip install "channel-layer[ipc,redis]"', name="lmdb"
        ) from exc
    return RedisLocalChannelLayer
