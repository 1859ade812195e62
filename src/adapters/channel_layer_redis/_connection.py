"""One connection to a server: commands of one loop tick share a write, replies are matched in order.

A small `asyncio.Protocol` over hiredis, because a stream reader and a coroutine for each command cost ten to twenty
times as much. Every command has a deadline; nothing that was written is ever written again.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import hiredis

from channel_layer.errors import StoreError
from channel_layer.runtime.event_loops import ignore
from channel_layer.runtime.wakeups import InlineFuture, resume_all
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import INCOMPLETE, Redirection, is_list, is_replica, protocol_error, refusal
from channel_layer_redis._sockets import CHECK_SHARE, has_input

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer.errors import Outcome
    from channel_layer_redis._logins import Login
    from channel_layer_redis._packing import Arg, MergeableCommand
    from channel_layer_redis._sockets import Socket
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("Connection", "SentCommand")

_MERGED_PARTS, _MERGED_BYTES = 64, 65536
"""Limits of a merged command: a server does nothing else until it is done."""

_GATHERED_MOST: Final = 32
"""Commands of resumed tasks that are gathered before they are written: the server can begin while other tasks run."""

_HEARD_EACH: Final = 16
"""The reply to one in so many commands is not suppressed: else it would never be known that all are refused."""

_UNSEEN: Final = 0.1
"""Seconds of idle time after which is looked whether the server has closed the connection.

