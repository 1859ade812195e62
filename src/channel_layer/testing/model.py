"""A model of one shard of a store, which checks every reply against what `channel_layer.commands` says of the request.

The model does not predict a reply, because the contract leaves freedom: it reads the one that came, refuses it if no
correct store could give it, and continues from there. It uses nothing of the core that a store may use, too.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, TypeGuard, TypeVar

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName, Kind, Queue
from channel_layer.testing.factories import Violation
from channel_layer.testing.model_state import (
    GUARD,
    SLACK,
    Claimant,
    Facts,
    Group,
    InboxEntry,
    Moment,
    OwnedInbox,
    QueuedMessage,
    Reports,
    Span,
    has_passed,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence

    from channel_layer.domain.rates import Rates

__all__ = ("Model", "describe")

R = TypeVar("R")
T = TypeVar("T", QueuedMessage, InboxEntry)

_RATE_SECONDS = 60.0
"""Seconds over which messages are counted for a rate; up to a sixth more."""

_COUNTS_SECONDS = 3600.0
"""Seconds at most that the counts of a queue are kept when nothing is reported of it."""


def describe(value: object) -> str:
    """Write a request or a reply so that a script stays short: names as plain text."""
    if isinstance(value, (ChannelName, GroupName, Queue)):
        return repr(value.name)
    if _is_tuple(value):
        return f"({', '.join(map(describe, value))}{',' if len(value) == 1 else ''})"
    fields: Iterable[str] = getattr(value, "__dataclass_fields__", ())
    shown = ", ".join(f"{name}={describe(getattr(value, name))}" for name in fields)
    return f"{type(value).__name__}({shown})" if shown else repr(value)


def _is_tuple(value: object) -> TypeGuard[tuple[object, ...]]:
    return isinstance(value, tuple)


class _BrokenRule(Exception):
    """No right store gives this reply.

    Args:
        rule: which rule it breaks.
        wanted: what should have come.
    """

    def __init__(self, rule: str, wanted: str) -> None:
        super().__init__(rule, wanted)
        self.rule = rule
        self.wanted = wanted


def _name(text: str) -> bytes:
    return bytes([len(text)]) + text.encode("ascii")


def _message_frame(channel: str, payload: bytes) -> bytes:
    return b"m" + _name(channel) + payload


def _group_frame(group: str, extra_recipients: Iterable[str], payload: bytes) -> bytes:
    names = "\n".join(extra_recipients).encode("ascii")
    return b"g" + _name(group) + len(names).to_bytes(4, "big") + names + payload


def _marker_frame(marker: MembershipMarker) -> bytes:
    sign = b"+" if marker.joined else b"-"
    return sign + _name(marker.group) + _name(marker.member) + f"{marker.version}:{marker.age}".encode("ascii")


def _find_frame(frame: bytes, items: list[T], start: int) -> int | None:
    """Find a frame among those that may come next: the one at *start*, or one that came in at once with it."""
    for place, item in enumerate(items[start:], start):
        if item.slot != items[start].slot:
            return None
        if item.frame == frame:
            return place
    return None


class Model:
    """One shard of a right store.

    A check of one command is told the request and its reply, and raises `_BrokenRule`, or `Unclear` if a limit passed
    while it was carried out.

    Args:
        facts: what is known of the store.
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self._at = Span(0.0, 0.0)
        """When the request was carried out that is looked at."""
        self._slots = 0
        self._ahead: Span | None = None
        """Seconds by which the shard's clock is ahead of the local one."""
        self._queues: dict[str, list[QueuedMessage]] = {}
        self._popped: dict[bytes, QueuedMessage] = {}
        """By frame, what was popped and may be put back."""
        self._claims: dict[str, Claimant] = {}
        self._readers: dict[str, dict[str, Span]] = {}
        """Of each queue, the processes that read it, and until when."""
        self._unread: dict[str, dict[str, Moment]] = {}
        self._inboxes: dict[str, OwnedInbox] = {}
        self._reports: dict[str, Reports] = {}
        """What was reported of each queue, and of all under no name."""
        self._groups: dict[str, Group] = {}
        self._departures: dict[tuple[str, str], Moment] = {}
        self._changes = 0
        """Of all groups together."""
        self._published: dict[tuple[str, int], int] = {}
        """How many changes there had been when a group was told to have a version."""
        self._epoch = ""
        self._epoch_at: Span | None = None

    # -- what the machine asks

    def check(self, request: c.Command[R], reply: R, at: Span) -> None:
        """Check a reply, and take note of what was done.

        Args:
            request: what was asked.
            reply: what came.
            at: when it was carried out.

        Raises:
            Violation: no right store could have given that reply.
            Unclear: a limit passed meanwhile.
        """
        with self._look_at(request, reply, at):
            self._checks[type(request)](self, request, reply)

    def check_at_once(self, requests: Sequence[c.Push], replies: Sequence[c.Pushed], at: Span) -> None:
        """The same for pushes to one channel that were made at once."""
        with self._look_at(requests[0], tuple(replies), at):
            self._check_pushes(requests, replies)

    @contextlib.contextmanager
    def _look_at(self, request: object, reply: object, at: Span) -> Generator[None]:
        self._at = at
        try:
            yield
        except _BrokenRule as broken:
            raise Violation(
                f"{broken.rule}\n  asked: {describe(request)}\n  came: {describe(reply)}\n"
                f"  should have come: {broken.wanted}"
            ) from None

    def limits(self) -> Iterator[tuple[str, Span]]:
        """Yield what may end, and when."""
        facts = self.facts
        for messages in (*self._queues.values(), self._popped.values()):
            for message in messages:
                yield "message", message.since.plus(facts.expiry)
        if facts.leases_move:
            for inbox in self._inboxes.values():
                yield "lease", inbox.until
        if facts.claims_move:
            for claim in self._claims.values():
                yield "claim", claim.until
        for readers in self._readers.values():
            for until in readers.values():
                yield "attendance", until
        for unread in self._unread.values():
            for one in unread.values():
                yield "message", one.since.plus(facts.unread)
                yield "note", one.since.plus(facts.lifetime)
        for group in self._groups.values():
            if facts.group_expiry is not None:
                for member in group.owned.values():
                    yield "membership", member.since.plus(facts.group_expiry)
            elif group.touched is not None and group.owned:
                yield "group", group.touched.plus(facts.lifetime)
            for member in group.others.values():
                yield "membership", member.since.plus(facts.lifetime)
        for left in self._departures.values():
            yield "leaving", left.since.plus(facts.remembered)
        if self._epoch_at is not None:
            yield "epoch", self._epoch_at.plus(max(facts.remembered, facts.lifetime))

    def lives(self, inbox: str, at: Span) -> bool:
        """Whether an owned inbox has a living owner."""
        self._at = at
        return self._owned(inbox) is not None

    def waits(self, inbox: str, after: str) -> bool:
        """Whether a read of a living inbox after a position has to bring something."""
        kept = self._inboxes[inbox]
        return len(kept.items) > max(0, kept.positions.get(after, 0) - kept.base)

    def unsettled(self, group: str, at: Span) -> bool:
        """Whether a group has members of which only a list of them can tell whether they are still there."""
        self._at = at
        found = self._group(group)
        return any(member.doubtful for some in (found.owned, found.others) for member in some.values())

    # -- messages

    def _check_push(self, request: c.Push, reply: c.Pushed) -> None:
        self._check_pushes((request,), (reply,))

    def _check_pushes(self, requests: Sequence[c.Push], replies: Sequence[c.Pushed]) -> None:
        request = requests[0]
        inbox = self._owned(request.channel.queue.name)
        self._slots += 1
        if inbox is not None:
            self._check_pushes_to_owner(inbox, requests, replies)
        elif self._check_readers(request, replies) and not self._check_unread(request, replies):
            self._check_pushes_to_queue(requests, replies)

    def _check_pushes_to_owner(
        self, inbox: OwnedInbox, requests: Sequence[c.Push], replies: Sequence[c.Pushed]
    ) -> None:
        name, capacity = requests[0].channel.name, requests[0].capacity
        unread = inbox.unread[name]
        room = capacity - unread
        ours = inbox.messages
        least = min(room, self.facts.inbox_capacity - len(inbox.items))
        most = min(room, self.facts.inbox_capacity - ours)
        self._check_room(
            "An owned inbox takes a message exactly while its channel, and the inbox, have room",
            replies,
            (least, most),
            f"{unread} of {capacity} places of {name} are taken; the inbox holds {len(inbox.items)} of "
            f"{self.facts.inbox_capacity} entries, {ours} of them no markers",
        )
        if any(reply.expired or reply.unread_expired for reply in replies):
            raise _BrokenRule(
                "In an owned inbox no message expires, and no member's message counts as unread: its owner sees both",
                "expired=0, unread_expired=False",
            )
        for push, reply in zip(requests, replies, strict=True):
            if reply.accepted:
                inbox.unread[name] += 1
                inbox.items.append(InboxEntry(_message_frame(name, push.payload), self._at, self._slots, channel=name))

    def _check_readers(self, request: c.Push, replies: Sequence[c.Pushed]) -> bool:
        """Check what a push says of the readers of its queue; return whether it goes on."""
        queue = request.channel.queue.name
        wanted: tuple[int, int] | None = None
        if request.if_registered and not self._has_reader(queue):
            messages = self._queue(queue)
            wanted = sum(not self._is_gone(message) for message in messages), len(messages)
        for reply in replies:
            left = reply.orphaned
            right = left is None if wanted is None else left is not None and wanted[0] <= left <= wanted[1]
            if not right or (wanted is not None and (reply.accepted or reply.unread_expired or reply.expired)):
                raise _BrokenRule(
                    "A push with if_registered is refused exactly while its queue has no registered reader, and says "
                    "how many messages wait there",
                    "orphaned=None" if wanted is None else f"accepted=False, orphaned={wanted[0]} to {wanted[1]}",
                )
        return wanted is None

    def _has_reader(self, queue: str) -> bool:
        return any(not self._has_passed(until) for until in self._readers.get(queue, {}).values())

    def _check_find_orphaned(self, _request: c.FindOrphaned, reply: tuple[str, ...]) -> None:
        may = {name: self._queue(name) for name in self._queues if not name.endswith("!")}
        may = {name: messages for name, messages in may.items() if messages and not self._has_reader(name)}
        must = {name for name, messages in may.items() if any(not self._is_gone(message) for message in messages)}
        if not must <= set(reply) <= set(may) or len(set(reply)) < len(reply):
            raise _BrokenRule(
                "The orphaned queues are all those, inboxes left out, that hold messages and have no registered reader",
                f"{sorted(must)}, and maybe {sorted(set(may) - must)}",
            )

    def _check_pushes_to_queue(self, requests: Sequence[c.Push], replies: Sequence[c.Pushed]) -> None:
        request = requests[0]
        name = request.channel.name
        messages = self._queue(request.channel.queue.name)
        live = sum(not self._is_gone(message) for message in messages)
        heads = 0
        while heads < len(messages) and self._is_old(messages[heads]):
            heads += 1
        # What is too old behind a head that is not may stay and take room: put_back can bring them into such an order.
        bounds = request.capacity - (len(messages) - heads), request.capacity - live
        accepted = self._check_room(
            "A queue takes a message exactly while it holds fewer than the capacity, those too old not counted",
            replies,
            bounds,
            f"the queue holds {live} messages that are young, and {len(messages) - live} that are not",
        )
        self._remove_counted(messages, 0, sum(reply.expired for reply in replies), 0)
        for push, reply in zip(requests, replies, strict=True):
            if reply.accepted:
                messages.append(QueuedMessage(name, _message_frame(name, push.payload), self._at, self._slots))
        if request.to_member and accepted:
            self._unread.setdefault(request.channel.queue.name, {}).setdefault(name, Moment(self._at))

    def _check_room(self, rule: str, replies: Sequence[c.Pushed], bounds: tuple[int, int], why: str) -> int:
        least, most = (min(len(replies), max(0, bound)) for bound in bounds)
        accepted = sum(reply.accepted for reply in replies)
        if not least <= accepted <= most:
            wanted = f"{least}" if least == most else f"{least} to {most}"
            raise _BrokenRule(rule, f"{wanted} of {len(replies)} accepted: {why}")
        return accepted

    def _check_unread(self, request: c.Push, replies: Sequence[c.Pushed]) -> bool:
        queue, name = request.channel.queue.name, request.channel.name
        unread = self._unread.get(queue, {}).get(name) if request.to_member else None
        may = must = False
        if unread is not None and self.facts.capabilities.tracks_unread:
            may = self._has_passed(unread.since.plus(self.facts.unread))
            forgotten = self._has_passed(unread.since.plus(self.facts.lifetime))
            must = may and not forgotten
            if may and not must and not replies[0].unread_expired:
                del self._unread[queue][name]
        for reply in replies:
            if (
                (reply.unread_expired and not may)
                or (must and not reply.unread_expired)
                or (reply.unread_expired and reply.accepted)
            ):
                raise _BrokenRule(
                    "A push to a member is refused as unread exactly if an earlier one expired an expiry ago, and no "
                    "pop has asked for messages since",
                    "unread_expired=True, accepted=False" if must else "unread_expired=False",
                )
        return replies[0].unread_expired

    def _check_clear_unread(self, request: c.ClearUnread, _reply: None) -> None:
        self._unread.get(request.channel.queue.name, {}).pop(request.channel.name, None)

    def _check_pop(self, request: c.Pop, reply: c.Popped) -> None:
        name = request.queue.name
        self._check_now(reply.now)
        if reply.lost:
            raise _BrokenRule("A store that nothing happened to loses nothing", "lost=0")
        if not self._check_claim(request, reply):
            if reply.entries or reply.expired or reply.flushed:
                raise _BrokenRule("Nothing is popped from an inbox that another claimant has", "no entries")
            return
        messages = self._queue(name)
        live = sum(not self._is_gone(message) for message in messages)
        passed = 0
        for entry in reply.entries:
            while passed < len(messages) and self._is_gone(messages[passed]):
                passed += 1
            found = _find_frame(entry.frame, messages, passed)
            if found is None:
                raise _BrokenRule(self._broken_rule(entry.frame, messages), self._order(messages))
            messages.insert(passed, messages.pop(found))
            self._check_stamp(entry.stamp, messages[passed])
            passed += 1
        count = len(reply.entries)
        most = min(live, request.count)
        if not min(live, request.count - reply.flushed) <= count <= most:
            raise _BrokenRule(
                "A pop brings as many messages as there are, and as were asked for",
                f"{most} entries: {self._order(messages)}",
            )
        if count + reply.flushed < request.count:
            passed = len(messages)  # it has seen the whole queue
        taken = [message for message in messages[:passed] if not self._is_gone(message)]
        self._remove_counted(messages, passed, reply.expired, reply.flushed)
        for message in taken:
            messages.remove(message)
            self._popped[message.frame] = message
        if request.count:
            self._unread.pop(name, None)

    def _check_claim(self, request: c.Pop, reply: c.Popped) -> bool:
        """Check what a pop says of the owner or claimant of its queue; return whether that is the caller."""
        name, leases = request.queue.name, self.facts.capabilities.leases
        is_inbox = request.queue.kind is Kind.INBOX
        self._check_epoch(reply.epoch, always=is_inbox and leases)
        is_owned = is_inbox and self._owned(name) is not None
        if reply.owned != is_owned:
            raise _BrokenRule("A pop tells of the living owner of an owned inbox", f"owned={is_owned}")
        claim = self._claims.get(name) if is_inbox and not is_owned else None
        may = (
            claim is not None
            and claim.name != request.claimant
            and not (self.facts.claims_move and self._has_passed(claim.until))
        )
        must = may and claim is not None and not claim.doubtful and leases
        if (reply.held_for is not None and not may) or (must and reply.held_for is None):
            holder = "no other claimant has it" if claim is None or not may else f"{claim.name} has it"
            raise _BrokenRule(
                "A claimed inbox belongs to the claimant that popped it last, for one lease from then",
                f"held_for={'...' if must else None}: {holder}",
            )
        if reply.held_for is not None and claim is not None:
            low, high = claim.until.low - self._at.high, claim.until.high - self._at.low
            if not self.facts.claims_move:
                low, high = self.facts.lease - 1.0, self.facts.lease
            if not max(0.0, low - SLACK) <= reply.held_for <= high + SLACK:
                raise _BrokenRule("held_for is what is left of the lease", f"held_for from {low:.3f} to {high:.3f}")
            claim.doubtful = False
            return False
        if is_owned:
            return False
        if request.register and not is_inbox:
            self._readers.setdefault(name, {})[request.claimant] = self._at.plus(request.register)
        if is_inbox:
            self._claims[name] = Claimant(request.claimant, self._at.plus(self.facts.lease))
        return True

    def _check_put_back(self, request: c.PutBack, reply: c.Returned) -> None:
        messages = self._queue(request.queue.name)
        returned: list[QueuedMessage] = []
        for entry in request.entries:
            message = self._popped.pop(entry.frame)
            self._slots += 1
            message.slot = self._slots
            message.uncounted = False
            returned.append(message)
        self._remove_counted(returned, 0, reply.expired, reply.flushed)
        messages[:0] = returned

    def _check_release_claim(self, request: c.ReleaseClaim, _reply: None) -> None:
        self._readers.get(request.inbox.name, {}).pop(request.claimant, None)
        claim = self._claims.get(request.inbox.name)
        if claim is not None and claim.name == request.claimant:
            del self._claims[request.inbox.name]

    def _check_pending(self, request: c.Pending, reply: int) -> None:
        name, queue = request.channel.name, request.channel.queue.name
        messages = [message for message in self._queue(queue) if message.channel == name]
        inbox = self._inboxes.get(queue)
        if self._owned(queue) is not None and inbox is not None:
            here = [item.channel == name for item in inbox.items]
            least, most = sum(here[inbox.new :]), sum(here)
        else:
            least = sum(not self._is_gone(message) for message in messages)
            most = len(messages) + (sum(item.channel == name for item in inbox.items) if inbox is not None else 0)
        if not least <= reply <= most:
            raise _BrokenRule("Pending counts the messages to one channel and to no other", f"{least} to {most}")

    # -- statistics

    def _check_report(self, request: c.Report, _reply: None) -> None:
        counts = [(each.queue.name, each.messages, each.refused) for each in request.counts]
        for name, messages, refused in (*counts, ("", request.messages, request.refused)):
            self._reports.setdefault(name, Reports()).add(self._at, messages, refused, self._reports_last(name))

    def _check_reported(self, request: c.Reported, reply: Rates) -> None:
        name = "" if request.queue is None else request.queue.name
        reports = self._reports.setdefault(name, Reports())
        sums = reports.sums(self._at, self._reports_last(name))
        if (reply.messages, reply.refused) not in sums:
            raise _BrokenRule(
                "What was reported is added up, and nothing else",
                " or ".join(f"messages={messages} refused={refused}" for messages, refused in sums),
            )
        if not _RATE_SECONDS - SLACK <= reply.seconds <= _RATE_SECONDS * 7 / 6 + SLACK:
            raise _BrokenRule("A rate is one over 60 to 70 seconds", f"seconds from {_RATE_SECONDS}")
        least, most = reports.since(self._at, reply.seconds)
        whole = len(sums) == 1
        for place, lately in enumerate((reply.lately, reply.refused_lately)):
            if not (least[place] if whole else 0) <= lately <= most[place]:
                raise _BrokenRule(
                    "A rate counts what was reported in its seconds", f"from {least[place]} to {most[place]}"
                )

    def _reports_last(self, name: str) -> float:
        return self.facts.lifetime if not name else min(self.facts.lifetime, _COUNTS_SECONDS)

    def _check_survey(self, request: c.Survey, reply: c.Surveyed) -> None:
        wanted = None if request.channel is None else request.channel.name
        queue = None if request.channel is None else request.channel.queue.name
        least = most = 0
        here: list[QueuedMessage | InboxEntry] = []
        certain: list[QueuedMessage | InboxEntry] = []
        for name in {*self._queues, *self._inboxes} if queue is None else {queue}:
            inbox = self._owned(name)
            if inbox is not None:
                unread = inbox.unread.total() if wanted is None else inbox.unread[wanted]
                least, most = least + unread, most + unread
                here += [item for item in inbox.items if item.channel and wanted in {None, item.channel}]
                continue
            messages = [each for each in self._queue(name) if wanted in {None, each.channel} and not self._is_old(each)]
            fresh = [message for message in messages if not message.flushed]
            least, most = least + len(fresh), most + len(messages)
            here += messages
            certain += fresh
        if reply.pending is None or not least <= reply.pending <= most:
            raise _BrokenRule("A survey counts what waits, and nothing else", f"{least} to {most}")
        if reply.oldest is None:
            if certain:
                raise _BrokenRule("A survey tells the age of what waits", "an age")
            return
        youngest = max((self._at.low - each.since.high for each in certain), default=0.0) - SLACK
        oldest = max((self._at.high - each.since.low for each in here), default=0.0) + SLACK
        if not reply.pending or not max(0.0, youngest) <= reply.oldest <= oldest:
            raise _BrokenRule(
                "A survey tells the age of the oldest that waits", f"oldest from {youngest:.3f} to {oldest:.3f}"
            )

    # -- owned inboxes

    def _check_acquire_lease(self, request: c.AcquireLease, reply: c.LeaseAcquired) -> None:
        name = request.inbox.name
        self._check_now(reply.now)
        self._check_epoch(reply.epoch)
        inbox = self._inboxes.get(name)
        lived = self._owned(name) is not None
        if (inbox is None and not reply.fresh) or (lived and reply.fresh):
            raise _BrokenRule("A claim is fresh exactly if the inbox did not exist", f"fresh={inbox is None}")
        until = self._at.plus(self.facts.lease)
        if inbox is None or reply.fresh:
            old = inbox
            inbox = self._inboxes[name] = OwnedInbox(until, "")
            if old is not None:
                inbox.generations, inbox.acknowledged = old.generations, old.acknowledged
        inbox.until, inbox.generation, inbox.serial = until, request.generation, 0
        inbox.generations.append(request.generation)
        inbox.unread = Counter(dict(request.held))
        read = inbox.positions.get(request.after, 0)
        for number, item in enumerate(inbox.items, inbox.base):
            if number >= read and item.channel:
                inbox.unread[item.channel] += 1
        messages = self._queue(name)
        self._remove_counted(messages, len(messages), reply.expired, 0)
        for message in self._queues.pop(name):
            inbox.items.append(InboxEntry(message.frame, message.since, message.slot, channel=message.channel))
            inbox.unread[message.channel] += 1
        self._unread.pop(name, None)

    def _check_renew_lease(self, request: c.RenewLease, reply: c.LeaseRenewed) -> None:
        self._check_now(reply.now)
        self._check_epoch(reply.epoch)
        inbox = self._owned(request.inbox.name)
        if reply.held != (inbox is not None):
            raise _BrokenRule(
                "A lease that has not ended is kept, and one that has is not", f"held={inbox is not None}"
            )
        if inbox is not None:
            inbox.until = self._at.plus(self.facts.lease)

    def _check_release_lease(self, request: c.ReleaseLease, reply: int) -> None:
        lived = self._owned(request.inbox.name) is not None
        inbox = self._inboxes.pop(request.inbox.name)
        here = [bool(item.channel) for item in inbox.items]
        least = sum(here[inbox.new :]) if lived else 0
        if not least <= reply <= sum(here):
            raise _BrokenRule("A release tells how many messages waited", f"{least} to {sum(here)}")

    def _check_read(self, request: c.Read, reply: c.Batch) -> None:
        inbox = self._inboxes[request.inbox.name]
        read = inbox.positions.get(request.after, 0)
        while inbox.base < read:
            inbox.base += 1
            inbox.items.pop(0)
        for place, (stamp, frame) in enumerate(reply.entries):
            found = _find_frame(frame, inbox.items, place)
            if found is None:
                raise _BrokenRule(
                    "A read brings what came in after the position, in the order in which it came, and nothing twice",
                    _frames(inbox.items),
                )
            inbox.items.insert(place, inbox.items.pop(found))
            self._check_stamp(stamp, inbox.items[place])
        if inbox.items and not reply.entries:
            raise _BrokenRule("A read brings what is there", _frames(inbox.items))
        inbox.positions[reply.position] = inbox.base + len(reply.entries)
        inbox.fetched = max(inbox.fetched, inbox.base + len(reply.entries))
        # From here on the order is known: it is the same when the read is repeated.
        for item in inbox.items[: len(reply.entries)]:
            self._slots += 1
            item.slot = self._slots

    def _check_return_credits(self, request: c.ReturnCredits, _reply: None) -> None:
        inbox = self._owned(request.inbox.name)
        if inbox is None or inbox.generation != request.generation or request.serial <= inbox.serial:
            return
        inbox.serial = request.serial
        inbox.unread.subtract(dict(request.places))
        inbox.unread = +inbox.unread

    def _check_mark(self, request: c.Mark, reply: bool) -> None:  # noqa: FBT001 - a reply
        self._check_marker(self._owned(request.inbox.name), request.marker, marked=reply)

    def _check_marker(self, inbox: OwnedInbox | None, marker: MembershipMarker, *, marked: bool) -> None:
        if marked != (inbox is not None):
            raise _BrokenRule(
                "A marker is put exactly if that was asked for, and the owner that it concerns is alive",
                f"{'a' if inbox is not None else 'no'} marker",
            )
        if inbox is not None:
            self._append(inbox, _marker_frame(marker), marker=True)

    def _append(self, inbox: OwnedInbox, frame: bytes, *, marker: bool = False) -> None:
        self._slots += 1
        inbox.items.append(InboxEntry(frame, self._at, self._slots, marker=marker))

    def _check_alive(self, request: c.Alive, reply: tuple[bool, ...]) -> None:
        wanted = tuple(self._owned(inbox.name) is not None for inbox in request.inboxes)
        if reply != wanted:
            raise _BrokenRule("An inbox lives for one lease from its last claim or renewal", f"{wanted}")

    # -- groups

    def _check_join(self, request: c.Join, reply: c.Changed) -> None:
        if not self.facts.capabilities.leases:
            self._check_applied(reply)
            self._group(request.group.name).others[request.channel.name] = Moment(self._at)
            return
        name, inbox = request.channel.name, request.channel.queue.name
        group = self._group(request.group.name)
        left = self._departures.get((request.group.name, name)) if request.restore else None
        if not reply.applied:
            if left is None or reply.marked:
                raise _BrokenRule("A joining is void only if it restores what has left meanwhile", "applied=True")
            self._check_version(group, reply.version)
            return
        if left is not None and not left.doubtful and not self._has_passed(left.since.plus(self.facts.remembered)):
            raise _BrokenRule("A joining that is restored is void if the member has left meanwhile", "applied=False")
        self._check_change(group, reply)
        self._departures.pop((request.group.name, name), None)
        was = group.owned.get(name)
        must = request.owned or (was is not None and not was.doubtful)
        may = must or was is not None or name in group.over
        if (must and not reply.owned) or (reply.owned and not may):
            raise _BrokenRule(
                "A member stays owned if the owner of its inbox added it, and no other member becomes owned",
                f"owned={must}",
            )
        member = Moment(Span(self._at.low - request.age, self._at.high - request.age))
        group.touched = self._at
        group.over.discard(name)
        if reply.owned:
            group.owned[name] = member
            group.joins[inbox] = reply.version
            if request.mark:
                group.others.pop(name, None)
            elif name in group.others:  # until the marker is put, it may be reached as one of the others, too
                group.others[name].doubtful = True
        else:
            group.owned.pop(name, None)
            self._forget_joins(group)
            group.others[name] = member
        marker = MembershipMarker(request.group.name, name, True, reply.version, round(request.age * 1000))
        owner_inbox = self._owned(inbox) if request.mark and reply.owned else None
        self._check_marker(owner_inbox, marker, marked=reply.marked)

    def _check_leave(self, request: c.Leave, reply: c.Changed) -> None:
        if not self.facts.capabilities.leases:
            self._check_applied(reply)
            self._group(request.group.name).others.pop(request.channel.name, None)
            return
        name, inbox = request.channel.name, request.channel.queue.name
        group = self._group(request.group.name)
        must = may = request.latest is None
        known = False
        if request.latest is not None:
            member = group.owned.get(name)
            known = member is not None and group.joins.get(inbox, request.latest + 1) <= request.latest
            must = known and member is not None and not member.doubtful
            may = known or name in group.over
        if (must and not reply.applied) or (reply.applied and not may):
            raise _BrokenRule(
                "A leaving is applied; one with a latest only to an owned member whose inbox joined no later",
                f"applied={must}; the last joining was {group.joins.get(inbox)}",
            )
        if not reply.applied:
            if reply.marked:
                raise _BrokenRule("What is not applied puts no marker", "marked=False")
            self._check_version(group, reply.version)
            if known and name in group.owned and group.owned[name].doubtful:
                del group.owned[name]
                self._forget_joins(group)
            return
        self._check_change(group, reply)
        group.owned.pop(name, None)
        group.others.pop(name, None)
        group.over.discard(name)
        self._forget_joins(group)
        if request.channel.queue.kind is Kind.INBOX:
            self._departures[request.group.name, name] = Moment(self._at)
        marker = MembershipMarker(request.group.name, name, False, reply.version, 0)
        self._check_marker(self._owned(inbox) if request.mark else None, marker, marked=reply.marked)

    def _check_applied(self, reply: c.Changed) -> None:
        if not reply.applied or reply.marked or reply.owned:
            raise _BrokenRule(
                "Without leases every change is applied, and no member is owned or has a marker",
                "applied=True, marked=False, owned=False",
            )

    def _check_change(self, group: Group, reply: c.Changed) -> None:
        if reply.version <= group.known:
            raise _BrokenRule(
                "Each change of a group has a higher version than all that were told before",
                f"a version above {group.known}",
            )
        group.changed = group.known = reply.version
        self._changes += 1

    def _check_version(self, group: Group, version: int) -> None:
        if version < group.changed and (group.owned or group.others):
            raise _BrokenRule(
                "A group's version is not below that of its last change", f"a version of {group.changed} or more"
            )
        group.known = max(group.known, version)

    def _check_publish(self, request: c.Publish, reply: c.Published) -> None:
        group = self._group(request.group.name)
        self._check_version(group, reply.version)
        self._published[request.group.name, reply.version] = self._changes
        inboxes = {_inbox_of(name) for name in group.owned}
        if not reply.done:
            self._check_names("others", reply.others, group.others)
            dead = {name for name in inboxes if self._owned(name) is None}
            if not inboxes - dead <= set(reply.inboxes) <= inboxes or len(set(reply.inboxes)) < len(reply.inboxes):
                raise _BrokenRule(
                    "A publish names each inbox with members that its owner added, once", f"inboxes={sorted(inboxes)}"
                )
            if reply.full:
                raise _BrokenRule("Only a publish that has delivered tells which inboxes are full", "full=()")
            return
        if group.others or (inboxes and not request.at_once):
            raise _BrokenRule(
                "A publish delivers by itself only if it may, and if it reaches every member",
                f"done=False, others={sorted(group.others)}",
            )
        frame = _group_frame(request.group.name, (), request.payload)
        full = set(reply.full)
        if not full <= inboxes:
            raise _BrokenRule("Only an inbox with members can be full", f"full among {sorted(inboxes)}")
        for name in sorted(inboxes):
            inbox = self._owned(name)
            if inbox is not None:
                self._deliver(inbox, frame, full=name in full)
                continue
            if name in full:
                raise _BrokenRule("An inbox without an owner is not full", f"{name} not among the full")
            for member, one in group.owned.items():
                one.doubtful = one.doubtful or _inbox_of(member) == name

    def _deliver(self, inbox: OwnedInbox, frame: bytes, *, full: bool) -> None:
        """Check whether an inbox had room; put the frame in if it had."""
        limit = self.facts.inbox_capacity
        if (full and len(inbox.items) < limit) or (not full and inbox.messages >= limit):
            raise _BrokenRule(
                "A group message finds an inbox full exactly if inbox_capacity is used up",
                f"{'room' if full else 'no room'}: it holds {len(inbox.items)} of {limit} entries",
            )
        if not full:
            self._append(inbox, frame)

    def _check_deliver(self, request: c.Deliver, reply: c.Delivery) -> None:
        inbox = self._owned(request.inbox.name)
        if (reply is c.Delivery.NO_OWNER) != (inbox is None):
            raise _BrokenRule(
                "A group message is put into an inbox with a living owner, and into no other",
                "no owner" if inbox is None else "done or full",
            )
        if inbox is not None:
            frame = _group_frame(request.group.name, request.extra_recipients, request.payload)
            self._deliver(inbox, frame, full=reply is c.Delivery.FULL)

    def _check_prune(self, request: c.Prune, _reply: None) -> None:
        group = self._group(request.group.name)
        for inbox in request.inboxes:
            if group.joins.get(inbox, request.version + 1) <= request.version:
                for name in [name for name in group.owned if _inbox_of(name) == inbox]:
                    del group.owned[name]
                del group.joins[inbox]
        if group.changed <= request.version:
            quiet = self._published.get((request.group.name, request.version)) == self._changes
            for name in request.others:
                if quiet:
                    group.others.pop(name, None)
                elif name in group.others:  # something has changed, though not here
                    group.others[name].doubtful = True

    def _check_members(self, request: c.Members, reply: c.GroupMembers) -> None:
        group = self._group(request.group.name)
        self._check_names("owned", reply.owned, group.owned)
        self._check_names("others", reply.others, group.others)
        self._forget_joins(group)

    def _check_names(self, what: str, names: tuple[str, ...], members: dict[str, Moment]) -> None:
        """Check a list of members, and learn from it which doubtful ones are members."""
        found = set(names)
        dead = {
            name for name in members if what == "owned" and self._owned(_inbox_of(name)) is None
        }  # a store may tell of them or not
        certain = {name for name, member in members.items() if not member.doubtful} - dead
        if len(found) < len(names) or not certain <= found <= set(members):
            raise _BrokenRule(
                "A group lists each of its members once, and no other channel",
                f"{what}={sorted(certain)}" + (f", perhaps also {sorted(set(members) - certain)}" if dead else ""),
            )
        for name in list(members):
            if name in dead:
                members[name].doubtful = True
            elif name in found:
                members[name].doubtful = False
            else:
                del members[name]

    def _check_groups(self, request: c.CheckGroups, reply: c.CheckedGroups) -> None:
        inbox, leases = request.inbox.name, self.facts.capabilities.leases
        if leases:
            self._check_epoch(reply.epoch)
        if len(reply.known) != len(request.groups):
            raise _BrokenRule("A look at groups tells of each of them", f"{len(request.groups)} replies")
        for name, known in zip(request.groups, reply.known, strict=True):
            group = self._group(name.name)
            members = [member for full, member in group.owned.items() if _inbox_of(full) == inbox]
            must = self._owned(inbox) is not None and any(not member.doubtful for member in members)
            may = bool(members) or any(_inbox_of(full) == inbox for full in group.over)
            if leases and ((must and not known) or (known and not may)):
                raise _BrokenRule(
                    "A group is known to hold members of an inbox exactly while it holds some that the owner added",
                    f"known={must} for {name}",
                )
            if request.extend:
                group.touched = self._at

    # -- flush

    def _check_flush(self, request: c.Flush, reply: c.Flushing) -> None:
        all_messages = [message for name in self._queues for message in self._queue(name)]
        least = sum(not self._is_gone(message) for message in all_messages)
        most = len(all_messages)
        living: list[str] = []
        for name, inbox in self._inboxes.items():
            if self._owned(name) is not None:
                living.append(name)
                least += sum(bool(item.channel) for item in inbox.items[inbox.new :])
            most += inbox.messages
        if set(reply.inboxes) != set(living):
            raise _BrokenRule("A flush names the living inboxes", f"inboxes={sorted(living)}")
        if not least <= reply.dropped <= most:
            raise _BrokenRule("A flush counts what it removes", f"dropped from {least} to {most}")
        self._queues.clear()
        self._unread.clear()
        self._reports.clear()
        for message in self._popped.values():
            message.flushed = True
        for claim in self._claims.values():
            claim.doubtful = True
        for left in self._departures.values():
            left.doubtful = True
        self._groups = {name: Group(known=group.known, touched=group.touched) for name, group in self._groups.items()}
        for name, inbox in self._inboxes.items():
            inbox.base += len(inbox.items)
            inbox.items.clear()
            if name in living:
                inbox.generation, inbox.serial = request.generation, 0
                inbox.generations.append(request.generation)
                inbox.unread.clear()
                for _ in range(reply.inboxes.count(name)):  # a marker that comes twice does no harm
                    self._append(inbox, b"f" + request.generation.encode("ascii"), marker=True)
        self._epoch, self._epoch_at = request.generation, self._at

    def _check_unflushed(self, request: c.Unflushed, reply: tuple[str, ...]) -> None:
        for name in request.inboxes:
            inbox = self._owned(name)
            since = inbox.generations[inbox.generations.index(request.generation) :] if inbox is not None else []
            heard = inbox is not None and not inbox.acknowledged.isdisjoint(since)
            must = inbox is not None and not heard
            may = must or (inbox is not None and inbox.generation not in inbox.acknowledged)
            if (must and name not in reply) or (name in reply and not may):
                raise _BrokenRule(
                    "An inbox is unflushed as long as it lives and has not acknowledged",
                    f"{name} {'among' if must else 'not among'} them",
                )

    def _check_acknowledge(self, request: c.Acknowledge, _reply: None) -> None:
        inbox = self._owned(request.inbox.name)
        if inbox is not None:
            inbox.acknowledged.add(request.generation)

    # -- what all of them use

    def _has_passed(self, limit: Span) -> bool:
        return has_passed(limit, self._at)

    def _owned(self, name: str) -> OwnedInbox | None:
        """Return an owned inbox whose owner is alive."""
        inbox = self._inboxes.get(name)
        if inbox is None or (self.facts.leases_move and self._has_passed(inbox.until)):
            return None
        return inbox

    def _is_old(self, message: QueuedMessage) -> bool:
        return self._has_passed(message.since.plus(self.facts.expiry))

    def _is_gone(self, message: QueuedMessage) -> bool:
        return message.flushed or self._is_old(message)

    def _queue(self, name: str) -> list[QueuedMessage]:
        """Return a queue; if all in it is too old, a store may let go of it as a whole, without a count."""
        messages = self._queues.setdefault(name, [])
        if messages and all(self._is_old(message) for message in messages):
            for message in messages:
                message.uncounted = True
        return messages

    def _remove_counted(self, messages: list[QueuedMessage], passed: int, expired: int, flushed: int) -> None:
        """Check how many messages were counted as too old or as flushed, and remove them.

        Args:
            messages: the queue.
            passed: up to here all that cannot come out has to be gone.
            expired: how many were counted as too old.
            flushed: the same of those that a flush would have removed.
        """
        must: Counter[tuple[bool, bool]] = Counter()
        may: Counter[tuple[bool, bool]] = Counter()
        for place, message in enumerate(messages):
            why = self._is_old(message), message.flushed
            if any(why):
                (must if place < passed and not message.uncounted else may)[why] += 1
        both = must + may
        low_expired, low_flushed = must[True, False], must[False, True]
        high_expired = both[True, False] + both[True, True]
        high_flushed = both[False, True] + both[True, True]
        right = low_expired <= expired <= high_expired and low_flushed <= flushed <= high_flushed
        if not right or not must.total() <= expired + flushed <= both.total():
            raise _BrokenRule(
                "Each message that is gone is counted once: as expired, or as flushed",
                f"expired from {low_expired} to {high_expired}, flushed from {low_flushed} to {high_flushed}, "
                f"together from {must.total()} to {both.total()}",
            )
        more_flushed = max(0, flushed - must[False, True] - must[True, True])
        more_expired = expired + flushed - must.total() - more_flushed
        kept: list[QueuedMessage] = []
        for place, message in enumerate(messages):
            old = self._is_old(message)
            if not (old or message.flushed) or (place >= passed and not (more_expired or more_flushed)):
                kept.append(message)
            elif place >= passed or message.uncounted:
                if old and more_expired:
                    more_expired -= 1
                elif message.flushed and more_flushed:
                    more_flushed -= 1
                elif place >= passed:
                    kept.append(message)
        messages[:] = kept

    def _group(self, name: str) -> Group:
        """Return a group without the members whose time is over."""
        group = self._groups.setdefault(name, Group())
        lasts = self.facts.group_expiry
        for member, one in list(group.others.items()):
            if self._has_passed(one.since.plus(self.facts.lifetime)):
                del group.others[member]
        if lasts is not None:
            for member, one in list(group.owned.items()):
                if self._has_passed(one.since.plus(lasts)):
                    del group.owned[member]
                    group.over.add(member)
            self._forget_joins(group)
        elif group.owned and group.touched is not None and self._has_passed(group.touched.plus(self.facts.lifetime)):
            for one in group.owned.values():
                one.doubtful = True
        return group

    def _forget_joins(self, group: Group) -> None:
        """Forget inboxes that hold no member any more."""
        inboxes = {_inbox_of(name) for name in group.owned} | {_inbox_of(name) for name in group.over}
        for inbox in list(group.joins):
            if inbox not in inboxes:
                del group.joins[inbox]

    def _check_now(self, now: float) -> None:
        """Check the store's time: its difference from the local one never changes."""
        ahead = Span(now - self._at.high, now - self._at.low)
        if self._ahead is None:
            self._ahead = ahead
        elif ahead.high < self._ahead.low - SLACK or ahead.low > self._ahead.high + SLACK:
            wanted = Span(self._at.low + self._ahead.low, self._at.high + self._ahead.high)
            raise _BrokenRule(
                "The shard's clock goes on like ours, and moves with its offset",
                f"now from {wanted.low:.3f} to {wanted.high:.3f}",
            )

    def _check_stamp(self, stamp: float, what: QueuedMessage | InboxEntry) -> None:
        """Check the time at which a store says that a message came in."""
        if self._ahead is not None:
            low, high = what.since.low + self._ahead.low, what.since.high + self._ahead.high
            if not low - SLACK <= stamp <= high + SLACK:
                raise _BrokenRule(
                    "A stamp is the shard's time when it took the message in",
                    f"a stamp from {low:.3f} to {high:.3f}, not {stamp:.3f}, of {what.frame!r}",
                )
        if isinstance(what, QueuedMessage):
            if what.stamp is not None and abs(what.stamp - stamp) > GUARD:
                raise _BrokenRule("What is put back keeps its stamp", f"{what.stamp:.6f}, not {stamp:.6f}")
            what.stamp = stamp

    def _check_epoch(self, epoch: str, *, always: bool = True) -> None:
        """Check which flush a store names as the last one."""
        right = {self._epoch}
        if self._epoch_at is not None:
            lasts = max(self.facts.remembered, self.facts.lifetime)
            if not always or self._has_passed(self._epoch_at.plus(lasts)):
                right.add("")
        if epoch not in right:
            raise _BrokenRule("The epoch is the last flush", f"epoch={self._epoch!r}")

    def _order(self, messages: list[QueuedMessage]) -> str:
        return _frames([message for message in messages if not self._is_gone(message)])

    def _broken_rule(self, frame: bytes, messages: list[QueuedMessage]) -> str:
        """Say which rule is broken by a message that should not have come."""
        for message in messages:
            if message.frame == frame:
                if message.flushed:
                    return "What was popped before a flush must not be popped again"
                if self._is_old(message):
                    return "Nothing is popped that is as old as expiry"
                return "Messages leave a queue in the order in which they came, and what is put back comes first"
        if frame in self._popped:
            return "What was popped is in no queue any more"
        return "Only what was pushed to a queue, and waits there, is popped from it"

    _checks: ClassVar[Mapping[type, Callable[..., None]]] = {
        c.Push: _check_push,
        c.ClearUnread: _check_clear_unread,
        c.Pop: _check_pop,
        c.PutBack: _check_put_back,
        c.ReleaseClaim: _check_release_claim,
        c.Pending: _check_pending,
        c.Report: _check_report,
        c.Reported: _check_reported,
        c.Survey: _check_survey,
        c.AcquireLease: _check_acquire_lease,
        c.RenewLease: _check_renew_lease,
        c.ReleaseLease: _check_release_lease,
        c.Read: _check_read,
        c.ReturnCredits: _check_return_credits,
        c.Mark: _check_mark,
        c.Alive: _check_alive,
        c.Join: _check_join,
        c.Leave: _check_leave,
        c.Publish: _check_publish,
        c.Deliver: _check_deliver,
        c.Prune: _check_prune,
        c.Members: _check_members,
        c.CheckGroups: _check_groups,
        c.Flush: _check_flush,
        c.Unflushed: _check_unflushed,
        c.Acknowledge: _check_acknowledge,
        c.FindOrphaned: _check_find_orphaned,
    }
    """Of each type of command, what is told a request and its reply."""


def _inbox_of(channel: str) -> str:
    return channel.partition("!")[0] + "!"


def _frames(items: Sequence[QueuedMessage | InboxEntry]) -> str:
    return "in this order: " + (", ".join(repr(item.frame) for item in items) or "nothing")
