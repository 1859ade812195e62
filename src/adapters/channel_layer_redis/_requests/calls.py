"""What a command asks a server for, step by step, and how far a command that is being carried out has come.

All that the plans of commands share: the settings, the calls, and the steps that several of them take.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypeVar

from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer.errors import DamagedRecord, StoreError
from channel_layer_redis._keys import SCAN_COUNT, Keys
from channel_layer_redis._repeatable_pops import RepeatablePops
from channel_layer_redis._replies import UNREADABLE, Refusal, UnknownScript, damaged, explained, list_of, text, texts

if TYPE_CHECKING:
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer_redis._packing import Arg
    from channel_layer_redis._scripts import Script

__all__ = (
    "Each",
    "PendingRequest",
    "RequestPlan",
    "RequestSettings",
    "ScriptCall",
    "call_command",
    "get_clock",
    "get_epoch",
    "read_clock",
    "read_epoch",
    "run_command",
    "run_script",
    "scan",
)

R = TypeVar("R")

_EPOCH: Final = re.compile(r"([\w-]+) (\d{1,15}\.\d{3})", re.ASCII)
"""What a flush writes: its name, and when it began in ms."""

_COMMANDS: Final = re.compile(r"redis\.p?call\('(\w+)'")
_KEYS: Final = re.compile(r"KEYS\[(\d+)\]")
"""What a line of a script calls, and with which keys."""


class RequestSettings:
    """The configuration as requests need it.

    Attributes:
        keys: the shard's; each partition of a Cluster has others.
        expiry: milliseconds that a message lives.
        lease: milliseconds that a lease lasts.
        left: milliseconds for which it is known which members have left a group.
        group: milliseconds that the membership of a channel lasts that the owner of its inbox did not add.
        owned: milliseconds that one lasts that the owner did add; -1: as long as the owner lives.
        all_counts: milliseconds that the statistics of all queues together are kept.
        queue_counts: milliseconds that those of one queue are kept.
        pops: those of this process.
    """

    def __init__(self, rules: Rules, clock: Clock, tag: str = "") -> None:
        self._clock = clock
        self.pops: RepeatablePops = RepeatablePops(rules.expiry)
        self.keys: Keys = Keys(rules.prefix, tag)
        self.expiry: int = _milliseconds(rules.expiry)
        self.lease: int = _milliseconds(rules.expiry * LEASE_FACTOR)
        self.left: int = 2 * self.lease
        self.group: int = _milliseconds(rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME)
        self.owned: int = -1 if rules.group_expiry is None else self.group
        self.inbox_capacity: int = rules.inbox_capacity
        whole, each = counts_lifetimes(rules.group_expiry)
        self.all_counts: int = _milliseconds(whole)
        self.queue_counts: int = _milliseconds(each)

    @property
    def offset(self) -> int:
        """Milliseconds to add to the server's clock."""
        return round(self._clock.offset * 1000)


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


@dataclass(frozen=True, slots=True)
class ScriptCall:
    """One call of a script, or one command of the server's own.

    Attributes:
        script: what to run; None: the arguments are a command.
        whole: send the text of the script, for a server that does not know it.
    """

    script: Script | None
    keys: tuple[str, ...]
    args: tuple[Arg, ...]
    whole: bool = False

    def command(self) -> tuple[Arg, ...]:
        """Return the command."""
        if self.script is None:
            return self.args
        name = (b"EVAL", self.script.source) if self.whole else (b"EVALSHA", self.script.sha)
        return (*name, len(self.keys), *self.keys, *self.args)

    def failure(self, error: Exception) -> StoreError:
        """Return the error to raise for what has come of this call: it names the queue or group by its keys.

        Args:
            error: a `StoreError`, `UnknownScript`, or why the reply cannot be read.
        """
        if isinstance(error, StoreError) and not isinstance(error, Refusal):
            return error
        keys = self.keys or tuple(arg for arg in self.args[1:2] if isinstance(arg, str) and "{" in arg)
        if not isinstance(error, Refusal):
            return damaged(str(error), keys)
        line = self.script.line(error.answer) if self.script is not None else ""
        used = tuple(self.keys[int(place) - 1] for place in _KEYS.findall(line) if int(place) <= len(self.keys))
        return explained(error, tuple(dict.fromkeys(_COMMANDS.findall(line))), tuple(dict.fromkeys(used)) or keys)


# As in `channel_layer.operations.steps`: one generator, replies of many types; they are checked where they are read.
RequestPlan: TypeAlias = Generator[tuple[ScriptCall, ...], list[Any], R]
"""How a command is carried out: yields calls that may go out in one write, is sent their replies, returns the reply to
the command. If some of the calls fail, the first error is thrown in, once all of them are done."""


