"""Receiving from queues that are popped: the order of the shards, the pauses, what a pop brings, and what goes back."""

from __future__ import annotations

import asyncio

import pytest

from channel_layer import commands as c
from channel_layer.domain import frames
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.mailbox import Item, QueueBuffer, Waiter
from channel_layer.domain.names import ChannelName, Queue
from channel_layer.domain.routing import Routes
from channel_layer.domain.sharding import Ring
from channel_layer.errors import StoreError
from channel_layer.operations.receiving import (
    Backoff,
    put_back,
    put_back_all,
    rotated,
    shard_order,
    take_in,
)
from channel_layer.operations.state import LayerState
from channel_layer.runtime import queue_consumer
from channel_layer.testing import layers_over, make_rules
from tests.support.operations import make_state, play
from tests.support.stores import memory_stores

JOBS, CLAIMED = Queue.named("jobs"), ChannelName.parse("daemon!x").queue
NOT_SENT = StoreError("away", retryable=True, outcome="not_sent")
UNKNOWN = StoreError("away", retryable=True, outcome="unknown")


class Clock:
    """A clock that stands still, but for when a test moves it."""

    offset = 0.0

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        """Return seconds since some moment."""
        return self.time


def make(hosts: int = 1, *, local: bool = False, expiry: float = 60.0) -> LayerState:
    """Make a state over some hosts; every channel holds 9 messages."""
    ring = Ring([f"host{number}:6379/0" for number in range(hosts)])
    routes = Routes(ring, CapacityTable(9), local=hosts if local else None)
    return make_state(routes, make_rules(expiry=expiry), Clock())


def entry(name: str, payload: bytes, stamp: float = 500.0) -> c.Entry:
    """Make what a store keeps of a message."""
    return c.Entry(stamp, frames.message_frame(name, payload))


def item(number: int, shard: int = 0, stamp: float = 500.0) -> Item:
    """Make a message that was popped."""
    return Item(2000.0, b"%d" % number, "", (shard, entry("jobs", b"%d" % number, stamp)))


# -- in which order


def test_each_shard_is_the_first_in_its_turn() -> None:
    """As many turns in a row as there are shards begin with each of them once, and each goes on in order."""
    assert [rotated(("a", "b", "c"), turn) for turn in range(4)] == [
        ("a", "b", "c"),
        ("b", "c", "a"),
        ("c", "a", "b"),
        ("a", "b", "c"),
    ]


@pytest.mark.parametrize("registered", [False, True])
def test_without_a_local_store_the_shards_take_turns(*, registered: bool) -> None:
    """Every shard of a queue is asked, each in its turn the first; a queue on one shard is asked there."""
    routes = make(3).routes
    orders = [shard_order(routes, JOBS, turn, registered=registered) for turn in range(3)]
    assert [sorted(order) for order in orders] == [[0, 1, 2]] * 3
    assert sorted(order[0] for order in orders) == [0, 1, 2]
    assert shard_order(routes, CLAIMED, 5, registered=registered) == (routes.ring.queue(CLAIMED),)


def test_a_process_that_is_no_reader_yet_looks_in_the_local_store_last() -> None:
    """What the remote store holds is older than what will be sent to the local one, so it always comes first."""
    routes = make(2, local=True).routes
    orders = [shard_order(routes, JOBS, turn, registered=False) for turn in range(2)]
    assert sorted(orders) == [(0, 1, 2), (1, 0, 2)]


def test_a_registered_reader_looks_in_the_local_store_in_turn() -> None:
    """For a process that is known to read a queue of this machine, the local store is a shard like any other."""
    routes = make(2, local=True).routes
    firsts = [shard_order(routes, JOBS, turn, registered=True)[0] for turn in range(3)]
    assert sorted(firsts) == [0, 1, 2]


# -- pauses


def test_pauses_are_doubled_up_to_a_second_and_jittered() -> None:
    """Pauses last 20 ms, 40 ms and so on up to 1 s, of which chance takes up to a half away; after an answer, anew."""
    backoff = Backoff()
    assert [round(backoff.pause(1.0), 3) for _ in range(8)] == [0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0, 1.0]
    assert backoff.pause(0.0) == 0.5
    backoff.reset()
    assert (backoff.pause(0.0), backoff.pause(0.5)) == (0.01, 0.03)


