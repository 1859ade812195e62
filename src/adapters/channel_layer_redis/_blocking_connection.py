"""Connections for threads: a socket, the same parser and the same errors as those of event loops, and a pool.

redis-py's blocking client would bring a second greeting, a second set of errors and retries that send a command twice;
here a command has one deadline, connecting included, and is sent once.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import socket
import ssl
import threading
import time
import weakref
from typing import TYPE_CHECKING, ClassVar

import hiredis

from channel_layer.errors import ConfigError, StoreError
from channel_layer.runtime.threads import Poller
from channel_layer_redis._greeting import NotPrimary, greeting, read_greeting, ways_round
from channel_layer_redis._logins import RETRY_SHARE, RenewalLog, ask_blocking
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import INCOMPLETE, connect_error, is_replica, protocol_error, refusal
from channel_layer_redis._sockets import CHECK_SHARE, keep_alive
from channel_layer_redis.addresses import UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_redis._greeting import Role
    from channel_layer_redis._locators import Locator, Stays
    from channel_layer_redis._packing import Arg
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("BlockingConnection", "Pool")

_MOST = 8
"""Connections for commands that a process opens to one server at most. At half a millisecond a command they carry
16 000 commands a second, which is more than the threads of a Python process send; other threads wait for their turn."""

_READ_SIZE = 65536

_LEAST_SECONDS = 0.01
"""Seconds that a command gets even if connecting has used up its time."""


class BlockingConnection:
    """One connection, used by one thread at a time.

    Args:
        address: the server's.
        timeout: seconds that sending a command may take.
        demoted: called with the address when the server says that it is no primary any more.
        deadline: seconds by the monotonic clock until which it has to be connected.
        role: what the server has to be.
        renewals: logs how it is logged in anew; None: a log of its own.

    Attributes:
        client_id: by which another connection can name this one to the server.
        usable: every reply has come, and nothing is wrong with it.

    Raises:
        StoreError: the server cannot be reached, refuses the login, or is too old.
    """

    def __init__(
        self,
        address: ServerAddress,
        timeout: float,
        demoted: Callable[[ServerAddress], object],
        deadline: float,
        role: Role = "server",
        renewals: RenewalLog | None = None,
    ) -> None:
        self.address: ServerAddress = address
        self._role: Role = role
        self._label = address.label
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=INCOMPLETE)
        self._replica = False
        self._demoted = demoted
        self._check_after = address.health_check_interval or math.inf
        self._heard = 0.0
        self.usable: bool = False
        self.client_id: int = 0
        self.run_id: str = ""
        limit = timeout
        if address.connect_timeout is not None:
            limit = min(limit, address.connect_timeout)
            deadline = min(deadline, time.monotonic() + limit)
        self._login = ask_blocking(address, deadline - time.monotonic())
        self._ask_again = self._next(1.0)
        self._renewals = renewals or RenewalLog()
        try:
            self._socket = _connect(address, max(_LEAST_SECONDS, deadline - time.monotonic()))
        except (OSError, ConfigError) as exc:
            raise connect_error(address.label, limit, exc) or exc from exc
        self._finalizer = weakref.finalize(self, self._socket.close)
        try:
            self._poller = Poller([self._socket.fileno()])
            self._greet(deadline)
        except BaseException as exc:
            self.close()
            if isinstance(exc, StoreError) and exc.outcome == "unknown":
                raise StoreError(str(exc), retryable=exc.retryable, outcome="not_sent") from exc
            raise

    def _greet(self, deadline: float) -> None:
        commands = greeting(self.address, self._login)
        self.send(b"".join(map(pack, commands)))
        replies = self.read(len(commands), deadline)
        self.client_id, self.run_id = read_greeting(self.address, replies, self._role)
        if more := ways_round(replies):
            self.send(b"".join(map(pack, more)))
            self.read(len(more), deadline)

    @property
    def descriptor(self) -> int:
        """The socket's; -1 when it is closed."""
        return self._socket.fileno()

    @property
    def fresh(self) -> bool:
        """Whether the server has neither closed this connection nor said anything unasked, while it lay idle."""
        try:
            return self.usable and not self.take(0.0)
        except StoreError:
            return False

    @property
    def stale(self) -> bool:
        """Whether it was idle for so long that it may have been lost, and neither side been told."""
        return time.monotonic() - self._heard >= self._check_after

    @property
    def login_due(self) -> bool:
        """Whether the provider of the login is to be asked again."""
        return self._ask_again != math.inf and time.monotonic() >= self._ask_again

    def renew_login(self) -> bool:
        """Ask the provider again, and log in anew if its answer has changed; return whether the connection is usable.

        Without an answer, or if the server refuses the new login, the connection stays logged in as it was.
        """
        try:
            login = ask_blocking(self.address, self._timeout)
            if login is not None and login != self._login:
                self.send(pack(("AUTH", login.username, login.password)))
                reply = self.read(1, time.monotonic() + self._timeout)[0]
                if isinstance(reply, StoreError):
                    raise reply
                self._login = login
                self._renewals.renewed(self.address)
        except StoreError as exc:
            if self.usable:
                self._renewals.failed(exc)
            self._ask_again = self._next(RETRY_SHARE)
        else:
            self._renewals.succeeded()
            self._ask_again = self._next(1.0)
        return self.usable

    def _next(self, share: float) -> float:
        """Return when to ask the provider again, after a share of the interval; never, if there is nothing to ask."""
        address = self.address
        if address.credential_provider is None or not address.credential_refresh_interval:
            return math.inf
        return time.monotonic() + address.credential_refresh_interval * share

    def answers(self) -> bool:
        """Return whether the server still answers, within a share of the timeout; if not, the connection is closed."""
        with contextlib.suppress(StoreError):
            self.send(pack(("PING",)))
            self.read(1, time.monotonic() + self._timeout * CHECK_SHARE)
        return self.usable

    def send(self, data: bytes) -> None:
        """Send commands.

        Raises:
            StoreError: the connection is lost.
        """
        self.usable = False
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(data)
        except OSError as exc:
            self.close()
            raise self._lost(exc) from exc

    def read(self, count: int, deadline: float, interrupts: list[BaseException] | None = None) -> list[object]:
        """Return the outcomes of *count* commands. If that fails, or is interrupted, the connection is closed.

        Args:
            count: how many have been sent.
            deadline: seconds by the monotonic clock after which the server counts as away.
            interrupts: where to put what interrupts the thread, if the replies are needed; None: they are not.

        Returns:
            for each a reply, a `StoreError` or `UnknownScript`.

        Raises:
            StoreError: the connection is lost, or the server does not answer in time.
        """
        outcomes: list[object] = []
        try:
            while len(outcomes) < count:
                reply = self._reader.gets()
                if reply is INCOMPLETE:
                    self._receive(deadline, interrupts)
                elif isinstance(reply, hiredis.ReplyError):
                    error = refusal(self._label, str(reply))
                    outcomes.append(self._named(error) if isinstance(error, StoreError) else error)
                    self._replica = self._replica or is_replica(str(reply))
                else:
                    outcomes.append(reply)
        except hiredis.ProtocolError as exc:
            self.close()
            raise self._named(protocol_error(self._label)) from exc
        except BaseException:
            self.close()
            raise
        if self._replica:
            self.close()
            self._demoted(self.address)  # the locator has to say where the primary is now
        else:
            self.usable = True
            self._heard = time.monotonic()
        return outcomes

    def take(self, seconds: float) -> bool:
        """Wait for some seconds, and receive what comes; return whether a reply may be whole, for `read`.

        Raises:
            StoreError: the connection is lost.
        """
        if not self._poller.wait(seconds):
            return False
        self._socket.settimeout(0)
        try:
            data = self._socket.recv(_READ_SIZE)
        except (BlockingIOError, ssl.SSLWantReadError):  # something of TLS's own
            return False
        except OSError as exc:
            raise self._lost(exc) from exc
        self._feed(data)
        return True

    def skip(self) -> None:
        """Drop what has been received."""
        while self._reader.gets() is not INCOMPLETE:
            pass

    def close(self) -> None:
        """Drop the connection. Harmless if it is called twice."""
        self.usable = False
        self._finalizer()

    def abort(self) -> None:
        """End the connection while another thread may use it: what that waits for fails, and it closes it."""
        self.usable = False
        with contextlib.suppress(OSError):  # it is closed
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _receive(self, deadline: float, interrupts: list[BaseException] | None) -> None:
        try:
            self._socket.settimeout(max(_LEAST_SECONDS, deadline - time.monotonic()))
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError as exc:
            what = f"{self._label} did not answer in time"
            raise self._named(StoreError(what, retryable=True, outcome="unknown")) from exc
        except OSError as exc:
            raise self._lost(exc) from exc
        except BaseException as exc:
            if interrupts is None:
                raise
            interrupts.append(exc)  # raised by a signal; the reply is still to come
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise self._lost(None)
        self._reader.feed(data)

    def _lost(self, exc: Exception | None) -> StoreError:
        what = f"the connection to {self._label} was lost"
        if isinstance(exc, TimeoutError):
            what = f"{self._label} did not take a command in time"
        return self._named(StoreError(what, retryable=True, outcome="unknown"))

    def _named(self, error: StoreError) -> StoreError:
        error.server = self.address.identity
        return error


