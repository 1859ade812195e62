"""The layers that the application can run on, and every way to configure and to use one."""

from __future__ import annotations

import re
from pathlib import Path
from ssl import TLSVersion
from typing import assert_type

import channel_layer
from channel_layer import BlockingChannelLayer, ChannelFull, ChannelLayer, Counts, Message, MessageTooLarge, Statistics
from channel_layer.config import CommonConfig, parse
from channel_layer.ports import Backend
from channel_layer.runtime.event_loops import SystemClock
from channel_layer_django import (
    ChannelLayersSetting,
    Finding,
    IPCLayerSetting,
    MemoryLayerSetting,
    RedisLayerSetting,
    RedisLocalLayerSetting,
    audit,
)
from channel_layer_ipc import IPCBackend, IPCChannelLayer, IPCConfigDict, reset
from channel_layer_memory import MemoryBackend, MemoryChannelLayer, MemoryConfigDict
from channel_layer_redis import (
    HostOption,
    LocalDict,
    RedisChannelLayer,
    RedisConfigDict,
    RedisLocalChannelLayer,
    RedisLocalConfigDict,
)

__all__ = (
    "configured",
    "exercise",
    "exercise_blocking",
    "in_memory",
    "on_one_machine",
    "on_redis",
    "over_one_store",
    "version",
)

version = assert_type(channel_layer.__version__, str)


def in_memory(capacity: int = 100) -> ChannelLayer:
    """Return a layer for one process."""
    return assert_type(MemoryChannelLayer(capacity=capacity, expiry=1.5), MemoryChannelLayer)


def on_one_machine(directory: Path) -> list[ChannelLayer]:
    """Return layers over a store that the processes of this machine share, configured in every way."""
    assert_type(reset(directory), int)
    rules = parse(CommonConfig, {"capacity": 10}).rules()
    store: Backend = IPCBackend(rules, SystemClock(), directory, 1 << 25)
    return [
        IPCChannelLayer(),
        IPCChannelLayer(directory=str(directory), memory=1 << 25),
        assert_type(IPCChannelLayer(directory=directory, prefix="app:", expiry=0.5), IPCChannelLayer),
        ChannelLayer(rules, store),
        RedisLocalChannelLayer(hosts=["redis://localhost"], local={"directory": directory}, no_local_reader="error"),
    ]


def over_one_store() -> tuple[ChannelLayer, ChannelLayer]:
    """Return two layers over one store, as two processes have them."""
    rules = parse(CommonConfig, {"capacity": 10}).rules()
    store: Backend = MemoryBackend(rules, SystemClock())
    return ChannelLayer(rules, store), ChannelLayer(rules, store)


class Tokens:
    """Gives the login of a managed service."""

    def get_credentials(self) -> tuple[str, str]:
        """Return the user and a token."""
        return "app", "token"


def on_redis(*urls: str) -> list[ChannelLayer]:
    """Return layers over Redis, configured in every way."""
    return [
        RedisChannelLayer(),
        RedisChannelLayer(hosts=urls),
        RedisChannelLayer(hosts=["redis://localhost:6379/0", "unix:///run/redis.sock"]),
        RedisChannelLayer(hosts=[("localhost", 6379), {"address": "rediss://localhost:6380/0"}]),
        RedisChannelLayer(hosts=[{"host": "localhost", "port": 6379, "db": 1, "password": "p", "ssl": True}]),
        RedisChannelLayer(hosts=[{"host": "localhost", "credential_provider": Tokens(), "client_name": "app"}]),
        RedisChannelLayer(hosts=[{"address": "rediss://localhost", "ssl_min_version": TLSVersion.TLSv1_3}]),
        RedisChannelLayer(hosts=[{"sentinels": [("s1", 26379)], "master_name": "m", "sentinel_kwargs": {"ssl": True}}]),
        RedisChannelLayer(host="localhost", port=6379, db=0),
        RedisChannelLayer(
            hosts=[("localhost", 6379)],
            prefix="app:",
            expiry=0.5,
            group_expiry=None,
            capacity=10,
            channel_capacity={"http.*": 20, re.compile(r"specific\..*"): 30, "re:^x": 40},
            max_message_size=1024,
            inbox_capacity=500,
            timeout=2,
        ),
    ]


