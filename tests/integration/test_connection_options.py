"""Options of connections by redis-py's names: what each does with a real server."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from channel_layer import StoreError
from channel_layer_redis import RedisChannelLayer
from tests.integration.test_idle_connections import connections_to
from tests.support.servers import ServerKind
from tests.support.tls import CLIENT_PASSWORD, issue

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from channel_layer_redis import HostOption
    from channel_layer_redis.options import AddressDict
    from tests.support.servers import Server, StartServer

pytestmark = pytest.mark.usefixtures("nothing_else_is_said", "settled")


async def _use(host: HostOption, prefix: str, *, between: Callable[[], None] = lambda: None) -> None:
    """Send and receive in the event loop and in a thread."""
    async with RedisChannelLayer(hosts=[host], prefix=prefix) as layer:
        await layer.send("jobs", {"n": 1})
        assert await layer.receive("jobs") == {"n": 1}
        await asyncio.to_thread(layer.blocking.send, "jobs", {"n": 2})
        assert await asyncio.to_thread(layer.blocking.receive, ["jobs"]) == ("jobs", {"n": 2})
        between()
        await asyncio.to_thread(layer.blocking.close)


async def _refusals(host: HostOption, *, timeout: float = 5) -> list[StoreError]:  # noqa: ASYNC109 - the layer's option
    """Return the errors with which a send from the event loop and one from a thread fail."""
    errors: list[StoreError] = []
    async with RedisChannelLayer(hosts=[host], timeout=timeout) as layer:
        for call in (layer.send("jobs", {}), asyncio.to_thread(layer.blocking.send, "jobs", {})):
            with pytest.raises(StoreError) as caught:
                await call
            errors.append(caught.value)
        await asyncio.to_thread(layer.blocking.close)
    return errors


# -- names and times -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rights", [["+@all"], ["+@all", "-client"]], ids=["all", "without CLIENT"])
async def test_connections_have_their_name(start_server: StartServer, prefix: str, rights: list[str]) -> None:
    """Every connection has the ``client_name`` in the server's list, also that of a user without CLIENT."""
    server = start_server()
    server.host().command("ACL", "SETUSER", "alice", "on", ">wonder", "~*", *rights)
    names: list[str] = []
    await _use(
        f"redis://alice:wonder@127.0.0.1:{server.port}?client_name=site-1",
        prefix,
        between=lambda: names.extend(each["name"] for each in server.host().clients()),
    )
    assert len(names) >= 2
    assert set(names) == {"site-1"}


async def test_a_connect_may_take_less_time_than_a_command(start_server: StartServer) -> None:
    """A server that accepts connections and is silent is given up after ``socket_connect_timeout``."""
    server = start_server()
    server.pause()
    try:
        began = time.monotonic()
        for error in await _refusals(f"{server.url}?socket_connect_timeout=0.2", timeout=60):
            assert str(error) in {
                f"cannot connect to redis://127.0.0.1:{server.port}/0 within 0.2 s",
                f"redis://127.0.0.1:{server.port}/0 did not answer in time",
            }
            assert error.retryable
            assert error.outcome == "not_sent"
        assert time.monotonic() - began < 30
    finally:
        server.resume()


async def test_probes_are_sent_as_told(start_server: StartServer, prefix: str) -> None:
    """``socket_keepalive_options`` take the place of the layer's own; without any the system's hold."""
    server = start_server()
    given: tuple[dict[int, int], ...] = ({socket.TCP_KEEPINTVL: 7, socket.TCP_KEEPCNT: 9}, {})
    found: list[set[tuple[int, int, int]]] = []
    for options in given:
        probes: set[tuple[int, int, int]] = set()

        def look(probes: set[tuple[int, int, int]] = probes) -> None:
            for each in connections_to(server.port):
                on = each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                interval = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                probes.add((on, interval, each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)))

        await _use(
            {"host": "127.0.0.1", "port": str(server.port), "socket_keepalive_options": options}, prefix, between=look
        )
        found.append(probes)
    with socket.socket() as plain:
        interval = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        count = plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
    assert found == [{(1, 7, 9)}, {(1, interval, count)}]


