"""The layers as Django Channels finds, configures and uses them.

The whole promise to a Channels project is that it changes its settings and nothing else, so nothing here calls a
layer in a way that the project's own code or Channels itself would not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Final, Protocol, TypeAlias

import django
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from channels import exceptions
from channels.generic.websocket import (
    AsyncJsonWebsocketConsumer,
    AsyncWebsocketConsumer,
    JsonWebsocketConsumer,
    WebsocketConsumer,
)
from channels.layers import channel_layers, get_channel_layer
from channels.testing import WebsocketCommunicator
from django.conf import settings
from django.test import override_settings

from channel_layer import ChannelFull, ChannelLayer, ConfigError, MessageTooLarge
from channel_layer_memory import MemoryChannelLayer
from channel_layer_redis import RedisChannelLayer
from tests.support.clusters import Cluster
from tests.support.sentinels import Service
from tests.support.servers import Server, ServerKind

MEMORY: Final = "channel_layer_memory.MemoryChannelLayer"
REDIS: Final = "channel_layer_redis.RedisChannelLayer"

Configure: TypeAlias = Callable[..., None]
"""Sets CHANNEL_LAYERS up: `configure(capacity=2)`, with further options for CONFIG, or without."""


@pytest.fixture(scope="module", autouse=True)
def _django() -> None:
    """Set Django up, unless it is; each test sets its own CHANNEL_LAYERS for its duration."""
    if not settings.configured:
        settings.configure()
        django.setup()


@contextlib.contextmanager
def layers(**aliases: Mapping[str, object]) -> Generator[None]:
    """Have Channels use these settings, and forget the layers that it makes of them afterwards."""
    with override_settings(CHANNEL_LAYERS=aliases):
        yield


@pytest.fixture(params=["memory", "one-host", "three-databases", "sealed-sentinel", "cluster"])
def configure(
    server: Server,
    get_service: Callable[[ServerKind], Service],
    get_cluster: Callable[[ServerKind], Cluster],
    prefix: str,
    request: pytest.FixtureRequest,
) -> Generator[Configure]:
    """Set the default layer up on every kind of store in turn, with further options for its CONFIG."""
    config: dict[str, object] = {"prefix": prefix}
    backend = MEMORY if request.param == "memory" else REDIS
    if request.param == "one-host":
        config["hosts"] = [server.url]
    elif request.param == "three-databases":
        config["hosts"] = [server.host(db).url for db in range(3)]
    elif request.param == "sealed-sentinel":
        config["hosts"] = [get_service(ServerKind.VALKEY).entry]
        config |= {"symmetric_encryption_keys": ["k" * 44], "blind_names": True}
    elif request.param == "cluster":
        nodes = [("127.0.0.1", node.port) for node in get_cluster(ServerKind.VALKEY).nodes]
        config["hosts"] = [{"cluster": nodes, "partitions": 5}]
    with contextlib.ExitStack() as stack:

        def set_up(**options: object) -> None:
            stack.enter_context(layers(default={"BACKEND": backend, "CONFIG": {**config, **options}}))

        yield set_up


def ours(layer: object) -> ChannelLayer:
    """Return a layer as the type that it must have."""
    assert isinstance(layer, ChannelLayer)
    return layer


@contextlib.asynccontextmanager
async def default_layer() -> AsyncGenerator[ChannelLayer]:
    """The default layer of Channels, closed at the end of the block."""
    async with ours(get_channel_layer()) as layer:
        yield layer


# --- settings


def test_backend_and_config(server: Server, prefix: str) -> None:
    """BACKEND names either layer, CONFIG configures it, and every alias is one object for the whole process."""
    redis = {"hosts": [server.url], "prefix": prefix, "capacity": 7, "channel_capacity": {"http.*": 3}}
    with layers(default={"BACKEND": REDIS, "CONFIG": redis}, memory={"BACKEND": MEMORY}):
        default = get_channel_layer()
        assert isinstance(ours(default), RedisChannelLayer)
        assert default is get_channel_layer() is channel_layers["default"]
        assert (ours(default).capacity, ours(default).prefix) == (7, prefix)
        assert ours(default).channel_capacity == {"http.*": 3}
        assert isinstance(ours(get_channel_layer("memory")), MemoryChannelLayer)
        assert get_channel_layer("other") is None


def test_a_layer_needs_no_config() -> None:
    """A bare BACKEND works: every option has a default, and making a layer asks no server for anything."""
    with layers(default={"BACKEND": REDIS}):
        layer = ours(get_channel_layer())
        assert (layer.expiry, layer.group_expiry, layer.capacity) == (60, 86400, 100)


def test_extensions_are_those_that_channels_asks_for(configure: Configure) -> None:
    """Consumers with groups work, because a layer says that it has groups; and flush() for tests."""
    configure()
    assert {"groups", "flush"} <= set(ours(get_channel_layer()).extensions)


async def test_test_config(server: Server, prefix: str) -> None:
    """channel_layers.make_test_backend() makes a layer of its own from TEST_CONFIG."""
    test = {"hosts": [server.url], "prefix": f"{prefix}test:"}
    configuration = {"BACKEND": REDIS, "CONFIG": {"hosts": [server.url], "prefix": prefix}, "TEST_CONFIG": test}

    with layers(default=configuration):
        async with default_layer() as production, ours(channel_layers.make_test_backend("default")) as under_test:
            assert under_test.prefix == f"{prefix}test:"
            await under_test.send("normal", {"test": True})
            await production.send("normal", {"test": False})
            assert await production.receive("normal") == {"test": False}
            assert await under_test.receive("normal") == {"test": True}


def test_without_test_config() -> None:
    """Without TEST_CONFIG, Channels itself says what is missing."""
    missing = pytest.raises(exceptions.InvalidChannelLayerError, match="No TEST_CONFIG specified for default")
    with layers(default={"BACKEND": MEMORY}), missing:
        channel_layers.make_test_backend("default")


@pytest.mark.parametrize("backend", [MEMORY, REDIS])
def test_a_wrong_config_names_every_wrong_option(backend: str) -> None:
    """Getting a layer with mistakes in its CONFIG raises one ConfigError that names all of them."""
    config = {"capacity": 0, "expiry": "60", "capactiy": 5}
    with layers(default={"BACKEND": backend, "CONFIG": config}), pytest.raises(ConfigError) as caught:
        get_channel_layer()
    assert [error.field for error in caught.value.errors] == ["expiry", "capacity", "capactiy"]
    assert "did you mean 'capacity'?" in str(caught.value)


def test_a_bare_string_for_hosts(server: Server) -> None:
    """A string where a list belongs is reported as such, and not taken for a list of letters."""
    default = {"BACKEND": REDIS, "CONFIG": {"hosts": server.url}}
    with layers(default=default), pytest.raises(ConfigError, match=r"hosts: .*list"):
        get_channel_layer()


# --- errors that user code catches


async def test_channel_full_is_the_one_of_channels(configure: Configure) -> None:
    """`except channels.exceptions.ChannelFull` catches ours, and so does `except channel_layer.ChannelFull`."""
    configure(capacity=2)

    async with default_layer() as layer:
        for _ in range(2):
            await layer.send("normal", {"type": "x"})
        with pytest.raises(exceptions.ChannelFull) as caught:
            await layer.send("normal", {"type": "x"})
        assert isinstance(caught.value, ChannelFull)
        assert (caught.value.channel, caught.value.capacity) == ("normal", 2)
        with pytest.raises(layer.ChannelFull):
            await layer.send("normal", {"type": "x"})


async def test_message_too_large_is_the_one_of_channels(configure: Configure) -> None:
    """`except channels.exceptions.MessageTooLarge` catches ours, of send() and of group_send()."""
    configure(max_message_size=100)

    async with default_layer() as layer:
        for call in (layer.send, layer.group_send):
            with pytest.raises(exceptions.MessageTooLarge) as caught:
                await call("name", {"type": "x", "body": bytes(100)})
            assert isinstance(caught.value, MessageTooLarge)
            assert caught.value.limit == 100


# --- consumers


class _Echo(AsyncWebsocketConsumer):
    """An async consumer in a group: each gets what any of them sends."""

    groups: list[str] = ["room"]  # noqa: RUF012 - as Channels declares it

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        del bytes_data
        await self.channel_layer.group_send("room", {"type": "room.said", "text": text_data})

    async def room_said(self, event: Mapping[str, str]) -> None:
        await self.send(text_data=event["text"])


class _SyncEcho(WebsocketConsumer):
    """The same, as a sync consumer."""

    groups: list[str] = ["room"]  # noqa: RUF012

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        del bytes_data
        async_to_sync(self.channel_layer.group_send)("room", {"type": "room.said", "text": text_data})

    def room_said(self, event: Mapping[str, str]) -> None:
        self.send(text_data=event["text"])


class _Application(Protocol):
    """What `as_asgi()` makes."""

    def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> Awaitable[None]: ...


@contextlib.asynccontextmanager
async def connected(application: _Application) -> AsyncGenerator[WebsocketCommunicator]:
    """A client of a consumer, as Channels' own test tools make it."""
    client = WebsocketCommunicator(application, "/")
    assert await client.connect(PATIENCE) == (True, None)
    try:
        yield client
    finally:
        await client.disconnect(timeout=PATIENCE)


