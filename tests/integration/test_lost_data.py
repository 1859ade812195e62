"""A server loses some of its data, or comes back with older data: memberships, leases and counts are made right again.

Each test takes away what a server may lose without a connection being lost: keys that it evicts, one of several servers
that is emptied, a lease that ends early because a clock was set.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from channel_layer import ChannelFull, ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName
from channel_layer.testing import VirtualClock, layers_over, make_rules
from channel_layer_redis import RedisChannelLayer
from tests.integration.test_failover import follow, succeeds
from tests.integration.test_server_restart import until
from tests.support.fake_server import redis_proxy
from tests.support.stores import redis_stores

if TYPE_CHECKING:
    from tests.support.servers import Deployment, Server, StartServer

SOON = 10.0
"""Seconds that are enough on a busy machine, and fewer than the 30 s after which a lease is renewed anyway."""

GROUPS = [f"room-{number}" for number in range(12)]


def keys(server: Server, prefix: str, kinds: str) -> list[str]:
    """Return the keys of some kinds; see `channel_layer_redis._keys`."""
    return [key for key in server.keys(prefix) if key[len(prefix)] in kinds]


class Room:
    """Two processes, each with two channels that are in all groups."""

    def __init__(self, owners: list[RedisChannelLayer], channels: list[str]) -> None:
        self.owners = owners
        self.channels = channels
        """The first two are of the first process."""

    def owner(self, channel: str) -> RedisChannelLayer:
        """Return the process of a channel."""
        return self.owners[self.channels.index(channel) // 2]

    async def maintain(self) -> None:
        """Let each process renew its leases now."""
        for owner in self.owners:
            await owner.run_maintenance()

    async def check(self, group: str, channels: list[str], n: int) -> None:
        """Check that just these channels are in a group, and that each gets a message once."""
        assert await self.owners[0].group_channels(group) == sorted(channels)
        await self.owners[1].group_send(group, {"n": n})
        for channel in channels:
            assert await asyncio.wait_for(self.owner(channel).receive(channel), SOON) == {"n": n}
            await self.owners[1].send(channel, {"last": n})
            assert await asyncio.wait_for(self.owner(channel).receive(channel), SOON) == {"last": n}


async def enter(stack: AsyncExitStack, urls: list[str], prefix: str) -> Room:
    """Make both processes, and let all channels join all groups."""
    owners = [
        await stack.enter_async_context(RedisChannelLayer(hosts=urls, prefix=prefix, capacity=3)) for _ in range(2)
    ]
    channels = [await owner.new_channel() for owner in owners for _ in range(2)]
    room = Room(owners, channels)
    for group in GROUPS:
        for channel in channels:
            await room.owner(channel).group_add(group, channel)
        await room.check(group, channels, 0)
    return room


@pytest.mark.parametrize("count", [1, 3], ids=["one-server", "three-servers"])
@pytest.mark.parametrize("kinds", ["g", "i", "gi", "gix", "x", "lg", "ls", "lsgi", "s"])
async def test_evicted_keys_are_noticed_with_the_next_renewal(
    start_server: StartServer, prefix: str, count: int, kinds: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever keys of groups and inboxes are evicted: memberships are whole again, counted, and end as always."""
    servers = [start_server() for _ in range(count)]
    async with AsyncExitStack() as stack:
        room = await enter(stack, [server.url for server in servers], prefix)
        for server in servers:
            if found := keys(server, prefix, kinds):
                assert server.host().command("DEL", *found) == len(found)
        with caplog.at_level(logging.WARNING, "channel_layer"):
            await room.maintain()
            await room.maintain()  # the second process may have met a lease that was lost with the first look
        lost = "g" in kinds or "i" in kinds
        assert (sum(owner.counts().memberships_restored for owner in room.owners) > 0) == lost
        assert ("memberships of groups that" in caplog.text) == lost
        for group in GROUPS:
            await room.check(group, room.channels, 1)
        # Counts of members are right, too: the last one of a process to leave is the one that ends the messages.
        left = list(room.channels)
        for channel in room.channels[:3]:
            await room.owners[1].group_discard(GROUPS[0], channel)
            left.remove(channel)
            await room.check(GROUPS[0], left, 2)
        await room.maintain()
        await room.check(GROUPS[0], left, 3)


