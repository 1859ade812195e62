"""Every key has a lifetime, so what processes leave behind goes away by itself."""

# pyright: reportPrivateUsage=false
# Forcing a race needs private attributes.

from __future__ import annotations

import asyncio
import itertools
import re
import time
from typing import TYPE_CHECKING, TypeVar

import pytest

from channel_layer import StoreError
from channel_layer import commands as c
from channel_layer_redis._keys import KINDS, Keys
from channel_layer_redis._replies import is_list
from channel_layer_redis._store import RedisStore
from tests.support.processes import Fleet
from tests.support.scenarios_delivery import site
from tests.support.scenarios_everything import use_everything
from tests.support.scenarios_workers import Leaving, leave_everything
from tests.support.systems import System

if TYPE_CHECKING:
    from channel_layer.operations.steps import Operation

R = TypeVar("R")

EXPIRY, GROUP_EXPIRY = 60, 600

LONGEST = {
    **dict.fromkeys("qtr", EXPIRY),
    **dict.fromkeys("lsc", 1.5 * EXPIRY),
    **dict.fromkeys("goiu", GROUP_EXPIRY),
    "x": 3 * EXPIRY,
    "n": GROUP_EXPIRY,
    "e": GROUP_EXPIRY,
}
"""Seconds that a key of each kind may live."""


def _keys(system: System) -> list[str]:
    deployment = system.deployment
    assert deployment is not None
    return deployment.keys(system.prefix)


def _check_lifetimes(system: System, after: str) -> None:
    """Check that every key of the prefix has a TTL, and none above the maximum of its kind."""
    deployment = system.deployment
    assert deployment is not None
    for host in deployment.hosts:
        for key, milliseconds in host.lifetimes(system.prefix).items():
            kind, _ = Keys(system.prefix).split(key)
            assert 0 <= milliseconds <= LONGEST[kind] * 1000, f"{key} lives {milliseconds} ms after {after}"


async def test_every_key_has_a_lifetime_at_all_times(redis_system: System) -> None:
    """After each operation of each kind every key has a TTL, and none above the maximum of its kind."""

    async def check(after: str) -> None:
        await asyncio.to_thread(_check_lifetimes, redis_system, after)

    options = {"capacity": 3, "expiry": EXPIRY, "group_expiry": GROUP_EXPIRY}
    async with redis_system.layer(**options) as owner, redis_system.layer(**options) as other:
        waiting = await use_everything(owner, other, check)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await check("giving up")
    await check("aclose()")


async def test_every_key_is_as_documented(redis_system: System) -> None:
    """Every key is ``<prefix><kind>:{<name>}`` with a documented kind and its Redis type, and every kind occurs."""

    async def nothing(_: str) -> None:
        return

    def look() -> set[str]:
        found: set[str] = set()
        deployment = redis_system.deployment
        assert deployment is not None
        for host in deployment.hosts:
            for key in host.keys(redis_system.prefix):
                match = re.fullmatch(r"([a-z]):\{[A-Za-z0-9\-_.!?]*\}", key.removeprefix(redis_system.prefix))
                assert match is not None, key
                assert match[1] in KINDS, key
                kind = host.command("TYPE", key)
                assert isinstance(kind, bytes)
                shown = {"zset": "sorted set", "none": ""}.get(kind.decode(), kind.decode())
                assert f"({shown}" in KINDS[match[1]], key  # "(" alone for a key that has just expired
                found.add(match[1])
        return found

    async with redis_system.layer(capacity=3) as owner, redis_system.layer(capacity=3) as other:
        waiting = await use_everything(owner, other, nothing)
        found = await asyncio.to_thread(look)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert found == set(KINDS)


async def test_closing_every_layer_leaves_no_lease_and_no_inbox(redis_system: System) -> None:
    """After aclose() of all layers, amid messages, members and receivers, there is no lease, stream or member."""

    async def nothing(_: str) -> None:
        return

    owner, other = redis_system.layer(capacity=3), redis_system.layer(capacity=3)
    waiting = await use_everything(owner, other, nothing)
    await other.new_channel()
    await asyncio.gather(owner.aclose(), other.aclose())
    await asyncio.gather(*waiting, return_exceptions=True)
    kinds = {Keys(redis_system.prefix).split(key)[0] for key in await asyncio.to_thread(_keys, redis_system)}
    assert kinds <= set("qtrucixone")  # unread messages on channels without owner, and records of groups


