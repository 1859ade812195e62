"""The ports of the core: what it needs from a store, a codec, a cipher and a clock, as structural types.

A store gives one event loop access to the queues and groups. The core opens one in each loop that needs it, and one for
all threads without a loop, from a `Backend` that is bound to no loop. An adapter need not inherit from anything here:
it only has to fit.
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

    ``offset`` exists for tests: a store with its own clock adds it to that clock, and ``now()`` includes it, so that
    a change of it moves every clock of the system together. It is 0 in production.
    """

    @property
    def offset(self) -> float:
        """Seconds that are added to every clock."""
        ...

    def now(self) -> float:
        """Return seconds since any fixed moment; they never decrease."""
        ...


class Codec(Protocol):
    """Messages to bytes and back. Pure."""

    def encode(self, message: object, /) -> bytes:
        """Check *message* and turn it into bytes.

        Raises:
            InvalidMessage: it is not a message.
            MessageTooLarge: the encoded message is too large.
        """
        ...

    def decode(self, payload: bytes, /, *, shared: bool = False) -> Message:
        """Turn bytes into a message that is not shared with any other recipient.

        Args:
            payload: the bytes.
            shared: the same bytes object is decoded for other recipients, too, so results of checks may be cached.

        Raises:
            BadFrame: these bytes are not an encoded message.
        """
        ...


Place: TypeAlias = Literal["channel", "group"]
"""What a sealed payload is addressed to."""


class Sealer(Protocol):
    """Payloads to bytes that can be read or made only with a key, and back.

    A sealed payload is bound to the channel or group that it is addressed to, to the prefix, and to the time.
    """

    def seal(self, payload: bytes, place: Place, name: str, /) -> bytes:
        """Seal a payload, an encoded message, for the channel or group *name*. Thread-safe."""
        ...

    def open(self, sealed: bytes, place: Place, name: str, /) -> bytes:
        """Return the payload. Thread-safe.

        Raises:
            Unauthentic: these bytes were not sealed with one of the keys for *name*, or too long ago.
        """
        ...


class Blinder(Protocol):
    """Names to tokens of ASCII letters, digits, ``-`` and ``_`` that reveal nothing without the key, and back.

    A name has the same token in every process.
    """

    def blind(self, name: str, within: str, /) -> str:
        """Return the token of a name; the tokens of one name *within* different scopes are unrelated."""
        ...

    def reveal(self, token: str, within: str, /) -> str:
        """Return the name of a token.

        Raises:
            Unauthentic: this token was not made with the key.
        """
        ...


