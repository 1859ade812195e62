"""Makes several layer objects over one store of any kind, as several processes would.

Tests of invariants are written once for a `System`, and run on memory and on Redis with one host and with three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from channel_layer.config import CommonConfig, parse
from channel_layer.layer import ChannelLayer
from channel_layer.testing import VirtualClock
from channel_layer.testing.suites.tools import run
from channel_layer_memory._store import MemoryBackend
from channel_layer_redis._store import RedisBackend
from channel_layer_redis.config import RedisConfig

if TYPE_CHECKING:
    from channel_layer.ports import Backend
    from tests.support.servers import Deployment

__all__ = ("System", "run")


@dataclass
class System:
    """One store, and any number of layers over it.

    Attributes:
        deployment: the hosts; None for memory.
        prefix: of all keys.
        clock: the clock of all layers and stores of the system.
        options: CONFIG options of every layer.
    """

    deployment: Deployment | None
    prefix: str
    clock: VirtualClock = field(default_factory=VirtualClock)
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    _memory: MemoryBackend | None = None

    def layer(self, **options: object) -> ChannelLayer:
        """Make another layer object over the store, as another process would make it."""
        given = {"prefix": self.prefix, **self.options, **options}
        backend: Backend
        if self.deployment is None:
            rules = parse(CommonConfig, given).rules()
            if self._memory is None:
                self._memory = MemoryBackend(rules, self.clock)
            backend = self._memory
        else:
            config = parse(RedisConfig, {**given, "hosts": self.deployment.urls})
            rules = config.rules()
            backend = RedisBackend(config.servers, rules, self.clock)
        return ChannelLayer(rules, backend, clock=self.clock)

    @property
    def shards(self) -> int:
        """The number of shards: one for each host."""
        return 1 if self.deployment is None else len(self.deployment.hosts)
