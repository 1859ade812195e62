"""What a server or the network answers: replies as the types that they have to have, refusals as errors of the port."""

from __future__ import annotations

import re
import ssl
from typing import Final, TypeGuard

from channel_layer.errors import ConfigError, StoreError

__all__ = (
    "INCOMPLETE",
    "UnknownScript",
    "connect_error",
    "is_list",
    "is_replica",
    "list_of",
    "number",
    "numbers",
    "protocol_error",
    "refusal",
    "text",
    "texts",
    "unexpected",
)

INCOMPLETE: Final = object()
"""What hiredis's reader returns while a reply is not whole."""

_PASSING: Final = (
    "BUSY ",
    "CLUSTERDOWN ",
    "ERR max number of clients reached",
    "LOADING ",
    "MASTERDOWN ",
    "MISCONF ",
    "NOREPLICAS ",
    "OOM ",
    "READONLY ",
    "TRYAGAIN ",
    "UNBLOCKED ",
)
"""How refusals begin that pass by themselves; the command has had no effect."""

_PERMANENT: Final = (
    "ASK ",
    "CROSSSLOT ",
    "DENIED ",
    "ERR DB index is out of range",
    "ERR unknown command",
    "ERR unknown subcommand",
    "MOVED ",
    "NOAUTH ",
    "NOPERM ",
    "WRONGPASS ",
)
"""How refusals begin that end only when the configuration or the server is changed; the command has had no effect.

Only they end a ``receive()``. A server, or a proxy before it, may say anything else at one moment and serve the next.
"""

_IN_SCRIPT: Final = re.compile(r"^ERR Error running script .*?: -(?=[A-Z]+ )")
"""How Redis 6.2 begins an error that a script met."""


class UnknownScript(Exception):
    """The server does not know the script of this SHA; nothing was done."""


def is_list(reply: object) -> TypeGuard[list[object]]:
    """Whether a reply is an array."""
    return isinstance(reply, list)


def list_of(reply: object) -> list[object]:
    """Return a reply that has to be an array."""
    if not is_list(reply):
        raise unexpected(reply)
    return reply


def number(reply: object) -> int:
    """Return a reply that has to be a number."""
    if isinstance(reply, int):
        return reply
    if isinstance(reply, bytes) and reply.isdigit():
        return int(reply)
    raise unexpected(reply)


def numbers(reply: object) -> list[int]:
    """Return a reply that has to be an array of numbers."""
    return [number(item) for item in list_of(reply)]


def text(reply: object) -> str:
    """Return a reply that has to be text; "" for none."""
    if reply is None:
        return ""
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    raise unexpected(reply)


def texts(reply: object) -> tuple[str, ...]:
    """Return a reply that has to be an array of texts."""
    return tuple(text(item) for item in list_of(reply))


def unexpected(reply: object) -> StoreError:
    """Return the error to raise for a reply that is not as it has to be."""
    return StoreError(f"unexpected reply: {reply!r:.100}", retryable=True, outcome="unknown")


def is_replica(answer: str) -> bool:
    """Whether a server refuses because it has become a replica, or says so to a command that it had blocked."""
    return _IN_SCRIPT.sub("", answer).startswith(("READONLY ", "MASTERDOWN ", "UNBLOCKED "))


def refusal(label: str, answer: str) -> StoreError | UnknownScript:
    """Return the error to raise when the server *label* answers with one."""
    error = _IN_SCRIPT.sub("", answer)
    if error.startswith("NOSCRIPT "):
        return UnknownScript(answer)
    if error.startswith(_PASSING + _PERMANENT):
        retryable = error.startswith(_PASSING)
        return StoreError(f"{label} refused: {answer}", retryable=retryable, outcome="not_sent")
    return StoreError(f"{label} answered with an error: {answer}", retryable=True, outcome="unknown")


def protocol_error(label: str) -> StoreError:
    """Return the error to raise when a server is neither Redis nor Valkey."""
    return StoreError(f"{label} does not speak Redis's protocol", retryable=False, outcome="unknown")


def connect_error(label: str, timeout: float, error: BaseException) -> StoreError | None:
    """Return the error to raise when a connection cannot be made within *timeout* seconds; None: the one given."""
    match error:
        case TimeoutError():
            return StoreError(f"cannot connect to {label} within {timeout:g} s", retryable=True, outcome="not_sent")
        case ssl.SSLCertVerificationError():
            what = (
                f"cannot trust {label}: certificate verify failed: {error.verify_message}; give the authority that "
                f"signed it as ssl_ca_certs in hosts, and the host by a name that is in the certificate"
            )
            return StoreError(what, retryable=False, outcome="not_sent")
        case ConfigError():  # a file that a TLS option names
            return StoreError(str(error), retryable=False, outcome="not_sent")
        case OSError():
            what = f"cannot connect to {label}: {error.strerror or error}; is a server running there?"
            return StoreError(what, retryable=True, outcome="not_sent")
        case _:
            return None
