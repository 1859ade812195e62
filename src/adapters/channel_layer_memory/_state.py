"""What the memory store keeps: queues, inboxes and groups as Python objects, behind one lock."""

from __future__ import annotations

import math
import threading
from collections import defaultdict, deque
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
    from channel_layer.runtime.wakeups import ReceiveWaiter

__all__ = (
    "Group",
    "Handlers",
    "MemoryState",
    "OwnedInbox",
    "PoppedQueue",
    "append_entry",
    "forget_empty_inboxes",
    "wake_next",
)


@dataclass(slots=True)
class PoppedQueue:
    """A queue whose entries are popped: a normal channel, a single-reader channel or a claimed inbox."""

    entries: deque[c.Entry] = field(default_factory=deque[c.Entry])
    waiters: deque[Waiter] = field(default_factory=deque["Waiter"])
    wakeup_due: bool = False
    """The queue may hold an entry, and no waiter has been woken for it."""


@dataclass(slots=True)
class OwnedInbox:
    """An inbox that its owner reads.

    Attributes:
        until: when the lease of its owner ends.
        generation: which claim or flush of the inbox the credits belong to.
        entries: (position, stamp, frame), oldest first.
        last: the position of the newest entry.
        unread: by full channel name, the messages whose credits the owner has not returned.
        serial: of the last return of credits.
        flushed: the last flush that the owner has acknowledged.
        readers: the reads that wait for an entry.
    """

    until: float
    generation: str
    entries: deque[tuple[int, float, bytes]] = field(default_factory=deque[tuple[int, float, bytes]])
    last: int = 0
    unread: dict[str, int] = field(default_factory=dict[str, int])
    serial: int = 0
    flushed: str = ""
    readers: deque[ReceiveWaiter] = field(default_factory=deque["ReceiveWaiter"])


@dataclass(slots=True)
class Group:
    """The members of a group, by full channel name, with the time at which each joined.

    Attributes:
        owned: members that the owner of their inbox added.
        others: all other members.
        inboxes: each inbox with an owned member, and the version at which its owner last added one.
        oldest: no membership is older than this, so a look at all of them can wait until this one has ended.
    """

    owned: dict[str, float] = field(default_factory=dict[str, float])
    others: dict[str, float] = field(default_factory=dict[str, float])
    inboxes: dict[str, int] = field(default_factory=dict[str, int])
    oldest: float = math.inf

    def join(self, memberships: dict[str, float], name: str, joined: float) -> None:
        """Add a membership to *memberships*, which is `owned` or `others`."""
        memberships[name] = joined
        self.oldest = min(joined, self.oldest)

    def remove_ended(self, now: float, owned: float, others: float) -> None:
        """Remove the memberships that have ended: those that lasted for so many seconds."""
        if now - self.oldest < min(owned, others):
            return
        for member in [member for member, at in self.others.items() if now - at >= others]:
            del self.others[member]
        ended = [member for member, at in self.owned.items() if now - at >= owned]
        for member in ended:
            del self.owned[member]
        if ended:
            forget_empty_inboxes(self, set(map(queue_name, ended)))
        self.oldest = min((*self.owned.values(), *self.others.values()), default=math.inf)


class MemoryState:
    """What all event loops and threads of this process share. The lock guards everything except `rules` and `clock`.

    The clock is both the local one and the store's.
    """

    def __init__(self, rules: Rules, clock: Clock) -> None:
        self.rules: Rules = rules
        self.clock: Clock = clock
        self.inboxes: dict[str, OwnedInbox] = {}
        self.parents: set[str] = set()
        """Inboxes that the parent process owned at a fork: the child must not claim them."""
        self.forked()

    def forked(self) -> None:
        """Start empty in a child process: the parent keeps what it holds."""
        self.lock: threading.Lock = threading.Lock()
        self.lines: defaultdict[str, PoppedQueue] = defaultdict(PoppedQueue)
        self.unread: dict[str, dict[str, float]] = {}
        """By queue, the channels that got a group message since the queue was last popped, and when each got it."""
        self.parents.update(self.inboxes)
        self.inboxes = {}
        self.claims: dict[str, tuple[str, float]] = {}
        """By inbox, its claimant and when the claim ends."""
        self.registered: dict[str, dict[str, float]] = {}
        """By queue, its registered readers and when each registration ends."""
        self.groups: dict[str, Group] = {}
        self.version: int = 0
        """Shared by all groups, so that a group that was empty for a while does not start at 0 again."""
        self.left: dict[tuple[str, str], float] = {}
        """(group, member) and when the member left, oldest first; kept as long as an owner may still restore it."""
        self.meters: Meters = Meters(*counts_lifetimes(self.rules.group_expiry))
        self.epoch: str = ""
        self.flushed_at: float = 0.0


class Handlers:
    """The base of the classes that handle commands: the state, and what several of the classes need.

    A handler runs under the lock: see `MemoryStore.carry_out`. Methods that take the lock themselves are no handlers.
    """

    def __init__(self, state: MemoryState) -> None:
        self._all = state
        self._rules = state.rules
        self._lock = state.lock
        self._lease = state.rules.expiry * LEASE_FACTOR
        self._lifetime = state.rules.group_expiry or GROUP_KEYS_LIFETIME

    def _now(self) -> float:
        return self._all.clock.now()

    def _owned(self, name: str) -> OwnedInbox | None:
        """Return an owned inbox, unless its lease has ended."""
        inbox = self._all.inboxes.get(name)
        return inbox if inbox is not None and inbox.until > self._now() else None

    def _expire(self, line: PoppedQueue, now: float) -> int:
        """Remove the entries of a queue that are too old, and return how many there were."""
        count = 0
        while line.entries and line.entries[0].stamp + self._rules.expiry <= now:
            line.entries.popleft()
            count += 1
        return count


def append_entry(inbox: OwnedInbox, now: float, frame: bytes) -> None:
    """Append a frame to an owned inbox, and wake the reads that wait for one."""
    inbox.last += 1
    inbox.entries.append((inbox.last, now, frame))
    while inbox.readers:
        inbox.readers.popleft().wake()


def wake_next(line: PoppedQueue) -> None:
    """Wake one waiter of a queue if the queue holds an entry; without a waiter, the next wait returns at once."""
    line.wakeup_due = False
    if line.entries:
        while line.waiters:
            waiter = line.waiters.popleft()
            if not waiter.lost:
                waiter.wake()
                return
        line.wakeup_due = True


def forget_empty_inboxes(group: Group, inboxes: Iterable[str]) -> None:
    """Remove from *group* those of *inboxes* that hold none of its owned members."""
    for inbox in inboxes:
        if not any(name.startswith(inbox) for name in group.owned):
            group.inboxes.pop(inbox, None)
