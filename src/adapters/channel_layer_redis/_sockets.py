"""What is asked of the socket of a connection: to notice that it is lost, and whether something has come.

A firewall, a proxy or a balancer forgets a connection that is idle, and mostly tells neither side.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

from channel_layer.runtime.threads import Poller

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ("CHECK_SHARE", "has_input", "keep_alive")

CHECK_SHARE: Final = 0.2
"""Share of the timeout in which a connection that was idle has to answer; the rest is for connecting anew."""

_PROBES: Final[Mapping[str, int]] = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds until the first probe and between them, and how many are unanswered on a lost connection; as in hiredis.

Linux's defaults are two hours, 75 seconds and nine. macOS has another name for the first.
"""


class Socket(Protocol):
    """The used part of a socket; those of event loops are no `socket.socket`."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...
    def fileno(self) -> int: ...
    def shutdown(self, how: int, /) -> None: ...


def keep_alive(tcp: Socket, options: Iterable[tuple[int, int]] | None = None) -> None:
    """Have the system probe a TCP connection while it is idle, which also keeps it known on its way.

    *options* are numbers of TCP options and their values; None: those of this module.
    """
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _probes() if options is None else options:
        tcp.setsockopt(socket.IPPROTO_TCP, option, value)


def _probes() -> Iterator[tuple[int, int]]:
    for name, value in _PROBES.items():
        option: int | None = getattr(socket, name, None)
        if option is not None:
            yield option, value


def has_input(sock: Socket) -> bool:
    """Return whether something has come that was not read yet: data, or the end of the connection."""
    return Poller([sock.fileno()]).wait(0)
