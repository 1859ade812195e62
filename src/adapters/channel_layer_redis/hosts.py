"""The servers of a CONFIG: every form in which they are written, parsed into a `HostsEntry`.

One grammar for URLs, pairs and dicts, and for one server, a service that sentinels name, and a Cluster. An option that
is misspelt, misplaced or contradicted is an error: a TLS option that is overlooked would be a connection without TLS.
No error's text holds a password, nor a part of one that a careless URL has put in the place of something else.

Source: the asgi_redis README (URLs, pairs), channels_redis (dicts), redis-py (names of options, defaults).
"""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv6Address
from ssl import SSLContext
from typing import TYPE_CHECKING, Final, Literal, TypedDict, TypeGuard
from urllib.parse import parse_qsl, unquote, urlsplit

from channel_layer.errors import ConfigError, FieldError
from channel_layer.options import describe_unknown, describe_value
from channel_layer.urls import split_query
from channel_layer.validators import is_sequence
from channel_layer_redis._foreign_options import DEFAULTS, REFUSED, UNNEEDED
from channel_layer_redis._given_options import (
    GivenOption,
    GivenOptions,
    bool_option,
    is_mapping,
    number_in_text,
    number_option,
    optional_seconds,
    seconds_option,
    text_option,
)
from channel_layer_redis.addresses import (
    CHECK_INTERVAL,
    DEFAULT_HOST,
    DEFAULT_PORT,
    AddressRemap,
    ClusterNodes,
    HostsEntry,
    SentinelService,
    ServerAddress,
    TCPAddress,
    UnixAddress,
)
from channel_layer_redis.credentials import REFRESH_INTERVAL, is_provider
from channel_layer_redis.tls import TLS_OPTIONS, parse_tls

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from channel_layer_redis.credentials import CredentialProvider

