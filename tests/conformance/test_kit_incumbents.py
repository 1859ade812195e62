"""What is wrong with the layers that people use today, planted into copies of ours: the kit finds each of it."""

# pyright: reportPrivateUsage=false
# What is wrong is deep inside.

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings

from channel_layer import ChannelFull, ChannelLayer, Message
from channel_layer import commands as c
from channel_layer.domain import names, routing
from channel_layer.domain.names import ChannelName, Kind, Queue
from channel_layer.domain.rules import Rules
from channel_layer.operations.steps import execute
from channel_layer.ports import Backend, Capabilities, Clock
from channel_layer.testing import (
    LayerSuite,
    MakeLayer,
    MakeStore,
    StoreSuite,
    Violation,
    layers_over,
    run_async_conformance_test,
    run_layer_conformance_test,
)
from channel_layer.testing.suites.stores import StoreEnvironment
from channel_layer.testing.suites.tools import LayerEnvironment
from channel_layer_memory._store import MemoryBackend, MemoryStore
from tests.support.servers import Deployment
from tests.support.stores import halves, memory_stores, redis_stores, shared
from tests.support.wrong_stores import ChecksThenPushes, wrong_stores

pytestmark = pytest.mark.usefixtures("tidied")

_QUICK = settings(
    max_examples=300,
    stateful_step_count=30,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
    report_multiple_bugs=False,
)
_PATIENCE = 0.3


def _over(kind: type[ChannelLayer], make_store: MakeStore) -> MakeLayer:
    def make_layer(rules: Rules, clock: Clock) -> ChannelLayer:
        return kind(rules, make_store(rules, clock), clock=clock)

    return make_layer


def _is_found_by_machine(make_layer: MakeLayer) -> None:
    with pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        run_layer_conformance_test(make_layer, settings=_QUICK, patience=_PATIENCE)


def _is_found_in_store(make_store: MakeStore) -> None:
    with pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        run_async_conformance_test(make_store, settings=_QUICK)


def _env(kind: type[ChannelLayer]) -> LayerEnvironment:
    return LayerEnvironment(_over(kind, memory_stores()), Capabilities(), patience=_PATIENCE)


class IdleTimeout(ChannelLayer):
    """Takes a receive() without a message for a lost connection."""

    async def receive(self, channel: str) -> Message:
        """Wait, but not for long."""
        async with asyncio.timeout(self._rules.timeout):
            return await super().receive(channel)


def test_a_receive_that_dies_of_idleness() -> None:
    """A driver's timeout that ends an idle receive() is found."""
    with pytest.raises((Violation, TimeoutError)):
        LayerSuite().test_a_receive_that_waits_for_long_gets_its_message(_env(IdleTimeout))


class RoutesByFullName(ChannelLayer):
    """Looks for the host of a channel by its full name, where its reader looks by its inbox's."""

    async def send(self, channel: str, message: Mapping[str, object]) -> None:
        """Send to the wrong host, mostly."""
        name = ChannelName.parse(channel)
        shard = self._pipeline.routes.ring.queue(Queue(name.name, Kind.INBOX))
        push = c.Push(shard, name, self._rules.capacity.of(channel), self._pipeline.codec.encode(message))
        pushed = await self._run(execute(push))
        if not pushed.accepted:
            raise ChannelFull(channel, push.capacity)
        self._state.counters.sent += 1


def test_a_send_that_hashes_the_full_name(three_hosts: Deployment) -> None:
    """A sender and a reader that disagree about the host are found."""
    _is_found_by_machine(_over(RoutesByFullName, redis_stores(three_hosts)))


class _OneHost(routing.Routes):
    def shards(self, queue: Queue) -> tuple[int, ...]:
        """Look at one host only."""
        return self.ring.order(queue)[:1]


class WaitsAtOneHost(ChannelLayer):
    """Looks for the messages of a normal channel on one host."""

    def _begin(self) -> None:
        routes = self._pipeline.routes
        self._pipeline.routes = self._pipeline.state.routes = _OneHost(routes.ring, routes.capacity)
        super()._begin()


def test_a_worker_that_looks_at_one_host_only(three_hosts: Deployment) -> None:
    """A worker that does not see the messages on another host is found."""
    _is_found_by_machine(_over(WaitsAtOneHost, redis_stores(three_hosts)))


class _Backing(MemoryBackend):
    """A memory backend whose stores are of another kind."""

    store: ClassVar[type[MemoryStore]] = MemoryStore

    def open(self) -> MemoryStore:
        """Make one."""
        return self.store(self)


class _InFlight(MemoryStore):
    """Keeps what was popped until the next pop, for a reader that may have died; and gives it out again."""

    def pop(self, request: c.Pop, /) -> c.Popped:
        """Take, and keep."""
        popped = super().pop(request)
        kept: dict[str, tuple[c.Entry, ...]] = self._all.__dict__.setdefault("kept", {})
        again = kept.pop(request.queue.name, ())
        if request.count and popped.entries:
            kept[request.queue.name] = popped.entries
        return replace(popped, entries=(*again, *popped.entries)[: request.count])


class InFlight(_Backing):
    """See the store."""

    store: ClassVar[type[MemoryStore]] = _InFlight


def test_a_message_that_is_queued_again_behind_its_reader_s_back() -> None:
    """A list of messages in flight from which another worker is served is found, in the store and above it."""
    _is_found_in_store(shared(InFlight))
    _is_found_by_machine(layers_over(shared(InFlight)))


