"""Bytes that no layer has written, in any key: they are counted and skipped, and other consumers are not affected."""

# pyright: reportPrivateUsage=false
# Writing garbage needs private attributes of the layer.

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable, Iterator

import msgpack
import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer.domain.codec import MsgpackCodec
from channel_layer.domain.frames import group_frame, message_frame
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.operations import sending
from channel_layer.operations.leases import announce
from channel_layer.testing.suites.tools import number, receive_or_none
from channel_layer_redis._keys import Keys
from tests.support.scenarios_delivery import BOUND, eventually
from tests.support.servers import Host
from tests.support.systems import System

GOOD = MsgpackCodec(1000).encode({"n": -1})

BAD_PAYLOADS = {
    "empty": b"",
    "another format": b"\x7f" + GOOD[1:],
    "no format": GOOD[1:],
    "nothing but the format": b"\x01",
    "truncated": GOOD[:-1],
    "too long": GOOD + b"\x00",
    "not msgpack": b"\x01\xc1",
    "a list": b"\x01" + msgpack.packb([1, 2]),
    "keys that are ints": b"\x01" + msgpack.packb({1: 2}),
    "keys that are bytes": b"\x01" + msgpack.packb({b"n": 2}),
    "a date": b"\x01" + msgpack.packb({"n": msgpack.Timestamp(1)}),
    "an extension": b"\x01" + msgpack.packb({"n": msgpack.ExtType(5, b"x")}),
    "str that is not UTF-8": b"\x01\x81\xa1n\xa1\xff",
    "an int of 65 bits": b"\x01" + msgpack.packb({"n": 2**64 - 1}),
    "too deep": b"\x01\x81\xa1n" + b"\x91" * 5000 + b"\xc0",
    "a length that lies": b"\x01\xdf\xff\xff\xff\xff",
}


def bad_frames(channel: str) -> dict[str, bytes]:
    """Invalid frames of a queue, by what is wrong with them."""
    head = message_frame(channel, b"")
    return {
        "empty": b"",
        "of no kind": b"\x00garbage",
        "text": b"hello, world",
        "without a name": b"m",
        "cut in the name": head[:-1],
        "a name that is not ASCII": b"m\x02\xff\xfe" + GOOD,
        **{f"payload: {what}": head + payload for what, payload in BAD_PAYLOADS.items()},
    }


def bad_entries(channel: str) -> dict[str, bytes]:
    """Invalid elements of a queue's list."""
    late = struct.pack(">d", 1e15)  # ms, so that age is not the reason
    return {
        "nothing": b"",
        "one byte": b"\x00",
        "shorter than a time": b"garbage",
        "text": b"something that another program has put here",
        **{what: late + frame for what, frame in bad_frames(channel).items()},
    }


def _hosts(system: System, layer: ChannelLayer, channel: str) -> list[Host]:
    """Return the hosts that store a channel's messages."""
    deployment = system.deployment
    assert deployment is not None
    return [deployment.hosts[shard] for shard in layer._pipeline.routes.shards(ChannelName.parse(channel).queue)]


async def _commands(host: Host, commands: Iterable[tuple[str | bytes, ...]]) -> None:
    def do() -> None:
        for command in commands:
            host.command(*command)

    await asyncio.to_thread(do)


async def _undecodable(layer: ChannelLayer) -> int:
    return layer.counts().dropped.get("undecodable", 0)


# --- queues that are popped ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["jobs", "reply?x", "daemon!x"])
async def test_garbage_in_a_queue_is_counted_and_skipped(redis_system: System, channel: str) -> None:
    """With every kind of garbage between valid messages, these are received in order, and the garbage is counted."""
    async with redis_system.layer(capacity=1000) as layer:
        hosts = _hosts(redis_system, layer, channel)
        garbage = bad_entries(channel)
        queue, _ = Keys(redis_system.prefix).queue(ChannelName.parse(channel).queue.name)
        await layer.send(channel, {"n": 0})
        for n, entry in enumerate(garbage.values(), 1):
            await _commands(hosts[n % len(hosts)], [("RPUSH", queue, entry)])
            await layer.send(channel, {"n": n})
        good = len(garbage) + 1
        received = [number(await asyncio.wait_for(layer.receive(channel), BOUND)) for _ in range(good)]
        assert (received if len(hosts) == 1 else sorted(received)) == list(range(good))
        assert await receive_or_none(layer, channel) is None
        assert await _undecodable(layer) == len(garbage)


