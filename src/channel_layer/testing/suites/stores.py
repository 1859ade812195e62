"""Tests of what the store port promises beside its replies: which wait ends, and what a cancellation leaves.

A state machine over one call after another checks the replies; here several wait, push and pop at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final, TypeVar, Unpack

import pytest

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker, read_group, read_message
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import StoreError
from channel_layer.testing.command_checks import check_commands
from channel_layer.testing.factories import layers_over, make_rules
from channel_layer.testing.suites.base import SuiteTests
from channel_layer.testing.suites.tools import (
    KINDS,
    Environment,
    Options,
    Steps,
    async_test,
    at_once,
    expect,
    make_channel,
    pass_turns,
    receive_or_none,
    retried,
    run,
    run_stepping,
    sends,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from channel_layer.ports import Backend, Capabilities, Store
    from channel_layer.testing.factories import MakeStore

__all__ = ("StoreEnvironment", "StoreSuite")

R = TypeVar("R")

_BLOCK: Final = 60.0
"""Seconds that a wait may last: far more than patience, so that no wait that ends by itself looks like a call."""

_ROOM: Final = 1_000_000
"""Capacity enough for everything."""

_OWNED: Final = ChannelName.parse("specific.me!a")
_QUEUES: Final = tuple(ChannelName.parse(name) for name in ("jobs", "reply?x", "claimed!a"))

_WOKEN = "a wait() is woken by a push from another process, and by nothing in another queue"
_CALLED = "of all that wait for a queue at least one is called for each message"
_ONCE = "a message is taken once"
_UNBROKEN = "pop() and put_back() lose nothing although their caller is cancelled"
_WHOLE = "a payload is bytes, and comes out as it went in"
_CLOSED = "aclose() lets go of everything, and nothing but StoreError comes out of a store that is closed"
_RECONNECTED = "a store whose connections are lost goes on or raises a retryable StoreError, and loses nothing"


@dataclass
class StoreEnvironment(Environment):
    """One prefix, and any number of backends over it, as several processes would have them.

    Attributes:
        make_store: makes each of them.
    """

    make_store: MakeStore

    def backend(self, **options: Unpack[Options]) -> Backend:
        """Make another process's way to the store."""
        return self.make_store(make_rules(prefix=self.prefix, **options), self.clock)

    def store(self) -> aclosing[Store]:
        """Open another process's store in the running loop, to be closed at the end of the block."""
        return aclosing(self.backend().open())


