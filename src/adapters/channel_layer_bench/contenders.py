"""The layers that can be measured: the built-in ones by name, any other by its dotted path and configuration.

A contender is a description only. Its layer is made in the processes that use it, so that nothing of one layer is
imported where another one is measured.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeGuard

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from channel_layer_bench.servers import Topology

__all__ = ("BUILT_IN", "DEFAULT", "FLOOR", "Contender", "UnknownContender", "fill", "parse_contender")

FLOOR: Final = "floor"
"""The contender that is no layer: what the server and the event loop can do without one."""

_SERVERLESS: Final = frozenset({"pending"})
"""What a layer without a server lacks."""

_PATH: Final = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*")


class UnknownContender(ValueError):
    """A --layer names no layer that can be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A layer that is measured.

    Attributes:
        name: in the results.
        backend: the dotted path of its class.
        config: the keyword arguments of the class, with placeholders that `fill` fills.
        hosts: how many servers it needs.
        topology: how they are put together.
        spans: whether it connects processes although it has no server.
        lacks: the families of workloads that it does not support.
        needs: the import package that it is in, and what installs it.
    """

    name: str
    backend: str
    config: Mapping[str, object]
    hosts: int = 1
    topology: Topology = "hosts"
    spans: bool = False
    lacks: frozenset[str] = frozenset()
    needs: tuple[str, str] | None = None

    @property
    def single_process(self) -> bool:
        """Whether it connects no processes, so that all roles of a workload have to run in one."""
        return self.hosts == 0 and not self.spans

    def missing(self) -> str | None:
        """Return what to install if what it needs is not installed; None: it is."""
        if self.needs is None or importlib.util.find_spec(self.needs[0]) is not None:
            return None
        return f"{self.name} needs {self.needs[0]}: pip install {self.needs[1]}"


def _known() -> tuple[Contender, ...]:
    ours: dict[str, object] = {"prefix": "{prefix}", "capacity": "{capacity}", "inbox_capacity": "{capacity}"}
    redis = "channel_layer_redis.RedisChannelLayer"
    extra = ("redis", '"channel-layer[redis]"')
    peers = ("channels_redis", "channels_redis")
    sealed = {**ours, "hosts": "{urls}", "symmetric_encryption_keys": ["a key for measurements, known to all"]}
    crypto = ("cryptography", '"channel-layer[redis,cryptography]"')
    return (
        Contender("redis", redis, {**ours, "hosts": "{urls}"}, needs=extra),
        Contender("redis-3-hosts", redis, {**ours, "hosts": "{urls}"}, hosts=3, needs=extra),
        Contender("redis-sentinel", redis, {**ours, "hosts": "{urls}"}, topology="sentinel", needs=extra),
        Contender("redis-cluster", redis, {**ours, "hosts": "{urls}"}, hosts=3, topology="cluster", needs=extra),
        Contender("redis-aes", redis, sealed, needs=crypto),
        Contender("redis-fernet", redis, {**sealed, "encryption": "fernet"}, needs=crypto),
        Contender("redis-blind", redis, {**sealed, "blind_names": True}, needs=crypto),
        Contender(
            "ipc",
            "channel_layer_ipc.IPCChannelLayer",
            {**ours, "memory": 1 << 30},  # a server has no limit
            hosts=0,
            spans=True,
            lacks=_SERVERLESS,
            needs=("lmdb", '"channel-layer[ipc]"'),
        ),
        Contender(
            "redis-local",
            "channel_layer_redis.RedisLocalChannelLayer",
            {**ours, "hosts": "{urls}", "local": {"memory": 1 << 30}},
            needs=("lmdb", '"channel-layer[ipc,redis]"'),
        ),
        Contender("memory", "channel_layer_memory.MemoryChannelLayer", ours, hosts=0, lacks=_SERVERLESS),
        Contender(
            "core",
            "channels_redis.core.RedisChannelLayer",
            # redis-py 8 gives every read 5 seconds by default; this layer waits for messages just as long,
            # so that each idle wait would end in an error.
            {
                "hosts": [{"address": "{url}", "socket_timeout": 60}],
                "prefix": "{prefix}",
                "capacity": "{capacity}",
            },
            needs=peers,
        ),
        Contender(
            "pubsub",
            "channels_redis.pubsub.RedisPubSubChannelLayer",
            {"hosts": ["{url}"], "prefix": "{prefix}"},
            lacks=frozenset({"worker", "pending"}),  # it keeps no message for a channel without a reader
            needs=peers,
        ),
        Contender(
            "inmemory",
            "channels.layers.InMemoryChannelLayer",
            {"capacity": "{capacity}"},
            hosts=0,
            lacks=_SERVERLESS | {"blocking", "sync"},  # its queues belong to one event loop
            needs=("channels", '"channel-layer[django]"'),
        ),
        Contender(
            FLOOR,
            "builtins.object",  # its roles use no layer
            {},
            lacks=frozenset({"fanout", "worker", "sync", "churn", "large", "pending", "idle"}),
            needs=("hiredis", '"channel-layer[redis]"'),
        ),
    )


BUILT_IN: Final[Mapping[str, Contender]] = MappingProxyType({each.name: each for each in _known()})
"""The contenders that need no configuration, by name."""

DEFAULT: Final = ("redis", "core", "pubsub", FLOOR)
"""The contenders if none is named: layers that pass messages between processes, and the limit."""


def parse_contender(text: str) -> Contender:
    """Return the contender that a --layer names.

    Args:
        text: the name of one that is built in, or ``NAME=dotted.path.Class``, or ``NAME=dotted.path.Class:{...}`` with
            its configuration as JSON. One whose configuration has no ``{url}`` and no ``{urls}`` in it has no
            server, and therefore lives in one process.

    Raises:
        UnknownContender: the text has none of these forms.
    """
    name, equals, rest = text.partition("=")
    if not equals:
        if name not in BUILT_IN:
            raise UnknownContender(
                f"{name!r} is none of {', '.join(BUILT_IN)}; any other layer is NAME=dotted.path.Class:{{json config}}"
            )
        return BUILT_IN[name]
    backend, colon, config = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise UnknownContender(f"{name!r} is no name: use letters, digits, dots and hyphens")
    if name in BUILT_IN:
        raise UnknownContender(f"{name!r} is built in; give the layer another name")
    if not _PATH.fullmatch(backend):
        raise UnknownContender(f"{backend!r} is not the dotted path of a class")
    try:
        options: object = json.loads(config) if colon else {}
    except json.JSONDecodeError as exc:
        raise UnknownContender(f"the configuration of {name!r} is no JSON: {exc}") from exc
    if not _is_dict(options):
        raise UnknownContender(f"the configuration of {name!r} is no JSON object")
    if "{url}" in config or "{urls}" in config:
        return Contender(name, backend, options)
    return Contender(name, backend, options, hosts=0, lacks=_SERVERLESS)


def fill(config: Mapping[str, object], *, urls: Sequence[str], prefix: str, capacity: int) -> dict[str, object]:
    """Return a configuration with its placeholders filled.

    Args:
        config: the configuration; ``"{urls}"`` and ``"{capacity}"`` stand for a whole value, ``{url}`` and ``{prefix}``
            may stand inside a text.
        urls: the servers.
        prefix: what keys begin with.
        capacity: messages that a channel may hold.
    """
    text = json.dumps(dict(config))
    for placeholder, value in {"{urls}": urls, "{capacity}": capacity}.items():
        text = text.replace(f'"{placeholder}"', json.dumps(value))
    for placeholder, inner in {"{url}": next(iter(urls), ""), "{prefix}": prefix}.items():
        text = text.replace(placeholder, json.dumps(inner)[1:-1])
    filled: dict[str, object] = json.loads(text)
    return filled


def _is_dict(value: object) -> TypeGuard[dict[str, object]]:
    return isinstance(value, dict)
