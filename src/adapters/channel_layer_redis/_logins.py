"""What logs a connection in: the fixed user and password of an address, or what its provider says now.

The tokens of managed services end after minutes. So a provider is asked at each connect, and again while a connection
lives; when its answer has changed, the connection is logged in anew, before the server ends it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from redis.credentials import CredentialProvider as RedisPyProvider

from channel_layer.errors import PatchedThreadsError, StoreError
from channel_layer.runtime.threads import refuse_patched_threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from channel_layer_redis.addresses import ServerAddress
    from channel_layer_redis.credentials import CredentialProvider

__all__ = ("RETRY_SHARE", "Login", "RenewalLog", "ask", "ask_blocking")

_logger = logging.getLogger("channel_layer")

RETRY_SHARE: Final = 1 / 6
"""Share of the interval after which a provider is asked again that has failed."""


@dataclass(frozen=True, slots=True)
class Login:
    """What ``AUTH`` takes.

    Attributes:
        username: the user.
        password: never part of a repr.
    """

    username: str | bytes
    password: str | bytes = field(repr=False)


class RenewalLog:
    """Logs how the connections of a process to one server are logged in anew; all event loops and threads share it.

    Tokens may end every few minutes, and processes and connections be many: so what goes well is for debugging, but for
    the first of it after a failure, and a failure is a warning once.
    """

    def __init__(self) -> None:
        self._failing = False

    def renewed(self, address: ServerAddress) -> None:
        """Log that a connection was logged in with new credentials."""
        level = logging.INFO if self._failing else logging.DEBUG
        _logger.log(level, "logged in to %s anew: the credential_provider has new credentials", address.label)

    def succeeded(self) -> None:
        """Note that the provider has answered, and the server has taken the answer if it was a new one."""
        self._failing = False

    def failed(self, error: StoreError) -> None:
        """Log why a connection could not be logged in anew."""
        failing, self._failing = self._failing, True
        if not failing:
            what = (
                "its connections stay as they are, and the provider is asked again: correct it before their login ends"
            )
            _logger.warning("%s; %s", error, what)


async def ask(address: ServerAddress, deadline: float) -> Login | None:
    """Return the login of a server, or None if there is none; a provider is asked.

    A provider with only ``get_credentials()`` is called in a thread of its own.

    Args:
        address: the server's.
        deadline: when to give up, by the clock of the event loop.

    Raises:
        StoreError: the provider has failed.
    """
    provider = address.credential_provider
    if provider is None:
        return _fixed(address)
    expired = asyncio.timeout_at(deadline)
    try:
        async with expired:
            call = _method(provider, "get_credentials_async")
            answer: object = call() if call is not None else asyncio.wrap_future(_ask_in_thread(provider))
            if inspect.isawaitable(answer):
                answer = await answer
    except Exception as exc:
        raise _failed(address, None if expired.expired() else exc) from exc
    return _read(address, answer)


def ask_blocking(address: ServerAddress, seconds: float) -> Login | None:
    """Do the same in a thread, within some seconds.

    A provider with only ``get_credentials_async()`` runs in an event loop of its own.
    """
    provider = address.credential_provider
    if provider is None:
        return _fixed(address)
    asked = _ask_in_thread(provider)
    try:
        answer = asked.result(max(0.0, seconds))
    except Exception as exc:
        raise _failed(address, exc if asked.done() else None) from exc
    return _read(address, answer)


def _fixed(address: ServerAddress) -> Login | None:
    if address.password is None and address.username is None:
        return None
    return Login(address.username or "default", address.password or "")


def _method(provider: CredentialProvider, name: str) -> Callable[[], object] | None:
    """Return a method of a provider; None: it has none of its own."""
    method: object = getattr(provider, name, None)
    # What redis-py's class has raises NotImplementedError, or logs a warning and blocks.
    inherited: object = getattr(RedisPyProvider, name, method)
    return method if callable(method) and getattr(type(provider), name, None) is not inherited else None


def _ask_in_thread(provider: CredentialProvider) -> Future[object]:
    """Ask a provider in a thread that neither an event loop nor the process waits for when it ends."""
    asked: Future[object] = Future()
    asked.set_running_or_notify_cancel()

    def run() -> None:
        try:
            call = _method(provider, "get_credentials")
            if call is None:
                refuse_patched_threads()
                call = _method(provider, "get_credentials_async")
            answer = call() if call is not None else None
            if inspect.isawaitable(answer):
                answer = asyncio.run(_awaited(answer))
        except BaseException as exc:  # noqa: BLE001 - it is raised where the answer is needed
            asked.set_exception(exc)
        else:
            asked.set_result(answer)

    threading.Thread(target=run, name="channel-layer-credentials", daemon=True).start()
    return asked


async def _awaited(answer: Awaitable[object]) -> object:
    return await answer


def _read(address: ServerAddress, answer: object) -> Login:
    match answer:
        case (str() | bytes() as password,) | (None | "", str() | bytes() as password):
            return Login("default", password)
        case (str() | bytes() as username, str() | bytes() as password):
            return Login(username, password)
        case _:  # never the value: any of it may be the password
            what = "returned something else than (username, password) or (password,), each a str"
            raise StoreError(f"{_named(address)} {what}", retryable=False, outcome="not_sent")


def _failed(address: ServerAddress, exc: Exception | None) -> StoreError:
    """Return the error to raise for one of a provider, whose text may hold a secret; None: no answer came in time."""
    if isinstance(exc, PatchedThreadsError):
        problem = f"needs an event loop of its own, and {exc.by} has replaced the threads of this process: "
        what = f"{_named(address)} {problem}give it the method get_credentials(), too"
        return StoreError(what, retryable=False, outcome="not_sent")
    problem = "did not answer in time" if exc is None else f"failed with {type(exc).__name__}"
    return StoreError(f"{_named(address)} {problem}", retryable=True, outcome="not_sent")


def _named(address: ServerAddress) -> str:
    return f"cannot log in to {address.label}: the credential_provider {type(address.credential_provider).__name__}"
