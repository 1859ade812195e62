"""Layers with keys: write access to the store delivers nothing, and read access to it reveals nothing."""

# pyright: reportPrivateUsage=false
# An attack on the store needs private attributes of the layer.

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeGuard

import pytest

from channel_layer import ChannelLayer
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.operations import groups, sending
from channel_layer.ports import Place
from channel_layer.runtime.sealing import Seal
from channel_layer.testing.suites.tools import number, receive_or_none
from tests.support.scenarios_delivery import BOUND
from tests.support.scenarios_everything import use_everything
from tests.support.servers import Host
from tests.support.systems import System

KEY, OTHER_KEY, THIRD_KEY = (f"{which} key, which is long enough" for which in ("the first", "the other", "the third"))
SEALED = {"symmetric_encryption_keys": [KEY]}
FERNET = {**SEALED, "encryption": "fernet"}
BLIND = {**SEALED, "blind_names": True}

ciphers = pytest.mark.parametrize("options", [SEALED, FERNET, BLIND], ids=["aes-256-gcm", "fernet", "blind"])


async def _get(layer: ChannelLayer, channel: str) -> int:
    return number(await asyncio.wait_for(layer.receive(channel), BOUND))


async def _put(layer: ChannelLayer, channel: str, payload: bytes) -> None:
    """Put bytes into a channel's queue, as an attacker with write access to the store could."""
    assert (await layer._run(sending.push(layer._pipeline.routes, ChannelName.parse(channel), payload, 0))).accepted


async def _publish(layer: ChannelLayer, group: str, payload: bytes) -> None:
    """Send bytes to a group, as an attacker with write access to the store could."""
    await layer._run(groups.publish(layer._pipeline.routes, GroupName.parse(group), payload, 0))


def _seal(layer: ChannelLayer) -> Seal:
    assert layer._pipeline.seal is not None
    return layer._pipeline.seal


async def _told(layer: ChannelLayer, caplog: pytest.LogCaptureFixture) -> str:
    """Let the layer log what it has dropped; return the lines."""
    await layer.run_maintenance()
    return caplog.text


@ciphers
async def test_all_of_a_layer_works_sealed(system: System, options: dict[str, object]) -> None:
    """Messages of every kind, to channels of every kind and to groups with members of every kind, arrive."""
    async with system.layer(**options) as one, system.layer(**options) as other:
        mine, his = await one.new_channel(), await other.new_channel()
        members = [(one, mine), (other, his), (one, "jobs"), (other, "reply?x"), (one, "daemon!x")]
        for _, name in members:
            await one.group_add("room", name)
        message = {"bytes": b"\x00\xff", "text": "é", "list": [1, None, {"deep": 2.5}]}
        for reader, name in members:
            await other.send(name, message)
            assert await asyncio.wait_for(reader.receive(name), BOUND) == message
        await other.group_send("room", message)
        for reader, name in members:
            assert await asyncio.wait_for(reader.receive(name), BOUND) == message
        assert await other.group_channels("room") == sorted(name for _, name in members)
        for layer in (one, other):
            assert not layer.counts().dropped


def _changed(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])