# -- TLS -----------------------------------------------------------------------------------------------------


def _speaks_tls(start_server: StartServer, *arguments: str) -> Server:
    return start_server(ServerKind.REDIS, tls=True, arguments=arguments)


async def test_authorities_may_be_given_as_data(start_server: StartServer, prefix: str, tmp_path: Path) -> None:
    """``ssl_ca_data`` trusts the certificates that it is, as text or bytes, and no others."""
    server = _speaks_tls(start_server)
    assert server.tls is not None
    text = server.tls.ca_file.read_text()
    data: tuple[str | bytes, ...] = (text, ssl.PEM_cert_to_DER_cert(text))
    for each in data:
        await _use({"address": server.tls.url, "ssl_ca_data": each}, prefix)
    folder = tmp_path / "stranger"
    folder.mkdir()
    stranger = issue(folder).ca_file.read_text()
    for error in await _refusals({"address": server.tls.url, "ssl_ca_data": stranger}):
        assert "certificate verify failed" in str(error)


async def test_a_client_shows_its_certificate(start_server: StartServer, prefix: str) -> None:
    """A server that asks for certificates takes one by ``ssl_certfile``, its key by ``ssl_keyfile``, encrypted too."""
    server = _speaks_tls(start_server, "--tls-auth-clients", "yes")
    assert server.tls is not None
    host: AddressDict = {"address": server.tls.url, "ssl_ca_certs": server.tls.ca_file}
    folder = server.tls.ca_file.parent
    for error in await _refusals(host):
        assert f"127.0.0.1:{server.tls.port}" in str(error)
    await _use({**host, "ssl_certfile": folder / "client.pem", "ssl_keyfile": folder / "client.key"}, prefix)
    await _use(
        {
            **host,
            "ssl_certfile": folder / "client.pem",
            "ssl_keyfile": folder / "client-encrypted.key",
            "ssl_password": CLIENT_PASSWORD,
        },
        prefix,
    )
    wrong: AddressDict = {
        **host,
        "ssl_certfile": folder / "client.pem",
        "ssl_keyfile": folder / "client-encrypted.key",
        "ssl_password": "hidden-not",
    }
    for error in await _refusals(wrong):
        assert "ssl_certfile and ssl_keyfile" in str(error)
        assert "hidden" not in str(error)
        assert not error.retryable


async def test_an_older_tls_is_refused(start_server: StartServer, prefix: str) -> None:
    """With ``ssl_min_version`` a server that speaks only an older version cannot be reached; else it can."""
    server = _speaks_tls(start_server, "--tls-protocols", "TLSv1.2")
    assert server.tls is not None
    host: AddressDict = {"address": server.tls.url, "ssl_ca_certs": server.tls.ca_file}
    await _use({**host, "ssl_min_version": ssl.TLSVersion.TLSv1_2}, prefix)
    for error in await _refusals({**host, "ssl_min_version": "TLSv1_3"}):
        assert "cannot connect to rediss://" in str(error)


async def test_other_ciphers_are_refused(start_server: StartServer, prefix: str) -> None:
    """With ``ssl_ciphers`` a server that has none of these ciphers cannot be reached."""
    server = _speaks_tls(start_server, "--tls-protocols", "TLSv1.2", "--tls-ciphers", "ECDHE+AES128")
    assert server.tls is not None
    host: AddressDict = {"address": server.tls.url, "ssl_ca_certs": server.tls.ca_file}
    await _use({**host, "ssl_ciphers": "ECDHE+AESGCM"}, prefix)
    for error in await _refusals({**host, "ssl_ciphers": "ECDHE+AES256"}):
        assert "cannot connect to rediss://" in str(error)