async def test_one_of_several_servers_is_emptied(start_server: StartServer, prefix: str) -> None:
    """FLUSHDB on one server: with the next renewal all is as before."""
    servers = [start_server() for _ in range(3)]
    async with AsyncExitStack() as stack:
        room = await enter(stack, [server.url for server in servers], prefix)
        for number, server in enumerate(servers, 1):
            server.host().command("FLUSHDB")
            await room.maintain()
            await room.maintain()
            for group in GROUPS:
                await room.check(group, room.channels, number)


async def test_what_a_flush_has_ended_is_not_restored(start_server: StartServer, prefix: str) -> None:
    """A renewal between a flush and the read of its marker takes the missing groups for flushed, not for lost."""
    server = start_server()
    held, go_on = asyncio.Event(), asyncio.Event()
    go_on.set()

    async def hold(command: list[bytes]) -> bytes | None:
        if command[0] == b"XREAD" and not go_on.is_set():
            held.set()
            await go_on.wait()
        return None

    async with (
        redis_proxy(lambda: server.port, hold) as port,
        RedisChannelLayer(hosts=[f"redis://127.0.0.1:{port}/0"], prefix=prefix) as owner,
        RedisChannelLayer(hosts=[server.url], prefix=prefix) as other,
    ):
        name = await owner.new_channel()
        await owner.group_add("room", name)
        go_on.clear()
        await other.send(name, {"n": 0})  # ends a read that has begun; the next one is held back
        await asyncio.wait_for(held.wait(), SOON)
        flushing = asyncio.create_task(other.flush())

        async def emptied() -> bool:
            return not await other.group_channels("room")

        await until(emptied, SOON)
        for _ in range(2):
            await owner.run_maintenance()
        assert await emptied()
        go_on.set()
        await flushing
        await owner.run_maintenance()
        assert await emptied()
        assert owner.counts().memberships_restored == 0


async def test_a_sender_restores_its_own_members_at_once(start_server: StartServer, prefix: str) -> None:
    """A message to a group that was lost reaches the members of the process that sends it."""
    server = start_server()
    async with AsyncExitStack() as stack:
        room = await enter(stack, [server.url], prefix)
        server.host().command("FLUSHDB")
        server.host().command("DEL", *keys(server, prefix, "goi") or ["none"])
        await room.owners[0].run_maintenance()  # it has its lease again
        server.host().command("DEL", *keys(server, prefix, "goi"))
        await room.owners[0].group_send(GROUPS[0], {"n": 1})
        for channel in room.channels[:2]:
            assert await asyncio.wait_for(room.owners[0].receive(channel), SOON) == {"n": 1}


@pytest.mark.parametrize(
    ("count", "kinds", "sends"),
    [
        (1, "l", "send"),
        (1, "l", "group_send"),
        (1, "ls", "group_send"),
        (3, "l", "send"),
        (3, "l", "group_send"),
    ],
)
async def test_a_sender_that_meets_a_lost_lease_lets_the_owner_know(
    start_server: StartServer, prefix: str, count: int, kinds: str, sends: str
) -> None:
    """The owner acquires its lease again long before it would renew it, and is in its groups again."""
    servers = [start_server() for _ in range(count)]
    async with AsyncExitStack() as stack:
        room = await enter(stack, [server.url for server in servers], prefix)
        for server in servers:
            if found := keys(server, prefix, kinds):
                server.host().command("DEL", *found)
        sender = await stack.enter_async_context(
            RedisChannelLayer(hosts=[server.url for server in servers], prefix=prefix)
        )
        for channel in room.channels[::2]:
            if sends == "send":
                await sender.send(channel, {"n": 1})
                assert await asyncio.wait_for(room.owner(channel).receive(channel), SOON) == {"n": 1}
        if sends == "group_send":
            await sender.group_send(GROUPS[0], {"n": 1})  # which they may miss

        async def back() -> bool:
            return all([await sender.group_channels(group) == sorted(room.channels) for group in GROUPS])

        await until(back, SOON)


