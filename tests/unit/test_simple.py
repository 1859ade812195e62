"""The whole store that is made of a simple one: one thread, nothing lost on cancellation, patient looking."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.stores.simple import SimpleBackend
from channel_layer.testing import make_rules

_JOBS = Queue("jobs", Kind.NORMAL)
_PUSH = c.Push(0, ChannelName.parse("jobs"), 10, b"payload")
_POP = c.Pop(0, _JOBS, 1, "me")


@dataclass
class Slow:
    """A simple store whose pop takes until it is let go, and which notes who calls it."""

    threads: set[int] = field(default_factory=set[int])
    calls: list[str] = field(default_factory=list[str])
    gate: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def _note(self, name: str) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(name)

    def push(self, _request: c.Push, /) -> c.Pushed:
        """Accept."""
        self._note("push")
        return c.Pushed(accepted=True, expired=0)

    def pop(self, _request: c.Pop, /) -> c.Popped:
        """Bring one message, late."""
        self._note("pop")
        self.begun.set()
        assert self.gate.wait(10)
        return c.Popped((c.Entry(0.0, b"m\x04jobspayload"),), 0, 0.0)

    def put_back(self, _request: c.PutBack, /) -> c.Returned:
        """Take it."""
        self._note("put_back")
        return c.Returned(0, 0)

    def pending(self, _request: c.Pending, /) -> int:
        """Count nothing."""
        return 0

    def join(self, _request: c.Join, /) -> None:
        """Take note."""
        self._note("join")

    def leave(self, _request: c.Leave, /) -> None:
        """Take note."""
        self._note("leave")

    def members(self, _request: c.Members, /) -> c.GroupMembers:
        """List no member."""
        return c.GroupMembers((), ())

    def flush(self, _request: c.Flush, /) -> int:
        """Empty nothing."""
        return 0

    def close(self) -> None:
        """Take note."""
        self._note("close")


def test_every_call_is_made_in_one_thread_which_is_not_the_loop_s() -> None:
    """The simple store is made, used and closed in one thread, though many tasks call at once."""
    simple = Slow()
    made = list[int]()

    def make() -> Slow:
        made.append(threading.get_ident())
        return simple

    async def body() -> None:
        store = SimpleBackend(make, "here").open()
        await asyncio.gather(*(store.execute(_PUSH) for _ in range(20)))
        await store.aclose()
        await store.aclose()

    asyncio.run(body(), debug=True)
    assert simple.calls == ["push"] * 20 + ["close"]
    assert simple.threads == set(made)
    assert threading.get_ident() not in simple.threads


def test_nothing_is_made_before_it_is_needed() -> None:
    """A store that is opened and closed without a request makes no simple store and starts no thread."""

    def make() -> Slow:
        raise AssertionError("made")

    async def body() -> None:
        await SimpleBackend(make, "here").open().aclose()

    asyncio.run(body(), debug=True)


@pytest.mark.parametrize("times", [1, 2])
def test_a_pop_that_has_begun_brings_its_messages_though_its_caller_is_cancelled(times: int) -> None:
    """A cancelled pop returns what was taken, for it is nowhere else; its task shows that it is to end."""
    simple = Slow()

    async def body() -> None:
        store = SimpleBackend(lambda: simple, "here").open()
        brought = list[c.Popped]()

        async def pop() -> None:
            brought.append(await store.execute(_POP))

        task = asyncio.create_task(pop())
        await asyncio.to_thread(simple.begun.wait)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        simple.gate.set()
        await asyncio.wait([task])
        assert task.cancelling() == times
        assert [len(popped.entries) for popped in brought] == [1]
        await store.aclose()

    asyncio.run(body(), debug=True)


def test_a_push_whose_caller_is_cancelled_ends_at_once_and_is_carried_out() -> None:
    """A cancelled call of any other kind is a cancelled call: its caller does not go on as if nothing had been."""
    simple = Slow()

    async def body() -> None:
        store = SimpleBackend(lambda: simple, "here").open()
        pop = asyncio.ensure_future(store.execute(_POP))
        await asyncio.to_thread(simple.begun.wait)
        push = asyncio.ensure_future(store.execute(_PUSH))
        await asyncio.sleep(0)
        push.cancel()
        await asyncio.wait([push])
        assert push.cancelled()
        assert simple.calls == ["pop"]
        simple.gate.set()
        await pop
        await store.aclose()

    asyncio.run(body(), debug=True)
    assert simple.calls == ["pop", "push", "close"]


def test_a_closed_store_refuses_to_work() -> None:
    """After the end a request is a StoreError that was not sent, and the loss of the connection is told."""

    async def body() -> None:
        store = SimpleBackend(Slow, "here").open()
        gone = asyncio.create_task(store.disconnected(0))
        await asyncio.sleep(0)
        assert not gone.done()
        await store.aclose()
        await gone
        with pytest.raises(StoreError) as caught:
            await store.execute(_PUSH)
        assert caught.value.outcome == "not_sent"

    asyncio.run(body(), debug=True)


def test_what_is_being_made_when_the_store_closes_is_closed() -> None:
    """A simple store that is not there yet when the store is closed, because it takes long to make, is closed, too."""
    simple, making, gate = Slow(), threading.Event(), threading.Event()

    def make() -> Slow:
        making.set()
        assert gate.wait(10)
        return simple

    async def body() -> None:
        store = SimpleBackend(make, "here").open()
        push = asyncio.ensure_future(store.execute(_PUSH))
        await asyncio.to_thread(making.wait, 10)
        closing = asyncio.create_task(store.aclose())
        await asyncio.sleep(0)
        gate.set()
        await push
        await closing

    asyncio.run(body(), debug=True)
    assert simple.calls == ["push", "close"]


def test_looks_become_rarer_until_something_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause between two looks at an empty queue doubles up to 0.1 s, and begins anew with a message."""
    pauses = list[float]()
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    async def body() -> None:
        store = SimpleBackend(Slow, "here").open()
        monkeypatch.setattr(asyncio, "sleep", note)
        for _ in range(9):
            await store.wait(c.Wait(0, _JOBS, 25.0))
        await store.wait(c.Wait(0, _JOBS, 0.05))  # never longer than it was asked to
        await store.execute(_PUSH)
        await store.wait(c.Wait(0, _JOBS, 25.0))
        monkeypatch.undo()
        await store.aclose()

    asyncio.run(body(), debug=True)
    assert pauses == [0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.1, 0.1, 0.1, 0.05, 0.002]


def test_what_a_simple_store_lacks_is_not_asked_of_it() -> None:
    """A layer over one makes channels, adds them to groups and sends to them, with no request but the simple ones."""
    simple = Slow()

    async def body() -> None:
        async with ChannelLayer(make_rules(), SimpleBackend(lambda: simple, "here")) as layer:
            channel = await layer.new_channel()
            await layer.group_add("room", channel)
            await layer.group_send("room", {})
            await layer.group_discard("room", channel)
            await layer.flush()
            assert await layer.group_channels("room") == []

    asyncio.run(body(), debug=True)
    assert simple.calls[:2] == ["join", "leave"]
