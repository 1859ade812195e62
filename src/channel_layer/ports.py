"""The core's ports: what it needs from a store, a codec, a cipher and a clock, as structural types.

A store is one event loop's way to the queues and groups; the core opens one in each loop that needs it, from a
`Backend` that belongs to no loop, and one for all threads that have none. Nothing here is inherited from: an adapter
only has to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from channel_layer import commands as c
    from channel_layer.commands import Command
    from channel_layer.domain.codec import Message
    from channel_layer.domain.names import Queue
    from channel_layer.errors import StoreError

__all__ = (
    "Backend",
    "Blinder",
    "BlockingStore",
    "Capabilities",
    "Clock",
    "Codec",
    "Place",
    "Sealer",
    "SimpleStore",
    "Store",
    "Waiting",
)

R = TypeVar("R")


class Clock(Protocol):
    """Local time.

    ``offset`` exists for tests: a store with a clock of its own adds it to that clock, and ``now()`` has it in it,
    so that moving it moves every clock of the system at once. It is 0 in production.
    """

    @property
    def offset(self) -> float:
        """Seconds that are added to every clock."""
        ...

    def now(self) -> float:
        """Return seconds since any fixed moment; never goes back."""
        ...


class Codec(Protocol):
    """Messages to bytes and back. Pure."""

    def encode(self, message: object, /) -> bytes:
        """Check *message* and turn it into bytes.

        Raises:
            InvalidMessage: it is not a message.
            MessageTooLarge: it is too large.
        """
        ...

    def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
        """Turn bytes into a message that nobody else holds.

        Args:
            payload: the bytes.
            shared: others have been given the same bytes object, or will be: what is known of it is worth keeping.

        Raises:
            BadFrame: these bytes are not an encoded message.
        """
        ...


Place: TypeAlias = Literal["channel", "group"]
"""What a sealed payload is for."""


class Sealer(Protocol):
    """Payloads to bytes that only who has a key can read or make, and back.

    What is sealed is bound to the channel or group that it is for, to the prefix, and to the time.
    """

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal a payload, an encoded message, for the channel or group *name*. Thread-safe."""
        ...

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Return the payload. Thread-safe.

        Raises:
            Unauthentic: no one with a key has sealed these bytes for *name*, or it was too long ago.
        """
        ...


class Blinder(Protocol):
    """Names to tokens of ASCII letters, digits, ``-`` and ``_`` that tell nothing to who has no key, and back.

    One name gives one token, in every process.
    """

    def blind(self, name: str, within: str, /) -> str:
        """Return the token of a name; tokens of one name *within* different things have nothing in common."""
        ...

    def reveal(self, token: str, within: str, /) -> str:
        """Return the name of a token.

        Raises:
            Unauthentic: no one with the key has made this token.
        """
        ...


class Store(Protocol):
    """Queues, owned inboxes and groups, as reached from one event loop.

    A store keeps one table, from the type of each command in `channel_layer.commands` to what carries it out there;
    what that has to do is said by the command. Every method may raise `channel_layer.errors.StoreError`, and nothing
    else, but for cancellation.
    """

    def execute(self, command: Command[R], /) -> Awaitable[R]:
        """Carry out a command, and return its reply.

        The replies to a `Pop` and a `PutBack` are needed: what they speak of is nowhere else. If the caller is
        cancelled when the store may have carried out one of these, it returns all the same, as soon as it knows; the
        caller sees by its task's ``cancelling()`` that it is to end. Cancelling any other command is harmless: it is
        carried out, or it is not.

        Raises:
            StoreError: it was not carried out, or nobody knows; also for a command that this store does not support.
        """
        ...

    def execute_many(self, commands: Sequence[Command[R]], /) -> Awaitable[list[R | StoreError]]:
        """Carry out several commands, in one write where that can be; return what came of each, in the same order.

        A store that can do no better has `channel_layer.stores.execute_each`.
        """
        ...

    async def wait(self, request: c.Wait, /) -> None:
        """Return when the queue may hold a message, or after ``request.block`` seconds.

        Of all tasks that wait for one queue at least one returns for each message that comes in; it has to pop, or to
        wait again. Cancelling passes the call on to another task that waits.
        """
        ...

    async def run_id(self, shard: int, /) -> str:
        """Return what names this run of the shard's server: it is another one after a restart. Connects if need be."""
        ...

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection that `run_id` spoke of is lost. Cancelling is harmless."""
        ...

    async def aclose(self) -> None:
        """Let go of every connection. Commands in flight fail."""
        ...


class Waiting(Protocol):
    """Waits that have begun, in one thread. Whoever began them ends them, whatever happens."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors; one of them becomes readable when a queue may hold a message. It may do so in vain."""
        ...

    @property
    def seconds(self) -> float:
        """How long to wait before looking again, whatever happens."""
        ...

    def end(self) -> tuple[Queue, ...]:
        """End all of them, and return the queues for which this one was called, as far as is known.

        Of all that wait for one queue at least one is called for each message that comes in, and no other. So the
        thread that ends these waits has to pop from each of those queues, with a count of 0 if it needs no message:
        then another one is called. It raises nothing.
        """
        ...