class Each(tuple[ScriptCall, ...]):
    """Calls about different queues or groups: a `DamagedRecord` is a reply like the others, and not thrown in."""

    __slots__ = ()


def call_command(*args: Arg) -> ScriptCall:
    """Return the call of a command of the server's own."""
    return ScriptCall(None, (), args)


def run_command(*args: Arg) -> RequestPlan[object]:
    """Send a command of the server's own, and return its reply."""
    (reply,) = yield (call_command(*args),)
    result: object = reply
    return result


def run_script(script: Script, keys: tuple[str, ...], *args: Arg) -> RequestPlan[object]:
    """Run a script, and return its reply."""
    (reply,) = yield (ScriptCall(script, keys, args),)
    result: object = reply
    return result


def get_clock() -> ScriptCall:
    """Return the call for `read_clock`."""
    return call_command("TIME")


def read_clock(settings: RequestSettings, reply: object) -> float:
    """Return the server's time in milliseconds, to the microsecond, with the offset of the configuration."""
    seconds, micros = texts(reply)
    return int(seconds) * 1000 + int(micros) / 1000 + settings.offset


def get_epoch(settings: RequestSettings) -> ScriptCall:
    """Return the call for `read_epoch`: MGET, unlike GET, does not refuse a key of another type."""
    return call_command("MGET", settings.keys.epoch)


def read_epoch(reply: object) -> tuple[str, float]:
    """Return the name of the last flush, and when it began, in ms: what is older than that has been flushed.

    What a flush has not written there counts as no flush: else every queue would be emptied for it.
    """
    found = _EPOCH.fullmatch(texts(reply)[0])
    return ("", -math.inf) if found is None else (found[1], float(found[2]))


def scan(settings: RequestSettings, cursor: str) -> RequestPlan[tuple[str, list[tuple[str, str]]]]:
    """Look at the next keys of this prefix: return the next cursor, and kind and name of each; one may come twice.

    The cursor is "" at the beginning, and "0" at the end.
    """
    step = yield from run_command("SCAN", cursor or "0", "MATCH", settings.keys.pattern, "COUNT", SCAN_COUNT)
    head, keys = list_of(step)
    return text(head), list(map(settings.keys.split, texts(keys)))


class PendingRequest(Generic[R]):
    """A command that a shard is carrying out by a plan. It begins when this is made.

    Attributes:
        calls: what to send next, which may go out in one write; empty once the command is done.
        outcome: the reply to the command, or its error, once it is done.
    """

    __slots__ = ("_asked", "_outcomes", "_plan", "_unknown", "calls", "outcome", "shard")

    outcome: R | StoreError

    def __init__(self, shard: int, plan: RequestPlan[R]) -> None:
        self.shard: int = shard
        self.calls: tuple[ScriptCall, ...] = ()
        self._asked: tuple[ScriptCall, ...] = ()
        """What the plan has yielded last."""
        self._plan = plan
        self._outcomes: list[object] = []
        self._unknown: list[int] = []
        """The places of outcomes that are still to come, as the server did not know these scripts."""
        self._advance(plan.send, None)

    def resume(self, outcomes: list[object]) -> None:
        """Go on with the outcome of each call: a reply, a `StoreError`, or `UnknownScript`.

        Scripts that the server does not know are called once more, with their text.
        """
        if self._unknown:
            for place, outcome in zip(self._unknown, outcomes, strict=True):
                self._outcomes[place] = outcome
            outcomes, self._unknown = self._outcomes, []
        elif unknown := [place for place, outcome in enumerate(outcomes) if isinstance(outcome, UnknownScript)]:
            self._outcomes, self._unknown = outcomes, unknown
            self.calls = tuple(replace(self.calls[place], whole=True) for place in unknown)
            return None
        for place, outcome in enumerate(outcomes):
            if isinstance(outcome, Exception):
                outcomes[place] = error = self._asked[place].failure(outcome)
                if not (isinstance(error, DamagedRecord) and isinstance(self._asked, Each)):
                    return self._advance(self._plan.throw, error)
        return self._advance(self._plan.send, outcomes)

    def result(self) -> R:
        """Return the reply, once the command is done.

        Raises:
            StoreError: it has failed.
        """
        if isinstance(self.outcome, StoreError):
            raise self.outcome
        return self.outcome

    def _advance(self, step: Callable[[Any], tuple[ScriptCall, ...]], value: object) -> None:
        try:
            calls = step(value)
            while not calls:
                calls = self._plan.send([])
        except StopIteration as stop:
            self.calls, self.outcome = (), stop.value
        except StoreError as exc:
            self.calls, self.outcome = (), exc
        except UNREADABLE as exc:
            self.calls, self.outcome = (), self._asked[0].failure(exc)
            self.outcome.__cause__ = exc
        else:
            self.calls = self._asked = calls
