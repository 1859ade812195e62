"""Plans for statistics: what processes report, and what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.frames import message_frame
from channel_layer.domain.names import Kind, Queue
from channel_layer.domain.rates import SLICE_SECONDS, SLICES, Rates
from channel_layer_redis import _scripts
from channel_layer_redis._keys import SCAN_COUNT, split
from channel_layer_redis._replies import list_of, number, numbers, text, texts
from channel_layer_redis._requests.calls import ScriptCall, run_command, run_script

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan
    from channel_layer_redis._requests.settings import RequestSettings

__all__ = ("StatisticsPlans",)

_COUNT = _scripts.load("count")
_COUNTED = _scripts.load("counted")
_SURVEY = _scripts.load("survey")

_SLICES = (int(SLICE_SECONDS * 1000), SLICES)
"""How the scripts divide time: milliseconds of a slice, and how many are kept."""


class StatisticsPlans:
    """Commands about statistics.

    Args:
        settings: what all requests have in common.
    """

    def __init__(self, settings: RequestSettings) -> None:
        self._settings = settings
        self._keys = settings.keys

    @property
    def table(self) -> PlanTable:
        """The plan of each of these commands."""
        return {
            c.Report: self.report,
            c.Reported: self.reported,
            c.Survey: self.survey,
        }

    def report(self, command: c.Report) -> RequestPlan[None]:
        """Add to the statistics of each queue, and to those of all queues."""
        settings = self._settings
        calls = [
            (self._keys.counts(count.queue.name), settings.queue_counts, count.messages, count.refused)
            for count in command.counts
        ]
        calls.append((self._keys.counts(), settings.all_counts, command.messages, command.refused))
        yield tuple(ScriptCall(_COUNT, (key,), (*_SLICES, settings.offset, *args)) for key, *args in calls)

    def reported(self, command: c.Reported) -> RequestPlan[Rates]:
        """Return what was reported."""
        key = self._keys.counts() if command.queue is None else self._keys.counts(command.queue.name)
        messages, refused, lately, refused_lately, span = numbers(
            (yield from run_script(_COUNTED, (key,), *_SLICES, self._settings.offset))
        )
        return Rates(messages, refused, lately, refused_lately, span / 1000)

    def survey(self, command: c.Survey) -> RequestPlan[c.Surveyed]:
        """Return how many messages wait, and the age of the oldest one."""
        channel = command.channel
        found: list[tuple[int, float | None]] = []
        if channel is not None:
            found = yield from self._waiting((channel.queue,), message_frame(channel.name, b""))
        else:
            looked = set[Queue]()
            cursor = ""
            while cursor != "0":
                step = yield from run_command("SCAN", cursor or "0", "MATCH", self._keys.pattern, "COUNT", SCAN_COUNT)
                head, keys = list_of(step)
                cursor = text(head)
                kinds = (split(self._keys.prefix, key) for key in texts(keys))
                new = {Queue.named(name) for kind, name in kinds if kind in "ql"} - looked
                looked |= new  # an inbox has both keys, and any key may come twice
                found += yield from self._waiting(tuple(new), b"m")
        ages = [age for _, age in found if age is not None]
        return c.Surveyed(sum(count for count, _ in found), max(ages, default=None))

    def _waiting(self, queues: tuple[Queue, ...], begins: bytes) -> RequestPlan[list[tuple[int, float | None]]]:
        """Return the number of frames that begin so in each queue, and the age in seconds of the oldest one."""
        calls: list[ScriptCall] = []
        for queue in queues:
            keys: tuple[str, ...] = self._keys.queue(queue.name)[:1]
            if queue.kind is Kind.INBOX:
                keys = (*keys, *self._keys.inbox(queue.name))
            calls.append(ScriptCall(_SURVEY, keys, (self._settings.expiry, self._settings.offset, begins)))
        replies = yield tuple(calls)
        found: list[tuple[int, float | None]] = []
        for reply in replies:
            count, age = list_of(reply)
            found.append((number(count), None if age is None else number(age) / 1000))
        return found
