"""The primary of a service, as sentinels name it: asked for at each connect, and watched, as it may change at any time.

A server that is demoted may keep its connections for seconds and accept what is written meanwhile, to lose it. So one
thread a service listens to a sentinel while there are connections, and looks each second, in case it has missed
something; when the primary is another one, all connections to the old one are dropped. The same thread asks when a
connection is made: for event loops and for threads.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from channel_layer.errors import StoreError
from channel_layer.runtime.threads import ThreadEvent, await_any
from channel_layer_redis._blocking_connection import BlockingConnection
from channel_layer_redis._locators import Locator
from channel_layer_redis._packing import pack
from channel_layer_redis._replies import Refusal, is_list, number, text

if TYPE_CHECKING:
    from collections.abc import Callable

    from channel_layer_redis._locators import Connections
    from channel_layer_redis._packing import Arg
    from channel_layer_redis.addresses import SentinelService, ServerAddress, TCPAddress

__all__ = ("SentinelLocator",)

_logger = logging.getLogger("channel_layer")

_LOOK_SECONDS: Final = 1.0
"""How often the thread asks although the sentinel has said nothing."""

_LEAST_SECONDS: Final = 0.05
"""Seconds that a sentinel gets to answer even if others have used up the time."""


class SentinelLocator(Locator):
    """The locator of a service.

    Args:
        service: its name, and the sentinels.
        timeout: seconds within which one of the sentinels has to answer.
    """

    def __init__(self, service: SentinelService, timeout: float) -> None:
        super().__init__()
        self._service = service
        self._timeout = timeout
        self._watch: _Watch | None = None
        self._primary: ServerAddress | None = None
        """What the sentinels say, unless it has turned out to be a replica."""
        self._last: ServerAddress | None = None
        """What they have said last."""

    @property
    def label(self) -> str:
        """The service and its sentinels, without credentials."""
        return self._service.label

    async def address(self) -> ServerAddress:
        """Return the primary's address, as a sentinel names it now."""
        return await asyncio.wrap_future(self._ask())

    def address_blocking(self) -> ServerAddress:
        """Do the same in a thread."""
        return self._ask().result()

    def remove(self, connections: Connections) -> None:
        """Forget connections that are closed; with the last ones the thread ends."""
        super().remove(connections)
        with self._lock:
            if not self._connections and self._watch is not None:
                self._watch.end()
                self._watch = None

    def demoted(self, address: ServerAddress) -> None:
        """Ask another sentinel than the one that calls a replica the primary."""
        with self._lock:
            if address == self._primary and self._watch is not None:
                self._primary = None
                self._watch.distrusted = True
        super().demoted(address)

    def met(self, address: ServerAddress, run_id: str) -> None:
        """Drop a connection that was being made when the primary changed."""
        primary = self._primary
        if primary not in {None, address}:
            self._drop(lambda other, _: other == primary)
        super().met(address, run_id)

    def found(self, address: ServerAddress) -> None:
        """Drop the connections to any other server than this one, which is the primary now."""
        with self._lock:
            known, self._last, self._primary = self._last, address, address
        if known is not None and known != address:
            _logger.warning("%s: the primary is %s now, and was %s", self.label, address.label, known.label)
            self._drop(lambda other, _: other == address)

    def _ask(self) -> Future[ServerAddress]:
        with self._lock:
            if self._watch is None:
                self._watch = _Watch(self, self._service, self._timeout)
            return self._watch.ask()


