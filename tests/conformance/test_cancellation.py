"""Cancelling ``receive()`` loses nothing, doubles nothing and reorders nothing, at whichever step it comes.

A consumer that disconnects is a cancelled ``receive()``, so this happens all day. The steps at which a cancellation can
meet a message are named one by one; nothing here waits for an unlucky moment.
"""

# pyright: reportPrivateUsage=false
# A forced race has to reach inside.

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest

from channel_layer import ChannelLayer, Message
from tests.support.scenarios_delivery import (
    BOUND,
    Steps,
    accounts,
    at_promise,
    drain,
    number,
    receive_or_none,
    run_stepping,
    send_patiently,
    waits,
)
from tests.support.systems import System, run

KINDS = ("normal", "single-reader", "process-specific", "claimed")

MOST_STEPS = 40
"""More than a receive() takes from its first step to its last on any store."""


async def _channel(kind: str, owner: ChannelLayer, place: int = 0) -> str:
    """A channel of a kind; one that is owned belongs to *owner*."""
    fixed = {"normal": f"jobs{place}", "single-reader": f"reply?x{place}", "claimed": f"daemon{place}!x"}
    return fixed[kind] if kind in fixed else await owner.new_channel()


# --- one receiver, every step -------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_cancelled_at_every_step(system: System, moment: Literal["before", "after"]) -> None:
    """A receive() cancelled at any one step of its loop loses no message, whether that was there before or comes then.

    Before each message a receive() is begun and cancelled after 0, 1, 2 ... steps of the event loop; in every other
    round the cancellation competes with data that has just arrived.
    """

    async def body(steps: Steps) -> None:
        async with system.layer() as owner, system.layer() as sender:
            for kind in KINDS:
                channel = await _channel(kind, owner)
                expected = 0
                received: list[int] = []
                for step in range(MOST_STEPS):
                    for late in (False, True):
                        if moment == "before":
                            await sender.send(channel, {"n": expected})
                        receiving = asyncio.create_task(owner.receive(channel))
                        steps.arm(step, receiving.cancel, late=late)
                        if moment == "after":
                            await sender.send(channel, {"n": expected})
                        expected += 1
                        # What has been cancelled lets the next one have the message; otherwise it has it itself.
                        await asyncio.wait([receiving], timeout=BOUND)
                        steps.disarm()
                        if not receiving.cancelled():
                            received.append(number(receiving.result()))
                        else:
                            received.append(number(await asyncio.wait_for(owner.receive(channel), BOUND)))
                assert received == list(range(expected)), kind
                assert await receive_or_none(owner, channel, 0.01) is None
            total = await accounts([owner, sender], [])
            assert total["entered"] == total["delivered"] == total["gone"]

    run_stepping(body)


# --- 1 500 messages in a storm of cancellations --------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("kind", ["normal", "process-specific"])
def test_1500_messages_through_receivers_that_are_always_cancelled(system: System, kind: str) -> None:
    """Of 1 500 messages none is lost, doubled or out of order while every receive() is cancelled at another step."""
    dice = random.Random(random.random())

    async def body(steps: Steps) -> None:
        async with system.layer() as owner, system.layer() as sender:
            channel = await _channel(kind, owner)
            received: list[int] = []

            async def send() -> None:
                for n in range(1500):
                    await send_patiently(sender, channel, {"n": n})

            sending = asyncio.create_task(send())
            async with asyncio.timeout(3 * BOUND):
                while len(received) < 1500:
                    receiving = asyncio.create_task(owner.receive(channel))
                    steps.arm(dice.randrange(12), receiving.cancel, late=dice.random() < 0.5)
                    await asyncio.wait([receiving])
                    if not receiving.cancelled():
                        received.append(number(receiving.result()))
            steps.disarm()
            await sending
            assert await drain(owner, channel) == []
            if kind == "normal" and system.shards > 1:
                received.sort()  # each host has an order of its own
            assert received == list(range(1500))

    run_stepping(body)