@pytest.mark.parametrize("channel", ["jobs", "reply?x", "daemon!x"])
async def test_garbage_does_not_disturb_waiting_receivers(redis_system: System, channel: str) -> None:
    """Receivers that wait while garbage arrives go on waiting, and get the next valid messages promptly."""
    async with redis_system.layer() as layer, redis_system.layer() as sender:
        hosts = _hosts(redis_system, layer, channel)
        garbage = bad_entries(channel)
        queue, call = Keys(redis_system.prefix).queue(ChannelName.parse(channel).queue.name)
        receiving = [asyncio.create_task(layer.receive(channel)) for _ in range(3)]
        for n, entry in enumerate(garbage.values()):
            await _commands(hosts[n % len(hosts)], [("RPUSH", queue, entry), ("RPUSH", call, entry)])

        async def all_counted() -> bool:
            return await _undecodable(layer) == len(garbage)

        await eventually(all_counted, "all garbage is counted")
        assert not any(task.done() for task in receiving)
        for n in range(3):
            await sender.send(channel, {"n": n})
        got = await asyncio.wait_for(asyncio.gather(*receiving), BOUND)
        assert sorted(map(number, got)) == [0, 1, 2]


async def test_garbage_at_the_head_of_a_full_queue_makes_room(redis_system: System) -> None:
    """A send to a queue full of entries too short for a message succeeds; the entries removed for it are counted."""
    async with redis_system.layer(capacity=3) as layer:
        [host] = _hosts(redis_system, layer, "reply?x")
        queue, _ = Keys(redis_system.prefix).queue("reply?x")
        await _commands(host, [("RPUSH", queue, entry) for entry in (b"", b"\x00", b"garbage")])
        await layer.send("reply?x", {"n": 1})
        assert number(await asyncio.wait_for(layer.receive("reply?x"), BOUND)) == 1
        assert sum(layer.counts().dropped.values()) == 3


# --- inboxes ------------------------------------------------------------------------------------------------


def _bad_fields(channel: str) -> Iterator[tuple[bytes, ...]]:
    """Fields of stream entries that are invalid in an inbox."""
    for frame in bad_frames(channel).values():
        yield b"0", frame
    for payload in BAD_PAYLOADS.values():
        yield b"0", group_frame("group", (), payload)  # which has one member here
    good = message_frame(channel, GOOD)
    for offset in (b"", b"x", b"1.5", b"nan", b"9" * 400, b"-" + b"9" * 400, b"9" * 5000):
        yield offset, good
    yield b"0", good, b"more", b"fields"
    for frame in (
        b"g", b"g\x05gro", b"g\x05group", b"g\x05group\x00\x00\x00", b"g\x05group\xff\xff\xff\xff",
        b"g\x05group\x00\x00\x00\x02\xff\xff" + GOOD,
        b"+", b"-", b"+\x05group", b"+\x05group\x01", b"+\x05group\x01x", b"+\x05group\x01x:",
        b"+\x05group\x01xone:two",
        b"+\x05group\x01x1:" + b"9" * 400, b"-\x05group\x01x" + b"9" * 400 + b":1",
        b"+\x01!\x01!1:0",  # invalid names
        b"+\x05group\x00" + b"1:0",
        b"+\x00" + bytes([len(channel)]) + channel.encode() + b"1:0",
        b"+\x05group\x04jobs9:0",  # a channel of another owner
        b"-\x05group\x05a!b.c9:0",
        b"f", b"f\xff\xfe",
    ):  # fmt: skip
        yield b"0", frame


