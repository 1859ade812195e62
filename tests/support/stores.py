"""Factories of our own stores, in the form that the extension kit judges."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pydantic import SecretBytes

from channel_layer import ChannelLayer
from channel_layer.blinding import BlindBackend
from channel_layer.config import Encryption, Rules, parse
from channel_layer.ports import Backend, Clock
from channel_layer.testing import MakeLayer, MakeStore
from channel_layer_crypto import SivBlinder
from channel_layer_memory._store import MemoryBackend
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig
from tests.support.servers import Deployment

__all__ = ("blind_stores", "memory_stores", "redis_stores", "sealed_layers", "shared")


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


def sealed_layers(make_store: MakeStore, *, cipher: str = "aes-256-gcm", blind: bool = True) -> MakeLayer:
    """Layers that seal everything, and hide names, over the stores of another factory."""
    key = SecretBytes(b"the SHA-256 of a configured key.")
    encryption = Encryption((key,), cipher, key if blind else None)

    def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
        return ChannelLayer(replace(rules, encryption=encryption), make_store(rules, clock), clock=clock)

    return make_layer


def blind_stores(make_store: MakeStore) -> MakeStore:
    """Stores that hide names from the stores of another factory."""

    def make(rules: Rules, clock: Clock) -> Backend:
        blinder = SivBlinder(SecretBytes(b"the SHA-256 of a configured key."), prefix=rules.prefix)
        return BlindBackend(make_store(rules, clock), blinder)

    return make