@pytest.mark.usefixtures("loops")
def test_a_storm_of_timeouts_loses_nothing(system: System) -> None:
    """Receivers that give up after times from 0 to 2 ms, as polling consumers do, get every message in order."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as sender:
            channels = [await _channel(kind, owner) for kind in KINDS]
            sent, seen = 120, {channel: list[int]() for channel in channels}

            async def poll(channel: str) -> None:
                while len(seen[channel]) < sent:
                    seconds = random.choice((0, 0, 0.0005, 0.002))
                    try:
                        message = await asyncio.wait_for(owner.receive(channel), seconds)
                    except TimeoutError:
                        await asyncio.sleep(0)
                    else:
                        seen[channel].append(number(message))

            async with asyncio.timeout(2 * BOUND), asyncio.TaskGroup() as tasks:
                for channel in channels:
                    tasks.create_task(poll(channel))
                for n in range(sent):
                    for channel in channels:
                        await send_patiently(sender, channel, {"n": n})
            for channel, kind in zip(channels, KINDS, strict=True):
                got = sorted(seen[channel]) if kind == "normal" and system.shards > 1 else seen[channel]
                assert got == list(range(sent)), kind
                assert await receive_or_none(owner, channel, 0.01) is None

    asyncio.run(body())


# --- several receivers --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("kind", KINDS)
def test_a_promise_is_passed_on(system: System, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """When a receiver is cancelled at the moment it was promised a message, the next one that waits gets it."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as sender:
            channel = await _channel(kind, owner)
            for hops in (1, 2, 3):
                receiving: list[asyncio.Task[Message]] = []
                for place in range(3):
                    receiving.append(asyncio.create_task(owner.receive(channel)))
                    await waits(owner, channel, place + 1)
                first, second, third = receiving
                with monkeypatch.context() as patch:
                    at_promise(patch, _once(partial(_cancel, first, hops)))
                    await sender.send(channel, {"n": 1})
                    await asyncio.wait([first], timeout=BOUND)
                if not first.cancelled():  # it ran before its cancellation came
                    await sender.send(channel, {"n": 1})
                assert number(await asyncio.wait_for(second, BOUND)) == 1
                await sender.send(channel, {"n": 2})
                assert number(await asyncio.wait_for(third, BOUND)) == 2

    run(body())


def _cancel(task: asyncio.Task[object], hops: int) -> None:
    """Cancel a task so many steps of its loop from now; from any thread."""
    if hops:
        task.get_loop().call_soon_threadsafe(_cancel, task, hops - 1)
    else:
        task.cancel()


