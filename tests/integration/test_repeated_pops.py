"""What a pop has taken whose reply is lost with the connection is told again: nothing is lost, and nothing doubled."""

# pyright: reportPrivateUsage=false
# A command that comes too late has to be sent by hand.

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from dataclasses import replace
from typing import Literal, TypeAlias, TypeVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.config import parse
from channel_layer.domain.frames import read_message
from channel_layer.domain.names import ChannelName
from channel_layer.testing import VirtualClock
from channel_layer.testing.suites.tools import receive_or_none
from channel_layer_redis import RedisChannelLayer, _scripts
from channel_layer_redis._keys import Keys
from channel_layer_redis._packing import Arg
from channel_layer_redis._requests import begin
from channel_layer_redis._requests.calls import PendingRequest, RequestSettings, ScriptCall
from channel_layer_redis.config import RedisConfig
from tests.support.network import Network
from tests.support.scenarios_delivery import BOUND, eventually
from tests.support.servers import Client, Deployment, ServerPool, connect, fresh_prefix

R = TypeVar("R")

POPPED = pytest.mark.parametrize("channel", ["jobs", "reply?x", "daemon!x"])
"""A channel of each kind that is popped."""

MARKER = _scripts.load("pop").sha
LOST = StoreError("the connection is lost", retryable=True, outcome="unknown")


@pytest.fixture
def network(one_host: Deployment) -> Generator[Network]:
    """Leads to the server."""
    with Network(one_host.servers[0].port) as network:
        yield network


# -- through layers


@pytest.mark.usefixtures("loops")
@POPPED
async def test_a_lost_reply_costs_no_message(network: Network, one_host: Deployment, prefix: str, channel: str) -> None:
    """Every reply to a pop is lost once: all messages arrive once, in order."""
    sender = RedisChannelLayer(hosts=one_host.urls, prefix=prefix)
    async with sender, RedisChannelLayer(hosts=[network.url], prefix=prefix) as receiver:
        assert await receive_or_none(receiver, channel) is None  # the server knows the script
        for number in range(5):
            await sender.send(channel, {"type": "n", "n": number})
        received: list[object] = []
        for _ in range(5):
            network.lose_replies(MARKER)
            message = await receive_or_none(receiver, channel, BOUND)
            received.append(message and message["n"])
        assert received == [*range(5)]
        assert await receive_or_none(receiver, channel) is None
        assert (await receiver.statistics(channel)).messages_pending == 0


@POPPED
async def test_a_lost_reply_costs_a_thread_no_message(
    network: Network, one_host: Deployment, prefix: str, channel: str
) -> None:
    """The same for a receive() in a thread."""
    source = channel.partition("!")[0] + "!" if "!" in channel else channel

    def take(receiver: ChannelLayer) -> list[object]:
        received: list[object] = []
        for _ in range(5):
            network.lose_replies(MARKER)
            _, message = receiver.blocking.receive([source], block=True, block_timeout=BOUND)
            received.append(message and message["n"])
        assert receiver.blocking.receive([source], block=False) == (None, None)
        return received

    sender = RedisChannelLayer(hosts=one_host.urls, prefix=prefix)
    async with sender, RedisChannelLayer(hosts=[network.url], prefix=prefix) as receiver:
        await asyncio.to_thread(receiver.blocking.receive, [source], block=False)
        for number in range(5):
            await sender.send(channel, {"type": "n", "n": number})
        assert await asyncio.to_thread(take, receiver) == [*range(5)]


async def test_what_was_popped_for_several_receivers(network: Network, one_host: Deployment, prefix: str) -> None:
    """Of five receivers, four are cancelled while replies are lost: all messages come, here or elsewhere."""
    sender = RedisChannelLayer(hosts=one_host.urls, prefix=prefix)
    other = RedisChannelLayer(hosts=one_host.urls, prefix=prefix)
    async with sender, other, RedisChannelLayer(hosts=[network.url], prefix=prefix) as receiver:
        assert await receive_or_none(receiver, "jobs") is None
        for number in range(5):
            await sender.send("jobs", {"type": "n", "n": number})
        network.lose_replies(MARKER, 1_000_000)
        tasks = [asyncio.create_task(receiver.receive("jobs")) for _ in range(5)]

        async def some_popped() -> bool:
            return (await other.statistics("jobs")).messages_pending in range(5)

        await eventually(some_popped, "a message is popped")
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        network.lose_replies(MARKER, 0)
        received = [(await tasks[0])["n"]]
        for _ in range(4):
            message = await receive_or_none(other, "jobs", BOUND)
            received.append(message and message["n"])
        assert sorted(received, key=str) == [*range(5)]