async def test_garbage_in_an_inbox_is_counted_and_skipped(redis_system: System) -> None:
    """With invalid entries of every kind in an inbox, its consumers get each valid message in order, and no other."""
    async with redis_system.layer(capacity=1000) as owner, redis_system.layer(capacity=1000) as sender:
        channel = await owner.new_channel()
        await owner.group_add("group", channel)
        [host] = _hosts(redis_system, owner, channel)
        _, stream = Keys(redis_system.prefix).inbox(ChannelName.parse(channel).queue.name)
        garbage = list(_bad_fields(channel))
        receiving = asyncio.create_task(owner.receive(channel))
        for n, fields in enumerate(garbage):
            some = fields if len(fields) % 2 == 0 else (*fields, b"")
            await _commands(host, [("XADD", stream, "*", *some)])
            await (sender.send(channel, {"n": n}) if n % 2 else sender.group_send("group", {"n": n}))
            assert number(await asyncio.wait_for(receiving, BOUND)) == n, fields
            receiving = asyncio.create_task(owner.receive(channel))

        async def all_counted() -> bool:
            return await _undecodable(owner) == len(garbage)

        await eventually(all_counted, "all garbage is counted")
        assert not receiving.done()
        assert await sender.group_channels("group") == [channel]
        await sender.send(channel, {"n": -2})
        assert number(await asyncio.wait_for(receiving, BOUND)) == -2
        inbox = owner._state.inboxes[ChannelName.parse(channel).queue.name]
        assert list(inbox.boxes) == [channel]
        await owner._run(announce(owner._state, inbox))  # as after a restart of the server


async def test_garbage_costs_no_credit(redis_system: System) -> None:
    """A channel whose capacity was filled with undecodable payloads gets its full capacity back, exactly."""
    async with redis_system.layer(capacity=5) as owner, redis_system.layer(capacity=5) as sender:
        channel = await owner.new_channel()
        name = ChannelName.parse(channel)
        receiving = asyncio.create_task(owner.receive(channel))
        for turn, payload in enumerate(BAD_PAYLOADS.values()):

            async def sent(payload: bytes = payload, turn: int = turn) -> bool:
                return (await sender._run(sending.push(sender._pipeline.routes, name, payload, turn))).accepted

            await eventually(sent, "a place is free")

        async def settled() -> bool:
            inbox = owner._state.inboxes[name.queue.name]
            counted = await _undecodable(owner) == len(BAD_PAYLOADS)
            return counted and not inbox.credits and inbox.returning is None

        await eventually(settled, "every place is given back")
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        for n in range(5):
            await sender.send(channel, {"n": n})
        with pytest.raises(sender.ChannelFull):
            await sender.send(channel, {"n": 5})
        assert [number(await asyncio.wait_for(owner.receive(channel), BOUND)) for _ in range(5)] == [0, 1, 2, 3, 4]


async def test_garbage_that_waits_for_an_owner_is_counted(redis_system: System) -> None:
    """An owner takes over the queue of its inbox with its entries: valid ones in order, garbage counted."""
    async with redis_system.layer(capacity=1000) as owner, redis_system.layer(capacity=1000) as sender:
        channel = await owner.new_channel()
        name = ChannelName.parse(channel).queue.name
        [host] = _hosts(redis_system, owner, channel)
        keys = Keys(redis_system.prefix)
        await _commands(host, [("DEL", *keys.inbox(name))])  # the server has lost the lease
        frames = bad_frames(channel)
        for n, frame in enumerate(frames.values()):
            await sender.send(channel, {"n": n})
            await _commands(host, [("RPUSH", keys.queue(name)[0], struct.pack(">d", 1e15) + frame)])
        await owner._background.call(lambda work: work.ensure_lease(owner._state.inboxes[name]))
        received = [number(await asyncio.wait_for(owner.receive(channel), BOUND)) for _ in frames]
        assert received == list(range(len(frames)))
        assert await receive_or_none(owner, channel) is None
        assert await _undecodable(owner) == len(frames)


