"""The CONFIG of the Redis layer as type checkers see it: every way to write a server, and the options beside them.

What is missing here is an error of the type checker; `channel_layer_redis.hosts` would refuse it later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from ssl import SSLContext, TLSVersion, VerifyFlags, VerifyMode
from typing import Required, TypeAlias, TypedDict

from channel_layer.options import CommonConfigDict, NoLocalReaderOption, SequenceNotStr
from channel_layer_redis.addresses import AddressRemap
from channel_layer_redis.credentials import CredentialProvider
from channel_layer_redis.tls import Verify

__all__ = (
    "AddressDict",
    "ClusterDict",
    "HostDict",
    "HostOption",
    "HostsOption",
    "LocalDict",
    "PairsOption",
    "RedisConfigDict",
    "RedisLocalConfigDict",
    "SentinelDict",
    "ServerDict",
)


class ServerDict(TypedDict, total=False):
    """The options of a server besides its address; see `channel_layer_redis.hosts.OPTIONS`."""

    db: int | str
    username: str | None
    password: str | None
    credential_provider: CredentialProvider | None
    credential_refresh_interval: float
    client_name: str | None
    ssl: bool | SSLContext
    ssl_ca_certs: str | PurePath | None
    ssl_ca_path: str | PurePath | None
    ssl_ca_data: str | bytes | None
    ssl_certfile: str | PurePath | None
    ssl_keyfile: str | PurePath | None
    ssl_password: str | None
    ssl_cert_reqs: Verify | VerifyMode | None
    ssl_check_hostname: bool
    ssl_min_version: TLSVersion | int | str | None
    ssl_ciphers: str | None
    ssl_include_verify_flags: SequenceNotStr[VerifyFlags | str] | None
    ssl_exclude_verify_flags: SequenceNotStr[VerifyFlags | str] | None
    ssl_context: SSLContext
    socket_connect_timeout: float | None
    health_check_interval: float
    socket_keepalive: bool
    socket_keepalive_options: Mapping[int, int] | None


class HostDict(ServerDict, total=False):
    """A server by name and port."""

    host: str
    port: int | str


class AddressDict(ServerDict, total=False):
    """A server by URL."""

    address: Required[str]


PairsOption: TypeAlias = SequenceNotStr[tuple[str, int | str] | list[str | int] | str | int]
"""(host, port) pairs; or one pair."""


class SentinelDict(ServerDict, total=False):
    """A service that sentinels name: how to reach and use them, and how to connect to the primary."""

    sentinels: Required[PairsOption]
    master_name: Required[str]
    sentinel_kwargs: ServerDict | None


class ClusterDict(ServerDict, total=False):
    """A Cluster, by some of its nodes; `db` does not go with it."""

    cluster: Required[PairsOption]
    partitions: int
    address_remap: AddressRemap | None


HostOption: TypeAlias = (
    str | tuple[str, int | str] | list[str | int] | HostDict | AddressDict | SentinelDict | ClusterDict
)
"""One server, service or Cluster: a URL, a (host, port) pair, or a dict."""

HostsOption: TypeAlias = SequenceNotStr[HostOption | int]
"""All servers. The int is for the literal ``["localhost", 6379]`` of the asgi_redis README, which is one pair.

(As a union of its own that literal keeps mypy from inferring any list of dicts.)
"""


class RedisConfigDict(CommonConfigDict, total=False):
    """The CONFIG of a `RedisChannelLayer`; `channel_layer_redis.config.RedisConfig` says what each does."""

    hosts: HostsOption | None
    host: str | None
    port: int | str | None
    db: int | str | None


class LocalDict(TypedDict, total=False):
    """The directory and the memory of the local store, as in an `IPCChannelLayer`."""

    directory: str | PurePath | None
    memory: int


class RedisLocalConfigDict(RedisConfigDict, total=False):
    """The CONFIG of a `RedisLocalChannelLayer`."""

    local: LocalDict | None
    no_local_reader: NoLocalReaderOption
