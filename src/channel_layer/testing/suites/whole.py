"""A layer as a whole: its flush, its end, its accounts, its prefix; and whichever loops, threads and forks use it."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from channel_layer.errors import InvalidName, StoreError
from channel_layer.testing.factories import Violation
from channel_layer.testing.suites.base import LayerTests
from channel_layer.testing.suites.tools import (
    KINDS,
    POPPED,
    LayerEnvironment,
    async_test,
    at_once,
    dice,
    dropped,
    expect,
    fails_with,
    in_fork,
    make_channel,
    pass_turns,
    receive_or_none,
    run,
    sends,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from channel_layer.layer import ChannelLayer

__all__ = ("WholeTests",)

_ENDINGS: Final = ("", "2", "q", "q:", "a*b[c]?", "aXXbcY", "a\\*b", "?", "%", "_", "' OR 1")
"""What prefixes may end in: some begin with another, or match it as a pattern."""

_POPPED: Final = (*POPPED, "unread!x")

_READY = "ready() returns if the layer can serve, and nothing else is told of it"
_FLUSHED = "after flush() nothing of before is there, and nothing else is touched"
_CLOSED = "a layer that is closed takes no call, and leaves nothing to others"
_LOOPS = "a layer may be used from any number of event loops and threads"
_FORK = "a forked child starts anew, and what the parent holds stays the parent's"
_ACCOUNTS = "what is accepted is delivered, dropped for a reason, or still there"


class WholeTests(LayerTests):
    """What is not about one channel or one group."""

    # -- names

    @async_test
    async def test_names_that_are_none_are_refused(self, env: LayerEnvironment) -> None:
        """A name outside the grammar is refused by every call that takes one, and one at the limit of it is not."""
        rule = "names are ASCII letters, digits and -_. matched whole, 100 characters at most"
        async with env.layer() as layer:
            longest = "c" * 100
            for wrong in ("", "foo\n", "foo!\u00e9", "f\u0663", "a b", "a/b", "a!b!c", "?x", longest + "c"):
                for name, call in _calls_with(layer, wrong):
                    await fails_with(InvalidName, call(), rule, f"{name}: {wrong!r}")
            await layer.send(longest, {"n": 1})
            expect(await env.receive(layer, longest), {"n": 1}, rule, "a name of 100 characters")

    # -- ready

    @async_test
    async def test_a_layer_that_works_is_ready(self, env: LayerEnvironment) -> None:
        """`ready()` returns, in event loops and threads, with channels of its own or without, and disturbs nothing."""
        async with env.layer() as layer, env.layer() as other:
            await layer.ready()
            owned = await layer.new_channel()
            await layer.group_add("group", owned)
            await other.send(owned, {"n": 1})
            await other.send("jobs", {"n": 2})
            for _ in range(2):  # what the first leaves would be in the way of the second
                for ready in (layer, other):
                    await ready.ready()
                    if env.capabilities.blocking:
                        await asyncio.to_thread(ready.blocking.ready)
            await other.group_send("group", {"n": 3})
            expect(await env.collect(layer, owned), [{"n": 1}, {"n": 3}], _READY, "a channel that waits beside it")
            expect(await env.receive(layer, "jobs"), {"n": 2}, _READY, "a normal channel that waits beside it")
            if env.capabilities.statistics:
                statistics = await layer.statistics()
                expect((statistics.messages_pending, statistics.channel_full_count), (0, 0), _READY, "statistics()")
            await layer.aclose()
            await fails_with(StoreError, layer.ready(), _READY, "a layer that is closed")

    # -- flush

    @async_test
    async def test_nothing_of_before_is_there_after_a_flush(self, env: LayerEnvironment) -> None:
        """Messages in channels of every kind, in the store and in mailboxes, and memberships are gone."""
        async with env.layer() as one, env.layer() as two:
            # Without leases no marker tells a process of a flush: what it has popped for a sibling stays there.
            prefixes = ("a", "a", "a") if env.capabilities.leases else ("a", "b", "c")
            owned = [await one.new_channel(prefix) for prefix in prefixes]
            for channel in (*owned, *POPPED):
                await one.group_add("group", channel)
                await two.send(channel, {"n": "direct"})
            await two.group_send("group", {"n": "group"})
            await env.receive(one, owned[0])  # so the rest is known to be in the mailboxes, or on its way there
            await two.flush()
            expect(await one.group_channels("group"), [], _FLUSHED, "group_channels()")
            await two.group_send("group", {"n": "too late"})
            for channel in (*owned, *POPPED):
                await two.send(channel, {"n": "new"})
                expect(await env.receive(one, channel), {"n": "new"}, _FLUSHED, f"one message to {channel}")
            for channel in owned:
                expect(await env.collect(one, channel), [], _FLUSHED, f"messages to {channel}, then flush()")
            for channel in POPPED:
                pending = (await one.statistics(channel)).messages_pending
                expect(pending, 0, _FLUSHED, f"what is pending for {channel}")

    @async_test
    async def test_every_place_is_free_again_after_a_flush(self, env: LayerEnvironment) -> None:
        """A channel that was full takes its whole capacity after a flush, and one message more is refused."""
        async with env.layer(capacity=5) as owner, env.layer(capacity=5) as sender:
            channels = (await owner.new_channel(), *POPPED)
            for _ in range(3):
                for channel in channels:
                    came = [await sends(sender, channel, n) for n in range(6)]
                    expect(came, [True] * 5 + [False], _FLUSHED, f"6 messages to {channel}, capacity 5")
                await sender.flush()

    @async_test
    async def test_one_who_waits_during_a_flush_gets_the_next(self, env: LayerEnvironment) -> None:
        """A `receive()` that waits during a flush goes on waiting and gets what is sent after it."""
        async with env.layer() as reader, env.layer() as other:
            channels = (await reader.new_channel(), *POPPED)
            waiting = [asyncio.create_task(env.receive(reader, channel)) for channel in channels]
            for channel, task in zip(channels, waiting, strict=True):
                await other.send(channel, {"n": 0})  # each is known to wait in earnest
                await task
            waiting = [asyncio.create_task(env.receive(reader, channel)) for channel in channels]
            await asyncio.sleep(0)
            await other.flush()
            expect([task.done() for task in waiting], [False] * 4, _FLUSHED, "a receive() that waits")
            for channel, task in zip(channels, waiting, strict=True):
                await other.send(channel, {"n": 1})
                expect(await task, {"n": 1}, _FLUSHED, f"a message to {channel}, receive() waits since before")

    @async_test
    async def test_a_member_that_joins_again_after_a_flush_is_one(self, env: LayerEnvironment) -> None:
        """After a flush a membership can be made anew, and works as if there had been none."""
        async with env.layer() as owner, env.layer() as other:
            name = await owner.new_channel()
            await owner.group_add("group", name)
            await other.flush()
            await owner.group_add("group", name)
            await other.group_send("group", {"n": 1})
            expect(await owner.group_channels("group"), [name], _FLUSHED, "group_add() after it")
            expect(await env.collect(owner, name), [{"n": 1}], _FLUSHED, "a message to the group after it")

    @async_test
    async def test_what_is_held_for_a_sibling_is_dropped_by_a_flush(self, env: LayerEnvironment) -> None:
        """A message that was popped on behalf of a sibling channel and waits in the process is gone after a flush.

        Without leases no marker tells that process of it; what is sent afterwards arrives all the same.
        """
        async with env.layer() as reader, env.layer() as other:
            for n in range(2):
                await other.send("claimed!later", {"n": n})
            await other.send("claimed!now", {"n": 2})
            await env.receive(reader, "claimed!now")
            await other.flush()
            waiting = asyncio.create_task(env.receive(reader, "claimed!later"))
            if env.capabilities.leases:
                counted = "what a flush removes is counted where it waited"
                await env.eventually(lambda: dropped(reader) == {"flushed": 2}, counted)
            await other.send("claimed!later", {"n": 3})
            came = [await waiting]
            while came[-1] != {"n": 3}:
                came.append(await env.receive(reader, "claimed!later"))
            if env.capabilities.leases:
                expect(came, [{"n": 3}], _FLUSHED, "a message after it to a channel that had older ones")

    @async_test
    async def test_every_message_that_a_flush_removes_is_counted(self, env: LayerEnvironment) -> None:
        """What waited in the store is counted where `flush` was called, what waited in a process where it waited."""
        async with env.layer() as owner, env.layer() as other:
            name = await owner.new_channel()
            for _ in range(3):
                await other.send(name, {"n": 1})
            if env.capabilities.leases:
                await env.holds(owner, 3)
            for channel in ("jobs", "jobs", "reply?x", "claimed!one"):
                await other.send(channel, {"n": 1})
            await other.flush()
            here, there = (3, 4) if env.capabilities.leases else (0, 7)
            rule = "every message that a flush removes is counted once"
            came = [dropped(layer).get("flushed", 0) for layer in (owner, other)]
            expect(came, [here, there], rule, "3 messages in a process or its queue, and 4 in other queues")

    @async_test
    async def test_prefixes_do_not_mix(self, env: LayerEnvironment) -> None:
        """Layers with prefixes that begin or match one another share no message, no member and no flush()."""
        rule = "layers of different prefixes have nothing in common"
        environments = [env.beside(env.prefix + ending) for ending in _ENDINGS]
        flushed = {0, 4}
        layers = [each.layer() for each in environments]
        owned = [await layer.new_channel() for layer in layers]
        for n, (layer, channel) in enumerate(zip(layers, owned, strict=True)):
            for name in (*POPPED, channel):
                await layer.send(name, {"n": n})
                await layer.group_add("group", name)
            await layer.group_send("group", {"n": n})
        for n in flushed:
            await layers[n].flush()
        for n, (layer, channel) in enumerate(zip(layers, owned, strict=True)):
            asked = f"the same calls for the prefixes {_ENDINGS!r}, flush() of {flushed}, and now {_ENDINGS[n]!r}"
            members = [] if n in flushed else sorted((*POPPED, channel))
            expect(await layer.group_channels("group"), members, rule, asked)
            for name in (*POPPED, channel):
                if n in flushed:
                    await layer.send(name, {"n": n})
                else:
                    expect(await env.numbers(layer, name, 2), [n, n], rule, asked)
                if n in flushed:
                    expect(await env.number(layer, name), n, rule, asked)
                expect((await layer.statistics(name)).messages_pending, 0, rule, asked)
        for layer in layers:
            await layer.aclose()

    # -- the end

    @async_test
    async def test_the_end_of_a_layer_gives_everything_up(self, env: LayerEnvironment) -> None:
        """`aclose` leaves the groups; who waits gets an error, and so does every later call; twice is harmless."""
        layer, other = env.layer(), env.layer()
        names = [await layer.new_channel() for _ in range(3)]
        reading = await other.new_channel()
        for name in names:
            await layer.group_add("group", name)
        await other.group_add("group", reading)
        waiting = [asyncio.create_task(layer.receive(channel)) for channel in (names[0], "jobs")]
        await asyncio.sleep(0)
        await layer.aclose()
        for task in waiting:
            await fails_with(StoreError, env.soon(task, _CLOSED), _CLOSED, "a receive() that waited")
        if env.capabilities.leases:
            expect(await other.group_channels("group"), [reading], _CLOSED, "group_channels() after aclose()")
        await layer.aclose()
        for call in (
            layer.send("jobs", {}),
            layer.receive("jobs"),
            layer.new_channel(),
            layer.group_add("g", "jobs"),
            layer.group_discard("g", "jobs"),
            layer.group_send("g", {}),
            layer.group_channels("g"),
            layer.flush(),
        ):
            error = await fails_with(StoreError, env.soon(call, _CLOSED), _CLOSED, "a call after aclose()")
            expect(error.retryable, False, _CLOSED, "a call after aclose()")
        await other.group_send("group", {"n": 1})
        expect(await env.collect(other, reading), [{"n": 1}], _CLOSED, "a message to the group")
        await other.send("jobs", {"n": 2})
        expect(await env.receive(other, "jobs"), {"n": 2}, _CLOSED, "a message that it does not wait for")
        await other.aclose()

    @async_test
    async def test_letting_go_of_connections_loses_nothing(self, env: LayerEnvironment) -> None:
        """After `close_pools` the layer, its inbox, its messages and its memberships are as before."""
        async with env.layer() as layer, env.layer() as other:
            name = await layer.new_channel()
            await layer.group_add("group", name)
            for n in range(6):
                await other.send(name, {"n": n})
                await layer.close_pools()
                await other.close_pools()
                await other.group_send("group", {"n": -n})
                rule = "close_pools() loses nothing"
                expect(await env.numbers(layer, name, 2), [n, -n], rule, "a message before, and one after")

    @async_test
    async def test_an_inbox_that_was_claimed_is_free_after_the_end(self, env: LayerEnvironment) -> None:
        """Who closes gives up the inboxes that it claimed by reading: a successor need not wait for the lease's end."""
        for n in range(2):
            async with env.layer() as layer:
                await layer.send("server!a", {"n": n})
                expect(await env.number(layer, "server!a"), n, _CLOSED, "receive() after another's aclose()")

    # -- loops, threads and forks

    def test_loops_one_after_another(self, env: LayerEnvironment) -> None:
        """A channel made in one event loop is received in the next ones, whatever each leaves behind at its end."""
        layer = env.layer()
        count = 12
        kept: list[asyncio.Task[object]] = []

        async def begin() -> str:
            name = await layer.new_channel()
            await layer.group_add("group", name)
            await layer.send(name, {"n": 0})
            return name

        async def receive_and_send(name: str, n: int) -> None:
            expect(await env.number(layer, name), n, _LOOPS, f"what the loop before loop {n} has sent")
            await layer.group_send("group", {"n": -n})
            expect(await env.number(layer, name), -n, _LOOPS, f"group_send() in loop {n}")
            for channel in (*POPPED, await layer.new_channel()):
                await layer.send(channel, {"n": n})
                expect(await env.number(layer, channel), n, _LOOPS, f"send() in loop {n}")
            await layer.send(name, {"n": n + 1})
            if n % 3 == 1:
                await layer.close_pools()
            elif n % 3 == 2:
                kept.append(asyncio.create_task(layer.receive("quiet")))  # asyncio.run() cancels it
                await asyncio.sleep(0)

        name = run(begin())
        for n in range(count):
            run(receive_and_send(name, n))
        expect([task.cancelled() for task in kept], [True] * len(kept), _LOOPS, "a receive() when its loop ends")
        expect(run(env.number(layer, name)), count, _LOOPS, "what the last loop has sent")
        found = layer.counts()
        came = (found.delivered, len(found.dropped), found.waiting)
        expect(came, (6 * count + 1, 0, 0), _ACCOUNTS, f"(delivered, dropped, waiting) of {count} loops")
        run(layer.aclose())

    def test_loops_at_once_in_threads(self, env: LayerEnvironment) -> None:
        """Threads, each with one loop after another, exchange messages through one layer object, in order."""
        layer = env.layer()
        threads, rounds = 4, 5
        barrier = threading.Barrier(threads)
        names = [run(layer.new_channel(f"own{place}")) for place in range(threads)]

        def work(place: int) -> None:
            async def exchange(n: int) -> None:
                to = names[(place + 1) % threads]
                for more in range(5):
                    await layer.send(to, {"n": 5 * n + more})
                came = await env.numbers(layer, names[place], 5)
                expect(came, list(range(5 * n, 5 * n + 5)), _LOOPS, f"5 messages from thread to thread, round {n}")

            for n in range(rounds):
                barrier.wait(env.patience)
                asyncio.run(exchange(n))

        at_once(threads, work)
        found = layer.counts()
        due = threads * rounds * 5
        expect((found.sent, found.delivered), (due, due), _ACCOUNTS, "(sent, delivered) of all threads")
        run(layer.aclose())

    def test_receiving_in_one_loop_what_another_makes_and_sends(self, env: LayerEnvironment) -> None:
        """A receive() that waits in one running loop gets what another loop sends to a channel that a third made."""
        layer = env.layer()

        async def use(channel: str) -> None:
            waiting = threading.Event()

            async def receive() -> object:
                task = asyncio.create_task(env.receive(layer, channel))
                await asyncio.sleep(0)
                waiting.set()
                return await task

            async def send() -> None:
                waiting.wait()
                await layer.send(channel, {"n": 1})

            with ThreadPoolExecutor(2) as threads:
                loop = asyncio.get_running_loop()
                received = loop.run_in_executor(threads, lambda: asyncio.run(receive()))
                await loop.run_in_executor(threads, lambda: asyncio.run(send()))
                expect(await received, {"n": 1}, _LOOPS, f"a message to {channel} from one loop to another")

        for kind in KINDS:
            run(use(run(make_channel(kind, layer))))
        run(layer.aclose())

    def test_a_forked_child_starts_anew(self, env: LayerEnvironment) -> None:
        """A child has an inbox of its own, and its parent's channels stay the parent's, to whom it can send."""
        layer = env.layer()

        async def begin() -> str:
            name = await layer.new_channel()
            await layer.group_add("group", name)
            await layer.send(name, {"n": 1})
            return name

        async def use(parents: str) -> None:
            mine = await layer.new_channel()
            same_inbox = mine.partition("!")[0] == parents.partition("!")[0]
            expect(same_inbox, False, _FORK, f"new_channel(): {mine}, {parents}")
            for n in range(3):
                await layer.send(mine, {"n": n})
                expect(await env.number(layer, mine), n, _FORK, "a message of the child to itself")
            if self.capabilities.leases:
                receiving = env.soon(layer.receive(parents), _FORK)
                await fails_with(InvalidName, receiving, _FORK, "receive() of the parent's channel in the child")
            if self.spans_processes:
                await layer.send(parents, {"n": 2})
                await layer.group_send("group", {"n": 3})
            await layer.aclose()

        async def finish(name: str) -> None:
            due = [1, 2, 3] if self.spans_processes else [1]
            expect(await env.numbers(layer, name, len(due)), due, _FORK, "messages before the fork and of the child")
            expect(await layer.group_channels("group"), [name], _FORK, "the parent's membership, the child has closed")
            await layer.send(name, {"n": 4})
            expect(await env.number(layer, name), 4, _FORK, "a message of the parent to itself")
            await layer.aclose()

        name = run(begin())
        in_fork(lambda: run(use(name)), env.patience, _FORK)
        run(finish(name))

    # -- accounts

    @async_test
    async def test_every_message_is_accounted_for(self, env: LayerEnvironment) -> None:
        """Accepted = delivered + dropped by reason + waiting, whatever processes do, and as they close one by one."""
        expiry = 30.0
        for seed in range(4):
            env = env.beside()
            layers = [env.layer(capacity=3, inbox_capacity=12, expiry=expiry) for _ in range(3)]
            one, two, watcher = layers
            owners = dict(zip(_POPPED, (one, two, one, one), strict=True))
            owners |= {await one.new_channel(): one, await two.new_channel(): two, await two.new_channel("b"): two}
            names = list(owners)
            for place, (name, owner) in enumerate(owners.items()):
                await (owner if place % 3 else two).group_add("room", name)
            choose = dice(seed)
            for _ in range(30):
                name, layer = choose.choice(names), choose.choice((one, two))
                match choose.randrange(6):
                    case 0 | 1:
                        for _ in range(choose.randrange(1, 5)):
                            await sends(layer, name)
                    case 2:
                        await layer.group_send("room", {"n": 1})
                    case 3:
                        while await receive_or_none(owners[name], name, 0.005) is not None:
                            pass
                    case 4:
                        receiving = asyncio.create_task(owners[name].receive(name))
                        await pass_turns(choose.randrange(10))
                        await env.end([receiving])
                    case _:
                        await env.forward(choose.choice((1.0, expiry / 2, expiry)), layers)
            outside = {name for name in names if name in _POPPED or not env.capabilities.leases}
            for layer in layers:
                await _balance(env, layers, owners, outside)
                if layer is not watcher:
                    await layer.aclose()
                    outside |= {name for name, owner in owners.items() if owner is layer}
                    owners = {name: watcher if owner is layer else owner for name, owner in owners.items()}
            await watcher.aclose()

    @async_test
    async def test_each_loss_has_its_reason(self, env: LayerEnvironment) -> None:
        """A message dropped for want of room, for its age, or because its layer closed is counted as just that."""
        expiry = 30.0
        async with env.layer(capacity=2, expiry=expiry) as sender:
            owner = env.layer(capacity=2, expiry=expiry)
            owned = await owner.new_channel()
            for member in (owned, "unread!x"):
                await owner.group_add("room", member)
            for _ in range(5):
                await sender.group_send("room", {"n": 0})

            async def lost(**due: int) -> None:
                rule = f"each loss is counted with its reason: {due}"
                await env.eventually(lambda: dropped(owner, sender) == due, rule)

            await lost(full=6)
            await env.forward(expiry, [owner])
            await sender.send("unread!x", {"n": 1})
            await sender.send(owned, {"n": 2})
            rule, asked = "nothing older than expiry is delivered", "messages of 30 s and a young one"
            expect(await env.number(sender, "unread!x"), 1, rule, asked)
            if not env.capabilities.leases:
                expect(await env.number(owner, owned), 2, rule, asked)
            await lost(full=6, expired=4)
            await owner.aclose()
            if env.capabilities.leases:
                await lost(full=6, expired=4, closed=1)