PATIENCE: Final = 20.0
"""Seconds: nothing takes so long, not even on a machine with other things to do."""


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize(
    ("one", "other"),
    [(_Echo, _Echo), (_SyncEcho, _SyncEcho), (_Echo, _SyncEcho)],
    ids=["async", "sync", "async and sync"],
)
async def test_websocket_consumers_in_a_group(
    configure: Configure, one: type[_Echo | _SyncEcho], other: type[_Echo | _SyncEcho]
) -> None:
    """WebSocket consumers of both kinds get everything that is sent to their group, in order, until they leave."""
    configure()

    async with default_layer() as layer:
        async with connected(one.as_asgi()) as ann, connected(other.as_asgi()) as bob:
            assert len(await layer.group_channels("room")) == 2
            for number in range(20):
                await (ann if number % 3 else bob).send_to(text_data=f"{number}")
                for client in (ann, bob):
                    assert await client.receive_from(PATIENCE) == f"{number}"
        assert await layer.group_channels("room") == []


async def test_disconnecting_clients_cost_others_nothing(configure: Configure) -> None:
    """Clients that connect and disconnect during a broadcast cost the one that stays no message."""
    configure()

    async def come_and_go() -> None:
        for _ in range(5):
            async with connected(_Echo.as_asgi()):
                pass

    async with default_layer() as layer, connected(_Echo.as_asgi()) as stays:
        restless = asyncio.gather(*(come_and_go() for _ in range(5)))
        for number in range(100):
            await layer.group_send("room", {"type": "room.said", "text": f"{number}"})
            assert await stays.receive_from(PATIENCE) == f"{number}"
        await restless


