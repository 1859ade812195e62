"""Makes a connection to a server, and keeps it logged in while it lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from channel_layer.errors import StoreError
from channel_layer_redis._greeting import greeting, read_greeting, ways_round
from channel_layer_redis._logins import RETRY_SHARE, ask
from channel_layer_redis._replies import connect_error
from channel_layer_redis._sockets import keep_alive
from channel_layer_redis.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_redis._connection import Connection
    from channel_layer_redis._greeting import Role
    from channel_layer_redis._locators import Locator
    from channel_layer_redis._logins import Login, RenewalLog
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("connect",)


async def connect(address: ServerAddress, connection: Connection, deadline: float, locator: Locator) -> None:
    """Connect to a server, log in, and check that it can serve, until the loop's clock reaches a deadline.

    If that fails, the connection is aborted.

    Args:
        address: the server's.
        connection: what to connect.
        deadline: by the clock of the loop.
        locator: has found the address.

    Raises:
        StoreError: the server cannot be reached, refuses the login, or is too old.
    """
    limit = connection.timeout
    if address.connect_timeout is not None:
        limit = min(limit, address.connect_timeout)
        deadline = min(deadline, asyncio.get_running_loop().time() + limit)
    try:
        login = await ask(address, deadline)
        async with asyncio.timeout_at(deadline):
            await _open(address, connection)
            await _greet(address, connection, login, locator.role)
    except BaseException as exc:
        connection.abort()
        error = exc if isinstance(exc, StoreError) else connect_error(address.label, limit, exc)
        if error is None:
            raise
        error.server = address.identity
        if error is exc:
            raise
        raise error from exc
    if address.credential_provider is not None and address.credential_refresh_interval and login is not None:
        _LoginRenewal(address, connection, login, locator.renewals)


async def _open(address: ServerAddress, connection: Connection) -> None:
    loop = asyncio.get_running_loop()
    make: Callable[[], Connection] = lambda: connection  # noqa: E731
    if isinstance(address, UnixAddress):
        await loop.create_unix_connection(make, address.path)
    else:
        context = address.tls.make_context() if address.tls is not None else None
        transport, _ = await loop.create_connection(make, address.host, address.port, ssl=context)
        if address.socket_keepalive:
            keep_alive(transport.get_extra_info("socket"), address.keepalive_options)


async def _greet(address: ServerAddress, connection: Connection, login: Login | None, role: Role) -> None:
    sent = [connection.call(*command) for command in greeting(address, login)]
    replies = await asyncio.gather(*sent, return_exceptions=True)
    connection.client_id, connection.run_id = read_greeting(address, replies, role)
    more = [connection.call(*command) for command in ways_round(replies)]
    await asyncio.gather(*more, return_exceptions=True)


class _LoginRenewal:
    """Asks the provider again while a connection lives, and logs the connection in anew when its answer has changed.

    It ends with the connection.
    """

    def __init__(self, address: ServerAddress, connection: Connection, login: Login, log: RenewalLog) -> None:
        self._address = address
        self._connection = connection
        self._login = login
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(address.credential_refresh_interval, self._begin)
        connection.closed.add_done_callback(self._end)

    def _begin(self) -> None:
        self._asking = self._loop.create_task(self._renew())

    async def _renew(self) -> None:
        interval = self._address.credential_refresh_interval
        try:
            login = await ask(self._address, self._loop.time() + self._connection.timeout)
            if login is not None and login != self._login:
                await self._connection.log_in(login)
                self._login = login
                self._log.renewed(self._address)
        except StoreError as exc:
            if not self._connection.open:
                return
            interval *= RETRY_SHARE
            self._log.failed(exc)
        else:
            self._log.succeeded()
        if self._connection.open:
            self._timer = self._loop.call_later(interval, self._begin)

    def _end(self, _: object) -> None:
        self._timer.cancel()
        if self._asking is not None:
            self._asking.cancel()
