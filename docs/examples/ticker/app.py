"""Prices for browsers, without a framework: an event posted to one process reaches the browsers of all processes.

`POST /events` takes an event as JSON; `GET /events` streams them as server-sent events. Run it with

    uvicorn --factory app:over_redis --workers 2

Everything has a type: what a browser sends, what travels between the processes, and what a stream gets. A field that is
misspelt, here or in a message of another release of this program, is an error of the type checker or of Pydantic.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime  # noqa: TC003 - Pydantic reads it
from decimal import Decimal  # noqa: TC003 - Pydantic reads it
from typing import Annotated, Literal, TypeAlias, assert_never

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from channel_layer import ChannelLayer, Group
from channel_layer_redis import RedisChannelLayer

Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, object]]]
Send: TypeAlias = Callable[[Mapping[str, object]], Awaitable[None]]


class Tick(BaseModel):
    """A trade at a price."""

    type: Literal["tick"] = "tick"
    symbol: str
    price: Decimal
    at: datetime


class Halt(BaseModel):
    """Trading is suspended."""

    type: Literal["halt"] = "halt"
    symbol: str
    reason: str


Event: TypeAlias = Annotated[Tick | Halt, Field(discriminator="type")]
EVENTS: TypeAdapter[Tick | Halt] = TypeAdapter(Event)


class Ticker:
    """The ASGI application.

    Args:
        layer: between the processes; closed when the server ends.
    """

    def __init__(self, layer: ChannelLayer) -> None:
        self.layer = layer
        self.events = Group(layer, "events", Event)

    async def __call__(self, scope: Mapping[str, object], receive: Receive, send: Send) -> None:
        """Answer one request, or live as long as the server."""
        match scope:
            case {"type": "lifespan"}:
                await self.live(receive, send)
            case {"type": "http", "method": "POST", "path": "/events"}:
                await self.publish(receive, send)
            case {"type": "http", "method": "GET", "path": "/events"}:
                await self.stream(receive, send)
            case {"type": "http"}:
                await respond(send, 404)
            case _:
                raise ValueError(f"this application does not speak {scope['type']}")

    async def live(self, receive: Receive, send: Send) -> None:
        """Close the layer with the server."""
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.layer.aclose()
        await send({"type": "lifespan.shutdown.complete"})

    async def publish(self, receive: Receive, send: Send) -> None:
        """Tell every stream of every process."""
        try:
            event = EVENTS.validate_json(await body(receive))
        except ValidationError as error:
            await respond(send, 422, error.json(include_url=False).encode())
            return
        await self.events.send(event)
        await respond(send, 204)

    async def stream(self, receive: Receive, send: Send) -> None:
        """Send events to one browser until it is gone."""
        async with asyncio.TaskGroup() as tasks:
            streaming = tasks.create_task(self.forward(send))
            while (await receive())["type"] != "http.disconnect":
                pass
            streaming.cancel()

    async def forward(self, send: Send) -> None:
        """Send events as they come, without end; cancelling this leaves the group."""
        async with self.layer.subscribe(self.events) as events:
            headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async for event in events:
                chunk = f"event: {event.type}\ndata: {describe(event)}\n\n".encode()
                await send({"type": "http.response.body", "body": chunk, "more_body": True})


def describe(event: Tick | Halt) -> str:
    """Return what people read. A type checker sees that no kind of event is forgotten here."""
    match event:
        case Tick():
            return f"{event.symbol} {event.price} at {event.at:%H:%M:%S}"
        case Halt():
            return f"{event.symbol} halted: {event.reason}"
        case _:
            assert_never(event)


async def body(receive: Receive) -> bytes:
    """Read the body of a request."""
    parts: list[bytes] = []
    while True:
        match await receive():
            case {"type": "http.request", "body": bytes() as part, "more_body": True}:
                parts.append(part)
            case {"type": "http.request", "body": bytes() as part}:
                return b"".join([*parts, part])
            case _:
                return b""


async def respond(send: Send, status: int, content: bytes = b"") -> None:
    """Answer a request."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers if status != 204 else []})
    await send({"type": "http.response.body", "body": content})


def over_redis() -> Ticker:
    """Make the application of one process."""
    return Ticker(RedisChannelLayer(hosts=[os.environ.get("REDIS_URL", "redis://localhost:6379")]))
