"""Factories of our own stores, in the form that the extension kit judges."""

from __future__ import annotations

from collections.abc import Callable

from channel_layer.config import Rules, parse
from channel_layer.ports import Backend, Clock
from channel_layer.testing import MakeStore
from channel_layer_memory._store import MemoryBackend
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig
from tests.support.servers import Deployment

__all__ = ("memory_stores", "redis_stores", "shared")


def shared(make: Callable[[Rules, Clock], Backend]) -> MakeStore:
    """Turn a backend inside this process into a factory: one object for each prefix is all its processes' store."""
    worlds: dict[str, Backend] = {}

    def make_store(rules: Rules, clock: Clock) -> Backend:
        if rules.prefix not in worlds:
            worlds[rules.prefix] = make(rules, clock)
        return worlds[rules.prefix]

    return make_store


def memory_stores() -> MakeStore:
    """Stores inside this process."""
    return shared(MemoryBackend)


def redis_stores(deployment: Deployment) -> MakeStore:
    """Stores on these hosts."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        servers = parse(RedisConfig, {"hosts": deployment.urls}).servers
        return RedisBackend(servers, rules, clock)

    return make_store