def _once(action: Callable[[], object]) -> Callable[[], object]:
    """Do it the first time only."""
    actions = iter([action])
    return lambda: next(actions, int)()  # noqa: PLW0108 - another one each time


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_promise_keeps_the_order(system: System, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A message whose receiver was cancelled comes before those sent later, on every channel with one order."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as sender:
            channel = await _channel(kind, owner)
            for n in range(0, 60, 3):
                receiving = asyncio.create_task(owner.receive(channel))
                await waits(owner, channel)
                with monkeypatch.context() as patch:
                    at_promise(patch, _once(partial(_cancel, receiving, 1)))
                    for more in range(3):
                        await sender.send(channel, {"n": n + more})
                    await asyncio.wait([receiving], timeout=BOUND)
                assert receiving.cancelled()
                received = [number(await asyncio.wait_for(owner.receive(channel), BOUND)) for _ in range(3)]
                if kind == "normal" and system.shards > 1:
                    received.sort()
                assert received == [n, n + 1, n + 2]

    run(body())


@pytest.mark.usefixtures("loops")
def test_many_receivers_cancelled_in_a_crowd_lose_nothing(system: System) -> None:
    """Of ten receivers on a channel some are cancelled at every turn; each message reaches one of the others."""
    dice = random.Random(random.random())

    async def body() -> None:
        async with system.layer() as owner, system.layer() as sender:
            channels = [await _channel(kind, owner) for kind in KINDS]
            for channel, kind in zip(channels, KINDS, strict=True):
                seen: list[int] = []

                async def take(channel: str = channel, seen: list[int] = seen) -> None:
                    seen.append(number(await owner.receive(channel)))

                receiving = [asyncio.create_task(take()) for _ in range(10)]
                for n in range(0, 60, 3):
                    sends = [sender.send(channel, {"n": n + more}) for more in range(3)]
                    await asyncio.gather(*sends)
                    for _ in range(dice.randrange(6)):
                        await asyncio.sleep(0)
                    for task in dice.sample(receiving, 4):
                        task.cancel()
                    await asyncio.sleep(0)
                    receiving = [task for task in receiving if not task.done()]
                    receiving += [asyncio.create_task(take()) for _ in range(10 - len(receiving))]
                async with asyncio.timeout(BOUND):
                    while len(seen) < 60:
                        done, rest = await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
                        receiving = [*rest, *(asyncio.create_task(take()) for _ in done)]
                for task in receiving:
                    task.cancel()
                await asyncio.wait(receiving)
                assert sorted(seen) == list(range(60)), kind
                assert await receive_or_none(owner, channel, 0.01) is None

    run(body())


# --- siblings and other processes ---------------------------------------------------------------------------


def test_a_sibling_s_disconnect_costs_nobody_a_message(system: System) -> None:
    """While one channel's receivers are cancelled all the time, other channels of the process get everything."""

    async def body() -> None:
        async with system.layer() as owner, system.layer() as sender:
            churning, steady = await owner.new_channel(), await owner.new_channel()
            for name in (churning, steady):
                await owner.group_add("group", name)

            async def churn() -> None:
                while True:
                    await receive_or_none(owner, churning, random.choice((0, 0.001)))
                    await asyncio.sleep(0)

            beside = asyncio.create_task(churn())
            received: list[int] = []
            for n in range(0, 200, 2):
                await sender.send(steady, {"n": n})
                await sender.group_send("group", {"n": n + 1})
                received += [number(await asyncio.wait_for(owner.receive(steady), BOUND)) for _ in range(2)]
            beside.cancel()
            await asyncio.wait([beside])
            assert received == list(range(200))

    asyncio.run(body())


@pytest.mark.usefixtures("loops")
def test_what_a_cancelled_receive_leaves_goes_to_another_process(system: System) -> None:
    """A message that was popped for a receive() which is cancelled wakes a worker of another process."""

    async def body(steps: Steps) -> None:
        async with system.layer() as one, system.layer() as two, system.layer() as sender:
            for channel in ("jobs", "reply?x"):
                for step in range(MOST_STEPS):
                    receiving = asyncio.create_task(one.receive(channel))
                    elsewhere = asyncio.create_task(two.receive(channel))
                    steps.arm(step, receiving.cancel)
                    await sender.send(channel, {"n": step})
                    done, _ = await asyncio.wait(
                        [receiving, elsewhere], timeout=BOUND, return_when=asyncio.FIRST_COMPLETED
                    )
                    if receiving in done and receiving.cancelled():
                        assert number(await asyncio.wait_for(elsewhere, BOUND)) == step
                        continue
                    steps.disarm()
                    for task in (receiving, elsewhere):
                        task.cancel()
                    await asyncio.wait([receiving, elsewhere])
                    results = [number(t.result()) for t in (receiving, elsewhere) if not t.cancelled()]
                    assert results == [step]

    run_stepping(body)


@pytest.mark.usefixtures("loops")
def test_a_loop_that_ends_takes_no_message_with_it(system: System) -> None:
    """An event loop that ends at any step of a receive(), cancelling every task at once, leaves the message there."""
    layer, sender = system.layer(), system.layer()
    channels = [asyncio.run(_channel(kind, layer)) for kind in KINDS]

    async def end_early(channel: str, step: int, *, late: bool) -> asyncio.Task[Message]:
        over = asyncio.Event()
        steps.arm(step, over.set, late=late)
        receiving = asyncio.create_task(layer.receive(channel))
        receiving.add_done_callback(lambda _: over.set())
        await over.wait()
        return receiving  # it may still end well, in the steps that the loop takes to its end

    async def rest(channel: str, missing: bool) -> list[int]:  # noqa: FBT001
        return [number(await asyncio.wait_for(layer.receive(channel), BOUND))] if missing else []

    for channel, kind in zip(channels, KINDS, strict=True):
        received: list[int] = []
        for step in range(0, MOST_STEPS, 2):
            asyncio.run(sender.send(channel, {"n": step}))
            steps = Steps()
            with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(steps)) as runner:  # noqa: B023
                receiving = runner.run(end_early(channel, step, late=step % 4 == 2))
            if not receiving.cancelled():
                received.append(number(receiving.result()))
            received += asyncio.run(rest(channel, len(received) <= step // 2))
        assert received == list(range(0, MOST_STEPS, 2)), kind

    async def close() -> None:
        assert [await receive_or_none(layer, channel, 0.01) for channel in channels] == [None] * 4
        await layer.aclose()
        await sender.aclose()

    asyncio.run(close())
