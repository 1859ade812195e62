"""Faults on purpose: whatever goes wrong, nothing is doubled or reordered, and every loss is counted."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from channel_layer import ChannelLayer, ConfigError, StoreError
from channel_layer import commands as c
from channel_layer.config import CommonConfig, parse
from channel_layer.domain.names import ChannelName, Queue
from channel_layer.domain.rules import Faults
from channel_layer.stores.faults import FaultyBackend
from channel_layer.testing import VirtualClock, make_rules
from channel_layer_memory._store import MemoryBackend
from tests.support.systems import System

pytestmark = pytest.mark.usefixtures("settled")

_STORM = {"refuse": 0.05, "lose_reply": 0.05, "disconnect": 0.02, "delay": 0.001}
_MESSAGES = 150
_BOUND = 60.0


async def _new_channel(layer: ChannelLayer) -> str:
    while True:
        try:
            return await layer.new_channel()
        except StoreError:
            continue


@pytest.mark.parametrize("seed", range(3))
async def test_a_storm_doubles_and_reorders_nothing(system: System, seed: int) -> None:
    """Of a channel's messages each comes at most once and in order, and those whose sending succeeded all come."""
    storm = {**_STORM, "seed": seed}
    system.options = {"capacity": 1000}
    async with system.layer(faults=storm) as owner, system.layer(faults=storm) as sender:
        channel = await _new_channel(owner)
        surely, perhaps = list[int](), set[int]()
        for number in range(_MESSAGES):
            try:
                await sender.send(channel, {"n": number})
                surely.append(number)
            except StoreError as exc:
                if exc.outcome == "unknown":
                    perhaps.add(number)
        got = list[object]()
        async with asyncio.timeout(_BOUND):
            while surely and (not got or got[-1] != surely[-1]):
                got.append((await owner.receive(channel))["n"])
        assert got == sorted({*surely, *(perhaps & set(got))})
        assert len(surely) > _MESSAGES // 2


@pytest.mark.parametrize("seed", range(3))
async def test_workers_in_a_storm_share_without_doubling(system: System, seed: int) -> None:
    """Two workers of a normal channel get no message twice; those that the store lost on the way are counted."""
    storm = {**_STORM, "seed": seed}
    async with (
        system.layer(faults=storm) as one,
        system.layer(faults=storm) as two,
        system.layer(capacity=1000) as sender,
    ):
        got = list[object]()

        async def work(layer: ChannelLayer) -> None:
            while True:
                got.append((await layer.receive("jobs"))["n"])

        workers = [asyncio.create_task(work(layer)) for layer in (one, two)]
        for number in range(_MESSAGES):
            await sender.send("jobs", {"n": number})

        async def lost() -> int:
            counts = [layer.counts() for layer in (one, two)]
            return sum(sum(count.dropped.values()) for count in counts)

        async with asyncio.timeout(_BOUND):
            while len(got) + await lost() < _MESSAGES:  # noqa: ASYNC110 - what is awaited is a number
                await asyncio.sleep(0.01)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        assert len(set(got)) == len(got)
        assert len(got) + await lost() == _MESSAGES


async def test_a_fault_is_reported_as_what_it_is() -> None:
    """A refused command was not sent, and is said to be; of one whose reply was lost nobody knows."""
    clock, rules = VirtualClock(), make_rules()
    backend = FaultyBackend(MemoryBackend(rules, clock))
    async with ChannelLayer(rules, backend, clock=clock) as layer:
        backend.fail_once(c.Push)
        backend.fail_once(c.Push, acted=True)
        for outcome in ("not_sent", "unknown"):
            with pytest.raises(StoreError) as caught:
                await layer.send("jobs", {"outcome": outcome})
            assert (caught.value.outcome, caught.value.retryable) == (outcome, True)
        await layer.send("jobs", {"outcome": "sent"})
        assert [(await layer.receive("jobs"))["outcome"] for _ in range(2)] == ["unknown", "sent"]


async def test_a_lost_connection_fails_what_is_in_flight() -> None:
    """When the connection is cut, a blocked read fails as one whose connection was lost, and can be repeated."""
    clock, rules = VirtualClock(), make_rules()
    store = FaultyBackend(MemoryBackend(rules, clock)).open()
    inbox = _inbox()
    await store.execute(c.AcquireLease(0, inbox, "g", "", ()))
    read = asyncio.create_task(store.execute(c.Read(0, inbox, "", 30.0)))
    gone = asyncio.create_task(store.disconnected(0))
    await asyncio.sleep(0)
    store.cut()
    with pytest.raises(StoreError) as caught:
        await read
    assert caught.value.retryable
    await gone
    assert (await store.execute(c.Read(0, inbox, "", 0.001))).entries == ()
    await store.aclose()


def _inbox() -> Queue:
    """Name an inbox."""
    return ChannelName.parse("specific.me!x").queue


async def test_the_same_seed_does_the_same_again() -> None:
    """Two runs with one seed fail at the same commands; another seed fails at others."""

    async def fails(seed: int) -> list[int]:
        rules = make_rules()
        backend = FaultyBackend(MemoryBackend(rules, VirtualClock()), Faults(refuse=0.3, seed=seed))
        async with ChannelLayer(rules, backend) as layer:
            failed = list[int]()
            for number in range(50):
                try:
                    await layer.send("jobs", {})
                except StoreError:
                    failed.append(number)
            return failed

    one, again, other = [await fails(seed) for seed in (1, 1, 2)]
    assert one == again != other
    assert one


def test_without_the_option_nothing_goes_wrong() -> None:
    """A layer has no faults unless it is asked to, by a name and an amount that exist."""
    assert parse(CommonConfig, {}).rules().faults is None
    assert parse(CommonConfig, {"faults": {"refuse": 1, "seed": 4}}).rules().faults == Faults(refuse=1.0, seed=4)
    for wrong, field in itertools.chain(
        [(7, "faults"), ({"refus": 0.1}, 'faults["refus"]'), ({"refuse": 1.1}, 'faults["refuse"]')],
        [({"delay": True}, 'faults["delay"]'), ({"seed": 0.5}, 'faults["seed"]'), ({3: 0.5}, "faults[3]")],
    ):
        with pytest.raises(ConfigError) as caught:
            parse(CommonConfig, {"faults": wrong})
        assert [error.field for error in caught.value.errors] == [field]
