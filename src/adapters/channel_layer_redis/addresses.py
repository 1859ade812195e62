"""Where a server is: its address over TCP or its Unix socket, the database on it, and the login.

One class for each kind of address, so that no field of one means nothing in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, TypeAlias
from urllib.parse import quote

from channel_layer_redis.tls import TLS  # noqa: TC001 - Pydantic reads the annotations

__all__ = ("CHECK_INTERVAL", "DEFAULT_HOST", "DEFAULT_PORT", "ServerAddress", "TCPAddress", "UnixAddress")

DEFAULT_HOST: Final = "localhost"
DEFAULT_PORT: Final = 6379

CHECK_INTERVAL: Final = 10.0
"""Seconds; firewalls and proxies forget idle connections after a minute at the earliest, or when they fail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Address:
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    health_check_interval: float = CHECK_INTERVAL


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
        health_check_interval: seconds after which a connection that was idle has to answer before it is used; 0: never.
        socket_keepalive: have the system probe idle connections.
    """

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    tls: TLS | None = None
    socket_keepalive: bool = True

    @property
    def identity(self) -> str:
        """What servers are told apart by, ``host:port/db``: no credentials, no scheme.

        Queues and groups are placed by it, so it may never change its form.
        """
        return f"{self._endpoint}/{self.db}"

    @property
    def label(self) -> str:
        """The address as a URL without credentials, for logs and errors."""
        endpoint = self._endpoint.replace("%", "%25")  # of an IPv6 zone
        return f"{'redis' if self.tls is None else 'rediss'}://{endpoint}/{self.db}"

    @property
    def remote(self) -> bool:
        """Whether what is sent there leaves this machine, as far as the name or the address tells."""
        if self.host == "localhost" or self.host.endswith(".localhost"):  # RFC 6761, 6.3
            return False
        try:
            return not ip_address(self.host).is_loopback
        except ValueError:
            return True

    @property
    def _endpoint(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress(_Address):
    """A server that is reached over a Unix socket.

    Attributes:
        path: the socket's.
        db: the number of the database.
        username: the user to log in as; None: the default user.
        password: None: no login. Never part of a repr.
        health_check_interval: see `TCPAddress`.
    """

    path: str

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
