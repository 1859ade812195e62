"""The core's ports: what it needs from a store, a codec, a cipher and a clock, as structural types.

A store is one event loop's way to the queues and groups; the core opens one in each loop that needs it, from a
`Backend` that belongs to no loop, and one for all threads that have none. Nothing here is inherited from: an adapter
only has to fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator, Sequence

    from channel_layer import commands as c
    from channel_layer.domain.frames import Message
    from channel_layer.domain.names import Queue
    from channel_layer.domain.rates import Rates
    from channel_layer.errors import StoreError

__all__ = (
    "AsyncStore",
    "Backend",
    "Blinder",
    "BlockingStore",
    "Capabilities",
    "Clock",
    "Codec",
    "Loan",
    "Place",
    "Program",
    "Sealer",
    "Secret",
    "SimpleStore",
    "Waiting",
    "perform",
)

R = TypeVar("R")

# A generator has one type for all that is sent into it, and each command has a reply type of its own, so the middle
# one cannot be said. `perform` gives every reply its type back; programs never see the Any.
Program: TypeAlias = "Generator[c.Step[Any], Any, R]"
"""A use case: yields steps, is sent their replies, returns *R*. Knows no I/O."""


def perform(step: c.Step[R]) -> Program[R]:
    """Yield *step* and return its reply, typed."""
    reply: R = yield step
    return reply


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


class Secret(Protocol):
    """Bytes that no repr shows, so that no log and no error does: Pydantic's ``SecretBytes`` is one."""

    def get_secret_value(self) -> bytes:
        """Return them."""
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


class AsyncStore(Protocol):
    """Queues, minted inboxes and groups, as reached from one event loop.

    Every method may raise `channel_layer.errors.StoreError`, and nothing else, but for cancellation. What each has to
    do is said by its request in `channel_layer.commands`.
    """

    async def push(self, request: c.Push, /) -> c.Pushed: ...
    async def forgive(self, request: c.Forgive, /) -> None: ...
    async def pop(self, request: c.Pop, /) -> c.Popped:
        """Return what was taken, for it is nowhere else.

        If the caller is cancelled when the store may have taken something, this returns all the same, when it knows;
        the caller sees by its task's ``cancelling()`` that it is to end.
        """
        ...

    async def put_back(self, request: c.PutBack, /) -> c.Returned:
        """Do it, and return, although the caller is cancelled, as in `pop`: the messages are nowhere else."""
        ...

    async def unclaim(self, request: c.Unclaim, /) -> None: ...

    async def wait(self, request: c.Wait, /) -> None:
        """Return when the queue may hold a message, or after ``request.block`` seconds.

        Of all who wait for one queue at least one returns for each message that comes in; whoever returns must pop
        or wait again. Cancelling passes the call on to another one who waits.
        """
        ...

    async def unattended(self, request: c.Unattended, /) -> tuple[str, ...]: ...
    async def pending(self, request: c.Pending, /) -> int: ...
    async def report(self, request: c.Report, /) -> None: ...
    async def reported(self, request: c.Reported, /) -> Rates: ...
    async def survey(self, request: c.Survey, /) -> c.Surveyed: ...

    async def claim(self, request: c.Claim, /) -> c.Claimed: ...
    async def renew(self, request: c.Renew, /) -> c.Renewed: ...
    async def release(self, request: c.Release, /) -> int: ...

    async def read(self, request: c.Read, /) -> c.Batch:
        """Return what came in after ``request.after``; nothing after ``request.block`` seconds.

        Cancelling is harmless.
        """
        ...

    async def give_back(self, request: c.GiveBack, /) -> None: ...
    async def mark(self, request: c.Mark, /) -> bool: ...
    async def alive(self, request: c.Alive, /) -> tuple[bool, ...]: ...

    async def join(self, request: c.Join, /) -> c.Changed: ...
    async def leave(self, request: c.Leave, /) -> c.Changed: ...
    async def publish(self, request: c.Publish, /) -> c.Published: ...
    async def deliver(self, request: c.Deliver, /) -> c.Delivery: ...
    async def prune(self, request: c.Prune, /) -> None: ...
    async def members(self, request: c.Members, /) -> c.Roster: ...
    async def touch(self, request: c.Touch, /) -> None: ...

    async def flush(self, request: c.Flush, /) -> c.Flushing: ...
    async def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]: ...
    async def acknowledge(self, request: c.Acknowledge, /) -> None: ...

    async def incarnation(self, shard: int, /) -> str:
        """Return what names this run of the shard's server: it is another one after a restart. Connects if need be."""
        ...

    async def disconnected(self, shard: int, /) -> None:
        """Return once the connection that `incarnation` spoke of is lost. Cancelling is harmless."""
        ...

    async def aclose(self) -> None:
        """Let go of every connection. Commands in flight fail."""
        ...