class _Watch:
    """The thread that asks and listens to the sentinels of a service.

    It does not keep the locator alive, and ends with it.

    Attributes:
        distrusted: the next question goes to another sentinel.
    """

    def __init__(self, locator: SentinelLocator, service: SentinelService, timeout: float) -> None:
        self.distrusted: bool = False
        self._process = os.getpid()
        self._service = service
        self._timeout = timeout
        self._lock = threading.Lock()
        self._event = ThreadEvent()
        """Wakes the thread."""
        self._asked: list[Future[ServerAddress]] = []
        self._ended = False
        self._preferred = 0
        """The place of the sentinel that is asked first."""
        self._asking: _SentinelConnection | None = None
        self._listening: _SentinelConnection | None = None
        locator_of = weakref.ref(locator)
        weakref.finalize(locator, self.end)
        threading.Thread(target=self._run, args=(locator_of,), name="channel-layer-sentinel", daemon=True).start()

    def ask(self) -> Future[ServerAddress]:
        """Have the thread ask where the primary is."""
        answer: Future[ServerAddress] = Future()
        answer.set_running_or_notify_cancel()  # several may wait for the answer: none can cancel it
        with self._lock:
            self._asked.append(answer)
            self._event.wake()
        return answer

    def end(self) -> None:
        """End the thread; in a forked child it is not there, and its lock may be taken for ever."""
        if os.getpid() == self._process:
            with self._lock:
                self._ended = True
                self._event.wake()

    def _run(self, locator_of: Callable[[], SentinelLocator | None]) -> None:
        try:
            while not self._ended:
                with self._lock:
                    asked, self._asked = self._asked, []
                    self._event.close()
                    self._event = ThreadEvent()
                self._answer(asked, locator_of)
                self._rest()
        finally:
            self._disconnect()
            with self._lock:
                self._event.close()
                for answer in self._asked:
                    answer.set_exception(StoreError("this layer is closed", retryable=False, outcome="not_sent"))

    def _answer(self, asked: list[Future[ServerAddress]], locator_of: Callable[[], SentinelLocator | None]) -> None:
        try:
            address = self._look()
        except StoreError as exc:
            for answer in asked:
                answer.set_exception(exc)
        else:
            locator = locator_of()
            if locator is not None:
                locator.found(address)
            for answer in asked:
                answer.set_result(address)

    def _rest(self) -> None:
        """Wait until there is something to do, or for a while."""
        with self._lock:
            if self._ended or self._asked:
                return
            descriptors = [self._event.descriptor]
        listening = self._listening
        if listening is not None:
            descriptors.append(listening.descriptor)
        await_any(descriptors, _LOOK_SECONDS)
        if listening is not None:
            try:
                listening.hear()
            except StoreError:
                self._disconnect()

    def _look(self) -> ServerAddress:
        """Ask the sentinels, one after the other, until one knows.

        Raises:
            StoreError: none does.
        """
        if self.distrusted:
            self.distrusted = False
            self._disconnect()
            self._preferred += 1
        sentinels, deadline = self._service.sentinels, time.monotonic() + self._timeout
        errors: list[StoreError] = []
        for turn in range(len(sentinels)):
            left = deadline - time.monotonic()
            limit = time.monotonic() + max(_LEAST_SECONDS, left / (len(sentinels) - turn))
            try:
                return self._ask_one(sentinels[self._preferred % len(sentinels)], limit)
            except StoreError as exc:
                errors.append(exc)
            self._disconnect()
            self._preferred += 1
        told = " | ".join(dict.fromkeys(map(str, errors)))
        permanent = all(not error.retryable for error in errors)
        what = f"no sentinel says where the primary of {self._service.label} is: {told}"
        raise StoreError(what, retryable=not permanent, outcome="not_sent")

    def _ask_one(self, sentinel: TCPAddress, deadline: float) -> ServerAddress:
        if self._asking is None:
            self._asking = _SentinelConnection(sentinel, self._timeout, deadline)
            self._listening = _SentinelConnection(sentinel, self._timeout, deadline)
            self._listening.ask(deadline, "SUBSCRIBE", "+switch-master")
        reply = self._asking.ask(deadline, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service.master_name)
        if reply is None:
            what = f"{sentinel.label} knows no service {self._service.master_name!r}: correct master_name in hosts"
            raise StoreError(what, retryable=False, outcome="not_sent")
        if not (is_list(reply) and len(reply) == 2):
            raise StoreError(f"{sentinel.label} is no Sentinel: {reply!r:.100}", retryable=False, outcome="not_sent")
        host, port = reply
        try:
            return replace(self._service.server, host=text(host), port=number(port))
        except ValueError as exc:
            raise StoreError(f"{sentinel.label}: {exc}", retryable=True, outcome="not_sent") from exc

    def _disconnect(self) -> None:
        for connection in (self._asking, self._listening):
            if connection is not None:
                connection.close()
        self._asking = self._listening = None


class _SentinelConnection(BlockingConnection):
    """A connection to a sentinel."""

    def __init__(self, sentinel: TCPAddress, timeout: float, deadline: float) -> None:
        super().__init__(sentinel, timeout, lambda _: None, deadline)

    def ask(self, deadline: float, *command: Arg) -> object:
        """Send a command, and return its reply.

        Raises:
            StoreError: there is none, or it is an error.
        """
        self.send(pack(command))
        (reply,) = self.read(1, deadline)
        if isinstance(reply, Refusal) and "unknown command" in reply.answer.lower():
            what = f"{self.address.label} is no Sentinel: name sentinels, whose port is usually 26379"
            raise StoreError(what, retryable=False, outcome="not_sent")
        if isinstance(reply, Exception):
            raise reply
        return reply

    def hear(self) -> None:
        """Take in what the sentinel has said unasked, if it has: what it is does not matter, it is asked then.

        Raises:
            StoreError: the connection is lost.
        """
        while self.take(0.0):
            self.skip()

    def _greet(self, deadline: float) -> None:
        if (login := self._login) is not None:
            self.ask(deadline, "AUTH", login.username, login.password)
        if self.address.client_name is not None:
            with contextlib.suppress(Refusal):  # the user may not
                self.ask(deadline, "CLIENT", "SETNAME", self.address.client_name)