def _connect(address: ServerAddress, timeout: float) -> socket.socket:
    if isinstance(address, UnixAddress):
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.settimeout(timeout)
            plain.connect(address.path)
        except BaseException:
            plain.close()
            raise
        return plain
    context = address.tls.make_context() if address.tls is not None else None
    plain = socket.create_connection((address.host, address.port), timeout)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if address.socket_keepalive:
            keep_alive(plain, address.keepalive_options)
        return plain if context is None else context.wrap_socket(plain, server_hostname=address.host)
    except BaseException:
        plain.close()
        raise


class Pool:
    """The connections of all threads to one server.

    Args:
        locator: where the server is.
        timeout: seconds that a command may take, waiting for a connection and making it included.

    Attributes:
        place: a number of its own: threads that need connections to several servers take them in this order, or two
            could wait for each other.
    """

    _places: ClassVar = itertools.count()

    def __init__(self, locator: Locator, timeout: float) -> None:
        self.place: int = next(self._places)
        self._locator = locator
        self._timeout = timeout
        self._turn = threading.Semaphore(_MOST)
        self._lock = threading.Lock()
        self._spare: list[BlockingConnection] = []
        self._all: weakref.WeakSet[BlockingConnection] = weakref.WeakSet()
        self._closed = False
        locator.add(self)

    def drop(self, stays: Stays, /) -> None:
        """Close the connections that may not stay; called in any thread."""
        with self._lock:
            everywhere = list(self._all)
        for connection in everywhere:
            if not stays(connection.address, connection.run_id):
                connection.abort()

    def call(self, *args: Arg) -> object:
        """Send a command, and return its reply, or the error that the server answers with.

        Raises:
            StoreError: no connection could be had, or it was lost.
        """
        connection, deadline = self.acquire()
        try:
            connection.send(pack(args))
            return connection.read(1, deadline)[0]
        finally:
            self.release(connection)

    def acquire(self) -> tuple[BlockingConnection, float]:
        """Wait for a turn.

        Returns:
            A connection, to be given to `release` whatever happens, and the moment, by the monotonic clock, until which
            the server has to answer.

        Raises:
            StoreError: the turn does not come in time, or there is no connection.
        """
        deadline = time.monotonic() + self._timeout
        if not self._turn.acquire(timeout=self._timeout):
            raise StoreError(
                f"all connections to {self._locator.label} are in use for {self._timeout:g} s",
                retryable=True,
                outcome="not_sent",
            )
        try:
            return self.borrow(deadline), deadline
        except BaseException:
            self._turn.release()
            raise

    def release(self, connection: BlockingConnection) -> None:
        """End the turn; the connection is closed if a reply is still to come."""
        self._turn.release()
        if not connection.usable:
            self._locator.lost()
        self.give(connection)

    def borrow(self, deadline: float | None = None) -> BlockingConnection:
        """Return a connection for the caller alone, which takes no turn.

        One that was idle for long has to answer first, or is replaced: if a command were lost with it, it would be
        unknown whether it was carried out.

        Args:
            deadline: seconds by the monotonic clock until which to be connected; None: those of the timeout.

        Raises:
            StoreError: there is none.
        """
        if self._closed:
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        if deadline is None:
            deadline = time.monotonic() + self._timeout
        if (spare := self._take_spare()) is not None:
            return spare
        locator = self._locator
        address = locator.address_blocking()
        try:
            connection = BlockingConnection(
                address, self._timeout, locator.demoted, deadline, locator.role, locator.renewals
            )
        except StoreError as exc:
            exc.server = address.identity
            if isinstance(exc, NotPrimary):
                locator.demoted(address)
            raise
        with self._lock:
            self._all.add(connection)
        locator.met(address, connection.run_id)
        return connection

    def _take_spare(self) -> BlockingConnection | None:
        lost = False  # one that does not answer speaks for all that were idle as long
        with contextlib.suppress(IndexError):
            while True:
                connection = self._spare.pop()
                if connection.fresh:
                    if not connection.stale or (not lost and connection.answers()):
                        if not connection.login_due or connection.renew_login():
                            return connection
                    else:
                        lost = True
                connection.close()
        return None

    def give(self, connection: BlockingConnection) -> None:
        """Take a connection back."""
        with self._lock:
            keep = connection.usable and not self._closed and len(self._spare) < _MOST
            if keep:
                self._spare.append(connection)
        if not keep:
            connection.close()

    def close(self) -> None:
        """Close the connections that are not in use now, and the others once they are given back."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, []
        for connection in spare:
            connection.close()
        self._locator.remove(self)
