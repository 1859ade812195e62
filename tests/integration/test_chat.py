"""The chat of docs/examples from end to end: real web servers in processes of their own, real sockets.

These tests cover what a browser would get; the page's own script was tried out in browsers by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlencode

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from tests.support import reaper
from tests.support.servers import Server, ServerPool, StartServer, free_ports, fresh_prefix

pytestmark = pytest.mark.redis

EXAMPLES: Final = Path(__file__).parents[2] / "docs" / "examples"

PATIENCE: Final = 30.0
"""Seconds: nothing takes so long, not even on a machine with other things to do."""

Event: TypeAlias = dict[str, str | int | bool]


@dataclass(frozen=True, slots=True)
class Web:
    """A web server of the chat.

    Attributes:
        port: where it listens.
        pid: its process.
    """

    port: int
    pid: int


Layer: TypeAlias = Mapping[str, str]
"""The variables that tell the chat's settings what messages go through."""

UVICORN: Final = ("uvicorn", "--lifespan", "off", "--log-level", "warning", "--host", "127.0.0.1", "--port")
DAPHNE: Final = ("daphne", "--verbosity", "0", "--bind", "127.0.0.1", "--port")


@contextlib.contextmanager
def serving(layer: Layer, *command: str) -> Generator[Web]:
    """Run a web server that serves the chat, until the end of the block.

    Args:
        layer: the variables that name the layer.
        command: the web server, without its port.
    """
    environment = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "chat.settings",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), *filter(None, sys.path)]),
        **layer,
    }
    port, _ = free_ports()
    directory = reaper.scratch_directory()
    log = directory / "log"
    process: subprocess.Popen[bytes] | None = None
    try:
        with log.open("wb") as output:
            arguments = [sys.executable, "-m", *command, str(port), "chat.asgi:application"]
            process = reaper.launch(arguments, output=output, environment=environment)
        web = Web(port, process.pid)
        deadline = time.monotonic() + PATIENCE
        while not is_served_by(web):
            assert process.poll() is None, "the web server has ended"
            assert time.monotonic() < deadline, "the web server does not answer"
            time.sleep(0.01)
        yield web
    except BaseException as error:
        error.add_note(f"--- log of the web server ---\n{log.read_text()}")
        raise
    finally:
        if process is not None:
            reaper.end(process)
        reaper.discard(directory)


def is_served_by(web: Web) -> bool:
    """Whether a web server answers already."""
    try:
        _, page = fetch(web.port)
    except OSError:
        return False
    return f'data-process="{web.pid}"' in page


