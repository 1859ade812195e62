"""One transaction, as those that carry out commands in it see it: queues, inboxes, groups, room, and the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from channel_layer.domain.expiry import GROUP_KEYS_LIFETIME, LEASE_FACTOR, counts_lifetimes
from channel_layer_ipc import _keys as k
from channel_layer_ipc._group_table import GroupTable
from channel_layer_ipc._inbox_table import InboxTable
from channel_layer_ipc._key_values import DueIndex, KeyValues
from channel_layer_ipc._queue_table import QueueTable
from channel_layer_ipc._room import Room
from channel_layer_ipc._tables import TimedTable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import lmdb

    from channel_layer.domain.rules import Rules
    from channel_layer_ipc._doorbell import Doorbell

__all__ = ("Times", "Transaction")


@dataclass(frozen=True, slots=True)
class Times:
    """How long things live, in seconds, and how much an inbox holds.

    Attributes:
        expiry: a message.
        lease: a lease, and a claim.
        group: a member that the owner of its inbox did not add; a group without a ``group_expiry`` that is not touched.
        owned: a member that the owner of its inbox added; None: as long as the owner is alive.
        left: how long it is remembered which members have left.
        inbox_capacity: entries that an owned inbox may hold.
        all_counts: the statistics of all queues, after they have last changed.
        counts: the same for the statistics of one queue.
    """

    expiry: float
    lease: float
    group: float
    owned: float | None
    left: float
    inbox_capacity: int
    all_counts: float
    counts: float

    @classmethod
    def of(cls, rules: Rules) -> Times:
        """Return what follows from a configuration."""
        lease = rules.expiry * LEASE_FACTOR
        group = rules.group_expiry if rules.group_expiry is not None else GROUP_KEYS_LIFETIME
        counts = counts_lifetimes(rules.group_expiry)
        return cls(rules.expiry, lease, group, rules.group_expiry, 2 * lease, rules.inbox_capacity, *counts)


class Transaction:
    """What is done in one LMDB transaction.

    Args:
        handle: the LMDB transaction; it may write.
        database: holds all records.
        times: how long things live.
        now: what time it is, for all that is done in it.
        measure: returns how many bytes messages may take, given how many are wanted.
        doorbell: the one of the store that carries this out.

    Attributes:
        values: all records, as bytes.
        due_index: says which of them to look at, and when.
        queues: the queues that are popped.
        inboxes: the owned inboxes.
        groups: the groups.
        timed: the small records that end by themselves.
        room: what memory leaves for messages.
        readers: whether a queue has a registered reader, as far as that is known.
        waiter_keys: of the queues that tasks of the store's event loop wait for, the keys of their waiter records, as
            this transaction leaves them.
        after_commit: functions that are called once all this is in the store.
    """

    __slots__ = (
        "after_commit",
        "doorbell",
        "due_index",
        "groups",
        "inboxes",
        "now",
        "queues",
        "readers",
        "room",
        "timed",
        "times",
        "values",
        "waiter_keys",
    )

    def __init__(
        self,
        handle: lmdb.Transaction[bytes],
        database: lmdb._Database,
        times: Times,
        now: float,
        measure: Callable[[int], int],
        doorbell: Doorbell,
    ) -> None:
        self.times: Times = times
        self.now: float = now
        self.doorbell: Doorbell = doorbell
        self.values: KeyValues = KeyValues(handle, database)
        self.due_index: DueIndex = DueIndex(self.values, now)
        self.timed: TimedTable = TimedTable(self.values, self.due_index, now)
        self.queues: QueueTable = QueueTable(self.values, self.due_index, now, times.expiry)
        self.inboxes: InboxTable = InboxTable(self.values, self.due_index, now, times.lease)
        self.groups: GroupTable = GroupTable(self.values, self.due_index, now, times.group, times.owned)
        self.room: Room = Room(measure)
        self.readers: dict[bytes, bool] = {}
        self.waiter_keys: dict[str, bytes | None] = {}
        self.after_commit: list[Callable[[], None]] = []

    def save(self) -> None:
        """Write all records that have changed."""
        self.queues.save()
        self.inboxes.save()
        self.groups.save()

    def clear_except(self, prefixes: Iterable[bytes]) -> None:
        """Remove all records but those whose keys begin so, which stay in the index of what is due."""
        self.save()
        kept = [item for prefix in prefixes for item in self.values.scan(prefix)]
        keys = {key for key, _ in kept}
        kept += [item for item in self.values.scan(k.DUE) if k.due_target(item[0])[1] in keys]
        self.values.clear_all()
        for key, value in kept:
            self.values.put(key, value)
        self.queues.forget()
        self.inboxes.forget()
        self.groups.forget()
