"""The servers of a CONFIG: every form in which one is written, parsed into a `ServerAddress`.

One grammar for URLs, pairs and dicts. An option that is misspelt, misplaced or contradicted is an error: a TLS option
that is overlooked would be a connection without TLS. No error's text holds a password, nor a part of one that a
careless URL has put in the place of something else.

Source: the asgi_redis README (URLs, pairs), channels_redis (dicts), redis-py (names of options, defaults).
"""

from __future__ import annotations

import re
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import describe_unknown, describe_value
from channel_layer.urls import split_query
from channel_layer.validators import is_sequence
from channel_layer_redis._given_options import (
    GivenOption,
    GivenOptions,
    bool_option,
    is_mapping,
    number_option,
    seconds_option,
    text_option,
)
from channel_layer_redis.addresses import (
    CHECK_INTERVAL,
    DEFAULT_HOST,
    DEFAULT_PORT,
    ServerAddress,
    TCPAddress,
    UnixAddress,
)
from channel_layer_redis.tls import TLS_OPTIONS, parse_tls

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = (
    "DATABASES",
    "DATABASE_TEXT",
    "OPTIONS",
    "PORTS",
    "PORT_TEXT",
    "SCHEMES",
    "URL_OPTIONS",
    "parse_host_name",
    "parse_hosts",
    "split_url",
)

PORTS: Final = range(1, 65536)
PORT_TEXT: Final = "a whole number from 1 to 65535"

DATABASES: Final = range(2**31)
DATABASE_TEXT: Final = "a whole number, 0 or more"
"""The server knows how many it has; it keeps the number in 32 bits."""

_INTERVAL_TEXT: Final = "a number of seconds, or 0 for no check"

SCHEMES: Mapping[str, Literal["plain", "tls", "unix"]] = {
    "redis": "plain",
    "rediss": "tls",
    "unix": "unix",
    "valkey": "plain",
    "valkeys": "tls",
}
"""The schemes of the URLs of a server, and what they mean."""

OPTIONS: Mapping[str, str] = {
    "db": "the number of the database, 0 by default",
    "username": "the user to log in as; the default user if it is left out",
    "password": "the password to log in with",
    "ssl": "`True` for TLS; in a URL the scheme says it",
    **TLS_OPTIONS,
    "ssl_context": "a ready `ssl.SSLContext` instead of all other TLS options",
    "health_check_interval": "seconds; a connection that was idle for as long has to answer a `PING` before it is used "
    f"again, or is replaced; `{CHECK_INTERVAL:g}` by default, `0` for never",
    "socket_keepalive": "whether the system probes idle TCP connections; `True` by default",
}
"""The options of a server besides its address, in redis-py's names, and their meaning."""

_LOGIN = ("username", "password")
URL_OPTIONS: tuple[str, ...] = tuple(name for name in OPTIONS if name not in {"ssl", "ssl_context"})
"""The options that may stand in the query of a URL."""

_FORMS: Mapping[str, tuple[str, ...]] = {
    "address": ("address", *OPTIONS),
    "host": ("host", "port", *OPTIONS),
    "sentinels": ("sentinels", "master_name", "sentinel_kwargs", *OPTIONS),
}
"""The keys of a dict, by the key that decides which of the three forms it has."""

_ALL_KEYS = tuple(dict.fromkeys(key for keys in _FORMS.values() for key in keys))

_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "f", "false", "n", "no"), False),
}
"""The spellings of redis-py, without its rule that any other text is true."""

_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(("path", "unix_socket_path"), 'a socket is written {"address": "unix:///run/redis.sock"}'),
    **dict.fromkeys(("socket_timeout", "socket_connect_timeout"), "the layer's own option timeout is for this"),
    "ssl": "the scheme of the URL says it, as in rediss://localhost:6379",
    "ssl_context": 'an object cannot stand in a URL: {"address": "rediss://localhost:6379", "ssl_context": ...}',
    "socket_keepalive_options": "the layer sets the intervals of the probes itself: remove it",
}
"""redis-py's names of options that are written differently here."""

_SENTINEL_LATER = (
    "connecting through Sentinel is not available yet in this version: remove it and name the server itself, "
    'as in {"host": "redis.example", "port": 6379}'
)