Mostly the event loop has seen that, but not if it was busy elsewhere, or stopped. Looking takes a system call.
"""

_ASKING: Final = pack(("ASKING",))
"""Has a node of a Cluster serve the next command though it does not have the whole slot yet."""

_SKIP: Final = pack(("CLIENT", "REPLY", "SKIP"))
"""Suppresses the reply to the next command."""


@runtime_checkable
class _Transport(Protocol):
    """The used part of a transport. Those of uvloop do not inherit from `asyncio.Transport`."""

    def write(self, data: bytes, /) -> object: ...
    def abort(self) -> object: ...


class _MergedCommand:
    """One command for the requests of several tasks, and the futures that get the parts of its reply."""

    __slots__ = ("_command", "_futures", "_label", "_parts", "_room")

    def __init__(self, command: MergeableCommand, label: str) -> None:
        self._command = command
        self._label = label
        self._parts: list[bytes] = []
        self._futures: list[InlineFuture] = []
        self._room = _MERGED_BYTES

    def takes(self, command: MergeableCommand, part: bytes) -> bool:
        """Whether a request with this command in common can be added."""
        return self._command is command and len(part) <= self._room and len(self._parts) < _MERGED_PARTS

    def add(self, part: bytes, future: InlineFuture) -> None:
        """Add a request: its packed arguments, and the future that gets its part of the reply."""
        self._room -= len(part)
        self._parts.append(part)
        self._futures.append(future)

    def packed(self) -> bytes:
        """Return the command for the write, after which no request is added."""
        return self._command.packed(self._parts)

    def done(self) -> bool:
        """Whether all requests were cancelled."""
        return all(future.done() for future in self._futures)

    def set_exception(self, error: Exception) -> None:
        """Fail all requests."""
        for future in self._futures:
            if not future.done():
                future.set_exception(error)

    def share(self, reply: object) -> list[InlineFuture]:
        """Set the results of the futures, and return them; a single request gets the whole reply."""
        futures = self._futures
        parts = [reply] if len(futures) == 1 else reply
        if not is_list(parts) or len(parts) != len(futures):
            self.set_exception(protocol_error(self._label))
            return []
        for future, part in zip(futures, parts, strict=True):
            future.set_result(part)
        return futures


@dataclass(frozen=True, slots=True)
class SentCommand:
    """A command that a node of a Cluster has refused with a redirection, so that it can be sent to another one.

    Attributes:
        command: what was sent.
        answer: gets the reply.
        deadline: the loop's time until which that has to come.
    """

    command: bytes | _MergedCommand
    answer: asyncio.Future[object] | InlineFuture | _MergedCommand
    deadline: float

    @property
    def packed(self) -> bytes:
        """The bytes that were sent."""
        return self.command if isinstance(self.command, bytes) else self.command.packed()

    def fail(self, error: StoreError) -> None:
        """Let whatever waits for the reply have an error."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Connection(asyncio.Protocol):
    """A connection to a server, which `_connecting.connect` opens.

    Args:
        address: the server.
        timeout: seconds that a command may take.
        demoted: called with the address when the server says that it is no primary any more.
        redirected: called when a node of a Cluster redirects a command; it returns whether it takes care of that.

    Attributes:
        open: commands can be sent.
        client_id: the server's number for the connection.
        run_id: names this run of the server; it is another one after a restart. "": its user may not ask.
        token: names the connection.
        closed: done when the connection is lost and its socket closed.
    """

    def __init__(
        self,
        address: ServerAddress,
        timeout: float,
        demoted: Callable[[ServerAddress], object],
        redirected: Callable[[Redirection, SentCommand], bool] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.address: ServerAddress = address
        self._label = address.label
        self._check_after = address.health_check_interval or math.inf
        self._look_after = min(self._check_after, _UNSEEN)
        self._demoted = demoted
        self._redirected = redirected
        self.timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=INCOMPLETE)
        self._transport: _Transport | None = None
        self._socket: Socket | None = None
        self._waiting: deque[
            tuple[asyncio.Future[object] | InlineFuture | _MergedCommand, float, bytes | _MergedCommand | None]
        ] = deque()
        """What gets the reply to each command, until when, and in a Cluster the command."""
        self._out: list[bytes | _MergedCommand] = []
        self._used = self._loop.time()
        """When the first of these was sent, at most one tick of the event loop ago, or the connection was used last."""
        self._timer: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._foreign = False
        """The server does not speak the protocol."""
        self._gathering = False
        """Tasks that got their replies are running; what they send is gathered for one write."""
        self._gathered = 0
        """Commands that were gathered since the last write."""
        self._silenced = 0
        """Commands whose replies were suppressed since one was heard."""
        self._can_silence: bool | None = None
        """Whether the user may suppress replies; None: the server has not been asked."""
        self._login: asyncio.Future[object] | None = None
        """Gets the reply to the last `log_in`."""
        self.open = False
        self.client_id = 0
        self.run_id = ""
        self.token: str = secrets.token_urlsafe(9)
        self.closed: asyncio.Future[None] = self._loop.create_future()

    # -- sending

    def call(self, *args: Arg, limit: float | None = None) -> asyncio.Future[object]:
        """Send a command; the future gets its reply, `StoreError` or `UnknownScript`.

        It may take *limit* seconds; None: the connection's timeout.
        """
        return self.send(pack(args), limit=limit)

    def send(self, command: bytes, *, limit: float | None = None) -> asyncio.Future[object]:
        """Send a command that is packed already; see `call`."""
        future: asyncio.Future[object] = self._loop.create_future()
        self._begin(command, future, limit, now=False)
        return future

    def send_inline(self, command: bytes, *, limit: float | None = None) -> InlineFuture:
        """Send a packed command for a task that resumes as soon as the reply is parsed, without a turn of the loop.

        If the connection is idle, the command is written at once, since the task has nothing else to do.
        """
        future = InlineFuture(self._loop)
        self._begin(command, future, limit, now=True)
        return future

    def send_merged(self, command: MergeableCommand, part: bytes, *, limit: float | None = None) -> InlineFuture:
        """Send a request that is merged with the ones just before it into one command, if they have it in common.

        Else it is sent as by `send_inline`. *part* are its own arguments, packed. The *limit* of the first request
        counts for all merged ones.
        """
        future = InlineFuture(self._loop)
        if not self.open:
            future.set_exception(self._gone("not_sent"))
        elif not self._waiting and not self._gathering:
            self._put(command.packed([part]), future, limit, now=True)
        else:
            last = self._out[-1] if self._out else None
            if not (isinstance(last, _MergedCommand) and last.takes(command, part)):
                last = _MergedCommand(command, self._label)
                self._put(last, last, limit, now=False)
            last.add(part, future)
            if self._gathering:
                self._count_gathered()
        return future

    def send_again(self, sent: SentCommand, *, asking: bool, limit: float) -> None:
        """Send a command that another node has redirected here; it may take *limit* seconds."""
        if asking:
            self.send(_ASKING).add_done_callback(ignore)
        if self.open:
            self._put(sent.packed, sent.answer, limit, now=False)
        else:
            sent.fail(self._gone("not_sent"))

    def _begin(
        self, command: bytes, answer: asyncio.Future[object] | InlineFuture, limit: float | None, *, now: bool
    ) -> None:
        if not self.open:
            answer.set_exception(self._gone("not_sent"))
            return
        self._put(command, answer, limit, now=now)
        if self._gathering:
            self._count_gathered()

    def _put(
        self,
        command: bytes | _MergedCommand,
        answer: asyncio.Future[object] | InlineFuture | _MergedCommand,
        limit: float | None,
        *,
        now: bool,
    ) -> None:
        if not self._out:
            self._used = self._loop.time()
        deadline = self._used + (self.timeout if limit is None else limit)
        if now and not self._waiting and not self._gathering:  # and so there is nothing in `_out`
            self._send(command)
        else:
            if not (self._out or self._gathering):
                self._loop.call_soon(self._write)
            self._out.append(command)
        self._waiting.append((answer, deadline, None if self._redirected is None else command))
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._check)

    def _count_gathered(self) -> None:
        self._gathered += 1
        if self._gathered >= _GATHERED_MOST:
            self._write()

    def silenced(self, command: bytes) -> bytes:
        """Return the bytes of a command whose reply is suppressed; empty if the user may not suppress replies.

        The first call asks the server whether the user may. If that right is taken away later, replies no longer match
        commands, and the connection is closed.
        """
        if self._can_silence is None:
            self._can_silence = False
            self.call("CLIENT", "REPLY", "ON").add_done_callback(self._learn_silence)
        self._silenced = (self._silenced + 1) % _HEARD_EACH
        return _SKIP + command if self._can_silence and self._silenced else b""

    def _learn_silence(self, reply: asyncio.Future[object]) -> None:
        self._can_silence = not reply.cancelled() and reply.exception() is None and reply.result() == b"OK"

    async def room(self) -> None:
        """Wait until the transport's buffer has room.

        Raises:
            StoreError: it had none within the timeout.
        """
        while self._room is not None:
            try:
                await asyncio.wait_for(asyncio.shield(self._room), self.timeout)
            except TimeoutError as exc:
                raise StoreError(
                    f"{self._label} takes no more data for {self.timeout:g} s",
                    retryable=True,
                    outcome="not_sent",
                    server=self.address.identity,
                ) from exc

    def log_in(self, login: Login) -> asyncio.Future[object]:
        """Log in anew; a command that blocks is not disturbed, for the server takes this one after it."""
        now = self._loop.time()
        behind = self._waiting[-1][1] - now if self._waiting else 0.0
        self._login = self.call("AUTH", login.username, login.password, limit=behind + self.timeout)
        return self._login

    @property
    def usable(self) -> bool:
        """Whether another task can use the connection: it is open, and no reply is still to come but to a login."""
        waiting = self._waiting
        return self.open and (not waiting or (len(waiting) == 1 and waiting[0][0] is self._login))

    @property
    def ready(self) -> bool:
        """Whether a command can be sent at once: it is open, its buffer has room, and it is not `stale`."""
        if not self.open or self._room is not None:
            return False
        return True if self._waiting else not self.stale

    @property
    def stale(self) -> bool:
        """Whether it may have been lost while it was idle: that was for long, or something came unasked."""
        if self._waiting:
            return False
        idle = self._loop.time() - self._used
        if idle < self._look_after:
            return False
        return idle >= self._check_after or (self._socket is not None and has_input(self._socket))

    def touch(self) -> None:
        """Note that it was used just now, since a reply has come to a command that was sent long ago."""
        self._used = self._loop.time()

    async def answers(self) -> bool:
        """Return whether the server still answers, within a share of the timeout; if not, the connection is closed."""
        try:
            async with asyncio.timeout(self.timeout * CHECK_SHARE):
                with contextlib.suppress(StoreError):  # it was lost, or an error is the answer
                    await self.call("PING")
        except TimeoutError:
            self.abort()
        return self.open

    def abort(self) -> None:
        """Close the connection at once. `closed` is done when its socket is closed, or soon if it had none."""
        self.open = False
        if self._loop.is_closed():
            return
        if self._transport is not None:
            self._transport.abort()
        else:
            self._loop.call_soon(self._end)  # after callbacks that a failed transport has scheduled

    def abandon(self) -> None:
        """Tell the server that the connection ends, after the loop was closed without closing it; in any thread."""
        self.open = False
        if self._socket is not None:
            with contextlib.suppress(OSError, TypeError):  # it is closed; uvloop closes it with the loop
                self._socket.shutdown(socket.SHUT_RDWR)

    def _end(self) -> None:
        if self._transport is None and not self.closed.done():
            self.closed.set_result(None)

    def _write(self) -> None:
        out, self._out, self._gathered = self._out, [], 0
        if len(out) == 1:
            self._send(out[0])
        elif out:
            self._send(b"".join([each if isinstance(each, bytes) else each.packed() for each in out]))

    def _send(self, command: bytes | _MergedCommand) -> None:
        if self._transport is not None:
            self._transport.write(command if isinstance(command, bytes) else command.packed())

    def _check(self) -> None:
        """Close the connection if its oldest command has waited for too long."""
        self._timer = None
        if not self._waiting:
            return
        deadline = self._waiting[0][1]
        if self._loop.time() < deadline:
            self._timer = self._loop.call_at(deadline, self._check)
            return
        what, server = f"{self._label} did not answer in time", self.address.identity
        self._fail(StoreError(what, retryable=True, outcome="unknown", server=server))
        self.abort()

    # -- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport; called by asyncio."""
        if isinstance(transport, _Transport):
            self._transport = transport
        self._socket = transport.get_extra_info("socket")
        self.open = True

    def data_received(self, data: bytes) -> None:
        """Match replies with commands; called by asyncio."""
        reader, waiting = self._reader, self._waiting
        prompts: list[InlineFuture] = []
        reader.feed(data)
        try:
            while (reply := reader.gets()) is not INCOMPLETE:
                answer, deadline, command = waiting.popleft()
                if answer.done():  # the task was cancelled
                    continue
                if isinstance(reply, hiredis.ReplyError):
                    self._refused(str(reply), answer, deadline, command)
                elif isinstance(answer, InlineFuture):
                    answer.set_result(reply)
                    prompts.append(answer)
                elif isinstance(answer, _MergedCommand):
                    prompts += answer.share(reply)
                else:
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError) as exc:
            self._foreign = True
            self._fail(self._gone("unknown", exc))
            self.abort()
        if prompts:
            self._gathering, self._gathered = True, 0
            try:
                resume_all(prompts)
            finally:
                self._gathering = False
                if self._out:
                    self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what waits for a reply; called by asyncio."""
        unsent = len(self._out)
        for place, (future, _, _) in enumerate(reversed(self._waiting)):
            if not future.done():
                future.set_exception(self._gone("not_sent" if place < unsent else "unknown", exc))
        self._waiting.clear()
        self._fail(self._gone("unknown"))
        self._transport = self._socket = None
        self.resume_writing()
        self._end()

    def pause_writing(self) -> None:
        """Note that the transport's buffer is full; called by asyncio."""
        if self._room is None:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Note that the transport's buffer has room; called by asyncio."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _fail(self, error: StoreError) -> None:
        self.open = False
        self._out.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for future, _, _ in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()

    def _gone(self, outcome: Outcome, cause: Exception | None = None) -> StoreError:
        lost = f"the connection to {self._label} was lost"
        what = f"{self._label} does not speak Redis's protocol" if self._foreign else lost
        error = StoreError(what, retryable=not self._foreign, outcome=outcome, server=self.address.identity)
        error.__cause__ = cause
        return error

    def _refused(
        self,
        text: str,
        answer: asyncio.Future[object] | InlineFuture | _MergedCommand,
        deadline: float,
        command: bytes | _MergedCommand | None,
    ) -> None:
        error = refusal(self._label, text)
        if isinstance(error, StoreError):
            error.server = self.address.identity
        if (
            isinstance(error, Redirection)
            and self._redirected is not None
            and command is not None
            and self._redirected(error, SentCommand(command, answer, deadline))
        ):
            return
        if is_replica(text):
            self.abort()
            self._demoted(self.address)  # the locator has to say where the primary is now
        answer.set_exception(error)
