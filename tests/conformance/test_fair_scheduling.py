"""A message to thousands of receivers in one process: they resume in batches, and each of them gets it."""

# Forcing a race needs private attributes.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref

import pytest

from channel_layer import ChannelFull, ChannelLayer
from channel_layer.runtime import inbox_reader, wakeups
from channel_layer.runtime.wakeups import ReceiveWaiter
from tests.support.systems import System

_MEMBERS = 300

_SOON = 20.0
"""Seconds; what is waited for here takes milliseconds."""

pytestmark = pytest.mark.usefixtures("settled")


async def _join(layer: ChannelLayer) -> list[str]:
    """Add new channels to a group; return their names."""
    names = [await layer.new_channel() for _ in range(_MEMBERS)]
    await asyncio.gather(*(layer.group_add("group", name) for name in names))
    return names


async def test_others_have_their_turns_while_thousands_receive(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first and the last receiver of a group message, other tasks of the event loop run many times."""
    monkeypatch.setattr(wakeups, "_AT_ONCE", 10)

    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def receive(name: str) -> int:
        assert await layer.receive(name) == {"n": 1}
        return turns

    async with system.layer() as layer:
        waiting = [asyncio.create_task(receive(name)) for name in await _join(layer)]
        await asyncio.sleep(0)
        ticking = asyncio.create_task(tick())
        await layer.group_send("group", {"n": 1})
        async with asyncio.timeout(_SOON):
            ran = await asyncio.gather(*waiting)
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        assert max(ran) - min(ran) >= _MEMBERS // 10 - 1


async def test_none_is_left_out_when_the_loop_that_wakes_them_ends_between_two_turns(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Receivers get their messages although the event loop that resumes them ends between two batches."""
    monkeypatch.setattr(wakeups, "_AT_ONCE", 1)

    layer = system.layer()
    here = asyncio.get_running_loop()
    first = asyncio.Event()
    joined: asyncio.Future[list[str]] = here.create_future()
    over = threading.Event()

    async def host() -> None:
        names = await _join(layer)
        here.call_soon_threadsafe(joined.set_result, names)
        await asyncio.to_thread(over.wait)  # then its event loop ends

    async def receive(name: str) -> None:
        assert await layer.receive(name) == {"n": 1}
        over.set()
        first.set()

    hosting_loop = threading.Thread(target=asyncio.run, args=(host(),))
    hosting_loop.start()
    waiting = [asyncio.create_task(receive(name)) for name in await joined]
    await asyncio.sleep(0)
    await layer.group_send("group", {"n": 1})
    async with asyncio.timeout(_SOON):
        await first.wait()
        await asyncio.gather(*waiting)
    await asyncio.to_thread(hosting_loop.join)
    await layer.aclose()


async def test_nothing_is_kept_of_receivers_that_have_run(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """No reference to a receiver is left once it has resumed, while the next message is awaited.

    Thousands of objects that live from one message to the next would move to the garbage collector's oldest generation.
    """
    alive: weakref.WeakSet[ReceiveWaiter] = weakref.WeakSet()

    class Watched(ReceiveWaiter):
        __slots__ = ("__weakref__",)

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(loop)
            alive.add(self)

    monkeypatch.setattr("channel_layer.runtime.receivers.ReceiveWaiter", Watched)

    got, everybody = 0, asyncio.Event()

    async def receive(name: str) -> None:
        nonlocal got
        while True:
            await layer.receive(name)
            got += 1
            if got % _MEMBERS == 0:
                everybody.set()

    async with system.layer() as layer:
        readers = [asyncio.create_task(receive(name)) for name in await _join(layer)]
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        try:
            for number in range(1, 3):
                await layer.group_send("group", {"n": number})
                await asyncio.wait_for(everybody.wait(), _SOON)
                everybody.clear()
                await asyncio.sleep(0)
                assert len(alive) == _MEMBERS
        finally:
            gc.enable()
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)


async def test_adding_many_members_does_not_fill_their_inbox(system: System) -> None:
    """Adding many members over a store that never suspends does not fill the inbox of their owner with markers."""
    async with system.layer(inbox_capacity=_MEMBERS // 2) as layer:
        names = [await layer.new_channel() for _ in range(_MEMBERS)]
        for name in names:
            await layer.group_add("group", name)
        await layer.group_send("group", {"n": 1})
        async with asyncio.timeout(_SOON):
            assert await asyncio.gather(*map(layer.receive, names)) == [{"n": 1}] * _MEMBERS


async def test_sending_without_a_pause_lets_receivers_run(system: System) -> None:
    """A task that does nothing but send lets receivers run, also when it finds the channel full again and again."""
    got: list[object] = []

    async def consume() -> None:
        while len(got) < _MEMBERS:
            got.append((await layer.receive("jobs"))["n"])

    async with system.layer(capacity=10) as layer:
        consuming = asyncio.create_task(consume())
        await asyncio.sleep(0)
        sent, deadline = 0, time.monotonic() + _SOON
        while sent < _MEMBERS and time.monotonic() < deadline:
            try:
                await layer.send("jobs", {"n": sent})
                sent += 1
            except ChannelFull:
                continue
        assert sent == _MEMBERS
        await consuming
        assert sorted(map(str, got)) == sorted(map(str, range(_MEMBERS)))


async def test_a_process_yields_its_processor_before_it_hands_a_message_to_many(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server may need this processor to answer the sender. A message to few channels is handed over at once."""
    yielded: list[int] = []
    got: list[object] = []
    monkeypatch.setattr(inbox_reader, "_MANY", 3)
    monkeypatch.setattr(inbox_reader, "yield_processor", lambda: yielded.append(len(got)))
    async with system.layer() as layer:
        names = await _join(layer)
        for name in names[:2]:
            await layer.group_add("pair", name)
        for count, sending in (
            (1, layer.send(names[0], {"n": 1})),
            (2, layer.group_send("pair", {"n": 2})),
            (_MEMBERS, layer.group_send("group", {"n": 3})),
        ):
            await sending
            async with asyncio.timeout(_SOON):
                got.extend(await asyncio.gather(*(layer.receive(name) for name in names[:count])))
    assert len(got) == _MEMBERS + 3
    assert yielded == [3]