def parse_hosts(value: object) -> tuple[ServerAddress, ...]:
    """Parse the value of ``hosts``.

    Raises:
        ConfigError: with all errors, each with its entry.
    """
    if isinstance(value, (str, bytes)):
        raise _error("hosts", 'must be a list, even for one server: hosts=["redis://localhost:6379/0"]')
    if is_mapping(value):
        raise _error("hosts", 'must be a list, even for one server: hosts=[{"host": "localhost"}]')
    if not is_sequence(value):
        raise _error("hosts", f"must be a list of servers, not {describe_value(value)}")
    if not value:
        raise _error("hosts", 'must name at least one server; leave it out for [("localhost", 6379)]')
    errors: list[FieldError] = []
    if _is_one_pair(value):
        host = _pair(value, "hosts", errors)
        hosts = {} if host is None else {"hosts": host}
    else:
        hosts = {}
        for place, entry in enumerate(value):
            host = _entry(entry, f"hosts[{place}]", errors)
            if host is not None:
                hosts[f"hosts[{place}]"] = host
    first: dict[str, str] = {}
    for at, host in hosts.items():
        twin = first.setdefault(host.identity, at)
        if twin != at:
            errors.append(FieldError(at, f"the same server and database as {twin}, {host.identity}: remove one"))
    if errors:
        raise ConfigError(errors)
    return tuple(hosts.values())