class Waiting(Protocol):
    """Waits that have begun, in one thread. It ends them, whatever happens."""

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

        Of all who wait for one queue at least one is called for each message that comes in, and nobody else: whoever
        ends these waits has to pop from each of those queues, with a count of 0 if he needs no message, so that
        somebody else is called. It raises nothing.
        """
        ...


class Loan(Protocol):
    """A store's connections at the disposal of one program, in an event loop that lives for one call. Nothing blocks.

    Whoever is cancelled does not hear what came of his request, which may still be carried out: then `end` tells when
    that is over.
    """

    async def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        """Do several things, in one write where that can be; return what came of each, in the same order.

        Args:
            requests: none of them takes messages out of a queue, or puts them back.
        """
        ...

    def end(self) -> Awaitable[object] | None:
        """Give them back, whatever happened to them.

        Returns:
            None, or what ends with the requests that are still under way because whoever asked was cancelled. Until
            then nothing else is asked from this event loop: it would go another way, and could overtake them.
        """
        ...


class BlockingStore(Protocol):
    """Queues, minted inboxes of others, and groups, as reached from threads that have no event loop.

    One object serves all threads of the process, at once. Every method may raise `channel_layer.errors.StoreError`, and
    nothing else, but for what interrupts the thread, such as a `KeyboardInterrupt`. What each has to do is said by its
    request in `channel_layer.commands`.
    """

    def together(self, requests: Sequence[c.BlockingCommand[R]], /) -> list[R | StoreError]:
        """Do several things, in one write where that can be; return what came of each, in the same order."""
        ...

    def push(self, request: c.Push, /) -> c.Pushed: ...
    def forgive(self, request: c.Forgive, /) -> None: ...
    def pop(self, request: c.Pop, /) -> c.Popped:
        """Return what was taken, for it is nowhere else.

        If the thread is interrupted while the store may have taken something, it is put back first.
        """
        ...

    def put_back(self, request: c.PutBack, /) -> c.Returned: ...
    def unclaim(self, request: c.Unclaim, /) -> None: ...
    def waiting(self, request: c.WaitAny, /) -> Waiting:
        """Begin to wait; what has come since the last `pop` of one of the queues counts, too."""
        ...

    def unattended(self, request: c.Unattended, /) -> tuple[str, ...]: ...

    def pending(self, request: c.Pending, /) -> int: ...
    def report(self, request: c.Report, /) -> None: ...
    def reported(self, request: c.Reported, /) -> Rates: ...
    def survey(self, request: c.Survey, /) -> c.Surveyed: ...

    def give_back(self, request: c.GiveBack, /) -> None: ...
    def mark(self, request: c.Mark, /) -> bool: ...
    def alive(self, request: c.Alive, /) -> tuple[bool, ...]: ...

    def join(self, request: c.Join, /) -> c.Changed: ...
    def leave(self, request: c.Leave, /) -> c.Changed: ...
    def publish(self, request: c.Publish, /) -> c.Published: ...
    def deliver(self, request: c.Deliver, /) -> c.Delivery: ...
    def prune(self, request: c.Prune, /) -> None: ...
    def members(self, request: c.Members, /) -> c.Roster: ...

    def flush(self, request: c.Flush, /) -> c.Flushing: ...
    def unflushed(self, request: c.Unflushed, /) -> tuple[str, ...]: ...

    def lend(self) -> Loan | None:
        """Lend the running event loop what is at hand, without waiting; None: nothing is, and it goes another way.

        A store that needs no connections (`Backend.connects`) is never asked.
        """
        ...

    def close(self) -> None:
        """Let go of every connection; those in use follow when they are free. Later requests fail."""
        ...


class SimpleStore(Protocol):
    """Queues and groups on one shard, and nothing else: the least that a channel layer can be built on.

    Its methods block, and all are called in the thread that made it. `channel_layer.stores.simple.SimpleBackend` makes
    a whole store of it. Each may raise `channel_layer.errors.StoreError`, and nothing else. What each has to do is said by its
    request in `channel_layer.commands`; of a `Join` and a `Leave` only ``group`` and ``channel`` matter here, every
    member is one of the `Roster.others`, and an inbox is popped like any other queue, whoever asks.
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
        blocking: `AsyncStore.wait` returns when a message comes, and `BlockingStore.waiting` tells. Without it the core
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

    def open(self) -> AsyncStore:
        """Make a store for the running event loop. No I/O yet."""
        ...

    def open_blocking(self) -> BlockingStore:
        """Make a store for the threads of this process. No I/O yet."""
        ...

    def forked(self) -> None:
        """Forget what must not be shared with the parent process; called in the child after a fork."""
        ...
