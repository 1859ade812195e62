"""Plans of commands about statistics: what processes report, and what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind, Queue
from channel_layer.domain.rates import SLICE_SECONDS, SLICES, Rates
from channel_layer.errors import DamagedRecord
from channel_layer_redis import _scripts
from channel_layer_redis._replies import list_of, number, numbers
from channel_layer_redis._requests.calls import Each, ScriptCall, run_script, scan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer_redis._requests.calls import RequestPlan, RequestSettings

__all__ = ("report", "reported", "survey")

_COUNT = _scripts.load("count")
_COUNTED = _scripts.load("counted")
_SURVEY = _scripts.load("survey")

_SLICES = (int(SLICE_SECONDS * 1000), SLICES)
"""How the scripts divide time: milliseconds of a slice, and how many are kept."""


def report(settings: RequestSettings, command: c.Report) -> RequestPlan[None]:
    """Add to the statistics of each queue, and to those of all queues."""
    calls = [
        (settings.keys.counts(count.queue.name), settings.queue_counts, count.messages, count.refused)
        for count in command.counts
    ]
    calls.append((settings.keys.counts(), settings.all_counts, command.messages, command.refused))
    yield tuple(ScriptCall(_COUNT, (key,), (*_SLICES, settings.offset, *args)) for key, *args in calls)


def reported(settings: RequestSettings, command: c.Reported) -> RequestPlan[Rates]:
    """Return what was reported."""
    key = settings.keys.counts() if command.queue is None else settings.keys.counts(command.queue.name)
    messages, refused, lately, refused_lately, span = numbers(
        (yield from run_script(_COUNTED, (key,), *_SLICES, settings.offset))
    )
    return Rates(messages, refused, lately, refused_lately, span / 1000)


def survey(settings: RequestSettings, command: c.Survey) -> RequestPlan[c.Surveyed]:
    """Return how many messages wait, and the age of the oldest one."""
    channel = command.channel
    found: list[tuple[int, float | None]] = []
    if channel is not None:
        found = _surveyed((yield (_survey(settings, channel.queue, message_frame(channel.name, b"")),)))
    else:
        looked = set[Queue]()
        cursor = ""
        while cursor != "0":
            cursor, keys = yield from scan(settings, cursor)
            new = {Queue.named(name) for kind, name in keys if kind in "ql"} - looked
            looked |= new  # an inbox has both keys, and any key may come twice
            replies = yield Each(_survey(settings, queue, b"m") for queue in new)
            found += _surveyed(reply for reply in replies if not isinstance(reply, DamagedRecord))
    ages = [age for _, age in found if age is not None]
    return c.Surveyed(sum(count for count, _ in found), max(ages, default=None))


def _survey(settings: RequestSettings, queue: Queue, begins: bytes) -> ScriptCall:
    """Look how many frames in a queue begin so, and how old they are."""
    keys: tuple[str, ...] = settings.keys.queue(queue.name)[:1]
    if queue.kind is Kind.INBOX:
        keys = (*keys, *settings.keys.inbox(queue.name))
    return ScriptCall(_SURVEY, keys, (settings.expiry, settings.offset, begins))


def _surveyed(replies: Iterable[object]) -> list[tuple[int, float | None]]:
    """Return how many frames were found in each queue, and the age in seconds of the oldest one."""
    found: list[tuple[int, float | None]] = []
    for reply in replies:
        count, age = list_of(reply)
        found.append((number(count), None if age is None else number(age) / 1000))
    return found
