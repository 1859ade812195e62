"""Hypothesis strategies for what a channel layer is given: names, messages, capacities and hosts.

Small alphabets and the edges of every bound are drawn often, because that is where grammars, patterns and limits go
wrong; all of it is valid, unless a strategy's name says otherwise.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from hypothesis import strategies as st

from channel_layer.domain.names import Kind

if TYPE_CHECKING:
    from collections.abc import Collection

    from channel_layer.domain.codec import Value

__all__ = (
    "Sendable",
    "capacity_maps",
    "channel_names",
    "group_names",
    "host_identities",
    "host_lists",
    "inbox_names",
    "invalid_channel_names",
    "messages",
    "near_names",
    "normal_names",
    "process_names",
    "sendable_messages",
    "short_names",
    "single_reader_names",
    "values",
)

T = TypeVar("T")

Sendable: TypeAlias = (
    bytes | str | int | float | bool | list["Sendable"] | tuple["Sendable", ...] | dict[str, "Sendable"] | None
)
"""What a message may hold when it is sent: a `Value`, or a tuple."""

_LONGEST: Final = 100
_PART: Final = string.ascii_letters + string.digits + "-_."


def _parts(longest: int) -> st.SearchStrategy[str]:
    """Parts of names, up to and often exactly *longest* characters."""
    some = st.text(_PART, min_size=1, max_size=min(longest, 20))
    return st.one_of(some, some, some.map(lambda part: (part * longest)[:longest]))


# -- names


def group_names() -> st.SearchStrategy[str]:
    """Return group names, each of which `channel_layer.domain.names.GroupName.parse` takes."""
    return _parts(_LONGEST)


def normal_names() -> st.SearchStrategy[str]:
    """Return names of normal channels, such as ``http.request``."""
    return _parts(_LONGEST)


@st.composite
def single_reader_names(draw: st.DrawFn) -> str:
    """Draw the name of a single-reader channel, such as ``resp?x7``."""
    head = draw(_parts(_LONGEST - 1))
    room = _LONGEST - 1 - len(head)
    return f"{head}?{draw(st.just('') if room == 0 else st.one_of(st.just(''), _parts(room)))}"


@st.composite
def inbox_names(draw: st.DrawFn) -> str:
    """Draw the name of an inbox, such as ``specific.abc!``, with room for at least one channel in it."""
    return draw(_parts(_LONGEST - 2)) + "!"


@st.composite
def process_names(draw: st.DrawFn, inboxes: st.SearchStrategy[str] | None = None) -> str:
    """Draw the full name of a process-specific channel, such as ``specific.abc!x``.

    Args:
        draw: given by Hypothesis.
        inboxes: where it lives; any inbox by default.
    """
    inbox = draw(inbox_names() if inboxes is None else inboxes)
    return inbox + draw(_parts(_LONGEST - len(inbox)))


def channel_names(kinds: Collection[Kind] = tuple(Kind)) -> st.SearchStrategy[str]:
    """Return full channel names, each of which `channel_layer.domain.names.ChannelName.parse` takes.

    Args:
        kinds: of their queues; every kind by default.

    Raises:
        ValueError: *kinds* is empty.
    """
    if not kinds:
        raise ValueError("kinds is empty: name one of channel_layer.domain.names.Kind at least")
    ways = {Kind.NORMAL: normal_names, Kind.SINGLE_READER: single_reader_names, Kind.INBOX: process_names}
    return st.one_of([way() for kind, way in ways.items() if kind in kinds])


def invalid_channel_names() -> st.SearchStrategy[str]:
    """Return texts that are no channel names: wrong characters, too many marks, too long, empty, or an inbox."""
    alien = st.one_of(st.sampled_from("\n \t\x00/:*#$é٣ß\uff3f"), st.characters(exclude_characters=_PART + "?!"))
    cut = st.tuples(channel_names(), st.integers(0, _LONGEST))
    with_alien = st.tuples(cut, alien).map(lambda t: t[0][0][: t[0][1]] + t[1] + t[0][0][t[0][1] :])
    twice = st.builds("{}{}{}{}".format, _parts(20), st.sampled_from("?!"), _parts(20), st.sampled_from(["?x", "!x"]))
    first = st.builds("{}{}".format, st.sampled_from("?!"), _parts(20))
    too_long = st.builds("{}{}".format, channel_names(), st.text(_PART, min_size=_LONGEST, max_size=_LONGEST + 20))
    return st.one_of(with_alien, twice, first, too_long, inbox_names(), st.just(""))


def short_names() -> st.SearchStrategy[str]:
    """Return names of very few letters, so that many of them meet the same patterns."""
    return st.text("aB.-", min_size=1, max_size=5)


def near_names() -> st.SearchStrategy[str]:
    """Return texts that are names, or nearly: a wrong character, a second mark, one character too many."""
    nearly = st.text("ab?!.\n é٣ß\uff3f/:*", max_size=8)
    whole = st.one_of(channel_names(), group_names(), inbox_names(), st.just(""))
    wrecked = st.tuples(whole, nearly, st.integers(0, 101)).map(lambda t: t[0][: t[2]] + t[1] + t[0][t[2] :])
    return st.one_of(nearly, whole, wrecked, st.text(max_size=8))


# -- messages


def _scalars() -> st.SearchStrategy[bytes | str | int | float | bool | None]:
    edges = st.sampled_from([-(2**63), -(2**31) - 1, -33, 127, 128, 2**32, 2**63 - 1])
    return st.one_of(
        st.none(),
        st.booleans(),
        edges,
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=40),
        st.binary(max_size=40),
    )


def _lists(inner: st.SearchStrategy[T]) -> st.SearchStrategy[list[T] | dict[str, T]]:
    return st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4))


def _tuples(inner: st.SearchStrategy[Sendable]) -> st.SearchStrategy[Sendable]:
    return st.one_of(_lists(inner), st.lists(inner, max_size=4).map(tuple))


def values() -> st.SearchStrategy[Value]:
    """Return all that a received message may hold, NaN and infinities included."""
    return st.recursive(_scalars(), _lists, max_leaves=12)


def messages(*, numbers: st.SearchStrategy[int] | None = None) -> st.SearchStrategy[dict[str, Value]]:
    """Return messages as they are received; as sent they come back equal, but for NaN, which equals nothing.

    Args:
        numbers: if given, each message has one of these under ``"n"``, by which a test may tell it from others.
    """
    plain = st.dictionaries(st.text(max_size=12), values(), max_size=6)
    if numbers is None:
        return plain
    return st.tuples(plain, numbers).map(lambda pair: {**pair[0], "n": pair[1]})


def sendable_messages() -> st.SearchStrategy[dict[str, Sendable]]:
    """Return messages as they may be sent: with tuples too."""
    return st.dictionaries(st.text(max_size=12), st.recursive(_scalars(), _tuples, max_leaves=12), max_size=6)


# -- configuration


def capacity_maps() -> st.SearchStrategy[dict[str | re.Pattern[str], int]]:
    """Return ``channel_capacity`` settings whose globs and regexes meet `short_names` often.

    Their order is the one in which a layer tries them.
    """
    globs = st.text("aB.*?", min_size=1, max_size=4)
    regexes = st.text("aB.", min_size=1, max_size=3).map(re.compile)
    return st.dictionaries(st.one_of(globs, regexes), st.integers(1, 1000), max_size=6)


def host_identities(smallest: int = 1, largest: int = 8) -> st.SearchStrategy[list[str]]:
    """Return lists of different host identities: addresses, socket paths and Sentinel services.

    Args:
        smallest: hosts at least.
        largest: hosts at most.
    """
    names = st.text(string.ascii_lowercase + string.digits + "-.", min_size=1, max_size=12)
    addresses = st.builds("{}:{}/{}".format, names, st.integers(1, 65535), st.integers(0, 15))
    sockets = st.builds("/run/{}.sock/{}".format, names, st.integers(0, 15))
    services = st.builds("sentinel:{}/{}".format, names, st.integers(0, 15))
    return st.lists(st.one_of(addresses, sockets, services), min_size=smallest, max_size=largest, unique=True)


def host_lists(smallest: int = 1, largest: int = 8) -> st.SearchStrategy[list[str]]:
    """Return ``hosts`` settings: URLs of Redis servers, each another server or database.

    Args:
        smallest: hosts at least.
        largest: hosts at most.
    """
    names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12).map("h{}".format)
    servers = st.builds(
        "{}://{}:{}/{}".format,
        st.sampled_from(["redis", "rediss", "valkey", "valkeys"]),
        names,
        st.integers(1, 65535),
        st.integers(0, 15),
    )
    sockets = st.builds("unix:///run/{}.sock?db={}".format, names, st.integers(0, 15))

    def place(url: str) -> str:
        return url.partition("://")[2]

    return st.lists(st.one_of(servers, sockets), min_size=smallest, max_size=largest, unique_by=place)