class StoreSuite(SuiteTests):
    """All that a store promises and a sequence of calls cannot show.

    ::

        class TestMine(StoreSuite):
            make_store = staticmethod(make_store)

    ``make_store(rules, clock)`` makes a backend over the store of ``rules.prefix``; each call is one more process.
    A fixture of the same name, in the class or outside of it, does as well, and may have parameters.

    Attributes:
        reconnects: whether `disconnect` is there.
        counts_remains: whether `remains` is there.
    """

    _factory = "make_store"
    reconnects: ClassVar[bool] = False
    counts_remains: ClassVar[bool] = False

    def disconnect(self, backend: Backend) -> None:
        """Break every connection that the stores of a backend have, while they are in use. Called in any thread.

        Args:
            backend: whose; others over the same servers may lose theirs as well.
        """
        raise NotImplementedError

    def remains(self, prefix: str) -> int:
        """Count what the store keeps under a prefix, whatever it is. Called in any thread."""
        raise NotImplementedError

    @pytest.fixture
    def stores(self, make_store: MakeStore) -> StoreEnvironment:
        """A store of this test's own, and backends over it."""
        return StoreEnvironment(make_store, patience=self.patience)

    # -- the vocabulary

    @async_test
    async def test_every_command_is_handled(self, stores: StoreEnvironment) -> None:
        """Every command is answered, or the capabilities say that it is not supported; by the blocking store, too."""
        await check_commands(stores.backend(), self.capabilities)

    # -- who is called

    @async_test
    async def test_a_wait_is_woken_by_its_own_queue(self, stores: StoreEnvironment) -> None:
        """A wait() ends when another process pushes to its queue; pushes to other queues leave it alone."""

        async def wait_for(store: Store, other: Store, channel: ChannelName, shard: int) -> None:
            waiting = asyncio.create_task(store.wait(c.Wait(shard, channel.queue, _BLOCK)))
            for elsewhere in (*_QUEUES, ChannelName.parse(f"{channel.name}x"), ChannelName.parse("claime!a")):
                if elsewhere.queue != channel.queue:
                    await other.execute(c.Push(shard, elsewhere, _ROOM, b"1"))
                    await _pop(other, elsewhere, shard, 1)
            if self.capabilities.blocking:
                expect(waiting.done(), False, _WOKEN, f"pushes to other queues than {channel}")
            await other.execute(c.Push(shard, channel, _ROOM, b"2"))
            await stores.soon(waiting, _WOKEN)
            expect(await _pop(store, channel, shard, 2), [b"2"], _WOKEN, f"pop() from {channel} after the wait()")

        async with stores.store() as store, stores.store() as other:
            for shard in range(len(stores.backend().identities)):
                for channel in _QUEUES:
                    await wait_for(store, other, channel, shard)

    @async_test
    async def test_of_several_who_wait_one_is_called_for_each_message(self, stores: StoreEnvironment) -> None:
        """While several wait, every message is taken, whether messages come one by one or many at once."""
        count = 40
        async with stores.store() as one, stores.store() as two, stores.store() as sender:
            for channel in _QUEUES[:2]:
                seen: list[bytes] = []
                workers = [asyncio.create_task(_work(store, channel, seen)) for store in (one, two, one, two, one)]

                async def all_seen(due: int, seen: list[bytes] = seen) -> None:
                    await stores.eventually(lambda: len(seen) >= due, _CALLED)

                for n in range(0, count, 2):
                    await sender.execute(c.Push(0, channel, _ROOM, b"%d" % n))
                    await sender.execute(c.Push(0, channel, _ROOM, b"%d" % (n + 1)))
                    await all_seen(n + 1 if n % 4 else n + 2)
                pushes = (sender.execute(c.Push(0, channel, _ROOM, b"%d" % n)) for n in range(count, 2 * count))
                await asyncio.gather(*pushes)
                await all_seen(2 * count)
                await stores.end(workers)
                due = sorted(b"%d" % n for n in range(2 * count))
                expect(sorted(seen), due, _ONCE, f"{2 * count} messages to {channel}, five who wait and pop")

    def test_a_cancelled_wait_passes_its_call_on(self, stores: StoreEnvironment) -> None:
        """When the one who is called is cancelled, at whichever step, another one who waits takes the message."""

        async def body(steps: Steps) -> None:
            async with stores.store() as one, stores.store() as two, stores.store() as sender:
                for channel in _QUEUES[:2]:
                    for step in range(20):
                        first = asyncio.create_task(one.wait(c.Wait(0, channel.queue, _BLOCK)))
                        await pass_turns((step + 3) % 5)
                        seen: list[bytes] = []
                        second = asyncio.create_task(_work(two, channel, seen))
                        await pass_turns((step + 2) % 3)
                        pushing = sender.execute(c.Push(0, channel, _ROOM, b"%d" % step))
                        await stores.cancel_at(step, first, steps, _CALLED, meanwhile=pushing)
                        if not first.cancelled():  # who returns must pop
                            seen += await _pop(one, channel, 0, 1)
                        rule = "a wait() that is cancelled passes its call on"
                        await stores.eventually(partial(bool, seen), rule)
                        await stores.end([second])
                        expect(seen, [b"%d" % step], _ONCE, f"one to {channel}, a waiter cancelled at step {step}")

        run_stepping(body)

    @async_test
    async def test_a_blocked_read_is_woken(self, stores: StoreEnvironment) -> None:
        """A read() that waits at the end of an owned inbox ends when something comes in; cancelling it is harmless.

        Without leases there is none, and no inbox is owned.
        """
        async with stores.store() as owner, stores.store() as sender:
            if not self.capabilities.leases:
                came = await sender.execute(c.Alive(0, (_OWNED.queue,)))
                expect(came, (False,), "without leases no inbox is owned", "alive()")
                return
            await owner.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))
            position = ""
            for n in range(10):
                reading = asyncio.create_task(_execute(owner, c.Read(0, _OWNED.queue, position, _BLOCK)))
                await pass_turns(n)
                if n % 2:
                    reading.cancel()
                    await asyncio.wait([reading])
                    reading = asyncio.create_task(_execute(owner, c.Read(0, _OWNED.queue, position, _BLOCK)))
                await sender.execute(c.Push(0, _OWNED, _ROOM, b"%d" % n))
                rule = "a read() that waits is woken by what comes in"
                batch = await stores.soon(reading, rule)
                expect(_payloads(batch.entries), [b"%d" % n], rule, f"message {n}")
                again = await stores.soon(owner.execute(c.Read(0, _OWNED.queue, position, _BLOCK)), rule)
                expect(again, batch, "reading takes nothing away", "the same read() once more")
                position = batch.position
            await owner.execute(c.ReleaseLease(0, _OWNED.queue))

    # -- what is cancelled

    def test_a_pop_that_is_cancelled_loses_nothing(self, stores: StoreEnvironment) -> None:
        """A pop() that is cancelled at any step returns what it took, or has taken nothing."""

        async def body(steps: Steps) -> None:
            async with stores.store() as store, stores.store() as other:
                for channel in _QUEUES[:2]:
                    await _pop(store, channel, 0, 1)  # there is a connection
                    for step in range(15):
                        payload = b"%d" % step
                        await other.execute(c.Push(0, channel, _ROOM, payload))
                        popping = asyncio.create_task(_pop(store, channel, 0, 1))
                        await stores.cancel_at(step, popping, steps, _UNBROKEN)
                        taken = [] if popping.cancelled() else popping.result()
                        taken += await _pop(other, channel, 0, 2)
                        expect(taken, [payload], _UNBROKEN, f"pop() from {channel}, cancelled at step {step}")

        run_stepping(body)

    def test_a_put_back_that_is_cancelled_is_carried_out(self, stores: StoreEnvironment) -> None:
        """A put_back() that has begun is carried out and returns, at whichever step its caller is cancelled."""

        async def body(steps: Steps) -> None:
            async with stores.store() as store, stores.store() as other:
                for channel in _QUEUES[:2]:
                    for step in range(1, 12):  # at step 0 it has not begun
                        payload = b"%d" % step
                        await other.execute(c.Push(0, channel, _ROOM, payload))
                        popped = await store.execute(c.Pop(0, channel.queue, 1, "me"))
                        returning = asyncio.create_task(_execute(store, c.PutBack(0, channel.queue, popped.entries)))
                        await stores.cancel_at(step, returning, steps, _UNBROKEN)
                        asked = f"put_back() to {channel}, cancelled at step {step}"
                        expect(returning.cancelled(), False, _UNBROKEN, asked)
                        expect(await _pop(other, channel, 0, 2), [payload], _UNBROKEN, asked)

        run_stepping(body)

    def test_all_other_commands_end_as_cancelled(self, stores: StoreEnvironment) -> None:
        """Of all commands that return soon, pop() and put_back() alone may return although they are cancelled.

        What else swallows its cancellation goes on in the place of a task that has been told to end.
        """
        rule = "a command that is cancelled before it returns ends as cancelled"
        group, channel = GroupName.parse("g"), _QUEUES[0]
        commands: list[c.Command[object]] = [
            c.Push(0, channel, _ROOM, b"1"),
            c.ClearUnread(0, channel),
            c.Pending(0, channel),
            c.ReleaseClaim(0, _QUEUES[2].queue, "me"),
            c.Join(0, group, channel, owned=False, age=0.0, restore=False, mark=False),
            c.Members(0, group),
            c.Publish(0, group, b"1", at_once=False),
            c.Leave(0, group, channel, mark=False),
            c.Flush(0, "first"),
        ]

        async def body(steps: Steps) -> None:
            async with stores.store() as store:
                await _pop(store, channel, 0, 1)  # there is a connection
                for step in range(6):
                    for command in commands:
                        calling = asyncio.create_task(_execute(store, command))
                        told = await stores.cancel_at(step, calling, steps, rule)
                        expect(calling.cancelled(), told, rule, f"{command!r:.80}, cancelled at step {step}")

        run_stepping(body)

    # -- several at once

    def test_two_clients_never_get_one_message_twice(self, stores: StoreEnvironment) -> None:
        """Of many messages that processes in several threads pop at once, each comes to one of them."""
        count, threads = 120, 4

        async def fill(channel: ChannelName) -> None:
            async with stores.store() as store:
                for n in range(count):
                    await store.execute(c.Push(0, channel, _ROOM, b"%d" % n))

        async def take(channel: ChannelName, place: int) -> list[bytes]:
            seen: list[bytes] = []
            async with stores.store() as store:
                while some := await _pop(store, channel, 0, 1 + place):
                    seen += some
            return seen

        for channel in _QUEUES[:2]:
            run(fill(channel))
            taken = at_once(threads, lambda place: asyncio.run(take(channel, place)))  # noqa: B023 - called at once
            came = sorted(payload for some in taken for payload in some)
            due = sorted(b"%d" % n for n in range(count))
            expect(came, due, _ONCE, f"{count} messages in {channel}, {threads} threads that pop")

    def test_concurrent_pushes_accept_exactly_the_capacity(self, stores: StoreEnvironment) -> None:
        """Of 200 concurrent pushes of two processes in as many threads into room for 10, 10 are accepted."""
        capacity, senders = 10, 100

        async def push(channel: ChannelName) -> int:
            async with stores.store() as store:
                request = c.Push(0, channel, capacity, b"1")
                pushed = await asyncio.gather(*(store.execute(request) for _ in range(senders)))
                return sum(each.accepted for each in pushed)

        async def claim() -> None:
            async with stores.store() as store:
                await store.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))

        if self.capabilities.leases:
            run(claim())
        for channel in (*_QUEUES, _OWNED):
            accepted = at_once(2, lambda _: asyncio.run(push(channel)))  # noqa: B023 - called at once
            rule = "check and push are one atomic step"
            expect(sum(accepted), capacity, rule, f"200 pushes to {channel}, capacity {capacity}")

    # -- payloads

    @async_test
    async def test_payloads_come_out_as_they_went_in(self, stores: StoreEnvironment) -> None:
        """Every byte there is, each byte alone, and a megabyte, in every kind of queue and for a group."""
        payloads = [bytes(range(256)), *(bytes([n]) for n in range(256)), bytes(reversed(range(256))) * 4096]

        async def read(store: Store, count: int) -> list[bytes]:
            frames: list[bytes] = []
            position = ""
            while len(frames) < count:
                batch = await stores.soon(store.execute(c.Read(0, _OWNED.queue, position, _BLOCK)), _WHOLE)
                frames += [frame for _, frame in batch.entries]
                position = batch.position
            return frames

        async with stores.store() as store, stores.store() as sender:
            for channel in _QUEUES:
                for payload in payloads:
                    await sender.execute(c.Push(0, channel, _ROOM, payload))
                came = await _pop(store, channel, 0, len(payloads))
                expect(came == payloads, True, _WHOLE, f"{len(payloads)} payloads of all bytes to {channel}")
            if self.capabilities.leases:
                await store.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))
                for payload in payloads:
                    await sender.execute(c.Push(0, _OWNED, _ROOM, payload))
                    await sender.execute(c.Deliver(0, _OWNED.queue, GroupName.parse("g"), (), payload))
                frames = await read(store, 2 * len(payloads))
                direct = [read_message(frame)[1] for frame in frames[::2]]
                grouped = [read_group(frame).payload for frame in frames[1::2]]
                expect(direct == payloads, True, _WHOLE, f"payloads of all bytes to {_OWNED}")
                expect(grouped == payloads, True, _WHOLE, "payloads of all bytes to a group")
                await store.execute(c.ReleaseLease(0, _OWNED.queue))

    # -- the end, loops and threads

    @async_test
    async def test_a_store_may_be_closed_at_any_time(self, stores: StoreEnvironment) -> None:
        """Closing twice is harmless; what is in flight ends, with StoreError or as it would have; so does the rest."""
        block = 0.5

        async def ends(call: Awaitable[object]) -> None:
            with contextlib.suppress(StoreError):
                await stores.soon(call, _CLOSED)

        never = stores.backend().open()
        await never.aclose()  # that was never asked for anything
        for turns in (0, 1, 5, 50):
            store = stores.backend().open()
            queue = _QUEUES[0].queue
            flying: list[asyncio.Task[object]] = [
                asyncio.create_task(store.wait(c.Wait(0, queue, block))),
                asyncio.create_task(_execute(store, c.Pop(0, queue, 1, "me"))),
            ]
            if self.capabilities.leases:
                await store.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))
                flying.append(asyncio.create_task(_execute(store, c.Read(0, _OWNED.queue, "", block))))
            await pass_turns(turns)
            await stores.soon(store.aclose(), _CLOSED)
            await stores.soon(store.aclose(), _CLOSED)
            for call in flying:
                await ends(call)
            await ends(_execute(store, c.Push(0, _QUEUES[1], _ROOM, b"1")))
            await ends(_execute(store, c.Pop(0, queue, 1, "me")))

    def test_one_backend_serves_loops_and_threads_one_after_another(self, stores: StoreEnvironment) -> None:
        """What is pushed in one event loop is popped in another one, in whatever thread, through one backend."""
        backend = stores.backend()

        async def pop_and_push(n: int) -> list[bytes]:
            async with aclosing(backend.open()) as store:
                taken = await _pop(store, _QUEUES[1], 0, 5)
                await store.execute(c.Push(0, _QUEUES[1], _ROOM, b"%d" % n))
                return taken

        def in_thread(n: int) -> list[bytes]:
            [taken] = at_once(1, lambda _: run(pop_and_push(n)))
            return taken

        for n in range(12):
            taken = in_thread(n) if n % 2 else run(pop_and_push(n))
            due = [b"%d" % (n - 1)] if n else []
            expect(taken, due, "a backend belongs to no event loop", f"pop() of what the loop before loop {n} pushed")

    # -- lost connections

    @async_test
    async def test_lost_connections_lose_no_message(self, stores: StoreEnvironment) -> None:
        """Who waits or reads while all connections break goes on, or is told to try again; nothing is lost or doubled.

        Asked of a store that says how its connections can be broken; of another one only that it goes on.
        """
        backend, channel = stores.backend(), _QUEUES[1]

        async def break_all() -> None:
            if self.reconnects:
                await asyncio.to_thread(self.disconnect, backend)

        async with aclosing(backend.open()) as store, stores.store() as sender:
            seen: list[bytes] = []
            readers = [asyncio.create_task(_work_patiently(store, channel, seen))]
            if self.capabilities.leases:
                await store.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))
                readers.append(asyncio.create_task(_read_patiently(store, seen)))
            sure: list[bytes] = []
            maybe: list[bytes] = []

            async def push(to: ChannelName, payload: bytes) -> None:
                while True:
                    try:
                        await sender.execute(c.Push(0, to, _ROOM, payload))
                    except StoreError as exc:
                        expect(exc.retryable, True, _RECONNECTED, f"push(): {exc}")
                        if exc.outcome == "not_sent":
                            await asyncio.sleep(0.001)
                            continue
                        maybe.append(payload)
                    else:
                        sure.append(payload)
                    return

            for n in range(8):
                await break_all()
                for turn in range(n):
                    await asyncio.sleep(0)
                    if turn % 2:
                        await break_all()
                await push(channel, b"%d" % n)
                if self.capabilities.leases:
                    await push(_OWNED, b"owned %d" % n)
                await stores.eventually(lambda: set(sure) <= set(seen), _RECONNECTED)
            await stores.end(readers)
            twice = [payload for payload in set(seen) if seen.count(payload) > 1]
            expect(twice, [], _RECONNECTED, "messages while all connections break again and again")
            expect(set(seen) <= {*sure, *maybe}, True, _RECONNECTED, "the same")

    # -- what is left

    @async_test
    async def test_nothing_is_left_when_all_limits_have_passed(self, stores: StoreEnvironment) -> None:
        """After any use, left as by processes that were killed, the store keeps nothing once all limits are over.

        Counted by a store that says how; of another one only that such a use does it no harm.
        """
        limits: Options = {"expiry": 0.5, "group_expiry": 0.5, "capacity": 3}
        make = layers_over(stores.make_store)
        rules = make_rules(prefix=stores.prefix, **limits)
        async with make(rules, stores.clock) as one, make(rules, stores.clock) as two:
            for n, kind in enumerate(KINDS):
                channel = await make_channel(kind, one)
                await one.group_add("group", channel)
                for _ in range(2 + n):
                    await sends(two, channel, n)
                await receive_or_none(one, channel)
            await two.group_send("group", {"n": 9})
            await two.flush()
            await two.group_add("group", "jobs")
            await two.group_send("group", {"n": 9})
            await two.group_discard("group", "jobs")
        async with aclosing(stores.backend(**limits).open()) as store:
            await _leave_everything(store, self.capabilities)
        if not self.counts_remains:
            return

        async def remains() -> bool:
            return await asyncio.to_thread(self.remains, stores.prefix) > 0

        async def gone() -> bool:
            return not await remains()

        expect(await remains(), True, "remains() counts what is there", "everything there is")
        stores.clock.advance(100)
        await stores.eventually(gone, "nothing outlives its use")


