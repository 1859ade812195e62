"""Options in the query of a URL: text in, the values of a CONFIG out.

Programs often get the URL of a server from an environment variable; it can hold the rest of the CONFIG as well.
The form of each option is declared, never guessed from its text: a prefix of digits stays a text. No error repeats a
value, because any of them may be a part of a password.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import unquote_plus

from channel_layer.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ("Form", "read_options", "split_query")

Form: TypeAlias = Literal["text", "number", "switch", "list", "pairs"]
"""How an option is written in a query.

``text``: any text. ``number``: an integer, a decimal number, or ``none``. ``switch``: ``true``, ``false``, or another
text. ``list``: the parameter is repeated. ``pairs``: the parameter is repeated, each with a name, a colon and a number.
"""

_INTEGER = re.compile(r"-?[0-9]{1,20}")
_FRACTION = re.compile(r"-?(?:[0-9]{1,20}\.[0-9]{0,20}|\.[0-9]{1,20}|[0-9]{1,20}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?")


def split_query(query: str) -> list[tuple[str, str]]:
    """Return the parameters of a query, decoded and in order.

    Raises:
        ValueError: an escape is not UTF-8. The text repeats no part of the query.
    """
    found: list[tuple[str, str]] = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        try:
            found.append((unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")))
        except UnicodeDecodeError:
            raise ValueError("has a query that cannot be read: after its escapes it is not UTF-8") from None
    return found


def read_options(
    query: Iterable[tuple[str, str]], forms: Mapping[str, Form], accepts: Mapping[str, str], errors: list[FieldError]
) -> dict[str, object]:
    """Turn parameters into options.

    Args:
        query: the parameters; each is a key of *forms*.
        forms: how each option is written.
        accepts: what each option accepts, in words that follow "must be".
        errors: the list that errors are added to; an option with an error is left out.
    """
    options: dict[str, object] = {}
    lists: dict[str, list[str]] = {}
    for name, text in query:
        if forms[name] in {"list", "pairs"}:
            lists.setdefault(name, []).append(text)
        elif name in options:
            errors.append(FieldError(name, "is given twice in the URL: remove one"))
        else:
            options[name] = _read(text, forms[name])
    for name, texts in lists.items():
        options[name] = _pairs(name, texts, errors) if forms[name] == "pairs" else texts
    for name, value in list(options.items()):
        if forms[name] == "number" and isinstance(value, str):
            errors.append(FieldError(name, f"must be {accepts.get(name, 'a number')}, and the URL has another text"))
            del options[name]
    return options


def _read(text: str, form: Form) -> object:
    match form:
        case "number":
            return _number(text)
        case "switch":
            return {"true": True, "false": False}.get(text.lower(), text)
        case _:
            return text


def _number(text: str) -> float | str | None:
    """Return the number in *text*, None for "none", or *text* itself if it is neither."""
    if text.lower() == "none":
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FRACTION.fullmatch(text) else text


def _pairs(name: str, texts: Iterable[str], errors: list[FieldError]) -> dict[str, object]:
    pairs: dict[str, object] = {}
    for text in texts:
        key, colon, amount = text.rpartition(":")  # the last colon: a regular expression may contain others
        number = _number(amount)
        if not colon or number is None or isinstance(number, str):
            errors.append(FieldError(name, f"must be a name, a colon and a number, as in {name}=http.*:200"))
        elif key in pairs:
            errors.append(FieldError(name, "gives one name two numbers: remove one"))
        else:
            pairs[key] = number
    return pairs