class BlockingStore(Protocol):
    """Queues, owned inboxes of others, and groups, as reached from threads that have no event loop.

    One object serves all threads of the process, at once. It carries out the commands that a `Store` does, except for
    `channel_layer.commands.Read`. Every method may raise `channel_layer.errors.StoreError`, and nothing else, but for
    what interrupts the thread, such as a `KeyboardInterrupt`.
    """

    def execute(self, command: Command[R], /) -> R:
        """Carry out a command, and return its reply.

        If the thread is interrupted while the store may have carried out a `Pop`, what that took is put back first.
        """
        ...

    def execute_many(self, commands: Sequence[Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, in one write where that can be; return what came of each, in the same order."""
        ...

    def wait(self, request: c.WaitAny, /) -> Waiting:
        """Begin to wait; what has come since the last `Pop` from one of the queues counts, too."""
        ...

    def close(self) -> None:
        """Let go of every connection; those in use follow when they are free. Later commands fail."""
        ...


class SimpleStore(Protocol):
    """Queues and groups on one shard, and nothing else: the least that a channel layer can be built on.

    Its methods block, and all are called in the thread that made it. `channel_layer.stores.simple.SimpleBackend` makes
    a whole store of it. Each may raise `channel_layer.errors.StoreError`, and nothing else. What each has to do is said
    by its request in `channel_layer.commands`; of a `Join` and a `Leave` only ``group`` and ``channel`` matter here,
    every member is one of the `Roster.others`, and an inbox is popped like any other queue, whoever asks.
    """

    def push(self, request: c.Push, /) -> c.Pushed: ...
    def pop(self, request: c.Pop, /) -> c.Popped: ...
    def put_back(self, request: c.PutBack, /) -> c.Returned: ...
    def pending(self, request: c.Pending, /) -> int: ...
    def join(self, request: c.Join, /) -> None: ...
    def leave(self, request: c.Leave, /) -> None: ...
    def members(self, request: c.Members, /) -> c.Roster: ...
    def flush(self, request: c.Flush, /) -> int:
        """Empty everything of this prefix; return how many messages that were."""
        ...

    def close(self) -> None:
        """Let go of what is open. Harmless if it is called twice."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond queues and groups. What it lacks, the core does without.

    Attributes:
        leases: it keeps minted inboxes, with leases, markers and one copy of a group message for each process. Without
            them all channels of one `new_channel` prefix share one queue, and its capacity, and a group message is
            pushed to each member by itself.
        blocking: `Store.wait` returns when a message comes, and `BlockingStore.wait` tells. Without it the core
            looks again and again.
        lapses: it notes which members let a group's message expire unread (`Forgive`, `Pushed.lapsed`). Without it
            such a member stays until its ``group_expiry``.
        attends: it notes who attends to a queue (`Pop.attend`, `Push.if_attended`, `Unattended`), and sees when a
            process that does so dies, at the latest when the time that it gave is over. Nothing but the local half of
            two (`channel_layer.stores.local_and_remote`) needs it.
        local: the last of its shards is this machine's own; what the other ones keep, all machines see. Normal
            channels may be on that one too, everything else is on the others.
        statistics: it adds up what all processes report (`Report`), and knows what waits (`Survey`). Without it each
            process has statistics of its own, and nobody knows the age of a message.
    """

    leases: bool = True
    blocking: bool = True
    lapses: bool = True
    attends: bool = False
    local: bool = False
    statistics: bool = True


class Backend(Protocol):
    """A store before it meets an event loop."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; the same for as long as it lives."""
        ...

    @property
    def identities(self) -> tuple[str, ...]:
        """What names each shard, the same in every process; all different."""
        ...

    @property
    def connects(self) -> bool:
        """Whether opening a store costs connections, so that event loops which live for one call should not."""
        ...

    def open(self) -> Store:
        """Make a store for the running event loop. No I/O yet."""
        ...

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process. No I/O yet."""
        ...

    def forked(self) -> None:
        """Forget what must not be shared with the parent process; called in the child after a fork."""
        ...
