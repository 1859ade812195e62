"""What the memory store keeps: queues, inboxes and groups as Python objects, behind one lock."""

from __future__ import annotations

import math
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from channel_layer import commands as c
from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer.domain.names import queue_name
from channel_layer.domain.rates import Meters

if TYPE_CHECKING:
    from collections.abc import Iterable

    from channel_layer.domain.mailbox import Waiter
    from channel_layer.domain.rules import Rules
    from channel_layer.ports import Clock
    from channel_layer.runtime.wakeups import Receiver

__all__ = ("Commands", "Group", "MemoryState", "OwnedInbox", "PoppedQueue", "append_entry", "call_next", "forget_empty")


@dataclass(slots=True)
class PoppedQueue:
    """A queue that is popped."""

    entries: deque[c.Entry] = field(default_factory=deque[c.Entry])
    waiters: deque[Waiter] = field(default_factory=deque["Waiter"])
    called: bool = False
    """There is something, and nobody has been told."""


@dataclass(slots=True)
class OwnedInbox:
    """An inbox that its owner reads."""

    until: float
    generation: str
    entries: deque[tuple[int, float, bytes]] = field(default_factory=deque[tuple[int, float, bytes]])
    last: int = 0
    unread: dict[str, int] = field(default_factory=dict[str, int])
    serial: int = 0
    flushed: str = ""
    readers: deque[Receiver] = field(default_factory=deque["Receiver"])


@dataclass(slots=True)
class Group:
    owned: dict[str, float] = field(default_factory=dict[str, float])
    others: dict[str, float] = field(default_factory=dict[str, float])
    inboxes: dict[str, int] = field(default_factory=dict[str, int])
    """Each inbox with members that its owner added, and the version when it last added one."""
    oldest: float = math.inf
    """No membership was made before this: until it is over, none is."""

    def join(self, memberships: dict[str, float], name: str, joined: float) -> None:
        """Add a membership to *owned* or *others*."""
        memberships[name] = joined
        self.oldest = min(joined, self.oldest)

    def retire(self, now: float, owned: float, others: float) -> None:
        """End the memberships that are over, given how long they last."""
        if now - self.oldest < min(owned, others):
            return
        for member in [member for member, at in self.others.items() if now - at >= others]:
            del self.others[member]
        over = [member for member, at in self.owned.items() if now - at >= owned]
        for member in over:
            del self.owned[member]
        if over:
            forget_empty(self, set(map(queue_name, over)))
        self.oldest = min((*self.owned.values(), *self.others.values()), default=math.inf)


class MemoryState:
    """What all the event loops and threads of this process share. Guarded by `lock`.

    Args:
        rules: the configuration.
        clock: what time it is, here and in the store.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        self.inboxes: dict[str, OwnedInbox] = {}
        self.parents: set[str] = set()
        """Inboxes that were minted before a fork: their owner lives, though not here."""
        self.forked()

    def forked(self) -> None:
        """Begin empty: what the parent holds stays the parent's."""
        self.lock: threading.Lock = threading.Lock()
        self.lines: dict[str, PoppedQueue] = {}
        self.unread: dict[str, dict[str, float]] = {}
        """Of each queue from which nothing has been taken since, the channels that got a group's message, and when."""
        self.parents.update(self.inboxes)
        self.inboxes = {}
        self.claims: dict[str, tuple[str, float]] = {}
        self.attending: dict[str, dict[str, float]] = {}
        """Of each queue, who attends to it, and until when."""
        self.groups: dict[str, Group] = {}
        self.version: int = 0
        """Of all groups together, so that one that was empty for a while does not begin anew."""
        self.left: dict[tuple[str, str], float] = {}
        """When which member left which group, oldest first, for as long as an owner might announce it again."""
        self.meters: Meters = Meters(*counts_lifetimes(self.rules.group_expiry))
        self.epoch: str = ""
        self.flushed_at: float = 0.0


class Commands:
    """Commands over a `MemoryState`, and what several kinds of them need.

    Args:
        state: what they work on.
    """

    def __init__(self, state: MemoryState) -> None:
        self._all = state
        self._rules = state.rules
        self._lock = state.lock
        self._lease = state.rules.expiry * LEASE_FACTOR
        self._lifetime = state.rules.group_expiry or GROUP_KEYS_LIFETIME

    def _now(self) -> float:
        return self._all.clock.now()

    def _line(self, name: str) -> PoppedQueue:
        line = self._all.lines.get(name)
        if line is None:
            line = self._all.lines[name] = PoppedQueue()
        return line

    def _minted(self, name: str) -> OwnedInbox | None:
        """Return an inbox whose owner lives."""
        inbox = self._all.inboxes.get(name)
        if inbox is not None and inbox.until <= self._now():
            return None
        return inbox

    def _expire(self, line: PoppedQueue, now: float) -> int:
        count = 0
        while line.entries and line.entries[0].stamp + self._rules.expiry <= now:
            line.entries.popleft()
            count += 1
        return count


def append_entry(inbox: OwnedInbox, now: float, frame: bytes) -> None:
    inbox.last += 1
    inbox.entries.append((inbox.last, now, frame))
    while inbox.readers:
        inbox.readers.popleft().wake()


def call_next(line: PoppedQueue) -> None:
    """Tell one of those who wait that there is something."""
    line.called = False
    if line.entries:
        if line.waiters:
            line.waiters.popleft().wake()
        else:
            line.called = True


def forget_empty(group: Group, inboxes: Iterable[str]) -> None:
    """Forget inboxes that hold no member any more."""
    for inbox in inboxes:
        if not any(name.startswith(inbox) for name in group.owned):
            group.inboxes.pop(inbox, None)