def fetch(port: int) -> tuple[Mapping[str, str], str]:
    """Get the page: headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        response = connection.getresponse()
        assert response.status == 200
        headers = {name.lower(): value for name, value in response.getheaders()}
        return headers, response.read().decode()


def over_redis(urls: str, prefix: str) -> Layer:
    """Name the Redis layer."""
    return {"LAYER": "redis", "REDIS_URL": urls, "LAYER_PREFIX": prefix}


@pytest.fixture(scope="module", params=["ipc", "redis", "local"])
def deployment(
    request: pytest.FixtureRequest, server_pool: ServerPool, tmp_path_factory: pytest.TempPathFactory
) -> Generator[Layer]:
    """The layer of the web servers that the tests of this module share."""
    prefix, directory = fresh_prefix(), str(tmp_path_factory.mktemp("layer"))
    layer = {"LAYER": request.param, "LAYER_DIRECTORY": directory, "LAYER_PREFIX": prefix}
    if request.param == "ipc":
        yield {**layer, "REDIS_URL": ""}
    else:
        yield {**layer, "REDIS_URL": server_pool.get().url}
        server_pool.remove(prefix)


@pytest.fixture(scope="module")
def webs(deployment: Layer) -> Generator[tuple[Web, Web]]:
    """Two web servers on two ports that share one store; one runs asyncio's own event loop, the other uvloop's."""
    with (
        serving(deployment, "uvicorn", "--loop", "asyncio", *UVICORN[1:]) as one,
        serving(deployment, "uvicorn", "--loop", "uvloop", *UVICORN[1:]) as other,
    ):
        yield one, other


# --- people


class Person:
    """A user with the page open.

    Attributes:
        name: as entered.
        web: the server of the page.
    """

    def __init__(self, name: str, web: Web, socket: ClientConnection) -> None:
        self.name = name
        self.web = web
        self._socket = socket

    async def say(self, text: str) -> None:
        """Send a message."""
        await self._socket.send(text)

    async def next(self) -> Event:
        """Wait for the next event."""
        async with asyncio.timeout(PATIENCE):
            event: Event = json.loads(await self._socket.recv())
            return event

    async def hears(self, speaker: Person, text: str) -> None:
        """Check that the next event is this text, with the right speaker and the right process."""
        assert await self.next() == event("said", speaker, text, mine=speaker is self)


def event(what: str, who: Person, text: str = "", *, mine: bool = False) -> Event:
    """Return an event as the page gets it."""
    return {
        "what": what,
        "name": who.name,
        "text": text,
        "process": who.web.pid,
        "port": who.web.port,
        "mine": mine,
    }


@asynccontextmanager
async def entered(web: Web, name: str, room: str = "lobby") -> AsyncGenerator[Person]:
    """Open the WebSocket as the page does, and enter a room."""
    query = urlencode({"room": room, "name": name})
    origin = Origin(f"http://127.0.0.1:{web.port}")
    async with connect(f"ws://127.0.0.1:{web.port}/?{query}", origin=origin, proxy=None) as socket:
        person = Person(name, web, socket)
        assert await person.next() == event("welcome", person, room, mine=True)
        assert await person.next() == event("joined", person, mine=True)
        yield person


async def test_two_ports_one_room(webs: tuple[Web, Web]) -> None:
    """Two users on two ports talk in one room, in order; a third one in another room gets nothing."""
    one, other = webs

    async with (
        entered(one, "Ann") as ann,
        entered(other, "Bob") as bob,
        entered(other, "Eve", room="kitchen") as eve,
    ):
        assert await ann.next() == event("joined", bob)
        for number in range(50):  # one after the other
            speaker = bob if number % 2 else ann
            await speaker.say(f"answer {number}")
            await ann.hears(speaker, f"answer {number}")
            await bob.hears(speaker, f"answer {number}")
        for number in range(50):  # all at once
            await ann.say(f"burst {number}")
            await bob.say(f"burst {number}")
        heard = [[await person.next() for _ in range(100)] for person in (ann, bob)]
        for speaker in (ann, bob):
            burst = [event("said", speaker, f"burst {number}", mine=True) for number in range(50)]
            for events in heard:
                said = [{**each, "mine": True} for each in events if each["name"] == speaker.name]
                assert said == burst
        await eve.say("Is anybody here?")
        await eve.hears(eve, "Is anybody here?")  # and nothing came before


async def test_both_see_one_order(webs: tuple[Web, Web]) -> None:
    """What two users say at the same time both get in the same order: the store's, on one host."""
    one, other = webs

    async with entered(one, "Ann", "order") as ann, entered(other, "Bob", "order") as bob:
        await ann.next()  # Bob has joined
        for number in range(40):
            await asyncio.gather(ann.say(f"{number}"), bob.say(f"{number}"))
        orders = [
            [(each["name"], each["text"]) for each in [await person.next() for _ in range(80)]] for person in (ann, bob)
        ]
        assert orders[0] == orders[1]


def test_page(webs: tuple[Web, Web]) -> None:
    """The page shows which process serves it, needs nothing from elsewhere, and labels every input."""
    for web in webs:
        headers, page = fetch(web.port)
        assert headers["content-type"] == "text/html; charset=utf-8"
        assert f'data-process="{web.pid}"' in page
        assert f"process {web.pid} · port {web.port}" in page
        assert page.startswith("<!doctype html>")
        assert '<html lang="en">' in page
        for link in ("src=", "<link rel=stylesheet", "@import", "cdn", "https://"):
            assert link not in page
        for field in ('<label class="field">Your name', '<label class="field">Room', '<span class="unseen">Message'):
            assert field in page
        assert 'role="log"' in page
        assert 'role="status"' in page
    assert webs[0].pid != webs[1].pid


async def test_coming_and_going(webs: tuple[Web, Web]) -> None:
    """Entering and leaving a room are announced in it, through either process."""
    one, other = webs

    async with entered(one, "Ann", "hall") as ann:
        async with entered(other, "Bob", "hall") as bob:
            assert await ann.next() == event("joined", bob)
        assert await ann.next() == event("left", bob)