__all__ = (
    "DATABASES",
    "DATABASE_TEXT",
    "OPTIONS",
    "PARTITIONS",
    "PORTS",
    "PORT_TEXT",
    "SCHEMES",
    "SEVERAL",
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

_DEFAULT_SENTINEL_PORT: Final = 26379

PARTITIONS: Final = range(2, 1025)
_DEFAULT_PARTITIONS: Final = 64
_PARTITIONS_TEXT: Final = "a whole number from 2 to 1024"
"""More than the nodes, so that each gets as many; each costs a key, and a step of every `flush()`."""

_INTERVAL_TEXT: Final = "a number of seconds, or 0 for no check"
_REFRESH_TEXT: Final = "a number of seconds, or 0 for only at each connect"
_CONNECT_TEXT: Final = "a number of seconds, more than 0"
_PROVIDER_TEXT: Final = (
    "must be an object with the method get_credentials() or get_credentials_async(), as redis.CredentialProvider has it"
)
_TCP_ONLY: Final = ("socket_keepalive", "socket_keepalive_options")

SCHEMES: Mapping[str, Literal["plain", "tls", "unix"]] = {
    "redis": "plain",
    "rediss": "tls",
    "unix": "unix",
    "valkey": "plain",
    "valkeys": "tls",
}
"""The schemes of the URLs of a server, and what they mean."""

SEVERAL: Mapping[str, str] = {
    f"{scheme}+{kind}": form
    for scheme in SCHEMES
    if scheme != "unix"
    for kind, form in (("sentinel", "sentinels"), ("cluster", "cluster"))
}
"""The schemes of the URLs that name several servers, and the form of a dict that means the same."""

OPTIONS: Mapping[str, str] = {
    "db": "the number of the database, 0 by default",
    "username": "the user to log in as; the default user if it is left out",
    "password": "the password to log in with",
    "ssl": "`True` for TLS; in a URL the scheme says it",
    "credential_provider": "an object of redis-py's protocol that gives the login instead of the two: see "
    "[Credentials that change](#credentials-that-change)",
    "credential_refresh_interval": "seconds after which `credential_provider` is asked again while a connection lives; "
    f"`{REFRESH_INTERVAL:g}` by default, `0` for only at each connect",
    "client_name": "what the server calls the connections in its `CLIENT LIST`",
    **TLS_OPTIONS,
    "ssl_context": "a ready `ssl.SSLContext` instead of all other TLS options",
    "socket_connect_timeout": "seconds that a connection may take until it can be used, login included; at most the "
    "layer's `timeout`, which is the default",
    "health_check_interval": "seconds; a connection that was idle for as long has to answer a `PING` before it is used "
    f"again, or is replaced; `{CHECK_INTERVAL:g}` by default, `0` for never",
    "socket_keepalive": "whether the system probes idle TCP connections; `True` by default",
    "socket_keepalive_options": "how it does, as in `{socket.TCP_KEEPIDLE: 60}`, instead of after 15 seconds, each 5, "
    "three times",
}
"""The options of a server besides its address, in redis-py's names, and their meaning."""

_LOGIN = ("username", "password")
_OBJECTS = ("credential_provider", "socket_keepalive_options", "ssl_context")
URL_OPTIONS: tuple[str, ...] = tuple(name for name in OPTIONS if name != "ssl" and name not in _OBJECTS)
"""The options that may stand in the query of a URL."""

_URL_OPTIONS_OF: Mapping[str, tuple[str, ...]] = {
    "sentinels": ("sentinel_username", "sentinel_password", *URL_OPTIONS),
    "cluster": ("partitions", *(name for name in URL_OPTIONS if name != "db")),
}
"""The same for URLs that name several servers."""

_FORMS: Mapping[str, tuple[str, ...]] = {
    "address": ("address", *OPTIONS),
    "host": ("host", "port", *OPTIONS),
    "sentinels": ("sentinels", "master_name", "sentinel_kwargs", *OPTIONS),
    "cluster": ("cluster", "partitions", "address_remap", *(name for name in OPTIONS if name != "db")),
}
"""The keys of a dict, by the key that decides which of the forms it has."""

_SECONDS = ("health_check_interval", "credential_refresh_interval", "socket_connect_timeout")

_ALL_KEYS = tuple(dict.fromkeys(key for keys in _FORMS.values() for key in keys))

_BOOLEANS: Mapping[str, bool] = {
    **dict.fromkeys(("1", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "f", "false", "n", "no"), False),
}
"""The spellings of redis-py, without its rule that any other text is true."""

_IN_LAYER: Mapping[str, str] = {"timeout": "it is an option of the layer: write it beside hosts"}

_NOT_IN_URLS: Mapping[str, str] = {
    "ssl": "the scheme of the URL says it, as in rediss://localhost:6379",
    **{
        name: f'an object cannot stand in a URL: {{"address": "rediss://localhost:6379", "{name}": ...}}'
        for name in _OBJECTS
    },
}
"""Options of a dict that are written differently in a URL."""


def parse_hosts(value: object) -> tuple[HostsEntry, ...]:
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
    places = {"hosts": value} if _is_one_pair(value) else dict(_numbered("hosts", value))
    hosts: dict[str, HostsEntry] = {}
    for at, entry in places.items():
        host = _entry(entry, at, errors)
        if host is not None:
            hosts[at] = host
        if isinstance(host, ClusterNodes) and len(places) > 1:
            errors.append(FieldError(at, "must be the only entry: a Cluster spreads queues and groups over its nodes"))
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
    return isinstance(host, str) and "://" not in host and isinstance(number_in_text(port), int)


def _entry(entry: object, at: str, errors: list[FieldError]) -> HostsEntry | None:
    if isinstance(entry, str):
        if (form := SEVERAL.get(entry.partition("://")[0].lower())) is not None:
            several = _url_of_several(entry, form, at, errors)
            return None if several is None else _several(form, several, at, errors)
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


def _dict(entry: Mapping[object, object], at: str, errors: list[FieldError]) -> HostsEntry | None:
    if not entry:
        errors.append(FieldError(at, 'is empty: name a host, as in {"host": "localhost", "port": 6379}'))
        return None
    form = next((mark for mark in ("sentinels", "cluster", "address") if mark in entry), "host")
    if "master_name" in entry or "sentinel_kwargs" in entry:
        form = "sentinels"
    options: GivenOptions = {}
    for key, value in entry.items():
        if not isinstance(key, str):
            errors.append(FieldError(at, f"must have keys that are str, not {describe_value(key)}"))
        elif key in _ALL_KEYS and key not in _FORMS[form]:
            errors.append(FieldError(f"{at}.{key}", f"does not go together with {form!r}: remove one"))
        else:
            _add(options, key, GivenOption(value, f"{at}.{key}"), _FORMS[form], errors)
    if form == "address":
        return _address(options, errors)
    if form == "host":
        return _build(options, errors)
    return _several(form, options, at, errors)


def _add(
    options: GivenOptions, name: str, given: GivenOption, known: Collection[str], errors: list[FieldError]
) -> None:
    """Add an option if it is known here, or changes nothing; any other that asks for something is an error."""
    if name in known or name in UNNEEDED:
        options[name] = given
    elif name not in REFUSED:
        errors.append(given.error(_IN_LAYER.get(name) or describe_unknown(name, known)))
    elif given.value is not None and given.value is not DEFAULTS.get(name):
        errors.append(given.error(REFUSED[name]))


def _address(options: GivenOptions, errors: list[FieldError]) -> ServerAddress | None:
    """Read a dict that holds a URL and other options."""
    address = options.pop("address")
    if is_sequence(address.value) and len(address.value) == 2:  # as aioredis 1 took it
        host, port = address.value
        pair = {"host": GivenOption(host, address.field), "port": GivenOption(port, address.field)}
        return _build({**pair, **options}, errors)
    found = _url(address, errors)
    if found is None:  # the other options are still checked, for their errors
        found = {"ssl": GivenOption(True, address.field)}
        options.pop("ssl", None)
    for name, given in options.items():
        if name in _LOGIN and given.value is None:
            continue
        if name == "ssl" and isinstance(given.value, SSLContext) and found["ssl"].value is True:
            pass  # the context of the TLS that the address says
        elif name == "ssl" and not isinstance(given.value, (bool, SSLContext)):
            pass  # an error of its own, whatever the address says
        elif name in found and found[name].value != given.value:
            if name == "ssl":
                problem = "contradicts the address: rediss:// and valkeys:// are with TLS, the others without"
            else:
                problem = "is given twice, with another value in the address: remove one"
            errors.append(given.error(problem))
        found[name] = given
    return _build(found, errors)


def _several(form: str, options: GivenOptions, at: str, errors: list[FieldError]) -> HostsEntry | None:
    before = len(errors)
    entry = _sentinels(options, at, errors) if form == "sentinels" else _cluster(options, at, errors)
    return entry if len(errors) == before else None


def _sentinels(options: GivenOptions, at: str, errors: list[FieldError]) -> SentinelService | None:
    """Read a dict that names sentinels."""
    login = _sentinel_kwargs(options.pop("sentinel_kwargs", None), errors)
    sentinels = _endpoints(options, "sentinels", at, ("sentinel1.example", _DEFAULT_SENTINEL_PORT), errors)
    master = options.pop("master_name", GivenOption(None, "")).value
    if not _is_name(master):
        problem = "must be the name that the sentinels know the service by, as a str without slashes"
        errors.append(FieldError(f"{at}.master_name", problem))
    server = _build(options, errors)
    if not (sentinels and isinstance(login, TCPAddress) and isinstance(server, TCPAddress) and _is_name(master)):
        return None
    return SentinelService(tuple(replace(login, host=host, port=port) for host, port in sentinels), master, server)


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value) and "/" not in value


