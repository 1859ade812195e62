"""Factories of our own stores, in the form that the extension kit judges."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from pydantic import SecretBytes

from channel_layer import ChannelLayer
from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.domain.rules import Encryption, Rules
from channel_layer.ports import Backend, Clock
from channel_layer.stores.blinding import BlindBackend
from channel_layer.stores.local_and_remote import LocalAndRemote
from channel_layer.testing import MakeLayer, MakeStore
from channel_layer_crypto import SivBlinder
from channel_layer_ipc import IPCBackend
from channel_layer_ipc._environment import EnvironmentReference
from channel_layer_memory._store import MemoryBackend
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig
from tests.support.clusters import Cluster
from tests.support.sentinels import Service
from tests.support.servers import Deployment

__all__ = (
    "IPCWorlds",
    "blind_stores",
    "cluster_stores",
    "halves",
    "memory_stores",
    "redis_stores",
    "sealed_layers",
    "service_stores",
    "shared",
)


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


class IPCWorlds:
    """Stores between processes, each with an environment of its own if it is made in a process of its own.

    A world lives for as long as somebody is in it: in the last few that were asked for, this is.

    Args:
        directory: of their files.
        memory: bytes that each may take.
        most: how many worlds are kept.
    """

    def __init__(self, directory: Path, memory: int = 32 << 20, most: int = 16) -> None:
        self.directory = directory
        self.memory = memory
        self._most = most
        self._kept: OrderedDict[str, EnvironmentReference] = OrderedDict()
        self._backends: dict[str, IPCBackend] = {}

    def __call__(self, rules: Rules, clock: Clock) -> IPCBackend:
        """Make one more process's way into the world of these rules' prefix."""
        backend = IPCBackend(rules, clock, self.directory, self.memory)
        self._backends[rules.prefix] = backend
        if rules.prefix not in self._kept:
            self._kept[rules.prefix] = backend.acquire_environment()
            if len(self._kept) > self._most:
                old, reference = self._kept.popitem(last=False)
                del self._backends[old]
                reference.release()
        return backend

    def sweep(self, prefix: str) -> list[bytes]:
        """Ask for something, as any process does now and then, and return the keys of all records that are left."""
        asyncio.run(self._ask(self._backends[prefix]))
        environment = self._kept[prefix].environment
        with environment.write() as transaction:
            return [key for key, _ in transaction.cursor()]

    async def _ask(self, backend: IPCBackend) -> None:
        async with aclosing(backend.open()) as store:
            await store.execute(c.Alive(0, ()))

    def close(self) -> None:
        """Leave all worlds."""
        self._backends.clear()
        while self._kept:
            self._kept.popitem()[1].release()


def redis_stores(deployment: Deployment) -> MakeStore:
    """Stores on these hosts."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        servers = parse(RedisConfig, {"hosts": deployment.urls}).servers
        return RedisBackend(servers, rules, clock)

    return make_store


def cluster_stores(cluster: Cluster, partitions: int = 64) -> MakeStore:
    """Stores on a Cluster."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        return RedisBackend((cluster.hosts(partitions),), rules, clock)

    return make_store


def service_stores(service: Service) -> MakeStore:
    """Stores on a service that sentinels name."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        return RedisBackend(parse(RedisConfig, {"hosts": [service.entry]}).servers, rules, clock)

    return make_store


def halves(local: MakeStore, remote: MakeStore) -> MakeStore:
    """Stores of two halves, each made by a factory."""

    def make_store(rules: Rules, clock: Clock) -> Backend:
        return LocalAndRemote(local(rules, clock), remote(rules, clock))

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