async def _balance(
    env: LayerEnvironment, layers: Sequence[ChannelLayer], readers: Mapping[str, ChannelLayer], outside: Collection[str]
) -> None:
    """Add up what several layers have counted, the last of which is open, and what waits in the store.

    Args:
        env: theirs.
        layers: all there are.
        readers: all channels, and the layer that receives from each: it counts what became too old in the store.
        outside: those of them whose messages are not read into a process until they are received.
    """
    sums: dict[str, int] = {}

    async def balances() -> bool:
        for name in [name for name in readers if name in _POPPED or not env.capabilities.leases]:
            await receive_or_none(readers[name], name, 0.02)
        found = [layer.counts() for layer in layers]
        pending = [(await layers[-1].statistics(name)).messages_pending or 0 for name in outside]
        sums.update(
            accepted=sum(each.sent + each.expanded for each in found),
            delivered=sum(each.delivered for each in found),
            dropped=sum(sum(each.dropped.values()) for each in found),
            waiting=sum(each.waiting for each in found),
            pending=sum(pending),
        )
        return sums["accepted"] == sum(sums.values()) - sums["accepted"]

    try:
        await env.eventually(balances, _ACCOUNTS)
    except Violation as exc:
        exc.add_note(f"accepted is not the sum of the others: {sums}")
        raise


def _calls_with(layer: ChannelLayer, name: str) -> Iterable[tuple[str, Callable[[], Awaitable[object]]]]:
    """Yield every call that takes a name, with one; and what to call it."""
    yield "send", lambda: layer.send(name, {})
    yield "receive", lambda: asyncio.wait_for(layer.receive(name), 0.01)
    yield "group_add, the channel", lambda: layer.group_add("group", name)
    yield "group_discard, the channel", lambda: layer.group_discard("group", name)
    yield "group_add, the group", lambda: layer.group_add(name, "channel")
    yield "group_send", lambda: layer.group_send(name, {})
    yield "group_channels", lambda: layer.group_channels(name)
    yield "new_channel", lambda: layer.new_channel(name)
