"""Plans for flushes: a new epoch, and everything of the prefix emptied."""

from __future__ import annotations

from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer_redis import _scripts
from channel_layer_redis._keys import SCAN_COUNT, split
from channel_layer_redis._replies import list_of, number, text, texts
from channel_layer_redis._requests.calls import ScriptCall, call_command, run_command
from channel_layer_redis._requests.epochs import read_clock

if TYPE_CHECKING:
    from channel_layer_redis._requests.calls import PlanTable, RequestPlan
    from channel_layer_redis._requests.settings import RequestSettings

__all__ = ("FlushPlans",)

_FLUSH_INBOX = _scripts.load("flush_inbox")


class FlushPlans:
    """Commands about flushes.

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
            c.Flush: self.flush,
            c.Unflushed: self.unflushed,
        }

    def flush(self, command: c.Flush) -> RequestPlan[c.Flushing]:
        """Set a new epoch, then empty all keys of this prefix."""
        lifetime = max(self._settings.left, self._settings.group)
        began = yield from read_clock(self._settings.offset)
        yield from run_command("SET", self._keys.epoch, f"{command.generation} {began:.3f}", "PX", lifetime)
        inboxes: list[str] = []
        dropped = 0
        cursor = "0"
        while True:
            step = yield from run_command("SCAN", cursor, "MATCH", self._keys.pattern, "COUNT", SCAN_COUNT)
            head, keys = list_of(step)
            cursor = text(head)
            found = [split(self._keys.prefix, key) for key in texts(keys)]
            leases = [name for kind, name in found if kind == "l"]
            for name, count in (yield from self._flush_inboxes(command, leases)):
                if count >= 0:
                    inboxes.append(name)
                    dropped += count
            dropped += yield from self._flush_others(found)
            if cursor == "0":
                return c.Flushing(tuple(inboxes), dropped)

    def _flush_inboxes(self, command: c.Flush, names: list[str]) -> RequestPlan[list[tuple[str, int]]]:
        args = (command.generation, self._settings.offset)
        replies = yield tuple(ScriptCall(_FLUSH_INBOX, self._keys.inbox(name), args) for name in names)
        return [(name, number(reply)) for name, reply in zip(names, replies, strict=True)]

    def _flush_others(self, found: list[tuple[str, str]]) -> RequestPlan[int]:
        found = list(dict.fromkeys(found))  # SCAN may name a key twice, which would be counted twice
        # An inbox with a lease is flushed with that. Without one its stream is trimmed, as the owner may return.
        streams = [name for kind, name in found if kind == "s"]
        living = yield from self._have_leases(streams)
        dead = [name for name, lives in zip(streams, living, strict=True) if not lives]
        trims = [call_command("XTRIM", self._keys.inbox(name)[1], "MAXLEN", 0) for name in dead]
        lines = [self._keys.queue(name)[0] for kind, name in found if kind == "q"]
        lengths = [call_command("LLEN", key) for key in lines]
        others = [f"{self._keys.prefix}{kind}:{{{name}}}" for kind, name in found if kind not in "lcesq"]
        removals = [call_command("UNLINK", key) for key in (*lines, *others)]
        replies = yield (*lengths, *removals, *trims)
        return sum(number(reply) for reply in replies[: len(lengths)])

    def _have_leases(self, names: list[str]) -> RequestPlan[list[bool]]:
        """Return which inboxes have a lease."""
        replies = yield tuple(call_command("HEXISTS", self._keys.inbox(name)[0], "g") for name in names)
        return [reply == 1 for reply in replies]

    def unflushed(self, command: c.Unflushed) -> RequestPlan[tuple[str, ...]]:
        """Return the inboxes whose owners have not acknowledged the flush."""
        replies = yield tuple(call_command("HMGET", self._keys.inbox(name)[0], "g", "f") for name in command.inboxes)
        left: list[str] = []
        for name, reply in zip(command.inboxes, replies, strict=True):
            generation, flushed = list_of(reply)
            if generation is not None and flushed != generation:  # of this flush, a later one, or a new lease
                left.append(name)
        return tuple(left)