def _sentinel_kwargs(given: GivenOption | None, errors: list[FieldError]) -> ServerAddress | None:
    """Return how to connect to sentinels; as with redis-py no option of the server is one of theirs."""
    options: GivenOptions = {}
    value: object = None if given is None else given.value
    if given is not None and is_mapping(value):
        known = tuple(name for name in OPTIONS if name != "db")
        for key, option in value.items():
            _add(options, str(key), GivenOption(option, f"{given.field}.{key}"), known, errors)
    elif given is not None and value is not None:
        errors.append(given.error(f"must be a dict, not {describe_value(value)}"))
    return _build(options, errors)


def _cluster(options: GivenOptions, at: str, errors: list[FieldError]) -> ClusterNodes | None:
    """Read a dict that names nodes of a Cluster."""
    nodes = _endpoints(options, "cluster", at, ("node1.example", DEFAULT_PORT), errors)
    partitions = number_option(options, "partitions", PARTITIONS, _DEFAULT_PARTITIONS, _PARTITIONS_TEXT, errors)
    remap = options.get("address_remap", GivenOption(None, ""))
    if not (remap.value is None or _is_remap(remap.value)):
        errors.append(remap.error(f"must be a function of (host, port), not {describe_value(remap.value)}"))
    common = _build(options, errors)
    if not (nodes and isinstance(common, TCPAddress) and (remap.value is None or _is_remap(remap.value))):
        return None
    addresses = tuple(replace(common, host=host, port=port) for host, port in nodes)
    return ClusterNodes(addresses, partitions, remap.value)


