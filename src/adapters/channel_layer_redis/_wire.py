"""Connections for threads: a socket, the same parser and the same errors as those of event loops, and a pool.

redis-py's blocking client would bring a second greeting, a second set of errors and retries that send a command twice;
here a command has one deadline, connecting included, and is sent once.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
import weakref
from typing import TYPE_CHECKING

import hiredis

from channel_layer.errors import StoreError
from channel_layer_redis._protocol import (
    INCOMPLETE,
    foreign,
    greeted,
    greeting,
    is_replica,
    no_connection,
    pack,
    refusal,
    tls_context,
)

if TYPE_CHECKING:
    from channel_layer_redis._protocol import Arg
    from channel_layer_redis.hosts import Host

__all__ = ("Pool", "Wire")

_MOST = 8
"""Connections for commands that a process opens to one server at most. At half a millisecond for a command they carry
16 000 a second, which is more than the threads of a Python process ask for; others wait for their turn."""

_READ_SIZE = 65536

_LEAST_SECONDS = 0.01
"""Seconds that a command gets even if connecting has used up its time."""


class Wire:
    """One connection, used by one thread at a time.

    Args:
        host: the server.
        timeout: seconds to wait for a connection, and for a command, at most.

    Attributes:
        client_id: by which another connection can name this one to the server.
        usable: every reply has come, and nothing is wrong with it.

    Raises:
        StoreError: the server cannot be reached, refuses the login, or is too old.
    """

    def __init__(self, host: Host, timeout: float) -> None:
        self._label = host.label
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=INCOMPLETE)
        self._demoted = False
        self.usable: bool = False
        self.client_id: int = 0
        deadline = time.monotonic() + timeout
        try:
            self._socket = _connect(host, timeout)
        except OSError as exc:
            raise no_connection(host.label, timeout, exc) or exc from exc
        self._finalizer = weakref.finalize(self, self._socket.close)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            self._poller = select.poll()
            self._poller.register(self._socket.fileno(), select.POLLIN)
            commands = greeting(host)
            self.send(b"".join(map(pack, commands)))
            self.client_id, _ = greeted(host, self.read(len(commands), deadline))
        except BaseException as exc:
            self.close()
            if isinstance(exc, StoreError) and exc.outcome == "unknown":
                raise StoreError(str(exc), retryable=exc.retryable, outcome="not_sent") from exc
            raise

    @property
    def descriptor(self) -> int:
        """The socket's; -1 when it is closed."""
        return self._socket.fileno()

    @property
    def fresh(self) -> bool:
        """Whether the server has neither closed this connection nor said anything unasked, while it lay idle."""
        if not self.usable or not self._poller.poll(0):
            return self.usable
        self._socket.settimeout(0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):  # something of TLS's own
            return True
        except OSError:
            return False
        return False

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

    def read(self, count: int, deadline: float, held: list[BaseException] | None = None) -> list[object]:
        """Return what came of so many commands. If that fails, or is interrupted, the connection is closed.

        Args:
            count: how many have been sent.
            deadline: seconds by the monotonic clock after which the server counts as away.
            held: the replies are needed: what interrupts the thread meanwhile is put here, for later.

        Returns:
            a reply, `StoreError` or `NoScript` for each.

        Raises:
            StoreError: the connection is lost, or the server does not answer in time.
        """
        outcomes: list[object] = []
        try:
            while len(outcomes) < count:
                reply = self._reader.gets()
                if reply is INCOMPLETE:
                    self._receive(deadline, held)
                elif isinstance(reply, hiredis.ReplyError):
                    outcomes.append(refusal(self._label, str(reply)))
                    self._demoted = self._demoted or is_replica(str(reply))
                else:
                    outcomes.append(reply)
        except hiredis.ProtocolError as exc:
            self.close()
            raise foreign(self._label) from exc
        except BaseException:
            self.close()
            raise
        if self._demoted:
            self.close()  # find out anew where the primary is
        else:
            self.usable = True
        return outcomes

    def take(self, seconds: float) -> bool:
        """Wait for some seconds, and take in what comes; whether a reply may be whole, so that `read` hardly waits.

        Raises:
            StoreError: the connection is lost.
        """
        if not self._poller.poll(1000 * seconds):
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

    def close(self) -> None:
        """Drop the connection. Harmless if it is called twice."""
        self.usable = False
        self._finalizer()

    def _receive(self, deadline: float, held: list[BaseException] | None) -> None:
        try:
            self._socket.settimeout(max(_LEAST_SECONDS, deadline - time.monotonic()))
            data = self._socket.recv(_READ_SIZE)
        except TimeoutError as exc:
            raise StoreError(f"{self._label} did not answer in time", retryable=True, outcome="unknown") from exc
        except OSError as exc:
            raise self._lost(exc) from exc
        except BaseException as exc:
            if held is None:
                raise
            held.append(exc)  # of a signal; the reply is still to come
            return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        if not data:
            raise self._lost(None)
        self._reader.feed(data)

    def _lost(self, exc: Exception | None) -> StoreError:
        if isinstance(exc, TimeoutError):
            return StoreError(f"{self._label} did not take a command in time", retryable=True, outcome="unknown")
        return StoreError(f"the connection to {self._label} was lost", retryable=True, outcome="unknown")


