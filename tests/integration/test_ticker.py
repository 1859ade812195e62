"""The typed example of docs/examples: two processes of it over one store, seen from the web server's side of ASGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from docs.examples.ticker.app import Ticker
from tests.support.scenarios_delivery import BOUND
from tests.support.scenarios_groups import eventually
from tests.support.systems import System

_TICK = {"type": "tick", "symbol": "XYZ", "price": "1.50", "at": "2030-01-01T12:00:00Z"}
_HALT = {"type": "halt", "symbol": "XYZ", "reason": "news"}


class Request:
    """One request, or the lifespan of the server, as an ASGI server would run it.

    Args:
        app: the application.
        scope: of the request.
    """

    def __init__(self, app: Ticker, scope: Mapping[str, object]) -> None:
        self.incoming: asyncio.Queue[Mapping[str, object]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[Mapping[str, object]] = asyncio.Queue()
        self.task = asyncio.create_task(app(scope, self.incoming.get, self.outgoing.put))

    async def next(self) -> Mapping[str, object]:
        """Return what the application sends next."""
        return await asyncio.wait_for(self.outgoing.get(), BOUND)


async def _post(app: Ticker, *parts: bytes, path: str = "/events") -> tuple[object, object]:
    request = Request(app, {"type": "http", "method": "POST", "path": path})
    for part in parts:
        request.incoming.put_nowait({"type": "http.request", "body": part, "more_body": part is not parts[-1]})
    status, body = (await request.next())["status"], (await request.next())["body"]
    await request.task
    return status, body


async def test_events_reach_the_streams_of_all_processes(system: System) -> None:
    """Events reach each stream with their types, and a browser that disconnects leaves no membership behind."""
    async with system.layer() as one, system.layer() as two:
        here, there = Ticker(one), Ticker(two)
        streams = [Request(app, {"type": "http", "method": "GET", "path": "/events"}) for app in (here, here, there)]
        for stream in streams:
            stream.incoming.put_nowait({"type": "http.request", "body": b""})
            assert (await stream.next())["status"] == 200
        tick = json.dumps(_TICK).encode()
        assert await _post(here, tick[:20], tick[20:]) == (204, b"")
        assert await _post(there, json.dumps(_HALT).encode()) == (204, b"")
        for stream in streams:
            assert (await stream.next())["body"] == b"event: tick\ndata: XYZ 1.50 at 12:00:00\n\n"
            assert (await stream.next())["body"] == b"event: halt\ndata: XYZ halted: news\n\n"
            stream.incoming.put_nowait({"type": "http.disconnect"})
            await asyncio.wait_for(stream.task, BOUND)

        async def nobody() -> bool:
            return await one.group_channels("events") == []

        await eventually(nobody)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"type": "halt", "symbol": "XYZ"}', b'{"type": "boom"}'])
async def test_what_is_no_event_is_refused(content: bytes) -> None:
    """A body that is not an event is answered with what is wrong with it."""
    async with System(None, "ticker:").layer() as layer:
        status, answer = await _post(Ticker(layer), content)
        assert status == 422
        assert isinstance(answer, bytes)
        assert json.loads(answer)[0]["msg"]


async def test_the_rest_of_the_protocol() -> None:
    """It closes its layer with the server, and refuses other paths and other protocols."""
    app = Ticker(System(None, "ticker:").layer())
    assert await _post(app, b"", path="/") == (404, b"")
    with pytest.raises(ValueError, match="does not speak websocket"):
        await Request(app, {"type": "websocket"}).task
    life = Request(app, {"type": "lifespan"})
    life.incoming.put_nowait({"type": "lifespan.startup"})
    assert await life.next() == {"type": "lifespan.startup.complete"}
    life.incoming.put_nowait({"type": "lifespan.shutdown"})
    assert await life.next() == {"type": "lifespan.shutdown.complete"}
    await life.task
    assert (await _post_fails(app)) == "this channel layer is closed"


async def _post_fails(app: Ticker) -> str:
    with pytest.raises(Exception, match="closed") as caught:
        await app.events.send(app.events.load({**_HALT}))
    return str(caught.value)