def _is_remap(value: object) -> TypeGuard[AddressRemap]:
    return callable(value)


def _endpoints(
    options: GivenOptions, name: str, at: str, example: tuple[str, int], errors: list[FieldError]
) -> list[tuple[str, int]]:
    """Take an option that has to be a list of (host, port) pairs; what is wrong is left out."""
    pairs = options.pop(name, GivenOption(None, "")).value
    if not is_sequence(pairs) or not pairs:
        errors.append(FieldError(f"{at}.{name}", f"must be a list of (host, port) pairs, as in [{example}]"))
        return []
    places = {f"{at}.{name}": pairs} if _is_one_pair(pairs) else dict(_numbered(f"{at}.{name}", pairs))
    found: list[tuple[str, int]] = []
    for place, pair in places.items():
        if not is_sequence(pair):
            errors.append(FieldError(place, f"must be a (host, port) pair, not {describe_value(pair)}"))
        elif isinstance(address := _pair(pair, place, errors), TCPAddress):
            found.append((address.host, address.port))
    return found


def _numbered(at: str, entries: Sequence[object]) -> Iterator[tuple[str, object]]:
    return ((f"{at}[{place}]", entry) for place, entry in enumerate(entries))


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
    _read_query(query, URL_OPTIONS, options, given.field, errors)
    return options


def _read_query(
    query: Sequence[tuple[str, str]], known: tuple[str, ...], options: GivenOptions, at: str, errors: list[FieldError]
) -> None:
    """Add the parameters of a URL to its options."""
    for name, text in query:
        if name not in known and name not in UNNEEDED:
            problem = _NOT_IN_URLS.get(name) or REFUSED.get(name) or _IN_LAYER.get(name)
            problem = problem or describe_unknown(name, known)
            errors.append(FieldError(at, f"the URL's query has {name!r}: {problem}"))
        elif name in options:
            errors.append(FieldError(at, f"the {name} in the URL is given twice: remove one"))
        else:
            options[name] = GivenOption(_from_text(name, text), at, f"the {name} in the URL ")