async def _leave_everything(store: Store, capabilities: Capabilities) -> None:
    """Leave something of every kind in a store, and no process that would maintain it."""
    group = GroupName.parse("left")
    for channel in (*_QUEUES, _OWNED):
        for _ in range(3):
            await store.execute(c.Push(0, channel, 10, b"1", to_member=True))
        popped = await store.execute(c.Pop(0, channel.queue, 2, "me"))
        await store.execute(c.PutBack(0, channel.queue, popped.entries))
        await store.execute(c.Join(0, group, channel, owned=False, age=0.0, restore=False, mark=True))
    await store.execute(c.Leave(0, group, _QUEUES[0], mark=True))
    await store.execute(c.Publish(0, group, b"1", at_once=False))
    if capabilities.leases:
        await store.execute(c.AcquireLease(0, _OWNED.queue, "first", "", ()))
        await store.execute(c.Join(0, group, _OWNED, owned=True, age=0.0, restore=False, mark=True))
        await store.execute(c.Mark(0, _OWNED.queue, MembershipMarker(group.name, _OWNED.name, True, 1, 0)))
        await store.execute(c.Push(0, _OWNED, 10, b"1"))
        await store.execute(c.Deliver(0, _OWNED.queue, group, (), b"1"))
        await store.execute(c.ReturnCredits(0, _OWNED.queue, "first", 1, ((_OWNED.name, 1),)))
        await store.execute(c.RenewLease(0, _OWNED.queue))
        await store.execute(c.CheckGroups(0, _OWNED.queue, (group,), extend=True))


