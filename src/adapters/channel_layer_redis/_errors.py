"""What a server or the network answers with instead of a reply, as the errors of the store port."""

from __future__ import annotations

import re
import ssl

from channel_layer.errors import ConfigError, StoreError

__all__ = ("UnknownScript", "connect_error", "is_replica", "protocol_error", "refusal")

_NOT_CARRIED_OUT = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
)
"""Refusals that pass by themselves; the command has had no effect."""

_MISCONFIGURED = ("DENIED", "NOAUTH", "NOPERM", "WRONGPASS")
"""Refusals that end only when the configuration is changed; the command has had no effect."""

_IN_SCRIPT = re.compile(r"^ERR Error running script .*?: -([A-Z]+) ")


class UnknownScript(Exception):
    """The server does not know the script of this SHA; nothing was done."""


def is_replica(text: str) -> bool:
    """Whether a server refuses because it has become a replica."""
    return _code(text) in ("READONLY", "MASTERDOWN")


def refusal(label: str, text: str) -> StoreError | UnknownScript:
    """Return the error to raise when a server answers with one.

    Args:
        label: the server.
        text: what it answers.
    """
    code = _code(text)
    if code == "NOSCRIPT":
        return UnknownScript(text)
    if code in _NOT_CARRIED_OUT:
        return StoreError(f"{label} refused: {text}", retryable=True, outcome="not_sent")
    if code in _MISCONFIGURED:
        return StoreError(f"{label} refused: {text}", retryable=False, outcome="not_sent")
    return StoreError(f"{label} answered with an error: {text}", retryable=False, outcome="unknown")


def protocol_error(label: str) -> StoreError:
    """Return the error to raise when a server is neither Redis nor Valkey."""
    return StoreError(f"{label} does not speak Redis's protocol", retryable=False, outcome="unknown")


def connect_error(label: str, timeout: float, error: BaseException) -> StoreError | None:
    """Return the error to raise when a connection cannot be made; None: the one that happened.

    Args:
        label: the server.
        timeout: seconds that connecting could take.
        error: what happened.
    """
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


def _code(text: str) -> str:
    found = _IN_SCRIPT.search(text)  # Redis 6.2 wraps an error that a script met
    return text.split(" ", 1)[0] if found is None else found[1]