def _url_of_several(url: str, form: str, at: str, errors: list[FieldError]) -> GivenOptions | None:
    """Turn a URL that names several servers into the options of the dict that means the same."""
    scheme, _, rest = url.partition("://")
    scheme = scheme.lower().partition("+")[0]
    place = re.split(r"[/?]", rest, maxsplit=1)[0]
    path, _, query = rest[len(place) :].partition("?")
    login, _, names = place.rpartition("@")
    service = ""
    if form == "sentinels":
        path, _, service = path.rpartition("/")
        if not service or service.isdecimal():
            problem = "must end in the database and the service, or the service, as in "
            errors.append(FieldError(at, f"{problem}redis+sentinel://sentinel1,sentinel2/0/mymaster"))
            return None
    elif path.strip("/"):
        errors.append(FieldError(at, "must end after the nodes: a Cluster has the database 0 alone"))
        return None
    try:
        # Each part is held against the grammar of one server's URL, so that there is one.
        parts, parameters = _take_apart(f"{scheme}://{login}@{_NAMELESS}{path}?{query}")
        pairs = [_take_apart(f"{scheme}://{name}")[0] for name in names.split(",")]
        service = unquote(service, errors="strict")
    except ValueError as exc:
        errors.append(FieldError(at, str(exc)))
        return None
    if not all(names.split(",")):
        errors.append(FieldError(at, "must name a server between all commas"))
        return None
    del parts["host"]
    port = _DEFAULT_SENTINEL_PORT if form == "sentinels" else DEFAULT_PORT
    parts[form] = [(pair.get("host", ""), pair.get("port", port)) for pair in pairs]
    options = {name: GivenOption(value, at, f"the {name} in the URL ") for name, value in parts.items()}
    _read_query(parameters, _URL_OPTIONS_OF[form], options, at, errors)
    if form == "sentinels":
        options["master_name"] = GivenOption(service, at)
        kwargs = {name: given.value for name, given in options.items() if name.startswith("ssl")}
        for name in _LOGIN:
            if (given := options.pop(f"sentinel_{name}", None)) is not None:
                kwargs[name] = given.value
        options["sentinel_kwargs"] = GivenOption(kwargs, at)
    return options


_EXAMPLE = "'redis://localhost:6379/0'"
_NAMELESS = "nameless"
_ENCODED = "% / ? # @ and spaces are written %25 %2F %3F %23 %40 and %20"


def _take_apart(text: str) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """Split a URL into options and the query.

    Raises:
        ValueError: it cannot be read. The text repeats nothing of the URL: with a stray / ? # : or @ in a
            password, any part of it may be a piece of that.
    """
    scheme, mark, rest = text.partition("://")
    kind = SCHEMES.get(scheme.lower())
    if scheme.lower() in SEVERAL:
        raise ValueError("must be the URL of one server; one of several servers is an entry of its own")
    if kind is None:
        wrong = "must be a URL that begins with one of " + ", ".join(f"{name}://" for name in (*SCHEMES, *SEVERAL))
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
    if name in {"db", "partitions"} and re.fullmatch(r"[0-9]{1,10}", text):
        return int(text)
    if name in {"ssl_check_hostname", "socket_keepalive"}:
        return _BOOLEANS.get(text.lower(), text)
    if name in _SECONDS and re.fullmatch(r"[0-9]{1,10}(\.[0-9]{1,10})?", text):
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
    head, _, query = url.partition("?")
    scheme, mark, address = head.partition("://")
    form = SEVERAL.get(scheme.lower(), "")
    try:
        if not form:
            _take_apart(url)
    except ValueError as exc:
        errors.append(FieldError("url", str(exc)))
        return [], []
    known = _URL_OPTIONS_OF.get(form, URL_OPTIONS)
    first, slash, path = address.partition("/")
    login = first[: first.rfind("@") + 1]
    heads, own = [head], list[str]()
    rest: list[tuple[str, str]] = []
    for part in filter(None, query.split("&")):
        ((name, value),) = split_query(part)
        if name == "host":
            place = f"host[{len(heads) - 1}]"
            if form:
                problem = "does not go together with this scheme: all servers stand between :// and /, with commas"
                errors.append(FieldError(place, problem))
            elif SCHEMES[scheme.lower()] == "unix":
                problem = "does not go together with a Unix socket: several sockets are written in hosts=[...]"
                errors.append(FieldError(place, problem))
            elif not re.fullmatch(r"[^\s/@?#]+(/[0-9]{1,10})?", value):
                errors.append(FieldError(place, "must be a name, name:port or name:port/db; the rest is as in the URL"))
            heads.append(f"{scheme}{mark}{login}{value}" + ("" if "/" in value else slash + path))
        elif name in known or name in _NOT_IN_URLS or name in UNNEEDED:
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
    common = _common(options, errors)
    tls = parse_tls(options, errors)
    keepalive = bool_option(options, "socket_keepalive", errors, default=True)
    probes = _keepalive_options(options, errors)
    path = options["path"].value if "path" in options else None
    if path is not None:
        problem = "is for TCP, and this is a Unix socket: remove it"
        errors += [options[name].error(problem) for name in _TCP_ONLY if name in options]
    if len(errors) > before:
        return None
    if isinstance(path, str):
        return UnixAddress(path, db=db, **common)
    return TCPAddress(name, port, tls, keepalive, probes, db=db, **common)


