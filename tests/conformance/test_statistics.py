"""How processes report their counts to the store: once a second and at the end of an event loop, not with each send."""

# pyright: reportPrivateUsage=false
# The requests to a store are observed in its private class.

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from channel_layer import ChannelLayer, StoreError
from channel_layer import commands as c
from channel_layer.domain.rules import Faults
from channel_layer.stores.faults import FaultyBackend
from channel_layer.testing import VirtualClock, make_rules
from channel_layer.testing.suites.tools import in_fork
from channel_layer_memory._store import MemoryBackend, MemoryStore
from tests.support.servers import Deployment
from tests.support.systems import System, run

_MANY = 500


def _keys(deployment: Deployment, prefix: str) -> list[str]:
    return [key.removeprefix(prefix) for key in deployment.keys(prefix)]


async def test_a_send_costs_no_round_trip_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of sends cause no request but their pushes; the counts are reported once, when the layer closes."""
    asked = Counter[str]()
    push, report = MemoryStore.push, MemoryStore.report

    def counted_push(self: MemoryStore, request: c.Push, /) -> c.Pushed:
        asked["push"] += 1
        return push(self, request)

    def counted_report(self: MemoryStore, request: c.Report, /) -> None:
        asked["report"] += request.messages
        asked["reports"] += 1
        report(self, request)

    monkeypatch.setattr(MemoryStore, "push", counted_push)
    monkeypatch.setattr(MemoryStore, "report", counted_report)
    monkeypatch.setattr("channel_layer.runtime.reporting.REPORT_SECONDS", 3600.0)  # however slow this machine is

    rules = make_rules(capacity=_MANY)
    async with ChannelLayer(rules, MemoryBackend(rules, VirtualClock())) as layer:
        for _ in range(_MANY):
            await layer.send("jobs", {})
        assert asked == {"push": _MANY}
    assert asked == {"push": _MANY, "report": _MANY, "reports": 1}


@pytest.mark.usefixtures("loops")
def test_the_end_of_a_loop_tells_the_store(system: System) -> None:
    """Sends in event loops that have ended are visible to other processes, and are counted once."""
    system.options = {"capacity": 10}
    layer, watcher = system.layer(), system.layer()

    async def send() -> None:
        await layer.send("jobs", {"n": 1})

    async def look(at: ChannelLayer) -> int:
        return (await at.statistics("jobs")).messages_count

    async def close() -> None:
        await layer.aclose()
        assert await look(watcher) == 3
        await watcher.aclose()

    for _ in range(3):
        asyncio.run(send())
    assert asyncio.run(look(layer)) == 3
    asyncio.run(close())


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("told", [False, True])
async def test_a_failed_report_is_repeated_only_if_it_was_not_sent(*, told: bool) -> None:
    """A report that was not sent is included in the next one; a report whose reply was lost is not repeated."""
    rules = make_rules()
    backend = FaultyBackend(MemoryBackend(rules, VirtualClock()), Faults())
    async with ChannelLayer(rules, backend) as layer:
        await layer.send("jobs", {"n": 1})
        backend.fail_once(c.Report, acted=told)
        first = (await layer.statistics("jobs")).messages_count
        assert first == (1 if told else 0)
        await layer.send("jobs", {"n": 2})
        assert (await layer.statistics("jobs")).messages_count == 2


@pytest.mark.usefixtures("settled")
async def test_without_a_store_there_are_no_statistics_but_counts() -> None:
    """statistics() raises when the store cannot be reached; counts() needs no store."""
    rules = make_rules()
    backend = FaultyBackend(MemoryBackend(rules, VirtualClock()), Faults())
    async with ChannelLayer(rules, backend) as layer:
        await layer.send("jobs", {"n": 1})
        backend.fail_once(c.Survey)
        with pytest.raises(StoreError):
            await layer.statistics()
        assert layer.counts().sent == 1
    assert layer.counts().sent == 1


def test_a_fork_counts_nothing_twice(redis_system: System) -> None:
    """Counts not reported before a fork are reported by the parent alone; the child reports its own sends."""
    layer = redis_system.layer(capacity=10)

    async def send() -> None:
        await layer.send("jobs", {"n": os.getpid()})

    async def look() -> int:
        return (await layer.statistics("jobs")).messages_count

    async def in_child() -> None:
        await send()
        assert await look() == 1
        await layer.aclose()

    async def finish() -> None:
        assert await look() == 3
        await layer.aclose()

    with asyncio.Runner() as runner:
        runner.run(send())
        runner.run(send())
        assert layer._state.counters.pending_counts
        in_fork(lambda: run(in_child()), 30, "a fork after use starts anew")
        runner.run(finish())


async def test_statistics_tell_no_names_that_are_hidden(one_host: Deployment, prefix: str) -> None:
    """With ``blind_names`` the keys of statistics hold tokens, and statistics of each channel are found by its name."""
    pytest.importorskip("cryptography")
    from channel_layer_redis import RedisChannelLayer  # noqa: PLC0415 - a layer with its options, for this test alone

    layer = RedisChannelLayer(
        hosts=one_host.urls, prefix=prefix, symmetric_encryption_keys=["k" * 32], blind_names=True
    )
    async with layer:
        for name in ("jobs", "reply?x", "daemon!x", await layer.new_channel("private")):
            await layer.send(name, {"n": 1})
            assert (await layer.statistics(name)).messages_count == 1
    counted = [key for key in _keys(one_host, prefix) if key.startswith("n:")]
    assert len(counted) == 5
    assert not any(word in key for key in counted for word in ("jobs", "reply", "daemon", "private"))


async def test_both_facades_count_together(system: System) -> None:
    """Blocking and async sends are counted together; both facades return the sum, the blocking one as ASGI 1's dict."""
    layer, watcher = system.layer(capacity=3), system.layer(capacity=3)

    await layer.send("jobs", {"n": 0})
    for number in (1, 2):
        layer.blocking.send("jobs", {"n": number})
    with pytest.raises(layer.ChannelFull):
        layer.blocking.send("jobs", {"n": 3})
    told = layer.blocking.channel_statistics("jobs")
    assert (told["messages_count"], told["channel_full_count"], told["messages_pending"]) == (3, 1, 3)
    assert 3 / 70 <= told["messages_count_per_second"] <= 3 / 60
    assert layer.blocking.global_statistics()["messages_count"] == 3
    assert (await watcher.statistics("jobs")).messages_count == 3
    layer.blocking.receive(["jobs"])
    layer.blocking.send("jobs", {"n": 4})
    layer.blocking.close()  # which reports to the store
    assert (await watcher.statistics("jobs")).messages_count == 4
    await layer.aclose()
    await watcher.aclose()
