"""The first commands of a connection: the login, the server's version, its database and the scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from channel_layer.errors import StoreError
from channel_layer_redis import _scripts
from channel_layer_redis._replies import Refusal, explained, is_list

if TYPE_CHECKING:
    from collections.abc import Sequence

    from channel_layer_redis._logins import Login
    from channel_layer_redis._packing import Arg
    from channel_layer_redis.addresses import ServerAddress

__all__ = ("NotPrimary", "Role", "greeting", "read_greeting", "ways_round")

Role: TypeAlias = Literal["server", "primary", "node"]
"""What a server has to be: one without a Cluster, a primary in a Cluster, or any node of one."""

_MINIMUM_REDIS = (6, 2)
_MINIMUM_VALKEY = (7, 2)
_TOO_OLD = "channel-layer needs Redis 6.2 or newer, or Valkey 7.2 or newer: upgrade the server"

_ORDERED: Final = tuple(
    _scripts.load(name) for name in ("push_queue", "push_inbox", "publish", "deliver", "join", "leave")
)
"""The scripts of commands whose order matters, even if the caller does not await one before it sends the next."""


class NotPrimary(StoreError):
    """The server is a replica, perhaps only since now."""


def greeting(address: ServerAddress, login: Login | None) -> list[tuple[Arg, ...]]:
    """Return the first commands of a connection: log in, ask for the version, select the database, load the scripts.

    A script that the server does not know is sent again, and so would run after commands that were sent later.
    """
    hello: tuple[Arg, ...] = ("HELLO", 2)
    if login is not None:
        hello = (*hello, "AUTH", login.username, login.password)
    if address.client_name is not None:  # so it needs no right to CLIENT
        hello = (*hello, "SETNAME", address.client_name)
    commands: list[tuple[Arg, ...]] = [hello, ("INFO", "server")]
    if address.db:
        commands.append(("SELECT", address.db))
    return [*commands, *(("SCRIPT", "LOAD", script.source) for script in _ORDERED)]


def read_greeting(address: ServerAddress, replies: Sequence[object], role: Role = "server") -> tuple[int, str]:
    """Return the client id of the connection, and the run id of the server, from the outcomes of `greeting`.

    Args:
        address: the server's.
        replies: the outcomes.
        role: what it has to be.

    Raises:
        NotPrimary: the server is a replica.
        StoreError: the server refuses the login, is too old, or is of a kind that is no store.
    """
    hello, info = replies[:2]
    if isinstance(hello, StoreError):
        if "unknown command" in str(hello).lower():
            raise StoreError(f"{address.label} is too old: {_TOO_OLD}", retryable=False, outcome="not_sent") from hello
        if "NOAUTH" in str(hello) or "WRONGPASS" in str(hello):
            raise _login_refused(address) from hello
        raise hello
    fields = _pairs(hello)
    _check_kind(address.label, fields, role)
    selected = replies[2] if address.db else b"OK"
    if isinstance(selected, Refusal):
        raise explained(selected, ("SELECT",), ())
    for reply in (hello, info, selected):
        if isinstance(reply, BaseException) and not (reply is info and _is_permanent(reply)):
            raise reply
    facts = _info(info) if isinstance(info, bytes) else {}
    client_id = fields.get("id")
    _check_version(address.label, facts, fields)
    return client_id if isinstance(client_id, int) else 0, facts.get("run_id", "")


def ways_round(replies: Sequence[object]) -> list[tuple[Arg, ...]]:
    """Return the commands that load those scripts whose loading was refused: they run them, without keys.

    Without keys they fail before they have changed anything, and the server knows them.
    """
    loaded = zip(_ORDERED, replies[-len(_ORDERED) :], strict=True)
    return [("EVAL", script.source, 0) for script, reply in loaded if _is_permanent(reply)]


def _login_refused(address: ServerAddress) -> StoreError:
    provider = address.credential_provider
    if provider is not None:
        hint = f"check what the credential_provider {type(provider).__name__} returns"
    elif address.password is not None or address.username is not None:
        hint = "check the password in hosts"
    else:
        hint = "give a password in hosts, as in redis://:password@host"
    # What a provider returned may have ended on the way; it is asked again at the next attempt.
    retryable = provider is not None
    return StoreError(f"{address.label} refused the login: {hint}", retryable=retryable, outcome="not_sent")


def _is_permanent(reply: object) -> bool:
    """Whether the user may not, or the server has renamed the command."""
    return isinstance(reply, Refusal) and not reply.retryable


def _check_kind(label: str, fields: dict[str, object], wanted: Role) -> None:
    mode, role = fields.get("mode"), fields.get("role")
    what = ""
    if mode == b"sentinel":
        what = "is a Sentinel, which keeps no messages: give the server that it watches in hosts"
    elif mode == b"cluster" and wanted == "server":
        what = 'is a node of a Redis Cluster, not a server that runs alone: give it in hosts=[{"cluster": [...]}]'
    elif mode == b"standalone" and wanted != "server":
        what = "is no node of a Cluster, as its cluster mode is off: give it in hosts without cluster, or turn it on"
    if what:
        raise StoreError(f"{label} {what}", retryable=False, outcome="not_sent")
    if role in (b"replica", b"slave") and wanted != "node":
        what = "is a replica, which takes no messages: give its primary in hosts, or make it one"
        raise NotPrimary(f"{label} {what}", retryable=True, outcome="not_sent")


def _check_version(label: str, facts: dict[str, str], fields: dict[str, object]) -> None:
    name, minimum, text = "Redis", _MINIMUM_REDIS, facts.get("redis_version")
    if "valkey_version" in facts:
        name, minimum, text = "Valkey", _MINIMUM_VALKEY, facts["valkey_version"]
    if text is None:
        version = fields.get("version")
        text = version.decode("ascii", "replace") if isinstance(version, bytes) else "0"
    numbers = tuple(int(part) if part.isdecimal() else 0 for part in text.split(".")[:2])
    if numbers < minimum:
        raise StoreError(f"{label} is {name} {text}, too old: {_TOO_OLD}", retryable=False, outcome="not_sent")


def _pairs(reply: object) -> dict[str, object]:
    if not is_list(reply):
        return {}
    keys = (key.decode("ascii", "replace") for key in reply[::2] if isinstance(key, bytes))
    return dict(zip(keys, reply[1::2], strict=False))


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}
