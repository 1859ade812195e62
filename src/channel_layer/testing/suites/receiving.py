"""Cancelling ``receive()`` loses nothing, doubles nothing and reorders nothing, at whichever step it comes.

A consumer that disconnects is a cancelled ``receive()``, so this happens all day. The steps at which a cancellation can
meet a message are named one by one; nothing here waits for an unlucky moment.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import (
    KINDS,
    LayerEnvironment,
    Steps,
    async_test,
    dice,
    drain,
    expect,
    make_channel,
    number,
    pass_turns,
    receive_or_none,
    run,
    run_stepping,
    send_patiently,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from channel_layer.domain.codec import Message
    from channel_layer.layer import ChannelLayer

__all__ = ("ReceivingTests",)

_RULE = "cancelling receive() loses, doubles and reorders nothing"


def _steps(env: LayerEnvironment) -> int:
    """Return more than a receive() takes from its first step to its last."""
    return 40 if env.capabilities.blocking else 12  # one that only looks again and again has few, and takes long


class ReceivingTests(LayerTests):
    """Receivers that go before their message comes, or just then."""

    # -- one receiver, every step

    def test_cancelled_before_each_step_with_a_message_there(self, env: LayerEnvironment) -> None:
        """A receive() cancelled at any one step of its loop loses no message that was there before it.

        In every other round the cancellation competes with data that has just arrived.
        """
        run_stepping(partial(_cancel_at_every_step, env, False))

    def test_cancelled_before_each_step_as_a_message_comes(self, env: LayerEnvironment) -> None:
        """A receive() cancelled at any one step of its loop loses no message that comes just then."""
        run_stepping(partial(_cancel_at_every_step, env, True))

    def test_a_storm_of_cancellations_loses_nothing(self, env: LayerEnvironment) -> None:
        """Of many messages none is lost, doubled or reordered while every receive() is cancelled at another step."""
        count = 300
        choose = dice(0)

        async def storm(steps: Steps, kind: str) -> None:
            async with env.layer() as owner, env.layer() as sender:
                channel = await make_channel(kind, owner)
                received: list[int] = []

                async def send() -> None:
                    for n in range(count):
                        await send_patiently(sender, channel, {"n": n})

                async def receive() -> None:
                    while len(received) < count:
                        receiving = asyncio.create_task(owner.receive(channel))
                        steps.arm(choose.randrange(12), receiving.cancel, late=choose.random() < 0.5)
                        await asyncio.wait([receiving])
                        if not receiving.cancelled():
                            received.append(number(receiving.result()))
                    steps.disarm()

                sending = asyncio.create_task(send())
                await env.soon(receive(), _RULE, steps=5)
                await sending
                received += await drain(owner, channel)
                if kind == "normal":
                    received.sort()  # each host has an order of its own
                asked = f"{count} messages to {channel}, receive() always cancelled"
                expect(received, list(range(count)), _RULE, asked)

        for kind in ("normal", "process-specific"):
            run_stepping(partial(storm, kind=kind))

    @async_test
    async def test_a_storm_of_timeouts_loses_nothing(self, env: LayerEnvironment) -> None:
        """Receivers that give up after times from 0 to 2 ms, as polling consumers do, get every message in order."""
        count = 60
        choose = dice(0)
        async with env.layer() as owner, env.layer() as sender:
            channels = {await make_channel(kind, owner): kind for kind in KINDS}
            seen: dict[str, list[int]] = {channel: [] for channel in channels}

            async def poll(channel: str) -> None:
                while len(seen[channel]) < count:
                    try:
                        seconds = choose.choice((0, 0, 0.0005, 0.002, 0.1))
                        message = await asyncio.wait_for(owner.receive(channel), seconds)
                    except TimeoutError:
                        await asyncio.sleep(0)
                    else:
                        seen[channel].append(number(message))

            async def storm() -> None:
                async with asyncio.TaskGroup() as tasks:
                    for channel in channels:
                        tasks.create_task(poll(channel))
                    for n in range(count):
                        for channel in channels:
                            await send_patiently(sender, channel, {"n": n})

            await env.soon(storm(), _RULE, steps=5)
            for channel, kind in channels.items():
                got = seen[channel] + await drain(owner, channel, 0.01)
                if kind == "normal":
                    got.sort()
                expect(got, list(range(count)), _RULE, f"{count} messages to {channel}, receivers time out")

    # -- several receivers

    @async_test
    async def test_many_receivers_cancelled_at_once_lose_nothing(self, env: LayerEnvironment) -> None:
        """Of ten receivers on a channel some are cancelled at every turn; each message reaches one of the others."""
        count = 60
        choose = dice(0)

        async def cancel_many(owner: ChannelLayer, sender: ChannelLayer, channel: str) -> None:
            seen: list[int] = []

            async def take() -> None:
                seen.append(number(await owner.receive(channel)))

            receiving = [asyncio.create_task(take()) for _ in range(10)]
            for n in range(0, count, 3):
                await asyncio.gather(*(sender.send(channel, {"n": n + more}) for more in range(3)))
                await pass_turns(choose.randrange(6))
                for task in choose.sample(receiving, 4):
                    task.cancel()
                await asyncio.sleep(0)
                receiving = [task for task in receiving if not task.done()]
                receiving += [asyncio.create_task(take()) for _ in range(10 - len(receiving))]

            async def rest() -> None:
                nonlocal receiving
                while len(seen) < count:
                    done, rest = await asyncio.wait(receiving, return_when=asyncio.FIRST_COMPLETED)
                    receiving = [*rest, *(asyncio.create_task(take()) for _ in done)]

            await env.soon(rest(), _RULE, steps=5)
            await env.end(receiving)
            expect(sorted(seen), list(range(count)), _RULE, f"{count} messages to {channel}, 4 of 10 cancelled")
            expect(await receive_or_none(owner, channel, 0.01), None, _RULE, f"{count} messages to {channel}")

        async with env.layer() as owner, env.layer() as sender:
            for kind in KINDS:
                await cancel_many(owner, sender, await make_channel(kind, owner))

    # -- other calls

    def test_a_call_that_is_cancelled_ends_as_cancelled(self, env: LayerEnvironment) -> None:
        """No call swallows its cancellation, at whichever step it comes: who is told to end goes no further."""

        async def body(steps: Steps) -> None:
            async with env.layer() as layer:
                await layer.send("jobs", {})  # there is a connection
                for step in range(6):
                    calls: dict[str, Coroutine[object, object, object]] = {
                        "send()": layer.send("jobs", {}),
                        "new_channel()": layer.new_channel(f"own{step}"),
                        "group_add()": layer.group_add("group", "jobs"),
                        "group_send()": layer.group_send("group", {}),
                        "group_channels()": layer.group_channels("group"),
                        "group_discard()": layer.group_discard("group", "jobs"),
                        "statistics()": layer.statistics("jobs"),
                        "flush()": layer.flush(),
                    }
                    for name, call in calls.items():
                        calling = asyncio.create_task(call)
                        told = await env.cancel_at(step, calling, steps, f"{name} ends")
                        rule = "a call that is cancelled before it returns ends as cancelled"
                        expect(calling.cancelled(), told, rule, f"{name}, cancelled at step {step}")

        run_stepping(body)

    # -- siblings and other processes

    @async_test
    async def test_a_sibling_s_disconnect_costs_no_message(self, env: LayerEnvironment) -> None:
        """While one channel's receivers are cancelled all the time, other channels of the process get everything."""
        count = 120
        async with env.layer() as owner, env.layer() as sender:
            # Without leases siblings share a capacity, too: one that reads little could make them all full.
            churning = await owner.new_channel("one")
            steady = await owner.new_channel("one" if env.capabilities.leases else "two")
            for name in (churning, steady):
                await owner.group_add("group", name)

            async def churn() -> None:
                choose = dice(0)
                while True:
                    await receive_or_none(owner, churning, choose.choice((0, 0.001)))
                    await asyncio.sleep(0)

            beside = asyncio.create_task(churn())
            received: list[int] = []
            for n in range(0, count, 2):
                await sender.send(steady, {"n": n})
                await sender.group_send("group", {"n": n + 1})
                received += await env.numbers(owner, steady, 2)
            await env.end([beside])
            expect(received, list(range(count)), "a sibling costs no other channel a message", f"{count} messages")

    def test_what_a_cancelled_receive_leaves_goes_to_another_process(self, env: LayerEnvironment) -> None:
        """A message that was popped for a receive() which is cancelled wakes a worker of another process."""

        async def body(steps: Steps) -> None:
            async with env.layer() as one, env.layer() as two, env.layer() as sender:
                for channel in ("jobs", "reply?x"):
                    for step in range(_steps(env)):
                        receiving = asyncio.create_task(one.receive(channel))
                        elsewhere = asyncio.create_task(two.receive(channel))
                        steps.arm(step, receiving.cancel)
                        await sender.send(channel, {"n": step})
                        first = asyncio.wait([receiving, elsewhere], return_when=asyncio.FIRST_COMPLETED)
                        done, _ = await env.soon(first, _RULE)
                        if receiving in done and receiving.cancelled():
                            got = [number(await env.soon(elsewhere, "what is left goes to another process"))]
                        else:
                            steps.disarm()
                            await env.end([receiving, elsewhere])
                            got = [number(t.result()) for t in (receiving, elsewhere) if not t.cancelled()]
                        expect(got, [step], _RULE, f"a message to {channel}, one of two cancelled at step {step}")

        run_stepping(body)

    def test_a_loop_that_ends_takes_no_message_with_it(self, env: LayerEnvironment) -> None:
        """An event loop that ends at any step of a receive(), cancelling every task at once, leaves the message."""
        layer, sender = env.layer(), env.layer()

        async def end_early(steps: Steps, channel: str, step: int) -> asyncio.Task[Message]:
            over = asyncio.Event()
            steps.arm(step, over.set, late=step % 4 == 2)
            receiving = asyncio.create_task(layer.receive(channel))
            receiving.add_done_callback(lambda _: over.set())
            await over.wait()
            return receiving  # it may still end well, in the steps that the loop takes to its end

        for kind in KINDS:
            channel = run(make_channel(kind, layer))
            received: list[int] = []
            due = range(0, _steps(env), 2)
            for step in due:
                run(sender.send(channel, {"n": step}))
                receiving = run_stepping(partial(end_early, channel=channel, step=step))
                message = run(env.receive(layer, channel)) if receiving.cancelled() else receiving.result()
                received.append(number(message))
            expect(received, list(due), "a loop that ends takes no message with it", f"messages to {channel}")
            expect(run(receive_or_none(layer, channel, 0.01)), None, _RULE, f"messages to {channel}")
        for each in (layer, sender):
            run(each.aclose())


async def _cancel_at_every_step(env: LayerEnvironment, comes: bool, steps: Steps) -> None:  # noqa: FBT001 - bound by partial
    async with env.layer() as owner, env.layer() as sender:
        for kind in KINDS:
            channel = await make_channel(kind, owner)
            for n in range(2 * _steps(env)):
                step, late = divmod(n, 2)
                if not comes:
                    await sender.send(channel, {"n": n})
                receiving = asyncio.create_task(owner.receive(channel))
                sending = sender.send(channel, {"n": n}) if comes else None
                # What has been cancelled lets the next one have the message; otherwise it has it itself.
                await env.cancel_at(step, receiving, steps, _RULE, late=bool(late), meanwhile=sending)
                if receiving.cancelled():
                    got = await env.number(owner, channel)
                else:
                    got = number(receiving.result())
                expect(got, n, _RULE, f"message {n} to {channel}, receive() cancelled at step {step}")
            expect(await receive_or_none(owner, channel, 0.01), None, _RULE, f"messages to {channel}")
        sent, delivered = sender.counts().sent, owner.counts().delivered
        expect(delivered, sent, "every message that was sent is delivered, and counted once", f"{sent} messages")
