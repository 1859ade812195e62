"""Rare coincidences, each forced: flushes at the same time, and entries that are no messages."""

# A forced race has to reach inside.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import pickle
from typing import Final

import channels.exceptions
import pytest

from channel_layer import ChannelFull
from channel_layer.commands import Flush, ReleaseLease, Unflushed
from channel_layer.domain.names import ChannelName
from tests.support.systems import System

_SOON: Final = 10.0
"""Seconds; what is waited for here takes milliseconds."""


# -- flush ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
async def test_flushes_at_the_same_time_all_return(system: System) -> None:
    """Each of several flushes returns, although an owner acknowledges only the last one that reached it."""
    async with system.layer() as one, system.layer() as two, system.layer() as owner:
        await owner.new_channel()
        async with asyncio.timeout(_SOON):
            for _ in range(5):
                await asyncio.gather(one.flush(), two.flush(), owner.flush())


async def test_a_flush_does_not_wait_for_a_marker_that_a_new_lease_has_overtaken(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner that loses its lease, and the marker with it, says that it has dropped everything when it has."""
    monkeypatch.setattr("channel_layer.runtime.event_loops.SETTLE_SECONDS", 0.0)

    async with system.layer() as owner:
        queue = ChannelName.parse(await owner.new_channel()).queue
        work, inbox = owner._background.work, owner._state.inboxes[queue.name]
        assert work is not None
        store = work.session.store
        await store.execute(Flush(inbox.shard, "flush"))
        await store.execute(ReleaseLease(inbox.shard, queue))
        await work.ensure_lease(inbox)
        assert await store.execute(Unflushed(inbox.shard, (queue.name,), "flush")) == ()


# -- poison --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("poison", [b"", b"x", b"1234567", b"12345678", b"\xff" * 8 + b"m", b"12345678m\x05jobs"])
async def test_what_is_no_entry_hinders_no_sender_and_no_receiver(redis_system: System, poison: bytes) -> None:
    """Bytes that another program wrote into a queue are skipped: sends, receives and counts go on around them."""
    deployment = redis_system.deployment
    assert deployment is not None
    key = f"{redis_system.prefix}q:{{jobs?}}"
    async with redis_system.layer(capacity=2) as layer:
        for host in deployment.hosts:
            host.command("RPUSH", key, poison)
            host.command("PEXPIRE", key, 60_000)
        await layer.send("jobs?", {"n": 1})
        assert (await layer.statistics("jobs?")).messages_pending == 1
        async with asyncio.timeout(_SOON):
            assert await layer.receive("jobs?") == {"n": 1}
        for n in range(2):
            await layer.send("jobs?", {"n": n})


@pytest.mark.parametrize("poison", [b"", b"x", b"1234567", b"\xff" * 7])
async def test_a_full_queue_lets_go_of_what_is_no_entry(redis_system: System, poison: bytes) -> None:
    """What is no entry makes room like an old message."""
    deployment = redis_system.deployment
    assert deployment is not None
    async with redis_system.layer(capacity=1) as layer:
        for queue, channel in (("jobs?", "jobs?"), ("inbox!", "inbox!x")):
            for host in deployment.hosts:
                host.command("RPUSH", f"{redis_system.prefix}q:{{{queue}}}", poison)
                host.command("PEXPIRE", f"{redis_system.prefix}q:{{{queue}}}", 60_000)
            await layer.send(channel, {"n": 1})
            with pytest.raises(ChannelFull):
                await layer.send(channel, {"n": 2})


@pytest.mark.parametrize("frame", [b"", b"m", b"m\xff", b"?"])
async def test_a_new_lease_is_taken_over_what_is_no_entry(redis_system: System, frame: bytes) -> None:
    """Poison in the stream of an inbox, or in the queue that becomes a part of it, does not keep its owner out."""
    deployment = redis_system.deployment
    assert deployment is not None
    async with redis_system.layer() as owner, redis_system.layer() as other:
        name = ChannelName.parse(await owner.new_channel())
        inbox = owner._state.inboxes[name.queue.name]
        host = deployment.hosts[inbox.shard]
        host.command("DEL", f"{redis_system.prefix}l:{{{name.queue}}}")
        host.command("XADD", f"{redis_system.prefix}s:{{{name.queue}}}", "*", "0", frame)
        host.command("RPUSH", f"{redis_system.prefix}q:{{{name.queue}}}", frame)
        host.command("PEXPIRE", f"{redis_system.prefix}q:{{{name.queue}}}", 60_000)
        await other.send(name.name, {"n": 1})
        await owner._background.call(lambda work: work.ensure_lease(inbox))
        async with asyncio.timeout(_SOON):
            assert await owner.receive(name.name) == {"n": 1}


# -- errors --------------------------------------------------------------------------------------------------


async def test_an_error_that_is_also_channels_own_can_be_pickled(system: System) -> None:
    """An error that a task queue sends back is still caught as ours and as the one of Channels."""
    async with system.layer(capacity=1) as layer:
        await layer.send("jobs", {})
        with pytest.raises(channels.exceptions.ChannelFull) as caught:
            await layer.send("jobs", {})
        restored: object = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - the bytes are our own
        assert isinstance(restored, ChannelFull)
        assert isinstance(restored, channels.exceptions.ChannelFull)
        assert (restored.channel, restored.capacity, str(restored)) == ("jobs", 1, str(caught.value))
