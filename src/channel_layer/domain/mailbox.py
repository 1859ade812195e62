"""What waits in this process for one channel, and the receivers that wait for it.

A wake-up never carries a message: the message stays in its mailbox until a receiver that is sure to run takes it. So
a cancelled ``receive()`` has nothing to lose, and its call is passed on. Whoever calls holds the layer's lock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from channel_layer.domain.frames import Entry

__all__ = ("Item", "Mailbox", "Waiter")


class Waiter(Protocol):
    """Somebody who waits for a mailbox to hold something for him."""

    def wake(self) -> None:
        """Let him run; may come from any thread, and only once."""
        ...

    def fail(self, error: Exception) -> None:
        """Tell him that he will never get a message, instead of `wake`; he must be among `Mailbox.waiters` no more."""
        ...


class Item(NamedTuple):
    """A message that waits for a receiver."""

    deadline: float
    """Local seconds at which it is too old."""
    payload: bytes
    group: str
    """The group that it was sent to; "" if it was sent to the channel itself."""
    origin: tuple[int, Entry] | None
    """Where it was popped from, if it was: the shard and the entry."""


class Mailbox:
    """What waits in this process for one channel.

    Attributes:
        name: the channel's full name.
        capacity: group messages that it holds at most; what was sent to it directly is bounded in the store.
        items: the messages, oldest first.
        grouped: how many of them came through a group.
        waiters: receivers that no message has been promised to, longest waiting first.
        promised: receivers that were woken and have not taken their message yet.
        groups: names of the groups whose mirror it is in.
        listed: it is among `Inbox.waiting`.
        kept: somebody holds on to it: messages that expire unread do not end its memberships.
        lapsed_at: local seconds at which the last message that expired unread did.
        used_at: local seconds when a ``receive()`` last took a message or was given up.
    """

    __slots__ = (
        "capacity",
        "grouped",
        "groups",
        "items",
        "kept",
        "lapsed_at",
        "listed",
        "name",
        "promised",
        "used_at",
        "waiters",
    )

    def __init__(self, name: str, capacity: int, now: float) -> None:
        self.name: str = name
        self.capacity: int = capacity
        self.items: deque[Item] = deque()
        self.grouped: int = 0
        self.waiters: deque[Waiter] = deque()
        self.promised: int = 0
        self.groups: set[str] = set()
        self.listed: bool = False
        self.kept: bool = False
        self.lapsed_at: float = -math.inf
        self.used_at: float = now

    @property
    def direct(self) -> int:
        """Messages that wait here and were sent to this channel itself."""
        return len(self.items) - self.grouped

    @property
    def idle(self) -> bool:
        """Nothing is here and nobody waits."""
        return not (self.items or self.waiters or self.promised)

    def put(self, item: Item) -> None:
        """Append a message."""
        self.items.append(item)
        if item.group:
            self.grouped += 1

    def take(self, *, promised: bool) -> Item | None:
        """Remove and return the oldest message that is not promised to somebody else.

        Args:
            promised: the taker was woken for it.
        """
        if promised:
            self.promised -= 1
        if len(self.items) <= self.promised:
            return None
        item = self.items.popleft()
        if item.group:
            self.grouped -= 1
        return item

    def expire(self, now: float) -> int:
        """Drop what is too old at local time *now* from the head; return how many of them were direct."""
        items, direct = self.items, 0
        while items and items[0].deadline <= now:
            item = items.popleft()
            self.lapsed_at = item.deadline
            if item.group:
                self.grouped -= 1
            else:
                direct += 1
        return direct

    def clear(self) -> int:
        """Drop everything; return how many there were."""
        count = len(self.items)
        self.items.clear()
        self.grouped = 0
        return count

    def promise(self) -> Iterator[Waiter]:
        """Promise what is here to those who wait; yield whom to wake."""
        while self.waiters and len(self.items) > self.promised:
            self.promised += 1
            yield self.waiters.popleft()

    def dismiss(self) -> list[Waiter]:
        """Remove and return all who wait, to be told that they will get nothing; nothing is promised to them."""
        waiters = list(self.waiters)
        self.waiters.clear()
        return waiters

    def leave(self, waiter: Waiter) -> None:
        """Forget a receiver that was cancelled (one not dismissed); what was promised to him is nobody's."""
        try:
            self.waiters.remove(waiter)
        except ValueError:  # he was woken before he was cancelled
            self.promised -= 1
