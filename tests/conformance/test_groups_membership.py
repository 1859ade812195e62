"""Who is in a group at the moment of a message, while owners and strangers change it all the time (invariant 10).

Every decision, delivered or not, is judged by the real-time order of the calls; the judge itself is judged first.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest

from channel_layer.testing.suites.membership import (
    Change,
    GroupSend,
    History,
    HistoryReport,
    Plan,
    check_history,
    merge,
    play,
)
from channel_layer_redis import RedisChannelLayer
from tests.support.processes import AsyncChild, Fleet
from tests.support.systems import System

_GROUPS = ("first", "second", "third")
_ROOM = 1_000_000
"""Capacity enough that nothing is ever full: a message that is missed was missed because of the group."""


# -- the judge -----------------------------------------------------------------------------------------------


def _judge(got: list[int], *changes: tuple[bool, int, int], send: tuple[int, int] = (100, 110)) -> HistoryReport:
    """Judge one message 1 to a group, and one channel with these changes: (joined, called, returned)."""
    history = History(
        [Change("group", "channel", *change) for change in changes], [GroupSend("group", 1, *send)], {"channel": got}
    )
    return check_history(history)


@pytest.mark.parametrize(
    ("changes", "ways"),
    [
        ([], {False}),
        ([(True, 10, 20)], {True}),
        ([(True, 120, 130)], {False}),
        ([(True, 95, 105)], {True, False}),
        ([(True, 105, 120)], {True, False}),
        ([(True, 95, 200)], {True, False}),
        ([(True, 10, 20), (False, 30, 40)], {False}),
        ([(False, 10, 20), (True, 30, 40)], {True}),
        ([(True, 10, 50), (False, 40, 60)], {True, False}),
        ([(True, 10, 50), (False, 40, 60), (True, 70, 80)], {True}),
        ([(True, 10, 20), (True, 95, 105)], {True}),
        ([(True, 10, 20), (False, 95, 105)], {True, False}),
        ([(True, 10, 20), (False, 30, 40), (True, 120, 130)], {False}),
        ([(True, 10, 20), (False, 30, 105), (False, 50, 60)], {False}),
        ([(True, 10, 20), (False, 102, 300), (True, 105, 106)], {True, False}),
        ([(True, 10, 1000), (False, 20, 30)], {True, False}),
        ([(False, 20, 30), (True, 40, 50), (False, 45, 60), (True, 44, 99)], {True, False}),
    ],
)
def test_the_judge_knows_what_may_be(changes: list[tuple[bool, int, int]], ways: set[bool]) -> None:
    """A history is refused exactly if no change that may have been the last one before the send explains it."""
    for got in (True, False):
        report = _judge([1] if got else [], *changes)
        assert (got in ways) == (not report.wrong), report
        assert (report.decisions, report.definite) == (1, len(ways) == 1)


def test_the_judge_sees_a_copy_too_many() -> None:
    """A channel that got a message twice is refused, whatever the changes were."""
    assert len(_judge([1, 1], (True, 10, 20)).wrong) == 1


# -- the layers ----------------------------------------------------------------------------------------------


async def _play_all(system: System, plan: Plan, channels: int) -> HistoryReport:
    """Play with three layers in one loop, each with its own channels and some that no process owned."""
    layers = [system.layer(capacity=_ROOM, inbox_capacity=_ROOM) for _ in range(3)]
    try:
        mine = [[await layer.new_channel() for _ in range(channels)] for layer in layers]
        mine[0] += ["claimed!one", "claimed!two"]
        mine[1] += ["single?reader"]
        everybody = [name for names in mine for name in names]
        meeting = asyncio.Barrier(len(layers))
        parts = (play(layer, n, mine[n], everybody, plan, meeting.wait) for n, layer in enumerate(layers))
        return check_history(merge(await asyncio.gather(*parts)))
    finally:
        for layer in layers:
            await layer.aclose()


@pytest.mark.usefixtures("settled")
@pytest.mark.slow
def test_no_decision_of_100_000_contradicts_the_changes_around_it(system: System) -> None:
    """The same over 100 000 decisions."""
    report = asyncio.run(_play_all(system, Plan(_GROUPS, sends=620, seed=1), channels=17))
    assert report.wrong == ()
    assert report.decisions == 3 * 620 * 54
    assert report.definite > report.decisions / 2


# -- processes -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    urls: tuple[str, ...]
    prefix: str
    number: int
    plan: Plan


async def _play_part(child: AsyncChild, part: _Part) -> History:
    async with RedisChannelLayer(hosts=part.urls, prefix=part.prefix, capacity=_ROOM, inbox_capacity=_ROOM) as layer:
        mine = [await layer.new_channel() for _ in range(11)]
        if not part.number:
            mine += ["claimed!one", "claimed!two", "single?reader"]
        everybody = json.loads(await child.ready(json.dumps(mine)))
        return await play(layer, part.number, mine, everybody, part.plan, child.ready)


@pytest.mark.slow
def test_no_decision_among_processes_contradicts_the_changes_around_it(redis_system: System) -> None:
    """The same among three processes, each with an inbox of its own: 32 000 decisions."""
    assert redis_system.deployment is not None
    urls = tuple(redis_system.deployment.urls)
    with Fleet() as fleet:
        plan = Plan(_GROUPS, sends=300)
        workers = [fleet.spawn(_play_part, _Part(urls, redis_system.prefix, n, plan)) for n in range(3)]
        everybody = [name for worker in workers for name in json.loads(worker.wait_ready())]
        fleet.go(json.dumps(everybody))
        fleet.go()  # all have come to the start
        fleet.go(timeout=120)  # all have made their last change
        history = merge([worker.result() for worker in workers])
    report = check_history(history)
    assert report.wrong == ()
    assert report.decisions == 3 * 300 * 36
    assert report.definite > report.decisions / 2