# -- pop


def test_what_a_pop_brings_can_go_back_to_its_shard() -> None:
    """Each message has the shard and the entry that it came from, and the local time until when it may live."""
    state = make(2)
    [first, second] = [entry("jobs", b"1"), entry("jobs", b"2", 510.0)]
    popped = c.Popped((first, second), 0, now=520.0)
    taken = take_in(state, 1, JOBS, 1000.0, popped)
    assert [(name, each.payload, each.origin) for name, each in taken] == [
        ("jobs", b"1", (1, first)),
        ("jobs", b"2", (1, second)),
    ]
    # By the store's clock they are 20 s and 10 s old, and may live for 60 s.
    assert [each.deadline for _, each in taken] == pytest.approx([1040.0, 1050.0], abs=0.1)
    assert not state.counters.dropped


def test_a_pop_learns_what_the_stores_clock_shows() -> None:
    """The reply tells the time of the shard, which was at some moment between the request and the reply."""
    state = make()
    take_in(state, 0, JOBS, 1000.0, c.Popped((), 0, now=520.0))
    assert state.clocks[0].middle(1000.0) == 520.0
    assert state.clocks[0].offset(1000.0) == -480.0


def test_what_a_store_has_lost_is_counted() -> None:
    """What the store dropped by itself, or cannot vouch for, is counted by its reason, as the queue's."""
    state = make()
    popped = c.Popped((), 1, now=520.0, flushed=2, lost=3)
    assert take_in(state, 0, JOBS, 1000.0, popped) == []
    assert state.counters.dropped == {"expired": 1, "flushed": 2, "store_lost": 3}


def test_what_cannot_be_delivered_is_counted_and_left_out() -> None:
    """A frame that is no message, and one that has become too old by a late reply, are dropped; the others stay."""
    state = make()
    entries = (c.Entry(500.0, b"garbage"), entry("jobs", b"good"), entry("jobs", b"old", 460.0))
    taken = take_in(state, 0, JOBS, 1000.0, c.Popped(entries, 0, now=520.0))
    assert [each.payload for _, each in taken] == [b"good"]
    assert state.counters.dropped == {"undecodable": 1, "expired": 1}


def test_the_messages_of_a_claimed_inbox_have_names_of_their_own() -> None:
    """A message of a claimed inbox is its channel's; what is for a channel of another queue, or of none, is garbage."""
    state = make()
    entries = (entry("daemon!a", b"1"), entry("other!a", b"2"), entry("jobs", b"3"), entry("daemon!b", b"4"))
    popped = c.Popped((*entries, entry("not a name", b"5")), 0, now=520.0)
    taken = take_in(state, 0, CLAIMED, 1000.0, popped)
    assert [(name, each.payload) for name, each in taken] == [("daemon!a", b"1"), ("daemon!b", b"4")]
    assert state.counters.dropped == {"undecodable": 3}


def test_a_flush_empties_what_is_kept_of_a_claimed_inbox() -> None:
    """A pop that tells of a flush drops what this process had popped before it, once; its own messages are younger."""
    state = make()
    buffer = state.buffer(CLAIMED)
    buffer.box("daemon!a", 1000.0).put(Item(2000.0, b"before", "", None))
    popped = c.Popped((entry("daemon!a", b"after"),), 0, now=520.0, epoch="flush")
    for _ in range(2):
        taken = take_in(state, 0, CLAIMED, 1000.0, popped)
        assert [each.payload for _, each in taken] == [b"after"]
    assert buffer.epoch == "flush"
    assert state.counters.dropped == {"flushed": 1}


# -- put_back


def kept(buffer: QueueBuffer) -> list[bytes]:
    """Return what waits in the buffer of a queue."""
    return [each.payload for each in buffer.box("jobs", 0.0).items]


def put(shard: int, *items: Item) -> c.PutBack:
    """Ask to put messages back."""
    return c.PutBack(shard, JOBS, tuple(each.origin[1] for each in items if each.origin is not None))