def configured() -> list[ChannelLayer]:
    """Return layers that are configured as data: by URL, and by settings that are typed and checked."""
    shared: MemoryConfigDict = {"capacity": 50, "channel_capacity": {"http.*": 20}}
    servers: list[HostOption] = ["redis://localhost:6379/0", {"host": "localhost", "db": 1}]
    redis: RedisConfigDict = {"hosts": servers, "blind_names": False}
    memory: MemoryLayerSetting = {"BACKEND": "channel_layer_memory.MemoryChannelLayer", "CONFIG": shared}
    remote: RedisLayerSetting = {"BACKEND": "channel_layer_redis.RedisChannelLayer", "CONFIG": redis}
    options: IPCConfigDict = {"memory": 64 << 20, "directory": None}
    machine: IPCLayerSetting = {"BACKEND": "channel_layer_ipc.IPCChannelLayer", "CONFIG": options}
    local: LocalDict = {"memory": 64 << 20}
    combined: RedisLocalConfigDict = {"hosts": servers, "local": local, "no_local_reader": "queue"}
    both: RedisLocalLayerSetting = {"BACKEND": "channel_layer_redis.RedisLocalChannelLayer", "CONFIG": combined}
    settings: ChannelLayersSetting = {"default": remote, "here": memory, "machine": machine, "both": both}
    assert assert_type(audit(settings), list[Finding]) == []
    assert assert_type(channel_layer.config_from_url("memory://?capacity=7"), CommonConfig).capacity == 7
    return [
        assert_type(MemoryChannelLayer.from_url("memory://?capacity=7"), MemoryChannelLayer),
        assert_type(RedisChannelLayer.from_url("redis://localhost?prefix=app:"), RedisChannelLayer),
        assert_type(channel_layer.from_url("memory://"), ChannelLayer),
    ]


def exercise_blocking(layer: BlockingChannelLayer) -> None:
    """Call every blocking method once, on a layer that no other task uses."""
    assert_type(layer.expiry, float)
    assert_type(layer.group_expiry, float | None)
    assert_type(layer.capacity, int)
    assert_type(layer.ChannelFull, type[ChannelFull])
    assert_type(layer.MessageTooLarge, type[MessageTooLarge])
    assert all(isinstance(extension, str) for extension in layer.extensions)
    reply = assert_type(layer.new_channel("reply?"), str)
    layer.send(reply, {"type": "literal"})
    received = assert_type(layer.receive([reply, "jobs"]), tuple[str, Message] | tuple[None, None])
    assert received == (reply, {"type": "literal"})
    assert layer.receive([reply], block=True, block_timeout=0.01) == (None, None)
    layer.group_add("room", reply)
    assert assert_type(layer.group_channels("room"), list[str]) == [reply]
    layer.group_send("room", {"type": "hello"})
    layer.send_group("room", {"type": "hello"})
    layer.group_discard("room", reply)
    assert_type(layer.global_statistics(), dict[str, float])
    assert_type(layer.channel_statistics(reply), dict[str, float])
    layer.flush()
    layer.close()


async def exercise(layer: ChannelLayer) -> Counts:
    """Call every method once, on a layer that no other task uses, and return its counts."""
    assert_type(layer.expiry, float)
    assert_type(layer.group_expiry, float | None)
    assert_type(layer.capacity, int)
    assert_type(layer.prefix, str)
    assert_type(layer.ChannelFull, type[ChannelFull])
    assert_type(layer.MessageTooLarge, type[MessageTooLarge])
    assert all(isinstance(extension, str) for extension in layer.extensions)

    async with layer as entered:
        assert_type(entered, ChannelLayer)
        channel = assert_type(await layer.new_channel(), str)
        other = await layer.new_channel(prefix="other")

        plain: dict[str, str] = {"type": "plain"}
        nested: Message = {"rows": [{"id": 1}, {"id": 2, "pi": 3.14, "raw": b"\x00", "none": None}]}
        assert_type(await layer.send(channel, {"type": "literal", "list": [1, "two", True]}), None)
        await layer.send(channel, plain)
        await layer.send(channel, nested)
        for _ in range(3):
            assert_type(await layer.receive(channel), Message)

        assert_type(await layer.group_add("room", channel), None)
        await layer.group_add("room", other)
        assert channel in await layer.group_channels("room")
        assert_type(await layer.group_discard("room", other), None)
        await layer.group_send("room", {"type": "hello"})
        await layer.receive(channel)

        counted = assert_type(layer.counts(), Counts)
        known = assert_type(await layer.statistics(channel), Statistics)
        assert_type(known.messages_count, int)
        assert_type(known.as_dict(), dict[str, float])
        assert_type(await layer.flush(), None)
        assert_type(await layer.close_pools(), None)
    assert_type(await layer.aclose(), None)
    return counted
