"""How many unread messages a channel may hold: the configured default, exceptions by pattern, and shares.

Patterns are compiled once, because every send asks. The answer depends only on the configuration and the name, so two
processes with the same configuration always agree.

Source: the asgi_redis README ("capacity", "channel_capacity") and the specification's section on capacity.
"""

from __future__ import annotations

import re
from fnmatch import translate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from channel_layer.options import ChannelPattern

__all__ = ("CapacityTable", "compile_glob", "compile_pattern", "pattern_problem", "shares")

_REGEX = "re:"
"""The prefix of a regular expression that is written as text."""

_NAME_CHARACTERS = "-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz!?"
"""Every character that a channel name can hold; see `channel_layer.domain.names`."""

_REMEMBERED = 4096
"""Names whose capacity is cached; a full cache is emptied, so that random names cannot make it grow."""


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Turn a shell pattern into a regular expression that matches whole names, case-sensitively."""
    return re.compile(translate(pattern))


def compile_pattern(pattern: ChannelPattern) -> re.Pattern[str]:
    """Compile a valid key of ``channel_capacity`` to an expression that is matched at the start of a name."""
    if not isinstance(pattern, str):
        return pattern
    if pattern.startswith(_REGEX):
        return re.compile(pattern.removeprefix(_REGEX))
    return compile_glob(pattern)


def pattern_problem(pattern: str) -> str | None:
    """Return what is wrong with the text of a pattern, or None if it is valid."""
    if pattern.startswith(_REGEX):
        return _regex_problem(pattern.removeprefix(_REGEX))
    return _glob_problem(pattern)


def _regex_problem(text: str) -> str | None:
    if not text:
        return 'there is no regular expression after "re:"'
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as exc:
        return f"not a regular expression: {exc}"
    return None


def _glob_problem(glob: str) -> str | None:
    """Return why a glob can match no channel name, or None if it can match one.

    fnmatch raises no error: it takes a ``[`` that is never closed as the character itself. But a pattern that matches
    no name is a mistake, and without this check it would be noticed late.
    """
    if not glob:
        return "an empty pattern matches no channel name: remove it"
    place = 0
    while place < len(glob):
        part = glob[place]
        if part == "[":
            first = place + 1 + glob.startswith("!", place + 1)
            end = glob.find("]", first + 1)  # a "]" that comes first is a member of the set
            if end < 0:
                return f'the "[" at position {place} is never closed: add the "]"'
            part = glob[place : end + 1]
        if len(part) == 1:
            possible = part in "*?" or part in _NAME_CHARACTERS
        else:
            possible = any(map(compile_glob(part).match, _NAME_CHARACTERS))
        if not possible:
            return (
                f"{part!r} at position {place} is in no channel name, so this glob matches nothing; "
                'a regular expression is written "re:..."'
            )
        place += len(part)
    return None


class CapacityTable:
    """The capacity of every channel name.

    Args:
        default: messages, for names that no pattern matches.
        exceptions: (pattern, messages) pairs, tried in this order; the first pattern that matches from the
            start of the name wins.
    """

    __slots__ = ("_default", "_exceptions", "_known")

    def __init__(self, default: int, exceptions: Iterable[tuple[re.Pattern[str], int]] = ()) -> None:
        self._default = default
        self._exceptions = tuple(exceptions)
        self._known: dict[str, int] = {}

    def of(self, name: str) -> int:
        """Return how many unread messages the channel of this full name may hold."""
        if not self._exceptions:
            return self._default
        known = self._known.get(name)
        if known is None:
            known = next((limit for pattern, limit in self._exceptions if pattern.match(name)), self._default)
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[name] = known
        return known


def shares(capacity: int, shards: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Split a capacity over shards so that the parts sum to it exactly.

    Args:
        capacity: messages in all.
        shards: in the order of preference; the first ones get what does not divide evenly.

    Returns:
        (shard, share) pairs in the order given; a share of 0 means that the shard takes no message of this
        queue.
    """
    each, more = divmod(capacity, len(shards))
    return tuple((shard, each + (1 if place < more else 0)) for place, shard in enumerate(shards))
