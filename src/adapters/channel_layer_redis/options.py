"""The CONFIG of the Redis layer as type checkers see it: every way to write a server, and the options beside them.

What is missing here is an error of the type checker; `channel_layer_redis.hosts` would refuse it later.
"""

from __future__ import annotations

from pathlib import PurePath
from ssl import SSLContext, VerifyMode
from typing import Required, TypeAlias, TypedDict

from channel_layer.options import CommonConfigDict, NoLocalReaderOption, SequenceNotStr
from channel_layer_redis.tls import Verify

__all__ = (
    "AddressDict",
    "HostDict",
    "HostOption",
    "HostsOption",
    "LocalDict",
    "RedisConfigDict",
    "RedisLocalConfigDict",
    "ServerDict",
)


class ServerDict(TypedDict, total=False):
    """The options of a server besides its address; see `channel_layer_redis.hosts.OPTIONS`."""

    db: int
    username: str | None
    password: str | None
    ssl: bool
    ssl_ca_certs: str | PurePath | None
    ssl_certfile: str | PurePath | None
    ssl_keyfile: str | PurePath | None
    ssl_password: str | None
    ssl_cert_reqs: Verify | VerifyMode | None
    ssl_check_hostname: bool
    ssl_context: SSLContext
    health_check_interval: float
    socket_keepalive: bool


class HostDict(ServerDict, total=False):
    """A server by name and port."""

    host: str
    port: int


class AddressDict(ServerDict, total=False):
    """A server by URL."""

    address: Required[str]


HostOption: TypeAlias = str | tuple[str, int] | list[str | int] | HostDict | AddressDict
"""One server: a URL, a (host, port) pair, or a dict."""

HostsOption: TypeAlias = SequenceNotStr[HostOption | int]
"""All servers. The int is for the literal ``["localhost", 6379]`` of the asgi_redis README, which is one pair.

(As a union of its own that literal keeps mypy from inferring any list of dicts.)
"""


class RedisConfigDict(CommonConfigDict, total=False):
    """The CONFIG of a `RedisChannelLayer`; `channel_layer_redis.config.RedisConfig` says what each does."""

    hosts: HostsOption | None
    host: str | None
    port: int | None
    db: int | None


class LocalDict(TypedDict, total=False):
    """The directory and the memory of the local store, as in an `IPCChannelLayer`."""

    directory: str | PurePath | None
    memory: int


class RedisLocalConfigDict(RedisConfigDict, total=False):
    """The CONFIG of a `RedisLocalChannelLayer`."""

    local: LocalDict | None
    no_local_reader: NoLocalReaderOption
