"""What a server or the network answers: replies as the types that they have to have, refusals as errors of the port."""

from __future__ import annotations

import re
import ssl
from typing import Final, TypeGuard

from channel_layer.errors import ConfigError, DamagedRecord, StoreError
from channel_layer_redis._keys import prefix_of

__all__ = (
    "INCOMPLETE",
    "UNREADABLE",
    "Redirection",
    "Refusal",
    "UnknownScript",
    "connect_error",
    "damaged",
    "explained",
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

_DIGITS: Final = 20
"""Digits that a number of ours has at most."""

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

_REDIRECTION: Final = re.compile(r"(?:(ASK|MOVED) (\d+) (\S+)$|(?:TRYAGAIN|CLUSTERDOWN) |.*\baccess a non local key )")
"""How a node of a Cluster refuses what belongs to another one, or to none at this moment.

The last is what a script meets when a key of its own is gone, in a slot that is on its way to another node. No script
has done anything by then that would matter if it ran again.
"""

_DENIED: Final = re.compile(
    r"ACL failure in script|The user executing the script can't|ommand called from (Lua )?script"
)
"""Found in a refusal of a command that a script called, because the user may not or the server does not know it.

What the script had done before stays done.
"""

_PLACE_IN_SCRIPT: Final = re.compile(
    r"^ERR Error running script .*?: (?:@user_script: ?\d+: )*|\s+script: \w*,? ?on @user_script:\d+\.$"
)
"""What tells only those who have the script where it was."""

_UNGRANTED: Final = re.compile(r"\bNOPERM |ACL failure in script|The user executing the script can't")
"""Found in a refusal that ends when the user gets a right."""

_UNGRANTED_COMMAND: Final = re.compile(r"'([\w|]+)' command")
"""How most servers name the command that the user may not use."""

_DAMAGE: Final = re.compile(
    r"\bWRONGTYPE |is not an integer|would overflow|the last possible ID|arguments must be|(?<!@)user_script:\d+: "
)
"""Found in an error that comes of what a key holds: its type, a number that is none, what a script does with it."""

UNREADABLE: Final = (ValueError, ArithmeticError, LookupError)
"""What reading a reply raises that is not as it has to be."""


class UnknownScript(Exception):
    """The server does not know the script of this SHA; nothing was done."""


class Refusal(StoreError):
    """A server's refusal, in the server's own words.

    Attributes:
        label: the server.
        answer: what it said.
    """

    def __init__(self, label: str, answer: str) -> None:
        error = _IN_SCRIPT.sub("", answer)
        self.label: str = label
        self.answer: str = answer
        passes, denied = error.startswith(_PASSING), _DENIED.search(error) is not None
        refused = passes or denied or error.startswith(_PERMANENT)
        super().__init__(
            f"{label} {'refused' if refused else 'answered with an error'}: {answer}",
            retryable=passes or not refused,
            outcome="not_sent" if refused and not denied else "unknown",
        )


class Redirection(Refusal):
    """A refusal by a node of a Cluster, because the slot is not there, or not all of it; nothing was done.

    Attributes:
        slot: the slot; None: the node does not say.
        endpoint: where it is, as ``host:port``; "": the node does not say, and it may be there again in a moment.
        asking: only this command is to be sent there, after ``ASKING``.
    """

    def __init__(self, label: str, answer: str, found: re.Match[str]) -> None:
        super().__init__(label, answer)
        self.slot: int | None = int(found[2]) if found[2] else None
        self.endpoint: str = found[3] or ""
        self.asking: bool = found[1] == "ASK"


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
    if isinstance(reply, bytes) and reply.isdigit() and len(reply) <= _DIGITS:
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


def unexpected(reply: object) -> ValueError:
    """Return the error to raise for a reply that is not as it has to be."""
    return ValueError(f"unexpected reply: {reply!r:.100}")


def is_replica(answer: str) -> bool:
    """Whether a server refuses because it has become a replica, or says so to a command that it had blocked."""
    return _IN_SCRIPT.sub("", answer).startswith(("READONLY ", "MASTERDOWN ", "UNBLOCKED "))


def refusal(label: str, answer: str) -> Refusal | UnknownScript:
    """Return the error to raise when the server *label* answers with one."""
    if answer.startswith("NOSCRIPT "):
        return UnknownScript(answer)
    found = _REDIRECTION.match(answer)
    return Refusal(label, answer) if found is None else Redirection(label, answer, found)


def explained(refusal: Refusal, commands: tuple[str, ...], keys: tuple[str, ...]) -> StoreError:
    """Return the error to raise for a refusal, where it is known what was asked.

    Args:
        refusal: as it came.
        commands: those among which the refused one is, if the server does not name it.
        keys: those among which the one is that was at fault.
    """
    what = f"{refusal.label} refused: {_PLACE_IN_SCRIPT.sub('', refusal.answer)}"
    if _UNGRANTED.search(what):
        needed = [f"+{name.lower()}" for name in _UNGRANTED_COMMAND.findall(what) or commands]
        if " access " in what:
            needed = [f"~{prefix_of(key)}*" for key in keys]
        rights = " ".join(dict.fromkeys(needed)) or "the keys of the prefix"
        what = f'{what}: give the user {rights} by ACL SETUSER; the guide "Restrict a Redis user" has all rights'
    elif _DENIED.search(what):
        what = f"{what}: the server does not have {' or '.join(commands)}, which is needed; has it been renamed?"
    elif _DAMAGE.search(refusal.answer):
        return damaged(what, keys)
    else:
        return refusal
    return StoreError(what, retryable=refusal.retryable, outcome=refusal.outcome, server=refusal.server)


def damaged(what: str, keys: tuple[str, ...]) -> DamagedRecord:
    """Return the error to raise because one of some keys holds what no layer puts there."""
    named = " or ".join(map(repr, keys)) or "a key of this prefix"
    return DamagedRecord(f"{what}: another program has written {named}: delete that key, and stop the program")


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
