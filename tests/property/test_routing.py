"""Routing between two halves: where a message goes, how it is moved, and that none of it is lost on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer import commands as c
from channel_layer.domain.capacity import CapacityTable
from channel_layer.domain.expiry import moved
from channel_layer.domain.names import ChannelName, Kind
from channel_layer.domain.routing import Routes, Side, side
from channel_layer.domain.sharding import Ring
from channel_layer.errors import NoLocalReader, StoreError
from channel_layer.operations import sending
from channel_layer.operations.steps import Together
from channel_layer.options import NoLocalReaderOption
from channel_layer.testing.strategies import channel_names, host_identities
from tests.support.operations import make_state, play

if TYPE_CHECKING:
    from channel_layer.operations.steps import Operation, Step

R = TypeVar("R")

_POLICIES = st.sampled_from(get_args(NoLocalReaderOption))
_JOBS = ChannelName.parse("jobs")

_TIMES = st.floats(0, 1e9)


@given(kind=st.sampled_from(Kind), otherwise=_POLICIES, registered=st.booleans(), to_member=st.booleans())
def test_only_a_normal_channel_stays_here_and_only_for_a_reader(
    *, kind: Kind, otherwise: NoLocalReaderOption, registered: bool, to_member: bool
) -> None:
    """What is read here stays; what is not goes where the option says; what has one reader goes to all machines."""
    chosen = side(kind, otherwise, registered=registered, to_member=to_member)
    if kind is not Kind.NORMAL:
        assert chosen is Side.REMOTE
    elif registered:
        assert chosen is Side.LOCAL
    else:
        none = Side.REMOTE if to_member else Side.NEITHER
        assert chosen is {"remote": Side.REMOTE, "queue": Side.LOCAL, "error": none}[otherwise]


@given(channel_names(), host_identities(largest=5))
def test_receivers_look_wherever_a_message_may_be(name: str, hosts: list[str]) -> None:
    """The shards of a queue are those that a sender may choose: of a normal channel this machine's, too."""
    routes = Routes(Ring(hosts), CapacityTable(10), local=len(hosts))
    queue = ChannelName.parse(name).queue
    alone = Routes(Ring(hosts), CapacityTable(10))
    here = {len(hosts)} if queue.kind is Kind.NORMAL else set[int]()
    assert set(routes.shards(queue)) == {*alone.shards(queue), *here}
    assert set(routes.shards(queue)) <= set(routes.all_shards)


@given(stamp=_TIMES, age=st.floats(0, 1e6), there=_TIMES, between=st.floats(0, 1e3))
def test_nothing_gets_younger_by_moving(stamp: float, age: float, there: float, between: float) -> None:
    """A message is at least as old by the clock of the store that it goes to as it was where it came from."""
    shown, looked = stamp + age, there - between  # the other clock was looked at a while before
    assert there - moved(stamp, shown, looked) >= (shown - stamp) - 1e-6 * max(1.0, shown, there)


# -- moving, against stores that may fail at any step ------------------------------------------------------------


@dataclass
class Shards:
    """Two halves as lists of frames; requests fail as the script says.

    Attributes:
        here: this machine's half, oldest first.
        there: of each remote shard, its queue, oldest first.
        failures: of the remote shards' put-backs, in order: None, or how the request fails.
    """

    here: list[c.Entry]
    there: list[list[c.Entry]]
    failures: list[str | None] = field(default_factory=list[str | None])

    def answer(self, step: Step) -> object:
        """Carry a request out, or fail."""
        match step:
            case Together(commands):
                return [self.answer(each) for each in commands]
            case c.Pop(shard=shard, count=count) if shard < len(self.there):
                assert count == 0, "looks only"
                return c.Popped((), 0, now=1000.0)
            case c.Pop():
                taken, self.here = tuple(self.here), []
                return c.Popped(taken, 0, now=100.0)
            case c.PutBack(shard=shard, entries=entries) if shard < len(self.there):
                failure = self.failures.pop(0) if self.failures else None
                if failure == "cancelled":
                    raise KeyboardInterrupt
                if failure == "not_sent":
                    raise StoreError("away", retryable=True, outcome="not_sent")
                self.there[shard][:0] = entries
                if failure == "unknown":
                    raise StoreError("away", retryable=True, outcome="unknown")
                return c.Returned(0, 0)
            case c.PutBack(entries=entries):
                self.here[:0] = entries
                return c.Returned(0, 0)
            case _:
                raise AssertionError(step)


