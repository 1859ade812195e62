"""Where servers are: one by its TCP address or its Unix socket, or those that sentinels or a Cluster name.

One class for each kind of entry in ``hosts``, so that no field of one means nothing in the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import ClassVar, Final, TypeAlias
from urllib.parse import quote

from channel_layer.errors import FieldError  # noqa: TC001 - Pydantic reads the annotations
from channel_layer_redis.credentials import REFRESH_INTERVAL, CredentialProvider
from channel_layer_redis.tls import TLS  # noqa: TC001 - Pydantic reads the annotations

__all__ = (
    "CHECK_INTERVAL",
    "DEFAULT_HOST",
    "DEFAULT_PORT",
    "AddressRemap",
    "ClusterNodes",
    "HostsEntry",
    "SentinelService",
    "ServerAddress",
    "TCPAddress",
    "UnixAddress",
)

DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 6379

CHECK_INTERVAL: Final = 10.0
"""Seconds; firewalls and proxies forget idle connections after a minute at the earliest, or when they fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    credential_provider: CredentialProvider | None = field(default=None, repr=False, hash=False)
    credential_refresh_interval: float = REFRESH_INTERVAL
    client_name: str | None = None
    connect_timeout: float | None = None
    health_check_interval: float = CHECK_INTERVAL
    unneeded: tuple[FieldError, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TCPAddress(_Address):
    """A server that is reached over TCP.

    Attributes:
        host: its name in lower case, or its IP address; an IPv6 address without brackets.
        port: its port.
        tls: how to speak TLS; None: in plain text.
        db: the number of the database.
        username: the user to log in as; None: the default user.
        password: None: no login. Never part of a repr.
        credential_provider: gives the user and the password instead, at each connect and again while connected.
        credential_refresh_interval: seconds after which it is asked again; 0: only at each connect.
        client_name: what the server calls the connections in its ``CLIENT LIST``.
        connect_timeout: seconds that a connection may take until it can be used; None: the layer's timeout.
        health_check_interval: seconds after which a connection that was idle has to answer before it is used; 0: never.
        unneeded: options that were given and change nothing, and why; no part of what the address is.
        socket_keepalive: have the system probe idle connections.
        keepalive_options: how, as numbers of TCP options and their values; None: as this layer finds it good.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    tls: TLS | None = None
    socket_keepalive: bool = True
    keepalive_options: tuple[tuple[int, int], ...] | None = None

    @property
    def identity(self) -> str:
        """What servers are told apart by, ``host:port/db``: no credentials, no scheme.

        Queues and groups are placed by it, so it may never change its form.
        """
        return f"{self.endpoint}/{self.db}"

    @property
    def label(self) -> str:
        """The address as a URL without credentials, for logs and errors."""
        endpoint = self.endpoint.replace("%", "%25")  # of an IPv6 zone
        return f"{_scheme(self)}://{endpoint}/{self.db}"

    @property
    def exposed(self) -> bool:
        """Whether what is sent there leaves this machine in plain text, as far as the name or the address tells."""
        return self.tls is None and self.remote

    @property
    def remote(self) -> bool:
        """Whether what is sent there leaves this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):  # RFC 6761, 6.3
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True

    @property
    def endpoint(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress(_Address):
    """A server that is reached over a Unix socket.

    Attributes:
        path: the socket's.
        db: the number of the database.
        username: the user to log in as; None: the default user.
        password: None: no login. Never part of a repr.

    The other attributes are those of `TCPAddress`.
    """

    path: str

    exposed: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """What servers are told apart by, ``path/db``; see `TCPAddress.identity`."""
        return f"{self.path}/{self.db}"

    @property
    def label(self) -> str:
        """The address as a URL without credentials, for logs and errors."""
        return f"unix://{quote(self.path)}?db={self.db}"


ServerAddress: TypeAlias = TCPAddress | UnixAddress
"""Where one server is."""


@dataclass(frozen=True, slots=True)
class SentinelService:
    """A primary that sentinels name, whichever server that is.

    Attributes:
        sentinels: where they are, and how to log in there.
        master_name: what they call the service.
        server: how to connect to the primary; its own host and port mean nothing.
    """

    sentinels: tuple[TCPAddress, ...]
    master_name: str
    server: TCPAddress

    @property
    def identity(self) -> str:
        """What it is told apart by, ``sentinel:master_name/db``; see `TCPAddress.identity`. No server is named so."""
        return f"sentinel:{self.master_name}/{self.server.db}"

    @property
    def label(self) -> str:
        """The service as a URL without credentials, for logs and errors."""
        return f"{_scheme(self.server)}+sentinel://{_endpoints(self.sentinels)}/{self.server.db}/{self.master_name}"

    @property
    def unneeded(self) -> tuple[FieldError, ...]:
        """See `TCPAddress.unneeded`."""
        return (*self.sentinels[0].unneeded, *self.server.unneeded)

    @property
    def exposed(self) -> bool:
        """Whether what is sent to the primary leaves this machine in plain text: it is taken to be at a sentinel's."""
        return self.server.tls is None and any(sentinel.remote for sentinel in self.sentinels)


AddressRemap: TypeAlias = Callable[[tuple[str, int]], tuple[str, int]]
"""Turns the (host, port) that a node of a Cluster announces into where it can be reached, as in redis-py."""


@dataclass(frozen=True, slots=True)
class ClusterNodes:
    """A Cluster.

    Attributes:
        nodes: some of its nodes, which name the others; all are connected to in the same way.
        partitions: over how many partitions queues and groups are spread.
        address_remap: for nodes that announce another address than one that can be reached from here.
    """

    nodes: tuple[TCPAddress, ...]
    partitions: int
    address_remap: AddressRemap | None = None

    @property
    def identity(self) -> str:
        """What it is told apart by; there is no other entry beside it."""
        return "cluster"

    @property
    def label(self) -> str:
        """The Cluster as a URL without credentials, for logs and errors."""
        return f"{_scheme(self.nodes[0])}+cluster://{_endpoints(self.nodes)}"

    @property
    def unneeded(self) -> tuple[FieldError, ...]:
        """See `TCPAddress.unneeded`."""
        return self.nodes[0].unneeded

    @property
    def exposed(self) -> bool:
        """Whether what is sent to the nodes leaves this machine in plain text."""
        return any(node.exposed for node in self.nodes)


def _scheme(address: TCPAddress) -> str:
    return "redis" if address.tls is None else "rediss"


def _endpoints(addresses: tuple[TCPAddress, ...]) -> str:
    return ",".join(address.endpoint for address in addresses)


HostsEntry: TypeAlias = ServerAddress | SentinelService | ClusterNodes
"""One entry of ``hosts``."""