async def test_a_flush_drops_what_a_lost_reply_has_told(network: Network, one_host: Deployment, prefix: str) -> None:
    """After flush() nothing that was popped before comes again."""
    async with (
        RedisChannelLayer(hosts=one_host.urls, prefix=prefix) as other,
        RedisChannelLayer(hosts=[network.url], prefix=prefix, timeout=1) as receiver,
    ):
        assert await receive_or_none(receiver, "jobs") is None
        await other.send("jobs", {"type": "old"})
        network.lose_replies(MARKER, 1000)
        task = asyncio.create_task(receiver.receive("jobs"))

        async def popped() -> bool:
            return (await other.statistics("jobs")).messages_pending == 0

        await eventually(popped, "the message is popped")
        await other.flush()
        network.lose_replies(MARKER, 0)
        await other.send("jobs", {"type": "new"})
        assert await task == {"type": "new"}
        assert await receive_or_none(receiver, "jobs") is None


# -- call by call


class Shard:
    """One server, to which the calls of commands are sent by hand.

    Args:
        client: connected to the server.
        prefix: of the keys.
    """

    def __init__(self, client: Client, prefix: str) -> None:
        self._clock = VirtualClock()
        self._rules = parse(RedisConfig, {"prefix": prefix}).rules()
        self._client = client
        self.another_process()

    def another_process(self) -> None:
        """Begin commands from now on as another process would."""
        self._settings = RequestSettings(self._rules, self._clock)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._clock.advance(seconds)

    def begin(self, channel: str, count: int = 1) -> PendingRequest[c.Popped]:
        """Begin a pop; its first calls are not sent yet."""
        return begin(self._settings, c.Pop(0, ChannelName.parse(channel).queue, count, "me"))

    def send(self, request: PendingRequest[R]) -> R:
        """Send the calls of a request, and those that follow, and return its reply."""
        while request.calls:
            request.resume(self.replies(request.calls))
        return request.result()

    def replies(self, calls: Iterable[ScriptCall]) -> list[object]:
        """Send calls, and return the replies."""
        return [self._client.execute_command(*_as_script(call)) for call in calls]

    def flush(self) -> None:
        """Flush."""
        self.send(begin(self._settings, c.Flush(0, "flush")))

    def push(self, channel: str, *payloads: bytes) -> None:
        """Push messages."""
        for payload in payloads:
            assert self.send(begin(self._settings, c.Push(0, ChannelName.parse(channel), 1000, payload))).accepted


def _as_script(call: ScriptCall) -> tuple[Arg, ...]:
    """Return a call as one of a script, as redis-py would make something else of the reply to a command."""
    whole = replace(call, whole=True).command()
    return whole if call.script is not None else ("EVAL", "return redis.call(unpack(ARGV))", 0, *whole)


def _lose(request: PendingRequest[c.Popped]) -> tuple[ScriptCall, ...]:
    """Let a request fail as if the connection were lost; return the calls that may come to the server yet."""
    calls = request.calls
    request.resume([LOST])
    with pytest.raises(StoreError):
        request.result()
    return calls


def _payloads(popped: c.Popped) -> list[bytes]:
    return [read_message(entry.frame)[1] for entry in popped.entries]


@pytest.fixture
def shard(one_host: Deployment, prefix: str) -> Generator[Shard]:
    """The server."""
    with connect(one_host.hosts[0].url) as client:
        yield Shard(client, prefix)