async def test_a_bad_group_message_is_counted_for_each_member(redis_system: System) -> None:
    """An undecodable group message is counted once for each member, and costs no valid message."""
    async with redis_system.layer() as owner, redis_system.layer() as sender:
        members = [await owner.new_channel() for _ in range(3)]
        for member in members:
            await owner.group_add("group", member)
        [host] = _hosts(redis_system, owner, members[0])
        _, stream = Keys(redis_system.prefix).inbox(ChannelName.parse(members[0]).queue.name)
        await sender.group_send("group", {"n": 1})
        await _commands(host, [("XADD", stream, "*", "0", group_frame("group", (), b"\x7f?"))])
        await sender.group_send("group", {"n": 2})
        for member in members:
            for n in (1, 2):
                assert number(await asyncio.wait_for(owner.receive(member), BOUND)) == n
        assert owner.counts().dropped == {"undecodable": 3}


# --- keys of another type -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["jobs", "reply?x", "daemon!x"])
async def test_a_key_of_another_type_in_the_place_of_a_queue(redis_system: System, channel: str) -> None:
    """Sends to it raise StoreError; other channels work, and a receive() gets what is sent once the key is gone."""
    async with redis_system.layer() as layer:
        queue, _ = Keys(redis_system.prefix).queue(ChannelName.parse(channel).queue.name)
        hosts = _hosts(redis_system, layer, channel)
        waiting = asyncio.create_task(layer.receive("innocent"))
        for host in hosts:
            await _commands(host, [("SET", queue, "hello")])
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await layer.send(channel, {"n": 1})
        receiving = asyncio.create_task(layer.receive(channel))
        await layer.send("innocent", {"n": 2})
        assert number(await asyncio.wait_for(waiting, BOUND)) == 2
        for host in hosts:
            await _commands(host, [("DEL", queue)])
        await layer.send(channel, {"n": 3})
        assert number(await asyncio.wait_for(receiving, BOUND)) == 3


@pytest.mark.parametrize("kind", [0, 1, 2])
async def test_a_key_of_another_type_in_the_place_of_a_group(redis_system: System, kind: int) -> None:
    """Every use of the group raises StoreError; other groups and the members' direct messages work."""
    async with redis_system.layer() as owner, redis_system.layer() as sender:
        channel = await owner.new_channel()
        await owner.group_add("innocent", channel)
        deployment = redis_system.deployment
        assert deployment is not None
        host = deployment.hosts[owner._pipeline.routes.ring.group(GroupName("group"))]
        key = Keys(redis_system.prefix).group("group")[kind]
        await _commands(host, [("SET", key, "hello")])
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await owner.group_add("group", "jobs" if kind == 1 else channel)
        with pytest.raises(StoreError, match="WRONGTYPE"):
            await sender.group_send("group", {"n": 0})
        await sender.group_send("innocent", {"n": 1})
        await sender.send(channel, {"n": 2})
        assert [number(await asyncio.wait_for(owner.receive(channel), BOUND)) for _ in range(2)] == [1, 2]
        await _commands(host, [("DEL", key)])
        await owner.group_add("group", channel)
        await sender.group_send("group", {"n": 3})
        assert number(await asyncio.wait_for(owner.receive(channel), BOUND)) == 3


async def test_a_key_of_another_type_in_the_place_of_an_inbox(redis_system: System) -> None:
    """Sends to it raise StoreError, the owner's other inbox works, and the owner makes a new inbox in its place."""
    async with redis_system.layer(capacity=5) as owner, redis_system.layer(capacity=5) as sender:
        channel, other = await owner.new_channel("one"), await owner.new_channel("two")
        name = ChannelName.parse(channel).queue.name
        [host] = _hosts(redis_system, owner, channel)
        _, stream = Keys(redis_system.prefix).inbox(name)
        await _commands(host, [("DEL", stream), ("SET", stream, "hello")])
        for _ in range(7):  # more than its capacity: no credit is used up
            with pytest.raises(StoreError, match="WRONGTYPE"):
                await sender.send(channel, {"n": 0})
        await sender.send(other, {"n": 1})
        assert number(await asyncio.wait_for(owner.receive(other), BOUND)) == 1
        await _commands(host, [("DEL", stream)])
        await owner._background.call(lambda work: work.ensure_lease(owner._state.inboxes[name]))
        await sender.send(channel, {"n": 2})
        assert number(await asyncio.wait_for(owner.receive(channel), BOUND)) == 2