class Store(Protocol):
    """Queues, owned inboxes and groups, as reached from one event loop.

    A store keeps one table, from the type of each command in `channel_layer.commands` to its handler; the command says
    what the handler has to do. Every method may raise `channel_layer.errors.StoreError`, and nothing else except for
    cancellation.
    """

    def execute(self, command: Command[R], /) -> Awaitable[R]:
        """Carry out a command, and return its reply.

        The messages in the replies to a `Pop` and a `PutBack` exist nowhere else. If the caller is cancelled when the
        store may have carried out one of these, the store still returns the reply as soon as it has it; the caller
        sees the cancellation by its task's ``cancelling()``. Cancelling any other command is harmless: it is carried
        out, or it is not.

        Raises:
            StoreError: it was not carried out, or that is unknown; also for a command that this store does not support.
        """
        ...

    def execute_many(self, commands: Sequence[Command[R]], /) -> Awaitable[list[R | StoreError]]:
        """Carry out several commands, in one write where possible; return the outcome of each, in the same order.

        A store without such writes can use `channel_layer.stores.wrapper.execute_each`.
        """
        ...

    async def wait(self, request: c.Wait, /) -> None:
        """Return when the queue may hold a message, or after ``request.block`` seconds.

        For each message that comes in, at least one of the tasks that wait for its queue returns; it has to pop, or to
        wait again. Cancelling it passes the wake-up on to another waiting task.
        """
        ...

    async def run_id(self, shard: int, /) -> str:
        """Return the run id of the shard's server, which changes with each restart. Connects if necessary."""
        ...

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection for which `run_id` answered is lost. Cancelling is harmless."""
        ...

    async def aclose(self) -> None:
        """Close every connection. Commands in flight fail."""
        ...

    def abandon(self) -> None:
        """Let go of what others would go on to tell this store, because its event loop was closed before `aclose`.

        Else a message would be announced to a wait that no task awaits any more. Called in any thread; it may be called
        twice, and raises nothing.
        """
        ...


class Waiting(Protocol):
    """Waits that have begun, in one thread. The caller that began them has to end them in every case."""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """File descriptors; one becomes readable when a queue may hold a message, and possibly without a message."""
        ...

    @property
    def seconds(self) -> float:
        """The most seconds to wait before looking again."""
        ...

    def end(self) -> tuple[Queue, ...]:
        """End all waits, and return the queues for which this thread was woken, as far as is known.

        For each message that comes in, at least one of those that wait for its queue is woken, and not all. So the
        thread has to pop from each of the returned queues, with a count of 0 if it needs no message, so that another
        one is woken.

        Raises:
            StoreError: the store has refused to wait; nothing was taken.
        """
        ...


class BlockingStore(Protocol):
    """Queues, owned inboxes of others, and groups, as reached from threads that have no event loop.

    One object serves all threads of the process concurrently. It carries out the same commands as a `Store`, except for
    `channel_layer.commands.Read`. Every method may raise `channel_layer.errors.StoreError`, and nothing else except for
    what interrupts the thread, such as a `KeyboardInterrupt`.
    """

    def execute(self, command: Command[R], /) -> R:
        """Carry out a command, and return its reply.

        If the thread is interrupted while the store may have carried out a `Pop`, its messages are put back first.
        """
        ...

    def execute_many(self, commands: Sequence[Command[R]], /) -> list[R | StoreError]:
        """Carry out several commands, in one write where possible; return the outcome of each, in the same order."""
        ...

    def wait(self, request: c.WaitAny, /) -> Waiting:
        """Begin to wait; messages that have come since the last `Pop` from one of the queues count, too."""
        ...

    def close(self) -> None:
        """Close every connection; those in use are closed when they become free. Later commands fail."""
        ...


class SimpleStore(Protocol):
    """Queues and groups on one shard, and nothing else: the minimum for a channel layer.

    Its methods block, and all are called in the thread that made it. `channel_layer.stores.simple.SimpleBackend` makes
    a complete store of it. Each may raise `channel_layer.errors.StoreError`, and nothing else. The commands in
    `channel_layer.commands` say what each has to do; of a `Join` and a `Leave` only ``group`` and ``channel`` matter
    here, every member is one of the `GroupMembers.others`, and an inbox is popped like any other queue, by any
    claimant.
    """

    def push(self, request: c.Push, /) -> c.Pushed: ...
    def pop(self, request: c.Pop, /) -> c.Popped: ...
    def put_back(self, request: c.PutBack, /) -> c.Returned: ...
    def pending(self, request: c.Pending, /) -> int: ...
    def join(self, request: c.Join, /) -> None: ...
    def leave(self, request: c.Leave, /) -> None: ...
    def members(self, request: c.Members, /) -> c.GroupMembers: ...
    def flush(self, request: c.Flush, /) -> int:
        """Remove everything of this prefix; return the number of messages that were removed."""
        ...

    def close(self) -> None:
        """Close what is open. Calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can do beyond queues and groups. The core works without what a store lacks.

    Attributes:
        leases: it keeps owned inboxes, with leases, markers and one copy of a group message for each process. Without
            them all channels of one `new_channel` prefix share one queue and its capacity, and a group message is
            pushed to each member separately.
        blocking: `Store.wait` and `BlockingStore.wait` notify the core of a message. Without it the core polls.
        tracks_unread: it records which members let a group message expire unread (`ClearUnread`,
            `Pushed.unread_expired`). Without it such a member stays until its ``group_expiry``.
        registers_readers: it records the registered readers of a queue (`Pop.register`, `Push.if_registered`,
            `FindOrphaned`), and notices when such a process dies, at the latest when its registration ends. Only the
            local store of two (`channel_layer.stores.local_and_remote`) needs it.
        local: the last of its shards is local to this machine; all machines share the other ones. Normal channels may
            be on that shard, too; everything else is on the others.
        spreads: normal channels are spread over all its shards; else each is on one of them. That spares receivers the
            waits on many shards, where these are not servers, each with its own load and failures.
        statistics: it adds up what all processes report (`Report`), and knows what waits (`Survey`). Without it each
            process has only its own statistics, and the age of messages is unknown.
    """

    leases: bool = True
    blocking: bool = True
    tracks_unread: bool = True
    registers_readers: bool = False
    local: bool = False
    statistics: bool = True
    spreads: bool = True


class Backend(Protocol):
    """What opens stores: bound to no event loop."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; it never changes."""
        ...

    @property
    def identities(self) -> tuple[str, ...]:
        """The name of each shard, the same in every process; all different."""
        ...

    @property
    def connects(self) -> bool:
        """Whether opening a store costs connections, so that event loops that live for one call should not do so."""
        ...

    def open(self) -> Store:
        """Make a store for the running event loop, without I/O."""
        ...

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process, without I/O."""
        ...

    def forked(self) -> None:
        """Drop everything that must not be shared with the parent process; called in the child after a fork."""
        ...