@POPPED
def test_a_command_that_comes_after_its_repetition_takes_nothing(shard: Shard, channel: str) -> None:
    """Whether the repetition found a message or none."""
    late = _lose(shard.begin(channel))
    assert _payloads(shard.send(shard.begin(channel))) == []
    shard.push(channel, b"a", b"b")
    shard.replies(late)
    late = _lose(shard.begin(channel))
    assert _payloads(shard.send(shard.begin(channel))) == [b"a"]
    shard.replies(late)
    assert _payloads(shard.send(shard.begin(channel))) == [b"b"]
    shard.push(channel, b"c")
    shard.replies(late)
    assert _payloads(shard.send(shard.begin(channel))) == [b"c"]


@POPPED
def test_more_than_is_wanted_goes_back(shard: Shard, channel: str) -> None:
    """A repetition for fewer receivers returns a message for each, and puts the others back."""
    shard.push(channel, *(b"%d" % number for number in range(6)))
    shard.replies(_lose(shard.begin(channel, 4)))
    assert _payloads(shard.send(shard.begin(channel, 1))) == [b"0"]
    assert _payloads(shard.send(shard.begin(channel, 9))) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize("lost", [False, True])
def test_a_flush_amid_a_pop_removes_what_the_pop_had_taken(shard: Shard, *, lost: bool) -> None:
    """The pop of a claimed inbox, and one that is told again what it has taken, look for a flush, and find it."""
    channel = "jobs" if lost else "daemon!x"
    shard.push(channel, b"a")
    if lost:
        shard.replies(_lose(shard.begin(channel)))
    request = shard.begin(channel)
    request.resume(shard.replies(request.calls))
    shard.flush()
    popped = shard.send(request)
    assert (popped.entries, popped.flushed) == ((), 1)


def test_two_pops_at_once(shard: Shard) -> None:
    """Two pops of one queue at the same time, both lost, are both told again, whichever is asked for first."""
    shard.push("jobs", b"a", b"b", b"c")
    first, second = shard.begin("jobs"), shard.begin("jobs")
    shard.replies(_lose(second))
    shard.replies(_lose(first))
    again = shard.begin("jobs"), shard.begin("jobs"), shard.begin("jobs")
    assert sorted(payload for request in again for payload in _payloads(shard.send(request))) == [b"a", b"b", b"c"]


def test_the_records_of_readers_that_have_gone_are_removed(shard: Shard, one_host: Deployment, prefix: str) -> None:
    """Readers come and go while a queue is used all the time: what they took last is kept for an expiry."""
    records = Keys(prefix).taken("jobs")
    for _ in range(20):
        shard.another_process()
        shard.push("jobs", b"x")
        shard.send(shard.begin("jobs"))
        shard.advance(10)
    with one_host.hosts[0].admin() as admin:
        assert 6 <= admin.hlen(records) <= 7
        assert 0 < admin.pttl(records) <= 60_000


Fate: TypeAlias = Literal["arrives", "reply lost", "command lost", "late"]

FATES: tuple[Fate, ...] = get_args(Fate)


@pytest.mark.redis
@given(st.data())
def test_each_message_is_taken_once(server_pool: ServerPool, data: st.DataObject) -> None:
    """Whichever replies and commands are lost or late, every message comes once, and in order when one reader asks."""
    prefix = fresh_prefix()
    received, pushed = list[bytes](), list[bytes]()
    late = list[tuple[ScriptCall, ...]]()
    with connect(server_pool.get().host().url) as client:
        shard = Shard(client, prefix)
        channel = data.draw(st.sampled_from(["jobs", "daemon!x"]))
        for _ in range(data.draw(st.integers(1, 12))):
            some = [b"%d" % number for number in range(len(pushed), len(pushed) + data.draw(st.integers(0, 3)))]
            shard.push(channel, *some)
            pushed += some
            request = shard.begin(channel, data.draw(st.integers(1, 3)))
            match data.draw(st.sampled_from(FATES)):
                case "arrives":
                    received += _payloads(shard.send(request))
                case "reply lost":
                    shard.replies(_lose(request))
                case "command lost":
                    _lose(request)
                case "late":
                    late.append(_lose(request))
            for _ in range(data.draw(st.integers(0, len(late)))):
                shard.replies(late.pop(data.draw(st.integers(0, len(late) - 1))))
        for _ in range(len(pushed) + 1):
            received += _payloads(shard.send(shard.begin(channel)))
            if late:
                shard.replies(late.pop())
    assert received == pushed
    server_pool.remove(prefix)