@ciphers
async def test_a_manipulated_message_is_dropped_and_counted(
    system: System, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Altered, cut, moved, old, foreign and plain messages are counted, not delivered; the next valid one is."""
    async with system.layer(**options) as layer:
        mine = await layer.new_channel()
        seal, plain = _seal(layer), layer._pipeline.codec.encode({"n": 1})
        keys = system.layer(**{**options, "symmetric_encryption_keys": [OTHER_KEY]})
        prefix = system.layer(**{**options, "prefix": "another:"})
        wrong: dict[str, Callable[[str], bytes]] = {
            "altered": lambda name: _changed(seal.for_channel(plain, name)),
            "cut": lambda name: seal.for_channel(plain, name)[:20],
            "nothing": lambda _: b"",
            "plain": lambda _: plain,
            "moved from another channel": lambda _: seal.for_channel(plain, "elsewhere"),
            "moved from a group": lambda _: seal.for_group(plain, "room"),
            "with another key": lambda name: _seal(keys).for_channel(plain, name),
            "from another prefix": lambda name: _seal(prefix).for_channel(plain, name),
        }
        for channel in (mine, "jobs", "reply?x", "daemon!x"):
            before = layer.counts().dropped.get("unauthentic", 0)
            for make in wrong.values():
                await _put(layer, channel, make(channel))
            await layer.send(channel, {"n": 7})
            assert await _get(layer, channel) == 7
            async with asyncio.timeout(20):
                while layer.counts().dropped.get("unauthentic", 0) - before < len(wrong):
                    assert await receive_or_none(layer, channel) is None  # with several hosts, some may arrive after it
            assert layer.counts().dropped.get("unauthentic", 0) - before == len(wrong), channel
        assert "unauthentic" in await _told(layer, caplog)


@ciphers
async def test_a_manipulated_group_message_reaches_no_member(system: System, options: dict[str, object]) -> None:
    """A group message that was altered, or moved from a channel or another group, is counted once for each member."""
    async with system.layer(**options) as layer:
        names = [await layer.new_channel() for _ in range(3)]
        for name in names:
            await layer.group_add("room", name)
        seal, plain = _seal(layer), layer._pipeline.codec.encode({"n": 1})
        wrong = [
            _changed(seal.for_group(plain, "room")),
            seal.for_group(plain, "rooms"),
            seal.for_channel(plain, "room"),
            seal.for_channel(plain, names[0]),
            plain,
        ]
        for payload in wrong:
            await _publish(layer, "room", payload)
        await layer.group_send("room", {"n": 7})
        for name in names:
            assert await _get(layer, name) == 7
        counted = layer.counts()
        assert counted.dropped == {"unauthentic": len(wrong) * len(names)}
        assert counted.expanded == counted.delivered + sum(counted.dropped.values())


@ciphers
async def test_a_message_that_is_played_again_later_is_refused(
    system: System, options: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """Bytes that were sealed longer ago than a message may wait are refused, although the store holds them as new."""
    async with system.layer(expiry=60, **options) as layer:
        payload = _seal(layer).for_channel(layer._pipeline.codec.encode({"n": 1}), "jobs")
        system.clock.advance(60)
        await _put(layer, "jobs", payload)
        assert await _get(layer, "jobs") == 1
        system.clock.advance(13)
        await _put(layer, "jobs", payload)
        await layer.send("jobs", {"n": 2})
        assert await _get(layer, "jobs") == 2
        assert layer.counts().dropped == {"unauthentic": 1}
        assert re.search("sealed 7[345] s ago, where 70 s are allowed", await _told(layer, caplog))


@pytest.mark.parametrize(
    ("theirs", "ours", "cause"),
    [
        ({}, SEALED, "a message is plain text, but must be sealed: give its sender symmetric_encryption_keys"),
        (SEALED, {}, "a sealed message came in, and this process has no symmetric_encryption_keys"),
        (FERNET, {}, "a sealed message came in, and this process has no symmetric_encryption_keys"),
        (FERNET, SEALED, "sealed with another cipher: see the option encryption"),
        (SEALED, FERNET, "sealed with another cipher: see the option encryption"),
        ({"symmetric_encryption_keys": [OTHER_KEY]}, SEALED, "a key which is not in symmetric_encryption_keys here"),
        (
            {"symmetric_encryption_keys": [OTHER_KEY], "encryption": "fernet"},
            {**FERNET, "symmetric_encryption_keys": [KEY, THIRD_KEY]},
            "a key which is not in symmetric_encryption_keys here",
        ),
    ],
)
async def test_a_peer_with_another_configuration_is_logged(
    system: System,
    theirs: dict[str, object],
    ours: dict[str, object],
    cause: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Messages of such a peer are dropped and counted, the log names the cause, and other messages are received."""
    caplog.set_level(logging.WARNING, "channel_layer")

    async with system.layer(**theirs) as peer, system.layer(**ours) as layer, system.layer(**ours) as friend:
        mine = await layer.new_channel()
        await peer.group_add("room", mine)
        await layer.group_add("room", mine)
        for name in (mine, "jobs"):
            await peer.send(name, {"n": 1})
        await peer.group_send("room", {"n": 2})
        for name in (mine, "jobs"):
            await friend.send(name, {"n": 7})
            assert await _get(layer, name) == 7
        assert layer.counts().dropped == {"unauthentic": 3}
        assert cause in await _told(layer, caplog)
        assert "key, which is long enough" not in caplog.text


async def test_keys_change_their_order_without_loss(system: System) -> None:
    """Messages in transit while keys are added, moved and removed one process at a time are received."""
    steps = [[KEY], [KEY, OTHER_KEY], [OTHER_KEY, KEY], [OTHER_KEY]]

    for before, after in itertools.pairwise(steps):
        for theirs, ours in ((before, after), (after, before), (after, after)):
            if not set(theirs[:1]) <= set(ours):
                continue
            async with (
                system.layer(symmetric_encryption_keys=theirs) as sender,
                system.layer(symmetric_encryption_keys=ours) as reader,
            ):
                mine = await reader.new_channel()
                await reader.group_add("room", mine)
                await sender.send(mine, {"n": 1})
                await sender.group_send("room", {"n": 2})
                await sender.send("jobs", {"n": 3})
                assert [await _get(reader, name) for name in (mine, mine, "jobs")] == [1, 2, 3]
                assert not reader.counts().dropped


class _Counting:
    """A cipher that records the calls to another one."""

    def __init__(self, seal: Seal) -> None:
        self.behind = seal.sealer
        self.sealed: list[tuple[Place, str]] = []
        self.opened: list[tuple[Place, str]] = []

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal, and record it."""
        self.sealed.append((place, name))
        return self.behind.seal(payload, place, name)

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Open, and record it."""
        self.opened.append((place, name))
        return self.behind.open(sealed, place, name)


async def test_a_group_s_message_is_sealed_once_and_opened_once_in_each_process(system: System) -> None:
    """A group message is sealed once and opened once by each owner; for a member without owner it is sealed apart."""
    async with system.layer(**SEALED) as one, system.layer(**SEALED) as other:
        counts: list[_Counting] = []
        for layer in (one, other):
            seal = _seal(layer)
            counts.append(_Counting(seal))
            seal.sealer = counts[-1]
        members = [(layer, await layer.new_channel()) for layer in (one, other) for _ in range(40)]
        for layer, name in [*members, (one, "jobs")]:
            await layer.group_add("room", name)
        await one.group_send("room", {"n": 1})
        assert [await _get(layer, name) for layer, name in [*members, (other, "jobs")]] == [1] * 81
        assert counts[0].sealed == [("group", "room"), ("channel", "jobs")]
        assert counts[0].opened == [("group", "room")]
        assert counts[1].opened == [("group", "room"), ("channel", "jobs")]


# -- names ---------------------------------------------------------------------------------------------------------

_READ: dict[bytes, Callable[[str], tuple[str, ...]]] = {
    b"string": lambda key: ("GET", key),
    b"hash": lambda key: ("HGETALL", key),
    b"list": lambda key: ("LRANGE", key, "0", "-1"),
    b"set": lambda key: ("SMEMBERS", key),
    b"zset": lambda key: ("ZRANGE", key, "0", "-1", "WITHSCORES"),
    b"stream": lambda key: ("XRANGE", key, "-", "+"),
}


def _contents(host: Host, prefix: str) -> bytes:
    """Return all that a server holds of a prefix: every key, and its whole content."""
    found: list[object] = []
    for key in host.keys(prefix):
        kind = host.command("TYPE", key)
        assert isinstance(kind, bytes)
        if kind in _READ:  # otherwise it has expired
            found += [key.removeprefix(prefix).encode(), host.command(*_READ[kind](key))]
    return b"\n".join(_flat(found))


def _flat(value: object) -> list[bytes]:
    if isinstance(value, bytes):
        return [value]
    if _is_many(value):
        return [each for some in value for each in _flat(some)]
    if _is_mapping(value):
        return [each for some in (*value.keys(), *value.values()) for each in _flat(some)]
    return [str(value).encode()]


def _is_many(value: object) -> TypeGuard[Iterable[object]]:
    return isinstance(value, (list, tuple, set))


def _is_mapping(value: object) -> TypeGuard[Mapping[object, object]]:
    return isinstance(value, dict)


_NAMES = [
    b"reply",
    b"daemon",
    b"nobody",
    b"second",
    b"specific",
    b"everywhere",
    b"there",
    b"empty",
    b"never",
]


def _watch(system: System, seen: dict[bytes, int]) -> Callable[[str], Awaitable[None]]:
    """Return a check that counts the occurrences of each name on the servers."""
    deployment = system.deployment
    assert deployment is not None
    hosts = deployment.hosts

    def look() -> None:
        for host in hosts:
            contents = _contents(host, system.prefix)
            seen[b""] = seen.get(b"", 0) + len(contents)
            for name in _NAMES:
                seen[name] = seen.get(name, 0) + contents.count(name)

    async def check(_: str) -> None:
        await asyncio.to_thread(look)

    return check


@pytest.mark.parametrize(
    ("redis_system", "blind"),
    [("three-databases", True), ("one-host", False)],
    indirect=["redis_system"],
)
async def test_no_name_stands_on_a_server(redis_system: System, *, blind: bool) -> None:
    """With blind names no name is in any key or value after any operation; without them each one is."""
    seen: dict[bytes, int] = {}
    options = {**SEALED, "capacity": 3, "blind_names": blind}

    async with redis_system.layer(**options) as owner, redis_system.layer(**options) as other:
        waiting = await use_everything(owner, other, _watch(redis_system, seen))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert seen.pop(b"") > 10_000
    assert {name for name, count in seen.items() if count} == (set() if blind else set(_NAMES))


async def test_names_of_a_peer_without_blind_names_are_ignored(
    system: System, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer with blind names sees no members and gets no messages of a peer without blind names."""
    async with system.layer(**SEALED) as peer, system.layer(**BLIND) as layer:
        mine = await layer.new_channel()
        await peer.group_add("room", "jobs")
        await layer.group_add("room", mine)
        await peer.send("jobs", {"n": 1})
        await layer.group_send("room", {"n": 2})
        assert await _get(layer, mine) == 2
        assert await layer.group_channels("room") == [mine]
        assert await receive_or_none(layer, "jobs") is None
    assert not [record for record in caplog.records if record.name == "channel_layer"]