async def test_what_is_said_is_tidied(webs: tuple[Web, Web]) -> None:
    """Nothing is sent for an empty message; a very long one is cut; names and messages may be in any script."""
    async with entered(webs[0], "Žofie 🦊", "any.script_1-2") as person:
        await person.say("  \n ")
        await person.say(" <b>čau</b> 你好 ")
        await person.hears(person, "<b>čau</b> 你好")
        await person.say("x" * 5000)
        await person.hears(person, "x" * 1000)


@pytest.mark.parametrize(
    ("query", "origin"),
    [
        ("room=lobby", "http://127.0.0.1"),
        ("room=lobby&name=%20", "http://127.0.0.1"),
        ("name=Ann", "http://127.0.0.1"),
        ("room=no%20such%0Aroom&name=Ann", "http://127.0.0.1"),
        (f"room={'x' * 51}&name=Ann", "http://127.0.0.1"),
        ("room=lobby&name=Ann", "https://example.com"),
        ("room=lobby&name=Ann", None),
    ],
    ids=["no name", "blank name", "no room", "bad room", "long room", "foreign page", "no page"],
)
async def test_refused(webs: tuple[Web, Web], query: str, origin: str | None) -> None:
    """What our own page would not ask for is refused before the WebSocket opens."""
    address = f"ws://127.0.0.1:{webs[0].port}/?{query}"
    with pytest.raises(InvalidStatus) as caught:
        async with connect(address, origin=None if origin is None else Origin(origin), proxy=None):
            pass
    assert caught.value.response.status_code == 403


async def test_daphne_beside_uvicorn_on_three_hosts(server: Server, prefix: str) -> None:
    """Channels' own web server, daphne, serves the chat as well, here with rooms that lie on several hosts."""
    hosts = [server.host(db) for db in range(3)]

    urls = " ".join(host.url for host in hosts)
    layer = over_redis(urls, prefix)
    with serving(layer, *UVICORN) as one, serving(layer, *DAPHNE) as other:
        async with AsyncExitStack() as stack:
            for room in map(str, range(12)):
                ann = await stack.enter_async_context(entered(one, "Ann", room))
                bob = await stack.enter_async_context(entered(other, "Bob", room))
                assert await ann.next() == event("joined", bob)
                for number in range(4):
                    await (ann, bob)[number % 2].say(f"{number}")
                    for person in (ann, bob):
                        await person.hears((ann, bob)[number % 2], f"{number}")
            assert sum(bool(host.keys(prefix)) for host in hosts) > 1


async def test_the_store_goes_away_and_comes_back(start_server: StartServer, prefix: str) -> None:
    """Without the store a speaker gets an error; once it is back, empty, the room goes on with the same users."""
    server = start_server()

    with serving(over_redis(server.url, prefix), *UVICORN) as web:
        async with entered(web, "Ann") as ann, entered(web, "Bob") as bob:
            await ann.next()  # Bob has joined
            server.kill()
            await ann.say("lost")
            failed = await ann.next()
            assert failed["what"] == "failed"
            assert "cannot connect" in str(failed["text"]) or "was lost" in str(failed["text"])
            server.restart_empty()
            await until_heard(ann, bob)


async def until_heard(speaker: Person, listener: Person) -> None:
    """Say a text repeatedly until the listener gets it."""
    heard = asyncio.create_task(listener.next())
    async with asyncio.timeout(PATIENCE):
        while not heard.done():
            await speaker.say("back?")
            await asyncio.wait({heard}, timeout=0.05)
    assert await heard == event("said", speaker, "back?")


async def test_a_killed_web_server(webs: tuple[Web, Web], deployment: Layer) -> None:
    """When one process is killed, users of the other go on talking; users of the killed one can come back."""
    one, _ = webs
    with serving(deployment, *UVICORN) as other:
        async with entered(one, "Ann", "port") as ann, AsyncExitStack() as stack:
            bob = await stack.enter_async_context(entered(other, "Bob", "port"))
            assert await ann.next() == event("joined", bob)
            os.kill(other.pid, signal.SIGKILL)
            with pytest.raises(ConnectionClosed):
                await bob.next()
            await ann.say("hello?")
            await ann.hears(ann, "hello?")
            async with entered(one, "Bob", "port") as again:
                assert await ann.next() == event("joined", again)
                await again.say("here I am")
                await ann.hears(again, "here I am")