def _drive(operation: Operation[R], shards: Shards) -> R:
    try:
        step = next(operation)
        while True:
            try:
                reply = shards.answer(step)
            except (StoreError, KeyboardInterrupt) as exc:
                step = operation.throw(exc)
            else:
                step = operation.send(reply)
    except StopIteration as stop:
        result: R = stop.value
        return result


@given(
    waiting=st.integers(0, 12),
    hosts=host_identities(largest=4),
    capacity=st.integers(1, 12),
    failures=st.lists(st.sampled_from([None, None, "not_sent", "unknown", "cancelled"]), max_size=4),
)
def test_what_is_moved_is_in_one_half_or_counted(
    waiting: int, hosts: list[str], capacity: int, failures: list[str | None]
) -> None:
    """Whatever fails while messages move, each is in exactly one place, in order, or counted as lost."""
    routes = Routes(Ring(hosts), CapacityTable(capacity), local=len(hosts))
    before = [c.Entry(40.0 + n, b"%d" % n) for n in range(waiting)]
    shards = Shards(list(before), [[] for _ in hosts], list(failures))
    state = make_state(routes)
    outcome = "done"
    try:
        _drive(sending.move_to_remote(state, _JOBS.queue), shards)
    except StoreError as error:
        outcome = error.outcome
    except KeyboardInterrupt:
        outcome = "cancelled"
    assert outcome != "unknown", "nothing is in doubt that was not counted"
    arrived = [entry for queue in shards.there for entry in queue]
    frames = [entry.frame for entry in (*arrived, *shards.here)]
    assert sorted(frames, key=int) == [entry.frame for entry in before]
    assert state.counters.dropped["store_lost"] == 0 or "unknown" in failures
    for queue in (*shards.there, shards.here):
        assert [entry.frame for entry in queue] == sorted((entry.frame for entry in queue), key=int)
    for entry in arrived:
        age = 100.0 - before[int(entry.frame)].stamp
        assert entry.stamp == 1000.0 - age
    if not failures and waiting <= capacity:
        assert all(len(queue) <= -(-capacity // len(hosts)) for queue in shards.there), "as its shares are"


@given(policy=_POLICIES, waiting=st.integers(0, 3), registered=st.booleans())
def test_a_send_goes_where_the_rule_says(*, policy: NoLocalReaderOption, waiting: int, registered: bool) -> None:
    """A send asks this machine's half first, and the other one only if the rule sends it there."""
    routes = Routes(Ring(["a"]), CapacityTable(10), local=1, no_local_reader=policy)
    operation = sending.push(routes, _JOBS, b"x", 0)
    push = next(operation)
    assert isinstance(push, c.Push)
    assert push.shard == 1
    assert push.if_registered == (policy != "queue")
    refused = push.if_registered and not registered
    first = c.Pushed(accepted=not refused, expired=0, orphaned=waiting if refused else None)
    if refused and policy == "error":
        with pytest.raises(NoLocalReader, match="jobs"):
            operation.send(first)
        return
    if refused and not waiting:
        second = operation.send(first)
        assert isinstance(second, c.Push)
        assert (second.shard, second.if_registered) == (0, False)
        return
    with pytest.raises(StopIteration) as stop:
        operation.send(first)
    assert stop.value.value == first, "what waits goes first"


@pytest.mark.parametrize(("local", "policy"), [(None, "remote"), (1, "queue"), (1, "error")])
def test_there_is_nothing_to_move_with_one_half(local: int | None, policy: NoLocalReaderOption) -> None:
    """A layer of one store never looks for what is orphaned, nor does one whose messages are to stay here."""
    routes = Routes(Ring(["a"]), CapacityTable(10), local=local, no_local_reader=policy)
    assert play(sending.move_all_to_remote(make_state(routes))) is None


def test_a_layer_of_one_store_has_nothing_to_move_from() -> None:
    """Without a local store nothing is asked, and nothing is counted."""
    state = make_state(Routes(Ring(["a"]), CapacityTable(10)))
    play(sending.move_to_remote(state, _JOBS.queue))
    assert not state.counters.dropped