def parse_host_name(value: object) -> str:
    """Parse the name or address of a server.

    Returns:
        the name in lower case, or the address in its shortest form, without brackets.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str):
        raise ValueError(f"must be the name of a host, as in 'localhost', not {describe_value(value)}")  # noqa: TRY004
    if "/" in value or "@" in value:
        raise ValueError('must be only the name of a host; a URL goes into hosts=["redis://..."]')
    name = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if ":" in name:
        try:
            address = IPv6Address(name)
        except ValueError:
            raise ValueError(
                "must be the name of a host or an IPv6 address, and this is neither; a port has its own place"
            ) from None
        # Python 3.13 writes these otherwise than 3.11; an identity must not depend on that.
        return str(address) if address.ipv4_mapped is None else f"::ffff:{address.ipv4_mapped}"
    try:
        name.encode("idna")  # as getaddrinfo will, where an empty or overlong part is an error
    except UnicodeError:
        name = ""
    if not name or any(character <= " " or character in "?#\\[]%,;\x7f" for character in name):
        raise ValueError("must be the name of one host, and this is empty or has parts that no name has")
    return name.lower()


def _error(at: str, problem: str) -> ConfigError:
    return ConfigError([FieldError(at, problem)])


def _is_one_pair(value: Sequence[object]) -> bool:
    """Whether this is ``["localhost", 6379]``, as the asgi_redis README has it: no server is a number."""
    if len(value) != 2:
        return False
    host, port = value
    return isinstance(host, str) and "://" not in host and isinstance(port, int)


def _entry(entry: object, at: str, errors: list[FieldError]) -> ServerAddress | None:
    if isinstance(entry, str):
        found = _url(GivenOption(entry, at), errors)
        return None if found is None else _build(found, errors)
    if is_mapping(entry):
        return _dict(entry, at, errors)
    if is_sequence(entry):
        return _pair(entry, at, errors)
    errors.append(FieldError(at, f"must be a URL, a (host, port) pair or a dict, not {describe_value(entry)}"))
    return None


def _pair(entry: Sequence[object], at: str, errors: list[FieldError]) -> ServerAddress | None:
    if len(entry) != 2:
        errors.append(FieldError(at, f'must be a pair, as in ("localhost", 6379), and this has {len(entry)} items'))
        return None
    host, port = entry
    return _build({"host": GivenOption(host, f"{at}.host"), "port": GivenOption(port, f"{at}.port")}, errors)


def _dict(entry: Mapping[object, object], at: str, errors: list[FieldError]) -> ServerAddress | None:
    if not entry:
        errors.append(FieldError(at, 'is empty: name a host, as in {"host": "localhost", "port": 6379}'))
        return None
    form = next((mark for mark in ("sentinels", "address") if mark in entry), "host")
    if "master_name" in entry or "sentinel_kwargs" in entry:
        form = "sentinels"
    options: GivenOptions = {}
    for key, value in entry.items():
        if not isinstance(key, str):
            errors.append(FieldError(at, f"must have keys that are str, not {describe_value(key)}"))
        elif key in _FORMS[form]:
            options[key] = GivenOption(value, f"{at}.{key}")
        elif key in _ALL_KEYS:
            errors.append(FieldError(f"{at}.{key}", f"does not go together with {form!r}: remove one"))
        else:
            errors.append(FieldError(f"{at}.{key}", _ELSEWHERE.get(key) or describe_unknown(key, _FORMS[form])))
    if form == "sentinels":
        _sentinel(options, at, errors)
        return None
    if form == "address":
        return _address(options, errors)
    return _build(options, errors)


def _address(options: GivenOptions, errors: list[FieldError]) -> ServerAddress | None:
    """Read a dict that holds a URL and other options."""
    address = options.pop("address")
    found = _url(address, errors)
    if found is None:  # the other options are still checked, for their errors
        found = {"ssl": GivenOption(True, address.field)}
        options.pop("ssl", None)
    for name, given in options.items():
        if name in _LOGIN and given.value is None:
            continue
        if name == "ssl" and not isinstance(given.value, bool):
            pass  # an error of its own, whatever the address says
        elif name in found and found[name].value != given.value:
            if name == "ssl":
                problem = "contradicts the address: rediss:// and valkeys:// are with TLS, the others without"
            else:
                problem = "is given twice, with another value in the address: remove one"
            errors.append(given.error(problem))
        found[name] = given
    return _build(found, errors)


def _sentinel(options: GivenOptions, at: str, errors: list[FieldError]) -> None:
    """Check the form of a Sentinel dict; then refuse it, as this version cannot connect to it."""
    missing = GivenOption(None, "")
    sentinels = options.pop("sentinels", missing).value
    if not is_sequence(sentinels) or not sentinels:
        errors.append(FieldError(f"{at}.sentinels", 'must be a list of pairs, as in [("sentinel1.example", 26379)]'))
    elif _is_one_pair(sentinels):
        _pair(sentinels, f"{at}.sentinels", errors)
    else:
        for place, entry in enumerate(sentinels):
            each = f"{at}.sentinels[{place}]"
            if is_sequence(entry):
                _pair(entry, each, errors)
            else:
                errors.append(FieldError(each, f"must be a (host, port) pair, not {describe_value(entry)}"))
    master = options.pop("master_name", missing).value
    if not isinstance(master, str) or not master:
        errors.append(
            FieldError(f"{at}.master_name", "must be the name that the sentinels know the service by, as a str")
        )
    if "sentinel_kwargs" in options:
        _sentinel_kwargs(options.pop("sentinel_kwargs"), errors)
    _build(options, errors)
    errors.append(FieldError(at, _SENTINEL_LATER))


def _sentinel_kwargs(given: GivenOption, errors: list[FieldError]) -> None:
    if not is_mapping(given.value):
        errors.append(given.error(f"must be a dict, not {describe_value(given.value)}"))
        return
    known = tuple(name for name in OPTIONS if name != "db")
    options: GivenOptions = {}
    for key, value in given.value.items():
        if isinstance(key, str) and key in known:
            options[key] = GivenOption(value, f"{given.field}.{key}")
        else:
            errors.append(FieldError(f"{given.field}.{key}", describe_unknown(str(key), known)))
    _build(options, errors)


# -- URLs ----------------------------------------------------------------------------------------------------


def _url(given: GivenOption, errors: list[FieldError]) -> GivenOptions | None:
    """Turn a URL into options. Errors of its form go to *errors*; the options are not checked here."""
    if not isinstance(given.value, str):
        errors.append(given.error(f"must be a URL, as in {_EXAMPLE}, not {describe_value(given.value)}"))
        return None
    try:
        parts, query = _take_apart(given.value)
    except ValueError as exc:
        errors.append(given.error(str(exc)))
        return None
    options = {name: GivenOption(value, given.field, f"the {name} in the URL ") for name, value in parts.items()}
    for name, text in query:
        if name not in URL_OPTIONS:
            problem = _ELSEWHERE.get(name) or describe_unknown(name, URL_OPTIONS)
            errors.append(given.error(f"the URL's query has {name!r}: {problem}"))
        elif name in options:
            errors.append(given.error(f"the {name} in the URL is given twice: remove one"))
        else:
            options[name] = GivenOption(_from_text(name, text), given.field, f"the {name} in the URL ")
    return options


_EXAMPLE = "'redis://localhost:6379/0'"
_ENCODED = "% / ? # @ and spaces are written %25 %2F %3F %23 %40 and %20"


def _take_apart(text: str) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """Split a URL into options and the query.

    Raises:
        ValueError: it cannot be read. The text repeats nothing of the URL: with a stray / ? # : or @ in a
            password, any part of it may be a piece of that.
    """
    scheme, mark, rest = text.partition("://")
    kind = SCHEMES.get(scheme.lower())
    if kind is None:
        wrong = "must be a URL that begins with one of " + ", ".join(f"{name}://" for name in SCHEMES)
        raise ValueError(wrong if mark else f"{wrong}, as in {_EXAMPLE}")
    tail = rest.partition("?")[2] if kind == "unix" else rest[len(re.split(r"[/?]", rest, maxsplit=1)[0]) :]
    if "#" in rest or "@" in tail or any(character <= " " or character == "\x7f" for character in rest):
        raise ValueError(f"has a character where it cannot stand; in a login or an option {_ENCODED}")
    try:
        split = urlsplit(text)
        host, port = split.hostname, split.port
        login = {"username": split.username, "password": split.password}
        query = parse_qsl(split.query, keep_blank_values=True, errors="strict")
        path = unquote(split.path, errors="strict")
        parts: dict[str, object] = {name: unquote(value, errors="strict") for name, value in login.items() if value}
    except ValueError:  # of urllib, which repeats what it cannot read
        raise ValueError(
            "cannot be read as a URL: the port is a number from 1 to 65535, an IPv6 address stands in "
            f"brackets, and in a login or an option {_ENCODED}"
        ) from None
    parts["ssl"] = kind == "tls"
    if kind == "unix":
        if host or port or path in {"", "/"} or "\0" in path:
            raise ValueError("must give the full path of a socket after three slashes: unix:///run/redis.sock")
        parts["path"] = path
        return parts, query
    if host:
        parts["host"] = unquote(host)
    if port is not None:
        parts["port"] = port
    if path not in {"", "/"}:
        if not re.fullmatch(r"/[0-9]{1,10}/?", path):
            raise ValueError(f"must end in the number of a database, or without one, as in {_EXAMPLE}")
        parts["db"] = int(path.strip("/"))
    return parts, query


def _from_text(name: str, text: str) -> object:
    """Give an option of a query the type that it has in a dict; text of another form is an error later."""
    if name == "db" and re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    if name in {"ssl_check_hostname", "socket_keepalive"}:
        return _BOOLEANS.get(text.lower(), text)
    if name == "health_check_interval" and re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", text):
        return float(text)
    return text


def split_url(url: str, errors: list[FieldError]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a URL that holds a whole CONFIG into the URLs of its servers and the options of the layer.

    Args:
        url: what the user wrote.
        errors: where to put errors of its form, or of a ``host`` in its query.

    Returns:
        one URL for each server, for `parse_hosts`, and all other parameters, decoded.
    """
    try:
        _take_apart(url)
    except ValueError as exc:
        errors.append(FieldError("url", str(exc)))
        return [], []
    head, _, query = url.partition("?")
    scheme, mark, address = head.partition("://")
    first, slash, path = address.partition("/")
    login = first[: first.rfind("@") + 1]
    heads, own = [head], list[str]()
    rest: list[tuple[str, str]] = []
    for part in filter(None, query.split("&")):
        ((name, value),) = split_query(part)
        if name == "host":
            place = f"host[{len(heads) - 1}]"
            if SCHEMES[scheme.lower()] == "unix":
                problem = "does not go together with a Unix socket: several sockets are written in hosts=[...]"
                errors.append(FieldError(place, problem))
            elif not re.fullmatch(r"[^\s/@?#]+(/[0-9]{1,10})?", value):
                errors.append(FieldError(place, "must be a name, name:port or name:port/db; the rest is as in the URL"))
            heads.append(f"{scheme}{mark}{login}{value}" + ("" if "/" in value else slash + path))
        elif name in URL_OPTIONS or name in _ELSEWHERE:
            own.append(part)
        else:
            rest.append((name, value))
    tail = "?" + "&".join(own) if own else ""
    return [each + tail for each in heads], rest