def test_what_is_in_flight_for_ever() -> None:
    """Messages kept for a reader that never comes back, in a place without a lifetime, are found."""
    backends: dict[str, InFlight] = {}

    class Suite(StoreSuite):
        counts_remains = True

        def remains(self, prefix: str) -> int:
            """Count what is kept, in flight or not."""
            backend = backends[prefix]
            kept: dict[str, tuple[c.Entry, ...]] = backend.__dict__.get("kept", {})
            return len(kept)

    def make_store(rules: Rules, clock: Clock) -> Backend:
        return backends.setdefault(rules.prefix, InFlight(rules, clock))

    suite = Suite()
    with pytest.raises(Violation):
        suite.test_nothing_is_left_when_all_limits_have_passed(StoreEnvironment(make_store, patience=_PATIENCE))


class SharedMutables(ChannelLayer):
    """Gives every member of a group the same dict."""

    def _begin(self) -> None:
        super()._begin()
        decode = self._pipeline.codec.decode
        known: dict[bytes, Message] = {}

        class Codec:
            encode = self._pipeline.codec.encode

            def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
                """Decode what is shared once."""
                return known.setdefault(payload, decode(payload)) if shared else decode(payload)

        self._pipeline.codec = Codec()


def test_recipients_that_share_a_message() -> None:
    """A dict that two consumers hold is found."""
    _is_found_by_machine(_over(SharedMutables, memory_stores()))


def test_a_capacity_that_concurrent_senders_exceed() -> None:
    """A check and a push that are two steps are found."""
    _is_found_in_store(wrong_stores(ChecksThenPushes))
    env = LayerEnvironment(layers_over(wrong_stores(ChecksThenPushes)), Capabilities(), patience=_PATIENCE)
    with pytest.raises(Violation):
        LayerSuite().test_concurrent_senders_get_exactly_the_capacity(env)


class FlushesByBeginning:
    """Makes backends whose flush takes all prefixes that begin like its own for its own."""

    def __init__(self) -> None:
        self.backends: dict[str, MemoryBackend] = {}

    def __call__(self, rules: Rules, clock: Clock) -> Backend:
        """Return the backend of a prefix."""
        backends = self.backends

        class Store(MemoryStore):
            def flush(self, request: c.Flush, /) -> c.Flushing:
                """Flush the neighbours, too."""
                for prefix, backend in backends.items():
                    if prefix.startswith(rules.prefix[:-1]) and prefix != rules.prefix:
                        MemoryStore(backend).flush(request)
                return super().flush(request)

        class Neighbourly(_Backing):
            store: ClassVar[type[MemoryStore]] = Store

        return backends.setdefault(rules.prefix, Neighbourly(rules, clock))


def test_a_flush_that_takes_its_neighbours_along() -> None:
    """A flush of "asgi" that deletes what belongs to "asgi2" is found."""
    with pytest.raises(Violation), contextlib.redirect_stdout(io.StringIO()):
        run_async_conformance_test(FlushesByBeginning(), settings=_QUICK)


def test_names_that_are_matched_from_their_beginning_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names with a line break, or letters that only look like ASCII, are found when they are accepted."""

    class Loose:
        def fullmatch(self, value: str) -> re.Match[str] | None:
            """Match the beginning, in any alphabet."""
            return re.match(r"[\w\-.]+(?:[!?][\w\-.]*)?$", value)

    monkeypatch.setattr(names, "_CHANNEL", Loose())
    with pytest.raises(Violation):
        LayerSuite().test_names_that_are_none_are_refused(_env(ChannelLayer))


class ForgetsItsPatterns(ChannelLayer):
    """Never compiles the patterns of channel_capacity."""

    def __init__(self, rules: Rules, backend: Backend, *, clock: Clock | None = None) -> None:
        table = type(rules.capacity)(rules.default_capacity)
        super().__init__(replace(rules, capacity=table), backend, clock=clock)


def test_patterns_that_have_no_effect() -> None:
    """A channel_capacity that is not heeded is found."""
    with pytest.raises(Violation):
        LayerSuite().test_the_first_pattern_that_matches_decides(_env(ForgetsItsPatterns))


class _AfterTheOther(MemoryStore):
    async def wait(self, request: c.Wait, /) -> None:
        """Be busy with the other store until that one's wait is over."""
        await asyncio.sleep(request.block)


class AfterTheOther(_Backing):
    """A half of two that is only looked at when the other one has brought nothing for long."""

    store: ClassVar[type[MemoryStore]] = _AfterTheOther


def test_a_wait_for_one_half_after_the_other() -> None:
    """A receive() that does not hear of a message here while it waits for one from elsewhere is found."""
    make_layer = _over(ChannelLayer, halves(shared(AfterTheOther), memory_stores()))
    with pytest.raises(Violation):
        LayerSuite().test_a_receive_that_waits_for_long_gets_its_message(
            LayerEnvironment(make_layer, Capabilities(), patience=_PATIENCE)
        )


class LosesWithASibling(ChannelLayer):
    """Holds messages of siblings in the receive() of one consumer, and loses them when that is cancelled."""

    async def receive(self, channel: str) -> Message:
        """Take first, and then look whether the caller is still there."""
        message = await super().receive(channel)
        await asyncio.sleep(0)
        return message


def test_messages_lost_when_consumers_come_and_go() -> None:
    """A message that is lost when a consumer disconnects is found."""
    _is_found_by_machine(_over(LosesWithASibling, memory_stores()))