class _Common(TypedDict):
    """What addresses of both kinds have, but for the database."""

    username: str | None
    password: str | None
    credential_provider: CredentialProvider | None
    credential_refresh_interval: float
    client_name: str | None
    connect_timeout: float | None
    health_check_interval: float
    unneeded: tuple[FieldError, ...]


def _common(options: GivenOptions, errors: list[FieldError]) -> _Common:
    unneeded = [given.error(f"is not needed: {UNNEEDED[name]}") for name, given in options.items() if name in UNNEEDED]
    return _Common(
        username=text_option(options, "username", errors),
        password=text_option(options, "password", errors),
        credential_provider=_provider(options, errors),
        credential_refresh_interval=seconds_option(
            options, "credential_refresh_interval", REFRESH_INTERVAL, _REFRESH_TEXT, errors
        ),
        client_name=_client_name(options, errors),
        connect_timeout=optional_seconds(options, "socket_connect_timeout", _CONNECT_TEXT, errors),
        health_check_interval=seconds_option(options, "health_check_interval", CHECK_INTERVAL, _INTERVAL_TEXT, errors),
        unneeded=tuple(unneeded),
    )


def _provider(options: GivenOptions, errors: list[FieldError]) -> CredentialProvider | None:
    given = options.get("credential_provider")
    provider = given.value if given is not None else None
    if given is None or provider is None:
        if (interval := options.get("credential_refresh_interval")) is not None:
            errors.append(interval.error("needs the provider that is to be asked: add credential_provider"))
        return None
    if not is_provider(provider):
        errors.append(given.error(_PROVIDER_TEXT))
        return None
    twice = [options[name] for name in _LOGIN if name in options and options[name].value is not None]
    errors += [option.error("does not go together with 'credential_provider': remove one") for option in twice]
    return provider


def _client_name(options: GivenOptions, errors: list[FieldError]) -> str | None:
    name = text_option(options, "client_name", errors)
    if name is not None and not re.fullmatch(r"[!-~]+", name):
        problem = "must consist of ASCII letters, digits and marks, without spaces, because the server takes no others"
        errors.append(options["client_name"].error(problem))
    return name


def _keepalive_options(options: GivenOptions, errors: list[FieldError]) -> tuple[tuple[int, int], ...] | None:
    given = options.get("socket_keepalive_options")
    if given is None or given.value is None:
        return None
    probes: list[tuple[int, int]] = []
    for key, value in given.value.items() if is_mapping(given.value) else [(None, None)]:
        if isinstance(key, int) and isinstance(value, int) and 0 <= value < 2**31:
            probes.append((key, value))
        else:
            errors.append(given.error("must be a dict of numbers, as in {socket.TCP_KEEPIDLE: 60}"))
            break
    return tuple(probes)
