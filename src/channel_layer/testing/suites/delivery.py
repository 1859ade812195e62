"""A message gets where it was sent: to a reader of its queue, in order, once, and as it was when it was sent."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Final

from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import (
    KINDS,
    ORDERED,
    POPPED,
    LayerEnvironment,
    async_test,
    dice,
    drain,
    expect,
    make_channel,
    number,
    pass_turns,
    receive_or_none,
    retried,
    send_patiently,
)

if TYPE_CHECKING:
    import random

    from channel_layer.domain.codec import Message
    from channel_layer.layer import ChannelLayer

__all__ = ("DeliveryTests",)

_NAMES: Final = (
    *("a", "A", "-", "_", ".", "0", "a.b", "a-b", "a_b", "ab", "aB", "http.request", "x" * 100),
    *("a?", "a?b", "A?b", "a?B", "-?-", "_?.", "a.?", f"{'y' * 98}?y", "z?" + "z" * 98),
    *("a!b", "A!b", "a!B", "b!b", "a!", "-!_", f"{'y' * 98}!y", "z!" + "z" * 98, "a.b!c"),
)
"""Names that a careless store takes for one another, or cuts."""

_PREFIXES: Final = ("a", "specific", "a.b", "-", "_", ".", "9", "A", "x" * 60)


class DeliveryTests(LayerTests):
    """From a sender to the right reader."""

    # -- order

    @async_test
    async def test_what_one_writer_sends_is_received_in_order(self, env: LayerEnvironment) -> None:
        """One writer's messages to one channel come in the order of its sends, direct and through groups mixed."""
        async with env.layer(capacity=1000) as owner, env.layer(capacity=1000) as writer:
            channels = [await make_channel(kind, owner) for kind in ORDERED]
            groups = [f"group{place}" for place in range(6)]  # on all hosts
            for place, group in enumerate(groups):
                for channel in channels:
                    await (owner if place % 2 else writer).group_add(group, channel)
            count = 60
            grouped = len(range(0, count, 3)) * len(channels)

            async def write(channel: str) -> None:
                for n in range(count):
                    if n % 3:
                        await writer.send(channel, {"n": n, "to": channel})
                    else:
                        await writer.group_send(groups[n % len(groups)], {"n": n, "to": channel})

            async def read(channel: str) -> list[int]:
                each = count - len(range(0, count, 3)) + grouped
                messages = [await env.receive(owner, channel) for _ in range(each)]
                return [number(message) for message in messages if message["to"] == channel]

            async with asyncio.TaskGroup() as tasks:
                readers = [tasks.create_task(read(channel)) for channel in channels]
                for channel in channels:
                    tasks.create_task(write(channel))
            rule = "send() and group_send() of one writer keep their order"
            for channel, reader in zip(channels, readers, strict=True):
                expect(reader.result(), list(range(count)), rule, f"{count} messages to {channel}")

    @async_test
    async def test_a_backlog_keeps_its_order(self, env: LayerEnvironment) -> None:
        """Messages that wait, in the store or in a mailbox, are received in the order in which they were sent."""
        async with env.layer(capacity=300) as owner, env.layer(capacity=300) as writer:
            # 300: more than one read of an inbox need bring.
            for kind, count in (("single-reader", 30), ("process-specific", 300), ("claimed", 30)):
                channel = await make_channel(kind, owner)
                for n in range(count):
                    await writer.send(channel, {"n": n})
                came = await env.numbers(owner, channel, count)
                expect(came, list(range(count)), "a backlog keeps its order", f"{count} messages to {channel}")

    # -- one queue for sender and receiver

    @async_test
    async def test_send_and_receive_meet_whatever_the_name(self, env: LayerEnvironment) -> None:
        """A message to any valid name reaches a receive() of that name in another process: both find the same host."""
        choose = dice(0)
        letters = "abAB09-_."
        parts = ("".join(choose.choices(letters, k=choose.randint(1, 12))) for _ in itertools.count())
        made = [f"{next(parts)}{mark}{next(parts)}" for mark in ("", "?", "!") for _ in range(15)]
        names = [name for name in dict.fromkeys((*_NAMES, *made)) if not name.endswith("!")]
        async with env.layer() as sender, env.layer() as reader:
            for there in (True, False):  # what is there already, then what receive() has to wait for
                if there:
                    await asyncio.gather(*(sender.send(name, {"name": name}) for name in names))
                waiting = [asyncio.create_task(env.receive(reader, name)) for name in names]
                await asyncio.sleep(0)
                if not there:
                    await asyncio.gather(*(sender.send(name, {"name": name}) for name in names))
                came = [message["name"] for message in await asyncio.gather(*waiting)]
                expect(came, names, "send() and receive() of one name meet", "one message to each of many names")

    @async_test
    async def test_a_new_channel_is_reached_with_any_prefix(self, env: LayerEnvironment) -> None:
        """A message to a channel made by new_channel() reaches its maker, wherever the hosts' order puts its inbox."""
        async with env.layer() as sender, env.layer() as owner:
            names = [await owner.new_channel(prefix) for prefix in _PREFIXES]
            expect(len(set(names)), len(names), "new_channel() gives no name twice", repr(_PREFIXES))
            for name in names:
                await sender.send(name, {"name": name})
                came = await env.receive(owner, name)
                expect(came, {"name": name}, "a new channel reaches its owner", f"a message to {name}")

    @async_test
    async def test_one_waiting_worker_gets_what_comes_to_any_host(self, env: LayerEnvironment) -> None:
        """However many hosts a normal channel is spread over, one receive() after another gets each message."""
        async with env.layer() as worker:
            for n in range(24):
                waiting = asyncio.create_task(worker.receive("jobs"))
                await asyncio.sleep(0)
                async with env.layer() as sender:
                    for _ in range(n % 4):  # every sender begins at another host
                        await sender.group_send("empty", {})
                    await sender.send("jobs", {"n": n})
                came = number(await env.soon(waiting, "a message on any host wakes a receive() that waits"))
                expect(came, n, "a worker gets each message", f"message {n}")

    # -- at most once

    @async_test
    async def test_competing_workers_share_without_doubling(self, env: LayerEnvironment) -> None:
        """Each message on a normal channel goes to exactly one of many receivers in several processes."""
        count = 240
        workers = [env.layer(capacity=20) for _ in range(4)]
        seen: list[int] = []
        complete = asyncio.Event()

        async def receive_all(layer: ChannelLayer) -> None:
            while True:
                seen.append(number(await layer.receive("jobs")))
                if len(seen) >= count:
                    complete.set()

        async with env.layer(capacity=20) as sender:
            receiving = [asyncio.create_task(receive_all(layer)) for layer in workers for _ in range(5)]
            for start in range(0, count, 10):
                sending = (send_patiently(sender, "jobs", {"n": start + n}) for n in range(10))
                await env.soon(asyncio.gather(*sending), "workers make room")
            await env.soon(complete.wait(), "every message reaches a worker", steps=5)
            await env.end(receiving)
            for layer in workers:
                await layer.aclose()
            seen.extend(await drain(sender, "jobs"))
        expect(sorted(seen), list(range(count)), "each message goes to one worker", f"{count} messages")

    @async_test
    async def test_one_process_s_receivers_take_turns(self, env: LayerEnvironment) -> None:
        """Receivers that wait for one channel are served one message each, the longest waiting first."""
        async with env.layer() as layer, env.layer() as sender:
            for kind in KINDS:
                channel = await make_channel(kind, layer)
                await sender.send(channel, {"n": -1})
                await env.receive(layer, channel)  # from here on, a receive() waits as soon as it is called
                waiting = [asyncio.create_task(env.number(layer, channel)) for _ in range(5)]
                await pass_turns(10)
                for n, receiving in enumerate(waiting):
                    await sender.send(channel, {"n": n})
                    expect(await receiving, n, "the longest waiting receiver is served first", f"{n} to {channel}")

    @async_test
    async def test_an_impatient_worker_delays_no_other(self, env: LayerEnvironment) -> None:
        """While some receivers give up again and again, each message comes promptly, once, to one who is there."""

        async def receive_all(layer: ChannelLayer, channel: str, came: asyncio.Queue[int]) -> None:
            while True:
                came.put_nowait(number(await layer.receive(channel)))

        async def give_up_often(layer: ChannelLayer, channel: str, came: asyncio.Queue[int], seed: int) -> None:
            choose = dice(seed)
            while True:
                message = await receive_or_none(layer, channel, choose.uniform(0, 0.004))
                if message is not None:
                    came.put_nowait(number(message))

        for channel in ("jobs", "reply?x"):
            came: asyncio.Queue[int] = asyncio.Queue()
            async with env.layer() as impatient, env.layer() as steady, env.layer() as sender:
                giving_up = (give_up_often(impatient, channel, came, place) for place in range(4))
                tasks = [asyncio.create_task(each) for each in (*giving_up, receive_all(steady, channel, came))]
                for n in range(60):
                    await sender.send(channel, {"n": n})
                    got = await env.soon(came.get(), "receivers that give up take no message with them")
                    expect(got, n, "each message comes once", f"message {n} to {channel}")
                await env.end(tasks)
                expect(came.empty(), True, "no message comes twice", f"60 messages to {channel}")
                expect(await drain(sender, channel), [], "no message comes twice", f"60 messages to {channel}")

    @async_test
    async def test_one_who_is_called_and_leaves_passes_the_call_on(self, env: LayerEnvironment) -> None:
        """A message that is sent at the moment its first waiter leaves is received by the next one."""

        async def leave(steady: ChannelLayer, sender: ChannelLayer, n: int, *, closes: bool) -> None:
            leaver = env.layer()
            first = asyncio.create_task(leaver.receive("jobs"))
            await pass_turns(n * 3 % 11)
            second = asyncio.create_task(steady.receive("jobs"))
            await pass_turns(n * 5 % 13)
            sending = asyncio.create_task(sender.send("jobs", {"n": n}))
            await pass_turns(n)
            if closes:
                await leaver.aclose()
            else:
                first.cancel()
            [outcome] = await asyncio.gather(first, return_exceptions=True)
            await sending
            if isinstance(outcome, BaseException):
                got = number(await env.soon(second, "who is called and leaves passes the call on"))
            else:
                got = number(outcome)
                await env.end([second])
            expect(got, n, "each message is received once", f"message {n} as its first waiter leaves")
            await leaver.aclose()

        async with env.layer() as steady, env.layer() as sender:
            for n in range(20):
                for closes in (True, False):
                    await leave(steady, sender, n, closes=closes)
            expect(await drain(sender, "jobs"), [], "no message comes twice", "40 messages")

    @async_test
    async def test_workers_come_and_go_while_messages_flow(self, env: LayerEnvironment) -> None:
        """Layers that open, receive a few messages and close, one after another, lose none and double none."""
        count = 300
        seen: list[int] = []

        async def serve(choose: random.Random) -> None:
            while len(seen) < count:
                async with env.layer() as layer:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.5):
                            for _ in range(choose.randrange(1, 40)):
                                seen.append(number(await layer.receive("jobs")))  # noqa: PERF401 - each as it comes

        async with env.layer() as sender:
            serving = [asyncio.create_task(serve(dice(place))) for place in range(4)]
            for n in range(count):
                await env.soon(send_patiently(sender, "jobs", {"n": n}), "workers make room")
            await env.soon(asyncio.gather(*serving), "every message reaches a worker", steps=5)
        expect(sorted(seen), list(range(count)), "workers come and go without a loss", f"{count} messages")

    # -- whose object it is

    @async_test
    async def test_what_the_caller_does_to_a_sent_message_changes_nothing(self, env: LayerEnvironment) -> None:
        """send() and group_send() take a copy: changing the message afterwards, however deep, has no effect."""
        async with env.layer() as layer:
            for kind in KINDS:
                channel = await make_channel(kind, layer)
                await layer.group_add("group", channel)
                inner: list[object] = [1, {"deep": b"1"}]
                message: dict[str, object] = {"type": "a", "inner": inner}
                sending = asyncio.create_task(layer.send(channel, message))
                await asyncio.sleep(0)
                message["type"] = "b"  # while it is on its way
                inner.append(2)
                await sending
                await layer.group_send("group", message)
                inner.clear()
                message.clear()
                came = [await env.receive(layer, channel) for _ in range(2)]
                came.sort(key=lambda message: str(message["type"]))  # a spread channel promises no order
                due = [
                    {"type": "a", "inner": [1, {"deep": b"1"}]},
                    {"type": "b", "inner": [1, {"deep": b"1"}, 2]},
                ]
                expect(came, due, "a sent message is the sender's no more", f"changes of a message to {channel}")
                await layer.group_discard("group", channel)

    @async_test
    async def test_receivers_of_one_group_message_share_nothing(self, env: LayerEnvironment) -> None:
        """What one recipient of a group message does to it, no other sees, nor the sender, however deep it is."""
        async with env.layer() as layer, env.layer() as other:
            owners = {await layer.new_channel(): layer for _ in range(3)}
            owners |= {await other.new_channel(): other} | dict.fromkeys(POPPED, layer)
            for name, owner in owners.items():
                await owner.group_add("group", name)
            sent, due = ({"list": [1, [2]], "dict": {"a": {"b": 1}}} for _ in range(2))
            await layer.group_send("group", sent)
            for name, owner in owners.items():
                message = await env.receive(owner, name)
                expect(message, due, "recipients share no object", f"a group message to {name}, others changed")
                _spoil(message)
            expect(sent, due, "recipients share no object with the sender", "a group message, changed by them")

    @async_test
    async def test_large_messages_arrive_whole(self, env: LayerEnvironment) -> None:
        """Messages of a megabyte, of every byte there is, reach every kind of channel, directly and through a group."""
        data = bytes(range(256)) * 4096
        message: dict[str, object] = {"data": data, "text": "\N{SNOWMAN}\x00" * 1000}
        async with env.layer() as layer, env.layer() as sender:
            for kind in KINDS:
                channel = await make_channel(kind, layer)
                await layer.group_add("group", channel)
                await sender.send(channel, message)
                await sender.group_send("group", message)
                for way in ("send", "group_send"):
                    came = await env.receive(layer, channel)
                    expect(came == message, True, "a message arrives as it was", f"1 MB by {way}() to {channel}")
                await layer.group_discard("group", channel)

    # -- neighbours

    @async_test
    async def test_a_full_channel_costs_its_quiet_neighbour_nothing(self, env: LayerEnvironment) -> None:
        """While one channel of a process is full of direct and group messages, its neighbour gets every message."""
        async with env.layer(capacity=10) as owner, env.layer(capacity=10) as sender:
            full, quiet = await owner.new_channel("full"), await owner.new_channel("quiet")
            if env.capabilities.leases:
                quiet = await owner.new_channel("full")  # which shares its inbox
            for group in ("loud", "mixed"):
                await owner.group_add(group, full)
            await owner.group_add("mixed", quiet)
            for n in range(10):
                await sender.send(full, {"n": n})
            received: list[int] = []
            for n in range(0, 60, 2):
                await sender.group_send("loud", {"n": -2})
                await sender.send(quiet, {"n": n})
                await sender.group_send("mixed", {"n": n + 1})
                received += await env.numbers(owner, quiet, 2)
            rule = "a slow neighbour costs no other channel a message"
            expect(received, list(range(60)), rule, "60 messages beside a full one")
            expect(await env.numbers(owner, full, 10), list(range(10)), "what is full keeps its oldest", "10 + 60")

    @async_test
    async def test_a_steady_consumer_beside_churning_ones_gets_everything(self, env: LayerEnvironment) -> None:
        """Of many group messages, few outstanding, a consumer misses none while its siblings come and go."""
        count, at_once = 200, 30
        async with env.layer() as consumers, env.layer() as sender:
            steady = await consumers.new_channel("steady")
            churning = "churning"
            if env.capabilities.leases:
                churning = "steady"  # in the same inbox
            await consumers.group_add("room", steady)
            received: list[int] = []
            room, pace = asyncio.Semaphore(at_once), asyncio.Semaphore(0)

            async def listen() -> None:
                while len(received) < count:
                    received.append(number(await consumers.receive(steady)))
                    room.release()

            async def churn(choose: random.Random) -> None:
                while True:
                    await pace.acquire()
                    name = await consumers.new_channel(churning)
                    await consumers.group_add("room", name)
                    await receive_all(name, choose.uniform(0.002, 0.008))
                    await consumers.group_discard("room", name)
                    await pass_turns(choose.randrange(20))

            async def receive_all(name: str, seconds: float) -> None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        while True:
                            await consumers.receive(name)

            beside = [asyncio.create_task(churn(dice(place))) for place in range(6)]
            listening = asyncio.create_task(listen())
            for n in range(count):
                await env.soon(room.acquire(), "a steady member misses no message")
                await sender.group_send("room", {"n": n})
                pace.release()
            await env.soon(listening, "a steady member misses no message")
            await env.end(beside)
            expect(received, list(range(count)), "a steady member misses no message", f"{count} to its group")

    @async_test
    async def test_a_receive_that_waits_for_long_gets_its_message(self, env: LayerEnvironment) -> None:
        """Receivers that wait for longer than any command may take get what is sent then, on every kind of channel."""
        timeout, wait = 0.2, 0.5
        # Only who waits has such a timeout: a machine that is busy may take as long for a command.
        async with env.layer(timeout=5.0) as sender, env.layer(timeout=timeout) as layer:
            owned = await env.soon(retried(layer.new_channel, "new_channel() works"), "new_channel() works")
            names = [*POPPED, owned]
            waiting = [asyncio.create_task(layer.receive(name)) for name in names]
            await asyncio.sleep(wait)  # the very thing that is claimed: time in which nothing comes
            expect([task.done() for task in waiting], [False] * 4, "who waits goes on waiting", f"{wait} s of it")
            for name in names:
                await sender.send(name, {"name": name})
            for name, task in zip(names, waiting, strict=True):
                came = await env.soon(task, "who waited for long gets its message")
                expect(came, {"name": name}, "who waited for long gets its message", f"a message to {name}")

    @async_test
    async def test_a_receive_returns_nothing_that_was_not_sent(self, env: LayerEnvironment) -> None:
        """On channels to which nothing was sent, a receive() only waits, whatever is sent to their neighbours."""
        async with env.layer() as layer, env.layer() as sender:
            quiet = [*(f"quiet.{name}" for name in POPPED), await layer.new_channel()]
            waiting = [asyncio.create_task(layer.receive(name)) for name in quiet]
            for kind in KINDS:
                channel = await make_channel(kind, layer)
                await sender.send(channel, {"n": 1})
                await env.receive(layer, channel)
            expect([task.done() for task in waiting], [False] * 4, "no receiver gets another's message", "neighbours'")
            await env.end(waiting)
            for name in quiet:
                expect(await receive_or_none(layer, name, 0.01), None, "nothing comes of nothing", name)


def _spoil(message: Message) -> None:
    """Change a message wherever it can be changed."""
    for value in message.values():
        if isinstance(value, list):
            for inner in value:
                if isinstance(inner, list):
                    inner.append(3)
            value.append(4)
        elif isinstance(value, dict):
            for deep in value.values():
                if isinstance(deep, dict):
                    deep["b"] = 2