async def test_a_restart_is_noticed_without_the_right_to_ask_for_the_run(
    start_server: StartServer, prefix: str
) -> None:
    """If INFO is denied, a connection that was lost is a reason to look: groups are whole again within seconds."""
    server = start_server()

    async def deny(command: list[bytes]) -> bytes | None:
        return b"-NOPERM no permissions\r\n" if command[0] == b"INFO" else None

    async with redis_proxy(lambda: server.port, deny) as port, AsyncExitStack() as stack:
        other = start_server()
        room = await enter(stack, [f"redis://127.0.0.1:{port}/0", other.url], prefix)
        server.restart_empty()

        async def back() -> bool:
            try:
                return all(
                    [
                        await owner.group_channels(group) == sorted(room.channels)
                        for owner in room.owners  # each of them: the proxy tells of a lost server with the next command
                        for group in GROUPS
                    ]
                )
            except StoreError:  # while it is away
                return False

        await until(back, SOON)


@pytest.mark.parametrize("told", [True, False], ids=["run-id", "no-run-id"])
async def test_a_server_that_comes_back_older(start_server: StartServer, prefix: str, *, told: bool) -> None:
    """Unread counts of a snapshot take no capacity, what was read is not read again, and late joins are there."""
    old, snapshot = start_server(), start_server()
    leads = old

    async def deny(command: list[bytes]) -> bytes | None:
        return b"-NOPERM no permissions\r\n" if command[0] == b"INFO" and not told else None

    async with redis_proxy(lambda: leads.port, deny) as port, AsyncExitStack() as stack:
        url = f"redis://127.0.0.1:{port}/0"
        owner = await stack.enter_async_context(RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3))
        sender = await stack.enter_async_context(RedisChannelLayer(hosts=[url], prefix=prefix, capacity=3))
        name = await owner.new_channel()
        for n in range(3):
            await owner.send(name, {"n": n})
        await asyncio.to_thread(follow, snapshot, old)
        snapshot.host().command("REPLICAOF", "NO", "ONE")
        assert [await owner.receive(name) for _ in range(3)] == [{"n": n} for n in range(3)]
        await owner.group_add("late", name)

        leads = snapshot
        old.kill()

        async def back() -> bool:
            if not told:  # the proxy keeps its connections, and nothing tells of a change before the next renewal
                await succeeds(owner.run_maintenance())
            return await succeeds(sender.group_channels("late")) and await sender.group_channels("late") == [name]

        await until(back, SOON)
        await owner.run_maintenance()
        for n in range(3, 6):
            await sender.send(name, {"n": n})
        with pytest.raises(ChannelFull):
            await sender.send(name, {"n": -1})
        assert [await asyncio.wait_for(owner.receive(name), SOON) for _ in range(3)] == [{"n": n} for n in range(3, 6)]


async def test_a_wrong_count_of_unread_messages_heals(start_server: StartServer, prefix: str) -> None:
    """Whatever a lease counts wrongly: after the next renewal a channel holds what its capacity says, and no more."""
    server = start_server()
    async with (
        RedisChannelLayer(hosts=[server.url], prefix=prefix, capacity=3) as owner,
        RedisChannelLayer(hosts=[server.url], prefix=prefix, capacity=3) as sender,
    ):
        name, other = await owner.new_channel(), await owner.new_channel()
        await sender.send(name, {"n": 0})
        assert await owner.receive(name) == {"n": 0}
        await sender.send(name, {"n": 1})
        await owner.group_add("room", name)  # its marker is read after the message
        await owner.run_maintenance()
        [lease] = [key for key in keys(server, prefix, "l") if name.partition("!")[0] in key]
        server.host().command("HSET", lease, f"n{name}", 99, f"n{other}", 99)

        async def heals() -> bool:
            await owner.run_maintenance()
            return not await full(sender, other)

        await until(heals, SOON)
        assert [await full(sender, name) for _ in range(3)] == [False, False, True]


async def full(layer: ChannelLayer, name: str) -> bool:
    """Send a message; return whether the channel was full."""
    try:
        await layer.send(name, {})
    except ChannelFull:
        return True
    return False