def test_messages_go_back_to_the_shards_that_they_came_from() -> None:
    """Each shard gets its own messages, oldest first; what could not stay there is counted, and nothing is kept."""
    state = make(2)
    items = [item(1, 1), item(2, 0), item(3, 1)]
    play(
        put_back(state, state.buffer(JOBS), items),
        (put(1, items[0], items[2]), c.Returned(expired=1, flushed=0)),
        (put(0, items[1]), c.Returned(expired=0, flushed=1)),
    )
    assert kept(state.buffer(JOBS)) == []
    assert state.counters.dropped == {"expired": 1, "flushed": 1}


def test_nothing_to_put_back_is_no_step() -> None:
    """Without messages, or with those that came from no queue, the store is asked for nothing."""
    state = make()
    assert play(put_back(state, state.buffer(JOBS), [])) is None
    assert play(put_back(state, state.buffer(JOBS), [Item(2000.0, b"", "", None)])) is None


def test_what_could_not_go_back_is_kept() -> None:
    """Messages whose shard cannot be reached wait in the buffer, before what waits there, in order; others go back."""
    state = make(2)
    buffer, items = state.buffer(JOBS), [item(1, 0), item(2, 1), item(3, 0)]
    buffer.box("jobs", 1000.0).put(item(4, 1))
    play(put_back(state, buffer, items), (put(0, items[0], items[2]), NOT_SENT), (put(1, items[1]), c.Returned(0, 0)))
    assert kept(buffer) == [b"1", b"3", b"4"]
    assert not state.counters.dropped


def test_what_may_have_gone_back_is_not_kept() -> None:
    """If nobody knows whether messages are back in their queue they count as lost: else they might come twice."""
    state = make()
    items = [item(1), item(2)]
    play(put_back(state, state.buffer(JOBS), items), (put(0, *items), UNKNOWN))
    assert kept(state.buffer(JOBS)) == []
    assert state.counters.dropped == {"store_lost": 2}


def test_an_interruption_ends_only_after_the_other_shards() -> None:
    """Interrupted at one shard, what was for it is kept; the other shards still get theirs, and then it is raised."""
    state = make(2)
    buffer, items = state.buffer(JOBS), [item(1, 0), item(2, 1)]
    with pytest.raises(KeyboardInterrupt):
        play(
            put_back(state, buffer, items),
            (put(0, items[0]), KeyboardInterrupt()),
            (put(1, items[1]), c.Returned(0, 0)),
        )
    assert kept(buffer) == [b"1"]
    assert not state.counters.dropped


# -- closing


def test_all_that_was_not_taken_goes_back() -> None:
    """At the end, messages go back though they are promised to receivers; those of a claimed inbox stay."""
    state = make()
    box, items = state.buffer(JOBS).box("jobs", 1000.0), [item(1), item(2)]
    for each in items:
        box.put(each)
    box.promised = 1
    own = state.buffer(CLAIMED).box("daemon!x", 1000.0)
    own.put(Item(2000.0, b"own", "", (0, entry("daemon!x", b"own"))))
    play(put_back_all(state), (put(0, *items), c.Returned(0, 0)))
    assert (kept(state.buffer(JOBS)), len(own.items)) == ([], 1)
    assert box.take(promised=True) is None


async def test_a_layer_that_closes_puts_back_what_a_receiver_did_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that was popped for a receiver which has no time to take it goes to another process."""
    make_layer, rules = layers_over(memory_stores()), make_rules()
    async with make_layer(rules, Clock()) as other:
        layer = make_layer(rules, Clock())
        promised = asyncio.Event()

        def note(waiters: list[Waiter]) -> None:
            if waiters:
                promised.set()  # and the receiver does not run

        with monkeypatch.context() as patch:
            patch.setattr(queue_consumer, "wake_all", note)
            receiving = asyncio.create_task(layer.receive("jobs"))
            await other.send("jobs", {"n": 1})
            await promised.wait()
            await layer.aclose()
            receiving.cancel()
        assert not layer.counts().dropped
        assert await other.receive("jobs") == {"n": 1}