async def test_closing_gives_up_a_lease_for_good(redis_system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is due for renewal while aclose() releases it is not taken again."""
    layer = redis_system.layer()
    names = [await layer.new_channel(f"p{n}") for n in range(3)]
    for name in names:
        await layer.group_add("group", name)
    resources, work = layer._lifetime.resources, layer._background.work
    run = resources._run
    assert work is not None
    readers = [work._reader_of(inbox) for inbox in layer._state.inboxes.values()]
    renewed = 0

    async def give_up_and_renew(operation: Operation[R]) -> R:
        nonlocal renewed
        reply = await run(operation)
        if layer._background.work is work:  # the background work still runs, so a renewal may come now
            loop = work.session.loop
            done = [asyncio.run_coroutine_threadsafe(reader.ensure_lease(), loop) for reader in readers]
            await asyncio.gather(*map(asyncio.wrap_future, done))
            renewed += 1
        return reply

    monkeypatch.setattr(resources, "_run", give_up_and_renew)
    await layer.aclose()
    assert renewed == len(readers), "after each inbox was given up"
    kinds = {Keys(redis_system.prefix).split(key)[0] for key in await asyncio.to_thread(_keys, redis_system)}
    assert not kinds & set("lsg")


async def test_a_channel_made_while_the_layer_closes_leaves_nothing(
    redis_system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new_channel() in progress when aclose() begins fails with StoreError, and its lease is released."""
    execute = RedisStore.execute

    layer = redis_system.layer()
    await layer.new_channel()
    claimed = asyncio.Event()
    loop = asyncio.get_running_loop()

    async def claim_slowly(self: RedisStore, command: c.Command[R], /) -> R:
        reply = await execute(self, command)
        if isinstance(command, c.AcquireLease):
            loop.call_soon_threadsafe(claimed.set)
            while not layer._state.closed:  # noqa: ASYNC110 - a plain attribute, set in whichever loop closes
                await asyncio.sleep(0.001)
        return reply

    monkeypatch.setattr(RedisStore, "execute", claim_slowly)
    making = asyncio.create_task(layer.new_channel("another"))
    await claimed.wait()
    await layer.aclose()
    with pytest.raises(StoreError):
        await making
    kinds = {Keys(redis_system.prefix).split(key)[0] for key in await asyncio.to_thread(_keys, redis_system)}
    assert not kinds & set("ls")


def test_nothing_is_left_when_all_processes_were_killed(redis_system: System) -> None:
    """After three processes that use every operation are killed with SIGKILL, no key is left once the lifetimes end."""
    where = site(redis_system, expiry=1, group_expiry=1)
    with Fleet() as fleet:
        workers = [fleet.spawn(leave_everything, Leaving(where, n)) for n in range(3)]
        fleet.go()
        for worker in workers:
            worker.wait_ready()
        assert len(_keys(redis_system)) > 10
        kinds = {Keys(redis_system.prefix).split(key)[0] for key in _keys(redis_system)}
        assert kinds >= set("lsge")
        for worker in workers:
            worker.kill9()
        killed = time.monotonic()
        while _keys(redis_system) and time.monotonic() - killed < 6:
            time.sleep(0.05)
        assert _keys(redis_system) == []


def test_the_pattern_of_a_prefix_finds_its_keys_alone(redis_system: System) -> None:
    """The pattern that flush() scans with finds every key of its prefix on a server, and none of another prefix."""
    deployment = redis_system.deployment
    assert deployment is not None
    host, base = deployment.hosts[0], redis_system.prefix
    endings = ("", "2", "q", "q:", "a*b[c]?", "aXXbcY", "[^a]", "\\")
    mine = {base + ending: [f"{base}{ending}{kind}:{{a.b!}}" for kind in KINDS] for ending in endings}
    for key in itertools.chain.from_iterable(mine.values()):
        host.command("SET", key, "x", "PX", 60_000)
    for prefix, keys in mine.items():
        found = host.command("KEYS", Keys(prefix).pattern)
        assert is_list(found)
        assert set(found) == {key.encode() for key in keys}