async def test_what_comes_after_the_position_is_read_though_the_clock_is_behind(
    one_host: Deployment, prefix: str
) -> None:
    """A server whose clock is behind the last entry that was read: with the new lease its entries come after that."""
    store = redis_stores(one_host)(make_rules(prefix=prefix), VirtualClock()).open()
    try:
        own = ChannelName.parse("specific.me!x")
        ahead = f"{2**43}-7"  # in the year 2248
        await store.execute(c.AcquireLease(0, own.queue, "one", "", ()))
        await store.execute(c.AcquireLease(0, own.queue, "two", ahead, ()))
        await store.execute(c.Push(0, own, 10, b"1"))
        assert len((await store.execute(c.Read(0, own.queue, ahead, 0.1))).entries) == 1
    finally:
        await store.aclose()


class ServerClock:
    """A clock of the server that a test sets; the local time goes on."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Return the local time."""
        return time.monotonic()


async def test_a_clock_that_is_set_back_makes_nothing_old(one_host: Deployment, prefix: str) -> None:
    """What comes in then looks too old until the owner has asked for the time: it is delivered."""
    clock = ServerClock()
    make_layer = layers_over(redis_stores(one_host))
    rules = make_rules(prefix=prefix)
    async with make_layer(rules, clock) as owner, make_layer(rules, clock) as sender:
        name = await owner.new_channel()
        await owner.group_add("room", name)
        for n, step in enumerate([0.0, -600.0, 300.0, -600.0]):
            clock.offset += step
            await sender.send(name, {"n": n})
            await sender.group_send("room", {"n": n})
            assert [await asyncio.wait_for(owner.receive(name), SOON) for _ in range(2)] == [{"n": n}] * 2
        assert not owner.counts().dropped


async def test_a_clock_that_is_set_forward_ends_no_membership(one_host: Deployment, prefix: str) -> None:
    """It goes forward by more than `group_expiry`, and all keys are gone: with the next renewal all is restored."""
    clock = ServerClock()
    make_layer = layers_over(redis_stores(one_host))
    rules = make_rules(prefix=prefix, group_expiry=300.0, expiry=10.0)
    async with make_layer(rules, clock) as owner, make_layer(rules, clock) as sender:
        name = await owner.new_channel()
        await owner.group_add("room", name)
        for step in range(2):
            clock.offset += 600.0
            server = one_host.servers[0]
            server.host().command("DEL", *keys(server, prefix, "lsgoi"))

            async def back() -> bool:
                return await sender.group_channels("room") == [name]

            await until(back, 30)
            await sender.group_send("room", {"n": step})
            assert await asyncio.wait_for(owner.receive(name), SOON) == {"n": step}
        assert not owner.counts().dropped


async def test_a_clock_that_is_set_forward_costs_no_unread_message(one_host: Deployment, prefix: str) -> None:
    """Leases end though no owner has missed one: the next sender lets the owner know, which keeps what it holds."""
    clock = ServerClock()
    make_layer = layers_over(redis_stores(one_host))
    rules = make_rules(prefix=prefix)
    async with make_layer(rules, clock) as owner, make_layer(rules, clock) as sender:
        name, other = await owner.new_channel(), await owner.new_channel()
        for channel in (name, other):
            await owner.group_add("room", channel)
        await sender.send(other, {"n": 0})
        await sender.send(name, {"n": 0})
        await sender.send(name, {"n": 1})
        assert await owner.receive(name) == {"n": 0}  # so all are in the mailboxes of their channels
        clock.offset += 600.0
        server = one_host.servers[0]
        assert server.host().command("DEL", *keys(server, prefix, "ls")) == 2
        await sender.group_send("room", {"n": -1})  # which they miss

        async def back() -> bool:
            return len(await sender.group_channels("room")) == 2

        await until(back, SOON)
        assert await asyncio.wait_for(owner.receive(name), SOON) == {"n": 1}
        assert await asyncio.wait_for(owner.receive(other), SOON) == {"n": 0}
        await sender.send(name, {"n": 2})
        assert await asyncio.wait_for(owner.receive(name), SOON) == {"n": 2}
        assert not owner.counts().dropped