# -- options -------------------------------------------------------------------------------------------------


def _build(options: GivenOptions, errors: list[FieldError]) -> ServerAddress | None:
    """Return the address that the options of one server describe; None if there are errors."""
    before = len(errors)
    name = DEFAULT_HOST
    if "host" in options:
        try:
            name = parse_host_name(options["host"].value)
        except ValueError as exc:
            errors.append(options["host"].error(str(exc)))
    port = number_option(options, "port", PORTS, DEFAULT_PORT, PORT_TEXT, errors)
    db = number_option(options, "db", DATABASES, 0, DATABASE_TEXT, errors)
    username = text_option(options, "username", errors)
    password = text_option(options, "password", errors)
    tls = parse_tls(options, errors)
    interval = seconds_option(options, "health_check_interval", CHECK_INTERVAL, _INTERVAL_TEXT, errors)
    keepalive = bool_option(options, "socket_keepalive", errors, default=True)
    path = options["path"].value if "path" in options else None
    if "socket_keepalive" in options and path is not None:
        errors.append(options["socket_keepalive"].error("is for TCP, and this is a Unix socket: remove it"))
    if len(errors) > before:
        return None
    if isinstance(path, str):
        return UnixAddress(path, db=db, username=username, password=password, health_check_interval=interval)
    return TCPAddress(
        name,
        port,
        tls,
        keepalive,
        db=db,
        username=username,
        password=password,
        health_check_interval=interval,
    )
