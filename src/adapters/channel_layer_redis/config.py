"""The CONFIG of the Redis layer: the common options, and which servers to use.

The servers come out as `Host` objects, so that nothing behind this module has to know in how many ways they
can be written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import Field, PlainValidator

from channel_layer.config import Accepts, CommonConfig
from channel_layer.errors import FieldError
from channel_layer_redis.hosts import (
    DATABASE_TEXT,
    DATABASES,
    DEFAULT_HOST,
    DEFAULT_PORT,
    PORT_TEXT,
    PORTS,
    TLS,
    Host,
    parse_host_name,
    parse_hosts,
)

__all__ = ("TLS", "Host", "RedisConfig")

_IN_HOSTS = 'write it in hosts, as in hosts=[{"host": "localhost", "port": 6379, "password": ...}]'

_SHORTHAND = ("host", "port", "db")

_Hosts = Annotated[
    tuple[Host, ...],
    PlainValidator(parse_hosts),
    Accepts("a list of URLs, (host, port) pairs and dicts"),
]


class RedisConfig(CommonConfig):
    """The options of the Redis layer. Made by `parse`."""

    refused: ClassVar[Mapping[str, str]] = {
        **CommonConfig.refused,
        "address": _IN_HOSTS,
        "url": _IN_HOSTS,
        "username": _IN_HOSTS,
        "password": _IN_HOSTS,
        "ssl": _IN_HOSTS,
        "connection_kwargs": f"an option of asgi_redis: remove it; for options of a connection, {_IN_HOSTS}",
        "stats_prefix": "an option of asgi_redis that this layer does not need: remove it",
        "serializer_format": "an option of channels_redis; this layer always writes msgpack: remove it",
        "random_prefix_length": "an option of channels_redis that this layer does not need: remove it",
    }

    hosts: _Hosts = Field(
        default=(Host(),),
        description=(
            "The servers: Redis 6.2 or newer, Valkey 7.2 or newer. With several, each queue and each group "
            "lives on one of them, and normal channels are spread over all. All processes of a project need "
            "the same list, in whatever order."
        ),
    )
    host: Annotated[str, PlainValidator(parse_host_name), Accepts("the name of a host")] = Field(
        default=DEFAULT_HOST,
        description="Shorthand for one server: its name or address. Not together with `hosts`.",
    )
    port: Annotated[int, Field(ge=PORTS[0], le=PORTS[-1]), Accepts(PORT_TEXT)] = Field(
        default=DEFAULT_PORT,
        description="Shorthand for one server: its TCP port. Not together with `hosts`.",
    )
    db: Annotated[int, Field(ge=DATABASES[0], le=DATABASES[-1]), Accepts(DATABASE_TEXT)] = Field(
        default=0,
        description="Shorthand for one server: the number of its database. Not together with `hosts`.",
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find shorthand beside the list that it is short for, and what is wrong between the common options."""
        yield from super().conflicts(options)
        if "hosts" in options:
            problem = "does not go together with hosts: keep one of the two"
            yield from (FieldError(name, problem) for name in _SHORTHAND if name in options)

    @property
    def servers(self) -> tuple[Host, ...]:
        """All servers, however they were given."""
        if self.model_fields_set.isdisjoint(_SHORTHAND):
            return self.hosts
        return (Host(self.host, self.port, db=self.db),)