def _connect(host: Host, timeout: float) -> socket.socket:
    context = tls_context(host)
    if host.path is not None:
        plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            plain.settimeout(timeout)
            plain.connect(host.path)
        except BaseException:
            plain.close()
            raise
        return plain
    plain = socket.create_connection((host.host, host.port), timeout)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return plain if context is None else context.wrap_socket(plain, server_hostname=host.host)
    except BaseException:
        plain.close()
        raise


class Pool:
    """The connections of all threads to one server.

    Args:
        host: the server.
        timeout: seconds that a command may take, waiting for a connection and making it included.
    """

    def __init__(self, host: Host, timeout: float) -> None:
        self._host = host
        self._timeout = timeout
        self._turn = threading.Semaphore(_MOST)
        self._lock = threading.Lock()
        self._spare: list[Wire] = []
        self._closed = False

    def call(self, *args: Arg) -> object:
        """Send a command, and return its reply, or the error that the server answers with.

        Raises:
            StoreError: no connection could be had, or it was lost.
        """
        wire, deadline = self.begin()
        try:
            wire.send(pack(args))
            return wire.read(1, deadline)[0]
        finally:
            self.end(wire)

    def begin(self) -> tuple[Wire, float]:
        """Wait for a turn.

        Returns:
            A connection, to be given to `end` whatever happens, and the moment, by the monotonic clock, until which the
            server has to answer.

        Raises:
            StoreError: the turn does not come in time, or there is no connection.
        """
        deadline = time.monotonic() + self._timeout
        if not self._turn.acquire(timeout=self._timeout):
            raise StoreError(
                f"all connections to {self._host.label} are in use for {self._timeout:g} s",
                retryable=True,
                outcome="not_sent",
            )
        try:
            return self.borrow(), deadline
        except BaseException:
            self._turn.release()
            raise

    def end(self, wire: Wire) -> None:
        """The turn is over; the connection is closed if a reply is still to come."""
        self._turn.release()
        self.give(wire)

    def borrow(self) -> Wire:
        """Return a connection that nobody else uses."""
        if self._closed:
            raise StoreError("this store is closed", retryable=False, outcome="not_sent")
        with contextlib.suppress(IndexError):
            while True:
                wire = self._spare.pop()
                if wire.fresh:
                    return wire
                wire.close()
        return Wire(self._host, self._timeout)

    def give(self, wire: Wire) -> None:
        """Take a connection back."""
        with self._lock:
            keep = wire.usable and not self._closed and len(self._spare) < _MOST
            if keep:
                self._spare.append(wire)
        if not keep:
            wire.close()

    def close(self) -> None:
        """Close what is not in use, and see to it that the rest is when it is given back."""
        with self._lock:
            self._closed = True
            spare, self._spare = self._spare, []
        for wire in spare:
            wire.close()
