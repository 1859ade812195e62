"""Checks that a store handles every command of the vocabulary, one at a time and several at once.

A store keeps a table from command types to handlers, so a new command is easily left out of one of them; what replies
have to be is the business of `channel_layer.testing.store_machine`.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from channel_layer import commands as c
from channel_layer.domain.frames import MembershipMarker
from channel_layer.domain.names import ChannelName, GroupName
from channel_layer.errors import StoreError
from channel_layer.testing.factories import Violation
from channel_layer.testing.threads import BlockingWrapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer.ports import Backend, Capabilities, Store

__all__ = ("check_commands", "command_types", "example_commands")

_HANDLED: Final = "A store handles every command, or its capabilities say that it does not support it"
_MANY: Final = "execute_many() returns one outcome for each command, in the order of the commands"

_GROUP: Final = GroupName.parse("examples")
_JOBS: Final = ChannelName.parse("example.jobs")
_OWNED: Final = ChannelName.parse("specific.example!a")
_OWNED_BY_THREADS: Final = ChannelName.parse("specific.threads!a")
_CLAIMED: Final = ChannelName.parse("claimed.example!a")

_NEED_LEASES: Final = (
    c.Acknowledge,
    c.AcquireLease,
    c.Deliver,
    c.ReturnCredits,
    c.Mark,
    c.Read,
    c.ReleaseLease,
    c.RenewLease,
    c.CheckGroups,
)
_NEED_READERS: Final = (c.FindOrphaned,)


_SEVERAL: Final = tuple(ChannelName.parse(f"example.{name}") for name in ("two", "none", "one"))
_PUSHES: Final = tuple(c.Push(0, _SEVERAL[place], 10, b"1") for place in (0, 0, 2))
_COUNTS: Final = tuple(c.Pending(0, channel) for channel in _SEVERAL)
_COUNTED: Final = (2, 0, 1)
"""The replies to `_COUNTS` after `_PUSHES`."""


def command_types() -> set[type[c.Command[object]]]:
    """Return the type of every command.

    A dataclass with slots is made twice, and its first version may be among the subclasses still.
    """
    command: type[c.Command[object]] = c.Command
    return {kind for kind in command.__subclasses__() if getattr(c, kind.__name__, None) is kind}


def example_commands(owned: ChannelName) -> tuple[c.Command[object], ...]:
    """Return one command of each type, in an order in which each finds what it is about.

    Args:
        owned: a channel in an inbox that the caller may own.
    """
    inbox = owned.queue
    marker = MembershipMarker(_GROUP.name, owned.name, True, 1, 0)
    return (
        c.Push(0, _JOBS, 10, b"1"),
        c.Pending(0, _JOBS),
        c.Survey(0, _JOBS),
        c.Report(0, (c.Count(_JOBS.queue, 1, 0),), 1, 0),
        c.Reported(0, _JOBS.queue),
        c.FindOrphaned(0),
        c.Pop(0, _JOBS.queue, 1, "me"),
        c.PutBack(0, _JOBS.queue, ()),
        c.ClearUnread(0, _JOBS),
        c.ReleaseClaim(0, _CLAIMED.queue, "me"),
        c.AcquireLease(0, inbox, "first", "", ()),
        c.RenewLease(0, inbox),
        c.Alive(0, (inbox,)),
        c.Mark(0, inbox, marker),
        c.Read(0, inbox, "", 0.001),
        c.ReturnCredits(0, inbox, "first", 1, ()),
        c.Join(0, _GROUP, _JOBS, owned=False, age=0.0, restore=False, mark=False),
        c.Members(0, _GROUP),
        c.CheckGroups(0, inbox, (_GROUP,), extend=True),
        c.Publish(0, _GROUP, b"1", at_once=False),
        c.Deliver(0, inbox, _GROUP, (), b"1"),
        c.Prune(0, _GROUP, 0, (), ()),
        c.Leave(0, _GROUP, _JOBS, mark=False),
        c.Unflushed(0, (inbox.name,), "none"),
        c.Acknowledge(0, inbox, "none"),
        c.ReleaseLease(0, inbox),
        c.Flush(0, "end"),
    )


async def check_commands(backend: Backend, capabilities: Capabilities) -> None:
    """Check that the stores of a backend handle every command; of the blocking store, all but `Read` are asked.

    Args:
        backend: of a prefix that holds nothing; what is put there is removed again.
        capabilities: what the stores can do.

    Raises:
        Violation: a command is not handled, or several at once are not.
    """
    async with aclosing(backend.open()) as store:
        await _check_store(store, _OWNED, capabilities, "")
    async with aclosing(BlockingWrapper(backend).open()) as store:
        await _check_store(store, _OWNED_BY_THREADS, capabilities, " of the blocking store")


async def _check_store(store: Store, owned: ChannelName, capabilities: Capabilities, of: str) -> None:
    refused: list[c.Command[object]] = []
    for command in example_commands(owned):
        if of and isinstance(command, c.Read):
            continue
        try:
            await store.execute(command)
        except Exception as exc:  # noqa: BLE001 - a store may raise anything if it is wrong
            _check_refusal(command, exc, capabilities, f"execute(){of}")
            refused.append(command)
    for command in _PUSHES:
        await store.execute(command)
    outcomes: Sequence[object] | StoreError
    try:
        outcomes = await store.execute_many([*_COUNTS, *refused])
    except StoreError as exc:
        outcomes = exc
    _check_outcomes(outcomes, len(refused), f"execute_many(){of}")
    await store.execute(c.Flush(0, "end-of-three"))


def _check_refusal(command: c.Command[object], exc: Exception, capabilities: Capabilities, where: str) -> None:
    """Let an error pass if it says that the store does not support this command, and the capabilities say so, too."""
    name = type(command).__name__
    if isinstance(command, _NEED_LEASES):
        supported, needs = capabilities.leases, ", because the store has leases"
    elif isinstance(command, _NEED_READERS):
        supported, needs = capabilities.registers_readers, ", because the store keeps registered readers"
    else:
        supported, needs = True, ""
    if supported:
        due = f"a reply{needs}"
    elif isinstance(exc, StoreError) and (exc.retryable, exc.outcome) == (False, "not_sent"):
        return
    else:
        due = 'a reply, or StoreError(retryable=False, outcome="not_sent")'
    asked = f"{where} of {name}"
    raise Violation(f"{_HANDLED}\n  asked: {asked}\n  came: {exc!r}\n  should have come: {due}") from exc


def _check_outcomes(outcomes: Sequence[object] | StoreError, refused: int, where: str) -> None:
    """Compare what came of `_COUNTS`, and of commands that the store has refused one by one."""
    due = [*_COUNTED, *[StoreError] * refused]
    if isinstance(outcomes, StoreError) or [_kind_of_error(outcome) for outcome in outcomes] != due:
        asked = f"{where} of {len(_COUNTS)} Pending and of {refused} commands that are not supported"
        raise Violation(f"{_MANY}\n  asked: {asked}\n  came: {outcomes!r}\n  should have come: {due!r}")


def _kind_of_error(outcome: object) -> object:
    return StoreError if isinstance(outcome, StoreError) else outcome
