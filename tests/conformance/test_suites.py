"""Our own stores through the suites that third parties inherit: in memory, on one host and on three.

The layer that is built on the plainest store of all shows that the suites ask no more of it than it declares.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass, field

import pytest

from channel_layer import ChannelLayer
from channel_layer import commands as c
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Queue
from channel_layer.domain.rules import Rules
from channel_layer.ports import Backend, Clock
from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import MakeLayer, MakeStore, layers_over
from channel_layer.testing.suites import LayerSuite, StoreSuite
from tests.support.servers import Deployment, ServerPool
from tests.support.stores import memory_stores, redis_stores, sealed_layers


@pytest.fixture
def redis(deployment: Deployment, server_pool: ServerPool) -> Generator[MakeStore]:
    """A factory of stores on each deployment in turn, whose prefixes are removed from the servers afterwards."""
    make = redis_stores(deployment)
    prefixes: set[str] = set()

    def make_store(rules: Rules, clock: Clock) -> Backend:
        prefixes.add(rules.prefix)
        return make(rules, clock)

    yield make_store
    for prefix in prefixes:
        server_pool.remove(prefix)


class Plain:
    """A simple store inside this process, as a third party might begin.

    Args:
        rules: the configuration.
        clock: what time it is.
        data: the queues and the groups, shared by all of one prefix.
    """

    def __init__(self, rules: Rules, clock: Clock, data: PlainData) -> None:
        self._rules = rules
        self._clock = clock
        self._data = data

    def _line(self, queue: Queue) -> tuple[list[c.Entry], int]:
        """Return a queue without what is too old, and how much that was."""
        line = self._data.lines.setdefault(queue.name, [])
        young = [entry for entry in line if entry.stamp + self._rules.expiry > self._clock.now()]
        expired = len(line) - len(young)
        line[:] = young
        return line, expired

    def push(self, request: c.Push, /) -> c.Pushed:
        """See `channel_layer.commands.Push`."""
        with self._data.lock:
            line, expired = self._line(request.channel.queue)
            if len(line) >= request.capacity:
                return c.Pushed(accepted=False, expired=expired)
            line.append(c.Entry(self._clock.now(), message_frame(request.channel.name, request.payload)))
            return c.Pushed(accepted=True, expired=expired)

    def pop(self, request: c.Pop, /) -> c.Popped:
        """See `channel_layer.commands.Pop`."""
        with self._data.lock:
            line, expired = self._line(request.queue)
            taken = tuple(line[: request.count])
            del line[: request.count]
            return c.Popped(taken, expired, self._clock.now())

    def put_back(self, request: c.PutBack, /) -> c.Returned:
        """See `channel_layer.commands.PutBack`."""
        with self._data.lock:
            line = self._data.lines.setdefault(request.queue.name, [])  # what is too old is counted by who comes next
            kept = [entry for entry in request.entries if entry.stamp >= self._data.flushed_at]
            line[:0] = kept
            return c.Returned(0, len(request.entries) - len(kept))

    def pending(self, request: c.Pending, /) -> int:
        """See `channel_layer.commands.Pending`."""
        head, oldest = message_frame(request.channel.name, b""), self._clock.now() - self._rules.expiry
        with self._data.lock:  # what is too old stays, to be counted by who takes or pushes
            line = self._data.lines.get(request.channel.queue.name, [])
            return sum(entry.stamp > oldest and entry.frame.startswith(head) for entry in line)

    def join(self, request: c.Join, /) -> None:
        """See `channel_layer.commands.Join`."""
        with self._data.lock:
            group = self._data.groups.setdefault(request.group.name, {})
            group[request.channel.name] = self._clock.now()

    def leave(self, request: c.Leave, /) -> None:
        """See `channel_layer.commands.Leave`."""
        with self._data.lock:
            self._data.groups.get(request.group.name, {}).pop(request.channel.name, None)

    def members(self, request: c.Members, /) -> c.GroupMembers:
        """See `channel_layer.commands.Members`."""
        lasts = self._rules.group_expiry or GROUP_KEYS_LIFETIME
        with self._data.lock:
            group = self._data.groups.get(request.group.name, {})
            return c.GroupMembers((), tuple(name for name, at in group.items() if self._clock.now() - at < lasts))

    def flush(self, _request: c.Flush, /) -> int:
        """See `channel_layer.commands.Flush`."""
        with self._data.lock:
            dropped = sum(map(len, self._data.lines.values()))
            self._data.lines.clear()
            self._data.groups.clear()
            self._data.flushed_at = self._clock.now()
            return dropped

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class PlainData:
    """What all simple stores of one prefix share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    lines: dict[str, list[c.Entry]] = field(default_factory=dict[str, list[c.Entry]])
    groups: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    flushed_at: float = 0.0


def plain_stores() -> MakeStore:
    """Return a factory of backends over a simple store."""
    data_by_prefix: defaultdict[str, PlainData] = defaultdict(PlainData)

    def make_store(rules: Rules, clock: Clock) -> Backend:
        data = data_by_prefix[rules.prefix]
        return SimpleBackend(lambda: Plain(rules, clock, data), "plain")

    return make_store


class TestPlainLayer(LayerSuite):
    """A layer over the least that a store can be."""

    make_layer = staticmethod(layers_over(plain_stores()))
    capabilities = SimpleBackend.capabilities
    spans_processes = False


class TestPlainStore(StoreSuite):
    """The least that a store can be, completed."""

    make_store = staticmethod(plain_stores())
    capabilities = SimpleBackend.capabilities


class TestMemoryStore(StoreSuite):
    """The memory store."""

    make_store = staticmethod(memory_stores())


class TestRedisStore(StoreSuite):
    """The Redis store."""

    reconnects = True
    counts_remains = True

    @pytest.fixture
    def make_store(self, redis: MakeStore, deployment: Deployment) -> MakeStore:
        """Stores on each deployment in turn."""
        self.deployment = deployment
        return redis

    def disconnect(self, backend: Backend) -> None:
        """Let the servers close every connection but the one that asks for it."""
        for server in self.deployment.servers:
            if any(f":{server.port}/" in identity for identity in backend.identities):
                server.host().command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def remains(self, prefix: str) -> int:
        """Count keys."""
        return len(self.deployment.keys(prefix))


class TestMemoryLayer(LayerSuite):
    """The memory layer."""

    make_layer = staticmethod(layers_over(memory_stores()))
    spans_processes = False


class TestSealedMemoryLayer(LayerSuite):
    """The memory layer, when it seals what it sends and hides what it is called."""

    make_layer = staticmethod(sealed_layers(memory_stores()))
    spans_processes = False


class TestSealedRedisLayer(LayerSuite):
    """The Redis layer, sealed, on one host."""

    @pytest.fixture
    def make_layer(self, one_host: Deployment, server_pool: ServerPool) -> Generator[MakeLayer]:
        """Layers on one host."""
        prefixes: set[str] = set()
        make = sealed_layers(redis_stores(one_host))

        def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
            prefixes.add(rules.prefix)
            return make(rules, clock)

        yield make_layer
        for prefix in prefixes:
            server_pool.remove(prefix)


@pytest.mark.parametrize("deployment", ["one-host", "three-databases"], indirect=True)
class TestRedisLayer(LayerSuite):
    """The Redis layer; event loops get connections of their own at once, or go through the I/O thread."""

    @pytest.fixture
    def make_layer(self, redis: MakeStore, deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> MakeLayer:
        """Layers on each deployment in turn."""
        young = len(deployment.hosts) != len(deployment.servers)
        monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 3600.0 if young else 0.0)
        return layers_over(redis)
