"""Channel layers over Redis or Valkey: for many processes, on one machine or many."""

from __future__ import annotations

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
from channel_layer_redis.options import HostOption, RedisConfigDict

del _hiredis, _redis

__all__ = ("HostOption", "RedisChannelLayer", "RedisConfigDict")
