r"""Channel and group names: parsed once at the edge, trusted as types everywhere else.

The rest of the core takes a `Queue` wherever it routes or counts. So a type checker refuses the mistake that loses
messages in other layers: the sender hashes the full name, and the reader hashes its prefix.

Grammar: ASCII letters, digits, ``-``, ``_`` and ``.``, 1 to 100 characters; a channel may have one ``?`` or
``!`` after its first part. Names are matched whole, and only as ASCII: ``"foo\n"``, ``"foo!é"`` and ``"f٣"``
are refused.

Source: the ASGI channel layer specification, "Channels" and "Groups"; single-reader ``?`` names from ASGI 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from channel_layer.errors import InvalidName

__all__ = ("LOCAL_LENGTH", "MAX_NAME_LENGTH", "ChannelName", "GroupName", "Kind", "Queue", "owned_inbox", "queue_name")

MAX_NAME_LENGTH = 100
"""Characters. The specification says "at least 100 bytes"; 100 is allowed here, 101 is not."""

LOCAL_LENGTH = 12
"""Characters of the local part of a channel that `new_channel` made: 72 random bits as URL-safe text."""

_CHANNEL = re.compile(r"[A-Za-z0-9\-_.]+(?:[!?][A-Za-z0-9\-_.]*)?", re.ASCII)
_PART = re.compile(r"[A-Za-z0-9\-_.]+", re.ASCII)
_RULE = f"ASCII letters, digits, '-', '_' and '.' only, at most {MAX_NAME_LENGTH} characters"


class Kind(Enum):
    """The kind of queue that a name stands for."""

    NORMAL = "normal"
    """``http.request``: many readers, each message to one of them."""
    SINGLE_READER = "single-reader"
    """``resp?x7``: one reader."""
    INBOX = "inbox"
    """``specific.<client>!``: all the process-specific channels of one process."""


@dataclass(frozen=True, slots=True)
class Queue:
    """What a store keeps: a normal channel, a single-reader channel, or an inbox.

    Attributes:
        name: the queue's name; an inbox's ends in ``!``.
        kind: which of the three it is.
    """

    name: str
    kind: Kind

    def __str__(self) -> str:
        return self.name

    @classmethod
    def named(cls, name: str) -> Queue:
        """Return the queue of a name that is known to be the name of a queue, or a `family`."""
        if name.endswith("!"):
            return cls(name, Kind.INBOX)
        return cls(name, Kind.SINGLE_READER if "?" in name else Kind.NORMAL)

    @property
    def family(self) -> str:
        """The name under which it is counted: all single-reader channels with one prefix are counted as ``resp?``."""
        if self.kind is not Kind.SINGLE_READER:
            return self.name
        return self.name[: self.name.index("?") + 1]


@lru_cache(maxsize=1024)
def _inbox(name: str) -> Queue:
    """Return an inbox: one shared object for all of its channels, of which there may be thousands."""
    return Queue(name, Kind.INBOX)


@dataclass(frozen=True, slots=True)
class ChannelName:
    """A full channel name that is known to be valid.

    Attributes:
        name: as it was written.
        queue: the queue in which its messages wait. For ``specific.abc!x`` it is the inbox ``specific.abc!``.
    """

    name: str
    queue: Queue

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, value: object) -> ChannelName:
        """Check *value* and return it with the queue that it belongs to.

        Raises:
            InvalidName: it is not a str, or does not match the grammar; the text says why.
        """
        name = _check(value, "channel", _CHANNEL, f"{_RULE}, with at most one '?' or '!' after the first")
        head, bang, local = name.partition("!")
        if bang:
            if not local:
                raise InvalidName(
                    f"invalid channel name {name!r}: an inbox is not a channel; name one of its channels, "
                    f"as in {name + 'x'!r}"
                )
            return cls(name, _inbox(head + bang))
        return cls(name, Queue(name, Kind.SINGLE_READER if "?" in name else Kind.NORMAL))


@dataclass(frozen=True, slots=True)
class GroupName:
    """A group name that is known to be valid."""

    name: str

    def __str__(self) -> str:
        return self.name

    @classmethod
    def parse(cls, value: object) -> GroupName:
        """Check *value* and return it as a group name.

        Raises:
            InvalidName: it is not a str, or does not match the grammar; the text says why.
        """
        return cls(_check(value, "group", _PART, _RULE))


def _check(value: object, what: str, grammar: re.Pattern[str], rule: str) -> str:
    if not isinstance(value, str):
        raise InvalidName(f"a {what} name is a str, not {type(value).__name__}: {value!r:.80}")
    if not value:
        raise InvalidName(f"invalid {what} name '': it is empty")
    if len(value) > MAX_NAME_LENGTH:
        raise InvalidName(
            f"invalid {what} name {value[:40] + '...'!r}: {len(value)} characters, "
            f"at most {MAX_NAME_LENGTH} are allowed"
        )
    if grammar.fullmatch(value) is None:
        raise InvalidName(f"invalid {what} name {value!r}: {rule}")
    return str.__str__(value)  # str() would return a safe string itself, and the label of an Enum member


def queue_name(channel: str) -> str:
    """Return the name of the queue of a full channel name that is known to be valid, or of its token in a store."""
    head, bang, _ = channel.partition("!")
    return head + bang


def owned_inbox(prefix: object, client: str) -> Queue:
    """Return the inbox of one process, ``<prefix>.<client>!``.

    Args:
        prefix: the argument of ``new_channel``.
        client: a part that is unique to the process.

    Raises:
        InvalidName: *prefix* is not a valid part of a name, or leaves no room for the rest.
    """
    part = _check(prefix, "new channel prefix", _PART, _RULE)
    room = MAX_NAME_LENGTH - len(client) - 2 - LOCAL_LENGTH
    if len(part) > room:
        raise InvalidName(
            f"invalid new channel prefix {part!r}: {len(part)} characters, at most {room} leave room for the rest"
        )
    return _inbox(f"{part}.{client}!")