async def _work_patiently(store: Store, channel: ChannelName, seen: list[bytes]) -> None:
    while not _is_told_to_end():
        await retried(lambda: store.wait(c.Wait(0, channel.queue, _BLOCK)), _RECONNECTED)
        seen += await retried(lambda: _pop(store, channel, 0, 1), _RECONNECTED)


async def _read_patiently(store: Store, seen: list[bytes]) -> None:
    position = ""
    while True:
        request = c.Read(0, _OWNED.queue, position, _BLOCK)
        batch = await retried(lambda: store.execute(request), _RECONNECTED)  # noqa: B023 - awaited here
        seen += _payloads(batch.entries)
        position = batch.position


async def _work(store: Store, channel: ChannelName, seen: list[bytes]) -> None:
    """Wait and pop, one message at a time, until cancelled."""
    while not _is_told_to_end():
        await store.wait(c.Wait(0, channel.queue, _BLOCK))
        seen += await _pop(store, channel, 0, 1)


def _is_told_to_end() -> bool:
    """Whether the running task has been cancelled: a pop() may return all the same, with what it took."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _pop(store: Store, channel: ChannelName, shard: int, count: int) -> list[bytes]:
    popped = await store.execute(c.Pop(shard, channel.queue, count, "me"))
    return _payloads((entry.stamp, entry.frame) for entry in popped.entries)


async def _execute(store: Store, command: c.Command[R]) -> R:
    """Carry out a command: a coroutine, which a task can be made of."""
    return await store.execute(command)


def _payloads(entries: Iterable[tuple[float, bytes]]) -> list[bytes]:
    return [read_message(frame)[1] for _, frame in entries]
