"""The table of commands: what carries out each of them, the room that it needs, and the reply if there is none.

Both stores use it, the one for event loops and the one for threads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

from channel_layer import commands as c
from channel_layer.stores.wrapper import unsupported
from channel_layer_ipc import _group_commands as groups
from channel_layer_ipc import _inbox_commands as inboxes
from channel_layer_ipc import _queue_commands as queues
from channel_layer_ipc import _statistics_commands as statistics
from channel_layer_ipc._directory import unavailable
from channel_layer_ipc._transaction import RECORD, entry_need

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Never

    from channel_layer_ipc._transaction import Transaction

__all__ = ("Call", "Handler", "handler_of")

R = TypeVar("R")


class Handler(NamedTuple):
    """How commands of one type are carried out.

    Attributes:
        work: carries one out in a transaction. It is given commands of its own type only, hence ``Any``.
        need: returns the bytes of room that one needs; None: it needs none, because it takes something away.
        refusal: makes the reply if there is no room, given what is full; None: an error.
    """

    work: Callable[[Transaction, Any], Any]
    need: Callable[[Any], int] | None = None
    refusal: Callable[[str], Any] | None = None


def _room_of_message(request: c.Push) -> int:
    return entry_need(len(request.payload) + len(request.channel.name))


def _room_of_record(_request: object) -> int:
    return RECORD


_HANDLERS: Final[Mapping[type, Handler]] = {
    c.Acknowledge: Handler(inboxes.acknowledge),
    c.Alive: Handler(inboxes.alive),
    c.AcquireLease: Handler(inboxes.claim, _room_of_record),
    c.Deliver: Handler(inboxes.deliver),
    c.Flush: Handler(inboxes.flush),
    c.ClearUnread: Handler(queues.clear_unread),
    c.ReturnCredits: Handler(inboxes.return_credits),
    c.Join: Handler(groups.join, _room_of_record),
    c.Leave: Handler(groups.leave),
    c.Mark: Handler(inboxes.mark, _room_of_record),
    c.Members: Handler(groups.members),
    c.Pending: Handler(queues.pending),
    c.Pop: Handler(queues.pop),
    c.Prune: Handler(groups.prune),
    c.Publish: Handler(groups.publish),
    c.Push: Handler(queues.push, _room_of_message, queues.no_room),
    c.PutBack: Handler(queues.put_back),
    c.ReleaseLease: Handler(inboxes.release),
    c.RenewLease: Handler(inboxes.renew),
    c.Report: Handler(statistics.report, _room_of_record),
    c.Reported: Handler(statistics.reported),
    c.Survey: Handler(statistics.survey),
    c.CheckGroups: Handler(groups.check_groups),
    c.FindOrphaned: Handler(queues.orphaned),
    c.ReleaseClaim: Handler(queues.release_claim),
    c.Unflushed: Handler(inboxes.unflushed),
}
"""All commands but `Read`, which waits: only the store for event loops supports it."""


def _refuse(_batch: Transaction, request: c.Command[object]) -> Never:
    raise unsupported(request)


_UNSUPPORTED: Final = Handler(_refuse)


def handler_of(command: c.Command[object]) -> Handler:
    """Return what carries out a command; of one that is not supported, what raises the error that says so."""
    return _HANDLERS.get(type(command), _UNSUPPORTED)


class Call(Generic[R]):
    """A request to be carried out in a transaction, and its outcome.

    Args:
        handler: carries out the request; its reply is an ``R``.
        request: the request, mostly a command.
    """

    __slots__ = ("_error", "_handler", "_reply", "_request", "need")

    _reply: R

    def __init__(self, handler: Handler, request: object) -> None:
        self.need: int | None = handler.need(request) if handler.need is not None else None
        self._handler = handler
        self._request = request
        self._error: Exception | None = None

    def perform(self, tx: Transaction, *, first: bool) -> bool:
        """Carry out the request; return False if there is no room, so that it is done *first* in another transaction.

        If it is the first one, and there is no room all the same, it is refused.
        """
        self._error = None  # of a transaction that another call has spoiled
        if self.need is None or tx.has_room(self.need):
            self._reply = self._handler.work(tx, self._request)
            return True
        if not first:
            return False
        tx.exhausted = True
        self.refuse(tx.why_full())
        return True

    def refuse(self, problem: str) -> None:
        """Give the reply for the case that there is no room, or note the error; *problem* says what is full."""
        if self._handler.refusal is None:
            self._error = unavailable(problem)
        else:
            self._reply = self._handler.refusal(problem)

    def fail(self, error: Exception) -> None:
        """Note that it was not carried out."""
        self._error = error

    def reply(self) -> R:
        """Return the reply.

        Raises:
            StoreError: it was not carried out.
        """
        if self._error is not None:
            raise self._error
        return self._reply
