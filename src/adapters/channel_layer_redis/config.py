"""The CONFIG of the Redis layer: the common options, and which servers to use.

The servers come out as `HostsEntry` objects, so that no other module has to know the forms in which they can be
written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from ssl import TLSVersion, VerifyFlags
from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema

from channel_layer.config import CommonConfig, Concern
from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import Accepts
from channel_layer_redis._foreign_options import ONLY, REFUSED, REFUSED_IN_LAYER, UNNEEDED_IN_LAYER
from channel_layer_redis._given_options import number_in_text
from channel_layer_redis.addresses import DEFAULT_HOST, DEFAULT_PORT, HostsEntry, TCPAddress
from channel_layer_redis.hosts import (
    DATABASE_TEXT,
    DATABASES,
    OPTIONS,
    PARTITIONS,
    PORT_TEXT,
    PORTS,
    SCHEMES,
    SEVERAL,
    URL_OPTIONS,
    parse_host_name,
    parse_hosts,
    split_url,
)

__all__ = ("RedisConfig",)

_IN_HOSTS = 'write it in hosts, as in hosts=[{"host": "localhost", "port": 6379, "password": ...}]'

_TLS_IN_HOSTS = (
    'write rediss:// in hosts, and other options of TLS beside it, as in hosts=[{"address": "rediss://localhost:6379", '
    '"ssl_ca_certs": ...}]; an SSLContext is written "ssl_context" there'
)

_SHORTHAND = ("host", "port", "db")


def _url_schema(schemes: Iterable[str]) -> dict[str, object]:
    """Return the schema of a URL with one of some schemes, in either case."""
    either = (
        "".join(f"[{each.upper()}{each}]" if each.isalpha() else f"[{each}]" for each in name) for name in schemes
    )
    return {"type": "string", "pattern": f"^({'|'.join(either)})://"}


_URL_SCHEMA = _url_schema(SCHEMES)
# Pydantic 2.8 writes the default of a field into the schema that it is given, hence the copies below.
_NAME_SCHEMA = {"type": "string", "minLength": 1}
_DIGITS_SCHEMA = {"type": "string", "pattern": "^[0-9]{1,10}$"}
_PORT_SCHEMA = {"anyOf": [{"type": "integer", "minimum": PORTS[0], "maximum": PORTS[-1]}, _DIGITS_SCHEMA]}
_DB_SCHEMA = {"anyOf": [{"type": "integer", "minimum": DATABASES[0], "maximum": DATABASES[-1]}, _DIGITS_SCHEMA]}
_PAIR_SCHEMA: dict[str, object] = {
    "type": "array",
    "prefixItems": [{**_NAME_SCHEMA, "not": {"pattern": "[/@]"}}, _PORT_SCHEMA],
    "minItems": 2,
    "maxItems": 2,
}
_TEXT_SCHEMA = {"type": ["string", "null"]}
_FLAGS_SCHEMA = {"type": ["array", "null"], "items": {"enum": list(VerifyFlags.__members__)}}
_SERVER_SCHEMAS: dict[str, object] = {
    **dict.fromkeys(OPTIONS, _TEXT_SCHEMA),
    "db": _DB_SCHEMA,
    "client_name": {"type": ["string", "null"], "pattern": "^[!-~]*$"},
    "ssl": {"type": "boolean"},
    "ssl_cert_reqs": {"enum": ["required", "optional", "none", None]},
    "ssl_check_hostname": {"type": "boolean"},
    "ssl_min_version": {"enum": [*(version.name for version in TLSVersion), None]},
    "ssl_include_verify_flags": _FLAGS_SCHEMA,
    "ssl_exclude_verify_flags": _FLAGS_SCHEMA,
    "socket_connect_timeout": {"type": ["number", "null"], "exclusiveMinimum": 0},
    "health_check_interval": {"type": "number", "minimum": 0},
    "socket_keepalive": {"type": "boolean"},
}
"""Only what a file can hold: an `ssl.SSLContext` is not part of it, nor a provider of credentials."""
for _name in ("credential_provider", "credential_refresh_interval", "socket_keepalive_options", "ssl_context"):
    del _SERVER_SCHEMAS[_name]


def _dict_schema(required: tuple[str, ...], without: str = "", **own: object) -> dict[str, object]:
    return {
        "type": "object",
        "properties": {**own, **{name: schema for name, schema in _SERVER_SCHEMAS.items() if name != without}},
        "required": list(required),
        "minProperties": 1,
        "additionalProperties": False,
    }


_PAIRS_SCHEMA: dict[str, object] = {"anyOf": [{"type": "array", "minItems": 1, "items": _PAIR_SCHEMA}, _PAIR_SCHEMA]}
_HOSTS_SCHEMA: dict[str, object] = {
    "anyOf": [
        {
            "type": "array",
            "minItems": 1,
            "items": {
                "anyOf": [
                    _url_schema((*SCHEMES, *SEVERAL)),
                    _PAIR_SCHEMA,
                    _dict_schema((), host=_NAME_SCHEMA, port=_PORT_SCHEMA),
                    _dict_schema(("address",), address=_URL_SCHEMA),
                    _dict_schema(
                        ("sentinels", "master_name"),
                        sentinels=_PAIRS_SCHEMA,
                        master_name={**_NAME_SCHEMA, "not": {"pattern": "/"}},
                        sentinel_kwargs=_dict_schema((), "db"),
                    ),
                    _dict_schema(
                        ("cluster",),
                        "db",
                        cluster=_PAIRS_SCHEMA,
                        partitions={"type": "integer", "minimum": PARTITIONS[0], "maximum": PARTITIONS[-1]},
                    ),
                ]
            },
        },
        _PAIR_SCHEMA,
    ]
}

_Hosts = Annotated[
    tuple[HostsEntry, ...],
    PlainValidator(parse_hosts),
    WithJsonSchema(_HOSTS_SCHEMA),
    Accepts("a list of URLs, (host, port) pairs and dicts"),
]


class RedisConfig(CommonConfig):
    """The options of the Redis layer. Made by `parse`."""

    refused: ClassVar[Mapping[str, str]] = {
        **CommonConfig.refused,
        "address": _IN_HOSTS,
        "url": _IN_HOSTS,
        **{name: _TLS_IN_HOSTS if name.startswith("ssl") else _IN_HOSTS for name in OPTIONS if name != "db"},
        **REFUSED,
        **REFUSED_IN_LAYER,
    }

    unneeded: ClassVar[Mapping[str, str]] = UNNEEDED_IN_LAYER

    unset: ClassVar[frozenset[str]] = CommonConfig.unset | {"hosts", *_SHORTHAND}

    hosts: _Hosts = Field(
        default=(TCPAddress(),),
        json_schema_extra={"default": [[DEFAULT_HOST, DEFAULT_PORT]]},
        description=(
            "The servers: Redis 6.2 or newer, Valkey 7.2 or newer; services that sentinels name; or one Cluster. With "
            "several, each queue and each group lives on one of them, and normal channels are spread over all. All "
            "processes of a project need the same list, in whatever order."
        ),
    )
    host: Annotated[
        str, PlainValidator(parse_host_name), WithJsonSchema(dict(_NAME_SCHEMA)), Accepts("the name of a host")
    ] = Field(
        default=DEFAULT_HOST,
        description="Shorthand for one server: its name or address. Not together with `hosts`.",
    )
    port: Annotated[
        int,
        Field(ge=PORTS[0], le=PORTS[-1]),
        BeforeValidator(number_in_text),
        WithJsonSchema(dict(_PORT_SCHEMA)),
        Accepts(PORT_TEXT),
    ] = Field(
        default=DEFAULT_PORT,
        description="Shorthand for one server: its TCP port. Not together with `hosts`.",
    )
    db: Annotated[
        int,
        Field(ge=DATABASES[0], le=DATABASES[-1]),
        BeforeValidator(number_in_text),
        WithJsonSchema(dict(_DB_SCHEMA)),
        Accepts(DATABASE_TEXT),
    ] = Field(
        default=0,
        description="Shorthand for one server: the number of its database. Not together with `hosts`.",
    )

    @classmethod
    def conflicts(cls, options: Mapping[str, object]) -> Iterable[FieldError]:
        """Find ``host``, ``port`` or ``db`` together with ``hosts``, and common options in conflict."""
        yield from super().conflicts(options)
        if "hosts" in options:
            problem = "does not go together with hosts: keep one of the two"
            yield from (FieldError(name, problem) for name in _SHORTHAND if name in options)
        for name, (value, problem) in ONLY.items():
            if options.get(name, value) != value:
                yield FieldError(name, problem)

    def given_in_vain(self) -> Iterable[FieldError]:
        """Find options that change nothing, those of servers too."""
        yield from super().given_in_vain()
        for server in self.servers:
            yield from server.unneeded

    @classmethod
    def read_url(cls, url: str, errors: list[FieldError]) -> dict[str, object]:
        """Read a URL as `hosts` takes it, whose query may also have the options of the layer and more servers.

        The parameter ``host``, repeated, names each further server as ``name``, ``name:port`` or ``name:port/db``; all
        have the scheme, the login and the TLS options of the first.
        """
        urls, rest = split_url(url, errors)
        options = cls.read_query(rest, errors, ("host", *URL_OPTIONS))
        if not any(re.match(r"url\b|host\b", error.field) for error in errors):
            try:
                parse_hosts(urls)
            except ConfigError as exc:
                errors += map(_of_url, exc.errors)
            else:
                options["hosts"] = urls
        return options

    def concerns(self) -> Iterable[Concern]:
        """Find servers that are reached in plain text although messages are encrypted."""
        yield from super().concerns()
        if not self.symmetric_encryption_keys:
            return
        for place, server in enumerate(self.servers):
            if server.exposed:
                field = "host" if self.model_fields_set.intersection(_SHORTHAND) else f"hosts[{place}]"
                problem = (
                    f"messages are encrypted, and the connection to {server.identity} is not: its password, names, "
                    "sizes and times can be read and commands be slipped in on the way; "
                    "write rediss:// if it speaks TLS"
                )
                yield Concern("channel_layer.W003", field, problem)

    @property
    def servers(self) -> tuple[HostsEntry, ...]:
        """All entries of `hosts`, however they were given."""
        if self.model_fields_set.isdisjoint(_SHORTHAND):
            return self.hosts
        return (TCPAddress(self.host, self.port, db=self.db),)


def _of_url(error: FieldError) -> FieldError:
    """Return an error of `parse_hosts` with the place in the URL instead of that in the list made of it."""

    def place(match: re.Match[str]) -> str:
        number = int(match[1])
        return "url" if number == 0 else f"host[{number - 1}]"

    field, problem = (re.sub(r"\bhosts\[([0-9]+)\]", place, text) for text in (error.field, error.problem))
    return FieldError(field, problem)