async def test_group_send_from_outside_of_consumers(configure: Configure) -> None:
    """Sync code, such as a view or a signal handler, reaches consumers through async_to_sync."""
    configure()

    def view() -> None:
        layer = get_channel_layer()
        assert layer is not None
        async_to_sync(layer.group_send)("room", {"type": "room.said", "text": "from a view"})

    async with default_layer(), connected(_Echo.as_asgi()) as client:
        await asyncio.to_thread(view)  # a thread, and so a loop, of its own
        assert await client.receive_from(PATIENCE) == "from a view"
        await sync_to_async(view)()
        assert await client.receive_from(PATIENCE) == "from a view"


class _Careful(AsyncJsonWebsocketConsumer):
    """A consumer that catches the errors named in Channels' documentation."""

    async def receive_json(self, content: Mapping[str, str], **_: object) -> None:
        try:
            await self.channel_layer.send(content["to"], {"type": "x", "body": content.get("body", "")})
        except exceptions.ChannelFull:
            await self.send_json("full")
        except exceptions.MessageTooLarge:
            await self.send_json("too large")
        else:
            await self.send_json("sent")


async def test_a_consumer_catches_our_errors_by_the_names_of_channels(configure: Configure) -> None:
    """A consumer that knows Channels' errors only handles a full channel and a message that is too large."""
    configure(capacity=1, max_message_size=1000)

    async with default_layer(), connected(_Careful.as_asgi()) as client:
        answers: list[object] = []
        for message in ({"to": "normal"}, {"to": "normal"}, {"to": "other", "body": "x" * 1000}):
            await client.send_json_to(message)
            answers.append(await client.receive_json_from(PATIENCE))
        assert answers == ["sent", "full", "too large"]


class _Clock(JsonWebsocketConsumer):
    """A consumer without a group, which gets messages by the name of its channel."""

    def connect(self) -> None:
        super().connect()
        self.send_json(self.channel_name)

    def clock_struck(self, event: Mapping[str, int]) -> None:
        self.send_json(event["hour"])


async def test_send_to_the_channel_of_one_consumer(configure: Configure) -> None:
    """A message to a consumer's own channel reaches that consumer alone."""
    configure()

    clocks = connected(_Clock.as_asgi()), connected(_Clock.as_asgi())
    async with default_layer() as layer, clocks[0] as one, clocks[1] as other:
        names = [await client.receive_json_from(PATIENCE) for client in (one, other)]
        assert len(set(names)) == 2
        for hour in range(1, 25):
            which = hour % 2
            await layer.send(names[which], {"type": "clock.struck", "hour": hour})
            assert await (one, other)[which].receive_json_from(PATIENCE) == hour


async def test_a_consumer_that_fails_leaves_no_waiting_behind(configure: Configure) -> None:
    """When a handler raises, the consumer's wait for the layer ends with it, and the layer works on."""
    configure()

    async with default_layer() as layer:
        client = WebsocketCommunicator(_Echo.as_asgi(), "/")
        await client.connect(PATIENCE)
        await layer.group_send("room", {"type": "room.unheard.of"})
        with pytest.raises(ValueError, match="No handler for message type"):
            await client.wait(PATIENCE)
        names = await layer.group_channels("room")
        async with connected(_Echo.as_asgi()) as other:
            await layer.group_send("room", {"type": "room.said", "text": "still here"})
            assert await other.receive_from(PATIENCE) == "still here"
        assert await layer.group_channels("room") == names  # Channels does not tell a layer of such an end
