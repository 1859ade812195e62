"""What the proofs about groups share: requests that are held back, leases that are lost, and waiting for an outcome.

What can happen between two steps of a change is made to happen there, not hoped for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeVar

import pytest

from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.domain.sharding import Ring
from channel_layer.layer import ChannelLayer
from channel_layer.ports import Store
from channel_layer_memory._store import MemoryStore
from channel_layer_redis._store import RedisStore
from channel_layer_redis.config import RedisConfig
from tests.support.systems import System

__all__ = (
    "Gate",
    "are_waiting",
    "collect",
    "eventually",
    "have_answered",
    "hold",
    "intercept",
    "is_true",
    "lose_leases",
    "name_group",
    "receive_within",
    "record",
)

_PATIENCE: Final = 20.0
"""Seconds for what should take milliseconds; a crowded machine may take hundreds of times as long."""


async def eventually(condition: Callable[[], Awaitable[bool]], patience: float = _PATIENCE) -> float:
    """Wait until a condition holds.

    Args:
        condition: asked again and again.
        patience: in seconds.

    Returns:
        The seconds that it took.

    Raises:
        TimeoutError: it never held.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > patience:
            raise TimeoutError(f"not within {patience:g} s")
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def receive_within(layer: ChannelLayer, channel: str, patience: float = _PATIENCE) -> dict[str, object]:
    """Receive a message that is sure to come.

    Raises:
        TimeoutError: it did not come after `patience` seconds.
    """
    async with asyncio.timeout(patience):
        return dict(await layer.receive(channel))


async def collect(layer: ChannelLayer, channel: str) -> list[dict[str, object]]:
    """Take everything that waits for a channel whose messages keep their order.

    It sends one message more and receives up to that one, so there is no guessing when the rest has arrived. The
    channel must have room for it.
    """
    await layer.send(channel, {"end of collection": True})
    messages: list[dict[str, object]] = []
    while "end of collection" not in (message := await receive_within(layer, channel)):
        messages.append(message)
    return messages


def name_group(system: System, channel: str, *, together: bool) -> str:
    """A group name that lies on the same host as a channel's queue, or on another one."""
    identities = ["memory"]
    if system.deployment is not None:
        config = parse(RedisConfig, {"hosts": system.deployment.urls})
        identities = [host.identity for host in config.servers]
    ring = Ring(identities)
    home = ring.queue(ChannelName.parse(channel).queue)
    names = (f"group-{number}" for number in range(1000))
    return next(name for name in names if (ring.group(GroupName.parse(name)) == home) == together)


# --- requests held back -------------------------------------------------------------------------------------

Q = TypeVar("Q")
R = TypeVar("R")


class Gate:
    """Holds back what comes to it, in the event loop of the test.

    Attributes:
        count: how many have come.
    """

    def __init__(self) -> None:
        self.count = 0
        self._came = asyncio.Event()
        self._open = asyncio.Event()

    async def reached(self) -> None:
        """Wait until something stands here.

        Raises:
            TimeoutError: nothing came.
        """
        async with asyncio.timeout(_PATIENCE):
            await self._came.wait()

    def open(self) -> None:
        """Let through what stands here, and whatever comes later."""
        self._open.set()

    async def pass_through(self) -> None:
        """Stand here until it is open."""
        self.count += 1
        self._came.set()
        await self._open.wait()


def intercept(monkeypatch: pytest.MonkeyPatch, kind: type[Q], before: Callable[[Q], Awaitable[None]]) -> None:
    """Await something before each request of a kind that reaches a store of this process.

    Args:
        monkeypatch: undoes it.
        kind: of command, such as `commands.Mark`.
        before: given the request; what it raises is raised to who asked.
    """

    async def around(carry_out: Callable[[Q], Awaitable[object]], request: Q) -> object:
        await before(request)
        return await carry_out(request)

    _replace(monkeypatch, kind, around)


def _replace(
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Q],
    around: Callable[[Callable[[Q], Awaitable[R]], Q], Awaitable[R]],
) -> None:
    """Have requests of a kind carried out by *around*, which is given the store's own way and the request."""
    for store in (MemoryStore, RedisStore):
        _replace_in(store, monkeypatch, kind, around)


def _replace_in(
    store: type,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Q],
    around: Callable[[Callable[[Q], Awaitable[R]], Q], Awaitable[R]],
) -> None:
    original: Callable[[object, object], Awaitable[R]] = vars(store)["execute"]

    async def execute(self: object, command: object, /) -> R:
        if isinstance(command, kind):
            return await around(partial(original, self), command)
        return await original(self, command)

    monkeypatch.setattr(store, "execute", execute)


def hold(
    monkeypatch: pytest.MonkeyPatch, kind: type[Q], which: Callable[[Q], bool], *, only_first: bool = False
) -> Gate:
    """Hold requests of a kind back before they reach their store; see `intercept`.

    Args:
        monkeypatch: undoes it.
        kind: of the requests.
        which: says whether to hold this one.
        only_first: hold one and let all later ones pass.
    """
    gate = Gate()

    async def before(request: Q) -> None:
        if which(request) and not (only_first and gate.count):
            await gate.pass_through()

    intercept(monkeypatch, kind, before)
    return gate


def follow(monkeypatch: pytest.MonkeyPatch, kind: type[Q], after: Callable[[Q], Awaitable[None]]) -> None:
    """Await something after each request of a kind that a store of this process has carried out; see `intercept`.

    Who asked hears how it ended only then, or that he cannot hear it: by what is raised.
    """

    async def around(carry_out: Callable[[Q], Awaitable[object]], request: Q) -> object:
        reply = await carry_out(request)
        await after(request)
        return reply

    _replace(monkeypatch, kind, around)


def record(monkeypatch: pytest.MonkeyPatch, kind: type[c.Command[R]]) -> list[R]:
    """Write down every reply of the stores of this process to a kind of requests; see `intercept`."""
    replies: list[R] = []

    async def around(carry_out: Callable[[c.Command[R]], Awaitable[R]], request: c.Command[R]) -> R:
        reply = await carry_out(request)
        replies.append(reply)
        return reply

    _replace(monkeypatch, kind, around)
    return replies


def lose_leases(system: System) -> None:
    """Let every lease of a owned inbox be gone: lost by the servers, over in memory (where time passes for that)."""
    if system.deployment is None:
        system.clock.advance(_LONGER_THAN_A_LEASE)
        return
    for host in system.deployment.hosts:
        for key in host.keys(f"{system.prefix}l:") + host.keys(f"{system.prefix}s:"):
            host.command("DEL", key)


_LONGER_THAN_A_LEASE: Final = 100.0
"""Seconds; with the default expiry of 60 a lease lasts 90."""


async def is_true(value: bool) -> bool:  # noqa: FBT001 - it is what it returns
    """Tell what is known without waiting, to `eventually`."""
    return value


async def are_waiting(layer: ChannelLayer, count: int) -> bool:
    """Tell whether that many messages wait in this process."""
    return layer.counts().waiting == count


async def have_answered(store: Store, unflushed: Iterable[c.Unflushed]) -> bool:
    """Tell whether owners that did not answer a flush in time have done so since."""
    return not any([await store.execute(asked) for asked in unflushed])
